"""Properties of a wrong operator, tested on it: scaled, rounded, lost, wrong in one place only.

Where `causes` predicts an operator from a table, these have a number to find first: by how much a
sum is scaled, from which size of x on it is wrong, in which channel. Each is tested on fresh
integers before it is reported. Where a division rounds, equality is within the bound of `rounding`.
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch

from convgraph.proof.equation.oracle import Oracle
from convgraph.proof.equation.spec import ConvSpec
from convgraph.proof.refutation.truth import FIRST, Inputs, Run, measure, operator
from convgraph.proof.roundoff import dot_bound

Array = npt.NDArray[Any]

DRAWN = 1000
ROUNDED = {torch.bfloat16: 1000, torch.float16: 4000, torch.float32: 2**26}
"""Types that an operand may be rounded to, coarsest first, with integers that each rounds."""


@final
@dataclass(frozen=True)
class Case:
    """The accused, and the quantity in which it is wrong.

    Attributes:
        run: f(x, w, b) -> y.
        quantity: "y", "grad_x", ...
        dtype: float64 or float32, in which it computes.
        device: where it computes.
        seed: of the draws.
    """

    run: Run
    quantity: str
    dtype: torch.dtype = torch.float64
    device: torch.device | str = "cpu"
    seed: int = 0

    def draw(self, oracle: Oracle, trial: int, a: int = DRAWN) -> Inputs:
        """Draw integers small enough that both dtypes are exact."""
        bits = 53 if self.dtype == torch.float64 else 24
        room = int((2**bits // oracle.terms()) ** 0.5)
        generator = np.random.Generator(np.random.Philox([self.seed, trial, 77]))
        return Inputs.random(oracle, generator, max(1, min(a, room)))

    def measured(self, inputs: Inputs) -> Array | str:
        """What the accused gives for the quantity."""
        found = measure(self.run, inputs, (self.quantity,), dtype=self.dtype, device=self.device)
        return found.get(self.quantity, "is missing")

    def predicted(self, run: Run, inputs: Inputs) -> Array | str:
        """What another operator gives for it, in float64."""
        return measure(run, inputs, (self.quantity,)).get(self.quantity, "is missing")


def agree(one: Array | str, two: Array | str, slack: Any = 0.0) -> bool:
    """Whether two sides give the same shape and the same numbers, up to a derived slack."""
    if isinstance(one, str) or isinstance(two, str) or one.shape != two.shape:
        return False
    with np.errstate(invalid="ignore"):
        return bool((np.abs(one - two) <= slack).all())


def symptoms(case: Case, specs: list[ConvSpec]) -> list[str]:
    """Return what is true of the accused on every spec, the most telling first."""
    found: list[str] | None = None
    for spec in specs:
        names = _Symptoms(case, spec).all()
        found = names if found is None else [name for name in found if name in names]
        if not found:
            break
    # A place is reported for the images that were asked about, not for the smallest ones.
    if not found:
        found = [place for place in [_Symptoms(case, specs[-1]).confined()] if place]
    return found[:1]


class _Symptoms:
    """The tests of one case on one spec."""

    def __init__(self, case: Case, spec: ConvSpec) -> None:
        self.case, self.spec = case, spec
        self.oracle = Oracle(spec)
        self.truth = operator(spec, self.oracle)
        self.trials = [case.draw(self.oracle, 10 + trial) for trial in range(4)]
        self.have = [case.measured(inputs) for inputs in self.trials]
        self.want = [case.predicted(self.truth, inputs) for inputs in self.trials]

    def all(self) -> list[str]:
        """Every sentence that holds, in order."""
        words = [have for have in self.have if isinstance(have, str)]
        if words:
            return [_in_words(self.case.quantity, words[0])]
        tests = [self.size, self.lost, self.scaled, self.cast]
        if self.case.quantity == "y":
            tests += [self.scaled_bias, self.mean, self.rounded, self.root, self.sizes_of_x]
        return [name for test in tests if (name := test())]

    def size(self) -> str:
        """Too large or too small, and right otherwise."""
        have, want = np.asarray(self.have[0]), np.asarray(self.want[0])
        if have.shape == want.shape or have.ndim != want.ndim:
            return ""
        gap = [a - b for a, b in zip(have.shape, want.shape, strict=True)]
        common = tuple(slice(min(a, b)) for a, b in zip(have.shape, want.shape, strict=True))
        last = tuple(slice(-min(a, b), None) for a, b in zip(have.shape, want.shape, strict=True))
        right = any(np.array_equal(have[part], want[part]) for part in (common, last))
        axes = ["batch", "channels", "depth", "height", "width"]
        axes = axes[:2] + axes[2:][-self.spec.d :]
        parts = [f"{abs(n)} too {'large' if n > 0 else 'small'} along the {axis}"
                 for axis, n in zip(axes, gap, strict=True) if n]  # fmt: skip
        return f"the output is {', '.join(parts)}" + (" and right otherwise" if right else "")

    def lost(self) -> str:
        """All zeros."""
        if any(np.any(have) for have in self.have) or not np.any(self.want[0]):
            return ""
        return _in_words(self.case.quantity, "is missing")

    def scaled(self) -> str:
        """One constant times the truth."""
        factor = self.factor(self.trials, self.have, self.want)
        return "" if factor is None else f"{_spoken(self.case.quantity)} is scaled by {factor}"

    def scaled_bias(self) -> str:
        """Right without a bias, and one constant times the bias alone."""
        if not self.spec.bias:
            return ""
        silent = [p.with_(x=0 * p.values["x"], w=0 * p.values["w"]) for p in self.trials]
        plain = [p.with_(b=0 * p.values["b"]) for p in self.trials]
        if not all(self.right(p) for p in plain):
            have = [self.case.measured(p) for p in plain]
            want = [self.case.predicted(self.truth, p) for p in plain]
            factor = self.factor(plain, have, want)
            rest = factor is not None and all(self.right(p) for p in silent)
            return f"all but the bias is scaled by {factor}" if rest else ""
        have = [self.case.measured(p) for p in silent]
        want = [self.case.predicted(self.truth, p) for p in silent]
        factor = self.factor(silent, have, want)
        return "" if factor is None else f"the bias is scaled by {factor}"

    def mean(self) -> str:
        """The sum over the edges divided by their number."""
        degree = self.oracle.in_degree().reshape(self.spec.batch, 1, *self.oracle.out_size)
        degree = np.maximum(degree, 1)
        if degree.max() == 1:
            return ""
        means = {
            "the mean over the edges is taken, not the sum": (degree, 1),
            "the mean over the edges is taken, not the sum, and of the bias too": (degree, degree),
        }
        for name, (by, bias) in means.items():
            if all(
                agree(
                    self.case.measured(p),
                    self.predict_parts(p, 1 / by, 1 / np.asarray(bias)),
                    self.slack(p),
                )
                for p in self.trials
            ):
                return name
        return ""

    def rounded(self) -> str:
        """It does not see what a coarser type cannot hold."""
        for kind, a in ROUNDED.items():
            if torch.finfo(kind).eps <= torch.finfo(self.case.dtype).eps:
                continue
            operands = [name for name in ("x", "w") if self.blind(name, kind, a)]
            if operands:
                what = _name(kind)
                both = len(operands) == 2
                return f"it computes in {what} inside" if both else (
                    f"{operands[0]} is rounded to {what} inside")  # fmt: skip
        return ""

    def root(self) -> str:
        """Every node adds itself through a weight of its own, which is no argument."""
        inputs, spec = self.trials[0], self.spec
        nothing = {name: 0 * value for name, value in inputs.values.items()}
        if self.oracle.out_size != spec.size or not self.right(inputs.with_(x=nothing["x"])):
            return ""
        seen: dict[int, Array] = {}
        pixels = list(np.ndindex(*spec.image_shape))
        for channel in range(min(spec.in_channels, 2)):
            for image, *pixel in [pixels[0], pixels[-1]]:
                x = nothing["x"].copy()
                x[(image, channel, *pixel)] = 1
                y = self.case.measured(inputs.with_(**{**nothing, "x": x}))
                if isinstance(y, str):
                    return ""
                own = y[(image, slice(None), *pixel)].copy()
                y[(image, slice(None), *pixel)] = 0
                if y.any() or not np.array_equal(seen.setdefault(channel, own), own):
                    return ""
        if not any(value.any() for value in seen.values()):
            return ""
        return "a root weight is added: each node also hears itself through a weight of its own"

    def sizes_of_x(self) -> str:
        """Right for some x and wrong for others."""
        top = DRAWN
        plus, minus = self.right_within(0, top), self.right_within(-top, 0)
        if plus and minus:
            return ""
        if plus or minus:
            low = 0 if plus else self.largest(lambda t: self.right_within(0, t), top)
            if low is None:
                return ""
            if plus:
                edge = self.largest(lambda t: self.right_within(-t, 0), top)
                if edge is None:
                    return ""
                where = "below 0" if edge == 0 else f"below {-edge}"
            else:
                where = f"above {low}"
            return f"it is wrong only where x is {where}"
        edge = self.largest(lambda t: self.right_within(-t, t), top)
        return f"it is wrong only where |x| is above {edge}" if edge else ""

    def confined(self) -> str:
        """Where it is wrong, over all trials."""
        gaps = []
        for have, want in zip(self.have, self.want, strict=True):
            if isinstance(want, str) or np.asarray(have).shape != want.shape:
                return ""
            gaps.append(np.asarray(have) != want)
        gap = np.logical_or.reduce(gaps)
        if gap.ndim < 3 or not gap.any():
            return ""
        weight = self.case.quantity.endswith("_w")
        names = ["weight row", "weight column"] if weight else ["image", "channel"]
        names += [f"{name} {'of the kernel' if weight else ''}".strip() for name in
                  ("depth", "row", "column")[3 - (gap.ndim - 2):]]  # fmt: skip
        parts = []
        for axis, name in enumerate(names):
            along = np.flatnonzero(gap.any(tuple(a for a in range(gap.ndim) if a != axis)))
            if gap.shape[axis] > 1 and len(along) == 1:
                last = " (the last)" if along[0] == gap.shape[axis] - 1 else ""
                parts.append(f"{name} {along[0]}{last}")
        if parts:
            return f"{_spoken(self.case.quantity)} is wrong only in {', '.join(parts)}"
        inner = tuple(slice(None) if axis < 2 else slice(1, -1) for axis in range(gap.ndim))
        if not weight and min(gap.shape[2:]) > 2 and not gap[inner].any():
            return f"{_spoken(self.case.quantity)} is wrong only at the border of the image"
        return ""

    # -- what the tests are made of -----------------------------------------------------------

    def right(self, inputs: Inputs) -> bool:
        """Whether the accused is right on inputs."""
        return agree(self.case.measured(inputs), self.case.predicted(self.truth, inputs))

    def right_within(self, low: int, high: int) -> bool:
        """Whether it is right for x drawn from [low, high], both ends included often."""
        for trial, inputs in enumerate(self.trials[:2]):
            generator = np.random.Generator(np.random.Philox([self.case.seed, trial, low + 5000]))
            shape = self.spec.x_shape
            x = generator.integers(low, high, size=shape, endpoint=True)
            end = generator.integers(0, 4, size=shape)
            x = np.where(end == 0, low, np.where(end == 1, high, x))
            if not self.right(inputs.with_(x=x)):
                return False
        return True

    def largest(self, holds: Any, top: int) -> int | None:
        """The largest t of [0, top) for which `holds(t)`, taken to be monotone."""
        if not holds(0):
            return None
        low, high = 0, top
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if holds(middle) else (low, middle)
        return low

    def blind(self, name: str, kind: torch.dtype, a: int) -> bool:
        """Whether the accused sees one operand rounded: it gives the products of the rounded one.

        The other operand has a single entry, so that no sum rounds on top of that.
        """
        changed, other = False, "w" if name == "x" else "x"
        for trial in range(2):
            inputs = self.case.draw(self.oracle, 20 + trial)
            inputs = inputs.with_(**{key: 0 * v for key, v in inputs.values.items() if key != "g"})
            generator = np.random.Generator(np.random.Philox([self.case.seed, trial, 99]))
            fine = generator.integers(-a, a, size=inputs.values[name].shape, endpoint=True)
            coarse = torch.from_numpy(fine).to(kind).to(torch.float64).numpy().astype(np.int64)
            single = inputs.values[other].copy()
            single[self.heard(other, generator)] = 1
            exact, rough = (inputs.with_(**{name: v, other: single}) for v in (fine, coarse))
            want = self.case.predicted(self.truth, rough)
            if not agree(self.case.measured(exact), want):
                return False
            changed |= not agree(want, self.case.predicted(self.truth, exact))
        return changed

    def heard(self, name: str, generator: np.random.Generator) -> tuple[int, ...]:
        """An entry of x or w that many outputs depend on."""
        spec, e = self.spec, self.oracle.edges
        if name == "w":
            tap = np.unravel_index(int(np.diff(e.ptr).argmax()), spec.kernel_size)
            return (*(int(generator.integers(n)) for n in spec.w_shape[:2]), *map(int, tap))
        image, *pixel = np.unravel_index(int(self.oracle.out_degree().argmax()), spec.image_shape)
        return (int(image), int(generator.integers(spec.in_channels)), *map(int, pixel))

    def cast(self) -> str:
        """The result is the truth, rounded to a coarser type."""
        for kind in ROUNDED:
            if torch.finfo(kind).eps <= torch.finfo(self.case.dtype).eps:
                continue
            coarse = [torch.from_numpy(np.asarray(v)).to(kind).double().numpy() for v in self.want]
            pairs = list(zip(self.have, coarse, strict=True))
            if any(not agree(*both) for both in zip(self.want, coarse, strict=True)) and all(
                np.array_equal(np.asarray(have), want) for have, want in pairs
            ):
                return f"{_spoken(self.case.quantity)} is rounded to {_name(kind)}"
        return ""

    def factor(self, trials: list[Inputs], have: list[Any], want: list[Any]) -> Fraction | None:
        """The one constant between two lists of numbers, if there is one and it is not 1."""
        if any(isinstance(v, str) for v in (*have, *want)) or have[0].shape != want[0].shape:
            return None
        at = int(np.abs(want[0]).argmax()) if want[0].size else 0
        if not want[0].size or not want[0].flat[at] or not np.isfinite(have[0].flat[at]):
            return None
        factor = Fraction(have[0].flat[at] / want[0].flat[at]).limit_denominator(4096)
        if factor in (0, 1):
            return None
        for inputs, one, two in zip(trials, have, want, strict=True):
            slack = 0.0 if factor.denominator == 1 else self.slack(inputs) * float(abs(factor))
            if not agree(one, two * float(factor), slack):
                return None
        return factor

    def slack(self, inputs: Inputs) -> Any:
        """How far sums with one division in them may be off, per entry; from `rounding`."""
        size = {name: np.abs(value) for name, value in inputs.values.items()}
        magnitude = self.case.predicted(self.truth, Inputs(size))
        return 2 * dot_bound(self.oracle.terms() + 2, self.case.dtype, magnitude)

    def predict_parts(self, inputs: Inputs, sums: Any, bias: Any) -> Any:
        """The truth with the sum and the bias weighted per site."""
        b = inputs.values.get("b")
        quiet = inputs if b is None else inputs.with_(b=0 * b)
        y = np.asarray(self.case.predicted(self.truth, quiet)) * sums
        if b is not None:
            y = y + b.reshape(1, -1, *[1] * self.spec.d) * bias
        return y


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def _spoken(quantity: str) -> str:
    if quantity == "y":
        return "y"
    if quantity in FIRST:
        return f"the gradient of {quantity.removeprefix('grad_')}"
    return f"the second derivative by {quantity.removeprefix('grad_grad_')}"


def _in_words(quantity: str, words: str) -> str:
    if words.startswith("is missing"):
        if quantity == "y":
            return "y is lost: it is 0 everywhere"
        return f"{_spoken(quantity)} is lost (detached)"
    return f"{_spoken(quantity)} {words}"
