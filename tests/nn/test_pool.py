"""Pools against torch, bit for bit on integers, and against fills with the identity on masks."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import convgraph as cg
from convgraph.functional import graph_avg_pool, graph_fold, graph_max_pool
from convgraph.proof import dot_bound

BACKENDS = ("dense", "gather", "messages")


def integers(*shape: int) -> Tensor:
    """Few values, so that ties are common; multiples of 216, which windows up to 3x3x3 divide."""
    return torch.randint(-3, 4, shape).double() * 216


@st.composite
def windows(draw: st.DrawFn) -> tuple[int, tuple[int, ...], dict[str, Any]]:
    d = draw(st.integers(1, 3))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(d))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    stride = draw(st.none() | st.tuples(*[st.integers(1, 4)] * d))
    options = {
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "ceil_mode": draw(st.booleans()),
    }
    size = tuple(draw(st.integers(1, 6)) for _ in range(d))
    return d, size, options


def make(kind: str, d: int, options: dict[str, Any]) -> torch.nn.Module:
    if kind == "AvgPool" and d == 1:
        options = {k: v[0] if isinstance(v, tuple) else v for k, v in options.items()}
    return getattr(torch.nn, f"{kind}{d}d")(**options)


def agree(dense: torch.nn.Module, d: int, image: Tensor, mask: Tensor | None, fill: float) -> None:
    """Every backend that serves gives torch's values and gradients, bit for bit."""
    kind = type(dense).__name__
    layer = getattr(cg.nn, f"Graph{kind}").from_dense(dense)
    one = image.clone().requires_grad_()
    seen = one if mask is None else torch.where(mask.unsqueeze(1), one, fill)
    try:
        expected = dense(seen)
    except RuntimeError as error:
        # torch's avg_pool3d wants the image to hold the kernel before it is padded; the equation
        # has no such wish, and only the full grid, which torch computes, inherits it.
        assume("smaller than kernel size" not in str(error))
        with pytest.raises((cg.errors.ConvgraphError, RuntimeError)):
            layer(cg.PixelGraph.from_image(image, mask, d=d))
        return
    for backend in BACKENDS:
        two = image.clone().requires_grad_()
        graph = cg.PixelGraph.from_image(two, mask, d=d)
        silent = not expected.isfinite().all()  # a window that hears nothing: torch says -inf
        if backend == "dense" and (silent or not layer.edges(graph).is_grid):
            with pytest.raises(cg.errors.BackendError, match="cannot serve"), cg.backend(backend):
                layer(graph)
            continue
        with cg.backend(backend):
            found = layer(graph)
        sites = torch.stack(found.sites.mask_images()).unsqueeze(1)
        truth = torch.where(sites & expected.isfinite(), expected, 0)
        assert torch.equal(found.to_image(), truth), backend
        g = torch.randint(-3, 4, truth.shape).double() * 216
        live = torch.where(sites & expected.isfinite(), g, 0)
        (left,) = torch.autograd.grad(expected, one, live, retain_graph=True)
        (right,) = torch.autograd.grad(found.to_image(), two, g)
        assert torch.equal(right, left), backend


@settings(max_examples=60)
@given(windows(), st.booleans(), st.integers(1, 2), st.integers(0, 2**32))
def test_max_pools(window: Any, masked: bool, dilation: int, seed: int) -> None:
    torch.manual_seed(seed)
    d, size, options = window
    mask = torch.rand(2, *size) > 0.5 if masked else None
    try:
        dense = make("MaxPool", d, {**options, "dilation": dilation})
        agree(dense, d, integers(2, 3, *size), mask, -torch.inf)
    except cg.errors.GeometryError:
        with pytest.raises(RuntimeError):
            dense(integers(2, 3, *size))


@settings(max_examples=60)
@given(windows(), st.booleans(), st.booleans(), st.sampled_from([None, 3]), st.integers(0, 2**32))
def test_average_pools(
    window: Any, masked: bool, include: bool, divisor: int | None, seed: int
) -> None:
    torch.manual_seed(seed)
    d, size, options = window
    options = {**options, "count_include_pad": include}
    if d > 1:
        options["divisor_override"] = divisor
    mask = torch.rand(2, *size) > 0.5 if masked else None
    # Without padding in the count, the divisor of a mask is the number of messages: see below.
    assume(mask is None or include or (d > 1 and divisor is not None))
    agree(make("AvgPool", d, options), d, integers(2, 3, *size), mask, 0.0)


def test_holes_inside_a_window_do_not_count() -> None:
    mask = torch.tensor([[[True, False], [True, True]]])
    graph = cg.PixelGraph.from_image(torch.tensor([[[[1.0, 100.0], [3.0, 5.0]]]]), mask)
    for backend in ("gather", "messages"):
        counted = cg.nn.GraphAvgPool2d(2, count_include_pad=False, backend=backend)(graph)
        assert counted.x.tolist() == [[3.0]]
        assert cg.nn.GraphAvgPool2d(2, backend=backend)(graph).x.tolist() == [[2.25]]


@settings(max_examples=40)
@given(st.data())
def test_adaptive_pools(data: st.DataObject) -> None:
    d = data.draw(st.integers(1, 3))
    size = tuple(data.draw(st.integers(1, 6)) for _ in range(d))
    asked = tuple(
        data.draw(st.integers(1, 5) | (st.none() if d > 1 else st.nothing())) for _ in size
    )
    output = asked[0] if d == 1 else asked
    torch.manual_seed(data.draw(st.integers(0, 2**32)))
    mask = torch.rand(2, *size) > 0.5 if data.draw(st.booleans()) else None
    agree(
        make("AdaptiveMaxPool", d, {"output_size": output}),
        d,
        integers(2, 3, *size),
        mask,
        -torch.inf,
    )
    dense = make("AdaptiveAvgPool", d, {"output_size": output})
    layer = getattr(cg.nn, f"GraphAdaptiveAvgPool{d}d").from_dense(dense)
    image = integers(2, 3, *size) * 7 * 11 * 13
    graph = cg.PixelGraph.from_image(image, mask, d=d)
    weight = torch.ones_like(image) if mask is None else mask.unsqueeze(1).expand_as(image).double()
    # A mean is a sum over a count; both are adaptive averages times the same window. The window
    # sums below are exact integers; dividing them rounds once, and torch's two averages twice.
    total, count = dense(image * weight), dense(weight)
    for backend in BACKENDS:
        if backend == "dense" and not layer.edges(graph).is_grid:
            continue
        with cg.backend(backend):
            found = layer(graph)
        sites = torch.stack(found.sites.mask_images()).unsqueeze(1)
        truth = torch.where(sites & (count > 0), total / count.clamp(min=1e-300), 0)
        n = image[0, 0].numel() + 3
        scale = image.abs().max() * torch.ones_like(truth)
        assert (
            (found.to_image() - truth).abs() <= torch.as_tensor(dot_bound(n, torch.float64, scale))
        ).all()


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_lp_pools(d: int, norm_type: float, ceil_mode: bool) -> None:
    """The same composition of the same sums: on a full grid bit for bit, else within n u."""
    dense = getattr(torch.nn, f"LPPool{d}d")(norm_type, 2, 3, ceil_mode)
    layer = getattr(cg.nn, f"GraphLPPool{d}d").from_dense(dense)
    size = (6, 5, 4)[:d]
    one = torch.rand(2, 3, *size).double().requires_grad_()
    two = one.detach().clone().requires_grad_()
    expected = dense(one.movedim(1, -1).contiguous().movedim(-1, 1))
    found = layer(cg.PixelGraph.from_image(two, d=d)).to_image()
    assert torch.equal(found, expected)
    (left,) = torch.autograd.grad(expected.sum(), one)
    (right,) = torch.autograd.grad(found.sum(), two)
    assert torch.equal(left, right)
    mask = torch.rand(2, *size) > 0.4
    graph = cg.PixelGraph.from_image(one.detach(), mask, d=d)
    truth = dense(torch.where(mask.unsqueeze(1), one.detach(), 0))
    for backend in ("gather", "messages"):
        with cg.backend(backend):
            masked = layer(graph)
        sites = torch.stack(masked.sites.mask_images()).unsqueeze(1)
        gap = (masked.to_image() - torch.where(sites, truth, 0)).abs()
        # Sums of 2^d positive terms, then a product and a root that do not magnify the error.
        assert (gap <= torch.as_tensor(2 * dot_bound(2**d + 8, torch.float64, truth))).all()


def test_global_pools() -> None:
    image = integers(3, 4, 5, 6)
    mask = torch.rand(3, 5, 6) > 0.5
    mask[2] = False
    full, holes = cg.PixelGraph.from_image(image), cg.PixelGraph.from_image(image, mask)
    assert torch.equal(cg.nn.GraphGlobalSumPool()(full).x, image.sum((2, 3)))
    assert torch.equal(cg.nn.GraphGlobalMaxPool()(full).x, image.amax((2, 3)))
    last = image.contiguous(memory_format=torch.channels_last)
    mean = torch.nn.AdaptiveAvgPool2d(1)(last)[..., 0, 0]
    assert torch.equal(cg.nn.GraphGlobalAvgPool()(full).x, mean)
    seen = torch.where(mask.unsqueeze(1), image, 0)
    assert torch.equal(cg.nn.GraphGlobalSumPool()(holes).x, seen.sum((2, 3)))
    lowest = torch.where(mask.unsqueeze(1), image, -torch.inf).amax((2, 3))
    assert torch.equal(
        cg.nn.GraphGlobalMaxPool()(holes).x, torch.where(lowest.isfinite(), lowest, 0)
    )
    count = mask.sum((1, 2)).clamp(min=1).unsqueeze(1)
    assert torch.equal(cg.nn.GraphGlobalAvgPool()(holes).x, seen.sum((2, 3)) / count)


def test_ties_give_the_gradient_to_the_first() -> None:
    for backend in BACKENDS:
        x = torch.zeros(1, 1, 4, 4, requires_grad=True)
        with cg.backend(backend):
            cg.nn.GraphMaxPool2d(2)(cg.PixelGraph.from_image(x)).x.sum().backward()
        assert x.grad is not None
        assert x.grad[0, 0].tolist() == [[1, 0, 1, 0], [0] * 4, [1, 0, 1, 0], [0] * 4]
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    cg.nn.GraphGlobalMaxPool()(cg.PixelGraph.from_image(x)).x.sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_the_largest_of_whole_numbers(backend: str, dtype: torch.dtype) -> None:
    """They know no infinity that would be less than all of them."""
    image, mask = integers(2, 3, 6, 6).to(dtype), torch.rand(2, 6, 6) > 0.5
    graph = cg.PixelGraph.from_image(image, mask)
    layer = cg.nn.GraphMaxPool2d(2, backend=backend)
    assert torch.equal(layer(graph).x, layer(graph.with_x(graph.x.double())).x.to(dtype))


@pytest.mark.parametrize("masked", [False, True])
def test_sums_of_whole_numbers_do_not_wrap(masked: bool) -> None:
    """On a mask the mean of 250, 251 and 252 was 80, in uint8; on a full grid torch refuses it."""
    mask = torch.tensor([[True, True], [True, False]]) if masked else None
    seen = torch.tensor([[[[250, 251], [252, 0]]]])
    graph = cg.PixelGraph.from_image(seen, mask)
    small = graph.to(torch.uint8)
    edges = cg.TypedEdges(torch.tensor([[0, 1], [0, 0]]), torch.tensor([0, 1]), None, (3, 1))
    for run in (
        cg.nn.GraphAvgPool2d(2), cg.nn.GraphAvgPool2d(2, backend="gather"),
        cg.nn.GraphLPPool2d(1, 2), cg.nn.GraphAdaptiveAvgPool2d(1), cg.nn.GraphGlobalAvgPool(),
        lambda graph: graph_fold(graph, (3, 2), 1, stride=(2, 1)),
        lambda graph: cg.functional.typed_resize(graph.x[:3], edges),
        lambda graph: cg.functional.typed_avg_pool(graph.x[:3], edges),
    ):  # fmt: skip
        with pytest.raises(cg.errors.DtypeError, match=r"got torch\.uint8; convert the graph"):
            run(small)
    for run in (cg.nn.GraphAdaptiveAvgPool2d(1), cg.nn.GraphGlobalAvgPool()):
        with pytest.raises(cg.errors.DtypeError, match="expected features of a floating dtype,"):
            run(graph)
    assert cg.nn.GraphAvgPool2d(2)(graph).x.item() == 753 // 4
    assert cg.nn.GraphGlobalSumPool()(small).x.item() == 753


def test_nan_is_louder_than_anything() -> None:
    image = torch.tensor([[[1.0, torch.nan], [3.0, 4.0]]])
    for backend in BACKENDS:
        with cg.backend(backend):
            pooled, where = cg.nn.GraphMaxPool2d(2, return_indices=True)(
                cg.PixelGraph.from_image(image)
            )
        assert pooled.x.isnan().all()
        assert where.tolist() == [[1]]


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("backend", BACKENDS)
def test_indices_and_unpooling(d: int, backend: str) -> None:
    size = (6, 4, 4)[:d]
    image = torch.randperm(2 * 3 * 6 * 16)[: 2 * 3 * torch.Size(size).numel()].view(2, 3, *size)
    one = image.double().requires_grad_()
    two = image.double().requires_grad_()
    pooled, where = getattr(torch.nn, f"MaxPool{d}d")(2, return_indices=True)(one)
    with cg.backend(backend):
        small, index = getattr(cg.nn, f"GraphMaxPool{d}d")(2, return_indices=True)(
            cg.PixelGraph.from_image(two, d=d)
        )
    assert torch.equal(small.with_x(index.double()).to_image(), where.double())
    back = getattr(torch.nn, f"MaxUnpool{d}d")(2)(pooled, where)
    found = getattr(cg.nn, f"GraphMaxUnpool{d}d")(2)(small, index)
    assert torch.equal(found.to_image(), back)
    g = torch.rand_like(back)
    (left,) = torch.autograd.grad(back, one, g)
    (right,) = torch.autograd.grad(found.to_image(), two, g)
    assert torch.equal(left, right)


def test_unpooling_on_a_mask_and_to_another_size() -> None:
    mask = torch.rand(2, 5, 7) > 0.4
    graph = cg.PixelGraph.from_image(torch.rand(2, 3, 5, 7) + 1, mask)
    pooled, where = cg.nn.GraphMaxPool2d(2, ceil_mode=True, return_indices=True)(graph)
    back = cg.nn.GraphMaxUnpool2d(2)(pooled, where, output_size=(5, 7), sites=graph)
    assert back.sites is graph.sites
    kept = back.x != 0
    assert torch.equal(back.x[kept], graph.x[kept])
    assert kept.sum() == (where >= 0).sum()
    with pytest.raises(cg.errors.GeometryError, match="expected output_size within 1 pixels"):
        cg.nn.GraphMaxUnpool2d(2)(pooled, where, output_size=(9, 9))
    with pytest.raises(cg.errors.ShapeError, match="expected indices of shape"):
        cg.nn.GraphMaxUnpool2d(2)(pooled, where[:, :1])
    with pytest.raises(cg.errors.ShapeError, match="lies outside"):
        cg.nn.GraphMaxUnpool2d(2)(pooled, where + 1000)


LAYERS: list[Callable[[], torch.nn.Module]] = [
    lambda: torch.nn.MaxPool2d(3, 2, 1),
    lambda: torch.nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    lambda: torch.nn.AdaptiveAvgPool2d((2, None)),
    lambda: torch.nn.AdaptiveMaxPool2d(3),
    lambda: torch.nn.LPPool2d(2, 2),
]


@pytest.mark.parametrize("build", LAYERS)
@pytest.mark.parametrize("backend", [None, "gather", "messages"])
def test_a_ragged_batch_equals_its_images(build: Any, backend: str | None) -> None:
    dense = build()
    layer = getattr(cg.nn, f"Graph{type(dense).__name__}").from_dense(dense)
    layer.backend = backend
    images = [integers(2, 5, 6).abs(), integers(2, 7, 4).abs()]
    both = layer(cg.PixelGraph.from_image(images)).to_images()
    for image, found in zip(images, both, strict=True):
        alone = dense(image)
        gap = (found - alone).abs()
        assert (gap <= torch.as_tensor(2 * dot_bound(60, torch.float64, alone.abs()))).all()


@pytest.mark.parametrize("build", LAYERS)
def test_twins_and_looks(build: Any) -> None:
    dense = build()
    layer = getattr(cg.nn, f"Graph{type(dense).__name__}").from_dense(dense)
    assert repr(layer.to_dense()) == repr(dense)
    assert repr(layer) == f"Graph{dense!r}"
    graph = cg.PixelGraph.from_image(torch.rand(1, 2, 8, 8))
    assert cg.explain(layer, graph).backend == "dense"
    nobody = cg.PixelGraph.from_image(torch.rand(2, 2, 8, 8), torch.zeros(8, 8, dtype=torch.bool))
    assert layer(nobody).x.shape == (0, 2)
    assert layer(cg.PixelGraph.from_image(torch.rand(0, 2, 8, 8))).x.shape == (0, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_of_volumes(dtype: torch.dtype) -> None:
    """On the CPU no average pool of torch's for volumes knows any of them."""
    graph = cg.PixelGraph.from_image(torch.rand(1, 2, 4, 4, 4).to(dtype), d=3)
    layer = cg.nn.GraphAvgPool3d(2)
    assert torch.equal(layer(graph).x, layer(graph.to(torch.float32)).x.to(dtype))
    assert torch.equal(F.avg_pool3d(graph.tensor(), 2).graph.x, layer(graph).x)


def test_half_sums_are_accumulated_in_float32() -> None:
    image = (torch.rand(1, 1, 64, 64) + 1).half()
    mask = torch.ones(1, 64, 64, dtype=torch.bool)
    mask[0, 0, 0] = False
    graph = cg.PixelGraph.from_image(image, mask)
    for layer in (cg.nn.GraphAvgPool2d(32), cg.nn.GraphGlobalSumPool(), cg.nn.GraphGlobalAvgPool()):
        assert torch.equal(layer(graph).x, layer(graph.to(torch.float32)).x.half())


def test_bad_input_has_its_own_error() -> None:
    with pytest.raises(cg.errors.GeometryError, match="at most half the window, 1 of 2"):
        cg.nn.GraphMaxPool2d(2, padding=2)
    with pytest.raises(cg.errors.GeometryError, match="expected divisor_override other than 0"):
        cg.nn.GraphAvgPool2d(2, divisor_override=0)(cg.PixelGraph.from_image(torch.rand(1, 4, 4)))
    with pytest.raises(cg.errors.GeometryError, match="output_size: expected at least 1"):
        cg.nn.GraphAdaptiveAvgPool2d(0)
    with pytest.raises(cg.errors.GraphError, match="expected a PixelGraph, got Tensor"):
        cg.nn.GraphMaxPool2d(2)(torch.rand(1, 1, 4, 4))
    with pytest.raises(TypeError, match="takes no divisor_override"):
        cg.nn.GraphAvgPool1d(2, divisor_override=3)
    with pytest.raises(cg.errors.ConversionError, match=r"expected a torch\.nn\.MaxPool2d"):
        cg.nn.GraphMaxPool2d.from_dense(torch.nn.AvgPool2d(2))


def test_a_planted_fault_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A maximum that takes the last of equals agrees in value and differs in gradient."""
    from convgraph.backends.gather import maxima

    real = maxima.by_tap

    def last(x: Tensor, edges: Any) -> Tensor:
        """Of equals the last: ask for the first of the same windows read backwards."""
        n = len(x) - 1
        return n - real(x.flip(0), edges).flip(0)

    image = torch.zeros(1, 1, 4, 4).double()
    agree(torch.nn.MaxPool2d(2), 2, image, None, -torch.inf)
    monkeypatch.setattr(maxima, "by_tap", last)
    with pytest.raises(AssertionError, match="gather"):
        agree(torch.nn.MaxPool2d(2), 2, image, None, -torch.inf)


@pytest.mark.parametrize(
    "geometry",
    [
        cg.KernelGeometry(2, dilation=2),
        cg.KernelGeometry((4, 3), 2, ((2, 2), (1, 1)), (2, 1)),
        cg.KernelGeometry(3, padding=1, padding_mode="circular"),
        cg.KernelGeometry(3, 2, 1, padding_mode=("reflect", "zeros")),
        cg.KernelGeometry(3, padding=((1, 0), (0, 1))),
    ],
)
@pytest.mark.parametrize("backend", [None, "gather", "messages"])
def test_windows_that_torchs_pools_do_not_have(
    geometry: cg.KernelGeometry, backend: str | None
) -> None:
    """On a full grid torch's pools were asked all the same, without the mode or the second pad."""
    image = integers(2, 3, 6, 7)
    total, largest = image, image
    for axis, (pads, mode) in enumerate(zip(geometry.padding, geometry.modes, strict=True)):
        pad = [*pads, 0, 0] if axis else [0, 0, *pads]
        how = "constant" if mode == "zeros" else mode
        total = F.pad(total, pad, how)
        largest = F.pad(largest, pad, how, -torch.inf if mode == "zeros" else None)
    ones = torch.ones(3, 1, *geometry.kernel_size).double()
    total = F.conv2d(total, ones, None, geometry.stride, 0, geometry.dilation, 3)
    largest = F.max_pool2d(largest, geometry.kernel_size, geometry.stride, 0, geometry.dilation)
    graph = cg.PixelGraph.from_image(image)
    mean = graph_avg_pool(graph, geometry, backend=backend).to_image()
    assert torch.equal(mean, total / geometry.num_taps)
    assert torch.equal(graph_max_pool(graph, geometry, backend=backend)[0].to_image(), largest)


def test_a_dilated_window_is_cut_off_where_its_taps_lie() -> None:
    """The last window overhangs the image by one of its two taps, which counts as no pad does."""
    image = torch.arange(4.0).view(1, 1, 4)
    geometry = cg.KernelGeometry(2, 2, dilation=2, ceil_mode=True, d=1)
    for backend in (None, "gather", "messages"):
        graph = cg.PixelGraph.from_image(image, d=1)
        assert graph_avg_pool(graph, geometry, backend=backend).x.flatten().tolist() == [1.0, 2.0]
