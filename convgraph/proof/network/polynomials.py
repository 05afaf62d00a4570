"""Elements at random points: two that are written otherwise are one, if they are one polynomial.

    x @ w.T + b                             addmm(b, x, w.T)
    conv2d(pad(x, 1), w)                    conv2d(x, w, padding=1)
    (x - mean) * rsqrt(var + eps)           a layer norm

Parameters, images and whatever is no sum of products are variables; every other element is a
polynomial in them, and is worked out in whole numbers, at POINTS random points, each of a field of
its own whose number of elements is a random prime. Two polynomials that differ agree at all of them
by chance alone, see `Height`. What an operator means as such is written in `meanings`.

Beside it goes how large the terms are that it adds up, where every variable is 1 and minus is plus:
what cancels is larger than what it comes to, and can lose every digit of real numbers.
"""

import re
import secrets
from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from hashlib import sha256
from math import isfinite, lcm, log2
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from convgraph.proof.network.node import Node
from convgraph.proof.network.value_numbers import (
    Numbering,
    Numbers,
    Progression,
    Undecided,
    as_tensor,
    progression,
    tidy,
)

POINTS = 16
"""At which every element is worked out: 12 blocks of a transformer leave 2^-100 with them."""

LOWEST, HIGHEST = 2**23, 2**24
"""Between which the primes are, one a point."""

HOW_MANY = 513_708
"""Primes between them."""

TERMS = 2**19
"""Products of a residue and half of another that float64 adds up exactly."""

PLAIN = 2**20
"""Numerators and denominators up to which a constant is the number that it is, no variable."""

MOST = 2**24
"""Elements that are kept, beyond which nothing is worked out."""

SMALL = 2**20
"""Variables of one tensor up to which they are kept."""

_ARGUMENT = re.compile(r"(\w+)=(\[[^\[\]]*\]|<\w+>)")
_TENSOR = re.compile(r"<(\w+)>")

_KINDS = {"float32": torch.float32, "float64": torch.float64}


class NoMeaning(Exception):  # noqa: N818  # no error: an operator stays what it is
    """An operator, called so, is no sum of products here."""


def _drawn_primes() -> list[int]:
    """POINTS primes at random: no number is divided by all of them but by chance."""
    found: list[int] = []
    while len(found) < POINTS:
        n = LOWEST + secrets.randbelow(HIGHEST - LOWEST)
        if n not in found and all(n % k for k in range(2, 4097)):
            found.append(n)
    return found


PRIMES = _drawn_primes()

_SEED = secrets.randbits(62)

_MODULI = torch.tensor(PRIMES)


def _reduced(at: Tensor) -> Tensor:
    """(POINTS, ...) by the prime of each point."""
    return at % _MODULI.view(-1, *(1,) * (at.dim() - 1))


class Height(NamedTuple):
    """How large polynomials are, as polynomials.

    Attributes:
        degree: the largest.
        denominator: a common one of all coefficients.
        log2: of the largest sum of absolute coefficients.
    """

    degree: int = 1
    denominator: int = 1
    log2: float = 0.0

    def plus(self, other: "Height") -> "Height":
        """Of a sum of two."""
        common = lcm(self.denominator, other.denominator)
        return Height(max(self.degree, other.degree), common, max(self.log2, other.log2) + 1)

    def times(self, other: "Height") -> "Height":
        """Of a product."""
        both = self.denominator * other.denominator
        return Height(self.degree + other.degree, both, self.log2 + other.log2)

    def of_many(self, count: float) -> "Height":
        """Of a sum of so many."""
        return self._replace(log2=self.log2 + log2(max(count, 1)))

    @property
    def chance(self) -> float:
        """How probable it is that two of these that differ agree at a point.

        That the prime divides every coefficient of the difference, or that its value is 0.
        """
        bits = self.log2 + 1 + log2(self.denominator)
        return bits / log2(LOWEST) / HOW_MANY + self.degree / LOWEST


def _highest(heights: Sequence[Height]) -> Height:
    """Of all of these."""
    return Height(
        max(one.degree for one in heights),
        lcm(*(one.denominator for one in heights)),
        max(one.log2 for one in heights),
    )


class Constant(NamedTuple):
    """A number: as it is, or with a large numerator or denominator a variable.

    Attributes:
        value: what it is.
        variable: whether its residues are drawn.
    """

    value: Fraction
    variable: bool

    @property
    def size(self) -> float:
        """How large it is."""
        return float(abs(self.value))

    @property
    def factor(self) -> Fraction:
        """What a product with it is a multiple of."""
        return Fraction(1) if self.variable else self.value

    @property
    def height(self) -> Height:
        """How large it is as a polynomial."""
        if self.variable:
            return Height()
        return Height(0, self.value.denominator, log2(max(self.size, 2.0**-60)))

    @property
    def at(self) -> Tensor:
        """(POINTS,) its residues."""
        if self.variable:
            return _of_constants(torch.tensor(float(self.value), dtype=torch.float64))
        one, two = self.value.numerator, self.value.denominator
        return torch.tensor([one * pow(two, -1, p) % p for p in PRIMES])


def constant(value: Any, dtype: torch.dtype = torch.float64) -> Constant:
    """Return a number as it is in a dtype.

    Example:
        >>> constant(0.5).value, constant(0.1).variable
        (Fraction(1, 2), True)

    Raises:
        NoMeaning: it is no finite number.
    """
    if not isinstance(value, (bool, int, float)) or not isfinite(value):
        raise NoMeaning
    if isinstance(value, float) and dtype == torch.float32:
        value = float(np.float32(value))
    return exactly(Fraction(value))


def _of_constants(values: Tensor) -> Tensor:
    """(POINTS, *shape) residues of the variables that constants are, and of their negatives."""
    keys = _drawn(_SEED, "constants", 2 * POINTS).view(2, POINTS, *(1,) * values.dim())
    found = _scattered(values.abs().view(torch.int64) * (keys[0] | 1) + keys[1])
    return _reduced(torch.where(values < 0, -found, found))


def exactly(value: Fraction) -> Constant:
    """Return a fraction as it is."""
    return Constant(value, max(abs(value.numerator), value.denominator) > PLAIN)


@final
class Polynomial:
    """A tensor of polynomials.

    Attributes:
        at: (POINTS, *shape) int64: what each is worth, by the prime of each point.
        size: (*shape) float64: how large the terms are that it adds up, where variables are 1.
        height: of the largest.
        factor: a constant that all of them are multiples of, as they were put together.
    """

    __slots__ = ("at", "factor", "height", "size")

    def __init__(
        self, at: Tensor, size: Tensor, height: Height, factor: Fraction = Fraction(1)
    ) -> None:
        """Keep all of it."""
        self.at, self.size, self.height, self.factor = at, size, height, factor

    @property
    def shape(self) -> torch.Size:
        """Of the tensor."""
        return self.size.shape

    def __add__(self, other: "Polynomial | Constant") -> "Polynomial":
        """Sum."""
        one, two = _together(self, other)
        height = self.height.plus(other.height)
        factor = self.factor if self.factor == other.factor else Fraction(1)
        return Polynomial(_reduced(one + two), self.size + other.size, height, factor)

    def __mul__(self, other: "Polynomial | Constant") -> "Polynomial":
        """Product, entry by entry."""
        one, two = _together(self, other)
        size, factor = self.size * other.size, self.factor * other.factor
        return Polynomial(_reduced(one * two), size, self.height.times(other.height), factor)

    def __neg__(self) -> "Polynomial":
        """The other sign."""
        return Polynomial(_reduced(-self.at), self.size, self.height, -self.factor)

    def __sub__(self, other: "Polynomial") -> "Polynomial":
        """Difference."""
        return self + -other

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Polynomial":
        """What a move of entries makes of it; it is given them behind one more axis."""
        return Polynomial(move(self.at), move(self.size[None])[0], self.height, self.factor)

    def view(self, *shape: int) -> "Polynomial":
        """The same in another shape."""
        return self.moved(lambda t: t.reshape(len(t), *shape))

    def transposed(self) -> "Polynomial":
        """The last two axes exchanged."""
        return self.moved(lambda t: t.transpose(-1, -2))

    def sum(self, dims: Sequence[int], *, keepdim: bool = False) -> "Polynomial":
        """Sum along axes of the tensor."""
        if not self.shape or not dims:
            return self
        axes = [1 + d % len(self.shape) for d in dims]
        size = self.size[None].sum(axes, keepdim=keepdim)[0]
        height = self.height.of_many(self.size.numel() / max(size.numel(), 1))
        at = _reduced(self.at.sum(axes, keepdim=keepdim))
        return Polynomial(at, size, height, self.factor)

    def added_up(self, add: Callable[[Tensor], Tensor]) -> "Polynomial":
        """What a sum of entries makes of it; given float64 of its shape, exactly."""
        made = [_whole(add(_centred(one, p).double()), p)
                for one, p in zip(self.at, PRIMES, strict=True)]  # fmt: skip
        height = self.height.of_many(_most(add(torch.ones_like(self.size))))
        return Polynomial(torch.stack(made), add(self.size), height, self.factor)


def _together(one: Polynomial, two: "Polynomial | Constant") -> list[Tensor]:
    """What both are worth, so that they broadcast."""
    shapes = [one.shape, torch.Size() if isinstance(two, Constant) else two.shape]
    rank = max(map(len, shapes))
    return [
        p.at.reshape(POINTS, *(1,) * (rank - len(shape)), *shape)
        for p, shape in zip((one, two), shapes, strict=True)
    ]


def _most(terms: Tensor) -> float:
    return float(terms.max()) if terms.numel() else 1.0


def multilinear(
    call: Callable[[Tensor, Tensor], Tensor], one: Polynomial, two: Polynomial
) -> Polynomial:
    """What an operator that is linear in both makes of two, given float64, exactly.

    Raises:
        NoMeaning: an entry is a sum of more than TERMS products.
    """
    terms = _most(call(torch.ones_like(one.size), torch.ones_like(two.size)))
    if terms > TERMS:
        raise NoMeaning
    made = []
    for a, b, p in zip(one.at, two.at, PRIMES, strict=True):
        x, y = _centred(a, p), _centred(b, p).double()
        high = (x + 2048) >> 12
        parts = [_whole(call(part.double(), y), p) for part in (high, x - (high << 12))]
        made.append((4096 * parts[0] + parts[1]) % p)
    height = one.height.times(two.height).of_many(terms)
    size = call(one.size, two.size)
    return Polynomial(torch.stack(made), size, height, one.factor * two.factor)


def product(one: Polynomial, two: Polynomial) -> Polynomial:
    """Matrix product."""
    return multilinear(torch.matmul, one, two)


def _centred(residues: Tensor, prime: int) -> Tensor:
    return torch.where(residues > prime // 2, residues - prime, residues)


def _whole(sums: Tensor, prime: int) -> Tensor:
    return sums.round().long() % prime


# -- operators -------------------------------------------------------------------------------------


@final
class Call:
    """An operator that is to be worked out.

    Attributes:
        points: who works it out.
        node: the node.
        given: its arguments that are no tensors, by name.
        tensors: the others, by name.
        dtype: of its numbers.
    """

    def __init__(
        self, points: "Points", node: Node, dtype: torch.dtype, tensors: dict[str, Polynomial]
    ) -> None:
        """Keep all of it."""
        self.points, self.node, self.dtype = points, node, dtype
        self.given, self.tensors = node.given, tensors

    def __getitem__(self, name: str) -> Polynomial:
        """A tensor by its name."""
        return self.tensors[name]

    def get(self, name: str) -> Polynomial | None:
        """A tensor by its name, if there is one."""
        return self.tensors.get(name)

    def constant(self, value: Any) -> Constant:
        """A number among the arguments."""
        return constant(value, self.dtype)

    def atom(self, name: str, *inputs: Polynomial) -> Polynomial:
        """What is no sum of products of these, entry by entry: a variable of its own."""
        return self.points.atom(name, *inputs)

    def rest(self) -> list[Polynomial]:
        """Variables for all outputs but the first."""
        return self.points.whole(self.node, 1)


Meaning = Callable[[Call], list[Polynomial]]

MEANINGS: dict[str, tuple[frozenset[str], Meaning]] = {}
"""By the name of a node: the arguments that its meaning knows, and the meaning."""


def means(*names: str, given: str = "") -> Callable[[Meaning], Meaning]:
    """Register what operators mean, and which arguments beside tensors that takes note of."""

    def register(meaning: Meaning) -> Meaning:
        for name in names:
            if name in MEANINGS:
                raise ValueError(f"two meanings of {name}")
            MEANINGS[name] = (frozenset(given.split()), meaning)
        return meaning

    return register


@final
class Points:
    """What the elements of both sides are worth.

    Attributes:
        read: operators that were read as sums of products, by name.
        larger: how many times as large terms the candidate adds up as the reference does, at most.
    """

    def __init__(self, numbering: Numbering) -> None:
        """Start with variables alone."""
        self.numbering = numbering
        self.read: set[str] = set()
        self.larger = 1.0
        self._chance, self._count = Height().chance, 1
        self._bases: list[int] = []
        self._variables: dict[int, int] = {}
        self._blocks: dict[int, Polynomial] = {}
        self._kept = self._layers = 0
        self._cuts: list[tuple[Tensor, Tensor, Tensor]] = []
        self._index: tuple[Tensor, Tensor] | None = None
        numbering.told = self._told

    @property
    def log2_epsilon(self) -> float:
        """How probable it is that any two of all elements are taken for one by chance."""
        return POINTS * log2(min(self._chance, 1)) + 2 * log2(self._count)

    def _compared(self, found: Polynomial) -> None:
        self._chance = max(self._chance, found.height.chance)
        self._count += found.size.numel()

    # -- variables ---------------------------------------------------------------------------------

    def atom(self, name: str, *inputs: Polynomial) -> Polynomial:
        """A variable for each set of entries at one place, the same for the same set."""
        shape = torch.broadcast_shapes(*(p.shape for p in inputs))
        flat = torch.cat([
            at.reshape(POINTS, *(1,) * (len(shape) - at.dim() + 1), *at.shape[1:])
            .expand(POINTS, *shape).reshape(POINTS, -1)
            for at in (p.at for p in inputs)
        ])  # fmt: skip
        for one in inputs:
            self._compared(one)
        words = _drawn(_SEED, f"{name}/{len(inputs)}", POINTS * (len(flat) + 1))
        keys = words.view(POINTS, -1)
        state = keys[:, 1:] @ flat + keys[:, :1]
        return self._variable(_scattered(state).view(POINTS, *shape))

    def whole(self, node: Node, first: int = 0) -> list[Polynomial]:
        """Variables that hang on all that an operator is given, and on where they stand.

        Outputs from the first on; where none of them has an entry, nothing is looked at.

        A layer that is one node is nobody else's: its certificate alone says what it is.
        """
        digest = sha256(_words(node).encode())
        if node.layer is not None:
            self._layers += 1
            digest.update(repr(self._layers).encode())
        some = any(0 not in shape for shape in node.shapes[first:])
        for one in map(self.of, node.inputs if some else ()):
            self._compared(one)
            digest.update(repr(tuple(one.shape)).encode())
            digest.update(one.at.int().contiguous().numpy().tobytes())
        found = []
        for k, shape in enumerate(node.shapes[first:], start=first):
            found.append(self._variable(_integers(_SEED, f"{digest.hexdigest()}/{k}", shape)))
        return found

    @staticmethod
    def _variable(at: Tensor) -> Polynomial:
        return Polynomial(at, torch.ones(at.shape[1:], dtype=torch.float64), Height())

    def reciprocal(self, found: Polynomial) -> Polynomial:
        """One divided by each entry: a variable, that of c q being 1 / c of that of q.

        Raises:
            NoMeaning: of constants.
        """
        if found.height.degree == 0 or not found.factor:
            raise NoMeaning
        factor = exactly(1 / found.factor)
        if factor.variable:
            factor = exactly(Fraction(1))
        made = self.atom("reciprocal", found * factor) * factor
        made.size = torch.where(found.size > 0, 1 / found.size, 1.0)
        return made

    @staticmethod
    def fractions(counts: Tensor) -> Polynomial:
        """One divided by each of some whole numbers."""
        values, places = counts.unique(return_inverse=True)
        table = torch.stack([exactly(Fraction(1, n)).at for n in values.tolist()], 1)
        height = Height(0, lcm(*values.tolist()))
        return Polynomial(table[:, places], 1 / counts.double(), height)

    def positive(self, found: Polynomial) -> Polynomial:
        """Which entries are more than 0, as 1 or 0: of what was cut there, as before the cut."""
        made = self.atom("positive", found)
        made.at = self._before(found, made.at)
        return made

    def cut(self, found: Polynomial) -> Polynomial:
        """The larger one of each entry and 0; what was cut there stays what it is."""
        step = self.positive(found)
        made = found * step
        again = self._before(found, torch.full_like(found.at, -1)) >= 0
        made.at = torch.where(again, found.at, made.at)
        keys, order = self._key(made.at).reshape(-1).sort(stable=True)
        one, two = (p.at.reshape(POINTS, -1)[:, order].int() for p in (made, step))
        self._cuts.append((keys, one, two))
        return made

    def _before(self, found: Polynomial, otherwise: Tensor) -> Tensor:
        """By what each entry was cut, where it was."""
        flat, made = found.at.reshape(POINTS, -1), otherwise.reshape(POINTS, -1)
        wanted = self._key(found.at).reshape(-1)
        for keys, cut, step in self._cuts:
            if len(keys):
                at = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
                same = (cut[:, at] == flat).all(0) & (flat != 0).any(0)
                made = torch.where(same, step[:, at].long(), made)
        return made.view_as(found.at)

    def _told(self, base: int, count: int, values: Tensor | None) -> None:
        """Hear of names, which are variables, and of constants."""
        insort(self._bases, base)
        self._variables[base] = count
        if values is None or values.is_complex() or not bool(values.isfinite().all()):
            return
        flat = values.reshape(-1).double()
        at, heights = _of_constants(flat), [Height()]
        near = (flat * PLAIN == (flat * PLAIN).round()) & (flat.abs() <= PLAIN)
        for value in flat[near].unique().tolist():  # the few that may be plain
            one = constant(value)
            at[:, flat == value] = one.at[:, None]
            heights.append(one.height)
        self._blocks[base] = Polynomial(at.int(), flat.abs(), _highest(heights))

    # -- elements ----------------------------------------------------------------------------------

    def put(self, numbers: Numbers, found: Polynomial) -> None:
        """Say what elements are worth."""
        if 0 in numbers.shape:
            return
        at, size = found.at.reshape(POINTS, -1), found.size.reshape(-1)
        if isinstance(numbers, Progression):
            base = numbers.base
        else:  # those between them are nobody's
            flat = numbers.reshape(-1)
            base, end = int(flat.min()), int(flat.max()) + 1
            nobody = _integers(_SEED, f"nobody {base}", (end - base,))
            at = nobody.index_copy(1, flat - base, at)
            size = size.new_ones(end - base).index_copy(0, flat - base, size)
        insort(self._bases, base)
        self._blocks[base] = Polynomial(at.int(), size, found.height, found.factor)
        self._kept += at.shape[1]
        if self._kept > MOST:
            raise Undecided(
                f"more than {MOST} elements are too many to work out at random points; prove it on "
                "smaller images"
            )

    def _block(self, base: int) -> Polynomial:
        """(POINTS, elements) int32: what stands together, drawn anew where that is large."""
        found = self._blocks.get(base)
        if found is None:
            count = max(self._variables[base], 1)
            at = _integers(_SEED, f"variables {base}", (count,)).int()
            found = Polynomial(at, torch.ones(count, dtype=torch.float64), Height())
            if count <= SMALL:
                self._blocks[base] = found
        return found

    def of(self, numbers: Numbers) -> Polynomial:
        """What elements are worth."""
        shape, count = tuple(numbers.shape), torch.Size(numbers.shape).numel()
        if isinstance(numbers, Progression) and numbers == progression(numbers.base, shape):
            place = bisect_right(self._bases, numbers.base) - 1
            if place >= 0 and count:
                block, start = self._block(self._bases[place]), numbers.base - self._bases[place]
                if start + count <= len(block.size):
                    some = slice(start, start + count)
                    at, size = block.at[:, some].long(), block.size[some]
                    at, size = at.view(POINTS, *shape), size.view(shape)
                    return Polynomial(at, size, block.height, block.factor)
        flat = as_tensor(numbers).reshape(-1)
        at, size = flat.new_zeros(POINTS, count), torch.zeros(count, dtype=torch.float64)
        heights, factors = [Height(0)], set[Fraction]()
        which = torch.searchsorted(torch.tensor(self._bases), flat, right=True) - 1
        for place in which.unique().tolist():
            if place < 0:  # 0, the constant
                continue
            block, here = self._block(self._bases[place]), which == place
            offset = flat[here] - self._bases[place]
            if bool((offset >= len(block.size)).any()):
                raise Undecided("something is read of which nobody knows what it is made of")
            at[:, here] = block.at[:, offset].long()
            size[here] = block.size[offset]
            heights.append(block.height)
            factors.add(block.factor)
        height = _highest(heights)
        factor = factors.pop() if len(factors) == 1 else Fraction(1)
        return Polynomial(at.view(POINTS, *shape), size.view(shape), height, factor)

    # -- operators ---------------------------------------------------------------------------------

    def work_out(self, node: Node) -> list[Polynomial]:
        """What the outputs of an operator are worth."""
        inputs = [self.of(numbers) for numbers in node.inputs]
        try:
            found = self._meant(node, inputs)
        except NoMeaning:
            found = None
        if found is not None and [tuple(p.shape) for p in found] == node.shapes:
            self.read.add(node.name)
        elif node.elementwise and node.layer is None and len(node.shapes) == 1 and inputs:
            found = [self.atom(_words(node), *inputs)]
        if found is None or [tuple(p.shape) for p in found] != node.shapes:
            found = self.whole(node)
        for one in found:
            self._compared(one)
        return found

    def _meant(self, node: Node, inputs: list[Polynomial]) -> list[Polynomial] | None:
        names = tensors_of(node)
        known, meaning = MEANINGS.get(node.name, (frozenset(), None))
        if meaning is None or node.layer is not None or len(names) != len(inputs):
            return None
        dtypes = {dtype for name, dtype in names if "." not in name} - {"bool"}
        if not dtypes <= _KINDS.keys() or not {*node.given} <= known:
            return None
        if not dtypes and node.name != "_to_copy":  # truths are added by "or"
            return None
        dtype = min((_KINDS[d] for d in dtypes), key=lambda d: d.itemsize, default=torch.float32)
        tensors = {name: p for (name, _), p in zip(names, inputs, strict=True)}
        return meaning(Call(self, node, dtype, tensors))

    # -- who is who --------------------------------------------------------------------------------

    def settle(self, node: Node) -> bool:
        """Number the outputs of a candidate's operator; return whether the reference has them."""
        whole = True
        for shape, found in zip(node.shapes, self.work_out(node), strict=True):
            made = self._known(found)
            missing = made < 0
            if bool(missing.any()):
                own = self.numbering.take(shape)
                self.put(own, found)
                made = torch.where(missing, as_tensor(own), made)
                whole = False
            node.outputs.append(tidy(made.contiguous()))
        return whole

    def same(self, one: Numbers, two: Numbers) -> bool:
        """Whether two tensors, the second of the candidate, hold the same polynomials."""
        if tuple(one.shape) != tuple(two.shape):
            return False
        mine, other = self.of(two), self.of(one)
        if not torch.equal(mine.at, other.at):
            return False
        self._held(mine.size, other.size)
        return True

    def _held(self, mine: Tensor, other: Tensor) -> None:
        """Note how much larger terms the candidate adds up; of what is 0 there are none."""
        if mine.numel():
            ratio = torch.where(mine == other, 1.0, mine / other)
            self.larger = max(self.larger, float(ratio.max()))

    def _key(self, at: Tensor) -> Tensor:
        words = _drawn(_SEED, "key", POINTS)
        return (words @ at.reshape(POINTS, -1)).reshape(at.shape[1:])

    def _indexed(self) -> tuple[Tensor, Tensor]:
        """All elements of the reference by their keys; whoever asks first is the candidate."""
        if self._index is None:
            kept = sorted(self._blocks)
            keys = torch.cat([self._key(self._blocks[base].at.long()) for base in kept])
            numbers = [torch.arange(b, b + len(self._blocks[b].size)) for b in kept]
            keys, order = keys.sort(stable=True)
            self._index = keys, torch.cat(numbers)[order]
        return self._index

    def _known(self, found: Polynomial) -> Tensor:
        """The reference's numbers of these elements, -1 of those that it has none of."""
        keys, numbers = self._indexed()
        flat = found.at.reshape(POINTS, -1)
        at = torch.searchsorted(keys, self._key(flat)).clamp_(max=len(keys) - 1)
        made = numbers[at]
        other = self.of(made)
        same = (other.at == flat).all(0) & (flat != 0).any(0)
        size = found.size.reshape(-1)
        self._held(size[same], other.size[same])
        nothing = (flat == 0).all(0) & (size == 0)  # what cancels to 0 is no 0 that was written
        return torch.where(same, made, torch.where(nothing, 0, -1)).view(found.shape)


def tensors_of(node: Node) -> list[tuple[str, str]]:
    """The name and the dtype of each of its tensors; those of a list have a place too."""
    return [
        (name if one.startswith("<") else f"{name}.{place}", dtype)
        for name, one in _ARGUMENT.findall(node.arguments)
        for place, dtype in enumerate(_TENSOR.findall(one))
    ]


def _words(node: Node) -> str:
    return f"{node.name}|{node.arguments}"


def _generator(seed: int, text: str) -> np.random.Generator:
    digest = sha256(f"{seed}/{text}".encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))


def _integers(seed: int, text: str, shape: Sequence[int]) -> Tensor:
    """(POINTS, *shape) residues that a text stands for."""
    highest = np.array(PRIMES).reshape(-1, *(1,) * len(shape))
    return torch.from_numpy(_generator(seed, text).integers(0, highest, (POINTS, *shape)))


@lru_cache(maxsize=1024)
def _drawn(seed: int, text: str, count: int) -> Tensor:
    """64-bit words that a text stands for."""
    draw = _generator(seed, text).integers
    return torch.from_numpy(draw(-(2**63), 2**63 - 1, count, dtype=np.int64))


def _scattered(state: Tensor) -> Tensor:
    """Residues that look like drawn ones, each a function of 64 bits (the steps of SplitMix64)."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        state = (state ^ ((state >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return _reduced((state ^ ((state >> 31) & ((1 << 33) - 1))) & ((1 << 63) - 1))
