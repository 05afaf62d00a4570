"""What is derived is kept as long as somebody asks for it; the longest unasked-for goes first."""

import io
import pickle

import pytest
import torch

import convgraph as cg
from convgraph import memo as memory
from convgraph.errors import GraphError
from convgraph.graph import sites
from tests.cases import holes


def test_the_longest_unasked_for_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MEMO_LIMIT", 3)
    memo, made = memory.Memo(), []

    def ask(key: str) -> str:
        return memory.once(memo, key, lambda: made.append(key) or key)

    for key in "abcabd":  # c was not asked for the longest
        assert ask(key) == key
    assert list(memo) == ["a", "b", "d"]
    assert made == ["a", "b", "c", "d"]
    ask("a")
    ask("c")  # a is young again, so b goes
    assert list(memo) == ["d", "a", "c"]
    assert made == ["a", "b", "c", "d", "c"]


def test_none_is_an_answer_too() -> None:
    memo, made = memory.Memo(), []
    for _ in range(2):
        assert memory.once(memo, "nothing", lambda: made.append(1)) is None
    assert made == [1]


def test_a_memo_is_equal_to_itself_only() -> None:
    one, two = memory.Memo(), memory.Memo()
    assert one == one
    assert one != two
    assert len({one, two}) == 2


@pytest.mark.parametrize("masked", [False, True])
def test_a_graph_follows_its_features_to_where_they_are_loaded(masked: bool) -> None:
    graph = cg.PixelGraph.from_image(torch.rand(2, 3, 4, 5), holes(2, (4, 5)) if masked else None)
    reached = cg.nn.GraphConv2d(3, 2, 3, stride=2, padding=1)(graph)  # sites with a root
    for one in (graph, reached):
        file = io.BytesIO()
        torch.save(one, file)
        for place in ("cpu", "meta"):
            file.seek(0)
            found = torch.load(file, map_location=place, weights_only=False)
            assert found.x.device == found.sites.device == torch.device(place)
            assert found.sites.root.device == torch.device(place)
            assert found.num_nodes == one.num_nodes
            assert found.sites.sizes == one.sites.sizes
        again = pickle.loads(pickle.dumps(one))
        assert torch.equal(again.pos, one.pos)
        assert torch.equal(again.sites.root.pos, one.sites.root.pos)


def test_a_mask_without_values_is_still_held_to_what_it_can_hold() -> None:
    mask = torch.ones(12, dtype=torch.bool, device="meta")
    fields = {"d": 2, "batched": True}
    for nodes in (-1, 13, "7", None):
        with pytest.raises(GraphError, match="the file was not written"):
            sites._check_loaded((3, 4), ((3, 4),), mask, None, {**fields, "num_nodes": nodes})
    sites._check_loaded((3, 4), ((3, 4),), mask, None, {**fields, "num_nodes": 7})
