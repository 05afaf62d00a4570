"""Scores: who of a sequence hears whom, where readouts stand beside nodes and attention is by hand.

    softmax(Q K^T scale + bias) V        three operators, each over all tokens that are there

Rows and columns are packed: an image's readouts, and its nodes behind them. A product that sums
over tokens adds up what its pieces say.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from convgraph.convert import names, registry
from convgraph.convert.names import NoRuleError
from convgraph.convert.tokens import Packed, Tokens, mask_of_packed, of_pieces, permuted, turned
from convgraph.convert.value import Spatial


@dataclass(eq=False, slots=True)
class Scores:
    """One number for each two tokens of an image.

    Attributes:
        x: (B, heads, Mq, Mk).
        asked: whose rows they are.
        heard: whose columns.
        lead: the axes before rows and columns, as the network sees them: (B, heads) or (B heads,).
    """

    x: Tensor
    asked: Packed
    heard: Packed
    lead: tuple[int, ...]

    @property
    def sites(self) -> Any:
        """Of the nodes among them."""
        return next(
            one.sites
            for side in (self.heard, self.asked)
            for one in side.pieces
            if isinstance(one, Spatial)
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the network sees."""
        rows, columns = (
            sum(one.shape[2] for one in side.pieces) for side in (self.asked, self.heard)
        )
        return (*self.lead, rows, columns)

    def with_x(self, x: Tensor) -> "Scores":
        """The same two sides."""
        return Scores(x, self.asked, self.heard, self.lead)

    def permute(self, order: list[int]) -> "Scores":
        """The same, if no axis changes its place.

        Raises:
            NoRuleError: one does.
        """
        if order != list(range(len(order))):
            raise NoRuleError("scores of tokens change their axes")
        return self

    def there(self) -> Tensor:
        """(B, 1, Mq, Mk) bool: who is a token, and no padding."""
        rows, columns = (
            torch.ones(len(self.x), side.x.shape[2], dtype=torch.bool, device=self.x.device)
            if side.some is None
            else side.some
            for side in (self.asked, self.heard)
        )
        return (rows[:, :, None] & columns[:, None, :]).unsqueeze(1)

    def tensor(self, fill: float = 0.0) -> Tensor:
        """Return the tensor that the network sees, `fill` where a node is absent."""
        batch, heads, _, _ = self.x.shape
        out = self.x.new_full((batch, *self.shape[-2:], heads), fill)
        both = self.there().squeeze(1)
        image, row, column = both.nonzero(as_tuple=True)
        at = (image, self.asked.places()[image, row], self.heard.places()[image, column])
        return out.index_put(at, self.x.movedim(1, 3)[both]).movedim(3, 1).reshape(self.shape)


def meaning(call: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Return what an operator means on scores, or a product on tokens.

    Raises:
        NoRuleError: it has no meaning on them.
    """
    name = call.name
    if name in ("matmul", "bmm"):
        return product(call, *args)
    if name == "baddbmm":
        return _added(call, *args, **kwargs)
    if name == "einsum":
        return _einsum(call, *args)
    x = next((one for one in args if isinstance(one, Scores)), None)
    if x is None:
        raise NoRuleError("scores of tokens are one of its parameters")
    if name in ("softmax", "_softmax"):
        return _softmax(call, *args, **kwargs)
    if name in ("view", "reshape", "_unsafe_view"):
        return _regrouped(call, x, *args[1:])
    own = _OWN.get(name)
    if own is not None and x is args[0]:
        return own(call, *args, **kwargs)
    entry = registry.find(name)
    if entry is None or entry.family != "pointwise":
        raise NoRuleError("it has no rule for scores of tokens beside nodes")
    rows = [_met(one, x) for one in args]
    out = call.target(*rows, **{key: _met(one, x) for key, one in kwargs.items()})
    return x.with_x(out)


def _met(given: Any, x: Scores) -> Any:
    """An operand as packed as the scores are."""
    if isinstance(given, Scores):
        if given.asked.pieces != x.asked.pieces or given.heard.pieces != x.heard.pieces:
            raise NoRuleError("scores of different sequences meet")
        return given.x
    if isinstance(given, (Tokens, Spatial)):
        raise NoRuleError("scores of tokens meet a map")
    if not isinstance(given, Tensor) or given.dim() < 2:
        return given
    if len(x.lead) == 1 and given.dim() == 3 and len(given) > 1:
        given = given.unflatten(0, x.x.shape[:2])
    if given.shape[-2:] == (1, 1):
        return given
    return mask_of_packed(given, x.asked, x.heard)


def _regrouped(call: Any, x: Scores, *args: Any) -> Scores:
    """Heads and images apart, or together."""
    shape = tuple(call.target(torch.empty(x.shape, device="meta"), *args).shape)
    if shape[-2:] != x.shape[-2:] or shape[:-2] not in (
        tuple(x.x.shape[:2]), (x.x.shape[0] * x.x.shape[1],)
    ):  # fmt: skip
        raise NoRuleError(f"a reshape from {x.shape} to {shape} cuts through tokens and nodes")
    return Scores(x.x, x.asked, x.heard, shape[:-2])


def _softmax(call: Any, x: Scores, dim: int, *more: Any) -> Scores:
    if dim not in (-1, len(x.lead) + 1):
        raise NoRuleError("scores are normalized over another axis than the last")
    rows = x.x
    if x.heard.some is not None:
        rows = rows.masked_fill(~x.heard.some[:, None, None], -torch.inf)
    return x.with_x(call.target(rows, 3, *more))


def _added(call: Any, bias: Any, x: Any, other: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    """A product of sequences, and a bias or mask on who hears whom."""
    made = product(call, x, other)
    if not isinstance(made, Scores):
        raise NoRuleError("a bias is added to what are no scores")
    return made.with_x(beta * _met(bias, made) + alpha * made.x)


def _over_heads(call: Any, x: Scores, dim: Any = None, keepdim: bool = False, **_: Any) -> Scores:
    """The mean over heads."""
    dims = [dim] if isinstance(dim, int) else list(dim or ())
    if len(x.lead) != 2 or [d % 4 for d in dims] != [1]:
        raise NoRuleError("scores are reduced over another axis than their heads")
    lead = (x.lead[0], 1) if keepdim else x.lead[:1]
    return Scores(x.x.mean(1, keepdim=True), x.asked, x.heard, lead)


def _sliced(
    call: Any, x: Scores, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    """Whole pieces, or readouts of one, of who asks or of who is heard."""
    dim %= len(x.shape)
    size = x.shape[dim]
    first, last, step = slice(start, end, step).indices(size)
    if (first, last, step) == (0, size, 1):
        return x
    place = dim - len(x.lead)
    if place < 0 or step != 1 or last <= first:
        raise NoRuleError("it takes a part of the scores that is none of tokens")
    some, at = _cut((x.asked, x.heard)[place], first, last)
    asked, heard = (x.asked, some) if place else (some, x.heard)
    rows = x.x.narrow(2 + place, at, some.x.shape[2])
    if any(isinstance(one, Spatial) for one in (*asked.pieces, *heard.pieces)):
        return Scores(rows, asked, heard, x.lead)
    return rows.reshape(*x.lead, *rows.shape[2:])


def _cut(side: Packed, first: int, last: int) -> tuple[Packed, int]:
    """A part of a sequence, and where it starts among what is packed."""
    if isinstance(side.value, Tokens):
        kept = side.value.cut(first, last)
    elif isinstance(side.value, Tensor):
        kept = side.value.narrow(2, first, last - first)
    elif (first, last) == (0, side.value.shape[2]):
        kept = side.value
    else:
        raise NoRuleError("it takes a part of the nodes out of a sequence")
    at = 0
    for length, part in zip(side.lengths, side.parts, strict=True):
        if first < length:
            break
        first, at = first - length, at + part.shape[2]
    return Packed(kept, len(side.x)), at + first


def _selected(call: Any, x: Scores, dim: int, number: int) -> Any:
    """How one readout hears all, or how all hear it: a sequence again."""
    dim %= len(x.shape)
    number %= x.shape[dim]
    found = _sliced(call, x, dim, number, number + 1)
    if isinstance(found, Tensor):
        return found.select(dim, 0)
    by_asked = dim == len(x.lead)
    side, column = (x.heard, found.x.mT) if by_asked else (x.asked, found.x)
    return _shaped(_led(side.unpack(column), x.lead), lambda shape: shape[:-1])


_OWN: dict[str, Any] = {
    "mean": _over_heads, "select": _selected, "slice": _sliced,
}  # fmt: skip


def product(call: Any, x: Any, other: Any) -> Any:
    """Return scores, what is heard by them, or a sum over tokens.

    Raises:
        NoRuleError: its axes are no tokens of an image.
    """
    if isinstance(x, Scores):
        heard = Packed(_four(other, len(x.x)), len(x.x))
        if heard.lengths != x.heard.lengths:
            raise NoRuleError("scores and values differ in who is heard")
        return _led(x.asked.unpack(x.x @ heard.x), x.lead)
    if isinstance(other, Scores):
        raise NoRuleError("values stand before the scores that weigh them")
    if _along(x, -1) or _along(other, -2):
        return _summed(call, x, other)
    if _along(other, -1) or (isinstance(x, Tokens) and isinstance(other, Spatial) and _asks(other)):
        batch = other.sites.batch_size
        asked, heard = (Packed(_four(one, batch), batch) for one in (x, turned(other)))
        lead = torch.broadcast_shapes(x.shape[:-2], other.shape[:-2])
        return Scores(asked.x @ heard.x.transpose(-1, -2), asked, heard, tuple(lead))
    if isinstance(x, Tokens) and isinstance(other, Tensor):
        return x.with_pieces(of_pieces(call, x, "matmul", other))
    if isinstance(other, Tokens) and isinstance(x, Tensor):
        return turned(product(call, turned(other), x.transpose(-1, -2)))
    raise NoRuleError("a product of tokens with a map")


def _einsum(call: Any, equation: str, operands: Any, *more: Any, **named: Any) -> Any:
    """One product of two sequences, by letters."""
    left, _, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != 2 or "." in equation:
        raise NoRuleError(f"einsum {equation!r} of tokens beside nodes")
    first, second = terms
    both, gone, mine, other = names.contraction(first, second, out)
    if [len(gone), len(mine), len(other)] != [1, 1, 1] or out != both + mine + other:
        raise NoRuleError(f"einsum {equation!r} of tokens beside nodes")
    a = permuted(operands[0], [first.index(c) for c in both + mine + gone])
    b = permuted(operands[1], [second.index(c) for c in both + gone + other])
    return product(call, a, b)


def _along(one: Any, place: int) -> bool:
    """Whether tokens stand along the last axis, or the last but one."""
    return isinstance(one, Tokens) and one.dim == len(one.shape) + place


def _shaped(one: Any, change: Callable[[tuple[int, ...]], tuple[int, ...]], shift: int = 0) -> Any:
    """A piece in the shape that is made of its own; of a sequence, all, so many axes behind."""
    if isinstance(one, Tokens):
        pieces = tuple(_shaped(piece, change) for piece in one.pieces)
        return Tokens(pieces, one.dim + shift, one.before)
    shape = change(tuple(one.shape))
    return one.regrouped(shape) if isinstance(one, Spatial) else one.reshape(shape)


def _four(one: Any, batch: int) -> Any:
    """A sequence as (B, heads, tokens, width)."""
    if len(one.shape) != 3:
        return one

    def apart(shape: tuple[int, ...]) -> tuple[int, ...]:
        first = min(batch, shape[0])
        return (first, shape[0] // first, *shape[1:])

    return _shaped(one, apart, 1)


def _led(one: Any, lead: tuple[int, ...]) -> Any:
    """A sequence with the axes before it as the network sees them."""
    if len(lead) == 2:
        return one
    return _shaped(one, lambda shape: (shape[0] * shape[1], *shape[2:]), -1)


def _asks(one: Spatial) -> bool:
    """Whether nodes stand along the last axis."""
    return bool(one.axes[-1]) and all(name.kind == "site" for name in one.axes[-1])


def _summed(call: Any, x: Any, other: Any) -> Any:
    """The sum over tokens: over each piece, and all together."""
    lengths = (x if isinstance(x, Tokens) else other).lengths
    for one in (x, other):
        if isinstance(one, Tokens) and one.sequence().lengths != lengths:
            raise NoRuleError("sequences of different pieces meet")
        if isinstance(one, Spatial):
            raise NoRuleError("tokens beside nodes meet nodes alone")
    lefts = x.pieces if isinstance(x, Tokens) else x.split(lengths, -1)
    rights = other.pieces if isinstance(other, Tokens) else other.split(lengths, -2)
    rule: Any = registry.find("matmul")
    total: Any = None
    for one, two in zip(lefts, rights, strict=True):
        on_nodes = isinstance(one, Spatial) or isinstance(two, Spatial)
        out = rule.call(call, one, two) if on_nodes else one @ two
        total = out if total is None else total + out
    return total
