"""What each part of a proof says in one line, and the record that they make together."""

import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from convgraph.proof import draws
from convgraph.proof.layer.direct import Direct
from convgraph.proof.layer.identity import Identity
from convgraph.proof.layer.premise.check import Premise
from convgraph.proof.layer.rounding import Rounding
from convgraph.proof.layer.structure import Structure
from convgraph.proof.record.certificate import (
    ASSUMED_VENDOR,
    NO_SECOND,
    NOT_COVERED,
    Certificate,
    Part,
)

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


RAISED = "the candidate raised "


def record(
    name: str,
    parts: list[Part],
    spec: dict[str, Any],
    dtype: torch.dtype,
    device: torch.device | str,
    budget: draws.Budget | None,
    flags: dict[str, str],
    rounding: Rounding,
    counterexample: dict[str, Any],
    assumed: tuple[str, ...] = (ASSUMED_VENDOR,),
    *,
    second: bool = False,
) -> Certificate:
    """Put the parts together; the verdict is the weakest part's, and the reason is what it says.

    Where several refute, the premise comes last: what it says is shown by the others' numbers.
    Where several cannot decide it comes first: the others often cannot for its reason. What the
    candidate raised by itself comes before all.
    """
    verdict, reason = "proven", ""
    for wanted in ("refuted", "undecided"):
        found = [part for part in parts if part.status == wanted]
        if found:
            last = wanted == "refuted"
            found.sort(key=lambda part: (part.name == "S1 premise") == last)
            found.sort(key=lambda part: not part.facts.startswith(RAISED))
            verdict, reason = wanted, found[0].facts
            break
    return Certificate(
        name=name,
        verdict=verdict,
        reason=reason,
        parts=tuple(parts),
        spec=spec,
        dtype=dtype_name(dtype),
        device=_device(device),
        seed=budget.seed if budget else 0,
        a=budget.a if budget else 0,
        trials=budget.trials if budget else 0,
        log2_epsilon=budget.log2_epsilon if budget else 0.0,
        epsilon=budget.epsilon if budget else 0.0,
        kind="linear" if "terms" in spec else "convolution",
        rho=rounding.rho,
        rho_exact=rounding.rho_exact,
        counterexample=counterexample,
        versions={
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        flags=flags,
        assumed=assumed,
        not_covered=NOT_COVERED if second else (*NOT_COVERED, NO_SECOND),
    )


def structure_part(found: Structure) -> Part:
    """S0 in a line."""
    if found.status == "proven":
        facts = f"{found.edges} typed edges, every one"
        if found.square is not None:
            facts += "; locally square at {} of {} sites".format(*found.square)
        return Part("S0 structure", "proven", facts)
    return Part("S0 structure", found.status, found.reason)


def premise_part(found: Premise, held: int = 0) -> Part:
    """S1 in a line.

    Args:
        found: the premise.
        held: plain runs that were the same program.
    """
    if found.status != "proven":
        where = f" ({found.line})" if found.line else ""
        return Part("S1 premise", found.status, f"{found.reason}{where}")
    degrees = ", ".join(f"{name} in {{{', '.join(d)}}}" for name, d in found.degrees.items())
    again = f", the same in {held} plain runs" if held else ""
    return Part("S1 premise", "proven", f"{found.operators} operators followed{again}: {degrees}")


def parameters_part(one: Parameters, two: Parameters, *, same: bool) -> Part:
    """Whether both sides hold the same numbers.

    Args:
        one: of the candidate.
        two: of the reference.
        same: whether both are proven the same function of their parameters. Then one number that
            differs is shown by an image of one pixel, on which nothing rounds; otherwise a
            function may be the same with other numbers.
    """
    name = "parameters"
    for key in sorted({*one, *two}):
        if key not in one or key not in two:
            side = "reference" if key in two else "candidate"
            return Part(name, "undecided", f"{key!r} is a parameter of the {side} alone")
        a, b = one[key].detach(), two[key].detach()
        if a.shape != b.shape:
            shapes = f"{tuple(a.shape)} against {tuple(b.shape)}"
            return Part(name, "undecided", f"{key!r} has another shape: {shapes}")
        apart = (a != b.to(a)) & ~(a.isnan() & b.to(a).isnan())  # a NaN is itself
        if bool(apart.any()):
            at = tuple(int(i) for i in apart.nonzero()[0])
            facts = (
                f"{key!r} differs: {list(at)} is {float(a[at])!r}, not {float(b[at])!r}; copy it "
                "first, e.g. with load_state_dict"
            )
            return Part(name, "refuted" if same else "undecided", facts)
        if one[key].requires_grad != two[key].requires_grad:
            return Part(
                name, "undecided", f"{key!r} is trained on one side and frozen on the other"
            )
    if facts := _overlap(one):
        return Part(name, "undecided", facts)
    return Part(name, "proven", f"{', '.join(sorted(one))}: equal bit for bit")


def _overlap(held: Parameters) -> str:
    """Say which parameters share memory, so that a step on one moves the other."""
    places = {}
    for name, value in held.items():
        if value.numel() and value.layout == torch.strided:
            first = value.data_ptr()
            sizes = zip(value.shape, value.stride(), strict=True)
            length = 1 + sum((n - 1) * step for n, step in sizes)
            places[name] = first, first + length * value.element_size()
    for name, (first, last) in places.items():
        for other, (start, end) in places.items():
            if name < other and first < end and start < last:
                return f"{name!r} and {other!r} share memory: a step on one moves the other"
    return ""


def identity_part(
    found: Identity, budget: draws.Budget | None, dtype: torch.dtype, *, second: bool = False
) -> Part:
    """S2(b) in a line."""
    if found.status != "proven" or budget is None:
        return Part("S2 identity", found.status, found.reason)
    ways = "candidate, reference and integer oracle" if found.ways == 3 else "two ways, no oracle"
    orders = "y, gradients and their gradients" if second else "y and gradients"
    return Part(
        "S2 identity",
        "proven",
        f"{orders}: {ways}, bit for bit; {budget.trials} trials in [-{budget.a}, {budget.a}], "
        f"{dtype_name(dtype)}, "
        f"epsilon <= 2^{budget.log2_epsilon:.0f}; {found.compared} entries",
    )


def rounding_part(
    found: Rounding, name: str = "S3 rounding", *, direct: Direct | None = None
) -> Part:
    """S3 in a line; a program that is no direct sum has no bound."""
    if found.status == "proven" and direct is not None and direct.status == "undecided":
        return Part(name, direct.status, direct.reason)
    if found.status != "proven":
        return Part(name, found.status, found.reason)
    worst = max(found.rho.values(), default=0.0)
    exact = max(found.rho_exact.values(), default=None) if found.rho_exact else None
    said = _sum_in_words(direct)
    held = f"{said}largest error / bound {worst:.2g} against the reference"
    if exact is None:
        return Part(name, "proven", f"{held}; none finer: {found.reference}")
    if found.reason:
        held = f"{said}{found.reason}; the candidate's largest error / bound is"
        return Part(name, "proven", f"{held} {exact:.2g}")
    return Part(name, "proven", f"{held}, {exact:.2g} against {found.reference}")


def _sum_in_words(direct: Direct | None) -> str:
    """What is known of a program's sums, before the figures."""
    if direct is None or direct.status != "proven":
        return ""
    if not direct.shrunk:
        return "a direct sum; "
    more = f"2^{direct.shrunk}"
    return (
        f"a direct sum through numbers {more} times smaller: on all data n and eta of its bound "
        f"are {more} times those of the figures; "
    )


def dtype_name(dtype: torch.dtype) -> str:
    """The name without its module."""
    return str(dtype).removeprefix("torch.")


def _device(device: torch.device | str) -> str:
    where = torch.device(device)
    if where.type == "cuda":
        return f"{where} ({torch.cuda.get_device_name(where)})"
    return str(where)
