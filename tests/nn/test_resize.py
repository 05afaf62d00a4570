"""Resize on pixel graphs against torch's own, bit for bit where weights are dyadic."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import convgraph as cg
from convgraph.backends.dense import resize as dense_resize
from convgraph.functional import graph_resize
from convgraph.geometry import resize
from convgraph.geometry.resize import ResizeGeometry
from convgraph.nn import GraphUpsample
from tests.cases import BACKENDS, OFF_GRID, holes, integers
from tests.nn.resizes import NAMED, SIZE, agrees, dyadic, ours, torchs

# Bit for bit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("d", "how"), NAMED)
def test_a_grid_equals_torch(d: int, how: dict, backend: str, dtype: torch.dtype) -> None:
    assert agrees(integers(2, 3, *SIZE[d], dtype=dtype), how, backend)


@pytest.mark.parametrize("backend", OFF_GRID)
@pytest.mark.parametrize(("d", "how"), NAMED)
def test_a_mask_equals_torch_on_the_zero_filled_image(d: int, how: dict, backend: str) -> None:
    image, mask = integers(2, 3, *SIZE[d]), holes(2, SIZE[d])
    assert agrees(image, how, backend, mask)


@pytest.mark.parametrize("backend", OFF_GRID)
@pytest.mark.parametrize(("d", "how"), NAMED)
def test_output_sites_are_those_that_a_pixel_reaches(d: int, how: dict, backend: str) -> None:
    mask = holes(1, SIZE[d], keep=0.3)
    out = graph_resize(
        cg.PixelGraph.from_image(mask[:, None].double(), mask, d=d), **how, backend=backend
    )
    if how["mode"] == "bicubic":  # its weights have two signs and might cancel
        assert not F.interpolate(mask[:, None].double(), **how)[0, 0][~out.mask[0]].any()
    elif how.get("size") == SIZE[d]:
        assert torch.equal(out.mask, mask)
    else:
        assert torch.equal(out.mask[:, None], F.interpolate(mask[:, None].double(), **how) > 0)


@pytest.mark.parametrize("backend", OFF_GRID)
@pytest.mark.parametrize("how", dyadic(2))
def test_named_sites_are_the_output_sites(how: dict, backend: str) -> None:
    image, mask = integers(2, 3, *SIZE[2]), holes(2, SIZE[2])
    y, g, _ = torchs(image, how, mask)
    named = holes(2, tuple(y.shape[2:]))
    out, _ = ours(image, how, g, backend, mask, sites=named)
    assert torch.equal(out.mask, named)
    assert torch.equal(out.to_image(), torch.where(named.unsqueeze(1), y, 0))


@pytest.mark.parametrize("backend", OFF_GRID)
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("target", [{"scale_factor": 2.0}, {"size": (6, 4)}])
def test_a_ragged_batch_equals_its_images(mode: str, target: dict, backend: str) -> None:
    sizes = [(3, 4), (6, 4), (5, 2), (3, 4)]
    images = [integers(2, *size) for size in sizes]
    masks = [holes(1, size)[0] for size in sizes]
    batch = cg.PixelGraph.from_image(images, masks)
    singles = [
        graph_resize(cg.PixelGraph.from_image(i, m), **target, mode=mode, backend=backend)
        for i, m in zip(images, masks, strict=True)
    ]
    out = graph_resize(batch, **target, mode=mode, backend=backend)
    assert torch.equal(out.x, torch.cat([single.x for single in singles]))
    for got, single in zip(out.sites.mask_images(), singles, strict=True):
        assert torch.equal(got, single.mask)


def test_a_network_keeps_one_site_set_a_size() -> None:
    mask = holes(1, (4, 4), keep=0.4)
    graph = cg.PixelGraph.from_image(integers(1, 1, 4, 4), mask)
    down = graph_resize(graph, size=(2, 2), mode="bilinear", sites="network")
    up = graph_resize(down, size=(4, 4), mode="bilinear", sites="network")
    assert up.sites is graph.sites


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", OFF_GRID)
def test_half_types_round_once(backend: str, dtype: torch.dtype) -> None:
    image = torch.randn(2, 3, 5, 7).to(dtype)
    graph = cg.PixelGraph.from_image(image, holes(2, (5, 7)))
    layer = GraphUpsample(size=(7, 9), mode="bicubic", backend=backend)
    x = graph.x.clone().requires_grad_()
    wide = x.detach().float().requires_grad_()
    y, exact = layer(graph.with_x(x)).x, layer(graph.with_x(wide)).x
    assert torch.equal(y, exact.to(dtype))
    g = torch.randn_like(exact).to(dtype)
    y.backward(g)
    exact.backward(g.float())
    assert torch.equal(x.grad, wide.grad.to(dtype))


@pytest.mark.parametrize("backend", OFF_GRID)
def test_bytes_are_not_weighed(backend: str) -> None:
    """A weight of 1/2 was 0 among whole numbers; what is only copied stays an answer."""
    graph = cg.PixelGraph.from_image(integers(1, 2, 4, 4).abs().byte(), holes(1, (4, 4)))
    copied = graph_resize(graph, scale_factor=2, backend=backend)
    assert torch.equal(copied.to_image(), F.interpolate(graph.to_image(), scale_factor=2))
    with pytest.raises(cg.errors.DtypeError, match=r"weighed, got torch\.uint8"):
        graph_resize(graph, scale_factor=2, mode="bilinear", backend=backend)
    with pytest.raises(cg.errors.DtypeError, match=r"weighed, got torch\.uint8"):
        F.interpolate(graph.tensor(), scale_factor=2, mode="bicubic")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_runs_repeat_bit_for_bit(mode: str, backend: str) -> None:
    image, g = torch.randn(2, 3, 7, 5), torch.randn(2, 3, 11, 3)
    how = {"size": (11, 3), "mode": mode}
    first, second = (ours(image, how, g, backend) for _ in range(2))
    assert torch.equal(first[0].x, second[0].x)
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("how", [how for how in dyadic(2) if "nearest" not in how["mode"]])
def test_the_repeatable_backward_equals_torchs(how: dict) -> None:
    """On CUDA it takes torch's place; the sums are the same on any device, to any order."""
    image = integers(2, 3, *SIZE[2])
    y, g, grad = torchs(image, how)
    image.requires_grad_()
    edges = cg.connect(ResizeGeometry(**how, double=True), cg.Sites.full(2, SIZE[2]))
    out = dense_resize.repeatable(image, edges)
    assert torch.equal(out, y)
    g.requires_grad_()
    (got,) = torch.autograd.grad(out, image, g, create_graph=True)
    assert torch.equal(got, grad)
    direction = integers(*image.shape)
    (second,) = torch.autograd.grad(got, g, direction)
    assert torch.equal(second, F.interpolate(direction, **how))


@pytest.mark.gpu
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("d", "how"), NAMED)
def test_a_gpu_gives_the_same_and_repeats(d: int, how: dict, backend: str) -> None:
    image = integers(2, 3, *SIZE[d], dtype=torch.float32)
    y, g, grad = torchs(image, how)
    out, got = ours(image.cuda(), how, g.cuda(), backend)
    assert torch.equal(out.to_image().cpu(), y)
    assert torch.equal(got.cpu(), grad)
    noise, g = torch.randn_like(image).cuda(), torch.randn_like(g).cuda()
    (_, first), (_, second) = (ours(noise, how, g, backend) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # dynamo's
@pytest.mark.parametrize("mode", ["nearest", "bicubic"])
def test_compiles_as_one_graph(mode: str) -> None:
    image = integers(2, 3, 5, 9)
    for backend, mask in (("dense", None), ("gather", holes(2, (5, 9)))):
        graph = cg.PixelGraph.from_image(image, mask)
        layer = GraphUpsample(scale_factor=2, mode=mode, backend=backend)
        expected = layer(graph).x
        compiled = torch.compile(layer, fullgraph=True, backend="eager")
        assert torch.equal(compiled(graph).x, expected)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_nothing_resizes_to_nothing(mode: str) -> None:
    for image, mask in (
        (torch.ones(0, 2, 4, 4), None),
        (torch.ones(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.bool)),
    ):
        out = GraphUpsample(scale_factor=2, mode=mode)(cg.PixelGraph.from_image(image, mask))
        assert out.x.shape == (0, 2)
        assert out.to_image().shape == (len(image), 2, 8, 8)


# The layer and its twin


@pytest.mark.parametrize(
    "twin",
    [
        torch.nn.Upsample(scale_factor=2),
        torch.nn.Upsample((7, 9), mode="bilinear", align_corners=True),
        torch.nn.Upsample(scale_factor=(2, 3), mode="bicubic", recompute_scale_factor=True),
        torch.nn.UpsamplingNearest2d(scale_factor=2),
        torch.nn.UpsamplingBilinear2d((7, 9)),
    ],
)
def test_the_twin_and_back(twin: torch.nn.Upsample) -> None:
    twin.eval()
    layer = GraphUpsample.from_dense(twin)
    image = integers(1, 2, 4, 5)
    assert torch.equal(layer(cg.PixelGraph.from_image(image)).to_image(), twin(image))
    assert repr(layer).removeprefix("GraphUpsample") == repr(twin).removeprefix(type(twin).__name__)
    assert vars(layer.to_dense()).items() >= {"mode": twin.mode, "size": twin.size}.items()
    assert torch.equal(layer.to_dense()(image), twin(image))
    assert not layer.to_dense().training
    assert GraphUpsample.takes_graph


def test_the_repr_names_a_forced_backend() -> None:
    assert repr(GraphUpsample(4, backend="gather")) == (
        "GraphUpsample(size=4, mode='nearest', backend='gather')"
    )


# The comparison can fail


def shift(function):
    return lambda *a: np.clip(function(*a) - 1, 0, None)


def half_pixels(geometry, axis, size, out, real):
    """Ignore align_corners."""
    scale = geometry._kernel_scale(axis, size, out, real)
    r = np.maximum(scale * (np.arange(out).astype(real) + real(0.5)) - real(0.5), 0)
    first = np.floor(r).astype(np.int64)
    return first, r - first


def swapped(function):
    def faulty(*arguments):
        first, t = function(*arguments)
        return first, type(t.flat[0])(1) - t

    return faulty


@pytest.mark.parametrize(
    ("name", "fault", "how"),
    [
        ("_nearest", shift(resize._nearest), {"mode": "nearest", "size": (7, 7)}),
        ("CUBIC_A", -0.5, {"mode": "bicubic", "scale_factor": 2}),
        ("_position", swapped(resize._position), {"mode": "bilinear", "scale_factor": 2}),
        ("_position", half_pixels, {"mode": "bilinear", "size": (9, 17), "align_corners": True}),
    ],
)
def test_a_planted_fault_is_caught(
    name: str, fault: object, how: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = integers(1, 2, *SIZE[2])
    assert agrees(image, how, "gather")
    resize._axis.cache_clear()
    with monkeypatch.context() as planted:
        planted.setattr(resize, name, fault)
        # A forgotten full grid forgets its edges with it.
        fresh = torch.cat([image, image])
        caught = not agrees(fresh, how, "gather")
    resize._axis.cache_clear()
    assert caught


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ({"mode": "bilinear", "align_corners": True}, {"mode": "bilinear"}),
        ({"mode": "nearest"}, {"mode": "nearest-exact"}),
        ({"mode": "bilinear"}, {"mode": "bicubic"}),
    ],
)
def test_another_operator_is_caught(asked: dict, answered: dict) -> None:
    image = integers(1, 2, 5, 9)
    y, _, _ = torchs(image, {**asked, "size": (9, 17)})
    out = graph_resize(cg.PixelGraph.from_image(image), **answered, size=(9, 17))
    assert not torch.equal(out.to_image(), y)


def test_a_mask_that_is_ignored_is_caught() -> None:
    image, mask = integers(1, 2, 5, 9), holes(1, (5, 9))
    y, _, _ = torchs(image, {"scale_factor": 2, "mode": "bilinear"}, mask)
    out = graph_resize(cg.PixelGraph.from_image(image), scale_factor=2, mode="bilinear")
    assert not torch.equal(out.to_image(), y)
