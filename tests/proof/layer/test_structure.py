"""S0 in one pass and S0 by counting: both see every planted fault, neither asks for an order."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from convgraph.proof import ConvSpec, Oracle
from convgraph.proof.layer import structure
from convgraph.proof.layer.structure import check_structure

SPECS = {
    "plain": ConvSpec(1, 1, (3, 3), (4, 5), padding=((1, 1), (1, 1))),
    "strided": ConvSpec(1, 1, (3, 2), (5, 5), stride=(2, 1), padding=((1, 0), (0, 2))),
    "replicate": ConvSpec(1, 1, (3, 3), (3, 4), padding=((2, 1), (1, 1)), padding_mode="replicate"),
    "circular": ConvSpec(1, 1, (3,), (2,), padding=((2, 2),), padding_mode="circular"),
    "transposed": ConvSpec(1, 1, (3, 3), (3, 3), stride=(2, 2), transposed=True),
    "masked": ConvSpec(
        1, 1, (3, 3), (4, 4), padding=((1, 1), (1, 1)),
        source_mask=np.random.default_rng(0).random((2, 4, 4)) > 0.3,
    ),
}  # fmt: skip

Edges = tuple[Any, Any, Any]
FAULTS: dict[str, Callable[[Edges, Any], Edges]] = {
    "wrong source": lambda e, at: (_put(e[0], at, (e[0][at] + 1) % max(2, e[0].max() + 1)), *e[1:]),
    "wrong target": lambda e, at: (e[0], _put(e[1], at, (e[1][at] + 1) % (e[1].max() + 1)), e[2]),
    "wrong type": lambda e, at: (*e[:2], _put(e[2], at, (e[2][at] + 1) % (e[2].max() + 1))),
    "duplicate": lambda e, at: _each(e, lambda v: np.append(v, v[at])),
    "one for another": lambda e, at: _each(e, lambda v: _put(v, at, v[at - 1])),
    "missing": lambda e, at: _each(e, lambda v: np.delete(v, at)),
    "types exchanged": lambda e, at: (*e[:2], _swapped(e[2], e[2], at)),
    "sources exchanged": lambda e, at: (_swapped(e[0], e[0], at), *e[1:]),
    "reversed": lambda e, at: (e[1], e[0], e[2]),
    "outside": lambda e, at: (_put(e[0], at, -1), *e[1:]),
}


def _put(values: Any, at: int, value: Any) -> Any:
    made = values.copy()
    made[at] = value
    return made


def _each(edges: Edges, change: Callable[[Any], Any]) -> Edges:
    one, two, three = (change(values) for values in edges)
    return one, two, three


def _swapped(values: Any, key: Any, at: int) -> Any:
    """Exchange an entry with the next that is not the same."""
    other = int(np.flatnonzero(key != key[at])[0])
    made = values.copy()
    made[[at, other]] = made[[other, at]]
    return made


def truth(spec: ConvSpec) -> tuple[Oracle, Edges]:
    oracle = Oracle(spec)
    return oracle, (oracle.edges.source, oracle.edges.target, oracle.edges.tap)


def counted(oracle: Oracle, edges: Edges, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The verdict without the fast path."""
    with monkeypatch.context() as patch:
        patch.setattr(structure, "_same", lambda *_: False)
        return check_structure(oracle, *edges)


@pytest.mark.parametrize("name", SPECS)
def test_the_order_of_edges_says_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle, edges = truth(SPECS[name])
    order = np.random.default_rng(1).permutation(len(edges[0]))
    shuffled = _each(edges, lambda v: v[order])
    assert structure._same(oracle, *shuffled)  # nothing is left to the slower way
    assert check_structure(oracle, *shuffled).status == "proven"
    assert counted(oracle, shuffled, monkeypatch) == check_structure(oracle, *shuffled)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", SPECS)
def test_a_planted_fault_is_seen_both_ways(
    name: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle, edges = truth(SPECS[name])
    for at in (0, len(edges[0]) // 2, len(edges[0]) - 1):
        wrong = FAULTS[fault](edges, at)
        if _multiset(wrong) == _multiset(edges):  # e.g. reversed, where that is the same graph
            continue
        found = check_structure(oracle, *wrong)
        assert found.status == "refuted", (at, found)
        assert found == counted(oracle, wrong, monkeypatch)
        if fault not in ("reversed", "outside"):
            assert (found.missing, found.extra) == _difference(edges, wrong)


def _multiset(edges: Edges) -> list[tuple[int, ...]]:
    return sorted(zip(*(values.tolist() for values in edges), strict=True))


def _difference(edges: Edges, wrong: Edges) -> tuple[int, int]:
    """Edges lacked and edges too many, counted one by one."""
    left, extra = _multiset(edges), 0
    for edge in _multiset(wrong):
        if edge in left:
            left.remove(edge)
        else:
            extra += 1
    return len(left), extra


def test_a_fast_path_that_believes_everything_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The faults above reach the fast path: were it wrong, they would pass."""
    monkeypatch.setattr(structure, "_same", lambda *_: True)
    oracle, edges = truth(SPECS["plain"])
    passed = [f for f in FAULTS if check_structure(oracle, *FAULTS[f](edges, 3)).status == "proven"]
    assert passed == [name for name in FAULTS if name != "outside"]


@pytest.mark.parametrize("weakness", ["length", "repeats", "sources"])
def test_each_of_its_three_questions_is_needed(weakness: str) -> None:
    """Leave one of them out, and a fault is there that only it sees."""
    oracle, edges = truth(SPECS["plain"])
    shown = {"length": "missing", "repeats": "one for another", "sources": "wrong source"}
    wrong = FAULTS[shown[weakness]](edges, 7)
    sites = oracle.spec.batch * int(np.prod(oracle.out_size))
    place = wrong[2] * sites + wrong[1]
    expected = np.full(oracle.spec.taps * sites, -1)
    expected[edges[2] * sites + edges[1]] = edges[0]
    holds = {
        "length": len(wrong[0]) == len(edges[0]),
        "repeats": bool(np.bincount(place).max() == 1),
        "sources": np.array_equal(expected[place], wrong[0]),
    }
    assert [name for name, held in holds.items() if not held] == [weakness]
    assert not structure._same(oracle, *wrong)
