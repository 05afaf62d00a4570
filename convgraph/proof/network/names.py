"""Two networks that hold one set of numbers under other names, and which name is which.

A name is no part of a function. So what one side alone has is paired with what the other alone has,
of one dtype and need of a gradient, in this order:

    shape and every bit are the same, and not all one number
    every bit is in another shape
    several are together several of the other side's   (`blocks`)
    biases of what was paired so far, as their weights were
    the same bits again, one number everywhere or not
    one shape, as they are read in order

That is a guess, and needs no proof: under these names parameters are compared bit for bit and the
wiring node by node, like under any others. What no operator reads is part of no function.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from math import inf
from typing import Any, final

import torch
from torch import Tensor

from convgraph.proof.network.blocks import Block, beside, bias_of, find_blocks, one_for_one
from convgraph.proof.network.end_to_end import Images, NetworkSide, unchanged
from convgraph.proof.network.match import Reference
from convgraph.proof.network.recorder import called, states, trace
from convgraph.proof.network.value_numbers import Numbering, Numbers, as_tensor


@final
@dataclass(frozen=True)
class Names:
    """What was found.

    Attributes:
        pairs: name on the candidate -> name on the reference, where they are not the same.
        unread: names on one side alone that nothing reads.
        blocks: what is cut or joined on the candidate.
        reason: why nobody can say which names are two for one, "" where that was read.
    """

    pairs: Mapping[str, str] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()
    blocks: tuple[Block, ...] = ()
    reason: str = ""


def find_names(candidate: NetworkSide, reference: NetworkSide, images: Images) -> Names:
    """Pair the names that only one side has.

    Args:
        candidate: the accused.
        reference: the dense network.
        images: what both run on.
    """
    one, two = dict(states(reference.net)), dict(states(candidate.net))
    resized = {n for n in one.keys() & two.keys() if one[n].numel() != two[n].numel()}
    if one.keys() == two.keys() and not resized:
        return Names()
    try:
        with unchanged(candidate.net, reference.net):
            shapes: list[Any] = []
            order = _read(reference, images, shapes, set())
            whole = called(
                candidate.net, lambda: candidate.run(candidate.net, _fresh(images), None)
            )
            other = _read(candidate, images, shapes, whole)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a side raises is what is reported
        return Names(reason=" ".join(str(error).split())[:200] or type(error).__name__)
    sides = _alone(one, two, resized, order), _alone(two, one, resized, other)
    found = _Found(*sides, resized)
    found.pair(shape=True, bits=True, varied=True)
    found.pair(shape=False, bits=True, varied=True)
    found.cut()
    found.biases()
    found.pair(shape=True, bits=True)
    found.pair(shape=False, bits=True)
    found.pair(shape=True, bits=False)
    unread = {n for side in sides for n, held in side.items() if not held.read} - resized
    return Names(found.pairs, frozenset(unread), tuple(sorted(found.blocks, key=len, reverse=True)))


@final
@dataclass(frozen=True)
class _Held:
    """What a side has under a name.

    Attributes:
        tensor: the values.
        read: whether an operator reads it.
    """

    tensor: Tensor
    read: bool

    @property
    def kind(self) -> Any:
        """What two of one pair have in common beside numbers."""
        return self.tensor.dtype, self.tensor.requires_grad, self.read

    @cached_property
    def digest(self) -> bytes:
        """Of every bit, row by row."""
        flat = self.tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return sha256(flat.numpy().tobytes()).digest()

    @cached_property
    def varied(self) -> bool:
        """Whether it holds real numbers, and not one everywhere, as many do."""
        flat = self.tensor.detach().reshape(-1)
        return flat.is_floating_point() and bool((flat != flat[:1]).any())


@final
@dataclass
class _Found:
    """What has no partner yet, as it is read, and what has.

    Attributes:
        reference: of the reference, by name.
        candidate: of the candidate.
        resized: names that both have, of other sizes: they may be blocks, and no pairs.
        pairs: name on the candidate -> name on the reference.
        blocks: what is cut or joined.
    """

    reference: dict[str, _Held]
    candidate: dict[str, _Held]
    resized: set[str]
    pairs: dict[str, str] = field(default_factory=dict)
    blocks: list[Block] = field(default_factory=list)

    def pair(self, *, shape: bool, bits: bool, varied: bool = False) -> None:
        """Pair what is of one shape, or one size, and of the same bits or not.

        `varied`: nothing that is one number everywhere.
        """

        def like(held: _Held) -> Any:
            size = tuple(held.tensor.shape) if shape else held.tensor.numel()
            return size, held.kind, held.digest if bits else b""

        groups: dict[Any, list[str]] = defaultdict(list)
        for name, held in self.reference.items():
            if name not in self.resized and not (varied and not held.varied):
                groups[like(held)].append(name)
        for name, held in list(self.candidate.items()):
            asked = name not in self.resized and not (varied and not held.varied)
            if asked and groups[like(held)]:
                self._take(name, groups[like(held)].pop(0))

    def _take(self, name: str, other: str) -> None:
        self.pairs[name] = other
        del self.candidate[name], self.reference[other]

    def cut(self) -> None:
        """Find what is cut or joined, among what numbers alone tell apart."""
        kinds: dict[Any, tuple[dict[str, Tensor], dict[str, Tensor]]] = {}
        for place, side in enumerate((self.candidate, self.reference)):
            for name, held in side.items():
                if held.read and held.tensor.is_floating_point():
                    kinds.setdefault(held.kind, ({}, {}))[place][name] = held.tensor
        self._keep([b for one, two in kinds.values() for b in find_blocks(one, two)])

    def biases(self) -> None:
        """Cut biases as the weights that have their names but for that word."""
        for name, other in list(self.pairs.items()):
            bias, its = bias_of(name), bias_of(other)
            if bias in self.candidate.keys() - self.resized and its in self.reference:
                one, two = self.candidate[bias], self.reference[its]
                if one.kind == two.kind and one.tensor.shape == two.tensor.shape:
                    self._take(bias, its)
        found = (beside(b, *map(_tensors, (self.candidate, self.reference))) for b in self.blocks)
        self._keep([b for b in found if b is not None and self._alike(b)])

    def _alike(self, block: Block) -> bool:
        """Whether all of them may be one another's."""
        held = [self.candidate[n] for n in block.own] + [self.reference[n] for n in block.other]
        return len({h.kind for h in held}) == 1 and held[0].read

    def _keep(self, blocks: list[Block]) -> None:
        """Take blocks, but those that leave a name that both sides have to one of them alone."""
        while True:
            mine, yours = {n for b in blocks for n in b.own}, {n for b in blocks for n in b.other}
            half = self.resized & (mine ^ yours)
            if not half:
                break
            blocks = [b for b in blocks if not half & {*b.own, *b.other}]
        for block in blocks:
            if names := one_for_one(block):
                self._take(*names)
                continue
            self.blocks.append(block)
            for side, own in ((self.candidate, block.own), (self.reference, block.other)):
                for name in own:
                    del side[name]


def _tensors(side: Mapping[str, _Held]) -> dict[str, Tensor]:
    return {name: held.tensor for name, held in side.items()}


def _alone(
    held: Mapping[str, Tensor],
    rest: Collection[str],
    resized: Collection[str],
    order: Mapping[str, int],
) -> dict[str, _Held]:
    """What one side has and the other has not, as it is read, then as it is defined."""
    names = [name for name in held if name not in rest or name in resized]
    return {
        name: _Held(held[name], name in order)
        for name in sorted(names, key=lambda name: order.get(name, len(order)))
    }


def _read(
    side: NetworkSide, images: Images, shapes: list[Any], paths: Collection[str]
) -> dict[str, int]:
    """The names that a run reads, and when each was read first."""
    numbering = Numbering()
    settled = Reference(numbering)

    def run(inputs: Images) -> list[Tensor]:
        outputs = side.run(side.net, inputs, shapes or None)
        shapes.extend([tuple(t.shape) for t in outputs] if not shapes else [])
        return outputs

    layers = side.by_id({path for path in side.layers if path in paths})
    made, held = trace(side.net, run, _fresh(images), numbering, layers, settled.settle)
    spans = sorted(
        (base, base + max(1, torch.Size(shape).numel()), name)
        for name, (base, shape) in numbering.names.items()
        if not name.startswith("<")
    )
    found: dict[str, int] = {}
    for numbers in (*(n for node in settled.nodes for n in node.inputs), *made):
        for name in within(numbers, spans):
            found.setdefault(name, len(found))
    for name, numbers in held.items():  # what a run writes elsewhere
        for other in within(numbers, spans):
            if repr(other) != name:
                found.setdefault(other, len(found))
    first = {id(t): n for n, t in reversed(list(states(side.net)))}
    tied = {n: found[first[id(t)]] for n, t in states(side.net) if first[id(t)] in found}
    return found | tied


def within(numbers: Numbers, spans: list[tuple[int, int, str]]) -> list[str]:
    """Say which spans have some of the numbers.

    Args:
        numbers: of a value.
        spans: (first, behind the last, name), apart and in order.
    """
    flat = as_tensor(numbers).reshape(-1)
    if not flat.numel() or not spans or int(flat.min()) >= spans[-1][1]:
        return []
    first, last = int(flat.min()), int(flat.max())
    near = spans[max(bisect_right(spans, (first, inf)) - 1, 0) : bisect_right(spans, (last, inf))]
    return [n for low, high, n in near if bool(((flat >= low) & (flat < high)).any())]


def _fresh(images: Images) -> Images:
    return tuple(image.clone() for image in images)
