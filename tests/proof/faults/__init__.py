"""The mutation gate: planted faults in convolutions f(x, w, b), every one to be refuted.

A judge that has never been seen to refute proves nothing. One file a family; a fault is a name,
the operator that it claims to be, and what it computes instead. `judge` takes it through S0 to S3,
one derivative up; `table` sets that beside what a tolerance says.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, final

from convgraph.proof import Certificate, ConvSpec, Oracle, prove_convolution
from tests.proof.faults import (
    biases_groups_masks,
    data,
    double_backward,
    dtypes,
    forward,
    gradients,
    structure,
)
from tests.proof.faults.operators import honest

SEED = 2**127 + 45
"""Of every draw of the gate, so that its table can be printed again."""


@final
@dataclass(frozen=True, eq=False)
class Fault:
    """One planted fault.

    Attributes:
        family: the file it stands in.
        spec: of the operator that it claims to be.
        run: f(x, w, b) -> what it returns.
        edges: the typed edges that it shows, or None.
        trust: what S1 is asked to take as multilinear.
    """

    family: str
    spec: ConvSpec
    run: Callable[..., Any]
    edges: structure.Lists | None = None
    trust: tuple[str, ...] = ()


def _edges(spec: ConvSpec, spoil: Callable[..., structure.Lists]) -> Fault:
    right = Oracle(spec).edges
    lists = spoil(right.source, right.target, right.tap)
    return Fault("structure", spec, structure.walk(spec, lists), lists)


FAMILIES: dict[str, dict[str, Fault]] = {
    "structure": {name: _edges(*planted) for name, planted in structure.FAULTS.items()},
    **{
        family: {
            name: Fault(family, *planted, trust=dtypes.TRUSTED.get(name, ()))
            for name, planted in planted_faults.items()
        }
        for family, planted_faults in {
            "forward": forward.FAULTS,
            "bias, groups, masks": biases_groups_masks.FAULTS,
            "gradients": gradients.FAULTS,
            "double backward": double_backward.FAULTS,
            "dtype": dtypes.FAULTS,
            "data": data.FAULTS,
        }.items()
    },
}
"""Family -> name -> fault."""

FAULTS = {name: fault for family in FAMILIES.values() for name, fault in family.items()}
"""Name -> fault, of every family."""


@cache
def judge(name: str) -> Certificate:
    """Return what the whole judge says of one fault."""
    fault = FAULTS[name]
    return prove_convolution(
        fault.run,
        honest(fault.spec),
        fault.spec,
        edges=None if fault.edges is None else lambda: fault.edges,
        trust=fault.trust,
        second=True,
        explain=False,
        seed=SEED,
        name=name,
    )
