"""Layers and networks load with torch's safe default, and what a file says of them is checked."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.utils import prune

import convgraph as cg
from convgraph.convert import network
from convgraph.geometry.window import WindowGeometry
from tests.cases import integer_weights, integers
from tests.fuzz.publics import arguments


class Own(torch.nn.Module):
    """A network of a user's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 3, 3, padding=1)
        self.scale = 2

    def forward(self, x: Any) -> Any:
        return self.conv(x).relu() * self.scale


def sequential() -> Any:
    return cg.nn.Sequential(
        cg.nn.GraphConv2d(2, 4, 3, padding="same", groups=2, footprint="cross"),
        cg.nn.GraphBatchNorm2d(4),
        torch.nn.ReLU(),
        cg.nn.GraphMaxPool2d(2),
        cg.nn.GraphGlobalAvgPool(),
        torch.nn.Linear(4, 3),
    )


def through(made: Any, **how: Any) -> Any:
    file = io.BytesIO()
    torch.save(made, file)
    file.seek(0)
    return torch.load(file, weights_only=True, **how)


@pytest.mark.parametrize("name", cg.nn.__all__)
def test_every_layer_loads(name: str) -> None:
    kind = getattr(cg.nn, name)
    made = sequential() if name == "Sequential" else kind(**arguments(kind, name))
    made.eval()
    loaded = through(made)
    assert type(loaded) is type(made)
    assert repr(loaded) == repr(made)
    assert not loaded.training
    assert list(loaded.state_dict()) == list(made.state_dict())
    assert all(map(torch.equal, loaded.state_dict().values(), made.state_dict().values()))


@pytest.mark.parametrize("make", [sequential, lambda: cg.to_graph(torch.nn.Sequential(Own().conv))])
def test_a_network_computes_the_same(make: Callable[[], Any]) -> None:
    net = make().eval()
    graph = cg.PixelGraph.from_image(integers(2, 2, 5, 6).float(), torch.rand(2, 5, 6) > 0.4)
    assert torch.equal(through(net)(graph).x, net(graph).x)


def test_a_network_of_a_users_class_loads_once_the_class_is_trusted() -> None:
    net = cg.to_graph(Own())
    with pytest.raises(pickle.UnpicklingError, match="Own"):
        through(net)
    image = integers(1, 2, 4, 4).float()
    with torch.serialization.safe_globals([Own]):
        assert torch.equal(through(net)(image), net(image))


def test_tied_parameters_stay_one_and_a_copy_is_of_its_own() -> None:
    one = cg.nn.GraphConv2d(2, 2, 3)
    net = cg.nn.Sequential(one, torch.nn.ReLU(), cg.nn.GraphConv2d(2, 2, 3))
    net[2].weight = one.weight
    loaded = through(net)
    assert loaded[0].weight is loaded[2].weight
    copied = copy.deepcopy(net)
    assert copied[0].weight is copied[2].weight
    assert copied[0].weight is not one.weight


def test_a_hook_and_an_attribute_go_through_a_pickle_that_is_trusted() -> None:
    layer = cg.nn.GraphConv2d(1, 1, 1)
    layer.note = "mine"
    layer.register_propagate_forward_hook(_nothing)
    made = pickle.loads(pickle.dumps(layer))
    assert made.note == "mine"
    assert len(made._propagate_forward_hooks) == 1
    edges = torch.tensor([[0], [0]])
    assert torch.equal(made(torch.ones(1, 1), edges), layer(torch.ones(1, 1), edges))


def _nothing(*_: Any) -> None:
    return None


def test_typed_edges_load_and_are_checked() -> None:
    index, types = torch.tensor([[0, 1], [2, 3]]), torch.tensor([0, 8])
    edges = cg.TypedEdges(index, types, torch.rand(2), 5, num_taps=9)
    edges.by_tap()
    loaded = through(edges)
    assert torch.equal(loaded.edge_index, index)
    assert loaded.num_taps == 9
    edges.edge_index = index + 9
    with pytest.raises(cg.errors.EdgeError, match="sources"):
        through(edges)


def changed(layer: Any, **values: Any) -> Any:
    for name, value in values.items():
        object.__setattr__(layer, name, value)
    return layer


def without(layer: Any, name: str) -> Any:
    layer.__dict__.pop(name)
    return layer


def weight(layer: Any, *shape: int) -> Any:
    layer._parameters["weight"] = torch.nn.Parameter(torch.ones(shape))
    return layer


FORGED: dict[str, Callable[[], Any]] = {
    "another number of channels": lambda: changed(cg.nn.GraphConv2d(2, 3, 3), in_channels=5),
    "channels of no number": lambda: changed(cg.nn.GraphConv2d(2, 3, 3), out_channels="three"),
    "groups of 0": lambda: changed(cg.nn.GraphConv2d(2, 3, 3), groups=0),
    "a weight of another shape": lambda: weight(cg.nn.GraphConv2d(2, 3, 3), 3, 2, 1, 1),
    "no weight": lambda: changed(cg.nn.GraphConv2d(2, 3, 3), _parameters={}),
    "parameters of no names": lambda: changed(cg.nn.GraphConv2d(2, 3, 3), _parameters={1: None}),
    "no geometry": lambda: without(cg.nn.GraphConv2d(2, 3, 3), "geometry"),
    "a geometry of another kind": lambda: changed(
        cg.nn.GraphConv2d(2, 3, 3), geometry=WindowGeometry((2, 2))
    ),
    "a kernel of no taps": lambda: changed(
        cg.nn.GraphConv2d(2, 3, 3), geometry=changed(cg.KernelGeometry(3), kernel_size=(0, 3))
    ),
    "a padding beyond all sense": lambda: changed(
        cg.nn.GraphConv2d(2, 3, 3), geometry=changed(cg.KernelGeometry(3), padding=((-9, 0),) * 2)
    ),
    "a backend that is none": lambda: changed(cg.nn.GraphConv2d(2, 3, 3), backend="magic"),
    "a pool of another window": lambda: changed(
        cg.nn.GraphMaxPool2d(2), geometry=cg.KernelGeometry(3)
    ),
    "a norm of other channels": lambda: changed(cg.nn.GraphBatchNorm2d(4), num_features=2**40),
    "a shuffle by nothing": lambda: changed(cg.nn.GraphPixelShuffle(2), upscale_factor=0),
    "neither training nor not": lambda: without(cg.nn.GraphFlatten(), "training"),
    "a child that reads images": lambda: changed(
        cg.nn.Sequential(), _modules={"0": torch.nn.Conv2d(1, 1, 1)}
    ),
    "a child that is none": lambda: changed(cg.nn.Sequential(), _modules={"0": "relu"}),
    "a torus of nothing": lambda: cg.PixelGraph.from_image(
        torch.ones(1, 1, 2, 2), on=changed(cg.Torus(), rows=0, columns=0)
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_no_layer_is_does_not_load(name: str) -> None:
    with pytest.raises(cg.errors.ConvgraphError):
        through(FORGED[name]())


def test_a_class_that_is_no_network() -> None:
    for wrong in (int, print, 3, None):
        with pytest.raises(cg.errors.ConversionError, match="class of a network"):
            network._rebuilt(wrong)  # type: ignore[arg-type]


def test_loading_draws_nothing() -> None:
    layer = integer_weights(cg.nn.GraphConv2d(2, 3, 3))
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    torch.load(file)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_layer_whose_weight_is_computed_is_copied_as_it_is() -> None:
    """Pruning and the old weight norm put other parameters in the weight's place."""
    layer = cg.nn.GraphConv2d(2, 3, 3)
    prune.l1_unstructured(layer, "weight", 0.5)  # type: ignore[no-untyped-call]
    again = copy.copy(layer)
    assert again is not layer
    assert again.weight_orig is layer.weight_orig
    assert again.weight is layer.weight
