"""Spaces of charts: taps read along charts that show, beyond their edges, what lies next door.

    sources[t, p] = halo[chart(p), p * stride - padding + t * dilation]

A halo is what a padding mode is in the plane: the positions beyond the border are folded back, by
a rule of the space. Everything else follows from the halo: the edges of kernels, pools and resizes,
and a way of computing them, dense on charts with margins.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from convgraph.errors import GeometryError
from convgraph.geometry.kernel import IntTable, KernelGeometry, Relation
from convgraph.geometry.padding import folded
from convgraph.geometry.resize import CUBIC_A, ResizeGeometry
from convgraph.geometry.space import FloatTable, Halo, Pads, Space, Table
from convgraph.geometry.window import WindowGeometry


def check(space: Space, relation: Relation, size: Sequence[int], out: Sequence[int]) -> None:
    """Refuse what does not fit the closed axes of a space of charts; see `Space.check`."""
    mode = getattr(relation, "padding_mode", "zeros")
    if not isinstance(mode, str):
        raise GeometryError(
            f"{space}: padding_mode={mode!r} names axes, but which of them close is said by the "
            "space; give the one mode of the others, or leave the space away"
        )
    number, height, width = space.charts(size)
    if out[0] % number or out[0] // number < 1:
        raise GeometryError(
            f"{space}: charts of {height}x{width} pixels would become an array of {tuple(out)}, "
            f"which is not {number} charts; {_advice(relation)}"
        )
    before, after = (height, width), (out[0] // number, out[1])
    if number > 1 and (height == width) != (after[0] == after[1]):
        raise GeometryError(
            f"{space}: charts of {height}x{width} pixels would become an array of {tuple(out)}, "
            "which is no map; both axes of a chart have to keep their proportion"
        )
    for axis, closed in enumerate(space.closed):
        if closed:
            _closed_axis(space, relation, axis, before[axis], after[axis])


def _closed_axis(space: Space, relation: Relation, axis: int, n: int, out: int) -> None:
    """A circle of n pixels becomes one of `out`: without a border, sizes have to fit exactly."""
    what = f"{space}: axis {axis} closes, and its {n} pixels would become {out}"
    if isinstance(relation, KernelGeometry):
        if out * relation.stride[axis] != n:
            raise GeometryError(
                f"{what} with stride {relation.stride[axis]} and padding {relation.padding[axis]}; "
                f"{_advice(relation)}"
            )
        return
    if isinstance(relation, WindowGeometry):
        if n % out:
            raise GeometryError(f"{what}: windows of one size need an output that divides {n}")
        return
    if isinstance(relation, ResizeGeometry):
        if relation.align_corners:
            raise GeometryError(
                f"{what}: without a border there are no corners, use align_corners=False"
            )
        factor = relation.scale_factor
        exact = factor is None or relation.recompute_scale_factor
        # The factor is the nearest double to a fraction: either way round, one division tells.
        if not exact and out / n != factor[axis] and n * factor[axis] != out:
            raise GeometryError(
                f"{what} by a factor of {factor[axis]}, which is not {out} / {n}; use size="
            )
        return
    raise GeometryError(f"{what}: {type(relation).__name__} has no meaning without a border")


def _advice(relation: Relation) -> str:
    if isinstance(relation, KernelGeometry):
        return (
            "a closed surface has no border to lose pixels at, so padding must be 'same' for its "
            "kernel and the stride must divide the charts"
        )
    return "the output has to be a multiple of the charts"


def table(
    space: Space, relation: Relation, size: Sequence[int], out: Sequence[int], cells: Any = None
) -> Table:
    """Who speaks where, read along the charts' halos; see `Space.table`."""
    number, height, width = space.charts(size)
    before, after = (height, width), (out[0] // number, out[1])
    if isinstance(relation, ResizeGeometry):
        places = [resized(relation.mode, n, m) for n, m in zip(before, after, strict=True)]
        positions, weights = [p for p, _ in places], [w for _, w in places]
        mode = "replicate"
    else:
        positions = [
            taken(relation, axis, n, m)
            for axis, (n, m) in enumerate(zip(before, after, strict=True))
        ]
        weights, mode = [None, None], getattr(relation, "padding_mode", "zeros")
    if cells is not None:
        return _at(space, size, after, positions, weights, mode, cells)
    pads = margins(positions, before)
    halo = space.halo(size, pads, mode)
    if halo is None:
        raise GeometryError(f"{space} has no charts")
    (rows, columns), (top, left) = positions, (pads[0][0], pads[1][0])

    def read(array: Any) -> Any:
        found = array[:, rows + top][:, :, :, columns + left]  # (F, h, kh, w, kw, K)
        h, kh, w, kw, k = found.shape[1:]
        return found.transpose(2, 4, 0, 1, 3, 5).reshape(kh * kw, number * h * w, k)

    spoken = None if halo.weights is None else read(halo.weights)
    if weights[0] is not None and weights[1] is not None:
        loud = weights[0][:, :, None, None] * weights[1][None, None]  # (h, kh, w, kw)
        loud = np.broadcast_to(loud, (number, *loud.shape)).transpose(2, 4, 0, 1, 3)
        loud = loud.reshape(loud.shape[0] * loud.shape[1], -1, 1)
        spoken = loud if spoken is None else spoken * loud
    sources = read(halo.sources)
    if spoken is not None:
        spoken = np.broadcast_to(spoken, sources.shape)
        sources = np.where(spoken == 0, -1, sources)  # a message that is always 0 is no edge
    return Table(sources, spoken)


def _at(
    space: Space, size: Sequence[int], after: Sequence[int], positions: Sequence[IntTable],
    weights: Sequence[FloatTable | None], mode: str, cells: IntTable,
) -> Table:  # fmt: skip
    """Who speaks at some output sites only: nothing of the array's size is made."""
    rows, column = np.divmod(cells, after[1])
    chart, row = np.divmod(rows, after[0])
    at = positions[0][row][:, :, None], positions[1][column][:, None, :]
    halo = space.places(size, chart[:, None, None], *at, mode)
    sources, spoken = halo.sources, halo.weights
    if weights[0] is not None and weights[1] is not None:
        loud = (weights[0][row][:, :, None] * weights[1][column][:, None, :])[..., None]
        spoken = loud if spoken is None else spoken * loud

    def taps(array: Any) -> Any:
        return np.moveaxis(array.reshape(len(cells), -1, sources.shape[-1]), 0, 1)

    if spoken is not None:
        spoken = np.broadcast_to(spoken, sources.shape)
        sources = np.where(spoken == 0, -1, sources)
        spoken = taps(spoken)
    return Table(taps(sources), spoken)


def taken(relation: Relation, axis: int, n: int, out: int) -> IntTable:
    """(out, taps) int64: where each output position of a chart looks, beyond its edges too."""
    if isinstance(relation, WindowGeometry):
        step = n // out
        return np.arange(out)[:, None] * step + np.arange(step)
    g: Any = relation
    start = np.arange(out)[:, None] * g.stride[axis] - g.padding[axis][0]
    found: IntTable = start + np.arange(g.kernel_size[axis]) * g.dilation[axis]
    return found


def resized(mode: str, n: int, out: int) -> tuple[IntTable, FloatTable | None]:
    """(out, taps) positions and weights of a resize along an axis without a border.

    Output position p looks at r = (p + 1/2) n / out - 1/2; the pixel before it and the fraction
    behind are worked out in integers.

    Example:
        >>> positions, weights = resized("linear", 3, 6)
        >>> positions[:2].tolist(), weights[:2].tolist()
        ([[-1, 0], [0, 1]], [[0.25, 0.75], [0.75, 0.25]])
    """
    p = np.arange(out, dtype=np.int64)
    if mode == "nearest":
        return (p * n // out)[:, None], None
    if mode == "nearest-exact":
        return ((2 * p + 1) * n // (2 * out))[:, None], None
    twice = (2 * p + 1) * n - out  # r = twice / (2 out)
    first = twice // (2 * out)
    t = (twice - first * 2 * out) / (2 * out)
    if mode != "bicubic":
        return first[:, None] + np.arange(2), np.stack([1 - t, t], axis=1)
    return first[:, None] + np.arange(-1, 3), cubic(t)


def cubic(t: FloatTable) -> FloatTable:
    """(out, 4) weights of Keys' kernel at distances 1 + t, t, 1 - t and 2 - t."""
    a = CUBIC_A

    def near(x: FloatTable) -> FloatTable:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: FloatTable) -> FloatTable:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return np.stack([far(t + 1), near(t), near(1 - t), far(2 - t)], axis=1)


def margins(positions: Sequence[IntTable], chart: Sequence[int]) -> Pads:
    """How far the positions look beyond a chart, before and after each axis."""
    return tuple(
        (max(0, -int(at.min(initial=0))), max(0, int(at.max(initial=0)) - n + 1))
        for at, n in zip(positions, chart, strict=True)
    )


def unfolded(size: Sequence[int], rows: Any, columns: Any, modes: Sequence[str]) -> Halo:
    """Places of a single chart whose axes are glued each by itself; see `Space.places`."""
    r, c = (
        folded(np.asarray(at), n, mode)
        for at, n, mode in zip((rows, columns), size, modes, strict=True)
    )
    return Halo(np.where((r >= 0) & (c >= 0), r * size[1] + c, -1)[..., None])


def separable(size: Sequence[int], pads: Pads, modes: Sequence[str]) -> Halo:
    """The halo of a single chart whose axes are glued each by itself.

    Args:
        size: of the chart.
        pads: margins.
        modes: per axis, how positions beyond the border are folded; see `folded`.
    """
    rows, columns = (
        folded(np.arange(-before, n + after), n, mode)
        for n, (before, after), mode in zip(size, pads, modes, strict=True)
    )
    there = (rows[:, None] >= 0) & (columns >= 0)
    sources = np.where(there, rows[:, None] * size[1] + columns, -1)
    return Halo(sources[None, :, :, None])
