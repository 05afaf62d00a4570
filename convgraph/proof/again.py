"""Records of plans judged anew, from their text alone: integers, and no code that they name.

    covered     every output lies in exactly one part
    closed      every position that a definition names is among those that the part holds
    heard       what the parts read, by its SHA-256, is what the definitions say

A record is data of whoever wrote it: whatever is not a number in its place is refused, and so is
what would take more memory than a record may ask for.
"""

from collections.abc import Mapping
from hashlib import sha256
from math import prod
from typing import Any

import numpy as np

from convgraph.errors import ProofError
from convgraph.proof.equation import in_space
from convgraph.proof.equation.in_space import Operator as Said
from convgraph.proof.parts import PartsCertificate
from convgraph.proof.placed_maps import Mask, PlacedMap, placed_maps, stood
from convgraph.proof.plan import PlanCertificate, definition
from convgraph.proof.record.sealed import kind_of

LARGEST = 2**25
"""Numbers of a table, and positions of a part, that a record may ask for."""


def verify(text: str) -> tuple[int, list[str]]:
    """Return 0 proven again, 1 not so or 2 undecided, and lines that say why.

    Args:
        text: the record of a plan or of parts.

    Example:
        >>> verify("{}")
        (1, ['record: expected the record of a plan or of parts'])
    """
    kind = kind_of(text)
    if not kind:
        return 1, ["record: expected the record of a plan or of parts"]
    unsure = []
    try:
        if kind == "plan":
            plan = PlanCertificate.from_json(text)
            verdict = plan.verdict
        else:
            parts = PartsCertificate.from_json(text)
            plan, verdict = parts.plan, parts.verdict
            unsure = [
                "numbers: ranks compared them, and are not started here; on as many ranks "
                f"cg.prove(part, net, images, seed={parts.seed}) gives this record again"
            ]
        wrong = judged(plan)
    except ProofError as error:
        return 1, [f"record: {error}"]
    except Exception as error:  # noqa: BLE001  # whoever wrote the text chose what goes wrong
        return 1, [f"record: cannot be judged, {type(error).__name__}: {error}"]
    if plan.verdict == "refuted":
        bad = [] if wrong or plan.faults else ["verdict: refuted, and nothing is wrong with it"]
        return 1, bad or [f"the record holds: {verdict}", *wrong]
    if wrong:
        return 1, wrong
    if verdict != "proven":
        return {"refuted": 1}.get(verdict, 2), [f"the record holds: {verdict}", *unsure]
    return (2, ["plan: proven again", *unsure]) if unsure else (0, ["the record holds: proven"])


def judged(found: PlanCertificate) -> list[str]:
    """Return what is wrong with a certificate, by what it says of its claims."""
    wrong, edges, named = [], 0, 0
    if not found.claims:
        return ["claims: expected what was judged, got nothing"]
    for number, claim in enumerate(found.claims):
        faults, count, operators = _claim(claim)
        wrong += [f"claims: {number}: {one}" for one in faults]
        edges, named = edges + count, named + operators
    first = found.claims[0]
    holds = {
        "edges": edges == found.edges,
        "operators": named == found.operators,
        "size": list(found.size) == list(first["size"]),
        "parts": list(found.parts) == [len(parts) for parts in first["axes"]],
        "faults": bool(found.faults) == (found.verdict == "refuted"),
    }
    return wrong + [f"{name}: not as its claims demand" for name, good in holds.items() if not good]


def _claim(claim: Any) -> tuple[list[str], int, int]:
    names = {"operators", "size", "out", "out_size", "given", "axes", "heard"}
    if not isinstance(claim, dict) or {*claim} - {"mask"} != names:
        raise ProofError(f"expected a claim with the fields {', '.join(sorted(names))}")
    operators = [_operator(one) for one in claim["operators"]]
    size, out_size = _sizes(claim["size"]), _sizes(claim["out_size"])
    given = {0: size, **{_number(v): _sizes(one) for v, one in claim["given"].items()}}
    heard, wrong, edges = sha256(), list[str](), 0
    lies: Mapping[int, PlacedMap] = {}
    if "mask" in claim:
        lies = placed_maps(operators, Mask.from_fields(claim["mask"], LARGEST))
        if len(lies[0].size) == len(size) and lies[0].size != size:
            raise ProofError("expected a mask of the image's size")
    if len(claim["axes"]) != len(size):
        raise ProofError("expected a claim of as many axes as its image has")
    for axis, parts in enumerate(claim["axes"]):
        covered = np.zeros(out_size[axis], np.int64)
        for part in parts:
            out = _positions(part["out"], out_size[axis])
            np.add.at(covered, out, 1)
            faults, count = _part(operators, given, axis, part, out, _number(claim["out"]), heard)
            wrong += faults
            edges += count
            for value in sorted(lies.keys() & {_number(key) for key in part["have"]}):
                have = _positions(part["have"][str(value)], prod(lies[value].size))
                found = stood(lies[value], len(size), axis, have)
                heard.update(np.ascontiguousarray(found, "<i8").tobytes())
        if (covered != 1).any():
            wrong.append(f"axis {axis}: not every output lies in exactly one part")
    if heard.hexdigest() != claim["heard"]:
        wrong.append("heard: the parts read other positions than the definitions name")
    return wrong, edges, sum(bool(one.name) for one in operators if one.result not in given)


def _part(
    operators: list[Said], given: Mapping[int, tuple[int, ...]], axis: int, part: Any, out: Any,
    last: int, heard: Any,
) -> tuple[list[str], int]:  # fmt: skip
    sizes = {**given, **{one.result: one.out for one in operators}}
    have = {}
    for key, runs in part["have"].items():
        value = _number(key)
        if value not in sizes:
            raise ProofError(f"expected positions of a value that is there, got value {value}")
        have[value] = _positions(runs, sizes[value][axis])
        if sum(map(len, have.values())) > LARGEST:
            raise ProofError(f"expected parts that hold at most {LARGEST} positions")
    made, wrong, edges = set(given), [], 0
    for one in operators:
        if one.result not in have or one.result in given:
            continue
        mine = have[one.result]
        if any(s not in made or s not in have for s in one.sources):
            wrong.append(f"{one.title}: reads a value that is not there")
            continue
        made.add(one.result)
        if not one.name:
            for source in one.sources:
                if one.size[axis] > 1 and not np.isin(mine, have[source]).all():
                    wrong.append(f"{one.title}: reads positions that are not there")
            continue
        if "space" in one.arguments:
            found = in_space.edges(one, mine)
            edges += len(found)
            heard.update(np.ascontiguousarray(found, "<i8").tobytes())
            if not np.isin(found[:, 2], have[one.sources[0]]).all():
                wrong.append(f"{one.title}: its definition names cells that the part does not hold")
            continue
        table = definition(one, axis)[mine]
        named = table >= 0
        edges += int(named.sum())
        heard.update(np.ascontiguousarray(table, "<i8").tobytes())
        if not np.isin(table[named], have[one.sources[0]]).all():
            wrong.append(f"{one.title}: its definition names positions that the part does not hold")
    if last not in made or not np.array_equal(have.get(last, ()), out):
        wrong.append("a part does not make the outputs that are its own")
    return wrong, edges


def _operator(found: Any) -> Said:
    """An operator of a record, whose arguments are numbers, names and lists of them."""
    names = {"title", "name", "arguments", "sources", "result", "size", "out"}
    if not isinstance(found, dict) or set(found) != names:
        raise ProofError(f"expected an operator with the fields {', '.join(sorted(names))}")
    if not isinstance(found["title"], str) or not isinstance(found["name"], str):
        raise ProofError("expected an operator whose title and name are text")
    size, out, arguments = _sizes(found["size"]), _sizes(found["out"]), found["arguments"]
    if not isinstance(arguments, dict) or len(size) != len(out):
        raise ProofError("expected an operator with arguments, and sizes of as many axes")
    kernel = arguments.get("kernel", arguments.get("kernel_size", 1))
    taps = [_number(k) for k in (kernel if isinstance(kernel, list) else [kernel])]
    factor = _number(arguments.get("downscale_factor", 1))
    numbers = max(out) * max([*taps, factor, 4])
    if "space" in arguments:  # one axis of all cells, and one list of all edges
        arrays = [prod(_sizes(arguments.get(name, ()))) for name in ("array", "array_out")]
        if arrays != [prod(size), prod(out)]:
            raise ProofError("expected arrays of as many cells as their maps have")
        numbers = max(arrays) * max(*taps, 2) ** 2
    if numbers > LARGEST:
        raise ProofError(f"expected tables of at most {LARGEST} numbers")
    return Said(
        found["title"], found["name"], arguments, tuple(map(_number, found["sources"])),
        _number(found["result"]), size, out,
    )  # fmt: skip


def _positions(runs: Any, n: int) -> Any:
    """Positions of runs [first, last] within an axis of n, in order."""
    found, before = [np.empty(0, np.int64)], -1
    for first, last in runs:
        if not before < _number(first) <= _number(last) < n:
            raise ProofError(f"expected runs in order within {n} positions, got {[first, last]}")
        found.append(np.arange(first, last + 1))
        before = last
    return np.concatenate(found)


def _sizes(value: Any) -> tuple[int, ...]:
    found = tuple(_number(n) for n in value)
    if not found or any(n < 1 or n > LARGEST for n in found):
        raise ProofError(f"expected sizes of 1 to {LARGEST} pixels, got {value!r:.80}")
    return found


def _number(value: Any) -> int:
    """A whole number, as JSON has it or as a key."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**62:
        raise ProofError(f"expected a whole number from 0 on, got {value!r:.80}")
    return value
