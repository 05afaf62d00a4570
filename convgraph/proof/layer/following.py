"""S1 in every dtype that counts: the one that is probed, and the recorded one where it is another.

Half types have no room for integers, which are probed in float64, nor has float32 for integers with
shares. What integers say of one program they say of another only so far as it is the same, or as it
is followed too. A program of a half type is that of float64 but for casts, and rounds once. One of
float32 may add up otherwise, as where a kernel serves it that float64 has not: its sums are counted
as well, on so few ones that float32 has room for their shares.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, final

import numpy as np
import torch

from convgraph.proof.equation.oracle import Oracle
from convgraph.proof.equation.spec import ConvSpec
from convgraph.proof.layer.direct import Direct, check_direct, counts, ones, sums
from convgraph.proof.layer.one_program import apart_from_casts
from convgraph.proof.layer.premise.check import Premise, check_premise
from convgraph.proof.layer.premise.degrees import BITS
from convgraph.proof.layer.trial import Run
from convgraph.proof.roundoff import HALF

MORE_THAN_ONCE = (
    "entries of {} are rounded to {} more than once on the way, and the bound of S3 is of one "
    "rounding; add up in float32 and cast what comes out"
)
DRAWN = (
    "float32 has no room to count all sums with shares: they were counted on zeros and ones that "
    "were drawn, and what two operands add beside the operator's own is seen where both were ones"
)
MADE_OF = {"y": "xw", "grad_x": "wg", "grad_w": "xg", "grad_b": "g"}
"""Quantity -> the operands whose products it adds up."""


@final
@dataclass(frozen=True, eq=False)
class Follows:
    """S1 of one candidate.

    Attributes:
        candidate: f(x, w, b) -> y.
        oracle: of its spec.
        dtype: the recorded one.
        device: where it computes.
        trust: what is taken as multilinear.
    """

    candidate: Run
    oracle: Oracle
    dtype: torch.dtype
    device: torch.device | str
    trust: Collection[str]

    def plainly(self, probe: torch.dtype, second: bool) -> Premise:
        """S1 in the dtype that is probed and, where that is another, in the recorded one too."""
        half = self.dtype in HALF
        wide = self.called(probe, second=second, bare=half)
        if wide.status != "proven" or self.dtype == probe:
            return wide
        narrow = self.called(self.dtype, second=second, bare=half)
        if narrow.status != "proven":
            return narrow
        problem = apart_from_casts(narrow, wide) if half else ""
        if problem := problem or self.direct(self.dtype, probe, narrow).reason:
            return replace(wide, status="undecided", reason=problem)
        kept = {*wide.assumed, *narrow.assumed}
        assumed = tuple(sorted(kept))
        return replace(wide, assumed=assumed, steps=narrow.steps, made=narrow.made, wide=wide)

    def called(self, kind: torch.dtype, **how: Any) -> Premise:
        """S1 in one of the two, perhaps in another manner; see `check_premise`."""
        if kind == torch.float32 and self.oracle.scale > 1:
            entries = {name: torch.from_numpy(value) for name, value in self._few.items()}
            how |= {"a": 0, "entries": entries}
        return check_premise(
            self.candidate, shapes(self.oracle.spec), dtype=kind, device=self.device,
            trust=self.trust, **how,
        )  # fmt: skip

    def direct(self, kind: torch.dtype, probe: torch.dtype, found: Premise) -> Direct:
        """Whether what was followed in one of the two is a direct sum.

        Sums of a half type are counted where they are probed; in itself, how often they round.
        """
        if kind == probe:
            expected = counts(self.oracle)
        elif kind in HALF:
            more = [q for q, n in found.rounded.items() if n > 1 and not q.startswith("second")]
            reason = MORE_THAN_ONCE.format(more[0], kind) if more else ""
            return Direct("undecided" if more else "proven", reason)
        else:
            expected = sums(self.oracle, self._few)
        beside = self.oracle.scale.bit_length() - 1
        return check_direct(found, expected, self.oracle.terms(), self.dtype, beside=beside)

    def taken(self, found: Premise) -> tuple[str, ...]:
        """What is taken for granted of how sums were counted."""
        if self.dtype != torch.float32 or self.oracle.scale == 1 or found.status != "proven":
            return ()
        return () if all(value.all() for value in self._few.values()) else (DRAWN,)

    @cached_property
    def _few(self) -> dict[str, Any]:
        room = 2 ** BITS[torch.float32] / self.oracle.scale
        return few(self.oracle, room, np.random.default_rng())


def few(oracle: Oracle, room: float, generator: np.random.Generator) -> dict[str, Any]:
    """Zeros and ones for x, w, b and g of which no entry adds up more than there is room for.

    Example:
        >>> oracle = Oracle(ConvSpec(8, 1, (3, 3), (4, 4)))
        >>> found = few(oracle, 5, np.random.default_rng(1))
        >>> max(float(made.max()) for made in sums(oracle, found).values()) <= 5
        True
    """
    given = ones(oracle)
    while over := [q for q, made in sums(oracle, given).items() if made.max(initial=0) > room]:
        for name in MADE_OF[over[-1]]:
            given[name] *= generator.random(given[name].shape) < 0.7
    return given


def shapes(spec: ConvSpec) -> dict[str, tuple[int, ...] | None]:
    """Of each argument; None for a bias that is not there."""
    bias = (spec.out_channels,) if spec.bias else None
    return {"x": spec.x_shape, "w": spec.w_shape, "b": bias}
