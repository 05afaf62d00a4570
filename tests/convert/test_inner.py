"""Windows within each node hear no other: torch's own answer at every site, whatever the mask."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import convgraph as cg
from convgraph.errors import ConversionError

GENERATOR = torch.Generator().manual_seed(0)
IMAGE = torch.randint(-4, 5, (2, 6, 8, 6), generator=GENERATOR).double()
MASK = torch.rand(2, 8, 6, generator=GENERATOR) > 0.4
W = torch.randint(-3, 4, (6, 6), generator=GENERATOR).double()


def tokens(x: Any) -> Any:
    """(batch) (y x) (channels)."""
    return x.flatten(2).transpose(1, 2)


CALLS: dict[str, Any] = {
    "channels beside each other": lambda x: F.avg_pool3d(x[:, None], (3, 1, 1), 1, (1, 0, 0))[:, 0],
    "pairs of channels": lambda x: F.max_pool3d(x[:, None], (2, 1, 1))[:, 0],
    "channels of tokens": lambda x: F.max_pool1d(tokens(x), 2).transpose(1, 2).unflatten(2, (8, 6)),
    "tokens mixed": lambda x: F.conv1d(x.flatten(2), W[..., None]).unflatten(2, (8, 6)),
    "tokens mixed in groups": lambda x: F.conv1d(
        x.flatten(2), W[:, :3, None], W[0], groups=2
    ).unflatten(2, (8, 6)),
    "tokens mixed backwards": lambda x: F.conv_transpose1d(x.flatten(2), W[..., None]).unflatten(
        2, (8, 6)
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_windows_within_each_node(name: str) -> None:
    call = CALLS[name]
    one, two = IMAGE.clone().requires_grad_(), IMAGE.clone().requires_grad_()
    got, want = call(cg.PixelGraph.from_image(one, mask=MASK).tensor()), call(two)
    there = MASK[:, None].expand_as(want)
    assert torch.equal(got.to_dense(), want * there)
    assert got.graph.num_nodes == int(MASK.sum())
    send = torch.arange(1.0, want.numel() + 1).double().view(want.shape)
    mine = torch.autograd.grad((got * send).sum(), one)[0]
    true = torch.autograd.grad((want * send * there).sum(), two)[0]
    assert torch.equal(mine, true)
    assert bool(true.any())


@pytest.mark.parametrize(("window", "stride", "pads"), [((1, 2), 2, 0), ((3, 2), 1, (1, 0))])
def test_a_step_along_nodes_leaves_some_of_them(window: Any, stride: Any, pads: Any) -> None:
    """A window of one node that strides over nodes gave every node, on full grids too."""

    def call(x: Any) -> Any:
        return F.max_pool2d(tokens(x)[:, None], window, stride, pads)

    full = call(cg.PixelGraph.from_image(IMAGE).tensor())
    dense = full.to_dense() if hasattr(full, "to_dense") else full
    assert torch.equal(dense, call(IMAGE))
    with pytest.raises(ConversionError, match="no meaning on a mask"):
        call(cg.PixelGraph.from_image(IMAGE, mask=MASK).tensor())


def test_an_image_without_a_batch_is_pooled_as_one_with_it() -> None:
    """The largest ones and where they were, both."""
    x = cg.PixelGraph.from_image(IMAGE, mask=MASK).tensor()
    pairs = zip(F.max_pool2d(x[0], 2, return_indices=True),
                F.max_pool2d(x[:1], 2, return_indices=True), strict=True)  # fmt: skip
    assert all(torch.equal(one.to_dense(), batch.to_dense()[0]) for one, batch in pairs)


@pytest.mark.parametrize("mask", [None, MASK])
def test_a_kernel_of_one_pixel_takes_axes_as_torch_does(mask: Any) -> None:
    x = cg.PixelGraph.from_image(IMAGE, mask=mask).tensor()
    with pytest.raises(RuntimeError, match="Expected 3D"):
        F.conv2d(x[:, None], W[..., None, None])


@pytest.mark.parametrize("window", [1, 2, 3])
def test_patches_become_columns(window: int) -> None:
    """Windows of each patch lose a rank, and stay on the nodes that hold a patch."""

    def call(x: Any) -> Any:
        cells = x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5)
        return F.unfold(cells.flatten(0, 2), window, padding=window // 3)

    mask = MASK.clone()
    mask[:, :2, :2] = False
    there = mask.view(2, 4, 2, 3, 2).any(4).any(2)
    got = call(cg.PixelGraph.from_image(IMAGE, mask=mask).tensor())
    assert got.sites.num_nodes == int(there.sum())
    assert torch.equal(got.to_dense(), call(IMAGE * mask[:, None]))


def test_a_place_more_behind_a_kernel_of_one_is_no_place_of_a_node() -> None:
    """output_padding lengthens a line of nodes: it named two channels in place of the nodes."""

    def call(x: Any) -> Any:
        return F.conv_transpose1d(x.flatten(2), W[..., None], dilation=2, output_padding=1)

    full = call(cg.PixelGraph.from_image(IMAGE).tensor())
    assert torch.equal(full.to_dense() if hasattr(full, "to_dense") else full, call(IMAGE))
    with pytest.raises(ConversionError, match="no meaning on a mask"):
        call(cg.PixelGraph.from_image(IMAGE, mask=MASK).tensor())
