"""What each part of a proof says in one line, and the record that they make together."""

import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from convgraph.proof import draws
from convgraph.proof.layer.identity import Identity
from convgraph.proof.layer.premise.check import Premise
from convgraph.proof.layer.rounding import Rounding
from convgraph.proof.layer.structure import Structure
from convgraph.proof.record.certificate import ASSUMED_VENDOR, Certificate, Part

Parameters = Mapping[str, torch.Tensor]
"""Name -> parameter of one side."""


def taken_for_granted(followed: Premise) -> tuple[str, ...]:
    """What the proof takes for granted, by what was followed."""
    if followed.status != "proven":
        return (ASSUMED_VENDOR,)
    kernels = ", ".join(followed.assumed)
    return (
        "the reference's operators are multilinear in x, w, b and g",
        *([f"the candidate's {kernels}: multilinear, not looked into"] if kernels else []),
    )


def record(
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
    assumed: tuple[str, ...] = (ASSUMED_VENDOR,),
) -> Certificate:
    """Put the parts together; the verdict is the weakest part's."""
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
        dtype=dtype_name(dtype),
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
        assumed=assumed,
    )


def structure_part(found: Structure) -> Part:
    """S0 in a line."""
    if found.status == "proven":
        return Part("S0 structure", "proven", f"{found.edges} typed edges, every one")
    return Part("S0 structure", found.status, found.reason)


def premise_part(found: Premise) -> Part:
    """S1 in a line."""
    if found.status != "proven":
        where = f" ({found.line})" if found.line else ""
        return Part("S1 premise", found.status, f"{found.reason}{where}")
    degrees = ", ".join(f"{name} in {{{', '.join(d)}}}" for name, d in found.degrees.items())
    return Part("S1 premise", "proven", f"{found.operators} operators followed: {degrees}")


def parameters_part(one: Parameters, two: Parameters) -> Part:
    """Whether both sides hold the same numbers."""
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


def identity_part(
    found: Identity, plan: draws.Plan | None, dtype: torch.dtype, *, second: bool = False
) -> Part:
    """S2(b) in a line."""
    if found.status != "proven" or plan is None:
        return Part("S2 identity", found.status, found.reason)
    ways = "candidate, reference and integer oracle" if found.ways == 3 else "two ways, no oracle"
    orders = "y, gradients and their gradients" if second else "y and gradients"
    return Part(
        "S2 identity",
        "proven",
        f"{orders}: {ways}, bit for bit; {plan.trials} trials in [-{plan.a}, {plan.a}], "
        f"{dtype_name(dtype)}, "
        f"epsilon <= 2^{plan.log2_epsilon:.0f}; {found.compared} entries",
    )


def rounding_part(found: Rounding, name: str = "S3 rounding") -> Part:
    """S3 in a line."""
    if found.status != "proven":
        return Part(name, found.status, found.reason)
    worst = max(found.rho.values(), default=0.0)
    exact = max(found.rho_exact.values(), default=None) if found.rho_exact else None
    held = f"largest error / bound {worst:.2g} against the reference"
    if exact is None:
        return Part(name, "proven", f"{held}; none finer: {found.reference}")
    if found.reason:
        held = f"{found.reason}; the candidate's largest error / bound is"
        return Part(name, "proven", f"{held} {exact:.2g}")
    return Part(name, "proven", f"{held}, {exact:.2g} against {found.reference}")


def dtype_name(dtype: torch.dtype) -> str:
    """The name without its module."""
    return str(dtype).removeprefix("torch.")


def _device(device: torch.device | str) -> str:
    where = torch.device(device)
    if where.type == "cuda":
        return f"{where} ({torch.cuda.get_device_name(where)})"
    return str(where)
