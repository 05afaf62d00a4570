"""The judge's own geometry of spaces: who speaks to an output site through a tap.

    y[p] = b + sum over t of  w[:, :, t]  sum over k of  weight[t, p, k] x[source[t, p, k]]

Each space has a formula of its own here, written from its definition and unlike the code that is
judged: a torus is an array that is rolled; a panorama is half of a torus twice as tall; HEALPix is
walked in the plane of its projection, where the gaps at the poles close by a turn; taps in a
tangent plane are vectors. Weights are whole numbers of 2^-16.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from convgraph.errors import ProofError

Array = npt.NDArray[Any]

ONE = 2**16
"""What the weights of the sources of one tap add up to."""

Heard = tuple[Array, Array]
"""(P, K) source cells of one image, -1 for none, and (P, K) weights in units of 1 / ONE."""

_PADS = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def heard(
    space: Mapping[str, Any],
    size: Sequence[int],
    out: Sequence[int],
    kernel: Mapping[str, Any],
) -> list[Heard]:
    """Per tap, who speaks at each output site of one image.

    Args:
        space: its settings, "kind" among them.
        size: of the array that speaks.
        out: of the array that hears.
        kernel: kernel_size, stride, padding, dilation and padding_mode of a forward kernel.

    Raises:
        ProofError: a space that the judge does not know.

    Example:
        >>> kernel = dict(kernel_size=(1, 3), stride=(1, 1), padding=((0, 0), (1, 1)),
        ...               dilation=(1, 1), padding_mode="zeros")
        >>> torus = {"kind": "torus", "rows": True, "columns": True}
        >>> [sources.ravel().tolist() for sources, _ in heard(torus, (1, 3), (1, 3), kernel)]
        [[2, 0, 1], [0, 1, 2], [1, 2, 0]]
    """
    kind = space["kind"]
    if kind == "torus":
        return _torus(space, size, kernel)
    if kind == "healpix":
        return _healpix(space["corner"], size[1], out[1], kernel)
    if kind == "equirectangular":
        return (_tangent if space["taps"] == "tangent" else _wrapped)(size, out, kernel)
    if kind == "edges":
        return _typed(space, out[0], kernel["kernel_size"][0])
    raise ProofError(f"the judge knows no space of kind {kind!r}")


def beyond(space: Mapping[str, Any], size: Sequence[int], margin: int) -> tuple[Array, Array]:
    """(F, h + 2 m, w + 2 m, K) sources and weights: the charts of one image with their margins.

    Args:
        space: its settings.
        size: of the array.
        margin: m, pixels.
    """
    kind = space["kind"]
    if kind == "healpix":
        n = size[1]
        face, i, j = np.meshgrid(
            np.arange(12), *(np.arange(-margin, n + margin),) * 2, indexing="ij"
        )
        return _on_faces(face, i, j, n, space["corner"])
    grid = np.arange(size[0] * size[1]).reshape(size)
    if kind == "equirectangular":
        whole = np.concatenate([grid, np.roll(grid[::-1], size[1] // 2, axis=1)])
        rows = np.arange(-margin, size[0] + margin) % len(whole)
        wide = np.pad(whole[rows], ((0, 0), (margin, margin)), mode="wrap")
    elif kind == "torus":
        closed = (space["rows"], space["columns"])
        wide = grid
        for axis in (0, 1):
            pads = [(margin, margin) if a == axis else (0, 0) for a in (0, 1)]
            wide = np.pad(wide, pads, mode="wrap" if closed[axis] else "edge")
    else:
        raise ProofError(f"a space of kind {kind!r} has no margins")
    return wide[None, :, :, None], np.full((1, *wide.shape, 1), ONE)


def footprint(space: Mapping[str, Any] | None, kernel_size: Sequence[int]) -> Array | None:
    """(taps,) bool, or None for all: a hexagonal grid keeps what is within so many steps.

    A step along a row, along a column, or back along both at once leads to a neighbour.
    """
    if space is None or space["kind"] != "hexagonal":
        return None
    sides = set(kernel_size)
    if len(sides) != 1 or not min(sides) % 2:
        return None
    radius = min(sides) // 2
    reached = {(0, 0)}
    for _ in range(radius):
        reached |= {
            (a + i, b + j)
            for a, b in reached
            for i, j in ((0, 1), (0, -1), (1, 0), (-1, 0), (1, -1), (-1, 1))
        }
    return np.array([(a - radius, b - radius) in reached for a, b in np.ndindex(*kernel_size)])


def bends(space: Mapping[str, Any] | None) -> bool:
    """Whether taps land elsewhere than in the plane; a hexagonal grid only has fewer of them."""
    return space is not None and space["kind"] != "hexagonal"


def _whole(sources: Array) -> Heard:
    """One source a tap that counts once."""
    flat = sources.reshape(-1, 1)
    return flat, np.where(flat >= 0, ONE, 0)


def _typed(space: Mapping[str, Any], nodes: int, taps: int) -> list[Heard]:
    """Nodes in a row and a list of edges: a tap hears what it says, as often as it says so."""
    source, target, tap = (np.asarray(space[name]) for name in ("source", "target", "tap"))
    found = []
    for t in range(taps):
        q, p = source[tap == t], target[tap == t]
        order = np.argsort(p, kind="stable")
        q, p = q[order], p[order]
        place = np.arange(len(p)) - np.searchsorted(p, p)
        cells = np.full((nodes, max(int(place.max(initial=0)) + 1, 1)), -1)
        cells[p, place] = q
        found.append((cells, np.where(cells >= 0, ONE, 0)))
    return found


def _torus(space: Mapping[str, Any], size: Sequence[int], kernel: Mapping[str, Any]) -> list[Heard]:
    closed, axes = (space["rows"], space["columns"]), []
    for axis, n in enumerate(size):
        gap, step = kernel["dilation"][axis], kernel["stride"][axis]
        before, after = kernel["padding"][axis]
        taps = range(kernel["kernel_size"][axis])
        if closed[axis]:
            axes.append([np.roll(np.arange(n), before - t * gap)[::step] for t in taps])
            continue
        row = np.pad(np.arange(n) + 1, (before, after), mode=_PADS[kernel["padding_mode"]]) - 1  # type: ignore[call-overload]
        last = len(row) - gap * (len(taps) - 1)
        axes.append([row[t * gap : last + t * gap : step] for t in taps])
    return [
        _whole(np.where((r[:, None] >= 0) & (c >= 0), r[:, None] * size[1] + c, -1))
        for r, c in product(*axes)
    ]


def _wrapped(size: Sequence[int], out: Sequence[int], kernel: Mapping[str, Any]) -> list[Heard]:
    """A panorama and its mirror image half way round, one under the other, are a torus."""
    grid = np.arange(size[0] * size[1]).reshape(size)
    whole = np.concatenate([grid, np.roll(grid[::-1], size[1] // 2, axis=1)])
    found = []
    for tap in np.ndindex(*kernel["kernel_size"]):
        shift = [
            kernel["padding"][axis][0] - t * kernel["dilation"][axis] for axis, t in enumerate(tap)
        ]
        seen = np.roll(whole, shift, axis=(0, 1))
        steps = kernel["stride"]
        found.append(_whole(seen[:: steps[0], :: steps[1]][: out[0], : out[1]]))
    return found


def _tangent(size: Sequence[int], out: Sequence[int], kernel: Mapping[str, Any]) -> list[Heard]:
    """Points of the tangent plane as vectors, read between four pixels at 1 / 256 of a pixel."""
    height, width = size
    steps = [np.pi / height, 2 * np.pi / width]
    centre, offsets = [], []
    for axis in (0, 1):
        half = kernel["dilation"][axis] * (kernel["kernel_size"][axis] - 1) / 2
        start = half - kernel["padding"][axis][0]
        centre.append(start + np.arange(out[axis]) * kernel["stride"][axis])
        taps = np.arange(kernel["kernel_size"][axis])
        offsets.append(np.tan(steps[axis]) * (taps * kernel["dilation"][axis] - half))
    south = (centre[0][:, None] + 0.5) * steps[0] + 0 * centre[1]  # from the north pole
    east = (centre[1] + 0.5) * steps[1] + 0 * centre[0][:, None]
    sin, cos = np.sin, np.cos
    outward = np.stack([sin(south) * cos(east), sin(south) * sin(east), cos(south)])
    down = np.stack([cos(south) * cos(east), cos(south) * sin(east), -sin(south)])
    right = np.stack([-sin(east), cos(east), 0 * east])
    found = []
    for y, x in product(*offsets):
        seen = outward + y * down + x * right
        angle = np.arctan2(np.hypot(seen[0], seen[1]), seen[2])
        # Beside the site's own longitude: what is added to its column has a sign of its own.
        beside = np.arctan2(
            seen[1] * cos(east) - seen[0] * sin(east), seen[0] * cos(east) + seen[1] * sin(east)
        )
        r = np.rint((angle / steps[0] - 0.5) * 256).astype(np.int64)
        c = np.rint((centre[1] + beside / steps[1]) * 256).astype(np.int64)
        found.append(_between(r.ravel(), c.ravel(), height, width))
    return found


def _between(r: Array, c: Array, height: int, width: int) -> Heard:
    """The four pixels around places in 256ths of a pixel; over a pole half way round."""
    sources, weights = [], []
    for row, up in ((r >> 8, 256 - (r & 255)), ((r >> 8) + 1, r & 255)):
        for column, left in ((c >> 8, 256 - (c & 255)), ((c >> 8) + 1, c & 255)):
            over = (row < 0) | (row >= height)
            inside = np.where(row < 0, -1 - row, np.where(over, 2 * height - 1 - row, row))
            turned = (column + over * (width // 2)) % width
            weight = up * left
            sources.append(np.where(weight > 0, inside * width + turned, -1))
            weights.append(weight)
    return np.stack(sources, axis=1), np.stack(weights, axis=1)


# HEALPix, in the plane of its projection: a face is a square on its corner, 2 n wide and 2 n high,
# its pixels' centres lie on whole numbers; the sphere is 8 n around.


def _healpix(corner: str, n: int, out: int, kernel: Mapping[str, Any]) -> list[Heard]:
    face, p, q = (part.ravel() for part in np.indices((12, out, out)))
    found = []
    for tap in np.ndindex(*kernel["kernel_size"]):
        i, j = (
            at * kernel["stride"][axis] - kernel["padding"][axis][0] + t * kernel["dilation"][axis]
            for axis, (at, t) in enumerate(zip((p, q), tap, strict=True))
        )
        found.append(_on_faces(face, i, j, n, corner))
    return found


def _on_faces(face: Array, i: Array, j: Array, n: int, corner: str) -> Heard:
    """(..., 2) cells and weights of places on faces or up to n pixels beyond them."""
    depth = [np.maximum(-1 - at, at - n) for at in (i, j)]
    over = (depth[0] >= 0) & (depth[1] >= 0)
    polar = face // 4 != 1
    # Top and bottom of a face are its corners (low, low) and (high, high); left and right mix.
    sideways = (i < 0) != (j < 0)
    three = over & np.where(polar, sideways, ~sideways)
    straight = _cell(face, i, j, n)
    alone = np.stack([straight, np.full_like(straight, -1)], axis=-1)
    off = np.maximum(np.abs(depth[0] - depth[1]) - 1, 0)
    inside = [np.where(at < 0, off, n - 1 - off) for at in (i, j)]
    deeper = depth[0] >= depth[1]
    one = np.where(
        deeper,
        _cell(face, i, np.where(three, inside[1], j), n),
        _cell(face, np.where(three, inside[0], i), j, n),
    )
    equal = depth[0] == depth[1]
    other = np.where(equal, _cell(face, np.where(three, inside[0], i), j, n), -1)
    shared = np.stack([one, other], axis=-1)
    if corner == "absent":
        sources = np.where(three[..., None], -1, alone)
    else:
        by_rule = three & ~polar if corner == "hpxpad" else three
        sources = np.where(by_rule[..., None], shared, alone)
    speaks = sources >= 0
    weights = np.where(speaks, ONE // np.maximum(speaks.sum(-1, keepdims=True), 1), 0)
    return sources, weights


def _cell(face: Array, i: Array, j: Array, n: int) -> Array:
    """The pixel at a place beyond a face: straight on in the projection, gaps closed by turns."""
    ring, k = face // 4, face % 4
    tip = 2 * n * k + np.where(ring == 1, 0, n)
    x, y = tip + j - i, (2 - ring) * n - (i + j + 1)
    for _ in range(2):
        # Above a polar cap's height only four triangles are sphere; the gap that a walk fell into
        # begins at the corner right or left of the face it came from, and closes by a quarter turn.
        middle = np.floor_divide(x, 2 * n) * 2 * n + n
        gap = np.abs(y) - n > n - np.abs(x - middle)
        side = np.where(x >= tip, 1, -1)
        ax, ay = x - (tip + side * n), y - np.sign(y) * n
        turn = side * np.sign(y)  # clockwise where it is 1
        x = np.where(gap, tip + side * n + turn * ay, x)
        y = np.where(gap, np.sign(y) * n - turn * ax, y)
        tip = np.where(gap, tip + side * 2 * n, tip)
    found = np.full(x.shape, -1)
    for other in range(12):
        top = (2 - other // 4) * n
        left = 2 * n * (other % 4) + (0 if other // 4 == 1 else n)
        across = (x - left + 4 * n) % (8 * n) - 4 * n
        along = top - y - 1
        row, column = (along - across) // 2, (along + across) // 2
        fits = ((along - across) % 2 == 0) & (row >= 0) & (row < n) & (column >= 0) & (column < n)
        found = np.where(fits, (other * n + row) * n + column, found)
    return found
