"""The oracle: the equation in plain integers, written without looking at anybody's code.

    y[p, o] = b[o] + sum over edges (q, p, t), channels c of  w[o, c, t] x[q, c]

Each axis is laid out as the row of source positions that its padding describes; taps then simply
read along that row. A transposed kernel throws instead of reading: source i lands on
i * stride - padding + t * dilation. Products and sums are exact: in int64, or in float64 where
every partial sum is bounded by 2^53 (float32: 2^24), so that nothing rounds (tested equal).
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from math import prod
from typing import Any, final

import numpy as np
import numpy.typing as npt

from convgraph.door import door
from convgraph.errors import ProofError
from convgraph.proof.equation import spaces
from convgraph.proof.equation.contraction import ByBand, ByColumn, forward
from convgraph.proof.equation.depthwise import ByShift, row_of
from convgraph.proof.equation.listed import ByList, lists
from convgraph.proof.equation.spec import ConvSpec

Array = npt.NDArray[Any]
EXACT_FLOAT = 2**53
EXACT_INT = 2**63
EXACT_SINGLE = 2**24
BAND_CHANNELS = 4
"""Channel pairs a group up to which sums are taken by band."""


@final
@dataclass(frozen=True, eq=False)
class OracleEdges:
    """Every edge of a spec, ordered by tap.

    Attributes:
        source: (E,) flat pixel (image, row, column) that sends.
        target: (E,) flat output site that receives.
        tap: (E,) edge type.
        ptr: taps + 1 offsets of the taps in the lists.
        out_size: output lattice.
        weight: (E,) in units of 1 / `spaces.ONE`; None where every edge counts once.
    """

    source: Array
    target: Array
    tap: Array
    ptr: tuple[int, ...]
    out_size: tuple[int, ...]
    weight: Array | None = None


def output_size(spec: ConvSpec) -> tuple[int, ...]:
    """Size of the output lattice, pixels an axis.

    Example:
        >>> output_size(ConvSpec(1, 1, (3,), (7,), stride=(2,), padding=((1, 1),)))
        (4,)
    """
    return tuple(len(_axis(spec, axis)) for axis in range(spec.d))


def edges(spec: ConvSpec) -> OracleEdges:
    """Every typed edge, masks applied."""
    sizes = output_size(spec)
    if spaces.bends(spec.space):
        return _listed(spec, sizes)
    present = footprint(spec)
    tables = [_axis(spec, axis) for axis in range(spec.d)]
    sources, targets, ptr = [], [], [0]
    images = np.arange(spec.batch)
    for number, taps in enumerate(product(*(range(k) for k in spec.kernel_size))):
        q, p = images, images
        for axis, tap in enumerate(taps):
            pairs = [(row[tap], at) for at, row in enumerate(tables[axis]) if row[tap] is not None]
            heard = np.array([pair[0] for pair in pairs], dtype=np.int64)
            place = np.array([pair[1] for pair in pairs], dtype=np.int64)
            q = (q[:, None] * spec.size[axis] + heard).ravel()
            p = (p[:, None] * sizes[axis] + place).ravel()
        keep = np.full(len(q), present is None or present[number])
        if spec.source_mask is not None:
            keep &= spec.source_mask.ravel()[q]
        if spec.target_mask is not None:
            keep &= spec.target_mask.ravel()[p]
        sources.append(q[keep])
        targets.append(p[keep])
        ptr.append(ptr[-1] + int(keep.sum()))
    types = np.repeat(np.arange(len(sources)), np.diff(ptr))
    return OracleEdges(np.concatenate(sources), np.concatenate(targets), types, tuple(ptr), sizes)


def footprint(spec: ConvSpec) -> Array | None:
    """(taps,) bool: which taps are there, by the spec and by its space; None for all."""
    found = spaces.footprint(spec.space, spec.kernel_size)
    if spec.footprint is None:
        return found
    listed = np.array(spec.footprint)
    return listed if found is None else found & listed


def _listed(spec: ConvSpec, sizes: tuple[int, ...]) -> OracleEdges:
    """Every edge of a space that bends them."""
    by_list = ByList(spec, sizes, lists(spec, sizes))
    present = footprint(spec)
    sources: list[Array] = []
    targets: list[Array] = []
    weights: list[Array] = []
    ptr = [0]
    for number, (cells, shares) in enumerate(by_list.heard):
        p, k = np.nonzero(cells < by_list.ends[0])
        q, w = cells[p, k], shares[p, k]
        if spec.transposed:
            q, p = p, q
        keep = np.full(len(q), present is None or present[number])
        if spec.source_mask is not None:
            keep &= spec.source_mask.ravel()[q]
        if spec.target_mask is not None:
            keep &= spec.target_mask.ravel()[p]
        for found, new in ((sources, q), (targets, p), (weights, w)):
            found.append(new[keep])
        ptr.append(ptr[-1] + int(keep.sum()))
    types = np.repeat(np.arange(len(sources)), np.diff(ptr))
    weight = np.concatenate(weights)
    whole = bool((weight == spaces.ONE).all())
    ends = np.concatenate(sources), np.concatenate(targets)
    return OracleEdges(*ends, types, tuple(ptr), sizes, None if whole else weight)


@lru_cache(maxsize=256)
def row(n: int, before: int, after: int, mode: str) -> tuple[int | None, ...]:
    """One padded axis as the source position that each of its places shows."""
    inside = list(range(n))
    if mode == "zeros":
        return (None,) * before + tuple(inside) + (None,) * after
    if mode == "replicate":
        return (0,) * before + tuple(inside) + (n - 1,) * after
    if mode == "reflect":
        if max(before, after) >= n:
            raise ProofError(f"reflect padding {(before, after)} on an axis of {n} pixels")
        there_and_back = inside + inside[-2:0:-1]
    else:
        if max(before, after) > n:
            raise ProofError(f"circular padding {(before, after)} on an axis of {n} pixels")
        there_and_back = inside
    period = len(there_and_back)
    return tuple(there_and_back[place % period] for place in range(-before, n + after))


def _axis(spec: ConvSpec, axis: int) -> list[list[int | None]]:
    """For each output place, the source position that each tap reads, or None."""
    n, k = spec.size[axis], spec.kernel_size[axis]
    step, gap = spec.stride[axis], spec.dilation[axis]
    before, after = spec.padding[axis]
    if spec.transposed:
        length = (n - 1) * step + gap * (k - 1) + 1 - before - after + spec.output_padding[axis]
        table: list[list[int | None]] = [[None] * k for _ in range(max(length, 0))]
        for i in range(n):
            for t in range(k):
                landing = i * step + t * gap - before
                if 0 <= landing < length:
                    table[landing][t] = i
    else:
        places = row(n, before, after, spec.padding_mode)
        last = len(places) - (gap * (k - 1) + 1)
        table = [[places[at + t * gap] for t in range(k)] for at in range(0, last + 1, step)]
    if not table:
        raise ProofError(f"the kernel leaves no output site along axis {axis} of {n} pixels")
    return table


@final
class Oracle:
    """The four contractions of one spec, with its edges worked out once.

    Args:
        spec: of the operator.
        way: how sums are taken: "column" or "band", see `contraction`, or "shift", see `depthwise`,
            where the operator is of that form; None takes the fastest.

    Example:
        >>> spec = ConvSpec(1, 1, (3,), (3,), batch=1, padding=((1, 1),), bias=False)
        >>> x, w = np.array([[[1, 2, 3]]]), np.array([[[1, 10, 100]]])
        >>> Oracle(spec).convolve(x, w).tolist()
        [[[210, 321, 32]]]
    """

    def __init__(self, spec: ConvSpec, *, way: str | None = None) -> None:
        """Work out the sizes; edges and tables follow when somebody asks."""
        self.spec, self.way = spec, way
        self.out_size = output_size(spec)
        self.y_shape = (spec.batch, spec.out_channels, *self.out_size)
        if spec.target_mask is not None and spec.target_mask.shape != (
            spec.batch,
            *self.out_size,
        ):
            raise ProofError(
                f"ConvSpec: expected target_mask of shape {(spec.batch, *self.out_size)}, "
                f"got {spec.target_mask.shape}"
            )

    @cached_property
    def edges(self) -> OracleEdges:
        """Every typed edge, masks applied."""
        return edges(self.spec)

    @property
    def targets(self) -> Array:
        """(sites,) bool over the flat output lattice: which sites receive at all."""
        if self.spec.target_mask is not None:
            return self.spec.target_mask.ravel()
        return np.ones(self.spec.batch * prod(self.out_size), dtype=bool)

    def in_degree(self) -> Array:
        """(sites,) int64: edges into each output site."""
        return np.bincount(self.edges.target, minlength=self.spec.batch * prod(self.out_size))

    def out_degree(self) -> Array:
        """(pixels,) int64: edges out of each source pixel."""
        return np.bincount(self.edges.source, minlength=prod(self.spec.image_shape))

    @property
    def scale(self) -> int:
        """What makes every weight whole; 1 where every edge counts once."""
        return 1 if self.edges.weight is None else spaces.ONE

    def terms(self) -> int:
        """The most products or summands in one entry of y or of any gradient."""
        s = self.spec
        per_tap = np.diff(self.edges.ptr).max(initial=0)
        return int(
            max(
                self.in_degree().max(initial=0) * (s.in_channels // s.groups) + s.bias,
                self.out_degree().max(initial=0) * (s.out_channels // s.groups),
                per_tap,
                int(self.targets.sum()) if s.bias else 0,
                1,
            )
        )

    @door
    def convolve(self, x: Array, w: Array, b: Array | None = None) -> Array:
        """Return y (B, C_out, *out); sites that do not receive hold 0."""
        y = self._way(x, w).convolve(self._sent(x), self._there(w))
        if b is not None:
            y = y + b.reshape(1, -1, *(1,) * self.spec.d)
        return self._received(y)

    @door
    def grad_x(self, w: Array, g: Array) -> Array:
        """Return the derivative of sum(g * y) by x, (B, C_in, *size)."""
        return self._sent(self._way(w, g).grad_x(self._there(w), self._received(g)))

    @door
    def grad_w(self, x: Array, g: Array) -> Array:
        """Return the derivative of sum(g * y) by w, in the layout of w."""
        return self._there(self._way(x, g).grad_w(self._sent(x), self._received(g)))

    @door
    def grad_b(self, g: Array) -> Array:
        """Return the derivative of sum(g * y) by b, (C_out,)."""
        total: Array = self._received(g).sum(axis=(0, *range(2, g.ndim)))
        return total

    def _there(self, w: Array) -> Array:
        """What is no tap counts nothing, and hears nothing back."""
        present = footprint(self.spec)
        if present is None:
            return w
        return np.where(present.reshape(self.spec.kernel_size), w, np.zeros((), w.dtype))

    def _way(self, one: Array, two: Array) -> ByColumn | ByBand | ByShift | ByList:
        """Bands need a fast product, so floats, and few channels a group."""
        s = self.spec
        if spaces.bends(s.space):
            return self._by_list
        few = s.groups > 1 and s.in_channels * s.out_channels <= BAND_CHANNELS * s.groups**2
        if self.way in (None, "shift") and self._shifted is not None:
            return self._shifted
        if self.way is None:
            banded = few and np.result_type(one, two) in (np.float32, np.float64)
        else:
            banded = self.way == "band"
        return self._banded if banded else self._by_column

    @cached_property
    def _shifted(self) -> ByShift | None:
        """Depthwise, and every axis reads along a row."""
        if not self.spec.in_channels == self.spec.out_channels == self.spec.groups > 0:
            return None
        rows = [row_of(t, gap) for t, gap in zip(self._tables, self.spec.dilation, strict=True)]
        found = [row for row in rows if row is not None and (row[0] >= 0).any()]
        return ByShift(self.spec, found, self.out_size) if len(found) == len(rows) else None

    @cached_property
    def _by_list(self) -> ByList:
        return ByList(self.spec, self.out_size, lists(self.spec, self.out_size))

    @cached_property
    def _by_column(self) -> ByColumn:
        return ByColumn(self.spec, self._tables)

    @cached_property
    def _banded(self) -> ByBand:
        return ByBand(self.spec, self._tables)

    @cached_property
    def _tables(self) -> list[Array]:
        return [forward(_axis(self.spec, axis)) for axis in range(self.spec.d)]

    def _sent(self, x: Array) -> Array:
        """What absent pixels hold is nothing, before it is read and in what comes back to them."""
        mask = self.spec.source_mask
        return x if mask is None else np.where(mask[:, None], x, np.zeros((), x.dtype))

    def _received(self, y: Array) -> Array:
        mask = self.spec.target_mask
        return y if mask is None else np.where(mask[:, None], y, np.zeros((), y.dtype))


def as_exact(terms: int, *arrays: Array | None) -> tuple[Array | None, ...]:
    """Return the integer arrays in the fastest dtype in which no sum of `terms` products rounds.

    Args:
        terms: products or summands in one entry.
        arrays: int64 arrays whose products are to be summed.

    Raises:
        ProofError: even int64 could overflow.
    """
    largest = sorted(
        int(max(a.max(initial=0), -a.min(initial=0))) for a in arrays if a is not None
    )[-2:]
    bound = terms * prod(max(value, 1) for value in largest)
    if bound >= EXACT_INT:
        raise ProofError(f"sums of up to {bound} do not fit int64; draw smaller integers")
    dtype: Any = np.int64
    if bound <= EXACT_FLOAT:
        dtype = np.float32 if bound <= EXACT_SINGLE else np.float64
    return tuple(None if a is None else a.astype(dtype, copy=False) for a in arrays)
