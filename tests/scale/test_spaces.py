"""Images in a space by parts: a face of HEALPix is a part, and all parts are the whole."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import convgraph as cg
from convgraph.errors import ConversionError, GeometryError, GraphError
from convgraph.proof.again import verify
from convgraph.proof.plan import judge_plan
from convgraph.scale.neighbours import Neighbours
from convgraph.scale.plan import plan
from convgraph.scale.tiling import claim, tiling
from tests.scale.faces import HEXAGONS, SPHERE, Net, Pools, Short, derived, given, truth
from tests.scale.nets import whole
from tests.spaces.cases import SPACES

CASES = [
    *((space, size, 4, Net) for space, size in SPACES if "taps='tangent'" not in str(space)
      and not isinstance(space, cg.Hexagonal)),
    (*HEXAGONS, 4, Net), (*HEXAGONS, 100, Net), (cg.Torus(), (8, 12), 3, Net),
    (cg.Torus(), (8, 12), 100, Net), (SPHERE, (48, 4), 100, Pools), (SPHERE, (48, 4), 3, Short),
    (cg.Equirectangular(), (8, 16), 3, Short), (cg.Equirectangular(), (8, 16), 100, Short),
    (cg.Equirectangular(taps="wrap"), (8, 16), 5, Pools), (cg.Torus(), (8, 12), 5, Pools),
    (cg.Torus(rows=False), (8, 12), 5, Pools), (cg.HEALPix(corner="absent"), (48, 4), 4, Pools),
]  # fmt: skip


@pytest.mark.parametrize(("space", "size", "tile", "kind"), CASES, ids=str)
def test_parts_equal_the_whole_with_all_gradients(space, size, tile, kind) -> None:
    net, x, head = given(space, size, kind)
    want, grads = truth(net, x, space, head)
    assert want.unique().numel() > 9
    image = x.clone().requires_grad_()
    got = cg.streamed(net, tile=tile, on=space)(image)
    assert torch.equal(got, want)
    for one, two in zip(derived(got, head, image, net), grads, strict=True):
        assert torch.equal(one, two)
    proof = tiling(plan(net, tuple(x.shape), on=space), tile).prove()
    assert proof.verdict == "proven", proof
    assert verify(proof.to_json()) == (0, ["the record holds: proven"])
    assert proof.edges > 100


def test_a_face_is_a_part_and_a_block_of_the_array() -> None:
    pytest.importorskip("dask")
    net, x, head = given(SPHERE, (96, 8))
    want, _ = truth(net, x, SPHERE, head)
    out = cg.tiled(net, x[0].numpy(), tile=2048, on=SPHERE)
    assert out.numblocks == (1, 12, 1)
    assert np.array_equal(out.compute(scheduler="synchronous"), want[0].numpy())
    assert cg.prove(out.plan).parts == (12,)
    fewer = cg.tiled(net, x[0].numpy(), tile=5, on=SPHERE)  # which no face is a multiple of
    assert fewer.numblocks == (1, 24, 2)
    assert np.array_equal(fewer.compute(scheduler="synchronous"), want[0].numpy())


def test_only_what_a_face_hears_is_read() -> None:
    pytest.importorskip("dask")
    net, x, _ = given(SPHERE, (384, 32))

    class Watched:
        shape, read = (2, 384, 32), 0

        def __getitem__(self, key: Any) -> Any:
            found = x[0].numpy()[key]
            Watched.read += found[0].size
            return found

    out = cg.tiled(net, Watched(), tile=2048, on=SPHERE)
    out[:, :32].compute(scheduler="synchronous")
    assert 32**2 < Watched.read < 40**2


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (SPHERE, (96, 8)),
        pytest.param(cg.Torus(), (16, 24), marks=pytest.mark.ci),
        pytest.param(cg.Hexagonal(), (16, 16), marks=pytest.mark.ci),
    ],
)
def test_partial_sky_equals_the_masked_graph_and_empty_faces_never_run(space, size) -> None:
    pytest.importorskip("dask")
    net, x, head = given(space, size)
    coarse = np.zeros((size[0] // 4, size[1] // 4), bool)
    coarse[:3] = True
    coarse[3, 0] = False
    mask = torch.from_numpy(np.kron(coarse, np.ones((4, 4), bool)))
    image = x.clone().requires_grad_()
    graph = cg.to_graph(net)
    y = graph(cg.PixelGraph.from_image(image, mask=mask[None], on=space)).to_image()
    want = derived(y, head, image, graph)
    out = cg.tiled(net, x[0].numpy(), tile=8, mask=coarse, on=space)
    assert np.array_equal(out.compute(scheduler="synchronous"), y[0].detach().numpy())
    again = x.clone().requires_grad_()
    got = cg.streamed(net, tile=8, on=space)(again, mask=coarse)
    assert torch.equal(got, y)
    for one, two in zip(derived(got, head, again, net), want, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("space", [SPHERE, cg.HEALPix(corner="mean"), cg.Equirectangular()])
@pytest.mark.parametrize("kernel", [(2, 2, 0), (4, 2, 1), (3, 1, 1), (6, 2, 2)])
def test_few_sites_of_a_transposed_kernel_hear_what_they_hear_among_all(space, kernel) -> None:
    """The table for all of them, turned round, and what is asked of some."""
    k, s, p = kernel
    n = 8 if isinstance(space, cg.HEALPix) else 16
    size = (12 * n, n) if isinstance(space, cg.HEALPix) else (n, 2 * n)
    net = nn.ConvTranspose2d(1, 1, k, s, p).double()
    found = plan(net, (1, 1, *size), on=space)
    relation = found.travels[0].relation
    assert isinstance(relation, Neighbours)
    every = edges(relation, np.arange(np.prod(relation.out)))
    draw = np.random.default_rng(0)
    for _ in range(4):
        some = np.sort(draw.choice(np.prod(relation.out), 3, replace=False))
        assert edges(relation, some) == {one for one in every if one[0] in set(some.tolist())}
    assert len(every) >= np.prod(size) * k * k


def edges(relation: Neighbours, cells: Any) -> set[tuple[int, int, int]]:
    sources, _ = relation.heard(cells)
    p, t, k = np.nonzero(sources >= 0)
    return set(zip(cells[p].tolist(), t.tolist(), sources[p, t, k].tolist(), strict=True))


def test_a_planted_fault_of_a_face_is_refuted() -> None:
    net, x, _ = given(SPHERE, (48, 4), Short)
    found = claim(tiling(plan(net, tuple(x.shape), on=SPHERE), 4))
    first = found.operators[0].result
    parts = list(found.axes[0])
    places, weights = parts[5].reads[first]
    moved = places.copy()
    moved[0, 0, 0] = (moved[0, 0, 0] + 1) % len(parts[5].have[0])
    parts[5] = replace(parts[5], reads={**parts[5].reads, first: (moved, weights)})
    wrong = judge_plan(replace(found, axes=(tuple(parts),)))
    assert wrong.verdict == "refuted"
    assert "part 5 of axis 0: 'down' (conv2d): cell" in wrong.faults[0]


@pytest.mark.parametrize(
    ("net", "size", "error", "said"),
    [
        (nn.Conv2d(2, 2, 3), (48, 4), GeometryError, "the network itself.*padding must be 'same'"),
        (nn.Conv2d(2, 2, 3, padding=1), (47, 4), GraphError, "twelve faces"),
        (nn.PixelShuffle(2), (48, 4), ConversionError, "pixel_shuffle.*mixes faces|no meaning"),
        (nn.ZeroPad2d(1), (48, 4), ConversionError, "mixes faces"),
    ],
)
def test_what_has_no_meaning_in_a_space_is_refused(net, size, error, said: str) -> None:
    with pytest.raises(error, match=said):
        cg.streamed(net, on=SPHERE)(torch.ones(1, 4 if "Shuffle" in str(net) else 2, *size))


@pytest.mark.parametrize("holes", [False, True])
def test_what_follows_attention_on_a_sphere_hears_over_its_edges(holes: bool) -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.last = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            x = self.one(x)
            t = x.flatten(2).transpose(1, 2)
            t = torch.round(self.attention(t, t, t)[0])
            return self.last(t.transpose(1, 2).reshape(x.shape))

    net, x = whole(Attending(), (48, 4))
    net.attention.in_proj_weight.data /= 64
    mask = torch.rand(48, 4, generator=torch.Generator().manual_seed(1)) > 0.4 if holes else None
    with torch.no_grad():
        want = cg.to_graph(net)(cg.PixelGraph.from_image(x, mask, on=cg.HEALPix())).to_image()
    given = None if mask is None else mask.numpy()
    out = cg.tiled(net, x[0].numpy(), on=cg.HEALPix(), statistics="passes", mask=given)
    assert np.array_equal(out.compute(scheduler="synchronous"), want[0].numpy())
    assert want.unique().numel() > 4
