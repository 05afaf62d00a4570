"""`cg.streamed`: exact gradients of one huge image, tile by tile, in the memory of a tile.

    forward:   y[tile] for each tile, nothing kept but y
    backward:  each tile again, with its slice of dL/dy

Every output belongs to one tile and derivatives are linear, so what the tiles give adds up to the
gradient of the whole.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from convgraph.door import door
from convgraph.scale.partial import run
from convgraph.scale.plan import Plan, plan
from convgraph.scale.source import Source
from convgraph.scale.tiling import Tiling, tiling


@door
def streamed(net: nn.Module, *, tile: Any = 2048) -> "Streamed":
    """Return a module that runs a network by tiles, forward and backward, with exact gradients.

    Use it for the part of a network whose maps are large; what follows is an ordinary module:
    `head(stream(image)).backward()`. Every tile is computed twice, once forward and once backward.

    Args:
        net: a dense network on images (B, C, *size) that returns one map. Norms in evaluation, no
            dropout: a tile computed again must be the same.
        tile: pixels of the output along each axis, or memory, as in `cg.tiled`.

    Returns:
        A module on tensors (B, C, *size), or on whatever takes slices, (C, *size); it returns
        (B, C_out, *out_size). Its parameters are the network's.

    Raises:
        ConversionError: when called; an operator hears more than a part, with the module's path.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 3, 2, 1))
        >>> x = torch.randn(1, 1, 64, 64)
        >>> streamed(net, tile=4)(x).square().sum().backward()
        >>> net[0].weight.grad.shape
        torch.Size([2, 1, 3, 3])
    """
    return Streamed(net, tile)


class Streamed(nn.Module):
    """A network by tiles; see `streamed`."""

    def __init__(self, net: nn.Module, tile: Any = 2048) -> None:
        super().__init__()
        self.net = net
        self.tile = tile

    @door
    def forward(self, image: Any) -> Tensor:
        """Return the network's output, (B, C_out, *out_size)."""
        some = next(self.net.parameters(), torch.empty(0))
        whole = isinstance(image, Tensor) and image.dim() > 3
        source = None if whole else Source(image)
        shape = tuple(image.shape) if source is None else (1, source.channels, *source.size)
        found = plan(self.net, shape, image.dtype if whole else None)
        found.refuse("cg.streamed")
        parameters = [p for p in self.net.parameters() if p.requires_grad]
        x = image if whole else some.new_empty(0)
        work = _Work(found, tiling(found, self.tile), source, parameters)
        made: Tensor = _Tiles.apply(work, x, *parameters)  # type: ignore[no-untyped-call]
        return made


class _Work:
    """What forward and backward share."""

    def __init__(
        self, found: Plan, cut: Tiling, source: Source | None, parameters: list[nn.Parameter]
    ) -> None:
        self.plan, self.cut, self.source, self.parameters = found, cut, source, parameters

    def window(self, x: Tensor, ask: Any) -> Tensor:
        """The image at the positions asked for."""
        if self.source is not None:
            return self.source.read(ask[0], self.plan.recording.dtypes[0], x.device)
        for k, p in enumerate(ask[0]):
            x = x.index_select(k + 2, torch.from_numpy(p).to(x.device))
        return x

    def place(self, out: Any) -> Any:
        """Where a tile lies in the output."""
        shape = self.plan.recording.shapes[self.plan.out]
        found = [slice(None)] * len(shape)
        for a, p in zip(self.plan.axes[self.plan.out] or (), out, strict=True):
            found[a] = slice(int(p[0]), int(p[-1]) + 1)
        return tuple(found)


class _Tiles(torch.autograd.Function):
    """All tiles, as one operator."""

    @staticmethod
    def forward(ctx: Any, work: _Work, x: Tensor, *parameters: Tensor) -> Tensor:
        """Return the output, put together from tiles."""
        ctx.work = work
        ctx.save_for_backward(x, *parameters)
        plan = work.plan
        y = x.new_empty(plan.recording.shapes[plan.out], dtype=plan.recording.dtypes[plan.out])
        for _, out in work.cut.parts():
            ask = work.cut.ask(out)
            y[work.place(out)] = run(plan, work.window(x, ask), ask, plan.out)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Run each tile again and add up."""
        work: _Work = ctx.work
        x = ctx.saved_tensors[0]
        wants = ctx.needs_input_grad[1] and work.source is None
        given = torch.zeros_like(x) if wants else None
        sums: list[Tensor | None] = [None] * len(work.parameters)
        for _, out in work.cut.parts():
            ask = work.cut.ask(out)
            with torch.enable_grad():
                window = work.window(x.detach(), ask).requires_grad_(wants)
                y = run(work.plan, window, ask, work.plan.out)
            if not y.requires_grad:
                continue
            inputs = [*work.parameters, *([window] if wants else [])]
            found = torch.autograd.grad(y, inputs, grad[work.place(out)], allow_unused=True)
            for k, one in enumerate(found[: len(sums)]):
                if one is not None:
                    before = sums[k]
                    sums[k] = one if before is None else before + one
            if given is not None and found[-1] is not None:
                index = np.ix_(*(range(n) for n in x.shape[:2]), *ask[0])
                given[tuple(map(torch.from_numpy, index))] += found[-1]
        return None, given, *sums
