"""Tokens: a sequence in which readouts stand beside nodes, as a class token beside patches.

    cat([class token, registers, nodes], 1)        one axis, several pieces, of which one is nodes
    cat([level, level / 2, level / 4], 1)          nodes of several lattices, as a detector's head

Every operator means on each piece what it means there; attention is over all pieces of an image.
Absent nodes are no tokens: they are not computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor

from convgraph.convert import names, registry
from convgraph.convert.names import NoRuleError
from convgraph.convert.node_pairs import blocks
from convgraph.convert.value import Spatial, index
from convgraph.graph.sites import Sites

Piece = Tensor | Spatial


@dataclass(eq=False, slots=True)
class Tokens:
    """Pieces along one axis: ordinary tensors, and maps whose axis there names their nodes.

    Attributes:
        pieces: in their order, each with all axes.
        dim: the axis along which they stand beside each other; other names may stand behind theirs.
        before: how many sequences that axis holds, one behind the other, as (batch tokens) does.
    """

    pieces: tuple[Piece, ...]
    dim: int
    before: int = 1

    @property
    def nodes(self) -> Spatial:
        """The first piece that is a map."""
        return next(one for one in self.pieces if isinstance(one, Spatial))

    @property
    def x(self) -> Tensor:
        """The rows of its nodes."""
        return self.nodes.x

    @property
    def sites(self) -> Any:
        """Whose rows they are."""
        return self.nodes.sites

    @property
    def axes(self) -> names.Axes:
        """The names of its axes."""
        return self.nodes.axes

    @property
    def places(self) -> list[Any]:
        """The sites of each piece, None of a readout."""
        return [one.sites if isinstance(one, Spatial) else None for one in self.pieces]

    @property
    def lengths(self) -> list[int]:
        """How many tokens each piece has in one sequence."""
        return [one.shape[self.dim] // self.before for one in self.pieces]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the network sees."""
        shape = list(self.nodes.shape)
        shape[self.dim] = self.before * sum(self.lengths)
        return tuple(shape)

    def with_pieces(self, pieces: Sequence[Piece]) -> "Tokens":
        """Other pieces that stand beside each other in the same way."""
        return Tokens(tuple(pieces), self.dim, self.before)

    def sequence(self) -> "Tokens":
        """The same, if it is one sequence an image.

        Raises:
            NoRuleError: its axis holds images too.
        """
        if self.before != 1 or not names.kinds(self.axes[self.dim]) <= {"site", "plain"}:
            raise NoRuleError("the axis of tokens beside nodes is that of images too")
        return self

    def cut(self, first: int, last: int, step: int = 1) -> Any:
        """Tokens from one place to another: whole pieces, and parts of readouts.

        Raises:
            NoRuleError: some of the nodes would be taken.
        """
        kept: list[Piece] = []
        at, dim = 0, self.dim
        for one, length in zip(self.sequence().pieces, self.lengths, strict=True):
            low, high = max(first - at, 0), min(last - at, length)
            at += length
            if low >= high:
                continue
            if (low, high, step) == (0, length, 1):
                kept.append(one)
            elif isinstance(one, Tensor):
                some = one.narrow(dim, low, high - low)
                kept.append(some[(slice(None),) * dim + (slice(None, None, step),)])
            else:
                raise NoRuleError("it takes a part of the nodes out of a sequence")
        if not any(isinstance(one, Spatial) for one in kept):
            return torch.cat([one for one in kept if isinstance(one, Tensor)], dim)
        return kept[0] if len(kept) == 1 else Tokens(tuple(kept), dim)

    def tensor(self, fill: float = 0.0) -> Tensor:
        """Return the tensor that the network sees, `fill` where a node is absent."""
        parts = [one.tensor(fill) if isinstance(one, Spatial) else one for one in self.pieces]
        apart = [part.unflatten(self.dim, (self.before, -1)) for part in parts]
        return torch.cat(apart, self.dim + 1).flatten(self.dim, self.dim + 1)


def beside(parts: Sequence[Any], dim: int) -> Tokens | None:
    """Return tensors and maps as tokens, if they stand beside each other along nodes."""
    flat: list[Piece] = []
    for one in parts:
        flat += one.sequence().pieces if isinstance(one, Tokens) else (one,)
    maps = [one for one in flat if isinstance(one, Spatial)]
    if not maps or len(flat) < 2:
        return None
    dim %= len(maps[0].axes)
    if len(maps) > 1:
        if not _levels(maps, dim):
            return None
    elif names.kinds(maps[0].axes[dim]) != {"site"}:
        return None
    pieces: list[Piece] = []
    for one in flat:  # readouts beside readouts are one piece
        last = pieces[-1] if pieces else None
        if isinstance(one, Tensor) and isinstance(last, Tensor):
            shape = torch.broadcast_shapes(*(_but(x, dim) for x in (last, one)))
            pieces[-1] = torch.cat([
                x.expand(*shape[:dim], x.shape[dim], *shape[dim + 1 :]) for x in (last, one)
            ], dim)  # fmt: skip
        else:  # torch's own is a copy, into which one may write
            pieces.append(one.with_x(one.x.clone()) if isinstance(one, Spatial) else one.clone())
    return Tokens(tuple(pieces), dim)


def _levels(maps: Sequence[Spatial], dim: int) -> bool:
    """Whether an axis names the nodes of each of several maps, and is no line of one lattice."""
    lines = 0
    for one in maps:
        if len(one.axes) != len(maps[0].axes) or not isinstance(one.sites, Sites):
            return False
        rest = [names.kinds(axis) for axis in names.replaced(one.axes, dim)]
        if "site" not in names.kinds(one.axes[dim]) or any("site" in kinds for kinds in rest):
            return False
        lines += len(names.whole(one.axes[dim])) == 1
    return lines < len(maps)


def _but(x: Tensor, dim: int) -> tuple[int, ...]:
    """A shape that says nothing of one dimension."""
    return (*x.shape[:dim], 1, *x.shape[dim + 1 :])


def meaning(call: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Return what an operator means on tokens.

    Raises:
        NoRuleError: it has no meaning on pieces.
    """
    name = call.name
    if name in ("cat", "concat", "concatenate"):
        return _cat(call, *args, **kwargs)
    if name == "scaled_dot_product_attention":
        return attention(*args, **kwargs)
    x = args[0]
    if not isinstance(x, Tokens):
        x = next((one for one in args if isinstance(one, Tokens)), None)
    if x is None:
        raise NoRuleError("tokens are one of its parameters")
    if name in _ALONG:
        return _ALONG[name](call, x, *args[1:], **kwargs)
    entry = registry.find(name)
    if entry is None:
        raise NoRuleError("it has no rule")
    split = entry.family == "pointwise"
    if not split and name not in _EACH:
        raise NoRuleError("it has no rule for tokens beside nodes")
    axis = _axis_of(x, call.named(*args, **kwargs)) if name in _AXIS else -1
    if axis == x.dim:
        if name == "softmax" and x is args[0]:
            return _softmax(call, x)
        raise NoRuleError("it runs along tokens beside nodes")
    if name.startswith("conv") and (x.dim < 2 or not _mixes(call.named(*args, **kwargs))):
        raise NoRuleError("its kernel reaches from one token beside nodes to another")
    outs = []
    start = 0
    for number, length in enumerate(x.lengths):
        a, k = (_part(one, x, number, start, length, split) for one in (args, kwargs))
        on_nodes = any(isinstance(one, Spatial) for one in (*a, *k.values()))
        outs.append(entry.call(call, *a, **k) if on_nodes else call.target(*a, **k))
        start += length
    return _joined(outs, x, axis)


_AXIS = (
    "softmax", "log_softmax", "glu", "amax", "amin", "max", "min", "argmax", "argmin", "logsumexp",
    "sort", "topk",
)  # fmt: skip
"""Operators along one axis."""

_EACH = ("linear", "layer_norm", "rms_norm", "conv1d", "conv2d", *_AXIS)
"""Operators along an axis that each token has for itself, beside those of single elements."""


def _axis_of(x: Tokens, given: dict[str, Any]) -> int:
    dim = given.get("dim")
    if isinstance(dim, (list, tuple)) and len(dim) == 1:
        (dim,) = dim
    if not isinstance(dim, int):
        raise NoRuleError("it runs along several axes of tokens beside nodes at once")
    return dim % len(x.shape)


def _mixes(given: dict[str, Any]) -> bool:
    """Whether a convolution mixes the channels of every token alone."""
    kernel, stride, padding = given["weight"].shape[2:], given.get("stride"), given.get("padding")
    return (
        prod(kernel) == 1
        and stride in (None, 1, [1] * len(kernel))
        and not any([padding] if isinstance(padding, (int, str)) else padding or ())
    )


def _part(given: Any, x: Tokens, number: int, start: int, length: int, split: bool) -> Any:
    """The arguments for one piece: a tensor of as many tokens is cut as they are."""
    if isinstance(given, dict):
        return {k: _part(v, x, number, start, length, split) for k, v in given.items()}
    if isinstance(given, list):
        return [_part(v, x, number, start, length, split) for v in given]
    if isinstance(given, Tokens):
        same = given.dim - len(given.shape) == x.dim - len(x.shape) and given.before == x.before
        if given.lengths != x.lengths or not same:
            raise NoRuleError("sequences of different pieces meet")
        return given.pieces[number]
    if isinstance(given, Spatial):
        raise NoRuleError("tokens meet a map without them")
    if split and isinstance(given, Tensor):
        dim = given.dim() - (len(x.shape) - x.dim)
        if dim >= 0 and given.shape[dim] == x.shape[x.dim] > 1:
            apart = given.unflatten(dim, (x.before, -1)).narrow(dim + 1, start, length)
            return apart.flatten(dim, dim + 1)
    return given


def _joined(outs: list[Any], like: Tokens, axis: int) -> Any:
    """Pieces as tokens again, an axis less if it was reduced."""
    if isinstance(outs[0], (tuple, list)):
        return [_joined(list(parts), like, axis) for parts in zip(*outs, strict=True)]
    gone = len(outs[0].shape) < len(like.shape) and axis < like.dim
    return Tokens(tuple(outs), like.dim - gone, like.before)


def _cat(call: Any, parts: Any, dim: int = 0) -> Any:
    first = next(one for one in parts if isinstance(one, Tokens))
    if dim % len(first.shape) == first.dim:
        found = beside(parts, dim)
        if found is None:
            raise NoRuleError("maps of other axes among tokens")
        return found
    outs = []
    start = 0
    for number, length in enumerate(first.lengths):
        pieces = _part(list(parts), first, number, start, length, True)
        on_nodes = any(isinstance(one, Spatial) for one in pieces)
        rule: Any = registry.find("cat")
        outs.append(rule.call(call, pieces, dim) if on_nodes else torch.cat(pieces, dim))
        start += length
    return first.with_pieces(outs)


# Shapes


def permuted(one: Any, order: Sequence[int]) -> Any:
    """Return a piece, or a sequence of them, with its axes in another order."""
    if isinstance(one, Tokens):
        pieces = tuple(permuted(piece, order) for piece in one.pieces)
        return Tokens(pieces, list(order).index(one.dim), one.before)
    return one.permuted(order) if isinstance(one, Spatial) else one.permute(order)


def turned(one: Any) -> Any:
    """Return the transposed matrices of the last two axes."""
    rank = len(one.shape)
    return permuted(one, [*range(rank - 2), rank - 1, rank - 2])


def _permuted(call: Any, x: Tokens, *args: Any) -> Any:
    order = torch.empty(tuple(range(1, len(x.shape) + 1)), device="meta")
    return permuted(x, [int(n) - 1 for n in call.target(order, *args).shape])


def _reshaped(call: Any, x: Tokens, *args: Any, **kwargs: Any) -> Any:
    shape = tuple(call.target(torch.empty(x.shape, device="meta"), *args, **kwargs).shape)
    place, before = _place(x, shape)
    count = shape[place] // before
    pieces: list[Piece] = []
    for one, length in zip(x.pieces, x.lengths, strict=True):
        mine = before * (count * length // sum(x.lengths))
        wanted = (*shape[:place], mine, *shape[place + 1 :])
        if isinstance(one, Tensor):  # one that all images share is each one's own
            held = (*x.shape[: x.dim], one.shape[x.dim], *x.shape[x.dim + 1 :])
            pieces.append(one.expand(held).reshape(wanted))
        else:
            pieces.append(one.regrouped(wanted))
    return Tokens(tuple(pieces), place, before)


def _place(x: Tokens, shape: tuple[int, ...]) -> tuple[int, int]:
    """Where the tokens stand in another shape, and how many sequences stand on that axis.

    Names behind theirs may join them there, or leave.
    """
    outside, count = prod(x.shape[: x.dim]) * x.before, sum(x.lengths)
    found = []
    for place, n in enumerate(shape):
        left = prod(shape[:place])
        if not n or not left or outside % left or n % (outside // left):
            continue
        before = outside // left
        own = n // before
        fits = all((own * length) % count == 0 and own * length for length in x.lengths)
        if own and fits:
            found.append((own != count, before, place))
    if not found:
        raise NoRuleError(f"a reshape from {x.shape} to {shape} cuts through tokens and nodes")
    _, before, place = min(found)
    return place, before


def _sliced(
    call: Any, x: Tokens, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    dim %= len(x.shape)
    if dim != x.dim:
        return x.with_pieces(of_pieces(call, x, "slice", dim, start, end, step))
    return x.cut(*slice(start, end, step).indices(x.shape[dim]))


def of_pieces(call: Any, x: Tokens, name: str, *args: Any) -> list[Any]:
    """Return what an operator says of each piece: by its rule of nodes, as torch's of readouts."""
    rule: Any = registry.find(name)
    plain = getattr(torch.ops.aten, name)
    return [
        rule.call(call, one, *args) if isinstance(one, Spatial) else plain(one, *args)
        for one in x.pieces
    ]


def _selected(call: Any, x: Tokens, dim: int, number: int) -> Any:
    dim %= len(x.shape)
    if dim != x.dim:
        outs = of_pieces(call, x, "select", dim, number)
        return Tokens(tuple(outs), x.dim - (dim < x.dim), x.before)
    x.sequence()
    number %= x.shape[dim]
    for one, length in zip(x.pieces, x.lengths, strict=True):
        if number < length:
            if isinstance(one, Spatial):
                raise NoRuleError("it takes one node out of a sequence")
            return one.select(dim, number)
        number -= length
    raise NoRuleError("no such token")


def _unbound(call: Any, x: Tokens, dim: int = 0) -> Any:
    if dim % len(x.shape) == x.dim:
        raise NoRuleError("it takes a sequence apart")
    return [_selected(call, x, dim, n) for n in range(x.shape[dim])]


def _split(call: Any, x: Tokens, parts: Any, dim: int = 0) -> Any:
    dim %= len(x.shape)
    blank = torch.empty(x.shape[dim], device="meta")
    lengths = [len(one) for one in call.target(blank, parts, 0)]
    outs, start = [], 0
    for length in lengths:
        outs.append(_sliced(call, x, dim, start, start + length))
        start += length
    return outs


def _mean(call: Any, x: Tokens, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    rank = len(x.shape)
    dims = [d % rank for d in ([dim] if isinstance(dim, int) else dim or range(rank))]
    if x.dim not in dims:  # each token for itself
        outs = of_pieces(call, x, call.name, dims, keepdim)
        place = x.dim - (0 if keepdim else sum(d < x.dim for d in dims))
        return Tokens(tuple(outs), place, x.before)
    x.sequence()
    own = x.axes[0] == names.batch_axis(x.sites.batch_size)
    if not own or x.dim == 0:
        raise NoRuleError("it reduces tokens that stand beside each other over a part of a batch")
    own_each = x.with_pieces(
        [
            one if isinstance(one, Spatial) else one.expand(x.shape[0], *one.shape[1:])
            for one in x.pieces
        ]
    )
    total: Any = sum(of_pieces(call, own_each, "sum", dims, True))
    if call.name == "mean":
        counts: Any = sum(
            one.sites.counts * prod(names.plain((one.axes[x.dim],)))
            if isinstance(one, Spatial) else length
            for one, length in zip(x.pieces, x.lengths, strict=True)
        )  # fmt: skip
        count = counts.view(-1, *(1,) * (rank - 1))
        count = count.sum(0, keepdim=True) if 0 in dims else count
        total = total / (count * prod(x.shape[d] for d in dims if d not in (0, x.dim)))
    return total if keepdim else total.squeeze(dims)


def _softmax(call: Any, x: Tokens) -> Any:
    """Over the tokens of an image that are there."""
    packed = Packed(x, x.sites.batch_size)
    rows = packed.x
    if packed.some is not None:
        rows = rows.masked_fill(~packed.some[:, None, :, None], -torch.inf)
    return packed.unpack(rows.softmax(2))


_ALONG: dict[str, Any] = {
    **dict.fromkeys(("permute", "transpose", "t", "movedim", "swapaxes", "mT"), _permuted),
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "unsqueeze", "squeeze"),
        _reshaped,
    ),
    **dict.fromkeys(("split", "split_with_sizes", "chunk", "unsafe_split"), _split),
    **dict.fromkeys(("mean", "sum"), _mean),
    "slice": _sliced,
    "select": _selected,
    "unbind": _unbound,
}


# Attention


def attention(
    q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0, causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """Return softmax(Q K^T scale + mask) V over all tokens of an image that are there.

    Raises:
        NoRuleError: it is grouped, or who is heard is no sequence of an image.
    """
    if (enable_gqa and q.shape[1] != k.shape[1]) or isinstance(mask, (Spatial, Tokens)):
        raise NoRuleError("it is grouped, or its mask is a map")
    if causal:
        mask = before(q, k)
    batch = next(one.sites for one in (q, k, v) if isinstance(one, (Spatial, Tokens))).batch_size
    asked, heard = Packed(q, batch), Packed(k, batch)
    values = Packed(v, batch)
    some = heard.some
    wide = None
    if mask is not None:
        wide = mask_of_packed(mask, asked, heard)
        if wide.dtype == torch.bool:
            wide = torch.zeros_like(wide, dtype=asked.x.dtype).masked_fill(~wide, -torch.inf)
    if some is not None:
        off = torch.zeros_like(some, dtype=asked.x.dtype).masked_fill(~some, -torch.inf)
        off = off[:, None, None]
        wide = off if wide is None else wide + off
    out = torch.nn.functional.scaled_dot_product_attention(
        asked.x, heard.x, values.x, wide, dropout, scale=scale or 1 / sqrt(asked.x.shape[-1])
    )
    return asked.unpack(out)


def before(q: Any, k: Any) -> Tensor:
    """(Tq, Tk) bool: who of a whole sequence stands no later; absent ones are counted too."""
    device = next(one.sites.device for one in (q, k) if not isinstance(one, Tensor))
    return torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=device).tril()


class Packed:
    """A sequence as (B, heads, M, width): each image's tokens, nodes that are there behind."""

    def __init__(self, value: Any, batch: int) -> None:
        self.value = value
        self.pieces: tuple[Any, ...] = (
            value.sequence().pieces if isinstance(value, Tokens) else (value,)
        )
        self.parts, self.some, self.even = [], None, True
        self.blocks: list[Any] = []
        masks = []
        for one in self.pieces:
            if isinstance(one, Spatial):
                part, there = self._nodes(one)
            else:
                if one.dim() != 4:
                    raise NoRuleError("its tokens are no (batch) (heads) (tokens) (width)")
                part = one.expand(batch, *one.shape[1:])
                there = torch.ones(batch, one.shape[2], dtype=torch.bool, device=one.device)
                self.blocks.append(None)
            self.parts.append(part)
            masks.append(there)
        self.x = torch.cat(self.parts, 2) if len(self.parts) > 1 else self.parts[0]
        if not self.even:
            self.some = torch.cat(masks, 1)

    @property
    def lengths(self) -> list[int]:
        """How many tokens each piece has."""
        return [one.shape[2] for one in self.pieces]

    def _nodes(self, one: Spatial) -> tuple[Tensor, Tensor]:
        rank = len(one.axes)
        group = names.batch_axis(one.sites.batch_size) if isinstance(one.sites, Sites) else ()
        plain = all(names.is_plain(axis) for axis in (one.axes[1], one.axes[-1]))
        token = rank == 4 and plain and one.axes[0] == group
        if not token or any(name.kind != "site" for name in one.axes[2]):
            raise NoRuleError("its tokens are no (batch) (heads) (tokens) (width)")
        packed = blocks(group, one.sites)
        self.blocks.append(packed)
        self.even &= bool(one.sites.memo("even", lambda: bool((packed.row >= 0).all())))
        rows = one.x.reshape(one.x.shape[0], one.shape[1], one.shape[3])
        return packed.pack(rows).transpose(1, 2), packed.row >= 0

    def places(self) -> Tensor:
        """(B, M) int64: where in the whole sequence each packed token stood."""
        found, start = [], 0
        for one, packed in zip(self.pieces, self.blocks, strict=True):
            if isinstance(one, Spatial):
                cell = index(one.axes[2], one.sites)
                row = packed.row.clamp(min=0)
                found.append((cell[row] if len(cell) else row * 0) + start)
                start += one.shape[2]
            else:
                line = torch.arange(one.shape[2], device=one.device) + start
                found.append(line.expand(self.x.shape[0], -1))
                start += one.shape[2]
        return torch.cat(found, 1)

    def unpack(self, out: Tensor) -> Any:
        """(B, heads, M, width) as pieces again."""
        pieces: list[Piece] = []
        start = 0
        for one, part, packed in zip(self.pieces, self.parts, self.blocks, strict=True):
            length = part.shape[2]
            mine = out.narrow(2, start, length)
            start += length
            if isinstance(one, Tensor):
                pieces.append(mine)
                continue
            rows = packed.unpack(mine.transpose(1, 2))
            axes = (one.axes[0], (names.Name("plain", mine.shape[1]),), one.axes[2],
                    (names.Name("plain", mine.shape[3]),))  # fmt: skip
            pieces.append(Spatial(rows, one.sites, axes))
        if isinstance(self.value, Tokens):
            return Tokens(tuple(pieces), 2)
        return pieces[0]


def mask_of_packed(mask: Tensor, asked: Packed, heard: Packed) -> Tensor:
    """A mask or a bias over whole sequences, as one over what is packed."""
    mask = mask.view(*(1,) * (4 - mask.dim()), *mask.shape)
    batch = asked.x.shape[0]
    whole = (sum(one.shape[2] for one in side.pieces) for side in (asked, heard))
    count_q, count_k = whole
    mask = mask.expand(batch, mask.shape[1], count_q, count_k)
    rows, columns = asked.places(), heard.places()
    image = torch.arange(batch, device=mask.device).view(-1, 1, 1)
    return mask.movedim(1, 3)[image, rows[:, :, None], columns[:, None, :]].movedim(3, 1)
