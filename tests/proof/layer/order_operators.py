"""Operators that move and compare, and entries of which much, little or all is known."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.proof.layer.order import codes

MANY, SHAPE = 3, (2, 3, 4)
PLACES = torch.tensor([2, 0])


def places(x: Tensor) -> Tensor:
    """The largest of each row, where it is known: a whole number, (2, 3, 1)."""
    return x.argmax(-1, keepdim=True)


def filled(x: Tensor) -> Tensor:
    held = torch.zeros(SHAPE, dtype=x.dtype)
    held.copy_(x)
    held[0].fill_(2)
    held[1, :2].zero_()
    return held


Run = Callable[[Tensor], Any]

OPERATORS: dict[str, tuple[Run, ...]] = {
    "moves": (
        lambda x: x.roll(1, 2), lambda x: x.flip(1), lambda x: x.mT.reshape(6, 4),
        lambda x: x.unfold(2, 2, 2).clone(),
    ),
    "joins": (lambda x: torch.cat([x, x[:, :1]], 1), lambda x: torch.stack([x[0], x[1]], 2)),
    "pads": (
        lambda x: F.pad(x, (1, 2), value=-torch.inf), lambda x: F.pad(x > 0, (1, 0), value=True),
    ),
    "writes": (filled,),
    "puts": (
        lambda x: x.slice_scatter(x[:, :1], 1, 1, 2), lambda x: x.select_scatter(x[:, 0], 1, 2),
    ),
    "copies and fills at": (
        lambda x: x.index_copy(1, PLACES, x[:, :2]), lambda x: x.index_fill(1, PLACES, 2.0),
    ),
    "gathers": (
        lambda x: x.gather(2, places(x)), lambda x: x.take(places(x)),
        lambda x: x.index_select(1, PLACES), lambda x: x.index_select(2, places(x)[0, 0]),
        lambda x: x[:, :, places(x)[0, 0]], lambda x: F.embedding(PLACES, x[0]),
    ),
    "puts at": (
        lambda x: x.index_put((PLACES[1:], PLACES[:1]), x[0, 0]),
        lambda x: x.index_put((places(x)[0, 0] // 4,), x[1]),
        lambda x: torch.zeros_like(x).index_put((PLACES // 2,), x, accumulate=True),
    ),
    "adds at": (
        lambda x: torch.zeros_like(x).scatter_add(2, places(x), x[..., :1]),
        lambda x: torch.zeros_like(x).index_add(1, PLACES, x[:, :2]),
    ),
    "scatters": (
        lambda x: x.scatter(2, places(x), x[..., 1:2]), lambda x: x.scatter(2, places(x), 1.0),
        lambda x: x.scatter_reduce(1, PLACES.view(1, 2, 1).expand(2, 2, 4), x[:, :2], "amax"),
    ),
    "maxima": (
        lambda x: x.amax(1), lambda x: x.max(2), lambda x: torch.maximum(x, x[:1]),
        lambda x: x.max(), lambda x: x.argmax(), places,
    ),
    "pools": (
        lambda x: F.max_pool2d(x, 2, 1, return_indices=True),
        lambda x: F.adaptive_max_pool2d(x, (2, 2), return_indices=True),
        lambda x: F.max_pool3d(x[None], (1, 2, 2), return_indices=True),
    ),
    "sorts": (lambda x: x.topk(2), lambda x: x.sort(-1, descending=True)),
    "compares": (
        lambda x: x > x[:1], lambda x: x <= 0, lambda x: x == x.flip(2), lambda x: x != 1,
        lambda x: x.isnan(), lambda x: x.isinf(),
    ),
    "chooses": (
        lambda x: torch.where(x > x[:1], x, x[:1]), lambda x: x.masked_fill(x < x.flip(2), -1.0),
    ),
    "adds": (
        lambda x: x + 0, lambda x: x - x, lambda x: x + x.flip(1), lambda x: 1 - x,
        lambda x: x.sum(1), lambda x: x[:, 0] + (x > 0).any(1),
        lambda x: F.fold(x.reshape(1, 4, 6)[:, :, :4], 3, 2),
    ),
    "multiplies": (
        lambda x: x * 1, lambda x: x * 0, lambda x: x * x[:1], lambda x: (x > 0) * x,
        lambda x: x / 1, lambda x: -x,
    ),
    "decides": (
        lambda x: (x > 0).any(1), lambda x: (x > 0).all(2), lambda x: (x > 0) & (x < 1),
        lambda x: (x > 0) | (x < 1), lambda x: ~(x > 0), lambda x: (x > 0).long().cumsum(1),
        lambda x: (x > 0).long().amin(1), lambda x: (x > 0).sum(2),
        lambda x: places(x).clamp(1, 2), lambda x: places(x) * 2 - 1, lambda x: places(x).amax(1),
        lambda x: -places(x), lambda x: (x > 0).to(x.dtype),
    ),
}  # fmt: skip


def some(generator: torch.Generator) -> Tensor:
    """Entries of which much, little or all is known, under each supposition something else."""
    kinds = torch.tensor([
        complex(0, c) for c in (3, 4, 5, 6, 8, codes.ANY, codes.OPEN)
    ] + [complex(0), complex(1), complex(-torch.inf, 0)])  # fmt: skip
    kinds = kinds.to(torch.complex128)
    sure = torch.randint(0, len(kinds), (MANY, *SHAPE), generator=generator)
    found = kinds[sure]
    top = torch.rand(MANY, *SHAPE[:2], 1, generator=generator) < 0.7
    largest = torch.randint(0, SHAPE[2], (MANY, *SHAPE[:2], 1), generator=generator)
    at = torch.arange(SHAPE[2]) == largest
    return torch.where(top, torch.where(at, complex(0, 5), complex(0, 3)), found)
