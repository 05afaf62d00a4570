"""A number that shows it: inputs on which an operator that is not linear makes a difference.

S1 says that a program is no convolution for all inputs; a refutation is an input. Integers times
powers of two are tried over the whole range of the type, where every result is exact; images that
are equal, positive or empty; then numbers near the constants that the operator was given, and
numbers whose last bits are set, held against the bound of S3. What is found is run once more before
it is reported.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from convgraph.proof.draws import Budget
from convgraph.proof.equation.oracle import Oracle
from convgraph.proof.layer.identity import Identity, held_against, raised
from convgraph.proof.layer.trial import PLAIN, Probe, Run, draw, evaluate, lightest, truth
from convgraph.proof.roundoff import dot_bound

STEPS = (4, 16, 40, 60, 80, 100, 140, 300, 480)
"""Powers of two by which x, w and g are moved, up and down, as far as the type goes."""

FAR = {torch.float32: 84, torch.float64: 900, torch.bfloat16: 84, torch.float16: 4}
"""How far a product may be moved."""


def show(
    candidate: Run,
    oracle: Oracle,
    budget: Budget,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    second: bool,
    numbers: Sequence[float] = (),
) -> Identity | None:
    """Return a refutation with an input that shows it, or None.

    Args:
        candidate: f(x, w, b) -> y, refused by S1.
        oracle: of the spec.
        budget: how integers are drawn.
        dtype: in which it runs.
        device: where.
        second: whether gradients of gradients are looked at too.
        numbers: constants of the refused operator.
    """
    small = replace(budget, a=min(budget.a, 1000 if dtype.itemsize > 2 else 2))
    if dtype.itemsize > 2:
        for probe in _moved(small, oracle, second, FAR[dtype]):
            found = _differs(candidate, oracle, probe, dtype, device, budget.terms)
            if found is not None:
                return found
    for value in special(numbers, dtype):
        for probe in _filled(oracle, value):
            found = _beyond(candidate, oracle, probe, dtype, device)
            if found is not None:
                return found
    return None


def _moved(budget: Budget, oracle: Oracle, second: bool, far: int) -> Iterator[Probe]:
    """Integers, and the same moved up and down."""
    generator = budget.generators()[0]
    probe = draw(budget, oracle, generator, 0, second)
    yield from _kinds(probe)
    for step in STEPS:
        for ends in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (1, -1, 0)):
            for sign in (1, -1):
                powers = tuple(sign * step * end for end in ends)
                x, w, g = powers
                if max(abs(x + w), abs(w + g), abs(x + g)) <= far:
                    yield replace(probe, exponents=(x, w, g))


def _kinds(probe: Probe) -> Iterator[Probe]:
    """Equal images, one sign alone, an image of zeros."""
    x = probe.sent["x"]
    equal, empty = x.copy(), x.copy()
    equal[1:], empty[:1] = x[:1], 0
    for image in (equal, np.abs(x), -np.abs(x), empty, np.zeros_like(x)):
        yield replace(probe, sent=probe.sent | {"x": image})


def special(numbers: Sequence[float], dtype: torch.dtype) -> Iterator[float]:
    """Yield constants and what lies beside them; then numbers whose last bits are set."""
    for number in numbers:
        if np.isfinite(number) and number:
            for near in (number, -number, number * 0.75, number * 1.5, number * 4):
                yield float(near)
    bits = 1 - int(np.log2(torch.finfo(dtype).eps))
    for place in range(1, bits):
        yield 1 + 2.0**-place
    for power in range(-16, 17, 4):
        yield 1.5 * 2.0**power if dtype.itemsize == 2 else 1.25 * 2.0**power + 2.0 ** (power - 9)


def _filled(oracle: Oracle, value: float) -> Iterator[Probe]:
    """One number in x, in w, in g, in all."""
    spec = oracle.spec
    shapes = {"x": spec.x_shape, "w": spec.w_shape}
    if spec.bias:
        shapes["b"] = (spec.out_channels,)
    ones = {name: np.ones(shape) for name, shape in shapes.items()}
    g = np.ones(oracle.y_shape)
    if spec.bias:
        ones["b"] = np.zeros(shapes["b"])
    yield Probe(ones | {"x": ones["x"] * value}, g)
    yield Probe(ones | {"w": ones["w"] * value}, g)
    yield Probe(ones, g * value)
    yield Probe(ones | {"x": ones["x"] * value, "w": ones["w"] * value}, g * value)


def _differs(
    candidate: Run, oracle: Oracle, probe: Probe, dtype: Any, device: Any, terms: int
) -> Identity | None:
    """Integers: whatever differs at all, found twice."""
    expected = truth(oracle, lightest(probe, terms))
    found = None
    for _ in range(2):
        try:
            got = evaluate(candidate, probe, dtype, device)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it raises on some inputs, which is no number
            return Identity("undecided", 3, reason=raised("candidate", error))
        found = held_against(got, expected, probe, dtype, PLAIN)
        # Infinities and NaN are not covered: overflow on the way is no difference that is reported.
        if found is None or not np.isfinite(found.counterexample.get("found", 0.0)):
            return None
    return found


def _beyond(
    candidate: Run, oracle: Oracle, probe: Probe, dtype: Any, device: Any
) -> Identity | None:
    """Real numbers: what differs by more than rounding, found twice."""
    sent = {k: torch.from_numpy(v).to(dtype).double().numpy() for k, v in probe.sent.items()}
    g = torch.from_numpy(probe.g).to(dtype).double().numpy()
    probe = Probe(sent, g)
    size = _contracted(oracle, {k: np.abs(v) for k, v in sent.items()}, np.abs(g))
    exact = _contracted(oracle, sent, g)
    found = None
    for _ in range(2):
        try:
            got = evaluate(candidate, probe, dtype, device)
        except (Exception, SystemExit):  # noqa: BLE001 - likewise
            return None
        if isinstance(got, str):
            return None
        found = None
        for quantity, want in exact.items():
            value = got.get(quantity)
            if value is None:
                continue
            have = value.double().cpu().numpy()
            limit = _limit(oracle, quantity, dtype, size[quantity])
            over = np.isfinite(have) & (np.abs(have - want) > limit)
            if over.any():
                at = tuple(int(i) for i in np.argwhere(over)[0])
                found = Identity(
                    "refuted", 3, 0, f"the candidate's {quantity}{list(at)} is "
                    f"{float(have[at])!r}, exactly it is {float(want[at])!r}, and rounding "
                    f"explains {float(limit[at]):.3g} (x {_all(sent['x'])}, w {_all(sent['w'])}, "
                    f"g {_all(g)})",
                    {"side": "candidate", "quantity": quantity, "index": at,
                     "found": float(have[at]), "expected": float(want[at])},
                )  # fmt: skip
                break
        if found is None:
            return None
    return found


def _limit(oracle: Oracle, quantity: str, dtype: torch.dtype, size: Any) -> Any:
    """Twice the bound, for the truth is rounded too; half types may add up in themselves."""
    spec = oracle.spec
    per_in, per_out = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    n: Any = {
        "y": oracle.in_degree().reshape(spec.batch, 1, *oracle.out_size) * per_in + spec.bias,
        "grad_x": oracle.out_degree().reshape(spec.batch, 1, *spec.size) * per_out,
        "grad_w": np.diff(oracle.edges.ptr).reshape(1, 1, *spec.kernel_size),
    }.get(quantity, int(oracle.targets.sum()))
    return np.broadcast_to(2 * dot_bound(n, dtype, size, within=True), np.shape(size))


def _contracted(oracle: Oracle, sent: dict[str, Any], g: Any) -> dict[str, Any]:
    found = {
        "y": oracle.convolve(sent["x"], sent["w"], sent.get("b")),
        "grad_x": oracle.grad_x(sent["w"], g),
        "grad_w": oracle.grad_w(sent["x"], g),
    }
    if "b" in sent:
        found["grad_b"] = oracle.grad_b(g)
    return found


def _all(values: Any) -> str:
    return f"all {float(values.flat[0])!r}" if values.size else "empty"
