"""A new backend is one file and its place in the table: everything else follows from there."""

from types import ModuleType

import pytest
import torch

import convgraph as cg
from convgraph.backends import TABLES
from tests.cases import holes, integer_weights, integers, ran

SCATTER = """
import torch

NAME = "scatter"


def refuses(problem):
    return "it reads lists of edges" if problem.static or problem.tapped else None


def work(problem):
    return float(problem.edges.num_edges * problem.macs_per_edge), 0.0


def conv(x, weight, bias, edges, problem):
    (source, target), tap = edges.edge_index, edges.edge_type
    matrix = weight.flatten(2).permute(2, 1, 0)
    y = x.new_zeros(edges.num_targets, problem.out_channels)
    y = y.index_add(0, target, torch.einsum("ec,eco->eo", x[source], matrix[tap]))
    return y if bias is None else y + bias
"""
"""All of a backend, for kernels that are not transposed and have one group."""


@pytest.fixture
def scatter(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("scatter")
    exec(SCATTER, vars(module))
    monkeypatch.setitem(TABLES["conv"], module.NAME, module)
    return module


def masked() -> cg.PixelGraph:
    return cg.PixelGraph.from_image(integers(2, 3, 6, 7), holes(2, (6, 7)))


def test_it_runs_when_it_is_named_and_is_right(scatter: ModuleType) -> None:
    layer = integer_weights(cg.nn.GraphConv2d(3, 4, 3, stride=2, padding=1))
    graph = masked()
    graph.x.requires_grad_()
    found = []
    for name in ("messages", scatter.NAME):
        with cg.backend(name), ran(name):
            y = layer(graph)
        found.append([y.x, *torch.autograd.grad(y.x.square().sum(), [graph.x, layer.weight])])
    assert all(map(torch.equal, *found))


def test_without_a_rate_it_is_asked_and_never_chosen(scatter: ModuleType) -> None:
    layer = cg.nn.GraphConv2d(3, 4, 3, padding=1).double()
    explained = cg.explain(layer, masked())
    assert explained.backend != scatter.NAME
    (option,) = (o for o in explained.options if o.name == scatter.NAME)
    assert (option.refusal, option.cost) == (None, float("inf"))
    assert "by name only" in str(explained)
    layer(masked())


def test_its_refusal_is_the_users_error(scatter: ModuleType) -> None:
    layer = cg.nn.GraphConv2d(3, 4, 3, padding=1, backend=scatter.NAME)
    layer.register_message_forward_hook(lambda *_: None)
    with pytest.raises(cg.errors.BackendError, match=r"'scatter' cannot serve.*lists of edges"):
        layer(masked().to(torch.float32))


def test_a_backend_that_is_never_called_is_noticed() -> None:
    layer = cg.nn.GraphConv2d(3, 4, 3, padding=1, backend="messages").double()
    with (
        pytest.raises(AssertionError, match="'gather' was asked for and never called"),
        ran("gather"),
    ):
        layer(masked())
