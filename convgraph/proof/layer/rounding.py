"""S3, rounding: how far a correct computation may be off, derived and never picked.

For any order of summation under round-to-nearest,

    |y_hat - y| <= n u (|w| * |x| + |b|) + n eta

per entry: n products (one more with a bias), u the unit roundoff, eta the smallest subnormal
number, which covers underflow. Two correct computations differ by at most twice that. Gradients are
contractions of the same form with their own n. Half types are summed in float32 and rounded once,
which adds u_half |y|.

Source: C.-P. Jeannerod and S. M. Rump, "Improved error bounds for inner products in floating-point
arithmetic", SIAM J. Matrix Anal. Appl. 34(2), 2013.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from convgraph.door import door
from convgraph.errors import ProofError
from convgraph.proof.equation.oracle import Oracle
from convgraph.proof.equation.spec import ConvSpec
from convgraph.proof.layer.identity import raised
from convgraph.proof.layer.one_program import OneProgram
from convgraph.proof.layer.trial import Run
from convgraph.proof.roundoff import HALF, LONG_LIMIT, dot_bound, unit_roundoff

Array = npt.NDArray[Any]

TF32_CONDITION = (
    "S3 under TF32, which was on outside of the proof: operands of float32 products are rounded to "
    "the nearest number of 11 bits, and products are summed in float32"
)
MEASURED_ONLY = "measured only"
"""Status of a conditional bound that torch's own kernel exceeds; nothing follows from it."""


@final
@dataclass(frozen=True)
class Bounds:
    """Per entry, the most by which a correct computation can be off the exact value.

    Attributes:
        y: (B, C_out, *out) float64; grad_x, grad_w, grad_b likewise in their own shapes.
    """

    y: Array
    grad_x: Array
    grad_w: Array
    grad_b: Array | None


@door
def bounds(
    oracle: Oracle,
    x: Array,
    w: Array,
    b: Array | None,
    g: Array,
    dtype: torch.dtype,
    *,
    tf32: bool = False,
    within: bool = False,
) -> Bounds:
    """Derive the bounds of one convolution and its gradients from absolute values.

    Args:
        oracle: of the spec.
        x: (B, C_in, *size), as the implementation sees it, rounded to dtype.
        w: in torch's layout.
        b: (C_out,) or None.
        g: (B, C_out, *out), the gradient that comes in.
        dtype: in which the implementation computes.
        tf32: whether its products take operands of 11 bits; see `dot_bound`.
        within: whether half types are summed in themselves.
    """
    spec = oracle.spec
    ax, aw, ag = (np.abs(np.asarray(v, dtype=np.float64)) for v in (x, w, g))
    ab = None if b is None else np.abs(np.asarray(b, dtype=np.float64))
    per_in, per_out = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    heard = oracle.in_degree().reshape(spec.batch, 1, *oracle.out_size) * per_in + spec.bias
    said = oracle.out_degree().reshape(spec.batch, 1, *spec.size) * per_out
    per_tap = np.diff(oracle.edges.ptr).reshape(1, 1, *spec.kernel_size)
    # A share of a source rounds once more as it is taken, and once more where shares are added.
    more = 2 * (oracle.scale > 1)
    heard, said, per_tap = heard + more, said + more, per_tap + more
    return Bounds(
        dot_bound(heard, dtype, oracle.convolve(ax, aw, ab), tf32=tf32, within=within),
        dot_bound(said, dtype, oracle.grad_x(aw, ag), tf32=tf32, within=within),
        dot_bound(per_tap, dtype, oracle.grad_w(ax, ag), tf32=tf32, within=within),
        None
        if b is None
        else dot_bound(int(oracle.targets.sum()), dtype, oracle.grad_b(ag), within=within),
    )


@final
@dataclass(frozen=True)
class Rounding:
    """The verdict on real-valued data.

    Attributes:
        status: "proven", "refuted" or "undecided".
        rho: largest error / bound of candidate against reference, per quantity.
        rho_exact: the same of the candidate against a computation of higher precision.
        reference: what that computation was, or why there was none.
        reason: what exceeds its bound, or why nothing could be said; on "proven", whether the
            reference itself exceeds its own (then only the finer computation was a judge).
    """

    status: str
    rho: dict[str, float] = field(default_factory=dict)
    rho_exact: dict[str, float] = field(default_factory=dict)
    reference: str = ""
    reason: str = ""


def check_rounding(
    candidate: Run,
    reference: Run,
    oracle: Oracle,
    generator: np.random.Generator,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    tf32: bool = False,
    program: OneProgram | None = None,
) -> Rounding:
    """Hold both sides against their derived bounds on normal data, and on data of spread size.

    Args:
        candidate: f(x, w, b) -> y.
        reference: f(x, w, b) -> y.
        oracle: of the spec.
        generator: where the data come from.
        dtype: float64, float32, bfloat16 or float16.
        device: where both run.
        tf32: whether the flags say that float32 products take operands of 11 bits; the verdict is
            then conditional on what `dot_bound` says of them, and names it.
        program: holds the candidate's run against what S1 followed.

    Returns:
        "refuted" if an error exceeds its bound, a bound of 0 demanding an error of 0.
    """
    found: list[Rounding] = []
    for spread in (0, spread_of(dtype)):
        found.append(
            _on(
                candidate, reference, oracle, drawn(generator, oracle, dtype, spread), dtype,
                device, tf32, program or OneProgram(None),
            )
        )  # fmt: skip
        if found[-1].status != "proven":
            return found[-1]
    one, two = found
    return replace(
        two,
        rho={name: max(value, two.rho[name]) for name, value in one.rho.items()},
        rho_exact={name: max(value, two.rho_exact[name]) for name, value in one.rho_exact.items()},
        reason=one.reason or two.reason,
    )


def spread_of(dtype: torch.dtype) -> int:
    """Return s, where numbers of spread size are normal ones times 2^-s ... 2^s.

    Sums of products of three of them stay far from the ends of the range.

    Example:
        >>> spread_of(torch.float32), spread_of(torch.float16)
        (20, 2)
    """
    return min(20, int(np.log2(torch.finfo(dtype).max)) // 6)


def drawn(
    generator: np.random.Generator, oracle: Oracle, dtype: torch.dtype, spread: int
) -> list[Tensor]:
    """Draw x, w, b if there is one, and g."""
    spec = oracle.spec
    shapes = [spec.x_shape, spec.w_shape, *([(spec.out_channels,)] * spec.bias), oracle.y_shape]
    found = []
    for shape in shapes:
        value = generator.standard_normal(shape)
        if spread:
            powers = generator.integers(-spread, spread, size=shape, endpoint=True)
            value = np.ldexp(value, powers)
        found.append(torch.from_numpy(value).to(dtype))
    return found


def _on(
    candidate: Run,
    reference: Run,
    oracle: Oracle,
    tensors: list[Tensor],
    dtype: torch.dtype,
    device: torch.device | str,
    tf32: bool,
    program: OneProgram,
) -> Rounding:
    """Hold both sides on one set of data."""
    spec = oracle.spec
    arrays = [t.double().numpy() for t in tensors]
    x, w, g = arrays[0], arrays[1], arrays[-1]
    b = arrays[2] if spec.bias else None
    limit = bounds(oracle, x, w, b, g, dtype, tf32=tf32)
    if vacuous := [name for name, bound in vars(limit).items() if not _says(bound)]:
        reason = f"n u >= 1: the bound of {vacuous[0]} says nothing for so long sums"
        return Rounding("undecided", reason=reason)
    sides = []
    for name, run in (("candidate", candidate), ("reference", reference)):
        try:
            with program.holding() if name == "candidate" else nullcontext(_as_it_is) as enter:
                made = _evaluate(run, tensors, spec, device, enter)
                if name == "candidate":
                    program.came_back(made)
            if made["y"].dtype != dtype:
                return _of_another_dtype(name, made["y"], dtype)
            sides.append({k: v.to_dense().double().cpu().numpy() for k, v in made.items()})
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a side raises is what is reported
            return Rounding("undecided", reason=raised(name, error))
    exact, name, fineness = exactly(oracle, x, w, b, g, dtype)
    slack = slack_of(fineness, dtype)
    if tf32:
        name += "; under TF32, if operands are rounded to nearest and summed in float32"
    wide = bounds(oracle, x, w, b, g, dtype, within=True) if dtype in HALF else limit

    def _adds_in_half(found: Array, exact: Array, quantity: str) -> bool:
        return bool((_off(found, exact) <= getattr(wide, quantity)).all())

    rho: dict[str, float] = {}
    rho_exact: dict[str, float] = {}
    refuted, undecided, outside = "", "", ""
    for quantity, (found, other) in _paired(sides[0], sides[1]).items():
        bound = getattr(limit, quantity)
        if (lost := np.isinf(found) & np.isfinite(other)).any():
            at = [int(i) for i in np.argwhere(lost)[0]]
            undecided = undecided or (
                f"the candidate's {quantity} overflows on the way: {at} is {found[tuple(at)]!r}, "
                f"not {other[tuple(at)]!r}; such data are not covered, and no others were looked at"
            )
            found = np.where(lost, other, found)
        rho[quantity] = _ratio(found, other, bound) / 2
        vendor = 0.0
        if quantity in exact:
            rho_exact[quantity] = _ratio(found, exact[quantity], bound) / slack
            vendor = _ratio(other, exact[quantity], bound) / slack
        if not vendor <= 1:
            # The bound stands; what exceeds it is an algorithm that it does not describe.
            outside = outside or (
                f"the reference's own {quantity} is {vendor:.3g} times its bound away from {name}: "
                f"its kernel does not sum {str(dtype)[6:]} as the bound assumes"
            )
        own = rho_exact.get(quantity, 0.0)
        if not own <= 1:
            say = f"the candidate's {quantity} is {own:.3g} times its bound away from {name}"
            say += furthest(found, exact[quantity], bound)
            if vendor <= 1 and dtype in HALF and _adds_in_half(found, exact[quantity], quantity):
                undecided = undecided or f"{say}; it may be summed in {str(dtype)[6:]} itself"
            elif vendor <= 1:
                refuted = refuted or say
            else:
                undecided = undecided or f"{say}, as is the reference's ({vendor:.3g})"
        elif vendor <= 1 and not rho[quantity] <= 1:
            refuted = refuted or (
                f"the candidate's {quantity} is {rho[quantity]:.3g} times its bound away from the "
                f"reference{furthest(found, other, 2 * bound)}"
            )
    status = "refuted" if refuted else "undecided" if undecided else "proven"
    return Rounding(status, rho, rho_exact, name, refuted or undecided or outside)


def slack_of(fineness: float, dtype: torch.dtype) -> float:
    """A finer reference has its own error, smaller by the ratio of the unit roundoffs."""
    return 1 + 2 * fineness / unit_roundoff(torch.float32 if dtype in HALF else dtype)


def _of_another_dtype(name: str, y: Tensor, dtype: torch.dtype) -> Rounding:
    """Half types are probed in a wider one: whoever casts to that returns it here too."""
    reason = f"the {name} returns y of dtype {y.dtype}, expected {dtype}; cast what comes out"
    return Rounding("undecided", reason=reason)


def furthest(found: Array, exact: Array, bound: Any) -> str:
    """The entry that is furthest over its bound, in numbers."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.nan_to_num(_off(found, exact) / np.broadcast_to(bound, found.shape), nan=np.inf)
    at = tuple(int(i) for i in np.unravel_index(int(ratio.argmax()), ratio.shape))
    return f": {list(at)} is {float(found[at])!r}, not {float(exact[at])!r}"


def conditional(found: Rounding) -> Rounding:
    """What a verdict under TF32 comes to, where its condition need not hold.

    Args:
        found: "refuted" becomes "undecided", for the candidate's kernel may round its operands
            otherwise; "undecided", where torch's own kernel does, becomes "measured only".
    """
    if found.status == "refuted":
        reason = f"{found.reason}; or its kernel rounds operands otherwise"
        return replace(found, status="undecided", reason=reason)
    return replace(found, status=MEASURED_ONLY) if found.status == "undecided" else found


def _says(bound: Array | None) -> bool:
    return bound is None or bool(np.isfinite(bound).all())


def _off(found: Array, exact: Array) -> Array:
    gap: Array = found.astype(exact.dtype, copy=False) - exact
    return np.abs(gap, out=gap).astype(np.float64, copy=False)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _evaluate(
    run: Run,
    tensors: list[Tensor],
    spec: ConvSpec,
    device: torch.device | str,
    enter: Callable[[Tensor], Tensor] = _as_it_is,
) -> dict[str, Tensor]:
    leaves = [enter(t.to(device, copy=True)).requires_grad_() for t in tensors[:-1]]
    g = enter(tensors[-1].to(device, copy=True))
    y = run(*leaves) if spec.bias else run(leaves[0], leaves[1], None)
    grads = torch.autograd.grad(y, leaves, g, allow_unused=True)
    names = ("grad_x", "grad_w", "grad_b")[: len(leaves)]
    found = {"y": y.detach(), **dict(zip(names, grads, strict=True))}
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise ProofError(f"S3: no {missing[0]} came back; S2 refutes this")
    return found


def _paired(one: dict[str, Array], two: dict[str, Array]) -> dict[str, tuple[Array, Array]]:
    return {name: (one[name], two[name]) for name in one}


def exactly(
    oracle: Oracle, x: Array, w: Array, b: Array | None, g: Array, dtype: torch.dtype
) -> tuple[dict[str, Array], str, float]:
    """The same contractions in a higher precision, where there is one that is worth its time."""
    spec = oracle.spec
    kind: Any = np.float64
    if dtype == torch.float64:
        work = len(oracle.edges.tap) * spec.in_channels * spec.out_channels // spec.groups
        if np.finfo(np.longdouble).nmant <= np.finfo(np.float64).nmant:
            return {}, "no precision beyond float64 on this machine", 0.0
        if work > LONG_LIMIT:
            return {}, f"{work} multiply-adds are too many for extended precision", 0.0
        kind = np.longdouble
    x, w, g = (v.astype(kind, copy=False) for v in (x, w, g))
    b = None if b is None else b.astype(kind, copy=False)
    found = {
        "y": oracle.convolve(x, w, b),
        "grad_x": oracle.grad_x(w, g),
        "grad_w": oracle.grad_w(x, g),
    }
    if b is not None:
        found["grad_b"] = oracle.grad_b(g)
    return found, f"the oracle in {np.dtype(kind).name}", float(np.finfo(kind).eps) / 2


def _ratio(found: Array, exact: Array, bound: Array) -> float:
    """Largest error / bound; 0 / 0 is 0, anything else over 0 is infinite, NaN stays NaN."""
    error = _off(found, exact)
    if error.size == 0:
        return 0.0
    if np.min(bound) > 0:
        return float(np.divide(error, bound, out=error).max())
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / np.broadcast_to(bound, error.shape))
    return float(ratio.max())
