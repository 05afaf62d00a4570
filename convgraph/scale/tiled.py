"""`cg.tiled`: a network on an image larger than memory, as a dask array, equal to the whole.

dask schedules, zarr stores. A block of the array is one tile of the output; its task reads the
window of the image that the tables name, runs the network on it, and keeps the tile.
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from convgraph.errors import ConversionError, GraphError, MissingExtraError
from convgraph.scale.mask_sites import MaskSites
from convgraph.scale.partial import check_mask, run
from convgraph.scale.passes import Pass, passes, readout, sums, together
from convgraph.scale.plan import Plan, plan
from convgraph.scale.source import Source
from convgraph.scale.tiling import Tiling, tiling


def tiled(
    net: nn.Module,
    image: Any,  # (C, *size)
    *,
    tile: Any = 2048,
    mask: Any = None,  # (*size) bool, or coarser by a whole factor
    channels_last: bool = False,
    held: Any = None,  # zarr, (C_out, *out_size)
    statistics: str = "tiles",
) -> Any:
    """Return a network's output on a large image as a dask array, computed tile by tile.

    Every tile equals the whole, whatever strides, pads, pools and resizes the network has: windows
    follow from the tables of its relations, and only the image's own borders are padded.

    Args:
        net: a dense network on images (1, C, *size) that returns one map; in evaluation.
        image: NumPy, zarr, dask, a tensor: anything that has a shape and takes slices. Its numbers
            become the network's dtype.
        tile: pixels of the output in a block along each axis, one number or one an axis, or the
            memory that a tile may take beside the network, as "512 MiB".
        mask: which pixels are there; an absent pixel is what padding is, as in `to_graph`, and a
            tile without a site is 0 without a reading or a run.
        channels_last: whether the image is (*size, C).
        held: a zarr array that an earlier run was writing into, its chunks as large as the tiles:
            the tiles that it holds are read from it and not computed again.
        statistics: "passes" also takes what hears the whole map through a mean or a variance:
            instance and group norm, means over the map, pools over everything. Each is a pass
            over the image of its own, from its beginning: `convgraph.scale.passes.times` says how
            much more work that is. What was trained on patches has its statistics from patches,
            and is another function on the whole.

    Returns:
        A dask array (C_out, *out_size); (C_out,) of a network that ends in a readout.
        `out.to_zarr(...)`, `out.compute()`, dask's progress bar, schedulers and clusters do the
        rest.

    Raises:
        ConversionError: an operator hears more than a part of the image; with the module's path.
        GraphError: no image, or a mask or a `held` of another shape.
        GeometryError: no such tile, or less memory than the smallest takes.
        MissingExtraError: dask is not installed.

    Example:
        >>> import pytest
        >>> _ = pytest.importorskip("dask")
        >>> net = nn.Conv2d(3, 2, 3, stride=2, padding=1)
        >>> out = tiled(net, np.ones((3, 100, 80), np.float32), tile=32)
        >>> out.shape, out.numblocks
        ((2, 50, 40), (1, 2, 2))
    """
    try:
        import dask.array as da
        from dask.delayed import delayed
    except ImportError as error:
        raise MissingExtraError(
            "cg.tiled: expected dask to be installed; pip install 'convgraph[scale]'"
        ) from error
    source = image if isinstance(image, Source) else Source(image, channels_last=channels_last)
    found = plan(net, (1, source.channels, *source.size))
    if statistics not in ("tiles", "passes"):
        raise GraphError(f"cg.tiled: expected statistics='tiles' or 'passes', got {statistics!r}")
    found.refuse("cg.tiled", by_passes=statistics == "passes")
    todo = passes(found)
    if todo and mask is not None:
        raise ConversionError(f"cg.tiled: {todo[0].step.title} has no plan with a mask")
    known = _known(found, todo, tile, source)
    if not found.out_size:
        kind = _numpy(found.recording.dtypes[found.out])
        ended = delayed(_ended)(known, found)
        return da.from_delayed(ended, found.recording.shapes[found.out][1:], dtype=kind)
    cut = tiling(found, tile)
    sites = None
    if mask is not None:
        check_mask(found)
        sites = MaskSites(mask, source.size)
    shape = found.recording.shapes[found.out][1:]
    axes = [len(shape) + a for a in found.axes[found.out] or ()]
    chunks: list[Any] = [(n,) for n in shape]
    for axis, a in enumerate(axes):
        chunks[a] = tuple(len(one) for one in cut.cuts(axis))
    if held is not None:
        _check_held(held, shape, tuple(c[0] for c in chunks))
    kind = _numpy(found.recording.dtypes[found.out])
    work = Tile(cut, source, sites, held, tuple(axes), tuple(chunks), kind)
    more = {"known": known} if todo else {}
    return da.map_blocks(
        work, **more, chunks=tuple(chunks), dtype=kind, meta=np.empty((0,) * len(shape), kind)
    )


def _known(found: Plan, todo: list[Pass], tile: Any, source: Source) -> Any:
    """What the passes find out, as dask has still to compute it."""
    from dask.delayed import delayed

    known = delayed({}, traverse=False)
    for one in todo:
        cut = tiling(found, tile, one.source)
        sum_up = delayed(Summed(cut, source, one))
        parts = [sum_up(number, known) for number, _ in cut.parts()]
        known = delayed(_more)(known, found, one, parts)
    return known


def _more(known: Any, found: Plan, one: Pass, parts: Any) -> Any:
    whole = together(one, parts)
    return {**known, one.key: whole if isinstance(one.key, tuple) else readout(found, one, whole)}


def _ended(known: Any, found: Plan) -> Any:
    with torch.no_grad():
        return run(found, torch.empty(0), {}, found.out, known=known)[0].cpu().numpy()


class Summed:
    """What one tile adds to a pass."""

    def __init__(self, cut: Tiling, source: Source, one: Pass) -> None:
        self.cut, self.source, self.one = cut, source, one

    def __call__(self, number: tuple[int, ...], known: Any) -> Any:
        """Return the sums of a tile."""
        plan = self.cut.plan
        ask = self.cut.ask(tuple(self.cut.cuts(axis)[k] for axis, k in enumerate(number)))
        some = next(plan.net.parameters(), torch.empty(0))
        with torch.no_grad():
            x = self.source.read(ask[0], plan.recording.dtypes[0], some.device)
            y = x if self.cut.target == 0 else run(plan, x, ask, self.cut.target, known=known)
            return sums(self.one, y)

    def __dask_tokenize__(self) -> Any:
        """Name it by this process' objects."""
        return ("convgraph", id(self.cut.plan), self.cut.tile, id(self.source), str(self.one.key))


def _check_held(held: Any, shape: tuple[int, ...], tile: tuple[int, ...]) -> None:
    got = getattr(held, "shape", None), getattr(held, "chunks", None)
    if got != (shape, tile) or not hasattr(held, "metadata"):
        raise GraphError(
            f"cg.tiled: expected held to be a zarr array of shape {shape} in chunks of {tile}, the "
            f"tiles, got shape {got[0]} in chunks of {got[1]}"
        )


def _numpy(dtype: torch.dtype) -> Any:
    try:
        return torch.empty(0, dtype=dtype).numpy().dtype
    except TypeError as error:
        raise ConversionError(
            f"cg.tiled: NumPy has no {dtype}, which the network returns; let it return float32"
        ) from error


class Tile:
    """What one block of the array is: a function of its number."""

    def __init__(
        self, cut: Tiling, source: Source, sites: MaskSites | None, held: Any,
        axes: tuple[int, ...], chunks: tuple[Any, ...], kind: Any,
    ) -> None:  # fmt: skip
        self.cut, self.source, self.sites, self.held = cut, source, sites, held
        self.axes, self.chunks, self.kind = axes, chunks, kind

    def __call__(self, known: Any = None, block_id: tuple[int, ...] | None = None) -> Any:
        """Return the block, (C_out, *tile)."""
        assert block_id is not None
        numbers = [block_id[a] for a in self.axes]
        out = tuple(self.cut.cuts(axis)[k] for axis, k in enumerate(numbers))
        shape = tuple(chunk[k] for chunk, k in zip(self.chunks, block_id, strict=True))
        plan = self.cut.plan
        here = None
        if self.sites is not None:
            here = self.sites(plan.out_size, out)
            if not here.any():
                return np.zeros(shape, self.kind)
        if self.held is not None and _holds(self.held, block_id):
            place = [slice(None)] * len(shape)
            for a, p in zip(self.axes, out, strict=True):
                place[a] = slice(int(p[0]), int(p[-1]) + 1)
            return self.held[tuple(place)]
        ask = self.cut.ask(out)
        some = next(plan.net.parameters(), torch.empty(0))
        with torch.no_grad():
            x = self.source.read(ask[0], plan.recording.dtypes[0], some.device)
            mask = None
            if self.sites is not None:
                rule = self.sites
                mask = lambda size, part: torch.from_numpy(rule(size, part))  # noqa: E731
            y = run(plan, x, ask, plan.out, mask=mask, known=known)[0]
            if here is not None:
                where = [1] * y.dim()
                for a, n in zip(self.axes, here.shape, strict=True):
                    where[a] = n
                y = torch.where(torch.from_numpy(here).to(y.device).view(where), y, 0)
            return np.ascontiguousarray(y.cpu().numpy())

    def __dask_tokenize__(self) -> Any:
        """Name it by this process' objects: a network has no other name."""
        return ("convgraph", id(self.cut.plan), self.cut.tile, id(self.source), id(self.sites))


def _holds(held: Any, block_id: tuple[int, ...]) -> bool:
    """Whether a zarr array has a chunk already."""
    from zarr.core.sync import sync

    key = held.metadata.encode_chunk_key(block_id)
    path = f"{held.path}/{key}" if held.path else key
    return bool(sync(held.store.exists(path)))
