"""The torus: every operator and every network is the one on the infinite tiling, bit for bit."""

import pytest
import torch

import convgraph as cg
from tests.spaces.cases import integers, middle, tiled, whole

OPERATORS = {
    "3x3": (torch.nn.Conv2d(3, 4, 3, padding=1), cg.nn.GraphConv2d),
    "strided": (torch.nn.Conv2d(3, 4, 3, stride=2, padding=1), cg.nn.GraphConv2d),
    "dilated": (torch.nn.Conv2d(3, 4, 5, padding=4, dilation=2), cg.nn.GraphConv2d),
    "patches": (torch.nn.Conv2d(3, 4, 4, stride=4), cg.nn.GraphConv2d),
    "uneven": (torch.nn.Conv2d(3, 4, (3, 5), padding="same"), cg.nn.GraphConv2d),
    "transposed": (
        torch.nn.ConvTranspose2d(3, 4, 4, stride=2, padding=1),
        cg.nn.GraphConvTranspose2d,
    ),
    "grown": (
        torch.nn.ConvTranspose2d(3, 4, 3, 2, 1, output_padding=1),
        cg.nn.GraphConvTranspose2d,
    ),
}
PLAIN = {
    "max": (torch.nn.MaxPool2d(3, 2, 1), cg.nn.GraphMaxPool2d(3, 2, 1)),
    "average": (torch.nn.AvgPool2d(2), cg.nn.GraphAvgPool2d(2)),
    "padded average": (torch.nn.AvgPool2d(4, 2, 1), cg.nn.GraphAvgPool2d(4, 2, 1)),
    "adaptive": (torch.nn.AvgPool2d(4), cg.nn.GraphAdaptiveAvgPool2d((2, 3))),
    "nearest": (torch.nn.Upsample(scale_factor=2), cg.nn.GraphUpsample(scale_factor=2)),
    "bilinear": (
        torch.nn.Upsample(scale_factor=2, mode="bilinear"),
        cg.nn.GraphUpsample(scale_factor=2, mode="bilinear"),
    ),
    "halved": (
        torch.nn.Upsample(scale_factor=0.5, mode="bilinear"),
        cg.nn.GraphUpsample(scale_factor=0.5, mode="bilinear"),
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_a_layer_is_the_dense_one_on_the_tiling(name: str) -> None:
    """Values and all gradients; the tiling's gradients add up over the tiles."""
    dense, kind = OPERATORS[name]
    whole(dense.double())
    x, y = integers(2, 3, 8, 12).requires_grad_(), middle(dense(tiled(integers(2, 3, 8, 12))))
    layer = kind.from_dense(dense)
    found = layer(cg.PixelGraph.from_image(x, on=cg.Torus())).to_image()
    assert torch.equal(found, y)
    g = integers(*y.shape, seed=1)
    many = tiled(x.detach()).requires_grad_()
    found.backward(g)
    dense(many).backward(tiled(g))
    assert many.grad is not None
    assert torch.equal(x.grad, middle(many.grad))
    # Along its border the tiling misses a part of each sum; one tile's share is that of its middle.
    inner = torch.zeros_like(tiled(g))
    middle(inner).copy_(g)
    dense.zero_grad()
    dense(tiled(x.detach())).backward(inner)
    for one, two in zip(layer.parameters(), dense.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)


@pytest.mark.parametrize("name", PLAIN)
def test_an_operator_without_parameters_is_the_dense_one_on_the_tiling(name: str) -> None:
    """Pools and resizes wrap as convolutions do."""
    dense, layer = PLAIN[name]
    x = integers(2, 3, 8, 12)
    graph = cg.PixelGraph.from_image(x, on=cg.Torus())
    assert torch.equal(layer(graph).to_image(), middle(dense(tiled(x))))


def test_a_cylinder_closes_one_axis_and_keeps_the_padding_mode_of_the_other() -> None:
    """Columns go round; rows are padded as the layer says."""
    for mode in ("zeros", "reflect", "replicate"):
        dense = whole(torch.nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode).double())
        x = integers(1, 2, 6, 5)
        graph = cg.PixelGraph.from_image(x, on=cg.Torus(rows=False))
        found = cg.nn.GraphConv2d.from_dense(dense)(graph).to_image()
        assert torch.equal(found, dense(x.repeat(1, 1, 1, 3))[..., 5:10])


def test_a_kernel_may_reach_round_a_small_torus_more_than_once() -> None:
    """A 7 x 7 kernel on 2 x 3 pixels reads some of them several times."""
    dense = whole(torch.nn.Conv2d(1, 1, 7, padding=3).double())
    x = integers(1, 1, 2, 3)
    found = cg.nn.GraphConv2d.from_dense(dense)(cg.PixelGraph.from_image(x, on=cg.Torus()))
    assert torch.equal(found.to_image(), middle(dense(tiled(x, 9)), 9))


def test_a_mask_takes_pixels_away_as_in_the_plane() -> None:
    """The truth is the tiling of the image whose absent pixels are 0."""
    dense = whole(torch.nn.Conv2d(2, 3, 3, padding=1).double())
    x, mask = integers(2, 2, 8, 6), integers(2, 8, 6, seed=3) > 0
    graph = cg.PixelGraph.from_image(x, mask=mask, on=cg.Torus())
    found = cg.nn.GraphConv2d.from_dense(dense)(graph)
    expected = middle(dense(tiled(torch.where(mask.unsqueeze(1), x, 0))))
    assert torch.equal(found.to_image(), torch.where(mask.unsqueeze(1), expected, 0))


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (
            cg.nn.GraphConv2d(2, 2, 3),
            "axis 0 closes, and its 8 pixels would become 6 with stride 1",
        ),
        (cg.nn.GraphConv2d(2, 2, 3, stride=3, padding=1), "would become 3 with stride 3"),
        (cg.nn.GraphAdaptiveAvgPool2d((3, 3)), "an output that divides 8"),
        (
            cg.nn.GraphUpsample(scale_factor=2, mode="bilinear", align_corners=True),
            "there are no corners",
        ),
        (cg.nn.GraphConvTranspose2d(2, 2, 3, stride=2, padding=1), "another output_padding|closes"),
    ],
)
def test_what_has_no_meaning_without_a_border_is_refused(layer: torch.nn.Module, said: str) -> None:
    """The text says which axis, what it would become, and the way out."""
    graph = cg.PixelGraph.from_image(torch.ones(1, 2, 8, 8), on=cg.Torus())
    with pytest.raises(cg.errors.GeometryError, match=said):
        layer(graph)


def test_neither_axis_closed_is_the_plane() -> None:
    """A torus that is none is refused, and so is what is no space."""
    with pytest.raises(cg.errors.GeometryError, match="without on= an image lies in the plane"):
        cg.Torus(rows=False, columns=False)
    with pytest.raises(cg.errors.GraphError, match=r"expected on= as a space, cg.Torus\(\)"):
        cg.PixelGraph.from_image(torch.ones(1, 2, 2), on=cg.Torus)  # type: ignore[arg-type]
    with pytest.raises(cg.errors.GraphError, match="expected arrays of 2 axes"):
        cg.PixelGraph.from_image(torch.ones(1, 1, 4), on=cg.Torus(), d=1)
