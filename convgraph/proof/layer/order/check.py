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

Suppositions are followed side by side, in one call. Where that does not prove it, since a program
reads a number that is another under each, they are followed one by one; see `suppositions`.

In a space a tap may read between pixels. Pixels are then numbers of which sums with shares may be
taken, each known by its value at random whole numbers; where sums are compared, those that a
supposed window looks at have their order, and all others none.
"""

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from math import inf, prod
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from convgraph.proof.equation.maximum_windows import Windows
from convgraph.proof.layer.order import codes
from convgraph.proof.layer.order.follower import Follower
from convgraph.proof.layer.order.ordered_tensor import Ordered
from convgraph.proof.layer.order.whose import SEVERAL
from convgraph.proof.layer.premise import source_lines
from convgraph.proof.layer.premise.call import Refusal
from convgraph.proof.layer.premise.check import Premise
from convgraph.proof.layer.premise.follower import Mode
from convgraph.proof.layer.premise.traced_tensor import Origin
from convgraph.proof.surroundings import as_written, watched
from convgraph.proof.ways_out import WaysOut

MOST = 4096
"""Suppositions that are followed."""

ROOM = 2**20
"""Entries of what looks at images: as many suppositions are followed side by side as it takes."""

FAR = 2**36
"""Below it lie the numbers by which sums are told apart; with shares of 2^-16 they are exact."""

MOVED = "a flag"
"""The operator of a verdict on a program that moved one; what follows it says no more of that."""

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
    looks: Sequence[Windows],
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    frozen: Collection[str] = (),
    handed: Callable[[str, Tensor], Tensor] = lambda _, leaf: leaf,
) -> tuple[Premise, tuple[str, ...]]:
    """Follow a program that claims to be the maximum of windows; see the module.

    Args:
        run: f(x) -> y; differentiable.
        shape: of x, (B, C, *size).
        looks: who looks at whom, in each image of a batch, or in all alike where there is one.
        dtype: in which it computes.
        device: where.
        frozen: "x" where no gradient is asked for.
        handed: makes of x and g, by name, what the program is given.

    Returns:
        The verdict, and what it does not cover.
    """
    asks = "x" not in frozen
    calls = _Calls(run, dtype, device, asks, handed, values=not asks)
    found = _family(calls, shape, looks, FIRST)
    if found.status == "proven":
        return found, (TIED_GRADIENT,)
    if found.operator == MOVED:
        return found, ()
    found = _family(calls, shape, looks, SOLE)
    if found.status != "proven":
        return found, ()
    for ties in (FIRST, LAST):
        again = _family(replace(calls, values=True), shape, looks, ties)
        if again.operator == MOVED:
            return again, ()
        if again.status == "proven":
            assumed = tuple(sorted({*found.assumed, *again.assumed}))
            return replace(found, assumed=assumed), (TIED_GRADIENT,)
    return found, (TIED, TIED_GRADIENT)


@final
@dataclass(frozen=True)
class _Calls:
    """A program and how it is called; `values` alone are followed, or gradients too."""

    run: Callable[[Tensor], Tensor]
    dtype: torch.dtype
    device: torch.device | str
    asks: bool
    handed: Callable[[str, Tensor], Tensor]
    values: bool


def _family(calls: _Calls, shape: tuple[int, ...], looks: Sequence[Windows], ties: str) -> Premise:
    """Follow it under every supposition."""
    images = np.arange(prod(shape[:2]))
    together = [(images, colour) for colour in looks[0].colours]
    found, decides = _groups(calls, shape, looks, together, ties)
    if not decides:
        return found
    if looks[0].values is None:
        found, _ = _groups(calls, shape, looks, together, ties, apart=True)
        if found.status == "proven" or found.operator == MOVED:
            return found
    alone = [
        (images[i : i + 1], np.array([p])) for i in images for p in range(len(looks[0].counts))
    ]
    return _groups(calls, shape, looks, alone, ties)[0]


def _groups(
    calls: _Calls,
    shape: tuple[int, ...],
    looks: Sequence[Windows],
    groups: list[tuple[Any, Any]],
    ties: str,
    apart: bool = False,
) -> tuple[Premise, bool]:
    """Suppose one group of windows after the other, up to one that the program may join.

    With `apart` it is followed whose window each entry follows from, and what several do is wrong.
    """
    found = Premise("proven")
    operators, assumed = 0, set[str]()
    widths = [
        max(1, *(int(_of(looks, i, shape).counts[colour].max(initial=0)) for i in images))
        for images, colour in groups
    ]
    if sum(widths) > MOST:
        reason = (
            f"windows of {looks[0].entries.shape[1]} pixels in {len(groups)} groups take "
            f"{sum(widths)} runs, more than {MOST}"
        )
        return Premise("undecided", reason), False
    every = [
        (images, colour, place)
        for (images, colour), width in zip(groups, widths, strict=True)
        for place in range(width)
    ]
    beside = max(1, ROOM // (prod(shape) * looks[0].entries.shape[1]))
    while every:
        many = beside if operators else 1  # one alone says whether a program decides
        part, every = every[:many], every[many:]
        supposed = [_Supposed(shape, looks, *one, ties, calls.device) for one in part]
        follower = Follower(calls.dtype, _sums(supposed), len(part))
        found, wrong = _attempt(calls, supposed, follower, apart)
        if found.status != "proven" and len(part) > 1 and found.operator != MOVED:
            # What is asked of all at once may be more than is known of each.
            every, beside = [part[wrong], *part[:wrong], *part[wrong + 1 :], *every], 1
            continue
        operators += follower.operators * len(part)
        assumed |= follower.assumed
        if found.status != "proven":
            return found, False
        if (
            follower.decides
            and not apart
            and any(images.size * colour.size > 1 for images, colour, _ in part)
        ):
            return found, True
    return replace(found, operators=operators, assumed=tuple(sorted(assumed))), False


def _sums(supposed: Sequence["_Supposed"]) -> codes.Sums:
    """What is known of the order of sums under each supposition, up to as many as know most."""
    found = [one.sums for one in supposed if one.sums is not None]
    if not found:
        return None
    most = max(len(numbers) for numbers, _ in found)
    return (
        torch.stack([F.pad(numbers, (0, most - len(numbers)), value=inf) for numbers, _ in found]),
        torch.stack([F.pad(code, (0, most - len(code)), value=codes.ANY) for _, code in found]),
    )


def _of(looks: Sequence[Windows], image: int, shape: tuple[int, ...]) -> Windows:
    """The windows of one of all images and channels."""
    return looks[image // shape[1] % len(looks)]


class _Supposed:
    """One value of each window of a group is its largest, in some of the images."""

    def __init__(
        self,
        shape: tuple[int, ...],
        looks: Sequence[Windows],
        supposed: Any,
        colour: Any,
        place: int,
        ties: str,
        device: torch.device | str,
    ) -> None:
        self.shape, self.looks = shape, looks
        first = looks[0]
        images, pixels, outs = prod(shape[:2]), prod(first.size), prod(first.out_size)
        self.y_shape = (*shape[:2], *first.out_size)
        self.sums: tuple[Tensor, Tensor] | None = None
        x = np.full((images, pixels), complex(0, codes.ANY))
        g = np.zeros((images, outs), complex)
        self.y = np.full((images, outs), complex(np.nan, 0))  # what is not supposed
        self.grad = np.zeros((images, pixels), complex)
        self.largest: dict[tuple[int, int], int] = {}
        whose_x, whose_g = np.zeros(x.shape), np.zeros(g.shape)
        self.own = np.zeros(x.shape)  # to whom a gradient belongs
        draw = np.random.default_rng()
        between = first.values is not None
        if between:
            x = draw.integers(1, FAR, size=x.shape) + complex(0, codes.SUM)
        order: dict[float, int] = {}
        for image in supposed:
            seen = _of(looks, image, shape)
            counts = seen.counts[colour]
            full, empty = colour[counts > 0], colour[counts == 0]
            rows = seen.entries[full]
            at = place % counts[counts > 0]
            steps = np.arange(rows.shape[1])
            behind = steps > at[:, None] if ties == FIRST else steps < at[:, None]
            rank = np.where(behind & (ties != SOLE), codes.AT_MOST, codes.LOW)
            rank[np.arange(len(rows)), at] = codes.TOP
            group = 1 + image * outs + full
            code, there = 3 * group[:, None] + rank, rows >= 0
            largest = rows[np.arange(len(rows)), at]
            token = code[np.arange(len(rows)), at] + 3 * images * outs
            self.largest |= {(image, p): q for p, q in zip(full, largest, strict=True)}
            self.y[image, full] = 1j * (3 * group + codes.TOP)
            self.y[image, empty] = seen.nothing
            sent = np.full(len(empty), 3 * (1 + 2 * images * outs) + codes.TOP)
            if not between:
                x[image, rows[there]] = 1j * code[there]
                g[image, full], g[image, empty] = 1j * token, 1j * sent
                self.grad[image, largest] = 1j * token
                whose_x[image, rows[there]] = np.broadcast_to(group[:, None], there.shape)[there]
                whose_g[image, full] = self.own[image, largest] = group
                continue
            numbers = seen.of(x[image].real)[rows[there]]
            above = np.argsort(code[there] % 3, kind="stable")  # of equal sums the largest counts
            order |= dict(zip(numbers[above], code[there][above], strict=True))
            sum_ = 1j * codes.SUM
            g[image, colour] = draw.integers(1, FAR, size=len(colour)) + sum_
            to = np.zeros(seen.values[0].shape[:1])  # type: ignore[index]
            np.add.at(to, largest, g[image, full].real)
            back = seen.back(to, pixels)
            self.grad[image] = back + sum_ * (back != 0)
        if between:
            numbers = np.array(sorted(order))
            codes_ = np.array([order[n] for n in numbers.tolist()], float)
            self.sums = (torch.from_numpy(numbers).to(device), torch.from_numpy(codes_).to(device))
        self.x, self.whose_x = (torch.from_numpy(t).reshape(shape).to(device) for t in (x, whose_x))
        self.g, self.whose_g = (
            torch.from_numpy(t).reshape(self.y_shape).to(device) for t in (g, whose_g)
        )

    def wrong_value(self, y: Tensor, whose: Tensor | None) -> str:
        """Say which output is not known, by its window alone, to be the largest entry of it."""
        if self.sums is not None:
            y = codes.decided(y, self.sums)
        flat = y.cpu().numpy().reshape(self.y.shape)
        bad = (flat != self.y) & ~np.isnan(self.y)
        if not bad.any() and whose is not None:
            found = whose.cpu().numpy().reshape(self.y.shape)
            own = 1 + np.arange(found.size).reshape(found.shape)
            bad = (found != 0) & (found != own) & ~np.isnan(self.y)
        if not bad.any():
            return ""
        image, p = (int(i) for i in np.argwhere(bad)[0])
        at = self._at(image, p, self.y_shape[2:])
        if (image, p) not in self.largest:
            return f"y{at} looks at no pixel, and is not {self.y[image, p].real}"
        q = self.largest[image, p]
        what = f"x{self._at(image, q, self.shape[2:])}"
        if self.sums is not None:
            pixels, shares = _of(self.looks, image, self.shape).parts()
            what = " + ".join(
                f"{share:.4g} x{self._at(image, pixel, self.shape[2:])}"
                for pixel, share in zip(pixels[:, q], shares[:, q], strict=True)
                if share
            )
        return f"y{at} is not known to be {what} where that is the largest of its window"

    def wrong_gradient(self, grad: Tensor, whose: Tensor | None) -> str:
        """Say which pixel does not get what its windows send, each by itself."""
        flat = grad.cpu().numpy().reshape(self.grad.shape)
        bad = flat != self.grad
        if whose is not None:
            found = whose.cpu().numpy().reshape(self.grad.shape)
            bad |= (found == SEVERAL) | ((self.own > 0) & (found != self.own))
        if not bad.any():
            return ""
        image, q = (int(i) for i in np.argwhere(bad)[0])
        return (
            f"grad_x{self._at(image, q, self.shape[2:])} is not known to be the gradient of the "
            "windows of which it is the largest entry, and nothing else"
        )

    def _at(self, image: int, flat: int, size: tuple[int, ...]) -> list[int]:
        whole = (*self.shape[:2], *size)
        return [int(i) for i in np.unravel_index(image * prod(size) + flat, whole)]


def _attempt(
    calls: _Calls, supposed: Sequence[_Supposed], follower: Follower, apart: bool
) -> tuple[Premise, int]:
    """Follow one call; and of which supposition the verdict says that it is not proven."""
    with watched() as moved:
        found, wrong = _once(calls, supposed, follower, apart)
    if not moved:
        return found, wrong
    return replace(found, status="undecided", reason=moved[0], operator=MOVED), wrong


def _once(
    calls: _Calls, supposed: Sequence[_Supposed], follower: Follower, apart: bool
) -> tuple[Premise, int]:
    compiled, made = list[str](), dict[str, Any]()

    def own(name: str) -> Tensor | None:
        return torch.stack([getattr(one, name) for one in supposed]) if apart else None

    try:
        with warnings.catch_warnings(), as_written() as compiled:
            warnings.simplefilter("ignore")
            x = follower.enter(torch.stack([one.x for one in supposed]), calls.asks, own("whose_x"))
            with WaysOut(follower.leave), Mode(follower):
                y = calls.run(calls.handed("x", x))
                if follower.refused is None and not isinstance(y, Ordered):
                    return _verdict(follower, "undecided", "what was returned is not followed"), 0
                if follower.refused is not None:
                    return _verdict(follower), 0
                if tuple(y.shape) != supposed[0].y_shape:
                    reason = f"y has shape {tuple(y.shape)}, expected {supposed[0].y_shape}"
                    return _verdict(follower, "undecided", reason), 0
                with _disable_current_modes():
                    returned: Any = y
                    made["y"] = follower.made_of.result(y)
                    for place, one in enumerate(supposed):
                        if wrong := one.wrong_value(*_told(returned, place)):
                            return _verdict(follower, "undecided", wrong), place
                if not calls.values:
                    if not y.requires_grad:
                        return _verdict(follower, "undecided", "y has no gradient"), 0
                    with _disable_current_modes():
                        g = follower.send(torch.stack([one.g for one in supposed]), own("whose_g"))
                    sent = calls.handed("g", g)
                    (grad,) = torch.autograd.grad(y, [x], sent, allow_unused=True)
                    if not isinstance(grad, Ordered):
                        return _verdict(follower, "undecided", "x has no gradient"), 0
                    with _disable_current_modes():
                        made["grad_x"] = follower.made_of.result(grad)
                        for place, one in enumerate(supposed):
                            if wrong := one.wrong_gradient(*_told(grad, place)):
                                return _verdict(follower, "undecided", wrong), place
    except Refusal:
        pass
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the accused raises is what is reported
        if follower.refused is None:
            text = str(error).partition("\n")[0]
            reason = f"it cannot be followed: {type(error).__name__}: {text}"
            origin = Origin(type(error).__name__, source_lines.of_error(error))
            return _verdict(follower, "undecided", reason, origin), 0
    if follower.refused is not None:
        return _verdict(follower), 0
    return replace(_verdict(follower, "proven"), compiled=bool(compiled), made=made), 0


def _told(made: Ordered, place: int) -> tuple[Tensor, Tensor | None]:
    """What is known under a supposition, and whose it is."""
    whose = made.whose()
    return made.knows()[place], None if whose is None else whose[place]


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
