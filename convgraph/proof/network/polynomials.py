"""Elements at random points: two that are written otherwise are one, if they are one polynomial.

    x @ w.T + b                             addmm(b, x, w.T)
    conv2d(pad(x, 1), w)                    conv2d(x, w, padding=1)
    (x - mean) * rsqrt(var + eps)           a layer norm

Parameters, images and whatever is no sum of products are variables; every other element is a
polynomial in them, and is worked out in whole numbers, at POINTS random points, each of a field of
its own whose number of elements is a random prime. Two polynomials that differ agree at all of them
by chance alone, see `Height`. What an operator means as such is written in `meanings`.

Beside it goes how large the terms are that it adds up, see `terms`: what cancels is larger than
what it comes to, and can lose every digit of real numbers.
"""

import re
import secrets
from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import lru_cache
from hashlib import sha256
from math import inf, isfinite, lcm, log2, prod
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from convgraph.proof.network import terms
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

FURTHER = 3
"""Zeros that a sum of e^k, 1 / e^k and 1 / (1 + e)^k has, as a multiple of the largest k."""

PLAIN = 2**20
"""Numerators and denominators up to which a constant is the number that it is, no variable."""

MOST = 2**24
"""Elements that are kept, beyond which nothing is worked out."""

SMALL = 2**20
"""Variables of one tensor up to which they are kept."""

OF_TRUTHS = ("_to_copy", "logical_and")
"""Operators that mean something of truths, and of nothing else."""

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


def reduced(at: Tensor, but: int = 0) -> Tensor:
    """(POINTS, ...) by the prime of each point, or by what is a little less."""
    return at % (_MODULI - but).view(-1, *(1,) * (at.dim() - 1))


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

    def chance(self, *, divided: bool = False) -> float:
        """How probable it is that two of these that differ agree at a point.

        That the prime divides every coefficient of the difference, or that its value is 0.

        Args:
            divided: whether there are inverses of exponentials among the variables: as sums of
                e^k, 1 / e^k and 1 / (1 + e)^k all coefficients are up to 4^degree times as large.
        """
        bits = self.log2 + 1 + log2(self.denominator) + 2 * self.degree * divided
        times = FURTHER if divided else 1
        return bits / log2(LOWEST) / HOW_MANY + times * self.degree / LOWEST


def highest(heights: Sequence[Height]) -> Height:
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
    def terms(self) -> Tensor:
        """(ROWS,) how large it is."""
        return terms.numbers(torch.tensor(float(self.value), dtype=torch.float64))

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
            return of_constants(torch.tensor(float(self.value), dtype=torch.float64))
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


def of_constants(values: Tensor) -> Tensor:
    """(POINTS, *shape) residues of the variables that constants are, and of their negatives."""
    keys = _drawn(_SEED, "constants", 2 * POINTS).view(2, POINTS, *(1,) * values.dim())
    found = _scattered(values.abs().view(torch.int64) * (keys[0] | 1) + keys[1])
    return reduced(torch.where(values < 0, -found, found))


def exactly(value: Fraction) -> Constant:
    """Return a fraction as it is."""
    return Constant(value, max(abs(value.numerator), value.denominator) > PLAIN)


@final
class Polynomial:
    """A tensor of polynomials.

    Attributes:
        at: (POINTS, *shape) int64: what each is worth, by the prime of each point.
        terms: (ROWS, *shape) float64: how large those are that it adds up, see `terms`.
        height: of the largest.
        factor: a constant that all of them are multiples of, as they were put together.
    """

    __slots__ = ("at", "factor", "height", "terms")

    def __init__(
        self, at: Tensor, terms: Tensor, height: Height, factor: Fraction = Fraction(1)
    ) -> None:
        """Keep all of it."""
        self.at, self.terms, self.height, self.factor = at, terms, height, factor

    @property
    def shape(self) -> torch.Size:
        """Of the tensor."""
        return self.at.shape[1:]

    @property
    def nothing(self) -> bool:
        """Whether all of it is 0, and nothing that cancels to it."""
        return not self.at.any() and not self.terms.any()

    def __add__(self, other: "Polynomial | Constant") -> "Polynomial":
        """Sum."""
        (one, two), added = _together(self, other)
        height = self.height.plus(other.height)
        factor = self.factor if self.factor == other.factor else Fraction(1)
        return Polynomial(reduced(one + two), added[0] + added[1], height, factor)

    def __mul__(self, other: "Polynomial | Constant") -> "Polynomial":
        """Product, entry by entry."""
        (one, two), (mine, more) = _together(self, other)
        if isinstance(other, Constant):
            made = terms.scaled(mine, float(other.value))
        else:
            made = terms.products(torch.mul, mine, more)
        height, factor = self.height.times(other.height), self.factor * other.factor
        return Polynomial(reduced(one * two), made, height, factor)

    def __neg__(self) -> "Polynomial":
        """The other sign."""
        return Polynomial(reduced(-self.at), terms.negative(self.terms), self.height, -self.factor)

    def __sub__(self, other: "Polynomial") -> "Polynomial":
        """Difference."""
        return self + -other

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Polynomial":
        """What a move of entries makes of it; it is given them behind one more axis."""
        return Polynomial(move(self.at), move(self.terms), self.height, self.factor)

    def view(self, *shape: int) -> "Polynomial":
        """The same in another shape."""
        return self.moved(lambda t: t.reshape(len(t), *shape))

    def beside(self, other: "Polynomial") -> "Polynomial":
        """The entries of a line, and those of another behind them."""
        at, own = torch.cat([self.at, other.at], 1), torch.cat([self.terms, other.terms], 1)
        return Polynomial(at, own, highest([self.height, other.height]))

    def transposed(self) -> "Polynomial":
        """The last two axes exchanged."""
        return self.moved(lambda t: t.transpose(-1, -2))

    def sum(self, dims: Sequence[int], *, keepdim: bool = False) -> "Polynomial":
        """Sum along axes of the tensor."""
        if not self.shape or not dims:
            return self
        axes = [1 + d % len(self.shape) for d in dims]
        at = reduced(self.at.sum(axes, keepdim=keepdim))
        height = self.height.of_many(self.at.numel() / max(at.numel(), 1))
        return Polynomial(at, self.terms.sum(axes, keepdim=keepdim), height, self.factor)

    def added_up(self, add: Callable[[Tensor], Tensor]) -> "Polynomial":
        """What a sum of entries makes of it; given float64 of its shape, exactly."""
        made = [_whole(add(_centred(one, p).double()), p)
                for one, p in zip(self.at, PRIMES, strict=True)]  # fmt: skip
        height = self.height.of_many(_most(add(torch.ones_like(self.terms[0]))))
        return Polynomial(
            torch.stack(made), torch.stack([*map(add, self.terms)]), height, self.factor
        )


def either(first: Tensor, one: Polynomial, two: Polynomial) -> Polynomial:
    """Of entries (n,) those of one where it is asked for, else those of the other."""
    at, own = torch.where(first, one.at, two.at), torch.where(first, one.terms, two.terms)
    return Polynomial(at, own, highest([one.height, two.height]))


def _together(one: Polynomial, two: "Polynomial | Constant") -> tuple[list[Tensor], list[Tensor]]:
    """What both are worth, and their terms, so that they broadcast."""
    rank = max(one.at.dim(), two.at.dim())
    return tuple(  # type: ignore[return-value]
        [t.reshape(len(t), *(1,) * (rank - t.dim()), *t.shape[1:]) for t in pair]
        for pair in ((one.at, two.at), (one.terms, two.terms))
    )


def _most(counts: Tensor) -> float:
    return float(counts.max()) if counts.numel() else 1.0


def multilinear(
    call: Callable[[Tensor, Tensor], Tensor], one: Polynomial, two: Polynomial
) -> Polynomial:
    """What an operator that is linear in both makes of two, given float64, exactly.

    Raises:
        NoMeaning: an entry is a sum of more than TERMS products.
    """
    count = _most(call(torch.ones_like(one.terms[0]), torch.ones_like(two.terms[0])))
    if count > TERMS:
        raise NoMeaning
    made = []
    for a, b, p in zip(one.at, two.at, PRIMES, strict=True):
        x, y = _centred(a, p), _centred(b, p).double()
        high = (x + 2048) >> 12
        parts = [_whole(call(part.double(), y), p) for part in (high, x - (high << 12))]
        made.append((4096 * parts[0] + parts[1]) % p)
    height = one.height.times(two.height).of_many(count)
    added = terms.products(call, one.terms, two.terms)
    return Polynomial(torch.stack(made), added, height, one.factor * two.factor)


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
        found = constant(value, self.dtype)
        self.points.constants.add(found)
        return found

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
        lost: how many times as much its own rounding can lose.
        beyond: how many times as large, or as small, as any of the reference's its elements are.
        constants: that were arguments.
        shares: fractions that a float among the arguments was read as.
        maxima: what is known of largest elements, see `maxima`; who knows puts it there.
        units: what is known of exponentials, see `units`, likewise.
        divided: whether inverses of these are among the variables.
    """

    def __init__(self, numbering: Numbering, *, together: bool = False) -> None:
        """Start with variables alone.

        Args:
            numbering: of both sides.
            together: whether what can be lost is held tensor by tensor, not entry by entry: in the
                backward of a norm an entry that lies near the mean is off by what all of them are.
        """
        self.numbering, self.together = numbering, together
        self.maxima: Any = None
        self.constants: set[Constant] = set()
        self.shares: set[Fraction] = set()
        self.read: set[str] = set()
        self.larger = self.lost = self.beyond = 1.0
        self.units: Any = None
        self.divided = False
        self._heights, self._count = {Height()}, 1
        self._bases: list[int] = []
        self._variables: dict[int, Sequence[int]] = {}
        self._blocks: dict[int, Polynomial] = {}
        self._kept = self._layers = 0
        self._index: tuple[Tensor, Tensor] | None = None
        self._made_of: list[tuple[Tensor, Tensor]] = []
        self._sorted: tuple[Tensor, Tensor] | None = None
        self._reach = 1.0, 1.0
        numbering.told = self._told

    @property
    def log2_epsilon(self) -> float:
        """How probable it is that any two of all elements are taken for one by chance."""
        chance = max(one.chance(divided=self.divided) for one in self._heights)
        return POINTS * log2(min(chance, 1)) + 2 * log2(self._count)

    @property
    def as_fractions(self) -> str:
        """Which floats among the arguments were read as what they stand for, in words."""
        names = ", ".join(map(str, sorted(self.shares)))
        return f"the factors {names} that mul.Scalar is given as the nearest float64 are fractions"

    def compared(self, found: Polynomial) -> None:
        """Count what is looked at, and how large it is."""
        self._heights.add(found.height)
        self._count += found.terms[0].numel()

    # -- variables ---------------------------------------------------------------------------------

    def atom(self, name: str, *inputs: Polynomial, unit: bool = False) -> Polynomial:
        """A variable for each set of entries at one place, the same for the same set.

        Args:
            name: of what makes it of them.
            inputs: what it is made of.
            unit: whether no residue is 0 or -1, and its size is about 1.
        """
        shape = torch.broadcast_shapes(*(p.shape for p in inputs))
        flat = torch.cat([
            at.reshape(POINTS, *(1,) * (len(shape) - at.dim() + 1), *at.shape[1:])
            .expand(POINTS, *shape).reshape(POINTS, -1)
            for at in (p.at for p in inputs)
        ])  # fmt: skip
        for one in inputs:
            self.compared(one)
        state = words_of(f"{name}/{len(inputs)}", flat)
        made = self.variable(state.view(POINTS, *shape), name, unit=unit)
        if len(inputs) == 1:
            self._within(made, *inputs, unit=unit)
        return made

    def _within(self, made: Polynomial, found: Polynomial, *, unit: bool) -> None:
        """Hold what a variable is made of against what the reference makes it of.

        It need not be an element of the reference: the variance within a norm is none. A unit that
        the reference has not can vanish in a product with its inverse, and what it lost with it.
        """
        keys, own = self.key(made.at).reshape(-1), found.terms.reshape(terms.ROWS, -1)
        if self._index is None:
            self._made_of.append((keys, own))
        elif len(keys):
            known, other = self._made()
            at = torch.searchsorted(known, keys).clamp_(max=len(known) - 1)
            same = known[at] == keys if len(known) else torch.zeros(len(keys), dtype=torch.bool)
            self._held(own[:, same], other[:, at[same]])
            if unit and not bool(same.all()):
                self.larger = inf

    def _made(self) -> tuple[Tensor, Tensor]:
        """All that the reference's variables are made of, by the keys of those."""
        if self._sorted is None:
            pairs = self._made_of or [(torch.zeros(0, dtype=torch.int64), _nobody(0))]
            keys, own = (torch.cat(parts, -1) for parts in zip(*pairs, strict=True))
            order = _in_order(keys, own)
            self._sorted = keys[order], own[:, order]
        return self._sorted

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
            self.compared(one)
            digest.update(repr(tuple(one.shape)).encode())
            digest.update(one.at.int().contiguous().numpy().tobytes())
        found = []
        for k, shape in enumerate(node.shapes[first:], start=first):
            at = _integers(_SEED, f"{digest.hexdigest()}/{k}", shape)
            found.append(self._variable(at, _words(node)))
        return found

    def variable(self, state: Tensor, name: str, *, unit: bool = False) -> Polynomial:
        """Variables that hang on (POINTS, *shape) words, see `atom`."""
        if not unit:
            return self._variable(_scattered(state), name)
        at = _scattered(state, 2) + 1
        return Polynomial(at, terms.variables(at[0], 0), Height())

    @staticmethod
    def _variable(at: Tensor, name: str, count: int = 1) -> Polynomial:
        bits = int(_drawn(_SEED, f"size of {name}", 1)) % (2 * terms.SPREAD + 1) - terms.SPREAD
        return Polynomial(at, terms.variables(at[0], bits, count), Height())

    def multiple(self, one: Polynomial, two: Polynomial) -> Constant | None:
        """By which constant among the arguments one is two, if by any."""
        return next((c for c in self.constants if torch.equal((two * c).at, one.at)), None)

    @staticmethod
    def fractions(counts: Tensor) -> Polynomial:
        """One divided by each of some whole numbers."""
        values, places = counts.unique(return_inverse=True)
        table = torch.stack([exactly(Fraction(1, n)).at for n in values.tolist()], 1)
        height = Height(0, lcm(*values.tolist()))
        return Polynomial(table[:, places], terms.numbers(1 / counts.double()), height)

    @staticmethod
    def chosen(condition: Polynomial, one: Polynomial, two: Polynomial) -> Polynomial:
        """One where a condition is 1, and two where it is 0: nothing is added up there."""
        made = two + condition * (one - two)
        either = condition * one + two
        made.terms = torch.cat([
            either.terms[terms.SIZE], made.terms[terms.VALUE], either.terms[terms.LOSS]
        ])  # fmt: skip
        return made

    def _told(self, base: int, shape: Sequence[int], values: Tensor | None) -> None:
        """Hear of names, which are variables, and of constants."""
        insort(self._bases, base)
        self._variables[base] = shape
        if values is None or values.is_complex() or not bool(values.isfinite().all()):
            return
        flat = values.reshape(-1).double()
        if not values.is_floating_point() and bool((flat.abs() >= 2**53).any()):
            return  # float64 has not room for them
        at, heights = of_constants(flat), [Height()]
        near = (flat * PLAIN == (flat * PLAIN).round()) & (flat.abs() <= PLAIN)
        for value in flat[near].unique().tolist():  # the few that may be plain
            one = constant(value)
            at[:, flat == value] = one.at[:, None]
            heights.append(one.height)
        self._blocks[base] = Polynomial(at.int(), terms.numbers(flat), highest(heights))

    # -- elements ----------------------------------------------------------------------------------

    def put(self, numbers: Numbers, found: Polynomial) -> None:
        """Say what elements are worth."""
        if 0 in numbers.shape:
            return
        at, own = found.at.reshape(POINTS, -1), found.terms.reshape(terms.ROWS, -1)
        if isinstance(numbers, Progression):
            base = numbers.base
        else:  # those between them are nobody's
            flat = numbers.reshape(-1)
            base, end = int(flat.min()), int(flat.max()) + 1
            nobody = _integers(_SEED, f"nobody {base}", (end - base,))
            at = nobody.index_copy(1, flat - base, at)
            own = _nobody(end - base).index_copy(1, flat - base, own)
        if self._index is None:
            least, most = _reach(found)
            self._reach = min(self._reach[0], least), max(self._reach[1], most)
        insort(self._bases, base)
        self._blocks[base] = Polynomial(at.int(), own, found.height, found.factor)
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
            shape = self._variables[base]
            count, several = max(prod(shape), 1), prod(shape[1:]) if shape else 1
            name = f"variables {base}"
            found = self._variable(_integers(_SEED, name, (count,)), name, several)
            found.at = found.at.int()
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
                if start + count <= block.at.shape[1]:
                    some = slice(start, start + count)
                    at, own = block.at[:, some].long(), block.terms[:, some]
                    at, own = at.reshape(POINTS, *shape), own.reshape(terms.ROWS, *shape)
                    return Polynomial(at, own, block.height, block.factor)
        flat = as_tensor(numbers).reshape(-1)
        at, own = flat.new_zeros(POINTS, count), terms.numbers(torch.zeros(count))
        heights, factors = [Height(0)], set[Fraction]()
        which = torch.searchsorted(torch.tensor(self._bases), flat, right=True) - 1
        for place in which.unique().tolist():
            if place < 0:  # 0, the constant
                continue
            block, here = self._block(self._bases[place]), which == place
            offset = flat[here] - self._bases[place]
            if bool((offset >= block.at.shape[1]).any()):
                raise Undecided("something is read of which nobody knows what it is made of")
            at[:, here] = block.at[:, offset].long()
            own[:, here] = block.terms[:, offset]
            heights.append(block.height)
            factors.add(block.factor)
        height = highest(heights)
        factor = factors.pop() if len(factors) == 1 else Fraction(1)
        return Polynomial(at.view(POINTS, *shape), own.view(terms.ROWS, *shape), height, factor)

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
            self.compared(one)
        return found

    def _meant(self, node: Node, inputs: list[Polynomial]) -> list[Polynomial] | None:
        names = tensors_of(node)
        known, meaning = MEANINGS.get(node.name, (frozenset(), None))
        if meaning is None or node.layer is not None or len(names) != len(inputs):
            return None
        places = {"index"} if "index" in node.given else set[str]()  # constants, which it says
        dtypes = {dtype for name, dtype in names if "." not in name and name not in places}
        dtypes -= {"bool"}
        if not dtypes <= _KINDS.keys() or not {*node.given} <= known:
            return None
        if len(dtypes) > 1 or bool(dtypes) == (node.name in OF_TRUTHS):
            return None  # one of them is rounded; and truths are added by "or"
        dtype = next((_KINDS[d] for d in dtypes), torch.float32)
        tensors = {name: p for (name, _), p in zip(names, inputs, strict=True)}
        return meaning(Call(self, node, dtype, tensors))

    # -- who is who --------------------------------------------------------------------------------

    def settle(self, node: Node) -> bool:
        """Number the outputs of a candidate's operator; return whether the reference has them."""
        whole = True
        self._indexed()
        for shape, found in zip(node.shapes, self.work_out(node), strict=True):
            self.beyond = max(self.beyond, *_apart(self._reach, _reach(found)))
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
        self._held(mine.terms, other.terms)
        return True

    def _held(self, mine: Tensor, other: Tensor) -> None:
        """Note how much larger terms the candidate adds up, and what it can lose."""
        if not mine.numel():
            return
        self.larger = max(self.larger, terms.larger(mine[terms.SIZE], other[terms.SIZE]))
        one, two = (t[terms.LOSS].reshape(2, -1) for t in (mine, other))
        if self.together:
            one, two = one.amax(1), two.amax(1)
        self.lost = max(self.lost, terms.larger(one, two))

    def key(self, at: Tensor) -> Tensor:
        """(*shape) a word for each of (POINTS, *shape): another one, as a rule, for another."""
        words = _drawn(_SEED, "key", POINTS)
        return (words @ at.reshape(POINTS, -1)).reshape(at.shape[1:])

    def _indexed(self) -> tuple[Tensor, Tensor]:
        """All elements of the reference by their keys; whoever asks first is the candidate."""
        if self._index is None:
            kept = sorted(self._blocks)
            blocks = [self._blocks[base] for base in kept]
            keys = torch.cat([self.key(block.at.long()) for block in blocks])
            numbers = [
                torch.arange(b, b + p.at.shape[1]) for b, p in zip(kept, blocks, strict=True)
            ]
            order = _in_order(keys, torch.cat([block.terms for block in blocks], 1))
            self._index = keys[order], torch.cat(numbers)[order]
        return self._index

    def _known(self, found: Polynomial) -> Tensor:
        """The reference's numbers of these elements, -1 of those that it has none of."""
        keys, numbers = self._indexed()
        flat = found.at.reshape(POINTS, -1)
        at = torch.searchsorted(keys, self.key(flat)).clamp_(max=len(keys) - 1)
        made = numbers[at]
        other = self.of(tidy(made))  # as a rule what stands together on the reference
        same = (other.at == flat).all(0) & (flat != 0).any(0)
        own = found.terms.reshape(terms.ROWS, -1)
        self._held(own[:, same], other.terms[:, same])
        nothing = (flat == 0).all(0) & (own == 0).all(0)  # what cancels is no 0 that was written
        return torch.where(same, made, torch.where(nothing, 0, -1)).view(found.shape)


def tensors_of(node: Node) -> list[tuple[str, str]]:
    """The name and the dtype of each of its tensors; those of a list have a place too."""
    return [
        (name if one.startswith("<") else f"{name}.{place}", dtype)
        for name, one in _ARGUMENT.findall(node.arguments)
        for place, dtype in enumerate(_TENSOR.findall(one))
    ]


def _nobody(count: int) -> Tensor:
    """Terms of elements that nobody asks for."""
    return torch.ones(terms.ROWS, count, dtype=torch.float64)


def _reach(found: Polynomial) -> tuple[float, float]:
    """The least and the largest size of entries that are not 0."""
    size = found.terms[terms.SIZE]
    least, most = torch.where(size > 0, size, 1.0).aminmax() if size.numel() else (1.0, 1.0)
    return float(least), float(most)


def _apart(one: tuple[float, float], two: tuple[float, float]) -> tuple[float, float]:
    """How many times as small as the least of one, and as large as the largest, two are."""
    return one[0] / max(two[0], 1e-300), two[1] / one[1]


def _in_order(keys: Tensor, own: Tensor) -> Tensor:
    """The places of keys in order; of equal ones that first of which least is lost."""
    order = own[terms.LOSS].amax(0).argsort()
    return order[keys[order].argsort(stable=True)]


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


def words_of(text: str, flat: Tensor) -> Tensor:
    """(POINTS, n) 64-bit words, each a random linear function, of a text's, of a column."""
    keys = _drawn(_SEED, text, POINTS * (len(flat) + 1)).view(POINTS, -1)
    return keys[:, 1:] @ flat + keys[:, :1]


def mixed(state: Tensor) -> Tensor:
    """Words that look like drawn ones, each a function of 64 bits (the steps of SplitMix64)."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        state = (state ^ ((state >> shift) & ((1 << (64 - shift)) - 1))) * factor
    return state ^ ((state >> 31) & ((1 << 33) - 1))


def _scattered(state: Tensor, but: int = 0) -> Tensor:
    """Residues that look like drawn ones, the last few left out."""
    return reduced(mixed(state) & ((1 << 63) - 1), but)
