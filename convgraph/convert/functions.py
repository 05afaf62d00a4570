"""Doors for what never asks a tensor: an `autograd.Function`, SyncBatchNorm, an older `backward`.

torch hands a Function's arguments past everything that a tensor could notice. So the first map that
is made (from torch 2.14 on: importing convgraph) puts a method `apply` between a Function and
torch's C++, which looks at the arguments first; without a map among them it only passes them on.
Autograd sees a Function of rows, whose forward and backward hand maps to the original's.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import distributed

from convgraph import memo
from convgraph.convert.answers import backward_all, bare, no_numbers, rows
from convgraph.convert.tensor import DOORS, OWN, GraphTensor, wrapped
from convgraph.convert.views import read
from convgraph.errors import ConversionError
from convgraph.nn import synced

_Function = torch.autograd.Function
_APPLY: Any = vars(torch._C._FunctionBase)["apply"]
_DOOR: Any = _Function if vars(_Function).get("apply") is _APPLY else _Function.__mro__[1]
"""Where `apply` is replaced: up to torch 2.13 the class to which all Functions hand on, also for
one bound before. From 2.14 on it is torch's C++ itself, and one bound before is not noticed."""

_SAVED: Any = vars(torch._C._FunctionBase)["saved_tensors"]


class Node:
    """A backward node of maps: hooks get and give maps, where the node says whose gradients."""

    def __init__(self, node: Any) -> None:
        """Stand before autograd's own node."""
        self.node = node

    def __getattr__(self, name: str) -> Any:
        """Everything else is the node's."""
        return getattr(self.node, name)

    def __eq__(self, other: object) -> bool:
        """As the nodes."""
        return isinstance(other, Node) and self.node is other.node

    def __hash__(self) -> int:
        """As the node."""
        return hash(self.node)

    def register_hook(self, hook: Any) -> Any:
        """Call hook(grad_inputs, grad_outputs) with maps."""
        return self.node.register_hook(_on_maps(hook, self.node.heard, self.node.made))

    def register_prehook(self, hook: Any) -> Any:
        """Call hook(grad_outputs) with maps."""
        return self.node.register_prehook(_on_maps(hook, self.node.made))


def _on_maps(hook: Any, *values: Any) -> Any:
    """A hook that gets and gives maps, as one of rows; what it gives are gradients of the first."""

    def call(*grads: Any) -> Any:
        out = hook(*map(_maps, grads, values))
        return None if out is None else _rows(out, values[0])

    return call


def node_of(tensor: GraphTensor) -> Any:
    """Return the backward node of a map."""
    node = bare(tensor).grad_fn
    return Node(node) if getattr(node, "made", None) is not None else node


class _Context:
    """A Function's ctx, to which maps are given and from which maps are taken."""

    def __init__(self, ctx: Any) -> None:
        vars(self)["ctx"] = ctx

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ctx, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.ctx, name, value)

    def save_for_backward(self, *tensors: Any) -> None:
        self.ctx.kept = list(map(_value, tensors))
        self.ctx.save_for_backward(*map(bare, tensors))

    def mark_dirty(self, *tensors: Any) -> None:
        self.ctx.mark_dirty(*map(bare, tensors))

    def mark_non_differentiable(self, *tensors: Any) -> None:
        self.ctx.off = [id(one) for one in tensors]


def _value(one: Any) -> Any:
    """What a map holds; None of anything else."""
    return read(one) if isinstance(one, GraphTensor) else None


def _maps(found: Any, values: Any) -> list[Any]:
    """Rows as maps, where a value says whose they are."""
    return [
        wrapped(value.with_x(one)) if value is not None and isinstance(one, Tensor) else one
        for one, value in zip(found, values, strict=False)
    ]


def _rows(found: Any, values: Any) -> tuple[Any, ...]:
    return tuple(
        rows(one, value) if value is not None and one is not None else one
        for one, value in zip(found, values, strict=False)
    )


class _OnRows(_Function):
    """What autograd sees of a Function that gets maps; `original` is that Function."""

    original: Any

    @classmethod
    def forward(cls, ctx: Any, values: Any, sent: Any, *args: Any) -> Any:
        """Hand maps to the original's forward; keep whose rows its results are."""
        given = _maps(args, values)
        original, context = cls.original, _Context(ctx)
        ctx.off, ctx.kept = [], []
        if original.setup_context is not _Function.setup_context:
            out = original.forward(*given)
            original.setup_context(context, tuple(given), out)
        else:
            out = original.forward(context, *given)
        single = not isinstance(out, (tuple, list))
        parts = (out,) if single else tuple(out)
        ctx.made = list(map(_value, parts))
        ctx.heard = [v for v, a in zip(values, args, strict=True) if isinstance(a, Tensor)]
        plain = tuple(map(bare, parts))
        off = [p for one, p in zip(parts, plain, strict=True) if id(one) in ctx.off]
        if off:
            ctx.mark_non_differentiable(*off)
        ctx.values = values
        sent[:] = [single, ctx.made, type(out)]
        return plain

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """Hand maps to the original's backward."""
        found = ctx._forward_cls.original.backward(_Shifted(ctx), *_maps(grads, ctx.made))
        parts = found if isinstance(found, tuple) else (found,)
        return (None, None, *_rows(parts, ctx.values))


class _Shifted(_Context):
    """The same in backward, where the first two arguments are not the original's."""

    @property
    def needs_input_grad(self) -> Any:
        return self.ctx.needs_input_grad[2:]


def _saved(ctx: Any) -> tuple[Any, ...]:
    """What a node kept, maps as maps: also for whoever asks the node, as older checkpoints do."""
    return tuple(_maps(_SAVED.__get__(ctx), ctx.kept))


@cache
def _kind(original: Any) -> Any:
    """The Function of rows for a Function."""
    found: Any = type(original.__name__, (_OnRows,), {"original": original})
    found._backward_cls.saved_tensors = found._backward_cls.saved_variables = property(_saved)
    return found


def _apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
    """What calls a Function, and notices maps."""
    if not any(type(one) is GraphTensor for one in args):
        return _APPLY.__get__(None, cls)(*args, **kwargs)
    if memo.lender() is not None:
        raise ConversionError(
            f"{cls.__name__} is an autograd.Function, with a backward of its own, which no program "
            "of operators can hold; leave this network to eager, or write it by detach()"
        )
    sent: list[Any] = []
    parts = _APPLY.__get__(None, _kind(cls))([*map(_value, args)], sent, *map(bare, args))
    single, made, kind = sent
    out = _maps(parts, made)
    return out[0] if single else kind(out)


_BACKWARD = torch.autograd.backward
_CAPSULE = torch._C._to_dlpack
_FOUND = distributed._find_tensors


def _backward(tensors: Any, *args: Any, **kwargs: Any) -> None:
    """What older torch calls, and notices maps."""
    listed = tensors if isinstance(tensors, (list, tuple)) else (tensors,)
    maps = any(type(one) is GraphTensor for one in listed)
    (backward_all if maps else _BACKWARD)(tensors, *args, **kwargs)


def _in_ddp(found: Any) -> Any:
    """What DDP finds in an output, as autograd knows it: it looks for who had a part in that."""
    return lambda output: map(bare, found(output))


def _capsule(tensor: Any) -> Any:
    """An array for other libraries, of which torch asks no tensor; a map has none."""
    return no_numbers() if type(tensor) is GraphTensor else _CAPSULE(tensor)


def open_door() -> None:
    """Let a Function notice maps, from now on, DDP, `to_dlpack`, and an older `backward`."""
    homes: Any = (torch, torch.utils.dlpack)
    for home in homes:
        if home.to_dlpack is _CAPSULE:
            home.to_dlpack = _capsule
    if distributed._find_tensors is _FOUND:
        distributed._find_tensors = _in_ddp(_FOUND)
    if vars(_DOOR).get("apply") in (None, _APPLY):
        _DOOR.apply = classmethod(_apply)
    asks = "has_torch_function" in _BACKWARD.__code__.co_names
    if not asks and torch.autograd.backward is _BACKWARD:
        torch.autograd.backward = _backward


def _synced(layer: Any, x: GraphTensor) -> Any:
    """A SyncBatchNorm of a map: torch's own, until it asks other processes for their nodes."""
    if not synced.runs(layer):
        return synced.of_torch(layer, x)
    value = read(x).merged(1)
    slot = value.slot(1)
    rows = value.x.movedim(slot, -1)
    y = synced.batch_norm(layer, rows.reshape(-1, rows.shape[-1]))
    return wrapped(value.with_x(y.reshape(rows.shape).movedim(-1, slot)))


synced.TAKES[GraphTensor] = _synced
_TENSOR: Any = torch.Tensor
OWN[_TENSOR.grad_fn.__get__] = node_of
DOORS.append(open_door)
if _DOOR is _Function:  # before `apply` is bound, as in  swish = Swish.apply
    open_door()
