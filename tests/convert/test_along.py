"""Operators along the lattice, where an absent position says nothing, whatever dtype and names.

The truth is torch's own on the image whose holes hold the number that nobody hears. Axes that name
sites and channels at once, as the anchors of a detector's head do, are lattice too.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convgraph as cg
from convgraph.convert.tensor import GraphTensor
from convgraph.errors import ConversionError

GENERATOR = torch.Generator().manual_seed(0)
IMAGE = torch.randint(-4, 5, (2, 4, 6, 8), generator=GENERATOR).double()
MASK = torch.rand(2, 6, 8, generator=GENERATOR) > 0.4
NO, YES = -torch.inf, torch.inf


def anchors(x: Any) -> Any:
    """(batch) (y x 2) (2)."""
    return x.permute(0, 2, 3, 1).reshape(2, -1, 2)


CALLS: dict[str, tuple[Any, float]] = {
    "how many": (lambda x: (x > 0).sum((2, 3)), NO),
    "which of rows": (lambda x: (x > 0).amax(3), NO),
    "which of all": (lambda x: (x > 0).amin((2, 3)), YES),
    "the largest whole number": (lambda x: x.clamp(-9, 9).long().amax((1, 2)), NO),
    "the smallest whole number": (lambda x: x.clamp(-9, 9).long().amin((2, 3)), YES),
    "any of two axes": (lambda x: (x > 3).any((2, 3)), NO),
    "every one": (lambda x: (x > -4).all(3), YES),
    "not zero": (lambda x: x.count_nonzero((1, 2)), 0),
    "product of signs": (lambda x: x.sign().prod(3), 1),
    "whole numbers added up": (lambda x: x.long().cumsum(2), 0),
    "the place of the largest": (lambda x: x.argmax(), NO),
    "of the smallest": (lambda x: x.clamp(-9, 9).long().argmin(keepdim=True), YES),
    "bins of a line": (lambda x: F.adaptive_max_pool1d(x.flatten(2), 3), NO),
    "images made shorter": (lambda x: x.renorm(1, 0, 2.0**6), 0),
    "channels made shorter": (lambda x: (x * 1).renorm_(torch.inf, 1, 2.0), 0),
    "logarithms of whole numbers": (lambda x: x.clamp(-9, 9).long().logsumexp((2, 3)) * 0, NO),
    "the loudest anchor": (lambda x: torch.stack(anchors(x).max(1)), NO),
    "which anchor": (lambda x: anchors(x).argmin(1, keepdim=True), YES),
    "the first anchors": (lambda x: torch.stack(anchors(x).topk(5, 1)), NO),
    "the last anchors": (lambda x: anchors(x).topk(5, 1, largest=False)[0], YES),
    "whole numbers at the top": (lambda x: anchors(x.clamp(-9, 9).long()).topk(3, 1)[0], NO),
    "logarithms of sums": (lambda x: x.logsumexp((2, 3)).exp().mul(1e6).round(), NO),
}


def dense(out: Any) -> Tensor:
    return out.to_dense() if isinstance(out, GraphTensor) else out


@pytest.mark.parametrize("name", CALLS)
def test_absent_positions_say_nothing(name: str) -> None:
    """Read as 0 they would: every image holds pixels below and above it."""
    call, nothing = CALLS[name]
    want = call(torch.where(MASK[:, None], IMAGE, nothing))
    if want.shape == IMAGE.shape:
        want = torch.where(MASK[:, None], want, 0)
    got = dense(call(cg.PixelGraph.from_image(IMAGE, mask=MASK).tensor()))
    assert got.dtype == want.dtype
    assert torch.equal(got, want)


SWEPT: dict[str, tuple[Any, float]] = {
    "sum": (lambda x: x.sum((-1, -2)), 0), "least": (lambda x: x.amin(-1, keepdim=True), YES),
    "where": (lambda x: x.argmax(2), NO), "of all": (lambda x: x.argmin(), YES),
    "scan": (lambda x: x.cumsum(-1), 0), "line": (lambda x: x.flatten(1).sum(1), 0),
    "images": (lambda x: x.amax(0), NO), "bins": (lambda x: bins(x.flatten(2)), NO),
    "take": (lambda x: x.take(torch.tensor([0, -1])), 0),
    "put": (lambda x: x.put(torch.tensor([0, -1]), x.new_ones(2)), 0),
    "filled": (lambda x: x.index_fill(2, torch.tensor([0]), 3), 0),
    "places": (lambda x: x.flatten(2)[:, :, [0, -1]], 0),
    "written": (lambda x: written(x), 0), "products": (lambda x: letters(x.flatten(2)), 0),
}  # fmt: skip
LATTICES: list[tuple[Any, tuple[int, ...]]] = [
    (None, (4, 5)), (None, (1, 5)), (None, (5, 1)), (None, (1, 1)), (None, (2, 3, 4)), (None, (6,)),
    (cg.Torus(), (4, 6)), (cg.Hexagonal(), (4, 6)),
]  # fmt: skip
MODES = (torch.enable_grad, torch.no_grad, torch.inference_mode)


def bins(x: Any) -> Any:
    return F.adaptive_max_pool1d(x if x.is_floating_point() else x.double(), 2)


def written(x: Any) -> Any:
    x = x * 1
    x.flatten(2)[:, 0] += 1
    return x


def letters(x: Any) -> Any:
    return torch.einsum("bcn,cd,bdn->bn", x, torch.ones(x.shape[1], x.shape[1]).to(x.dtype), x)


@pytest.mark.parametrize("name", SWEPT)
def test_any_lattice_mask_dtype_and_mode(name: str) -> None:
    """A random sweep: values and gradients are those of the image whose holes say nothing."""
    (call, nothing), seen = SWEPT[name], 0
    for seed in range(48):
        generator = torch.Generator().manual_seed(seed)
        lattice, mode, kind, dtype, batch, channels = (
            int(torch.randint(n, (), generator=generator)) for n in (8, 3, 4, 4, 3, 3)
        )
        space, size = LATTICES[lattice]
        if name == "scan" and isinstance(space, cg.Torus):
            continue
        shape = (batch + 1, channels + 1, *size)
        image = torch.randint(-3, 4, shape, generator=generator)
        image = image.to((torch.float64, torch.float32, torch.bfloat16, torch.int64)[dtype])
        mask = torch.rand(shape[0], *size, generator=generator) > (0.4, -1, 0.9, 1)[kind]
        there, silent = mask[:, None], nothing if dtype < 3 else max(min(nothing, 2**62), -(2**62))
        image.requires_grad_(dtype < 2)
        with MODES[mode]():
            want = call(torch.where(there, image, torch.tensor(silent, dtype=image.dtype)))
            got = call(cg.PixelGraph.from_image(image, mask=mask, d=len(size), on=space).tensor())
            some = torch.ones(want.shape, dtype=torch.bool)
            if isinstance(got, GraphTensor):
                some = got.value.with_x(torch.ones_like(got.value.x, dtype=torch.bool)).tensor()
            got, some = dense(got), some & (want.abs() < 2**60)
            want = want.where(some, 0)
        assert got.dtype == want.dtype
        assert torch.equal(got, want), (seed, shape)
        if want.requires_grad and got.requires_grad:
            send = torch.arange(want.numel()).view(want.shape).to(want.dtype) % 5 - 2
            mine, true = (
                torch.autograd.grad((out * send).sum(), image)[0] for out in (got, want)
            )  # fmt: skip
            assert torch.equal(mine, true.nan_to_num(0).where(there, 0)), (seed, shape)
            seen += 1
    assert seen or not call(IMAGE[:, :, 0].requires_grad_()).requires_grad


def test_what_is_as_large_as_nothing_is_found_where_it_stands() -> None:
    """No hole is the first of those that all say False, the least number or minus infinity."""
    x = cg.PixelGraph.from_image(IMAGE, mask=MASK).tensor()
    there = MASK[:, None].expand(IMAGE.shape).flatten(2)
    least = (x * 0).long() + torch.iinfo(torch.int64).min
    for line in (x > 9, least, x * 0 + NO):
        where = line.flatten(2).max(2).indices
        assert torch.equal(where, there.to(torch.uint8).argmax(2))
        if line.dtype == torch.bool:
            continue  # torch has no order of them
        where = line.flatten(2).topk(9).indices
        assert there.gather(2, where).all()
        assert (where.sort(2).values.diff(dim=2) > 0).all()


@pytest.mark.parametrize("dims", [(1, 3), (3,), (2, 3)])
@pytest.mark.parametrize("how", ["amax", "amin"])
def test_a_gradient_is_shared_by_all_that_are_the_largest(how: str, dims: Any) -> None:
    """As torch shares it, whole numbers of which several are as large, 0 too; holes get none."""
    image, mask = IMAGE.sign().requires_grad_(), MASK.clone()
    mask[1] = False
    x = cg.PixelGraph.from_image(image, mask=mask).tensor()
    (mine,) = torch.autograd.grad(getattr(x, how)(dims).sum(), image)
    filled = torch.where(mask[:, None], image, NO if how == "amax" else YES)
    found = getattr(filled, how)(dims)
    (true,) = torch.autograd.grad(found.where(found.isfinite(), 0).sum(), image)
    assert torch.equal(mine, true)


def test_a_softmax_over_anchors_is_the_quotient_of_sums() -> None:
    """Sites and channels at once, written in two ways."""
    x = anchors(cg.PixelGraph.from_image(IMAGE, mask=MASK).tensor())
    raised = (x - x.amax(1, keepdim=True)).exp()
    assert torch.equal(x.softmax(1).to_dense(), (raised / raised.sum(1, keepdim=True)).to_dense())


def test_whoever_is_there_goes_before_absent_positions() -> None:
    """Those say 0, also where all that are there say less."""
    few = torch.zeros(2, 6, 8, dtype=torch.bool)
    few[:, 0, :3] = True
    x = cg.PixelGraph.from_image(IMAGE, mask=few).tensor()
    value, place = (anchors(x) - 99).topk(7, 1)
    assert torch.equal(value[:, :6], (anchors(x) - 99).topk(6, 1).values)
    assert not value[:, 6].any()
    assert not anchors(x).value.there().gather(1, place)[:, 6].any()
    nobody = cg.PixelGraph.from_image(IMAGE, mask=few & ~few).tensor()
    assert F.one_hot(nobody.long()).shape[-1] == 1


def lovasz(x: Any, labels: Any) -> Any:
    """The hinge of Lovász, as it is written: sorted errors times steps of the Jaccard index."""
    errors, order = torch.sort(1 - x.flatten() * (2 * labels.flatten() - 1), 0, descending=True)
    right = labels.flatten()[order]
    both, either = right.sum() - right.cumsum(0), right.sum() + (1 - right).cumsum(0)
    steps = 1 - both / either
    steps[1 : len(right)] = steps[1 : len(right)] - steps[:-1]
    return F.relu(errors).dot(steps)


SORTED: dict[str, Any] = {
    "all": lambda x: x.flatten().sort()[0],
    "from the largest": lambda x: x[:, 0].flatten().sort(descending=True).values,
    "both ends and the middle": lambda x: (lambda line: line[[0, -1, len(line) // 2]])(
        x.flatten().msort()
    ),
    "another map": lambda x: x[:, 1].flatten()[x[:, 0].flatten().argsort()],
    "ranks": lambda x: x[:, 0].flatten().argsort().argsort() + 0 * x.sum(),
    "classes": lambda x: lovasz(x[:, 0], (x[:, 1] > 0).double()),
    "the hardest": lambda x: (lambda line: line[line > 1].mean())(x.abs().flatten().sort()[0]),
}


@pytest.mark.parametrize("name", SORTED)
def test_those_there_are_put_in_order(name: str) -> None:
    """The truth is the same code on an image of one line of the nodes alone."""
    apart = torch.arange(IMAGE.numel()).view(IMAGE.shape) * 2.0**-10
    image = (IMAGE + apart).requires_grad_()
    got = SORTED[name](cg.PixelGraph.from_image(image, mask=MASK).tensor())
    want = SORTED[name](image.movedim(1, -1)[MASK].T[None, :, None])
    assert torch.equal(got, want)
    sent = torch.arange(1.0, want.numel() + 1).double().view(want.shape)
    assert torch.equal(*(torch.autograd.grad((one * sent).sum(), image)[0] for one in (got, want)))


def test_lines_of_as_many_are_put_in_order_and_others_refused() -> None:
    mask = MASK[:1].expand(2, -1, -1).contiguous()
    x = cg.PixelGraph.from_image(IMAGE, mask=mask).tensor()
    found, where = x.flatten(2).sort(2)
    assert torch.equal(found, IMAGE.movedim(1, -1)[mask].view(2, -1, 4).mT.sort(2)[0])
    assert torch.equal(IMAGE.flatten(2).gather(2, where), found)
    assert where.view(-1).shape == found.view(-1).shape
    other = cg.PixelGraph.from_image(IMAGE, mask=MASK).tensor()
    with pytest.raises(ConversionError, match=r"makes no array; sort each image by itself"):
        other.flatten(2).sort(2)
    with pytest.raises(ConversionError, match="one has fewer than another"):
        other.sort(3)


def test_whole_numbers_have_no_mean_and_torch_says_so() -> None:
    x = cg.PixelGraph.from_image(IMAGE, mask=MASK).tensor().long()
    with pytest.raises(RuntimeError, match="floating point"):
        x.mean((2, 3))


REFUSED: tuple[Any, ...] = (
    lambda x: x.sum(9), lambda x: x.mean(-7), lambda x: x.sum((1, -3)), lambda x: x.argmax(4),
    lambda x: x.softmax(-5), lambda x: x.cumsum(4), lambda x: x.std((2, -2)), lambda x: x.flip(4),
    lambda x: x.flip(1, 1), lambda x: x.select(9, 0), lambda x: x.chunk(2, 5),
    lambda x: x.rot90(1, (1, 6)),
    lambda x: torch.cat([x, x], 5), lambda x: torch.stack([x, x], 5), lambda x: x.unbind(-9),
    lambda x: x.gather(4, (x > 9).long()), lambda x: x.repeat_interleave(2, 7),
    lambda x: x.index_select(4, torch.tensor([0])), lambda x: x.unfold(4, 2, 1),
    lambda x: torch.linalg.cross(x[:, :3], x[:, :3], dim=5), lambda x: x.topk(1, 4),
    lambda x: x.diagonal(0, 1, 5), lambda x: x[:, :, None].diagonal(0, 1, 6),
    lambda x: x.renorm(2, 4, 1), lambda x: x.renorm(0, 1, 1), lambda x: x.renorm(2, 1, -1),
    lambda x: (x > 0).argmax(), lambda x: (x > 0).argmin(2),
    lambda x: x.long().softmax(3), lambda x: x.long().flatten(2).log_softmax(2),
    lambda x: x.long().std((2, 3)), lambda x: F.adaptive_max_pool2d(x.long(), 1),
    lambda x: F.avg_pool2d(x > 0, 2), lambda x: F.unfold(x.long(), 2),
    lambda x: (x > 0).flatten(2).mT @ (x > 0).flatten(2), lambda x: F.gelu(x.long()),
)  # fmt: skip


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_what_torch_refuses_is_not_answered(number: int) -> None:
    """An axis that is not there was counted on from the front, and another one reduced."""
    with pytest.raises((IndexError, RuntimeError)) as own:
        REFUSED[number](IMAGE)
    with pytest.raises(own.type) as got:
        REFUSED[number](cg.PixelGraph.from_image(IMAGE, mask=MASK).tensor())
    assert not isinstance(got.value, ConversionError)


@pytest.mark.parametrize("dim", [0, 1, 3])
def test_few_bits_are_made_shorter_by_norms_of_many(dim: int) -> None:
    """As torch has it: a norm rounded to eight bits is another factor."""
    image = IMAGE.bfloat16()
    want = torch.where(MASK[:, None], image, 0).renorm(2, dim, 1.5)
    got = cg.PixelGraph.from_image(image, mask=MASK).tensor().renorm(2, dim, 1.5)
    assert torch.equal(got.to_dense(), want)


@pytest.mark.parametrize("call", [lambda x: x.std((2, 3)), lambda x: torch.std_mean(x, 3)[0]])
def test_where_nothing_differs_a_spread_has_a_gradient_of_zero(call: Any) -> None:
    """A root at 0 is infinitely steep: one pixel alone would have said nan to all weights."""
    image = torch.ones_like(IMAGE).requires_grad_()
    mask = MASK.clone()
    mask[0] = torch.arange(48).view(6, 8) == 7
    out = call(cg.PixelGraph.from_image(image, mask=mask).tensor())
    (grad,) = torch.autograd.grad(out.sum(), image)
    assert not dense(out).any()
    assert not grad.count_nonzero()


@pytest.mark.filterwarnings("ignore:.*degrees of freedom")  # torch's own words
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("correction", [2, 3])
def test_by_what_a_correction_leaves_of_too_few_is_divided(correction: int, masked: bool) -> None:
    """Nothing is left, so what differs is infinite, as torch has it; it was divided by 1."""
    two = torch.arange(8) < 2
    x = IMAGE if masked else IMAGE[..., two]
    x = cg.PixelGraph.from_image(x, mask=two.expand(2, 6, 8) if masked else None).tensor()
    found, want = x.var(3, correction=correction), IMAGE[..., two].var(3, correction=correction)
    assert want.isinf().any()
    assert torch.equal(dense(found), want.nan_to_num(0, torch.inf))


@pytest.mark.parametrize("letters", ["bn,d->bdn", "bn,d->nbd", "bn,bn->bn"])
def test_letters_of_a_flattened_map_stay_on_its_nodes(letters: str) -> None:
    """Channels and pixels on one axis are none that a product on rows could name."""
    line, image = (
        one.flatten(1)
        for one in (cg.PixelGraph.from_image(IMAGE, mask=MASK).tensor(), IMAGE * MASK[:, None])
    )
    beside = torch.arange(3).double()
    got, want = (
        torch.einsum(letters, one, one if "," + letters[:2] in letters else beside)
        for one in (line, image)
    )
    assert isinstance(got, GraphTensor)
    assert torch.equal(got.to_dense(), want)


def test_a_list_is_not_read_off_a_map() -> None:
    """Its holes would be numbers of the list, and all that follow would lie elsewhere."""
    x = cg.PixelGraph.from_image(IMAGE, mask=MASK).tensor()
    for into, text in ((x, r"give it masked_select\(\)"), (IMAGE, "into an ordinary tensor")):
        with pytest.raises(ConversionError, match=text):
            into.masked_scatter(x > 0, x)


@pytest.mark.parametrize("name", ["median", "kthvalue", "mode", "topk"])
def test_what_is_ranked_hears_of_no_write_behind_it(name: str) -> None:
    """Nor does its backward, which had kept the rows that were written into."""
    found = []
    for writes in (False, True):
        torch.manual_seed(0)
        x = torch.randint(-9, 9, (2, 3, 4, 5)).double().requires_grad_()
        mask = torch.rand(2, 4, 5) > 0.3
        y = cg.PixelGraph.from_image(x, mask=mask).tensor() * 2
        how = (1, 2) if name in ("kthvalue", "topk") else (2,)
        best = getattr(y.flatten(2), name)(*how)[0]
        if writes:
            y[:, 0] = y[:, 0] * 2
        found.append((best.detach(), torch.autograd.grad(best.square().sum(), x)[0]))
    assert all(map(torch.equal, *found))
    assert bool(found[0][1].any())
