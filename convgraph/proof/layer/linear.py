"""The proof of an operator without parameters: y = L x with fixed entries k / scale.

There is no oracle, so two ways are compared. The rest is as for a convolution: the candidate is
followed (y in {x}, grad_x in {g}), its sums are counted on multiples of `scale` and held against
the reference's, integers show y and grad_x bit for bit, and real numbers lie within

    |y_hat - y| <= n u |L| |x| + n eta

with |L| |x| from the reference, followed on magnitudes. A maximum is no linear operator.
"""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from convgraph.door import door
from convgraph.errors import ProofError
from convgraph.proof import draws, precision
from convgraph.proof.layer.direct import Direct, check_direct
from convgraph.proof.layer.identity import (
    Identity,
    at_trial,
    entry,
    held_against,
    raised,
    refuted,
    worst,
)
from convgraph.proof.layer.one_program import OneProgram
from convgraph.proof.layer.other_manners import apart_without_proof
from convgraph.proof.layer.premise.check import Premise, check_premise
from convgraph.proof.layer.rounding import Rounding, spread_of
from convgraph.proof.layer.showing import special
from convgraph.proof.layer.to_record import (
    Parameters,
    dtype_name,
    identity_part,
    parameters_part,
    premise_part,
    record,
    rounding_part,
    taken_for_granted,
)
from convgraph.proof.layer.trial import (
    EXPONENTS,
    HANDS_ON,
    MANNERS,
    PLAIN,
    Probe,
    Run,
    evaluate,
    frozen_in,
    hands_on,
    in_words,
    manners_of,
)
from convgraph.proof.record.certificate import Certificate
from convgraph.proof.roundoff import HALF, dot_bound, unit_roundoff
from convgraph.proof.surroundings import COMPILERS

Shape = tuple[int, ...]
FAR = {torch.float32: 60, torch.float64: 400}
"""How far numbers are moved up and down where a refusal looks for one that shows it."""

NOT_LINEAR = (
    "the reference itself is no linear operator ({}), so that numbers which agree say nothing of "
    "others; inside a network cg.prove(network, dense, images) compares it node by node"
)


@door
def prove_linear(
    candidate: Run,
    reference: Run,
    shape: Shape,
    *,
    terms: int | None = None,
    scale: int = 1,
    parameters: Parameters | None = None,
    premise: bool = True,
    trust: Collection[str] = (),
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    epsilon: float = draws.EPSILON,
    seed: int | None = None,
    progress: bool = False,
    name: str = "linear operator",
) -> Certificate:
    """Prove that two operators without parameters are the same linear function y = L x.

    There is no oracle: two ways are compared, y and grad_x, and the record says so.

    Args:
        candidate: f(x) -> y.
        reference: f(x) -> y.
        shape: of x, at least two images.
        terms: the most entries of x that one entry of y adds up, or of g that one of grad_x does;
            None for what S1 counts, or for all of one image where it cannot.
        scale: L has entries k / scale with integers k <= scale (a 2 x 2 average: 4).
        parameters: what the candidate trains, and the reference has not; it is then undecided.
        premise: follow the candidate's operators (S1); without it they are assumed linear.
        trust: custom operators and autograd functions that are taken as linear, and named.
        dtype: float64 or float32.
        device: where both compute.
        epsilon: the most that a wrong "proven" may be probable.
        seed: replays a recorded run.
        progress: show a progress bar.
        name: of the candidate.

    Raises:
        ProofError: a half type was asked for, the reference returns no tensor, or the numbers leave
            no room for integers.

    Example:
        >>> import torch.nn.functional as F
        >>> pool = lambda x: F.avg_pool2d(x, 2)
        >>> prove_linear(pool, pool, (2, 3, 4, 4), terms=4, scale=4).verdict
        'proven'
    """
    if dtype in HALF:
        raise ProofError("prove_linear: half types have no room for integers; use float64")
    draws.check_room(shape)
    flags = precision.stated(device)
    with precision.plain(device):
        out, shared = _made_of(reference, shape, dtype, device)
        how: dict[str, Any] = {"dtype": dtype, "device": device, "scale": scale}
        followed, known = Premise("not asked"), Premise("not asked")
        if premise:
            followed = check_premise(candidate, {"x": shape}, trust=trust, **how)
            known = check_premise(reference, {"x": shape}, **how)
        whole = max(math.prod(shape[1:]), math.prod(out[1:])) if terms is None else terms
        counted = [-(-p.terms // scale) for p in (followed, known) if p.status == "proven"]
        n = max(counted) if len(counted) == 2 and terms is None else max(counted, default=whole)
        n = max(n, 1 if terms is None else terms)
        budget = draws.budget(n * scale, dtype_name(dtype), epsilon, seed, degree=1)
        pair = _Pair(candidate, reference, shape, out, scale, n, dtype, device)
        pair.size_of = _sizes(reference, known, how)
        pair.chooses, pair.hands_on = known.status == "refuted", shared
        follows = followed.status == "proven" and not followed.compiled
        program = OneProgram(followed if follows else None, trust)
        identity = pair.identity(
            budget, program, followed.status in ("proven", "not asked"), progress
        )
        rounding = Rounding("not asked")
        if identity.status == "proven":
            rounding = pair.rounding(budget, program)
        if known.status == "refuted" and followed.status in ("refuted", "undecided"):
            followed = replace(followed, status="undecided", reason=NOT_LINEAR.format(known.reason))
        sums = {q: t.double().cpu().numpy() for q, t in known.sums.items()}

        def summed(found: Premise) -> Direct:
            if known.status != "proven":
                return Direct("not asked")
            return check_direct(found, sums, n, dtype, beside=known.finest)

        direct, other = summed(followed), ""
        if followed.status == "proven" and not parameters:  # theirs would be other gradients
            other = apart_without_proof(
                program,
                partial(check_premise, candidate, {"x": shape}, trust=trust, **how),
                summed,
            )
        followed, shown = _settled(followed, identity, rounding, program, other, pair, budget)
    parts = [
        *([parameters_part(parameters, {}, same=False)] if parameters else []),
        *([premise_part(followed, program.held)] if followed.status != "not asked" else []),
        identity_part(identity, budget, dtype),
        rounding_part(rounding, direct=direct),
    ]
    spec = {"shape": list(shape), "out": list(out), "terms": n, "scale": scale}
    found = record(
        name, parts, spec, dtype, device, budget, flags, rounding,
        identity.counterexample or shown.counterexample, taken_for_granted(followed),
    )  # fmt: skip
    return replace(found, trace=followed.trace)


def _made_of(
    reference: Run, shape: Shape, dtype: torch.dtype, device: torch.device | str
) -> tuple[Shape, bool]:
    """The shape of what the reference returns, and whether that is memory of its image."""
    x = torch.zeros(shape, dtype=dtype, device=device)
    try:
        with torch.no_grad():
            y = reference(x)
    except (Exception, SystemExit) as error:
        raise ProofError(f"prove: {raised('reference', error)}") from error
    if not isinstance(y, Tensor):
        raise ProofError(f"prove: the reference returned {type(y).__name__}, not a tensor")
    return tuple(y.shape), hands_on(y, x)


def _sizes(
    reference: Run, known: Premise, how: dict[str, Any]
) -> Callable[[Any, Any], dict[str, Any] | None]:
    """Return what gives |L| |x| and |L|' |g|; None where the reference cannot be followed."""

    def of(x: Any, g: Any) -> dict[str, Any] | None:
        if known.status != "proven":
            return None
        entries = {"x": torch.from_numpy(np.abs(x)), "g": torch.from_numpy(np.abs(g))}
        found = check_premise(reference, {"x": tuple(x.shape)}, entries=entries, **how)
        if {*found.sums} != {"y", "grad_x"}:
            return None
        terms = min(known.terms, max(x.size, g.size))
        grown = 1 + 4 * terms * unit_roundoff(how["dtype"])  # these sums were rounded too
        return {q: t.double().cpu().numpy() * grown for q, t in found.sums.items()}

    return of


def _settled(
    followed: Premise,
    identity: Identity,
    rounding: Rounding,
    program: OneProgram,
    other: str,
    pair: "_Pair",
    budget: draws.Budget,
) -> tuple[Premise, Identity]:
    nothing = Identity("not asked", 2)
    followed = followed.afterwards()
    other = program.difference or other
    if followed.status in ("proven", "not asked") and other:
        return replace(followed, status="undecided", reason=other), nothing
    if followed.status == "proven" and followed.compiled and COMPILERS not in program.trust:
        reason = f"something is compiled; trust=({COMPILERS!r},) takes compilers for granted"
        return replace(followed, status="undecided", reason=reason), nothing
    if followed.status != "refuted" or "refuted" in (identity.status, rounding.status):
        return followed, nothing
    shown = pair.show(budget, followed.numbers)
    if shown is not None:
        return replace(followed, reason=f"{followed.reason}: {shown.reason}"), shown
    reason = f"{followed.reason}; no input was found on which that makes a difference"
    return replace(followed, status="undecided", reason=reason), nothing


class _Pair:
    """Both sides on one set of shapes."""

    size_of: Callable[[Any, Any], dict[str, Any] | None]
    chooses = False
    """Whether the reference is not linear: its gradient then hangs on which number is larger."""
    hands_on = False
    """Whether the reference returns memory of the image that it is sent."""

    def __init__(
        self,
        candidate: Run,
        reference: Run,
        shape: Shape,
        out: Shape,
        scale: int,
        terms: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self.candidate, self.reference, self.shape, self.out = candidate, reference, shape, out
        self.scale, self.terms, self.dtype, self.device = scale, terms, dtype, device

    def truth(self, probe: Probe) -> dict[str, Any] | str:
        """What the reference makes of a probe, unscaled."""
        found = evaluate(self.reference, probe, self.dtype, self.device)
        if isinstance(found, str):
            return found
        return {
            q: None if t is None else t.double().cpu().numpy() / probe.scale(q)
            for q, t in found.items()
        }

    def identity(
        self, budget: draws.Budget, program: OneProgram, exact: bool, progress: bool
    ) -> Identity:
        """Integers, bit for bit; called in every manner."""
        compared, reuse = 0, dict[str, Tensor]()
        unsure: Identity | None = None
        if not math.prod(self.out):
            return Identity("undecided", 2, reason="there is nothing to compare")
        generators = budget.generators()
        steps: Iterator[Any] = iter(
            track(generators, description="probing") if progress else generators
        )
        for trial, generator in enumerate(steps):
            x, g = (budget.draw(generator, s) * self.scale for s in (self.shape, self.out))
            moved, _, back = EXPONENTS[trial % len(EXPONENTS)]
            probe = Probe({"x": x}, g, exponents=(moved, 0, back))
            truth = self.truth(probe)
            if isinstance(truth, str):
                return Identity("undecided", 2, compared, f"the reference {truth}")
            if truth["grad_x"] is None:
                return Identity("undecided", 2, compared, "the reference has no gradient")
            if self.chooses and (np.unique(x).size < x.size or 0 in x):
                del truth["grad_x"]  # between equal numbers, and at a kink, either choice is right
            if np.count_nonzero(truth["y"]) * 2 < truth["y"].size:
                return Identity("undecided", 2, compared, "most of the outputs compared are zero")
            manners = manners_of(trial, budget.trials, "x")
            for manner in manners:
                other = self._called(probe, truth, manner, reuse, program, exact)
                if other is not None and other.status == "refuted":
                    return replace(at_trial(other, trial), ways=2, compared=compared)
                unsure = unsure or other
            compared += len(manners) * sum(v.size for v in truth.values())
            if unsure is not None and trial > 2 * len(MANNERS):  # every manner was looked at
                break
        found = unsure or Identity("proven", 2)
        return replace(found, ways=2, compared=compared)

    def _called(
        self,
        probe: Probe,
        truth: dict[str, Any],
        manner: str,
        reuse: dict[str, Tensor],
        program: OneProgram,
        exact: bool,
    ) -> Identity | None:
        """One call of the candidate held against the reference's; None where it agrees."""
        kept = reuse if manner in MANNERS else None
        try:
            found = program.called(
                self.candidate, probe, self.dtype, self.device, manner, kept
            )  # fmt: skip
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a side raises is what is reported
            return Identity("undecided", 2, reason=raised("candidate", error))
        return worst(self._compared(each, probe, truth, one, reuse, exact) for one, each in found)

    def _compared(
        self,
        found: dict[str, Tensor | None] | str,
        probe: Probe,
        truth: dict[str, Any],
        manner: str,
        reuse: dict[str, Tensor],
        exact: bool,
    ) -> Identity | None:
        """What came back of one call held against the reference's; None where it agrees."""
        if frozen_in(manner):
            truth = {"y": truth["y"]}
        other = held_against(found, truth, probe, self.dtype, manner, in_words(manner))
        rounds = other is not None and not exact and other.counterexample.get("index")
        if rounds and self._beyond(found, truth, probe) is None:
            return Identity(
                "undecided", 2, reason="the candidate's integers are off by no more than its own "
                "rounding explains: integers cannot tell"
            )  # fmt: skip
        if other is None and manner == PLAIN and not self.hands_on:
            y: Any = found
            if hands_on(y["y"], reuse["x"]):
                return Identity("undecided", 2, reason=HANDS_ON)
        return other

    def rounding(self, budget: draws.Budget, program: OneProgram) -> Rounding:
        """Real numbers within twice the bound, normal ones and of spread size."""
        generator = np.random.Generator(np.random.Philox(budget.seed))
        rho: dict[str, float] = {}
        for spread in (0, spread_of(self.dtype)):
            sent = []
            for shape in (self.shape, self.out):
                value = generator.standard_normal(shape)
                if spread:
                    value *= 2.0 ** generator.integers(-spread, spread, size=shape, endpoint=True)
                sent.append(torch.from_numpy(value).to(self.dtype).double().numpy())
            probe = Probe({"x": sent[0]}, sent[1])
            sizes, truth = self.size_of(*sent), self.truth(probe)
            if sizes is None or isinstance(truth, str):
                return Rounding("undecided", reason="the reference cannot be followed: no bound")
            try:
                with program.holding() as enter:
                    found: Any = evaluate(
                        self.candidate, probe, self.dtype, self.device, enter=enter
                    )
                    program.came_back(found)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - likewise
                return Rounding("undecided", reason=raised("candidate", error))
            for quantity, want in truth.items():
                have = found[quantity].double().cpu().numpy()
                limit = 2 * dot_bound(self.terms, self.dtype, sizes[quantity])
                if not np.isfinite(limit).all():
                    reason = f"n u >= 1: the bound of {quantity} says nothing for so long sums"
                    return Rounding("undecided", reason=reason)
                with np.errstate(divide="ignore", invalid="ignore"):
                    ratio = np.where(have == want, 0.0, np.abs(have - want) / limit)
                worst = np.maximum(rho.get(quantity, 0.0), ratio.max(initial=0.0))
                rho[quantity] = float(worst)  # NaN stays NaN, where `max` would lose it
                if not rho[quantity] <= 1:
                    at = tuple(int(i) for i in np.unravel_index(int(ratio.argmax()), ratio.shape))
                    return Rounding(
                        "refuted", rho, reason=f"the candidate's {quantity} is {ratio[at]:.3g} "
                        f"times its bound away from the reference: {list(at)} is "
                        f"{float(have[at])!r}, not {float(want[at])!r}"
                    )  # fmt: skip
        return Rounding("proven", rho, reference="there is no oracle")

    def show(self, budget: draws.Budget, numbers: Collection[float]) -> Identity | None:
        """An input on which the candidate differs, found twice; None where none was found."""
        small = replace(budget, a=min(budget.a, 1000))
        generator = budget.generators()[0]
        x, g = (small.draw(generator, s) * self.scale for s in (self.shape, self.out))
        powers = [p for p in (4, 16, 40, 60, 100, 200, 400) if p <= FAR[self.dtype]]
        moved = [(s * p, 0, 0) for p in powers for s in (1, -1)]
        moved += [(0, 0, s * p) for p in powers for s in (1, -1)]
        probes = [Probe({"x": image}, g) for image in (np.abs(x), -np.abs(x), 0 * x)]
        probes += [Probe({"x": x}, g, exponents=e) for e in moved]
        ones = np.ones(self.shape), np.ones(self.out)
        probes += [
            Probe({"x": v * ones[0]}, h * ones[1])
            for v in (0.5, -0.5, *special(list(numbers), self.dtype))
            for h in (1.0, v)
        ]
        for probe in probes:
            truth = self.truth(probe)
            if isinstance(truth, str):
                continue
            for _ in range(2):
                try:
                    found = evaluate(self.candidate, probe, self.dtype, self.device)
                except (Exception, SystemExit):  # noqa: BLE001 - it raises on some inputs, which is no number
                    other = None
                    break
                other = self._beyond(found, truth, probe)
                if other is None:
                    break
            if other is not None:
                return other
        return None

    def _beyond(self, found: Any, truth: dict[str, Any], probe: Probe) -> Identity | None:
        """A difference that rounding does not explain."""
        if isinstance(found, str):
            return None
        sizes = self.size_of(probe.sent["x"].astype(float), probe.g.astype(float))
        for quantity, want in truth.items():
            if found.get(quantity) is None or want is None:
                continue
            by = probe.scale(quantity)
            have, exact = found[quantity].double().cpu().numpy(), want * by
            size = np.abs(exact) if sizes is None else sizes[quantity] * by
            limit = 2 * dot_bound(self.terms, self.dtype, size)
            other = entry(have, exact, np.isfinite(have) & (np.abs(have - exact) > limit))
            if other is not None:
                moved = {k: p for k, p in zip("xwg", probe.exponents, strict=True) if p}
                how = "".join(f", with {k} times 2^{p}" for k, p in moved.items())
                return refuted("candidate", quantity, other, 2, 0, PLAIN, how)
        return None
