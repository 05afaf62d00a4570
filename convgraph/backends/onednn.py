"""Torch's convolutions of rows seen as an image, around faults of oneDNN's kernels.

Rows (B*H*W, C) that are viewed as an image lie channels-last. On the CPU torch hands such images of
float32 to kernels of oneDNN that an image as users keep it never reaches, and four of them err
(seen with torch 2.13 and oneDNN 3.12 on AVX-512 and AVX2):

* `silent`: with a bias, and an axis of the output along which no pixel is heard, a kernel that was
  never made is called: SIGSEGV. uxlfoundation/oneDNN#5942, mended by #5944; pytorch#195394.
  Such an operator is its bias.
* `sliced`: the gradient of the weight of a 1x1 with stride, without padding and of few channels is
  written beyond its workspace: abort, hang or wrong numbers. uxlfoundation/oneDNN#6035, open.
  The same kernel sums the gradient of the bias. Where either learns, such an operator is one
  product over the rows that it hears, but for one small image, which torch hands to kernels of
  its own; transposed, one row by row, whose results are then set apart.
* `planar`: one channel a group, output width 1, stride and kernel along it above 1: uninitialised
  numbers. No report is known. The same memory with the strides of an ordinary image goes to the
  kernel that the dense twin runs; for a transposed kernel, which meets it in its backward, so do
  the gradients of its output.
* `deep`: the gradient of the weight of a volume is wrong, or written beyond its memory, where an
  axis is no longer than its padding, or where the padding of the depth is more than the stride and
  no multiple of it. Few channels meet it in any layout, see docs/refused.md, and others as rows
  only: laid out as above they do as well as the dense twin.

Which stands in is decided from integers alone, once where the caller keeps a plan.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from math import prod
from operator import index

import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.backends.compiled import outermost

Ints = tuple[int, ...]
Convolution = Callable[[Tensor, Tensor, Tensor | None, Ints, Ints, Ints, int], Tensor]
"""f(image, weight, bias, stride, padding, dilation, groups), as torch.conv2d."""

CONV: dict[int, Convolution] = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}

TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}

MENDED: dict[str, tuple[int, int] | None] = {
    "silent": (3, 14),
    "sliced": None,
    "planar": None,
    "deep": None,
}
"""The oneDNN from which on each fault is gone; None while nobody has mended it."""

FEW = 16
"""Channels a group from which on the gradient of a strided 1x1 is written where it belongs."""


def _version() -> tuple[int, int]:
    """The oneDNN that torch was built with; none where there is none."""
    found = re.search(r"MKL-DNN v(\d+)\.(\d+)|oneDNN v(\d+)\.(\d+)", torch.__config__.show())
    if found is None:
        return (0, 0)
    major, minor = [int(n) for n in found.groups() if n is not None]
    return major, minor


_ONEDNN = _version()


def errs(fault: str) -> bool:
    """Whether this torch may still have a fault."""
    mended = MENDED[fault]
    return mended is None or mended > _ONEDNN


def convolution(
    size: Ints, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, device: torch.device
) -> Convolution:
    """Return torch's convolution, or what stands in for it on images of this size.

    Args:
        size: cells along each axis of the lattice.
        kernel: taps along each axis.
        stride: cells from one output to the next along each axis.
        padding: cells of zeros on either side of each axis.
        dilation: cells from one tap to the next along each axis.
        device: of the image.
    """
    plain = CONV[len(size)]
    if device.type != "cpu":
        return plain
    axes = list(zip(size, kernel, stride, padding, dilation, strict=True))
    if errs("silent") and any([_silent_axis(*axis) for axis in axes]):  # noqa: C419 - see dense
        return _silent
    if errs("sliced") and is_strided_point(kernel, stride) and not any(padding):
        return _sliced
    if errs("deep") and is_deep(size, stride, padding):
        return _ordinary
    if errs("planar") and is_narrow(_out(*axes[-1]), kernel, stride):
        return _planar
    return plain


def is_strided_point(kernel: Ints, stride: Ints) -> bool:
    """Whether a kernel is one tap that leaves cells out."""
    return prod(kernel) == 1 and max(stride) > 1


def is_narrow(width: int, kernel: Ints, stride: Ints) -> bool:
    """Whether an output of this width is where one channel a group is summed wrongly."""
    return width == 1 and kernel[-1] > 1 and stride[-1] > 1


def is_deep(size: Ints, stride: Ints, padding: Ints) -> bool:
    """Whether the padding of a volume is where the gradient of its weight is summed wrongly."""
    if len(size) != 3:
        return False
    beside = padding[0] > stride[0] and padding[0] % stride[0] != 0
    return beside or any(p >= n for p, n in zip(padding, size, strict=True))


def every(image: Tensor, stride: Ints) -> Tensor:
    """(B, C, *size) -> the cells at multiples of the stride along each axis, channels-last.

    Copied though one axis may be left of length 1, whose stride torch reads differently by kernel.
    """
    heard = image.movedim(1, -1)
    for axis, step in enumerate(stride, start=1):
        heard = heard[(slice(None),) * axis + (slice(None, None, step),)] if step > 1 else heard
    return heard.clone(memory_format=torch.contiguous_format).movedim(-1, 1)


def planar(image: Tensor) -> Tensor:
    """Lay an image or weight (B, C, *size) out as an ordinary one; so lie its gradients.

    One channel is viewed. torch tells layouts by strides, and a channel that is alone may have any;
    so the batch takes it in.
    """
    made: Tensor = image.flatten(0, 1).unflatten(0, image.shape[:2])
    return made


def transposed(
    image: Tensor, weight: Tensor, bias: Tensor | None, stride: Ints, padding: Ints, extra: Ints,
    groups: int, dilation: Ints,
) -> Tensor:  # fmt: skip
    """Torch's transposed convolution, around the faults that its backward meets.

    That is a convolution of what comes back, with one channel a group or little depth.
    """
    run, kernel = TRANSPOSED[len(stride)], tuple(weight.shape[2:])
    if image.device.type != "cpu":
        return run(image, weight, bias, stride, padding, extra, groups, dilation)
    size = tuple(map(index, image.shape[2:]))
    axes = zip(size, kernel, stride, padding, dilation, extra, strict=True)
    made = tuple((n - 1) * s - 2 * p + d * (k - 1) + 1 + e for n, k, s, p, d, e in axes)
    narrow = errs("planar") and weight.shape[1] == 1 and is_narrow(size[-1], kernel, stride)
    turned = narrow or (errs("deep") and is_deep(made, stride, padding))
    if turned:
        image, weight = planar(image), planar(weight)
    if errs_transposed(kernel, stride, padding, weight.shape[1]):
        out = spaced(image, weight, bias, stride, extra, groups)
    else:
        out = run(image, weight, bias, stride, padding, extra, groups, dilation)
    return planar(out) if turned else out


def errs_transposed(kernel: Ints, stride: Ints, padding: Ints, channels: int) -> bool:
    """Whether a transposed kernel of so many output channels a group has to be `spaced`."""
    few = channels < FEW and is_strided_point(kernel, stride) and not any(padding)
    return few and errs("sliced")


def spaced(
    image: Tensor, weight: Tensor, bias: Tensor | None, stride: Ints, extra: Ints, groups: int
) -> Tensor:
    """A transposed 1x1 with stride: one tap a pixel, and zeros between what they make."""
    d = len(stride)
    y = TRANSPOSED[d](image, weight, None, 1, 0, 0, groups)
    for axis, (step, more) in enumerate(zip(stride, extra, strict=True), start=2):
        size = (y.shape[axis] - 1) * step + 1 + more
        rest = [0, 0] * (d + 1 - axis)
        y = F.pad(y.unsqueeze(axis + 1), [*rest, 0, step - 1]).flatten(axis, axis + 1)
        y = F.pad(y, [*rest, 0, max(0, size - y.shape[axis])]).narrow(axis, 0, size)
    return y if bias is None else y + bias.view(-1, *(1,) * d)


def _out(n: int, k: int, stride: int, padding: int, dilation: int) -> int:
    return (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1


def _silent_axis(n: int, k: int, stride: int, padding: int, dilation: int) -> bool:
    """Whether along this axis every tap of every output falls into the padding."""
    if not padding:
        return False
    first = range(-padding, _out(n, k, stride, padding, dilation) * stride - padding, stride)
    return not any(0 <= start + tap * dilation < n for start in first for tap in range(k))


def _fits(image: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> bool:
    """Whether torch would take them; if not, it says so best itself."""
    return (
        weight.shape[1] * groups == image.shape[1]
        and weight.shape[0] % groups == 0
        and (bias is None or (bias.shape == weight.shape[:1] and bias.dtype == image.dtype))
        and weight.dtype == image.dtype
    )


def _silent(
    image: Tensor, weight: Tensor, bias: Tensor | None, stride: Ints, padding: Ints,
    dilation: Ints, groups: int,
) -> Tensor:  # fmt: skip
    """An operator without edges: its bias everywhere, and gradients of 0."""
    if not _fits(image, weight, bias, groups):
        return CONV[len(stride)](image, weight, bias, stride, padding, dilation, groups)
    axes = zip(image.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    nothing = (image[:0].sum() * weight[:0].sum()).view(*(1,) * weight.dim())
    y = nothing if bias is None else nothing + bias.view(1, -1, *(1,) * len(stride))
    return y.expand(image.shape[0], weight.shape[0], *[_out(*axis) for axis in axes])


@lru_cache(maxsize=512)
def _passed_by(
    image: Ints, weight: Ints, dtype: torch.dtype, bias: bool, stride: Ints, groups: int,
    threads: int,
) -> bool:  # fmt: skip
    """Whether torch answers a 1x1 of these shapes by kernels of its own: one small image, say.

    `threads` is of those things that torch looks at.
    """
    if not torch.backends.mkldnn.enabled:  # what it would do then, it does not say
        return False
    like = torch.empty(1, dtype=dtype)
    given = [like.expand(shape) for shape in (image, weight, *[weight[:1]] * bias)]
    none, one = (0,) * len(stride), (1,) * len(stride)
    asked = (*given, *[None] * (not bias), stride, none, one, False, none, groups)
    return "Mkldnn" not in str(torch._C._select_conv_backend(*asked))


def _sliced(
    image: Tensor, weight: Tensor, bias: Tensor | None, stride: Ints, padding: Ints,
    dilation: Ints, groups: int,
) -> Tensor:  # fmt: skip
    """A strided 1x1: a product over the rows that are heard."""
    plain = CONV[len(stride)]
    if not torch.compiler.is_compiling():
        learns = weight.requires_grad or (bias is not None and bias.requires_grad)
        if not learns or not torch.is_grad_enabled():
            return plain(image, weight, bias, stride, padding, dilation, groups)
        if image.shape[0] == 1 and outermost():  # or it may be one of many
            facts = (image.dtype, bias is not None, stride, groups, torch.get_num_threads())
            if _passed_by(image.shape, weight.shape, *facts):
                return plain(image, weight, bias, stride, padding, dilation, groups)
    if weight.shape[1] >= FEW or not _fits(image, weight, bias, groups):
        return plain(image, weight, bias, stride, padding, dilation, groups)
    if groups == 1:
        d = len(stride)
        steps = [slice(None, None, step) for step in stride]
        heard = image.permute(0, *range(2, d + 2), 1)[(slice(None), *steps)]
        flat, size = weight.flatten(1), heard.shape[:-1]
        if flat.shape[1] % 4:  # a product of odd channels takes up to 1.7 times as long
            more = (0, -flat.shape[1] % FEW)
            heard, flat = F.pad(heard, more), F.pad(flat, more)
        y = F.linear(heard.reshape(-1, flat.shape[1]), flat, bias)
        return y.view(*size, weight.shape[0]).permute(0, d + 1, *range(1, d + 1))
    ones = (1,) * len(stride)
    return plain(every(image, stride), weight, bias, ones, padding, dilation, groups)


def _ordinary(
    image: Tensor, weight: Tensor, bias: Tensor | None, stride: Ints, padding: Ints,
    dilation: Ints, groups: int,
) -> Tensor:  # fmt: skip
    """Any channels, laid out as the dense twin has them."""
    plain = CONV[len(stride)]
    return plain(planar(image), planar(weight), bias, stride, padding, dilation, groups)


def _planar(
    image: Tensor, weight: Tensor, bias: Tensor | None, stride: Ints, padding: Ints,
    dilation: Ints, groups: int,
) -> Tensor:  # fmt: skip
    """One channel a group and output width 1: laid out as the dense twin has it."""
    if weight.shape[1] == 1:  # either of them would pull the other over
        image, weight = planar(image), planar(weight)
    return CONV[len(stride)](image, weight, bias, stride, padding, dilation, groups)
