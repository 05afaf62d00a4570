"""The same on a GPU: nodes, edges, layers, proofs; bit for bit on integers, and without waiting.

Each test that can also runs on the CPU, so that a mistake of the test itself shows without a GPU.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import convgraph as cg
from convgraph.proof import precision
from tests.cases import BACKENDS, OFF_GRID, holes, integer_weights, integers

nn = cg.nn

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
each_device = pytest.mark.parametrize("device", DEVICES)


@pytest.fixture(autouse=True)
def _ieee(request: pytest.FixtureRequest) -> Iterator[None]:
    """Integers are exact in float32 only where products are."""
    callspec = getattr(request.node, "callspec", None)
    with precision.ieee_float32(
        "cuda" if callspec is None else callspec.params.get("device", "cuda")
    ):
        yield


def there_and_here(
    layer: torch.nn.Module, graph: cg.PixelGraph, device: str
) -> tuple[list[Tensor], list[Tensor]]:
    """Values and all gradients on the device and on the CPU."""
    found = []
    for where in (device, "cpu"):
        moved = layer.to(where)
        x = graph.x.detach().to(where).requires_grad_()
        y = moved(cg.PixelGraph(x, graph.sites.to(where))).x
        g = torch.arange(y.numel(), device=where, dtype=y.dtype).view_as(y) % 7 - 3
        leaves = [x, *moved.parameters()]
        found.append([y, *torch.autograd.grad(y, leaves, g)])
    return [t.detach().cpu() for t in found[0]], [t.detach() for t in found[1]]


@each_device
def test_images_become_nodes_where_they_are(device: str) -> None:
    image = torch.rand(2, 3, 6, 7, device=device).to(memory_format=torch.channels_last)
    graph = cg.PixelGraph.from_image(image)
    assert graph.device.type == graph.sites.device.type == device
    assert graph.x.data_ptr() == image.data_ptr() == graph.to_image().data_ptr()
    mask = holes(2, (6, 7)).to(device)
    masked = cg.PixelGraph.from_image(image, mask)
    assert torch.equal(masked.to_image(fill=-1), torch.where(mask.unsqueeze(1), image, -1))
    edges = cg.connect(cg.KernelGeometry(3, padding=1), masked)
    here = cg.connect(cg.KernelGeometry(3, padding=1), masked.sites.to("cpu"))
    assert edges.edge_index.device.type == device
    assert torch.equal(edges.edge_index.cpu(), here.edge_index)
    assert masked.to(device).sites is masked.sites
    assert masked.to("cpu").to(device).x.device == masked.x.device


LAYERS: dict[str, Callable[[], torch.nn.Module]] = {
    "plain": lambda: nn.GraphConv2d(4, 6, 3, padding=1),
    "strided": lambda: nn.GraphConv2d(4, 6, 3, stride=2, padding=1, groups=2),
    "reflect": lambda: nn.GraphConv2d(4, 4, 3, padding=2, padding_mode="reflect"),
    "replicate": lambda: nn.GraphConv2d(4, 4, 3, padding=3, padding_mode="replicate"),
    "circular": lambda: nn.GraphConv2d(4, 4, 3, padding=1, padding_mode="circular", dilation=2),
    "depthwise": lambda: nn.DepthwiseConv(4, 3, padding=1),
    "pointwise": lambda: nn.PointwiseConv(4, 5),
    "transposed": lambda: nn.GraphConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
}


@each_device
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", LAYERS)
def test_convolutions_are_the_same_bit_for_bit(
    name: str, backend: str, dtype: torch.dtype, device: str
) -> None:
    layer = integer_weights(LAYERS[name]()).to(dtype)
    mask = None if backend == "dense" else holes(2, (6, 7))
    graph = cg.PixelGraph.from_image(integers(2, 4, 6, 7, dtype=dtype), mask)
    with cg.backend(backend), torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
        found, expected = there_and_here(layer, graph, device)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


EXACT: dict[str, tuple[Callable[[], torch.nn.Module], bool]] = {
    "max pool": (lambda: nn.GraphMaxPool2d(3, 2, 1), True),
    "average pool": (lambda: nn.GraphAvgPool2d(2, divisor_override=4), True),
    "adaptive max": (lambda: nn.GraphAdaptiveMaxPool2d((2, 3)), True),
    "nearest": (lambda: nn.GraphUpsample(scale_factor=2, mode="nearest"), True),
    "bilinear": (lambda: nn.GraphUpsample(scale_factor=2, mode="bilinear"), True),
    "unfold": (lambda: nn.GraphUnfold(3, padding=1), True),
    "pixel shuffle": (lambda: nn.GraphPixelShuffle(2), False),
}


@each_device
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", EXACT)
def test_pools_and_resizes_are_the_same_bit_for_bit(name: str, masked: bool, device: str) -> None:
    make, takes_masks = EXACT[name]
    if masked and not takes_masks:
        pytest.skip("on a mask its sites are named by the caller")
    mask = holes(2, (6, 8)) if masked else None
    graph = cg.PixelGraph.from_image(integers(2, 4, 6, 8) * 16, mask)
    found, expected = there_and_here(make(), graph, device)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@each_device
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_round_once(dtype: torch.dtype, backend: str, device: str) -> None:
    layer = integer_weights(nn.GraphConv2d(8, 4, 3, padding=1)).float().to(device)
    graph = cg.PixelGraph.from_image(integers(2, 8, 6, 6, dtype=torch.float32)).to(device)
    with cg.backend(backend):
        wide = layer(graph).x
        assert torch.equal(layer.to(dtype)(graph.to(dtype)).x, wide.to(dtype))


@each_device
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_layers_are_proven(dtype: torch.dtype, backend: str, device: str) -> None:
    twin = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, device=device, dtype=dtype)
    layer = nn.GraphConv2d.from_dense(twin)
    with cg.backend(backend):
        found = cg.prove(layer, twin, size=(8, 9))
    assert found.verdict == "proven", str(found)
    assert found.flags.items() >= precision.state(device).items(), "IEEE, inside as outside"


@each_device
@pytest.mark.parametrize("backend", OFF_GRID)
def test_masks_are_proven(backend: str, device: str) -> None:
    twin = torch.nn.Conv2d(3, 4, 3, padding=1, device=device, dtype=torch.float64)
    layer = nn.GraphConv2d.from_dense(twin)
    with cg.backend(backend):
        found = cg.prove(layer, twin, size=(8, 9), mask=holes(2, (8, 9)).to(device))
    assert found.verdict == "proven", str(found)


@each_device
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["zeros", "replicate"])
def test_results_repeat_bit_for_bit(mode: str, backend: str, device: str) -> None:
    """Folded padding makes parallel edges: there additions would race."""
    layer = nn.GraphConv2d(16, 16, 3, padding=2, padding_mode=mode, backend=backend).to(device)
    mask = None if backend == "dense" else holes(4, (24, 24)).to(device)
    graph = cg.PixelGraph.from_image(torch.rand(4, 16, 24, 24, device=device), mask)

    def run() -> list[Tensor]:
        x = graph.x.detach().requires_grad_()
        y = layer(graph.with_x(x)).x
        return [y, *torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()])]

    with torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
        first = run()
        for _ in range(3):
            assert all(torch.equal(a, b) for a, b in zip(first, run(), strict=True))


@each_device
def test_devices_do_not_mix(device: str) -> None:
    other = "meta" if device == "cpu" else "cpu"
    graph = cg.PixelGraph.from_image(torch.rand(1, 3, 4, 4, device=device))
    with pytest.raises(cg.errors.DeviceError, match=r"move the layer or the graph with \.to"):
        nn.GraphConv2d(3, 4, 3, device=other)(graph)
    mask = torch.ones(4, 4, dtype=torch.bool, device=other)
    with pytest.raises(cg.errors.DeviceError, match="move one of them"):
        cg.PixelGraph.from_image(torch.rand(1, 3, 4, 4, device=device), mask)
    with pytest.raises(cg.errors.DeviceError, match="move one of them"):
        graph.with_x(graph.x.to(other))


# What only a GPU can show


def _warm(backend: str) -> tuple[Any, cg.PixelGraph]:
    layer = nn.GraphConv2d(8, 8, 3, padding=1, backend=backend).cuda()
    mask = None if backend == "dense" else holes(2, (12, 12)).cuda()
    graph = cg.PixelGraph.from_image(torch.rand(2, 8, 12, 12, device="cuda"), mask)
    layer(graph).x.sum().backward()
    return layer, graph


@pytest.mark.gpu
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_warm_layer_never_waits_for_the_device(backend: str) -> None:
    layer, graph = _warm(backend)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        layer(graph)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["dense", "gather"])
def test_a_warm_layer_is_captured_as_a_cuda_graph(backend: str) -> None:
    layer, graph = _warm(backend)
    with torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            layer(graph)
        torch.cuda.current_stream().wait_stream(side)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            y = layer(graph).x
        graph.x.copy_(torch.rand_like(graph.x))
        captured.replay()
        assert torch.equal(y, layer(graph).x)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:.*should not be instantiated.*")
@pytest.mark.parametrize("backend", BACKENDS)
def test_it_compiles_to_one_graph(backend: str) -> None:
    torch._dynamo.reset()
    layer, graph = _warm(backend)
    layer, graph = integer_weights(layer), graph.with_x((graph.x * 8).round().double())
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(graph).x, layer(graph).x)


@pytest.mark.gpu
def test_a_proof_sets_tf32_back_to_what_it_was() -> None:
    twin = torch.nn.Conv2d(3, 4, 3, padding=1, device="cuda")
    layer = nn.GraphConv2d.from_dense(twin)
    path, name, _ = precision._switches()[0]
    holder = precision._holder(path)
    before = getattr(holder, name)
    setattr(holder, name, "tf32" if isinstance(before, str) else True)
    try:
        outside = precision.state("cuda")
        found = cg.prove(layer, twin, size=(8, 8))
        assert precision.state("cuda") == outside, "restored"
        assert "outside of the proof" in found.flags[f"{path}.{name}"], "stated"
        assert found.verdict == "proven", str(found)
    finally:
        setattr(holder, name, before)
