"""Refutation that helps: shrink a difference to the smallest case, and say what causes it.

    found = explain_refutation(candidate, reference, spec)      # None where integers show nothing
    print(found); found.to_dict()

First the image, then the batch, then the numbers: entries of x, w, b and of the gradients are set
to 0, by halves, as long as the difference is there. For a multilinear side one entry of each is
left, hence one tap, one channel pair and one pixel; what is left is set to 1 where that still
shows it. The cause is looked up in `causes`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from convgraph.door import door
from convgraph.errors import ProofError
from convgraph.proof.equation.oracle import Oracle
from convgraph.proof.equation.spec import ConvSpec
from convgraph.proof.record.counterexample import Counterexample, TypedEdge
from convgraph.proof.refutation.causes import likely_causes
from convgraph.proof.refutation.difference import MeasuredSide, Seen
from convgraph.proof.refutation.symptoms import Case
from convgraph.proof.refutation.truth import INPUTS, QUANTITIES, Inputs, Run, operator

Array = npt.NDArray[Any]
EdgeLists = tuple[Any, ...]

SIZES_TRIED = {1: 32, 2: 9, 3: 5}
"""Axis lengths up to which every small image is tried, by dimension."""
SHOWN = 4


@door
def explain_refutation(
    candidate: Run,
    reference: Run,
    spec: ConvSpec,
    *,
    edges: Callable[[], EdgeLists] | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    quantity: str | None = None,
    seed: int = 0,
) -> Counterexample | None:
    """Return the smallest case in which one side is not the operator, with a likely cause.

    Args:
        candidate: f(x, w, b) -> y on images and weights in torch's layout; the accused.
        reference: the same for the dense operator; blamed where the candidate is right.
        spec: the integers of the operator, which decide who is right.
        edges: the candidate's typed edges as flat (source, target, tap), if it shows any; they
            tell apart causes that give the same numbers.
        dtype: float64 or float32, in which the sides compute; half types are probed in float64.
        device: where both compute.
        quantity: the one that is known to differ, e.g. "grad_w"; None looks at all of them.
        seed: of the draws, so that the same call finds the same case.

    Returns:
        A Counterexample, or None where random integers show no difference (a fault of rounding,
        or one that hides on rarer inputs).

    Raises:
        ProofError: the spec describes no operator, or `quantity` is none.

    Example:
        >>> import torch.nn.functional as F
        >>> flipped = lambda x, w, b: F.conv2d(x, w.flip(-1), b)
        >>> found = explain_refutation(flipped, F.conv2d, ConvSpec(3, 4, (3, 3), (9, 9)))
        >>> found.cause, found.spec["size"], found.spec["batch"]
        ('the kernel is flipped along the width', (3, 3), 1)
    """
    if quantity is not None and quantity not in QUANTITIES:
        raise ProofError(f"expected quantity to be one of {QUANTITIES}, got {quantity!r}")
    if Oracle(spec).scale > 1:
        return None  # taps with several sources have no smallest case of one edge
    probe_dtype = torch.float32 if dtype == torch.float32 else torch.float64
    for name, run in (("candidate", candidate), ("reference", reference)):
        other = reference if run is candidate else candidate
        side = MeasuredSide(name, run, other, probe_dtype, device, seed)
        seen = side.first_seen(spec, (quantity,) if quantity else QUANTITIES)
        if seen is not None:
            lists = edges()[:3] if edges is not None and name == "candidate" else None
            return _explained(side, spec, seen, lists)
    return None


def _explained(
    side: MeasuredSide, spec: ConvSpec, seen: Seen, lists: EdgeLists | None
) -> Counterexample:
    small, seen = _smaller_image(side, spec, seen)
    seen = _fewer_numbers(side, small, seen)
    case = Case(side.run, seen.quantity, side.dtype, side.device, side.seed)
    causes = likely_causes(case, [small, spec] if small is not spec else [spec], lists)
    return _record(side, small, seen, causes, sized=small is not spec or min(spec.size) == 1)


# The image


def _smaller_image(side: MeasuredSide, spec: ConvSpec, seen: Seen) -> tuple[ConvSpec, Seen]:
    """Return the image with the fewest pixels that shows the same difference, and the batch."""
    if spec.source_mask is not None or spec.target_mask is not None or spec.space is not None:
        return spec, seen  # masks belong to this size, and few sizes to a space
    one = replace(spec, batch=1)
    for batch in sorted({1, min(2, spec.batch), spec.batch}):
        start = replace(spec, batch=batch)
        if batch == spec.batch or _same(side, start, seen) is not None:
            one = start
            break
    for size in _sizes(spec):
        shrunk = replace(one, size=size)
        if size == spec.size and one.batch == spec.batch:
            break
        again = _same(side, shrunk, seen)
        if again is not None:
            return shrunk, again
    return spec, seen


def _same(side: MeasuredSide, spec: ConvSpec, seen: Seen) -> Seen | None:
    """The same kind of difference on another size, where the other side is still right."""
    try:
        again = side.first_seen(spec, (seen.quantity,), seen.a)
    except ProofError:  # the kernel does not fit
        return None
    if again is None or again.kind != seen.kind or not side.other_agrees(spec, again.inputs):
        return None
    return again


def _sizes(spec: ConvSpec) -> Iterator[tuple[int, ...]]:
    """Every image up to a few pixels an axis, fewest pixels first; then the sizes in between."""
    cap = SIZES_TRIED[spec.d]
    small = product(*(range(1, min(n, cap) + 1) for n in spec.size))
    yield from sorted(small, key=lambda size: (math.prod(size), max(size), size))
    factor = cap
    while any(n > factor for n in spec.size):
        factor *= 2
        yield tuple(min(n, factor) for n in spec.size)


# The numbers


def _fewer_numbers(side: MeasuredSide, spec: ConvSpec, seen: Seen) -> Seen:
    """Set to 0 whatever is not needed, and to 1 what is."""
    truth = operator(spec)
    names = [name for name in INPUTS[seen.quantity] if name in seen.inputs.values]
    inputs = Inputs({name: seen.inputs.values[name] for name in names})
    if seen.quantity != "y":
        inputs = inputs.with_(g=seen.inputs.values["g"])

    def still(values: Inputs) -> bool:
        again = side.differs(truth, values, (seen.quantity,))
        return again is not None and again.kind == seen.kind

    if not still(inputs):
        return seen
    for name in sorted(names, key=["b", "hb", "hx", "hw", "x", "w", "g"].index):
        inputs = _fewer_entries(inputs, name, still)
    for name in names:
        inputs = _smaller_entries(inputs, name, still)
    again = side.differs(truth, inputs, (seen.quantity,), seen.a)
    return again if again is not None else seen


def _fewer_entries(inputs: Inputs, name: str, still: Callable[[Inputs], bool]) -> Inputs:
    """Keep as few entries of one array as show the difference, halving what is kept."""
    full = inputs.values[name]

    def only(kept: Array) -> Inputs:
        values = np.zeros_like(full)
        values.ravel()[kept] = full.ravel()[kept]
        return inputs.with_(**{name: values})

    kept, parts = np.flatnonzero(full), 2
    if still(only(kept[:0])):
        return only(kept[:0])
    while len(kept) > 1:
        pieces = np.array_split(kept, min(parts, len(kept)))
        smaller = next((piece for piece in pieces if still(only(piece))), None)
        if smaller is None and len(pieces) > 2:
            rests = (np.setdiff1d(kept, piece) for piece in pieces)
            smaller = next((rest for rest in rests if still(only(rest))), None)
        if smaller is not None:
            kept, parts = smaller, 2
        elif parts >= min(len(kept), 16):
            break  # more than sixteen entries that act together only: left as they are
        else:
            parts *= 2
    return only(kept)


def _smaller_entries(inputs: Inputs, name: str, still: Callable[[Inputs], bool]) -> Inputs:
    """Set an entry to 1 or -1, or else to the smallest of its sign that shows the difference."""
    entries = np.flatnonzero(inputs.values[name])
    if len(entries) > SHOWN:
        return inputs

    def changed(at: int, value: int) -> Inputs:
        values = inputs.values[name].copy()
        values.ravel()[at] = value
        return inputs.with_(**{name: values})

    for at in map(int, entries):
        value = int(inputs.values[name].ravel()[at])
        sign, low, high = (1 if value > 0 else -1), 0, abs(value)
        ones = [changed(at, one) for one in (1, -1)]
        shown = next((one for one in ones if still(one)), None)
        if shown is None:
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if still(changed(at, sign * middle)) else (middle, high)
            shown = changed(at, sign * high)
        inputs = shown
    return inputs


# The record


def _record(
    side: MeasuredSide, spec: ConvSpec, seen: Seen, causes: list[str], *, sized: bool
) -> Counterexample:
    names = INPUTS[seen.quantity]
    sent = {
        name: tuple((_ints(at), int(value[tuple(at)])) for at in np.argwhere(value)[:64])
        for name, value in seen.inputs.values.items()
        if name in names
    }
    oracle = Oracle(spec)
    tap, channels = _tap(spec, seen, sent), _channels(spec, seen, sent)
    edges = _edges(oracle, seen, sent, tap)
    return Counterexample(
        side=side.name,
        quantity=seen.quantity,
        index=seen.index,
        found=seen.found,
        expected=seen.expected,
        differing=seen.differing,
        entries=seen.entries,
        spec=spec.to_dict(),
        sent=sent,
        tap=tap,
        channels=channels,
        edges=edges,
        found_edges=tuple(
            edge for edge in _found_edges(side, oracle, seen, sent, tap) if edge not in edges
        ),
        cause=causes[0] if causes else "",
        also=tuple(causes[1:4]),
        sized=sized,
    )


def _ints(at: Any) -> tuple[int, ...]:
    return tuple(int(i) for i in at)


def _weight_index(seen: Seen, sent: dict[str, Any]) -> tuple[int, ...]:
    """The one entry of w that the case is about, or nothing."""
    if seen.quantity in ("grad_w", "grad_grad_w"):
        return seen.index
    for name in ("w", "hw"):
        if len(sent.get(name, ())) == 1:
            index: tuple[int, ...] = sent[name][0][0]
            return index
    return ()


def _tap(spec: ConvSpec, seen: Seen, sent: dict[str, Any]) -> tuple[int, ...]:
    return _weight_index(seen, sent)[-spec.d :]


def _channels(spec: ConvSpec, seen: Seen, sent: dict[str, Any]) -> tuple[int, ...]:
    index = _weight_index(seen, sent)
    if not index:
        return ()
    row, column = index[:2]
    if spec.transposed:
        group = row // (spec.in_channels // spec.groups)
        return row, column + group * (spec.out_channels // spec.groups)
    group = row // (spec.out_channels // spec.groups)
    return column + group * (spec.in_channels // spec.groups), row


def _edges(
    oracle: Oracle, seen: Seen, sent: dict[str, Any], tap: tuple[int, ...]
) -> tuple[TypedEdge, ...]:
    """The true edges that join what the case names: its pixel, its tap, its site."""
    spec, e = oracle.spec, oracle.edges
    keep = np.ones(len(e.tap), dtype=bool)
    named = 0
    if tap:
        keep &= e.tap == np.ravel_multi_index(tap, spec.kernel_size)
        named += 1
    pixel = seen.index if seen.quantity in ("grad_x", "grad_grad_x") else ()
    site = seen.index if seen.quantity in ("grad_grad_g",) else ()
    for name in ("x", "hx"):
        if not pixel and len(sent.get(name, ())) == 1:
            pixel = sent[name][0][0]
    if not site and len(sent.get("g", ())) == 1:
        site = sent["g"][0][0]
    for at, lattice, ends in (
        (pixel, spec.image_shape, e.source),
        (site, (spec.batch, *oracle.out_size), e.target),
    ):
        if at:
            keep &= ends == np.ravel_multi_index((at[0], *at[2:]), lattice)
            named += 1
    if named < 2:  # nothing in particular is meant
        return ()
    return tuple(_edge(oracle, *(a[i] for a in (e.source, e.target, e.tap)))
                 for i in np.flatnonzero(keep)[:SHOWN])  # fmt: skip


def _found_edges(
    side: MeasuredSide, oracle: Oracle, seen: Seen, sent: dict[str, Any], tap: tuple[int, ...]
) -> tuple[TypedEdge, ...]:
    """Where the side's messages arrive: the sites of y that hold something."""
    if seen.quantity != "y" or not tap or len(sent.get("x", ())) != 1 or sent.get("b"):
        return ()
    y = side.measured(seen.inputs, ("y",))["y"]
    lattice = (oracle.spec.batch, *oracle.out_size)
    if isinstance(y, str) or y.shape != oracle.y_shape:
        return ()
    heard = np.argwhere(np.abs(y).sum(axis=1))
    if len(heard) > SHOWN:
        return ()
    pixel = sent["x"][0][0]
    source = np.ravel_multi_index((pixel[0], *pixel[2:]), oracle.spec.image_shape)
    number = np.ravel_multi_index(tap, oracle.spec.kernel_size)
    return tuple(
        _edge(oracle, source, np.ravel_multi_index(tuple(site), lattice), number) for site in heard
    )


def _edge(oracle: Oracle, source: Any, target: Any, tap: Any) -> TypedEdge:
    spec = oracle.spec
    image, *pixel = _ints(np.unravel_index(int(source), spec.image_shape))
    _, *site = _ints(np.unravel_index(int(target), (spec.batch, *oracle.out_size)))
    return TypedEdge(
        image,
        tuple(pixel),
        _ints(np.unravel_index(int(tap), spec.kernel_size)),
        tuple(site),
    )
