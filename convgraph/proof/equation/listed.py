"""How the oracle adds up where sources are listed: any tap may hear several, with weights.

    y += (sum over k of  weight[t, :, k] rows[source[t, :, k]]) W[t]        for each tap t

Weights are whole numbers of 2^-16, so in floats that leave that room nothing rounds.
"""

from math import prod
from typing import Any, final

import numpy as np
import numpy.typing as npt

from convgraph.errors import ProofError
from convgraph.proof.equation import spaces
from convgraph.proof.equation.spec import ConvSpec

Array = npt.NDArray[Any]


def lists(spec: ConvSpec, out: tuple[int, ...]) -> list[spaces.Heard]:
    """Per tap, cells (P, K) of the finer lattice and weights, at the cells of the coarser one.

    A transposed kernel sends along the same edges the other way.
    """
    if spec.space is None:
        raise ProofError("a spec without a space has tables, no lists")
    fine, coarse = (out, spec.size) if spec.transposed else (spec.size, out)
    kernel = {
        name: getattr(spec, name)
        for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    }
    found = spaces.heard(spec.space, fine, coarse, kernel)
    for tap, (sources, _) in enumerate(found):
        if sources.shape[0] != prod(coarse):
            raise ProofError(
                f"ConvSpec: {fine} pixels of {dict(spec.space)} give {sources.shape[0]} sites "
                f"through tap {tap}, not {coarse}; padding and stride do not fit the space"
            )
    return found


@final
class ByList:
    """One weighted gather and one product a tap.

    Args:
        spec: of an operator in a space.
        out: output lattice.
        found: from `lists`.
    """

    def __init__(self, spec: ConvSpec, out: tuple[int, ...], found: list[spaces.Heard]) -> None:
        """Put the images of the batch one behind the other."""
        self.spec, self.out = spec, out
        fine, coarse = (out, spec.size) if spec.transposed else (spec.size, out)
        self.ends = spec.batch * prod(fine), spec.batch * prod(coarse)
        shift = np.arange(spec.batch)[:, None, None] * prod(fine)
        self.heard: list[spaces.Heard] = []
        for sources, weights in found:
            cells = np.where(sources < 0, self.ends[0], sources + shift)
            self.heard.append(
                (cells.reshape(-1, sources.shape[1]), np.tile(weights, (spec.batch, 1)))
            )

    def convolve(self, x: Array, w: Array) -> Array:
        """Return y (B, C_out, *out) without a bias."""
        rows, taps, s = _rows_of(x), self._matrices(w), self.spec
        y = np.zeros((s.batch * prod(self.out), s.out_channels), dtype=np.result_type(x, w))
        for heard, tap in zip(self.heard, taps, strict=True):
            matrix = tap.swapaxes(1, 2)
            if s.transposed:
                self._tell(y, heard, _product_of(rows[:-1], matrix))
            else:
                y += _product_of(self._hear(rows, heard), matrix)
        return _image_of(y, (s.batch, s.out_channels, *self.out))

    def grad_x(self, w: Array, g: Array) -> Array:
        """Return (B, C_in, *size)."""
        rows, taps, s = _rows_of(g), self._matrices(w), self.spec
        total = np.zeros((prod(s.image_shape), s.in_channels), dtype=np.result_type(g, w))
        for heard, tap in zip(self.heard, taps, strict=True):
            if s.transposed:
                total += _product_of(self._hear(rows, heard), tap)
            else:
                self._tell(total, heard, _product_of(rows[:-1], tap))
        return _image_of(total, s.x_shape)

    def grad_w(self, x: Array, g: Array) -> Array:
        """Return the gradient in the layout of w."""
        rows, heads, s = _rows_of(x), _rows_of(g), self.spec
        blocks = []
        for heard in self.heard:
            left, right = (
                (rows[:-1], self._hear(heads, heard))
                if s.transposed
                else (self._hear(rows, heard), heads[:-1])
            )
            one = left.reshape(len(left), s.groups, s.in_channels // s.groups)
            two = right.reshape(len(right), s.groups, s.out_channels // s.groups)
            blocks.append(one.transpose(1, 2, 0) @ two.transpose(1, 0, 2))
        stacked = np.stack(blocks, axis=-1)
        if not s.transposed:
            stacked = stacked.swapaxes(1, 2)
        return stacked.reshape(s.w_shape)

    def _matrices(self, w: Array) -> Array:
        """(taps, G, C_out / G, C_in / G); a product reads a matrix as fast from either side."""
        s = self.spec
        whole = np.ascontiguousarray(w.reshape(-1, s.taps).T)
        taps = whole.reshape(s.taps, s.groups, w.shape[0] // s.groups, w.shape[1])
        return taps.swapaxes(2, 3) if s.transposed else taps

    def _hear(self, rows: Array, heard: spaces.Heard) -> Array:
        """(coarse, C): what the sources of a tap say together."""
        cells, weights = heard
        total: Array | None = None
        for cell, weight in zip(cells.T, weights.T, strict=True):
            said = rows[cell] if _plain(weight) else rows[cell] * _share(weight, rows)
            total = said if total is None else total + said
        if total is None:
            raise ProofError("a tap without room for a source")
        return total

    def _tell(self, total: Array, heard: spaces.Heard, said: Array) -> None:
        """Add what the coarse cells say to the fine ones that they hear."""
        cells, weights = heard
        for cell, weight in zip(cells.T, weights.T, strict=True):
            there = cell < self.ends[0]
            rows = said if _plain(weight) else said * _share(weight, said)
            np.add.at(total, cell[there], rows[there])


def _plain(weight: Array) -> bool:
    """Whether every source that is there counts once, and none other is looked at."""
    return bool(((weight == spaces.ONE) | (weight == 0)).all())


def _share(weight: Array, like: Array) -> Array:
    """(P, 1) weights in floats that have the room for them."""
    if not np.issubdtype(like.dtype, np.floating):
        raise ProofError("numbers this large leave no room for weights; draw smaller integers")
    return (weight[:, None] / spaces.ONE).astype(like.dtype)


def _rows_of(image: Array) -> Array:
    """(B, C, *size) as (B * pixels + 1, C); the last row is nothing."""
    channels = image.shape[1]
    rows = np.zeros((image.size // max(channels, 1) + 1, channels), dtype=image.dtype)
    rows[:-1] = np.moveaxis(image, 1, -1).reshape(-1, channels)
    return rows


def _image_of(rows: Array, shape: tuple[int, ...]) -> Array:
    """Return rows (B * pixels, C) as an image of that shape (B, C, *size)."""
    return np.moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1)


def _product_of(rows: Array, tap: Array) -> Array:
    """(n, C_in) through (G, C_in / G, C_out / G)."""
    groups, c_in, c_out = tap.shape
    if groups == 1:
        whole: Array = rows @ tap[0]
        return whole
    if c_in == c_out == 1:
        return rows * tap[:, 0, 0]
    blocks = rows.reshape(len(rows), groups, c_in).transpose(1, 0, 2)
    return (blocks @ tap).transpose(1, 0, 2).reshape(len(rows), groups * c_out)
