"""The verifier's own geometry of spaces and footprints: who speaks through which tap, and how loud.

    torus            the array is padded by itself, axis by axis
    hexagonal        a hexagon's steps go along a row, a column, or back along both at once
    equirectangular  over a pole comes the same row, half way round; in a tangent plane a tap is a
                     point that is turned up by the latitude of its site
    healpix          twelve squares that are glued where they share two corners
    edges            the list itself

It lies beside verifier.py, which reads it when a record speaks of a space or a footprint, and
imports nothing of the package either. Weights are whole numbers of 2^-16.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

Edges = Callable[[dict[str, Any], Sequence[int]], tuple[list[Any], Any]]

ONE = 2**16
_PADS: dict[str, Any] = {
    "reflect": "reflect", "replicate": "edge", "circular": "wrap", "zeros": "constant",
}  # fmt: skip


def heard(
    spec: dict[str, Any], near: Sequence[int], far: Sequence[int]
) -> Iterator[tuple[Any, Any]]:
    """Yield per tap which cells each site reads, (P, K), -1 for none, and how loud, of one image.

    Args:
        spec: the integers of a record.
        near: size of the lattice of sites, that of the image where the kernel is transposed.
        far: size of the lattice that taps read along.

    Example:
        >>> torus = {"kind": "torus", "rows": True, "columns": True}
        >>> spec = dict(kernel_size=[1, 3], stride=[1, 1], dilation=[1, 1], padding_mode="zeros",
        ...             padding=[[0, 0], [1, 1]], footprint=None, space=torus)
        >>> [cells.ravel().tolist() for cells, _ in heard(spec, [1, 3], [1, 3])]
        [[2, 0, 1], [0, 1, 2], [1, 2, 0]]
    """
    for there, (cells, shares) in zip(_footprint(spec), _read(spec, near, far), strict=True):
        yield np.where(there, cells, -1), shares / ONE


def locally_square(spec: dict[str, Any], out: Sequence[int], typed_edges: Edges) -> str:
    """Say at how many output sites every edge is the plane's, in the words of a record.

    The plane is each chart by itself, without padding modes: beyond its border there is nobody.

    Args:
        spec: the integers of a record.
        out: size of its output.
        typed_edges: the verifier's, which calls `heard`.
    """
    space = spec["space"] or {"kind": "hexagonal"}
    if space["kind"] in ("hexagonal", "edges"):
        return ""
    faces = 12 if space["kind"] == "healpix" else 1
    charts = {
        **spec, "space": None, "batch": spec["batch"] * faces, "padding_mode": "zeros",
        "size": [spec["size"][0] // faces, spec["size"][1]],
    }  # fmt: skip
    mine = _listed(spec, typed_edges(spec, out)[0])
    plane = _listed(spec, typed_edges(charts, [out[0] // faces, out[1]])[0])
    key, between, pixels = mine[0], mine[1] != 1, prod(spec["size"]) * spec["batch"]
    odd = np.setxor1d(key[~between], plane[0]) // pixels // prod(spec["kernel_size"])
    mixed = key[between] // pixels // prod(spec["kernel_size"])
    sites = spec["batch"] * prod(out)
    return f"; locally square at {sites - len(np.union1d(odd, mixed))} of {sites} sites"


def _listed(spec: dict[str, Any], edges: list[Any]) -> tuple[Any, Any]:
    """Every edge as one number, by target, tap and source, and its share."""
    taps, pixels = prod(spec["kernel_size"]), prod(spec["size"]) * spec["batch"]
    keys, loud = [], []
    for tap, (source, target, share) in enumerate(edges):
        keys.append((target.numpy() * taps + tap) * pixels + source.numpy())
        loud.append(share.numpy())
    return np.concatenate(keys), np.concatenate(loud)


def _footprint(spec: dict[str, Any]) -> Any:
    """(taps,) bool: which taps are there."""
    kernel = spec["kernel_size"]
    there = np.ones(prod(kernel), bool)
    if spec["footprint"] is not None:
        there &= np.array(spec["footprint"]) > 0
    hexagons = spec["space"] is not None and spec["space"]["kind"] == "hexagonal"
    if hexagons and len({*kernel}) == 1 and kernel[0] % 2:
        down, right = np.indices(kernel) - kernel[0] // 2
        there &= (abs(down) + abs(right) + abs(down + right)).ravel() <= kernel[0] - 1
    return there


def _read(
    spec: dict[str, Any], near: Sequence[int], far: Sequence[int]
) -> Iterator[tuple[Any, Any]]:
    """Per tap, cells (P, K) that the sites read, -1 for none, and their shares (P, K)."""
    space = spec["space"] or {"kind": "hexagonal"}
    kind = space["kind"]
    if kind == "edges":
        yield from _list(space, near[0], spec["kernel_size"][0])
        return
    if kind == "equirectangular" and space["taps"] == "tangent" and prod(spec["kernel_size"]) > 1:
        yield from _tangent(spec, near, far)
        return
    faces = 12 if kind == "healpix" else 1
    chart, sites = ([size[0] // faces, *size[1:]] for size in (far, near))
    if kind == "healpix":
        cells, shares = _sphere(space["corner"], chart[0], spec["padding"])
    else:
        cells = _flat(space, chart, spec)[None, ..., None]
        shares = np.full(cells.shape, ONE)
    for tap in np.ndindex(*spec["kernel_size"]):
        cut = [
            slice(start := t * gap, start + step * (n - 1) + 1, step)
            for t, gap, step, n in zip(tap, spec["dilation"], spec["stride"], sites, strict=True)
        ]
        read = (slice(None), *cut)
        k = cells.shape[-1]
        yield cells[read].reshape(-1, k), shares[read].reshape(-1, k)


def _flat(space: dict[str, Any], size: Sequence[int], spec: dict[str, Any]) -> Any:
    """One chart with its margins: pixels by number, -1 for none."""
    if space["kind"] == "equirectangular":
        (top, bottom), (left, right) = spec["padding"]
        rows = np.arange(-top, size[0] + bottom)[:, None]
        return _around(rows, np.arange(-left, size[1] + right), size)
    if space["kind"] not in ("torus", "hexagonal"):  # another glue is not the plane's
        raise ValueError(f"no space of kind {space['kind']!r} is known to this verifier")
    table = 1 + np.arange(prod(size)).reshape(size)
    for axis, pad in enumerate(spec["padding"]):
        round_ = space["kind"] == "torus" and space[("rows", "columns")[axis]]
        pads = [(0, 0)] * len(size)
        pads[axis] = tuple(pad)
        table = np.pad(table, pads, "wrap" if round_ else _PADS[spec["padding_mode"]])
    return table - 1


def _around(rows: Any, columns: Any, size: Sequence[int]) -> Any:
    """Cells of a panorama: a pole is walked over by half a turn, and the rows come back."""
    height, width = size
    turns, inside = np.divmod(rows, height)
    odd = turns % 2 != 0
    inside = np.where(odd, height - 1 - inside, inside)
    return inside * width + (columns + odd * (width // 2)) % width


def _tangent(
    spec: dict[str, Any], near: Sequence[int], far: Sequence[int]
) -> Iterator[tuple[Any, Any]]:
    """Four pixels around a point that stands out, east and north of a site, turned to the sky."""
    places, offsets = [], []
    for axis in (0, 1):
        gap, k = spec["dilation"][axis], spec["kernel_size"][axis]
        middle = gap * (k - 1) / 2
        start = middle - spec["padding"][axis][0]
        places.append(start + np.arange(near[axis]) * spec["stride"][axis])
        offsets.append(np.arange(k) * gap - middle)
    pixel = np.pi / far[0], 2 * np.pi / far[1]
    latitude = np.pi / 2 - (places[0] + 0.5) * pixel[0]
    for down, right in ((a, b) for a in offsets[0] for b in offsets[1]):
        north, east = -down * np.tan(pixel[0]), right * np.tan(pixel[1])
        up = np.sin(latitude) + north * np.cos(latitude)
        ahead = np.cos(latitude) - north * np.sin(latitude)
        angle = np.arctan2(up, np.hypot(ahead, east))
        rows = np.rint(((np.pi / 2 - angle) / pixel[0] - 0.5) * 256).astype(np.int64)
        beside = np.arctan2(east, ahead) / pixel[1]
        columns = np.rint((places[1] + beside[:, None]) * 256).astype(np.int64)
        row, below = (part[:, None] for part in np.divmod(rows, 256))
        column, behind = np.divmod(columns, 256)
        cells, shares = [], []
        for a, b in np.ndindex(2, 2):
            share = (below if a else 256 - below) * (behind if b else 256 - behind)
            cell = _around(row + a, column + b, far)
            cells.append(np.where(share > 0, cell, -1).ravel())
            shares.append(share.ravel())
        yield np.stack(cells, axis=1), np.stack(shares, axis=1)


def _list(space: dict[str, Any], nodes: int, taps: int) -> Iterator[tuple[Any, Any]]:
    """Edges by target, as many columns as one site hears at most."""
    listed = np.array([space["tap"], space["target"], space["source"]])
    for tap in range(taps):
        _, target, source = listed[:, listed[0] == tap]
        widest = int(np.bincount(target, minlength=1).max(initial=0)) if len(target) else 0
        cells = np.full((nodes, max(widest, 1)), -1)
        filled = np.zeros(nodes, dtype=int)
        for p, q in zip(target, source, strict=True):
            cells[p, filled[p]] = q
            filled[p] += 1
        yield cells, np.full(cells.shape, ONE)


# The sphere as twelve squares. Corners go by number: 0 and 1 are the poles, from 2, 6 and 10 on lie
# the four at the northern, middle and southern latitude. Of a square come first the corner where
# rows and columns begin, the far end of the rows, the far end of the columns, the opposite corner.


def _squares() -> list[list[int]]:
    ring = range(4)
    return [
        *([0, 2 + k, 2 + (k + 1) % 4, 6 + k] for k in ring),
        *([2 + k, 6 + (k - 1) % 4, 6 + k, 10 + k] for k in ring),
        *([6 + k, 10 + k, 10 + (k + 1) % 4, 1] for k in ring),
    ]


def _sides(corners: list[int]) -> dict[tuple[int, int], tuple[int, int]]:
    """(axis that is left, whether at its high end) -> corners from low to high along the side."""
    a, b, c, d = corners
    return {(0, 0): (a, c), (0, 1): (b, d), (1, 0): (a, b), (1, 1): (c, d)}


@lru_cache
def _next(face: int, side: tuple[int, int]) -> tuple[int, tuple[int, int], bool]:
    """The square on the other side, by which of its sides, and whether that runs the other way."""
    squares = _squares()
    ends = _sides(squares[face])[side]
    for other, corners in enumerate(squares):
        for back, found in _sides(corners).items():
            if other != face and {*found} == {*ends}:
                return other, back, found != ends
    raise ValueError("a side without a neighbour")


def _step(place: tuple[int, int, int], axis: int, n: int) -> tuple[int, int, int]:
    """Cross a side of this axis, if the place lies beyond one."""
    face, at = place[0], place[1:]
    if 0 <= at[axis] < n:
        return place
    high = int(at[axis] >= n)
    deep, along = (at[axis] - n if high else -1 - at[axis]), at[1 - axis]
    other, (back, end), turned = _next(face, (axis, high))
    found = [n - 1 - along if turned else along] * 2
    found[back] = n - 1 - deep if end else deep
    return other, found[0], found[1]


def _sphere(corner: str, n: int, padding: Sequence[Sequence[int]]) -> tuple[Any, Any]:
    """(12, h, w, 2) cells and shares of the squares with their margins."""
    (top, bottom), (left, right) = padding
    shape = 12, top + n + bottom, left + n + right, 2
    cells, shares = np.full(shape, -1), np.zeros(shape, dtype=np.int64)
    squares = _squares()
    often = np.bincount(np.array(squares).ravel())
    for face, a, b in np.ndindex(*shape[:3]):
        i, j = a - top, b - left
        ends: Any = [_end(i, n), _end(j, n)]
        if None in ends:
            found = [_step(_step((face, i, j), 0, n), 1, n)]
        elif often[squares[face][ends[0] + 2 * ends[1]]] == 4:
            found = [_walk((face, i, j), (0, 1, 0), n)]
        else:
            found = _three(face, (i, j), ends, n, corner)
        for k, (f, row, column) in enumerate(found):
            cells[face, a, b, k] = (f * n + row) * n + column
            shares[face, a, b, k] = ONE // len(found)
    return cells, shares


def _end(at: int, n: int) -> int | None:
    """0 before the first row, 1 behind the last, None between."""
    return 0 if at < 0 else 1 if at >= n else None


def _walk(place: tuple[int, int, int], axes: Sequence[int], n: int) -> tuple[int, int, int]:
    for axis in axes:
        place = _step(place, axis, n)
    return place


def _three(
    face: int, at: tuple[int, int], ends: list[int], n: int, corner: str
) -> list[tuple[int, int, int]]:
    """Diagonal to a corner that three squares share: nobody, so a rule."""
    if corner == "absent":
        return []
    if corner == "hpxpad" and face // 4 != 1:  # through the middle square, on to the pole's next
        first = 0 if _next(face, (0, ends[0]))[0] // 4 == 1 else 1
        return [_walk((face, *at), (first, 1 - first, first), n)]
    deep = [at[axis] - n if ends[axis] else -1 - at[axis] for axis in (0, 1)]
    off = max(abs(deep[0] - deep[1]) - 1, 0)
    found = []
    for axis in (0, 1):
        if deep[axis] >= deep[1 - axis]:
            beside = [off if end == 0 else n - 1 - off for end in ends]
            beside[axis] = at[axis]
            found.append(_step((face, beside[0], beside[1]), axis, n))
    return found
