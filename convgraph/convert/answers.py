"""Answers: what a map says without an operator, its gradients first of all.

Autograd lives on the rows: what is asked of a map, or sent to one, is asked of them and sent to
them; getters that torch would answer of the shape alone, torch answers.
"""

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data._utils.collate import default_collate_fn_map

from convgraph.convert import keys
from convgraph.convert.operators import _STATE, operator
from convgraph.convert.tensor import OWN, GraphTensor, leaves, unasked, whole, wrapped
from convgraph.convert.value import Spatial, brought, lift
from convgraph.convert.views import as_view, read
from convgraph.errors import ConversionError
from convgraph.graph.sites import Sites

_CONTIGUOUS = torch.ops.aten.contiguous.default
_PUT = torch.ops.aten.index_put_.default


def _plainly(func: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        with keys.DisableTorchFunction():
            return func(*args, **kwargs)

    return call


def _by_rows(func: Any) -> Any:
    return lambda self, *args: func(bare(self), *args)


def _returning(func: Any) -> Any:
    def call(self: GraphTensor, *args: Any) -> GraphTensor:
        func(bare(self), *args)
        return self

    return call


def rows(given: Any, like: Spatial) -> Any:
    """Return what is said of a value as rows like its own."""
    if isinstance(given, GraphTensor):
        found = read(given)
        if found.axes == like.axes and found.sites is like.sites:
            return found.x
        own, other = like.sites, found.sites
        maps = isinstance(own, Sites) and isinstance(other, Sites)
        same = maps and (own.size, own.space) == (other.size, other.space)
        if not same or found.axes != like.axes:
            raise ConversionError("a gradient of other axes or sites than its tensor's")
        return brought(found, own)  # of an absent pixel nobody asks, as of a plain tensor
    if isinstance(given, Tensor) and given.dim():
        return lift(given, like.axes, like.sites).expand(like.x.shape)
    return given


def _listed(given: Any) -> list[Any]:
    return [given] if isinstance(given, Tensor) else list(given)


def bare(one: Any) -> Any:
    """Return the rows of a map, which autograd knows; anything else as it is."""
    return read(one).x if isinstance(one, GraphTensor) else one


def _plain(tensors: Any) -> list[Tensor]:
    return list(map(bare, _listed(tensors)))


def _sent(grads: Any, tensors: Any, several: bool = False) -> Any:
    """What is sent to tensors of both kinds, as autograd knows it; several at once, if so asked."""
    if grads is None:
        return None
    pairs = zip(_listed(grads), _listed(tensors), strict=True)
    return [_each(rows, g, t.value, several) if isinstance(t, GraphTensor) else g for g, t in pairs]


def _each(call: Any, grad: Any, other: Any, several: bool) -> Any:
    """What call(grad, other) says of a gradient, or of each of several."""
    return torch.stack([call(one, other) for one in grad]) if several else call(grad, other)


def _backward(
    self: GraphTensor, gradient: Any = None, retain_graph: Any = None, create_graph: bool = False,
    inputs: Any = None,
) -> None:  # fmt: skip
    backward_all([self], [gradient], retain_graph, create_graph, inputs=inputs)


def backward_all(
    tensors: Any, grad_tensors: Any = None, retain_graph: Any = None, create_graph: bool = False,
    grad_variables: Any = None, inputs: Any = None,
) -> None:  # fmt: skip
    """torch.autograd.backward, from and to tensors of both kinds."""
    heard = None if inputs is None else _plain(inputs)
    sent = _sent(grad_tensors, tensors)
    torch.autograd.backward(_plain(tensors), sent, retain_graph, create_graph, inputs=heard)


def _grad(
    outputs: Any, inputs: Any, grad_outputs: Any = None, retain_graph: Any = None,
    create_graph: bool = False, only_inputs: bool = True, allow_unused: bool | None = None,
    is_grads_batched: bool = False, **more: Any,
) -> Any:  # fmt: skip
    """torch.autograd.grad, from and to tensors of both kinds."""
    ins, outs = _listed(inputs), _listed(outputs)
    found = torch.autograd.grad(
        _plain(outs), _plain(ins), _sent(grad_outputs, outs, is_grads_batched), retain_graph,
        create_graph, only_inputs, allow_unused, is_grads_batched, **more,
    )  # fmt: skip
    several = [is_grads_batched and isinstance(one, GraphTensor) for one in ins]
    return tuple(map(_each, [_like] * len(ins), found, ins, several))


def _like(grad: Any, one: Any) -> Any:
    """The gradient of a tensor as one like it."""
    if grad is None or not isinstance(one, GraphTensor):
        return grad
    return wrapped(one.value.with_x(grad))


def _get_grad(self: GraphTensor) -> Any:
    return _like(self.value.x.grad, self)


def _set_grad(self: GraphTensor, grad: Any) -> None:
    self.value.x.grad = rows(grad, self.value)


def _register_hook(self: GraphTensor, hook: Any) -> Any:
    def call(grad: Tensor) -> Any:
        return rows(hook(_like(grad, self)), self.value)

    return self.value.x.register_hook(call)


def _register_last_hook(self: GraphTensor, hook: Any) -> Any:
    return self.value.x.register_post_accumulate_grad_hook(lambda _: hook(self))


def _get_data(self: GraphTensor) -> GraphTensor:
    value = read(self)
    made = wrapped(value.with_x(value.x.data))
    as_view(made, self, operator(torch.ops.aten.detach.default))
    return made


def _set_data(self: GraphTensor, data: Any) -> None:
    if isinstance(data, GraphTensor) and read(data).sites is not self.value.sites:
        raise ConversionError("data on other nodes than its tensor's; copy_() takes them")
    self.value.x.data = rows(data, self.value)


def _written(self: GraphTensor, *args: Any) -> None:
    """x[...] = y: whatever is a copy on the way would not hear it."""
    outer, _STATE.into = _STATE.into, self
    place, value = args
    try:
        whole(_T.__setitem__, (self, place, value))
    except ConversionError:
        listed = isinstance(value, Tensor) and value.dim()
        by_mask = listed and isinstance(place, Tensor) and place.dtype == torch.bool
        if by_mask or any(isinstance(one, GraphTensor) for one in leaves(place)[0]):
            raise
        shape = self.shape  # a part that is no map: by the numbers of its positions
        numbers = torch.arange(shape.numel(), device=self.device).view(shape)[place]
        value = torch.as_tensor(value, dtype=self.dtype)
        whole(_PUT, (self, torch.unravel_index(numbers, shape), value))
    finally:
        _STATE.into = outer


def _weighed(func: Any) -> Any:
    """A loss that divides by the sum of its weights, of which an absent pixel has none."""
    in_pieces = unasked(func)

    def call(x: Any, target: Any, **how: Any) -> Any:
        frame: Any = None if "weight" in how else sys._getframe(1)
        while frame is not None and frame.f_code is not func.__code__:
            frame = frame.f_back
        if frame is not None:  # torch's l1_loss hands itself over without its weights
            how["weight"] = frame.f_locals["weight"]
        weight = how.get("weight")
        if type(weight) is Tensor and weight.shape == x.shape:
            how["weight"] = weight * torch.ones_like(x - target, dtype=weight.dtype)
        return in_pieces(x, target, **how)

    return call


def no_numbers(*_: Any, **__: Any) -> Any:
    """Refuse to be an array.

    Raises:
        ConversionError: always; the text says what is one.
    """
    raise ConversionError(
        "a map on nodes is no array; take to_dense() for a plain tensor with 0 in the holes, or "
        ".graph.x for the rows; beside a map, make a tensor of an array by torch.as_tensor()"
    )


def _as_subclass(self: GraphTensor, kind: Any) -> Any:
    """A map stays one where any tensor is asked for, and is of no other class."""
    return self.view_as(self) if issubclass(GraphTensor, kind) else no_numbers()


_T: Any = torch.Tensor

OWN |= {
    F.mse_loss: _weighed(F.mse_loss),
    F.l1_loss: _weighed(F.l1_loss),
    torch.autograd.grad: _grad,
    torch.autograd.backward: backward_all,
    _T.__setitem__: _written,
    _T.backward: _backward,
    _T.register_hook: _register_hook,
    _T.register_post_accumulate_grad_hook: _register_last_hook,
    _T.requires_grad.__set__: _returning(_T.requires_grad.__set__),
    _T.requires_grad_: _returning(_T.requires_grad_),
    _T.retain_grad: _returning(_T.retain_grad),
    _T.share_memory_: _returning(_T.share_memory_),
    _T.pin_memory: lambda self, *args: _like(bare(self).pin_memory(*args), self),
    _T.grad.__get__: _get_grad,
    _T.grad.__set__: _set_grad,
    _T.data.__get__: _get_data,
    _T.contiguous: lambda self, **how: whole(_CONTIGUOUS, (self,), how),
    _T.data.__set__: _set_data,
}  # fmt: skip

_OF_THE_ROWS = (
    "requires_grad", "retains_grad", "is_leaf", "_version", "data_ptr", "untyped_storage",
    "is_inference", "is_shared", "is_pinned", "_typed_storage", "const_data_ptr",
    "record_stream",
)  # fmt: skip
"""What the rows are asked for."""

_OF_NUMBERS = (
    "numpy", "tolist", "item", "__dlpack__", "__dlpack_device__", "storage", "apply_",
    "map_", "map2_",
)  # fmt: skip
"""What asks for the numbers of an array, or walks through memory that a map does not have."""

_OF_THE_SHAPE = (
    "shape", "device", "dtype", "layout", "ndim", "is_cuda", "is_cpu", "is_meta", "is_sparse",
    "is_quantized", "is_nested", "is_mps", "is_xpu", "itemsize", "nbytes", "is_mkldnn",
    "is_sparse_csr", "is_vulkan", "is_xla", "is_ipu", "is_maia", "is_mtia", "names", "output_nr",
    "size", "dim", "ndimension", "numel", "nelement", "element_size", "__len__", "is_same_size",
    "is_floating_point", "is_complex", "is_contiguous", "stride", "storage_offset", "get_device",
    "is_signed", "__hash__", "has_names", "is_coalesced", "is_conj", "is_neg",
)  # fmt: skip
"""What torch answers of the wrapper alone."""

# NumPy asks, and classes of others, where torch listens to no class too.
GraphTensor.__array__ = no_numbers  # type: ignore[method-assign]
GraphTensor.as_subclass = _as_subclass  # type: ignore[method-assign, assignment]

# Where a worker asks, torch's own would write into memory that it shares.
default_collate_fn_map[GraphTensor] = lambda batch, **_: torch.stack(batch)

_ASKED = (
    (_T, _OF_THE_ROWS, _by_rows),
    (_T, _OF_NUMBERS, lambda _: no_numbers),
    (_T, _OF_THE_SHAPE, _plainly),
    (torch, ("is_floating_point", "is_complex", "numel", "is_tensor", "is_same_size"), _plainly),
)
for _where, _names, _answer in _ASKED:
    for _one in [getattr(_where, name) for name in _names if hasattr(_where, name)]:
        _function = _one if callable(_one) else _one.__get__
        OWN[_function] = _answer(_function)
