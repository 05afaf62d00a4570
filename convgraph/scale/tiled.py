"""`cg.tiled`: a network on an image larger than memory, as a dask array, equal to the whole.

dask schedules, zarr stores. A block of the array is one tile of the output; its task reads the
window of the image that the tables name, runs the network on it, and keeps the tile.
"""

import zlib
from dataclasses import replace
from hashlib import sha256
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from torch import nn

from convgraph.door import door
from convgraph.errors import ConversionError, GeometryError, GraphError, MissingExtraError
from convgraph.scale.partial import blanked, onward, run, states
from convgraph.scale.passes import Pass, check_statistics, keepable, passes, summary
from convgraph.scale.plan import Plan, dtype_of, plan
from convgraph.scale.positions import Positions
from convgraph.scale.sites import PlannedSites, sites_of
from convgraph.scale.source import Source
from convgraph.scale.tiling import Tiling, gathered, tiling

SIGNED = "convgraph tiles of"
"""Under which name `stored` says in a zarr array whose tiles it holds."""


@door
def tiled(
    net: nn.Module,
    image: Any,  # (C, *size)
    *,
    tile: Any = 2048,
    mask: Any = None,  # (*size) bool, or coarser by a whole factor
    channels_last: bool = False,
    held: Any = None,  # zarr, (C_out, *out_size)
    statistics: str = "tiles",
    between: Any = None,
    on: Any = None,
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
            tile without a site is 0, and no task; `convgraph.scale.tiled.stored` writes the
            others alone. Passes sum over the pixels that are there, and hear their tokens alone.
        channels_last: whether the image is (*size, C).
        held: a zarr array that an earlier run was writing into, its chunks as large as the tiles:
            the tiles that it holds are read from it and not computed again. What `stored` wrote
            for another network, other numbers of it or another mask is refused.
        statistics: "passes" also takes what hears the whole map: instance and group norm, layer
            norm over space, means over the map, pools over everything, and attention or whatever
            else over a map of at most 65536 pixels, tokens, which is put together. Each is a pass
            over the image of its own, from its beginning: `convgraph.scale.passes.times` says how
            much more work that is. What was trained on patches has its statistics from patches,
            and is another function on the whole.
        between: a folder, where zarr keeps the maps that passes hear: the next pass starts from
            them and not from the image; `times(plan, kept=True)` says what that leaves.
        on: the space that the image lies in, `cg.HEALPix()`, `cg.Torus()`: a tile is a part of one
            chart, a face at most, and reads over its edges what lies there.

    Returns:
        A dask array (C_out, *out_size); (C_out,) of a network that ends in a readout.
        `out.to_zarr(...)`, `out.compute()`, dask's progress bar, schedulers and clusters do the
        rest. Its `plan` is the tiling: what it costs, and `cg.prove(out.plan)`.

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
            "cg.tiled: expected dask to be installed; pip install 'dask[array]' zarr"
        ) from error
    source = image if isinstance(image, Source) else Source(image, channels_last=channels_last)
    shape = (1, source.channels, *source.size)
    found = plan(net, shape, dtype_of(net) or source.dtype, on)
    check_statistics(statistics, "cg.tiled")
    found.refuse("cg.tiled", by_passes=statistics == "passes")
    todo = passes(found)
    sites = sites_of(found, mask)
    known, held_maps = _known(found, todo, tile, source, between, sites)
    if not found.out_size:
        kind = _numpy(found.recording.dtypes[found.out])
        ended = delayed(_ended)(known, found)
        return da.from_delayed(ended, found.recording.shapes[found.out][1:], dtype=kind)
    cut = replace(tiling(found, tile, sites=sites), held=frozenset(held_maps))
    shape = found.recording.shapes[found.out][1:]
    axes = [len(shape) + a for a in found.axes[found.out] or ()]
    chunks: list[Any] = [(n,) for n in shape]
    for axis, a in enumerate(axes):
        chunks[a] = tuple(len(one) for one in cut.spans(axis))
    kind = _numpy(found.recording.dtypes[found.out])
    if held is not None:
        _even(cut, "held")
        _check_held(held, shape, tuple(c[0] for c in chunks), kind)
        _check_signature("cg.tiled: expected held", _signature(cut), held)
    window = Window(cut, source, held_maps)
    work = Tile(window, held, tuple(axes), tuple(chunks), kind)
    made = _array(work, known if todo else None)
    made.plan = cut
    return made


def _array(work: "Tile", known: Any) -> Any:
    """The array whose blocks are tiles; a tile without a site is a value, and no task."""
    import dask.array as da
    from dask._task_spec import DataNode, Task, TaskRef
    from dask.highlevelgraph import HighLevelGraph

    name = f"convgraph-{uuid4().hex}"  # a network has no name, and `id` gives numbers again
    network = f"network-{name}"  # a task: it travels once to a worker, not with each tile
    graph: dict[Any, Any] = {network: Task(network, _same, work)}
    more = () if known is None else (TaskRef(known.key),)
    for block in np.ndindex(*map(len, work.chunks)):
        key = (name, *block)
        if work.empty(block):
            graph[key] = DataNode(key, np.broadcast_to(np.zeros((), work.kind), work.shape(block)))
        else:
            graph[key] = Task(key, _made, TaskRef(network), block, *more)
    needs = () if known is None else (known,)
    layers = HighLevelGraph.from_collections(name, graph, dependencies=needs)
    blank = np.empty((0,) * len(work.chunks), work.kind)
    return da.Array(layers, name, work.chunks, dtype=work.kind, meta=blank)


def _same(work: "Tile") -> "Tile":
    return work


def _made(work: "Tile", block: tuple[int, ...], known: Any = None) -> Any:
    return work(block, known)


@door
def stored(out: Any, goal: Any) -> Any:
    """Return the task that writes an array of `cg.tiled` into zarr, one write a tile with a site.

    Unlike `dask.array.store` it writes nothing where nothing is: there the goal keeps what it has,
    a new array its 0.

    Args:
        out: what `cg.tiled` returned.
        goal: whatever takes slices and arrays, (C_out, *out_size). Of zarr no chunk may lie in two
            tiles, for two writers of a chunk undo each other: `chunks=out.chunksize`.

    Returns:
        A dask Delayed; `.compute()` writes.

    Raises:
        GraphError: the shapes differ, the goal cannot hold the numbers, a chunk of it lies in two
            tiles, or it holds tiles of another network or mask.

    Example:
        >>> import pytest
        >>> _ = pytest.importorskip("dask")
        >>> goal = np.zeros((2, 8, 8), np.float32)
        >>> out = tiled(nn.Conv2d(1, 2, 1), np.ones((1, 8, 8), np.float32), tile=4)
        >>> stored(out, goal).compute()
        >>> bool((goal != 0).all())
        True
    """
    from dask._task_spec import DataNode, Task, TaskRef
    from dask.delayed import Delayed
    from dask.highlevelgraph import HighLevelGraph

    if tuple(goal.shape) != tuple(out.shape):
        raise GraphError(
            f"scale.stored: expected goal of shape {tuple(out.shape)}, the array's, got "
            f"{tuple(goal.shape)}"
        )
    _check_kind("scale.stored: expected goal", out.dtype, goal)
    unit = _written_at_once(goal) if hasattr(goal, "shards") else None
    for axis, chunk in enumerate(out.chunks):
        if unit is not None and (np.cumsum(chunk)[:-1] % unit[axis]).any():
            raise GraphError(
                f"scale.stored: expected goal in chunks that lie in one tile each, for two writers "
                f"of a chunk undo each other; got {unit} beside tiles of {out.chunksize}. Make it "
                "with chunks=out.chunksize, in a space of tiles that divide a chart"
            )
    if hasattr(goal, "attrs") and hasattr(out, "plan"):
        mine = _signature(out.plan)
        _check_signature("scale.stored: expected goal", mine, goal)
        goal.attrs[SIGNED] = mine
    blocks = out.dask.layers[out.name]
    starts = [np.cumsum((0, *chunk)).tolist() for chunk in out.chunks]
    name, ends = f"stored-{out.name}", []
    graph: dict[Any, Any] = {}
    for block in np.ndindex(*out.numblocks):
        if isinstance(blocks[(out.name, *block)], DataNode):
            continue
        where = tuple(slice(s[k], s[k + 1]) for s, k in zip(starts, block, strict=True))
        key = (name, *block)
        graph[key] = Task(key, _Write(goal), TaskRef((out.name, *block)), where)
        ends.append(TaskRef(key))
    graph[name] = Task(name, _done, *ends)
    return Delayed(name, HighLevelGraph.from_collections(name, graph, dependencies=[out]))


class _Write:
    """Writes a block where it belongs."""

    def __init__(self, goal: Any) -> None:
        self.goal = goal

    def __call__(self, block: Any, where: Any) -> None:
        """Write."""
        self.goal[where] = block


def _done(*_: Any) -> None:
    """Nothing is left to do."""


def _known(
    found: Plan, todo: list[Pass], tile: Any, source: Source, between: Any, sites: PlannedSites
) -> Any:  # fmt: skip
    """What the passes find out, as dask has still to compute it; and the maps that they keep."""
    from dask.delayed import delayed

    known = delayed({}, traverse=False)
    maps: dict[int, Any] = {}
    for one in todo:
        cut = replace(tiling(found, tile, one.source, sites), held=frozenset(maps))
        keeps = None
        if between is not None and one.source not in maps and keepable(found, one.source):
            keeps = _kept(found, cut, between)
        sum_up = delayed(Summed(Window(cut, source, dict(maps)), one, keeps))
        parts = [sum_up(number, known) for number, _ in cut.summed()]
        known = delayed(_more)(known, cut, one, parts)
        maps |= {} if keeps is None else {one.source: keeps}
    return known, maps


def _kept(found: Plan, cut: Tiling, between: Any) -> Any:
    """An array for a map, a chunk a tile."""
    import zarr

    _even(cut, "between")
    shape = found.recording.shapes[cut.target][1:]
    return zarr.open_group(between, mode="a").create_array(
        f"map{cut.target}", shape=shape, chunks=(shape[0], *cut.tile),
        dtype=_numpy(found.recording.dtypes[cut.target]), overwrite=True,
    )  # fmt: skip


def _more(known: Any, cut: Tiling, one: Pass, parts: Any) -> Any:
    with torch.no_grad():
        more = {**known, one.key: gathered(cut, one, parts)}
        return onward(cut.plan, more, _device(cut.plan), cut.sites)


def _device(found: Plan) -> torch.device:
    return next(found.net.parameters(), torch.empty(0)).device


def _ended(known: Any, found: Plan) -> Any:
    with torch.no_grad():
        return run(found, torch.empty(0), {}, found.out, known=known)[0].cpu().numpy()


class Window:
    """What tiles read: the image, and maps that were kept."""

    def __init__(self, cut: Tiling, source: Source, maps: dict[int, Any]) -> None:
        self.cut, self.source, self.maps = cut, source, maps

    def run(self, out: tuple[Positions, ...], known: Any) -> torch.Tensor:
        """Return the target at these positions, (1, C, *positions)."""
        plan, ask = self.cut.plan, self.cut.ask(out)
        device, dtypes = _device(plan), plan.recording.dtypes
        x = torch.empty(0, device=device)
        flat = plan.space is not None
        if 0 in ask:
            x = self.source.read(ask[0], dtypes[0], device, cells=flat)
        if self.cut.target == 0:
            return x
        kept = {
            value: Source(array).read(ask[value], dtypes[value], device, cells=flat)
            for value, array in self.maps.items()
            if value in ask
        }
        more = {**(known or {}), **kept}
        return run(plan, x, ask, self.cut.target, sites=self.cut.sites, known=more)


class Summed:
    """What one tile adds to a pass."""

    def __init__(self, window: Window, one: Pass, keeps: Any) -> None:
        self.window, self.one, self.keeps = window, one, keeps
        self.name = uuid4().hex

    def __call__(self, number: tuple[int, ...], known: Any) -> Any:
        """Return the sums of a tile, or the tile itself; it is kept where there is a place."""
        cut = self.window.cut
        out = cut.part(number)
        with torch.no_grad():
            y = self.window.run(out, known)
            if self.keeps is not None:
                self.keeps[cut.place(out)[1:]] = cut.boxed(y, out)[0].cpu().numpy()
            return summary(self.one, y, cut.here(out))

    def __dask_tokenize__(self) -> Any:
        """Name it: a network has no other name, and numbers of objects are given again."""
        return self.name


def _even(cut: Tiling, who: str) -> None:
    """Refuse tiles that are no chunks of zarr: in a space they have to divide the charts."""
    plan = cut.plan
    if plan.space is None:
        return
    height = plan.space.charts(plan.array(cut.target))[1]
    if height % cut.tile[0]:
        raise GeometryError(
            f"cg.tiled: expected tiles whose rows divide a chart's {height}, beside {who}=, "
            f"so that they are chunks of zarr; got {cut.tile[0]}"
        )


def _check_held(held: Any, shape: tuple[int, ...], tile: tuple[int, ...], kind: Any) -> None:
    got = getattr(held, "shape", None), _written_at_once(held)
    if got != (shape, tile) or not hasattr(held, "metadata"):
        raise GraphError(
            f"cg.tiled: expected held to be a zarr array of shape {shape} in chunks of {tile}, the "
            f"tiles, got shape {got[0]} in chunks of {got[1]}"
        )
    _check_kind("cg.tiled: expected held", kind, held)


def _written_at_once(goal: Any) -> Any:
    """The blocks that a zarr array writes as a whole: its chunks, or the shards of several."""
    return getattr(goal, "shards", None) or getattr(goal, "chunks", None)


def _signature(cut: Tiling) -> str:
    """A digest of the network, its numbers and the mask: whose tiles they are."""
    found = sha256(repr([step.title for step in cut.plan.recording.steps]).encode())
    for one in states(cut.plan).values():
        found.update(one.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    if cut.sites.mask is not None:
        found.update(np.packbits(cut.sites.mask.here).tobytes())
    return found.hexdigest()


def _check_signature(expected: str, mine: str, goal: Any) -> None:
    """Refuse an array of zarr in which `stored` has put tiles of another network or mask."""
    if goal.attrs.get(SIGNED, mine) != mine:
        raise GraphError(
            f"{expected} to hold tiles of this network, its numbers and this mask, got an array "
            "of others; begin with a new one"
        )


def _check_kind(expected: str, kind: Any, goal: Any) -> None:
    """Refuse an array that cannot hold the output's numbers, as integers cannot hold fractions."""
    if not np.can_cast(kind, getattr(goal, "dtype", kind), "same_kind"):
        raise GraphError(
            f"{expected} to hold the output's {kind}, got {goal.dtype}, which would lose numbers; "
            f"of out.astype({str(goal.dtype)!r}) it holds every one"
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
        self, window: Window, held: Any, axes: tuple[int, ...], chunks: tuple[Any, ...], kind: Any
    ) -> None:
        self.window, self.cut, self.held = window, window.cut, held
        self.axes, self.chunks, self.kind = axes, chunks, kind

    def number(self, block: tuple[int, ...]) -> tuple[int, ...]:
        """The tile that a block is."""
        return tuple(block[a] for a in self.axes)

    def shape(self, block: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a block."""
        return tuple(chunk[k] for chunk, k in zip(self.chunks, block, strict=True))

    def empty(self, block: tuple[int, ...]) -> bool:
        """Whether a block has no site."""
        return self.number(block) in self.cut.empty

    def __call__(self, block: tuple[int, ...], known: Any = None) -> Any:
        """Return the block, (C_out, *tile)."""
        plan, out = self.cut.plan, self.cut.part(self.number(block))
        if self.held is not None and _holds(self.held, block):
            return self._again(block, self.cut.place(out)[1:])
        with torch.no_grad():
            y = self.window.run(out, known)
            y = blanked(y, self.cut.here(out), plan.axes[plan.out] or ())
            return np.ascontiguousarray(self.cut.boxed(y, out)[0].cpu().numpy())

    def _again(self, block: tuple[int, ...], place: Any) -> Any:
        """A block that an earlier run has written.

        Raises:
            GraphError: the file is damaged.
        """
        try:
            return self.held[place].astype(self.kind)
        except (RuntimeError, ValueError, OSError, EOFError, zlib.error) as error:
            raise GraphError(
                f"cg.tiled: expected held to give back tile {block}, {_chunk(self.held, block)!r} "
                f"of {self.held.store} cannot be read ({error}); if it is damaged, delete it, and "
                "it is computed anew"
            ) from error


def _holds(held: Any, block_id: tuple[int, ...]) -> bool:
    """Whether a zarr array has a chunk already."""
    from zarr.core.sync import sync

    return bool(sync(held.store.exists(_chunk(held, block_id))))


def _chunk(held: Any, block_id: tuple[int, ...]) -> str:
    """Where a zarr array keeps a chunk in its store."""
    key = held.metadata.encode_chunk_key(block_id)
    return f"{held.path}/{key}" if held.path else key
