"""Honest implementations: written differently, and right."""

from collections.abc import Callable

from torch import Tensor

from convgraph.proof import ConvSpec
from tests.proof.faults.operators import (
    CIRCULAR,
    DILATED,
    GROUPED,
    MASKED,
    PLAIN,
    REFLECT,
    REPLICATE,
    STRIDED,
    TRANSPOSED,
    UNEVEN,
    honest,
    shifted,
    unfolded,
    windows,
)

HONEST: dict[str, tuple[ConvSpec, Callable[..., Tensor]]] = {
    f"torch, {name}": (spec, honest(spec))
    for name, spec in {
        "plain": PLAIN,
        "strided": STRIDED,
        "grouped": GROUPED,
        "dilated": DILATED,
        "reflect": REFLECT,
        "replicate": REPLICATE,
        "circular": CIRCULAR,
        "uneven": UNEVEN,
        "transposed": TRANSPOSED,
        "masked": MASKED,
    }.items()
}


HONEST |= {
    "unfold and a matrix product": (PLAIN, unfolded),
    "shifted slices": (PLAIN, shifted),
    "einsum over windows": (PLAIN, windows),
}
