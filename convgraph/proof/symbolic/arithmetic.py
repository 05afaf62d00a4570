"""Integer arithmetic twice: on numbers, and on symbols that z3 reasons about.

A formula that is written with `times`, `quotient`, `where` and `either` can be evaluated on
numbers and be proven for all of them. Products of two symbols, which no solver decides in general,
become fresh integers of which one lemma is stated, for every pair of products with the same factor:

    b >= 1, a > a'   imply   a b >= a' b + b              (and a = a' implies a b = a' b)

Less is assumed of the fresh integer than is true of the product, so what is proven of it holds for
the product. The lemma itself is proven by z3 over the reals.
"""

from typing import Any, final

from convgraph.errors import MissingExtraError

Term = Any
"""An int, or a z3 integer."""


def load_z3() -> Any:
    """Import z3.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import z3
    except ImportError as error:
        raise MissingExtraError(
            "a proof for all sizes needs z3; install it with: pip install z3-solver"
        ) from error
    return z3


@final
class Numbers:
    """Python's integers.

    Example:
        >>> Numbers().quotient(-3, 2), Numbers().where(1 < 2, 10, 20)
        (-2, 10)
    """

    def times(self, a: int, b: int) -> int:
        """A b."""
        return a * b

    def quotient(self, a: int, b: int) -> int:
        """The largest m with m b <= a."""
        return a // b

    def remainder(self, a: int, b: int) -> int:
        """What `quotient` leaves."""
        return a % b

    def where(self, condition: bool, a: int, b: int) -> int:
        """A if the condition holds, else b."""
        return a if condition else b

    def either(self, *conditions: bool) -> bool:
        """At least one."""
        return any(conditions)

    def both(self, *conditions: bool) -> bool:
        """All of them."""
        return all(conditions)


@final
class Symbols:
    """z3's integers; products of symbols are fresh, and `facts` says what is known of them."""

    def __init__(self) -> None:
        """Start without products."""
        self.z3 = load_z3()
        self.facts: list[Any] = []
        self._count = 0
        self._products: dict[int, tuple[Term, list[tuple[Term, Term]]]] = {}
        self._quotients: dict[tuple[int, int], tuple[Term, Term]] = {}

    def fresh(self, name: str) -> Term:
        """A new integer."""
        self._count += 1
        return self.z3.Int(f"{name}!{self._count}")

    def times(self, a: Term, b: Term) -> Term:
        """A b, where b is a positive symbol or one of both is a number."""
        if isinstance(a, int) or isinstance(b, int):
            return a * b
        factor, known = self._products.setdefault(b.get_id(), (b, [(0, self.z3.IntVal(0)), (1, b)]))
        for other, product in known[2:]:
            if other.eq(a):
                return product
        fresh = self.fresh("product")
        for other, product in known:
            self._lemma(a, fresh, other, product, factor)
        known.append((a, fresh))
        return fresh

    def quotient(self, a: Term, b: Term) -> Term:
        """The largest m with m b <= a, for b >= 1."""
        return self._divided(a, b)[0]

    def remainder(self, a: Term, b: Term) -> Term:
        """What `quotient` leaves."""
        return self._divided(a, b)[1]

    def where(self, condition: Any, a: Term, b: Term) -> Term:
        """A if the condition holds, else b."""
        return self.z3.If(condition, a, b)

    def either(self, *conditions: Any) -> Any:
        """At least one."""
        return self.z3.Or(*conditions)

    def both(self, *conditions: Any) -> Any:
        """All of them."""
        return self.z3.And(*conditions)

    def _divided(self, a: Term, b: Term) -> tuple[Term, Term]:
        if isinstance(a, int):
            a = self.z3.IntVal(a)
        key = (a.get_id(), b if isinstance(b, int) else b.get_id())
        if key not in self._quotients:
            whole, rest = self.fresh("quotient"), self.fresh("remainder")
            self.facts += [a == self.times(whole, b) + rest, rest >= 0, rest < b]
            # The terms are kept: z3 may give the number of a term that is gone to another.
            self._quotients[key] = (whole, rest)
            self._kept = [*getattr(self, "_kept", []), a]
        return self._quotients[key]

    def _lemma(self, a: Term, ab: Term, c: Term, cb: Term, b: Term) -> None:
        """State what is known of the products a b and c b."""
        implies = self.z3.Implies
        self.facts += [
            implies(self.z3.And(b >= 1, a > c), ab >= cb + b),
            implies(self.z3.And(b >= 1, c > a), cb >= ab + b),
            implies(a == c, ab == cb),
            implies(b == 0, ab == 0),
        ]


def lemma_holds(timeout_ms: int) -> str:
    """Prove the lemma on products over the reals; "unsat" means proven."""
    z3 = load_z3()
    a, c, b = z3.Reals("a c b")
    solver = z3.Solver()
    solver.set("timeout", timeout_ms)
    solver.add(b >= 1, a >= c + 1, a * b < c * b + b)
    return str(solver.check())
