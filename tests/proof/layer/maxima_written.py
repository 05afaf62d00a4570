"""Maxima over windows, right ones and wrong ones, written in many ways."""

from collections.abc import Callable
from functools import reduce
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.proof.equation.maximum_windows import kernel_axis, windows

SHAPE = (2, 1, 5, 4)
WINDOWS = windows(SHAPE[2:], [kernel_axis(5, 3, 2, 1, 1, False), kernel_axis(4, 2, 2, 0, 1, False)])
"""Windows of 3 x 2 pixels, which meet along the first axis and hang over the border there."""


def known(x: Tensor) -> Tensor:
    return F.max_pool2d(x, (3, 2), 2, (1, 0))


def padded(x: Tensor, value: float = -torch.inf) -> Tensor:
    return F.pad(x, (0, 0, 1, 1), value=value)


def taps(x: Tensor) -> list[Tensor]:
    wide = padded(x)
    return [wide[..., i : i + 5 : 2, j::2] for i in range(3) for j in range(2)]


def laid_out(x: Tensor, value: float = -torch.inf) -> Tensor:
    return padded(x, value).unfold(2, 3, 2).unfold(3, 2, 2).flatten(-2)


def scattered(x: Tensor) -> Tensor:
    rows, cells = WINDOWS.entries, x.flatten(2)
    p, k = np.nonzero(rows >= 0)
    target = torch.from_numpy(p).expand(*x.shape[:2], -1)
    out = x.new_full((*x.shape[:2], len(rows)), -torch.inf)
    found = out.scatter_reduce(2, target, cells[..., torch.from_numpy(rows[p, k])], "amax")
    return found.view(known(x).shape)


def compared(x: Tensor) -> Tensor:
    return reduce(lambda a, b: torch.where(b > a, b, a), taps(x))


def written(x: Tensor) -> Tensor:
    out = torch.empty((*x.shape[:2], 3, 2), dtype=x.dtype)
    for image, one in enumerate(laid_out(x)):
        out[image] = one.amax(-1)
    return out


def found_first(x: Tensor) -> Tensor:
    cells = laid_out(x)
    return cells.gather(-1, cells.detach().argmax(-1, keepdim=True)).squeeze(-1)


def by_places(x: Tensor) -> Tensor:
    """Where the largest is, kept as whole numbers that no data are beside."""
    cells = laid_out(x)
    at, most = torch.zeros(cells.shape[:-1], dtype=torch.long), cells[..., 0].detach()
    for place in range(1, cells.shape[-1]):
        above = cells[..., place].detach() > most
        at = torch.where(above | above, torch.full_like(at, place), at)
        most = torch.maximum(most, cells[..., place].detach())
    return cells.gather(-1, at[..., None]).squeeze(-1)


def of_volumes(x: Tensor) -> Tensor:
    """The gradient is put into zeros of its own size, all of it: another shape, and no step."""
    return F.max_pool3d(x[:, :, None], (1, 3, 2), (1, 2, 2), (0, 1, 0))[:, :, 0]


RIGHT: dict[str, Callable[[Tensor], Tensor]] = {
    "torch's": known,
    "in channels last": lambda x: known(x.contiguous(memory_format=torch.channels_last)),
    "amax of windows": lambda x: laid_out(x).amax(-1),
    "max of windows": lambda x: laid_out(x).max(-1).values,
    "topk, and a view in place": lambda x: laid_out(x).topk(1).values.clone().squeeze_(-1),
    "maximum of taps": lambda x: reduce(torch.maximum, taps(x)),
    "where it is greater": compared,
    "scattered": scattered,
    "into memory": written,
    "the first index": found_first,
    "by places": by_places,
    "of volumes": of_volumes,
    "of its logged self": lambda x: known(x) + 0 * x.new_zeros(()),
}


def rare(x: Tensor) -> Tensor:
    """Wrong in one order of six pixels out of 720."""
    cells = laid_out(x).unbind(-1)
    falls = [a > b for a, b in pairwise(cells)]
    return torch.where(reduce(torch.logical_and, falls), cells[-1], known(x))


def other_backward(x: Tensor) -> Tensor:
    """The gradient goes to the pixel beside."""
    y = known(x)
    return y.detach() + known(x.roll(1, -1)) - known(x.roll(1, -1)).detach()


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "one tap is missing": lambda x: reduce(torch.maximum, taps(x)[:-1]),
    "one tap too many": lambda x: torch.maximum(known(x), known(x.roll(2, -1))),
    "padded with 0": lambda x: laid_out(x, 0.0).amax(-1),
    "padded with -1e9": lambda x: laid_out(x, -1e9).amax(-1),
    "another stride": lambda x: F.max_pool2d(x, (3, 2), 1, (1, 0))[..., :3, :2],
    "dilated": lambda x: F.max_pool2d(x, (2, 1), 2, (1, 0), dilation=2),
    "another size of output": lambda x: F.max_pool2d(x, 2, 2, (1, 0), ceil_mode=True)[..., :2, :],
    "rounded": lambda x: known(x + (x.round() - x).detach()),
    "in bfloat16": lambda x: known(x.bfloat16()).to(x.dtype),
    "a dead zone": lambda x: known(torch.where(x.abs() < 1e-3, 0.0, x)),
    "clamped far out": lambda x: known(x).clamp(-1e30, 1e30),
    "an average": lambda x: laid_out(x, 0.0).mean(-1),
    "the least": lambda x: -known(-x),
    "wrong where two are equal": lambda x: torch.where(
        laid_out(x)[..., 2] == laid_out(x)[..., 3], -known(-x), known(x)
    ),
    "another image": lambda x: known(x.flip(0)),
    "without a gradient": lambda x: known(x).detach() + 0 * x[..., ::2, ::2],
    "half a gradient": lambda x: (known(x) + known(x).detach()) / 2,
    "a gradient beside": other_backward,
    "a branch on data": lambda x: known(x) if x.max() < 1e30 else known(x) * 0,
    "in NumPy": lambda x: known(x) + 0 * torch.from_numpy(x.detach().numpy()).sum(),
}

# -- wrong where no draw goes

TWO = (2, 2, 4, 4)
SQUARES = windows(TWO[2:], [kernel_axis(4, 2, 2, 0, 1, False)] * 2)
MEETING = windows(TWO[2:], [kernel_axis(4, 3, 1, 1, 1, False)] * 2)


def squares(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2)


def meeting(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 1, 1)


def corners(x: Tensor) -> Tensor:
    return x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)


def far(x: Tensor) -> Tensor:
    return x[:, :, :1, :1] > 1e30


def either(wrong: Tensor, x: Tensor) -> Tensor:
    return torch.where(wrong, -squares(-x), squares(x))


def places(x: Tensor) -> Tensor:
    return corners(x).argmax(-1)


def in_turn(x: Tensor) -> Tensor:
    """Whether the largest pixels of an image's windows lie in one row of places out of 4^4."""
    found = places(x).flatten(2)
    return (found == torch.arange(found.shape[2])).all(-1)[..., None, None]


def of_another_image(x: Tensor) -> Tensor:
    found = places(x)[..., None]
    other = found.flip(0)
    apart = (found - other == 3).flatten(1).all(1)[:, None, None, None, None]
    return corners(x).gather(-1, torch.where(apart, other, found)).squeeze(-1)


def of_a_copy(x: Tensor) -> Tensor:
    copy = torch.empty(corners(x).shape, dtype=torch.bfloat16)
    copy.copy_(corners(x).detach())
    return corners(x).gather(-1, copy.argmax(-1, keepdim=True)).squeeze(-1)


def no_number(x: Tensor) -> Tensor:
    grown = x * 1e20
    return either(~(squares(grown - grown) >= -torch.inf), x)


def rounded_away(x: Tensor) -> Tensor:
    beside = torch.cat([x.flatten(2), x.new_ones(2, 2, 1)], 2)[..., -1:, None]
    return either(far(x) & (beside + 1e-9 == 1), x)


def between(x: Tensor) -> Tensor:
    sign = far(x).long() - (x[:, :, 1:2, 1:2] < 2e30).long()
    return either(~torch.logical_and(sign, torch.ones_like(sign)), x)


def wrapped(x: Tensor) -> Tensor:
    return either((far(x).long() * 200).to(torch.int8) < 0, x)


RARELY: dict[str, Callable[[Tensor], Tensor]] = {
    "where windows differ in one manner": lambda x: either(in_turn(x), x),
    "the index of another image": of_another_image,
    "the index of a narrower copy": of_a_copy,
    "where what overflows is NaN": no_number,
    "where float32 rounds": rounded_away,
    "where an integer is 0 between its ends": between,
    "where an integer wraps": wrapped,
}
