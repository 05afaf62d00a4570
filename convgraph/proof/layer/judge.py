"""The proof of one layer: S0 to S3 in order, a cause if it is refuted, and the record of it.

The verdict is the weakest part's: one refutation refutes, otherwise one undecided part leaves it
undecided.
"""

import json
import math
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from convgraph.errors import ProofError
from convgraph.proof import draws, precision
from convgraph.proof.equation.oracle import Oracle
from convgraph.proof.equation.spec import ConvSpec
from convgraph.proof.layer.basis import CALLS, calls, check_basis, smallest
from convgraph.proof.layer.identity import Identity, check_identity, check_linear
from convgraph.proof.layer.parts import (
    Parameters,
    dtype_name,
    identity_part,
    parameters_part,
    premise_part,
    record,
    rounding_part,
    structure_part,
    taken_for_granted,
)
from convgraph.proof.layer.premise.check import Premise, check_premise
from convgraph.proof.layer.rounding import TF32_CONDITION, Rounding, check_rounding, conditional
from convgraph.proof.layer.structure import Structure, check_structure
from convgraph.proof.layer.trial import Run
from convgraph.proof.record.certificate import Certificate, Part
from convgraph.proof.refutation.shrink import explain_refutation
from convgraph.proof.roundoff import HALF

EdgeLists = tuple[Any, ...]
"""Flat source pixels, flat target sites and taps, (E,) integer arrays each; perhaps weights."""

Pair = Callable[[ConvSpec], tuple[Run, Run]]
"""Builds candidate and reference for another spec of the same kind."""

IDENTITIES = ("auto", "deterministic", "probabilistic")


def prove_convolution(
    candidate: Run,
    reference: Run,
    spec: ConvSpec,
    *,
    edges: Callable[[], EdgeLists] | None = None,
    parameters: tuple[Parameters, Parameters] | None = None,
    premise: bool = True,
    trust: Collection[str] = (),
    identity: str = "auto",
    small: Pair | None = None,
    second: bool = False,
    explain: bool = True,
    assumed: tuple[str, ...] = (),
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    epsilon: float = draws.EPSILON,
    seed: int | None = None,
    progress: bool = False,
    name: str = "convolution",
) -> Certificate:
    """Prove that two implementations are the convolution that a spec describes.

    Args:
        candidate: f(x, w, b) -> y on images (B, C_in, *size) and weights in torch's layout;
            differentiable. The accused.
        reference: the same for the dense operator.
        spec: the integers of the operator.
        edges: returns the candidate's typed edges, for S0; None if it has none to show.
        parameters: of both sides by name; if they are given and differ in a bit, the two hold
            different functions, whatever their operators are, and the verdict says so.
        premise: follow the candidate's operators (S1); without it they are assumed multilinear.
        trust: custom operators ("ns::op") and autograd functions (by class name) of the candidate
            that are taken as multilinear, and named in the record.
        identity: "probabilistic" probes the geometry itself; "deterministic" also goes through
            every basis pair of a small one; "auto" does so where that takes few calls.
        small: returns both sides for a smaller spec of the same kind, without masks. None: "auto"
            leaves the basis out, and "deterministic" hands the smaller images to those given.
        second: also probe one derivative up.
        explain: shrink a refutation to the smallest case and look for its cause.
        assumed: what the caller takes for granted, for the record.
        dtype: in which both compute. Integers are probed in it for float64 and float32, in float64
            for half types, which have no room for them.
        device: where both compute.
        epsilon: the most that a wrong "proven" may be probable.
        seed: replays a recorded run.
        progress: show a progress bar.
        name: of the candidate, for the record.

    Returns:
        A Certificate.

    Raises:
        ProofError: the spec describes no operator, or epsilon is no probability.

    Example:
        >>> import torch.nn.functional as F
        >>> spec = ConvSpec(1, 2, (3, 3), (5, 5))
        >>> flipped = lambda x, w, b: F.conv2d(x, w.flip(-1), b)
        >>> prove_convolution(F.conv2d, F.conv2d, spec).verdict
        'proven'
        >>> prove_convolution(flipped, F.conv2d, spec).verdict
        'refuted'
    """
    if identity not in IDENTITIES:
        raise ProofError(f"expected identity in {IDENTITIES}, got {identity!r}")
    oracle = Oracle(spec)
    # Half types have no room for integers, nor has float32 for integers with weights.
    probe = torch.float64 if dtype in HALF or oracle.scale > 1 else dtype
    parts: list[Part] = []
    structure = Structure("not asked", 0, reason="the candidate shows no edges")
    if edges is not None:
        shown = edges()
        source, target, tap = (np.asarray(array, dtype=np.int64) for array in shown[:3])
        structure = check_structure(oracle, source, target, tap, *shown[3:])
    parts.append(structure_part(structure))
    verdicts: list[Any] = [structure]
    if parameters is not None:
        parts.append(parameters_part(*parameters))
        verdicts.append(Identity(parts[-1].status, 2, reason=parts[-1].facts))
    flags = precision.stated(device)
    plan, probed, rounding = None, Identity("not asked", 3), Rounding("not asked")
    under: list[Rounding] = []
    basis, followed = Identity("not asked", 3), Premise("not asked")
    if premise:
        shapes = {"x": spec.x_shape, "w": spec.w_shape}
        bias = (spec.out_channels,) if spec.bias else None
        with precision.plain(device):
            followed = check_premise(
                candidate, {**shapes, "b": bias}, dtype=probe, device=device, trust=trust,
                second=second,
            )  # fmt: skip
    place = len(parts)
    try:
        # One derivative up, two contractions and a cotangent add up in one entry. An implementation
        # that adds up more on the way needs the room for it.
        needed = oracle.terms() * (1 + second) * oracle.scale
        if followed.status == "proven":
            needed = max(needed, followed.terms * oracle.scale)
        plan = draws.plan(needed, dtype_name(probe), epsilon, seed)
    except ProofError as error:
        if not 0 < epsilon < 1:
            raise
        probed = Identity("undecided", 3, reason=str(error))
    try:
        with precision.plain(device):
            if structure.status != "refuted":
                basis = _basis(candidate, reference, spec, identity, small, probe, device)
            if plan is not None and structure.status != "refuted":
                probed = check_identity(
                    candidate, reference, oracle, plan, dtype=probe, device=device, second=second,
                    progress=progress,
                )  # fmt: skip
                if probed.status == "proven" and basis.status == "refuted":
                    # Luck, or zeros in memory that nobody wrote: not what a proof rests on.
                    text = f"equal in {plan.trials} trials, but not on the basis"
                    probed = replace(probed, status="undecided", reason=text)
                if probed.status == "proven":
                    generator = np.random.Generator(np.random.Philox(plan.seed))
                    rounding = check_rounding(
                        candidate, reference, oracle, generator, dtype=dtype, device=device
                    )
    except RuntimeError as error:
        if not followed.late:
            raise
        text = f"one side raised {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        probed = Identity("undecided", 3, reason=text)
    if rounding.status == "proven" and dtype == torch.float32 and precision.allows_tf32(device):
        assert plan is not None  # nothing was probed without
        generator = np.random.Generator(np.random.Philox(plan.seed))
        with precision.plain(device, ieee=False):
            found_under = check_rounding(
                candidate, reference, oracle, generator, dtype=dtype, device=device, tf32=True
            )
        under.append(conditional(found_under))
        assumed = (*assumed, TF32_CONDITION)
    parts.append(Part("S2 basis", basis.status, basis.reason))
    parts.append(identity_part(probed, plan, probe, second=second))
    parts.append(rounding_part(rounding))
    parts += [rounding_part(found, "S3 under TF32") for found in under]
    followed = followed.afterwards()
    parts.insert(place, premise_part(followed))
    # The premise comes last: where two parts refute, a counterexample says more.
    verdicts += [basis, probed, rounding, *under, followed]
    found = record(
        name, parts, verdicts, spec.to_dict(), dtype, device, plan, flags, rounding, probed,
        (*taken_for_granted(followed), *assumed),
    )  # fmt: skip
    found = replace(found, trace=followed.trace)
    if found.verdict == "refuted" and followed.late:  # a smaller case would be another state
        return replace(found, cause=f"{followed.reason} ({followed.line})")
    if found.verdict == "refuted" and explain and (parameters is None or probed.status != "proven"):
        return _explained(found, candidate, reference, spec, edges, probe, device)
    return found


def _explained(
    found: Certificate,
    candidate: Run,
    reference: Run,
    spec: ConvSpec,
    edges: Callable[[], EdgeLists] | None,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Certificate:
    """Add the smallest case and the likely cause, where random integers show one."""
    with precision.plain(device):
        case = explain_refutation(
            candidate, reference, spec, edges=edges, dtype=dtype, device=device
        )
    if case is None:
        return found
    smallest_case = json.loads(json.dumps(case.to_dict()))
    return replace(
        found,
        cause=case.cause,
        counterexample={**found.counterexample, "smallest": smallest_case},
    )


def _basis(
    candidate: Run,
    reference: Run,
    spec: ConvSpec,
    identity: str,
    small: Pair | None,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Identity:
    """S2(a) where it was asked for, or where it is cheap."""
    if identity == "probabilistic":
        return Identity("not asked", 3)
    if spec.space is not None:
        return Identity("not asked", 3, reason="a space has no small geometry of the same kind")
    if small is None and identity == "auto":
        return Identity("not asked", 3, reason="no smaller geometry of the same kind was given")
    little = smallest(spec)
    many = calls(little)
    if identity == "auto" and many > CALLS:
        return Identity("not asked", 3, reason=f"it would take {many} calls; S2 probes instead")
    one, two = (candidate, reference) if small is None else small(little)
    found = check_basis(one, two, little, dtype=dtype, device=device)
    if found.status != "proven":
        return found
    facts = f"{many} calls at size {little.size}, {found.compared} entries, nothing left to chance"
    return replace(found, reason=facts)


def prove_linear(
    candidate: Run,
    reference: Run,
    shape: tuple[int, ...],
    *,
    terms: int | None = None,
    scale: int = 1,
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
            None for all of one image.
        scale: L has entries k / scale with integers k <= scale (a 2 x 2 average: 4).
        dtype: float64 or float32.
        device: where both compute.
        epsilon: the most that a wrong "proven" may be probable.
        seed: replays a recorded run.
        progress: show a progress bar.
        name: of the candidate.

    Raises:
        ProofError: a half type was asked for, or the numbers leave no room for integers.

    Example:
        >>> import torch.nn.functional as F
        >>> pool = lambda x: F.avg_pool2d(x, 2)
        >>> prove_linear(pool, pool, (2, 3, 4, 4), terms=4, scale=4).verdict
        'proven'
    """
    if dtype in HALF:
        raise ProofError("prove_linear: half types have no room for integers; use float64")
    with precision.plain(device), torch.no_grad():
        out = tuple(reference(torch.zeros(shape, dtype=dtype, device=device)).shape)
    terms = max(math.prod(shape[1:]), math.prod(out[1:])) if terms is None else terms
    plan = draws.plan(terms * scale, dtype_name(dtype), epsilon, seed, degree=1)
    flags = precision.stated(device)
    with precision.plain(device):
        identity = check_linear(
            candidate, reference, shape, plan, scale=scale, dtype=dtype, device=device,
            progress=progress,
        )  # fmt: skip
    parts = [identity_part(identity, plan, dtype)]
    spec = {"shape": list(shape), "out": list(out), "terms": terms, "scale": scale}
    return record(
        name, parts, [identity], spec, dtype, device, plan, flags, Rounding("not asked"), identity
    )
