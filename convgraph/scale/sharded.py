"""`cg.sharded`: one image over the ranks of a mesh, equal to the whole, values and gradients.

Every rank owns a box of every map, cut along the axes of the mesh; nothing has to divide. What a
rank reads of others follows from the tables, so all ranks know all needs and nothing is negotiated:
one `all_to_all_single` an axis for a layer that moves values, its reverse backward, one
`all_reduce` for the gradients of all parameters, three for a batch norm in training.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import Any
from zlib import crc32

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from convgraph.door import door
from convgraph.errors import ConversionError, DeviceError, GraphError, ShapeError
from convgraph.nn.synced import over_processes
from convgraph.proof.plan import AxisPart, Claim
from convgraph.scale.nodes import as_nodes, dense
from convgraph.scale.partial import Part, blanked, keep, local, plainly, states
from convgraph.scale.passes import Pass, check_statistics, entries, normed, pixels, readout
from convgraph.scale.plan import Plan, plan
from convgraph.scale.positions import Positions, need
from convgraph.scale.recording import RecordedCall, State, leaves
from convgraph.scale.sites import EVERYWHERE, PlannedSites, sites_of
from convgraph.scale.tiling import operators, read


@door
def sharded(
    net: nn.Module, mesh: Any = None, *, shares: Any = None, batch: Any = None,
    statistics: str = "tiles", on: Any = None,
) -> "Sharded":  # fmt: skip
    """Return a module that runs a network on this rank's box of one image.

    Start it with torchrun. The loss of the image is the sum of the ranks' losses; after `backward`
    every rank has the gradients of all parameters, of that sum. Norms over a batch in training take
    their statistics from all ranks of the mesh, and of `batch`.

    Args:
        net: a dense network on images (B, C, *size) that returns one map, the same on all ranks.
        mesh: a DeviceMesh of one axis (rows) or two (rows and columns), a process group, or None
            for all ranks. For data beside space give `mesh["space"]`, and wrap the module that
            comes back, as one, in DDP or `fully_shard` on `mesh["data"]`.
        shares: for each axis of the mesh, what share of the positions each rank owns; None for
            equal ones. `equal_nodes` gives those of a mask.
        batch: a DeviceMesh of one axis, or a process group, whose ranks have other images of the
            same batch: norms in training hear them too. None for none.
        statistics: "passes" also takes what hears the whole map, as in `cg.tiled`: sums over the
            ranks' parts, one `all_reduce` each; a map of few pixels is gathered on every rank. A
            network that ends in a readout returns it, whole, on every rank: let one of them have
            the loss.
        on: the space that the images lie in, `cg.HEALPix()`; ranks own rows of the array, whole
            faces where their number divides those, so the mesh has one axis.

    Returns:
        A module on this rank's part, (B, C, *part): `part.take(image)` cuts it out of the whole, or
        `part.box(size)` says which it is. It returns this rank's part of the output. Called as
        `part(x, mask=...)` it takes a mask of the whole image, as `cg.tiled` does.

    Raises:
        DeviceError: no process group has been started.
        GraphError: the mesh has more than two axes, shares do not fit it, or other statistics.

    Example:
        >>> dist.is_initialized()  # under torchrun: dist.init_process_group() first
        False
        >>> sharded(nn.Conv2d(1, 1, 3))
        Traceback (most recent call last):
        ...
        convgraph.errors.DeviceError: cg.sharded: expected a process group, ...
    """
    return Sharded(net, mesh, shares, batch, statistics, on)


def equal_nodes(mask: Any, ranks: int, axis: int = 0) -> list[float]:
    """Return shares of an axis, so that each rank owns about as many pixels that are there.

    Args:
        mask: bools, at any scale.
        ranks: among how many.
        axis: which is cut.

    Example:
        >>> equal_nodes(np.array([[True] * 4, [True] * 4, [False] * 4, [False] * 4]), 2)
        [0.25, 0.75]
    """
    found = np.asarray(mask, bool)
    lines = found.sum(tuple(k for k in range(found.ndim) if k != axis))
    total = np.concatenate([[0], np.cumsum(lines)])
    ends = [np.searchsorted(total, total[-1] * r / ranks) for r in range(1, ranks)]
    cuts = np.array([0, *ends, len(lines)])
    return [float(n) for n in np.diff(cuts) / len(lines)]


class Sharded(nn.Module):
    """A network on this rank's box; see `sharded`."""

    def __init__(
        self, net: nn.Module, mesh: Any = None, shares: Any = None, batch: Any = None,
        statistics: str = "tiles", on: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if not dist.is_available() or not dist.is_initialized():
            raise DeviceError(
                "cg.sharded: expected a process group, none is started; run under torchrun and "
                "call torch.distributed.init_process_group() first"
            )
        self.net = net
        self.groups = _groups(mesh)
        self.counts = [dist.get_world_size(group) for group in self.groups]
        self.places = [dist.get_rank(group) for group in self.groups]
        self.ends = ends_of(shares, self.counts)
        check_statistics(statistics, "cg.sharded")
        if on is not None and len(self.groups) > 1:
            raise GraphError(
                f"cg.sharded: expected a mesh of one axis on {on}, whose arrays are cut along rows"
            )
        self.statistics, self.on = statistics, on
        self.hearing = [*self.groups, *([] if batch is None else _groups(batch))]

    def cuts(self, axis: int, n: int) -> list[int]:
        """Where an axis of n positions changes its owner: as many numbers as ranks, and one."""
        if axis >= len(self.groups):
            return [0, n]
        return cut_at(self.ends[axis], n)

    def own(self, axis: int, n: int, rank: int | None = None) -> Positions:
        """Positions of an axis of n that a rank of its group owns; this rank, or the one named."""
        cut = self.cuts(axis, n)
        k = rank if rank is not None else self.places[axis] if axis < len(self.groups) else 0
        return np.arange(cut[k], cut[k + 1])

    def box(self, size: Sequence[int]) -> tuple[slice, ...]:
        """Which part of a map of this size is this rank's."""
        return tuple(
            slice(int(own[0]), int(own[-1]) + 1) if len(own) else slice(0, 0)
            for own in (self.own(axis, n) for axis, n in enumerate(size))
        )

    def take(self, image: Tensor) -> Tensor:
        """Return this rank's part of a whole (B, C, *size)."""
        place: tuple[Any, ...] = (..., *self.box(image.shape[2:]))
        return image[place]

    @door
    def forward(self, part: Tensor, mask: Any = None) -> Tensor:
        """Return this rank's part of the output, (B, C_out, *part of the output)."""
        if any(isinstance(one, DTensor) for one in self.net.parameters()):
            raise DeviceError(
                "cg.sharded: expected whole weights while it runs, got a DTensor; give fully_shard "
                "the module that cg.sharded returned, as one, and no layer within it"
            )
        size = self._size(part)
        found = plan(self.net, (*part.shape[:2], *size), part.dtype, self.on)
        self.check(found)
        sites = sites_of(found, mask)
        if found.space is not None:
            part = part.reshape(*part.shape[:2], -1, 1)
        state = states(found)
        trained = [name for name, p in self.net.named_parameters() if p.requires_grad]
        if trained and torch.is_grad_enabled():
            wanted = [state[name] for name in trained]
            each = shared(self.groups, wanted)
            same = {id(state[name]): one for name, one in zip(trained, each, strict=True)}
            state = {name: same.get(id(one), one) for name, one in state.items()}
        part = blanked(part, sites(0, self._owned(found, 0)), found.axes[0] or ())
        value: dict[int, Any] = {0: part}
        last = {s: k for k, step in enumerate(found.recording.steps) for s in step.sources}
        for k, (step, how) in enumerate(found.steps):
            if how.how == "plain":
                _write(step, state)
                keep(value, step, plainly(step, value, state, part.device))
            elif how.how == "whole":
                keep(value, step, self._norm(found, step, value, state, sites))
            elif how.how in ("sum", "few"):
                keep(value, step, self.heard(found, step, how, value, state, sites))
            else:
                keep(value, step, self.local(found, step, how, value, state, sites))
            for source in step.sources:
                if last[source] == k and source != found.out and found.axes[source] is not None:
                    value.pop(source, None)
        result = dense(value[found.out])
        if not found.out_size:
            return result
        here = sites(found.out, self._owned(found, found.out))
        result = blanked(result, here, found.axes[found.out] or ())
        if found.space is None:
            return result
        shape = list(result.shape)
        for a, one in zip(found.axes[found.out] or (), self.box(found.array(found.out)),
                          strict=True):  # fmt: skip
            shape[a] = one.stop - one.start
        return result.reshape(shape)

    def heard(
        self, found: Plan, step: RecordedCall, how: Any, value: Any, state: Any,
        sites: PlannedSites = EVERYWHERE,
    ) -> Any:  # fmt: skip
        """What an operator makes that hears the whole map: from sums, or from the map gathered."""
        if how.how == "few":
            maps = {s for s in step.sources if found.axes[s] is not None}
            whole = {s: as_nodes(found, s, self._gathered(found, s, value[s]), sites) for s in maps}
            return plainly(step, {**value, **whole}, state, value[next(iter(maps))].device)
        source = next(s for s in step.sources if found.axes[s] is not None)
        x, key = value[source], step.results[0] if how.axes is None else ("sums", 0)
        one = Pass(step, source, key, found.axes[source] or ())
        here = sites(source, self._owned(found, source))
        rows = entries(one, x, here)
        count = self._count(found, one, rows, sites)
        mean = self._spread(rows.sum(-1)) / count
        if how.axes is None:
            return readout(found, one, mean)
        variance = self._spread((rows - mean[..., None]).square().sum(-1)) / count
        x = blanked(x, here, one.axes)
        out = self._owned(found, step.results[0])
        flat = found.space is not None
        return normed(step, x, (mean, variance), state, out, flat=flat)

    def _count(self, found: Plan, one: Pass, rows: Tensor, sites: PlannedSites) -> int:
        """How many entries a statistic has over all ranks of one image; 1 where there is none."""
        if one.source not in sites.lies:
            return prod(found.recording.shapes[one.source]) // prod(rows.shape[:-1])
        return max(1, int(self._spread(rows.new_tensor([rows.shape[-1]]))))

    def _spread(self, one: Tensor) -> Tensor:
        """The sum over the ranks of one image."""
        for group in self.groups:
            one = over_processes(one, group)
        return one

    def _gathered(self, found: Plan, value: int, x: Tensor) -> Tensor:
        """A whole map, from the parts of all ranks."""
        for axis, group in enumerate(self.groups):
            a, n = (found.axes[value] or ())[axis], found.size(value)[axis]
            cut = self._cut(found, value, axis)
            mine = np.arange(cut[self.places[axis] + 1] - cut[self.places[axis]])
            get = [b - a for a, b in pairwise(cut)]
            exchange = (a, [mine] * self.counts[axis], get, group)
            x = _Exchange.apply(x, *exchange) if n else x  # type: ignore[no-untyped-call]
        return x.reshape(found.recording.shapes[value])

    def _size(self, part: Tensor) -> tuple[int, ...]:
        """The whole image's size, and whether every rank has the part that is its own."""
        size = list(part.shape[2:])
        kind = crc32(str(part.dtype).encode())
        for axis, group in enumerate(self.groups):
            shape = [*part.shape, *[0] * 5][:5]
            mine = torch.tensor([*shape, kind], device=part.device)
            every = [torch.empty_like(mine) for _ in range(self.counts[axis])]
            dist.all_gather(every, mine, group=group)
            rows = [one.tolist() for one in every]
            got = [row.pop(2 + axis) for row in rows]
            if any(row != rows[0] for row in rows):
                raise ShapeError(
                    "cg.sharded: expected parts of one dtype on all ranks, their shapes alike but "
                    f"along axis {axis}, got others beside {part.dtype} {tuple(part.shape)}"
                )
            size[axis] = sum(got)
            want = np.diff(self.cuts(axis, size[axis])).tolist()
            if got != want:
                raise ShapeError(
                    f"cg.sharded: expected parts of {want} positions along axis {axis}, one a "
                    f"rank, of an image of {size[axis]}, got {got}; part.take(image) cuts them"
                )
        return tuple(size)

    def _cut(self, found: Plan, value: int, axis: int) -> list[int]:
        """Where an axis of a map changes its owner; in a space its cells do at ends of rows."""
        if found.space is None:
            return self.cuts(axis, found.size(value)[axis])
        size = found.array(value)
        if axis or prod(size) == 1:
            return [0, 1] if axis else self.cuts(0, 1)
        return [row * size[1] for row in self.cuts(0, size[0])]

    def _own(self, found: Plan, value: int, axis: int, rank: int | None = None) -> Positions:
        """Positions of a map that a rank owns along an axis of the plan."""
        cut = self._cut(found, value, axis)
        k = rank if rank is not None else self.places[axis] if axis < len(self.groups) else 0
        return np.arange(cut[k], cut[k + 1])

    def _owned(self, found: Plan, value: int) -> Part:
        return tuple(self._own(found, value, axis) for axis in range(len(found.size(value))))

    def local(
        self, found: Plan, step: RecordedCall, how: Any, value: Any, state: Any,
        sites: PlannedSites = EVERYWHERE,
    ) -> Any:  # fmt: skip
        """Return this rank's part of what an operator makes."""
        out = self._owned(found, step.results[0])
        ask = dict.fromkeys(step.results, out)
        if how.how == "node":
            for source in step.sources:
                if found.axes[source] is not None:
                    ask[source] = self._owned(found, source)
            return local(found, step, how, value, ask, state, sites)
        source = next(s for s in step.sources if found.axes[s] is not None)
        x, axes = value[source], found.axes[source] or ()
        have = list(self._owned(found, source))
        for axis, group in enumerate(self.groups):
            wants = self._wants(found, how, step, axis)
            cut = self._cut(found, source, axis)
            if at_home(cut, wants):
                continue  # nobody reads anybody: no call at all
            send = [home - cut[self.places[axis]] for home in sends(cut, wants, self.places[axis])]
            mine = wants[self.places[axis]]
            get = [int(((mine >= a) & (mine < b)).sum()) for a, b in pairwise(cut)]
            exchange = (axes[axis], send, get, group)
            x = _Exchange.apply(x, *exchange)  # type: ignore[no-untyped-call]
            have[axis] = mine
        if not all(map(len, out)):
            shape = list(found.recording.shapes[step.results[0]])
            for a, own in zip(how.axes, out, strict=True):
                shape[a] = len(own)
            nothing = x.sum() * 0  # the rank takes part backward all the same
            for one in leaves(step.args):
                if isinstance(one, State):
                    nothing = nothing + state[one.name].sum() * 0
            return x.new_zeros(shape) + nothing
        ask[source] = tuple(have)
        return local(found, step, how, {**value, source: x}, ask, state, sites)

    def _wants(self, found: Plan, how: Any, step: RecordedCall, axis: int) -> list[Positions]:
        """Positions of an operator's source that each rank of an axis reads, by rank."""
        source = next(s for s in step.sources if found.axes[s] is not None)
        n, to = found.size(source)[axis], step.results[0]
        owned = [self._own(found, to, axis, q) for q in self._ranks(axis)]
        return [need(how.relation, axis, n, out) for out in owned]

    def _ranks(self, axis: int) -> range:
        return range(self.counts[axis] if axis < len(self.groups) else 1)

    def claims(self, found: Plan) -> list[Claim]:
        """Return what the ranks claim of each operator, for the judge: who owns and who reads what.

        A part is a rank; value 0 of a claim is the source as the exchange brings it, value 1 what
        the operator makes.
        """
        made = []
        for step, operator in zip(found.steps, operators(found), strict=True):
            if operator is None:
                continue
            how = step[1]
            axes = [self._claimed(found, step[0], how, axis) for axis in range(len(operator.out))]
            one = replace(operator, sources=(0,), result=1)
            made.append(Claim((one,), operator.size, 1, operator.out, tuple(axes)))
        return made

    def _claimed(
        self, found: Plan, step: RecordedCall, how: Any, axis: int
    ) -> tuple[AxisPart, ...]:
        source = next(s for s in step.sources if found.axes[s] is not None)
        n, to = found.size(source)[axis], step.results[0]
        wants = self._wants(found, how, step, axis) if how.how == "edges" else []
        cut = self._cut(found, source, axis)
        parts = []
        for rank in self._ranks(axis):
            out, have = (self._own(found, value, axis, rank) for value in (to, source))
            reads: dict[int, Any] = {}
            if wants and not at_home(cut, wants):
                have = np.concatenate([sends(cut, wants, q)[rank] for q in self._ranks(axis)])
            if wants:
                reads[1] = read(how.relation, axis, n, out, have)
            parts.append(AxisPart(out, {0: have, 1: out}, reads))
        return tuple(parts)

    def check(self, found: Plan) -> None:
        """Refuse a network that ranks cannot share.

        Raises:
            ConversionError: with the module's path.
        """
        for step, how in found.steps:
            by_passes = how.how in ("sum", "few")
            if (how.how == "whole" or (by_passes and self.statistics == "tiles")) and not (
                step.operator == "batch_norm" and how.axes is not None
            ):
                way = (
                    "say statistics='passes', or split"
                    if by_passes
                    else "only batch norm does so over ranks. Split"
                )
                raise ConversionError(
                    f"cg.sharded: {step.title} {how.why}; {way} the network before it"
                )
            if (
                how.how == "node"
                and len({n for s in step.sources if prod(n := found.size(s)) > 1}) > 1
            ):
                raise ConversionError(f"cg.sharded: {step.title} joins maps of other sizes")
        for step, how in found.written:
            if not _counts(step):
                raise ConversionError(f"cg.sharded: {step.title} {how.why}; call eval()")
        if not found.out_size and self.statistics == "tiles":
            found.refuse("cg.sharded")

    def alike(self, net: nn.Module) -> "Sharded":
        """Return another network on the same ranks and shares."""
        other = type(self).__new__(type(self))
        nn.Module.__init__(other)
        other.net, other.groups, other.counts = net, self.groups, self.counts
        other.places, other.ends, other.hearing = self.places, self.ends, self.hearing
        other.statistics, other.on = self.statistics, self.on
        return other

    def _norm(
        self, found: Plan, step: RecordedCall, value: Any, state: Any, sites: PlannedSites
    ) -> Tensor:
        """Batch norm in training, with the statistics of all ranks of the mesh."""
        a = step.args
        source = a["input"].index
        x: Tensor = value[source]
        here = sites(source, self._owned(found, source))
        x = blanked(x, here, found.axes[source] or ())
        rows = pixels(x, found.axes[source] or (), here)
        over = [k for k in range(rows.dim()) if k != 1]
        shape = [1, -1, *(1,) * (x.dim() - 2)]
        each = torch.tensor([rows.numel() // rows.shape[1]], dtype=torch.float64, device=x.device)
        heard = int(self._total(each))
        if heard == 1:
            raise ShapeError(
                f"cg.sharded: {step.title} expected more than 1 value per channel when training, "
                "got one pixel on all ranks; call eval() on it, or give larger images"
            )
        count = max(1, heard)  # of no pixel nothing is learned
        mean = self._total(rows.sum(over)) / count
        centred = x - mean.view(shape)
        off = rows - mean.view(1, -1, *(1,) * (rows.dim() - 2))
        variance = self._total(off.square().sum(over)) / count
        y: Any = centred / (variance + a["eps"]).sqrt().view(shape)
        for name, apply in (("weight", torch.mul), ("bias", torch.add)):
            if isinstance(a[name], State):
                y = apply(y, state[a[name].name].view(shape))
        if isinstance(a["running_mean"], State) and heard:
            with torch.no_grad():
                unbiased = variance * count / (count - 1)
                for name, new in (("running_mean", mean), ("running_var", unbiased)):
                    buffer = state[a[name].name]
                    buffer.mul_(1 - a["momentum"]).add_(new.to(buffer) * a["momentum"])
        made: Tensor = y
        return made

    def _total(self, one: Tensor) -> Tensor:
        for group in self.hearing:
            one = over_processes(one, group)
        return one


def cut_at(ends: Sequence[float], n: int) -> list[int]:
    """Return where an axis of n positions changes its owner: one number more than ranks."""
    return [int(n * end + 0.5) for end in ends]


def at_home(cut: list[int], wants: list[Positions]) -> bool:
    """Whether every rank reads only what it owns."""
    return all(
        not len(want) or (cut[q] <= want[0] and want[-1] < cut[q + 1])
        for q, want in enumerate(wants)
    )


def sends(cut: list[int], wants: list[Positions], rank: int) -> list[Positions]:
    """Which positions of its own a rank sends to each: those that are wanted there."""
    return [want[(want >= cut[rank]) & (want < cut[rank + 1])] for want in wants]


def _groups(mesh: Any) -> list[Any]:
    if mesh is None:
        return [dist.group.WORLD]
    if isinstance(mesh, dist.ProcessGroup):
        return [mesh]
    if not hasattr(mesh, "get_group") or mesh.ndim > 2:
        raise GraphError(
            "cg.sharded: expected mesh as a DeviceMesh of one or two axes (rows, columns), a "
            f"process group or None, got {mesh!r}"
        )
    return [mesh.get_group(axis) for axis in range(mesh.ndim)]


def ends_of(shares: Any, counts: list[int]) -> list[list[float]]:
    """Return where each rank's share of an axis ends, for each axis that is cut."""
    if shares is None:
        return [[r / n for r in range(n + 1)] for n in counts]
    each = [shares] if shares and not isinstance(shares[0], (list, tuple)) else list(shares)
    if [len(one) for one in each] != counts or not all(
        0 < np.sum(one) < np.inf and np.min(one) >= 0 for one in each
    ):
        raise GraphError(
            f"cg.sharded: expected shares as {counts} numbers, one a rank along each axis of the "
            f"mesh, none negative and not all 0, got {shares!r}"
        )
    return [[float(sum(one[:r]) / sum(one)) for r in range(len(one) + 1)] for one in each]


def _write(step: RecordedCall, state: Any) -> None:
    """Count batches, as a norm in training does: an operator on a buffer, in place."""
    if step.writes and _counts(step):
        one = next(iter(step.args.values()))
        if not isinstance(state[one.name], nn.Parameter):
            state[one.name].add_(step.args["other"])


def _counts(step: RecordedCall) -> bool:
    return step.operator == "add" and isinstance(next(iter(step.args.values())), State)


class _Exchange(torch.autograd.Function):
    """Positions of a map from whoever owns them; backward sends gradients home and adds them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, send: Any, get: Any, group: Any) -> Tensor:
        """Return what was asked for: `send[q]` goes to rank q, `get[q]` positions come from it."""
        rows = x.movedim(dim, 0).contiguous()
        index = torch.from_numpy(np.concatenate(send)).to(x.device)
        ctx.exchange = (dim, index, [len(s) for s in send], get, rows.shape, group)
        came = rows.new_empty((sum(get), *rows.shape[1:]))
        dist.all_to_all_single(came, rows.index_select(0, index), get, ctx.exchange[2], group=group)
        return came.movedim(0, dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Send home, and add in the order of ranks: the same bits every time."""
        dim, index, sent, get, shape, group = ctx.exchange
        there = grad.movedim(dim, 0).contiguous()
        home = there.new_empty((sum(sent), *shape[1:]))
        dist.all_to_all_single(home, there, sent, get, group=group)
        found = there.new_zeros(shape).index_add_(0, index, home)
        return found.movedim(0, dim), None, None, None, None


def shared(groups: Any, parameters: Sequence[Tensor]) -> Any:
    """Return parameters whose gradients are the sums over the ranks of all groups."""
    return _Shared.apply(groups, *parameters)  # type: ignore[no-untyped-call]


class _Shared(torch.autograd.Function):
    """All parameters at once: backward adds the gradients of all ranks in one call a group."""

    @staticmethod
    def forward(ctx: Any, groups: Any, *parameters: Tensor) -> Any:
        """Return them as they are."""
        ctx.groups = groups
        return tuple(p.view_as(p) for p in parameters)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """Return the sums over ranks."""
        found: list[Tensor] = list(grads)
        for dtype in dict.fromkeys(g.dtype for g in grads):
            which = [k for k, g in enumerate(grads) if g.dtype == dtype]
            flat = torch.cat([grads[k].reshape(-1) for k in which])
            for group in ctx.groups:
                dist.all_reduce(flat, group=group)
            parts = flat.split([grads[k].numel() for k in which])
            for k, one in zip(which, parts, strict=True):
                found[k] = one.view_as(grads[k])
        return None, *found
