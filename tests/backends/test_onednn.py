"""What stands in for torch's convolution is the same function, and stands only where it must."""

from typing import Any

import pytest
import torch

import convgraph as cg
from convgraph.backends import onednn
from convgraph.backends.edge_count import count_edges
from convgraph.graph.edges import connect

CPU = torch.device("cpu")
Ints = tuple[int, ...]

STANDS_IN: dict[str, tuple[Any, tuple[Ints, ...], Ints, int]] = {
    # name: (stand-in, (size, kernel, stride, padding, dilation), channels, groups)
    "silent": (onednn._silent, ((7, 1), (1, 1), (1, 3), (4, 2), (1, 3)), (2, 3), 1),
    "silent 1d": (onednn._silent, ((1,), (2,), (4,), (3,), (5,)), (4, 6), 2),
    "sliced": (onednn._sliced, ((5, 6), (1, 1), (2, 3), (0, 0), (1, 1)), (3, 4), 1),
    "sliced groups": (onednn._sliced, ((5, 6), (1, 1), (1, 2), (0, 0), (1, 1)), (4, 6), 2),
    "sliced wide": (onednn._sliced, ((5, 6), (1, 1), (2, 2), (0, 0), (1, 1)), (16, 3), 1),
    "sliced 3d": (onednn._sliced, ((3, 4, 5), (1, 1, 1), (2, 1, 2), (0,) * 3, (1,) * 3), (2, 3), 1),
    "planar": (onednn._planar, ((9, 4), (3, 3), (1, 2), (1, 0), (1, 1)), (1, 4), 1),
    "planar depthwise": (onednn._planar, ((9, 4), (3, 3), (1, 2), (1, 0), (1, 1)), (3, 3), 3),
    "deep": (onednn._ordinary, ((3, 2, 5), (7, 2, 1), (3, 2, 4), (6, 0, 0), (1,) * 3), (6, 3), 3),
    "deep beside": (
        onednn._ordinary, ((4, 7, 4), (5, 3, 3), (2, 2, 3), (3, 0, 1), (1,) * 3), (8, 8), 8
    ),
    "planar of none": (onednn._planar, ((9, 4), (3, 3), (1, 2), (1, 0), (1, 1)), (4, 4), 2),
}  # fmt: skip


def whole(*shape: int) -> torch.Tensor:
    return torch.randint(-3, 4, shape).double().requires_grad_()


@pytest.mark.parametrize("name", STANDS_IN)
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_same_function_to_the_second_derivative(name: str, bias: bool) -> None:
    """In float64, which oneDNN does not serve; bit for bit on integers."""
    run, (size, kernel, *plain), (c, out), groups = STANDS_IN[name]
    torch.manual_seed(0)
    given = [whole(2, *size, c), whole(out, c // groups, *kernel)]
    given += [whole(out)] if bias else []

    def answers(conv: Any) -> list[torch.Tensor]:
        x, w, b = (*given, None)[:3]
        y = conv(x.movedim(-1, 1), w, b, *plain, groups)
        torch.manual_seed(1)
        first = torch.autograd.grad(
            y, given, torch.randint(-3, 4, y.shape).double(), create_graph=True
        )
        total = sum((g * torch.randint(-3, 4, g.shape)).sum() for g in first)
        second = torch.autograd.grad(total, given[:2], allow_unused=True, materialize_grads=True)
        return [y, *first, *second]

    if onednn.errs(name.split()[0]):
        assert onednn.convolution(size, kernel, *plain, CPU) is run
    for one, two in zip(answers(run), answers(onednn.CONV[len(size)]), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("extra", [(0, 0), (1, 2), (3, 0)])
def test_a_transposed_point_is_the_same_function(extra: Ints, groups: int) -> None:
    torch.manual_seed(0)
    given = [whole(2, 3, 5, 4), whole(4, 3, 1, 1), whole(3 * groups)]

    def answers(spaced: bool) -> list[torch.Tensor]:
        x, w, b = given
        x = x.movedim(-1, 1)
        if spaced:
            y = onednn.spaced(x, w, b, (2, 3), extra, groups)
        else:
            more = torch.nn.functional.conv_transpose2d
            y = more(x, w, b, (2, 3), 0, extra, groups, dilation=4)
        torch.manual_seed(1)
        return [y, *torch.autograd.grad(y, given, torch.randint(-3, 4, y.shape).double())]

    assert onednn.errs_transposed((1, 1), (2, 3), (0, 0), 3) is onednn.errs("sliced")
    for one, two in zip(answers(True), answers(False), strict=True):
        assert torch.equal(one, two)


def test_nothing_stands_in_where_nothing_errs() -> None:
    fine = [
        ((9, 9), (3, 3), (1, 1), (1, 1), (1, 1)),
        ((9, 9), (3, 3), (2, 2), (1, 1), (1, 1)),
        ((9, 9), (1, 1), (1, 1), (0, 0), (1, 1)),
        ((9, 9), (1, 1), (2, 2), (1, 1), (1, 1)),
        ((9, 3), (3, 3), (1, 1), (0, 0), (1, 1)),
        ((2, 2), (3, 3), (1, 1), (6, 6), (1, 1)),
        ((5, 9, 9), (3, 7, 7), (1, 2, 2), (1, 3, 3), (1, 1, 1)),
        ((5, 9, 9), (7, 3, 3), (3, 1, 1), (3, 1, 1), (1, 1, 1)),
    ]
    assert all(onednn.convolution(*g, CPU) is onednn.CONV[len(g[0])] for g in fine)
    assert onednn.convolution((7, 1), (1, 1), (1, 3), (4, 2), (1, 3), torch.device("meta")) is (
        torch.conv2d
    )


def test_a_fault_that_is_mended_has_no_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in onednn.MENDED:
        monkeypatch.setitem(onednn.MENDED, name, onednn._ONEDNN)
    for _, geometry, _, _ in STANDS_IN.values():
        assert onednn.convolution(*geometry, CPU) is onednn.CONV[len(geometry[0])]


@pytest.mark.parametrize("name", ["silent", "sliced"])
def test_what_does_not_fit_is_refused_as_elsewhere(name: str) -> None:
    _, (size, kernel, stride, padding, dilation), (c, out), _ = STANDS_IN[name]
    layer = cg.nn.GraphConv2d(c, out, kernel, stride, padding, dilation)
    for wrong, text in ((c + 1, "in_channels"), (c, "dtype")):
        image = torch.ones(1, wrong, *size, dtype=torch.float64 if wrong == c else torch.float32)
        with pytest.raises(cg.errors.ConvgraphError, match=text):
            layer(cg.PixelGraph.from_image(image))


@pytest.mark.skipif(not onednn.errs("sliced"), reason="this torch needs no stand-in")
@pytest.mark.parametrize("learns", ["weight", "bias", "both", "neither"])
def test_the_gradient_of_a_bias_meets_the_fault_too(learns: str) -> None:
    """One kernel of oneDNN sums both: a frozen weight whose bias learns died of it."""
    weight = torch.ones(3, 2, 1, 1, requires_grad=learns in ("weight", "both"))
    bias = torch.ones(3, requires_grad=learns in ("bias", "both"))
    image = torch.ones(2, 2, 6, 6, requires_grad=True)
    made = onednn._sliced(image, weight, bias, (2, 2), (0, 0), (1, 1), 1).grad_fn
    assert made is not None
    assert (made.name() == "ConvolutionBackward0") is (learns == "neither")


@pytest.mark.skipif(not onednn.errs("sliced"), reason="this torch needs no stand-in")
def test_one_small_image_is_for_torchs_own_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where torch says that oneDNN is not asked; not where the image may be one of many."""
    weight = torch.ones(3, 2, 1, 1, requires_grad=True)
    rest = (weight, None, (2, 2), (0, 0), (1, 1), 1)

    def own(*shape: int) -> bool:
        made = onednn._sliced(torch.ones(shape), *rest).grad_fn
        assert made is not None
        return made.name() == "ConvolutionBackward0"

    onednn._passed_by.cache_clear()
    enabled = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.set_flags(False)
    try:
        assert not own(1, 2, 6, 6)  # it may be enabled by the backward
    finally:
        torch.backends.mkldnn.set_flags(enabled)
    onednn._passed_by.cache_clear()
    asked = torch._C._select_conv_backend
    for shape in ((1, 2, 6, 6), (2, 2, 6, 6), (1, 2, 120, 120)):
        torchs = asked(torch.ones(shape), weight, None, (2, 2), (0, 0), (1, 1), False, (0, 0), 1)
        assert own(*shape) is (shape[0] == 1 and "Mkldnn" not in str(torchs))
    monkeypatch.setitem(onednn.CONV, 2, lambda *_: pytest.fail("torch's own was called"))
    made = torch.func.vmap(lambda image: onednn._sliced(image, *rest))(torch.ones(4, 1, 2, 6, 6))
    assert torch.equal(made, torch.full((4, 1, 3, 3, 3), 2.0))


@pytest.mark.parametrize("name", STANDS_IN)
def test_a_compiler_takes_it(name: str) -> None:
    run, (size, kernel, *plain), (c, out), groups = STANDS_IN[name]
    made = torch.compile(run, backend="aot_eager", fullgraph=True)
    x, w, b = whole(2, *size, c), whole(out, c // groups, *kernel), whole(out)
    image = x.detach().movedim(-1, 1)
    assert torch.equal(made(image, w, b, *plain, groups), run(image, w, b, *plain, groups))


GEOMETRIES = [
    cg.KernelGeometry(3, stride=(1, 2), padding=(1, 0)),
    cg.KernelGeometry((2, 3), stride=2, padding=((1, 0), (2, 3)), dilation=(1, 2)),
    cg.KernelGeometry(3, padding=2, padding_mode="reflect"),
    cg.KernelGeometry(3, padding=2, padding_mode="circular"),
    cg.KernelGeometry(3, padding=2, padding_mode="replicate"),
    cg.KernelGeometry(3, stride=2, padding=1, output_padding=1, transposed=True),
    cg.KernelGeometry(2, stride=3, padding=5),
    cg.KernelGeometry(3, padding=1, footprint="cross"),
    cg.KernelGeometry(
        (2, 3), stride=(1, 2), padding=1, footprint=((False, True, False), (False, False, True))
    ),
    cg.KernelGeometry(1),
]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_edges_are_counted_in_integers(geometry: cg.KernelGeometry, share: float) -> None:
    """With free memory full of NaN: the count once came from a convolution that read it."""
    torch.manual_seed(0)
    for size in ((9, 4), (3, 5), (7, 7)):
        sites = cg.PixelGraph.from_image(torch.ones(2, 1, *size), torch.rand(2, *size) < share)
        held = [torch.full((n,), torch.nan) for n in (72, 288, 600, 2000) * 4]
        del held
        edges = connect(geometry, sites)
        assert count_edges(edges) == edges.num_edges
