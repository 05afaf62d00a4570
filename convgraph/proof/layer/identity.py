"""S2(b), identity: equal for every x, w, b and g, up to a probability that is computed.

Forward and backward of a convolution are contractions of one multilinear form,

    T(x, w, b, g) = sum over (q,p,t), o, c of g[p,o] w[o,c,t] x[q,c] + sum over p, o of g[p,o] b[o],

so if two implementations differ at all they differ as nonzero polynomials, and random integers
show it. Candidate, reference and the oracle are compared bit for bit in y, grad_x, grad_w and
grad_b: three ways, because two can share a fault.

Receives callables and never learns who computes.
"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from convgraph.proof.draws import Budget
from convgraph.proof.equation.oracle import Oracle
from convgraph.proof.layer.one_program import OneProgram
from convgraph.proof.layer.own_parameters import OwnParameters
from convgraph.proof.layer.premise import source_lines
from convgraph.proof.layer.trial import (
    BETWEEN,
    COPIED,
    FROZEN,
    INNER,
    MANNERS,
    OWN,
    PLAIN,
    OtherwiseError,
    Probe,
    Run,
    evaluate,
    frozen_in,
    in_words,
    lightest,
    manners_of,
)
from convgraph.proof.layer.trial import draw as _draw
from convgraph.proof.layer.trial import truth as _truth
from convgraph.proof.roundoff import dot_bound

NOT_ITSELF = "the reference is not what its own integers say"
NO_ROOM = (
    "half types have no room for integers, which are probed in float64; cast to the dtype of the "
    "image instead, as in .to(x.dtype)"
)


@final
@dataclass(frozen=True)
class Identity:
    """The verdict of the probes.

    Attributes:
        status: "proven", "refuted" or "undecided".
        ways: how many sides were compared: 3 with an oracle, 2 without.
        compared: entries compared over all trials.
        reason: what differs, or why nothing could be said.
        counterexample: quantity, index and the numbers of each side; empty if none.
    """

    status: str
    ways: int
    compared: int = 0
    reason: str = ""
    counterexample: dict[str, Any] = field(default_factory=dict)


def check_identity(
    candidate: Run,
    reference: Run,
    oracle: Oracle,
    budget: Budget,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    second: bool = False,
    exact: bool = True,
    program: OneProgram | None = None,
    twice: OneProgram | None = None,
    own: OwnParameters | None = None,
    doubted: bool = False,
    progress: bool = False,
) -> Identity:
    """Probe a convolution against its dense reference and the oracle.

    Args:
        candidate: f(x, w, b) -> y; the accused.
        reference: f(x, w, b) -> y; the dense operator.
        oracle: of the spec that both claim to be.
        budget: how the integers are drawn.
        dtype: in which both run, float64 or float32.
        device: where both run.
        second: also probe one derivative up, see `probe`; `budget` must leave room for it.
        exact: whether the candidate is known to compute on integers without rounding. Otherwise a
            difference refutes only if it is larger than rounding explains.
        program: holds the candidate's trials against what S1 followed.
        twice: the same of trials that go one derivative up.
        own: the candidate as a module with parameters of its own.
        doubted: whether the reference is held against the oracle before anybody is accused.
        progress: show a bar, one step a trial.

    Returns:
        "refuted" with a counterexample at the first difference; "undecided" when there is nothing
        to compare, when most of what was compared is zero, or when a side raised.
    """
    spec = oracle.spec
    live = oracle.targets & (oracle.in_degree() > 0)
    if not live.any() or not np.prod(spec.x_shape) * np.prod(spec.w_shape):
        return Identity("undecided", 3, reason="there is nothing to compare: no output hears any")
    everywhere, heard = bool(live.all()), _site_mask(live, oracle)
    programs = (program or OneProgram(None), twice or OneProgram(None))
    judge = _Judge(oracle, dtype, device, exact, programs)
    unsure: Identity | None = None
    for trial, (probe, truth) in enumerate(_probes(oracle, budget, second, progress)):
        y = truth["y"] if everywhere else truth["y"][heard]
        if np.count_nonzero(y != 0) * 2 < y.size:
            return Identity(
                "undecided", 3, judge.compared, "most of the outputs compared are zero; a sum of "
                "random integers should not be"
            )  # fmt: skip
        if doubted and not trial:
            found = judge.holds("reference", reference, probe, truth, PLAIN)
            if found is not None:
                reason = f"{NOT_ITSELF}: {found.reason}"
                return replace(found, status="undecided", reason=reason, counterexample={})
        manners = manners_of(trial, budget.trials, probe.sent)
        if second and (not trial or not {*manners} & {*MANNERS}):
            manners.append(PLAIN)  # no other manner has second derivatives
        answers = [judge.holds("candidate", candidate, probe, truth, how) for how in manners]
        if second and not trial:  # those that have none are held against it
            once = replace(probe, up={})
            answers.append(judge.holds("candidate", candidate, once, truth, PLAIN))
        if own is not None and trial == min(1, budget.trials - 1):
            answers.append(judge.holds_own(own, probe, truth))
        answers.append(judge.holds("reference", reference, probe, truth, PLAIN))
        for found in answers:
            if found is not None and found.status == "refuted":
                return at_trial(found, trial)
        unsure = unsure or next((found for found in answers if found is not None), None)
        if unsure is not None and trial > 2 * len(MANNERS):  # every manner was looked at
            break
    return unsure or Identity("proven", 3, judge.compared)


@final
class _Judge:
    """Holds one trial of one side against the truth; None where it agrees."""

    def __init__(
        self,
        oracle: Oracle,
        dtype: torch.dtype,
        device: torch.device | str,
        exact: bool,
        programs: tuple[OneProgram, OneProgram],
    ) -> None:
        self.oracle, self.dtype, self.device, self.exact = oracle, dtype, device, exact
        self.programs, self.compared = programs, 0
        self.reuse: dict[str, Tensor] = {}

    def holds(
        self, name: str, run: Run, probe: Probe, truth: dict[str, Any], manner: str
    ) -> Identity | None:
        """One call."""
        mine = name == "candidate"
        reuse = self.reuse if mine else None
        if manner == BETWEEN or manner.startswith(FROZEN):
            probe, reuse = replace(probe, up={}), None
        how: dict[str, Any] = {
            "run": run,
            "probe": probe,
            "dtype": self.dtype,
            "device": self.device,
        }
        try:
            if mine:
                program = self.programs[bool(probe.up)]
                found = program.called(**how, manner=manner, reuse=reuse)
            else:
                found = [(manner, evaluate(**how))]
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a side raises is what is reported
            return Identity("undecided", 3, self.compared, raised(name, error))
        return worst(self.compares(name, each, probe, truth, one) for one, each in found)

    def holds_own(self, own: OwnParameters, probe: Probe, truth: dict[str, Any]) -> Identity | None:
        """The candidate with parameters of its own, and the gradients that it leaves in them."""
        probe = replace(probe, up={})
        try:
            found = self.programs[0].called_with_its_own(own, probe, self.dtype, self.device)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - likewise
            return Identity("undecided", 3, self.compared, raised("candidate", error))
        return self.compares("candidate", found, probe, truth, OWN)

    def compares(
        self,
        name: str,
        found: dict[str, Tensor | None] | str,
        probe: Probe,
        truth: dict[str, Any],
        manner: str,
    ) -> Identity | None:
        """What came back, quantity by quantity."""
        how = in_words(manner)
        if isinstance(found, str):
            lacks = lacking(found, truth["y"], probe.scale("y"))
            return refuted(name, "y", lacks, 3, self.compared, manner, how)
        left_out = {f"grad_{name}" for name in frozen_in(manner)}
        for quantity, expected in truth.items():
            second = quantity.startswith("double")
            if quantity in left_out or (second and not probe.up):
                continue
            if manner == OWN and quantity not in found:  # no parameter that anybody trains
                continue
            other = _differs(found.get(quantity), expected, self.dtype, probe.scale(quantity))
            if other is not None and not self.exact and "problem" not in other:
                other = self._beyond_rounding(quantity, found, expected, probe)
                if other is None:
                    return Identity(
                        "undecided", 3, self.compared, f"the {name}'s {quantity} is not the exact "
                        "integer, and no further from it than its own rounding explains: integers "
                        "cannot tell"
                    )  # fmt: skip
            if other is not None:
                return refuted(name, quantity, other, 3, self.compared, manner, how)
            self.compared += expected.size
        return None

    def _beyond_rounding(
        self, quantity: str, found: dict[str, Tensor | None], expected: Any, probe: Probe
    ) -> dict[str, Any] | None:
        """The first entry further from the truth than a sum that rounds may be, or None."""
        sizes = replace(
            probe,
            sent={k: np.abs(v) for k, v in probe.sent.items()},
            g=np.abs(probe.g),
            up={k: np.abs(v) for k, v in probe.up.items()},
        )
        terms = self.oracle.terms() * 2
        size = _truth(self.oracle, lightest(sizes, terms))[quantity].astype(np.float64)
        got: Any = found[quantity]
        exact = expected.astype(np.float64) * probe.scale(quantity)
        gap = np.abs(got.double().cpu().numpy() - exact)
        over = ~(gap <= dot_bound(terms, self.dtype, size * probe.scale(quantity)))
        return entry(got.cpu().numpy(), exact, over)


def worst(answers: Iterable[Identity | None]) -> Identity | None:
    """The first refutation of several calls, or else what is open; None where all agree."""
    others = [found for found in answers if found is not None]
    bad = [found for found in others if found.status == "refuted"]
    return next(iter([*bad, *others]), None)


def at_trial(found: Identity, trial: int) -> Identity:
    """Say in a counterexample, if there is one, which trial shows it: one call can do so again."""
    shown = found.counterexample
    return replace(found, counterexample={**shown, "trial": trial}) if shown else found


def held_against(
    found: dict[str, Tensor | None] | str,
    truth: dict[str, Any],
    probe: Probe,
    dtype: torch.dtype,
    manner: str,
    how: str = "",
) -> Identity | None:
    """The refutation that one trial of the candidate on integers comes to, or None."""
    if isinstance(found, str):
        lacks = lacking(found, truth["y"], probe.scale("y"))
        return refuted("candidate", "y", lacks, 3, 0, manner, how)
    for quantity, expected in truth.items():
        other = _differs(found.get(quantity), expected, dtype, probe.scale(quantity))
        if other is not None:
            powers = ", ".join(
                f"{name} times 2^{power}"
                for name, power in zip("xwg", probe.exponents, strict=True)
                if power
            )
            how += f", on integers with {powers}" if powers else ""
            return refuted("candidate", quantity, other, 3, 0, manner, how)
    return None


def raised(name: str, error: BaseException) -> str:
    """Say that a side raised, and what."""
    text = " ".join(str(error).split())
    if isinstance(error, OtherwiseError):
        return f"the {name} {text}"
    where = source_lines.of_error(error)
    words = f"the {name} raised {type(error).__name__}: {text[:300]}"
    return f"{words} ({where})" if where else words


def _probes(
    oracle: Oracle, budget: Budget, second: bool, progress: bool
) -> Iterator[tuple[Probe, dict[str, Any]]]:
    """Every trial with its truth; the oracle works on the next while both sides run this one.

    On one core that would only cost what is kept near it.

    Each trial has a generator of its own, so that what is drawn does not depend on who is first.
    """
    generators = budget.generators()

    def work(trial: int) -> tuple[Probe, dict[str, Any]]:
        probe = _draw(budget, oracle, generators[trial], trial, second)
        probe = lightest(probe, budget.terms)  # once for the oracle and for both sides
        return probe, _truth(oracle, probe)

    trials = range(budget.trials)
    shown = track(trials, description="probing") if progress else trials
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) == 1:
        yield from map(work, shown)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="oracle") as pool:
        coming = pool.submit(work, 0)
        for trial in shown:
            now = coming.result()
            if trial + 1 < budget.trials:
                coming = pool.submit(work, trial + 1)
            yield now


def _site_mask(live: Any, oracle: Oracle) -> Any:
    """(B, C, *out) bool from flat sites."""
    image = live.reshape(oracle.y_shape[0], 1, *oracle.out_size)
    return np.broadcast_to(image, oracle.y_shape)


def _differs(
    found: Tensor | None, expected: Any, dtype: torch.dtype, scale: float = 1.0
) -> dict[str, Any] | None:
    """The first entry that differs, or None; `scale` is a power of two that found carries."""
    if found is None:
        return lacking("has no gradient", expected, scale)
    if tuple(found.shape) != expected.shape or found.dtype != dtype:
        text = f"has shape {tuple(found.shape)} and dtype {found.dtype}"
        return lacking(text, expected, scale)
    # Exact: the integers fit the mantissa on both sides; a power of two moves the exponent only.
    got, want = found.cpu().numpy(), expected
    if scale != 1 or want.dtype != got.dtype:
        want = np.multiply(expected, scale, dtype=got.dtype, casting="unsafe")
    gap = got != want
    return entry(got, expected.astype(np.float64) * scale, gap) if gap.any() else None


def lacking(problem: str, expected: Any, scale: float = 1.0) -> dict[str, Any]:
    """What came back is no such tensor: in words, and an entry that it was to have."""
    exact = np.asarray(expected, dtype=np.float64) * scale
    if not exact.size:
        return {"problem": problem}
    at = tuple(int(i) for i in np.unravel_index(int((exact != 0).argmax()), exact.shape))
    return {"problem": problem, "at": at, "expected": float(exact[at])}


def entry(found: Any, expected: Any, wrong: Any) -> dict[str, Any] | None:
    """The first entry that is wrong, with both numbers."""
    if not wrong.any():
        return None
    at = tuple(int(i) for i in np.argwhere(wrong)[0])
    return {
        "index": at,
        "found": float(found[at]),
        "expected": float(expected[at]),
        "wrong": int(wrong.sum()),
        "of": int(wrong.size),
    }


def refuted(
    name: str,
    quantity: str,
    other: dict[str, Any],
    ways: int,
    compared: int,
    manner: str = PLAIN,
    how: str = "",
) -> Identity:
    """The refutation by one entry, in words and as a counterexample.

    Undecided where one tensor alone was a view: no verifier calls so again.
    """
    if "problem" in other:
        who = f"the {name}'s {quantity}" if quantity != "y" else f"the {name}"
        reason = f"{who} {other['problem']}{how}"
        if "at" in other:
            reason += f"; {quantity}{list(other['at'])} is to be {other['expected']!r}"
    else:
        reason = (
            f"the {name}'s {quantity}{list(other['index'])} is {other['found']!r}, exactly it is "
            f"{other['expected']!r} ({other['wrong']} of {other['of']} entries differ){how}"
        )
    if manner.startswith(f"{INNER} "):
        return Identity("undecided", ways, compared, reason)
    counterexample = {"side": name, "quantity": quantity, **other}
    if manner != PLAIN:
        counterexample["manner"] = INNER if manner == COPIED else manner
    return Identity("refuted", ways, compared, reason, counterexample)
