"""The receptive field by k-hop reach is the support of the gradient: no pixel more or less."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import convgraph as cg
from convgraph.convert import receptive
from convgraph.convert.recording import record
from convgraph.errors import GraphError
from tests.convert.nets import build

SIZE = (33, 41)

TRIES = 300
"""Images whose supports are united at most: a maximum hears one of its pixels at a time."""

NAMES = ("residual", "depthwise", "unet", "next block", "dense", "moves", "pretrained", "norms")


def open_(name: str) -> Any:
    """A network in which nothing cancels and no unit is dead: small positive weights."""
    model = build(name)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" not in key or parameter.dim() > 1:
                spread = torch.rand_like(parameter) + 0.1
                fan = parameter[0].numel() if parameter.dim() > 1 else 1
                parameter.copy_(spread / fan)  # and no unit is saturated
    return model


def first_map(out: Any) -> cg.PixelGraph:
    leaves = pytree.tree_leaves(out, is_leaf=lambda one: isinstance(one, cg.PixelGraph))
    return next(one for one in leaves if isinstance(one, cg.PixelGraph))


def support(net: Any, pixel: tuple[int, ...], mask: Tensor | None, enough: Tensor) -> Tensor:
    """(H, W) bool: where the gradient of an output pixel is not 0, on some image.

    No more images are asked once all that is expected was found, or more than that.
    """
    found = torch.zeros(SIZE, dtype=torch.bool)
    for _ in range(TRIES):
        image = torch.rand(1, 2, *SIZE).double().requires_grad_()
        out = first_map(net(cg.PixelGraph.from_image(image, mask=mask)))
        here = (out.sites.pos == torch.tensor(pixel)).all(1)
        assert here.sum() == 1
        send = torch.rand(out.num_channels).double()  # no sum of channels that a norm makes 0
        (out.x[here] * send).sum().backward()
        found |= (image.grad != 0).any(1)[0]
        if not (enough & ~found).any():
            break
    return found


def middle_and_corner(net: Any, graph: cg.PixelGraph) -> list[tuple[int, ...]]:
    positions = first_map(net(graph)).sites.pos
    return [tuple(positions[k].tolist()) for k in (0, len(positions) // 2)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_reach_is_the_support_of_the_gradient(name: str, masked: bool) -> None:
    net = cg.to_graph(open_(name))
    mask = torch.rand(1, *SIZE) > 0.3 if masked else None
    graph = cg.PixelGraph.from_image(torch.rand(1, 2, *SIZE).double(), mask=mask)
    for pixel in middle_and_corner(net, graph):
        reach = cg.receptive_field(net, pixel, graph)
        heard = support(net, pixel, mask, reach.mask)
        assert torch.equal(reach.mask, heard), (reach.mask != heard).nonzero().tolist()
        if masked:
            assert not (reach.mask & ~mask[0]).any()
    assert reach.num_pixels > 1


def test_a_step_too_many_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk that takes every node for its neighbour hears more than the gradient says."""
    net = cg.to_graph(open_("residual"))
    graph = cg.PixelGraph.from_image(torch.rand(1, 2, *SIZE).double())
    reach = cg.receptive_field(net, (8, 9), graph).mask
    assert torch.equal(support(net, (8, 9), None, reach), reach)
    monkeypatch.setattr(
        receptive, "_same_place", lambda step, mine, value: mine.any().expand(len(value.x)).clone()
    )
    assert cg.receptive_field(net, (8, 9), graph).num_pixels > reach.sum()


def test_a_pixel_that_is_none() -> None:
    net = cg.to_graph(open_("residual"))
    mask = torch.ones(1, *SIZE, dtype=torch.bool)
    mask[:, :8, :8] = False
    graph = cg.PixelGraph.from_image(torch.rand(1, 2, *SIZE).double(), mask=mask)
    with pytest.raises(GraphError, match="is no site of the output, it is masked out"):
        cg.receptive_field(net, (0, 0), graph)
    with pytest.raises(GraphError, match="expected a pixel of the lattice"):
        cg.receptive_field(net, (99, 0), graph)


@pytest.mark.parametrize("changed", [False, True])
def test_an_unpool_of_maxima_is_exact_where_nobody_changed_them(changed: bool) -> None:
    """A maximum put back where it was is that pixel itself; otherwise a bound is said to be one."""

    class Indices(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pooled, where = torch.nn.functional.max_pool2d(self.conv(x), 2, return_indices=True)
            pooled = pooled * 2 if changed else pooled
            return torch.nn.functional.max_unpool2d(pooled, where, 2)

    net = Indices()
    found = cg.receptive_field(cg.to_graph(net, torch.rand(1, 2, 16, 16)), (8, 8))
    assert found.exact == (not changed)
    assert found.num_pixels == (16 if changed else 9)
    images = torch.rand(64, 2, 16, 16, requires_grad=True)
    net(images)[:, :, 8, 8].sum().backward()
    heard = (images.grad != 0).any(1).any(0)
    assert not (heard & ~found.mask).any()
    assert changed or torch.equal(heard, found.mask)


class Parts(torch.nn.Module):
    """A lower half, an upper one beside what it is a view of, and one that was written into."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.conv.weight.data.fill_(1.0)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        upper, lower = x.chunk(2, 2)
        written = x * 1
        written[:, :, :4].add_(1)
        return lower * 2, upper * 2 + self.conv(x)[:, :, :4], torch.cat(x.unbind(1)), written


@pytest.mark.parametrize("output", range(4))
def test_a_part_hears_what_it_is_a_part_of(output: int) -> None:
    """Each piece has moved in its own way; what was written into a part is known by a bound."""
    net, pixel = Parts(), (2, 3)
    graph = cg.PixelGraph.from_image(torch.ones(1, 1, 8, 8))
    found = cg.receptive_field(cg.to_graph(net), pixel, graph, output=output)
    image = torch.ones(1, 1, 8, 8, requires_grad=True)
    net(image)[output].view(-1, 8)[pixel].backward()
    heard = (image.grad != 0)[0, 0]
    assert found.exact == (output < 3)
    assert torch.equal(found.mask, heard) if found.exact else not (heard & ~found.mask).any()


def channel_by_channel(x: Tensor) -> Tensor:
    x[:, [0]] = x[:, [1]] * 2
    return x


def row_by_row(x: Tensor) -> Tensor:
    x[:, :, 2] = x[:, :, 5]
    return x


def scaled(x: Tensor) -> Tensor:
    x[:, :, 2].mul_(2)
    return x


WRITES: dict[str, Any] = {
    "a channel": channel_by_channel,
    "a channel filled": lambda x: x.index_fill(1, torch.tensor([0]), 0.0),
    "a channel copied": lambda x: x.index_copy(1, torch.tensor([0]), x[:, 1:] * 2),
    "a channel scattered": lambda x: torch.slice_scatter(x, x[:, 1:] * 2, 1, 0, 1),
    "a turned map": lambda x: x.index_add(1, torch.tensor([0]), x[:, 1:].mT),
    "a row": row_by_row,
    "a row scaled": scaled,
}


@pytest.mark.parametrize("name", WRITES)
def test_writes_into_channels_move_nothing(name: str) -> None:
    """What is written elsewhere is known by a bound, which says so, and holds what is heard."""

    class Written(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(1, 2, 3, padding=1)
            self.conv.weight.data.fill_(1.0)

        def forward(self, x: Tensor) -> Tensor:
            written: Tensor = WRITES[name](self.conv(x) * 1)
            return written

    image, pixel = torch.ones(1, 1, 8, 8, requires_grad=True), (2, 3)
    graph = cg.PixelGraph.from_image(image.detach())
    found = cg.receptive_field(cg.to_graph(Written()), pixel, graph)
    Written()(image)[0, :, 2, 3].sum().backward()
    assert image.grad is not None
    heard = (image.grad != 0)[0, 0]
    if "channel" in name:
        assert found.exact
        assert torch.equal(found.mask, heard)
    assert not (heard & ~found.mask).any()


def all_of_it(conv: Any, x: Tensor) -> Tensor:
    whole = x * 1
    view = whole[:, :, :4]
    whole.mul_(conv(x))
    return view * 2


def itself(conv: Any, x: Tensor) -> Tensor:
    whole = x * 1
    view = whole[:, :, :4]
    whole.mul_(conv(x))
    return view


def turned(conv: Any, x: Tensor) -> Tensor:
    whole = x * 1
    view = whole.mT
    whole[:, :, [3]] = conv(x)[:, :, [6]]
    return view * 2


def part_of_a_part(conv: Any, x: Tensor) -> Tensor:
    whole = x * 1
    view = whole[:, :, 1:7][:, :, :5]
    whole.mul_(conv(x))
    return view * 2


def another_part(conv: Any, x: Tensor) -> Tensor:
    whole = x * 1
    view, other = whole[:, :, :4], whole[:, :, 2:6]
    other.mul_(conv(x)[:, :, 2:6])
    return view * 2


def one_of_several(conv: Any, x: Tensor) -> Tensor:
    whole = x * 1
    _, view = whole.chunk(2, 2)
    whole.mul_(conv(x))
    return view * 2


def before(conv: Any, x: Tensor) -> Tensor:
    whole = x * 1
    view = whole[:, :, :4]
    read = view * 2
    whole.mul_(conv(x))
    return read


VIEWS = (all_of_it, itself, turned, part_of_a_part, another_part, one_of_several, before)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("call", VIEWS)
def test_a_view_hears_what_was_written_into_its_base(call: Any, masked: bool) -> None:
    """A view that is read after its whole was written says what was written."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3, padding=1).double()
            self.conv.weight.data.fill_(1.0)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = call(self.conv, x)
            return made

    mask, pixel = torch.rand(1, 8, 8) > 0.3, (3, 2)
    mask[:, :, 1:4] = True
    rows = torch.rand(int(mask.sum()) if masked else 64, 1).double() + 0.5
    blank = cg.PixelGraph.from_image(torch.zeros(1, 1, 8, 8), mask=mask if masked else None)
    graph = blank.with_x(rows.requires_grad_())
    found = cg.receptive_field(cg.to_graph(Net()), pixel, graph)
    Net()(graph.tensor())[0, 0, 3, 2].backward()
    assert rows.grad is not None
    heard = graph.with_x(rows.grad).to_image()[0, 0] != 0
    assert not (heard & ~found.mask).any()
    assert found.exact == (call not in (turned, another_part))
    assert not found.exact or torch.equal(found.mask, heard)


def test_a_view_from_before_a_recording_hears_what_is_written_during_it() -> None:
    x = cg.PixelGraph.from_image(torch.ones(1, 2, 4, 4))
    base = x.tensor() * 1
    view = base[..., :2]

    class Writes(nn.Module):
        def forward(self, x: Any) -> Any:
            base.add_(1)
            return x[..., :2] + view

    steps = record(Writes(), (x,), {}).steps
    assert [step.moved for step in steps if step.operator == "slice"][-1] == "all"


def attend(x: Tensor) -> Tensor:
    return (x @ x.mT).softmax(-1) @ x


def of_windows(x: Tensor) -> Tensor:
    cut = x.unflatten(3, (2, 4)).unflatten(2, (2, 4)).permute(0, 2, 4, 3, 5, 1)
    heard = attend(cut.flatten(3, 4).flatten(0, 2)).view(*cut.shape)
    return heard.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


PARTLY = {
    "means of rows": lambda x: x - x.mean(3, keepdim=True),
    "shares of rows": lambda x: x.softmax(3),
    "norms of rows": lambda x: F.layer_norm(x, (8,)),
    "attention within rows": lambda x: attend(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    "attention within windows": of_windows,
    "what came before": lambda x: x.cumsum(3),
    "tokens cut out again": lambda x: torch.cat([x.mean((2, 3))[..., None], x.flatten(2)], 2)[
        ..., 1:
    ].view(x.shape),
    "norms of images": lambda x: F.group_norm(x, 1),
    "attention": lambda x: attend(x.flatten(2).mT).mT.unflatten(2, (8, 8)),
    "means of images": lambda x: x * x.mean((2, 3), keepdim=True),
}


@pytest.mark.parametrize("name", PARTLY)
def test_who_hears_a_row_a_window_or_the_past_is_not_said_to_hear_all(name: str) -> None:
    """What is said to be exact is where the gradient is not 0."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1).double()

        def forward(self, x: Tensor, scale: float) -> Tensor:
            made: Tensor = PARTLY[name](self.conv(x)) * scale
            return made

    torch.manual_seed(0)
    net, image = Net(), torch.rand(1, 2, 8, 8).double().requires_grad_()
    graph = cg.PixelGraph.from_image(image.detach())
    found = cg.receptive_field(cg.to_graph(net), (2, 3), graph, scale=2.0)
    net(image, 2.0)[0, :, 2, 3].square().sum().backward()
    assert image.grad is not None
    heard = (image.grad != 0).any(1)[0]
    assert not (heard & ~found.mask).any()
    assert found.exact == bool(heard.all())
    assert torch.equal(found.mask, heard) == found.exact
    assert cg.summary(cg.to_graph(net), graph, scale=2.0).flops > 0
