"""Pointwise, depthwise and separable layers, and the way of every convolution to torch and back."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor

import convgraph as cg
from tests.cases import integer_weights, integers

# torch remarks that an even kernel with 'same' padding costs it a copy.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even")

CONV = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}
SIZES = {1: (7,), 2: (6, 5), 3: (4, 3, 5)}
KERNELS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 2, "dilation": 2, "bias": False},
    {"kernel_size": 3, "padding": 2, "padding_mode": "circular"},
    {"kernel_size": 2, "padding": "same"},
]


def separable(d: int, inside: int, outside: int, **kernel: Any) -> torch.nn.Sequential:
    depthwise = CONV[d](inside, inside, groups=inside, **kernel)
    pointwise = CONV[d](inside, outside, 1, bias=kernel.get("bias", True))
    return torch.nn.Sequential(OrderedDict(depthwise=depthwise, pointwise=pointwise))


def holes(d: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, *SIZES[d]) > 0.3


def agree(layer: Any, dense: Any, d: int, mask: Tensor | None) -> None:
    """Values and all gradients, bit for bit on integers; the dense side reads holes as zeros."""
    image = integers(2, layer_in(layer), *SIZES[d])
    one, two = image.clone().requires_grad_(), image.clone().requires_grad_()
    found = layer(cg.PixelGraph.from_image(two, mask, d=d))
    sites = torch.stack(found.sites.mask_images()).unsqueeze(1)
    seen = one if mask is None else torch.where(mask.unsqueeze(1), one, 0)
    expected = torch.where(sites, dense(seen), 0)
    assert torch.equal(found.to_image(), expected)
    g = integers(*expected.shape)
    left = torch.autograd.grad(expected, [one, *dense.parameters()], g)
    right = torch.autograd.grad(found.to_image(), [two, *layer.parameters()], g)
    for a, b in zip(left, right, strict=True):
        assert torch.equal(a, b)


def layer_in(layer: Any) -> int:
    first = getattr(layer, "depthwise", layer)
    return int(first.in_channels)


# Pointwise


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_the_edges_of_a_pointwise_layer_are_n_self_loops(d: int, masked: bool) -> None:
    layer = cg.nn.PointwiseConv(3, 4, d=d)
    graph = cg.PixelGraph.from_image(integers(2, 3, *SIZES[d]), holes(d) if masked else None, d=d)
    edges = layer.edges(graph)
    own = torch.arange(graph.num_nodes)
    assert edges.num_edges == graph.num_nodes
    assert torch.equal(edges.edge_index, torch.stack([own, own]))
    assert torch.equal(edges.edge_type, torch.zeros_like(own))


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"bias": False}])
def test_pointwise_is_torchs_1x1(d: int, masked: bool, options: dict[str, Any]) -> None:
    dense = integer_weights(CONV[d](4, 6, 1, **options))
    layer = cg.nn.PointwiseConv.from_dense(dense)
    agree(layer, dense, d, holes(d) if masked else None)
    assert str(layer.to_dense()) == str(dense)


# Depthwise


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("multiplier", [1, 3])
@pytest.mark.parametrize("kernel", KERNELS)
def test_depthwise_is_torchs_with_as_many_groups_as_channels(
    d: int, masked: bool, multiplier: int, kernel: dict[str, Any]
) -> None:
    dense = integer_weights(CONV[d](4, 4 * multiplier, groups=4, **kernel))
    layer = cg.nn.DepthwiseConv.from_dense(dense)
    # A folded source that is absent sends nothing; the dense fold of a zero says the same.
    agree(layer, dense, d, holes(d) if masked else None)
    assert str(layer.to_dense()) == str(dense)
    assert layer.groups == layer.in_channels


# Separable


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kernel", KERNELS)
def test_separable_is_the_sequential_of_two(d: int, masked: bool, kernel: dict[str, Any]) -> None:
    dense = integer_weights(separable(d, 4, 6, **kernel))
    layer = cg.nn.DepthwiseSeparableConv.from_dense(dense)
    if masked:  # between the stages nothing moves, so holes need no second fill
        agree(layer, dense, d, holes(d))
    else:
        agree(layer, dense, d, None)
    back = layer.to_dense()
    assert str(back) == str(dense)
    assert all(torch.equal(v, dense.state_dict()[k]) for k, v in back.state_dict().items())


def test_separable_names_its_output_sites() -> None:
    layer = cg.nn.DepthwiseSeparableConv(2, 3, 3, stride=2, padding=1)
    graph = cg.PixelGraph.from_image(torch.rand(1, 2, 6, 6), torch.eye(6) > 0)
    named = torch.rand(1, 3, 3) > 0.5
    assert torch.equal(layer(graph, sites=named).mask, named)


def test_an_unmixed_stage_is_seen() -> None:
    """The planted fault: channels that mix in the depthwise stage, by one weight."""
    dense = integer_weights(separable(2, 4, 6, kernel_size=3, padding=1))
    layer = cg.nn.DepthwiseSeparableConv.from_dense(dense)
    with torch.no_grad():
        layer.depthwise.weight[0, 0, 1, 1] += 1
    with pytest.raises(AssertionError):
        agree(layer, dense, 2, None)


# Same seed, same parameters


@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_same_seed_gives_the_same_parameters(d: int) -> None:
    pairs: list[tuple[Any, Any]] = [
        (lambda: cg.nn.PointwiseConv(4, 6, 2, d=d), lambda: CONV[d](4, 6, 1, groups=2)),
        (
            lambda: cg.nn.DepthwiseConv(4, 3, 2, 1, multiplier=2, d=d),
            lambda: CONV[d](4, 8, 3, 2, 1, groups=4),
        ),
        (
            lambda: cg.nn.DepthwiseSeparableConv(4, 6, 3, 2, 1, d=d),
            lambda: separable(d, 4, 6, kernel_size=3, stride=2, padding=1),
        ),
    ]
    for ours, torchs in pairs:
        torch.manual_seed(5)
        layer = ours()
        torch.manual_seed(5)
        dense = torchs()
        mine, theirs = layer.state_dict(), dense.state_dict()
        assert list(mine) == list(theirs)
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
        layer.load_state_dict(theirs)
        dense.load_state_dict(mine)


# Twins of every convolution


@pytest.mark.parametrize(
    "dense",
    [
        torch.nn.Conv2d(2, 4, 3, padding="same"),
        torch.nn.Conv2d(2, 4, 2, padding="same", dilation=3),
        torch.nn.Conv1d(2, 4, 3, padding="valid"),
        torch.nn.Conv3d(2, 4, 1, padding="same", bias=False),
        torch.nn.Conv2d(2, 4, 3, stride=2, padding=(1, 0), groups=2, padding_mode="reflect"),
        torch.nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1),
        torch.nn.Conv2d(2, 4, 3, dtype=torch.bfloat16).eval().requires_grad_(False),
    ],
    ids=str,
)
def test_torch_comes_back_as_it_was(dense: Any) -> None:
    before = torch.get_rng_state()
    layer = getattr(cg.nn, f"Graph{type(dense).__name__}").from_dense(dense)
    back = layer.to_dense()
    assert torch.equal(torch.get_rng_state(), before)  # nothing was drawn on the way
    assert str(back) == str(dense)
    assert back.padding == dense.padding
    assert back.training == dense.training
    for key, value in dense.state_dict().items():
        copied = back.state_dict()[key]
        assert torch.equal(copied, value)
        assert copied.dtype == value.dtype
        assert copied.data_ptr() != value.data_ptr()
    assert [p.requires_grad for p in back.parameters()] == [
        p.requires_grad for p in dense.parameters()
    ]


def test_uneven_numbers_become_same_where_torch_knows_them() -> None:
    layer = cg.nn.GraphConv2d(1, 1, 2, padding=((0, 1), (0, 1)))
    assert layer.to_dense().padding == "same"
    with pytest.raises(cg.errors.ConversionError, match="torch's layers take one padding an axis"):
        cg.nn.GraphConv2d(1, 1, 2, padding=((1, 0), (0, 1))).to_dense()


# Errors


class _Standardized(torch.nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight - self.weight.mean(), self.bias)


def test_what_is_no_twin_is_refused() -> None:
    conversion = cg.errors.ConversionError
    with pytest.raises(conversion, match="expected kernel_size 1, stride 1 and no padding"):
        cg.nn.PointwiseConv.from_dense(torch.nn.Conv2d(3, 4, 3))
    with pytest.raises(conversion, match=r"expected kernel_size 1.*use GraphConv2d"):
        cg.nn.PointwiseConv.from_dense(torch.nn.Conv2d(3, 4, 1, stride=2))
    with pytest.raises(conversion, match="expected groups=in_channels=4, got groups=2"):
        cg.nn.DepthwiseConv.from_dense(torch.nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(conversion, match=r"expected a torch\.nn\.Conv1d, Conv2d or Conv3d"):
        cg.nn.DepthwiseConv.from_dense(torch.nn.Linear(3, 3))
    with pytest.raises(conversion, match=r"'depthwise' and 'pointwise' in this order, got \['0'"):
        cg.nn.DepthwiseSeparableConv.from_dense(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)))
    parts = dict(separable(2, 4, 4, kernel_size=1).named_children())
    turned = torch.nn.Sequential(OrderedDict(reversed(parts.items())))
    with pytest.raises(conversion, match="in this order"):
        cg.nn.DepthwiseSeparableConv.from_dense(turned)
    parts["pointwise"] = torch.nn.Conv2d(5, 4, 1)
    with pytest.raises(conversion, match="reads what the depthwise one writes"):
        cg.nn.DepthwiseSeparableConv.from_dense(torch.nn.Sequential(OrderedDict(parts)))
    with pytest.raises(conversion, match="with a forward of its own"):
        cg.nn.GraphConv2d.from_dense(_Standardized(1, 1, 3))
    with pytest.raises(conversion, match="has no weight yet; call it once"):
        cg.nn.GraphConv2d.from_dense(torch.nn.LazyConv2d(1, 3))
    normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(1, 1, 3))
    with pytest.raises(conversion, match="remove the reparametrization first"):
        cg.nn.GraphConv2d.from_dense(normed)


def test_bad_numbers_are_named() -> None:
    geometry = cg.errors.GeometryError
    with pytest.raises(geometry, match="DepthwiseConv: multiplier: expected at least 1, got 0"):
        cg.nn.DepthwiseConv(4, 3, multiplier=0)
    with pytest.raises(
        geometry, match=r"DepthwiseConv: in_channels: expected an integer, got 4\.5"
    ):
        cg.nn.DepthwiseConv(4.5, 3)
    with pytest.raises(geometry, match="groups=2 must divide in_channels=3"):
        cg.nn.PointwiseConv(3, 4, 2)
    graph = cg.PixelGraph.from_image(torch.rand(1, 3, 4, 4))
    with pytest.raises(cg.errors.ShapeError, match=r"DepthwiseConv\(4, 4, kernel_size=\(3, 3\)\)"):
        cg.nn.DepthwiseSeparableConv(4, 8, 3)(graph)
    with pytest.raises(cg.errors.BackendError, match="no backend is called 'fast'"):
        cg.nn.DepthwiseSeparableConv(4, 8, 3, backend="fast")
