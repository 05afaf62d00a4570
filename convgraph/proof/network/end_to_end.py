"""One run of both sides, the measured error beside the running bound."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from convgraph.proof.network.blocks import Block, compared
from convgraph.proof.network.node import Layer
from convgraph.proof.network.recorder import states
from convgraph.proof.network.running_error.bound import RunningBound
from convgraph.proof.record.certificate import Part

MEASURED_ONLY = "measured only"
"""Status of a run without a bound; it proves nothing and refutes nothing."""

FACTORS = (8.0, -1.0, 0.125, -8.0, 64.0)
"""How images are moved where two networks agree on them and are not wired alike."""

Images = tuple[Tensor, ...]


@final
class Returned(list[Tensor]):
    """What a network returns, tensor by tensor.

    Attributes:
        names: what each is called where it is returned, and what is returned beside them.
        nodes: which pixels of it are nodes, for whoever asks; None of what is no graph.
    """

    def __init__(
        self,
        tensors: Iterable[Tensor],
        names: tuple[str, ...],
        nodes: tuple[Tensor | None, ...] = (),
    ) -> None:
        """Keep names and nodes."""
        super().__init__(tensors)
        self.names, self.nodes = names, nodes


def names_of(outputs: list[Tensor]) -> tuple[str, ...]:
    """What outputs are called; by their place where nobody says."""
    if isinstance(outputs, Returned):
        return outputs.names
    return tuple(f"output {place}" for place in range(len(outputs)))


def other_names(one: tuple[str, ...], two: tuple[str, ...]) -> str:
    """Say what is called otherwise, in words; "" where nothing is.

    Args:
        one: what the reference's outputs are called.
        two: what the candidate's are.
    """
    lacks, more = ([n for n in a if n not in b] for a, b in ((one, two), (two, one)))
    if not lacks and not more:
        return ""
    words = [f"{text} {names[0]}" for text, names in
             (("the reference returns", lacks), ("the candidate", more)) if names]  # fmt: skip
    return ", ".join(words)


@final
@dataclass(frozen=True)
class NetworkSide:
    """One of the two networks.

    Attributes:
        net: its modules and parameters, by path.
        run: (net, images, shapes of the reference's outputs or None) -> output tensors.
        layers: by path, modules that are convolutions as wholes.
        names: the other side's names of what has another here.
        blocks: what is cut or joined here, and is several of the other side's together.
        twin: the other side's layer -> its own, where that is one node too.
    """

    net: torch.nn.Module
    run: Callable[[torch.nn.Module, Images, Any], list[Tensor]]
    layers: Mapping[str, Layer] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    blocks: tuple[Block, ...] = ()
    twin: Callable[[Layer], Layer] = lambda layer: layer

    def named(self) -> dict[str, Tensor]:
        """Parameters and buffers, by the names that both sides have."""
        return self.compared(dict(states(self.net)))

    def compared(self, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What it has by its own names, by the names that both sides have.

        Args:
            held: values or gradients.
        """
        return compared(held, self.names, self.blocks)

    def renamed(self, more: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
        """Its own name -> the name that is compared, where that is another.

        Args:
            more: further names, of the ones that both sides have.
        """
        found = {name: more.get(other, other) for name, other in self.names.items()}
        given = {id(t): more[n] for n, t in self.named().items() if n in more}
        tied = {name: given[id(t)] for name, t in states(self.net) if id(t) in given}
        return {**more, **found, **tied}

    def by_id(
        self, paths: Any, names: Mapping[str, str] = MappingProxyType({})
    ) -> dict[int, Layer]:
        """The layers among these paths, by their module's id.

        Args:
            paths: of layers.
            names: the other side's names of parameters -> its own, where they are not the same.
        """
        twins = {a.rpartition(".")[0]: b.rpartition(".")[0] for a, b in names.items()}
        modules = dict(self.net.named_modules())
        found = {path: modules.get(twins.get(path, path)) for path in self.layers if path in paths}
        return {id(m): self.layers[path] for path, m in found.items() if m is not None}


@contextmanager
def unchanged(*nets: torch.nn.Module) -> Iterator[None]:
    """Put buffers back that a run moves, so that the next one starts as it did."""
    before = [{n: b.detach().clone() for n, b in net.named_buffers()} for net in nets]
    try:
        yield
    finally:
        with torch.no_grad():
            for net, kept in zip(nets, before, strict=True):
                for name, buffer in net.named_buffers():
                    if name in kept and buffer.shape == kept[name].shape:
                        buffer.copy_(kept[name])


def end_to_end(
    candidate: NetworkSide,
    reference: NetworkSide,
    images: Images,
    off: Mapping[str, Tensor] = MappingProxyType({}),
    *,
    both: bool = False,
    along: str = "reference",
) -> tuple[Part, dict[str, float]]:
    """Measure one run, beside the bound of the reference.

    Args:
        candidate: the accused.
        reference: the dense network.
        images: what both run on.
        off: what parameters of that side are off by on the other one, by name.
        both: whether the candidate, which is written otherwise, has a bound of its own.
        along: the side that the bound is carried along, "reference" or "candidate"; "" if it
            would have to be either.

    Returns:
        The part, and the largest error / bound under "y" where there is a bound.
    """
    bounded = candidate if along == "candidate" else reference
    running = RunningBound(bounded.net, off if along else {})

    def run(
        side: NetworkSide, shapes: Any, bound: RunningBound | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What it returns, and the same in memory of its own."""
        fresh = tuple(image.clone() for image in images)
        with unchanged(side.net):
            if bound is None:
                with torch.no_grad():
                    made = side.run(side.net, fresh, shapes)
            else:
                made = bound.run(lambda: side.run(side.net, fresh, shapes))
            return made, _copied(made)

    made_one, one = run(reference, None, running if bounded is reference else None)
    shapes = [tuple(t.shape) for t in one]
    made_two, two = run(candidate, shapes, running if bounded is candidate else None)
    name = "end to end"
    if [t.shape for t in one] != [t.shape for t in two]:
        return Part(name, *_other_shapes(one, two)), {}
    if other := other_names(names_of(one), names_of(two)):
        return Part(name, "undecided", f"{other}: return them alike"), {}
    gaps = [(_wide(a) - _wide(b)).abs() for a, b in zip(one, two, strict=True)]
    error = max((float(g.max()) for g in gaps if g.numel()), default=0.0)
    lacking = _no_number(one, two, "reference", "candidate")
    if lacking:
        return Part(name, "undecided", lacking), {}
    lacking = _no_number(two, one, "candidate", "reference")  # which a bound refutes
    if lacking and (not along or running.missing):
        return Part(name, "undecided", lacking), {}
    if not along:
        facts = f"error {error:.3g}; no bound: either side is folded somewhere"
        return Part(name, MEASURED_ONLY, facts), {}
    if running.missing:
        return Part(name, MEASURED_ONLY, f"error {error:.3g}; no bound: {running.missing}"), {}
    held = made_one if bounded is reference else made_two
    limits = [2 * running.bound(t) for t in held]
    if both:
        own = RunningBound(candidate.net)
        made, _ = run(candidate, shapes, own)
        if own.missing:
            facts = f"error {error:.3g}; no bound of the candidate: {own.missing}"
            return Part(name, MEASURED_ONLY, facts), {}
        limits = [limit / 2 + own.bound(t) for limit, t in zip(limits, made, strict=True)]
    largest = max((float(m.max()) for m in limits if m.numel()), default=0.0)
    if not np.isfinite(largest):
        return Part(name, MEASURED_ONLY, f"error {error:.3g}; the bound is infinite"), {}
    rho = 0.0
    for place, (gap, limit) in enumerate(zip(gaps, limits, strict=True)):
        if not gap.numel():
            continue
        ratio = torch.where(gap == 0, 0.0, gap / limit)
        rho = max(rho, float(ratio.max()))
        if not bool((ratio <= 1).all()):
            at = int(ratio.reshape(-1).argmax())
            index = [int(i) for i in np.unravel_index(at, tuple(gap.shape))]
            a, b = (_wide(side[place]).reshape(-1)[at].item() for side in (one, two))
            return Part(
                name, "refuted", f"output {place} at {index} is {a!r} on the reference and "
                f"{b!r} on the candidate; rounding explains {float(limit.reshape(-1)[at]):.2g}",
            ), {"y": float(ratio.max())}  # fmt: skip
    scale = max((float(_wide(t).abs().max()) for t in one if t.numel()), default=0.0)
    facts = f"measured error {error:.3g}, running bound {largest:.3g}, largest output {scale:.3g}"
    if largest > scale:  # it holds, but any output would
        return Part(name, MEASURED_ONLY, f"{facts}: so wide a bound says nothing"), {"y": rho}
    return Part(name, "proven", facts), {"y": rho}


def _copied(outputs: list[Tensor]) -> Returned:
    """Outputs in memory of their own: a buffer that is returned is about to be put back."""
    return Returned([t.detach().clone() for t in outputs], names_of(outputs))


def _no_number(one: Sequence[Tensor], two: Sequence[Tensor], who: str, other: str) -> str:
    """Say where one side has no number and the other has one, in words; "" nowhere."""
    for place, (a, b) in enumerate(zip(one, two, strict=True)):
        there = (~a.isfinite() & b.isfinite()).nonzero()
        if len(there):
            at = tuple(there[0].tolist())
            return (
                f"output {place} at {list(at)} is {a[at].item()!r} on the {who} and "
                f"{b[at].item()!r} on the {other}: what is no number has no bound"
            )
    return ""


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def _other_shapes(one: list[Tensor], two: list[Tensor]) -> tuple[str, str]:
    """The status where outputs have other shapes or another number, and an entry that shows it."""
    text = f"outputs of {[tuple(t.shape) for t in one]} against {[tuple(t.shape) for t in two]}"
    for place in range(max(len(one), len(two))):
        sides = [(one, "reference"), (two, "candidate")]
        a, b = (side[place] if place < len(side) else None for side, _ in sides)
        if a is not None and b is not None and a.shape == b.shape:
            continue
        has, who, lacks = (a, *("reference", "candidate")) if a is not None and a.numel() else (
            b, *("candidate", "reference"))  # fmt: skip
        if has is None or not has.numel():
            continue
        at = int(_wide(has).abs().reshape(-1).argmax())
        index = [int(i) for i in np.unravel_index(at, tuple(has.shape))]
        value = _wide(has).reshape(-1)[at].item()
        other = "none" if a is None or b is None else "no such shape"
        return "refuted", (
            f"{text}: output {place} at {index} is {value!r} on the {who}, the {lacks} has {other}"
        )
    return "undecided", f"{text}: there is no entry that shows it"


def elsewhere(
    candidate: NetworkSide,
    reference: NetworkSide,
    images: Images,
    off: Mapping[str, Tensor],
    along: str = "reference",
) -> str:
    """Look for other images on which the outputs differ, in words; "" where none is found.

    What overflows there shows nothing: one function may be written so that it does and so that it
    does not.
    """
    for factor in FACTORS:
        moved = tuple(i * factor if i.is_floating_point() else i for i in images)
        try:
            found, _ = end_to_end(candidate, reference, moved, off, along=along)
            if found.status == "refuted" and _finite(candidate, reference, moved):
                return f"on images times {factor:g}, {found.facts}"
        except (Exception, SystemExit):  # noqa: BLE001 - it raises there, which is no number
            continue
    return ""


def _finite(candidate: NetworkSide, reference: NetworkSide, images: Images) -> bool:
    """Whether both outputs are numbers."""
    shapes = None
    for side in (reference, candidate):
        with torch.no_grad(), unchanged(side.net):
            made = _copied(side.run(side.net, tuple(image.clone() for image in images), shapes))
        if not all(bool(t.isfinite().all()) for t in made):
            return False
        shapes = [tuple(t.shape) for t in made]
    return True
