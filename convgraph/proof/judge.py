"""The proof of one layer: S0, S2(b) and S3 in order, and the record of it.

The verdict is the weakest part's: one refutation refutes, otherwise one undecided part leaves it
undecided. May import the other files of proof and errors.
"""

import platform
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from convgraph.errors import ProofError
from convgraph.proof import draws, precision
from convgraph.proof.certificate import Certificate, Part
from convgraph.proof.identity import Identity, Run, check_identity, check_linear
from convgraph.proof.oracle import Oracle
from convgraph.proof.rounding import HALF, Rounding, check_rounding
from convgraph.proof.spec import ConvSpec
from convgraph.proof.structure import Structure, check_structure

EdgeLists = tuple[Any, Any, Any]
"""Flat source pixels, flat target sites and taps, (E,) integer arrays each."""

Parameters = Mapping[str, torch.Tensor]
"""Name -> parameter of one side."""


def prove_convolution(
    candidate: Run,
    reference: Run,
    spec: ConvSpec,
    *,
    edges: Callable[[], EdgeLists] | None = None,
    parameters: tuple[Parameters, Parameters] | None = None,
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
    oracle = Oracle(spec)
    probe = torch.float64 if dtype in HALF else dtype
    parts: list[Part] = []
    structure = Structure("not asked", 0, reason="the candidate shows no edges")
    if edges is not None:
        source, target, tap = (np.asarray(array, dtype=np.int64) for array in edges())
        structure = check_structure(oracle, source, target, tap)
    parts.append(_structure_part(structure))
    verdicts: list[Any] = [structure]
    if parameters is not None:
        parts.append(_parameters_part(*parameters))
        verdicts.append(Identity(parts[-1].status, 2, reason=parts[-1].facts))
    flags = precision.stated(device)
    plan, identity, rounding = None, Identity("not asked", 3), Rounding("not asked")
    try:
        plan = draws.plan(oracle.terms(), _name(probe), epsilon, seed)
    except ProofError as error:
        if not 0 < epsilon < 1:
            raise
        identity = Identity("undecided", 3, reason=str(error))
    if plan is not None and structure.status != "refuted":
        with precision.plain(device):
            identity = check_identity(
                candidate, reference, oracle, plan, dtype=probe, device=device, progress=progress
            )
            if identity.status == "proven":
                generator = np.random.Generator(np.random.Philox(plan.seed))
                rounding = check_rounding(
                    candidate, reference, oracle, generator, dtype=dtype, device=device
                )
    parts.append(_identity_part(identity, plan, probe))
    parts.append(_rounding_part(rounding))
    return _record(
        name, parts, [*verdicts, identity, rounding], spec.to_dict(), dtype, device, plan, flags,
        rounding, identity,
    )  # fmt: skip


def prove_linear(
    candidate: Run,
    reference: Run,
    shape: tuple[int, ...],
    *,
    terms: int,
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
        terms: the most entries of x that one entry of y adds up, or of g that one of grad_x does.
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
    plan = draws.plan(terms * scale, _name(dtype), epsilon, seed, degree=1)
    flags = precision.stated(device)
    with precision.plain(device):
        identity = check_linear(
            candidate, reference, shape, plan, scale=scale, dtype=dtype, device=device,
            progress=progress,
        )  # fmt: skip
    parts = [_identity_part(identity, plan, dtype)]
    spec = {"shape": list(shape), "terms": terms, "scale": scale}
    return _record(
        name, parts, [identity], spec, dtype, device, plan, flags, Rounding("not asked"), identity
    )


def _record(
    name: str,
    parts: list[Part],
    verdicts: list[Any],
    spec: dict[str, Any],
    dtype: torch.dtype,
    device: torch.device | str,
    plan: draws.Plan | None,
    flags: dict[str, str],
    rounding: Rounding,
    identity: Identity,
) -> Certificate:
    verdict, reason = "proven", ""
    for wanted in ("refuted", "undecided"):
        found = [v for v in verdicts if v.status == wanted]
        if found:
            verdict, reason = wanted, found[0].reason
            break
    return Certificate(
        name=name,
        verdict=verdict,
        reason=reason,
        parts=tuple(parts),
        spec=spec,
        dtype=_name(dtype),
        device=_device(device),
        seed=plan.seed if plan else 0,
        a=plan.a if plan else 0,
        trials=plan.trials if plan else 0,
        log2_epsilon=plan.log2_epsilon if plan else 0.0,
        epsilon=plan.epsilon if plan else 0.0,
        kind="linear" if "terms" in spec else "convolution",
        rho=rounding.rho,
        rho_exact=rounding.rho_exact,
        counterexample=identity.counterexample,
        versions={
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        flags=flags,
    )


def _structure_part(found: Structure) -> Part:
    if found.status == "proven":
        return Part("S0 structure", "proven", f"{found.edges} typed edges, every one")
    return Part("S0 structure", found.status, found.reason)


def _parameters_part(one: Parameters, two: Parameters) -> Part:
    for name in sorted({*one, *two}):
        if (
            name not in one
            or name not in two
            or not torch.equal(one[name], two[name].to(one[name]))
        ):
            return Part(
                "parameters",
                "refuted",
                f"{name!r} differs; copy it first, e.g. with load_state_dict",
            )
    return Part("parameters", "proven", f"{', '.join(sorted(one))}: equal bit for bit")


def _identity_part(found: Identity, plan: draws.Plan | None, dtype: torch.dtype) -> Part:
    if found.status != "proven" or plan is None:
        return Part("S2 identity", found.status, found.reason)
    ways = "candidate, reference and integer oracle" if found.ways == 3 else "two ways, no oracle"
    return Part(
        "S2 identity",
        "proven",
        f"{ways}, bit for bit; {plan.trials} trials in [-{plan.a}, {plan.a}], {_name(dtype)}, "
        f"epsilon <= 2^{plan.log2_epsilon:.0f}; {found.compared} entries",
    )


def _rounding_part(found: Rounding) -> Part:
    if found.status != "proven":
        return Part("S3 rounding", found.status, found.reason)
    worst = max(found.rho.values(), default=0.0)
    exact = max(found.rho_exact.values(), default=None) if found.rho_exact else None
    held = f"largest error / bound {worst:.2g} against the reference"
    if exact is None:
        return Part("S3 rounding", "proven", f"{held}; none finer: {found.reference}")
    if found.reason:
        held = f"{found.reason}; the candidate's largest error / bound is"
        return Part("S3 rounding", "proven", f"{held} {exact:.2g}")
    return Part("S3 rounding", "proven", f"{held}, {exact:.2g} against {found.reference}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _device(device: torch.device | str) -> str:
    where = torch.device(device)
    if where.type == "cuda":
        return f"{where} ({torch.cuda.get_device_name(where)})"
    return str(where)
