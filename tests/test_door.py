"""What leaves a public call raw is said in words, and everything else passes as if no door were."""

import inspect
import pickle
from typing import Any

import pytest
import torch

import convgraph as cg
from convgraph.door import door
from convgraph.errors import ArgumentError, ShapeError

CALLS: dict[str, tuple[Any, type[Exception], str]] = {
    "a kind that torch's norm does not take": (
        lambda: cg.nn.GraphBatchNorm2d("eight"), TypeError,
        r"GraphBatchNorm2d: expected num_features as int, got 'eight' \(str\); see help\(Graph"),
    "a number that torch's norm does not take": (
        lambda: cg.nn.GraphBatchNorm2d(-1), RuntimeError,
        r"expected arguments that go together, got num_features=-1 \(int\); RuntimeError: Trying"),
    "a flag that is kept, and read later": (
        lambda: cg.nn.GraphAvgPool2d(2, count_include_pad="x")(image()), TypeError,
        r"graph_avg_pool: expected count_include_pad as bool, got 'x' \(str\)"),
    "a proof of something else": (
        lambda: cg.proof.prove_convolution(torch.conv2d, torch.conv2d, 3), AttributeError,
        r"prove_convolution: expected spec as convgraph.ConvSpec, got 3 \(int\)"),
    "an argument too many": (
        lambda: cg.nn.GraphConv2d(1, 1, 3, colour="red"), TypeError,
        r"GraphConv2d: got an unexpected keyword argument 'colour'; it takes \(self, in_channels"),
    "no pixel": (
        lambda: cg.receptive_field(cg.to_graph(torch.nn.Conv2d(1, 1, 1), torch.ones(1, 1, 2, 2)),
                                   object(), image()), TypeError,
        r"receptive_field: expected pixel as int or tuple\[int, ...\], got object"),
}  # fmt: skip


def image() -> cg.PixelGraph:
    return cg.PixelGraph.from_image(torch.ones(1, 4, 4))


@pytest.mark.parametrize("name", CALLS)
def test_who_expected_got_and_the_way_out(name: str) -> None:
    """In a class that those who catch the raw error catch, and that a process may send another."""
    call, kind, text = CALLS[name]
    with pytest.raises(ArgumentError, match=text) as seen:
        call()
    assert isinstance(seen.value, kind)
    assert isinstance(seen.value.__cause__, kind)
    again = pickle.loads(pickle.dumps(seen.value))
    assert type(again) is type(seen.value)
    assert str(again) == str(seen.value)


def test_a_networks_own_error_stays_what_it_is() -> None:
    class Broken(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as seen:
        cg.excite(Broken(), torch.ones(1, 1, 4, 4))
    assert not isinstance(seen.value, cg.errors.ConvgraphError)
    with pytest.raises(KeyError, match="mine") as seen:
        image().map(Broken())
    assert type(seen.value) is KeyError


def test_errors_that_say_more_than_their_words_stay_too() -> None:
    class FullError(RuntimeError):
        __module__ = "torch"

    def filled(n: int) -> None:
        raise FullError("out of memory")

    with pytest.raises(FullError, match="out of memory") as seen:
        door(filled)("x")  # type: ignore[arg-type]
    assert type(seen.value) is FullError


def test_our_own_errors_pass() -> None:
    def refuses(n: int) -> None:
        raise ShapeError("refuses: expected n")

    with pytest.raises(ShapeError) as seen:
        door(refuses)("x")  # type: ignore[arg-type]
    assert type(seen.value) is ShapeError


def test_the_outermost_call_says_its_own_argument() -> None:
    @door
    def inner(n: int) -> int:
        return n.bit_length()

    @door
    def outer(name: str, m: int) -> int:
        return inner(m)

    assert outer("a", 5) == 3
    with pytest.raises(ArgumentError, match=r"outer: expected m as int, got 'x' \(str\)"):
        outer("a", "x")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # dynamo's
def test_a_compiler_sees_the_function_alone() -> None:
    """More calls than a compiler takes of one code object, none of which breaks its graph."""
    graph, geometry = image(), cg.KernelGeometry(2)
    torch._dynamo.reset()
    for number in range(12):
        shifted = door(lambda x, n=number: x + n)
        assert torch.compile(shifted, fullgraph=True, backend="eager")(graph.x).equal(
            graph.x + number
        )
    run = torch.compile(cg.functional.graph_avg_pool, fullgraph=True, backend="eager")
    assert run(graph, geometry).x.equal(cg.functional.graph_avg_pool(graph, geometry).x)


def test_every_public_layer_stands_behind_it_and_shows_its_own_signature() -> None:
    for name in cg.nn.__all__:
        made = getattr(cg.nn, name)
        assert hasattr(made.__init__, "__wrapped__"), name
    assert list(inspect.signature(cg.nn.GraphMaxPool2d).parameters)[:2] == ["kernel_size", "stride"]
    for name in cg.functional.__all__:
        assert hasattr(getattr(cg.functional, name), "__wrapped__"), name
