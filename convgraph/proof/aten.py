"""Facts of ATen operators, for the judge of a layer and the judge of a network alike."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from convgraph.proof import trees

KEEPS = frozenset({
    "clone", "index", "index_select", "gather", "take", "flip", "roll", "rot90", "repeat",
    "repeat_interleave", "tile", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "im2col", "upsample_nearest1d",
    "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "contiguous", "tril", "triu",
    "narrow_copy", "view_copy", "permute_copy", "_reshape_copy", "_to_copy", "diag_embed",
    "unfold_copy", "slice_backward", "select_backward",
})  # fmt: skip
"""Operators whose every output entry is an entry of their first tensor, or 0."""

JOINS = frozenset({"cat", "stack", "hstack", "vstack"})
"""Operators whose every output entry is an entry of a tensor in a list."""

PUTS = frozenset({"slice_scatter", "select_scatter"})
"""Operators whose every output entry is an entry of `self` or of `src`."""

PLACES = frozenset({"index_copy", "index_fill"})
"""The same, of `self`, or of the fourth argument where the third says; it has to be a constant."""

PADS = frozenset({"constant_pad_nd", "pad"})
"""Operators whose every output entry is an entry of their tensor or a constant that they name."""

MOVES = KEEPS | JOINS | PUTS | PLACES | PADS
"""Operators that compute nothing: run on numbers that stand for entries, they say what moved."""

WRITES = frozenset({"copy_", "fill_", "zero_"})
"""Writes that compute nothing."""

PICKS = frozenset({"index", "index_select", "gather", "take", "repeat_interleave"})
"""Moves whose other tensors say where from; they are moves only if those are constants."""

FILLS = frozenset({
    "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full",
    "new_empty", "new_empty_strided",
})  # fmt: skip
"""Operators that take a tensor's shape alone and make constants."""

DRAWS = frozenset({"rand_like", "randn_like", "randint_like"})
"""Operators that take a tensor's shape alone and draw."""

UNTAGGED = frozenset({
    "_prelu_kernel", "_prelu_kernel_backward", "log_sigmoid_forward", "log_sigmoid_backward",
    "_to_copy", "hardswish", "hardswish_backward", "hardsigmoid_backward", "hardtanh_backward",
    "mish_backward", "elu_backward", "leaky_relu_backward", "softplus_backward",
    "hardshrink_backward", "softshrink_backward",
})  # fmt: skip
"""Elementwise operators that torch does not tag as such."""

READS = frozenset({
    "_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "nonzero_static",
    "unique", "_unique", "_unique2", "unique_dim", "unique_consecutive", "count_nonzero",
    "argwhere", "bincount", "histc", "histogram", "_assert_async", "_functional_assert_async",
    "allclose",
})  # fmt: skip
"""Operators that read numbers off a tensor, or give shapes that depend on them."""

MOVING = frozenset({
    "native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "batch_norm",
    "_batch_norm_impl_index",
})  # fmt: skip
"""Batch norms that write to running statistics in training, of which their schema is silent."""

_LAYOUT = frozenset({"memory_format", "layout", "pin_memory", "non_blocking", "device"})
"""Arguments that say where values lie, not which they are."""


_NUMBERS = frozenset({int, float, bool, type(None), torch.dtype, torch.device})
"""Most of what arguments are beside tensors."""


@lru_cache(maxsize=1024)
def name_of(func: Any) -> str:
    """Return the name without namespace and overload; `relu_` is `relu`.

    Example:
        >>> name_of(torch.ops.aten.add_.Tensor)
        'add'
    """
    name = str(func._schema.name).partition("::")[2]
    space = "" if func.namespace == "aten" else f"{func.namespace}::"
    return space + (name if name in WRITES else name.removesuffix("_"))


@lru_cache(maxsize=1024)
def base_of(func: Any) -> str:
    """Return the name without namespace and overload, of an in-place form that of the other.

    A view as another dtype, which is no move, has a name of its own.

    Example:
        >>> base_of(torch.ops.aten.copy_.default), base_of(torch.ops.aten.view.dtype)
        ('copy', 'view_dtype')
    """
    if func.name() == "aten::view.dtype":
        return "view_dtype"
    name: str = func._schema.name.partition("::")[2]
    return name.rstrip("_") if not name.startswith("__") else name


def qualified_name(func: Any) -> str:
    """Return the operator as it is written: aten.abs, ns::op."""
    name: str = func.name().partition(".")[0]
    return name.replace("aten::", "aten.")


def out_of_place(func: Any) -> Any:
    """Return the operator that does the same and writes to nothing, if there is one.

    Example:
        >>> out_of_place(torch.ops.aten.add_.Tensor)
        <OpOverload(op='aten.add', overload='Tensor')>
        >>> out_of_place(torch.ops.aten.transpose_.default)  # the overload has another name
        <OpOverload(op='aten.transpose', overload='int')>
    """
    name = str(func._schema.name).partition("::")[2]
    packet = getattr(getattr(torch.ops, func.namespace), name.removesuffix("_"), None)
    if not name.endswith("_") or packet is None:
        return func
    taken = [(a.name, str(a.type)) for a in func._schema.arguments]
    named = func._overloadname or "default"
    for overload in sorted(packet.overloads(), key=lambda other: other != named):
        found = getattr(packet, overload)
        if overload == named or [(a.name, str(a.type)) for a in found._schema.arguments] == taken:
            return found
    return func


def elementwise(func: Any) -> bool:
    """Say whether each output entry depends on the input entries at its own place alone."""
    return torch.Tag.pointwise in out_of_place(func).tags or name_of(func) in UNTAGGED


def arguments(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return an operator's arguments by name, those left out that say nothing of values."""
    names = [argument.name for argument in func._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    defaults = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
    return {
        name: given[name]
        for name in names
        if name in given
        and name not in _LAYOUT
        and (
            isinstance(given[name], Tensor) or name not in defaults or defaults[name] != given[name]
        )
    }


STRIDED = frozenset({
    "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices",
    "max_pool1d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "max_pool2d_with_indices_backward", "max_pool3d_with_indices_backward", "avg_pool2d_backward",
    "avg_pool3d_backward",
})  # fmt: skip
"""Operators whose stride is their kernel's size where none is given."""


def spelled_out(func: Any, named: dict[str, Any]) -> dict[str, Any]:
    """Return arguments in one spelling, where an operator takes two for one thing."""
    if name_of(func) in STRIDED and not named.get("stride"):
        return named | {"stride": named["kernel_size"]}
    return named


def that_matter(func: Any, named: dict[str, Any]) -> dict[str, Any]:
    """Return arguments without those of which nothing depends.

    A batch norm in evaluation learns nothing: its momentum says nothing there. Nor does the size of
    a bias of which no gradient is asked; who traces has none in its place.

    Example:
        >>> norm = torch.ops.aten.native_batch_norm.default
        >>> that_matter(norm, {"training": False, "momentum": 0.1})
        {'training': False}
        >>> that_matter(norm, {"training": True, "momentum": 0.1})
        {'training': True, 'momentum': 0.1}
        >>> back = torch.ops.aten.convolution_backward.default
        >>> that_matter(back, {"bias_sizes": [0], "output_mask": [True, True, False]})
        {'output_mask': [True, True, False]}
    """
    if name_of(func) == "convolution_backward" and not named["output_mask"][2]:
        return {name: given for name, given in named.items() if name != "bias_sizes"}
    if name_of(func) == "native_batch_norm" and not named["training"]:
        return {name: given for name, given in named.items() if name != "momentum"}
    return named


def does_nothing(func: Any, named: dict[str, Any]) -> bool:
    """Say whether an operator returns the numbers of its first tensor: + 0, - 0, * 1, / 1.

    Args:
        func: the operator.
        named: its arguments by name; a tensor in place of the constant may be anything.
    """
    x, other = named.get("self"), named.get("other")
    return (
        isinstance(x, Tensor)
        and x.is_floating_point()
        and isinstance(other, (int, float))
        and other == _NEUTRAL.get(name_of(func))
        and named.keys() <= {"self", "other", "alpha"}
    )


_NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "div": 1}


def taken_apart(named: dict[str, Any]) -> tuple[str, list[Tensor]]:
    """Return the arguments as text, with a place for each tensor, and the tensors in order."""
    tensors: list[Tensor] = []

    def place(value: Any) -> Any:
        if isinstance(value, Tensor):
            tensors.append(value)
            return _Place(str(value.dtype).removeprefix("torch."))
        return value

    text = ", ".join(f"{k}={trees.mapped(place, v)}" for k, v in named.items())
    return text, tensors


class _Place:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"<{self.kind}>"


def tensors_in(*values: Any) -> list[Tensor]:
    """Return the tensors among arguments or results of an operator, in lists perhaps.

    Example:
        >>> one, two = torch.ones(1), torch.ones(2)
        >>> [len(t) for t in tensors_in((one, 3.0), {"out": [two, None]})]
        [1, 2]
    """
    found: list[Tensor] = []
    _gather(values, found)
    return found


def _gather(values: Iterable[Any], found: list[Tensor]) -> None:
    for value in values:
        if type(value) in _NUMBERS:
            continue
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            _gather(value, found)
        elif isinstance(value, dict):
            _gather(value.values(), found)


def written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """Return the tensors that an operator writes to."""
    places, moving = _writes(func)
    found: list[Any] = []
    for number, name in places:
        found += tensors_in(args[number] if number < len(args) else kwargs.get(name))
    if moving:
        named = arguments(func, args, kwargs)
        if named["training"]:
            found += tensors_in(named.get("running_mean"), named.get("running_var"))
    return found


@lru_cache(maxsize=1024)
def _writes(func: Any) -> tuple[list[tuple[int, str]], bool]:
    """Which arguments an operator's schema says are written to, and whether it keeps silent."""
    places = [
        (number, argument.name)
        for number, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return places, name_of(func) in MOVING


def on_numbers(func: Any, args: Any, kwargs: Any, swap: Any, pad: Any) -> Any:
    """Run a move on what stands for its tensors.

    Args:
        func: the operator.
        args: its arguments.
        kwargs: likewise.
        swap: tensor -> int64 or float64 of its shape, for tensors whose entries move; others
            (indices) stay.
        pad: constant -> its number, for what is filled in.

    Returns:
        As the operator does, float64 or int64.
    """
    name = name_of(func)
    if name in ("clone", "contiguous", "_to_copy"):
        return swap(args[0])
    if name in PICKS:
        swapped: Any = (swap(args[0]), *args[1:])
    else:
        swapped = trees.mapped(lambda v: swap(v) if isinstance(v, Tensor) else v, args)
    if name == "constant_pad_nd":
        value = args[2] if len(args) > 2 else kwargs.get("value", 0)
        return func(swapped[0], args[1], pad(value))
    if name in PLACES:
        put = swap(args[3]) if isinstance(args[3], Tensor) else pad(args[3])
        return out_of_place(func)(swapped[0], args[1], args[2], put)
    kwargs = {k: v for k, v in kwargs.items() if k not in _LAYOUT}
    return func(*swapped, **kwargs)


def each(value: Any, axes: int) -> tuple[int, ...]:
    """A number of each axis of an image, or one for all of them.

    Example:
        >>> each([3], 2), each(1, 2)
        ((3, 3), (1, 1))
    """
    found = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return tuple(map(int, found * axes if len(found) == 1 else found))
