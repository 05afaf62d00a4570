"""What a network means on a mask: its exported operators on dense images, holes refilled.

Before every operator that moves values between sites, absent sites are filled with the identity of
its aggregation: 0 for sums, minus infinity for maxima, where a maximum over nothing is then 0. At
the end they are 0. In between they hold whatever they hold. Means, norms and attention use the
sites that are there. Which sites are there follows from the root mask and from where a map lies,
see `convgraph.proof.equation.map_positions`. Nothing here reads what is judged.
"""

from copy import deepcopy
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from convgraph.proof.equation import map_positions
from convgraph.proof.equation.map_positions import MapPositions

SUMS = (
    "conv2d", "conv_transpose2d", "upsample_nearest2d", "upsample_bilinear2d", "pad", "roll",
    "flip", "pixel_shuffle", "slice", "flatten", "sum", "constant_pad_nd", "reflection_pad2d",
    "replication_pad2d",
)  # fmt: skip
"""Operators whose aggregation has the identity 0; those that copy one site, or none, too."""

MAXIMA = ("max_pool2d", "amax")


class Truth(torch.fx.Interpreter):
    """One run on images whose pixels are there where `root` is True.

    A tensor that is a map, or is made of one node by node, knows where it lies.
    """

    def __init__(self, graph: torch.fx.GraphModule, root: Tensor) -> None:
        super().__init__(graph)
        self.root = root

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        image = super().placeholder(target, args, kwargs)
        return put(image.view_as(image), MapPositions.of(self.root))

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        name = getattr(getattr(target, "_schema", None), "name", "").removeprefix("aten::")
        given = [a for a in pytree.tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        maps = [one for one in given if place(one) is not None]
        if not maps or not name:
            return super().call_function(target, args, kwargs)
        own = getattr(self, f"on_{name}", None)
        if own is not None:
            return own(*args, **kwargs)
        x = args[0]
        if name in SUMS:
            x = fill(x, 0)
        if name in MAXIMA:
            x = fill(x, -torch.inf)
        if name in (*SUMS, *MAXIMA):
            out = super().call_function(target, (x, *args[1:]), kwargs)
            if name in MAXIMA:
                out = torch.where(out == -torch.inf, 0, out)
            if name == "flatten":
                return out if out.dim() == 2 else put(out, place(x))
            return put(out, self.carried(name, args, kwargs, out)) if out.dim() == 4 else out
        return self.node_by_node(target, args, kwargs, maps)

    def node_by_node(self, target: Any, args: Any, kwargs: Any, maps: list[Tensor]) -> Any:
        """Operands of one size meet on the union; what one of them lacks says 0."""
        met = place(maps[0])
        for one in maps[1:]:
            found = place(one)
            if found.size == met.size:
                met = met.meet(found)
        if len(maps) > 1:
            args = pytree.tree_map_only(Tensor, lambda a: self.known(a, met), args)
        out = super().call_function(target, args, kwargs)
        for one in pytree.tree_leaves(out):
            if isinstance(one, Tensor):
                put(one, met)
        return out

    def known(self, x: Tensor, met: MapPositions) -> Tensor:
        found = place(x)
        if found is None or found.size != met.size or found.same(met):
            return x
        return put(fill(x, 0), found)

    def carried(self, name: str, args: Any, kwargs: Any, out: Tensor) -> MapPositions:
        """Where the result of a move lies."""
        before: MapPositions = place(args[0])
        size = tuple(out.shape[2:])
        if name == "conv2d":
            given = dict(
                zip(("weight", "bias", "stride", "padding", "dilation"), args[1:], strict=False)
            )
            given |= kwargs
            two = lambda key, default: _two(given.get(key, default))  # noqa: E731
            return before.step(
                lambda k, e: map_positions.kernel(
                    e, size[k], given["weight"].shape[2 + k], two("stride", 1)[k],
                    (two("padding", 0)[k],) * 2, two("dilation", 1)[k],
                )
            )  # fmt: skip
        if name == "conv_transpose2d":
            keys = ("weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
            given = dict(zip(keys, args[1:], strict=False)) | kwargs
            two = lambda key, default: _two(given.get(key, default))  # noqa: E731
            return before.step(
                lambda k, e: map_positions.reversed_kernel(
                    e, size[k], given["weight"].shape[2 + k], two("stride", 1)[k],
                    two("padding", 0)[k], two("dilation", 1)[k],
                )
            )  # fmt: skip
        if name == "max_pool2d":
            return self.windows(before, size, *args[1:])
        if "pad" in name:
            pads = args[1]
            mode = {"reflection_pad2d": "reflect", "replication_pad2d": "replicate"}.get(
                name, (args[2] if name == "pad" and len(args) > 2 else "constant")
            )
            value = kwargs.get("value") or (args[3] if name == "pad" and len(args) > 3 else 0)
            if name == "constant_pad_nd" and len(args) > 2:
                value = args[2]
            sources = {}
            for number in range(len(pads) // 2):
                axis = 1 - number
                sources[axis] = map_positions.pad_sources(
                    before.size[axis], pads[2 * number], pads[2 * number + 1], mode, value or 0
                )
            return before.moved(sources)
        if name in ("roll", "flip", "slice"):
            numbers = [torch.arange(n) for n in before.size]
            if name == "slice":
                dim, *bounds = (*args[1:], *(None,) * 4)[:4]  # older torch leaves defaults out
                axes = {(dim or 0) % 4 - 2: lambda t: t[slice(*bounds)]}
            elif name == "flip":
                axes = {dim % 4 - 2: lambda t: t.flip(0) for dim in args[1]}
            else:
                axes = {
                    dim % 4 - 2: lambda t, shift=shift: t.roll(shift)
                    for shift, dim in zip(args[1], args[2], strict=True)
                }
            moved = {k: call(numbers[k]).tolist() for k, call in axes.items() if k >= 0}
            return before.moved(moved)
        return before.scaled(size)

    def windows(
        self, before: MapPositions, size: Any, kernel: Any, stride: Any = (), padding: Any = 0,
        dilation: Any = 1, *_: Any,
    ) -> MapPositions:  # fmt: skip
        k, s = _two(kernel), _two(stride or kernel)
        p, d = _two(padding), _two(dilation)
        return before.step(
            lambda a, e: map_positions.kernel(e, size[a], k[a], s[a], (p[a], p[a]), d[a])
        )

    # -- means ------------------------------------------------------------------------------------

    def mean_of(self, x: Tensor, dims: Any, keepdim: bool) -> Tensor:
        some = some_of(x) if prod(x.shape[2:]) > 1 else torch.ones_like(x[:, :1], dtype=bool)
        count = some.sum(dims, keepdim=keepdim).clamp(min=1)
        return torch.where(some, x, 0).sum(dims, keepdim=keepdim) / count

    def on_mean(self, x: Tensor, dims: Any, keepdim: bool = False) -> Tensor:
        if not is_image(x):
            out = x.mean(dims, keepdim)
            return put(out, place(x))
        if sorted(d % 4 for d in dims) != [2, 3]:
            raise NotImplementedError(f"a mean over {dims}")
        return self.mean_of(x, (2, 3), keepdim)

    def on_var_mean(self, x: Tensor, dims: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        mean = self.on_mean(x, dims, True)
        some = torch.where(place(x).there.unsqueeze(1), 1.0, 0.0).to(x)
        count = some.sum((2, 3)) - kwargs["correction"]
        spread = ((x - mean) * some).square().sum((2, 3)) / count.clamp(min=1)
        return spread, mean.flatten(1)

    def on_linalg_vector_norm(
        self, x: Tensor, order: float = 2, dims: Any = None, keepdim: bool = False
    ) -> Tensor:
        there = place(x).there
        if list(dims) == [1, 2] and tuple(x.shape[1:3]) == place(x).size:
            x = torch.where(there.unsqueeze(3), x, 0)
        elif is_image(x) and set(dims) & {2, 3}:
            x = fill(x, 0)
        return torch.linalg.vector_norm(x, order, dims, keepdim)

    def on_adaptive_avg_pool2d(self, x: Tensor, size: Any) -> Tensor:
        size = [size, size] if isinstance(size, int) else list(size)
        if size == [1, 1]:
            return self.mean_of(x, (2, 3), True)
        part = some_of(x).to(x.dtype)
        total = F.adaptive_avg_pool2d(torch.where(some_of(x), x, 0), size)
        share = F.adaptive_avg_pool2d(part, size)
        out = torch.where(share > 0, total / share.clamp(min=1e-9), 0)
        return put(out, place(x).scaled(size))

    def on_avg_pool2d(
        self, x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, ceil: bool = False,
        include: bool = True, divisor: int | None = None,
    ) -> Tensor:  # fmt: skip
        if list(kernel) == list(x.shape[2:]) and not any(padding or (0,)):
            return self.mean_of(x, (2, 3), True)
        more = (tuple(kernel), tuple(stride) or None, padding, ceil)
        if include:
            out = F.avg_pool2d(fill(x, 0), *more, True, divisor)
        else:
            total = F.avg_pool2d(fill(x, 0), *more, True, 1)
            count = F.avg_pool2d(some_of(x).to(x.dtype), *more, True, 1)
            out = total / count.clamp(min=1)
        return put(out, self.windows(place(x), tuple(out.shape[2:]), kernel, stride, padding))

    # -- norms ------------------------------------------------------------------------------------

    def on_batch_norm(
        self, x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, training: bool,
        momentum: float, eps: float, cudnn: bool,
    ) -> Tensor:  # fmt: skip
        if not training or x.dim() != 4:
            out = torch.batch_norm(x, weight, bias, mean, var, training, momentum, eps, cudnn)
            return put(out, place(x))
        some = some_of(x).squeeze(1)
        rows = x.movedim(1, 3)[some]
        new = torch.batch_norm(rows, weight, bias, mean, var, True, momentum, eps, cudnn)
        out = torch.zeros_like(x.movedim(1, 3))
        out[some] = new
        return put(out.movedim(3, 1), place(x))

    def on_group_norm(
        self, x: Tensor, groups: int, weight: Any, bias: Any, eps: float = 1e-5, cudnn: bool = True
    ) -> Tensor:
        parts = x.unflatten(1, (groups, -1))
        some = some_of(x).unsqueeze(1).expand(-1, groups, parts.shape[2], -1, -1)
        count = some.sum((2, 3, 4), keepdim=True).clamp(min=1)
        mean = torch.where(some, parts, 0).sum((2, 3, 4), keepdim=True) / count
        off = torch.where(some, parts - mean, 0)
        var = off.square().sum((2, 3, 4), keepdim=True) / count
        out = ((parts - mean) / (var + eps).sqrt()).flatten(1, 2)
        return put(out * weight.view(-1, 1, 1) + bias.view(-1, 1, 1), place(x))

    def on_instance_norm(
        self, x: Tensor, weight: Any, bias: Any, mean: Any, var: Any, stats: bool,
        momentum: float, eps: float, cudnn: bool,
    ) -> Tensor:  # fmt: skip
        return self.on_group_norm(x, x.shape[1], weight, bias, eps)

    # -- everything that hears everything ---------------------------------------------------------

    def on_view(self, x: Tensor, shape: Any) -> Tensor:
        if len(shape) == 2 and x.dim() == 4:
            return fill(x, 0).reshape(shape)
        return put(x.reshape(shape), place(x))

    on_reshape = on_view

    def on_scaled_dot_product_attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys = place(k).there.flatten(1)[:, None, None]
        score = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
        out = torch.where(keys, score, -torch.inf).softmax(3).nan_to_num(0) @ v
        return put(out, place(q))


def _two(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


def put(x: Tensor, found: MapPositions | None) -> Tensor:
    """Say where a tensor lies."""
    x.lies = found  # type: ignore[attr-defined]
    return x


def place(x: Any) -> Any:
    """Where a tensor lies, or None."""
    return getattr(x, "lies", None)


def is_image(x: Tensor) -> bool:
    return x.dim() == 4 and place(x) is not None and tuple(x.shape[2:]) == place(x).size


def some_of(x: Tensor) -> Tensor:
    there: Tensor = place(x).there.unsqueeze(1)
    return there


def fill(x: Tensor, identity: float) -> Tensor:
    if not is_image(x) or prod(x.shape[2:]) == 1:
        return x
    return put(torch.where(some_of(x), x, identity), place(x))


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
    """Return what the network says; maps with 0 where no node is.

    A program is taken as it is. The statistics of batch norms in training are written into the
    model, as it would itself.
    """
    graph = model if isinstance(model, torch.fx.GraphModule) else program(model, image)
    flat = Truth(graph, root).run(image)
    return pytree.tree_map_only(Tensor, lambda out: fill(out, 0), flat)
