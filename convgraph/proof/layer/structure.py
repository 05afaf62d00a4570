"""S0, structure: the typed edges are the ones that the oracle's formula gives.

Compared as multisets, every edge, nothing sampled.
"""

from dataclasses import dataclass, replace
from math import prod
from typing import Any, final

import numpy as np
import numpy.typing as npt

from convgraph.errors import ProofError
from convgraph.proof.equation import spaces
from convgraph.proof.equation.oracle import Oracle, OracleEdges, edges

Array = npt.NDArray[Any]


@final
@dataclass(frozen=True)
class Structure:
    """The verdict on a list of typed edges.

    Attributes:
        status: "proven", "refuted" or "undecided".
        edges: how many edges the formula gives.
        missing: edges of the formula that the list lacks.
        extra: edges of the list that the formula does not give, repeats included.
        reason: the first difference in coordinates, or why nothing could be said.
        square: in a space, sites at which every edge is the plane's, and all sites.
    """

    status: str
    edges: int
    missing: int = 0
    extra: int = 0
    reason: str = ""
    square: tuple[int, int] | None = None


def locally_square(oracle: Oracle) -> tuple[int, int] | None:
    """Count the output sites at which every edge is the plane's, and all output sites.

    The plane is each chart of the space by itself, beyond whose border there is nobody.

    Args:
        oracle: of a spec in a space; None comes back for others, and where nothing is bent.

    Example:
        >>> from convgraph.proof.equation.spec import ConvSpec
        >>> sphere = {"kind": "healpix", "corner": "hpxpad"}
        >>> spec = ConvSpec(1, 1, (3, 3), (96, 8), 1, padding=((1, 1),) * 2, space=sphere)
        >>> locally_square(Oracle(spec))  # 6 x 6 of each face of 8 x 8
        (432, 768)
    """
    spec = oracle.spec
    if spec.space is None or not spaces.bends(spec.space) or spec.space["kind"] == "edges":
        return None
    faces = 12 if spec.space["kind"] == "healpix" else 1
    size = (spec.size[0] // faces, spec.size[1])
    out = (oracle.out_size[0] // faces, oracle.out_size[1])
    masks: dict[str, Any] = {
        name: None if mask is None else mask.reshape(-1, *chart)
        for name, mask, chart in (
            ("source_mask", spec.source_mask, size), ("target_mask", spec.target_mask, out),
        )
    }  # fmt: skip
    plane = replace(
        spec, space=None, batch=spec.batch * faces, size=size, padding_mode="zeros", **masks
    )
    sites, pixels = spec.batch * prod(oracle.out_size), prod(spec.image_shape)
    mine, flat = oracle.edges, edges(plane)

    def packed(found: OracleEdges) -> Array:
        return (found.target * spec.taps + found.tap) * pixels + found.source

    key = packed(mine)
    between = np.zeros(len(key), bool) if mine.weight is None else mine.weight != spaces.ONE
    odd = np.setxor1d(key[~between], packed(flat)) // pixels // spec.taps
    return sites - len(np.union1d(odd, mine.target[between])), sites


def check_structure(
    oracle: Oracle, source: Array, target: Array, tap: Array, weight: Array | None = None
) -> Structure:
    """Compare a list of typed edges with the oracle's.

    Args:
        oracle: of the spec in question.
        source: (E,) flat pixel (image, row, column) that sends, over the whole lattice.
        target: (E,) flat output site that receives, over the whole output lattice.
        tap: (E,) edge type.
        weight: (E,) float64, or None where every edge counts once.

    Returns:
        The verdict; a list without edges, where the formula gives none either, is "undecided".

    Raises:
        ProofError: the three lists differ in length.
    """
    if not len(source) == len(target) == len(tap):
        raise ProofError(
            f"S0: expected three lists of one length, got {len(source)}, {len(target)}, {len(tap)}"
        )
    spec, truth = oracle.spec, oracle.edges
    pixels, sites = prod(spec.image_shape), spec.batch * prod(oracle.out_size)
    outside = (source < 0) | (source >= pixels) | (target < 0) | (target >= sites)
    outside |= (tap < 0) | (tap >= spec.taps)
    if outside.any():
        at = int(np.flatnonzero(outside)[0])
        return Structure(
            "refuted",
            len(truth.tap),
            extra=int(outside.sum()),
            reason=f"edge {at} is outside: {source[at]} --tap {tap[at]}--> {target[at]}",
        )

    if weight is not None or truth.weight is not None:
        return _weighed(oracle, source, target, tap, weight)
    if _same(oracle, source, target, tap):
        return Structure("proven", len(truth.tap), square=locally_square(oracle))

    def pack(q: Array, p: Array, t: Array) -> tuple[Array, Array]:
        return np.unique((t.astype(np.int64) * sites + p) * pixels + q, return_counts=True)

    want, wanted = pack(truth.source, truth.target, truth.tap)
    have, had = pack(source, target, tap)
    every = np.union1d(want, have)
    balance = np.zeros(len(every), dtype=np.int64)
    balance[np.searchsorted(every, want)] += wanted
    balance[np.searchsorted(every, have)] -= had
    missing, extra = int(balance.clip(min=0).sum()), int((-balance).clip(min=0).sum())
    if missing or extra:
        at = int(np.flatnonzero(balance)[0])
        kind = "is missing" if balance[at] > 0 else "should not be there (or not so often)"
        return Structure(
            "refuted", len(truth.tap), missing, extra, f"edge {_spell(oracle, every[at])} {kind}"
        )
    if len(truth.tap) == 0:
        return Structure("undecided", 0, reason="there is no edge to compare")
    return Structure("proven", len(truth.tap), square=locally_square(oracle))


def _weighed(
    oracle: Oracle, source: Array, target: Array, tap: Array, weight: Array | None
) -> Structure:
    """Compare edges with weights: those into one site through one tap add up per source."""
    truth, one = oracle.edges, spaces.ONE
    pixels, sites = prod(oracle.spec.image_shape), oracle.spec.batch * prod(oracle.out_size)
    want = np.full(len(truth.tap), one) if truth.weight is None else truth.weight
    have = np.full(len(tap), float(one)) if weight is None else np.asarray(weight) * one
    known = (truth.tap.astype(np.int64) * sites + truth.target) * pixels + truth.source
    shown = (tap.astype(np.int64) * sites + target) * pixels + source
    every, place = np.unique(np.concatenate([known, shown]), return_inverse=True)
    balance = np.bincount(place, np.concatenate([want, -have]), minlength=len(every))
    if not balance.any():
        return Structure("proven", len(truth.tap), square=locally_square(oracle))
    at = int(np.flatnonzero(balance)[0])
    edge = _spell(oracle, every[at])
    reason = f"edge {edge} should weigh {balance[at] / one:+g} more than it does"
    missing, extra = int((balance > 0).sum()), int((balance < 0).sum())
    return Structure("refuted", len(truth.tap), missing, extra, reason)


def _same(oracle: Oracle, source: Array, target: Array, tap: Array) -> bool:
    """Whether the lists are the formula's, in one pass; False may also mean that it cannot say.

    Where the formula has at most one edge into a site through a tap, as many edges as it has, no
    two of them with the same site and tap, and each with the source that the formula has there, are
    all of its edges, each once.
    """
    truth, sites = oracle.edges, oracle.spec.batch * prod(oracle.out_size)
    expected = np.full(oracle.spec.taps * sites, -1, dtype=np.int64)
    expected[truth.tap * sites + truth.target] = truth.source
    if not 0 < len(truth.tap) == len(tap) == np.count_nonzero(expected >= 0):
        return False
    place = tap.astype(np.int64) * sites + target
    once = bool(np.bincount(place, minlength=len(expected)).max() == 1)
    return once and np.array_equal(expected[place], source)


def _spell(oracle: Oracle, packed: int) -> str:
    spec = oracle.spec
    pixels, sites = prod(spec.image_shape), spec.batch * prod(oracle.out_size)
    rest, q = divmod(int(packed), pixels)
    t, p = divmod(rest, sites)
    source = [int(i) for i in np.unravel_index(q, spec.image_shape)]
    target = [int(i) for i in np.unravel_index(p, (spec.batch, *oracle.out_size))]
    taps = tuple(int(i) for i in np.unravel_index(t, spec.kernel_size))
    return (
        f"image {source[0]} pixel {tuple(source[1:])} --tap {taps}--> "
        f"image {target[0]} site {tuple(target[1:])}"
    )
