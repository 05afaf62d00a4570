"""Instance norm of a single image, whose gradient torch gets wrong on channels-last memory."""

import pytest
import torch

import convgraph as cg


@pytest.mark.parametrize("batch", [None, 1, 2])
def test_the_gradient_is_right_for_one_image_too(batch: int | None) -> None:
    """Rows hand a channels-last gradient back; gradcheck knows the truth whatever torch does."""
    shape = (3, 4, 5) if batch is None else (batch, 3, 4, 5)
    layer = cg.nn.GraphInstanceNorm2d(3, affine=True).double()
    weights = torch.rand(shape).double()

    def weighted(image: torch.Tensor) -> torch.Tensor:
        rows = layer(cg.PixelGraph.from_image(image)).to_image()
        return (rows * weights).sum()

    assert torch.autograd.gradcheck(weighted, (torch.rand(shape).double().requires_grad_(),))
