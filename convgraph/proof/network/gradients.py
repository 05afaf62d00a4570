"""Gradients of a network: the backward program of both sides, node by node, as the forward one.

Both sides run forward and backward under the recorder, `.backward()` into `.grad`, so that hooks of
modules, tensors and parameters run too. Every operator of autograd is a node, and a layer that is
one node forward is one backward; gradients of images and parameters are outputs by name. A skip
that is cut, a reversed gradient, a backward of one's own or a hook is another program, and a number
decides what that comes to: a gradient that is missing where the reference's is none, or one that is
further off than the running bound allows.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convgraph.proof.network.end_to_end import Images, NetworkSide, unchanged
from convgraph.proof.network.manners import (
    FOLLOWED,
    OTHERS,
    Manner,
    called,
    fresh_gradients,
)
from convgraph.proof.network.match import Different, Matcher, Reference, as_proven
from convgraph.proof.network.meanings import points
from convgraph.proof.network.node import Layer
from convgraph.proof.network.recorder import trace
from convgraph.proof.network.running_error.bound import RunningBound
from convgraph.proof.network.value_numbers import Numbering, Undecided, Unordered, flat
from convgraph.proof.record.certificate import Part
from convgraph.proof.surroundings import as_written, watched

NAME = "gradients"
MISSING = "no bound"
LARGER = 16
"""How many times as large terms gradients may be put together of where operators are others: what
autograd makes of a norm's own steps has some that cancel (2.3 times as large were seen), and at
most four bits are lost."""
NOT_ASKED = "gradients of the network, and of its layers within it"


def gradients(
    candidate: NetworkSide,
    reference: NetworkSide,
    images: Images,
    whole: Mapping[str, str] = MappingProxyType({}),
) -> Part:
    """Compare the backward programs, and their numbers where they differ.

    Then both sides are called in other manners, and their numbers compared there.

    Args:
        candidate: the accused; wired as the reference forward.
        reference: the dense network.
        images: what both run on.
        whole: paths of the layers that are one node, functions among them, and of their twins of
            the reference.
    """
    try:
        heads = _heads(reference, images)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a side raises is what is reported
        return Part(NAME, "undecided", _raised(error))
    with as_written():
        found = _programs(candidate, reference, images, heads, whole)
    if found.status in ("refuted", "undecided"):
        return found
    try:
        with torch.enable_grad(), watched() as moved:
            found = _otherwise(candidate, reference, images, heads) or found
    except (Exception, SystemExit) as error:  # noqa: BLE001 - likewise
        return Part(NAME, "undecided", _raised(error))
    proven = found.status not in ("refuted", "undecided")
    return replace(found, status="undecided", facts=moved[0]) if moved and proven else found


def _raised(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return f"backward raised {type(error).__name__}: {text}"


def _programs(
    candidate: NetworkSide,
    reference: NetworkSide,
    images: Images,
    heads: list[Tensor],
    whole: Mapping[str, str],
) -> Part:
    """The backward programs, operator by operator."""

    def followed(*, otherwise: bool) -> tuple[int, Matcher]:
        numbering = Numbering()
        worth = points(numbering, together=True) if otherwise else None
        settled = Reference(numbering, merges=True, points=worth)
        known = {**candidate.layers, **reference.layers}
        modules = {path: twin for path, twin in whole.items() if path in candidate.layers}
        twins = {twin: reference.twin(known[path]) for path, twin in modules.items()}
        one = _traced(reference, images, numbering, settled.settle, heads, twins, whole)
        layers = {path: candidate.layers[path] for path in modules}
        names = [_what(name) for name in one]
        for told in (False, True):  # code may have another path where it is told
            matcher = Matcher(settled)
            two = _traced(candidate, images, numbering, matcher.settle, heads, layers, whole, told)
            _same_names(one, two)
            matcher.finish(list(one.values()), [two[name] for name in one], names)
            as_proven(matcher)
            if doubt := matcher.doubt(LARGER):
                raise Unordered(doubt)
        return len(one), matcher

    def proven(*, otherwise: bool = False) -> Part:
        values, matcher = followed(otherwise=otherwise)
        facts = f"{values} values and gradients, {len(matcher.pairs)} operators forward and "
        facts += "backward, each the same and of the same elements"
        if (others := matcher.others) is not None:
            facts += f"; {len(matcher.otherwise)} are others, and the gradients the same "
            facts += f"polynomials, put together of terms up to {others.larger:.3g} times as large "
            facts += f"as the reference's; epsilon <= 2^{others.log2_epsilon:.0f}"
            facts += f"; {others.as_fractions}" if others.shares else ""
        return Part(NAME, "proven", facts)

    try:
        return proven()
    except (Different, Unordered) as difference:
        found = _decided(str(difference), candidate, reference, images, heads)
    except Undecided as reason:
        return Part(NAME, "undecided", str(reason))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a side raises is what is reported
        return Part(NAME, "undecided", _raised(error))
    if found.status == "refuted":
        return found
    try:
        return proven(otherwise=True)
    except (Different, Undecided):
        return found
    except (Exception, SystemExit) as error:  # noqa: BLE001 - likewise
        return Part(NAME, "undecided", _raised(error))


def _otherwise(
    candidate: NetworkSide, reference: NetworkSide, images: Images, heads: list[Tensor]
) -> Part | None:
    """Call both sides in other manners; what differs, or None.

    Where neither side's numbers move a bit, they are one function there as they are where they were
    followed. Else the numbers of both are compared.
    """
    one, two = (_fresh(side, images, heads, FOLLOWED) for side in (reference, candidate))
    if not _unmoved(reference, FOLLOWED, two, one):
        words = "called once more as it was followed"
        part = _decided(words, candidate, reference, images, heads, found=two)
        if part.status == "refuted":
            return part
    for how in OTHERS:
        try:
            true = _fresh(reference, images, heads, how)
        except (Exception, SystemExit):  # noqa: BLE001 - it is not made for that, and need not be
            continue
        try:
            found = _fresh(candidate, images, heads, how)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a side raises is what is reported
            if how.apart:  # another memory layout, of which nothing is said
                continue
            text = " ".join(str(error).split())[:200]
            return Part(NAME, "undecided", f"{how.words} it raised {type(error).__name__}: {text}")
        same = _unmoved(reference, how, true, one)
        if (same and _unmoved(candidate, how, found, two)) or (how.inference and not same):
            continue
        part = _decided(how.words, candidate, reference, images, heads, how=how, found=found)
        if part.status == "refuted" or (MISSING in part.facts and not how.apart):
            return part
    return None


def _fresh(
    side: NetworkSide, images: Images, heads: list[Tensor], how: Manner
) -> dict[str, Tensor]:
    with fresh_gradients(side.net):
        return called(side, images, heads, how)


def _unmoved(
    side: NetworkSide, how: Manner, found: Mapping[str, Tensor], before: Mapping[str, Tensor]
) -> bool:
    """Whether all that a manner leaves is what it was, to the bit."""
    needs = {name for name, p in side.named().items() if p.requires_grad}
    kept = {name: t for name, t in before.items() if how.keeps(name, name in needs)}
    return found.keys() == kept.keys() and all(
        torch.equal(found[name], t if name.startswith("output ") else t * how.adds)
        for name, t in kept.items()
    )


def _what(name: str) -> str:
    return name if name.startswith("output ") else f"the gradient of {name!r}"


def _same_names(one: dict[str, Any], two: dict[str, Any]) -> None:
    for name in one:
        if name not in two:
            raise Different(f"there is no gradient of {name!r}", None, None)
    for name in two:
        if name not in one:
            raise Different(
                f"there is a gradient of {name!r}, and the reference has none", None, None
            )


def _traced(
    side: NetworkSide,
    images: Images,
    numbering: Numbering,
    settle: Any,
    heads: list[Tensor],
    layers: Mapping[str, Layer],
    functions: Collection[str],
    told: bool = True,
) -> dict[str, Any]:
    """Numbers of outputs and gradients by name."""
    made: dict[str, Tensor] = {}

    def run(inputs: Any) -> list[Tensor]:
        made.update(called(side, inputs, heads))
        return list(made.values())

    whole = {id(side.net.get_submodule(path)): layer for path, layer in layers.items()}
    with fresh_gradients(side.net):
        numbers, _ = trace(
            side.net, run, tuple(image.clone() for image in images), numbering, whole, settle,
            gradients=True, heads=heads, renamed=side.renamed(), told=told,
            functions=functions, blocks=side.blocks,
        )  # fmt: skip
        held = {name for name, p in side.net.named_parameters() if p.grad is not None}
    for own in (block.own.keys() for block in side.blocks):
        if own & held and own - held:
            raise Different(f"there is no gradient of {min(own - held)!r}", None, None)
    pairs = zip(made, numbers, strict=True)
    return {name: own if name.startswith("output ") else flat(own) for name, own in pairs}


def _heads(reference: NetworkSide, images: Images) -> list[Tensor]:
    """What is sent into each output: normal numbers."""
    with torch.no_grad(), unchanged(reference.net):
        outputs = reference.run(reference.net, tuple(i.clone() for i in images), None)
    draw = np.random.default_rng(0).standard_normal
    return [torch.from_numpy(np.asarray(draw(tuple(y.shape)))).to(y) for y in outputs]


def _of_values(reference: NetworkSide, images: Images, heads: list[Tensor]) -> dict[str, Tensor]:
    """Bounds of the outputs alone; none where they have none either."""
    running = RunningBound(reference.net)
    shapes = [tuple(g.shape) for g in heads]
    with unchanged(reference.net):
        made = running.run(
            lambda: reference.run(reference.net, tuple(i.clone() for i in images), shapes)
        )
    if running.missing:
        return {}
    return {f"output {place}": 2 * running.bound(y) for place, y in enumerate(made)}


def by_numbers(
    difference: str, candidate: NetworkSide, reference: NetworkSide, images: Images
) -> Part:
    """Compare the gradients of two networks of one set of parameters that are wired otherwise."""
    try:
        heads = _heads(reference, images)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a side raises is reported
        return Part(NAME, "undecided", f"{difference}; no number: {type(error).__name__}")
    return _decided(difference, candidate, reference, images, heads)


def _decided(
    difference: str,
    candidate: NetworkSide,
    reference: NetworkSide,
    images: Images,
    heads: list[Tensor],
    *,
    how: Manner = FOLLOWED,
    found: dict[str, Tensor] | None = None,
) -> Part:
    """Another backward program refutes once a number shows that it is another gradient.

    Args:
        difference: of the programs, in words.
        candidate: the accused.
        reference: the dense network.
        images: what both run on.
        heads: what is sent into each output.
        how: in which manner both are called.
        found: what the candidate made of it; without it, it is called.
    """
    try:
        running = RunningBound(reference.net)

        def run() -> dict[str, Tensor]:  # in inference mode other operators run, with no bound
            return called(reference, images, heads, replace(how, inference=False))

        with fresh_gradients(reference.net):
            one = running.run(run, gradients=True)
            limits = {name: 2 * running.bound(t) for name, t in one.items()}
        if running.missing:  # of gradients, it may be; values have one by themselves
            limits = _of_values(reference, images, heads)
        with fresh_gradients(candidate.net), torch.enable_grad():
            two = found or called(candidate, images, heads, how)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - likewise
        return Part(NAME, "undecided", f"{difference}; no number: {type(error).__name__}")
    for name in reversed(one):
        a = one[name].double()
        if not how.keeps(name, True):  # the reference was called outside of inference mode
            continue
        if name not in two:
            at = int(a.abs().reshape(-1).argmax()) if a.numel() else 0
            if a.numel() and float(a.reshape(-1)[at]):
                return Part(
                    NAME, "refuted", f"{difference}; {name!r} has no gradient on the candidate, "
                    f"entry {at} of the reference's is {float(a.reshape(-1)[at])!r}"
                )  # fmt: skip
            continue
        if running.missing and name not in limits:
            continue
        gap = (a - two[name].double().reshape(a.shape)).abs()  # of a parameter, in whatever shape
        over = gap > limits[name]
        if bool(over.any()):
            at = int((gap - limits[name]).reshape(-1).argmax())
            values = float(two[name].reshape(-1)[at]), float(a.reshape(-1)[at])
            return Part(
                NAME, "refuted", f"{difference}; entry {at} of {_what(name)} is "
                f"{values[0]!r}, the reference's {values[1]!r}; rounding explains "
                f"{float(limits[name].reshape(-1)[at]):.2g}"
            )  # fmt: skip
    if running.missing:  # some were not compared
        return Part(NAME, "undecided", f"{difference}; {MISSING}: {running.missing}")
    return Part(NAME, "undecided", f"{difference}; the numbers do not show it")
