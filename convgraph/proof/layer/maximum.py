"""The proof of a maximum over windows: y[p] = max of x[q] over the window of p.

A maximum is no linear operator, and numbers that agree say nothing of other numbers. It only
compares, so it is followed by order (S1, see `order.check`): whichever pixel of a window is its
largest, that one comes out, and the gradient goes back to it. Beside that both sides are held
against the judge's own windows, bit for bit, on integers, on images full of equal entries and on
real numbers; a pixel that several windows chose adds their gradients up, within

    |grad - exact| <= n u sum |g| + n eta,        n windows at most that look at one pixel
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from convgraph.door import door
from convgraph.errors import ProofError
from convgraph.proof import draws, precision
from convgraph.proof.equation.maximum_windows import Windows
from convgraph.proof.layer.direct import Direct
from convgraph.proof.layer.identity import (
    NO_ROOM,
    Identity,
    at_trial,
    entry,
    lacking,
    raised,
    refuted,
    worst,
)
from convgraph.proof.layer.one_program import OneProgram
from convgraph.proof.layer.order.check import check_order
from convgraph.proof.layer.other_manners import apart_without_proof
from convgraph.proof.layer.premise.check import Premise
from convgraph.proof.layer.rounding import Rounding, spread_of
from convgraph.proof.layer.showing import special
from convgraph.proof.layer.to_record import (
    Parameters,
    dtype_name,
    identity_part,
    parameters_part,
    record,
    rounding_part,
)
from convgraph.proof.layer.trial import (
    EXPONENTS,
    HANDS_ON,
    MANNERS,
    PLAIN,
    Probe,
    Run,
    evaluate,
    every_manner,
    frozen_in,
    hands_on,
    in_words,
    manners_of,
)
from convgraph.proof.record.certificate import ASSUMED_VENDOR, Certificate, Part
from convgraph.proof.roundoff import HALF, dot_bound
from convgraph.proof.surroundings import COMPILERS

Shape = tuple[int, ...]

ASSUMED = (
    "the reference takes the largest entry of each window that its arguments name: it was held "
    "against the judge's own windows on what was drawn"
)
POWERS = (-16, -40, -60, 16, 40, 60, 100)
"""How far numbers are moved where a refusal looks for one that shows it."""


@door
def prove_maximum(
    candidate: Run,
    reference: Run,
    shape: Shape,
    windows: Windows | Sequence[Windows],
    *,
    scale: int = 1,
    parameters: Parameters | None = None,
    premise: bool = True,
    trust: Collection[str] = (),
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    epsilon: float = draws.EPSILON,
    seed: int | None = None,
    progress: bool = False,
    name: str = "maximum",
) -> Certificate:
    """Prove that an operator takes the largest entry of each window, and sends gradients there.

    Args:
        candidate: f(x) -> y.
        reference: f(x) -> y, the dense operator.
        shape: of x, (B, C, *size).
        windows: who looks at whom; see `maximum_windows`. Of images with holes, those of each.
        scale: shares of pixels are k / scale with whole k; 1 where values are the pixels.
        parameters: what the candidate trains, and the reference has not; it is then undecided.
        premise: follow the candidate by order (S1); without it nothing is proven.
        trust: "torch.compile" takes compilers for granted; nothing else is trusted to be a maximum.
        dtype: in which both compute. Half types are probed on integers in float64, on such as
            float32 holds.
        device: where.
        epsilon: of the draws, as for a linear operator.
        seed: replays a recorded run.
        progress: show a progress bar.
        name: of the candidate.

    Raises:
        ProofError: shape and windows do not fit.

    Example:
        >>> import torch.nn.functional as F
        >>> from convgraph.proof.equation.maximum_windows import kernel_axis, windows
        >>> pairs = windows((4,), [kernel_axis(4, 2, 2, 0, 1, False)])
        >>> by_hand = lambda x: torch.maximum(x[..., ::2], x[..., 1::2])
        >>> prove_maximum(by_hand, torch.nn.MaxPool1d(2), (2, 3, 4), pairs).verdict
        'proven'
    """
    looks = tuple(windows) if isinstance(windows, Sequence) else (windows,)
    if len(shape) < 3 or tuple(shape[2:]) != looks[0].size or len(looks) not in (1, shape[0]):
        raise ProofError(
            f"prove_maximum: expected images of {looks[0].size} pixels and windows of each, got "
            f"{shape} and windows of {len(looks)}"
        )
    draws.check_room(shape)
    probe = torch.float64 if dtype in HALF else dtype
    flags = precision.stated(device)
    whole = max(prod(shape[1:]), shape[1] * len(looks[0].entries))
    heard = max(one.heard() for one in looks)
    # A share rounds as it is taken, and once more where shares are added.
    most = max(1, heard, looks[0].width) + 2 * (looks[0].values is not None)
    terms = most if premise else whole  # as it says of linear operators
    # A program of a half type may go to float32 and back, where there are no shares.
    room = torch.float32 if dtype in HALF and scale == 1 else probe
    budget = draws.budget(terms * scale, dtype_name(room), epsilon, seed, degree=1)
    pair = _Pair(candidate, reference, shape, looks, terms, scale, device)
    with precision.plain(device):
        followed, uncovered = Premise("not asked"), tuple[str, ...]()
        if premise:
            followed, uncovered = check_order(candidate, shape, looks, dtype=dtype, device=device)
        follows = followed.status == "proven" and not followed.compiled
        program = OneProgram(followed if follows else None, trust)
        none = OneProgram(None)
        identity = pair.identity(budget, probe, program if dtype == probe else none, progress)
        rounding = Rounding("not asked")
        elsewhere = identity.status == "refuted" and dtype != probe
        if identity.status == "proven" or elsewhere:
            rounding = pair.rounding(budget, dtype, program)
        if elsewhere and rounding.status != "refuted":  # what float64 shows may be its own
            reason = f"{identity.reason}, in float64: {NO_ROOM}"
            identity = replace(identity, status="undecided", reason=reason, counterexample={})
        other = ""
        if followed.status == "proven":

            def follow(**how: Any) -> Premise:
                nonlocal uncovered
                found, more = check_order(
                    candidate, shape, looks, dtype=dtype, device=device, **how
                )
                uncovered = tuple(dict.fromkeys([*uncovered, *more]))
                return found

            other = apart_without_proof(program, follow, lambda _: Direct("not asked"))
        followed = _afterwards(followed, program, other)
        shown = None
        if {identity.status, rounding.status} <= {"proven", "undecided", "not asked"} and premise:
            followed, shown = _shown(followed, pair, budget, dtype)
    if not premise:
        reason = "S1 was not asked, and numbers that agree say nothing of others"
        followed = replace(followed, status="undecided", reason=reason)
    proven = followed.status == "proven"
    parts = [
        *([parameters_part(parameters, {}, same=False)] if parameters else []),
        _premise_part(followed, looks, program.held, shape[0]),
        identity_part(identity, budget, probe),
        rounding_part(rounding),
    ]
    spec: dict[str, Any] = {"shape": list(shape), "out": [*shape[:2], *looks[0].out_size]}
    spec |= {"terms": terms, "scale": scale}
    pixels = sum(int(one.counts.sum()) for one in looks)
    found = record(
        name, parts, spec, dtype, device, budget, flags, rounding,
        identity.counterexample or (shown.counterexample if shown else {}),
        (ASSUMED, *(f"the candidate's {one}" for one in followed.assumed))
        if proven else (ASSUMED, ASSUMED_VENDOR),
    )  # fmt: skip
    text = "\n".join(f"{s.operator}{s.made}" for s in followed.steps)
    return replace(
        found,
        kind="maximum",
        spec={**found.spec, "windows": {"pixels": pixels}},
        trace=hashlib.sha256(text.encode()).hexdigest() if premise else "",
        not_covered=(*found.not_covered, *uncovered),
    )


def _afterwards(followed: Premise, program: OneProgram, other: str) -> Premise:
    """What S1 comes to once all runs are over; `other` says where it was not followed."""
    if followed.status != "proven":
        return followed
    if reason := program.difference or other:
        return replace(followed, status="undecided", reason=reason)
    if followed.compiled and COMPILERS not in program.trust:
        reason = f"something is compiled; trust=({COMPILERS!r},) takes compilers for granted"
        return replace(followed, status="undecided", reason=reason)
    return followed


def _shown(
    followed: Premise, pair: "_Pair", budget: draws.Budget, dtype: torch.dtype
) -> tuple[Premise, Identity | None]:
    """What S1 refuses, with an input that shows it; undecided where none was found."""
    if followed.status == "proven":
        return followed, None
    shown = pair.show(budget, dtype, followed.numbers)
    if shown is not None:
        reason = f"{followed.reason}: {shown.reason}"
        return replace(followed, status="refuted", reason=reason), shown
    if followed.status == "refuted":
        reason = f"{followed.reason}; no input was found on which that makes a difference"
        return replace(followed, status="undecided", reason=reason), None
    return followed, None


def _premise_part(found: Premise, looks: Sequence[Windows], held: int, batch: int) -> Part:
    if found.status != "proven":
        where = f" ({found.line})" if found.line else ""
        return Part("S1 premise", found.status, f"{found.reason}{where}")
    again = f", the same in {held} plain runs" if held else ""
    first, pixels = looks[0], sum(int(one.counts.sum()) for one in looks)
    what = "pixels" if first.values is None else "values between pixels"
    among = "" if len(looks) == 1 else f" in {batch} images, each with holes of its own"
    return Part(
        "S1 premise", "proven", f"{found.operators} operators followed{again}: whichever of its "
        f"{first.entries.shape[1]} {what} is the largest of a window comes out, and takes the "
        f"gradient; {pixels} {what} of {len(looks) * len(first.entries)} windows{among}, each"
    )  # fmt: skip


class _Pair:
    """Both sides, and the judge's own maximum."""

    def __init__(
        self,
        candidate: Run,
        reference: Run,
        shape: Shape,
        looks: Sequence[Windows],
        terms: int,
        scale: int,
        device: torch.device | str,
    ) -> None:
        self.candidate, self.reference, self.device = candidate, reference, device
        self.shape, self.looks, self.terms, self.scale = shape, looks, terms, scale
        self.out = (*shape[:2], *looks[0].out_size)
        self.between = looks[0].values is not None

    def truth(self, x: Any, g: Any, dtype: torch.dtype) -> dict[str, Any]:
        """The maxima, the gradient of x, magnitudes of both, and where the gradient is decided."""
        step = len(self.looks)
        rounds = self.between and not self._whole(x, dtype)
        unit = 4 * dot_bound(self.terms, dtype, np.ones(1)) if rounds else np.zeros(1)
        parts = [
            _of_images(seen, x[place::step], g[place::step], float(unit[0]))
            for place, seen in enumerate(self.looks)
        ]
        found = {}
        for name in parts[0]:
            shape = self.out if name in ("y", "size_y") else self.shape
            found[name] = np.concatenate([part[name] for part in parts]).reshape(shape)
        return found

    def identity(
        self, budget: draws.Budget, dtype: torch.dtype, program: OneProgram, progress: bool
    ) -> Identity:
        """Integers, bit for bit; called in every manner."""
        compared, reuse = 0, dict[str, Any]()
        if not np.prod(self.out):
            return Identity("undecided", 3, reason="there is nothing to compare")
        trials: Iterator[Any] = iter(enumerate(budget.generators()))
        for trial, generator in track([*trials], description="probing") if progress else trials:
            x, g = (budget.draw(generator, s) * self.scale for s in (self.shape, self.out))
            moved, _, back = EXPONENTS[trial % len(EXPONENTS)]
            probe = Probe({"x": x}, g, exponents=(moved, 0, back))
            mine = manners_of(trial, budget.trials, "x")
            for side, manners in (("candidate", mine), ("reference", [PLAIN])):
                for manner in manners:
                    other = self._held(side, probe, dtype, manner, program, reuse)
                    if other is not None:
                        return replace(at_trial(other, trial), compared=compared)
                compared += len(manners) * (x.size + g.size)
        return Identity("proven", 3, compared)

    def _held(
        self,
        side: str,
        probe: Probe,
        dtype: torch.dtype,
        manner: str,
        program: OneProgram,
        reuse: dict[str, Any],
        rho: dict[str, float] | None = None,
    ) -> Identity | None:
        """One call held against the judge's own maximum; None where it agrees.

        `rho` is raised to the largest error / bound of the gradient.
        """
        run = getattr(self, side)
        how: dict[str, Any] = {"run": run, "probe": probe, "dtype": dtype, "device": self.device}
        kept = reuse if manner in MANNERS else None
        try:
            if side == "candidate":
                found = program.called(**how, manner=manner, reuse=kept)
            else:
                found = [(manner, evaluate(**how))]
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a side raises is what is reported
            return Identity("undecided", 3, reason=raised(side, error))
        return worst(self._judged(side, each, probe, dtype, one, reuse, rho) for one, each in found)

    def _judged(
        self,
        side: str,
        found: dict[str, Tensor | None] | str,
        probe: Probe,
        dtype: torch.dtype,
        manner: str,
        reuse: dict[str, Any],
        rho: dict[str, float] | None,
    ) -> Identity | None:
        """What came back of one call."""
        words = in_words(manner) if side == "candidate" else ""
        if isinstance(found, str):
            y = self.truth(probe.sent["x"], probe.g, dtype)["y"]
            lacks = lacking(found, y, probe.scale("x"))
            other = refuted(side, "y", lacks, 3, 0, manner, words)
        else:
            known = self._compared(side, found, probe, dtype, manner, words, rho)
            made: Any = found["y"]
            if known is None and "x" in reuse and hands_on(made, reuse["x"]):
                return Identity("undecided", 3, reason=HANDS_ON)
            if known is None:
                return None
            other = known
        if side == "reference":
            reason = f"the reference is no maximum of the windows that it names: {other.reason}"
            return Identity("undecided", 3, reason=reason)
        return other

    def _compared(
        self,
        side: str,
        found: Any,
        probe: Probe,
        dtype: torch.dtype,
        manner: str,
        words: str,
        rho: dict[str, float] | None = None,
    ) -> Identity | None:
        true = self.truth(probe.sent["x"], probe.g, dtype)
        by = {q: probe.scale(q) for q in ("x", "g")}
        have = found["y"].double().cpu().numpy()
        # Powers of two move maxima exactly, minus infinity and an empty window's 0 too.
        want, off = true["y"] * by["x"], have != true["y"] * by["x"]
        if self.between and not self._whole(probe.sent["x"], dtype):
            with np.errstate(invalid="ignore"):
                gap, limit = (
                    np.abs(have - want),
                    2 * dot_bound(self.terms, dtype, true["size_y"] * by["x"]),
                )
                near = gap <= limit
                if rho is not None:
                    ratio = np.where(have == want, 0.0, gap / limit)
                    rho["y"] = max(rho["y"], float(ratio.max(initial=0.0)))
            off &= ~near
        other = entry(have, want, off)
        if other is not None:
            return refuted(side, "y", other, 3, 0, manner, words + _moved(probe))
        if frozen_in(manner):
            return None
        if found.get("grad_x") is None:
            lacks = lacking("has no gradient", true["grad"], by["g"])
            return refuted(side, "grad_x", lacks, 3, 0, manner, words)
        have = found["grad_x"].double().cpu().numpy()
        limit = 2 * dot_bound(self.terms, dtype, true["size"] * by["g"])
        want = true["grad"] * by["g"]
        gap = np.abs(have - want)
        if rho is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.where(gap == 0, 0.0, gap / limit)
            rho["grad_x"] = max(rho["grad_x"], float(ratio[true["decided"]].max(initial=0.0)))
        exact = self._whole(probe.g, dtype)
        wrong = true["decided"] & ~(gap <= (0 if exact else limit))
        other = entry(have, want, wrong)
        if other is not None:
            return refuted(side, "grad_x", other, 3, 0, manner, words + _moved(probe))
        return None

    def _whole(self, drawn: Any, dtype: torch.dtype) -> bool:
        """Whether sums of these are exact, with shares."""
        if dtype in HALF or np.any(drawn != np.round(drawn)):
            return False
        if self.between and np.any(drawn % self.scale):
            return False
        bits = 1 - int(np.log2(torch.finfo(dtype).eps))
        return bool(self.terms * np.abs(drawn).max(initial=0) <= 2**bits)

    def rounding(self, budget: draws.Budget, dtype: torch.dtype, program: OneProgram) -> Rounding:
        """Real numbers, normal ones and of spread size: maxima bit for bit, gradients in bounds.

        Those of spread size in every manner. Then images full of equal entries.
        """
        generator = np.random.Generator(np.random.Philox(budget.seed))
        rho, reuse = {"y": 0.0, "grad_x": 0.0}, dict[str, Any]()
        # Out of (y + s) - s integers come as out of y, used or not used: real numbers do not.
        others = every_manner("x")[1:]  # the first of them refills
        for spread, manners in ((0, [PLAIN]), (spread_of(dtype), [*others, PLAIN])):
            sent = []
            for shape in (self.shape, self.out):
                value = generator.standard_normal(shape)
                if spread:
                    value *= 2.0 ** generator.integers(-spread, spread, size=shape, endpoint=True)
                sent.append(torch.from_numpy(value).to(dtype).double().numpy())
            probe = Probe({"x": sent[0]}, sent[1])
            for manner in manners:
                kept = rho if manner == PLAIN else None
                other = self._held("candidate", probe, dtype, manner, program, reuse, kept)
                if other is not None:
                    return Rounding(other.status, rho, reason=other.reason)
        for low, high in ((-1, 1), (0, 1), (-1, -1)):
            x = generator.integers(low, high, size=self.shape, endpoint=True) * self.scale
            g = generator.integers(-9, 9, size=self.out, endpoint=True) * self.scale
            probe = Probe({"x": x}, g)
            for side in ("candidate", "reference"):
                other = self._held(side, probe, dtype, PLAIN, OneProgram(None), {})
                if other is not None:
                    reason = f"{other.reason}, on an image full of equal entries"
                    return Rounding(other.status, rho, reason=reason)
        return Rounding("proven", rho, reference="the judge's own maximum")

    def show(
        self, budget: draws.Budget, dtype: torch.dtype, numbers: Collection[float]
    ) -> Identity | None:
        """An input on which the candidate differs, found twice; None where none was found."""
        small = replace(budget, a=min(budget.a, 1000 if dtype not in HALF else 100))
        generator = np.random.Generator(np.random.Philox(budget.seed))
        g = small.draw(generator, self.out) * self.scale
        x = small.draw(generator, self.shape) * self.scale
        rise = np.arange(np.prod(self.shape)).reshape(self.shape) % (2 * small.a) - small.a
        rise = rise * self.scale
        images = [x, np.abs(x), -np.abs(x) - 1, 0 * x, rise, -rise]
        probes = [Probe({"x": image}, g) for image in images]
        far = [p for p in POWERS if abs(p) <= (4 if dtype is torch.float16 else 100)]
        probes += [Probe({"x": i}, g, exponents=(p, 0, 0)) for p in far for i in (x, images[2])]
        probes += [Probe({"x": x}, g, exponents=(0, 0, p)) for p in far]
        for value in (0.5, -0.5, *special(list(numbers), dtype)):
            near = value * (1 + x / (8 * small.a * self.scale))
            near = torch.from_numpy(near).to(dtype).double().numpy()
            probes += [Probe({"x": near}, g)]
        for probe in probes:
            with np.errstate(over="ignore", invalid="ignore"):
                twice = [
                    self._held("candidate", probe, dtype, PLAIN, OneProgram(None), {})
                    for _ in range(2)
                ]
            one, two = twice
            if one is not None and two is not None and one.status == two.status == "refuted":
                return two
        return None


def _of_images(seen: Windows, x: Any, g: Any, unit: float) -> dict[str, Any]:
    """What the judge's own windows make of some images; see `_Pair.truth`.

    Values that are closer than `unit` of their size may change places where they are rounded.
    """
    rows, there = seen.entries, seen.entries >= 0
    flat = x.reshape(-1, int(np.prod(seen.size))).astype(np.float64)
    sent = g.reshape(flat.shape[0], -1)
    values = seen.of(flat)
    looked = np.where(there, values[:, rows], -np.inf)
    y = looked.max(-1)
    chosen = np.where(there.any(1), rows[np.arange(len(rows)), looked.argmax(-1)], -1)
    images = np.broadcast_to(np.arange(len(flat))[:, None], chosen.shape)
    heard = chosen >= 0
    found = {}
    for name, of in (("grad", sent), ("size", np.abs(sent))):
        to = np.zeros(values.shape)
        np.add.at(to, (images[heard], chosen[heard]), of[heard])
        found[name] = seen.back(to, flat.shape[1])
    decided = np.ones(flat.shape, bool)
    size = np.where(there, seen.of(np.abs(flat))[:, rows], 0.0).max(-1)
    close = looked >= (y - unit * size)[..., None] if unit else looked == y[..., None]
    image, window = np.nonzero((close & there).sum(-1) > 1)
    for k in range(rows.shape[1]):
        keep = rows[window, k] >= 0
        pixels = rows[window[keep], k][None]
        if seen.values is not None:
            pixels = seen.values[0][pixels[0]].T
        for q in pixels:
            decided[image[keep][q >= 0], q[q >= 0]] = False
    y = np.where(there.any(1), y, seen.nothing)
    return {**found, "y": y, "size_y": size, "decided": decided}


def _moved(probe: Probe) -> str:
    powers = {k: p for k, p in zip("xwg", probe.exponents, strict=True) if p}
    return "".join(f", with {k} times 2^{p}" for k, p in powers.items())
