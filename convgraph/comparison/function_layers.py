"""Functions as layers: each call of a pool, a resize or a convolution is a node with its own proof.

max_pool      by order, against the windows of the pixels that are there
avg_pool      linear: the dense operator on images that are 0 where nobody is, at the sites that
interpolate   the dense side has; a mean without pads, or over adaptive windows, is of who is there
convolution   for every image and weight, as a layer is: of nodes, by a weight that is computed
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from math import lcm, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from convgraph.comparison.linear_callers import scale_of
from convgraph.comparison.on_mask import (
    Windows,
    adaptive_size,
    adaptive_windows,
    area_size,
    each,
    mean_of_who_is_there,
    pool_windows,
    window_sums,
)
from convgraph.comparison.refilled import Refilled
from convgraph.convert.tensor import GraphTensor
from convgraph.proof import Certificate, ConvSpec, prove_linear
from convgraph.proof.network.node import FunctionLayer, Layer, Node
from convgraph.proof.network.value_numbers import Undecided

Meant = tuple[nn.Module, Any, dict[str, Any]]
"""The function as a module, the operator that it is on full images, and that one's arguments."""

aten = torch.ops.aten


def _pool(kind: str, x: Tensor, given: dict[str, Any]) -> Meant | None:
    """A pool over windows; what has no meaning as windows is left as it is."""
    d = x.dim() - 2
    own = not given.get("count_include_pad", True) and not given.get("divisor_override")
    if given.pop("return_indices", False) or (own and d == 1):
        return None
    lists = {
        name: [value] * d if isinstance(value, int) else list(value)
        for name, value in given.items()
        if name in ("kernel_size", "stride", "padding", "dilation") and value
    }
    padded = any(lists.get("padding", ()))
    whole = tuple(lists["kernel_size"]) == tuple(x.shape[2:]) and not padded
    if kind == "Avg" and whole and given.get("divisor_override") is None:  # a readout
        return None
    made = getattr(nn, f"{kind}Pool{d}d")(**given)
    operator = getattr(aten, f"{kind.lower()}_pool{d}d").default
    # A mean of who is there is at most their sum, which is what its rounding is held to.
    more = {"divisor_override": 1} if own else {}
    return made, operator, {**given, "stride": lists["kernel_size"], **lists, **more}


def max_pool(
    x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Meant | None:  # fmt: skip
    """The largest of each window."""
    given = {
        "kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation,
        "return_indices": return_indices, "ceil_mode": ceil_mode,
    }  # fmt: skip
    return _pool("Max", x, given)


def avg_pool(
    x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Meant | None:  # fmt: skip
    """The mean of each window."""
    more = {} if divisor_override is None else {"divisor_override": divisor_override}
    given = {
        "kernel_size": kernel_size, "stride": stride, "padding": padding, "ceil_mode": ceil_mode,
        "count_include_pad": count_include_pad, **more,
    }  # fmt: skip
    return _pool("Avg", x, given)


def adaptive(x: Tensor, output_size: Any) -> Meant | None:
    """The mean of each adaptive window; an operator by this name has no bound for its rounding."""
    size = adaptive_size(x, output_size)
    if size == tuple(x.shape[2:]) or prod(size) == 1:
        return None
    d = len(size)
    made = getattr(nn, f"AdaptiveAvgPool{d}d")(size)
    return made, getattr(aten, f"adaptive_avg_pool{d}d").default, {"output_size": list(size)}


PIXELS = 256
"""The most pixels of all images, for a maximum over whole images: each takes runs of its own."""


def largest(x: Tensor, output_size: Any, return_indices: bool = False) -> Meant | None:
    """The largest of each image: of one window that sees all of it."""
    ends = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size,)
    if return_indices or {*ends} != {1} or len(x) * prod(x.shape[2:]) > PIXELS:
        return None
    return _pool("Max", x, {"kernel_size": tuple(x.shape[2:])})


LINEAR = {1: "linear1d", 2: "bilinear2d", 3: "trilinear3d"}


def interpolate(
    x: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Meant | None:  # fmt: skip
    """A resize by one of torch's modes that are linear in what is there."""
    d = x.dim() - 2
    if mode == "area":
        return adaptive(x, area_size(x, size, scale_factor))
    if antialias or mode not in ("nearest", "linear", "bilinear", "trilinear"):
        return None
    made = nn.Upsample(size, scale_factor, mode, align_corners, recompute_scale_factor)
    out = list(made(torch.empty(x.shape, device="meta")).shape[2:])
    factors = scale_factor if isinstance(scale_factor, (tuple, list)) else [scale_factor] * d
    axes = ("scales_d", "scales_h", "scales_w")[3 - d :] if d > 1 else ("scales",)
    scales = {} if recompute_scale_factor else dict(zip(axes, factors, strict=True))
    given = {"output_size": out, **scales}
    if mode == "nearest":
        return made, getattr(aten, f"upsample_nearest{d}d").default, given
    operator = getattr(aten, f"upsample_{LINEAR[d]}").default
    return made, operator, {**given, "align_corners": bool(align_corners)}


MEANT: dict[Any, Callable[..., Meant | None]] = {
    F.max_pool1d: max_pool, F.max_pool2d: max_pool, F.max_pool3d: max_pool,
    F.avg_pool1d: avg_pool, F.avg_pool2d: avg_pool, F.avg_pool3d: avg_pool,
    F.adaptive_max_pool1d: largest, F.adaptive_max_pool2d: largest, F.adaptive_max_pool3d: largest,
    F.adaptive_avg_pool2d: adaptive, F.adaptive_avg_pool3d: adaptive,
    F.interpolate: interpolate,
}  # fmt: skip
"""Function of torch -> what it is as a module."""


CONVOLUTIONS = frozenset({
    torch.conv1d, torch.conv2d, torch.conv3d,
    torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d,
})  # fmt: skip

PLAIN = (Tensor, nn.Parameter, GraphTensor)
"""Classes that do what torch and the library do; any other may answer a function by itself."""


class AsLayers(TorchFunctionMode):
    """Calls pools and resizes as layers, and convolutions of nodes.

    Args:
        like: how a layer of this side takes and returns images.
        known: by what a call is named, the function as a module; of both sides.
    """

    def __init__(self, like: Layer, known: dict[str, nn.Module]) -> None:
        """Start without any."""
        super().__init__()
        self.like, self.known = like, known
        self._layers: dict[str, FunctionLayer] = {}

    def __torch_function__(  # noqa: D105
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        meant = MEANT.get(func)
        x = args[0] if args else kwargs.get("input")
        tensors = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
        others = [type(t).__name__ for t in tensors if type(t) not in PLAIN]
        if others and meant is not None:  # a module of that name is a node, whoever answers in it
            raise Undecided(f"a {others[0]} may answer {func.__name__} by itself")
        if others:
            return func(*args, **kwargs)
        if func in CONVOLUTIONS and self.is_layer(x):
            kwargs.pop("input", None)
            return self.convolution(func, (x, *args[1:]), kwargs)
        image = isinstance(x, Tensor) and 3 <= x.dim() <= 5
        if meant is None or not image or prod(x.shape[2:]) == 1:  # a readout lies nowhere
            return func(*args, **kwargs)
        kwargs.pop("input", None)
        found = meant(x, *args[1:], **kwargs)
        if found is None:
            return func(x, *args[1:], **kwargs)
        module, bare, given = found
        name = f"{module} of {tuple(x.shape)}: {given}"  # a module does not print all of it
        if name not in self._layers:
            self.known[name] = module
            like = self.like
            layer = Layer(
                name, like.image, like.values, like.put, like.rows, like.there, bare, given
            )
            self._layers[name] = FunctionLayer(layer, lambda x: func(x, *args[1:], **kwargs))
        return self._layers[name](x)

    def is_layer(self, x: Any) -> bool:
        """Whether a convolution is of nodes; of the reference, backward, of what nodes twin."""
        return isinstance(x, GraphTensor) or (
            torch.is_grad_enabled() and self.like.there(x) is not None
        )

    def convolution(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A convolution of nodes by whatever weight it is given."""
        rest = [kwargs.pop(name, None) for name in ("weight", "bias")[len(args) - 1 :]]
        x, weight, bias, *more = (*args, *rest)
        name = f"{func.__name__}({_spelled(func, weight, more, kwargs)}) of {tuple(x.shape)}"
        if name not in self._layers:
            layer = replace(self.like, path=name)
            self._layers[name] = FunctionLayer(
                layer, lambda x, weight, bias=None: func(x, weight, bias, *more, **kwargs)
            )
        return self._layers[name](x, weight, *([] if bias is None else [bias]))


def _spelled(func: Any, weight: Tensor, more: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The integers of a convolution, alike however they are given."""
    d, reversed_ = weight.dim() - 2, "transpose" in func.__name__
    names = ("output_padding", "groups", "dilation") if reversed_ else ("dilation", "groups")
    given = dict.fromkeys(("stride", *names), 1) | {"padding": 0}
    given |= {"output_padding": 0} if reversed_ else {}
    given |= dict(zip(("stride", "padding", *names), more, strict=False)) | dict(kwargs)
    whole = {name: v if isinstance(v, str) else each(v, d) for name, v in given.items()}
    if isinstance(whole["padding"], str):
        same = whole["padding"] == "same"
        axes = zip(whole["dilation"], weight.shape[2:], strict=True)
        reach = [gap * (k - 1) * same for gap, k in axes]
        if not any(n % 2 for n in reach):
            whole["padding"] = tuple(n // 2 for n in reach)
    return ", ".join(f"{name}={whole[name]}" for name in sorted(whole))


def by_linear(
    one: Node, two: Node, dense: nn.Module, place: dict[str, Any], how: Mapping[str, Any]
) -> tuple[Any, Callable[[], Certificate]]:
    """What is proven of an average pool or a resize on a mask, and how.

    Args:
        one: the reference's node.
        two: the candidate's, which is called as it was within the network.
        dense: torch's own module.
        place: the dtype and the device of what the networks hold.
        how: epsilon, seed, premise and trust.
    """
    shape, run = two.inputs[0].shape, two.call
    mask, sites = (
        one.given.get(name, torch.ones(whole[0], *whole[2:], dtype=torch.bool))
        for name, whole in (("mask", shape), ("sites", one.shapes[0]))
    )
    assert run is not None  # a layer without parameters says how it was called
    here, there = (at.flatten().nonzero().squeeze(1) for at in (mask, sites))

    def side(call: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
        """Of rows of who is there, to rows of the sites."""
        again = Refilled()

        def rows(x: Tensor) -> Tensor:
            image = x.new_zeros(mask.numel(), shape[1]).index_copy(0, here.to(x.device), x)
            seen = again.of(x, image.view(*mask.shape, shape[1]).movedim(-1, 1))
            y: Tensor = call(seen).movedim(1, -1)
            return y.reshape(-1, shape[1]).index_select(0, there.to(x.device))

        return rows

    def prove() -> Certificate:
        windows = _windows(dense, tuple(shape[2:]))
        if windows is None:
            truth, scale = partial(dense), scale_of(dense, tuple(shape[2:]))
        else:
            truth = partial(mean_of_who_is_there, there=mask, windows=windows)
            counts = window_sums(mask.unsqueeze(1).double(), windows).long().unique().tolist()
            scale = lcm(*(n for n in counts if n))
        more = {name: how[name] for name in ("epsilon", "seed", "premise", "trust") if name in how}
        if not how.get("premise", True):  # nobody counts what is added up
            more["terms"] = mask[0].numel() * shape[1]
        return prove_linear(
            side(run), side(truth), (len(here), shape[1]), scale=scale, name=str(dense),
            **place, **more,
        )  # fmt: skip

    masks = [sha256(held.numpy().tobytes()).hexdigest() for held in (mask, sites)]
    return (two.layer, list(shape), masks), prove


def _windows(dense: Any, size: tuple[int, ...]) -> Windows | None:
    """The windows of a mean of who is there; None for any other operator."""
    kind = type(dense).__name__
    if kind.startswith("AdaptiveAvgPool"):
        return adaptive_windows(size, dense.output_size)
    pool = kind.startswith("AvgPool") and not dense.count_include_pad
    if not pool or getattr(dense, "divisor_override", None) is not None:
        return None
    return pool_windows(size, dense.kernel_size, dense.stride, dense.padding, dense.ceil_mode)


def by_weight(
    spec: ConvSpec, two: Node, place: dict[str, Any], prove_layer: Any, how: Mapping[str, Any]
) -> tuple[Any, Callable[[], Certificate]]:
    """What is proven of a convolution of nodes that is a function, and how.

    Args:
        spec: the integers of the reference's own convolution.
        two: the candidate's node, which is called as it was within the network.
        place: the dtype and the device of what the networks hold.
        prove_layer: `cg.prove` of one layer.
        how: of `prove_layer`.
    """
    lies = {name: two.given[name] for name in ("mask", "sites") if name in two.given}
    run = two.call
    assert run is not None  # a function says how it was called

    def function(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        y: Tensor = run(x, w, *([] if b is None else [b]))
        return y

    def prove() -> Certificate:
        dense = dense_of(spec, **place)
        made: Certificate = prove_layer(
            function, dense, size=spec.size, batch=spec.batch, **lies, **how
        )
        return replace(made, name=str(dense))

    masks = [sha256(held.numpy().tobytes()).hexdigest() for held in lies.values()]
    return (two.layer, spec.to_dict(), masks), prove


def dense_of(spec: ConvSpec, **place: Any) -> nn.Module:
    """Torch's own layer of such integers, whatever it holds.

    Args:
        spec: the integers.
        place: dtype and device.
    """
    kind = f"Conv{'Transpose' if spec.transposed else ''}{len(spec.size)}d"
    more = {"output_padding": spec.output_padding} if spec.transposed else {}
    made: nn.Module = nn.utils.skip_init(
        getattr(nn, kind), spec.in_channels, spec.out_channels, spec.kernel_size, spec.stride,
        tuple(before for before, _ in spec.padding), dilation=spec.dilation, groups=spec.groups,
        bias=spec.bias, **more, **place,
    )  # fmt: skip
    for held in made.parameters():
        nn.init.zeros_(held)
    return made
