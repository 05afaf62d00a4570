"""S1 of a maximum: a program is followed by what it compares, one largest pixel after the other.

For every output p and every pixel q of its window, suppose that x[q] is the largest there. Then

    comparisons of x[q] with the others of the window are decided, all further ones are not, and

        y[p]      has to be x[q], whatever the others are, in the window and beyond it
        grad_x    has to take g[p] to q, and nothing of it elsewhere

Every image is such a one: some pixel of each window is its largest. So what holds under every
supposition holds of all images. This is the principle of zeros and ones of sorting networks (Knuth,
TAOCP 3, 5.3.4), for programs that also branch entry by entry on what they compared. Values are
followed with equal pixels allowed behind the first (or before the last) of the largest; gradients
too, or where one pixel is above all others.

Windows that do not meet are supposed at once as long as a program only moves entries and takes
maxima of them: those are of one window, or not known. One that uses what it compared may join what
two windows decide; there each window of each image is supposed by itself. Gradients may only be
moved and added: what is followed for one window at a time holds of all together.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from convgraph.proof.equation.windows import Windows
from convgraph.proof.layer.order import codes
from convgraph.proof.layer.order.follower import Follower
from convgraph.proof.layer.order.ordered_tensor import Ordered
from convgraph.proof.layer.premise import source_lines
from convgraph.proof.layer.premise.call import Refusal
from convgraph.proof.layer.premise.check import Premise
from convgraph.proof.layer.premise.follower import Mode
from convgraph.proof.layer.premise.traced_tensor import Origin
from convgraph.proof.surroundings import as_written, random_states
from convgraph.proof.ways_out import WaysOut

MOST = 4096
"""Suppositions that are followed; each is one call, operator by operator."""

FIRST, LAST, SOLE = "first", "last", "sole"
TIED = (
    "images on which two entries of one window are equally large: values there were compared on "
    "drawn ones alone"
)
TIED_GRADIENT = (
    "gradients where two entries of one window are equally large: which of them takes it is a "
    "choice, and was not compared"
)


def check_order(
    run: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    windows: Windows,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> tuple[Premise, tuple[str, ...]]:
    """Follow a program that claims to be the maximum of windows; see the module.

    Args:
        run: f(x) -> y; differentiable.
        shape: of x, (B, C, *size).
        windows: who looks at whom.
        dtype: in which it computes.
        device: where.

    Returns:
        The verdict, and what it does not cover.
    """
    found = _family(run, shape, windows, FIRST, dtype, device)
    if found.status == "proven":
        return found, (TIED_GRADIENT,)
    found = _family(run, shape, windows, SOLE, dtype, device)
    if found.status != "proven":
        return found, ()
    for ties in (FIRST, LAST):
        again = _family(run, shape, windows, ties, dtype, device, values=True)
        if again.status == "proven":
            assumed = tuple(sorted({*found.assumed, *again.assumed}))
            return replace(found, assumed=assumed), (TIED_GRADIENT,)
    return found, (TIED, TIED_GRADIENT)


def _family(
    run: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    windows: Windows,
    ties: str,
    dtype: torch.dtype,
    device: torch.device | str,
    values: bool = False,
) -> Premise:
    """Follow it under every supposition; values: without gradients."""
    images = np.arange(prod(shape[:2]))
    together = [(images, colour) for colour in windows.colours]
    found, decides = _groups(run, shape, windows, together, ties, dtype, device, values)
    if not decides:
        return found
    alone = [(images[i : i + 1], np.array([p])) for i in images for p in range(len(windows.counts))]
    return _groups(run, shape, windows, alone, ties, dtype, device, values)[0]


def _groups(
    run: Callable[[Tensor], Tensor],
    shape: tuple[int, ...],
    windows: Windows,
    groups: list[tuple[Any, Any]],
    ties: str,
    dtype: torch.dtype,
    device: torch.device | str,
    values: bool,
) -> tuple[Premise, bool]:
    """Suppose one group of windows after the other, up to one that the program may join."""
    found = Premise("proven")
    operators, assumed = 0, set[str]()
    widths = [max(1, int(windows.counts[colour].max(initial=0))) for _, colour in groups]
    if sum(widths) > MOST:
        reason = (
            f"windows of {windows.entries.shape[1]} pixels in {len(groups)} groups take "
            f"{sum(widths)} runs, more than {MOST}"
        )
        return Premise("undecided", reason), False
    for (images, colour), width in zip(groups, widths, strict=True):
        for place in range(width):
            supposed = _Supposed(shape, windows, images, colour, place, ties, device)
            follower = Follower(dtype)
            found = _attempt(run, supposed, follower, values)
            operators += follower.operators
            assumed |= follower.assumed
            if found.status != "proven":
                return found, False
            if follower.decides and images.size * colour.size > 1:
                return found, True
    return replace(found, operators=operators, assumed=tuple(sorted(assumed))), False


class _Supposed:
    """One pixel of each window of a group is its largest, in some of the images."""

    def __init__(
        self,
        shape: tuple[int, ...],
        windows: Windows,
        supposed: Any,
        colour: Any,
        place: int,
        ties: str,
        device: torch.device | str,
    ) -> None:
        self.shape, self.windows, self.ties, self.images = shape, windows, ties, supposed
        images, pixels, outs = prod(shape[:2]), prod(windows.size), prod(windows.out_size)
        counts = windows.counts[colour]
        self.full, self.empty = colour[counts > 0], colour[counts == 0]
        rows = windows.entries[self.full]
        at = place % counts[counts > 0]
        self.largest = rows[np.arange(len(rows)), at]
        group = 1 + np.arange(images)[:, None] * outs + self.full
        x = np.full((images, pixels), float(codes.ANY))
        order = np.arange(rows.shape[1])
        behind = order > at[:, None] if ties == FIRST else order < at[:, None]
        rank = np.where(behind & (ties != SOLE), codes.AT_MOST, codes.LOW)
        rank[np.arange(len(rows)), at] = codes.TOP
        there = rows >= 0
        for image in supposed:
            x[image, rows[there]] = (3 * group[image][:, None] + rank)[there]
        self.group = group
        self.x = _known(x).reshape(shape).to(device)
        self.y_shape = (*shape[:2], *windows.out_size)
        self.token = 3 * (group + images * outs) + codes.TOP
        g = np.zeros((images, outs))
        g[np.ix_(supposed, self.full)] = self.token[supposed]
        g[np.ix_(supposed, self.empty)] = 3 * (1 + 2 * images * outs) + codes.TOP
        self.g = _known(g).reshape(self.y_shape).to(device)

    def wrong_value(self, y: Tensor) -> str:
        """Say which output is not known to be the largest entry of its window."""
        flat = y.cpu().reshape(self.group.shape[0], -1)
        code, value = flat.imag.numpy(), flat.real.numpy()
        code, value = code[self.images], value[self.images]
        bad = code[:, self.full] != 3 * self.group[self.images] + codes.TOP
        if bad.any():
            image, place = (int(i) for i in np.argwhere(bad)[0])
            image = int(self.images[image])
            p, q = self.full[place], self.largest[place]
            return (
                f"y{self._at(image, p, self.windows.out_size)} is not known to be "
                f"x{self._at(image, q, self.windows.size)} where that is the largest of its window"
            )
        silent = (code[:, self.empty] != 0) | (value[:, self.empty] != self.windows.nothing)
        if silent.any():
            image, place = (int(i) for i in np.argwhere(silent)[0])
            image = int(self.images[image])
            at = self._at(image, self.empty[place], self.windows.out_size)
            return f"y{at} looks at no pixel, and is not {self.windows.nothing}"
        return ""

    def wrong_gradient(self, grad: Tensor) -> str:
        """Say which pixel does not get what its windows send."""
        images = self.group.shape[0]
        want = np.zeros((images, prod(self.windows.size)))
        want[np.ix_(self.images, self.largest)] = self.token[self.images]
        flat = grad.cpu().reshape(images, -1)
        bad = (flat.imag.numpy() != want) | (flat.real.numpy() != 0)
        if not bad.any():
            return ""
        image, q = (int(i) for i in np.argwhere(bad)[0])
        return (
            f"grad_x{self._at(image, q, self.windows.size)} is not known to be the gradient of the "
            "windows of which it is the largest entry, and nothing else"
        )

    def _at(self, image: int, flat: int, size: tuple[int, ...]) -> list[int]:
        whole = (*self.shape[:2], *size)
        return [int(i) for i in np.unravel_index(image * prod(size) + flat, whole)]


def _known(code: Any) -> Tensor:
    imag = torch.from_numpy(code)
    return torch.complex(torch.zeros_like(imag), imag)


def _attempt(
    run: Callable[[Tensor], Tensor], supposed: _Supposed, follower: Follower, values: bool
) -> Premise:
    drawn = random_states()
    compiled: list[str] = []
    try:
        with warnings.catch_warnings(), as_written() as compiled:
            warnings.simplefilter("ignore")
            x = follower.enter(supposed.x)
            with WaysOut(follower.leave), Mode(follower):
                y = run(x)
                if follower.refused is None and not isinstance(y, Ordered):
                    return _verdict(follower, "undecided", "what was returned is not followed")
                if follower.refused is not None:
                    return _verdict(follower)
                if tuple(y.shape) != supposed.y_shape:
                    reason = f"y has shape {tuple(y.shape)}, expected {supposed.y_shape}"
                    return _verdict(follower, "undecided", reason)
                with _disable_current_modes():
                    returned: Any = y
                    wrong = supposed.wrong_value(returned.knows())
                if wrong:
                    return _verdict(follower, "undecided", wrong)
                if not values:
                    if not y.requires_grad:
                        return _verdict(follower, "undecided", "y has no gradient")
                    with _disable_current_modes():
                        g = follower.send(supposed.g)
                    (grad,) = torch.autograd.grad(y, [x], g, allow_unused=True)
                    with _disable_current_modes():
                        wrong = "x has no gradient"
                        if isinstance(grad, Ordered):
                            wrong = supposed.wrong_gradient(grad.knows())
                    if wrong:
                        return _verdict(follower, "undecided", wrong)
    except Refusal:
        pass
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the accused raises is what is reported
        if follower.refused is None:
            text = str(error).partition("\n")[0]
            reason = f"it cannot be followed: {type(error).__name__}: {text}"
            origin = Origin(type(error).__name__, source_lines.of_error(error))
            return _verdict(follower, "undecided", reason, origin)
    if follower.refused is not None:
        return _verdict(follower)
    if random_states() != drawn:
        return _verdict(follower, "undecided", "Python or NumPy drew random numbers")
    return replace(_verdict(follower, "proven"), compiled=bool(compiled))


def _verdict(
    follower: Follower, status: str = "", reason: str = "", origin: Origin | None = None
) -> Premise:
    if follower.refused is not None:
        refusal, origin = follower.refused
        status, reason = refusal.status, refusal.reason
    where = ("", "") if origin is None else (origin.operator, origin.line)
    return Premise(
        status,
        reason,
        *where,
        operators=follower.operators,
        assumed=tuple(sorted(follower.assumed)),
        steps=tuple(follower.steps),
        numbers=tuple(follower.numbers),
    )
