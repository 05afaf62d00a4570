"""Backends: the choice and its reasons, forcing one, repeating bit for bit, keeping little."""

from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor

import convgraph as cg
from convgraph import backends, errors
from convgraph.backends.gather import typed_nodes
from convgraph.backends.tiles import conv as tiles
from convgraph.graph import edge_list
from tests.cases import CONV_BACKENDS, CONV_OFF_GRID, CPP, ran

BACKENDS = CONV_BACKENDS


def graph(mask: bool = False, batch: int = 2) -> cg.PixelGraph:
    image = torch.rand(batch, 4, 8, 9)
    return cg.PixelGraph.from_image(image, torch.rand(batch, 8, 9) > 0.5 if mask else None)


def test_a_full_grid_is_dense_and_builds_no_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("edges of a full grid were built though nobody asked for them")

    monkeypatch.setattr(edge_list, "build", never)
    layer = cg.nn.GraphConv2d(4, 6, 3, stride=2, padding=1)
    full = cg.PixelGraph.from_image(torch.rand(3, 4, 31, 33))
    assert cg.explain(layer, full).backend == "dense"
    out = layer(full)
    out.x.sum().backward()
    assert layer.edges(full).num_targets == out.num_nodes
    assert "unbuilt" not in repr(layer.edges(full)), "a full grid counts its edges, without a list"
    with pytest.raises(AssertionError, match="nobody asked"):
        _ = layer.edges(full).edge_index


@pytest.mark.skipif(not CPP, reason="the C++ kernels do not compile here")
@pytest.mark.parametrize("on", [None, cg.Hexagonal()])
def test_taps_that_a_footprint_leaves_out_are_spared_on_a_full_grid(on: Any) -> None:
    """`dense` would multiply them; a kernel of all taps stays with it."""
    shape = None if on else "cross"
    layer = cg.nn.GraphConv2d(32, 32, 3, padding=1, footprint=shape)
    full = cg.PixelGraph.from_image(torch.rand(2, 32, 24, 24), on=on)
    found = cg.explain(layer, full)
    macs = {option.name: option.macs for option in found.options}
    assert found.backend == "cpp"
    assert macs["cpp"] < macs["dense"]
    point = cg.nn.GraphConv2d(32, 32, (1, 3), padding=(0, 1))
    assert cg.explain(point, full).backend == "dense"


def test_a_mask_is_gathered_and_messages_are_never_chosen() -> None:
    found = cg.explain(cg.nn.GraphConv2d(4, 6, 3), graph(mask=True))
    assert found.backend in set(CONV_OFF_GRID) - {"messages"}
    serving = {o.name for o in found.options if o.refusal is None}
    assert serving >= {"tiles", *CPP, "gather", "masked", "messages"}
    assert not serving & {"dense", "halo", "resample", "triton"}
    assert [o.name for o in found.options] == list(backends.TABLES["conv"])
    text = str(found)
    assert max(map(len, text.splitlines())) <= 100
    assert "not every pixel is a node" in " ".join(text.split())


def test_the_choice_depends_on_nothing_but_static_facts() -> None:
    layer = cg.nn.GraphConv2d(4, 6, 3)
    one = graph(mask=True)
    two = one.with_x(torch.full_like(one.x, torch.nan))
    assert str(cg.explain(layer, one)) == str(cg.explain(layer, two))


def test_an_explanation_measures_on_request_and_says_what_is_kept() -> None:
    layer = cg.nn.GraphConv2d(4, 6, 3, padding=1)
    one = graph(mask=True)
    before = cg.explain(layer, one)
    assert before.measured == {}
    found = cg.explain(layer, one, measure=True)
    assert set(found.measured) == {o.name for o in found.options if o.refusal is None}
    assert set(found.measured) >= {"tiles", *CPP, "gather", "masked", "messages"}
    assert min(found.measured.values()) > 0
    assert found.backend == before.backend, "what is measured never enters the choice"
    assert layer.backend is None
    assert found.kept > before.kept, "listing the edges and the tiles keeps them"
    assert found.kept >= 16 * layer.edges(one).num_edges
    assert "measured" in str(found)
    assert max(map(len, str(found).splitlines())) <= 100


@pytest.mark.parametrize("how", ["layer", "block"])
@pytest.mark.parametrize("name", BACKENDS)
def test_one_can_be_forced(how: str, name: str) -> None:
    full = graph()
    if how == "layer":
        layer = cg.nn.GraphConv2d(4, 6, 3, backend=name)
        assert f"backend={name!r}" in repr(layer)
        assert cg.explain(layer, full).backend == name
    else:
        layer = cg.nn.GraphConv2d(4, 6, 3)
        with cg.backend(name):
            found = cg.explain(layer, full)
        assert found.backend == name
        assert "forced" in found.reason
        layer.backend = name
    with ran(name):
        assert layer(full).x.shape == (2 * 6 * 7, 6)


def test_a_layers_own_choice_wins_and_blocks_nest() -> None:
    layer = cg.nn.GraphConv2d(4, 6, 3, backend="messages")
    with cg.backend("gather"), cg.backend("dense"):
        assert cg.explain(layer, graph()).backend == "messages"
        layer.backend = None
        assert cg.explain(layer, graph()).backend == "dense"
    assert cg.explain(layer, graph(mask=True)).backend not in ("dense", "messages")


def test_a_backend_that_cannot_serve_says_why() -> None:
    layer = cg.nn.GraphConv2d(4, 6, 3)
    with (
        pytest.raises(cg.errors.BackendError, match=r"'dense' cannot serve.*not every pixel"),
        cg.backend("dense"),
    ):
        layer(graph(mask=True))
    with pytest.raises(cg.errors.BackendError, match="no backend is called 'tensor'"):
        cg.nn.GraphConv2d(4, 6, 3, backend="tensor")
    with pytest.raises(cg.errors.BackendError, match="no backend is called"), cg.backend("x"):
        pass
    with pytest.raises(cg.errors.ConversionError, match="ReLU chooses no backend"):
        cg.explain(torch.nn.ReLU(), graph())


CASES = {
    "plain": {"padding": 1},
    "strided": {"stride": 2, "padding": 1},
    "reflect": {"padding": 2, "padding_mode": "reflect"},
    "replicate": {"padding": 3, "padding_mode": "replicate"},
    "circular": {"padding": 2, "padding_mode": "circular", "groups": 2},
    "depthwise": {"padding": 1, "groups": 4},
}


def run(layer: Any, x: cg.PixelGraph, g: Tensor) -> list[Tensor]:
    leaf = x.x.detach().clone().requires_grad_()
    y = layer(x.with_x(leaf)).x
    return [y, *torch.autograd.grad(y, [leaf, *layer.parameters()], g)]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_results_repeat_bit_for_bit(name: str, case: str) -> None:
    layer = cg.nn.GraphConv2d(4, 8, 3, **CASES[case], backend=name)
    x = graph(mask=name != "dense", batch=4)
    g = torch.rand_like(layer(x).x)
    with ran(name):
        first = run(layer, x, g)
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, run(layer, x, g), strict=True))


@pytest.mark.parametrize("name", BACKENDS)
def test_the_order_of_the_batch_does_not_matter(name: str) -> None:
    layer = cg.nn.GraphConv2d(4, 8, 3, padding=1, backend=name)
    image, mask = torch.rand(3, 4, 6, 6), torch.rand(3, 6, 6) > 0.5
    order = torch.tensor([2, 0, 1])
    masks = (None, None) if name == "dense" else (mask, mask[order])
    one = layer(cg.PixelGraph.from_image(image, masks[0])).to_image()
    two = layer(cg.PixelGraph.from_image(image[order], masks[1])).to_image()
    assert torch.equal(one[order], two)


def kept_by(layer: Any, x: cg.PixelGraph) -> int:
    """Elements that autograd keeps for backward, each storage once."""
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return sum(seen.values())


def test_gather_keeps_no_messages_for_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    x = cg.PixelGraph.from_image(torch.rand(2, 32, 24, 24), torch.rand(2, 24, 24) > 0.3)
    x.x.requires_grad_()
    layer = cg.nn.GraphConv2d(32, 32, 3, padding=1, backend="gather")
    edges = layer.edges(x)
    floats, lists = 4 * (x.x.numel() + layer.weight.numel()), 8 * 2 * edges.num_edges
    assert kept_by(layer, x) <= floats + sum(t.nbytes for t in edges.memo_of(typed_nodes.slots)[:6])
    monkeypatch.setattr(typed_nodes, "MOST", 0)
    assert kept_by(layer, x) <= floats + lists
    layer.backend = "messages"
    assert kept_by(layer, x) > 4 * edges.num_edges // 2, "the comparison must see what is kept"


def test_rows_are_always_rows() -> None:
    """Strides (C, 1), also for one channel and for images in torch's own layout."""
    for channels in (1, 3):
        x = cg.PixelGraph.from_image(torch.rand(2, channels, 5, 5))
        assert x.x.stride() == (channels, 1)
        for name in BACKENDS:
            layer = cg.nn.GraphConv2d(channels, 1, 3, backend=name)
            assert layer(x).x.stride() == (1, 1)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_the_short_way_on_a_full_grid_is_torch_to_the_bit(
    d: int, groups: int, stride: int, dilation: int
) -> None:
    size = (9, 8, 7)[:d]
    kind = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[d]
    dense = kind(4, 8, 3, stride, 1, dilation, groups)
    layer = getattr(cg.nn, f"GraphConv{d}d").from_dense(dense)
    image = torch.randint(-4, 5, (2, 4, *size)).float()
    with torch.no_grad():
        for one in (dense, layer):
            one.weight.copy_(torch.arange(one.weight.numel()).view_as(one.weight) % 7 - 3)
            one.bias.copy_(torch.arange(8))
    full = cg.PixelGraph.from_image(image, d=d)
    x = full.x.clone().requires_grad_()
    out = layer(full.with_x(x))
    head = torch.randint(-4, 5, out.x.shape).float()
    pixels = image.clone().requires_grad_()
    y = dense(pixels)
    assert torch.equal(out.to_image(), y)
    mine = torch.autograd.grad(out.x, [x, *layer.parameters()], head)
    theirs = torch.autograd.grad(
        y, [pixels, *dense.parameters()], head.view(2, *y.shape[2:], 8).movedim(-1, 1)
    )
    rows = theirs[0].movedim(1, -1).reshape(-1, 4)
    assert all(torch.equal(a, b) for a, b in zip(mine, (rows, *theirs[1:]), strict=True))
    assert layer(full).sites is out.sites, "the same arguments give the same sites"


def test_the_short_way_keeps_no_grid_alive() -> None:
    layer = cg.nn.GraphConv2d(1, 1, 2, padding=1)
    back = cg.nn.GraphConv2d(1, 1, 2)
    full = cg.PixelGraph.from_image(torch.rand(1, 1, 23, 29))
    known = ref(full.sites)
    assert back(layer(full)).sites is full.sites
    del full
    assert known() is None, "without waiting for the collector of circles"


def test_what_does_not_fit_is_said_in_words_on_the_short_way_too() -> None:
    full = graph()
    with pytest.raises(errors.ShapeError, match=r"in_channels=4 or check the"):
        cg.nn.GraphConv2d(3, 6, 3)(full)
    with pytest.raises(errors.DtypeError, match="weight"):
        cg.nn.GraphConv2d(4, 6, 3).double()(full)
    with pytest.raises(errors.DeviceError, match="weight"):
        cg.nn.GraphConv2d(4, 6, 3, device="meta")(full)
    layer = cg.nn.GraphConv2d(4, 6, 3)
    layer.weight = torch.nn.Parameter(torch.zeros(6, 4, 5, 5))
    with pytest.raises(errors.ShapeError, match="kernel_size"):
        layer(full)


def test_weights_lie_as_torchs_do_and_are_drawn_as_torch_draws_them() -> None:
    """So that every tool that holds a torch layer holds this one."""
    torch.manual_seed(3)
    dense = torch.nn.Conv2d(4, 6, 3)
    torch.manual_seed(3)
    layer = cg.nn.GraphConv2d(4, 6, 3)
    assert torch.equal(layer.weight, dense.weight)
    assert layer.weight.stride() == dense.weight.stride()
    assert torch.nn.utils.parameters_to_vector(layer.parameters()).numel() == 222
    assert layer.weight.view(6, -1).shape == (6, 36)
    torch.manual_seed(3)
    layer.reset_parameters()
    assert torch.equal(layer.weight, dense.weight)
    assert layer.to_dense().weight.is_contiguous()


@pytest.mark.parametrize("kernel", [1, 2, 3, 7])
@pytest.mark.parametrize("channels", [2, 16, 128])
def test_who_is_left_out_of_the_choice_would_not_have_been_chosen(
    channels: int, kernel: int
) -> None:
    """`tiles` are not counted where the fewest would cost too much; the choice is the same."""
    asked = 0
    for groups in (1, channels):
        for density in (0.03, 0.4, 0.9):
            for stride, transposed in ((1, False), (2, False), (2, True)):
                kind = cg.nn.GraphConvTranspose2d if transposed else cg.nn.GraphConv2d
                layer = kind(channels, channels, kernel, stride, kernel // 2, groups=groups)
                mask = torch.rand(1, 24, 24) < density
                problem = layer.problem(
                    cg.PixelGraph.from_image(torch.rand(1, channels, 24, 24), mask)
                )
                fast = {o.name: o for o in backends.options(problem, fast=True)}
                full = {o.name: o for o in backends.options(problem) if o.refusal is None}
                full.pop("messages")
                best = min(full.values(), key=lambda option: option.cost)
                assert fast[best.name].cost == best.cost
                macs, moved = tiles.least(problem)
                assert macs <= full["tiles"].macs
                assert moved <= full["tiles"].moved
                asked += "tiles" in fast
    assert asked < 18 or not CPP
