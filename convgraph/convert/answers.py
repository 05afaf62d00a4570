"""Answers: what a map says without an operator, its gradients first of all.

Autograd lives on the rows: what is asked of a map, or sent to one, is asked of them and sent to
them; getters that torch would answer of the shape alone, torch answers.
"""

from typing import Any

import torch
from torch import Tensor

from convgraph.convert import keys
from convgraph.convert.operators import _STATE, operator
from convgraph.convert.tensor import OWN, GraphTensor, whole, wrapped
from convgraph.convert.tokens import Tokens
from convgraph.convert.value import Spatial, lift
from convgraph.convert.views import as_view, parts, read, remade
from convgraph.errors import ConversionError

_CONTIGUOUS = torch.ops.aten.contiguous.default


def _plainly(func: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        with keys.DisableTorchFunction():
            return func(*args, **kwargs)

    return call


def _by_rows(func: Any) -> Any:
    return lambda self, *args: func(self.value.x, *args)


def _by_all(func: Any, joined: Any) -> Any:
    return lambda self, *args: joined([func(x, *args) for x in parts(self.value)])


def _returning(func: Any) -> Any:
    def call(self: GraphTensor, *args: Any) -> GraphTensor:
        for x in parts(self.value):
            func(x, *args)
        return self

    return call


def rows(given: Any, like: Spatial) -> Any:
    """Return what is said of a value as rows like its own."""
    if isinstance(given, GraphTensor):
        from_other = given.value
        if from_other.axes != like.axes or from_other.sites is not like.sites:
            raise ConversionError("a gradient of other axes or sites than its tensor's")
        return from_other.x
    if isinstance(given, Tensor) and given.dim():
        return lift(given, like.axes, like.sites).expand(like.x.shape)
    return given


def _sent(given: Any, like: Any) -> list[Any]:
    """What is said of a value, as tensors like its own; see `parts`."""
    if not isinstance(like, Tokens) or given is None:
        return [rows(given, like)] if given is not None else [None] * len(parts(like))
    if isinstance(given, GraphTensor):
        other: Any = given.value
        alike = isinstance(other, Tokens) and other.places == like.places
        if not alike or (other.axes, other.dim, other.lengths) != (
            like.axes, like.dim, like.lengths
        ):  # fmt: skip
            raise ConversionError("a gradient of other tokens or sites than its tensor's")
        return parts(other)
    apart = given.unflatten(like.dim, (like.before, -1)).split(like.lengths, like.dim + 1)
    return [
        rows(one.flatten(like.dim, like.dim + 1), piece) if isinstance(piece, Spatial)
        else one.flatten(like.dim, like.dim + 1)
        for one, piece in zip(apart, like.pieces, strict=True)
    ]  # fmt: skip


def _listed(given: Any) -> list[Any]:
    return [given] if isinstance(given, Tensor) else list(given)


def _plain(tensors: Any) -> list[Tensor]:
    """Tensors of both kinds as those that autograd knows."""
    found: list[Tensor] = []
    for one in _listed(tensors):
        found += parts(one.value) if isinstance(one, GraphTensor) else [one]
    return found


def _spoken(tensors: Any, grads: Any) -> tuple[list[Tensor], Any]:
    """Tensors of both kinds, and what is sent to each, as those that autograd knows."""
    outs = _listed(tensors)
    if grads is None and not any(isinstance(one, GraphTensor) for one in outs):
        return outs, None
    given = [None] * len(outs) if grads is None else _listed(grads)
    plain, sent = [], []
    for one, grad in zip(outs, given, strict=True):
        held = isinstance(one, GraphTensor)
        mine = parts(one.value) if held else [one]
        for x, g in zip(mine, _sent(grad, one.value) if held else [grad], strict=True):
            if x.requires_grad or len(mine) == 1:
                plain.append(x)
                sent.append(g)
    return plain, sent


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
    torch.autograd.backward(
        *_spoken(tensors, grad_tensors), retain_graph, create_graph, inputs=heard
    )


def _grad(
    outputs: Any, inputs: Any, grad_outputs: Any = None, retain_graph: Any = None,
    create_graph: bool = False, only_inputs: bool = True, allow_unused: bool | None = None,
    **more: Any,
) -> Any:  # fmt: skip
    """torch.autograd.grad, from and to tensors of both kinds."""
    ins = _listed(inputs)
    heard = _plain(ins)
    pieces = len(heard) > len(ins)  # a sequence is heard if one of its pieces is
    outs, sent = _spoken(outputs, grad_outputs)
    found = iter(
        torch.autograd.grad(
            outs, heard, sent, retain_graph, create_graph, only_inputs,
            True if pieces else allow_unused, **more,
        )
    )  # fmt: skip
    made: list[Any] = []
    for one in ins:
        mine = [next(found) for _ in _plain([one])]
        made.append(_together(one, mine))
        if pieces and made[-1] is None and not allow_unused:
            raise RuntimeError(
                "One of the differentiated Tensors appears to not have been used in the graph. Set "
                "allow_unused=True if this is the desired behavior."
            )
    return tuple(made)


def _together(one: Any, grads: list[Any]) -> Any:
    """The gradients of a tensor's own tensors as one like it."""
    if not isinstance(one, GraphTensor) or all(grad is None for grad in grads):
        return grads[0]
    pairs = zip(grads, parts(one.value), strict=True)
    return wrapped(remade(one.value, [torch.zeros_like(x) if g is None else g for g, x in pairs]))


def _get_grad(self: GraphTensor) -> Any:
    return _together(self, [x.grad for x in parts(self.value)])


def _set_grad(self: GraphTensor, grad: Any) -> None:
    for x, one in zip(parts(self.value), _sent(grad, self.value), strict=True):
        x.grad = one


def _register_hook(self: GraphTensor, hook: Any) -> Any:
    value = self.value
    if isinstance(value, Tokens):
        return _tokens_hook(self, hook)

    def call(grad: Tensor) -> Any:
        out = hook(wrapped(value.with_x(grad)))
        return None if out is None else rows(out, value)

    return value.x.register_hook(call)


def _tokens_hook(self: GraphTensor, hook: Any) -> Any:
    """A hook that hears of all pieces of a sequence at once."""

    def call(grads: Any) -> None:
        heard = iter(grads)
        out = hook(_together(self, [next(heard) if x.requires_grad else None for x in own]))
        if out is not None:
            raise ConversionError(
                "a hook changes the gradient of tokens beside nodes; hook the map or the readouts "
                "before they are concatenated"
            )

    own = parts(self.value)
    return torch.autograd.graph.register_multi_grad_hook([x for x in own if x.requires_grad], call)


def _get_data(self: GraphTensor) -> GraphTensor:
    made = wrapped(remade(read(self), [x.data for x in parts(self.value)]))
    as_view(made, self, operator(torch.ops.aten.detach.default))
    return made


def _set_data(self: GraphTensor, data: Any) -> None:
    for x, one in zip(parts(self.value), _sent(data, self.value), strict=True):
        x.data = one


def _written(self: GraphTensor, *args: Any) -> None:
    """x[...] = y: whatever is a copy on the way would not hear it."""
    outer, _STATE.into = _STATE.into, self
    try:
        whole(_T.__setitem__, (self, *args))
    finally:
        _STATE.into = outer


def _no_numbers(*_: Any, **__: Any) -> Any:
    raise ConversionError(
        "a map on nodes is no array; take to_dense() for a plain tensor with 0 in the holes, or "
        ".graph.x for the rows"
    )


_T: Any = torch.Tensor

OWN |= {
    torch.autograd.grad: _grad,
    torch.autograd.backward: backward_all,
    _T.__setitem__: _written,
    _T.backward: _backward,
    _T.register_hook: _register_hook,
    _T.requires_grad.__get__: _by_all(_T.requires_grad.__get__, any),
    _T.requires_grad.__set__: _returning(_T.requires_grad.__set__),
    _T.requires_grad_: _returning(_T.requires_grad_),
    _T.retain_grad: _returning(_T.retain_grad),
    _T.retains_grad.__get__: _by_rows(_T.retains_grad.__get__),
    _T.is_leaf.__get__: _by_all(_T.is_leaf.__get__, all),
    _T.grad.__get__: _get_grad,
    _T.grad.__set__: _set_grad,
    _T.data.__get__: _get_data,
    _T.contiguous: lambda self, **how: whole(_CONTIGUOUS, (self,), how),
    _T.data.__set__: _set_data,
    _T._version.__get__: _by_rows(_T._version.__get__),
    _T.data_ptr: _by_rows(_T.data_ptr),
    _T.untyped_storage: _by_rows(_T.untyped_storage),
    _T.is_inference: _by_rows(_T.is_inference),
    _T.is_shared: _by_rows(_T.is_shared),
    _T.numpy: _no_numbers, _T.tolist: _no_numbers, _T.__array__: _no_numbers,
    _T.item: _no_numbers,
}  # fmt: skip

_PLAIN_GETTERS = (
    "shape", "device", "dtype", "layout", "ndim", "is_cuda", "is_cpu", "is_meta", "is_sparse",
    "is_quantized", "is_nested", "is_mps", "is_xpu", "itemsize", "nbytes", "is_mkldnn",
    "is_sparse_csr", "is_vulkan", "is_xla", "is_ipu", "is_maia", "is_mtia", "names", "output_nr",
)  # fmt: skip
_PLAIN_METHODS = (
    "size", "dim", "ndimension", "numel", "nelement", "element_size", "__len__", "is_same_size",
    "is_floating_point", "is_complex", "is_contiguous", "stride", "storage_offset", "get_device",
    "is_signed", "__hash__", "has_names", "is_coalesced", "is_conj", "is_neg",
)  # fmt: skip

for _name in _PLAIN_GETTERS:
    if hasattr(_T, _name):
        OWN[getattr(_T, _name).__get__] = _plainly(getattr(_T, _name).__get__)
for _name in _PLAIN_METHODS:
    if hasattr(_T, _name):
        OWN[getattr(_T, _name)] = _plainly(getattr(_T, _name))
for _function in (
    torch.is_floating_point, torch.is_complex, torch.numel, torch.is_tensor, torch.is_same_size,
):  # fmt: skip
    OWN[_function] = _plainly(_function)
