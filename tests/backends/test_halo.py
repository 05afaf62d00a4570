"""Backend `halo`: margins are what the judge says lies beyond a chart; every derivative agrees."""

from typing import Any

import pytest
import torch
from torch.autograd import forward_ad

import convgraph as cg
from convgraph.backends.halo import chart_margins
from convgraph.proof.equation import spaces as judged
from tests.spaces.cases import SPACES, integers, whole

CHARTED = [(s, size) for s, size in SPACES if not s.flat and s != cg.Equirectangular()]


@pytest.mark.parametrize(("space", "size"), CHARTED, ids=str)
@pytest.mark.parametrize("margin", [0, 1, 2, 4])
def test_margins_are_what_the_judge_says(space: Any, size: tuple[int, int], margin: int) -> None:
    """Values, and the way back is the adjoint: <spread(x), g> = <x, gathered(g)>."""
    sites = cg.Sites.full(2, size, space=space)
    mode = "replicate"
    lay = chart_margins.margins(sites, ((margin, margin), (margin, margin)), mode)
    x = integers(sites.num_nodes, 3)
    wide = chart_margins.spread(x, lay)
    cells, shares = judged.beyond(space.to_dict(), size, margin)
    image = x.view(2, -1, 3)
    truth = torch.zeros(2, *cells.shape[:3], 3, dtype=torch.float64)
    for k in range(cells.shape[-1]):
        share = torch.from_numpy(shares[..., k] / judged.ONE).unsqueeze(-1)
        truth += image[:, torch.from_numpy(cells[..., k]).clamp(min=0)] * share
    assert torch.equal(wide.permute(0, 2, 3, 1).reshape(truth.shape), truth)
    g = integers(*wide.shape, seed=1)
    assert (wide * g).sum() == (x * chart_margins.gathered(g, lay)).sum()


@pytest.mark.parametrize(("space", "size"), CHARTED, ids=str)
def test_derivatives_of_any_order_and_mode(space: Any, size: tuple[int, int]) -> None:
    """Second order, forward mode and vmap give what `gather` gives, bit for bit."""
    layer = whole(cg.nn.GraphConv2d(2, 2, 3, padding=1).double())
    sites = cg.Sites.full(1, size, space=space)
    x, v = integers(sites.num_nodes, 2), integers(sites.num_nodes, 2, seed=2)
    found = []
    for backend in ("halo", "gather"):
        layer.backend = backend

        def run(rows: torch.Tensor) -> torch.Tensor:
            return layer(cg.PixelGraph(rows, sites)).x

        rows = x.clone().requires_grad_()
        (once,) = torch.autograd.grad((run(rows) ** 2).sum(), rows, create_graph=True)
        (twice,) = torch.autograd.grad((once * v).sum(), rows)
        with forward_ad.dual_level():
            tangent = forward_ad.unpack_dual(run(forward_ad.make_dual(x, v))).tangent
        many = torch.func.vmap(run)(torch.stack([x, v]))
        found.append([once.detach(), twice, tangent.detach(), many.detach()])
    assert all(torch.equal(one * 2**8, two * 2**8) for one, two in zip(*found, strict=True))


def test_where_it_serves_it_is_taken_and_elsewhere_it_says_why() -> None:
    """Full charts only; a mask, the plane and taps between pixels are others' work."""
    layer = cg.nn.GraphConv2d(2, 2, 3, padding=1)
    x = torch.ones(1, 2, 8, 16)
    assert "halo     │ yes" in str(cg.explain(layer, cg.PixelGraph.from_image(x, on=cg.Torus())))
    layer.backend = "halo"
    mask = torch.ones(8, 16, dtype=torch.bool)
    mask[0, 0] = False
    for graph, said in (
        (cg.PixelGraph.from_image(x), "these sites lie in the plane"),
        (cg.PixelGraph.from_image(x, mask=mask, on=cg.Torus()), "not every pixel is a node"),
        (cg.PixelGraph.from_image(x, on=cg.Equirectangular()), "taps of .* lie between pixels"),
    ):
        with pytest.raises(cg.errors.BackendError, match=said):
            layer(graph)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_round_once(dtype: torch.dtype) -> None:
    """Small integers are exact whatever the order of sums."""
    layer = whole(cg.nn.GraphConv2d(2, 2, 3, padding=1)).to(dtype)
    x = integers(1, 2, 24, 2).to(dtype)
    y = layer(cg.PixelGraph.from_image(x, on=cg.HEALPix()))
    layer.backend = "gather"
    assert torch.equal(layer(cg.PixelGraph.from_image(x, on=cg.HEALPix())).x, y.x)


@pytest.mark.parametrize(
    ("channels", "kernel", "options"),
    [
        ((3, 2), 1, {"stride": 2, "output_padding": 1}),
        ((2, 1), (5, 7), {"stride": (1, 3), "padding": 2}),
        ((2, 1), 1, {"stride": (2, 3), "output_padding": (1, 2)}),
    ],
)
def test_a_transposed_kernel_goes_around_the_faults_too(
    channels: tuple[int, int], kernel: Any, options: dict[str, Any]
) -> None:
    """In float32, whose gradients oneDNN errs in: bit for bit as float64 on integers."""
    layer = cg.nn.GraphConvTranspose2d(*channels, kernel, **options, backend="halo")
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randint(-3, 4, p.shape))
    image = torch.randint(-3, 4, (4, channels[0], 6, 1)).float()

    def answers(dtype: torch.dtype) -> list[torch.Tensor]:
        leaf = image.to(dtype).requires_grad_()
        layer.to(dtype)
        y = layer(cg.PixelGraph.from_image(leaf, on=cg.Torus())).x
        head = torch.arange(y.numel()).view_as(y).remainder(7).to(dtype) - 3
        held = [torch.full((n,), torch.nan) for n in (24, 200, 600, 2000) * 4]
        del held
        return [y, *torch.autograd.grad(y, [leaf, *layer.parameters()], head)]

    for one, exact in zip(answers(torch.float32), answers(torch.float64), strict=True):
        assert torch.equal(one.double(), exact)
