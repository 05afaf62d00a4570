"""torch.nn.SyncBatchNorm on nodes: statistics over the nodes of all processes.

    mean = sum over ranks and nodes of x / N        var = sum of (x - mean)^2 / N

torch's converter makes one of every batch norm, graph layers included, and it would ask a graph for
its dimension. So its `forward` looks first whether it is given nodes; an image goes to torch. Rows
on CUDA are torch's own kernels; elsewhere, where torch has none (gloo), the sums are these.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from convgraph import memo
from convgraph.errors import UnsupportedError
from convgraph.functional import norm as functional
from convgraph.graph.pixel_graph import PixelGraph

Norm = torch.nn.SyncBatchNorm
of_torch: Any = Norm.forward
"""What an image is given to."""

TAKES: dict[type, Callable[[Any, Any], Any]] = {}
"""What holds nodes -> how the norm of a layer is called with it."""


def asks_others() -> bool:
    """Whether there are other processes."""
    return dist.is_available() and dist.is_initialized()


def runs(layer: Any) -> bool:
    """Whether a layer asks other processes now."""
    if not (layer.training and asks_others()):
        return False
    return bool(dist.get_world_size(layer.process_group or dist.group.WORLD) > 1)


def batch_norm(
    layer: Any,
    x: Tensor,  # (N, C)
) -> Tensor:
    """Return (N, C): rows as a SyncBatchNorm normalizes them; its buffers are updated.

    Args:
        layer: a torch.nn.SyncBatchNorm; its process group is asked in training.
        x: a process may have any number of rows, none included.

    Raises:
        ValueError: all processes together have one row.
        UnsupportedError: a compiler traces this, and other processes are asked.
    """
    if not runs(layer) or x.device.type == "cuda":
        nothing = layer.training and not x.shape[0] and not runs(layer)
        y: Tensor = x + 0 if nothing else of_torch(layer, x)
        return y
    if memo.lender() is not None or torch.compiler.is_compiling():
        raise UnsupportedError(
            "SyncBatchNorm on nodes, compiled: a program of operators asks no other process; run "
            "the network without torch.compile, or with BatchNorm"
        )
    group, rows = layer.process_group or dist.group.WORLD, functional.wide(x)
    number = rows.new_tensor([x.shape[0]], dtype=torch.float64)
    dist.all_reduce(number, group=group)
    count = int(number)
    if count == 1:
        raise ValueError(
            "Expected more than 1 value per channel when training, got one node in all processes; "
            "give larger images, more of them, or call .eval() on the norm"
        )
    if count == 0:
        return x + 0
    mean = over_processes(rows.sum(0), group) / count
    off = rows - mean
    var = over_processes(off.square().sum(0), group) / count
    _track(layer, mean.detach(), var.detach() * (count / (count - 1)))
    made = functional.affine(off * (var + layer.eps).rsqrt(), layer.weight, layer.bias)
    return made.to(x.dtype)


def _track(layer: Any, mean: Tensor, var: Tensor) -> None:
    """Update running statistics as torch's layer does."""
    if not layer.track_running_stats or layer.running_mean is None:
        return
    layer.num_batches_tracked.add_(1)
    share = layer.momentum
    share = 1.0 / float(layer.num_batches_tracked) if share is None else share
    with torch.no_grad():
        for kept, new in ((layer.running_mean, mean), (layer.running_var, var)):
            kept.lerp_(new.to(kept.dtype), share)


def over_processes(x: Tensor, group: Any) -> Tensor:
    """Return the sum over the processes of a group; each hears the gradients of all.

    Args:
        x: of one shape in every process.
        group: of torch.distributed, None for all.
    """
    found: Tensor = _Sum.apply(x, group)  # type: ignore[no-untyped-call]
    return found


class _Sum(torch.autograd.Function):
    """`over_processes`, with its derivatives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        """Sum."""
        ctx.group = group
        y = x.clone()
        dist.all_reduce(y, group=group)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """Sum the gradients."""
        return over_processes(grad, ctx.group), None


def _of_graph(layer: Any, graph: PixelGraph) -> PixelGraph:
    named = {name: getattr(layer, name, None) for name in ("weight", "bias", "running_mean")}
    functional.check_features(graph, layer.num_features, "SyncBatchNorm", named)
    return graph.with_x(batch_norm(layer, graph.x))


TAKES[PixelGraph] = _of_graph


def _forward(self: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
    takes = TAKES.get(type(input))
    if takes is None:
        return of_torch(self, input)
    return takes(self, input)


Norm.forward = _forward  # type: ignore[method-assign]
