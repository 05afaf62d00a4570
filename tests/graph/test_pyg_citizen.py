"""What PyG's tests ask of a layer: any typed graph, any order, hooks, masks, compilers, dtypes."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor
from torch_geometric.explain import Explainer, GNNExplainer
from torch_geometric.explain.algorithm.utils import clear_masks, set_masks
from torch_geometric.nn import RGCNConv

import convgraph as cg
from tests.cases import integer_weights, integers, typed_graph

# Dynamo instantiates torch_geometric's own helpers while it traces and warns about it.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated.*")

TAPS, NODES, EDGES = 9, 12, 60


@pytest.fixture
def layer() -> Any:
    return integer_weights(cg.nn.GraphConv2d(4, 6, 3, padding=1, groups=2))


@pytest.fixture
def typed() -> tuple[Tensor, Tensor, Tensor]:
    """A graph that is no image: random edges, repeats included."""
    return integers(NODES, 4), *typed_graph(NODES, EDGES, TAPS)


def by_hand(layer: Any, x: Tensor, index: Tensor, kind: Tensor, weight: Any, n: int) -> Tensor:
    """The equation, edge by edge, in Python."""
    y = layer.bias.detach().clone().repeat(n, 1)
    group_in, group_out = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    w = layer.weight.detach().flatten(2)
    for e in range(index.shape[1]):
        q, p, t = int(index[0, e]), int(index[1, e]), int(kind[e])
        for o in range(layer.out_channels):
            start = o // group_out * group_in
            said = w[o, :, t] @ x[q, start : start + group_in]
            y[p, o] += said * (1 if weight is None else weight[e])
    return y


@pytest.mark.parametrize("backend", ["messages", "gather"])
def test_it_is_the_equation_on_any_typed_graph(layer: Any, typed: Any, backend: str) -> None:
    x, index, kind = typed
    weight = integers(EDGES)
    with cg.backend(backend):
        assert torch.equal(layer(x, index, kind), by_hand(layer, x, index, kind, None, NODES))
        found = layer(x, index, kind, weight)
    assert torch.equal(found, by_hand(layer, x, index, kind, weight, NODES))


@pytest.mark.parametrize("backend", ["messages", "gather"])
def test_neither_edge_order_nor_node_order_matters(layer: Any, typed: Any, backend: str) -> None:
    x, index, kind = typed
    with cg.backend(backend):
        y = layer(x, index, kind)
        edges = torch.randperm(EDGES)
        assert torch.equal(layer(x, index[:, edges], kind[edges]), y)
        nodes = torch.randperm(NODES)
        renamed = torch.empty_like(nodes)
        renamed[nodes] = torch.arange(NODES)
        assert torch.equal(layer(x[nodes], renamed[index], kind), y[nodes])


def test_a_batch_equals_its_graphs(layer: Any) -> None:
    graphs = [cg.PixelGraph.from_image(integers(4, n, n + 1)) for n in (3, 5)]
    both = layer(cg.PixelGraph.concat(graphs))
    assert torch.equal(both.x, torch.cat([layer(graph).x for graph in graphs]))


def test_a_static_graph_takes_a_batch_of_features(layer: Any, typed: Any) -> None:
    _, index, kind = typed
    several = integers(5, NODES, 4)
    found = layer(several, index, kind)
    assert found.shape == (5, NODES, 6)
    assert all(
        torch.equal(one, layer(x, index, kind)) for one, x in zip(found, several, strict=True)
    )


def test_bipartite_graphs(layer: Any, typed: Any) -> None:
    x, index, kind = typed
    index = torch.stack([index[0], index[1] % 5])
    truth = by_hand(layer, x, index, kind, None, 5)
    receiving = integers(5, 3)
    assert torch.equal(layer((x, receiving), index, kind), truth)
    assert torch.equal(layer((x, None), index, kind, size=(NODES, 5)), truth)
    assert torch.equal(layer(x, index, kind, size=(NODES, 5)), truth)
    with pytest.raises(cg.errors.ShapeError, match="names 7 sources but x has 12 rows"):
        layer(x, index, kind, size=(7, 5))
    with pytest.raises(cg.errors.ShapeError, match="names 4 targets but x_dst has 5 rows"):
        layer((x, receiving), index, kind, size=(NODES, 4))


def test_flow_turns_the_arrows(layer: Any, typed: Any) -> None:
    x, index, kind = typed
    turned = cg.nn.GraphConv2d(4, 6, 3, groups=2, flow="target_to_source").double()
    turned.load_state_dict(layer.state_dict())
    assert torch.equal(turned(x, index.flip(0), kind), layer(x, index, kind))
    small = torch.stack([index[0], index[1] % 5])
    expected = layer(x, small, kind, size=(NODES, 5))
    assert torch.equal(turned(x, small.flip(0), kind, size=(5, NODES)), expected)
    graph = cg.PixelGraph.from_image(integers(4, 4, 4))
    same = cg.nn.GraphConv2d(4, 6, 3, padding=1, groups=2, flow="target_to_source").double()
    same.load_state_dict(layer.state_dict())
    for backend in ("dense", "gather", "messages"):
        with cg.backend(backend):
            assert torch.equal(same(graph).x, layer(graph).x)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_small_integers_are_indices_too(layer: Any, typed: Any, dtype: torch.dtype) -> None:
    x, index, kind = typed
    for backend in ("messages", "gather"):
        with cg.backend(backend):
            found = layer(x, index.to(dtype), kind.to(dtype))
        assert torch.equal(found, layer(x, index, kind))


def test_bounds_are_checked(layer: Any, typed: Any) -> None:
    x, index, kind = typed
    with pytest.raises(cg.errors.EdgeError, match=r"sources.*in \[0, 12\), got .* to 12"):
        layer(x, index.index_fill(1, torch.tensor([3]), 12), kind)
    with pytest.raises(cg.errors.EdgeError, match=r"targets.*in \[0, 5\)"):
        layer(x, index, kind, size=(NODES, 5))
    with pytest.raises(cg.errors.EdgeError, match=r"edge_type in \[0, 9\), got -1"):
        layer(x, index, kind - kind.max() - 1 + kind.max())
    with pytest.raises(cg.errors.EdgeError, match="a kernel of 9 taps needs edge_type"):
        layer(x, index)


def test_a_pointwise_layer_needs_no_types(typed: Any) -> None:
    x, index, _ = typed
    layer = cg.nn.PointwiseConv(4, 2).double()
    assert layer(x, index).shape == (NODES, 2)


def test_pyg_hooks_fire_and_may_change_what_passes(layer: Any, typed: Any) -> None:
    x, index, kind = typed
    graph = cg.PixelGraph.from_image(integers(4, 4, 4))
    plain, plain_graph = layer(x, index, kind), layer(graph).x
    seen: list[str] = []
    handles = [
        layer.register_propagate_forward_pre_hook(lambda *_: seen.append("before")),
        layer.register_message_forward_pre_hook(lambda *_: seen.append("speak")),
        layer.register_message_forward_hook(lambda _, __, out: 2 * out),
        layer.register_aggregate_forward_pre_hook(lambda *_: seen.append("listen")),
        layer.register_aggregate_forward_hook(lambda *_: seen.append("sum")),
        layer.register_propagate_forward_hook(lambda *_: seen.append("after")),
    ]
    bias = layer.bias.detach()
    assert torch.equal(layer(x, index, kind), 2 * (plain - bias) + bias)
    assert seen == ["before", "speak", "listen", "sum", "after"]
    assert torch.equal(layer(graph).x, 2 * (plain_graph - bias) + bias), "a graph has hooks too"
    with (
        pytest.raises(cg.errors.BackendError, match="listen to single messages"),
        cg.backend("gather"),
    ):
        layer(graph)
    for handle in handles:
        handle.remove()
    assert torch.equal(layer(x, index, kind), plain)


def test_module_hooks_fire(layer: Any, typed: Any) -> None:
    layer.register_forward_hook(lambda _, __, out: out + 1)
    x, index, kind = typed
    assert torch.equal(layer(x, index, kind), by_hand(layer, x, index, kind, None, NODES) + 1)


def test_an_explainers_mask_weighs_the_messages(layer: Any, typed: Any) -> None:
    x, index, kind = typed
    mask = torch.nn.Parameter(integers(EDGES))
    set_masks(layer, mask, index, apply_sigmoid=False)
    found = layer(x, index, kind)
    assert torch.equal(found, by_hand(layer, x, index, kind, mask.detach(), NODES))
    assert torch.autograd.grad(found.sum(), mask)[0].shape == (EDGES,)
    clear_masks(layer)
    assert torch.equal(layer(x, index, kind), by_hand(layer, x, index, kind, None, NODES))


def test_gnn_explainer_runs_on_it(typed: Any) -> None:
    x, index, kind = typed
    explainer = Explainer(
        cg.nn.GraphConv2d(4, 1, 3).double(),
        GNNExplainer(epochs=3),
        explanation_type="model",
        edge_mask_type="object",
        node_mask_type="attributes",
        model_config={"mode": "regression", "task_level": "node", "return_type": "raw"},
    )
    found = explainer(x, index, edge_type=kind)
    assert found.edge_mask.shape == (EDGES,)
    assert found.edge_mask.any()


def test_edge_weights_have_gradients(layer: Any, typed: Any) -> None:
    x, index, kind = typed
    weight = torch.rand(EDGES).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: layer(x, index, kind, w), (weight,))
    with (
        pytest.raises(cg.errors.BackendError, match="edge_weight requires a gradient"),
        cg.backend("gather"),
    ):
        layer(x, index, kind, weight)


def test_copies_are_the_same_layer(layer: Any, typed: Any) -> None:
    x, index, kind = typed
    expected = layer(x, index, kind)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for other in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer), loaded):
        assert torch.equal(other(x, index, kind), expected)
        assert repr(other) == repr(layer)


def test_no_gradient_is_kept_when_none_is_asked_for(layer: Any, typed: Any) -> None:
    x, index, kind = typed
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            for backend in ("messages", "gather"):
                with cg.backend(backend):
                    assert not layer(x, index, kind).requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["dense", "gather", "messages"])
def test_half_types_are_summed_in_float32(backend: str, dtype: torch.dtype) -> None:
    """Integers are exact in float32: one rounding at the end is all that may happen."""
    layer = cg.nn.GraphConv2d(16, 4, 5, padding=2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randint(-8, 9, parameter.shape))
    graph = cg.PixelGraph.from_image(torch.randint(-8, 9, (2, 16, 6, 6)).float())
    with cg.backend(backend):
        wide = layer(graph).x
        half = copy.deepcopy(layer).to(dtype)
        found = half(graph.to(dtype))
    assert found.dtype == dtype
    assert torch.equal(found.x, wide.to(dtype))
    found.x.sum().backward()
    assert half.weight.grad is not None
    assert half.weight.grad.dtype == dtype


@pytest.mark.parametrize("backend", ["dense", "gather", "messages"])
def test_autocast_computes_in_its_dtype(backend: str) -> None:
    layer = cg.nn.GraphConv2d(4, 4, 3, padding=1)
    graph = cg.PixelGraph.from_image(torch.rand(1, 4, 5, 5))
    with torch.autocast("cpu", torch.bfloat16), cg.backend(backend):
        found = layer(graph).x
    with cg.backend(backend):
        expected = copy.deepcopy(layer).bfloat16()(graph.to(torch.bfloat16)).x
    assert torch.equal(found, expected)


def test_rgcn_is_the_same_sum() -> None:
    """PyG's relational layer with the defaults that make it a convolution; weights transposed."""
    layer = cg.nn.GraphConv2d(3, 5, 3, padding=1).double()
    peer = RGCNConv(3, 5, TAPS, aggr="sum", root_weight=False).double()
    with torch.no_grad():
        layer.weight.copy_(integers(5, 3, 3, 3))
        peer.weight.copy_(layer.weight.flatten(2).permute(2, 1, 0))
        peer.bias.copy_(layer.bias)
    graph = cg.PixelGraph.from_image(integers(2, 3, 5, 5))
    edges = layer.edges(graph)
    with torch.no_grad():
        layer.bias.copy_(integers(5))
        peer.bias.copy_(layer.bias)
    found = peer(graph.x, edges.edge_index, edges.edge_type)
    assert torch.equal(found, layer(graph).x)


def test_decomposed_layers_are_refused(layer: Any, typed: Any) -> None:
    layer.decomposed_layers = 2
    with pytest.raises(cg.errors.UnsupportedError, match="decomposed_layers=2 is refused"):
        layer(*typed)
