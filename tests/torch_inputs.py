"""PyTorch's own inputs, translated: one adapter per function, one table of what is refused.

An adapter has the signature of the torch function and runs the library instead: image tensors
become pixel graphs and come back. `python -m tests.torch_inputs` prints the page of refusals.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import convgraph as cg
from convgraph import functional as G


@dataclass(frozen=True)
class Refusal:
    """Inputs that torch takes and the library refuses.

    Attributes:
        operator: torch's name, without torch.nn.functional.
        argument: which argument decides.
        why: the reason, for the page.
        text: pattern of the error's text.
    """

    operator: str
    argument: str
    why: str
    text: str


REFUSALS = (
    Refusal("interpolate", "mode='area'", "an adaptive average: use GraphAdaptiveAvgPool", "area"),
    Refusal("interpolate", "antialias=True", "its windows grow with the scale", "antialias"),
    Refusal("batch_norm, instance_norm, group_norm, layer_norm", "input of shape (N, C) or (C,)",
            "is no image: use torch's module on the node features", r"lattice axes|is no image"),
    Refusal("group_norm, instance_norm, batch_norm", "input with four lattice axes",
            "lattices have one to three axes", r"1 to 3|expected d in 1\.\.3"),
    Refusal("layer_norm", "normalized_shape over the last axes only",
            "a graph normalizes over channels (C,) or whole images (C, *size)", "normalized_shape"),
    Refusal("every function", "complex dtype", "features are real numbers", "expected real"),
    Refusal("every function", "an empty lattice axis", "a lattice has at least one pixel an axis",
            "at least one pixel each"),
    Refusal("Flatten", "start_dim other than 1 or end_dim other than -1",
            "a readout node takes everything but the batch", "expected Flatten"),
    Refusal("pixel_shuffle, pixel_unshuffle", "input with more than one batch axis",
            "a graph has one batch axis", "lattice axes"),
    Refusal("max_pool1d, max_pool2d, max_pool3d", "windows that miss the image (return_indices)",
            "torch answers -inf there, a maximum over no message is 0", "silent"),
)  # fmt: skip
"""Every refusal of the suite; a refusal that matches none of these fails it."""


CRASHES = """\
## What torch cannot do either

Not refused, and no fault of a graph: on the CPU, torch 2.13's own backward of `conv3d` in float32
crashes the process where the padding of the depth is at least the depth (seen with depth 2, padding
6 and a kernel of 7), whatever the layout of the image. Other faults of the same library, that
only rows seen as an image reach, are kept away from (`convgraph/backends/onednn.py`).
"""


def page() -> str:
    """The documentation page made from the table."""
    rows = "\n".join(f"| `{r.operator}` | {r.argument} | {r.why} |" for r in REFUSALS)
    return (
        "# What is refused\n\n"
        "PyTorch's own test inputs run through the library in the suite: the samples of its "
        "modules and of its functions. Each passes, or is one of these, which are refused with an "
        "error that names the argument. This page is generated from `tests/torch_inputs.py`.\n\n"
        f"| torch.nn.functional | argument | why |\n|---|---|---|\n{rows}\n\n"
        f"{CRASHES}"
    )


def refused(operator: str, error: Exception) -> Refusal | None:
    """The entry of the table that an error belongs to, or None."""
    for entry in REFUSALS:
        named = entry.operator == "every function" or operator in re.split(r", ", entry.operator)
        if named and re.search(entry.text, str(error)):
            return entry
    return None


def _graph(image: Tensor, d: int) -> cg.PixelGraph:
    return cg.PixelGraph.from_image(image, d=d)


def _many(value: Any, d: int) -> Any:
    """A list of one number stands for all axes, as torch's functions take it."""
    if isinstance(value, list | tuple | torch.Size):
        value = tuple(value)
        return value * d if len(value) == 1 else value
    return value


def conv(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Tensor:  # fmt: skip
    d = weight.dim() - 2
    geometry = cg.KernelGeometry(
        tuple(weight.shape[2:]), _many(stride, d), _many(padding, d), _many(dilation, d), d=d
    )
    return G.graph_conv(_graph(input, d), weight, bias, geometry=geometry, groups=groups).to_image()


def conv_transpose(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
) -> Tensor:  # fmt: skip
    d = weight.dim() - 2
    geometry = cg.KernelGeometry(
        tuple(weight.shape[2:]), _many(stride, d), _many(padding, d), _many(dilation, d),
        transposed=True, output_padding=_many(output_padding, d), d=d,
    )  # fmt: skip
    return G.graph_conv(_graph(input, d), weight, bias, geometry=geometry, groups=groups).to_image()


def _pool(kind: str, d: int) -> Callable[..., Any]:
    layer_type = getattr(cg.nn, f"Graph{kind}{d}d")

    def run(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        if kind == "AvgPool" and len(args) > 1 and args[1] in ((), []):
            args = (args[0], None, *args[2:])  # an empty stride is torch's way of giving none
        layer = layer_type(
            *(_many(a, d) for a in args), **{k: _many(v, d) for k, v in kwargs.items()}
        )
        graph = _graph(input, d)
        out = layer(graph)
        if isinstance(out, tuple):
            pooled, indices = out
            return pooled.to_image(), pooled.with_x(indices.double()).to_image().long()
        return out.to_image()

    return run


def _max_pool(d: int) -> Callable[..., Any]:
    run = _pool("MaxPool", d)

    def ordered(
        input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, return_indices: bool = False,
    ) -> Any:  # fmt: skip
        if isinstance(stride, list | tuple) and not stride:
            stride = None
        found = run(input, kernel_size, stride, padding, dilation, return_indices, ceil_mode)
        if return_indices and bool((found[1] < 0).any()):
            raise cg.errors.UnsupportedError("a silent window has no index")
        return found

    return ordered


def _adaptive(kind: str, d: int) -> Callable[..., Any]:
    run = _pool(kind, d)

    def sized(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
        if "Max" in kind:
            return run(input, _many(output_size, d), return_indices)
        return run(input, _many(output_size, d))

    return sized


def _max_unpool(d: int) -> Callable[..., Tensor]:
    layer_type = getattr(cg.nn, f"GraphMaxUnpool{d}d")

    def run(
        input: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
        output_size: Any = None,
    ) -> Tensor:  # fmt: skip
        if isinstance(stride, list | tuple) and not stride:
            stride = None
        graph = _graph(input, d)
        where = _graph(indices.double(), d).x.long()
        layer = layer_type(_many(kernel_size, d), _many(stride, d), _many(padding, d))
        return layer(graph, where, output_size).to_image()

    return run


def interpolate(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return G.graph_resize(_graph(input, input.dim() - 2), *args, **kwargs).to_image()


def upsample_nearest(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    return interpolate(input, size, scale_factor, mode="nearest")


def upsample_bilinear(input: Tensor, size: Any = None, scale_factor: Any = None) -> Tensor:
    return interpolate(input, size, scale_factor, mode="bilinear", align_corners=True)


def unfold(
    input: Tensor, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1
) -> Tensor:
    layer = cg.nn.GraphUnfold(*(_many(v, 2) for v in (kernel_size, dilation, padding, stride)))
    columns = layer.to_columns(layer(_graph(input, 2)))
    return columns if input.dim() == 4 else columns.reshape(columns.shape[-2:])


def pixel_shuffle(input: Tensor, upscale_factor: int) -> Tensor:
    return cg.nn.GraphPixelShuffle(upscale_factor)(_graph(input, 2)).to_image()


def pixel_unshuffle(input: Tensor, downscale_factor: int) -> Tensor:
    return cg.nn.GraphPixelUnshuffle(downscale_factor)(_graph(input, 2)).to_image()


def _lattice(input: Tensor) -> int:
    d = input.dim() - 2
    if d < 1:
        raise cg.errors.GraphError(f"input of shape {tuple(input.shape)} is no image")
    return d


def _held(layer: torch.nn.Module, **values: Tensor | None) -> torch.nn.Module:
    """Put the given tensors where a norm layer keeps its own, gradients and updates included."""
    for name, value in values.items():
        layer._parameters.pop(name, None)
        layer._buffers.pop(name, None)
        setattr(layer, name, value)
    return layer


def batch_norm(
    input: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    weight: Tensor | None = None, bias: Tensor | None = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    d = _lattice(input)
    if d > 3:
        raise cg.errors.GraphError("lattices have 1 to 3 axes")
    layer = getattr(cg.nn, f"GraphBatchNorm{d}d")(
        input.shape[1], eps, momentum, affine=False, track_running_stats=running_mean is not None
    )
    _held(layer, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    return layer.train(training)(_graph(input, d)).to_image()


def instance_norm(
    input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
    weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    d = _lattice(input)
    if d > 3:
        raise cg.errors.GraphError("lattices have 1 to 3 axes")
    layer = getattr(cg.nn, f"GraphInstanceNorm{d}d")(
        input.shape[1], eps, momentum, affine=False, track_running_stats=running_mean is not None
    )
    _held(layer, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var)
    return layer.train(use_input_stats)(_graph(input, d)).to_image()


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    d = _lattice(input)
    layer = cg.nn.GraphGroupNorm(num_groups, input.shape[1], eps, affine=False)
    return _held(layer, weight=weight, bias=bias)(_graph(input, d)).to_image()


def layer_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    d = _lattice(input)
    if tuple(normalized_shape) != tuple(input.shape[1:]):
        raise cg.errors.UnsupportedError(f"normalized_shape={tuple(normalized_shape)}")
    layer = cg.nn.GraphLayerNorm(tuple(normalized_shape), eps, elementwise_affine=False)
    return _held(layer, weight=weight, bias=bias)(_graph(input, d)).to_image()


ADAPTERS: dict[str, Callable[..., Any]] = {
    **{f"conv{d}d": conv for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": conv_transpose for d in (1, 2, 3)},
    **{f"max_pool{d}d": _max_pool(d) for d in (1, 2, 3)},
    **{f"avg_pool{d}d": _pool("AvgPool", d) for d in (1, 2, 3)},
    **{f"adaptive_avg_pool{d}d": _adaptive("AdaptiveAvgPool", d) for d in (1, 2, 3)},
    **{f"adaptive_max_pool{d}d": _adaptive("AdaptiveMaxPool", d) for d in (1, 2, 3)},
    **{f"max_unpool{d}d": _max_unpool(d) for d in (1, 2, 3)},
    "interpolate": interpolate,
    "upsample_nearest": upsample_nearest,
    "upsample_bilinear": upsample_bilinear,
    "unfold": unfold,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "batch_norm": batch_norm,
    "instance_norm": instance_norm,
    "group_norm": group_norm,
    "layer_norm": layer_norm,
}
"""torch.nn.functional name -> the same function on pixel graphs."""

LINEAR = ("conv", "avg_pool", "interpolate", "upsample", "unfold", "unpool")
"""Names of functions whose rounding is bounded by the sum of absolute values, if not bit-equal."""

__all__ = ["ADAPTERS", "LINEAR", "REFUSALS", "page", "refused"]

if __name__ == "__main__":
    import sys

    sys.stdout.write(page())
