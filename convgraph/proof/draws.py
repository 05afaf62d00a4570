"""Random integers for probes: how large, how often, and from where.

    n a^2 <= 2^d          every sum of n products of entries in [-a, a] is exact in d bits
    mu = 1 / (2a + 1)     the largest point mass of one draw
    epsilon = (2 mu)^r    a nonzero difference hides from r independent trials at most this often

(A nonzero polynomial that is affine in each variable, with at most two variables in a monomial,
vanishes with probability at most 1 - (1 - mu)^2 <= 2 mu: write P = X Q + R.) Draws come from 128
bits of the operating system's entropy through NumPy's Philox; torch's CPU generator repeats its
stream for seeds 2^32 apart and cannot carry such an epsilon.
"""

import math
import secrets
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from convgraph.errors import ProofError

EPSILON = 2.0**-100
"""Default bound on the probability that a difference goes unseen."""

MANTISSA = {"float64": 53, "float32": 24}
"""Bits in which integers are exact, by dtype; half types have too few and are probed in float64."""

ENTROPY_BITS = 128

MOST = 2**28
"""Numbers of one array that are drawn at once; the verifier takes no more either."""


@final
@dataclass(frozen=True)
class Budget:
    """How the probes of one identity are drawn.

    Attributes:
        terms: n, the most products or summands in any entry that is compared.
        bits: d, in which integers are exact.
        a: entries are uniform on the integers of [-a, a].
        trials: r.
        seed: 128 bits or more, from which every draw follows.
        epsilon: what was asked for; r is the least that reaches it.
    """

    terms: int
    bits: int
    a: int
    trials: int
    seed: int
    epsilon: float = EPSILON

    @property
    def log2_epsilon(self) -> float:
        """log2 of (2 mu)^r, an upper bound on the probability of a wrong 'proven'."""
        return self.trials * math.log2(2 / (2 * self.a + 1))

    def generators(self) -> list[np.random.Generator]:
        """One independent generator a trial."""
        children = np.random.SeedSequence(self.seed).spawn(self.trials)
        return [np.random.Generator(np.random.Philox(child)) for child in children]

    def draw(self, generator: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """Integers uniform on [-a, a], int64."""
        return generator.integers(-self.a, self.a, size=shape, endpoint=True, dtype=np.int64)


def check_room(*shapes: tuple[int, ...]) -> None:
    """Refuse what would be drawn, or listed, in larger arrays than anybody takes.

    Raises:
        ProofError: one of these shapes has more than `MOST` entries.

    Example:
        >>> check_room((2, 3, 100_000, 100_000))
        Traceback (most recent call last):
            ...
        convgraph.errors.ProofError: expected at most 268435456 numbers at once, got 60000000000 \
for (2, 3, 100000, 100000); prove a smaller size
    """
    for shape in shapes:
        if math.prod(shape) > MOST:
            raise ProofError(
                f"expected at most {MOST} numbers at once, got {math.prod(shape)} for {shape}; "
                "prove a smaller size"
            )


def budget(
    terms: int, dtype: str, epsilon: float = EPSILON, seed: int | None = None, degree: int = 2
) -> Budget:
    """Choose a and r.

    Args:
        terms: products (degree 2) or summands (degree 1) in one entry.
        dtype: "float64" or "float32": where integers must be exact.
        epsilon: the most that a difference may go unseen.
        seed: replays a recorded run; None draws 128 bits.
        degree: variables in a monomial, 1 or 2.

    Raises:
        ProofError: no integers fit, or epsilon is no probability.

    Example:
        >>> chosen = budget(577, "float64")
        >>> chosen.trials, chosen.log2_epsilon <= -100
        (5, True)
    """
    if not 0 < epsilon < 1:
        raise ProofError(f"expected 0 < epsilon < 1, got {epsilon}")
    bits = MANTISSA[dtype]
    room = 2**bits // max(terms, 1)
    a = math.isqrt(room) if degree == 2 else room
    a = min(a, 2**31 - 1)
    if a < 1:
        raise ProofError(
            f"sums of {terms} terms leave no room for integers in {bits} bits of {dtype}; "
            "prove a smaller image or in float64"
        )
    loss = math.log2((2 * a + 1) / 2)
    trials = max(1, math.ceil(-math.log2(epsilon) / loss))
    seed = secrets.randbits(ENTROPY_BITS) if seed is None else seed
    return Budget(terms, bits, a, trials, seed, epsilon)
