"""The proof of a whole network: parameters, wiring, a certificate per layer, and a run end to end.

    parameters     every parameter and buffer, bit for bit
    wiring         every operator reads the same elements on both sides, and is the same operator
    layers         each convolution and linear map carries its own certificate
    rounding       at every operator, the difference of the two runs within a derived bound
    end to end     measured error of one run beside a bound that was propagated through the network

Receives two modules and what calls them, and never learns what they are made of.
"""

import copy
import json
import platform
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from convgraph.errors import ConvgraphError, ProofError
from convgraph.proof import draws, precision
from convgraph.proof.network.blocks import stretches
from convgraph.proof.network.end_to_end import (
    MEASURED_ONLY,
    Images,
    NetworkSide,
    elsewhere,
    end_to_end,
    names_of,
    other_names,
    unchanged,
)
from convgraph.proof.network.folded_wiring import FoldedWiring
from convgraph.proof.network.folds import Fold, find_folds, turned
from convgraph.proof.network.gradients import NAME, NOT_ASKED, by_numbers, gradients
from convgraph.proof.network.match import Different, Matcher, Reference, as_proven
from convgraph.proof.network.meanings import PART_AT_TIES, points
from convgraph.proof.network.names import Names, find_names
from convgraph.proof.network.node import CONVOLUTION, Node, NodeCall, Observe, Settle
from convgraph.proof.network.polynomials import Points
from convgraph.proof.network.recorder import called, states, trace
from convgraph.proof.network.region_wiring import RegionWiring
from convgraph.proof.network.regions import Region, find_regions
from convgraph.proof.network.side_by_side import Beside, Values
from convgraph.proof.network.value_numbers import (
    Numbering,
    Progression,
    Random,
    Undecided,
    Unordered,
    flat,
)
from convgraph.proof.record.certificate import NO_SECOND, NOT_COVERED, Certificate, Part
from convgraph.proof.surroundings import COMPILERS, as_written, handed_on, watched

ASSUMED = (
    "the wiring is the one recorded on these images: control flow that depends on data is outside, "
    "and no value leaves torch and comes back",
    "one operator of torch with one set of arguments is one function, whatever the memory layout",
    "for the running bound alone: torch's square roots err by at most 4 units of roundoff "
    "(measured: 1.5), exp, log, erf, tanh and what is made of them by at most 8 (measured: 5.9), "
    "attention's own exp by at most 40 (measured: 5.3)",
)


OTHER_WEIGHTS = "other weights than these, where a norm is folded: its numbers were compared"

OTHER_REGIONS = (
    "other weights than these, where one operator stands for several: its numbers were compared"
)

OTHER_MANNERS = (
    "operators that run in another manner of calling than followed, where numbers alone are "
    "compared: images that need no gradient, inference mode, frozen parameters (all or none of "
    "them) and the like"
)

COMPILED = "torch.compile makes the same function of what was followed as it is written"

FEW = 3
"""Folds or names that a line has; `spec` has them all."""

NO_RHO: dict[str, float] = {}

Certify = Callable[[Node, Node, str], tuple[Any, Callable[[], Certificate]] | None]
"""(reference node, candidate node, path of its weight's owner) -> a key of what is proven, and how;
None where a node needs no certificate of its own."""


def prove_network(
    candidate: NetworkSide,
    reference: NetworkSide,
    images: Images,
    certify: Certify,
    *,
    name: str,
    trust: Collection[str] = (),
    progress: bool = False,
) -> Certificate:
    """Prove two networks the same.

    Args:
        candidate: the accused.
        reference: the dense network.
        images: what both are run on, at least two images.
        certify: proves one layer.
        name: of the candidate, for the record.
        trust: "torch.compile" takes compilers for granted; layers are `certify`'s.
        progress: show a progress bar.

    Returns:
        A Certificate of kind "network" with one certificate per layer.
    """
    device = images[0].device
    floating = [t for _, t in states(reference.net) if t.is_floating_point()]
    dtype = (floating or list(images))[0].dtype
    around = precision.plain(device), unchanged(candidate.net, reference.net)
    with watched() as left, around[0], around[1], _bar(progress) as step:
        with as_written(), watched() as first:
            names = find_names(candidate, reference, images)
        candidate = replace(candidate, names=names.pairs, blocks=names.blocks)
        parts = [_parameters(candidate, reference, names)]
        folds: list[Fold | Region] = []
        if parts[0].status != "proven":
            with as_written(), unchanged(candidate.net, reference.net):
                folds, reason = _found(candidate, reference, images)
            parts = [_parameters(candidate, reference, names, folds, reason)]
        off, along = _carried(folds, candidate, reference)
        step("wiring", 1)
        beside = Beside(Values())
        with as_written() as compiled, watched() as moved, handed_on() as handed:
            wiring, matcher, difference = _wiring(candidate, reference, images, beside, folds)
            if isinstance(difference, (Different, Unordered)) and not (
                folds or _shown(candidate, reference, images)
            ):
                again = Beside(Values())
                found = _wiring(candidate, reference, images, again, folds, otherwise=True)
                if found[0].status == "proven":
                    (wiring, matcher, difference), beside = found, again
                elif not isinstance(found[2], Different):  # the same, or nobody can say
                    wiring = replace(wiring, facts=f"{wiring.facts}; {found[0].facts}")
        if handed:
            facts = handed[0] if wiring.status == "proven" else f"{wiring.facts}; {handed[0]}"
            wiring = replace(wiring, status="undecided", facts=facts)
        if wiring.status == "proven" and (moved or first):
            wiring = replace(wiring, status="undecided", facts=(*moved, *first)[0])
        if wiring.status == "proven" and compiled and COMPILERS not in trust:
            text = "something is compiled: it was followed as it is written, and the compiled "
            text += f"program runs end to end alone; trust=({COMPILERS!r},) takes compilers for "
            text += "granted"
            wiring = replace(wiring, status="undecided", facts=text)
        parts.append(wiring)
        others = None if matcher is None else matcher.others
        layers: list[Certificate] = []
        paths: list[str] = []
        if matcher is not None:
            paths, layers, failed = _layers(matcher, reference, certify, step)
            parts += [failed or _layers_part(layers, matcher)]
            parts += [_operators_part(matcher), _beside_part(beside)]
        grads = Part(NAME, "not asked", "the forward wiring is not proven")
        if folds:
            what = "norms are folded"
            if any(isinstance(fold, Region) for fold in folds):
                what = "operators are folded into one"
            grads = Part(NAME, "not asked", f"{what}: other parameters are trained")
        elif matcher is not None:
            with handed_on() as handed:
                whole = _whole(matcher, reference)
                grads = _at_ties(gradients(candidate, reference, images, whole), matcher)
            if handed and grads.status == "proven":
                grads = replace(grads, status="undecided", facts=handed[0])
        parts.append(grads)
        step("end to end", 1)
        end, rho = Part("end to end", "not asked", "two runs draw other random numbers"), NO_RHO
        if not isinstance(difference, Random):
            try:
                both = others is not None
                end, rho = end_to_end(candidate, reference, images, off, both=both, along=along)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a side raises is what is reported
                end = Part("end to end", "undecided", _raised(error))
            if difference is not None:
                kept = parts[0].status == "proven" and not folds
                if kept:
                    shown = by_numbers(str(difference), candidate, reference, images)
                    parts[-1] = shown if shown.status == "refuted" else parts[-1]
                parts[1] = _settled(
                    wiring, difference, end, candidate, reference, images, off, kept, along
                )
        parts.append(end)
    if parts[1].status == "proven" and left:  # outside of what was followed
        parts[1] = replace(parts[1], status="undecided", facts=left[0])
    # Where both are the same function of their parameters, or are shown to be two, a number that
    # differs says why; elsewhere it may be the same function, held otherwise.
    compared = matcher is not None or any(part.status == "refuted" for part in parts)
    if compared and parts[0].status == "undecided" and " differs; " in parts[0].facts:
        facts = parts[0].facts
        if "looks folded" in facts:  # the number that shows it, beside the one that says why
            facts = "; ".join([facts, *(p.facts for p in parts if p.status == "refuted")][:2])
        parts[0] = replace(parts[0], status="refuted", facts=facts)
    verdict, reason = _verdict(parts, layers)
    return Certificate(
        name=name,
        verdict=verdict,
        reason=reason,
        parts=tuple(parts),
        spec={"images": [list(i.shape) for i in images], "layers": len(layers),
              "operators": 0 if matcher is None else len(matcher.pairs), "paths": paths,
              **({"folds": list(map(str, folds))} if folds else {}),
              **({"names": dict(names.pairs)} if names.pairs else {}),
              **({"blocks": stretches(names.blocks)} if names.blocks else {})},
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        seed=layers[0].seed if layers else 0,
        a=0,
        trials=0,
        log2_epsilon=_log2_epsilon(layers, others),
        epsilon=max((layer.epsilon for layer in layers), default=draws.EPSILON),
        rho=rho,
        versions={
            "torch": torch.__version__, "numpy": np.__version__,
            "python": platform.python_version(),
        },
        flags=precision.stated(device),
        assumed=tuple(dict.fromkeys((
            *ASSUMED, *([COMPILED] if compiled else []), *_meant(others),
            *(a for one in layers for a in one.assumed),
        ))),
        not_covered=tuple(dict.fromkeys((
            *NOT_COVERED, OTHER_MANNERS, NO_SECOND, *_unbounded(beside), *_written(matcher),
            *([NOT_ASKED] if grads.status != "proven" else []),
            *([OTHER_WEIGHTS] if any(isinstance(fold, Fold) for fold in folds) else []),
            *([OTHER_REGIONS] if any(isinstance(fold, Region) for fold in folds) else []),
            *(text for one in layers if one.kind == "maximum" for text in one.not_covered),
        ))),
        kind="network",
        layers=tuple(layers),
    )  # fmt: skip


# -- parameters ------------------------------------------------------------------------------------


def _raised(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return f"one side raised {type(error).__name__}: {text}"


def _owners(matcher: Matcher) -> dict[int, str]:
    """The module of the reference that holds a parameter, by its first number."""
    names = matcher.reference.numbering.names
    return {base: name.rpartition(".")[0] for name, (base, _) in reversed(list(names.items()))}


def _owner(node: Node, owners: Mapping[int, str]) -> str:
    """The module that holds the weight of a node, "" if none does."""
    held = (n.base for n in node.inputs[1:] if isinstance(n, Progression))
    return next((owners[base] for base in held if base in owners), "")


def _whole(matcher: Matcher, reference: NetworkSide) -> dict[str, str]:
    """The layers that are one node, forward and backward: path -> its twin's of the reference."""
    owners, paths = _owners(matcher), {path for path, _ in reference.net.named_modules()}
    return {
        two.layer: two.layer if two.layer in paths or two.call else _owner(one, owners)
        for one, two in matcher.pairs
        if two.layer is not None
    }


def _found(
    candidate: NetworkSide, reference: NetworkSide, images: Images
) -> tuple[list[Fold | Region], str]:
    """What one side folded, and in words what looks like it and is none; "" without any such."""
    folds, reasons = find_folds(candidate, reference, images)
    known = {fold.weight for fold in folds}
    regions, others = find_regions(candidate, reference, images, known)
    right = {name for region in regions for name in region.names}
    left = {name: text for name, text in reasons.items() if name not in right} | others
    return [*folds, *sorted(regions, key=str)], min(left.values(), default="")


def _carried(
    folds: Sequence[Fold | Region], candidate: NetworkSide, reference: NetworkSide
) -> tuple[dict[str, Tensor], str]:
    """What parameters of one side are off by on the other, by their own names, and which side.

    A region has no parameter that could be off for all of it: then it is the side of what stands
    for regions, where that is one side.
    """
    pairs = [fold for fold in folds if isinstance(fold, Fold)]
    regions = [fold for fold in folds if isinstance(fold, Region)]
    if not regions:
        return {name: error for fold in pairs for name, error in fold.carried.items()}, "reference"
    (along, *more) = sorted({fold.on for fold in folds})
    side = candidate if along == "candidate" else reference
    own = {other: name for name, other in side.names.items()}
    found: dict[str, Tensor] = {}
    for fold in folds:
        for name, error in zip(fold.renamed(), fold.off, strict=True):
            name = own.get(name, name)
            found[name] = torch.maximum(error, found.get(name, error))
    return found, "" if more else along


def _parameters(
    candidate: NetworkSide,
    reference: NetworkSide,
    names: Names,
    folds: Sequence[Fold | Region] = (),
    reason: str = "",
) -> Part:
    """Compare what both sides hold.

    Args:
        candidate: the accused.
        reference: the dense network.
        names: which of their names are two for one, and which name what nothing reads.
        folds: what is compared by them.
        reason: what looks like a fold and is none.
    """
    one, two = candidate.named(), reference.named()
    compared = {name for fold in folds for name in fold.renamed()}
    for fold in folds:  # what it was folded of, and counts of batches, where nobody else has it
        has, lacks = (two, one) if fold.on == "candidate" else (one, two)
        reads = fold.reads if isinstance(fold, Region) else fold.pair[1]
        owners = {name.rpartition(".")[0] for name in reads}
        own = {*reads, *(f"{owner}.num_batches_tracked" for owner in owners)}
        compared |= own & (has.keys() - lacks.keys())
    for whose in ("candidate", "reference"):
        compared |= _of_regions(folds, whose, one, two).keys()
    for named in (one, two):  # a tied one is known by its first name
        first = {id(tensor): name for name, tensor in reversed(list(named.items()))}
        compared |= {name for name, tensor in named.items() if first[id(tensor)] in compared}
    for name in sorted({*one, *two} - compared - names.unread):
        if name not in one or name not in two:
            side = "reference" if name in two else "candidate"
            facts = f"{name!r} is on the {side} alone"
            facts += f"; what reads it cannot be followed: {names.reason}" if names.reason else ""
            return Part("parameters", "undecided", reason or facts)
        a, b = one[name], two[name]
        if a.numel() != b.numel() or a.dtype != b.dtype or not _equal(a.flatten(), b.flatten()):
            facts = f"{name!r} differs; copy it first, e.g. by load_state_dict"
            return Part("parameters", "undecided", reason or facts)
        if a.requires_grad != b.requires_grad:
            facts = f"{name!r} is trained on one side and frozen on the other"
            return Part("parameters", "undecided", facts)
    same = [t for name, t in two.items() if name not in compared | names.unread]
    facts = f"{len(same)} tensors, {sum(t.numel() for t in same)} numbers, bit for bit"
    shaped = [f"{name!r} {(*one[name].shape,)} is {(*two[name].shape,)}" for name in two
              if name in one and one[name].shape != two[name].shape]  # fmt: skip
    if shaped:
        facts += f"; row by row, of other shapes: {_some(shaped)}"
    pairs = [f"{a!r} is {b!r}" for a, b in names.pairs.items() if b not in compared]
    if pairs:
        facts += f"; under other names: {_some(pairs)}"
    if names.blocks:
        more = f"; and {len(names.blocks) - FEW} more" if len(names.blocks) > FEW else ""
        facts += "; cut or joined: " + "; ".join(map(str, names.blocks[:FEW])) + more
    if names.unread:
        facts += "; nothing reads what one side alone has: "
        facts += _some([repr(name) for name in sorted(names.unread)])
    for kind, text in ((Fold, "a norm is folded"), (Region, "one operator stands for several")):
        these = [str(fold) for fold in folds if isinstance(fold, kind)]
        if these:
            facts += f"; for these weights, within what rounding explains, {text}: {_some(these)}"
    return Part("parameters", "proven", facts)


def _some(words: list[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(words) - FEW} more" if len(words) > FEW else ""
    return ", ".join(words[:FEW]) + more


def _equal(a: Tensor, b: Tensor) -> bool:
    """The same bits: a NaN equals itself."""
    return bool(torch.equal(a, b)) or bool(((a == b) | ((a != a) & (b != b))).all())


# -- wiring ----------------------------------------------------------------------------------------


def _wiring(
    candidate: NetworkSide,
    reference: NetworkSide,
    images: Images,
    beside: Beside,
    folds: Sequence[Fold | Region],
    *,
    otherwise: bool = False,
) -> tuple[Part, Matcher | None, Different | Undecided | None]:
    """Follow both sides; `otherwise`: operators may be others, where they mean the same."""
    numbering = Numbering()
    found = Reference(numbering, points=points(numbering) if otherwise else None)
    try:
        with unchanged(candidate.net):  # the run that is followed starts where the reference's does
            whole = called(candidate.net, lambda: candidate.run(candidate.net, images, None))
        paths = {path for path in candidate.layers if path in whole}
        shapes: list[tuple[int, ...]] = []

        names: list[str] = []
        dtypes: list[torch.dtype] = []

        def dense(inputs: Images) -> list[Tensor]:
            outputs = reference.run(reference.net, inputs, None)
            shapes.extend(tuple(t.shape) for t in outputs)
            names.extend(names_of(outputs))
            dtypes.extend(t.dtype for t in outputs)
            return outputs

        def accused(inputs: Images) -> list[Tensor]:
            outputs = candidate.run(candidate.net, inputs, shapes)
            other.append(
                other_names(tuple(names), names_of(outputs))
                or _other_dtypes(dtypes, [t.dtype for t in outputs])
            )
            return outputs

        other: list[str] = []

        here = [fold for fold in folds if fold.on == "reference"]
        there = [fold for fold in folds if fold.on == "candidate"]
        known = candidate.named(), reference.named()
        inputs = tuple(image.clone() for image in images)
        pairs = _with_folds(there, numbering, found.settle, beside.values.keep)
        with unchanged(reference.net):
            one, kept = trace(
                reference.net, dense, inputs, numbering, reference.by_id(paths, candidate.names),
                pairs.settle, pairs.observe,
                renamed=reference.renamed(_renamed(here) | _of_regions(folds, "reference", *known)),
            )  # fmt: skip
        for fold in folds:
            for name, error in zip(fold.renamed().values(), fold.off, strict=True):
                own = numbering.named(name, tuple(error.shape))
                beside.off[own] = torch.maximum(error, beside.off.get(own, error))
                if error.dim() == 2:  # of a linear map, which reads it so
                    beside.off[turned(own)] = beside.off[own].t()

        def matched(look: Callable[[Matcher, NodeCall], None], told: bool) -> Matcher:
            matcher = Matcher(found)
            inputs = tuple(image.clone() for image in images)
            pairs = _with_folds(here, numbering, matcher.settle, partial(look, matcher))
            with unchanged(candidate.net):
                two, left = trace(
                    candidate.net, accused, inputs, numbering, candidate.by_id(paths), pairs.settle,
                    pairs.observe, told=told, blocks=candidate.blocks,
                    renamed=candidate.renamed(
                        _renamed(there) | _of_regions(folds, "candidate", *known)
                    ),
                )  # fmt: skip
            if len(one) == len(two) and other[-1]:
                raise Different(other[-1], None, None)
            matcher.finish(one, two)
            both = [name for name in kept if name in left]
            held = [f"what {name} holds afterwards" for name in both]
            matcher.finish([flat(kept[n]) for n in both], [flat(left[n]) for n in both], held)
            as_proven(matcher)
            if doubt := matcher.doubt():
                raise Undecided(doubt)
            return matcher

        matched(lambda matcher, call: None, told=False)  # code may have another path where told
        matcher = matched(partial(_look, beside), told=True)
    except Undecided as reason:
        return Part("wiring", "undecided", str(reason)), None, reason
    except Different as difference:
        return Part("wiring", "undecided", str(difference)), None, difference
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a side raises is what is reported
        text = _raised(error)
        return Part("wiring", "undecided", text), None, Undecided(text)
    return Part("wiring", "proven", _same(matcher)), matcher, None


def _other_dtypes(one: Sequence[torch.dtype], two: Sequence[torch.dtype]) -> str:
    """Say which output is of another dtype, in words; "" where none is."""
    for place, (a, b) in enumerate(zip(one, two, strict=False)):
        if a != b:
            return f"output {place} is of {b}, the reference's of {a}"
    return ""


def _same(matcher: Matcher) -> str:
    """What was found of two wirings that are one."""
    facts = f"{len(matcher.pairs)} operators, each reads the same elements on both sides"
    others = matcher.others
    if others is None:
        return facts
    return (
        f"{facts}; {len(matcher.otherwise)} of the candidate and {len(matcher.left)} of the "
        "reference are others, and what comes out of them are the same polynomials, put together "
        f"of the same terms; epsilon <= 2^{others.log2_epsilon:.0f}"
    )


def _with_folds(
    folds: Sequence[Fold | Region], numbering: Numbering, settle: Settle, observe: Observe
) -> RegionWiring:
    """What is folded on the other side is one node on this one."""
    pairs = FoldedWiring([f for f in folds if isinstance(f, Fold)], numbering, settle, observe)
    regions = [f for f in folds if isinstance(f, Region)]
    return RegionWiring(regions, numbering, pairs.settle, pairs.observe)


def _of_regions(
    folds: Sequence[Fold | Region], side: str, one: Mapping[str, Tensor], two: Mapping[str, Tensor]
) -> dict[str, str]:
    """Names for what regions of a side hold under names that the other side has for other numbers.

    Args:
        folds: what is folded, on either side.
        side: of the regions, "candidate" or "reference".
        one: what the candidate holds, by name.
        two: what the reference holds.
    """
    known = {name for fold in folds for name in fold.renamed()}
    reads = {name for fold in folds if isinstance(fold, Region) and fold.on != side
             for name in fold.reads - known}  # fmt: skip
    return {
        name: f"{name}, of a region of the {side}"
        for name in sorted(reads & one.keys() & two.keys())
        if (one[name].shape, one[name].dtype) != (two[name].shape, two[name].dtype)
        or not _equal(one[name], two[name])
    }


def _renamed(folds: Sequence[Fold | Region]) -> dict[str, str]:
    return {name: other for fold in folds for name, other in fold.renamed().items()}


def _shown(candidate: NetworkSide, reference: NetworkSide, images: Images) -> bool:
    """Whether one run shows by its numbers that the two are two functions."""
    try:
        return end_to_end(candidate, reference, images)[0].status == "refuted"
    except (Exception, SystemExit):  # noqa: BLE001 - whatever a side raises is reported elsewhere
        return True


def _look(beside: Beside, matcher: Matcher, call: NodeCall) -> None:
    """Hold an operator against its own of the reference; one that fits nowhere has none."""
    if matcher.pairs and matcher.pairs[-1][1] is call.node:
        beside.look(call, matcher.pairs[-1][0])


def _settled(
    wiring: Part,
    difference: Different | Undecided,
    end: Part,
    candidate: NetworkSide,
    reference: NetworkSide,
    images: Images,
    off: Mapping[str, Tensor],
    kept: bool,
    along: str,
) -> Part:
    """Other wiring refutes once a number shows that it is another function."""
    if end.status == "refuted":
        return replace(wiring, status="refuted", facts=f"{wiring.facts}; {end.facts}")
    shown = elsewhere(candidate, reference, images, off, along)
    if not shown and kept:  # numbers that were folded in one dtype are not so in a finer one
        try:
            sides = [replace(s, net=copy.deepcopy(s.net).double()) for s in (candidate, reference)]
            wide, _ = end_to_end(sides[0], sides[1], tuple(i.double() for i in images))
        except Exception:  # noqa: BLE001 - no copy, or none that runs: its own dtype must do
            wide = end
        if wide.status == "refuted":
            shown = f"in float64, {wide.facts}"
    if shown:
        return replace(wiring, status="refuted", facts=f"{wiring.facts}; {shown}")
    if isinstance(difference, Undecided) and not isinstance(difference, Unordered):
        return wiring
    if end.status != "proven":  # nothing that could show it was compared
        same = end.facts.startswith(wiring.facts)
        return replace(wiring, facts=end.facts if same else f"{wiring.facts}; {end.facts}")
    return replace(
        wiring,
        facts=f"{wiring.facts}; on these images the outputs do not show it, so it may be the same "
        "function written otherwise (cg.excite makes constants that start at zero show)",
    )


# -- layers ----------------------------------------------------------------------------------------


def _layers(
    matcher: Matcher, reference: NetworkSide, certify: Certify, step: Callable[[str, int], None]
) -> tuple[list[str], list[Certificate], Part | None]:
    """The path of each layer with its certificate, which carries the path before its own name.

    And what is said of all of them where one cannot be proven by itself.
    """
    owners = _owners(matcher)
    wanted = []
    for one, two in matcher.pairs:
        weight = _owner(one, owners)
        asked = certify(one, two, weight)
        if asked is not None:
            wanted.append((one.path or weight, *asked))
    done: dict[str, Certificate] = {}
    layers = []
    for path, key, how in wanted:
        text = json.dumps(key, sort_keys=True, default=str)
        if text not in done:
            step(f"layer {path}", len({json.dumps(k, sort_keys=True, default=str)
                                        for _, k, _ in wanted}))  # fmt: skip
            try:
                done[text] = how()
            except ConvgraphError as error:  # of a kind that is not proven by itself
                return [], [], Part("layers", "undecided", f"{path}: {error}")
        name = done[text].name
        layers.append(replace(done[text], name=f"{path}: {name}" if path else name))
    return [path for path, _, _ in wanted], layers, None


def _layers_part(layers: list[Certificate], matcher: Matcher) -> Part:
    if not layers:
        which = "written by the same operators" if matcher.otherwise else "there"
        return Part("layers", "not asked", f"no convolution and no linear map is {which}")
    bad = next(
        (c for wanted in ("refuted", "undecided") for c in layers if c.verdict == wanted), None
    )
    if bad is not None:
        return Part("layers", bad.verdict, f"{bad.name}: {bad.reason}")
    distinct = len({json.dumps(c.spec, sort_keys=True) + c.name.partition(": ")[2] for c in layers})
    worst = max(c.log2_epsilon for c in layers)
    return Part(
        "layers",
        "proven",
        f"{len(layers)} layers of {distinct} configurations, one certificate each; epsilon <= "
        f"2^{worst:.0f} per configuration",
    )


def _operators_part(matcher: Matcher) -> Part:
    layers = {CONVOLUTION} | {one.name for one, _ in matcher.pairs if one.layer is not None}
    kinds = Counter(one.name for one, _ in matcher.pairs if one.name not in layers)
    if not kinds:
        which = "operators are others" if matcher.otherwise else "there are layers alone"
        return Part("operators", "not asked", which)
    facts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return Part("operators", "proven", f"the same operator, the same arguments: {facts}")


def _beside_part(beside: Beside) -> Part:
    name = "rounding"
    if beside.over:
        status = "undecided" if beside.vendor else "refuted"
        why = "; so does the reference's own: no sum as the bound assumes" if beside.vendor else ""
        return Part(name, status, beside.over + why)
    largest, where = beside.worst
    facts = (
        f"{beside.held} operators, each within what the measured difference of its inputs and its "
        f"own rounding explain; largest difference / bound {largest:.2g}"
        + (f", {where}" if largest else "")
    )
    if beside.missing:
        names = ", ".join(f"{n} {k}" for k, n in beside.missing.most_common())
        return Part(name, MEASURED_ONLY, f"{facts}; no bound: {names}")
    return Part(name, "proven", facts)


def _unbounded(beside: Beside) -> tuple[str, ...]:
    """The operators whose rounding nothing bounds, for what is not covered."""
    return tuple(
        f"how far apart rounding in {kind}, {count} times, carries the two runs: it has no bound"
        for kind, count in sorted(beside.missing.items())
    )


def _meant(others: Points | None) -> tuple[str, ...]:
    """What is taken for granted where operators are others."""
    if others is None:
        return ()
    names = ", ".join(sorted(others.read))
    return (
        f"torch's {names}, where two sides write one function by other operators, compute what "
        "they are defined as, up to rounding",
        *([others.as_fractions] if others.shares else []),
    )


def _at_ties(grads: Part, matcher: Matcher) -> Part:
    """Say why gradients may be others where values are the same."""
    kinds = {node.name for node in (*matcher.otherwise, *matcher.left)} & PART_AT_TIES
    if grads.status != "undecided" or matcher.others is None or not kinds:
        return grads
    names = ", ".join(sorted(kinds))
    text = f"the values are proven; where what is compared is equal, the gradients of {names} part"
    return replace(grads, facts=f"{grads.facts}; {text}")


def _log2_epsilon(layers: list[Certificate], others: Points | None) -> float:
    """The most that either chance is probable: of a layer, or of what is written otherwise."""
    found = [layer.log2_epsilon for layer in layers]
    found += [] if others is None else [others.log2_epsilon]
    return max(found, default=0.0)


def _written(matcher: Matcher | None) -> tuple[str, ...]:
    """The operators that have no partner, for what is not covered."""
    if matcher is None or matcher.others is None:
        return ()
    kinds = Counter(node.name for node in matcher.otherwise or matcher.left)
    names = ", ".join(f"{n} {k}" for k, n in kinds.most_common())
    far = ("where an exponential on the way overflows",) if "exp" in matcher.others.read else ()
    return (
        f"how far apart rounding carries the two runs within {names}: held end to end alone", *far
    )  # fmt: skip


# -- around ----------------------------------------------------------------------------------------


def _verdict(parts: list[Part], layers: list[Certificate]) -> tuple[str, str]:
    order = {
        "parameters": 0,
        "layers": 1,
        "wiring": 2,
        "operators": 3,
        "rounding": 4,
        "gradients": 5,
        "end to end": 6,
    }
    for status in ("refuted", "undecided"):
        bad = sorted((p for p in parts if p.status == status), key=lambda p: order[p.name])
        if bad:
            return status, bad[0].facts
    return "proven", ""


@contextmanager
def _bar(shown: bool) -> Iterator[Callable[[str, int], None]]:
    """A progress bar: the parts, and one step for each distinct layer."""
    if not shown:
        yield lambda text, steps: None
        return
    with Progress(transient=True) as bar:
        task = bar.add_task("parameters", total=3)

        def step(text: str, steps: int) -> None:
            bar.update(task, description=text, total=steps + 2, advance=1)

        yield step


def checked_images(images: Any) -> Images:
    """Return images as a tuple of tensors.

    Raises:
        ProofError: none, no tensor, or fewer than two images.
    """
    found = images if isinstance(images, (tuple, list)) else (images,)
    if not found or not all(isinstance(image, Tensor) for image in found):
        kinds = [type(image).__name__ for image in found]
        raise ProofError(f"prove: expected images as a tensor or a tuple of tensors, got {kinds}")
    if found[0].dim() < 2 or found[0].shape[0] < 2:
        raise ProofError(
            f"prove: expected at least two images, so that a fault of the second one shows, got "
            f"{tuple(found[0].shape)}; of a single one, give it and another beside it"
        )
    return tuple(image.detach() for image in found)
