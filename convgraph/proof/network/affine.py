r"""What a region of a network comes to that is affine in its one input: one kernel, one summand.

    y[o] = sum over t of K[t] x[stride o + low + t] + b,     x = 0 beyond its border

Convolutions, linear maps, batch norms in evaluation, average pools, pads with zeros, factors and
summands of a channel, sums: of each is known what it makes of such a value, in float64 and with the
roundings that whoever works it out in another dtype may have. Numbers are sums of products of what
the operators hold; an error is at most gamma(roundings in a row) of the sum of absolute products.

A zero that is padded beside such a value is part of the map only where the formula says 0 there
too: not behind a summand that is not 0, nor where the kernel still reaches x.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import gcd
from typing import Any, final

import torch
from torch import Tensor

from convgraph.proof import aten
from convgraph.proof.network.folds import BIAS_ROUNDINGS, PRODUCTS, ROLES, ROUNDINGS, is_norm
from convgraph.proof.network.node import CONVOLUTION, Node
from convgraph.proof.network.running_error.call import QUOTIENT

Sizes = tuple[int, ...]


class NotAffine(Exception):  # noqa: N818  # a reason, no error
    """The region is not of the form; the text says why."""


class NoConvolution(NotAffine):
    """It would be of the form, but for the border or for what a norm does in training."""


@final
@dataclass(frozen=True)
class Rounded:
    """Exact numbers, and what whoever works them out may be off by.

    Attributes:
        value: the numbers, float64.
        size: the same sums of absolute products.
        least: how many products may underflow, each times what it is multiplied by.
        steps: roundings in a row.
    """

    value: Tensor
    size: Tensor
    least: Tensor
    steps: int

    def moved(self, how: Callable[[Tensor], Tensor]) -> "Rounded":
        """The same numbers elsewhere."""
        return Rounded(how(self.value), how(self.size), how(self.least), self.steps)

    def times(self, factor: Tensor, steps: int) -> "Rounded":
        """Times numbers that are off by `steps` less one, rounded."""
        least = self.least * factor.abs() + 1 + self.size
        size = self.size * factor.abs()
        return Rounded(self.value * factor, size, least, self.steps + steps)

    def plus(self, other: "Rounded", factor: float = 1) -> "Rounded":
        """A sum, of the other one times an exact factor."""
        return Rounded(
            self.value + factor * other.value,
            self.size + abs(factor) * other.size,
            self.least + abs(factor) * other.least + (abs(factor) != 1),
            max(self.steps, other.steps + (abs(factor) != 1)) + 1,
        )

    def plus_exact(self, numbers: Tensor) -> "Rounded":
        """A sum with numbers that are held; exact where there was nothing before."""
        steps = self.steps + 1 if bool(self.size.any()) else 0
        return Rounded(self.value + numbers, self.size + numbers.abs(), self.least, steps)


def exact(numbers: Tensor) -> Rounded:
    """Numbers that are held."""
    wide = numbers.detach().double()
    return Rounded(wide, wide.abs(), torch.zeros_like(wide), 0)


@final
@dataclass(frozen=True)
class Affine:
    """A value as a map of x.

    Attributes:
        kernel: (O, I / groups, *taps).
        bias: (O,).
        groups: of the channels.
        stride: steps in x between neighbours, an axis.
        low: where the first tap of the first one lies in x.
        size: how many there are.
        source: the same of x.
        run: roundings in a row of whoever runs the region.
        reach: (O,) how many products of a run may underflow, as `least`.
    """

    kernel: Rounded
    bias: Rounded
    groups: int
    stride: Sizes
    low: Sizes
    size: Sizes
    source: Sizes
    run: int
    reach: Tensor

    @property
    def channels(self) -> int:
        """Of the value."""
        return len(self.bias.value)

    @property
    def plain(self) -> bool:
        """Whether it is x, times one number a channel."""
        taps = self.kernel.value.shape
        return self.groups == taps[0] and taps[1:].numel() == 1 and not any(self.low)


def identity(channels: int, size: Sizes) -> Affine:
    """X itself.

    Args:
        channels: of x.
        size: of its axes.
    """
    ones, zeros = torch.ones(channels, 1, *(1 for _ in size)), torch.zeros(channels)
    flat = tuple(1 for _ in size), tuple(0 for _ in size)
    return Affine(
        exact(ones), exact(zeros), channels, *flat, size, size, 0, zeros.double()
    )  # fmt: skip


def step(node: Node, values: Sequence[Affine | Tensor]) -> Affine:
    """What an operator makes of affine values.

    Args:
        node: the operator.
        values: its inputs: tensors are what it holds.

    Raises:
        NotAffine: nothing affine, or nothing that is known to be.
    """
    name = node.name.partition(".")[0]
    v, *rest = values
    held = [t for t in rest if isinstance(t, Tensor)]
    if node.layer is not None:
        raise NotAffine(f"{node} is one node by itself")
    if node.name == CONVOLUTION and isinstance(v, Affine) and len(held) == len(rest):
        return _convolution(node, v, *held)
    if node.name in PRODUCTS and not node.given:
        *bias, v, matrix = values
        if isinstance(v, Affine) and isinstance(matrix, Tensor) and not v.size:
            return convolved(v, matrix.t(), [b for b in bias if isinstance(b, Tensor)])
    if is_norm(node) and isinstance(v, Affine) and len(held) == len(rest):
        return _norm(node, v, held)
    if name == "avg_pool2d" and isinstance(v, Affine):
        return _mean(node, v)
    if name == "neg" and isinstance(v, Affine):
        return _negative(v)
    if name in ("add", "sub", "rsub", "mul", "div"):
        return _arithmetic(name, node, values)
    raise NotAffine(f"{node} is no sum of products with what it holds")


def _arithmetic(name: str, node: Node, values: Sequence[Affine | Tensor]) -> Affine:
    if node.given.keys() - {"self", "other", "alpha"}:
        raise NotAffine(f"{node} has more arguments than are known")
    both: list[Affine | Tensor | float] = list(values)
    for place, key in enumerate(("self", "other")):
        if key in node.given:
            both.insert(place, node.given[key])
    if len(both) != 2 or isinstance(both[0], (bool, complex)):
        raise NotAffine(f"{node} has other arguments than are known")
    alpha = float(node.given.get("alpha", 1))
    one, two = both if name != "rsub" else both[::-1]
    if name in ("mul", "div"):
        if not isinstance(one, Affine):
            one, two = two, one
        if not isinstance(one, Affine) or isinstance(two, Affine) or (name == "div"
                and not isinstance(both[0], Affine)):  # fmt: skip
            raise NotAffine(f"{node} is no product with what is held")
        each = _of_channel(two, one, node)
        number = not isinstance(two, Tensor)  # a number is rounded to the dtype first
        return _scaled(one, each if name == "mul" else 1 / each,
                       1 + number + (name == "div") * QUOTIENT)  # fmt: skip
    factor = alpha if name == "add" else -alpha
    if isinstance(one, Affine) and isinstance(two, Affine):
        return _sum(one, two, factor)
    if isinstance(one, Affine):
        return _shifted(one, _of_channel(two, one, node) * factor)
    if not isinstance(two, Affine):
        raise NotAffine(f"{node} reads no image")
    minus = two if factor == 1 else _negative(two) if factor == -1 else None
    if minus is None:
        raise NotAffine(f"{node} has a factor")
    return _shifted(minus, _of_channel(one, two, node))


def _of_channel(held: Any, v: Affine, node: Node) -> Tensor:
    """One number a channel, of what is added to all pixels or multiplied with them."""
    if not isinstance(held, Tensor):
        return torch.full((v.channels,), float(held), dtype=torch.float64)
    shape = (1,) * (len(v.size) + 2 - held.dim()) + tuple(held.shape)
    if len(shape) != len(v.size) + 2 or shape[1] not in (1, v.channels) or (
        torch.Size((shape[0], *shape[2:])).numel() != 1
    ):  # fmt: skip
        raise NotAffine(f"{node} has other numbers at other pixels")
    return held.detach().double().reshape(-1).expand(v.channels)


def _rows(channel: Tensor, kernel: Tensor) -> Tensor:
    return channel.view(-1, *(1,) * (kernel.dim() - 1))


def _scaled(v: Affine, factor: Tensor, steps: int) -> Affine:
    return replace(
        v, kernel=v.kernel.times(_rows(factor, v.kernel.value), steps),
        bias=v.bias.times(factor, steps) if bool(v.bias.size.any()) else v.bias,
        run=v.run + steps, reach=v.reach * factor.abs() + 1,
    )  # fmt: skip


def _negative(v: Affine) -> Affine:
    def turned(one: Rounded) -> Rounded:
        return replace(one, value=-one.value)

    return replace(v, kernel=turned(v.kernel), bias=turned(v.bias))


def _shifted(v: Affine, channel: Tensor) -> Affine:
    bias = v.bias.plus_exact(channel)
    # a Python number, or a factor, is rounded first
    return replace(v, bias=replace(bias, steps=bias.steps + 1), run=v.run + 2)


def _norm(node: Node, v: Affine, held: Sequence[Tensor]) -> Affine:
    """A factor s = gamma / sqrt(var + eps) and a summand; roundings as of a fold."""
    if node.given.get("training") is not False:
        text = f"{node.path!r} is in training mode: it norms by the images; call eval()"
        raise NoConvolution(text)
    named = [r for r in ROLES if r not in node.given]
    if len(named) != len(held) or not {"running_mean", "running_var"} <= {*named}:
        raise NotAffine(f"{node} holds other tensors than are known")
    role = {n: t.detach().double() for n, t in zip(named, held, strict=True)}
    scale = role.get("weight", torch.ones(())) / (role["running_var"] + node.given["eps"]).sqrt()
    mean, beta = role["running_mean"], role.get("bias", torch.zeros(()))
    b = v.bias
    bias = Rounded(
        (b.value - mean) * scale + beta, (b.size + mean.abs()) * scale.abs() + beta.abs(),
        b.least * scale.abs() + b.size + mean.abs() + 2, b.steps + BIAS_ROUNDINGS,
    )  # fmt: skip
    return replace(
        v, kernel=v.kernel.times(_rows(scale, v.kernel.value), ROUNDINGS), bias=bias,
        run=v.run + BIAS_ROUNDINGS, reach=v.reach * scale.abs() + 2,
    )  # fmt: skip


def _mean(node: Node, v: Affine) -> Affine:
    """An average pool: a convolution of each channel by itself."""
    axes = len(v.size)
    given = {k: aten.each(node.given.get(k) or d, axes)
             for k, d in (("kernel_size", 1), ("stride", 1), ("padding", 0))}  # fmt: skip
    odd = node.given.get("ceil_mode") or node.given.get("divisor_override")
    if odd or (any(given["padding"]) and node.given.get("count_include_pad") is False):
        raise NotAffine(f"{node} has windows of several sizes")
    count = torch.Size(given["kernel_size"]).numel()
    weight = torch.full((v.channels, 1, *given["kernel_size"]), 1 / count, dtype=torch.float64)
    made = convolved(
        v, weight, [], groups=v.channels, stride=given["stride"], padding=given["padding"],
        size=tuple(node.shapes[0][2:]),
    )  # fmt: skip
    kernel = replace(made.kernel, steps=made.kernel.steps + QUOTIENT)
    bias = replace(made.bias, steps=made.bias.steps + QUOTIENT * bool(made.bias.size.any()))
    return replace(made, kernel=kernel, bias=bias, run=made.run + QUOTIENT)


def _convolution(node: Node, v: Affine, weight: Tensor, *bias: Tensor) -> Affine:
    given, axes = node.given, len(v.size)
    if given.get("transposed") or any(aten.each(given.get("output_padding", 0), axes)):
        raise NotAffine(f"{node} is transposed")
    return convolved(
        v, weight, bias, groups=int(given.get("groups", 1)),
        stride=aten.each(given.get("stride", 1), axes),
        padding=aten.each(given.get("padding", 0), axes),
        dilation=aten.each(given.get("dilation", 1), axes), size=tuple(node.shapes[0][2:]),
    )  # fmt: skip


def convolved(
    v: Affine,
    weight: Tensor,
    bias: Sequence[Tensor],
    *,
    groups: int = 1,
    stride: Sizes = (),
    padding: Sizes = (),
    dilation: Sizes | None = None,
    size: Sizes = (),
) -> Affine:
    """What a convolution makes of an affine value.

    Args:
        v: the value, (C, *axes).
        weight: (O, C / groups, *taps).
        bias: (O,), or none.
        groups: of the channels.
        stride: an axis.
        padding: zeros before each axis.
        dilation: between taps, 1 by itself.
        size: of what it makes.

    Raises:
        NoConvolution: zeros are padded where the formula of the value has none.
    """
    w = weight.detach().double()
    dilation = dilation or tuple(1 for _ in v.size)
    taps = tuple(w.shape[2:])
    if len(w) % groups or w.shape[1] * groups != v.channels or len(taps) != len(v.size):
        raise NotAffine(f"a kernel {list(w.shape)} in {groups} groups meets {v.channels} channels")
    for axis, (n, s, p, d) in enumerate(zip(size, stride, padding, dilation, strict=True)):
        read = w.transpose(0, axis + 2).flatten(1).any(1).nonzero().flatten().tolist()
        _reads(v, axis, sorted({s * o - p + d * j for o in range(n) for j in read}))
    steps = tuple(s * d for s, d in zip(v.stride, dilation, strict=True))
    per = w[0].numel()
    bare = v.kernel.steps == 0 and v.plain and bool((v.kernel.value == 1).all())
    one = v.plain or (groups == v.channels == len(w) and per == 1)
    kernel, made_of = _composed(v, w, groups, steps)
    none = not bool(v.bias.size.any())
    b = v.bias
    summand = Rounded(
        _matmul(w, b.value, groups), _matmul(w.abs(), b.size, groups),
        _matmul(w.abs(), b.least, groups) + (0 if none else per), 0 if none else b.steps + per,
    )  # fmt: skip
    for held in bias:
        if tuple(held.shape) != (len(w),):
            raise NotAffine(f"a bias {list(held.shape)} of {len(w)} channels")
        summand = summand.plus_exact(held.detach().double())
    return Affine(
        replace(kernel, steps=v.kernel.steps + (0 if bare else 1 if one else per + 1)),
        summand, made_of,
        tuple(a * b for a, b in zip(v.stride, stride, strict=True)),
        tuple(lo - a * p for lo, a, p in zip(v.low, v.stride, padding, strict=True)),
        size, v.source, v.run + per + 1, _matmul(w.abs(), v.reach, groups) + per + 1,
    )  # fmt: skip


def padded(v: Affine, before: Sizes, size: Sizes) -> Affine:
    """The value with zeros around it.

    Args:
        v: the value.
        before: how many on the first side of each axis.
        size: of what is made.

    Raises:
        NoConvolution: the formula of the value has no zeros there.
    """
    for axis, (n, p) in enumerate(zip(size, before, strict=True)):
        _reads(v, axis, list(range(-p, n - p)))
    low = tuple(lo - s * p for lo, s, p in zip(v.low, v.stride, before, strict=True))
    return replace(v, low=low, size=size)


def _reads(v: Affine, axis: int, places: Sequence[int]) -> None:
    """See that zeros beyond the border of a value are what its formula says."""
    outside = [q for q in places if not 0 <= q < v.size[axis]]
    if not outside:
        return
    if bool(v.bias.size.any()):
        raise NoConvolution(
            "zeros are padded around what has a summand: at the border it is no convolution"
        )
    taps = v.kernel.size.transpose(0, axis + 2).flatten(1).any(1).nonzero().flatten().tolist()
    first, low = v.stride[axis], v.low[axis]
    if any(0 <= first * q + low + t < v.source[axis] for q in outside for t in taps):
        raise NoConvolution(
            "zeros are padded around what still reads the image: at the border it is no convolution"
        )


def _matmul(w: Tensor, channel: Tensor, groups: int) -> Tensor:
    """(O,) sums over taps and channels of a kernel times one number a channel."""
    flat = w.flatten(2).sum(2) if w.dim() > 2 else w
    own = channel.view(groups, 1, -1).expand(groups, len(w) // groups, w.shape[1])
    return (flat * own.reshape(flat.shape)).sum(1)


def _composed(v: Affine, w: Tensor, groups: int, steps: Sizes) -> tuple[Rounded, int]:
    """A kernel of a kernel, and its groups; roundings are the caller's."""
    k = v.kernel
    taps = tuple(w.shape[2:])
    box = tuple(s * (n - 1) + m for s, n, m in zip(steps, taps, k.value.shape[2:], strict=True))
    by_rows = groups == v.channels == len(w)
    if v.plain:
        out, inner = groups, w.shape[1]
    elif by_rows:
        out, inner = v.groups, k.value.shape[1]
    else:
        out = gcd(groups, v.groups)
        inner = k.value.shape[1] * v.groups // out

    def sums(kernel: Tensor, weight: Tensor) -> Tensor:
        made = torch.zeros(len(w), inner, *box, dtype=torch.float64)
        wide = kernel if v.plain or by_rows else regrouped(kernel, v.groups, out)
        own = weight if v.plain or by_rows else regrouped(weight, groups, out)
        for at in product(*map(range, taps)):
            there = tuple(
                slice(s * j, s * j + m) for s, j, m in zip(steps, at, kernel.shape[2:], strict=True)
            )
            part = own[_at(at)]
            if v.plain:
                table = kernel.view(groups, 1, -1).expand(groups, len(w) // groups, inner)
                term = (part * table.reshape(part.shape)).view(*part.shape, *(1 for _ in steps))
            elif by_rows:
                term = _rows(part[:, 0], kernel) * kernel
            else:
                left = part.view(out, len(w) // out, -1)
                right = wide.view(out, left.shape[2], -1)
                term = torch.bmm(left, right).view(len(w), inner, *kernel.shape[2:])
            made[_at(there)] += term
        return made

    count = float(w[0].numel())
    least = sums(k.least, w.abs())
    if not (v.plain and k.steps == 0 and bool((k.value == 1).all())):
        least = least + count
    return Rounded(sums(k.value, w), sums(k.size, w.abs()), least, 0), out


def regrouped(kernel: Tensor, groups: int, fewer: int) -> Tensor:
    """A kernel of groups as one of fewer groups, with zeros between.

    Args:
        kernel: (O, I / groups, *taps).
        groups: of the channels.
        fewer: a divisor of them.
    """
    if groups == fewer:
        return kernel
    each, (o, i, *taps) = groups // fewer, kernel.shape
    made = kernel.new_zeros(fewer, each, o // groups, each, i, *taps)
    own = kernel.view(fewer, each, o // groups, i, *taps)
    for place in range(each):
        made[:, place, :, place] = own[:, place]
    return made.view(o, each * i, *taps)


def _at(taps: Sequence[int | slice]) -> Any:
    """These taps of all channels."""
    return (..., *taps)


def _boxed(kernel: Tensor, low: Sizes, first: Sizes, box: Sizes) -> Tensor:
    """A kernel within a larger box of taps."""
    taps = kernel.shape[2:]
    if tuple(taps) == box and low == first:
        return kernel
    made = kernel.new_zeros(*kernel.shape[:2], *box)
    there = tuple(slice(a - b, a - b + n) for a, b, n in zip(low, first, taps, strict=True))
    made[_at(there)] = kernel
    return made


def _sum(one: Affine, two: Affine, factor: float) -> Affine:
    if (one.stride, one.size) != (two.stride, two.size) or one.channels != two.channels:
        raise NotAffine("what is added has other steps")
    groups = gcd(one.groups, two.groups)
    low = tuple(map(min, one.low, two.low))
    box = tuple(
        max(a + m, b + n) - lo for a, b, m, n, lo in zip(
            one.low, two.low, one.kernel.value.shape[2:], two.kernel.value.shape[2:], low,
            strict=True,
        )
    )  # fmt: skip

    def alike(v: Affine) -> Rounded:
        return v.kernel.moved(lambda t: _boxed(regrouped(t, v.groups, groups), v.low, low, box))

    return Affine(
        alike(one).plus(alike(two), factor), one.bias.plus(two.bias, factor), groups, one.stride,
        low, one.size, one.source, max(one.run, two.run) + 2,
        one.reach + abs(factor) * two.reach + 1,
    )  # fmt: skip


def fitted(v: Affine, weight: Tensor, whole: Affine, dilation: Sizes) -> Rounded:
    """The kernel of a value in the shape of a convolution's weight.

    Args:
        v: the value.
        weight: of the convolution, (O, I / groups, *taps).
        whole: what that convolution makes of x.
        dilation: of the convolution.

    Raises:
        NotAffine: it has other steps or another size, or reads where that one does not.
    """
    if (v.stride, v.size, v.source) != (whole.stride, whole.size, whole.source):
        raise NotAffine(f"steps {list(v.stride)} and not {list(whole.stride)}")
    if v.channels != whole.channels:
        raise NotAffine(f"{v.channels} channels and not {whole.channels}")
    fewer = gcd(v.groups, whole.groups)
    box = tuple(whole.kernel.value.shape[2:])
    low = tuple(map(min, v.low, whole.low))
    high = [max(a + m, b + n) for a, m, b, n in
            zip(v.low, v.kernel.value.shape[2:], whole.low, box, strict=True)]  # fmt: skip
    wide = tuple(h - lo for h, lo in zip(high, low, strict=True))
    at = tuple(
        slice(b - lo, b - lo + n, d)
        for b, lo, n, d in zip(whole.low, low, box, dilation, strict=True)
    )
    each, o = whole.groups // fewer, v.channels // whole.groups

    def within(t: Tensor) -> Tensor:
        found = _boxed(regrouped(t, v.groups, fewer), v.low, low, wide)[_at(at)]
        own = found.reshape(fewer, each, o, each, -1, *found.shape[2:])
        picked = torch.stack([own[:, place, :, place] for place in range(each)], dim=1)
        return picked.reshape(weight.shape)

    made = v.kernel.moved(within)
    if int(made.size.count_nonzero()) != int(v.kernel.size.count_nonzero()):
        raise NotAffine("it reads where the kernel has no tap")
    return made
