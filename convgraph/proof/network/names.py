"""Two networks that hold one set of numbers under other names, and which name is which.

A name is no part of a function. So what one side alone has is paired with what the other alone has:
of one dtype and need of a gradient, first where shape and every bit are the same, then where every
bit is in another shape, then of one shape as they are read in order. That is a guess, and needs no
proof: under these names parameters are compared bit for bit and the wiring node by node, like under
any others. What no operator reads is part of no function.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, final

import torch
from torch import Tensor

from convgraph.proof.network.end_to_end import Images, NetworkSide
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
        reason: why nobody can say which names are two for one, "" where that was read.
    """

    pairs: Mapping[str, str] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()
    reason: str = ""


def find_names(candidate: NetworkSide, reference: NetworkSide, images: Images) -> Names:
    """Pair the names that only one side has.

    Args:
        candidate: the accused.
        reference: the dense network.
        images: what both run on.
    """
    one, two = dict(states(reference.net)), dict(states(candidate.net))
    if one.keys() == two.keys():
        return Names()
    try:
        shapes: list[Any] = []
        order = _read(reference, images, shapes, set())
        whole = called(candidate.net, lambda: candidate.run(candidate.net, _fresh(images), None))
        other = _read(candidate, images, shapes, whole)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a side raises is what is reported
        return Names(reason=" ".join(str(error).split())[:200] or type(error).__name__)
    left = [_alone(one, two, order), _alone(two, one, other)]
    pairs: dict[str, str] = {}
    for shape, bits in ((True, True), (False, True), (True, False)):
        groups: dict[Any, list[str]] = defaultdict(list)
        for name in left[0]:
            groups[_like(one[name], name in order, shape, bits)].append(name)
        for name in left[1]:
            found = groups[_like(two[name], name in other, shape, bits)]
            if found:
                pairs[name] = found.pop(0)
        left = [
            [n for n in left[0] if n not in pairs.values()],
            [n for n in left[1] if n not in pairs],
        ]
    unread = [n for n in left[0] if n not in order] + [n for n in left[1] if n not in other]
    return Names(pairs, frozenset(unread))


def _alone(held: Collection[str], rest: Collection[str], order: Mapping[str, int]) -> list[str]:
    """What one side has and the other has not, as it is read, then as it is defined."""
    names = [name for name in held if name not in rest]
    return sorted(names, key=lambda name: order.get(name, len(order)))


def _like(tensor: Tensor, read: bool, shape: bool, bits: bool) -> Any:
    """What two tensors of one pair have in common."""
    size = tuple(tensor.shape) if shape else tensor.numel()
    key = (size, tensor.dtype, tensor.requires_grad, read)
    if not bits:
        return key
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return *key, sha256(flat.numpy().tobytes()).digest()


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
        for name in _within(numbers, spans):
            found.setdefault(name, len(found))
    for name, numbers in held.items():  # what a run writes elsewhere
        for other in _within(numbers, spans):
            if repr(other) != name:
                found.setdefault(other, len(found))
    first = {id(t): n for n, t in reversed(list(states(side.net)))}
    tied = {n: found[first[id(t)]] for n, t in states(side.net) if first[id(t)] in found}
    return found | tied


def _within(numbers: Numbers, spans: list[tuple[int, int, str]]) -> list[str]:
    flat = as_tensor(numbers).reshape(-1)
    if not flat.numel() or not spans or int(flat.min()) >= spans[-1][1]:
        return []
    return [n for low, high, n in spans if bool(((flat >= low) & (flat < high)).any())]


def _fresh(images: Images) -> Images:
    return tuple(image.clone() for image in images)
