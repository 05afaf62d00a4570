"""The theorems, as questions to a solver: is there an axis on which this fails?

Each is asked for one kernel length and one tap with everything else symbolic; "unsat" means that
there is none, so the theorem holds for all sizes. A theorem returns the negation of its claim and
the claim itself on numbers, which says whether a counterexample is one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, final

from convgraph.proof.symbolic.arithmetic import Numbers, Symbols, Term
from convgraph.proof.symbolic.axis import (
    Axis,
    Builder,
    accepted,
    hears,
    hears_in_numbers,
    is_site,
    witnesses,
)


@final
@dataclass(frozen=True)
class Question:
    """One theorem on one axis and one tap.

    Attributes:
        axis: its integers.
        builder: what is on trial.
        tap: kernel position.
    """

    axis: Axis
    builder: Builder
    tap: int


Fails = Callable[[Question, Symbols], Any]
Holds = Callable[[Question, dict[str, int]], bool]


@final
@dataclass(frozen=True)
class Theorem:
    """A claim about one axis.

    Attributes:
        name: in one line.
        fails: the negation, as a z3 formula over the symbols p, q, ... and those of the axis.
        holds: the claim on numbers, for the p and q of a model.
        per_tap: whether it speaks of a tap, or of the axis alone.
    """

    name: str
    fails: Fails
    holds: Holds
    per_tap: bool = True


def _p(at: Symbols, name: str = "p") -> Term:
    return at.z3.Int(name)


def _built(question: Question, p: Term, at: Any) -> tuple[Any, Term]:
    """Whether the builder lists site p, and the source it gives it."""
    size = question.builder.size(question.axis, at)
    source = question.builder.source(question.axis, p, question.tap, at)
    return at.both(p >= 0, p < size), source


# The sites of the output are those that the equation has


def _sites_fail(question: Question, at: Symbols) -> Any:
    p = _p(at)
    listed = at.z3.And(p >= 0, p < question.builder.size(question.axis, at))
    return at.z3.Xor(listed, is_site(question.axis, p, at))


def _sites_hold(question: Question, values: dict[str, int]) -> bool:
    at, p = Numbers(), values["p"]
    listed = 0 <= p < question.builder.size(question.axis, at)
    return bool(listed == is_site(question.axis, p, at))


# Every edge that is built is one of the equation


def _sound_fails(question: Question, at: Symbols) -> Any:
    p, axis = _p(at), question.axis
    listed, source = _built(question, p, at)
    if axis.mode == "replicate":
        truth = hears(axis, p, question.tap, source, at.z3.Int("rival"), at)
    else:
        truth = at.either(
            *(
                hears(axis, p, question.tap, source, witness, at)
                for witness in witnesses(axis, p, question.tap, at)
            )
        )
    edge = at.z3.And(listed, source != -1)
    return at.z3.And(edge, at.z3.Not(at.z3.And(is_site(axis, p, at), truth)))


def _relation_holds(question: Question, values: dict[str, int]) -> bool:
    at, axis, p = Numbers(), question.axis, values["p"]
    listed, source = _built(question, p, at)
    for q in range(-2, axis.size + 2):
        built = listed and source == q and source != -1
        true = is_site(axis, p, at) and hears_in_numbers(axis, p, question.tap, q, at)
        if bool(built) != bool(true):
            return False
    return True


# Every edge of the equation is built


def _complete_fails(question: Question, at: Symbols) -> Any:
    p, q, axis = _p(at), at.z3.Int("q"), question.axis
    listed, source = _built(question, p, at)
    witness = source if axis.mode == "replicate" else at.z3.Int("periods")
    truth = at.z3.And(is_site(axis, p, at), hears(axis, p, question.tap, q, witness, at))
    if axis.mode == "replicate":  # no rival is nearer, whichever is named
        for rival in (0, axis.size - 1, q - 1, q + 1):
            truth = at.z3.And(truth, hears(axis, p, question.tap, q, rival, at))
    return at.z3.And(truth, at.z3.Not(at.z3.And(listed, source == q)))


# One tap brings a site at most one message, and zero padding sends a pixel's message to one site


def _function_fails(question: Question, at: Symbols) -> Any:
    p, q, other, axis = _p(at), at.z3.Int("q"), at.z3.Int("q2"), question.axis
    one, two = at.z3.Ints("periods periods2")
    heard = [is_site(axis, p, at), q != other]
    # The nearest pixel is nearer than every rival: than the other one, and than the neighbours.
    rivals = (other, q - 1, q + 1) if axis.mode == "replicate" else (one,)
    heard += [hears(axis, p, question.tap, q, rival, at) for rival in rivals]
    rivals = (q, other - 1, other + 1) if axis.mode == "replicate" else (two,)
    heard += [hears(axis, p, question.tap, other, rival, at) for rival in rivals]
    return at.z3.And(*heard)


def _function_holds(question: Question, values: dict[str, int]) -> bool:
    at, axis, p = Numbers(), question.axis, values["p"]
    heard = [q for q in range(axis.size) if hears_in_numbers(axis, p, question.tap, q, at)]
    return len(heard) <= 1


def _injective_fails(question: Question, at: Symbols) -> Any:
    p, other = _p(at), at.z3.Int("p2")
    one, source = _built(question, p, at)
    two, again = _built(question, other, at)
    return at.z3.And(one, two, p != other, source == again, source != -1)


def _injective_holds(question: Question, values: dict[str, int]) -> bool:
    at = Numbers()
    listed, source = _built(question, values["p"], at)
    other, again = _built(question, values["p2"], at)
    same = listed and other and values["p"] != values["p2"] and source == again != -1
    return not same


# A transposed axis has the edges of a forward one on its output, with the arrows reversed


def _forward(question: Question, at: Any) -> Axis:
    length = question.builder.size(question.axis, at)
    return replace(question.axis, size=length, transposed=False, output_padding=0)


def _reversed_fails(question: Question, at: Symbols) -> Any:
    p, q, axis = _p(at), at.z3.Int("q"), question.axis
    listed, source = _built(question, p, at)
    forward = question.builder.source(_forward(question, at), q, question.tap, at)
    inside = at.z3.And(q >= 0, q < axis.size)
    transposed = at.z3.And(listed, source == q)
    return at.z3.And(inside, p >= 0, at.z3.Xor(transposed, forward == p))


def _reversed_holds(question: Question, values: dict[str, int]) -> bool:
    at, p, q = Numbers(), values["p"], values["q"]
    if not 0 <= q < question.axis.size or p < 0:
        return True
    listed, source = _built(question, p, at)
    forward = question.builder.source(_forward(question, at), q, question.tap, at)
    return bool((listed and source == q) == (forward == p))


def _back_fails(question: Question, at: Symbols) -> Any:
    forward = _forward(question, at)
    again = question.builder.size(forward, at)
    small = question.axis.output_padding < question.axis.stride
    return at.z3.And(small, again != question.axis.size)


def _back_holds(question: Question, values: dict[str, int]) -> bool:
    at, axis = Numbers(), question.axis
    again = question.builder.size(_forward(question, at), at)
    return bool(axis.output_padding >= axis.stride or again == axis.size)


def _same_fails(question: Question, at: Symbols) -> Any:
    axis = question.axis
    half = at.quotient(axis.span, 2) if not isinstance(axis.span, int) else axis.span // 2
    same = replace(axis, stride=1, before=half, after=axis.span - half)
    return question.builder.size(same, at) != axis.size


def _same_holds(question: Question, values: dict[str, int]) -> bool:
    axis = question.axis
    half = axis.span // 2
    same = replace(axis, stride=1, before=half, after=axis.span - half)
    return bool(question.builder.size(same, Numbers()) == axis.size)


SITES = Theorem("output sites are the whole windows", _sites_fail, _sites_hold, per_tap=False)
SOUND = Theorem("every built edge is one of the equation", _sound_fails, _relation_holds)
COMPLETE = Theorem("every edge of the equation is built", _complete_fails, _relation_holds)
FUNCTION = Theorem("a tap: at most one source a site", _function_fails, _function_holds)
INJECTIVE = Theorem("a tap: at most one site a source", _injective_fails, _injective_holds)
REVERSED = Theorem("edges are the forward kernel's, reversed", _reversed_fails, _reversed_holds)
BACK = Theorem("the forward kernel leads back to the size", _back_fails, _back_holds, per_tap=False)
SAME = Theorem("padding 'same' keeps the size", _same_fails, _same_holds, per_tap=False)


def theorems(mode: str, *, transposed: bool) -> Iterator[Theorem]:
    """The theorems about one kind of axis."""
    yield from (SITES, SOUND, COMPLETE, FUNCTION)
    if mode == "zeros":
        yield INJECTIVE
        if not transposed:
            yield SAME
    if transposed:
        yield from (REVERSED, BACK)


def assumptions(question: Question, at: Any) -> Any:
    """What is asked of an axis before anything is claimed: that the builder accepts it."""
    return accepted(question.axis, at)
