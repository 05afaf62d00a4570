"""One side against the equation, bit for bit: what differs, where, and on which integers."""

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch

from convgraph.errors import ProofError
from convgraph.proof import draws
from convgraph.proof.equation.oracle import Oracle
from convgraph.proof.equation.spec import ConvSpec
from convgraph.proof.refutation.truth import FIRST, Inputs, Measured, Run, measure, operator

Array = npt.NDArray[Any]

SMALL = 1000
"""Draws that show most faults: beyond the integers of bfloat16, and beyond 100."""
TRIALS = 2


@final
@dataclass(frozen=True)
class Seen:
    """A difference: where, what, and the inputs that show it."""

    quantity: str
    inputs: Inputs
    a: int
    index: tuple[int, ...]
    found: float | str
    expected: float | str
    differing: int
    entries: int

    @property
    def kind(self) -> tuple[str, str]:
        """Quantity, and the sort of difference: smaller cases must show the same."""
        if self.index:
            return self.quantity, "numbers"
        return self.quantity, str(self.found).split(maxsplit=2)[0]


@final
@dataclass(frozen=True)
class MeasuredSide:
    """One side, measured against the truth."""

    name: str
    run: Run
    other: Run
    dtype: torch.dtype
    device: torch.device | str
    seed: int

    def first_seen(
        self, spec: ConvSpec, quantities: tuple[str, ...], a: int | None = None
    ) -> Seen | None:
        """Look for a difference on random integers; small ones first."""
        oracle = Oracle(spec)
        truth = operator(spec, oracle)
        largest = draws.budget(oracle.terms(), str(self.dtype).removeprefix("torch.")).a
        for bound in (a,) if a is not None else sorted({min(SMALL, largest), largest}):
            generator = np.random.Generator(np.random.Philox(self.seed))
            for _ in range(TRIALS):
                inputs = Inputs.random(oracle, generator, min(bound, largest))
                for some in (tuple(q for q in quantities if q in FIRST), quantities):
                    seen = self.differs(truth, inputs, some, bound) if some else None
                    if seen is not None:
                        return seen
        return None

    def differs(
        self, truth: Run, inputs: Inputs, quantities: tuple[str, ...], a: int = 0
    ) -> Seen | None:
        """Compare one choice of inputs, bit for bit."""
        want = measure(truth, inputs, quantities)
        have = self.measured(inputs, quantities)
        for quantity in quantities:
            if quantity in want:
                found = difference(have.get(quantity, "is missing"), want[quantity])
                if found is not None:
                    return Seen(quantity, inputs, a, *found)
        return None

    def measured(self, inputs: Inputs, quantities: tuple[str, ...]) -> Measured:
        """What this side gives."""
        return measure(self.run, inputs, quantities, dtype=self.dtype, device=self.device)

    def other_agrees(self, spec: ConvSpec, inputs: Inputs) -> bool:
        """Whether the other side still is the operator there, and not tied to one size."""
        have = measure(self.other, inputs, ("y",), dtype=self.dtype, device=self.device)["y"]
        want = measure(operator(spec), inputs, ("y",))["y"]
        return difference(have, want) is None


def difference(
    have: Array | str, want: Array | str
) -> tuple[tuple[int, ...], float | str, float | str, int, int] | None:
    """Index, both numbers, and how many differ; None where all are equal."""
    if isinstance(want, str):
        raise ProofError(f"the equation itself could not be evaluated: it {want}")
    if isinstance(have, str):
        return (), have, f"numbers of shape {want.shape}", want.size, want.size
    if have.shape != want.shape:
        return (), f"has shape {have.shape}", f"shape {want.shape}", want.size, want.size
    gap = have != want
    if not gap.any():
        return None
    at = tuple(int(i) for i in np.argwhere(gap)[0])
    return at, float(have[at]), float(want[at]), int(gap.sum()), int(gap.size)
