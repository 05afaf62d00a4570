"""Where the maps of a plan lie: what each position stands for, from the operators alone.

    position p of a map's axis -> pixels [first, end) of a root; nobody; everybody

The rule is that of networks on masks (`convgraph.proof.equation.map_positions`), asked by names and
arguments as torch has them. Who is there is asked where maps of different places meet, and where
one was shuffled; anything else is a rule of each axis by itself.
"""

import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convgraph.errors import ProofError
from convgraph.proof.equation import map_positions
from convgraph.proof.equation.in_space import Operator
from convgraph.proof.equation.map_positions import EVERYBODY, NOBODY, Edges, MapPositions

LARGEST = 2**30
"""Pixels of a map that is looked at as a whole."""

LONGEST = 2**20
"""Positions of an axis whose edges are fractions here."""


@dataclass(frozen=True, eq=False)
class Mask:
    """Which pixels of an image are there.

    Attributes:
        here: bools, of the image's size or coarser by a whole factor.
        size: of the image, as an array (pixels).
        starts: first pixel that each bool stands for along each axis.
    """

    here: Any
    size: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]

    @cached_property
    def whole(self) -> Tensor:
        """(1, *size) bool."""
        found = np.asarray(self.here, bool)
        for axis, (n, starts) in enumerate(zip(self.size, self.starts, strict=True)):
            found = np.repeat(found, np.diff([*starts, n]), axis)
        return torch.from_numpy(np.ascontiguousarray(found))[None]

    def to_fields(self) -> dict[str, Any]:
        """Return it as plain data."""
        here = np.asarray(self.here, bool)
        bits = b64encode(zlib.compress(np.packbits(here).tobytes(), 9)).decode()
        starts = [list(map(int, one)) for one in self.starts]
        return {"starts": starts, "size": list(self.size), "bits": bits}

    @classmethod
    def from_fields(cls, found: Any, most: int) -> "Mask":
        """The way back, of at most so many bools.

        Raises:
            ProofError: it is no mask.
        """
        if not isinstance(found, dict) or set(found) != {"starts", "size", "bits"}:
            raise ProofError("expected a mask with the fields bits, size, starts")
        starts, size = tuple(map(tuple, found["starts"])), tuple(found["size"])
        shape = tuple(map(len, starts))
        good = all(type(n) is int and 0 < n <= most for n in (*shape, *size))
        if not good or len(shape) != len(size) or prod(shape) > most:
            raise ProofError(f"expected a mask of at most {most} bools")
        for line, n in zip(starts, size, strict=True):
            if line[0] != 0 or any(a >= b for a, b in pairwise((*line, n))):
                raise ProofError(f"expected bools of a mask that start in order within {n} pixels")
        count = -(-prod(shape) // 8)
        text = zlib.decompressobj().decompress(b64decode(found["bits"], validate=True), count)
        if len(text) != count:
            raise ProofError("expected as many bits as the mask has bools")
        bits = np.unpackbits(np.frombuffer(text, np.uint8), count=prod(shape))
        return cls(bits.astype(bool).reshape(shape), size, starts)


@dataclass(frozen=True, eq=False)
class PlacedMap:
    """A map: the edges of its positions, on a root of some size."""

    root: Any  # has `whole`
    axes: tuple[Edges, ...]

    @property
    def size(self) -> tuple[int, ...]:
        """Positions along each axis."""
        return tuple(map(len, self.axes))

    @cached_property
    def whole(self) -> Tensor:
        """Which positions are there, (1, *size) bool."""
        if max(prod(self.root.size), prod(self.size)) > LARGEST:
            raise ProofError(
                f"judge_plan: expected at most {LARGEST} pixels of a mask where maps of other "
                "places meet; give a smaller image"
            )
        return MapPositions(self.root.whole, self.axes).there

    def stands(self, axis: int) -> Any:
        """(n, 2) int64: first pixel of the root and end; 0, 0 for nobody, -2, -2 for everybody."""
        if axis not in self._stands:
            found = np.zeros((len(self.axes[axis]), 2), np.int64)
            n = self.root.size[axis]
            for p, edge in enumerate(self.axes[axis]):
                if edge == EVERYBODY:
                    found[p] = -2
                elif edge != NOBODY:
                    some = [q for q in _ends(edge[0], edge[1], n) if 0 <= q < n]
                    found[p] = (some[0], some[-1] + 1) if some else 0
            self._stands[axis] = found
        return self._stands[axis]

    @cached_property
    def _stands(self) -> dict[int, Any]:
        return {}

    def step(self, call: Any) -> "PlacedMap":
        """Each axis becomes call(axis, edges), or, in pieces, the same stretch of its own."""
        found = [call(axis, edges) for axis, edges in enumerate(self.axes)]
        if any(one is None for one in found):
            size = [call(axis, None) for axis in range(len(self.axes))]
            own = PlacedMap(self, tuple(map(map_positions.start, self.size)))
            return PlacedMap(self, tuple(
                map_positions.resized(edges, n) or edges
                for edges, n in zip(own.axes, size, strict=True)
            ))  # fmt: skip
        return PlacedMap(self.root, tuple(found))


def _ends(low: Any, high: Any, n: int) -> list[int]:
    """First and last pixel between two edges, within a root."""
    first, last = (low // 1, low // 1) if high - low < 1 else (-(-low // 1), -(-high // 1) - 1)
    return [int(max(first, 0)), int(min(last, n - 1))] if first <= last and last >= 0 else []


def placed_maps(operators: Sequence[Operator], mask: Mask) -> dict[int, PlacedMap]:
    """Return where each map with absent pixels lies; 0 is the image.

    Args:
        operators: in order.
        mask: of the image.

    Raises:
        ProofError: an operator whose rule is not described here.
    """
    if max(mask.size) > LONGEST:
        raise ProofError(f"judge_plan: expected a mask of at most {LONGEST} pixels a side")
    found = {0: PlacedMap(mask, tuple(map(map_positions.start, mask.size)))}
    for one in operators:
        maps = [found[source] for source in one.sources if source in found]
        if not maps:
            continue
        if prod(one.out) == 1:  # a readout has no mask
            continue
        out = one.out
        if len(out) < len(mask.size):  # cells of a space are one axis
            out = tuple(one.arguments.get("array_out", maps[0].size))
        if one.name:
            found[one.result] = _through(one, maps[0], out)
        else:
            found[one.result] = _met([m for m in maps if m.size == out], maps[0], out)
    return found


def stood(found: PlacedMap, axes: int, axis: int, positions: Any) -> Any:
    """Return what positions of a plan of so many axes stand for, (P, 2); of cells (P, 4)."""
    if axes == len(found.axes):
        return found.stands(axis)[positions]
    at = np.divmod(positions, found.size[-1])
    return np.concatenate([found.stands(k)[one] for k, one in enumerate(at)], 1)


def _met(maps: Sequence[PlacedMap], first: PlacedMap, out: Sequence[int]) -> PlacedMap:
    if not maps:
        return first.step(_resized(out))
    met = maps[0]
    for other in maps[1:]:
        if met is other or (met.root is other.root and met.axes == other.axes):
            continue
        both = met.whole | other.whole
        same = [one for one in (met, other) if torch.equal(both, one.whole)]
        met = (
            same[0] if same else PlacedMap(_Known(both), tuple(map(map_positions.start, met.size)))
        )
    return met


@dataclass(frozen=True, eq=False)
class _Known:
    whole: Tensor

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(self.whole.shape[1:])


def _resized(out: Sequence[int]) -> Any:
    return lambda axis, edges: (
        out[axis] if edges is None else map_positions.resized(edges, out[axis])
    )


def _through(one: Operator, map_: PlacedMap, out: tuple[int, ...]) -> PlacedMap:
    """Where the results of an operator lie that reads other positions than its own."""
    a, d, name = one.arguments, len(out), one.name
    if "space" in a or name.startswith("upsample"):
        return map_.step(_resized(out))

    def each(key: str, default: Any) -> list[int]:
        value = a.get(key, default)
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        return [int(v) for v in (values * d if len(values) == 1 else values or default)]

    def call(axis: int, edges: Any) -> Any:
        if edges is None:
            return out[axis]
        if name == "pad":
            return _taken(edges, _pads(a, axis, d, len(edges)))
        if name == "slice":
            start, end, step = a["bounds"][axis]
            return _taken(edges, list(range(len(edges))[int(start) : int(end) : int(step)]))
        if name in ("pixel_shuffle", "pixel_unshuffle"):
            back = name == "pixel_shuffle"
            r = int(a["upscale_factor" if back else "downscale_factor"])
            if back:
                return map_positions.reversed_kernel(edges, out[axis], r, r, 0, 1)
            return map_positions.kernel(edges, out[axis], r, r, (0, 0), 1)
        k = [int(n) for n in a["kernel"]] if "kernel" in a else each("kernel_size", 1)
        s, gap = each("stride", k if "pool" in name else [1] * d), each("dilation", 1)
        if name.startswith("conv_transpose"):
            pad = each("padding", 0)[axis]
            return map_positions.reversed_kernel(edges, out[axis], k[axis], s[axis], pad, gap[axis])
        if not name.startswith(("conv", "max_pool", "avg_pool")):
            raise ProofError(f"judge_plan: the judge has no rule for the mask of {one.title}")
        reach = gap[axis] * (k[axis] - 1) * (a.get("padding") == "same")
        pads = (reach // 2, reach - reach // 2)
        if not isinstance(a.get("padding", 0), str):
            pads = (each("padding", 0)[axis],) * 2
        return map_positions.kernel(edges, out[axis], k[axis], s[axis], pads, gap[axis])

    return map_.step(call)


def _pads(a: Mapping[str, Any], axis: int, d: int, n: int) -> list[Any]:
    flat, k = list(a["pad"]), 2 * (d - 1 - axis)
    before, after = (int(v) for v in flat[k : k + 2]) if k < len(flat) else (0, 0)
    return map_positions.pad_sources(n, before, after, a["mode"], float(a.get("value") or 0))


def _taken(edges: Edges, sources: Sequence[Any]) -> Edges:
    return tuple(edges[s] if isinstance(s, int) else s for s in sources)
