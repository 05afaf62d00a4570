"""Unfold, fold, pixel shuffle and unshuffle on pixel graphs: always bit for bit.

The truth on a mask is torch's operator on the image whose absent pixels are 0, at the output sites;
in one and three dimensions, where torch has none, the same sum written with shifts.
"""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import convgraph as cg
from convgraph.backends.dense import unfold as dense_unfold
from convgraph.backends.gather import unfold as gather_unfold
from convgraph.functional import graph_fold, graph_unfold
from convgraph.graph import edge_list
from convgraph.nn import GraphFold, GraphPixelShuffle, GraphPixelUnshuffle, GraphUnfold
from convgraph.proof.equation.map_positions import MapPositions
from tests.cases import BACKENDS, OFF_GRID, holes, integers

HALF = (torch.float16, torch.bfloat16)
KERNELS = [
    {"kernel_size": 3},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 2, "stride": 2},
    {"kernel_size": (1, 3), "dilation": (1, 2), "padding": (0, 2), "stride": (2, 1)},
    {"kernel_size": 2, "stride": 3, "padding": 1},
]


def agrees(operator, layer, image: torch.Tensor, mask: torch.Tensor | None = None) -> bool:
    """Whether y at the layer's sites and the gradient equal torch's, bit for bit."""
    dense, nodes = (image.clone().requires_grad_() for _ in range(2))
    out = layer(cg.PixelGraph.from_image(nodes, mask, d=image.dim() - 2))
    y = operator(dense if mask is None else torch.where(mask.unsqueeze(1), dense, 0))
    y = torch.where(out.mask.unsqueeze(1), y, 0)
    if y.shape != out.to_image().shape:
        return False
    g = integers(*y.shape, dtype=y.dtype)
    y.backward(g)
    out.to_image().backward(g)
    return torch.equal(out.to_image(), y) and torch.equal(nodes.grad, dense.grad)


def windows(image: torch.Tensor, layer: GraphUnfold) -> torch.Tensor:
    """Return torch's unfold as an image: column l at its place in the output lattice."""
    pairs = [
        v if isinstance(v, tuple) else (v, v)
        for v in (layer.kernel_size, layer.dilation, layer.padding, layer.stride)
    ]
    size = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, d, p, s in zip(image.shape[2:], *pairs, strict=True)
    ]
    return layer.to_dense()(image).unflatten(2, size)


# Unfold and fold


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_unfold_equals_torch(kernel: dict, backend: str, dtype: torch.dtype) -> None:
    layer = GraphUnfold(**kernel, backend=backend)
    image = integers(2, 3, 6, 7, dtype=dtype)
    assert agrees(lambda x: windows(x, layer), layer, image)
    columns = layer.to_columns(layer(cg.PixelGraph.from_image(image)))
    assert torch.equal(columns, torch.nn.Unfold(**kernel)(image))
    alone = layer.to_columns(layer(cg.PixelGraph.from_image(image[0])))
    assert torch.equal(alone, columns[0])


@pytest.mark.parametrize("backend", OFF_GRID)
@pytest.mark.parametrize("kernel", KERNELS)
def test_unfold_on_a_mask(kernel: dict, backend: str) -> None:
    layer, mask = GraphUnfold(**kernel, backend=backend), holes(2, (6, 7), keep=0.3)
    assert agrees(lambda x: windows(x, layer), layer, integers(2, 3, 6, 7), mask)
    out = layer(cg.PixelGraph.from_image(mask[:, None].double(), mask))
    heard = windows(mask[:, None].double(), layer).any(dim=1)
    assert torch.equal(out.mask, mask if heard.shape == mask.shape else heard)


@pytest.mark.parametrize("backend", [None, *OFF_GRID])
def test_pads_of_two_widths(backend: str | None) -> None:
    """What knows one width alone was asked all the same, and added elsewhere."""
    kernel = {"kernel_size": 2, "stride": (3, 2), "dilation": (2, 1)}
    image, pads = integers(2, 3, 6, 7), ((0, 1), (1, 0))
    graph = graph_unfold(cg.PixelGraph.from_image(image), padding=pads, **kernel, backend=backend)
    columns = F.unfold(F.pad(image, (1, 0, 0, 1)), **kernel)
    assert torch.equal(graph.to_image().flatten(2), columns)
    back = graph_fold(graph, (6, 7), padding=pads, **kernel, backend=backend)
    assert torch.equal(back.to_image(), F.fold(columns, (7, 8), **kernel)[:, :, :-1, 1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_fold_equals_torch(kernel: dict, backend: str, dtype: torch.dtype) -> None:
    twin = torch.nn.Fold((6, 7), **kernel)
    layer = GraphFold.from_dense(twin)
    layer.backend = backend
    image = windows(integers(2, 3, 6, 7, dtype=dtype), GraphUnfold(**kernel))
    image = integers(*image.shape, dtype=dtype)
    assert agrees(lambda x: twin(x.flatten(2)), layer, image)
    columns = layer.from_columns(image.flatten(2))
    assert torch.equal(layer(columns).to_image(), twin(image.flatten(2)))


@pytest.mark.parametrize("backend", OFF_GRID)
@pytest.mark.parametrize("kernel", KERNELS)
def test_fold_on_a_mask(kernel: dict, backend: str) -> None:
    layer = GraphFold((6, 7), **kernel, backend=backend)
    image = windows(integers(2, 3, 6, 7), GraphUnfold(**kernel))
    mask = holes(2, tuple(image.shape[2:]), keep=0.4)
    assert agrees(lambda x: layer.to_dense()(x.flatten(2)), layer, image, mask)


@given(
    d=st.integers(1, 3),
    size=st.tuples(*[st.integers(1, 6)] * 3),
    kernel=st.tuples(*[st.integers(1, 3)] * 3),
    dilation=st.tuples(*[st.integers(1, 2)] * 3),
    padding=st.tuples(*[st.integers(0, 2)] * 3),
    stride=st.tuples(*[st.integers(1, 3)] * 3),
    masked=st.booleans(),
    backend=st.sampled_from([None, *OFF_GRID]),
)
@settings(max_examples=120)
def test_unfold_and_fold_in_any_dimension(
    d, size, kernel, dilation, padding, stride, masked, backend
) -> None:
    size, kernel, dilation, padding, stride = (
        v[:d] for v in (size, kernel, dilation, padding, stride)
    )
    reach = [dil * (k - 1) + 1 for k, dil in zip(kernel, dilation, strict=True)]
    room = [n + 2 * p - r for n, p, r in zip(size, padding, reach, strict=True)]
    assume(min(room) >= 0)
    lattice = [r // s + 1 for r, s in zip(room, stride, strict=True)]
    numbers = {"kernel_size": kernel, "dilation": dilation, "padding": padding, "stride": stride}

    def shifts(image: torch.Tensor) -> torch.Tensor:
        """Tap by tap, what every window sees: a strided slice of the padded image."""
        padded = F.pad(image, [p for p in reversed(padding) for _ in (0, 1)])
        taps = []
        for tap in product(*map(range, kernel)):
            cut = [
                slice(t * dil, t * dil + (m - 1) * s + 1, s)
                for t, dil, m, s in zip(tap, dilation, lattice, stride, strict=True)
            ]
            taps.append(padded[(..., *cut)])
        return torch.stack(taps, dim=2).flatten(1, 2)

    def sums(columns: torch.Tensor) -> torch.Tensor:
        """The transpose of `shifts`, by autograd."""
        image = torch.zeros(len(columns), 2, *size, dtype=columns.dtype, requires_grad=True)
        (folded,) = torch.autograd.grad(shifts(image), image, columns, create_graph=True)
        return folded

    image = integers(2, 2, *size)
    mask = holes(2, size) if masked else None
    assert agrees(shifts, GraphUnfold(**numbers, backend=backend), image, mask)
    columns = integers(*shifts(image).shape)
    mask = holes(2, tuple(lattice)) if masked else None
    assert agrees(sums, GraphFold(size, **numbers, backend=backend), columns, mask)


@pytest.mark.parametrize("backend", BACKENDS)
def test_fold_and_unfold_are_adjoint_to_any_order(backend: str) -> None:
    image = integers(1, 2, 5, 5).requires_grad_()
    graph = cg.PixelGraph.from_image(image)
    y = graph_unfold(graph, 3, padding=1, backend=backend)
    g = integers(*y.x.shape).requires_grad_()
    (back,) = torch.autograd.grad(y.x, image, g, create_graph=True)
    assert torch.equal(back, graph_fold(y.with_x(g), 5, 3, padding=1, backend=backend).to_image())
    direction = integers(*image.shape)
    (again,) = torch.autograd.grad(back, g, direction)
    assert torch.equal(again, graph_unfold(cg.PixelGraph.from_image(direction), 3, padding=1).x)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("backend", BACKENDS)
def test_half_types_add_in_float32(backend: str, dtype: torch.dtype) -> None:
    columns = torch.randn(2, 3 * 9, 25).to(dtype)
    layer = GraphFold(5, 3, padding=1, backend=backend)
    y = layer(layer.from_columns(columns)).to_image()
    exact = layer(layer.from_columns(columns.float())).to_image()
    assert torch.equal(y, exact.to(dtype))

    image = torch.randn(2, 3, 5, 5).to(dtype).requires_grad_()
    unfold = GraphUnfold(3, padding=1, backend=backend)
    unfold.to_columns(unfold(cg.PixelGraph.from_image(image))).backward(columns)
    assert torch.equal(image.grad, exact.to(dtype))


# Pixel shuffle and unshuffle


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *HALF])
@pytest.mark.parametrize("r", [1, 2, 3])
@pytest.mark.parametrize("backend", BACKENDS)
def test_pixel_shuffle_equals_torch(backend: str, r: int, dtype: torch.dtype) -> None:
    shuffle, unshuffle = (
        GraphPixelShuffle(r, backend=backend),
        GraphPixelUnshuffle(r, backend=backend),
    )
    image = integers(2, 2 * r * r, 3, 4, dtype=dtype)
    assert agrees(shuffle.to_dense(), shuffle, image)
    image = integers(2, 2, 3 * r, 4 * r, dtype=dtype)
    assert agrees(unshuffle.to_dense(), unshuffle, image)


@pytest.mark.parametrize("r", [1, 2, 3])
@pytest.mark.parametrize("backend", OFF_GRID)
def test_pixel_shuffle_on_a_mask(backend: str, r: int) -> None:
    shuffle = GraphPixelShuffle(r, backend=backend)
    mask = holes(2, (3, 4), keep=0.4)
    image = integers(2, 2 * r * r, 3, 4)
    assert agrees(shuffle.to_dense(), shuffle, image, mask)
    out = shuffle(cg.PixelGraph.from_image(image, mask))
    spread = mask.repeat_interleave(r, 1).repeat_interleave(r, 2)
    assert torch.equal(out.mask, spread)

    unshuffle = GraphPixelUnshuffle(r, backend=backend)
    back = unshuffle(out)
    assert torch.equal(back.mask, mask)
    assert torch.equal(back.to_image(), torch.where(mask[:, None], image, 0))

    mask = holes(2, (3 * r, 4 * r), keep=0.2)
    image = integers(2, 2, 3 * r, 4 * r)
    assert agrees(unshuffle.to_dense(), unshuffle, image, mask)
    out = unshuffle(cg.PixelGraph.from_image(image, mask))
    assert torch.equal(out.mask, F.max_pool2d(mask[:, None].double(), r)[:, 0] > 0)


# Ragged batches, named sites, edges, repeats, compilation


LAYERS = [
    pytest.param(lambda b: GraphUnfold(3, stride=2, padding=1, backend=b), 4, id="unfold"),
    pytest.param(lambda b: GraphPixelShuffle(2, backend=b), 4, id="shuffle"),
    pytest.param(lambda b: GraphPixelUnshuffle(2, backend=b), 4, id="unshuffle"),
]


@pytest.mark.parametrize("backend", OFF_GRID)
@pytest.mark.parametrize(("make", "channels"), LAYERS)
def test_a_ragged_batch_equals_its_images(make, channels: int, backend: str) -> None:
    layer, sizes = make(backend), [(2, 4), (6, 4), (4, 2)]
    images = [integers(channels, *size) for size in sizes]
    masks = [holes(1, size)[0] for size in sizes]
    singles = [layer(cg.PixelGraph.from_image(i, m)) for i, m in zip(images, masks, strict=True)]
    out = layer(cg.PixelGraph.from_image(images, masks))
    assert torch.equal(out.x, torch.cat([single.x for single in singles]))
    for got, single in zip(out.sites.mask_images(), singles, strict=True):
        assert torch.equal(got, single.mask)


@pytest.mark.parametrize("backend", OFF_GRID)
@pytest.mark.parametrize(("make", "channels"), LAYERS)
def test_named_sites_are_the_output_sites(make, channels: int, backend: str) -> None:
    image, mask = integers(2, channels, 4, 6), holes(2, (4, 6))
    layer = make(backend)
    dense = make("gather")(cg.PixelGraph.from_image(torch.where(mask[:, None], image, 0)))
    named = holes(2, tuple(dense.to_image().shape[2:]))
    out = layer(cg.PixelGraph.from_image(image, mask), sites=named)
    assert torch.equal(out.mask, named)
    assert torch.equal(out.to_image(), torch.where(named[:, None], dense.to_image(), 0))
    assert layer.edges(cg.PixelGraph.from_image(image, mask), named).num_targets == out.num_nodes
    network = layer(cg.PixelGraph.from_image(image, mask), sites="network")
    truth = MapPositions.of(mask).scaled(dense.to_image().shape[2:]).there  # all are steps in scale
    assert torch.equal(torch.stack(network.sites.mask_images()), truth)


def test_a_grid_builds_no_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("somebody asked for the edges of a full grid")

    monkeypatch.setattr(edge_list, "build", forbidden)
    graph = cg.PixelGraph.from_image(torch.ones(1, 4, 14, 10))
    for layer in (GraphUnfold(3), GraphPixelShuffle(2), GraphPixelUnshuffle(2)):
        layer(graph)
        assert cg.explain(layer, graph).backend == "dense"
    columns = GraphUnfold(3)(graph)
    assert cg.explain(GraphFold((14, 10), 3), columns).backend == "dense"
    GraphFold((14, 10), 3)(columns)


def test_edges_of_a_shuffle_join_each_site_to_its_one_source() -> None:
    graph = cg.PixelGraph.from_image(torch.ones(1, 4, 2, 2))
    edges = GraphPixelShuffle(2).edges(graph)
    assert sorted(edges.edge_index[1].tolist()) == list(range(16))
    row, column = edges.edge_index[1] // 4, edges.edge_index[1] % 4
    assert torch.equal(edges.edge_index[0], row // 2 * 2 + column // 2)
    assert torch.equal(edges.edge_type, row % 2 * 2 + column % 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_runs_repeat_bit_for_bit(backend: str) -> None:
    image, layer = torch.randn(2, 3, 8, 8), GraphUnfold(3, padding=1, backend=backend)
    g, grads = torch.randn(128, 27), []
    for _ in range(2):
        x = image.clone().requires_grad_()
        layer(cg.PixelGraph.from_image(x)).x.backward(g)
        grads.append(x.grad)
    assert torch.equal(*grads)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gpu_gives_the_same(backend: str) -> None:
    image = integers(2, 3, 6, 7, dtype=torch.float32)
    columns = GraphUnfold(3, padding=1)(cg.PixelGraph.from_image(image))
    there = GraphUnfold(3, padding=1, backend=backend)(cg.PixelGraph.from_image(image.cuda()))
    assert torch.equal(there.x.cpu(), columns.x)
    layer = GraphFold((6, 7), 3, padding=1, backend=backend)
    assert torch.equal(layer(there).x.cpu(), layer(columns).x)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # dynamo's
@pytest.mark.parametrize(
    "layer", [GraphUnfold(3), GraphFold((8, 10), 3), GraphPixelShuffle(3), GraphPixelUnshuffle(2)]
)
def test_compiles_as_one_graph(layer: torch.nn.Module) -> None:
    image = integers(1, 9, 6, 8)
    for mask in (None, holes(1, (6, 8))):
        graph = cg.PixelGraph.from_image(image, mask)
        expected = layer(graph).x
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        assert torch.equal(compiled(graph).x, expected)


def test_nothing_becomes_nothing() -> None:
    nobody = torch.zeros(1, 4, 4, dtype=torch.bool)
    for image, mask in ((torch.ones(0, 4, 4, 4), None), (torch.ones(1, 4, 4, 4), nobody)):
        graph = cg.PixelGraph.from_image(image, mask)
        assert GraphUnfold(3)(graph).x.shape == (0, 36)
        assert GraphPixelShuffle(2)(graph).to_image().shape == (len(image), 1, 8, 8)
        assert GraphPixelUnshuffle(2)(graph).to_image().shape == (len(image), 16, 2, 2)
        assert GraphFold(5, 2)(graph).to_image().shape == (len(image), 1, 5, 5)


# The comparison can fail


@pytest.mark.parametrize("fault", ["taps before channels", "one tap lost", "axes swapped"])
def test_a_planted_fault_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = gather_unfold.unfold

    def faulty(x, edges):
        out = whole(x, edges).unflatten(1, (-1, edges.num_taps))
        if fault == "taps before channels":
            out = out.transpose(1, 2)
        elif fault == "one tap lost":
            out = out * (torch.arange(edges.num_taps) != 4)
        else:
            out = out.unflatten(2, (3, 3)).transpose(2, 3)
        return out.flatten(1)

    layer = GraphUnfold(3, backend="gather")
    image = integers(1, 2, 6, 6)
    assert agrees(lambda x: windows(x, layer), layer, image)
    monkeypatch.setattr(gather_unfold, "unfold", faulty)
    assert not agrees(lambda x: windows(x, layer), layer, image)


def test_a_planted_fault_on_a_grid_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = GraphPixelShuffle(2)
    image = integers(1, 8, 3, 3)
    assert agrees(layer.to_dense(), layer, image)
    monkeypatch.setattr(dense_unfold, "tile", lambda *_: 4)
    with pytest.raises(RuntimeError, match="upscale_factor"):
        layer(cg.PixelGraph.from_image(image))
    monkeypatch.setattr(
        dense_unfold,
        "fold",
        lambda x, edges: gather_unfold.fold(x.flip(1), edges),
    )
    assert not agrees(layer.to_dense(), layer, image)
