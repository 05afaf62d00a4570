"""The half of the interpreter in which sites meet: pools, means, norms, softmax and attention.

Each uses the sites that are there. An average pool whose window is the whole map is a mean. Nothing
here reads the package.
"""

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.proof.equation import map_positions
from tests.convert.zoo.held import (
    Held,
    Track,
    UnknownMeaningError,
    fresh,
    held,
    meeting,
    reduced,
    union,
)  # fmt: skip


def ints(value: Any, d: int) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,) * d
    return tuple(value) * d if len(value) == 1 else tuple(value)


def dims_of(x: Held, dim: Any) -> list[int]:
    rank = x.x.dim()
    if dim is None or dim == [] or dim == ():
        return list(range(rank))
    return sorted({d % rank for d in ([dim] if isinstance(dim, int) else dim)})


class Sums(torch.fx.Interpreter):
    """Operators by name; `some`, `fill` and `image` belong to the whole interpreter."""

    def some(self, value: Held) -> Tensor:
        """(...) bool: which elements belong to a site that is there."""
        raise NotImplementedError

    def fill(self, value: Any, identity: float) -> Any:
        """The tensor, with the identity where no node is."""
        raise NotImplementedError

    def image(self, value: Any) -> Any:
        """The value, which has to be an image."""
        raise NotImplementedError

    def plain(self, value: Any, dim: int) -> Any:
        """The value, its lattice made coarser where a dimension holds the low digits of sites."""
        raise NotImplementedError

    def whole(self, x: Held, dim: int) -> bool:
        """Whether a dimension holds whole lattice axes, so that a sum over it is a readout."""
        try:
            reduced(x, [dim], True)
        except UnknownMeaningError:
            return False
        return True

    def over(self, x: Held, dims: list[int], identity: float = 0.0) -> tuple[Tensor, Tensor]:
        """The filled value, and how many of its entries each result has heard."""
        some = self.some(x).expand(x.x.shape)
        return torch.where(some, x.x, identity), some.sum(dims, keepdim=True).clamp(min=1)

    # -- reductions -------------------------------------------------------------------------------

    def on_sum(self, target: Any, x: Held, dim: Any = None, keepdim: bool = False, **k: Any) -> Any:
        dims = dims_of(x, dim)
        return held(
            self.fill(x, 0).sum(dims, keepdim=keepdim), reduced(x, dims, keepdim, parts=True)
        )

    def on_mean(
        self, target: Any, x: Held, dim: Any = None, keepdim: bool = False, **k: Any
    ) -> Any:
        dims = dims_of(x, dim)
        total, count = self.over(x, dims)
        out = total.sum(dims, keepdim=True) / count
        return held(_kept(out, dims, keepdim), reduced(x, dims, keepdim, parts=True))

    def _extreme(self, x: Held, dim: Any, keepdim: bool, sign: int) -> Any:
        dims = dims_of(x, dim)
        out = (self.fill(x, -sign * torch.inf) * sign).amax(dims, keepdim=keepdim) * sign
        return held(torch.where(out.isinf(), 0, out), reduced(x, dims, keepdim, parts=True))

    def on_amax(self, target: Any, x: Held, dim: Any = (), keepdim: bool = False) -> Any:
        return self._extreme(x, dim, keepdim, 1)

    def on_amin(self, target: Any, x: Held, dim: Any = (), keepdim: bool = False) -> Any:
        return self._extreme(x, dim, keepdim, -1)

    def on_linalg_vector_norm(
        self, target: Any, x: Held, p: Any = 2, dim: Any = None, keepdim: bool = False, **k: Any
    ) -> Any:
        dims = dims_of(x, dim)
        out = target(self.fill(x, 0), p, dims, keepdim, **k)
        return held(out, reduced(x, dims, keepdim, parts=True))

    def on_norm(
        self, target: Any, x: Held, p: Any = 2, dim: Any = None, keepdim: bool = False
    ) -> Any:
        dims = dims_of(x, dim)
        out = torch.linalg.vector_norm(self.fill(x, 0), p, dims, keepdim)
        return held(out, reduced(x, dims, keepdim, parts=True))

    def _spread(self, x: Held, dims: list[int], correction: float) -> Tensor:
        """(..., 1, ...) the variance over what is there."""
        total, count = self.over(x, dims)
        mean = total.sum(dims, keepdim=True) / count
        off = torch.where(self.some(x), x.x - mean, 0)
        return off.square().sum(dims, keepdim=True) / (count - correction).clamp(min=1)

    def on_var(self, target: Any, x: Held, dim: Any = None, *args: Any, **k: Any) -> Any:
        correction, keepdim = k.get("correction", 1), k.get("keepdim", False)
        if args:
            correction, keepdim = int(args[0]), (*args, False)[1]
        dims = dims_of(x, dim)
        out = self._spread(x, dims, 1 if correction is None else correction)
        if target._schema.name.startswith("aten::std"):
            out = out.sqrt()
        return held(_kept(out, dims, keepdim), reduced(x, dims, keepdim, parts=True))

    on_std = on_var

    def on_var_mean(self, target: Any, x: Held, dim: Any = None, *args: Any, **k: Any) -> Any:
        keepdim = k.get("keepdim", (*args, False)[1] if args else False)
        return [self.on_var(target, x, dim, *args, **k), self.on_mean(target, x, dim, keepdim)]

    on_std_mean = on_var_mean

    def on_softmax(self, target: Any, x: Held, dim: int, dtype: Any = None) -> Any:
        if not x.varies(dim):
            return Held(target(x.x, dim, dtype), x.tracks)
        out = self.fill(x, -torch.inf).softmax(dim)
        return Held(out.nan_to_num(0), x.tracks)

    # -- pools ------------------------------------------------------------------------------------

    def windows(
        self, x: Any, out: Tensor, kernel: Any, stride: Any = (), padding: Any = 0,
        dilation: Any = 1, *_: Any, **__: Any,
    ) -> Any:  # fmt: skip
        """Where the results of windows on an image lie."""
        (track,) = x.tracks
        k, p, d = (ints(one, len(track.size)) for one in (kernel, padding, dilation))
        s = ints(stride, len(track.size)) if stride or isinstance(stride, int) else k
        return track.place.step(
            lambda a, e: map_positions.kernel(e, out.shape[2 + a], k[a], s[a], (p[a], p[a]), d[a])
        )

    def on_max_pool2d(self, target: Any, x: Any, *args: Any, **k: Any) -> Any:
        x = self.image(x)
        out = target(self.fill(x, -torch.inf), *args, **k)
        return fresh(torch.where(out == -torch.inf, 0, out), self.windows(x, out, *args, **k), x)

    on_max_pool1d = on_max_pool3d = on_max_pool2d

    def on_max_pool2d_with_indices(self, target: Any, x: Any, *args: Any, **k: Any) -> Any:
        x = self.image(x)
        out, found = target(self.fill(x, -torch.inf), *args, **k)
        empty = out == -torch.inf
        place = self.windows(x, out, *args, **k)
        return fresh(torch.where(empty, 0, out), place, x), fresh(
            torch.where(empty, -1, found), place, x
        )

    def on_max_unpool2d(self, target: Any, x: Any, found: Any, size: Any) -> Any:
        """An absent maximum goes nowhere."""
        (track,) = x.tracks
        value, to = self.fill(self.image(x), 0), self.fill(self.image(found), -1)
        out = value.new_zeros(*value.shape[:2], prod(size) + 1)
        to = torch.where(to < 0, prod(size), to).flatten(2)
        out = out.scatter(2, to, value.flatten(2))[..., :-1]
        return fresh(out.unflatten(2, tuple(size)), track.place.scaled(tuple(size)), x)

    def on_adaptive_max_pool2d(self, target: Any, x: Any, size: Any) -> Any:
        if prod(size) != 1:
            raise UnknownMeaningError("an adaptive maximum over windows")
        out = self.fill(self.image(x), -torch.inf).amax((2, 3), keepdim=True)
        return [torch.where(out == -torch.inf, 0, out), None]

    def on_adaptive_avg_pool2d(self, target: Any, x: Any, size: Any) -> Any:
        size = list(ints(size, x.x.dim() - 2))
        size = [n if new is None else new for n, new in zip(x.x.shape[2:], size, strict=True)]
        if prod(size) == 1:
            return self.on_mean(target, self.image(x), range(2, x.x.dim()), True)
        if size == list(x.x.shape[2:]):
            return x
        part = self.some(self.image(x)).to(x.x.dtype)
        total, share = target(self.fill(x, 0), size), target(part, size)
        out = torch.where(share > 0, total / torch.where(share > 0, share, 1), 0)
        return fresh(out, self.image(x).tracks[0].place.scaled(size), x)

    on_adaptive_avg_pool3d = on_adaptive_avg_pool2d

    def on_avg_pool2d(
        self, target: Any, x: Any, kernel: Any, stride: Any = (), padding: Any = 0,
        ceil: bool = False, include: bool = True, divisor: int | None = None,
    ) -> Any:  # fmt: skip
        x = self.image(x)
        d = x.x.dim() - 2
        kernel = list(ints(kernel, d))
        pads = ints(padding, d)
        if kernel == list(x.x.shape[2:]) and not any(pads) and divisor is None:
            return self.on_mean(target, x, range(2, x.x.dim()), True)
        pool = F.avg_pool2d if d == 2 else F.avg_pool3d
        more = (tuple(kernel), stride or None, padding, ceil)
        if include or divisor is not None:
            out = pool(self.fill(x, 0), *more, True, divisor)
        else:
            total = pool(self.fill(x, 0), *more, True, 1)
            count = pool(self.some(x).to(x.x.dtype), *more, True, 1)
            out = total / count.clamp(min=1)
        return fresh(out, self.windows(x, out, kernel, stride, padding), x)

    on_avg_pool3d = on_avg_pool2d

    def on_im2col(self, target: Any, x: Any, kernel: Any, dilation: Any, pads: Any, stride: Any):
        x = self.image(x)
        out = target(self.fill(x, 0), kernel, dilation, pads, stride)
        size = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, d, p, s in zip(x.x.shape[2:], kernel, dilation, pads, stride, strict=True)
        ]
        blank = out.new_zeros(len(out), 1, *size)
        frame = fresh(blank, self.windows(x, blank, kernel, stride, pads, dilation), x)
        tracks = frame.tracks if isinstance(frame, Held) else ()  # of one window: a readout
        return held(out, [t.each(lambda c: c.expand(len(out), 1, *size).flatten(2))
                          for t in tracks])  # fmt: skip

    def on_col2im(
        self, target: Any, x: Any, size: Any, kernel: Any, dilation: Any, pads: Any, stride: Any
    ) -> Any:
        if not isinstance(x, Held) or len(x.tracks) != 1 or x.varies(1):
            raise UnknownMeaningError("it folds what is no windows of one map")
        out = target(self.fill(x, 0), size, kernel, dilation, pads, stride)
        place = x.tracks[0].place.step(
            lambda a, e: map_positions.reversed_kernel(
                e, size[a], kernel[a], stride[a], pads[a], dilation[a]
            )
        )
        return fresh(out, place, x)

    def on_adaptive_avg_pool1d(self, target: Any, x: Any, size: Any) -> Any:
        if prod(ints(size, 1)) != 1:
            raise UnknownMeaningError("an adaptive mean of a sequence")
        return self.on_mean(target, x, [x.x.dim() - 1], True)

    # -- norms ------------------------------------------------------------------------------------

    def on_batch_norm(self, target: Any, x: Held, *args: Any) -> Any:
        x = self.plain(x, 1)
        if args[4] or x.varies(1):
            raise UnknownMeaningError("a batch norm in training")
        return Held(target(x.x, *args), x.tracks)

    def on_layer_norm(
        self, target: Any, x: Held, shape: Any, weight: Any = None, bias: Any = None,
        eps: float = 1e-5, cudnn: bool = False,
    ) -> Any:  # fmt: skip
        dims = list(range(x.x.dim() - len(shape), x.x.dim()))
        if len(dims) == 1:
            x = self.plain(x, dims[0])
        if not any(map(x.varies, dims)):
            return Held(target(x.x, shape, weight, bias, eps, cudnn), x.tracks)
        total, count = self.over(x, dims)
        off = x.x - total.sum(dims, keepdim=True) / count
        out = off / (self._spread(x, dims, 0) + eps).sqrt()
        out = out if weight is None else out * weight
        return Held(out if bias is None else out + bias, x.tracks)

    def on_rms_norm(self, target: Any, x: Held, shape: Any, weight: Any = None, eps: Any = None):
        if any(map(x.varies, range(x.x.dim() - len(shape), x.x.dim()))):
            raise UnknownMeaningError("a norm over sites")
        return Held(target(x.x, shape, weight, eps), x.tracks)

    def on_group_norm(
        self, target: Any, x: Held, groups: int, weight: Any = None, bias: Any = None,
        eps: float = 1e-5, cudnn: bool = True,
    ) -> Any:  # fmt: skip
        if x.varies(1):
            raise UnknownMeaningError("a group norm whose channels are sites")
        parts = x.x.unflatten(1, (groups, -1))
        some = self.some(x).expand(x.x.shape).unflatten(1, (groups, -1))
        dims = list(range(2, parts.dim()))
        count = some.sum(dims, keepdim=True).clamp(min=1)
        mean = torch.where(some, parts, 0).sum(dims, keepdim=True) / count
        off = torch.where(some, parts - mean, 0)
        var = off.square().sum(dims, keepdim=True) / count
        out = ((parts - mean) / (var + eps).sqrt()).flatten(1, 2)
        shape = (-1, *(1,) * (x.x.dim() - 2))
        out = out if weight is None else out * weight.view(shape)
        return Held(out if bias is None else out + bias.view(shape), x.tracks)

    def on_instance_norm(
        self, target: Any, x: Held, weight: Any, bias: Any, mean: Any, var: Any, stats: bool,
        momentum: float, eps: float, cudnn: bool,
    ) -> Any:  # fmt: skip
        if not stats:
            return Held(target(x.x, weight, bias, mean, var, stats, momentum, eps, cudnn), x.tracks)
        return self.on_group_norm(target, x, x.x.shape[1], weight, bias, eps)

    def on_prelu(self, target: Any, x: Held, weight: Tensor) -> Any:
        return Held(target(x.x, weight), x.tracks)

    # -- products ---------------------------------------------------------------------------------

    def on_linear(self, target: Any, x: Any, weight: Any, bias: Any = None) -> Any:
        if isinstance(weight, Held) or isinstance(bias, Held):
            raise UnknownMeaningError("a weight that is a map")
        last = x.x.dim() - 1
        if x.varies(last) and not self.whole(x, last):
            x = self.plain(x, last)
        out = target(self.fill(x, 0) if x.varies(last) else x.x, weight, bias)
        return held(out, reduced(x, [last], True))

    def on_matmul(self, target: Any, a: Any, b: Any) -> Any:
        """A sum over one dimension: where it holds sites, the absent ones say 0."""
        out = target(self.fill(a, 0), self.fill(b, 0))
        sides: list[Any] = []
        partial = False
        for value, dim in ((a, -1), (b, -2)):
            for track in value.tracks if isinstance(value, Held) else ():
                one = Held(value.x, (track,))
                if track.varies(dim) and not self.whole(one, dim % value.x.dim()):
                    partial = True  # one window of several; who asks knows which
                    continue
                left = [t for t in reduced(one, [dim % value.x.dim()], True) if not t.is_nobodys]
                sides.append(Held(value.x.narrow(dim, 0, 1), tuple(left)))
        tracks = union(sides, out.dim())
        if partial and not tracks:
            raise UnknownMeaningError("a sum over a part of a lattice axis")
        return held(out, tracks)

    on_bmm = on_mm = on_matmul

    def on_baddbmm(self, target: Any, bias: Any, a: Any, b: Any) -> Any:
        """A product, and an ordinary tensor on top."""
        made = self.on_matmul(torch.bmm, a, b)
        if not isinstance(made, Held) or isinstance(bias, Held):
            raise UnknownMeaningError("a sum of a product and a map")
        return Held(bias + made.x, made.tracks)

    def on__euclidean_dist(self, target: Any, x: Any, table: Any, *args: Any) -> Any:
        if not isinstance(x, Held) or isinstance(table, Held) or x.varies(x.x.dim() - 1):
            raise UnknownMeaningError("distances among maps")
        return held(target(x.x, table, *args), reduced(x, [x.x.dim() - 1], True))

    on__cdist_forward = on_cdist = on__euclidean_dist

    def on_embedding(self, target: Any, table: Any, x: Any, *args: Any) -> Any:
        if isinstance(table, Held):
            raise UnknownMeaningError("a table that is a map")
        return held(
            target(table, x.x, *args), [t.each(lambda c: c.unsqueeze(-1)) for t in x.tracks]
        )

    def on_einsum(self, target: Any, equation: str, operands: Any, **k: Any) -> Any:
        """Letters that no result names are summed over; an absent site says 0."""
        left, _, out = equation.replace(" ", "").partition("->")
        value = target(equation, [self.fill(one, 0) for one in operands], **k)
        sides = []
        for letters, one in zip(left.split(","), operands, strict=True):
            gone = [d for d, c in enumerate(letters) if c not in out]
            for track in one.tracks if isinstance(one, Held) else ():
                for rest in reduced(Held(one.x, (track,)), gone, False, parts=True):
                    kept = [c for c in letters if c in out]
                    sides.append(Held(value, (rest.each(lambda c, k=kept: _lettered(c, k, out)),)))
        return held(value, union(sides, value.dim()))

    def on_scaled_dot_product_attention(
        self, target: Any, q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0,
        causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
    ) -> Any:  # fmt: skip
        if dropout or (enable_gqa and _tensor(q).shape[1] != _tensor(k).shape[1]):
            raise UnknownMeaningError("attention that is grouped or random")
        if causal:  # in the order of the sequence, whoever is absent
            mask = torch.ones(_tensor(q).shape[-2], _tensor(k).shape[-2], dtype=torch.bool).tril()
        turned = _transposed(k)
        score = self.on_matmul(torch.matmul, q, turned)
        if not isinstance(score, Held):
            raise UnknownMeaningError("attention among readouts")
        x = score.x * (score.x.new_tensor(_tensor(q).shape[-1]).rsqrt() if scale is None else scale)
        if isinstance(mask, Held):
            raise UnknownMeaningError("a mask that is a map")
        if mask is not None:
            x = x.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else x + mask
        weights = self.on_softmax(torch.softmax, Held(x, score.tracks), x.dim() - 1)
        return self.on_matmul(torch.matmul, weights, v)

    # -- side by side -----------------------------------------------------------------------------

    def on_cat(self, target: Any, parts: Any, dim: int = 0) -> Any:
        rank = max(_tensor(one).dim() for one in parts)
        if any(isinstance(one, Held) and one.varies(dim) for one in parts):
            return self.sequence(target, parts, dim % rank)
        parts = meeting(parts, self.fill)
        out = target([_tensor(one) for one in parts], dim)
        thin = [
            Held(one.x.narrow(dim, 0, 1), one.tracks) if isinstance(one, Held) else one
            for one in parts
        ]
        tracks = union(thin, rank)
        if len(tracks) > 1:
            raise UnknownMeaningError("maps of different sites side by side")
        return held(out, tracks)

    def sequence(self, target: Any, parts: Any, dim: int) -> Any:
        """Elements of no site beside those of one lattice, along its sites."""
        maps = [one for one in parts if isinstance(one, Held)]
        if len(maps) != 1 or len(maps[0].tracks) != 1:
            raise UnknownMeaningError("sites of several maps side by side along one axis")
        (track,) = maps[0].tracks
        out = target([_tensor(one) for one in parts], dim)
        at = []
        for number, c in enumerate(track.at):
            if number == 0 or c is None:
                if c is not None and c.shape[dim] > 1:
                    raise UnknownMeaningError("a batch beside other elements")
                at.append(c)
                continue
            pieces = []
            for one in parts:
                x = _tensor(one)
                length = [n if d == dim else m for d, (n, m) in enumerate(
                    zip(x.shape, c.shape, strict=True))]  # fmt: skip
                pieces.append(c.expand(length) if isinstance(one, Held) else
                              torch.full(length, -1))  # fmt: skip
            at.append(torch.cat(pieces, dim))
        return held(out, [Track(tuple(at), track.place)])

    def on_stack(self, target: Any, parts: Any, dim: int = 0) -> Any:
        parts = meeting(parts, self.fill)
        out = target([_tensor(one) for one in parts], dim)
        at = dim % out.dim()
        tracks = union(parts, out.dim() - 1)
        return held(out, [t.each(lambda c: c.unsqueeze(at)) for t in tracks])

    def on_expand(self, target: Any, x: Any, *args: Any, **k: Any) -> Any:
        if not isinstance(x, Held):
            return target(x, *[_tensor(one) for one in args], **k)
        out = target(x.x, *[_tensor(one) for one in args], **k)
        return held(out, [t.ranked(out.dim()) for t in x.tracks])

    on_expand_as = on_expand

    def on_sym_size(self, target: Any, x: Held, *args: Any) -> Any:
        return target(x.x, *args)

    def on_new_zeros(self, target: Any, x: Held, *args: Any, **k: Any) -> Any:
        return target(x.x, *args, **k)

    on_new_ones = on_new_full = on_new_empty = on_new_zeros

    def on_roll(self, target: Any, x: Held, *args: Any) -> Any:
        """Values go round, and who is there goes with them."""
        flips = target._schema.name == "aten::flip"
        dims = args[-1] if len(args) > 1 or flips else None
        if dims is None or len(x.tracks) != 1:
            raise UnknownMeaningError("it moves the flattened tensor, or pairs")
        (track,) = x.tracks
        sources = {}
        for number, dim in enumerate([dims] if isinstance(dims, int) else dims):
            for axis in range(len(track.size)):
                c = track.at[1 + axis]
                if c is None or c.shape[dim] == 1:
                    continue
                if c.numel() != track.size[axis]:
                    raise UnknownMeaningError("a part of a lattice axis moves")
                line = torch.arange(track.size[axis])
                shift = 0 if flips else args[0] if isinstance(args[0], int) else args[0][number]
                sources[axis] = (line.flip(0) if flips else line.roll(shift)).tolist()
        moved = Track(track.at, track.place.moved(sources))
        return Held(target(self.fill(x, 0), *args), (moved,))

    on_flip = on_roll

    def on_index(self, target: Any, x: Any, index: Any) -> Any:
        given = [(dim, one) for dim, one in enumerate(index) if one is not None]
        ((dim, numbers),) = given if len(given) == 1 else ((0, None),)
        if not isinstance(x, Held) or not isinstance(numbers, Tensor) or numbers.dim() != 1:
            raise UnknownMeaningError("it looks up more than one axis")
        if x.varies(dim) or numbers.dtype == torch.bool:
            raise UnknownMeaningError("it looks up sites")
        return held(target(x.x, index), x.tracks)

    def on_index_select(self, target: Any, x: Any, dim: int, numbers: Any) -> Any:
        if not isinstance(x, Held) or isinstance(numbers, Held) or x.varies(dim):
            raise UnknownMeaningError("it looks up sites")
        return held(target(x.x, dim, numbers), x.tracks)


def _kept(x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    return x if keepdim else x.reshape([n for d, n in enumerate(x.shape) if d not in dims])


def _tensor(value: Any) -> Tensor:
    out: Tensor = value.x if isinstance(value, Held) else value
    return out


def _lettered(c: Tensor, letters: list[str], out: str) -> Tensor:
    """A coordinate with one dimension for each letter of a result."""
    order = [letters.index(letter) for letter in out if letter in letters]
    turned = c.permute(order)
    for number, letter in enumerate(out):
        turned = turned if letter in letters else turned.unsqueeze(number)
    return turned


def _transposed(value: Any) -> Any:
    if not isinstance(value, Held):
        return value.transpose(-1, -2)
    tracks = tuple(track.each(lambda c: c.transpose(-1, -2)) for track in value.tracks)
    return Held(value.x.transpose(-1, -2), tracks)
