"""`cg.prove` of two networks in a space where not every pixel is a node."""

from typing import Any

import pytest
import torch
from torch import Tensor

import convgraph as cg
from convgraph.comparison import on_mask
from convgraph.comparison.named import ADAPTERS, certify
from convgraph.graph import output_sites, space_edges
from convgraph.memo import forget
from convgraph.proof import verifier
from tests.spaces import faults

SPACES = [
    (cg.HEALPix(), (48, 4)),
    (cg.Hexagonal(), (6, 6)),
    (cg.Equirectangular(), (6, 8)),
]


class Small(torch.nn.Module):
    """A norm, two convolutions behind one another, a stride, a readout."""

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Conv2d(2, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.down = torch.nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.last = torch.nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.down(self.norm(self.one(x)).relu())).relu()
        return y.mean((2, 3))


def prepared(space: Any, size: Any) -> tuple[Any, cg.PixelGraph]:
    """A network, and a graph on which pixels everywhere and half an image are absent."""
    torch.manual_seed(0)
    net = cg.excite(Small().double().eval(), torch.randn(2, 2, 8, 8, dtype=torch.float64))
    mask = torch.rand(2, *size) < 0.6
    mask[0, : size[0] // 2] = False
    images = torch.randn(2, 2, *size, dtype=torch.float64)
    return net, cg.PixelGraph.from_image(images, mask, on=space)


@pytest.mark.parametrize(("space", "size"), SPACES, ids=str)
def test_a_network_is_proven_where_sky_is_missing(space: Any, size: Any) -> None:
    net, graph = prepared(space, size)
    cert = cg.prove(cg.to_graph(net), net, graph)
    assert cert.verdict == "proven", cert.reason
    assert cert.spec["space"] == space.to_dict()
    assert cert.spec["mask"] == torch.stack(graph.sites.mask_images()).int().tolist()
    layers = [layer for layer in cert.layers if "GraphConv" in layer.name]
    assert len(layers) == 3
    for layer in layers:
        assert layer.spec["space"] == space.to_dict()
        assert layer.spec["source_mask"]


@pytest.mark.parametrize(("space", "size"), [*SPACES[1:], (cg.Torus(), (4, 6))], ids=str)
def test_a_map_is_proven_where_sky_is_missing(space: Any, size: Any) -> None:
    """Behind an activation of each convolution: both sides' layers are off by rounding there."""
    _, graph = prepared(space, size)
    net = torch.nn.Sequential(*small(), torch.nn.ReLU()).double()
    cert = cg.prove(cg.to_graph(net), net, graph)
    assert cert.verdict == "proven", cert.reason
    held = next(part.facts for part in cert.parts if part.name == "rounding")
    assert held.startswith("2 operators, each within"), held


class Two(torch.nn.Module):
    """Two images of two sizes, read one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = (torch.nn.Conv2d(2, 3, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.one(x).relu().mean((2, 3)) + self.other(y).relu().mean((2, 3))


def test_an_image_that_the_mask_is_not_of_lies_in_the_space_too() -> None:
    torch.manual_seed(0)
    images = tuple(torch.randn(2, 2, *size, dtype=torch.float64) for size in ((4, 6), (6, 8)))
    net, mask = Two().double(), torch.rand(2, 4, 6) < 0.6
    cert = cg.prove(cg.to_graph(net), net, images, mask=mask, on=cg.Torus())
    assert cert.verdict == "proven", cert.reason


def test_zeros_in_the_holes_are_refuted() -> None:
    net, graph = prepared(*SPACES[0])
    mask = torch.stack(graph.sites.mask_images())
    cert = cg.prove(net, net, graph.to_image(), mask=mask, on=cg.HEALPix())
    assert cert.verdict == "refuted"


def test_a_pixel_that_is_taken_for_absent_is_undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever holds a value is not taken for 0, on the judge's own side either."""
    net, graph = prepared(*SPACES[1])
    right = on_mask.OnMask.there

    def wrong(mode: Any, x: Any) -> Any:
        there = right(mode, x)
        return None if there is None else there & False

    monkeypatch.setattr(on_mask.OnMask, "there", wrong)
    cert = cg.prove(cg.to_graph(net), net, graph)
    assert cert.verdict == "undecided"
    assert "'one' speaks for absent pixels" in cert.reason


def a_hole_that_is_filled(patch: pytest.MonkeyPatch) -> None:
    """Behind the stride one absent pixel is a node, and the next convolution hears its bias."""
    right = output_sites.network_sites

    def wrong(source: Any, sizes: Any, relation: Any = None) -> Any:
        found = right(source, sizes, relation)
        if found.mask is None or sizes == source.sizes:
            return found
        mask = found.mask.clone()
        mask[(~mask).nonzero()[0]] = True
        return source.derived(sizes, mask)

    patch.setattr(output_sites, "network_sites", wrong)


def a_tap_beside_a_hole(patch: pytest.MonkeyPatch) -> None:
    """The pixel that hears fewest hears through one tap the node behind the right one."""
    right = space_edges._as_nodes

    def wrong(taps: Any, source: Any, target: Any) -> Any:
        index, *rest = right(taps, source, target)
        if source.mask is not None:
            heard = index[1].bincount(minlength=target.num_nodes)
            edge = (heard[index[1]] == heard[heard > 0].min()).nonzero()[0]
            index[0, edge] = (index[0, edge] + 1) % source.num_nodes
        return index, *rest

    patch.setattr(space_edges, "_as_nodes", wrong)


@pytest.mark.parametrize(
    ("fault", "space", "size"),
    [
        (a_hole_that_is_filled, cg.Torus(), (4, 6)),
        (a_hole_that_is_filled, cg.Hexagonal(), (6, 6)),
        (a_tap_beside_a_hole, cg.Equirectangular(), (6, 8)),
        (a_tap_beside_a_hole, cg.HEALPix(), (48, 4)),
        (faults.a_turned_face, cg.HEALPix(), (48, 4)),
        (faults.a_torus_that_mirrors, cg.Torus(), (4, 6)),
    ],
)
def test_a_fault_is_refuted(
    fault: Any, space: Any, size: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, graph = prepared(space, size)
    fault(monkeypatch)
    forget()
    try:
        cert = cg.prove(cg.to_graph(net), net, graph)
    finally:
        monkeypatch.undo()
        forget()
    assert cert.verdict == "refuted"


def small() -> torch.nn.Sequential:
    """For a record: a factory of what is proven."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(3, 2, 3, padding=1)
    )


def test_layers_are_verified_from_their_record() -> None:
    mask = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    cert = certify(None, f"{__name__}:small", size=(4, 6), mask=mask, on=cg.Torus())
    assert cert.verdict == "proven", cert.reason
    _, found = verifier.verify(cert.to_json(), trust=[*ADAPTERS, __name__])
    held = [line for line in found if line.endswith("the record holds: proven")]
    assert len(held) == len(cert.layers) == 2, found
