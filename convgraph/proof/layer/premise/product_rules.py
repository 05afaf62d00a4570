"""Rules of products, where degrees add, and of vendors' kernels, multilinear by assumption."""

from fractions import Fraction
from math import lcm, prod

from torch import Tensor

from convgraph.proof.layer.premise.call import Call, Refusal, Result, linear_rule
from convgraph.proof.layer.premise.degrees import Bound
from convgraph.proof.layer.premise.linear_rules import part


@linear_rule("mul", "multiply")
def _mul(call: Call) -> Result:
    if isinstance(call["self"], Tensor) and not call.bound("self").terms.keys() - {()}:
        return call.times(call.bound("other"), "self")
    return call.times(call.bound("self"), "other")


@linear_rule("div", "divide", "true_divide")
def _div(call: Call) -> Result:
    by = call["other"]
    if call.get("rounding_mode") is not None:
        raise Refusal("refuted", f"a division rounds to integers: {call['rounding_mode']!r}")
    known = call.bound("self")
    if not isinstance(by, Tensor):
        inverse = 1 / Fraction(by) if by else Fraction(0)
        return known.scaled(part(inverse.numerator, inverse.denominator, known.odd))
    if call.bound("other").terms.keys() - {()}:
        raise Refusal("refuted", "a division by data is no product")
    return _divided(known, [abs(Fraction(v)) for v in by.double().unique().tolist() if v])


def _divided(known: Bound, by: list[Fraction]) -> Bound:
    """Entries divided by constants, each exactly."""
    if not by:
        return Bound()
    evens = [_two(v.numerator) - _two(v.denominator) for v in by]
    odds = [v / Fraction(2) ** even for v, even in zip(by, evens, strict=True)]
    shared = lcm(*(odd.numerator for odd in odds))
    if known.odd % shared or any(odd.denominator != 1 for odd in odds):
        worst = next(v for v, odd in zip(by, odds, strict=True) if odd != 1)
        raise Refusal("undecided", f"a division by the constant {float(worst):g} is not exact")
    most = max(evens)
    largest = max(
        shared // odd.numerator << (most - even) for even, odd in zip(evens, odds, strict=True)
    )
    terms = {m: c * largest for m, c in known.terms.items()}
    return Bound(terms, max(0, known.step + most), known.odd // shared)


def _two(number: int) -> int:
    """How often 2 divides a number."""
    return (number & -number).bit_length() - 1


@linear_rule("mm", "bmm", "mv", "dot", "vdot", "_grouped_mm", "_sparse_mm", vendor=True)
def _matrix_product(call: Call) -> Result:
    one, two = (call[a.name] for a in call.func._schema.arguments[:2])
    return call.of(one).times(call.of(two)).many(one.shape[-1])


@linear_rule("addmm", "baddbmm", "addbmm", "addmv", "addr", "_sparse_addmm", vendor=True)
def _add_product(call: Call) -> Result:
    one, two = (call[a.name] for a in call.func._schema.arguments[1:3])
    batch = (
        one.shape[0] if "addbmm" in call.func.name() and "baddbmm" not in call.func.name() else 1
    )
    terms = 1 if one.dim() == 1 and two.dim() == 1 else one.shape[-1]
    product = call.of(one).times(call.of(two)).many(terms * batch).scaled(call["alpha"])
    return product.plus(call.first().scaled(call["beta"]))


@linear_rule("addcmul")
def _addcmul(call: Call) -> Result:
    product = call.bound("tensor1").times(call.bound("tensor2"))
    return call.bound("self").plus(product.scaled(call["value"]))


@linear_rule("linear", vendor=True)
def _linear(call: Call) -> Result:
    product = call.bound("input").times(call.bound("weight")).many(call.shape("input")[-1])
    return product.plus(call.bound("bias"))


@linear_rule("convolution", "_convolution", vendor=True)
def _convolution(call: Call) -> Result:
    shape, groups = call.shape("weight"), call["groups"]
    if call["transposed"]:
        heard = shape[0] // groups * _phases(shape[2:], call["stride"])
    else:
        heard = prod(shape[1:])
    return call.bound("input").times(call.bound("weight")).many(heard).plus(call.bound("bias"))


@linear_rule("convolution_backward", vendor=True)
def _convolution_backward(call: Call) -> Result:
    shape, groups = call.shape("weight"), call["groups"]
    g, x, w = (call.bound(name) for name in ("grad_output", "input", "weight"))
    heads, images = call.shape("grad_output"), call.shape("input")
    if call["transposed"]:
        said, pixels = prod(shape[1:]), prod(images[2:])
    else:
        said = shape[0] // groups * _phases(shape[2:], call["stride"])
        pixels = prod(heads[2:])
    return [
        g.times(w).many(said),
        g.times(x).many(images[0] * pixels),
        g.many(heads[0] * prod(heads[2:])),
    ]


def _phases(kernel: tuple[int, ...], stride: list[int]) -> int:
    """The most taps of a kernel that reach one pixel across a stride."""
    steps = list(stride) * len(kernel) if len(stride) == 1 else stride
    return prod(-(-k // s) for k, s in zip(kernel, steps, strict=True))


_AVERAGES = (
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
)  # fmt: skip

_WEIGHTED = (
    "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d",
    "_upsample_bilinear2d_aa",
)  # fmt: skip

_WEIGHTED_BACKWARD = (
    *(f"{name}_backward" for name in _AVERAGES + _WEIGHTED),
    *(f"upsample_nearest{d}d_backward" for d in (1, 2, 3)),
    *(f"_upsample_nearest_exact{d}d_backward" for d in (1, 2, 3)),
)


@linear_rule(*_AVERAGES, vendor=True)
def _average(call: Call) -> Result:
    """A window is added up before it is divided."""
    call.on_the_way.append(call.bound("self").many(_largest_window(call)))
    return call.weighted("self")


def _largest_window(call: Call) -> int:
    if "kernel_size" in call.named:
        name: str = call.func.name().partition(".")[0]
        axes, kernel = int(name[-2]), call["kernel_size"]
        return prod(kernel if len(kernel) == axes else kernel * axes)
    outs: list[int] = call["output_size"]
    pairs = [*zip(call.shape("self")[-len(outs) :], outs, strict=True)]
    return prod(max(-(-(i + 1) * n // k) - i * n // k for i in range(k)) for n, k in pairs)


@linear_rule(*_WEIGHTED, vendor=True)
def _weighted(call: Call) -> Result:
    return call.weighted("input" if "input" in call.named else "self")


@linear_rule(*_WEIGHTED_BACKWARD, vendor=True)
def _weighted_backward(call: Call) -> Result:
    return call.weighted("grad_output")


def product_of(bounds: list[Bound]) -> Bound:
    """One product of an entry of each."""
    found = Bound({(): 1})
    for bound in bounds:
        found = found.times(bound)
    return found
