"""Whose window an entry follows from: what is another's says nothing of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.proof import trees
from convgraph.proof.layer.order import check, codes
from convgraph.proof.layer.order.check import check_order
from convgraph.proof.layer.order.follower import Follower
from convgraph.proof.layer.order.ordered_tensor import Memory, Ordered
from convgraph.proof.layer.order.whose import SEVERAL, together
from convgraph.proof.layer.premise.call import Refusal
from convgraph.proof.layer.premise.follower import Mode
from tests.proof.layer.maxima_written import (
    RARELY,
    RIGHT,
    SHAPE,
    SQUARES,
    TWO,
    WINDOWS,
    WRONG,
    compared,
    corners,
    places,
)  # fmt: skip
from tests.proof.layer.order_operators import OPERATORS, Run, some
from tests.proof.layer.order_operators import SHAPE as IMAGE
from tests.proof.layer.order_operators import places as places_of

WINDOWS_OF_SOME = (1, 2)
"""The windows of which `some` knows entries."""


def test_what_two_say_is_of_both() -> None:
    for one in (0.0, 1.0, 2.0, SEVERAL):
        for two in (0.0, 1.0, 2.0, SEVERAL):
            said = {one, two} - {0.0}
            want = said.pop() if len(said) == 1 else SEVERAL if said else 0.0
            assert float(together(torch.tensor(one), torch.tensor(two))) == want


MORE: dict[str, tuple[Run, ...]] = {
    "where another row says": (
        lambda x: x.flip(1).gather(2, places_of(x)), lambda x: x.flip(0).take(places_of(x)),
        lambda x: x.flip(1).index_select(2, places_of(x)[1, 1]),
        lambda x: x.flip(1)[:, :, places_of(x)[1, 1]],
        lambda x: F.embedding(places_of(x)[1, 1], x.mT[0]),
    ),
    "put where another row says": (
        lambda x: x.index_copy(2, places_of(x)[1, 1], x[:, :, :1]),
        lambda x: x.index_fill(2, places_of(x)[1, 1], 1.0),
        lambda x: x.index_put((places_of(x)[1, 1] // 2,), x[1]),
        lambda x: torch.zeros_like(x).scatter_add(2, places_of(x).flip(1), x[..., :1]),
        lambda x: torch.zeros_like(x).index_put((places_of(x)[0, 0] // 2,), x[:1], accumulate=True),
        lambda x: torch.zeros_like(x).index_add(2, places_of(x)[1, 1], x[..., :1]),
        lambda x: x.scatter(2, places_of(x).flip(1), x[..., :1]),
    ),
    "chosen by another row": (
        lambda x: torch.where(x > x[:, :, :1], x.flip(1), x.flip(0)),
        lambda x: torch.where((places_of(x) > 1).flip(1), x, x.clone()),
    ),
    "counted": (lambda x: (places_of(x) > 1).sum(1), lambda x: (places_of(x) > 1).any(0)),
}  # fmt: skip


def of_two(generator: torch.Generator) -> Tensor:
    """Rows of which the largest entry is known, each in one of two windows; or of anything."""
    known = some(generator)[:1]
    rows = (*known.shape[:-1], 1)
    window = torch.randint(1, 3, rows, generator=generator)
    largest = torch.randint(0, IMAGE[2], rows, generator=generator)
    at = torch.arange(IMAGE[2]) == largest
    code = 3 * window + codes.TOP * at
    row = torch.complex(torch.zeros(code.shape).double(), code.double())
    return torch.where(torch.rand(rows, generator=generator) < 0.8, row, known)


def followed(run: Run, known: Tensor, whose: Tensor | None) -> list[Any] | None:
    """What comes out, followed; None where it is refused."""
    follower = Follower(torch.float64)
    try:
        with Mode(follower):
            return trees.leaves(run(follower.enter(known, False, whose)))
    except Refusal:
        return None


def owner(known: Tensor) -> Tensor:
    return torch.where(known.imag > 0, (known.imag / 3).floor(), 0.0)


def of(made: Any) -> Tensor:
    found = made.whose()
    return torch.zeros(made.knows().shape) if found is None else found


def same(one: Tensor, two: Tensor) -> Tensor:
    return (one == two) | (one.real.isnan() & two.real.isnan())


@pytest.mark.parametrize("name", [*OPERATORS, *MORE])
def test_what_is_known_of_other_windows_changes_nothing(name: str) -> None:
    generator, alone = torch.Generator().manual_seed(len(name)), 0
    for run in (OPERATORS | MORE)[name]:
        for _ in range(8):
            known, other = of_two(generator), of_two(generator)
            whose = owner(known)
            made = followed(run, known, whose)
            for window in WINDOWS_OF_SOME:
                kept = (whose == 0) | (whose == window)
                moved = followed(run, torch.where(kept, known, other), None)
                if made is None or moved is None:
                    continue
                for one, two in zip(made, moved, strict=True):
                    mine = (of(one) == 0) | (of(one) == window)
                    assert same(one.knows(), two.knows())[mine].all()
                    alone += int((of(one) == window).sum())
    assert alone


def test_some_entry_nobody_knows_which_is_of_all_that_it_may_be() -> None:
    known = codes.some(torch.zeros(1, *IMAGE), codes.ANY)
    known[0, 0, 0, 1] = complex(0, 3 * 2 + codes.TOP)
    (made,) = followed(MORE["where another row says"][0], known, owner(known)) or []
    assert (of(made) == 2).all()


# -- gradients: what is sent to one window arrives where that window says, whatever others say

SENT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "scatter_add": lambda g, at: torch.zeros(2, 3, 6, dtype=g.dtype).scatter_add(2, at, g),
    "index_put": lambda g, at: torch.zeros(24, dtype=g.dtype).index_put(
        (at.flatten(),), g.flatten(), accumulate=True
    ),
    "chosen": lambda g, at: torch.where(at > 1, g, 0.0).sum(1),
    "chosen of equals": lambda g, at: torch.where(at > 1, g, g.clone()),
    "multiplied": lambda g, at: g * (at > 1),
}


def tokens(whose: Tensor) -> Tensor:
    """What is sent to windows: to each its own, and 0 to nobody."""
    return torch.complex(torch.zeros(whose.shape).double(), (3.0 * whose + codes.TOP) * (whose > 0))


def sent(name: str, to: Tensor, spans: Tensor, whose: Tensor, *, told: bool) -> Any:
    """What becomes of tokens at places that are known, more or less."""
    follower = Follower(torch.float64)
    own = whose.flatten(1) if told else None
    memory = Memory(None, spans.flatten(1), torch.int64, own, decided=True)
    with Mode(follower):
        at = Ordered(torch.zeros(IMAGE, dtype=torch.int64), memory, follower)
        return SENT[name](follower.send(tokens(to), to if told else None), at)


@pytest.mark.parametrize("name", SENT)
def test_a_gradient_goes_where_its_window_says(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    shape, arrived = (1, *IMAGE), 0

    def draw(high: int) -> Tensor:
        return torch.randint(0, high, shape, generator=generator).double()

    for _ in range(80):
        to, at, other = draw(6) * (draw(5) > 2), draw(4), draw(4)
        whose = torch.where(draw(10) < 7, to, draw(6))
        spans = torch.complex(at, torch.where(draw(20) < 1, 3.0, at))
        made = sent(name, to, spans, whose, told=True)
        for window in range(1, 6):
            kept = (whose == 0) | (whose == window)
            moved = torch.where(kept, spans, codes.whole(other))
            alone = sent(name, to * (to == window), moved, whose, told=False).knows()
            known = made.knows()
            own, told = of(made) == window, of(made) != SEVERAL
            assert (alone == 0)[told & ~own].all()
            assert same(known, alone)[own].all()
            arrived += int((known != 0)[own].sum())
    assert arrived


# -- programs


def separately(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suppose each window by itself, as where nobody knows whose an entry is."""
    groups = check._groups

    def without(*args: Any, apart: bool = False) -> Any:
        return (check.Premise("undecided"), False) if apart else groups(*args)

    monkeypatch.setattr(check, "_groups", without)


PROGRAMS = [(run, SHAPE, WINDOWS) for run in (*RIGHT.values(), *WRONG.values())]
PROGRAMS += [(run, TWO, SQUARES) for run in RARELY.values()]


def test_what_is_proven_together_is_proven_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    together_ = [check_order(run, at, (looks,), dtype=torch.float32) for run, at, looks in PROGRAMS]
    separately(monkeypatch)
    for (run, at, looks), found in zip(PROGRAMS, together_, strict=True):
        alone = check_order(run, at, (looks,), dtype=torch.float32)
        assert (found[0].status, found[1]) == (alone[0].status, alone[1])


def harmless(x: Tensor) -> Tensor:
    """What another image says counts for nothing, which only each by itself shows."""
    index = places(x)[..., None]
    return corners(x).gather(-1, index + 0 * index.flip(0)).squeeze(-1)


def test_programs_that_compare_take_as_many_runs_as_a_window_has_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check, "MOST", 24)
    assert check_order(compared, SHAPE, (WINDOWS,), dtype=torch.float32)[0].status == "proven"
    found, _ = check_order(harmless, TWO, (SQUARES,), dtype=torch.float32)
    assert "in 16 groups take 64 runs, more than 24" in found.reason
    monkeypatch.undo()
    assert check_order(harmless, TWO, (SQUARES,), dtype=torch.float32)[0].status == "proven"


def read_whether_all(x: Tensor) -> Tensor:
    """All windows have their largest in one place where that is supposed of all."""
    found = places(x)
    if bool((found == found.flatten()[0]).all()):
        return corners(x).gather(-1, found[..., None]).squeeze(-1)
    return -corners(-x).amax(-1)


def test_what_windows_decide_together_is_not_read() -> None:
    found, _ = check_order(read_whether_all, TWO, (SQUARES,), dtype=torch.float32)
    assert found.status != "proven"
