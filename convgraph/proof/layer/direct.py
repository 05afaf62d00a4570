"""A direct sum: every entry is put together of the operator's own products, each once.

Identity lets (S + S') - S' pass, which is S in exact arithmetic; on real numbers it loses S where
S' is large, and no bound of S3 holds. S1's run on magnitudes and on ones counts everything that
meets in an entry, what cancels included. Each coefficient that it counts is at least the operator's
own, so the counts are equal only if the program adds up nothing else, whatever the data are: no
chance is involved. Prefix sums, Strassen's and Winograd's algorithms add up more, and it is seen.

Numbers that shrink on the way, by 2^-s and back, underflow earlier by 2^s, and a product may be
split into as many parts: on all data terms and absolute term of the bound are 2^s times as large,
which the certificate says; drawn data are held against the bound without that factor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch

from convgraph.proof.equation.oracle import Oracle
from convgraph.proof.layer.premise.check import Premise
from convgraph.proof.roundoff import unit_roundoff

Array = npt.NDArray[Any]


@final
@dataclass(frozen=True)
class Direct:
    """The verdict on a program's sums.

    Attributes:
        status: "proven", "undecided", or "not asked" where nothing was counted.
        reason: what is added up beside the products.
        shrunk: s, where numbers on the way are as small as 2^-s of what they become.
    """

    status: str
    reason: str = ""
    shrunk: int = 0


def counts(oracle: Oracle) -> dict[str, Array]:
    """How many products each entry has: y, first gradients, and those of the gradients.

    Each broadcasts to the shape of its quantity.
    """
    spec = oracle.spec
    if oracle.scale > 1:  # edges with weights: shares add up
        return sums(oracle, ones(oracle))
    per_in, per_out = spec.in_channels // spec.groups, spec.out_channels // spec.groups
    into = oracle.in_degree().reshape(spec.batch, 1, *oracle.out_size) * per_in
    biases = oracle.targets.reshape(spec.batch, 1, *oracle.out_size) * int(spec.bias)
    said = oracle.out_degree().reshape(spec.batch, 1, *spec.size) * per_out
    per_tap = np.diff(oracle.edges.ptr).reshape(1, 1, *spec.kernel_size)
    sites = np.array(int(oracle.targets.sum()))
    found = {"y": into + biases, "grad_x": said, "grad_w": per_tap, "grad_b": sites}
    return found | {"second_x": said, "second_w": per_tap, "second_g": 2 * into + biases}


def ones(oracle: Oracle) -> dict[str, Array]:
    """Return x, w and g of ones, and b where there is one."""
    spec = oracle.spec
    given = {"x": spec.x_shape, "w": spec.w_shape, "g": oracle.y_shape}
    given |= {"b": (spec.out_channels,)} if spec.bias else {}
    return {name: np.ones(shape) for name, shape in given.items()}


def sums(oracle: Oracle, of: Mapping[str, Array]) -> dict[str, Array]:
    """Return what products of these add up to, quantity by quantity."""
    found = {
        "y": oracle.convolve(of["x"], of["w"], of.get("b")),
        "grad_x": oracle.grad_x(of["w"], of["g"]),
        "grad_w": oracle.grad_w(of["x"], of["g"]),
    }
    return found | ({"grad_b": oracle.grad_b(of["g"])} if "b" in of else {})


def check_direct(
    followed: Premise,
    expected: Mapping[str, Array],
    largest: int,
    dtype: torch.dtype,
    *,
    beside: int = 0,
) -> Direct:
    """Hold what S1 counted against the operator's own products.

    Args:
        followed: the premise; whatever it could not follow is not asked.
        expected: see `counts`.
        largest: the most terms in one entry.
        dtype: in which the program computes; half types keep what shrinks in themselves.
        beside: s of the operator itself, where its own entries are multiples of 2^-s.
    """
    if followed.status != "proven" or not followed.sums:
        return Direct("not asked")
    for quantity, counted in followed.sums.items():
        if quantity not in expected:
            continue
        have = counted.double().cpu().numpy()
        try:
            want = np.broadcast_to(expected[quantity], have.shape)
        except ValueError:  # of another shape, as S2 says
            return Direct("not asked")
        if not (other := have != want).any():
            continue
        at = tuple(int(i) for i in np.argwhere(other)[0])
        return Direct(
            "undecided",
            f"no direct sum: {quantity}{list(at)} is put together of {have[at]:g} products, terms "
            f"that cancel counted, and the operator has {int(want[at])}; what cancels on integers "
            "can lose every digit of real numbers",
        )
    shrunk = max(0, followed.finest - beside)
    if shrunk and largest * unit_roundoff(dtype) * 2.0**shrunk >= 1:
        return Direct(
            "undecided",
            f"numbers shrink by 2^-{shrunk} on the way and grow again: what underflows "
            "there is lost, and the bound of S3 says nothing",
        )
    return Direct("proven", shrunk=shrunk)
