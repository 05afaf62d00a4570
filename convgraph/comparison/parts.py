"""Plans and sharded parts, handed to their judges: integers of who reads what, numbers on ranks.

Every operator of the reference's run is asked by itself: torch's own operator on the whole, the
rank's part of it through the exchange of `cg.sharded`. All ranks draw the same integers.
"""

import copy
import secrets
from itertools import zip_longest
from math import lcm, prod
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from convgraph.errors import ProofError
from convgraph.proof.draws import ENTROPY_BITS
from convgraph.proof.equation import in_space
from convgraph.proof.parts import PartOf, PartsCertificate, judge_operator, verdict_of
from convgraph.proof.plan import PlanCertificate, judge_plans
from convgraph.scale.partial import plainly
from convgraph.scale.plan import plan
from convgraph.scale.recording import RecordedCall, State, leaves
from convgraph.scale.sharded import Sharded, shared
from convgraph.scale.tiling import Tiling, operators

EXACT = frozenset(
    [
        "relu",
        "relu6",
        "hardtanh",
        "clamp",
        "add",
        "sub",
        "mul",
        "neg",
        "abs",
        "maximum",
        "minimum",
        "cat",
        "concat",
        "clone",
        "contiguous",
        "view",
        "reshape",
        "permute",
        "transpose",
        "flatten",
        "select",
        "slice",
        "chunk",
        "split",
        "unsqueeze",
        "squeeze",
    ]
)
"""Pixel by pixel, and exact on integers: compared as well."""


def prove_plan(candidate: Any) -> PlanCertificate:
    """Prove a plan, in integers, whatever the size of its image."""
    if not isinstance(candidate, Tiling):
        raise ProofError(
            "prove: expected a reference beside the candidate, or a plan alone, as the .plan of "
            f"what cg.tiled returns; got {type(candidate).__name__} alone"
        )
    return candidate.prove()


def prove_part(
    part: Sharded, net: nn.Module, images: Tensor, epsilon: float, seed: int | None
) -> PartsCertificate:
    """Prove that every rank computes its part of what a network computes; call it on every rank."""
    if not isinstance(images, Tensor) or images.dim() < 3:
        raise ProofError(
            f"prove: expected images (B, C, *size) beside a sharded network, got {images!r:.80}"
        )
    faults = _same_weights(part, net, images.device)
    twin = part.alike(copy.deepcopy(net).double())
    found = plan(twin.net, tuple(images.shape), torch.float64, part.on)
    twin.check(found)
    drawn = [secrets.randbits(ENTROPY_BITS) if seed is None else seed]
    dist.broadcast_object_list(drawn)
    faults += _same_steps(*(plan(one, tuple(images.shape), on=part.on) for one in (part.net, net)))
    open_, by_pixel, compared = "", 0, []
    said = operators(found)
    try:
        held = judge_plans(twin.claims(found))
    except IndexError as error:  # every rank sees the same integers, and ends here
        held = PlanCertificate("refuted", 0, (), 0, found.image_size, (str(error),))
    if held.verdict != "proven":
        return verdict_of(tuple(part.counts), held, (), "", 0, (), drawn[0])
    for number, (step, how) in enumerate(found.steps):
        if how.how == "plain" or (how.axes is None and how.how == "node"):
            continue
        unit = _unit(found, step, how)
        if how.how in ("whole", "sum", "few") or unit is None:
            open_ = f"{step.title} computes with real numbers, which were not compared"
        elif how.how == "node" and step.operator not in EXACT:
            by_pixel += 1
        else:
            one = _operator(twin, found, step, how, unit, said[number])
            try:
                wrong, entries, unseen = judge_operator(one, drawn[0] + number, epsilon)
            except ProofError as error:  # on every rank alike, before any call to others
                open_ = f"{step.title} was not compared: {error}"
                continue
            faults += wrong
            compared.append((entries, unseen))
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, faults)
    ranks = [f"rank {rank}: {one}" for rank, mine in enumerate(every) for one in mine]
    return verdict_of(tuple(part.counts), held, ranks[:20], open_, by_pixel, compared, drawn[0])


def _same_weights(part: Sharded, net: nn.Module, device: torch.device) -> list[str]:
    """What differs between the part's network, the reference, and that of the first rank."""
    mine, want = part.net.state_dict(), net.state_dict()
    if mine.keys() != want.keys():
        return [
            f"the part has other weights than the reference: {sorted(mine.keys() ^ want.keys())}"
        ]
    faults = []
    for name, one in want.items():
        first = one.detach().clone()
        dist.broadcast(first, 0)
        if not torch.equal(first, one):
            faults.append(f"{name} differs from the first rank's")
        if not torch.equal(mine[name], one):
            faults.append(f"{name} differs from the reference's")
    return faults


def _unit(found: Any, step: RecordedCall, how: Any) -> int | None:
    """What every division of an operator divides; None where its weights are no dyadic numbers."""
    if step.operator.startswith("avg_pool"):
        kernel = getattr(how.relation, "relation", how.relation).kernel_size
        own = step.args.get("divisor_override") or prod(lcm(*range(1, k + 1)) for k in kernel)
        unit = int(own)
    else:
        unit = 1
    if how.how != "edges":
        return unit
    for axis, n in enumerate(found.size(step.sources[0])):
        weights = how.relation.axis_weights(axis, n)
        if weights is None:
            continue
        whole = [2**p for p in range(17) if not (weights * 2**p % 1).any()]
        if not whole:
            return None
        unit *= whole[0]
    return unit


def _same_steps(mine: Any, want: Any) -> list[str]:
    """The first operator that the part's network runs otherwise than the reference."""

    def said(found: Any) -> list[str]:
        return [f"{s.title} {s.args} {s.results}" for s in found.recording.steps]

    for a, b in zip_longest(said(mine), said(want)):
        if a != b:
            return [f"the part's network runs {a}, the reference {b}"]
    return []


def _operator(
    twin: Sharded, found: Any, step: RecordedCall, how: Any, unit: int, said: Any
) -> PartOf:
    """An operator by itself: torch's own on the whole, and the rank's part through the exchange."""
    shapes = found.recording.shapes
    sources = list(dict.fromkeys(step.sources))
    maps = [s for s in sources if found.axes[s] is not None]
    constants = [s for s in sources if found.axes[s] is None]
    names = list(dict.fromkeys(o.name for o in leaves(step.args) if isinstance(o, State)))
    real = dict(twin.net.named_parameters()) | dict(twin.net.named_buffers())

    def named(given: Any) -> tuple[dict[int, Tensor], dict[str, Tensor]]:
        known = dict(zip([*maps, *constants], given, strict=False))
        return known, {**real, **dict(zip(names, given[len(known) :], strict=True))}

    def whole(given: Any) -> Tensor:
        value, state = named(given)
        if found.space is not None and how.how == "edges":
            return _by_edges(said, step, found, value, state)
        return _first(plainly(step, value, state, given[0].device))

    def part(given: Any) -> Tensor:
        weights = list(given[len(maps) :])
        if weights:
            weights = list(shared(twin.groups, weights))
        value, state = named([*given[: len(maps)], *weights])
        return _first(twin.local(found, step, how, value, state))

    def take(one: Tensor, which: int | None) -> Tensor:
        value = step.results[0] if which is None else maps[which]
        place: list[Any] = [slice(None)] * one.dim()
        axes: Any = found.axes[value] or ()
        if axes and found.space is not None:  # cells are one axis
            place[axes[0]] = twin.box(tuple(one.shape[a] for a in axes))[0]
            cut = one[tuple(place)]
            shape = list(cut.shape)
            shape[axes[0]], shape[axes[1]] = cut.shape[axes[0]] * cut.shape[axes[1]], 1
            return cut.reshape(shape)
        for axis, a in enumerate(axes):
            own = twin.own(axis, one.shape[a])
            place[a] = slice(int(own[0]), int(own[-1]) + 1) if len(own) else slice(0, 0)
        return one[tuple(place)]

    others = [shapes[s] for s in constants] + [tuple(real[n].shape) for n in names]
    widest = max(prod(shapes[v]) for v in (*maps, step.results[0]))
    most = max([widest, *(prod(shape) for shape in others)])
    return PartOf(
        step.title, tuple(shapes[s] for s in maps), tuple(others), 64 * most, whole, part, take,
        unit,
    )  # fmt: skip


def _by_edges(said: Any, step: RecordedCall, found: Any, value: Any, state: Any) -> Tensor:
    """An operator in a space on the whole image, along the judge's own edges."""
    args = {k: state[v.name] if isinstance(v, State) else v for k, v in step.args.items()}
    x = value[next(s for s in step.sources if found.axes[s] is not None)].flatten(2)
    out = found.array(step.results[0])
    hearer, tap, speaker, weight = (
        torch.from_numpy(one.copy()) for one in in_space.edges(said, np.arange(prod(out))).T
    )
    loud = weight.to(x.dtype) / in_space.ONE
    each, heard = [], []
    for t in range(int(tap.max()) + 1):
        mine = tap == t
        rows = x.index_select(2, speaker[mine]) * loud[mine]
        silent = x.new_zeros(*x.shape[:2], prod(out))
        each.append(silent.index_add(2, hearer[mine], rows))
        heard.append(torch.zeros(prod(out), dtype=torch.bool).index_fill_(0, hearer[mine], True))
    if step.operator.startswith("conv"):
        w, groups = args["weight"].flatten(2), args["groups"]
        if step.operator.startswith("conv_transpose"):
            w = w.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
        y: Any = sum(
            nn.functional.conv1d(one, w[:, :, t : t + 1], groups=groups)
            for t, one in enumerate(each)
        )
        y = y if args["bias"] is None else y + args["bias"].view(-1, 1)
    elif step.operator.startswith("max_pool"):
        loudest = [torch.where(h, one, float("-inf")) for h, one in zip(heard, each, strict=True)]
        y = torch.stack(loudest, -1).max(-1)[0]
    else:
        y = sum(each)
        if step.operator.startswith("avg_pool"):
            kernel = args["kernel_size"]
            y = y / (args.get("divisor_override") or kernel[0] * kernel[-1])
    whole: Tensor = y.unflatten(2, out)
    return whole


def _first(made: Any) -> Tensor:
    found: Tensor = next(one for one in leaves(made) if isinstance(one, Tensor))
    return found
