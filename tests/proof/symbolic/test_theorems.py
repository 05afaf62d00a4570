"""The proof for all sizes: it holds, it fails where a formula is wrong, and it is about this code.

z3 sees the expressions of `proof/symbolic/axis.py`; that they are those of `geometry/kernel.py` is
shown on every axis of a box of numbers, and that the equation is the oracle's, on the same box.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from convgraph.errors import GeometryError, MissingExtraError, ProofError
from convgraph.geometry.kernel import KernelGeometry
from convgraph.proof import ConvSpec, Oracle, prove_all_sizes
from convgraph.proof.symbolic import Builder, Statement, SymbolicProof, arithmetic, axis
from convgraph.proof.symbolic.arithmetic import Numbers, Symbols
from convgraph.proof.symbolic.axis import MODES, Axis
from convgraph.proof.symbolic.theorems import Question, theorems

at = Numbers()


@pytest.fixture(scope="module")
def proof() -> SymbolicProof:
    return prove_all_sizes()


def test_every_claim_is_proven_for_kernels_up_to_seven(proof: SymbolicProof) -> None:
    assert proof.verdict == "proven", str(proof)
    assert {s.status for s in proof.statements} == {"proven"}
    assert {s.kind for s in proof.statements} == {*MODES, "transposed", "flat numbers"}
    assert {s.questions for s in proof.statements} == {1, 7, 28}


def test_the_record_prints_and_goes_to_json(proof: SymbolicProof) -> None:
    text = str(proof)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "every edge of the equation is built" in text
    assert "assumed" in text
    assert "not covered" in text
    assert json.loads(json.dumps(proof.to_dict()))["verdict"] == "proven"
    with pytest.raises(ProofError, match="no bool"):
        bool(proof)


# The formulas on trial are the ones of the running code


def axes() -> Iterator[tuple[Axis, KernelGeometry | None]]:
    """Every axis of a box, with the geometry that says the same; None where it refuses."""
    box = product(range(1, 6), range(1, 4), range(3), range(3), range(1, 4), range(1, 5))
    for (size, stride, before, after, dilation, kernel), kind in product(
        box, (*MODES, "transposed")
    ):
        transposed = kind == "transposed"
        for extra in range(3) if transposed else (0,):
            mode = "zeros" if transposed else kind
            one = Axis(size, stride, before, after, dilation, kernel, mode, transposed, extra)
            try:
                geometry = KernelGeometry(
                    kernel, stride, ((before, after),), dilation, mode, transposed, extra, d=1
                )
                geometry.output_size((size,))
            except GeometryError:
                yield one, None
            else:
                yield one, geometry


def test_the_builder_s_expressions_are_geometry_s_and_the_equation_s() -> None:
    accepted = 0
    for one, geometry in axes():
        assert axis.accepted(one, at) == (geometry is not None), one
        if geometry is None:
            continue
        accepted += 1
        table = geometry.axis_sources(0, one.size)
        assert axis.builder_size(one, at) == len(table), one
        built = [
            [axis.builder_source(one, p, tap, at) for tap in range(one.kernel)]
            for p in range(len(table))
        ]
        assert built == table.tolist(), one
    assert accepted > 7_000


def test_the_equation_is_the_oracle_s() -> None:
    """The relation with witnesses, spelled out, against rows that are laid out and read."""
    for number, (one, geometry) in enumerate(axes()):
        if geometry is None or number % 23:
            continue
        spec = ConvSpec(
            1, 1, (one.kernel,), (one.size,), batch=1, stride=(one.stride,),
            padding=((one.before, one.after),), dilation=(one.dilation,), padding_mode=one.mode,
            transposed=one.transposed, output_padding=(one.output_padding,),
        )  # fmt: skip
        edges = Oracle(spec).edges
        listed = set(zip(edges.target.tolist(), edges.tap.tolist(), edges.source.tolist()))  # noqa: B905
        assert listed == {
            (p, tap, q)
            for p in range(edges.out_size[0] + 2)
            for tap in range(one.kernel)
            for q in range(one.size)
            if axis.is_site(one, p, at) and axis.hears_in_numbers(one, p, tap, q, at)
        }, one


@pytest.mark.parametrize("kind", [*MODES, "transposed"])
def test_symbols_compute_what_numbers_do(kind: str) -> None:
    """Known sizes put for the symbols leave one answer: that of Python's integers."""
    z3 = arithmetic.load_z3()
    mode, transposed = ("zeros", True) if kind == "transposed" else (kind, False)
    numbers = Axis(5, 2, 2, 1, 2, 3, mode, transposed, 1 if transposed else 0)
    names = ("size", "stride", "before", "after", "dilation")
    for p, tap in product(range(3), range(3)):
        symbols = Symbols()
        terms = {name: z3.Int(name) for name in names}
        known = {name: getattr(numbers, name) for name in ("size", "stride")}
        symbolic = replace(numbers, **{**terms, **known})
        want = axis.builder_source(numbers, p, tap, at)
        found = axis.builder_source(symbolic, z3.IntVal(p), tap, symbols)
        solver = z3.Solver()
        solver.add(*symbols.facts, *(terms[n] == getattr(numbers, n) for n in names))
        assert solver.check() == z3.sat
        solver.add(found != want)
        assert solver.check() == z3.unsat


# Wrong formulas are refuted, on an axis that anybody can check


def shifted(one: Axis, p: Any, tap: int, arith: Any) -> Any:
    return axis.builder_source(replace(one, before=one.before + 1), p, tap, arith)


def swapped(one: Axis, p: Any, tap: int, arith: Any) -> Any:
    wrong = replace(one, stride=one.dilation, dilation=one.stride)
    return axis.builder_source(wrong, p, tap, arith)


def other_mode(mode: str) -> Any:
    return lambda one, p, tap, arith: axis.builder_source(replace(one, mode=mode), p, tap, arith)


def off_by(step: int) -> Any:
    return lambda one, arith: axis.builder_size(one, arith) + step


def rounded_up(one: Axis, arith: Any) -> Any:
    span = one.size + one.before + one.after - one.span - 1
    return arith.quotient(span + one.stride - 1, one.stride) + 1


def flipped(one: Axis, p: Any, tap: int, arith: Any) -> Any:
    return axis.builder_source(one, p, one.kernel - 1 - tap, arith)


def unmasked(one: Axis, p: Any, tap: int, arith: Any) -> Any:
    return arith.times(p, one.stride) - one.before + tap * one.dilation


def border_repeated(one: Axis, p: Any, tap: int, arith: Any) -> Any:
    """Reflect that shows the border pixel twice."""
    q = arith.times(p, one.stride) - one.before + tap * one.dilation
    q = arith.where(q < 0, -q - 1, q)
    q = arith.where(q >= one.size, 2 * one.size - 1 - q, q)
    return arith.where(arith.either(q < 0, q >= one.size), -1, q)


PLANTED: dict[str, tuple[str, bool, Builder]] = {
    "padding is shifted": ("zeros", False, Builder(source=shifted)),
    "padding is shifted, circular": ("circular", False, Builder(source=shifted)),
    "padding is shifted, transposed": ("zeros", True, Builder(source=shifted)),
    "reflect instead of replicate": ("replicate", False, Builder(source=other_mode("reflect"))),
    "replicate instead of reflect": ("reflect", False, Builder(source=other_mode("replicate"))),
    "zeros instead of circular": ("circular", False, Builder(source=other_mode("zeros"))),
    "circular instead of zeros": ("zeros", False, Builder(source=other_mode("circular"))),
    "the border is repeated": ("reflect", False, Builder(source=border_repeated)),
    "one site too many": ("zeros", False, Builder(size=off_by(1))),
    "one site too few": ("circular", False, Builder(size=off_by(-1))),
    "one site too many, transposed": ("zeros", True, Builder(size=off_by(1))),
    "sites rounded up": ("zeros", False, Builder(size=rounded_up)),
    "stride and dilation swapped": ("zeros", False, Builder(source=swapped)),
    "stride and dilation swapped, reflect": ("reflect", False, Builder(source=swapped)),
    "the kernel is flipped": ("zeros", False, Builder(source=flipped)),
    "sources outside of the lattice": ("zeros", False, Builder(source=unmasked)),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_wrong_formula_is_refuted_on_a_concrete_axis(name: str) -> None:
    mode, transposed, builder = PLANTED[name]
    modes = [] if transposed else [mode]
    found = prove_all_sizes(3, modes, transposed=transposed, builder=builder)
    assert found.verdict == "refuted", str(found)
    wrong = [s for s in found.statements if s.status == "refuted"]
    for statement in wrong:
        assert is_one(statement, mode, transposed, builder), statement
        assert f"size {statement.counterexample['size']}" in " ".join(str(found).split())


def is_one(statement: Statement, mode: str, transposed: bool, builder: Builder) -> bool:
    """Whether the axis of a counterexample is accepted, and the claim fails on it."""
    values = dict(statement.counterexample)
    tap, kernel = values.pop("tap"), values.pop("kernel")
    places = {name: values.pop(name, 0) for name in ("p", "q", "p2")}
    one = Axis(**values, kernel=kernel, mode=mode, transposed=transposed)
    claim = next(t for t in theorems(mode, transposed=transposed) if t.name == statement.claim)
    question = Question(one, builder, tap)
    return axis.accepted(one, at) and not claim.holds(question, places)


# What is not decided is not proven


def test_an_answer_that_does_not_come_is_undecided() -> None:
    """A product that the lemma says too little of: true, but not shown."""

    def squared(one: Axis, p: Any, tap: int, arith: Any) -> Any:
        zero = arith.times(arith.times(p, one.stride), one.stride)
        zero = zero - arith.times(p, arith.times(one.stride, one.stride))
        return axis.builder_source(one, p, tap, arith) + zero

    found = prove_all_sizes(1, ["zeros"], transposed=False, builder=Builder(source=squared))
    assert found.verdict == "undecided"
    assert "undecided: kernel 1, tap 0" in " ".join(str(found).split())


def test_nothing_claimed_is_undecided() -> None:
    assert SymbolicProof((), 7, "none", 0.0).verdict == "undecided"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [((0,), "1 to 16 taps, got 0"), ((3, ["mirror"]), r"got \['mirror'\]")],
)
def test_what_cannot_be_asked_is_refused(arguments: Any, text: str) -> None:
    with pytest.raises(ProofError, match=text):
        prove_all_sizes(*arguments)


def test_a_missing_solver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "z3", None)
    with pytest.raises(MissingExtraError, match="pip install z3-solver"):
        prove_all_sizes()
