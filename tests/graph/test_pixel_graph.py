"""Images to nodes and back: exactly, without copies where none is needed, masks and sizes kept."""

import copy
import pickle
from typing import Any

import networkx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import _pytree as pytree
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

import convgraph as cg
from tests.cases import holes

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def numbered(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An image whose entries are all different."""
    return torch.arange(1, 1 + torch.Size(shape).numel()).to(dtype).view(shape)


def same(one: cg.PixelGraph, other: cg.PixelGraph) -> bool:
    """Whether two graphs have equal features on equal nodes."""
    masks = zip(one.sites.mask_images(), other.sites.mask_images(), strict=True)
    return torch.equal(one.x, other.x) and all(torch.equal(a, b) for a, b in masks)


# There and back


@st.composite
def pictures(draw: st.DrawFn) -> tuple[Tensor, Tensor | None, int]:
    d = draw(st.integers(1, 3))
    size = draw(st.tuples(*[st.integers(1, 5)] * d))
    lead = draw(st.sampled_from([(), (1,), (3,)]))
    shape = (*lead, draw(st.integers(1, 3)), *size)
    image = numbered(*shape, dtype=draw(st.sampled_from(FLOATS)))
    if draw(st.booleans()) and lead and d > 1:
        layout = torch.channels_last if d == 2 else torch.channels_last_3d
        image = image.to(memory_format=layout)
    kinds = ["none", "all alike"] + ["an image", "an image, with a channel"] * bool(lead)
    kind = draw(st.sampled_from(kinds))
    shapes = {
        "none": None,
        "all alike": size,
        "an image": (*lead, *size),
        "an image, with a channel": (*lead, 1, *size),
    }
    shape_of_mask = shapes[kind]
    if shape_of_mask is None:
        return image, None, d
    bits = draw(
        st.lists(st.booleans(), min_size=(n := torch.Size(shape_of_mask).numel()), max_size=n)
    )
    return image, torch.tensor(bits).view(shape_of_mask), d


@given(pictures())
def test_the_way_back_is_exact(case: tuple[Tensor, Tensor | None, int]) -> None:
    image, mask, d = case
    graph = cg.PixelGraph.from_image(image, mask, d=d)
    back = graph.to_image(fill=-7)
    batched = image.dim() == d + 2
    assert (back.shape, back.dtype) == (image.shape, image.dtype)
    if mask is None:
        assert torch.equal(back, image)
        assert graph.num_nodes == image.numel() // graph.num_channels
        return
    full = mask if mask.dim() == d else mask.view(-1, 1, *mask.shape[-d:])
    assert torch.equal(back, torch.where(full, image, torch.tensor(-7, dtype=image.dtype)))
    many = image.shape[0] if batched and mask.dim() == d else 1
    assert graph.num_nodes == int(mask.sum()) * many
    assert graph.x.stride() == (graph.num_channels, 1)
    # Nodes come in raster order: image, row, column.
    pixels = image.movedim(1, -1) if batched else image.movedim(0, -1).unsqueeze(0)
    places = zip(graph.batch.tolist(), graph.pos.tolist(), graph.x, strict=True)
    assert all(torch.equal(pixels[(b, *pos)], row) for b, pos, row in places)
    order = list(zip(graph.batch.tolist(), graph.pos.tolist(), strict=True))
    assert order == sorted(order)


@pytest.mark.parametrize("d", [2, 3])
def test_a_channels_last_image_is_not_copied(d: int) -> None:
    layout = torch.channels_last if d == 2 else torch.channels_last_3d
    image = torch.rand(2, 3, *(4,) * d).to(memory_format=layout)
    graph = cg.PixelGraph.from_image(image, d=d)
    assert graph.x.data_ptr() == image.data_ptr()
    back = graph.to_image()
    assert back.data_ptr() == image.data_ptr()
    assert back.is_contiguous(memory_format=layout)
    assert torch.equal(back, image)
    one = cg.PixelGraph.from_image(image[1], d=d)
    assert one.x.data_ptr() == image[1].data_ptr()
    assert one.to_image().data_ptr() == image[1].data_ptr()


def test_one_channel_is_not_copied_in_either_layout() -> None:
    for image in (torch.rand(2, 1, 4, 5), torch.rand(1, 4, 5)):
        graph = cg.PixelGraph.from_image(image)
        assert graph.x.data_ptr() == image.data_ptr()
        assert graph.x.stride() == (1, 1)


def test_a_signal_whose_channels_lie_together_is_not_copied() -> None:
    steps = torch.rand(2, 9, 3)  # (B, L, C), as sequence models keep it
    assert cg.PixelGraph.from_image(steps.transpose(1, 2), d=1).x.data_ptr() == steps.data_ptr()


def test_gradients_pass_both_ways() -> None:
    image = torch.rand(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    mask = holes(2, (4, 5))
    cg.PixelGraph.from_image(image, mask).to_image(fill=5).sum().backward()
    assert torch.equal(image.grad, mask.unsqueeze(1).expand_as(image).double())


def test_what_is_absent_is_filled_and_never_multiplied() -> None:
    image = torch.full((1, 1, 2, 2), float("nan"))
    image[0, 0, 0, 0] = 1
    back = cg.PixelGraph.from_image(image, ~image[:, 0].isnan()).to_image(fill=0)
    assert back.flatten().tolist() == [1, 0, 0, 0]


def test_a_mask_belongs_to_the_graph_from_then_on() -> None:
    mask = torch.tensor([[[True, False], [True, True]]])
    graph = cg.PixelGraph.from_image(numbered(1, 1, 2, 2), mask)
    mask.fill_(False)
    assert graph.pos.tolist() == [[0, 0], [1, 0], [1, 1]]
    assert graph.to_image().flatten().tolist() == [1, 0, 3, 4]


def test_zeros_are_pixels_and_a_full_mask_is_no_mask() -> None:
    graph = cg.PixelGraph.from_image(torch.zeros(2, 1, 3, 3))
    assert graph.num_nodes == 18
    assert graph.with_x(graph.x).sites is graph.sites
    everywhere = cg.PixelGraph.from_image(torch.zeros(2, 1, 3, 3), torch.ones(3, 3).bool())
    assert everywhere.sites is graph.sites


# Images of different sizes


@pytest.mark.parametrize("masked", [False, True])
def test_images_of_any_sizes_share_a_batch(masked: bool) -> None:
    images = [numbered(2, 3, 4), -numbered(2, 5, 2), numbered(2, 1, 1)]
    masks = [holes(1, (3, 4))[0], None, torch.ones(1, 1).bool()] if masked else None
    graph = cg.PixelGraph.from_image(images, masks)
    assert [tuple(i.shape) for i in graph.to_images()] == [(2, 3, 4), (2, 5, 2), (2, 1, 1)]
    for n, (image, back) in enumerate(zip(images, graph.to_images(fill=9), strict=True)):
        mask = masks[n] if masks else None
        assert torch.equal(back, image if mask is None else torch.where(mask, image, 9))
    single = graph.unbatch()
    assert len(single) == 3
    assert same(cg.PixelGraph.concat(single), graph)
    assert all(
        torch.equal(a.to_image(fill=9).view_as(b), b)
        for a, b in zip(single, graph.to_images(fill=9), strict=True)
    )
    with pytest.raises(cg.errors.GraphError, match="use to_images"):
        graph.to_image()


def test_equal_images_of_a_list_are_a_batch() -> None:
    images = [numbered(2, 3, 4), numbered(2, 3, 4)]
    graph = cg.PixelGraph.from_image(images)
    assert torch.equal(graph.to_image(), torch.stack(images))
    assert graph.sites is cg.PixelGraph.from_image(torch.stack(images)).sites


# PyG


def test_data_carries_everything_and_comes_back() -> None:
    graph = cg.PixelGraph.from_image(numbered(2, 3, 4, 5), holes(2, (4, 5)))
    box = cg.KernelGeometry(3, padding=1)
    data = graph.to_data(box, y=torch.tensor([1, 2]))
    edges = cg.connect(box, graph)
    assert data.validate()
    assert torch.equal(data.edge_index, edges.edge_index)
    assert torch.equal(data.edge_type, edges.edge_type)
    assert torch.equal(data.pos.long(), graph.pos)
    assert torch.equal(data.batch, graph.batch)
    assert data.image_size.tolist() == [[4, 5], [4, 5]]
    assert data.y.tolist() == [1, 2]
    assert same(cg.PixelGraph.from_data(data), graph)
    assert graph.to_data().edge_index is None, "edges only on demand"
    # The nodes of a Data may come in any order.
    order = torch.randperm(graph.num_nodes)
    mixed = Data(x=data.x[order], pos=data.pos[order], batch=data.batch[order])
    mixed.image_size = data.image_size
    assert same(cg.PixelGraph.from_data(mixed), graph)


def test_an_unbatched_graph_comes_back_unbatched_when_asked() -> None:
    image = numbered(3, 4, 5)
    data = cg.PixelGraph.from_image(image).to_data()
    assert torch.equal(cg.PixelGraph.from_data(data, batched=False).to_image(), image)
    assert torch.equal(cg.PixelGraph.from_data(data).to_image(), image.unsqueeze(0))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_pygs_loader_batches_images_of_any_sizes(d: int) -> None:
    sizes = [(4, 5, 3), (2, 2, 2), (6, 1, 4), (4, 5, 3)]
    images = [torch.rand(2, *size[:d]) for size in sizes]
    box = cg.KernelGeometry(3, padding="same", d=d)
    records = [cg.PixelGraph.from_image(i, d=d).to_data(box, y=n) for n, i in enumerate(images)]
    seen = 0
    for batch in DataLoader(records, batch_size=3):
        graph = cg.PixelGraph.from_data(batch)
        mine = images[seen : seen + 3]
        assert batch.y.tolist() == list(range(seen, seen + len(mine)))
        seen += len(mine)
        assert all(torch.equal(a, b) for a, b in zip(graph.to_images(), mine, strict=True))
        # PyG's bookkeeping and ours give the same edges.
        ours = cg.connect(box, graph)
        listed = lambda index, kind: sorted(zip(*index.tolist(), kind.tolist(), strict=True))  # noqa: E731
        assert listed(batch.edge_index, batch.edge_type) == listed(ours.edge_index, ours.edge_type)
        layer = (cg.nn.GraphConv1d, cg.nn.GraphConv2d, cg.nn.GraphConv3d)[d - 1](2, 3, 3, padding=1)
        layer = layer.double()
        x = (batch.x * 8).round().double()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_((parameter * 64).round())
        typed = layer(x, batch.edge_index, batch.edge_type)
        assert torch.equal(typed, layer(graph.with_x(x)).x)


def test_a_list_of_data_is_one_batch_again() -> None:
    graph = cg.PixelGraph.from_image([numbered(2, 3, 4), numbered(2, 5, 2)])
    assert same(cg.PixelGraph.from_data(Batch.from_data_list(graph.to_data_list())), graph)


def test_data_that_is_no_image_is_refused() -> None:
    good = cg.PixelGraph.from_image(numbered(2, 3, 4)).to_data()

    def changed(**fields: Any) -> Data:
        made = copy.copy(good)
        for name, value in fields.items():
            made[name] = value
        return made

    cases: dict[str, dict[str, Any]] = {
        "has no 'image_size'": {"image_size": None},
        "has no 'pos'": {"pos": None},
        "pos lies between pixels": {"pos": good.pos + 0.5},
        "outside its image_size": {"pos": good.pos + 2},
        "two nodes share a pixel": {"pos": good.pos * 0},
        r"expected batch \(12,\)": {"batch": torch.ones(12).long()},
        r"expected x \(N, C\), pos": {"pos": good.pos[:-1]},
    }
    for text, fields in cases.items():
        with pytest.raises(cg.errors.GraphError, match=text):
            cg.PixelGraph.from_data(changed(**fields))
    with pytest.raises(cg.errors.GraphError, match="keep the size"):
        cg.PixelGraph.from_image(numbered(2, 3, 4)).to_data(cg.KernelGeometry(3))


def test_the_transform_reads_what_data_sets_give() -> None:
    image, box = numbered(3, 4, 5), cg.KernelGeometry(3, padding="same")
    expected = cg.PixelGraph.from_image(image).to_data(box)
    transform = cg.ToPixelGraph()
    given_data = Data(image=image, y=3, name="a cat")
    for given_, y in ((image, None), ((image, 7), 7), (given_data, 3)):
        found = transform(given_)
        assert torch.equal(found.x, expected.x)
        assert torch.equal(found.edge_index, expected.edge_index)
        assert torch.equal(found.edge_type, expected.edge_type)
        assert found.y == y
    assert transform(given_data).name == "a cat"
    assert "image" not in transform(given_data)
    assert given_data.image is image, "the record of the data set is left alone"
    graph = cg.PixelGraph.from_image(image)
    assert torch.equal(transform(graph).edge_index, expected.edge_index)
    hole = torch.ones(4, 5).bool()
    hole[0] = False
    masked = transform(Data(image=image, mask=hole))
    assert masked.num_nodes == 15
    assert "mask" not in masked, "it is the nodes, and of another length"
    assert cg.ToPixelGraph(None)(image).edge_index is None
    assert cg.ToPixelGraph(d=1)(torch.rand(2, 7)).num_edges == 3 * 7 - 2
    assert "3" in repr(transform)
    with pytest.raises(cg.errors.GraphError, match="expected an image tensor"):
        transform("cat.png")
    with pytest.raises(cg.errors.GraphError, match="a geometry, None or '3x3'"):
        cg.ToPixelGraph("5x5")


# networkx


def test_networkx_sees_the_same_graph() -> None:
    image = numbered(1, 3, 4)
    image[0, 1, 1] = 0
    graph = cg.PixelGraph.from_image(image, image[0] > 0)
    made = graph.to_networkx()
    assert isinstance(made, networkx.MultiDiGraph)
    assert made.number_of_nodes() == 11
    assert [made.nodes[n]["x"] for n in made] == graph.x.tolist()
    assert [made.nodes[n]["pos"] for n in made] == [tuple(p) for p in graph.pos.tolist()]
    # networkx's own grid, with diagonals and loops, is the reference.
    grid = networkx.grid_2d_graph(3, 4)
    down = [(r, c, c + s) for r in range(2) for c in range(4) for s in (1, -1) if 0 <= c + s < 4]
    grid.add_edges_from(((r, c), (r + 1, other)) for r, c, other in down)
    grid.remove_node((1, 1))
    both = {*grid.edges, *((v, u) for u, v in grid.edges), *((n, n) for n in grid)}
    pos = networkx.get_node_attributes(made, "pos")
    assert {(pos[u], pos[v]) for u, v in made.edges()} == both
    for u, v, tap in made.edges(data="edge_type"):
        (r, c), (i, j) = pos[u], pos[v]
        assert divmod(tap, 3) == (r - i + 1, c - j + 1)


def test_folded_padding_has_parallel_edges() -> None:
    box = cg.KernelGeometry(3, padding=1, padding_mode="replicate")
    made = cg.PixelGraph.from_image(torch.ones(1, 2, 2)).to_networkx(box)
    assert made.number_of_edges() == 36
    assert made.number_of_edges(0, 0) == 4


# A record among records


def test_pytree_carries_features_and_keeps_sites() -> None:
    graph = cg.PixelGraph.from_image(numbered(2, 3, 4, 5))
    leaves, spec = pytree.tree_flatten(graph)
    assert len(leaves) == 1
    assert leaves[0] is graph.x
    again = pytree.tree_unflatten([graph.x + 1], spec)
    assert again.sites is graph.sites
    assert torch.equal(again.x, graph.x + 1)


def test_copies_and_moves() -> None:
    graph = cg.PixelGraph.from_image(numbered(2, 3, 4, 5), holes(2, (4, 5)))
    for other in (copy.copy(graph), copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        assert same(other, graph)
    assert graph.to("cpu").sites is graph.sites
    assert graph.to(torch.float64).x.dtype == torch.float64
    assert graph.to("meta").sites is graph.to("meta").sites, "moved once"
    assert graph.to(torch.int64).to_image().dtype == torch.int64, "labels live on nodes too"
    full = cg.PixelGraph.from_image(torch.rand(2, 3, 4, 5))
    assert pickle.loads(pickle.dumps(full)).sites is full.sites, "full grids are one record"
    with pytest.raises(AttributeError):
        graph.x = graph.x  # type: ignore[misc]


def test_full_grids_are_one_record_and_masks_are_never_compared() -> None:
    one, two = (cg.PixelGraph.from_image(torch.rand(2, 3, 4, 5)) for _ in range(2))
    assert one.sites is two.sites
    mask = holes(2, (4, 5))
    assert cg.PixelGraph.from_image(torch.rand(2, 3, 4, 5), mask).sites != (
        cg.PixelGraph.from_image(torch.rand(2, 3, 4, 5), mask).sites
    )


def test_what_it_says_of_itself() -> None:
    image = torch.rand(2, 3, 4, 5)
    mask = torch.ones(4, 5).bool()
    mask[0, 0] = False
    says = {
        "PixelGraph(40 nodes, 2 x 4x5, 3 channels, torch.float32, cpu)": (image, None),
        "PixelGraph(38 nodes of 40 pixels, 2 x 4x5, 3 channels, torch.float32, cpu)": (image, mask),
        "PixelGraph(40 nodes, [4x5, 10x2], 1 channels, torch.float32, cpu)": (
            [torch.rand(1, 4, 5), torch.rand(1, 10, 2)],
            None,
        ),
    }
    for text, (given_image, given_mask) in says.items():
        assert repr(cg.PixelGraph.from_image(given_image, given_mask)) == text


def test_map_and_with_x_check_rows() -> None:
    graph = cg.PixelGraph.from_image(torch.rand(1, 3, 4, 5))
    assert graph.map(torch.nn.Linear(3, 7)).num_channels == 7
    with pytest.raises(cg.errors.ShapeError, match=r"N = 20 nodes, got \(19, 3\)"):
        graph.map(lambda x: x[1:])


@pytest.mark.parametrize(
    "context", [torch.inference_mode, torch.no_grad, lambda: torch.device("meta")]
)
def test_topology_is_the_same_whoever_asks_first(context: Any) -> None:
    """What is kept must serve the next caller, who may train."""
    mask = holes(1, (5, 6))
    graph = cg.PixelGraph.from_image(torch.rand(1, 2, 5, 6), mask)
    layer = cg.nn.GraphConv2d(2, 2, 3, stride=2, padding=1, backend="gather")
    expected = cg.connect(layer.geometry, cg.PixelGraph.from_image(torch.rand(1, 2, 5, 6), mask))
    with context():
        first = layer.edges(graph).edge_index
    assert torch.equal(first, expected.edge_index)
    layer(graph).x.sum().backward()
    assert layer.weight.grad is not None
