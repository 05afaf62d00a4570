"""What a network means on a mask: its exported operators on dense images, holes refilled.

Before every operator that moves values between sites, absent sites are filled with the identity of
its aggregation: 0 for sums, minus infinity for maxima, where a maximum over nothing is then 0. At
the end they are 0. In between they hold whatever they hold. Means, norms and attention use the
sites that are there. Which sites are there follows from the root mask and the size alone. Nothing
here reads the package.
"""

from copy import deepcopy
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from tests.interpreter import there

SUMS = (
    "conv2d", "conv_transpose2d", "upsample_nearest2d", "upsample_bilinear2d", "pad", "roll",
    "flip", "pixel_shuffle", "slice", "flatten", "sum",
)  # fmt: skip
"""Operators whose aggregation has the identity 0; those that copy one site, or none, too."""

MAXIMA = ("max_pool2d", "amax")

OWN = ("scaled_dot_product_attention", "linalg_vector_norm")
"""Operators on tokens, or on channels that come last, that are more than torch's own."""


class Truth(torch.fx.Interpreter):
    """One run on images whose pixels are there where `root` is True."""

    def __init__(self, graph: torch.fx.GraphModule, root: Tensor) -> None:
        super().__init__(graph)
        self.root = root
        self.sizes: set[tuple[int, ...]] = {tuple(root.shape[1:])}

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        name = getattr(getattr(target, "_schema", None), "name", "").removeprefix("aten::")
        x = args[0] if args else None
        if not isinstance(x, Tensor) or (not self.is_map(x) and name not in OWN):
            return super().call_function(target, args, kwargs)
        own = getattr(self, f"on_{name}", None)
        if own is not None:
            return own(*args, **kwargs)
        if name in SUMS:
            x = self.fill(x, 0)
        if name in MAXIMA:
            x = self.fill(x, -torch.inf)
        out = super().call_function(target, (x, *args[1:]), kwargs)
        if name in MAXIMA:
            out = torch.where(out == -torch.inf, 0, out)
        if name in (*SUMS, *MAXIMA) and isinstance(out, Tensor) and out.dim() == 4:
            self.sizes.add(tuple(out.shape[2:]))
        return out

    # -- holes ------------------------------------------------------------------------------------

    def is_map(self, x: Tensor) -> bool:
        """Heads of attention and parameters have four axes too, but no lattice's size."""
        return x.dim() == 4 and x.shape[0] == len(self.root) and tuple(x.shape[2:]) in self.sizes

    def some(self, x: Tensor) -> Tensor:
        return there(self.root, tuple(x.shape[2:]))

    def fill(self, x: Tensor, identity: float) -> Tensor:
        if not self.is_map(x) or prod(x.shape[2:]) == 1:
            return x
        return torch.where(self.some(x), x, identity)

    def mean_of(self, x: Tensor, dims: Any, keepdim: bool) -> Tensor:
        some = self.some(x) if prod(x.shape[2:]) > 1 else torch.ones_like(x[:, :1], dtype=bool)
        count = some.sum(dims, keepdim=keepdim).clamp(min=1)
        return torch.where(some, x, 0).sum(dims, keepdim=keepdim) / count

    # -- means ------------------------------------------------------------------------------------

    def on_mean(self, x: Tensor, dims: Any, keepdim: bool = False) -> Tensor:
        if x.dim() != 4 or sorted(d % 4 for d in dims) != [2, 3]:
            raise NotImplementedError(f"a mean over {dims}")
        return self.mean_of(x, (2, 3), keepdim)

    def on_linalg_vector_norm(
        self, x: Tensor, order: float = 2, dims: Any = None, keepdim: bool = False
    ) -> Tensor:
        last = x.dim() == 4 and list(dims) == [1, 2] and tuple(x.shape[1:3]) in self.sizes
        if last:
            x = torch.where(self.some(x.movedim(3, 1)).movedim(1, 3), x, 0)
        elif self.is_map(x) and set(dims) & {2, 3}:
            x = self.fill(x, 0)
        return torch.linalg.vector_norm(x, order, dims, keepdim)

    def on_adaptive_avg_pool2d(self, x: Tensor, size: Any) -> Tensor:
        size = [size, size] if isinstance(size, int) else list(size)
        if size == [1, 1]:
            return self.mean_of(x, (2, 3), True)
        part = self.some(x).to(x.dtype)
        total = F.adaptive_avg_pool2d(torch.where(self.some(x), x, 0), size)
        share = F.adaptive_avg_pool2d(part, size)
        return torch.where(share > 0, total / share.clamp(min=1e-9), 0)

    def on_avg_pool2d(
        self, x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, ceil: bool = False,
        include: bool = True, divisor: int | None = None,
    ) -> Tensor:  # fmt: skip
        if list(kernel) == list(x.shape[2:]) and not any(padding or (0,)):
            return self.mean_of(x, (2, 3), True)
        more = (tuple(kernel), tuple(stride) or None, padding, ceil)
        if include:
            out = F.avg_pool2d(self.fill(x, 0), *more, True, divisor)
        else:
            total = F.avg_pool2d(self.fill(x, 0), *more, True, 1)
            count = F.avg_pool2d(self.some(x).to(x.dtype), *more, True, 1)
            out = total / count.clamp(min=1)
        self.sizes.add(tuple(out.shape[2:]))
        return out

    # -- norms ------------------------------------------------------------------------------------

    def on_batch_norm(
        self, x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool,
        momentum: float, eps: float, cudnn: bool,
    ) -> Tensor:  # fmt: skip
        if not training or x.dim() != 4:
            return torch.batch_norm(x, weight, bias, mean, var, training, momentum, eps, cudnn)
        some = self.some(x).squeeze(1)
        rows = x.movedim(1, 3)[some]
        new = torch.batch_norm(rows, weight, bias, mean, var, True, momentum, eps, cudnn)
        out = torch.zeros_like(x.movedim(1, 3))
        out[some] = new
        return out.movedim(3, 1)

    def on_group_norm(
        self, x: Tensor, groups: int, weight: Any, bias: Any, eps: float = 1e-5, cudnn: bool = True
    ) -> Tensor:
        parts = x.unflatten(1, (groups, -1))
        some = self.some(x).unsqueeze(1).expand(-1, groups, parts.shape[2], -1, -1)
        count = some.sum((2, 3, 4), keepdim=True).clamp(min=1)
        mean = torch.where(some, parts, 0).sum((2, 3, 4), keepdim=True) / count
        off = torch.where(some, parts - mean, 0)
        var = off.square().sum((2, 3, 4), keepdim=True) / count
        out = ((parts - mean) / (var + eps).sqrt()).flatten(1, 2)
        return out * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)

    def on_instance_norm(
        self, x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, stats: bool,
        momentum: float, eps: float, cudnn: bool,
    ) -> Tensor:  # fmt: skip
        return self.on_group_norm(x, x.shape[1], weight, bias, eps)

    # -- everything that hears everything ---------------------------------------------------------

    def on_view(self, x: Tensor, shape: Any) -> Tensor:
        two = len(shape) == 2 and x.dim() == 4
        return (self.fill(x, 0) if two else x).reshape(shape)

    def on_scaled_dot_product_attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        (size,) = [one for one in self.sizes if prod(one) == k.shape[2]]
        keys = there(self.root, size).flatten(2).unsqueeze(1)
        score = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
        return torch.where(keys, score, -torch.inf).softmax(3).nan_to_num(0) @ v


def program(model: Any, image: Tensor) -> torch.fx.GraphModule:
    """Export a network for images of this shape, with the model's own parameters and buffers."""
    exported = torch.export.export(deepcopy(model), (torch.zeros_like(image),), strict=False)
    graph = exported.module()
    own, found = dict(model.named_parameters()), dict(graph.named_parameters())
    own |= dict(model.named_buffers())
    found |= dict(graph.named_buffers())
    for name in found:  # the graph reads the model's own tensors, so that gradients arrive
        owner, _, leaf = name.rpartition(".")
        setattr(graph.get_submodule(owner), leaf, own[name])
    return graph


def truth(model: Any, image: Tensor, root: Tensor) -> Any:
    """Return what the network says; maps with 0 where nobody is.

    A program is taken as it is. The statistics of batch norms in training are written into the
    model, as it would itself.
    """
    graph = model if isinstance(model, torch.fx.GraphModule) else program(model, image)
    run = Truth(graph, root)
    flat = run.run(image)
    return pytree.tree_map_only(Tensor, lambda out: run.fill(out, 0), flat)
