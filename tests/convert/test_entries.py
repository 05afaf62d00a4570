"""Entries of an axis on a mask: as torch takes them of the refilled image, and none beyond it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import convgraph as cg
from convgraph.convert import GraphTensor
from convgraph.errors import ConversionError

TAKEN: dict[str, Callable[[Tensor], Tensor]] = {
    "rolled twice along one axis": lambda x: x.roll((1, 1), (2, 2)),
    "rolled along channels and lattice": lambda x: x.roll((1, -2, 3), (2, 3, 1)),
    "flipped": lambda x: x.flip(1, 3),
    "flipped along one entry": lambda x: x[..., None].flip(4) * (2 * x)[..., None],
    "images in reverse": lambda x: x.flip(0, 2),
    "mixed with the image before": lambda x: x * 3 + x.roll(1, 0),
    "repeated": lambda x: x.repeat(2, 3, 1, 2),
    "repeated as a new axis": lambda x: x.unsqueeze(2).repeat(1, 1, 3, 1, 1),
    "tiled": lambda x: torch.tile(x, (2,)),
    "each channel twice": lambda x: x.repeat_interleave(2, 1),
    "each image twice": lambda x: x.repeat_interleave(2, 0),
    "channels by number": lambda x: x[:, torch.tensor([0, -1, 2])],
    "rows by number": lambda x: x[:, :, torch.tensor([0, -1, 2])],
    "images by number": lambda x: x[torch.tensor([1, -1, 0])],
    "every other row, from behind": lambda x: x[:, :, -5::2],
    "narrowed": lambda x: x.narrow(3, -3, 2),
    "one row": lambda x: x[:, :, -2],
    "one channel": lambda x: x[:, -2],
    "one image": lambda x: x[-1],
    "expanded as": lambda x: x[:, :1].expand_as(x),
    "by a map of numbers": lambda x: torch.take_along_dim(x, (x > 0).long(), 1),
    "the larger of two": lambda x: torch.max(x, x.roll(1, 1)),
    "in a stable order": lambda x: x.sort(dim=1, stable=True).values,
}


def a_map() -> Tensor:
    torch.manual_seed(0)
    image = torch.randint(-9, 9, (2, 4, 6, 5)).double()
    return cg.PixelGraph.from_image(image, mask=torch.rand(2, 6, 5) > 0.3).tensor()


@pytest.mark.parametrize("name", TAKEN)
def test_entries_are_those_of_the_refilled_image(name: str) -> None:
    x = a_map()
    assert isinstance(x, GraphTensor)
    assert torch.equal(TAKEN[name](x).to_dense(), TAKEN[name](x.to_dense()))  # type: ignore[call-overload]


def test_all_and_any_along_the_lattice_are_those_of_the_nodes() -> None:
    x = a_map()
    there = (x * 0 + 1).to_dense().bool()  # type: ignore[call-overload]
    yes = x.to_dense() > -7
    some = there.any(2)
    for got, want in (
        ((x > -7).all(2), (yes | ~there).all(2)),
        ((x > -7).any(2), (yes & there).any(2)),
    ):
        assert torch.equal(got.to_dense() & some, want & some)  # type: ignore[call-overload]


def test_a_repeated_map_is_a_copy() -> None:
    x = a_map()
    before = x.to_dense()
    many = x.unsqueeze(2).repeat(1, 1, 3, 1, 1)
    many[:, :, 0].mul_(3)
    assert torch.equal(x.to_dense(), before)
    assert torch.equal(many.to_dense()[:, :, 1], before)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "call",
    [
        lambda x: torch.select(x, 2, 9),
        lambda x: x[:, torch.tensor([7])],
        lambda x: x[:, :, torch.tensor([7])],
        lambda x: x[torch.tensor([5])],
        lambda x: x.index_fill(1, torch.tensor([7]), 0.0),
    ],
)
def test_there_is_nothing_beyond_an_axis(call: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises((ConversionError, IndexError)):
        call(a_map())
