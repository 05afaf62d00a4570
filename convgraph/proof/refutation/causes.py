"""Known faults, each a wrong operator that predicts numbers: a cause is verified, not guessed.

The operator of every fault in `suspects` is run on the trials. It is a likely cause only if it
gives the numbers of the accused in every entry, on the smallest case and on the one that was asked
about. What no operator predicts goes on to `symptoms`: properties that are tested on the accused.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np

from convgraph.proof.equation.oracle import Oracle
from convgraph.proof.equation.spec import ConvSpec
from convgraph.proof.refutation.suspects import EDGES_SWAPPED, Suspect, suspects
from convgraph.proof.refutation.symptoms import Case, agree, symptoms
from convgraph.proof.refutation.truth import FIRST, Run, operator

EdgeLists = tuple[Any, ...]


def likely_causes(case: Case, specs: list[ConvSpec], lists: EdgeLists | None = None) -> list[str]:
    """Return the causes that predict what the accused does, the most telling first.

    Args:
        case: the accused, and the quantity in which it is wrong.
        specs: the integers of the cases on which a cause has to hold, the smallest first.
        lists: the typed edges that the accused shows, flat (source, target, tap), of the last spec.

    Returns:
        Sentences; empty where no known fault fits.
    """
    by_edges = _edge_causes(specs[-1], lists) if lists is not None else []
    found = []
    if case.quantity == "y":
        found = [name for name, build in _survivors(case, specs, suspects)]
    elif case.quantity in FIRST:
        found = symptoms(case, specs)
        if not found:
            what = case.quantity.removeprefix("grad_")
            survivors = _survivors(case, specs, suspects)
            found = [f"the gradient of {what} is that of another operator: {name}"
                     for name, _ in survivors]  # fmt: skip
    return [*by_edges, *(name for name in found or symptoms(case, specs) if name not in by_edges)]


def _survivors(
    case: Case, specs: list[ConvSpec], table: Callable[[ConvSpec], Iterator[Suspect]]
) -> list[Suspect]:
    """The suspects that predict the accused on every spec; names are the same on each."""
    alive: dict[str, Run] | None = None
    for spec in specs:
        oracle = Oracle(spec)
        truth = operator(spec, oracle)
        trials = [case.draw(oracle, trial) for trial in range(2)]
        measured = [case.measured(inputs) for inputs in trials]
        found = {}
        for name, run in table(spec):
            if alive is not None and name not in alive:
                continue
            predicted = [case.predicted(run, inputs) for inputs in trials]
            if all(
                agree(one, two) for one, two in zip(measured, predicted, strict=True)
            ) and not all(
                agree(one, case.predicted(truth, inputs))
                for one, inputs in zip(predicted, trials, strict=True)
            ):
                found[name] = run
        alive = found
        if not alive:
            return []
    return list((alive or {}).items())


def _edge_causes(spec: ConvSpec, lists: EdgeLists) -> list[str]:
    """What explains a list of typed edges; compared as multisets."""
    oracle = Oracle(spec)
    e, taps = oracle.edges, np.arange(spec.taps).reshape(spec.kernel_size)
    source, target, tap = (np.asarray(array, dtype=np.int64) for array in lists)
    have = _multiset(source, target, tap)
    if have == _multiset(e.source, e.target, e.tap):
        return []
    pixels, one = prod(spec.image_shape), prod(spec.size)
    known = {
        EDGES_SWAPPED: (e.target, e.source, e.tap),
        "taps are numbered backwards": (e.source, e.target, spec.taps - 1 - e.tap),
        "taps are numbered along the columns first": (
            e.source,
            e.target,
            np.argsort(taps.T.ravel())[e.tap],
        ),
        "all edges are self-loops": (e.target, e.target, e.tap),
        "images are mixed up": ((e.source + one) % pixels, e.target, e.tap),
    }
    found = [
        f"{name} in the edge list" for name, edges in known.items() if have == _multiset(*edges)
    ]
    if found:
        return found
    want, shown = Counter(_multiset(e.source, e.target, e.tap)), Counter(have)
    lacking, beyond = (want - shown).total(), (shown - want).total()
    if not beyond:
        return [f"the edge list lacks {lacking} of {want.total()} edges and is right otherwise"]
    if not lacking and shown.keys() == want.keys():
        return ["the edge list repeats edges"]
    return []


def _multiset(source: Any, target: Any, tap: Any) -> list[tuple[int, int, int]]:
    return sorted(zip(source.tolist(), target.tolist(), tap.tolist(), strict=True))
