"""Images larger than memory: the array equals the whole, from whatever it reads, masked or not."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import convgraph as cg
from convgraph.errors import ConversionError, GeometryError, GraphError
from convgraph.scale import partial
from convgraph.scale.mask_sites import MaskSites
from convgraph.scale.source import Source
from convgraph.scale.tiled import stored
from tests.scale import masked, moving
from tests.scale.nets import Masked, Skips, networks, whole

da = pytest.importorskip("dask.array")
zarr = pytest.importorskip("zarr")
from dask._task_spec import Task, convert_legacy_graph  # noqa: E402 (dask may be missing)
from dask.callbacks import Callback  # noqa: E402
from dask.diagnostics import ProgressBar  # noqa: E402


def truth(net, x):
    with torch.no_grad():
        return net(x)[0].numpy()


@pytest.fixture
def skips():
    return whole(*networks()["skips"])


def test_every_source_gives_the_same_array(skips, tmp_path) -> None:
    net, x = skips
    want = truth(net, x)
    rows = x[0].numpy()
    stored = zarr.create_array(
        str(tmp_path / "x.zarr"), shape=rows.shape, chunks=(2, 16, 16), dtype="f8"
    )
    stored[:] = rows
    sources = {
        "numpy": rows,
        "tensor": x[0],
        "zarr": stored,
        "dask": da.from_zarr(stored),
    }
    for name, image in sources.items():
        out = cg.tiled(net, image, tile=(16, 20))
        assert out.numblocks == (1, 3, 2), name
        assert np.array_equal(out.compute(scheduler="threads", num_workers=2), want), name
    last = cg.tiled(net, np.moveaxis(rows, 0, -1), tile=16, channels_last=True)
    assert np.array_equal(last.compute(), want)


@pytest.mark.parametrize("name", ["circular", "volume", "signal", "channels last"])
def test_lattices_of_any_kind(name: str) -> None:
    net, x = whole(*networks()[name])
    out = cg.tiled(net, x[0].numpy(), tile=4)
    assert np.array_equal(out.compute(scheduler="synchronous"), truth(net, x))


def test_a_tiled_image_goes_to_zarr_and_goes_on_where_it_was_cut_off(
    skips, tmp_path, monkeypatch
) -> None:
    net, x = skips
    image, path = x[0].numpy(), str(tmp_path / "o.zarr")
    out = cg.tiled(net, image, tile=16)
    goal = zarr.create_array(path, shape=out.shape, chunks=out.chunksize, dtype=out.dtype)
    ran = []
    run = partial.run

    def counted(plan, x, ask, target, **more):
        ran.append(tuple(int(p[0]) for p in ask[target]))
        if len(ran) == 4:
            raise KeyboardInterrupt
        return run(plan, x, ask, target, **more)

    monkeypatch.setattr("convgraph.scale.tiled.run", counted)
    with pytest.raises(KeyboardInterrupt):
        da.store(out, goal, lock=False, scheduler="synchronous")
    done = set(ran[:3])
    again = cg.tiled(net, image, tile=16, held=zarr.open_array(path, mode="r+"))
    da.store(again, goal, lock=False, scheduler="synchronous")
    assert len(done) == 3
    assert not done & set(ran[4:])
    assert len(ran) - 1 == 9  # the one that was killed was begun twice
    assert np.array_equal(goal[:], truth(net, x))


def test_a_coarse_mask_equals_the_masked_graph_and_empty_tiles_never_run(monkeypatch) -> None:
    net, x = whole(Masked(), (48, 64))
    thumbnail = np.zeros((6, 8), bool)
    thumbnail[1:3, 1:3] = thumbnail[5, 7] = True
    mask = torch.from_numpy(np.kron(thumbnail, np.ones((8, 8), bool)))
    graph = cg.PixelGraph.from_image(x, mask=mask[None])
    with torch.no_grad():
        want = cg.to_graph(net, strict=True)(graph).to_image()[0].numpy()
    ran = []
    run = partial.run
    monkeypatch.setattr("convgraph.scale.tiled.run", lambda *a, **k: ran.append(1) or run(*a, **k))
    for given in (thumbnail, mask.numpy()):
        ran.clear()
        out = cg.tiled(net, x[0].numpy(), tile=4, mask=given)
        assert np.array_equal(out.compute(scheduler="synchronous"), want)
        assert out.npartitions == 48
        assert len(ran) == 5
        assert tasks(out) == 5 + 1  # of 48 tiles, and the network
        goal = zarr.zeros(out.shape, chunks=out.chunksize, dtype=out.dtype)
        writes = stored(out, goal)
        assert tasks(writes) == 5 + 1 + 5 + 1  # their writes, and the end
        writes.compute(scheduler="synchronous")
        assert np.array_equal(goal[:], want)
        assert goal.nchunks_initialized == 5
    assert (want != 0).any()


def tasks(collection) -> int:
    """How many tasks dask has to run: what is a value already is none."""
    graph = convert_legacy_graph(dict(collection.__dask_graph__()))
    return sum(isinstance(node, Task) for node in graph.values())


def test_without_a_mask_every_tile_is_a_task(skips) -> None:
    net, x = skips
    assert tasks(cg.tiled(net, x[0].numpy(), tile=(16, 20))) == 6 + 1


def test_progress_of_every_tile_is_seen(skips, capsys) -> None:
    net, x = skips
    out = cg.tiled(net, x[0].numpy(), tile=(16, 20))
    goal = zarr.zeros(out.shape, chunks=out.chunksize, dtype=out.dtype)
    for work in (out, stored(out, goal)):
        ended = set[Any]()
        with ProgressBar(dt=0.01), Callback(posttask=lambda key, *_, done=ended: done.add(key)):
            work.compute(scheduler="threads")
        assert "100% Completed" in capsys.readouterr().out
        assert sum(key[0] == out.name for key in ended) == 6  # tiles
    assert np.array_equal(goal[:], truth(net, x))


def test_what_would_lose_a_part_of_the_output_is_no_goal(skips) -> None:
    """Two tiles that share a chunk undo each other's writing; integers hold no fractions."""
    net, x = skips
    out = cg.tiled(net, x[0].numpy(), tile=16)

    def made(**more):
        return zarr.create_array(zarr.storage.MemoryStore(), shape=out.shape, **more)

    floats, aligned = {"dtype": "f4"}, {"chunks": (1, 8, 16), "dtype": "f4"}
    for goal, text in (
        (np.zeros((2, 3, 3)), "expected goal of shape"),
        (np.zeros(out.shape, "i8"), "hold the output's float64, got int64"),
        (made(chunks=(2, 16, 24), **floats), "in chunks that lie in one tile each"),
        (made(chunks=(2, 16, 16), shards=(2, 32, 32), **floats), r"got \(2, 32, 32\) beside"),
    ):
        with pytest.raises(GraphError, match=text):
            stored(out, goal)
    for goal in (made(**aligned), made(shards=(2, 16, 16), **aligned), np.zeros(out.shape, "f8")):
        stored(out, goal).compute(scheduler="synchronous")
        assert np.array_equal(goal[:], truth(net, x))


def test_a_held_array_that_is_not_what_was_written_is_refused(skips, tmp_path) -> None:
    """The key of a chunk within a shard is another chunk's: what nobody wrote would be read."""
    net, x = skips
    out = cg.tiled(net, x[0].numpy(), tile=16)
    kinds = {"shape": out.shape, "chunks": out.chunksize}
    goal = zarr.create_array(tmp_path / "o.zarr", dtype="f4", **kinds)
    stored(out, goal).compute(scheduler="synchronous")
    (tmp_path / "o.zarr/c/0/1/1").write_bytes(b"half")
    again = cg.tiled(net, x[0].numpy(), tile=16, held=goal)
    other, ones = copy.deepcopy(net), np.ones(x.shape[2:], bool)
    ones[0, 0] = False
    next(other.parameters()).data.flatten()[-1] += 1
    for new, mask in ((other, None), (net, ones)):
        with pytest.raises(GraphError, match="held to hold tiles of this network"):
            cg.tiled(new, x[0].numpy(), tile=16, held=goal, mask=mask)
        with pytest.raises(GraphError, match="goal to hold tiles of this network"):
            stored(cg.tiled(new, x[0].numpy(), tile=16, mask=mask), goal)
    with pytest.raises(GraphError, match=r"tile \(0, 1, 1\), 'c/0/1/1' of .* delete it"):
        again.compute(scheduler="synchronous")
    memory = zarr.storage.MemoryStore
    whole = zarr.create_array(memory(), dtype="i4", **kinds)
    parts = zarr.create_array(memory(), dtype="f4", shards=(2, 32, 32), **kinds)
    for held, text in ((whole, "got int32"), (parts, r"in chunks of \(2, 32, 32\)")):
        with pytest.raises(GraphError, match=text):
            cg.tiled(net, x[0].numpy(), tile=16, held=held)


def test_a_mask_of_an_odd_size_equals_the_masked_graph() -> None:
    net, x = whole(Masked().body, (45, 51))
    mask = torch.from_numpy(np.random.default_rng(3).random((45, 51)) < 0.05)
    graph = cg.PixelGraph.from_image(x, mask=mask[None])
    with torch.no_grad():
        want = cg.to_graph(net, strict=True)(graph).to_image()[0].numpy()
    out = cg.tiled(net, x[0].numpy(), tile=5, mask=mask.numpy())
    assert np.array_equal(out.compute(scheduler="synchronous"), want)
    assert (want != 0).any()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 2, 4, 4), nn.Conv2d(2, 2, 3, 2), nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.ConvTranspose2d(2, 2, 2, 2), nn.Conv2d(2, 2, 16, 16),
        nn.AvgPool2d(4, 4, count_include_pad=False),
        nn.AvgPool2d((1, 2), (1, 2), count_include_pad=False, ceil_mode=True),
        nn.Upsample(scale_factor=2.0, mode="bilinear"),
    ],
)  # fmt: skip
def test_steps_in_scale_carry_a_mask_and_one_site_has_none(layer) -> None:
    step = nn.Sequential(layer, nn.Upsample(scale_factor=2.0), nn.Conv2d(2, 2, 3, padding=1))
    net, x = whole(step, (16, 18))
    x = x * 720  # what every count of a window divides
    mask = torch.from_numpy(np.random.default_rng(2).random((16, 18)) < 0.1)
    with torch.no_grad():
        want = cg.to_graph(net, strict=True)(cg.PixelGraph.from_image(x, mask=mask))
    want = want.to_image() if isinstance(want, cg.PixelGraph) else want
    out = cg.tiled(net, x[0].numpy(), tile=5, mask=mask.numpy())
    assert np.array_equal(out.compute(scheduler="synchronous"), want[0].numpy())


@pytest.mark.parametrize("name", moving.networks())
def test_a_mask_moves_with_the_pixels(name: str) -> None:
    net, size = moving.networks()[name]
    net, x = whole(net, size)
    unit = 12 if name == "own counts" else 4  # what every count of a window divides
    mask = torch.rand(size, generator=torch.Generator().manual_seed(4)) < 0.4
    want, head, *grads = masked.truth(net, x * unit, mask, unit)
    assert want.unique().numel() > 3
    for tile in (1 if name in ("unpadded", "reflect", "pads of numbers") else 4, 100):
        image = x[0].numpy() * unit
        image[:, ~mask.numpy()] = np.nan  # what is absent is nobody's number
        out = cg.tiled(net, image, tile=tile, mask=mask.numpy())
        assert np.array_equal(out.compute(scheduler="synchronous"), want[0].numpy())
        leaf = torch.from_numpy(image)[None].requires_grad_()
        y = cg.streamed(net, tile=tile)(leaf, mask=mask.numpy())
        found = torch.autograd.grad((y * head).sum(), [leaf, *net.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(found, grads, strict=True))


def test_tiles_travel_to_other_processes(skips) -> None:
    net, x = skips
    image = x[0].numpy()
    out = cg.tiled(net, image, tile=30)
    task = next(iter(out.__dask_graph__().values()))
    assert task is not None
    found = pickle.loads(pickle.dumps(cg.tiled(nn.Conv2d(2, 2, 3), np.ones((2, 9, 9)), tile=3)))
    assert found.compute(scheduler="synchronous").shape == (2, 7, 7)
    copied = pickle.loads(pickle.dumps(out))
    assert np.array_equal(copied.compute(scheduler="synchronous"), truth(net, x))


@pytest.mark.parametrize("kind", ["u1", "?", "f2", ">f4", ">i2", "i8"])
def test_numbers_of_any_kind_become_the_network_s(kind: str) -> None:
    net, x = whole(*networks()["3x3"])
    rows = (x[0].numpy() > 0) if kind == "?" else x[0].numpy() + 3
    want = truth(net, torch.from_numpy(rows).double()[None])
    out = cg.tiled(net, rows.astype(kind), tile=5)
    assert np.array_equal(out.compute(scheduler="synchronous"), want)


@pytest.mark.parametrize("net", [nn.AvgPool2d(3), nn.BatchNorm2d(2, 0, affine=False).double()])
def test_a_network_without_parameters_does_not_round_the_image(net) -> None:
    """It was taken for one of float32; what has buffers then met them in another dtype."""
    x = 9.0 * torch.randint(2**26, 2**30, (1, 2, 9, 12)).double()
    want = truth(net.eval(), x)
    for kind in ("<f8", ">f8"):
        out = cg.tiled(net, x[0].numpy().astype(kind), tile=2)
        assert out.dtype == "f8"
        assert np.array_equal(out.compute(scheduler="synchronous"), want)
    assert np.array_equal(cg.streamed(net, tile=2)(x[0].numpy())[0].numpy(), want)
    assert cg.tiled(nn.ReLU(), np.ones((1, 4, 4), "u1")).dtype == "f4"


def test_pixels_lie_in_memory_in_any_order() -> None:
    net, x = whole(*networks()["3x3"])
    rows = x[0].numpy()
    for image in (
        np.asfortranarray(rows), rows[:, ::-1].copy()[:, ::-1], np.repeat(rows, 2, 2)[:, :, ::2],
        da.from_array(rows, chunks=((1, 1), (7, 1, 5), (5, 6))), x[0].mT.contiguous().mT,
        np.ma.masked_array(rows, mask=False), x[0].clone().requires_grad_(),
    ):  # fmt: skip
        out = cg.tiled(net, image, tile=5)
        assert np.array_equal(out.compute(scheduler="synchronous"), truth(net, x))


ROWS = np.ones((2, 24, 38), np.float32)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (ROWS.astype(complex), "real numbers, got complex128"),
        (ROWS.astype(str), "expected an image of real numbers"),
        (ROWS.astype(object), "real numbers, got object"),
        (ROWS.astype("g"), "at most 64 bits a number, got float128"),
        (torch.ones(2, 24, 38).to_sparse(), "pixels lie in memory, got a tensor of torch.sparse"),
        (torch.ones(2, 24, 38, device="meta"), "pixels lie in memory"),
        (torch.ones(2, 24, 38).cfloat(), "real numbers, got torch.complex64"),
        (np.ma.masked_array(ROWS, mask=ROWS > 0), "without a mask of its own"),
        (da.from_array(ROWS)[:, da.from_array(np.ones(24, bool))], "whose size is known"),
    ],
)
def test_an_image_that_is_no_array_of_real_numbers_is_refused_at_the_door(image, text) -> None:
    with pytest.raises(GraphError, match=text):
        cg.tiled(Skips(), image, tile=8)


@pytest.mark.parametrize(
    "tile", ["inf MiB", "1e400 MiB", "-5 MiB", "512", 0, True, (4, 0), 2.0, None]
)
def test_a_tile_that_is_none_is_refused(tile) -> None:
    with pytest.raises(GeometryError, match=r"^tile: expected"):
        cg.tiled(Skips(), ROWS, tile=tile)


@pytest.mark.parametrize("factor", [(3, 3), (5, 5), (4, 6), (20, 18), (1, 3)])
def test_a_coarse_mask_whose_factor_is_clear(factor) -> None:
    net, x = whole(moving.conv(2, 2, 3, padding=1), (20, 18))
    shape = [-(-n // f) for n, f in zip((20, 18), factor, strict=True)]
    coarse = np.random.default_rng(1).random(shape) < 0.6
    coarse[0, 0] = True
    full = np.repeat(np.repeat(coarse, factor[0], 0), factor[1], 1)[:20, :18]
    want, *_ = masked.truth(net, x, torch.from_numpy(full))
    out = cg.tiled(net, x[0].numpy(), tile=7, mask=coarse)
    assert np.array_equal(out.compute(scheduler="synchronous"), want[0].numpy())


def test_a_coarse_mask_of_several_factors_is_refused() -> None:
    for size, shape in (((20, 18), (3, 3)), ((20000, 20000), (40, 39))):
        with pytest.raises(GraphError, match=r"got axes that . to .|500 to 512, 513 to 526 fit"):
            MaskSites.of(np.ones(shape, bool), size)


def test_a_space_is_one() -> None:
    with pytest.raises(GraphError, match=r"expected on as a space, .*'sphere'"):
        cg.tiled(Skips(), ROWS, on="sphere")
    with pytest.raises(GraphError, match=r"expected on as a space, .*class.*Torus"):
        cg.tiled(Skips(), ROWS, on=cg.Torus)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"image": [1, 2]}, GraphError, "has a shape and takes slices"),
        ({"image": np.ones(5)}, GraphError, "has a shape and takes slices"),
        ({"image": np.ones((24, 38))}, ConversionError, "reads images .* got C = 24 and 1$"),
        ({"image": np.ones((24, 38, 2))}, ConversionError, "C = 24 and 2; of .* channels_last=Tr"),
        ({"mask": np.ones((3, 3))}, GraphError, "expected bools of 2 axes"),
        ({"mask": np.ones((7, 19), bool)}, GraphError, "smaller by a whole factor"),
        ({"held": np.ones(3)}, GraphError, "expected held to be a zarr array of shape"),
        (
            {"net": nn.Sequential(nn.Conv2d(2, 2, 1), nn.InstanceNorm2d(2))},
            ConversionError,
            "first '1'",
        ),
    ],
)
def test_bad_input_is_refused(change, error, text: str) -> None:
    given = {"net": Skips(), "image": np.ones((2, 24, 38), np.float32), "tile": 8} | change
    with pytest.raises(error, match=text):
        cg.tiled(given.pop("net"), given.pop("image"), **given)


def test_windows_are_all_that_is_read() -> None:
    class Watched:
        shape, read = (2, 100, 100), []

        def __getitem__(self, key):
            self.read.append(key)
            return np.zeros((2, *(k.stop - k.start for k in key[1:])), np.float32)

    image = Watched()
    cg.tiled(nn.Conv2d(2, 2, 3, padding=1), image, tile=50).compute(scheduler="synchronous")
    assert max(k.stop - k.start for key in image.read for k in key[1:]) == 51
    assert len(image.read) == 4
    assert Source(image).channels == 2
