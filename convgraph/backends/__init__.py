"""Backends: ways of computing the same sum, and the choice among them with its reasons.

The choice is a written cost model over static facts: multiply-adds and elements moved, weighed by
the table in `cost`, and the cheapest backend that serves is taken. Nothing is ever timed at run
time, so every rank of a job chooses alike and a run repeats; what was chosen is kept with the
edges.

A backend of convolutions is one module, and its name in `TABLES`; everything else follows from
there: `NAMES`, the choice, `explain`, the tests that all backends share, its row of the page (its
first sentence, and what it says after "When:"). It has

    NAME                                      as users force it
    refuses(problem)                          why it cannot serve, or None
    work(problem)                             multiply-adds and elements moved
    conv(x, weight, bias, edges, problem)     y, (num_targets, C_out), bias included

and may have `priced(problem)`, which row of the cost table is the problem's and how many kernels it
starts; `least(problem)`, a bound on `work` where that is dear to ask; `LAST_RESORT`; `OPERATORS`,
custom operators that a proof has to trust. Without a row in the cost table it serves by name only.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from math import inf
from types import ModuleType
from typing import Any, final

import torch

from convgraph import memo
from convgraph.backends import cost
from convgraph.backends.dense import conv as dense
from convgraph.backends.fused import cpp_conv as cpp
from convgraph.backends.fused import triton_conv
from convgraph.backends.gather import edges as gather
from convgraph.backends.halo import conv as halo
from convgraph.backends.masked import conv as masked
from convgraph.backends.messages import edges as messages
from convgraph.backends.problem import Problem
from convgraph.backends.rows import HALF
from convgraph.errors import BackendError
from convgraph.graph.edges import Edges


def _table(files: str) -> dict[str, ModuleType]:
    found = (import_module(f"{__name__}.{file}") for file in files.split())
    return {module.NAME: module for module in found}


TABLES = {
    "conv": _table("""
        dense.conv halo.conv tiles.conv fused.triton_conv fused.cpp_conv
        resample.conv gather.edges masked.conv messages.edges
    """),
    "pool": _table("dense.pool halo.pool gather.edges messages.edges"),
    "resize": _table("dense.resize halo.resize gather.edges messages.edges"),
    "unfold": _table("dense.unfold gather.unfold messages.unfold"),
    "fold": _table("dense.unfold gather.unfold messages.unfold"),
}
"""Operator -> backend name -> module, in the order in which equal costs are decided; by file."""

NAMES = tuple(dict.fromkeys(name for table in TABLES.values() for name in table))
"""Every backend of any operator."""

FORCED: list[str] = []
"""Backends of the `with cg.backend(...)` blocks entered, innermost last; process-wide, as torch's
own backend flags are (a context variable would break torch.compile's graph)."""


@final
@dataclass(frozen=True)
class Option:
    """One backend's answer to a problem.

    Attributes:
        name: of the backend.
        refusal: why it cannot serve, or None.
        macs: multiply-adds it would do.
        moved: elements it would read and write.
        cost: predicted nanoseconds of one forward, on the CPU the mean of that and of a third of a
            training step; see `convgraph.backends.cost`. Infinite without a row there.
    """

    name: str
    refusal: str | None
    macs: float = 0.0
    moved: float = 0.0
    cost: float = 0.0


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Force one backend for every layer called in the block.

    Args:
        name: one of `NAMES`.

    Raises:
        BackendError: no backend has that name. A layer called in the block raises it too when
            the backend cannot serve the case.

    Example:
        >>> import torch, convgraph as cg
        >>> conv = cg.nn.GraphConv2d(1, 1, 3, padding=1)
        >>> with cg.backend("messages"):
        ...     y = conv(cg.PixelGraph.from_image(torch.ones(1, 4, 4)))
    """
    check_name(name)
    FORCED.append(name)
    try:
        yield
    finally:
        # One's own entry: another thread's block may have been entered since.
        at = max(place for place, entered in enumerate(FORCED) if entered == name)
        del FORCED[at]


def check_name(name: str | None) -> str | None:
    """Return the name if a backend has it; None means the choice is free."""
    known = isinstance(name, str) and any(name in table for table in TABLES.values())
    if name is not None and not known:
        given = repr(name) if isinstance(name, str) else type(name).__name__
        raise BackendError(f"no backend is called {given}; there are {NAMES}")
    return name


def options(problem: Problem, *, fast: bool = False) -> list[Option]:
    """Ask every backend that knows the operator what it says to the problem.

    Args:
        problem: the operator and its edges.
        fast: leave out whoever cannot be chosen and would be dear to ask. The last resort is never
            chosen for speed: its cost follows from the list of edges, which nobody else may need.
            A backend with `least` is asked only where that costs less than the others.
    """
    table = TABLES[problem.op]
    found = {
        name: _option(name, module, problem)
        for name, module in table.items()
        if not (fast and (hasattr(module, "least") or _last_resort(module)))
    }
    least = min([one.cost for one in found.values() if one.refusal is None], default=inf)
    for name, module in table.items():
        if (
            name not in found
            and not _last_resort(module)
            and module.refuses(problem) is None
            and cost.nanoseconds(name, problem, *module.least(problem)) < least
        ):
            found[name] = _option(name, module, problem)
    return [found[name] for name in table if name in found]


def _last_resort(module: ModuleType) -> bool:
    return getattr(module, "LAST_RESORT", False)


def _option(name: str, module: ModuleType, problem: Problem) -> Option:
    refusal = module.refuses(problem)
    if refusal is not None:
        return Option(name, refusal)
    macs, moved = module.work(problem)
    row, calls = module.priced(problem) if hasattr(module, "priced") else (name, 1)
    took = cost.nanoseconds(row, problem, macs, moved, calls)
    return Option(name, None, macs, moved, took)


def forced(layer_choice: str | None) -> str | None:
    """The backend somebody named: the layer's own wins over the surrounding block's."""
    if layer_choice is not None:
        return layer_choice
    return FORCED[-1] if FORCED else None


def choose(problem: Problem, layer_choice: str | None = None) -> str:
    """Return the name of the backend that runs.

    Args:
        problem: the operator and its edges.
        layer_choice: the backend that the layer was built with, or None.

    Raises:
        BackendError: a forced backend cannot serve; the text says why.
    """
    name = forced(check_name(layer_choice))
    table = TABLES[problem.op]
    if name is None and memo.LENDERS and memo.lender() is not None:
        return _for_all_masks(problem, plain=memo.lender().plain)
    if name is None and torch.compiler._is_exporting_flag:
        return _for_all_masks(problem, plain=True)
    if name is not None:
        if name not in table:
            raise BackendError(
                f"backend {name!r} has no {problem.op!r}; there are {tuple(table)} for it"
            )
        refusal = table[name].refuses(problem)
        if refusal is not None:
            raise BackendError(f"backend {name!r} cannot serve this case: {refusal}")
        return name
    # A full grid needs no counting: whoever serves it as an image moves the least. Only what a
    # footprint leaves out is multiplied by dense kernels all the same, and others spare it.
    spared = dense.NAME if problem.op == "conv" and _leaves_out(problem) else None
    for whole in (dense.NAME, halo.NAME):
        if whole != spared and whole in table and table[whole].refuses(problem) is None:
            return whole
    # Nor do self-loops, which are one product over the rows as they lie; but on CUDA half types
    # would have to be widened for it, to round once.
    widened = problem.dtype in HALF and problem.device.type != "cpu"
    loops = problem.op == "conv" and problem.edges.is_self_loops and not widened
    if loops and gather.refuses(problem) is None:
        return gather.NAME
    if isinstance(problem.edges, Edges):
        return problem.edges.memo_of(_cheapest_on, *problem.facts)
    return _cheapest(problem)


def _leaves_out(problem: Problem) -> bool:
    """Whether the kernel has a footprint, which leaves taps out."""
    return isinstance(problem.edges, Edges) and problem.edges.footprint is not None


ALL_MASKS = tuple(module.NAME for module in (dense, halo, triton_conv, cpp, masked, messages))
"""Backends whose operators are the same for every mask, so that one program can hold them."""


def _for_all_masks(problem: Problem, *, plain: bool) -> str:
    """A backend whose operators are the same for every mask; plain ones are torch's own."""
    table = TABLES[problem.op]
    left = (triton_conv.NAME, cpp.NAME) if plain else ()
    names = [name for name in ALL_MASKS if name not in left]
    return str(next(n for n in names if n in table and table[n].refuses(problem) is None))


def _cheapest_on(edges: Edges, *facts: Any) -> str:
    """The cheapest for these facts, kept with the edges: a warmed-up call looks it up."""
    return _cheapest(Problem.of(edges, facts))


def _cheapest(problem: Problem) -> str:
    serving = [option for option in options(problem, fast=True) if option.cost < inf]
    serving = [option for option in serving if option.refusal is None]
    if serving:
        costs = [option.cost for option in serving]
        return serving[costs.index(min(costs))].name
    for name, module in TABLES[problem.op].items():
        if _last_resort(module) and module.refuses(problem) is None:
            return name
    raise BackendError(f"no backend serves {problem.op!r} on these edges")
