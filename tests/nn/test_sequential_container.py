"""Sequential as a container: torch's names and keys, its growth, and what it refuses to hold."""

import copy
import pickle
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convgraph as cg
from tests.networks import NETS, OwnSites, build, integers


def test_names_keys_and_parameters_are_torchs() -> None:
    for name in NETS:
        _, dense, net = build(name)
        assert list(net.state_dict()) == list(dense.state_dict())
        net.load_state_dict(dense.state_dict())
        back = net.to_dense()
        assert str(back) == str(dense)
        assert not back.training
        for key, value in dense.state_dict().items():
            assert torch.equal(back.state_dict()[key], value)


def test_it_indexes_and_grows_like_torchs() -> None:
    net = cg.nn.Sequential(cg.nn.GraphConv2d(1, 2, 3), nn.ReLU())
    assert isinstance(net[0], cg.nn.GraphConv2d)
    assert isinstance(net[:1], cg.nn.Sequential)
    net.append(cg.nn.GraphConv2d(2, 2, 1)).extend([nn.ReLU()]).insert(1, nn.Identity())
    assert [type(m).__name__ for m in net] == [
        "GraphConv2d", "Identity", "ReLU", "GraphConv2d", "ReLU",
    ]  # fmt: skip
    graph = cg.PixelGraph.from_image(torch.rand(1, 1, 5, 5))
    for grown in (net + cg.nn.Sequential(nn.ReLU()), cg.nn.Sequential(nn.ReLU()) * 2):
        assert isinstance(grown, cg.nn.Sequential)
        assert isinstance(grown(graph), cg.PixelGraph)
    named = cg.nn.Sequential(OrderedDict(stem=cg.nn.GraphConv2d(1, 2, 3), act=nn.ReLU()))
    assert list(named.state_dict()) == ["stem.weight", "stem.bias"]
    assert named.stem is named[0]


# torch's compiler instantiates an autograd function, which torch itself deprecates.
@pytest.mark.filterwarnings("ignore:<class 'torch.autograd.function")
def test_copies_pickles_and_compiles() -> None:
    _, _, net = build("classifier")
    for root in (None, torch.rand(3, 8, 6) > 0.5):
        graph = cg.PixelGraph.from_image(integers(3, 2, 8, 6), root)
        expected = net(graph).x
        for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(other(graph).x, expected)
        torch._dynamo.reset()
        assert torch.equal(torch.compile(net, fullgraph=True, backend="eager")(graph).x, expected)


def test_tied_parameters_stay_tied() -> None:
    dense = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1))
    dense[1].weight = dense[0].weight
    net = cg.nn.Sequential.from_dense(dense)
    assert net[1].weight is net[0].weight
    assert net[1].bias is not net[0].bias
    back = net.to_dense()
    assert back[1].weight is back[0].weight


# Refusals


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (nn.Conv2d(1, 1, 3), r"torch\.nn\.Conv2d, which reads images .* use cg\.nn\.GraphConv2d"),
        (nn.LazyConv1d(1, 3), r"use cg\.nn\.GraphConv1d"),
        (nn.MaxPool1d(2), r"use cg\.nn\.GraphMaxPool1d"),
        (nn.AdaptiveAvgPool2d(1), r"use cg\.nn\.GraphAdaptiveAvgPool2d"),
        (nn.BatchNorm2d(3), r"use cg\.nn\.GraphBatchNorm2d"),
        (nn.InstanceNorm1d(3), r"use cg\.nn\.GraphInstanceNorm1d"),
        (nn.GroupNorm(1, 3), r"use cg\.nn\.GraphGroupNorm"),
        (nn.Dropout2d(), r"use cg\.nn\.GraphDropout2d"),
        (nn.Flatten(), r"use cg\.nn\.GraphFlatten"),
        (nn.UpsamplingNearest2d(scale_factor=2), r"use cg\.nn\.GraphUpsample"),
        (nn.Unfold(2), r"use cg\.nn\.GraphUnfold"),
        (nn.PixelShuffle(2), r"use cg\.nn\.GraphPixelShuffle"),
        (nn.Softmax2d(), r"use torch\.nn\.Softmax\(dim=1\)"),
        (nn.ReflectionPad2d(1), r"give padding= and padding_mode= to the graph layer that follows"),
        (nn.LSTM(3, 3), "it has no graph twin"),
        (nn.Softmax(dim=0), "only the channels, dim=1, belong to one node"),
        (nn.Sequential(nn.ReLU(), nn.Conv2d(1, 1, 1)), r"at '1', is a torch\.nn\.Conv2d"),
        (nn.Sequential(cg.nn.GraphConv2d(1, 1, 1)), r"use cg\.nn\.Sequential in place of"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_would_misread_rows_is_refused_at_once(module: nn.Module, text: str) -> None:
    with pytest.raises(cg.errors.UnsupportedError, match=text):
        cg.nn.Sequential(nn.ReLU(), module)
    net = cg.nn.Sequential(nn.ReLU())
    for add in (
        lambda: net.append(module),
        lambda: net.insert(0, module),
        lambda: net.extend([module]),
        lambda: net.__setitem__(0, module),
        lambda: setattr(net, "extra", module),
    ):
        with pytest.raises(cg.errors.UnsupportedError, match=text):
            add()
    assert [type(child) for child in net] == [nn.ReLU]


@pytest.mark.parametrize(
    "module",
    [nn.GELU(), nn.Linear(3, 4), nn.Dropout(), nn.BatchNorm1d(3), nn.LayerNorm(3), nn.Softmax(-1)],
    ids=lambda module: type(module).__name__,
)
def test_node_transforms_are_welcome(module: Any) -> None:
    graph = cg.PixelGraph.from_image(torch.rand(1, 3, 2, 2))
    net = cg.nn.Sequential(module).eval()
    assert torch.equal(net(graph).x, module(graph.x))


class _Own(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip(-1)


class _OwnChain(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


@pytest.mark.parametrize(
    ("children", "text"),
    [
        ([nn.Linear(4, 4)], "child '0' .* Linear reads the last axis.*put a Flatten before it"),
        ([nn.LayerNorm(4)], "LayerNorm reads the last axis"),
        ([nn.Softmax(-1)], r"Softmax\(dim=-1\) does not run over channels"),
        ([nn.ReLU(), _Own()], "child '1' .* _Own is no layer with a graph twin"),
        ([_OwnChain(nn.ReLU())], "with a forward of its own"),
        ([nn.Sequential(nn.ReLU(), _Own())], r"child '0\.1'"),
        ([nn.Flatten(), nn.Conv1d(1, 1, 1)], "Conv1d reads an image, but after a Flatten"),
        ([nn.Flatten(2)], r"expected Flatten\(1, -1\)"),
        ([nn.ReflectionPad2d(1)], "ReflectionPad2d is no layer with a graph twin"),
    ],
)
def test_what_would_change_its_meaning_is_not_converted(children: Any, text: str) -> None:
    with pytest.raises(cg.errors.ConversionError, match=text):
        cg.nn.Sequential.from_dense(nn.Sequential(*children))


def test_what_has_no_dense_meaning_does_not_go_back() -> None:
    rows = cg.nn.Sequential(cg.nn.GraphGlobalAvgPool(), nn.Linear(3, 3))
    with pytest.raises(cg.errors.ConversionError, match="put a Flatten before it"):
        rows.to_dense()
    ours = cg.nn.Sequential(OwnSites(cg.nn.GraphConv2d(1, 1, 1)))
    with pytest.raises(cg.errors.ConversionError, match="child '0', a OwnSites, has no dense twin"):
        ours.to_dense()
    with pytest.raises(
        cg.errors.ConversionError, match=r"expected a torch\.nn\.Sequential, got Re"
    ):
        cg.nn.Sequential.from_dense(nn.ReLU())


def test_bad_calls_have_their_own_error() -> None:
    net = cg.nn.Sequential(nn.ReLU())
    with pytest.raises(cg.errors.GraphError, match="Sequential: expected a PixelGraph, got Tensor"):
        net(torch.rand(1, 1, 2, 2))
    graph = cg.PixelGraph.from_image(torch.rand(1, 1, 4, 4))
    with pytest.raises(cg.errors.UnsupportedError, match="one site set per size"):
        net(graph, sites=graph)
    picks = cg.nn.Sequential(cg.nn.GraphMaxPool2d(2, return_indices=True))
    with pytest.raises(cg.errors.GraphError, match="return_indices=True has no place in a chain"):
        picks(graph)
    ragged = cg.PixelGraph.from_image([torch.rand(1, 2, 2), torch.rand(1, 3, 3)])
    with pytest.raises(cg.errors.GraphError, match="rows of different lengths; use a global pool"):
        cg.nn.GraphFlatten()(ragged)
    with pytest.raises(cg.errors.GraphError, match="GraphFlatten: expected a PixelGraph"):
        cg.nn.GraphFlatten()(torch.rand(1, 1, 2, 2))
    with pytest.raises(cg.errors.GraphError, match="GraphDropout2d: expected a PixelGraph"):
        cg.nn.GraphDropout2d()(torch.rand(1, 1, 2, 2))
