"""Maxima: right ones are proven however they are written, wrong ones refuted with a number."""

from collections.abc import Callable
from functools import reduce
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.proof import Certificate, prove_maximum
from convgraph.proof.equation.maximum_windows import adaptive_axis, kernel_axis, windows
from convgraph.proof.layer.order import codes
from convgraph.proof.layer.order.check import check_order
from tests.proof.layer.maxima_written import (
    MEETING,
    RARELY,
    RIGHT,
    SHAPE,
    SQUARES,
    TWO,
    WINDOWS,
    WRONG,
    known,
    meeting,
    places,
    rare,
    squares,
    taps,
)


def judged(run: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float32) -> Certificate:
    return prove_maximum(run, known, SHAPE, WINDOWS, dtype=dtype)


@pytest.mark.parametrize("name", RIGHT)
def test_a_maximum_is_proven_however_it_is_written(name: str) -> None:
    found = judged(RIGHT[name])
    assert found.verdict == "proven", str(found)
    assert Certificate.from_json(found.to_json()) == found


NO_NUMBER = {"in NumPy"}
"""Right on every finite image; what left torch cannot be followed."""


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_maximum_is_refuted_with_a_number(name: str) -> None:
    found = judged(WRONG[name])
    assert found.verdict == ("undecided" if name in NO_NUMBER else "refuted"), str(found)
    shown = any(char.isdigit() for char in found.reason)
    assert name in NO_NUMBER or ("shape" in found.reason or (" is " in found.reason and shown))


def test_what_is_wrong_in_one_order_alone_is_not_proven() -> None:
    found = judged(rare)
    assert found.verdict != "proven", str(found)
    premise, _ = check_order(rare, SHAPE, (WINDOWS,), dtype=torch.float32)
    assert "largest of its window" in premise.reason


def test_without_following_nothing_is_proven() -> None:
    found = prove_maximum(known, known, SHAPE, WINDOWS, premise=False)
    assert found.verdict == "undecided"
    assert "numbers that agree say nothing" in found.reason


def test_a_fast_path_for_plain_tensors_is_another_program() -> None:
    def fast(x: Tensor) -> Tensor:
        return torch.maximum(known(x), known(x)) if type(x) is Tensor else known(x)

    found = judged(fast)
    assert found.verdict == "undecided"
    assert "behaves otherwise when it is followed" in found.reason


def test_a_flag_that_the_first_call_moves_is_seen() -> None:
    calls = []

    def moves(x: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 1:
            torch.set_default_dtype(torch.float64)
        return reduce(torch.maximum, taps(x))

    found = judged(moves)
    assert (found.verdict, torch.get_default_dtype()) == ("undecided", torch.float32)
    assert "it leaves torch.get_default_dtype() at torch.float64" in found.reason


# -- wrong where no draw goes


class Own(torch.autograd.Function):
    """A maximum whose backward is its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sent: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        y, index = F.max_pool2d(x, 3, 1, 1, return_indices=True)
        ctx.save_for_backward(index)
        ctx.sent, ctx.shape = sent, x.shape
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        index, grad = index.flatten(2), ctx.sent(index, grads[0]).flatten(2)
        zero = grad.new_zeros(*ctx.shape[:2], 16)
        return zero.scatter_add(2, index, grad).view(ctx.shape), None


def product_of_gradients(_index: Tensor, g: Tensor) -> Tensor:
    return g + g[:, :, :1, :1] * g[:, :, :1, 1:2] * 1e-30


def compared_gradients(_index: Tensor, g: Tensor) -> Tensor:
    return torch.where(g[:, :, :1, :1] > 1e30, 2 * g, g)


def joined_indices(index: Tensor, g: Tensor) -> Tensor:
    wrong = (index[:, :, ::3, ::3].flatten(2) == torch.tensor([0, 3, 12, 10])).all()
    return torch.where(wrong, 2 * g, g)


@pytest.mark.parametrize("name", RARELY)
def test_a_maximum_that_is_rarely_wrong_is_not_proven(name: str) -> None:
    found = prove_maximum(RARELY[name], squares, TWO, SQUARES, dtype=torch.float32)
    assert found.verdict != "proven", str(found)


@pytest.mark.parametrize("sent", [product_of_gradients, compared_gradients, joined_indices])
def test_a_backward_that_is_rarely_wrong_is_not_proven(sent: Any) -> None:
    found = prove_maximum(lambda x: Own.apply(x, sent), meeting, TWO, MEETING, dtype=torch.float32)
    assert found.verdict != "proven", str(found)


def test_a_backward_that_moves_gradients_is_proven() -> None:
    found = prove_maximum(
        lambda x: Own.apply(x, lambda index, g: g),
        meeting,
        (1, 1, 4, 4),
        MEETING,
        dtype=torch.float32,
    )
    assert found.verdict == "proven", str(found)


def test_windows_that_do_not_meet_are_supposed_in_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = check_order(known, SHAPE, (WINDOWS,), dtype=torch.float32)
    monkeypatch.setattr("convgraph.proof.layer.order.check.MOST", 24)
    two, _ = check_order(known, SHAPE, (WINDOWS,), dtype=torch.float32)
    assert one == two


# -- suppositions side by side


@pytest.mark.parametrize("name", RIGHT)
def test_suppositions_side_by_side_say_what_each_says_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = (1, *SHAPE[1:])
    beside = check_order(RIGHT[name], shape, (WINDOWS,), dtype=torch.float32)
    monkeypatch.setattr("convgraph.proof.layer.order.check.ROOM", 1)
    alone = check_order(RIGHT[name], shape, (WINDOWS,), dtype=torch.float32)
    assert beside == alone


def last_of_the_first(x: Tensor) -> Tensor:
    """Whether the first window has its largest in its last place."""
    return places(x).flatten()[0] == 3


def read_under_each(x: Tensor) -> Tensor:
    """With one window, this is known under each supposition."""
    return -squares(-x) if bool(last_of_the_first(x)) else squares(x)


def real_under_each(x: Tensor) -> Tensor:
    return -squares(-x) if float(torch.where(last_of_the_first(x), 2.0, 1.0)) > 1 else squares(x)


def index_under_some(x: Tensor) -> Tensor:
    """With several, it is known where the first is supposed, which it leaves as it is."""
    kept = torch.tensor([1.0, 0.0, 0.0, 0.0]).view(1, 1, 2, 2)
    wrong = torch.where(kept > 0, squares(x), -squares(-x))
    both = torch.stack([squares(x), wrong])
    return both.index_select(0, last_of_the_first(x).long().view(1))[0]


ONE_SUPPOSITION = {
    "a yes or no that is read": (read_under_each, (1, 1, 2, 2)),
    "a number that is read": (real_under_each, (1, 1, 2, 2)),
    "an index": (index_under_some, (1, 1, 4, 4)),
}


@pytest.mark.parametrize("name", ONE_SUPPOSITION)
def test_what_is_known_under_one_supposition_is_not_taken_for_others(name: str) -> None:
    run, shape = ONE_SUPPOSITION[name]
    looks = windows(shape[2:], [kernel_axis(shape[2], 2, 2, 0, 1, False)] * 2)
    found, _ = check_order(run, shape, (looks,), dtype=torch.float64, frozen=("x",))
    assert found.status != "proven", str(found)


# -- what is known of entries: against every order of the numbers that they may be


def worlds() -> list[dict[int, float]]:
    """Numbers for the codes of one window: its largest, one that is less, one that may be equal."""
    low, most, top = 3 + codes.LOW, 3 + codes.AT_MOST, 3 + codes.TOP
    numbers = (-torch.inf, -1.0, 0.0, 2.0)
    return [
        {low: a, most: b, top: c}
        for a, b, c in product(numbers, repeat=3)
        if a < c and b <= c and c > -torch.inf
    ]


def entry(code: int) -> Tensor:
    return torch.tensor([complex(0, code)], dtype=torch.complex128)


@pytest.mark.parametrize(("one", "two"), [*product((3, 4, 5), repeat=2)])
def test_what_comparisons_may_say_is_all_that_they_say(one: int, two: int) -> None:
    less, equal, greater = (bool(t) for t in codes.order(entry(one), entry(two)))
    for numbers in worlds():
        a, b = numbers[one], numbers[two]
        assert less or not a < b
        assert greater or not a > b
        assert equal or a != b
    for value in (-torch.inf, 0.5, torch.inf):
        constant = codes.number(torch.tensor([value]))
        less, equal, greater = (bool(t) for t in codes.order(entry(one), constant))
        for numbers in worlds():
            assert less or not numbers[one] < value
            assert greater or not numbers[one] > value
            assert equal or numbers[one] != value


def holds(code: float, value: float, numbers: dict[int, float], low: float) -> bool:
    """Whether a number is one that a code allows."""
    if code == 0:
        return False
    if code < 0:
        return True
    top = numbers[3 + codes.TOP]
    return {codes.LOW: value < top, codes.AT_MOST: value <= top, codes.TOP: value == top}[
        int(code) % 3
    ]


@pytest.mark.parametrize("several", [*product((3, 4, 5), repeat=3)])
def test_a_peak_and_a_choice_allow_every_number_that_may_come_out(several: tuple[int, ...]) -> None:
    known_of = torch.cat([entry(code) for code in several])
    peak = codes.peak(lambda t: t.amax(0, keepdim=True), known_of)
    choice = codes.join(known_of[:1], known_of[1:2])
    for numbers in worlds():
        values = [numbers[code] for code in several]
        assert holds(float(peak.imag), max(values), numbers, -1)
        for value in values[:2]:
            assert holds(float(choice.imag), value, numbers, -1)


# -- windows


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize(
    "axis", [(7, 3, 2, 1, 1), (6, 2, 3, 1, 1), (9, 3, 2, 1, 2), (5, 2, 2, 0, 1)]
)
def test_windows_are_those_of_torch(axis: tuple[int, ...], ceil_mode: bool) -> None:
    n, kernel, stride, padding, dilation = axis
    rows = kernel_axis(n, kernel, stride, padding, dilation, ceil_mode)
    for order in [*permutations(range(n))][:: max(1, n * 97)][:200]:
        x = torch.tensor(order, dtype=torch.float64)[None, None]
        y = F.max_pool1d(x, kernel, stride, padding, dilation, ceil_mode)
        assert y.flatten().tolist() == [max(order[j] for j in row) for row in rows]


@pytest.mark.parametrize(("n", "m"), [(7, 3), (6, 3), (3, 5), (5, 5), (9, 4)])
def test_adaptive_windows_are_those_of_torch(n: int, m: int) -> None:
    rows = adaptive_axis(n, m)
    x = torch.eye(n, dtype=torch.float64)[None]
    y = F.adaptive_max_pool1d(x, m)[0]
    assert y.tolist() == [[float(q in row) for row in rows] for q in range(n)]


def test_windows_of_one_colour_do_not_meet() -> None:
    for size in ((5, 4), (7, 6)):
        made = windows(size, [kernel_axis(n, 3, 1, 1, 1, False) for n in size])
        assert sorted(np.concatenate(made.colours)) == [*range(len(made.entries))]
        for colour in made.colours:
            seen = made.entries[colour]
            assert len(set(seen[seen >= 0])) == (seen >= 0).sum()


ASKED: dict[str, Callable[[Tensor], bool]] = {
    "frozen": lambda x: x.requires_grad,
    "within": lambda x: x.is_leaf,
    "a parameter": lambda x: not isinstance(x, torch.nn.Parameter),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("manner", ASKED)
def test_what_computes_in_one_manner_alone_is_no_maximum(manner: str, dtype: torch.dtype) -> None:
    """Out of (y + s) - s integers come as out of y, and orders are followed plainly."""

    def run(x: Tensor) -> Tensor:
        y = known(x)
        other = y.detach().flip(0)
        return y if ASKED[manner](x) or x.dtype != dtype else (y + other) - other

    found = prove_maximum(run, known, SHAPE, WINDOWS, dtype=dtype)
    assert found.verdict != "proven", str(found)
    assert prove_maximum(known, known, SHAPE, WINDOWS, dtype=dtype).verdict == "proven"


HALF: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "in float32": ("proven", lambda x: known(x.float()).to(x.dtype)),
    "in float64": ("proven", lambda x: known(x.double()).to(x.dtype)),
    "cast by name": ("undecided", lambda x: known(x.float()).bfloat16()),
    "another image, cast by name": ("refuted", lambda x: known(x.flip(0).float()).bfloat16()),
    "in float16": ("refuted", lambda x: known(x.half()).to(x.dtype)),
}


@pytest.mark.parametrize("name", HALF)
def test_a_half_type_is_judged_by_what_it_does_itself(name: str) -> None:
    """Its integers are probed in float64; what differs there alone refutes nobody."""
    verdict, run = HALF[name]
    for seed in range(5):
        found = prove_maximum(run, known, SHAPE, WINDOWS, dtype=torch.bfloat16, seed=seed)
        assert found.verdict == verdict, str(found)
        assert ("by name" in name) <= (verdict == "refuted" or ".to(x.dtype)" in found.reason)


@pytest.mark.parametrize("manner", ASKED)
def test_maxima_of_a_half_type_are_held_in_every_manner(manner: str) -> None:
    def run(x: Tensor) -> Tensor:
        plainly = ASKED[manner](x) or x.dtype != torch.bfloat16
        return known(x) if plainly else known(x.flip(0))

    found = prove_maximum(run, known, SHAPE, WINDOWS, dtype=torch.bfloat16)
    assert found.verdict == "refuted", str(found)


@pytest.mark.parametrize("manner", ASKED)
def test_a_maximum_is_made_of_the_same_in_every_manner(manner: str) -> None:
    """Cut off beyond what anybody draws, by the operators that were followed."""
    pairs, pool = windows((4,), [kernel_axis(4, 2, 2, 0, 1, False)]), torch.nn.MaxPool1d(2)

    def run(x: Tensor) -> Tensor:
        least = -torch.inf if ASKED[manner](x) else -1e30
        return torch.maximum(pool(x), x.new_full((2,), least))

    found = prove_maximum(run, pool, (2, 1, 4), pairs)
    assert found.verdict == "undecided", str(found)
    assert "behaves otherwise" in found.reason


def test_a_maximum_is_made_of_what_was_followed() -> None:
    """No draw goes as far as the pad of a path for plain tensors; whoever looks for one does."""

    def run(x: Tensor) -> Tensor:
        least = -1e30 if type(x) is Tensor else -torch.inf
        return torch.nn.functional.max_pool2d(
            torch.nn.functional.pad(x, (0, 0, 1, 1), value=least), (3, 2), 2
        )

    found = judged(run)
    assert found.verdict == "refuted", str(found)
    assert "is made of other operands or constants by the same operators" in found.reason


def test_a_maximum_may_be_taken_otherwise_in_some_manner() -> None:
    """It is followed as it is called there, where gradients are and where there are none."""
    pairs, pool = windows((4,), [kernel_axis(4, 2, 2, 0, 1, False)]), torch.nn.MaxPool1d(2)

    def run(x: Tensor) -> Tensor:
        one, two = x[..., ::2], x[..., 1::2]
        return torch.maximum(two, one) if x.requires_grad and x.is_leaf else torch.maximum(one, two)

    found = prove_maximum(run, pool, (2, 1, 4), pairs)
    assert found.verdict == "proven", str(found)


@pytest.mark.parametrize("manner", ASKED)
def test_a_maximum_that_is_taken_is_the_one_that_comes_back(manner: str) -> None:
    """Both are computed in every manner, by one list of operators; integers are those of both."""
    pairs, pool = windows((4,), [kernel_axis(4, 2, 2, 0, 1, False)]), torch.nn.MaxPool1d(2)

    def run(plainly: bool, x: Tensor) -> Tensor:
        other = x.detach().flip(0)
        return (pool((x + other) - other), pool(x))[plainly]

    shape = 2, 8, 4  # so many that some real number differs
    found = prove_maximum(lambda x: run(ASKED[manner](x), x), pool, shape, pairs)
    assert found.verdict == "refuted", str(found)
    plainly = prove_maximum(lambda x: run(True, x), pool, shape, pairs)
    assert plainly.verdict == "proven", str(plainly)
