"""Backend `resample`: the sources of a tap are added before they are multiplied."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

import convgraph as cg
from convgraph.backends.fused import operators as fused_operators
from convgraph.backends.resample import bags
from convgraph.backends.resample import conv as resample
from convgraph.proof import ConvSpec, prove_convolution
from tests.cases import CPP
from tests.spaces.cases import integers, whole

SPHERE, SIZE = cg.Equirectangular(), (8, 16)


@pytest.fixture(params=[pytest.param(True, id="by blocks"), pytest.param(False, id="written")])
def _ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled kernels, however few the channels, and without them."""
    if not request.param:
        monkeypatch.setattr(resample, "_by_blocks", lambda problem: False)
    elif not CPP:
        pytest.skip("the C++ kernels do not compile here")
    monkeypatch.setattr(resample, "LANES", 1)


@pytest.mark.usefixtures("_ways")
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("holes", [False, True])
def test_it_gives_what_gather_gives(groups: int, holes: bool) -> None:
    """Values, gradients, second order, forward mode and vmap, bit for bit."""
    layer = whole(cg.nn.GraphConv2d(4, 4, 3, stride=2, padding=1, groups=groups).double())
    mask = (integers(1, *SIZE, seed=4) > (-2 if holes else -9)).expand(2, *SIZE)
    sites = cg.Sites.from_mask(mask.contiguous(), space=SPHERE)
    x, v = integers(sites.num_nodes, 4), integers(sites.num_nodes, 4, seed=2)
    found = []
    for backend in ("resample", "gather"):
        layer.backend = backend

        def run(rows: torch.Tensor) -> torch.Tensor:
            return layer(cg.PixelGraph(rows, sites)).x

        rows = x.clone().requires_grad_()
        y = run(rows)
        first = torch.autograd.grad((y**2).sum(), [rows, layer.weight], create_graph=True)
        (twice,) = torch.autograd.grad((first[0] * v).sum(), rows)
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(run(forward_ad.make_dual(x, v))).tangent
        many = torch.func.vmap(run)(torch.stack([x, v]))
        found.append([y.detach(), *(g.detach() for g in first), twice, tangent.detach(), many])
    for one, two in zip(*found, strict=True):
        assert torch.equal(one.detach() * 2**32, two.detach() * 2**32)


def test_reading_and_its_way_back_are_adjoint() -> None:
    """<read(x), g> = <x, back(g)>, and the weights of a tap add up to one."""
    edges = cg.connect(cg.KernelGeometry(3, padding=1), cg.Sites.full(1, SIZE, space=SPHERE))
    both = bags.lists(edges, torch.float64)
    x = integers(edges.num_sources, 3).requires_grad_()
    said = bags.read(x, both)
    g = integers(*said.shape, seed=1)
    (back,) = torch.autograd.grad(said, x, g)
    assert (said * g).sum() == (x * back).sum()
    ones = torch.ones(edges.num_sources, 1, dtype=torch.float64)
    assert torch.equal(bags.read(ones, both), torch.ones(9 * 128, 1, dtype=torch.float64))


@pytest.mark.skipif(not CPP, reason="the C++ kernels do not compile here")
def test_a_counter_of_operations_sees_what_is_added_and_what_is_multiplied() -> None:
    """Two an edge and channel, and two a tap, channel in and channel out; thrice with gradients."""
    layer = cg.nn.GraphConv2d(6, 5, 3, padding=1, backend="resample")
    graph = cg.PixelGraph.from_image(torch.randn(1, 6, *SIZE), on=SPHERE)
    graph = graph.with_x(graph.x.requires_grad_())
    with FlopCounterMode(display=False) as counter:
        out = layer(graph)
        there = counter.get_total_flops()
        out.x.sum().backward()
    edges, taps = layer.edges(graph), 9 * graph.num_nodes
    assert there == 2 * (edges.num_edges * 6 + taps * 6 * 5)
    answered = torch.stack([edges.edge_index[0], edges.edge_type]).unique(dim=1).shape[1]
    back = 2 * (edges.num_edges * 5 + answered * 6 * 5)
    assert counter.get_total_flops() == 2 * there + back


@pytest.mark.skipif(not CPP, reason="the C++ kernels do not compile here")
def test_it_compiles_and_exports_with_its_gradients() -> None:
    layer = cg.nn.GraphConv2d(3, 4, 3, padding=1)
    layer.backend = "resample"
    graph = cg.PixelGraph.from_image(torch.randn(1, 3, *SIZE), on=SPHERE)
    found = []
    for run in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        x = graph.x.clone().requires_grad_()
        y = run(graph.with_x(x)).x
        found.append([y, *torch.autograd.grad(y.square().sum(), [x, layer.weight])])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.skipif(not CPP, reason="the C++ kernels do not compile here")
def test_bags_that_do_not_fit_are_refused() -> None:
    """The kernels trust no list that they have not read through."""
    edges = cg.connect(cg.KernelGeometry(3, padding=1), cg.Sites.full(1, SIZE, space=SPHERE))
    there, back = bags.reversible(edges, torch.float32)
    x, taps = torch.randn(edges.num_sources, 3), torch.randn(9, 1, 3, 2)
    assert fused_operators.send_bags(x, taps, None, *there, *back, 0).shape == (128, 2)
    beyond, short = there.rows.clone(), there.ptr.clone()
    beyond[5], short[7] = 128, there.ptr[9]
    for spoilt in (
        there._replace(rows=beyond),
        there._replace(rows=there.rows[:-1]),
        there._replace(rows=there.rows.long()),
        there._replace(ptr=short),
        there._replace(ptr=there.ptr[:-1]),
        there._replace(ptr=there.ptr[:0]),
        there._replace(weight=there.weight[:-1]),
        there._replace(weight=there.weight.double()),
        there._replace(weight=there.weight.repeat_interleave(2)[::2]),
    ):
        for lists in ((*spoilt, *back), (*back, *spoilt)):
            with pytest.raises((RuntimeError, IndexError), match="convgraph"):
                fused_operators.send_bags(x, taps, None, *lists, 0)
        with pytest.raises((RuntimeError, IndexError), match="convgraph"):
            fused_operators.correlate_bags(x, x, *spoilt, *back, 1)


def test_where_it_serves() -> None:
    """Taps between pixels; in the plane nobody needs it."""
    layer = cg.nn.GraphConv2d(8, 8, 3, padding=1)
    x = torch.rand(1, 8, *SIZE)
    found = cg.explain(layer, cg.PixelGraph.from_image(x, on=SPHERE))
    assert found.backend in ("resample", "gather")
    layer.backend = "resample"
    with pytest.raises(cg.errors.BackendError, match="in the plane every tap hears one pixel"):
        layer(cg.PixelGraph.from_image(x))


def test_bags_whose_weights_are_data_are_no_linear_reading() -> None:
    """The judge follows weights that are known; weights that depend on x make a square of it."""

    def squares(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
        rows = x.flatten()
        ptr, index = torch.arange(len(rows) + 1), torch.arange(len(rows))
        more = {"per_sample_weights": rows, "include_last_offset": True, "mode": "sum"}
        said = torch.nn.functional.embedding_bag(index, rows[:, None], ptr, **more)
        return said.view(x.shape) * w.flatten()[0]

    spec = ConvSpec(1, 1, (1,), (4,), bias=False)
    cert = prove_convolution(squares, torch.nn.functional.conv1d, spec)
    premise = next(part for part in cert.parts if part.name == "S1 premise")
    assert premise.status == "undecided"
    assert "weights that are data" in premise.facts


@pytest.mark.usefixtures("_ways")
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", [torch.nn.Conv2d, torch.nn.ConvTranspose2d])
def test_lines_and_what_is_left_of_them(kind: type, groups: int) -> None:
    """In float32 whole lines of sites are convolved and the others multiplied: one sum for both."""
    conv = kind(4, 4, 3, padding=1, groups=groups)
    graph_kind = getattr(cg.nn, f"Graph{kind.__name__}")
    layer = graph_kind(4, 4, 3, padding=1, groups=groups, backend="resample")
    layer.load_state_dict(conv.state_dict())
    mask = integers(2, *SIZE, seed=4) > -4
    assert int(mask.sum()) // 64 == 3
    assert int(mask.sum()) % 64
    cert = cg.prove(layer, conv, size=SIZE, mask=mask, on=SPHERE)
    assert cert.verdict == "proven", cert.reason
