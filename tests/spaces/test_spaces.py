"""What every space has to be: proven by the judge's own geometry, and whole in every form."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch

import convgraph as cg
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.edges import connect
from convgraph.proof.equation import spaces as judged
from convgraph.spaces import from_dict
from tests.spaces.cases import KERNELS, SPACES, integers, whole

GEOMETRIES = [
    KernelGeometry(3, padding=1),
    KernelGeometry(3, stride=2, padding=1),
    KernelGeometry(5, padding=2),
    KernelGeometry(3, padding=2, dilation=2),
    KernelGeometry(2, stride=2),
    KernelGeometry(2, padding="same"),
    KernelGeometry(7, stride=2, padding=3),
    KernelGeometry((1, 3), padding=(0, 1)),
    KernelGeometry(4, stride=2, padding=1),
    KernelGeometry(1, stride=2),
]


def balance(space: Any, g: KernelGeometry, size: tuple[int, int]) -> float:
    """Return the largest difference of weights between a space's table and the judge's."""
    out = g.output_size(size)
    table = space.table(g, size, out)
    kernel = {n: getattr(g, n) for n in ("kernel_size", "stride", "padding", "dilation")}
    truth = judged.heard(space.to_dict(), size, out, {**kernel, "padding_mode": g.padding_mode})
    worst = 0.0
    for tap, (sources, weights) in enumerate(truth):
        mine = table.sources[tap]
        said = np.ones(mine.shape) if table.weights is None else table.weights[tap]
        said = np.where(mine >= 0, said * judged.ONE, 0)
        total = np.zeros((len(mine), size[0] * size[1] + 1))
        at = np.arange(len(mine))[:, None]
        np.add.at(total, (at, mine), said)
        np.add.at(total, (at, sources), -weights)
        worst = max(worst, float(np.abs(total[:, :-1]).max()))
    return worst


@pytest.mark.parametrize("space", [s for s, _ in SPACES if not s.flat], ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=lambda g: f"{g.kernel_size}/{g.stride}")
def test_the_space_and_the_judge_agree_on_every_tap(space: Any, geometry: KernelGeometry) -> None:
    """Two formulas, written apart, give the same sources and the same weights."""
    kind = space.to_dict()["kind"]
    sizes = {"healpix": [(48, 4), (96, 8)], "equirectangular": [(4, 8), (8, 16), (6, 12)]}
    for size in sizes.get(kind, [(4, 6), (8, 8)]):
        assert balance(space, geometry, size) == 0


@pytest.mark.parametrize(("space", "size"), SPACES, ids=str)
@pytest.mark.parametrize("options", KERNELS, ids=str)
def test_layers_are_proven_in_every_space(
    space: Any, size: tuple[int, int], options: dict[str, Any]
) -> None:
    """Structure, premise, identity and rounding, values and all gradients."""
    if isinstance(space, cg.Hexagonal) and options.get("stride", 1) != 1:
        size = (8, 8)
    conv = torch.nn.Conv2d(4, 4, **options)
    cert = cg.prove(cg.nn.GraphConv2d.from_dense(conv), conv, size=size, on=space, seed=1)
    assert cert.verdict == "proven", cert.reason


@pytest.mark.parametrize(("space", "size"), SPACES, ids=str)
def test_transposed_layers_are_proven(space: Any, size: tuple[int, int]) -> None:
    """The edges of the plain kernel, reversed."""
    up = torch.nn.ConvTranspose2d(2, 3, 4, stride=2, padding=1)
    layer = cg.nn.GraphConvTranspose2d.from_dense(up)
    cert = cg.prove(layer, up, size=size, on=space, seed=1)
    assert cert.verdict == "proven", cert.reason


@pytest.mark.parametrize(("space", "size"), SPACES, ids=str)
def test_masked_layers_are_proven(space: Any, size: tuple[int, int]) -> None:
    """An absent pixel is to a tap what it is in the plane."""
    mask = integers(2, *size, seed=5) > -2
    for options in KERNELS[:2]:
        if isinstance(space, cg.Hexagonal):
            size, mask = (8, 8), integers(2, 8, 8, seed=5) > -2
        conv = torch.nn.Conv2d(2, 3, **options)
        layer = cg.nn.GraphConv2d.from_dense(conv)
        cert = cg.prove(layer, conv, size=size, mask=mask, on=space, seed=1)
        assert cert.verdict == "proven", cert.reason


@pytest.mark.parametrize(("space", "size"), SPACES, ids=str)
def test_weights_of_every_site_and_tap_add_up_to_one(space: Any, size: tuple[int, int]) -> None:
    """Where a tap is there at all; in whole numbers of 2^-16, so exactly."""
    edges = connect(KernelGeometry(3, padding=1), cg.Sites.full(1, size, space=space))
    weight = edges.edge_weight
    if weight is None:
        weight = torch.ones(edges.num_edges, dtype=torch.float64)
    assert torch.equal(weight * 2**16, (weight * 2**16).round())
    total = torch.zeros(edges.num_targets, 9, dtype=torch.float64)
    total.index_put_((edges.edge_index[1], edges.edge_type), weight, accumulate=True)
    assert set(total.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(("space", "size"), SPACES, ids=str)
def test_backends_give_the_same_sums(space: Any, size: tuple[int, int]) -> None:
    """Those that serve a space agree on integers, with gradients."""
    conv = whole(torch.nn.Conv2d(2, 3, 3, padding=1).double())
    layer, x = cg.nn.GraphConv2d.from_dense(conv), integers(2, 2, *size)
    seen = []
    for backend in ("gather", "messages", None):
        image = x.clone().requires_grad_()
        layer.backend = backend
        layer.zero_grad()
        y = layer(cg.PixelGraph.from_image(image, on=space)).x
        y.backward(integers(*y.shape, seed=1))
        seen.append([y.detach() * 2**16, image.grad * 2**16, layer.weight.grad * 2**16])
    for other in seen[1:]:
        assert all(torch.equal(one, two) for one, two in zip(seen[0], other, strict=True))


@pytest.mark.parametrize(("space", "size"), SPACES, ids=str)
def test_a_graph_keeps_its_space_in_every_other_form(space: Any, size: tuple[int, int]) -> None:
    """Copies, pickles, devices, lists, batches and PyG's Data."""
    graph = cg.PixelGraph.from_image(integers(2, 3, *size), on=space)
    assert str(space) in repr(graph)
    assert from_dict(space.to_dict()).to_dict() == space.to_dict()
    assert graph.sites.is_full is False
    assert cg.PixelGraph.from_image(integers(2, 3, *size), on=space).sites is graph.sites
    others = [
        pickle.loads(pickle.dumps(graph)),
        copy.deepcopy(graph),
        cg.PixelGraph.concat(graph.unbatch()),
        cg.PixelGraph.from_data(graph.to_data()),
        cg.PixelGraph.from_data(Batch.from_data_list(graph.to_data_list())),
        cg.PixelGraph.from_image([*integers(2, 3, *size)], on=space),
    ]
    for other in others:
        assert other.sites.space == space
        assert torch.equal(other.to_image(), graph.to_image())
    down = cg.nn.GraphConv2d(3, 3, 2, stride=2).double()(
        cg.PixelGraph.from_image(
            integers(1, 3, 48, 4 if space.charts((48, 4))[0] > 1 else 8), on=space
        )
    )
    assert down.sites.space == space
    assert graph.sites.readout().space is None


def test_a_stride_that_leaves_no_faces_is_refused() -> None:
    """Faces of 4 x 2 pixels are no map, and have no neighbours by the rules of one."""
    graph = cg.PixelGraph.from_image(torch.ones(1, 1, 48, 4), on=cg.HEALPix())
    with pytest.raises(cg.errors.GeometryError, match=r"an array of \(48, 2\), which is no map"):
        cg.nn.GraphConv2d(1, 1, 3, padding=1, stride=(1, 2))(graph)


@pytest.mark.parametrize(
    ("size", "kernel", "fine"),
    [
        ((1, 8), (3, 3), False),
        ((4, 2), (3, 3), False),
        ((1, 2), (3, 3), False),
        ((2, 8), (2, 1), False),
        ((2, 8), (3, 3), True),
        ((1, 8), (1, 3), True),
        ((4, 2), (3, 1), True),
        ((1, 2), (1, 1), True),
        ((2, 4), (3, 3), True),
    ],
)
def test_a_tangent_plane_shows_less_than_90_degrees(
    size: tuple[int, int], kernel: tuple[int, int], fine: bool
) -> None:
    """At 180 the tangent is 0, and every tap the site itself; at 90 degrees lies the horizon."""
    conv = torch.nn.Conv2d(1, 1, kernel, padding="same")
    layer = cg.nn.GraphConv2d.from_dense(conv)
    if fine:
        assert cg.prove(layer, conv, size=size, on=cg.Equirectangular()).verdict == "proven"
        return
    graph = cg.PixelGraph.from_image(torch.ones(1, 1, *size), on=cg.Equirectangular())
    with pytest.raises(cg.errors.GeometryError, match="degrees apart, and a plane"):
        layer(graph)
    wrapped = cg.PixelGraph.from_image(torch.ones(1, 1, *size), on=cg.Equirectangular("wrap"))
    assert layer(wrapped).sites.size == size


def test_graphs_of_two_spaces_do_not_meet() -> None:
    """Neither in one batch nor as the two ends of edges."""
    torus = cg.PixelGraph.from_image(torch.ones(1, 1, 4, 4), on=cg.Torus())
    plane = cg.PixelGraph.from_image(torch.ones(1, 1, 4, 4))
    with pytest.raises(cg.errors.GraphError, match="expected images of one space"):
        cg.PixelGraph.concat([torus, plane])
    with pytest.raises(cg.errors.GraphError, match="expected sites on Torus"):
        cg.nn.GraphConv2d(1, 1, 3, padding=1)(torus, sites=plane)


def test_maps_of_two_spaces_do_not_meet_in_a_network() -> None:
    """Added up, side by side or in one batch; what is one number an image meets anybody."""

    class Meet(torch.nn.Module):
        def __init__(self, how: Any) -> None:
            super().__init__()
            self.how = how

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
            return self.how(x, y)

    torus, plane, hexagons, half = (
        cg.PixelGraph.from_image(integers(1, 2, 4, 4), on=on)
        for on in (cg.Torus(), None, cg.Hexagonal(), cg.Torus(rows=False))
    )
    for one, other in ((torus, plane), (plane, torus), (plane, hexagons), (torus, half)):
        for how in (
            lambda x, y: x + y,
            lambda x, y: torch.cat([x, y], 1),
            lambda x, y: torch.cat([x, y]),
            lambda x, y: torch.where(x > 0, x, y),
        ):
            with pytest.raises(cg.errors.ConversionError, match="maps that lie on"):
                cg.to_graph(Meet(how))(one, other)
    gated = cg.to_graph(Meet(lambda x, y: x * y.mean((2, 3), keepdim=True)))
    assert gated(torus, plane).sites.space == cg.Torus()


def test_a_layer_of_the_plane_is_refuted_in_a_space() -> None:
    """Circular padding is the torus; zeros are not, and the certificate says where."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(2, 3, 3, padding=1)
    round_ = torch.nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular")
    round_.load_state_dict(conv.state_dict())
    good = cg.prove(round_, conv, size=(6, 6), on=cg.Torus())
    assert good.verdict == "proven", good.reason
    bad = cg.prove(conv, conv, size=(6, 6), on=cg.Torus())
    assert bad.verdict == "refuted"
    assert "candidate's y" in bad.reason


@pytest.mark.parametrize(("size", "drawn"), [((4, 8), False), ((8, 24), True)])
def test_a_certificate_says_where_sums_were_counted_on_drawn_numbers(
    size: tuple[int, int], drawn: bool
) -> None:
    """Sums over 256 shares of float32 leave no room for more."""
    conv = torch.nn.Conv2d(1, 1, 3, padding=1)
    layer = cg.nn.GraphConv2d.from_dense(conv)
    for dtype in (torch.float32, torch.float64):
        one, two = layer.to(dtype), conv.to(dtype)
        found = cg.prove(one, two, size=size, on=cg.Equirectangular(), dtype=dtype)
        assert found.verdict == "proven", str(found)
        said = any("zeros and ones that were drawn" in text for text in found.assumed)
        assert said == (drawn and dtype == torch.float32)
