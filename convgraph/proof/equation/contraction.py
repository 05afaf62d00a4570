"""How the oracle adds up: two ways of contracting the same tables, tested equal to each other.

    by column  y = W X: what a site reads is a column, one matrix product an image; any channels and
               dtype
    by band    the taps of the last axis as one banded matrix a channel: few channels a group, where
               columns would move more numbers than they multiply

Both read the tables of source positions that `oracle` worked out; -1 says that nothing is there.
Absent pixels are 0 before anybody adds.
"""

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Any, final

import numpy as np
import numpy.typing as npt

from convgraph.proof.equation.spec import ConvSpec

Array = npt.NDArray[Any]

BAND_ENTRIES = 4_000_000
"""Entries of one block of bands, rows or columns, so that it is not exceeded."""


def forward(table: list[list[int | None]]) -> Array:
    """(places, taps) source positions of one axis, -1 for none."""
    return np.array([[-1 if q is None else q for q in row] for row in table], dtype=np.int64)


def backward(table: Array, n: int) -> Array:
    """(n, taps, m) places that hear a source through a tap, -1 for none; m > 1 where padding folds.

    Example:
        >>> backward(np.array([[-1, 0], [0, 1]]), 2).squeeze(-1).tolist()
        [[1, 0], [-1, 1]]
    """
    taps = table.shape[1]
    places, tap = np.nonzero(table >= 0)
    key = table[places, tap] * taps + tap
    order = np.argsort(key, kind="stable")
    key, places = key[order], places[order]
    first = np.searchsorted(key, key)  # where a run of equal keys starts
    nth = np.arange(len(key)) - first
    found = np.full((n * taps, int(nth.max(initial=0)) + 1), -1, dtype=np.int64)
    found[key, nth] = places
    return found.reshape(n, taps, -1)


def flat(columns: list[Array], sizes: tuple[int, ...], batch: int) -> Array:
    """Combine one position an axis into flat positions of a batch; nothing is the row behind all.

    Args:
        columns: per axis, (places,) positions, -1 for none.
        sizes: per axis, how many positions there are.
        batch: images.

    Returns:
        (batch * product of places,) int64 in [0, batch * product of sizes].
    """
    at = np.arange(batch, dtype=np.int64)
    there = np.ones(batch, dtype=bool)
    for column, n in zip(columns, sizes, strict=True):
        at = (at[:, None] * n + column).ravel()
        there = (there[:, None] & (column >= 0)).ravel()
    at[~there] = batch * prod(sizes)
    return at


@final
class ByColumn:
    """One matrix product an image.

    With a = C_in / G, o = C_out / G, r the taps and P' the output sites,

        y (G, o, P')  =  W (G, o, a r)  @  X (G, a r, P').

    Args:
        spec: of the operator.
        tables: per axis, (places, taps) sources.
    """

    def __init__(self, spec: ConvSpec, tables: list[Array]) -> None:
        """Combine the tables of all axes."""
        self.spec = spec
        self.out = tuple(len(table) for table in tables)
        places = [backward(table, n) for table, n in zip(tables, spec.size, strict=True)]
        sites = prod(self.out)
        sources, targets = [], []
        for number, taps in enumerate(product(*(range(k) for k in spec.kernel_size))):
            heard = [table[:, t] for table, t in zip(tables, taps, strict=True)]
            sources.append(flat(heard, spec.size, 1))
            spoken = [table[:, t] for table, t in zip(places, taps, strict=True)]
            for nth in product(*(range(column.shape[1]) for column in spoken)):
                columns = [column[:, m] for column, m in zip(spoken, nth, strict=True)]
                targets.append(number * (sites + 1) + flat(columns, self.out, 1))
        self._sources = np.stack(sources)  # (r, P')
        self._targets = np.stack(targets)  # (r or more, P) in (r, P' + 1)

    def convolve(self, x: Array, w: Array) -> Array:
        """Return y (B, C_out, *out) without a bias."""
        s, matrix = self.spec, self._matrix(w)
        y = np.empty((s.batch, *matrix.shape[:2], prod(self.out)), dtype=np.result_type(x, w))
        for image, some, columns in self._columns(x):
            np.matmul(matrix, columns, out=y[image, ..., some])
        return y.reshape(s.batch, s.out_channels, *self.out)

    def grad_x(self, w: Array, g: Array) -> Array:
        """Return (B, C_in, *size)."""
        s, dtype = self.spec, np.result_type(w, g)
        matrix, heads = self._matrix(w).swapaxes(1, 2), self._grouped(g)
        each, sites = s.in_channels // s.groups, heads.shape[-1]
        total = np.empty((s.batch, s.groups, each, prod(s.size)), dtype=dtype)
        step = max(1, BAND_ENTRIES // max(s.groups * s.taps * (sites + 1), 1))
        for at in range(0, each, step):
            some = slice(at, min(at + step, each))
            rows = matrix[:, some.start * s.taps : some.stop * s.taps]
            sent = np.zeros((*rows.shape[:2], sites + 1), dtype=dtype)  # the last hears nobody
            for image in range(s.batch):
                np.matmul(rows, heads[image], out=sent[..., :-1])
                by_channel = sent.reshape(s.groups, some.stop - at, -1)
                said = (by_channel.take(places, axis=-1) for places in self._targets)
                total[image, :, some] = sum(said, start=next(said))
        return total.reshape(s.x_shape)

    def grad_w(self, x: Array, g: Array) -> Array:
        """Return the gradient in the layout of w."""
        s, heads = self.spec, self._grouped(g)
        each, other = s.in_channels // s.groups, s.out_channels // s.groups
        found = np.zeros((s.groups, other, each * s.taps), dtype=np.result_type(x, g))
        for image, some, columns in self._columns(x):
            found += heads[image, ..., some] @ columns.swapaxes(1, 2)
        if s.transposed:
            found = found.reshape(s.groups, other, each, s.taps).swapaxes(1, 2)
        return found.reshape(s.w_shape)

    def _matrix(self, w: Array) -> Array:
        """(G, o, a r)."""
        s = self.spec
        grouped = w.reshape(s.groups, w.shape[0] // s.groups, w.shape[1], s.taps)
        if s.transposed:
            grouped = grouped.swapaxes(1, 2)
        return grouped.reshape(*grouped.shape[:2], -1)

    def _grouped(self, image: Array) -> Array:
        """(B, G, C / G, pixels)."""
        batch, channels = image.shape[:2]
        return image.reshape(batch, self.spec.groups, channels // self.spec.groups, -1)

    def _columns(self, x: Array) -> Iterator[tuple[int, slice, Array]]:
        """Per image, and per stretch of its sites, what they read: (G, a r, stretch)."""
        s = self.spec
        pixels = np.zeros((s.batch, s.in_channels, prod(s.size) + 1), dtype=x.dtype)
        pixels[..., :-1] = x.reshape(s.batch, s.in_channels, -1)  # the last is nothing
        step = max(1, BAND_ENTRIES // max(s.in_channels * s.taps, 1))
        for image in range(s.batch):
            for at in range(0, self._sources.shape[1], step):
                some = slice(at, at + step)
                columns = pixels[image].take(self._sources[:, some], axis=-1)
                yield image, some, columns.reshape(s.groups, -1, columns.shape[-1])


@final
class ByBand:
    """The last axis as a banded matrix a group; the other axes as rows to stack.

    With a = C_in / G, o = C_out / G, r the taps of the other axes and W, W' the last axis,

        y (G, rows', o W')  =  X (G, rows', r a W)  @  band (G, r a W, o W').
    """

    def __init__(self, spec: ConvSpec, tables: list[Array]) -> None:
        """Combine the tables of all axes but the last."""
        self.spec, self.last = spec, tables[-1]
        self.out = tuple(len(table) for table in tables)
        self.a, self.o = spec.in_channels // spec.groups, spec.out_channels // spec.groups
        lead, size, out = tables[:-1], spec.size[:-1], self.out[:-1]
        places = [backward(table, n) for table, n in zip(lead, size, strict=True)]
        sources, self.targets = [], []
        for number, taps in enumerate(product(*(range(k) for k in spec.kernel_size[:-1]))):
            heard = [table[:, t] for table, t in zip(lead, taps, strict=True)]
            sources.append(flat(heard, size, spec.batch))
            spoken = [table[:, t] for table, t in zip(places, taps, strict=True)]
            for nth in product(*(range(column.shape[1]) for column in spoken)):
                columns = [column[:, m] for column, m in zip(spoken, nth, strict=True)]
                self.targets.append((number, flat(columns, out, spec.batch)))
        self.sources = np.stack(sources, axis=1)  # (rows', r)

    def convolve(self, x: Array, w: Array) -> Array:
        """Return y (B, C_out, *out) without a bias."""
        s, dtype = self.spec, np.result_type(x, w)
        y = np.empty((s.groups, len(self.sources), self.o * self.out[-1]), dtype=dtype)
        for some in self._blocks():
            y[some] = self._stacked(x, some) @ self._band(w, some)
        return self._to_image(y[:, :, :], self.o, self.out)

    def grad_x(self, w: Array, g: Array) -> Array:
        """Return (B, C_in, *size)."""
        s, dtype = self.spec, np.result_type(w, g)
        width = self.a * s.size[-1]
        rows = s.batch * prod(s.size[:-1])
        total = np.zeros((s.groups, rows, width), dtype=dtype)
        heads = self._from_image(g, self.o)
        for some in self._blocks():
            sent = heads[some, :-1] @ self._band(w, some).swapaxes(1, 2)
            sent = sent.reshape(*sent.shape[:2], -1, width)
            nothing = np.zeros((len(sent), 1, *sent.shape[2:]), dtype=dtype)
            sent = np.concatenate([sent, nothing], axis=1)
            for number, where in self.targets:
                total[some] += sent[:, where, number]
        return self._to_image(total, self.a, s.size)

    def grad_w(self, x: Array, g: Array) -> Array:
        """Return the gradient in the layout of w."""
        s, dtype = self.spec, np.result_type(x, g)
        reach, k = self.sources.shape[1], s.kernel_size[-1]
        found = np.zeros((s.groups, self.o, self.a, reach, k), dtype=dtype)
        heads = self._from_image(g, self.o)
        for some in self._blocks():
            band = self._stacked(x, some).swapaxes(1, 2) @ heads[some, :-1]
            band = band.reshape(len(band), reach, self.a, s.size[-1], self.o, self.out[-1])
            for t, (place, source) in enumerate(self._columns()):
                diagonal = band[:, :, :, source, :, place].sum(axis=0)  # (block, r, a, o)
                found[some, :, :, :, t] = diagonal.transpose(0, 3, 2, 1)
        if s.transposed:
            found = found.swapaxes(1, 2)
        return found.reshape(s.w_shape)

    def _blocks(self) -> Iterator[slice]:
        s, reach = self.spec, self.sources.shape[1]
        columns = reach * self.a * s.size[-1]
        entries = columns * max(len(self.sources), self.o * self.out[-1])
        step = max(1, BAND_ENTRIES // max(entries, 1))
        return (slice(at, min(at + step, s.groups)) for at in range(0, s.groups, step))

    def _columns(self) -> Iterator[tuple[Array, Array]]:
        """Per tap of the last axis, the places that hear and the sources they hear."""
        for column in self.last.T:
            place = np.flatnonzero(column >= 0)
            yield place, column[place]

    def _band(self, w: Array, some: slice) -> Array:
        """(block, r a W, o W')."""
        s, reach, k = self.spec, self.sources.shape[1], self.spec.kernel_size[-1]
        grouped = w.reshape(s.groups, w.shape[0] // s.groups, w.shape[1], reach, k)[some]
        if s.transposed:
            grouped = grouped.swapaxes(1, 2)
        taps = grouped.transpose(0, 3, 2, 1, 4)  # (block, r, a, o, k)
        n = len(taps)
        band = np.zeros((n, reach, self.a, s.size[-1], self.o, self.out[-1]), dtype=w.dtype)
        for t, (place, source) in enumerate(self._columns()):
            band[:, :, :, source, :, place] += taps[None, ..., t]
        return band.reshape(n, reach * self.a * s.size[-1], self.o * self.out[-1])

    def _stacked(self, x: Array, some: slice) -> Array:
        """(block, rows', r a W): the rows of x that each row of y reads."""
        s = self.spec
        first, last = some.start * self.a, some.stop * self.a
        rows = self._from_image(x[:, first:last], self.a)
        return rows[:, self.sources].reshape(len(rows), len(self.sources), -1) if s.d else rows

    def _from_image(self, image: Array, per_group: int) -> Array:
        """(B, G c, *size) as (G, B * lead + 1, c W); the last row is nothing."""
        batch, channels, width = image.shape[0], image.shape[1], image.shape[-1]
        groups = channels // per_group
        split = image.reshape(batch, groups, per_group, -1, width).transpose(1, 0, 3, 2, 4)
        rows = np.zeros((groups, batch * split.shape[2] + 1, per_group * width), dtype=image.dtype)
        rows[:, :-1] = split.reshape(groups, -1, per_group * width)
        return rows

    def _to_image(self, rows: Array, per_group: int, size: tuple[int, ...]) -> Array:
        groups, batch = len(rows), self.spec.batch
        split = rows.reshape(groups, batch, -1, per_group, size[-1]).transpose(1, 0, 3, 2, 4)
        return split.reshape(batch, groups * per_group, *size)
