"""`cg.prove` of two networks with `on=`: the reference is the dense one, with the judge's halo."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import convgraph as cg
from convgraph.backends.halo import pool as halo_pool
from convgraph.backends.halo.conv import margins as charts_of
from convgraph.convert.rules import pooling
from convgraph.errors import ProofError
from convgraph.memo import forget
from convgraph.spaces import healpix
from tests.spaces.cases import UNet


class Net(torch.nn.Module):
    """Strides, groups, a transposed convolution, both norms, a pool, a readout."""

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Conv2d(2, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.down = torch.nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.groups = torch.nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.other = torch.nn.GroupNorm(2, 4)
        self.up = torch.nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.pool = torch.nn.AvgPool2d(2)
        self.head = torch.nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.one(x)).relu()
        y = self.pool(y + self.up(torch.nn.functional.silu(self.other(self.groups(self.down(y))))))
        return self.head(y.mean((2, 3)))


def images(*size: int) -> Tensor:
    return torch.randn(2, 2, *size, dtype=torch.float64)


def prepared(kind: Any) -> Any:
    torch.manual_seed(0)
    return cg.excite(kind().double().eval(), images(8, 8))


def statuses(cert: Any) -> dict[str, str]:
    return {part.name: part.status for part in cert.parts}


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (cg.Torus(), (8, 12)),
        (cg.HEALPix(), (96, 8)),
        (cg.HEALPix(corner="absent"), (96, 8)),
        (cg.Equirectangular(taps="wrap"), (8, 16)),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [Net, UNet])
def test_a_converted_network_is_proven_in_a_space(space: Any, size: Any, kind: Any) -> None:
    """Every operator reads the same pixels, every layer has its certificate, and one run agrees."""
    net = prepared(kind)
    graph = cg.PixelGraph.from_image(images(*size), on=space)
    cert = cg.prove(cg.to_graph(net), net, graph)
    assert cert.verdict == "proven", cert.reason
    found = statuses(cert)
    assert found["wiring"] == found["layers"] == found["end to end"] == "proven"
    assert cert.spec["space"] == space.to_dict()
    layers = [layer for layer in cert.layers if "GraphConv" in layer.name]
    assert len(layers) >= 4
    assert all(layer.spec["space"] == space.to_dict() for layer in layers)
    assert "the array's" in cert.assumed[-1]
    assert found["gradients"] == "proven", [p.facts for p in cert.parts]


def test_circular_padding_on_every_convolution_is_refuted_with_the_pixel() -> None:
    """What everybody does for seamless textures; pools, resizes, transposed layers do not wrap."""
    net = prepared(UNet)
    hack = copy.deepcopy(net)
    for module in (hack.first, hack.down, hack.deep, hack.last):
        module.padding_mode = "circular"
        module._reversed_padding_repeated_twice = [1, 1, 1, 1]
    cert = cg.prove(hack, net, images(8, 12), on=cg.Torus())
    assert cert.verdict == "refuted"
    assert statuses(cert)["end to end"] == "refuted"
    assert "output 0 at [" in cert.reason
    assert "rounding explains" in cert.reason


def test_the_plane_is_refuted_on_the_sphere() -> None:
    net = prepared(Net)
    cert = cg.prove(net, net, images(96, 8), on=cg.HEALPix())
    assert cert.verdict == "refuted"


def test_a_pool_that_reads_face_by_face_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each layer is proven, and the wiring is not: a maximum does not look over the edges."""
    net = prepared(UNet)
    right = pooling.max_pool_values

    def wrong(graph: Any, *args: Any, **how: Any) -> Any:
        faces = graph.to_image().unflatten(2, (12, -1)).transpose(1, 2).flatten(0, 1)
        pooled = torch.nn.functional.max_pool2d(faces, 3, 2, 1).unflatten(0, (-1, 12))
        image = pooled.transpose(1, 2).flatten(2, 3)
        return right(graph, *args, **how).with_x(cg.PixelGraph.from_image(image).x)

    monkeypatch.setattr(pooling, "max_pool_values", wrong)
    cert = cg.prove(cg.to_graph(net), net, images(96, 8), on=cg.HEALPix())
    assert cert.verdict == "refuted"
    assert "max_pool2d" in cert.reason


def test_a_pool_whose_gradient_is_twice_too_large_is_not_proven(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its values are right, and every layer is: the backward program is another one."""
    net = prepared(UNet)
    right = halo_pool.maximum

    def wrong(*args: Any) -> Tensor:
        y = right(*args)
        return y + (y - y.detach())

    monkeypatch.setattr(halo_pool, "maximum", wrong)
    cert = cg.prove(cg.to_graph(net), net, images(8, 12), on=cg.Torus())
    assert cert.verdict != "proven"
    assert statuses(cert)["end to end"] == "proven"


def test_a_margin_that_says_nothing_back_is_not_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients that come in over an edge are lost, of the pool alone."""
    net = prepared(UNet)
    right = halo_pool.halo.spread_with

    def wrong(x: Tensor, edges: Any, fill: float) -> Tensor:
        wide = right(x.detach(), edges, fill)
        count, size = edges.source.batch_size, edges.source.size
        inside = x.view(count, *size, -1).permute(0, 3, 1, 2)
        top, left = charts_of(edges).start
        place = (slice(None), slice(None), slice(top, top + size[0]), slice(left, left + size[1]))
        return torch.slice_scatter(
            wide, torch.slice_scatter(wide[place[:3]], inside, 3, left, left + size[1]),
            2, top, top + size[0],
        )  # fmt: skip

    monkeypatch.setattr(halo_pool.halo, "spread_with", wrong)
    cert = cg.prove(cg.to_graph(net), net, images(8, 12), on=cg.Torus())
    assert cert.verdict != "proven"


def test_a_turned_face_is_refuted_in_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the table of the space itself."""
    forget()
    right = healpix.walked
    monkeypatch.setattr(healpix, "walked", lambda f, i, j, n, corner: right(f, i, j, n, "mean"))
    try:
        net = prepared(Net)
        cert = cg.prove(cg.to_graph(net), net, images(96, 8), on=cg.HEALPix())
    finally:
        monkeypatch.undo()
        forget()
    assert cert.verdict == "refuted"


def test_what_the_judge_has_no_truth_for_is_undecided() -> None:
    """Taps between pixels have no dense pool, windows of hexagons neither."""
    for kind, space, size, why in (
        (Net, cg.Equirectangular(), (8, 16), "between pixels"),
        (Net, cg.Hexagonal(), (8, 8), "hexagonal pixels"),
    ):
        net = prepared(kind)
        cert = cg.prove(cg.to_graph(net), net, images(*size), on=space)
        assert cert.verdict == "undecided"
        assert why in cert.reason


def test_convolutions_alone_are_proven_where_taps_lie_between_pixels_and_on_hexagons() -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(),
        torch.nn.Conv2d(4, 2, 3, padding=1),
    ).double().eval()  # fmt: skip
    for space, size in ((cg.Equirectangular(), (8, 16)), (cg.Hexagonal(), (7, 9))):
        cert = cg.prove(cg.to_graph(net), net, images(*size), on=space)
        assert cert.verdict == "proven", cert.reason
        cert = cg.prove(cg.nn.Sequential.from_dense(net), net, images(*size), on=space)
        assert cert.verdict == "proven", cert.reason


def test_what_does_not_fit_is_named() -> None:
    net = prepared(Net)
    graph = cg.PixelGraph.from_image(images(8, 8), on=cg.Torus())
    with pytest.raises(ProofError, match="expected a graph on HEALPix"):
        cg.prove(cg.to_graph(net), net, graph, on=cg.HEALPix())
    with pytest.raises(ProofError, match="are for one layer"):
        cg.prove(cg.to_graph(net), net, images(96, 8), on=cg.HEALPix(), footprint="cross")


class Between(torch.nn.Module):
    """Two convolutions, and what stands between them."""

    def __init__(self, between: Any) -> None:
        super().__init__()
        self.one, self.two = torch.nn.Conv2d(2, 4, 3, padding=1), torch.nn.Conv2d(4, 2, 1)
        self.between = [between]  # a module or a function
        self.of_planes = between if isinstance(between, torch.nn.Module) else None

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.two(self.between[0](self.one(x)))
        return made


EAST = torch.tensor([1, 2, 3, 4, 5, 6, 7, 0])
F = torch.nn.functional
PLANAR: dict[str, Any] = {
    "lp_pool2d": torch.nn.LPPool2d(2, 3, 1),
    "adaptive_max_pool2d": torch.nn.AdaptiveMaxPool2d((6, 7)),
    "avg_pool2d": lambda x: torch.ops.aten.avg_pool2d(x, [3, 3], [1, 1], [1, 1]),
    "conv1d": lambda x: F.conv1d(
        x.flatten(2), torch.ones(4, 4, 3, dtype=x.dtype), padding=1
    ).unflatten(2, (6, 8)),
    "permute": lambda x: x.permute(0, 2, 1, 3),
    "getitem": lambda x: x[..., EAST],
    "index_select": lambda x: x.index_select(3, EAST),
    "split": lambda x: torch.cat(x.split(4, 3)[::-1], 3),
    "narrow": lambda x: x.narrow(3, 1, 7),
    "transpose": lambda x: x.transpose(2, 3),
    "view": lambda x: x.view(2, 4, 3, 2, 4, 2).mean((3, 5)),
    "cumsum": lambda x: x.cumsum(3),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANAR)
def test_neighbours_of_the_plane_are_no_truth_in_a_space(name: str) -> None:
    """What looks at the array's neighbours was taken for the space's own, and proven."""
    net: Any = Between(PLANAR[name]).double().eval()
    graph = cg.PixelGraph.from_image(images(6, 8), on=cg.Torus())
    other: Any = cg.to_graph(net)
    other.between = [lambda x: x]
    cert = cg.prove(other, net, graph)
    assert cert.verdict == "undecided", str(cert)
    assert f"no truth for {name} of neighbours in spaces" in cert.reason


def caught(x: Tensor) -> Tensor:
    """A network that goes on without what it cannot have."""
    try:
        return F.pad(x, (1, 0, 0, 0))[..., :-1]
    except ProofError:
        return x


def test_what_has_no_truth_in_a_space_stays_so_where_the_network_catches_it() -> None:
    """The truth then ran the other branch, and a network that pads nothing was proven."""
    net: Any = Between(caught).double().eval()
    other: Any = cg.to_graph(net)
    other.between = [lambda x: x]
    cert = cg.prove(other, net, cg.PixelGraph.from_image(images(6, 8), on=cg.Torus()))
    assert cert.verdict == "undecided", str(cert)
    assert "no truth for pad of neighbours in spaces" in cert.reason


class OfChannels(torch.nn.Module):
    """A convolution of what all pixels say together, channel beside channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conv(x.mean((2, 3)).unsqueeze(1)).squeeze(1).sigmoid()
        return x * gate[:, :, None, None]


AT_ONE_PIXEL: dict[str, Any] = {
    "halves": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "channels last": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2),
    "softmax": torch.nn.Softmax(1),
    "of channels": OfChannels(),
    "hardswish": torch.nn.Hardswish(),
    "instance norm of before": torch.nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    "gate": lambda x: x * F.silu(x.mean((2, 3), keepdim=True)),
}


@pytest.mark.parametrize("name", AT_ONE_PIXEL)
def test_what_looks_at_one_pixel_is_proven_in_a_space(name: str) -> None:
    net: Any = Between(copy.deepcopy(AT_ONE_PIXEL[name])).double().eval()
    graph = cg.PixelGraph.from_image(images(6, 8), on=cg.Torus())
    cert = cg.prove(cg.to_graph(net), net, graph)
    assert cert.verdict == "proven", str(cert)


def test_a_batch_norm_in_training_takes_the_rows_of_all_pixels() -> None:
    """In the order of nodes, so that its sums are one program; what it learns is compared too."""
    net: Any = Between(torch.nn.BatchNorm2d(4)).double()
    graph = cg.PixelGraph.from_image(images(6, 8), on=cg.Torus(rows=False))
    cert = cg.prove(cg.to_graph(net), net, graph)
    assert cert.verdict == "proven", str(cert)
    other = copy.deepcopy(net)
    other.of_planes.momentum = 0.2
    other.between = [other.of_planes]
    cert = cg.prove(cg.to_graph(other), net, graph)
    assert cert.verdict != "proven"
    assert "momentum=0.2" in cert.reason


def test_maps_of_as_many_channels_as_rows_are_joined_as_any_other() -> None:
    """Lengths of axes tell which are the lattice's, and here they might be others too."""
    net: Any = (
        Between(lambda x: sum(torch.cat([torch.cat([x, x.relu()], 1), x], 1).chunk(3, 1)))
        .double()
        .eval()
    )
    graph = cg.PixelGraph.from_image(images(8, 8), on=cg.Torus())
    cert = cg.prove(cg.to_graph(net), net, graph)
    assert cert.verdict == "proven", str(cert)


class Inside(torch.nn.Module):
    """A network within another, so that every name is another one; told where its pixels lie."""

    def __init__(self, net: Any, place: Any) -> None:
        super().__init__()
        self.net, self.place = net, [place]

    def forward(self, graph: Any) -> Any:
        made: Any = self.net(self.place[0](graph))
        if isinstance(made, Tensor):
            return cg.PixelGraph.from_image(made, on=graph.sites.space)
        return cg.PixelGraph.from_image(made.to_image(), on=graph.sites.space)


def conv_and_relu() -> Any:
    return prepared(
        lambda: torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3, padding=1), torch.nn.ReLU())
    )


@pytest.mark.parametrize(
    ("place", "verdict"),
    [
        (lambda graph: graph, "proven"),
        (lambda graph: cg.PixelGraph.from_image(graph.to_image(), on=cg.Torus()), "refuted"),
        (lambda graph: graph.to_image(), "refuted"),
    ],
)
def test_a_layer_has_to_be_called_in_the_space_where_it_is_proven(place: Any, verdict: str) -> None:
    """Its certificate is of that space: numbers alone told another, which a wide bound hides."""
    net = conv_and_relu()
    graph = cg.PixelGraph.from_image(images(6, 8), on=cg.Torus(columns=False))
    cert = cg.prove(Inside(cg.to_graph(net), place), net, graph)
    assert cert.verdict == verdict, str(cert)
    assert statuses(cert)["wiring"] == verdict
