"""For all sizes: the edge builder's integers equal the equation, checked by a machine.

    print(prove_all_sizes())

Height, width, stride, padding and dilation are symbols; kernels up to 7 are gone through, each tap
by itself, with every padding mode and for transposed kernels. z3 is asked for an axis on which the
builder and the equation part; "unsat" means that there is none. What is proven are the builder's
formulas: that the running code computes them is S0 of a certificate, and a test on a box of
numbers. An answer that does not come in time is "undecided", never "proven".
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import Any, final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from convgraph.door import door
from convgraph.errors import ProofError
from convgraph.proof.symbolic import flat
from convgraph.proof.symbolic.arithmetic import Numbers, Symbols, lemma_holds, load_z3
from convgraph.proof.symbolic.axis import MODES, Axis, Builder, accepted
from convgraph.proof.symbolic.theorems import Question, Theorem, theorems

__all__ = ["Builder", "Statement", "SymbolicProof", "prove_all_sizes"]

WIDTH = 100
LARGEST_KERNEL = 16
ASSUMED = (
    "z3 answers unsat only where there is no solution",
    "sizes, strides and flat numbers stay within int64 in the running code",
    "the running code computes the formulas proven here (S0 compares every edge that it built)",
    "the axes are independent: an edge of d axes is one edge of each, flat numbers as proven",
)
NOT_COVERED = (
    "ceil_mode of pools, resizes and adaptive windows",
    "masks: they only take edges away, by rank tables that S0 compares",
)
_SYMBOLS = ("size", "stride", "before", "after", "dilation", "output_padding")


@final
@dataclass(frozen=True)
class Statement:
    """One theorem about one kind of axis.

    Attributes:
        kind: "zeros", "reflect", "replicate", "circular", "transposed" or "flat numbers".
        claim: what is claimed for all sizes.
        status: "proven", "refuted" or "undecided".
        questions: how often the solver was asked: kernels and taps.
        counterexample: the integers of an axis on which it fails, if refuted.
        reason: why it is undecided.
    """

    kind: str
    claim: str
    status: str
    questions: int
    counterexample: dict[str, int] = field(default_factory=dict)
    reason: str = ""


@final
@dataclass(frozen=True)
class SymbolicProof:
    """The record of a proof for all sizes.

    Attributes:
        statements: one per theorem and kind of axis.
        kernel: the longest kernel along an axis, in taps.
        solver: and its version.
        seconds: that it took.
        assumed: what was taken for granted.
        not_covered: what it says nothing about.
    """

    statements: tuple[Statement, ...]
    kernel: int
    solver: str
    seconds: float
    assumed: tuple[str, ...] = ASSUMED
    not_covered: tuple[str, ...] = NOT_COVERED

    @property
    def verdict(self) -> str:
        """The weakest statement's status; "undecided" where nothing was claimed."""
        found = {statement.status for statement in self.statements}
        for status in ("refuted", "undecided", "proven"):
            if status in found:
                return status
        return "undecided"

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        return asdict(self) | {"verdict": self.verdict}

    def __bool__(self) -> bool:
        """Refuse: "undecided" is neither true nor false."""
        raise ProofError('a proof is no bool, it may be "undecided"; write .verdict == "proven"')

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render as a table."""
        title = f"for all sizes, kernels up to {self.kernel}: {self.verdict}"
        table = Table("axis", "claim", "verdict", "asked",
                      title=title, title_justify="left")  # fmt: skip
        table.columns[3].justify = "right"
        for one in self.statements:
            verdict = one.status
            if one.counterexample:
                verdict += ": " + ", ".join(f"{k} {v}" for k, v in one.counterexample.items())
            if one.reason:
                verdict += f": {one.reason}"
            table.add_row(one.kind, one.claim, verdict, str(one.questions))
        yield table
        yield f"solver: {self.solver}, {self.seconds:.1f} s"
        yield "\n".join(f"assumed: {text}" for text in self.assumed)
        yield "\n".join(f"not covered: {text}" for text in self.not_covered)

    def __str__(self) -> str:
        """Render as plain text of at most 100 columns."""
        console = Console(width=WIDTH, color_system=None, force_jupyter=False)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


@door
def prove_all_sizes(
    kernel: int = 7,
    modes: Sequence[str] = MODES,
    *,
    transposed: bool = True,
    builder: Builder | None = None,
    timeout: float = 10.0,
) -> SymbolicProof:
    """Prove that the edge builder lists the edges of the equation, whatever the sizes.

    Args:
        kernel: the longest kernel along an axis, in taps; all lengths from 1 on are gone through.
        modes: padding modes.
        transposed: transposed kernels too.
        builder: what is on trial; None for the expressions of `convgraph.geometry.kernel`.
        timeout: seconds for one question to the solver.

    Returns:
        A SymbolicProof; a claim that fails comes with an axis on which it does.

    Raises:
        MissingExtraError: z3 is not installed; it comes with the extra `proof`.
        ProofError: the kernel or a mode is none.

    Example:
        >>> prove_all_sizes(kernel=2, modes=["zeros"]).verdict
        'proven'
    """
    if not 1 <= kernel <= LARGEST_KERNEL:
        raise ProofError(f"expected a kernel of 1 to {LARGEST_KERNEL} taps, got {kernel}")
    unknown = [mode for mode in modes if mode not in MODES]
    if unknown:
        raise ProofError(f"expected padding modes out of {MODES}, got {unknown}")
    z3, start, limit = load_z3(), time.perf_counter(), max(1, round(timeout * 1000))
    trial = builder or Builder()
    statements = list(_flat_statements(limit))
    kinds = [(mode, False) for mode in modes] + [("zeros", True)] * transposed
    for mode, reverse in kinds:
        for theorem in theorems(mode, transposed=reverse):
            statements.append(_prove(theorem, mode, reverse, trial, kernel, limit))
    return SymbolicProof(
        tuple(statements),
        kernel,
        f"z3 {z3.get_version_string()}",
        time.perf_counter() - start,
    )


def _flat_statements(limit: int) -> Iterator[Statement]:
    z3 = load_z3()
    answers = [("the lemma on products of symbols", lemma_holds(limit))]
    for claim, negation in flat.checks():
        solver = z3.Solver()
        solver.set("timeout", limit)
        solver.add(*negation)
        answers.append((claim, str(solver.check())))
    for claim, answer in answers:
        status = "proven" if answer == "unsat" else "undecided"
        reason = "" if status == "proven" else f"the solver answers {answer}"
        yield Statement("flat numbers", claim, status, 1, reason=reason)


def _prove(
    theorem: Theorem, mode: str, transposed: bool, builder: Builder, kernel: int, limit: int
) -> Statement:
    """Ask for every kernel length and tap; stop at the first counterexample."""
    kind, asked, undecided = ("transposed" if transposed else mode), 0, ""
    for length in range(1, kernel + 1):
        for tap in range(length if theorem.per_tap else 1):
            at = Symbols()
            question = Question(_axis(at, length, mode, transposed), builder, tap)
            asked += 1
            answer, _ = _ask(at, theorem, question, limit)
            if answer == "unsat":
                continue
            found = _counterexample(theorem, question, limit)
            if found:
                return Statement(kind, theorem.name, "refuted", asked, found)
            undecided = f"kernel {length}, tap {tap}: the solver answers {answer}"
            if answer == "sat":
                undecided += ", but not on small numbers"
    status = "undecided" if undecided or not asked else "proven"
    return Statement(kind, theorem.name, status, asked, reason=undecided)


def _axis(at: Symbols, kernel: int, mode: str, transposed: bool, **known: int) -> Axis:
    """An axis of symbols, but for the numbers that are known."""
    terms = {name: known[name] if name in known else at.z3.Int(name) for name in _SYMBOLS}
    if not transposed:
        terms["output_padding"] = 0
    return Axis(**terms, kernel=kernel, mode=mode, transposed=transposed)


def _ask(at: Symbols, theorem: Theorem, question: Question, limit: int) -> tuple[str, Any]:
    """Whether there is an axis that the builder accepts and on which the theorem fails."""
    solver = at.z3.Solver()
    solver.set("timeout", limit)
    solver.add(accepted(question.axis, at), theorem.fails(question, at), *at.facts)
    answer = str(solver.check())
    return answer, solver.model() if answer == "sat" else None


def _counterexample(theorem: Theorem, question: Question, limit: int) -> dict[str, int]:
    """Integers on which the theorem fails: small stride and size, where every product is known.

    The model is evaluated on Python's integers; one that does not fail there is none.
    """
    axis = question.axis
    for stride, size in product((1, 2, 3), range(1, 7)):
        at = Symbols()
        small = _axis(at, axis.kernel, axis.mode, axis.transposed, stride=stride, size=size)
        asked = replace(question, axis=small)
        answer, model = _ask(at, theorem, asked, limit)
        if answer != "sat":
            continue
        values = {
            str(name): model[name].as_long() for name in model.decls() if "!" not in str(name)
        }
        values |= {"stride": stride, "size": size}
        numbers = {name: values.get(name, getattr(small, name)) for name in _SYMBOLS}
        numbers = {name: n if isinstance(n, int) else _least(name) for name, n in numbers.items()}
        concrete = replace(question, axis=replace(axis, **numbers))
        places = {name: values.get(name, 0) for name in ("p", "q", "q2", "p2")}
        if accepted(concrete.axis, Numbers()) and not theorem.holds(concrete, places):
            shown = {name: numbers[name] for name in _SYMBOLS if name != "output_padding"}
            if axis.transposed:
                shown["output_padding"] = numbers["output_padding"]
            named = {str(name): values[name] for name in ("p", "q", "p2") if name in values}
            return {"kernel": axis.kernel, "tap": question.tap} | shown | named
    return {}


def _least(name: str) -> int:
    """A number for a symbol on which nothing depends."""
    return 1 if name == "dilation" else 0
