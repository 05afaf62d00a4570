"""Runs a plan on a part: values at the positions that are asked for, and nothing else.

y[out] = operator(x[have]),    borders where the table says -1, never at a cut
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from convgraph.scale.nodes import as_nodes, dense, laid_down, taken_up
from convgraph.scale.passes import normed
from convgraph.scale.plan import Ask, Plan
from convgraph.scale.positions import Positions, places, runs
from convgraph.scale.read_indices import is_window, table, window
from convgraph.scale.recording import RecordedCall, Ref, State, leaves
from convgraph.scale.sites import EVERYWHERE, PlannedSites
from convgraph.scale.travel_rules import DROPS, VIEWS, Travel

Part = tuple[Positions, ...]


def run(
    plan: Plan,
    image: Tensor,  # (B, C, *positions asked for)
    ask: Ask,
    target: int,
    *,
    known: Mapping[Any, Any] | None = None,
    sites: PlannedSites = EVERYWHERE,
) -> Tensor:
    """Return a target at the positions that `ask` names.

    Args:
        plan: of the network.
        image: at `ask[0]`.
        ask: what `Plan.asks` returned.
        target: the value wanted.
        known: values that are no maps and were computed before, and sums over whole maps.
        sites: which are there.
    """
    state = states(plan)
    if 0 in ask:  # what an absent pixel holds is nobody's, NaN say
        image = blanked(image, sites(0, ask[0]), plan.axes[0] or ())
    value: dict[Any, Any] = {**(known or {}), 0: image}
    last = {source: k for k, step in enumerate(plan.recording.steps) for source in step.sources}
    for k, (step, how) in enumerate(plan.steps):
        if target in value and target not in (known or {}) and target != 0:
            break
        if step.results[0] in value:
            continue
        if how.how == "plain":
            if all(source in value for source in step.sources):
                keep(value, step, plainly(step, value, state, image.device))
            continue
        if step.results[0] not in ask:
            continue
        if all(map(len, ask[step.results[0]])):
            keep(value, step, local(plan, step, how, value, ask, state, sites))
        else:  # a part that lies in pads alone reads nothing
            for result in step.results:
                value[result] = _nothing(plan, result, ask, image)
        for source in step.sources:
            if last[source] == k and source != target and plan.axes[source] is not None:
                value.pop(source, None)
    found: Tensor = value[target]
    return found


def _nothing(plan: Plan, value: int, ask: Ask, like: Tensor) -> Tensor:
    """No position of a map, in its shape."""
    shape = list(plan.recording.shapes[value])
    for a, positions in zip(plan.axes[value] or (), ask[value], strict=True):
        shape[a] = len(positions)
    return like.new_zeros(shape, dtype=plan.recording.dtypes[value])


def onward(
    plan: Plan, known: Mapping[Any, Any], device: Any, sites: PlannedSites = EVERYWHERE
) -> dict[Any, Any]:
    """Return what is known, and what follows from it without a map: once for all tiles.

    Maps that were put together, under ("map", number), are heard by the operators that need them
    whole, node by node where `sites` or a space says so; what nobody reads any more is dropped.
    """
    state, value = states(plan), taken_up(known)
    done = set()
    for k, (step, how) in enumerate(plan.steps):
        if step.results[0] in value:
            done.add(k)
        if how.how not in ("plain", "few") or step.results[0] in value:
            continue
        whole = {s: ("map", s) for s in step.sources if how.how == "few" and ("map", s) in value}
        given = {s: value.get(whole.get(s, s)) for s in step.sources}
        if all(one is not None for one in given.values()):
            given |= {s: as_nodes(plan, s, value[key], sites) for s, key in whole.items()}
            keep(value, step, plainly(step, given, state, device))
            done.add(k)
    steps = plan.recording.steps
    wanted = {s for k, step in enumerate(steps) if k not in done for s in step.sources}
    maps = {("map", s) for s in wanted}
    return laid_down(
        {
            key: one
            for key, one in value.items()
            if key == plan.out or key in wanted or key in maps or (key not in maps and _sums(key))
        }
    )


def _sums(key: Any) -> bool:
    return isinstance(key, tuple) and key[0] == "sums"


def states(plan: Plan) -> dict[str, Tensor]:
    """Return the network's parameters and buffers as they are now."""
    net = plan.net
    return {
        **dict(net.named_parameters(remove_duplicate=False)),
        **dict(net.named_buffers(remove_duplicate=False)),
    }


def keep(value: dict[int, Any], step: RecordedCall, made: Any) -> None:
    """Keep what a step made under its numbers."""
    found = [one for one in leaves(made) if isinstance(one, Tensor)]
    value.update(zip(step.results, found, strict=False))


def plainly(
    step: RecordedCall, value: Mapping[int, Any], state: Mapping[str, Tensor], device: Any
) -> Any:
    """Run an operator on ordinary tensors."""
    return _call(step, {k: _given(v, value, state, device) for k, v in step.args.items()})


def _given(tree: Any, value: Mapping[int, Any], state: Mapping[str, Tensor], device: Any) -> Any:
    def one(leaf: Any) -> Any:
        if isinstance(leaf, Ref):
            return value[leaf.index]
        if isinstance(leaf, State):
            return state[leaf.name]
        return device if isinstance(leaf, torch.device) else leaf

    if not isinstance(tree, (list, tuple)):  # most are no tree, and torch looks long into them
        return one(tree)
    return pytree.tree_map(one, tree, is_leaf=lambda leaf: isinstance(leaf, (Ref, State)))


def _call(step: RecordedCall, args: dict[str, Any]) -> Any:
    """Call the operator, or its twin that writes nowhere."""
    call = step.call
    names = [(a.name, a.kwarg_only) for a in call._schema.arguments]
    if call._schema.name.endswith("_"):  # its twin takes the same, under names of its own
        packet = getattr(getattr(torch.ops, call.namespace), step.operator)
        call = getattr(packet, call._overloadname)
    return call(
        *(args[name] for name, only in names if not only),
        **{name: args[name] for name, only in names if only and name in args},
    )


def local(
    plan: Plan,
    step: RecordedCall,
    how: Travel,
    value: Mapping[Any, Any],
    ask: Ask,
    state: Mapping[str, Tensor],
    sites: PlannedSites = EVERYWHERE,
) -> Any:
    """Run one operator on a part."""
    out = ask[step.results[0]]
    if how.how == "sum":
        source = next(s for s in step.sources if plan.axes[s] is not None)
        x = blanked(value[source], sites(source, ask[source]), how.axes or ())
        for a, held, want in zip(how.axes or (), ask[source], out, strict=True):
            x = take(x, a, places(held, want), 0.0)
        known = value["sums", step.results[0]]
        return normed(step, x, known, state, out, flat=plan.space is not None)
    if how.how == "node":
        return _node(plan, step, value, ask, out, state, sites)
    source = next(s for s in step.sources if plan.axes[s] is not None)
    x, have, size = value[source], ask[source], plan.size(source)
    axes, here = how.axes or (), sites(source, have)
    if plan.space is not None:
        there = None if here is None else here[:, 0]
        args = {k: _given(v, {source: x, **value}, state, x.device) for k, v in step.args.items()}
        return _in_space(step, how.relation, x, have[0], out[0], args, there)
    loudest = step.operator.startswith("max_pool")
    x = blanked(x, here, axes, how.fill if loudest else 0.0)
    args = {k: _given(v, {source: x, **value}, state, x.device) for k, v in step.args.items()}
    own = step.operator.startswith("avg_pool") and not args.get("divisor_override")
    if own and args["count_include_pad"]:  # over all of a map it is a readout: pads count alone
        kernel = how.relation
        own = kernel.kernel_size == size and not any(map(any, kernel.padding))
    if here is not None and own:
        sums = {**args, "divisor_override": 1}  # over those that are there
        some = torch.from_numpy(here).to(x)[None, None]
        count = _pieces(step, how, some, have, out, size, sums, axes, ())
        return _pieces(step, how, x, have, out, size, sums, axes, ()) / count.clamp(min=1)
    made = _pieces(step, how, x, have, out, size, args, axes, ())
    if loudest and here is not None and not here.all():  # of no message at all it is 0
        some = blanked(x.new_zeros(1, 1, *here.shape), here, axes, how.fill)
        silent = _pieces(step, how, some, have, out, size, args, axes, ()) < 0
        made = torch.where(silent, made.new_zeros(()), made)
    return made


def blanked(y: Tensor, here: Any, axes: tuple[int, ...], fill: float = 0.0) -> Tensor:
    """Return a part with `fill` where no site is.

    Args:
        y: the part.
        here: bools, one for each position; None for all.
        axes: dimensions of `y` that they lie along.
        fill: what an absent site counts as.
    """
    if here is None or here.all():
        return y
    shape = [1] * y.dim()
    for a, n in zip(axes, here.shape, strict=True):
        shape[a] = n
    absent = torch.tensor(fill, dtype=y.dtype, device=y.device)
    return torch.where(torch.from_numpy(here).to(y.device).view(shape), y, absent)


def _pieces(
    step: RecordedCall, how: Travel, x: Tensor, have: Part, out: Part, size: tuple[int, ...],
    args: dict[str, Any], axes: tuple[int, ...], done: Part,
) -> Any:  # fmt: skip
    """Run on each box of consecutive outputs, and put them together."""
    axis = len(done)
    if axis == len(out):
        return _piece(step, how, x, have, done, size, args)
    parts = [
        _pieces(step, how, x, have, out, size, args, axes, (*done, one)) for one in runs(out[axis])
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, axes[axis])


def take(x: Tensor, dim: int, index: Any, fill: float) -> Tensor:
    """Return x at places along a dimension, `fill` where the place is -1."""
    index = np.asarray(index)
    good = index >= 0
    real = index[good]
    straight = len(real) > 0 and bool((np.diff(real) == 1).all())
    if straight and len(real) == len(index):
        return x.narrow(dim, int(real[0]), len(real))
    inner = np.flatnonzero(good)
    if straight and bool((np.diff(inner) == 1).all()):  # a plain border: torch pads it
        first = int(inner[0])
        pads = [0, 0] * (-dim - 1) + [first, len(index) - first - len(real)]
        return F.pad(x.narrow(dim, int(real[0]), len(real)), pads, value=fill)
    if not len(real):
        shape = list(x.shape)
        shape[dim] = len(index)
        nothing = x.narrow(dim, 0, 0)  # of x, so that a rank with nothing takes part backward
        return torch.cat([nothing, x.new_full(shape, fill)], dim) if len(index) else nothing
    got = x.index_select(dim, torch.from_numpy(np.maximum(index, 0)).to(x.device))
    if good.all():
        return got
    shape = [1] * x.dim()
    shape[dim] = -1
    here = torch.from_numpy(good).to(x.device).view(shape)
    return torch.where(here, got, torch.tensor(fill, dtype=x.dtype, device=x.device))


def _node(
    plan: Plan,
    step: RecordedCall,
    value: Mapping[int, Any],
    ask: Ask,
    out: Part,
    state: Mapping[str, Tensor],
    sites: PlannedSites,
) -> Any:
    first = next(s for s in step.sources if plan.axes[s] is not None)
    axes = plan.axes[first] or ()
    given: dict[int, Any] = {}
    for source in step.sources:
        x = value[source]
        if plan.axes[source] is not None:
            if not sites.alike(source, step.results[0]):  # what one map lacks of all sites is 0
                x = blanked(x, sites(source, ask[source]), plan.axes[source] or ())
            for a, have, want, n in zip(axes, ask[source], out, plan.size(source), strict=True):
                x = take(x, a, places(have, want if n > 1 else want[:1] * 0), 0.0)
        else:  # a table as large as the map, of the network's own making
            x = dense(x)
            shape = plan.recording.shapes[step.results[0]]
            if plan.space is not None:
                x = _laid(x, axes, shape)
                shape = plan.shape(step.results[0])
            for a, want in zip(axes, out, strict=True):
                if x.dim() >= -a and x.shape[a] == shape[a] and x.shape[a] > 1:
                    x = take(x, a, want, 0.0)
        given[source] = x
    device = given[first].device
    if step.operator in DROPS:
        return given[first]
    if step.operator in VIEWS:
        seen = list(plan.recording.shapes[step.results[0]])
        for a, want in zip(plan.axes[step.results[0]] or (), out, strict=True):
            seen[a] = len(want)
        return given[first].reshape(seen)
    return _call(step, {k: _given(v, given, state, device) for k, v in step.args.items()})


def _laid(x: Tensor, axes: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """A table as large as a map in a space, its pixels in one axis as a part has them."""
    size = [shape[a] for a in axes]
    if x.dim() < -axes[0] or [x.shape[a] for a in axes] != size:
        return x
    first = x.dim() + axes[0]
    return x.reshape(*x.shape[:first], prod(size), 1, *x.shape[first + 2 :])


def _in_space(
    step: RecordedCall, relation: Any, x: Tensor, have: Positions, out: Positions,
    args: dict[str, Any], here: Any,
) -> Any:  # fmt: skip
    """An operator in a space, tap by tap, from who speaks at these cells.

    Args:
        step: the operator.
        relation: a Neighbours.
        x: (B, C, have, 1).
        have: cells that are there.
        out: cells asked for.
        args: of the operator.
        here: which of `have` are pixels; None for all.
    """
    sources, weights = relation.heard(out)
    place = places(have, sources)  # (P, T, K)
    if here is not None:
        place = np.where((place >= 0) & here[np.maximum(place, 0)], place, -1)
    heard = torch.from_numpy((place >= 0).any(2)).to(x.device)  # (P, T)
    name, inner = step.operator, relation.relation

    def said(t: int) -> Tensor:
        """(B, C, P): what a tap says."""
        total: Any = 0
        for k in range(place.shape[2]):
            one = take(x, -2, place[:, t, k], 0.0)[..., 0]
            if weights is not None:
                one = one * torch.from_numpy(weights[:, t, k].copy()).to(x)
            total = total + one
        found: Tensor = total
        return found

    taps = range(place.shape[1])
    if name.startswith("conv"):
        w, groups = args["weight"].flatten(2), args["groups"]
        if inner.transposed:  # (C_in, C_out / groups, T)
            w = w.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
        y: Any = sum(F.conv1d(said(t), w[:, :, t : t + 1], groups=groups) for t in taps)
        y = y if args["bias"] is None else y + args["bias"].view(-1, 1)
    elif name.startswith("max_pool"):
        each = [torch.where(heard[:, t], said(t), float("-inf")) for t in taps]
        y = torch.stack(each, -1).max(-1)[0]  # of equals the first
        y = torch.where(heard.any(1), y, torch.zeros((), dtype=y.dtype, device=y.device))
    else:
        y = sum(said(t) for t in taps)
        if name.startswith("avg_pool"):
            y = y / _divisor(relation, out, place, weights, args).to(y)
    return y.unsqueeze(-1)


def _divisor(
    relation: Any, out: Positions, place: Any, weights: Any, args: dict[str, Any]
) -> Tensor:
    """(P,): what an average in a space divides by."""
    if args.get("divisor_override"):
        return torch.tensor(args["divisor_override"])
    if not args["count_include_pad"]:  # the sources of one tap are one message
        loud = np.where(place >= 0, 1.0 if weights is None else weights, 0.0)
        return torch.from_numpy(np.maximum(np.rint(loud.sum((1, 2))), 1))
    g, space = relation.relation, relation.space
    there = np.ones(g.kernel_size) if g.footprint is None else np.asarray(g.footprint, float)
    inside = []
    for axis, at in enumerate(np.divmod(out, relation.out[1])):
        reach = at[:, None] * g.stride[axis] - g.padding[axis][0] + np.arange(g.kernel_size[axis])
        last = relation.size[axis] + g.padding[axis][1]
        inside.append((reach < last) | space.closed[axis])
    return torch.from_numpy(
        np.einsum("pi,pj,ij->p", *(one.astype(float) for one in inside),
                  there.reshape(g.kernel_size))
    )  # fmt: skip


def _piece(
    step: RecordedCall, how: Travel, x: Tensor, have: Part, out: Part, size: tuple[int, ...],
    args: dict[str, Any],
) -> Any:  # fmt: skip
    """One box of consecutive outputs."""
    name, relation, d = step.operator, how.relation, len(size)
    if is_window(relation):
        for k in range(d):
            x = take(x, k - d, window(relation, k, size[k], out[k], have[k]), how.fill)
        if name.startswith("conv"):
            conv = getattr(F, f"conv{d}d")
            return conv(
                x, args["weight"], args["bias"], relation.stride, 0, relation.dilation,
                args["groups"],
            )  # fmt: skip
        if name.startswith("max_pool"):
            pool = getattr(F, f"max_pool{d}d")
            return pool(x, relation.kernel_size, relation.stride, 0, relation.dilation)
        return _average(x, relation, size, out, args)
    if name.startswith("conv_transpose"):
        return _transposed(x, relation, size, have, out, args)
    if name in ("pixel_shuffle", "pixel_unshuffle"):
        return _shuffled(name, x, relation, size, have, out)
    for k in range(d):
        place = table(relation, k, size[k], out[k], have[k])
        weights = relation.axis_weights(k, size[k])
        if weights is None:
            x = take(x, (how.axes or ())[k], place[:, 0], how.fill)
            continue
        shape = [1] * x.dim()
        shape[k - d] = -1
        weight = torch.from_numpy(weights[out[k]]).to(x)
        taps = range(place.shape[1])
        x = sum(weight[:, t].view(shape) * take(x, k - d, place[:, t], 0.0) for t in taps)  # type: ignore[assignment]
    return x


def _average(x: Tensor, relation: Any, size: tuple[int, ...], out: Part, args: Any) -> Tensor:
    d = len(size)
    kernel, stride = relation.kernel_size, relation.stride
    if d == 1:
        x = F.avg_pool2d(x.unsqueeze(-2), (1, *kernel), (1, *stride), divisor_override=1).squeeze(
            -2
        )
    else:
        x = getattr(F, f"avg_pool{d}d")(x, kernel, stride, 0, divisor_override=1)
    if args.get("divisor_override"):
        return x / int(args["divisor_override"])
    count: Any = 1
    for k in range(d):
        q = out[k][:, None] * stride[k] - relation.padding[k][0] + np.arange(kernel[k])[None]
        low, high = 0, size[k]
        if args["count_include_pad"]:
            low, high = -relation.padding[k][0], size[k] + relation.padding[k][1]
        n = torch.from_numpy(((q >= low) & (q < high)).sum(1)).to(x)
        shape = [1] * x.dim()
        shape[k - d] = -1
        count = count * n.view(shape)
    averages: Tensor = x / count
    return averages


def _transposed(
    x: Tensor, relation: Any, size: tuple[int, ...], have: Part, out: Part, args: Any
) -> Tensor:
    """The consecutive sources that reach these outputs; what nothing reaches carries the bias."""
    d = len(size)
    first = []
    for k in range(d):
        q = relation.axis_sources(k, size[k])[out[k]]
        q = np.unique(q[q >= 0])
        if not len(q):
            shape = [x.shape[0], args["weight"].shape[1] * args["groups"], *map(len, out)]
            bias = args["bias"]
            silent = x.sum() * 0 + x.new_zeros(shape)
            return silent if bias is None else silent + bias.view(-1, *(1,) * d)
        low, between = int(q[0]), np.arange(q[0], q[-1] + 1)
        x = take(x, k - d, places(have[k], np.where(np.isin(between, q), between, -1)), 0.0)
        first.append(low * relation.stride[k] - relation.padding[k][0])
    conv = getattr(F, f"conv_transpose{d}d")
    y: Tensor = conv(
        x, args["weight"], None, relation.stride, 0, 0, args["groups"], relation.dilation
    )
    for k in range(d):
        index = out[k] - first[k]
        y = take(y, k - d, np.where((index < 0) | (index >= y.shape[k - d]), -1, index), 0.0)
    return y if args["bias"] is None else y + args["bias"].view(-1, *(1,) * d)


def _shuffled(
    name: str, x: Tensor, relation: Any, size: tuple[int, ...], have: Part, out: Part
) -> Tensor:
    r = relation.factor
    for k in range(2):
        q = np.unique(relation.axis_sources(k, size[k])[out[k]])
        x = take(x, k - 2, places(have[k], np.arange(q[0], q[-1] + 1)), 0.0)
    if name == "pixel_unshuffle":
        return F.pixel_unshuffle(x, r)
    y = F.pixel_shuffle(x, r)
    for k in range(2):
        y = y.narrow(k - 2, int(out[k][0] % r), len(out[k]))
    return y
