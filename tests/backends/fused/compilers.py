"""The kernels' operators under torch.compile, torch.export, autocast and torch's own op checks."""

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import convgraph as cg
from convgraph.backends.fused import (
    cpp_tables,
    triton_launch,
    triton_tables,
)
from convgraph.backends.fused import operators as fused_operators
from tests.backends.fused.cases import BACKEND
from tests.cases import holes, integer_weights, integers

# Dynamo instantiates torch_geometric's own helpers while it traces and warns about it.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated.*")

KINDS: list[dict[str, Any]] = [
    {"groups": 2},
    {"groups": 4},
    {"padding_mode": "reflect", "stride": 2},
]


def made(kwargs: dict[str, Any]) -> tuple[Any, cg.PixelGraph]:
    layer = cg.nn.GraphConv2d(4, 4, (1, 3), padding=(0, 1), **kwargs)
    layer = integer_weights(layer).float()
    layer.backend = BACKEND
    image = integers(2, 4, 5, 6, dtype=torch.float32)
    return layer, cg.PixelGraph.from_image(image, holes(2, (5, 6)))


@pytest.mark.parametrize(("kwargs", "dynamic"), list(zip(KINDS, [False, True, True], strict=True)))
def test_it_compiles_to_one_graph_with_its_gradients(kwargs: dict[str, Any], dynamic: bool) -> None:
    torch._dynamo.reset()
    layer, graph = made(kwargs)
    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for x in (graph.x, graph.x.clone().requires_grad_()):
        found, expected = compiled(graph.with_x(x)).x, layer(graph.with_x(x)).x
        assert torch.equal(found, expected)
        leaves = [layer.weight, layer.bias, *([x] if x.requires_grad else [])]
        left = torch.autograd.grad(found.square().sum(), leaves)
        right = torch.autograd.grad(expected.square().sum(), leaves)
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize(("kwargs", "strict"), list(zip(KINDS, [False, True, True], strict=True)))
def test_it_exports_and_what_is_exported_can_be_trained(
    kwargs: dict[str, Any], strict: bool
) -> None:
    layer, graph = made(kwargs)
    program = torch.export.export(layer, (graph,), strict=strict)
    names = [str(node.target) for node in program.graph.nodes]
    assert any(name.startswith("convgraph.send") for name in names), names
    module, expected = program.module(), layer(graph).x
    found = module(graph).x
    assert torch.equal(found, expected)
    left = torch.autograd.grad(found.square().sum(), list(module.parameters()))
    right = torch.autograd.grad(expected.square().sum(), list(layer.parameters()))
    assert all(any(torch.equal(a, b) for b in right) for a in left)


def operands(kwargs: dict[str, Any], *, grad: bool) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Arguments of `send` and of `correlate`."""
    layer, graph = made(kwargs)
    form = triton_tables.neighbours if triton_launch.interpreted() else cpp_tables.sides
    there, back = layer.edges(graph).memo_of(form)
    groups, heard = layer.groups, layer.edges(graph).num_targets
    taps = integers(3, groups, 4 // groups, 4 // groups, dtype=torch.float32).requires_grad_(grad)
    x = graph.x.clone().requires_grad_(grad)
    g = integers(heard, 4, dtype=torch.float32).requires_grad_(grad)
    bias = integers(4, dtype=torch.float32).requires_grad_(grad)
    return (x, taps, bias, *there, *back, 0), (x, g, *there, *back, groups)


# torch 2.14's checks read .grad of what they have computed themselves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("kwargs", KINDS)
def test_torchs_own_checks_of_an_operator(kwargs: dict[str, Any]) -> None:
    """Schema, fake kernel, registered autograd, and tracing it with symbolic sizes."""
    sent, correlated = operands(kwargs, grad=True)
    torch.library.opcheck(torch.ops.convgraph.send.default, sent)
    back = (correlated[1], sent[1], None, *sent[3:9], 1)
    torch.library.opcheck(torch.ops.convgraph.send.default, back)
    torch.library.opcheck(torch.ops.convgraph.correlate.default, correlated)


@pytest.mark.parametrize("kwargs", KINDS)
def test_a_fake_has_the_shape_dtype_and_strides_of_the_real_one(kwargs: dict[str, Any]) -> None:
    for operator, args in zip(
        (fused_operators.send, fused_operators.correlate), operands(kwargs, grad=False), strict=True
    ):
        real = operator(*args)
        with FakeTensorMode() as mode:
            fakes = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in args]
            fake = operator(*fakes)
        assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


def test_autocast_chooses_the_dtype_of_the_kernel() -> None:
    layer, graph = made({})
    x = graph.x.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(graph.with_x(x)).x
        y.float().square().sum().backward()
    expected = layer(graph).x.to(torch.bfloat16)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected)
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    assert layer.weight.grad.dtype == torch.float32
