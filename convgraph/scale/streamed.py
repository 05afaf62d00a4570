"""`cg.streamed`: exact gradients of one huge image, tile by tile, in the memory of a tile.

    forward:   y[tile] for each tile, nothing kept but y
    backward:  each tile again, with its slice of dL/dy

Every output belongs to one tile and derivatives are linear, so what the tiles give adds up to the
gradient of the whole. What hears the whole map does so through sums in passes of their own, forward
in order; backward goes through them in the other order, from the gradients of the sums to those of
the tiles that were summed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from convgraph.door import door
from convgraph.scale.partial import blanked, onward, run
from convgraph.scale.passes import check_statistics, passes, summary
from convgraph.scale.plan import Plan, dtype_of, plan
from convgraph.scale.sites import PlannedSites, sites_of
from convgraph.scale.source import Source
from convgraph.scale.tiling import Tiling, gathered, tiling


@door
def streamed(
    net: nn.Module, *, tile: Any = 2048, statistics: str = "tiles", on: Any = None
) -> "Streamed":
    """Return a module that runs a network by tiles, forward and backward, with exact gradients.

    Use it for the part of a network whose maps are large; what follows is an ordinary module:
    `head(stream(image)).backward()`. Every tile is computed twice, once forward and once backward.

    Args:
        net: a dense network on images (B, C, *size) that returns one map. Norms over a batch in
            evaluation, no dropout: a tile computed again must be the same.
        tile: pixels of the output along each axis, or memory, as in `cg.tiled`.
        statistics: "passes" also takes what hears the whole map, as in `cg.tiled`: each of these
            operators is a pass over the image forward, and one more backward.
        on: the space that the images lie in, `cg.HEALPix()`; tiles are parts of its charts.

    Returns:
        A module on tensors (B, C, *size), or on whatever takes slices, (C, *size); it returns
        (B, C_out, *out_size). `stream(image, mask=...)` takes a mask as `cg.tiled` does: bools
        (*size), or coarser by a whole factor. Its parameters are the network's.

    Raises:
        ConversionError: when called; an operator hears more than a part, with the module's path.
        GraphError: other statistics.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 3, 2, 1))
        >>> x = torch.randn(1, 1, 64, 64)
        >>> streamed(net, tile=4)(x).square().sum().backward()
        >>> net[0].weight.grad.shape
        torch.Size([2, 1, 3, 3])
    """
    return Streamed(net, tile, statistics, on)


class Streamed(nn.Module):
    """A network by tiles; see `streamed`."""

    def __init__(
        self, net: nn.Module, tile: Any = 2048, statistics: str = "tiles", on: Any = None
    ) -> None:
        super().__init__()
        check_statistics(statistics, "cg.streamed")
        self.net, self.training = net, net.training
        self.tile = tile
        self.statistics = statistics
        self.on = on

    @door
    def forward(self, image: Any, mask: Any = None) -> Tensor:
        """Return the network's output, (B, C_out, *out_size)."""
        some = next(self.net.parameters(), torch.empty(0))
        whole = isinstance(image, Tensor) and image.dim() >= _dimensions(self.net)
        source = None if whole else Source(image)
        if source is None:
            shape, dtype = tuple(image.shape), image.dtype
        else:
            shape, dtype = (1, source.channels, *source.size), dtype_of(self.net) or source.dtype
        found = plan(self.net, shape, dtype, self.on)
        found.refuse("cg.streamed", by_passes=self.statistics == "passes")
        parameters = [p for p in self.net.parameters() if p.requires_grad]
        x = image if whole else some.new_empty(0)
        sites = sites_of(found, mask)
        work = _Work(found, self.tile, source, parameters, sites)
        made: Tensor = _Tiles.apply(work, x, *parameters)  # type: ignore[no-untyped-call]
        return made


def _dimensions(net: nn.Module) -> int:
    """Of a batch of images: as many as its first kernel has, or else four."""
    return next((p.dim() for p in net.parameters() if p.dim() > 2), 4)


class _Work:
    """What forward and backward share.

    Attributes:
        cut: the output's tiles; None for a network that ends in a readout.
        stages: the passes in front of them, each with the tiles of the map that it hears.
        known: what is known before each pass, and behind the last.
        parts: what the tiles of each pass gave.
    """

    def __init__(
        self, found: Plan, tile: Any, source: Source | None, parameters: list[nn.Parameter],
        sites: PlannedSites,
    ) -> None:  # fmt: skip
        self.plan, self.source, self.parameters, self.sites = found, source, parameters, sites
        self.cut = tiling(found, tile, sites=sites) if found.out_size else None
        self.stages = [(one, tiling(found, tile, one.source, sites)) for one in passes(found)]
        self.known: list[dict[Any, Any]] = [{}]
        self.parts: list[list[Any]] = []

    def window(self, x: Tensor, ask: Any) -> Tensor:
        """The image at the positions asked for."""
        flat = self.plan.space is not None
        if self.source is not None:
            return self.source.read(ask[0], self.plan.recording.dtypes[0], x.device, cells=flat)
        if flat:
            cells = torch.from_numpy(ask[0][0]).to(x.device)
            return x.flatten(2).index_select(2, cells).unsqueeze(-1)
        for k, p in enumerate(ask[0]):
            x = x.index_select(k + 2, torch.from_numpy(p).to(x.device))
        return x

    def tile(self, cut: Tiling, window: Tensor, ask: Any, out: Any, known: Any) -> Tensor:
        """One tile of a target."""
        plan, goal = self.plan, cut.target
        y = run(plan, window, ask, goal, known=known, sites=self.sites)
        return blanked(y, cut.here(out), plan.axes[goal] or ())

    def pass_over(self, stage: int) -> None:
        """Sum up a map, tile by tile, and go on to what follows from it."""
        one, cut = self.stages[stage]
        found = []
        for _, out in cut.summed():
            ask = cut.ask(out)
            y = self.tile(cut, self.window(self.x, ask), ask, out, self.known[stage])
            found.append(summary(one, y, cut.here(out)))
        self.parts.append(found)
        self.known.append(self.onward(stage, found, self.known[stage]))

    def onward(self, stage: int, parts: list[Any], known: Any) -> dict[Any, Any]:
        """What is known behind a pass."""
        one, cut = self.stages[stage]
        more = {**known, one.key: gathered(cut, one, parts)}
        return onward(self.plan, more, self.x.device, self.sites)

    def forward(self, x: Tensor) -> Tensor:
        """All passes, and the output's tiles."""
        self.x = x
        for stage in range(len(self.stages)):
            self.pass_over(stage)
        plan, cut = self.plan, self.cut
        if cut is None:
            ended: Tensor = self.known[-1][plan.out]
            return ended.clone()
        y = x.new_zeros(plan.recording.shapes[plan.out], dtype=plan.recording.dtypes[plan.out])
        for _, out in cut.inhabited():
            ask = cut.ask(out)
            tile = self.tile(cut, self.window(x, ask), ask, out, self.known[-1])
            y[cut.place(out)] = cut.boxed(tile, out)
        return y


class _Gradients:
    """What has been added up so far: of the parameters, of the image, of what is known."""

    def __init__(self, work: _Work, x: Tensor, wants: bool) -> None:
        self.work, self.x = work, x.detach()
        self.image = torch.zeros_like(x) if wants else None
        self.sums: list[Tensor | None] = [None] * len(work.parameters)

    def tile(
        self, cut: Tiling, out: Any, known: Any, heard: list[Tensor | None],
        made: Callable[[Tensor], Sequence[Tensor]], grads: Sequence[Tensor],
    ) -> None:  # fmt: skip
        """Run a tile again and add what the gradients of `made` of it give."""
        work, ask = self.work, cut.ask(out)
        wants = self.image is not None and 0 in ask
        before, within = _fresh(known)
        with torch.enable_grad():
            window = work.window(self.x, ask).requires_grad_(wants)
            y = made(work.tile(cut, window, ask, out, within))
        found = self.add(y, grads, [*before, *([window] if wants else [])])
        _added(heard, found)
        if self.image is not None and wants and found[-1] is not None:
            if work.plan.space is not None:
                cells = torch.from_numpy(ask[0][0])
                self.image.flatten(2)[:, :, cells] += found[-1].flatten(2)
                return
            index = np.ix_(*(range(n) for n in self.x.shape[:2]), *ask[0])
            self.image[tuple(map(torch.from_numpy, index))] += found[-1]

    def add(self, y: Sequence[Any], grads: Sequence[Any], inputs: Sequence[Tensor]) -> list[Any]:
        """Add the gradients of the parameters, return those of the inputs."""
        pairs = [
            (a, b)
            for a, b in zip(y, grads, strict=True)
            if isinstance(a, Tensor) and a.requires_grad and b is not None
        ]
        if not pairs:
            return [None] * len(inputs)
        one, two = zip(*pairs, strict=True)
        parameters = self.work.parameters
        found = torch.autograd.grad(one, [*parameters, *inputs], two, allow_unused=True)
        _added(self.sums, found)
        return list(found[len(parameters) :])

    def pass_back(self, stage: int, after: list[Tensor | None]) -> list[Tensor | None]:
        """From the gradients of what is known behind a pass to those of what was before."""
        work = self.work
        one, cut = work.stages[stage]
        before, within = _fresh(work.known[stage])
        leaves, parts = _fresh(work.parts[stage])
        with torch.enable_grad():
            made = _tensors(work.onward(stage, parts, within))
        found = self.add(made, after, [*before, *leaves])
        heard, rest = found[: len(before)], found[len(before) :]
        each = len(leaves) // max(1, len(work.parts[stage]))
        for k, (_, out) in enumerate(cut.summed()):
            grads, here = rest[each * k : each * (k + 1)], cut.here(out)
            tensors = lambda y, here=here: _tensors(summary(one, y, here))  # noqa: E731
            self.tile(cut, out, work.known[stage], heard, tensors, grads)
        return heard


def _tensors(tree: Any) -> list[Tensor]:
    """Those that can have gradients, in order."""
    found = (one for one in pytree.tree_leaves(tree) if isinstance(one, Tensor))
    return [one for one in found if one.is_floating_point()]


def _fresh(tree: Any) -> tuple[list[Tensor], Any]:
    """Return the tensors of a tree as leaves of a graph of their own, and the tree of these."""
    leaves, how = pytree.tree_flatten(tree)
    fresh = [
        one.detach().requires_grad_() if isinstance(one, Tensor) and one.is_floating_point()
        else one
        for one in leaves
    ]  # fmt: skip
    found = [one for one in fresh if isinstance(one, Tensor) and one.requires_grad]
    return found, pytree.tree_unflatten(fresh, how)


def _added(sums: list[Tensor | None], more: Sequence[Tensor | None]) -> None:
    """Add gradients, as many as there are sums."""
    for k, one in enumerate(more[: len(sums)]):
        if one is not None:
            before = sums[k]
            sums[k] = one if before is None else before + one


class _Tiles(torch.autograd.Function):
    """All tiles, as one operator."""

    @staticmethod
    def forward(ctx: Any, work: _Work, x: Tensor, *parameters: Tensor) -> Tensor:
        """Return the output, put together from tiles."""
        ctx.work = work
        ctx.save_for_backward(x, *parameters)
        return work.forward(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Run each tile again and add up."""
        work: _Work = ctx.work
        wants = ctx.needs_input_grad[1] and work.source is None
        total = _Gradients(work, ctx.saved_tensors[0], wants)
        known = work.known[-1]
        heard: list[Tensor | None] = [None] * len(_tensors(known))
        if work.cut is None:
            keys = [key for key, one in known.items() for _ in _tensors(one)]
            heard[keys.index(work.plan.out)] = grad
        else:
            for _, out in work.cut.inhabited():
                slice_of = _as_tile(work, grad[work.cut.place(out)], out)
                total.tile(work.cut, out, known, heard, lambda y: [y], [slice_of])
        for stage in reversed(range(len(work.stages))):
            heard = total.pass_back(stage, heard)
        return None, total.image, *total.sums


def _as_tile(work: _Work, grad: Tensor, out: Any) -> Tensor:
    """A slice of the output's gradient in the shape of its tile."""
    shape = list(grad.shape)
    for a, p in zip(work.plan.axes[work.plan.out] or (), out, strict=True):
        shape[a] = len(p)
    return grad.reshape(shape)
