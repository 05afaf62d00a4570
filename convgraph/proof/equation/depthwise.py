"""How the oracle adds up a depthwise operator of stride 1: one shift of a flat row a tap.

The source positions that an axis of such an operator reads lie along one row, a tap a step:

    table[p, t] = row[p + t * gap]

With every axis of the image laid out along its row, and the rows of all axes and images one behind
the other, a tap is one offset into one long row, so that

    y[l] += w[t] x[l + offset[t]],   grad_x[l + offset[t]] += w[t] g[l],
    grad_w[t] = sum over l of x[l + offset[t]] g[l].

What y holds where a row ends and the next begins is no output and is cut off; g is 0 there. Whether
the tables are of this form is found out from them, place by place.
"""

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Any, final

import numpy as np
import numpy.typing as npt

from convgraph.proof.equation.contraction import backward
from convgraph.proof.equation.spec import ConvSpec

Array = npt.NDArray[Any]

TILE_BYTES = 262_144
"""Of the rows that are worked on at a time, so that they stay near the processor."""


def row_of(table: Array, gap: int) -> tuple[Array, int] | None:
    """Find the row along which an axis reads, and its step a tap, or None if there is none.

    Args:
        table: (places, taps) sources, -1 for none.
        gap: places between taps, in one direction or the other.

    Example:
        >>> row, step = row_of(np.array([[-1, 0], [0, 1], [1, 2]]), 1)
        >>> row.tolist(), step
        ([-1, 0, 1, 2], 1)
        >>> row_of(np.array([[0, 1], [2, 3]]), 1) is None
        True
    """
    places, taps = table.shape
    for step in (gap, -gap):
        first = 0 if step > 0 else (taps - 1) * gap
        at = np.arange(places)[:, None] + first + step * np.arange(taps)
        row = np.full(places + (taps - 1) * gap, -1, dtype=np.int64)
        row[at] = table
        if np.array_equal(row[at], table):
            return row, step
    return None


@final
class ByShift:
    """One multiplication and one addition of long rows a tap.

    Args:
        spec: of a depthwise operator, one channel in and out a group.
        rows: per axis, its row and its step, from `row_of`.
        out: output lattice.
    """

    def __init__(self, spec: ConvSpec, rows: list[tuple[Array, int]], out: tuple[int, ...]) -> None:
        """Work out the offsets, and where each pixel lies."""
        self.spec, self.out = spec, out
        self._rows = [row for row, _ in rows]
        self._long = tuple(len(row) for row in self._rows)
        self._backward = [
            backward(row[:, None], n)[:, 0] for row, n in zip(self._rows, spec.size, strict=True)
        ]
        behind = [prod(self._long[axis + 1 :]) for axis in range(spec.d)]
        self._offsets = []
        for taps in product(*(range(k) for k in spec.kernel_size)):
            places = [
                t * step if step > 0 else (k - 1 - t) * -step
                for t, k, (_, step) in zip(taps, spec.kernel_size, rows, strict=True)
            ]
            self._offsets.append(sum(p * n for p, n in zip(places, behind, strict=True)))
        self._length = spec.batch * prod(self._long)
        self._tail = max(self._offsets)

    def convolve(self, x: Array, w: Array) -> Array:
        """Return y (B, C, *out) without a bias."""
        long, taps, dtype = self._read(x), w.reshape(len(w), -1), np.result_type(x, w)
        y = np.zeros((len(w), self._length), dtype=dtype)
        for some in self._tiles(dtype):
            heard = y[some]
            sent = np.empty_like(heard)
            for t, at in enumerate(self._offsets):
                np.multiply(long[some, at : at + self._length], taps[some, t, None], out=sent)
                heard += sent
        places = y.reshape(-1, self.spec.batch, *self._long)
        return self._image(places[self._sites()])

    def grad_x(self, w: Array, g: Array) -> Array:
        """Return (B, C, *size)."""
        long, taps, dtype = self._placed(g), w.reshape(len(w), -1), np.result_type(g, w)
        total = np.zeros((len(w), self._length + self._tail), dtype=dtype)
        for some in self._tiles(dtype):
            heads, sent = long[some], np.empty_like(long[some], dtype=dtype)
            for t, at in enumerate(self._offsets):
                np.multiply(heads, taps[some, t, None], out=sent)
                total[some, at : at + self._length] += sent
        folded = total[:, : self._length].reshape(-1, self.spec.batch, *self._long)
        for axis, table in enumerate(self._backward, start=2):
            first, *more = (_gathered(folded, column, axis) for column in table.T)
            folded = sum(more, start=first)
        return self._image(folded)

    def grad_w(self, x: Array, g: Array) -> Array:
        """Return the gradient in the layout of w."""
        long, heads, dtype = self._read(x), self._placed(g), np.result_type(x, g)
        found = np.empty((len(long), len(self._offsets)), dtype=dtype)
        for some in self._tiles(dtype):
            for t, at in enumerate(self._offsets):
                heard = long[some, None, at : at + self._length]
                found[some, t] = (heard @ heads[some, :, None])[:, 0, 0]
        return found.reshape(self.spec.w_shape)

    def _tiles(self, dtype: Any) -> Iterator[slice]:
        step = max(1, TILE_BYTES // (self._length * np.dtype(dtype).itemsize))
        return (slice(at, at + step) for at in range(0, self.spec.groups, step))

    def _read(self, x: Array) -> Array:
        """(C, length + tail): every axis of x laid out along its row."""
        image = x.swapaxes(0, 1)
        long = np.zeros((len(image), self._length + self._tail), dtype=x.dtype)
        there = [np.flatnonzero(row >= 0) for row in self._rows]
        for axis, (row, places) in enumerate(zip(self._rows, there, strict=True), start=2):
            if not np.array_equal(row[places], np.arange(image.shape[axis])):
                image = image.take(row[places], axis)
        inner = long[:, : self._length].reshape(-1, self.spec.batch, *self._long)
        spans: list[Any] = [slice(places[0], places[-1] + 1) for places in there]
        if any(len(at) < span.stop - span.start for at, span in zip(there, spans, strict=True)):
            spans = [*np.ix_(*there)]
        inner[(slice(None), slice(None), *spans)] = image
        return long

    def _placed(self, g: Array) -> Array:
        """(C, length): g at the places of the sites, 0 elsewhere."""
        long = np.zeros((g.shape[1], self.spec.batch, *self._long), dtype=g.dtype)
        long[self._sites()] = g.swapaxes(0, 1)
        return long.reshape(len(long), -1)

    def _sites(self) -> Any:
        """Where the output lattice lies in (C, B, *rows)."""
        return (..., *(slice(n) for n in self.out))

    def _image(self, channels: Array) -> Array:
        return np.ascontiguousarray(channels.swapaxes(0, 1))


def _gathered(values: Array, where: Array, axis: int) -> Array:
    """Take positions along an axis; -1 takes nothing."""
    along: Any = (slice(None),) * axis
    if len(where) and np.array_equal(where, where[0] + np.arange(len(where))) and where[0] >= 0:
        stretch: Array = values[(*along, slice(where[0], where[0] + len(where)))]
        return stretch
    found: Array = values.take(where, axis)
    found[(*along, np.flatnonzero(where < 0))] = 0
    return found
