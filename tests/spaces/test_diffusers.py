"""The recipe of docs/guide/spaces.md with a UNet of diffusers: seamless textures and panoramas."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import convgraph as cg
from tests import zoo


class Step(torch.nn.Module):
    """One step of the sampler: what a UNet makes of an image at a time."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet
        self.register_buffer("time", torch.tensor(10), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.unet(x, self.time).sample


def step(**more: Any) -> Step:
    zoo.models()  # torchvision first: diffusers imports it
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, layers_per_block=1,
        block_out_channels=(8, 16), norm_num_groups=4, **more,
    )  # fmt: skip
    return Step(unet.double().eval())


ATTENDS: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": 8,
}
PLAIN: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "add_attention": False,
}


def turned_alike(run: Any, x: Tensor, by: tuple[int, int]) -> bool:
    """Whether an image that is rolled gives the output that is rolled, within roundings."""
    one, two = run(x).roll(by, (2, 3)), run(x.roll(by, (2, 3)))
    return bool((one - two).norm() <= 1e-13 * one.norm())


@torch.no_grad()
def test_a_texture_has_no_seam_and_a_panorama_none_where_it_closes() -> None:
    """Rolled by whole strides, the step is the same step; the dense network's is not."""
    net = step(**ATTENDS)
    graph = cg.to_graph(net)

    def on(space: Any) -> Any:
        return lambda x: graph(cg.PixelGraph.from_image(x, on=space)).to_image()

    texture, panorama = torch.randn(1, 3, 16, 16).double(), torch.randn(1, 3, 16, 32).double()
    assert turned_alike(on(cg.Torus()), texture, (6, 10))
    assert turned_alike(on(cg.Torus(rows=False)), panorama, (0, 6))
    assert turned_alike(on(cg.Equirectangular("wrap")), panorama, (0, 6))
    assert not turned_alike(net, texture, (6, 10))
    assert not turned_alike(on(cg.Torus(rows=False)), panorama, (2, 0))


@torch.no_grad()
def test_on_a_torus_it_is_the_circular_hack_where_only_convolutions_look_around() -> None:
    """UNet2DModel goes down by strided convolutions and up by nearest: there the hack is whole."""
    net = step(**ATTENDS)
    hack = copy.deepcopy(net)
    for module in hack.modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size != (1, 1):
            module.padding_mode = "circular"
            module._reversed_padding_repeated_twice = [1, 1, 1, 1]
    x = torch.randn(1, 3, 16, 16).double()
    found = cg.to_graph(net)(cg.PixelGraph.from_image(x, on=cg.Torus())).to_image()
    expected = hack(x)
    assert (found - expected).norm() <= 1e-13 * expected.norm()


@pytest.mark.published
def test_a_step_on_a_torus_is_proven_and_the_plane_is_not_there() -> None:
    net = step(**PLAIN)
    x = torch.randn(2, 3, 8, 8).double()
    cert = cg.prove(cg.to_graph(net), net, x, on=cg.Torus())
    assert cert.verdict == "proven", cert.reason
    assert {part.name: part.status for part in cert.parts}["gradients"] == "proven"
    # So deep a network's rounding may be anything: no number refutes it, and the reason says where.
    plane = cg.prove(net, net, x, on=cg.Torus())
    assert plane.verdict == "undecided"
    assert "'unet.conv_in': convolution in place of convolution" in str(plane.reason)
