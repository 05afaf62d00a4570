r"""How each operator carries an error bound on: one rule an operator, each with its derivation.

x_hat is the recorded value, E its bound. Any other correct run has x' with |x' - x| <= E, hence
|x'| <= |x_hat| + 2 E =: A. u is the unit roundoff, gamma(n) = n u / (1 - n u) bounds n successive
roundings in any order (infinite where n u >= 1), eta the smallest subnormal number.

* Sums of products: |sum w' x' - sum w x| <= A_w . E_x + E_w . A_x, plus gamma(n) A_w . A_x + n eta.
* 1-Lipschitz without rounding (relu, clamp, maxima): E, or the largest E of the window.
* L-Lipschitz, elementary: L E + 8 u M, M a bound of what is rounded.
* Functions of the vendor's library are no single rounding: which one runs, and how far it errs,
  depends on the processor. What each is granted is an assumption, with room above what was measured
  on three instruction sets (docs/design/networks.md).
* Norms: interval arguments on mean and variance; the variance's own error is taken as
  4 (n + 4) u mean(A^2), which two-pass, Welford's and the naive formula all keep.

Bounds are computed in float64 from nonnegative numbers, so their own relative error is small; every
one is enlarged by 2^-20. The rules themselves are in `product_rules` and `sum_rules`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, final

import torch
from torch import Tensor

ELEMENTARY = 8
"""Roundings, in units of u, that an elementary function is granted; stated under `assumed`."""

ROOT = 4
"""Roundings that a square root and its inverse are granted; few libraries round them correctly."""

QUOTIENT = 2
"""Roundings that a division is granted: it may be a product with a rounded inverse."""

GROWN = 1 + 2.0**-20


class NoRule(Exception):  # noqa: N818  # ends the bound, no error
    """The bound ends here; the text says why."""


@final
@dataclass(frozen=True)
class WithError:
    """One floating argument: its recorded value and its bound, float64."""

    x: Tensor
    e: Tensor

    @property
    def a(self) -> Tensor:
        """|x'| of any correct run."""
        return self.x.abs() + 2 * self.e

    @property
    def lies(self) -> tuple[Tensor, Tensor]:
        """Where x' of any correct run lies."""
        return self.x - 2 * self.e, self.x + 2 * self.e


@final
@dataclass
class BoundedCall:
    """One call: operator, arguments by name (`WithError` for floats), dtype, value."""

    func: Any
    given: dict[str, Any]
    dtype: torch.dtype
    y: Any = None

    @property
    def u(self) -> float:
        """Unit roundoff."""
        return torch.finfo(self.dtype).eps / 2

    @property
    def tiny(self) -> float:
        """The smallest subnormal number."""
        info = torch.finfo(self.dtype)
        return info.smallest_normal * info.eps

    def gamma(self, n: float) -> float:
        """Bound n roundings in a row: n u / (1 - n u)."""
        return n * self.u / (1 - n * self.u) if n * self.u < 1 else inf

    def sure(self, n: float) -> float:
        """The same, where it bounds anything.

        Raises:
            NoRule: n u >= 1.
        """
        found = self.gamma(n)
        if found == inf:
            raise NoRule("n u >= 1")
        return found

    def of(self, name: str) -> WithError:
        """One argument, a number as an exact entry."""
        value = self.given.get(name)
        if isinstance(value, WithError):
            return value
        if isinstance(value, Tensor):  # integers are exact
            return WithError(value.double(), torch.zeros(value.shape, dtype=torch.float64))
        if isinstance(value, (int, float)):
            like = self.y if isinstance(self.y, Tensor) else torch.zeros(())
            number = torch.tensor(float(value), dtype=torch.float64, device=like.device)
            # a Python number is rounded to the dtype first
            return WithError(number, number.abs() * self.u)
        raise NoRule(f"its argument {name!r} is {type(value).__name__}")


ErrorRule = Callable[[BoundedCall], Tensor]
RULES: dict[str, ErrorRule] = {}


def error_rule(*names: str) -> Callable[[ErrorRule], ErrorRule]:
    """Register a rule under the names of its operators."""

    def register(made: ErrorRule) -> ErrorRule:
        for name in names:
            if name in RULES:
                raise ValueError(f"two rules for {name}")
            RULES[name] = lambda call: made(call) * GROWN
        return made

    return register


SEVERAL: set[str] = set()
"""Operators whose rules bound every output."""


def several_rule(name: str, made: Callable[[BoundedCall], list[Tensor]]) -> None:
    """Register a rule of every output.

    A list where other rules return a tensor. The running bound reads both; the side-by-side run
    takes the first.
    """
    SEVERAL.add(name)
    RULES[name] = lambda call: [one * GROWN for one in made(call)]  # type: ignore[assignment, return-value]


def rounded(call: BoundedCall, error: Tensor, roundings: float = 1) -> Tensor:
    """Add the rounding of a result that is already off by `error`."""
    found: Tensor = (
        error + call.gamma(roundings) * (call.y.abs() * (1 + 2 * call.u) + 2 * error) + call.tiny
    )
    return found


def of_root(low: Tensor, e: Tensor) -> Tensor:
    """Bound |sqrt x' - sqrt x| by |x' - x| / (sqrt x' + sqrt x) and sqrt |x' - x|, x >= low."""
    return torch.minimum(e / (2 * low.clamp(min=0).sqrt()).clamp(min=1e-300), e.sqrt())


def with_self(call: BoundedCall, e: Tensor) -> dict[str, Any]:
    """Return the call's arguments with a bound in the place of its input."""
    return {name: e if name == "self" else value for name, value in call.given.items()}
