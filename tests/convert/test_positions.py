"""Entries by number and by yes and no, read and written, and equations of letters.

On a mask they say what torch says of the image whose holes are 0, values and gradients, bit for
bit; what is chosen by yes and no leaves holes out.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convgraph as cg
from convgraph.convert.tensor import GraphTensor
from convgraph.errors import ConversionError
from tests.convert.planting import plant

B, C, H, W = 2, 4, 6, 7


def whole(*size: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(size))
    return torch.randint(-4, 5, size, generator=generator).double()


IMAGE, OTHER = whole(B, C, H, W), whole(B, C, H, W).flip(1)
MASK = whole(B, H, W) > -2
LABELS = OTHER[:, 0].long().abs() % C
TABLE = whole(9, 3)
ALL = slice(None)


def shifts(x: Any) -> Any:
    """A place along the last axis for every pixel, as a disparity says it."""
    return (OTHER.long().abs() + torch.arange(W)) % W + x.detach().long() * 0


def underived() -> bool:
    least, _ = torch.aminmax(torch.ones(2, requires_grad=True), dim=0)
    return type(least.grad_fn).__name__ == "NotImplemented"


def put(x: Any, index: Any, value: Any) -> Any:
    x = x * 1
    x[index] = value
    return x


def dropped(x: Any) -> Any:
    torch.manual_seed(0)
    return F.feature_alpha_dropout(x, 0.5, True)


CALLS: dict[str, Any] = {
    "points": lambda x: x[:, :, [1, 2, 3], [3, 4, 0]],
    "points of images": lambda x: x[torch.tensor([[0], [1]]), :, torch.tensor([[1, 2]]), [[3, 3]]],
    "places of a line": lambda x: x.flatten(2)[:, :, [3, 40, 7, -1]],
    "places of an image's line": lambda x: x.flatten(2).mT[1].index_select(
        0, torch.tensor([5, 5, 30])
    ),
    "a place of a line": lambda x: x.flatten(2)[..., 40],
    "a channel of each image": lambda x: x[torch.arange(B), torch.tensor([2, -1])],
    "a group of each image": lambda x: x.view(B, 2, 2, H, W)[torch.arange(B), [1, 0]],
    "a share of channels": lambda x: x.quantile(0.5, 1),
    "shares of channels": lambda x: x.quantile(whole(3).abs() / 4, 1),
    "shares of channels kept": lambda x: x.quantile(whole(3).abs() / 4, 1, True),
    "windows of windows along a line": lambda x: x.unfold(2, 4, 2).unfold(3, 3, 2).unfold(2, 2, 1),
    "no row, repeated": lambda x: x + x.amax(2, True).repeat(1, 1, 0, 1).sum(2, True),
    "places among tokens": lambda x: torch.cat([TABLE[:2, :1].expand(B, 2, C), x.flatten(2).mT], 1)[
        :, torch.tensor([0, 7, 20])
    ],
    "a line of weights": lambda x: F.linear(x.mT, whole(3, H)),
    "rows that are multiplied": lambda x: x @ whole(W, 2),
    "columns that are multiplied": lambda x: whole(2, H) @ x,
    "gather pixels": lambda x: x.flatten(2).gather(2, torch.tensor([[[1, 5]]]).expand(B, C, 2)),
    "gather along rows": lambda x: x.gather(3, shifts(x)) * (x * 0 + 2),
    "gather into a map of other size": lambda x: x.gather(2, shifts(x)[:, :, 1:4] % H),
    "gather classes": lambda x: x.gather(1, LABELS[:, None]),
    "taken": lambda x: x.take(torch.tensor([0, 50, 7, -1])),
    "put": lambda x: x.put(torch.tensor([0, 50, 7]), x.new_tensor([5.0, 6, 7])),
    "put on top": lambda x: (x * 1).put_(torch.tensor([50, 50]), x.new_tensor([5.0, 6]), True),
    "a diagonal": lambda x: x.flip(3).diagonal(1, 2, 3),
    "letters of one entry": lambda x: torch.einsum(
        "bchw,oc,n->bnohw", x[1:, :1], TABLE[:3, :1], TABLE[0, :1]
    ),
    "of letters": lambda x: torch.einsum("bcii->bc", x[..., :H]),
    "of channels": lambda x: (x[:, :, None] * x[:, None]).diagonal(-1, 2, 1),
    "a table taken": lambda x: TABLE.take(x.argmax(1)) * x[:, 0],
    "a table": lambda x: TABLE[x.argmax(1)] * x[:, 0].unsqueeze(-1),
    "channels in two": lambda x: x[:, torch.tensor([[0, 1], [2, 3]])],
    "rows in two": lambda x: x[:, :, torch.tensor([[0, 1], [2, 3]])],
    "rows written": lambda x: put(x, (ALL, ALL, [0, 2]), -1.0),
    "rows over rows": lambda x: put(x, (ALL, ALL, [0, 2]), x[:, :, [3, 5]] * 2),
    "pixels written": lambda x: put(x, (ALL, ALL, [1, 2], [3, 4]), -1.0),
    "channels by yes and no": lambda x: put(x, (ALL, torch.tensor([True, False] * 2)), -1.0),
    "an image of yes and no": lambda x: put(x, OTHER > 0, 0.0),
    "rows added": lambda x: x.index_add(2, torch.tensor([0, 1]), x[:, :, 2:4]),
    "channels of other nodes copied": lambda x: x.index_copy(
        1, torch.tensor([1]), F.pad(x[:, :1, 1:], (0, 0, 0, 1))
    ),
    "whole channels dropped": lambda x: dropped(x),
    "images by yes and no": lambda x: put(x, torch.tensor([True, False]), x[1:] * 2),
    "images copied": lambda x: x.index_copy(0, torch.tensor([1]), x[:1]),
    "an image added": lambda x: x.index_put((torch.tensor([1]),), x[:1] * 2, accumulate=True),
    "rows filled": lambda x: x.index_fill(2, torch.tensor([0, 2]), 3.0),
    "a slice scattered": lambda x: torch.slice_scatter(x, x[:, :, :2] * 2, 2, 1, 3),
    "one hot": lambda x: torch.zeros_like(x).scatter(1, LABELS[:, None], 1.0) * x,
    "largest scattered": lambda x: x.scatter_reduce(1, LABELS[:, None], x[:, :1] * 2, "amax"),
    "cross": lambda x: torch.linalg.cross(x[:, :3], x[:, 1:], dim=1),
    "by a vector": lambda x: x.permute(0, 2, 3, 1) @ TABLE[:C, 0],
    "complex": lambda x: torch.view_as_real(torch.complex(x, 2 * x) * torch.complex(x, -x).conj()),
    "smallest, largest": lambda x: sum(torch.aminmax(x, dim=1)),
    "products added": lambda x: torch.baddbmm(
        torch.ones(B, C, C).double(), x.flatten(2), x.flatten(2).mT
    ),
}  # fmt: skip

CHOICES: dict[str, Any] = {
    "by itself": (lambda x: x[x > 0], lambda x, m: x[(x > 0) & m]),
    "holes are no zeros": (lambda x: x[x <= 0], lambda x, m: x[(x <= 0) & m]),
    "by an image": (lambda x: x[OTHER > 0], lambda x, m: x[(OTHER > 0) & m]),
    "by labels": (
        lambda x: x.movedim(1, 3)[LABELS > 1],
        lambda x, m: x.movedim(1, 3)[(LABELS > 1) & m[:, 0]],
    ),
    "behind channels": (
        lambda x: x.movedim(1, 0)[:, x[:, 0] > 0],
        lambda x, m: x.movedim(1, 0)[:, (x[:, 0] > 0) & m[:, 0]],
    ),
    "of an image": (lambda x: OTHER[x > 0] * x.sum(), lambda x, m: OTHER[(x > 0) & m] * x.sum()),
    "masked_scatter": (
        lambda x: x.masked_scatter(x > 0, 2 * x.masked_select(x > 0)),
        lambda x, m: torch.where(x > 0, 2 * x, x),
    ),
    "masked_scatter by an image": (
        lambda x: x.masked_scatter(OTHER <= 0, 2 * x.masked_select(OTHER <= 0)),
        lambda x, m: torch.where(OTHER <= 0, 2 * x, x),
    ),
    "written where it was read": (
        lambda x: put(x, OTHER > 0, 2 * x[OTHER > 0]),
        lambda x, m: torch.where(OTHER > 0, 2 * x, x),
    ),
    "written by a map": (
        lambda x: put(x, x > 0, 2 * x[x > 0]),
        lambda x, m: torch.where(x > 0, 2 * x, x),
    ),
    "rows of a map of other nodes": (
        lambda x: put(x.movedim(1, 3), x[:, 0].roll(1, 2) > 0, TABLE[0, :1].expand(C)),
        lambda x, m: torch.where(x[:, :1].roll(1, 3) > 0, TABLE[0, 0], x).movedim(1, 3),
    ),
    "masked_select": (
        lambda x: x.masked_select(x[:, :1] <= 0),
        lambda x, m: x.masked_select((x[:, :1] <= 0) & m),
    ),
    "nonzero": (lambda x: (x != 0).nonzero() * x.sum(), lambda x, m: x.nonzero() * x.sum()),
    "where": (lambda x: torch.where(x > 0)[3] * x.sum(), lambda x, m: (x > 0).nonzero()[:, 3]
              * x.sum()),
}  # fmt: skip

EQUATIONS: dict[str, Any] = {
    "bchw->bhwc": (), "bchw->bc": (), "bchw->": (), "b...->b...": (), "bchw->chw": (),
    "bc...,dc->bd...": (TABLE.T[:, :C],), "bchw,cd": (TABLE[:C],),
    "bchw,cd,bd->bhw": (TABLE[:C], TABLE[:B]), "bchw,bchw,bchw->bc": ("x", "x"),
    "bchw,bdhw->bcdhw": ("x",), "bchw,kl->bhwl": (TABLE,), "bihw,bjhw,k->bijhw": ("x", TABLE[0]),
    "bchw,dc->bdhw": (TABLE[:C].T,), "bchw,cd,d->bhwd": (TABLE[:C], TABLE[0]),
}  # fmt: skip


def agrees(call: Any, truth: Any) -> bool:
    """Whether a call on nodes says what is true, its gradients too."""
    one, two = IMAGE.clone().requires_grad_(), IMAGE.clone().requires_grad_()
    got = call(cg.PixelGraph.from_image(one, mask=MASK).tensor() * 1)
    there = MASK[:, None]
    want = truth(torch.where(there, two, 0.0), there)
    if isinstance(got, GraphTensor):
        some = got.value.with_x(torch.ones_like(got.value.x)).tensor()
        got, want = got.to_dense(), want * some
    if not torch.equal(got, want):
        return False
    send = torch.arange(1.0, want.numel() + 1).double().view(want.shape)
    mine, true = (torch.autograd.grad((out * send).sum(), x)[0] for out, x in
                  ((got, one), (want, two)))  # fmt: skip
    return torch.equal(mine, true) and bool(true.any())


@pytest.mark.parametrize("name", CALLS)
def test_positions_by_number(name: str) -> None:
    if name == "smallest, largest" and underived():
        pytest.skip("this torch has no derivative of aminmax")
    assert agrees(CALLS[name], lambda x, there: CALLS[name](x))


@pytest.mark.parametrize("name", CHOICES)
def test_positions_by_yes_and_no(name: str) -> None:
    assert agrees(*CHOICES[name])


def test_holes_that_are_chosen_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "index", lambda rule: lambda call, x, indices: x.tensor()[indices[0]])
    assert not agrees(*CHOICES["by an image"])


@pytest.mark.parametrize("equation", EQUATIONS)
def test_letters(equation: str) -> None:
    def call(x: Any, *_: Any) -> Any:
        return torch.einsum(equation, x, *(x if one == "x" else one for one in EQUATIONS[equation]
                                           if not isinstance(one, str) or one == "x"))  # fmt: skip

    assert agrees(call, call)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: x.flatten(2).gather(2, x[:, :1].flatten(2).long() * 0), "map and index differ"),
        (lambda x: x.diagonal(), "along some axes of the lattice only"),
        (lambda x: x.take(x.argmax(1)), "looks up a map by a map"),
        (lambda x: x.put(x.argmax(1), x[:, 0]), "positions that are a map's numbers"),
        (lambda x: x[[0, 1], :, [1, 2]], "along some axes of the lattice only"),
        (lambda x: x.unsqueeze_(1), "another shape; use unsqueeze and take what it returns"),
        (lambda x: torch.cat([x.flatten(2), x[:, :, ::2].flatten(2)], 2)[..., 1:], "of the nodes"),
        (lambda x: x[:, 0] + x.mean((3, 1)).unsqueeze(1), "tells other pixels apart"),
        (lambda x: torch.cov(x[0].flatten(1).T), "its variables are pixels"),
        (lambda x: x.roll(1), "rolls the flattened tensor"),
        (lambda x: put(x, IMAGE[..., :H] > 0, whole(5)), "a list of 5 to 88 positions"),
        (lambda x: put(x, x.argmax(1) % 2, whole(H)), "no map of yes and no"),  # holes would say 0
        (lambda x: F.linear(x, whole(H, H))[:, :1].add_(x[:, :1]), "other pixels along its axes"),
    ],
)
def test_what_has_no_meaning_says_why(call: Any, text: str) -> None:
    x = cg.PixelGraph.from_image(IMAGE[:, :, :, :H], mask=MASK[:, :, :H]).tensor()
    with pytest.raises(ConversionError, match=text):
        call(x)


@pytest.mark.parametrize("index", [(ALL, [0]), (0, [1, 2]), (ALL, ALL, [0, 2]), OTHER > 0])
@pytest.mark.parametrize("ones", range(4))
def test_what_is_written_by_number_hears_of_it(index: Any, ones: int) -> None:
    """Leading axes of one entry are stripped from it, by a view that autograd must know."""
    value = whole(*[1] * ones, W) if isinstance(index, tuple) else whole(*[1] * ones)
    mine, true = value.clone().requires_grad_(), value.clone().requires_grad_()
    got = put(cg.PixelGraph.from_image(IMAGE, mask=MASK).tensor(), index, mine)
    want = put(IMAGE, index, true) * MASK[:, None]
    assert torch.equal(got.to_dense(), want)
    sums = got.square().sum(), want.square().sum()
    for one in sums:
        one.backward()
    assert mine.grad is not None
    assert torch.equal(mine.grad, true.grad)


def test_operators_without_a_rule_write_into_full_grids() -> None:
    x, want = cg.PixelGraph.from_image(IMAGE).tensor() * 1, IMAGE * 1
    for one in (x, want):
        one.put_(torch.tensor([3]), torch.tensor([5.0]).double())
        F.relu(one[:, 1:3].renorm_(2, 0, 8.0), inplace=True)
    assert torch.equal(x.to_dense(), want)
