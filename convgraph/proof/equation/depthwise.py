"""How the oracle adds up a depthwise operator of stride 1: one matrix product a row of taps.

The source positions that an axis of such an operator reads lie along one row, a tap a step:

    table[p, t] = row[p + t * gap]

With every axis of the image laid out along its row, and the rows of all axes and images one behind
the other, a tap is one offset into one long row, so that

    y[l] += w[t] x[l + offset[t]],   grad_x[l + offset[t]] += w[t] g[l],
    grad_w[t] = sum over l of x[l + offset[t]] g[l].

The long row is cut into blocks. What the taps of the last axis say to a block is one window of x
times a band, so that all blocks are one matrix product; the other axes move it by whole blocks.

What y holds where a row ends and the next begins is no output and is cut off; g is 0 there. Whether
the tables are of this form is found out from them, place by place.
"""

from collections.abc import Iterator
from itertools import product
from math import prod
from operator import mul
from typing import Any, final

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from convgraph.proof.equation.contraction import backward
from convgraph.proof.equation.spec import ConvSpec

Array = npt.NDArray[Any]

BLOCK = 16
"""Entries of the long row that are one row of a matrix product, where there is a fast one."""

TILE_BYTES = 524_288
"""Of the windows that are worked on at a time, so that they stay near the processor."""


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
    """One matrix product of windows and bands for all taps of the last axis.

    Args:
        spec: of a depthwise operator, one channel in and out a group.
        rows: per axis, its row and its step, from `row_of`.
        out: output lattice.
    """

    def __init__(self, spec: ConvSpec, rows: list[tuple[Array, int]], out: tuple[int, ...]) -> None:
        """Work out the offsets, and where each pixel lies."""
        self.spec, self.out = spec, out
        self._rows = [row for row, _ in rows]
        *lead, last = map(len, self._rows)
        self._long = (*lead, -(-last // BLOCK) * BLOCK)
        self._backward = [
            backward(row[:, None], n)[:, 0] for row, n in zip(self._rows, spec.size, strict=True)
        ]
        places = [
            [t * step if step > 0 else (k - 1 - t) * -step for t in range(k)]
            for k, (_, step) in zip(spec.kernel_size, rows, strict=True)
        ]
        behind = [prod(self._long[axis + 1 :]) for axis in range(spec.d - 1)]
        self._along = np.array(places[-1])  # offset of each tap of the last axis
        self._ahead = np.array(  # and of each of the other axes' taps: whole blocks
            [sum(map(mul, taps, behind)) for taps in product(*places[:-1])]
        )
        self._length = spec.batch * prod(self._long)
        self._tail = int(self._ahead.max() + self._along.max())

    def convolve(self, x: Array, w: Array) -> Array:
        """Return y (B, C, *out) without a bias."""
        y = self._summed(self._read(x), w, self._ahead, self._along)
        return self._image(y[self._sites()])

    def grad_x(self, w: Array, g: Array) -> Array:
        """Return (B, C, *size)."""
        long = np.zeros((len(w), self._tail + self._length), dtype=g.dtype)
        long[:, self._tail :] = self._placed(g)
        ahead, along = self._ahead.max() - self._ahead, self._along.max() - self._along
        folded = self._summed(long, w, ahead, along)
        for axis, table in enumerate(self._backward, start=2):
            first, *more = (_gathered(folded, column, axis) for column in table.T)
            folded = sum(more, start=first)
        return self._image(folded)

    def grad_w(self, x: Array, g: Array) -> Array:
        """Return the gradient in the layout of w."""
        long, block = self._read(x), _block(x, g)
        heads = self._placed(g).reshape(len(long), -1, block)
        shape, column = (len(long), len(self._ahead), len(self._along)), np.arange(block)[:, None]
        found = np.empty(shape, dtype=np.result_type(x, g))
        for some, windows in self._windows(long, block):
            for number, at in enumerate(self._ahead // block):
                heard = windows[:, at : at + heads.shape[1]]
                met = heard.swapaxes(1, 2) @ heads[some]
                found[some, number] = met[:, column + self._along, column].sum(1)
        return found.reshape(self.spec.w_shape)

    def _summed(self, long: Array, w: Array, ahead: Array, along: Array) -> Array:
        """(C, B, *rows): at each place the sum, over all taps, of what lies at its offset."""
        block = _block(long, w)
        taps = w.reshape(len(w), len(ahead), 1, len(along))
        band = np.zeros((*taps.shape[:2], block + along.max(), block), dtype=w.dtype)
        column = np.arange(block)[:, None]
        band[:, :, column + along, column] = taps
        total = np.zeros((len(w), self._length // block, block), dtype=np.result_type(long, w))
        for some, windows in self._windows(long, block):
            for number, at in enumerate(ahead // block):
                total[some] += windows[:, at : at + total.shape[1]] @ band[some, number]
        return total.reshape(len(w), self.spec.batch, *self._long)

    def _windows(self, long: Array, block: int) -> Iterator[tuple[slice, Array]]:
        """Some channels, and for each of their blocks what its taps of the last axis reach."""
        reach = block + int(self._along.max())
        windows = sliding_window_view(long, reach, axis=1)[:, ::block]
        step = max(1, TILE_BYTES // (windows[0].size * long.dtype.itemsize))
        for at in range(0, len(long), step):
            yield slice(at, at + step), np.ascontiguousarray(windows[at : at + step])

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


def _block(one: Array, two: Array) -> int:
    """Bands need a fast product, so floats."""
    return BLOCK if np.result_type(one, two) in (np.float32, np.float64) else 1


def _gathered(values: Array, where: Array, axis: int) -> Array:
    """Take positions along an axis; -1 takes nothing."""
    along: Any = (slice(None),) * axis
    if len(where) and np.array_equal(where, where[0] + np.arange(len(where))) and where[0] >= 0:
        stretch: Array = values[(*along, slice(where[0], where[0] + len(where)))]
        return stretch
    found: Array = values.take(where, axis)
    found[(*along, np.flatnonzero(where < 0))] = 0
    return found
