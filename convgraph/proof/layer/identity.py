"""S2(b), identity: equal for every x, w, b and g, up to a probability that is computed.

Forward and backward of a convolution are contractions of one multilinear form,

    T(x, w, b, g) = sum over (q,p,t), o, c of g[p,o] w[o,c,t] x[q,c] + sum over p, o of g[p,o] b[o],

so if two implementations differ at all they differ as nonzero polynomials, and random integers
show it. Candidate, reference and the oracle are compared bit for bit in y, grad_x, grad_w and
grad_b: three ways, because two can share a fault.

Receives callables and never learns who computes.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from convgraph.errors import ProofError
from convgraph.proof.draws import Plan
from convgraph.proof.equation.oracle import Oracle
from convgraph.proof.layer.trial import Probe, Run
from convgraph.proof.layer.trial import draw as _draw
from convgraph.proof.layer.trial import evaluate as _run
from convgraph.proof.layer.trial import truth as _truth


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
    plan: Plan,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    second: bool = False,
    progress: bool = False,
) -> Identity:
    """Probe a convolution against its dense reference and the oracle.

    Args:
        candidate: f(x, w, b) -> y; the accused.
        reference: f(x, w, b) -> y; the dense operator.
        oracle: of the spec that both claim to be.
        plan: how the integers are drawn.
        dtype: in which both run, float64 or float32.
        device: where both run.
        second: also probe one derivative up, see `probe`; `plan` must leave room for it.
        progress: show a bar, one step a trial.

    Returns:
        "refuted" with a counterexample at the first difference; "undecided" when there is nothing
        to compare, or when most of what was compared is zero.
    """
    spec = oracle.spec
    live = oracle.targets & (oracle.in_degree() > 0)
    if not live.any() or not np.prod(spec.x_shape) * np.prod(spec.w_shape):
        return Identity("undecided", 3, reason="there is nothing to compare: no output hears any")
    everywhere, heard = bool(live.all()), _site_mask(live, oracle)
    compared = 0
    for probe, truth in _probes(oracle, plan, second, progress):
        y = truth["y"] if everywhere else truth["y"][heard]
        if np.count_nonzero(y) * 2 < y.size:
            return Identity(
                "undecided", 3, compared, "most of the outputs compared are zero; a sum of random "
                "integers should not be"
            )  # fmt: skip
        for name, run in (("candidate", candidate), ("reference", reference)):
            found = _run(run, probe, dtype, device)
            if isinstance(found, str):
                return Identity("refuted", 3, compared, f"the {name} {found}")
            for quantity, expected in truth.items():
                other = _differs(found.get(quantity), expected, dtype, probe.scale(quantity))
                if other is not None:
                    return _refuted(name, quantity, other, 3, compared)
                compared += expected.size
    return Identity("proven", 3, compared)


def check_linear(
    candidate: Run,
    reference: Run,
    shape: tuple[int, ...],
    plan: Plan,
    *,
    scale: int = 1,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Identity:
    """Probe y = L x, an operator without parameters, against its dense reference: y and grad_x.

    Args:
        candidate: f(x) -> y.
        reference: f(x) -> y.
        shape: of x.
        plan: how the integers are drawn, with degree 1.
        scale: every entry of x and g is a multiple of it, so that fixed weights k / scale stay
            integers.
        dtype: float64 or float32.
        device: where both run.
        progress: show a bar.
    """
    compared = 0
    for generator in _steps(plan, progress):
        x = plan.draw(generator, shape) * scale
        outputs = []
        for run in (candidate, reference):
            with torch.no_grad():
                outputs.append(run(torch.from_numpy(x).to(device, dtype)))
        if outputs[1].numel() == 0:
            return Identity("undecided", 2, reason="there is nothing to compare")
        g = plan.draw(generator, tuple(outputs[1].shape)) * scale
        probe = Probe({"x": x}, g)
        truth = _run(reference, probe, dtype, device)
        if isinstance(truth, str):
            raise ProofError(f"the reference {truth}")
        found = _run(candidate, probe, dtype, device)
        if isinstance(found, str):
            return Identity("refuted", 2, compared, f"the candidate {found}")
        if int(torch.count_nonzero(_tensor(truth["y"]))) * 2 < outputs[1].numel():
            return Identity("undecided", 2, compared, "most of the outputs compared are zero")
        for quantity in ("y", "grad_x"):
            expected = _tensor(truth[quantity]).double().cpu().numpy()
            other = _differs(found[quantity], expected, dtype)
            if other is not None:
                return _refuted("candidate", quantity, other, 2, compared)
            compared += expected.size
    return Identity("proven", 2, compared)


def _probes(
    oracle: Oracle, plan: Plan, second: bool, progress: bool
) -> Iterator[tuple[Probe, dict[str, Any]]]:
    """Every trial with its truth; the oracle works on the next while both sides run this one.

    Each trial has a generator of its own, so that what is drawn does not depend on who is first.
    """
    generators = plan.generators()

    def work(trial: int) -> tuple[Probe, dict[str, Any]]:
        probe = _draw(plan, oracle, generators[trial], trial, second)
        return probe, _truth(oracle, probe, plan.terms)

    trials = range(plan.trials)
    with ThreadPoolExecutor(1, thread_name_prefix="oracle") as pool:
        coming = pool.submit(work, 0)
        for trial in track(trials, description="probing") if progress else trials:
            now = coming.result()
            if trial + 1 < plan.trials:
                coming = pool.submit(work, trial + 1)
            yield now


def _steps(plan: Plan, progress: bool) -> Iterator[np.random.Generator]:
    generators = plan.generators()
    return iter(track(generators, description="probing") if progress else generators)


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise ProofError("a tensor that must be there is missing")
    return value


def _site_mask(live: Any, oracle: Oracle) -> Any:
    """(B, C, *out) bool from flat sites."""
    image = live.reshape(oracle.y_shape[0], 1, *oracle.out_size)
    return np.broadcast_to(image, oracle.y_shape)


def _differs(
    found: Tensor | None, expected: Any, dtype: torch.dtype, scale: float = 1.0
) -> dict[str, Any] | None:
    """The first entry that differs, or None; `scale` is a power of two that found carries."""
    if found is None:
        return {"problem": "has no gradient"}
    if tuple(found.shape) != expected.shape or found.dtype != dtype:
        return {"problem": f"has shape {tuple(found.shape)} and dtype {found.dtype}"}
    # Exact: the integers fit the mantissa on both sides; a power of two moves the exponent only.
    got = found.cpu().numpy()
    gap = got != np.multiply(expected, scale, dtype=got.dtype, casting="unsafe")
    if not gap.any():
        return None
    at = tuple(int(i) for i in np.argwhere(gap)[0])
    return {
        "index": at,
        "found": float(found[at]),
        "expected": float(expected[at]) * scale,
        "wrong": int(gap.sum()),
        "of": int(gap.size),
    }


def _refuted(name: str, quantity: str, other: dict[str, Any], ways: int, compared: int) -> Identity:
    if "problem" in other:
        reason = f"the {name}'s {quantity} {other['problem']}"
    else:
        reason = (
            f"the {name}'s {quantity}{list(other['index'])} is {other['found']:g}, exactly it is "
            f"{other['expected']:g} ({other['wrong']} of {other['of']} entries differ)"
        )
    counterexample = {"side": name, "quantity": quantity, **other}
    return Identity("refuted", ways, compared, reason, counterexample)
