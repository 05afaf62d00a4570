"""What operators of torch mean as sums of products, held against torch's own results.

Each meaning is worked out in real numbers, in float64, and has to be no further from torch's result
in float64 than torch's in float32 is: what rounds 2^29 times less cannot be, unless it is another
function.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from convgraph.proof.network import meanings, polynomials
from convgraph.proof.network.node import Node, NodeCall
from convgraph.proof.network.polynomials import (
    MEANINGS,
    Constant,
    Height,
    NoMeaning,
    constant,
    tensors_of,
)
from convgraph.proof.network.recorder import trace
from convgraph.proof.network.value_numbers import Numbering

aten = torch.ops.aten


class Real:
    """A tensor of real numbers where a meaning expects one of polynomials."""

    height, terms = Height(), None

    def __init__(self, x: Tensor) -> None:
        self.x = x.double()

    @property
    def nothing(self) -> bool:
        return not self.x.any()

    @property
    def shape(self) -> torch.Size:
        return self.x.shape

    def __add__(self, other: Any) -> "Real":
        return Real(self.x + _real(other))

    def __sub__(self, other: Any) -> "Real":
        return Real(self.x - _real(other))

    def __mul__(self, other: Any) -> "Real":
        return Real(self.x * _real(other))

    def __neg__(self) -> "Real":
        return Real(-self.x)

    def moved(self, move: Callable[[Tensor], Tensor]) -> "Real":
        return Real(move(self.x[None])[0])

    def added_up(self, add: Callable[[Tensor], Tensor]) -> "Real":
        return Real(add(self.x))

    def view(self, *shape: int) -> "Real":
        return Real(self.x.reshape(shape))

    def beside(self, other: "Real") -> "Real":
        return Real(torch.cat([self.x, other.x]))

    def transposed(self) -> "Real":
        return Real(self.x.mT)

    def sum(self, dims: Any, *, keepdim: bool = False) -> "Real":
        return Real(self.x.sum(list(dims), keepdim)) if self.shape and dims else self


def _real(other: Any) -> Any:
    return float(other.value) if isinstance(other, Constant) else other.x


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp of what is largest at 0": torch.exp,
    "log": torch.log,
    "tanh": torch.tanh,
    "softplus": torch.nn.functional.softplus,
    "sqrt": torch.sqrt,
}


class Maxima:
    """Of real numbers."""

    def between(self, one: Real, low: Constant | None, high: Constant | None) -> Real:
        return Real(one.x.clamp(*(None if k is None else float(k.value) for k in (low, high))))

    def above(self, one: Real, than: Constant) -> Real:
        return Real(one.x > float(than.value))

    def below(self, one: Real, than: Constant) -> Real:
        return Real(one.x < float(than.value))

    def positive(self, one: Real) -> Real:
        return Real(one.x > 0)

    def largest(self, one: Real, places: Tensor) -> Real:
        return Real(torch.where(places >= 0, one.x[places], -torch.inf).amax(-1))

    def smallest(self, one: Real, places: Tensor) -> Real:
        return Real(torch.where(places >= 0, one.x[places], torch.inf).amin(-1))


class Units:
    """Of real numbers."""

    def exponential(self, one: Real) -> Real:
        return Real(one.x.exp())

    def reciprocal(self, one: Real) -> Real:
        return Real(1 / one.x)


class Points:
    """What stands for variables, as the functions that they are."""

    constants: ClassVar[set[Constant]] = set()
    shares: ClassVar[set[Fraction]] = set()

    def __init__(self, call: NodeCall) -> None:
        self.call, self.maxima, self.units = call, Maxima(), Units()

    def atom(self, name: str, *inputs: Real) -> Real:
        return Real(FUNCTIONS[name](*(one.x for one in inputs)))

    def fractions(self, counts: Tensor) -> Real:
        return Real(1 / counts.double())

    def chosen(self, condition: Real, one: Real, two: Real) -> Real:
        return Real(torch.where(condition.x > 0, one.x, two.x))

    def multiple(self, one: Real, two: Real) -> Constant | None:
        return None

    def whole(self, node: Node, first: int = 0) -> list[Real]:
        return [Real(t) for t in self.call.outputs[first:]]


def recorded(func: Any, args: tuple[Any, ...], kwargs: Any) -> NodeCall:
    """The node of one call, with its values."""
    found: list[NodeCall] = []
    tensors = [a for a in args if isinstance(a, Tensor) and a.dtype != torch.int64]

    def settle(node: Node) -> None:
        node.outputs = [numbering.take(shape) for shape in node.shapes]

    def run(images: Any) -> list[Tensor]:
        func(*args, **kwargs)
        return []

    numbering = Numbering()
    trace(torch.nn.Module(), run, tuple(tensors), numbering, {}, settle, found.append)
    (one,) = found
    return one


COARSE = ("softplus_backward",)
"""What means something in float32 alone: in float64 torch's own threshold shows."""


def worked_out(call: NodeCall, dtype: torch.dtype = torch.float64) -> list[Real] | None:
    """What the meaning of a call comes to in real numbers; None where it has none."""
    tensors = [t for v in call.given.values() for t in (v if isinstance(v, list) else [v])
               if isinstance(t, Tensor)]  # fmt: skip
    names = [name for name, _ in tensors_of(call.node)]
    known, meaning = MEANINGS[call.node.name]
    if not {*call.node.given} <= known:
        return None
    found = {name: Real(t) for name, t in zip(names, tensors, strict=True)}
    for name, one in found.items():
        one.height = Height(int(not name.startswith("indices")))
    made = polynomials.Call(Points(call), call.node, dtype, found)  # type: ignore[arg-type]
    try:
        return meaning(made)  # type: ignore[return-value]
    except NoMeaning:
        return None


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of real numbers in the place of those of residues."""

    def multilinear(call: Any, one: Real, two: Real) -> Real:
        return Real(call(one.x, two.x))

    monkeypatch.setattr(meanings, "multilinear", multilinear)
    monkeypatch.setattr(meanings, "product", lambda one, two: Real(one.x @ two.x))


def r(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def p(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64) + 0.1


def ends(low: float, high: float) -> Tensor:
    """Numbers at two ends, on either side of them and between."""
    return torch.tensor([low - 0.7, low, (2 * low + high) / 3, high, high + 0.7]).double()


def conv(x: Tensor, w: Tensor, b: Any, **how: Any) -> tuple[Any, ...]:
    d = x.dim() - 2
    given = {
        "stride": [1] * d, "padding": [0] * d, "dilation": [1] * d, "transposed": False,
        "output_padding": [0] * d, "groups": 1,
    } | how  # fmt: skip
    return (x, w, b, *given.values())


def conv_back(x: Tensor, w: Tensor, mask: list[bool], **how: Any) -> tuple[Any, ...]:
    _, _, _, *geometry = conv(x, w, None, **how)
    y = torch.convolution(x, w, None, *geometry)
    return (r(*y.shape), x, w, [y.shape[1]], *geometry, mask)


def norm_back(name: str) -> tuple[Any, ...]:
    if name == "layer":
        x, w, b = r(3, 2, 5) * 1e-3, r(2, 5), r(2, 5)
        _, mean, rstd = torch.native_layer_norm(x, [2, 5], w, b, 1e-6)
        return (r(3, 2, 5), x, [2, 5], mean, rstd, w, b, [True, True, True])
    x, w = r(2, 6, 3, 3) * 1e-3, r(6)
    if name == "batch":
        _, mean, rstd = torch.native_batch_norm(x, w, None, None, None, True, 0.1, 1e-6)
        return (r(2, 6, 3, 3), x, w, None, None, mean, rstd, True, 1e-6, [True, True, True])
    _, mean, rstd = aten.native_group_norm(x, w, None, 2, 6, 9, 3, 1e-6)
    return (r(2, 6, 3, 3), x, mean, rstd, w, 2, 6, 9, 3, [True, True, True])


def attention_back(**how: Any) -> tuple[Any, ...]:
    q, k, v = r(2, 3, 5, 4), r(2, 3, 6, 4), r(2, 3, 6, 4)
    run = aten._scaled_dot_product_flash_attention_for_cpu.default
    out, lse = run(q, k, v, **how)
    return (r(2, 3, 5, 4), q, k, v, out, lse, 0.0, False, how)


CASES: dict[str, list[Callable[[], tuple[Any, ...]]]] = {
    "add.Tensor": [lambda: (aten.add.Tensor, r(2, 3), r(3)),
                   lambda: (aten.add.Tensor, r(2, 3), r(3), {"alpha": -1.7}),
                   lambda: (aten.add.Tensor, r(2, 3), 0.3)],
    "add.Scalar": [lambda: (aten.add.Scalar, r(2, 3), 0.1, 3)],
    "sub.Tensor": [lambda: (aten.sub.Tensor, r(2, 3), r(2, 1), {"alpha": 2})],
    "sub.Scalar": [lambda: (aten.sub.Scalar, r(2, 3), 0.1, 3)],
    "rsub.Tensor": [lambda: (aten.rsub.Tensor, r(2, 3), r(3), {"alpha": 0.7})],
    "rsub.Scalar": [lambda: (aten.rsub.Scalar, r(2, 3), 0.7, 0.3)],
    "mul.Tensor": [lambda: (aten.mul.Tensor, r(2, 3), r(2, 1))],
    "mul.Scalar": [lambda: (aten.mul.Scalar, r(2, 3), 0.1),
                   lambda: (aten.mul.Scalar, r(2, 3), 2 / 21),
                   lambda: (aten.mul.Scalar, r(2, 3), -1.7)],
    "div.Tensor": [lambda: (aten.div.Tensor, r(2, 3), p(3)),
                   lambda: (aten.div.Tensor, r(2, 3), 0.3)],
    "div.Scalar": [lambda: (aten.div.Scalar, r(2, 3), 7)],
    "neg": [lambda: (aten.neg.default, r(3))],
    "reciprocal": [lambda: (aten.reciprocal.default, p(3))],
    "sqrt": [lambda: (aten.sqrt.default, p(3))],
    "rsqrt": [lambda: (aten.rsqrt.default, p(3))],
    "exp": [lambda: (aten.exp.default, r(3))],
    "log": [lambda: (aten.log.default, p(3))],
    "pow.Tensor_Scalar": [lambda n=n: (aten.pow.Tensor_Scalar, p(3), n)
                          for n in (-2.5, -2, -1.5, -1, -0.5, 0.5, 1.0, 2, 3.0, 4)],
    "addcmul": [lambda: (aten.addcmul.default, r(2, 3), r(3), r(2, 1), {"value": 0.3})],
    "addcdiv": [lambda: (aten.addcdiv.default, r(2, 3), r(3), p(2, 1), {"value": 0.3})],
    "lerp.Scalar": [lambda: (aten.lerp.Scalar, r(2, 3), r(2, 3), 0.3)],
    "lerp.Tensor": [lambda: (aten.lerp.Tensor, r(2, 3), r(2, 3), r(2, 3))],
    "sigmoid": [lambda: (aten.sigmoid.default, r(9))],
    "silu": [lambda: (aten.silu.default, r(9))],
    "glu": [lambda: (aten.glu.default, r(2, 6, 4), 1), lambda: (aten.glu.default, r(2, 4))],
    "tanh": [lambda: (aten.tanh.default, r(9))],
    "softplus": [lambda: (aten.softplus.default, r(9))],
    "softplus_backward": [lambda: (aten.softplus_backward.default, r(9), 3 * r(9), 1, 20)],
    "mish": [lambda: (aten.mish.default, 3 * r(9))],
    "mish_backward": [lambda: (aten.mish_backward.default, r(9), 3 * r(9))],
    "sigmoid_backward": [lambda: (aten.sigmoid_backward.default, r(9), p(9))],
    "tanh_backward": [lambda: (aten.tanh_backward.default, r(9), p(9))],
    "silu_backward": [lambda: (aten.silu_backward.default, r(9), r(9))],
    "relu": [lambda: (aten.relu.default, r(9))],
    "clamp": [lambda: (aten.clamp.default, r(9), 0), lambda: (aten.clamp.default, r(9), -0.3, 0.7),
              lambda: (aten.clamp.default, r(9), None, -0.2)],
    "clamp_min": [lambda: (aten.clamp_min.default, r(9), 0.3)],
    "clamp_max": [lambda: (aten.clamp_max.default, r(9), 0.3)],
    "hardtanh": [lambda: (aten.hardtanh.default, r(9), -0.5, 0.5),
                 lambda: (aten.hardtanh.default, 2 * r(9))],
    "hardtanh_backward": [lambda: (aten.hardtanh_backward.default, r(5), ends(-1, 2), -1, 2)],
    "hardsigmoid": [lambda: (aten.hardsigmoid.default, ends(-3, 3))],
    "hardsigmoid_backward": [lambda: (aten.hardsigmoid_backward.default, r(5), ends(-3, 3))],
    "hardswish": [lambda: (aten.hardswish.default, ends(-3, 3))],
    "hardswish_backward": [lambda: (aten.hardswish_backward.default, r(5), ends(-3, 3))],
    "leaky_relu": [lambda: (aten.leaky_relu.default, r(9)),
                   lambda: (aten.leaky_relu.default, r(9), 1.7)],
    "leaky_relu_backward": [
        lambda: (aten.leaky_relu_backward.default, r(5), ends(0, 1), 0.1, False)],
    "maximum": [lambda: (aten.maximum.default, r(2, 9), torch.zeros(1).double()),
                lambda: (aten.maximum.default, r(2, 1), r(9))],
    "minimum": [lambda: (aten.minimum.default, r(2, 1), r(9))],
    "amax": [lambda: (aten.amax.default, r(2, 3, 4), [0, -1]),
             lambda: (aten.amax.default, r(2, 3, 4), [1], True)],
    "amin": [lambda: (aten.amin.default, r(2, 3, 4), [2, 0], True)],
    "max": [lambda: (aten.max.default, r(2, 3))],
    "min": [lambda: (aten.min.default, r(2, 3))],
    "max.dim": [lambda: (aten.max.dim, r(2, 3), 0), lambda: (aten.max.dim, r(2, 3), 1, True)],
    "min.dim": [lambda: (aten.min.dim, r(2, 3), -1)],
    "max_pool2d_with_indices": [
        lambda: (aten.max_pool2d_with_indices.default, r(2, 3, 7, 6), [3, 2]),
        lambda: (aten.max_pool2d_with_indices.default, r(3, 7, 6), [3, 2], [2, 1], [1, 0], [2, 3]),
        lambda: (aten.max_pool2d_with_indices.default, r(2, 3, 8, 6), [3, 3], [2, 2], [1, 1],
                 [1, 1], True)],
    "max_pool3d_with_indices": [
        lambda: (aten.max_pool3d_with_indices.default, r(2, 3, 4, 5, 6), [2, 3, 1], [2, 1, 2],
                 [1, 1, 0], [1, 1, 1], True)],
    "threshold": [lambda: (aten.threshold.default, r(9), 0, 0)],
    "threshold_backward": [lambda: (aten.threshold_backward.default, r(5), ends(0, 1), 0)],
    "gt.Scalar": [lambda: (aten.gt.Scalar, ends(0, 1), 1)],
    "lt.Scalar": [lambda: (aten.lt.Scalar, ends(0, 1), 1)],
    "ge.Scalar": [lambda: (aten.ge.Scalar, ends(0, 1), 1)],
    "le.Scalar": [lambda: (aten.le.Scalar, ends(0, 1), 1)],
    "gt.Tensor": [lambda: (aten.gt.Tensor, ends(0, 1), ends(1, 1))],
    "lt.Tensor": [lambda: (aten.lt.Tensor, ends(0, 1), ends(1, 1))],
    "ge.Tensor": [lambda: (aten.ge.Tensor, ends(0, 1), ends(1, 1))],
    "le.Tensor": [lambda: (aten.le.Tensor, ends(0, 1), ends(1, 1))],
    "logical_and": [lambda: (aten.logical_and.default, r(9) > 0, r(9) > 0)],
    "where.self": [lambda: (aten.where.self, r(9) > 0, r(9), r(9))],
    "_to_copy": [lambda: (aten._to_copy.default, r(9) > 0, {"dtype": torch.float64})],
    "sum": [lambda: (aten.sum.default, r(2, 3))],
    "sum.dim_IntList": [lambda: (aten.sum.dim_IntList, r(2, 3, 4), [0, -1]),
                        lambda: (aten.sum.dim_IntList, r(2, 3, 4), [1], True)],
    "mean": [lambda: (aten.mean.default, r(2, 3))],
    "mean.dim": [lambda: (aten.mean.dim, r(2, 3, 4), [0, -1]),
                 lambda: (aten.mean.dim, r(2, 3, 4), [1], True)],
    "var.correction": [lambda c=c: (aten.var.correction, r(2, 5, 4), [1], {"correction": c})
                       for c in (0, 1, 2)] + [lambda: (aten.var.correction, r(2, 5, 4))],
    "var_mean.correction": [
        lambda: (aten.var_mean.correction, r(2, 5, 4), [1], {"correction": 0, "keepdim": True})],
    "std.correction": [lambda: (aten.std.correction, r(2, 5, 4), [0, 1], {"keepdim": True})],
    "cumsum": [lambda: (aten.cumsum.default, r(2, 5), 1)],
    "index_add": [lambda: (aten.index_add.default, r(3, 2), 0, torch.tensor([2, 0, 2, 2]), r(4, 2),
                           {"alpha": 0.3})],
    "scatter_add": [lambda: (aten.scatter_add.default, r(3, 2), 0,
                             torch.tensor([[2, 0], [2, 2], [0, 1]]), r(3, 2))],
    "index_put": [lambda: (aten.index_put.default, r(3, 2), [torch.tensor([2, 0, 2])], r(3, 2),
                           True)],
    "_softmax": [lambda d=d: (aten._softmax.default, r(2, 3, 4), d, False) for d in (0, -1)],
    "_safe_softmax": [lambda: (aten._safe_softmax.default, r(2, 3, 4), 1)],
    "_log_softmax": [lambda: (aten._log_softmax.default, r(2, 3, 4), 1, False)],
    "logsumexp": [lambda: (aten.logsumexp.default, r(2, 3, 4), [1, 2], True)],
    "_softmax_backward_data": [lambda: (aten._softmax_backward_data.default, r(2, 3), p(2, 3), 1,
                                        torch.float64)],
    "mm": [lambda: (aten.mm.default, r(2, 3), r(3, 4))],
    "bmm": [lambda: (aten.bmm.default, r(5, 2, 3), r(5, 3, 4))],
    "mv": [lambda: (aten.mv.default, r(2, 3), r(3))],
    "dot": [lambda: (aten.dot.default, r(3), r(3))],
    "addmm": [lambda: (aten.addmm.default, r(4), r(2, 3), r(3, 4)),
              lambda: (aten.addmm.default, r(4), r(2, 3), r(3, 4), {"beta": 0.3, "alpha": -2})],
    "baddbmm": [lambda: (aten.baddbmm.default, r(5, 1, 4), r(5, 2, 3), r(5, 3, 4), {"alpha": 0.1})],
    "addmv": [lambda: (aten.addmv.default, r(2), r(2, 3), r(3), {"beta": 2})],
    "_scaled_dot_product_flash_attention_for_cpu": [
        lambda: (aten._scaled_dot_product_flash_attention_for_cpu.default, r(2, 3, 5, 4),
                 r(2, 3, 6, 4), r(2, 3, 6, 4)),
        lambda: (aten._scaled_dot_product_flash_attention_for_cpu.default, r(2, 3, 5, 4),
                 r(2, 3, 6, 4), r(2, 3, 6, 4), {"attn_mask": r(5, 6), "scale": 0.3})],
    "_scaled_dot_product_flash_attention_for_cpu_backward": [
        lambda: (aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
                 *attention_back()),
        lambda: (aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
                 *attention_back(attn_mask=r(5, 6), scale=0.3))],
    "_scaled_dot_product_attention_math": [],
    "convolution": [
        lambda: (aten.convolution.default, *conv(r(2, 4, 6), r(3, 4, 3), r(3), padding=[1])),
        lambda: (aten.convolution.default, *conv(r(2, 4, 6, 5), r(6, 2, 3, 2), None, groups=2,
                                                 stride=[2, 1], dilation=[1, 2], padding=[1, 0])),
        lambda: (aten.convolution.default, *conv(r(2, 4, 3, 4), r(4, 3, 3, 3), r(3), stride=[2, 2],
                                                 transposed=True, output_padding=[1, 0])),
        lambda: (aten.convolution.default, *conv(r(2, 2, 4, 4, 4), r(3, 2, 2, 3, 2), r(3)))],
    "convolution_backward": [
        lambda: (aten.convolution_backward.default, *conv_back(
            r(2, 4, 6, 5), r(6, 2, 3, 2), [True] * 3, groups=2, stride=[2, 1], padding=[1, 0])),
        lambda: (aten.convolution_backward.default, *conv_back(
            r(2, 4, 6), r(3, 4, 3), [True, False, True], dilation=[2]))],
    "native_layer_norm": [
        lambda: (aten.native_layer_norm.default, r(3, 2, 5) * 1e-3, [2, 5], r(2, 5), r(2, 5), 1e-6),
        lambda: (aten.native_layer_norm.default, r(3, 2, 5), [5], None, None, 1e-3)],
    "native_layer_norm_backward": [
        lambda: (aten.native_layer_norm_backward.default, *norm_back("layer"))],
    "native_group_norm": [
        lambda: (aten.native_group_norm.default, r(2, 6, 3, 3) * 1e-3, r(6), r(6), 2, 6, 9, 3,
                 1e-6),
        lambda: (aten.native_group_norm.default, r(2, 6, 3, 3), None, None, 2, 6, 9, 2, 1e-3)],
    "native_group_norm_backward": [
        lambda: (aten.native_group_norm_backward.default, *norm_back("group"))],
    "native_batch_norm": [
        lambda: (aten.native_batch_norm.default, r(2, 3, 4), r(3), r(3), r(3), p(3) * 1e-3, False,
                 0.1, 1e-3),
        lambda: (aten.native_batch_norm.default, r(2, 3), None, None, r(3), p(3), False, 0.1,
                 1e-5),
        lambda: (aten.native_batch_norm.default, r(2, 3, 4) * 1e-3, r(3), r(3), None, None, True,
                 0.1, 1e-6)],
    "_native_batch_norm_legit_no_training": [
        lambda: (aten._native_batch_norm_legit_no_training.default, r(2, 3, 4, 5), r(3), r(3), r(3),
                 p(3), 0.1, 1e-2)],
    "native_batch_norm_backward": [
        lambda: (aten.native_batch_norm_backward.default, r(2, 3, 4, 5), r(2, 3, 4, 5), r(3), r(3),
                 p(3), None, None, False, 1e-2, [True] * 3),
        lambda: (aten.native_batch_norm_backward.default, *norm_back("batch"))],
    "diagonal_backward": [lambda: (aten.diagonal_backward.default, r(3), [4, 3], 0, 0, 1)],
    "unfold_backward": [lambda: (aten.unfold_backward.default, r(3, 4), [6], 0, 4, 1)],
    "col2im": [lambda: (aten.col2im.default, r(2, 8, 9), [4, 4], [2, 2], [1, 1], [0, 0], [1, 1])],
    "upsample_nearest1d_backward": [lambda: (
        aten.upsample_nearest1d_backward.default, r(2, 3, 7), [7], [2, 3, 3])],
    "upsample_nearest2d_backward": [lambda: (
        aten.upsample_nearest2d_backward.default, r(2, 3, 8, 6), [8, 6], [2, 3, 4, 3], 2.0, 2.0)],
    "avg_pool2d": [
        lambda: (aten.avg_pool2d.default, r(2, 3, 7, 6), [3, 2]),
        lambda: (aten.avg_pool2d.default, r(2, 3, 7, 6), [3, 2], [2, 2], [1, 1], True, True),
        lambda: (aten.avg_pool2d.default, r(2, 3, 7, 6), [3, 2], [2, 2], [1, 1], True, False),
        lambda: (aten.avg_pool2d.default, r(2, 3, 7, 6), [3, 2], [2, 1], [1, 0], False, True, 5)],
    "avg_pool2d_backward": [
        lambda: (aten.avg_pool2d_backward.default, r(2, 3, 4, 4), r(2, 3, 7, 6), [3, 2], [2, 2],
                 [1, 1], True, False, None),
        lambda: (aten.avg_pool2d_backward.default, r(2, 3, 2, 3), r(2, 3, 7, 6), [3, 2], [3, 2],
                 [0, 0], False, True, 5)],
    "_adaptive_avg_pool2d_backward": [lambda: (
        aten._adaptive_avg_pool2d_backward.default, r(2, 3, 3, 4), r(2, 3, 7, 5))],
    "_adaptive_avg_pool2d": [lambda: (aten._adaptive_avg_pool2d.default, r(2, 3, 7, 5), [3, 4])],
}  # fmt: skip


def parted(case: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    func, *args = case
    kwargs = args.pop() if isinstance(args[-1], dict) else {}
    return func, tuple(args), kwargs


def halved(given: Any) -> Any:
    if isinstance(given, Tensor) and given.is_floating_point():
        return given.float()
    return given


def further(name: str, case: tuple[Any, ...]) -> list[float]:
    """How much further from torch in float64 a meaning is than torch in float32, per output."""
    func, args, kwargs = parted(case)
    call = recorded(func, args, kwargs)
    assert call.node.name == name
    made = worked_out(call, torch.float32 if name in COARSE else torch.float64)
    assert made is not None, "it has no meaning"
    coarse = func(*map(halved, args), **{k: halved(v) for k, v in kwargs.items()})
    coarse = [t for t in (coarse if isinstance(coarse, tuple) else (coarse,)) if t is not None]
    found = []
    for mine, fine, rough in zip(made, call.outputs, coarse, strict=False):
        assert mine.shape == fine.shape
        if fine.numel():
            own = float((mine.x - fine.double()).abs().max())
            found.append(own - float((rough.double() - fine.double()).abs().max()))
    return found


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("name", CASES)
def test_an_operator_means_what_torch_computes(name: str) -> None:
    torch.manual_seed(0)
    for case in CASES[name]:
        assert all(gap <= 0 for gap in further(name, case())), name


def test_every_meaning_has_a_case_or_is_one_of_these() -> None:
    """Of the rest torch takes another one on this machine."""
    assert {*MEANINGS} == {*CASES}
    none = {name for name, cases in CASES.items() if not cases}
    assert none == {"_scaled_dot_product_attention_math"}


FAULTS: dict[str, Callable[[Any], Any]] = {
    "add.Tensor": lambda call: [call["self"] + meanings._other(call)],  # alpha
    "var.correction": lambda call: [meanings._variance(call) * constant(1.25)],
    "var_mean.correction": lambda call: [*meanings._of_mean(call), meanings._variance(call)],
    "scatter_add": lambda call: [call["self"] + call["src"]],
    "glu": lambda call: [meanings._halves(call)[0] * meanings._halves(call)[1]],
    "_softmax": lambda call: [meanings._softmax_of(call, call["self"], 0)],
    "native_layer_norm": lambda call: [
        meanings._scaled(call["input"], call.get("weight"), None), *call.rest()
    ],
    "silu_backward": lambda call: [call["grad_output"] * meanings._sigmoid(call, call["self"])],
    "hardswish_backward": lambda call: [  # as if the slope were 1 from the lower end on
        call["grad_output"] * call.points.maxima.above(call["self"], constant(-3.0))],
    "leaky_relu": lambda call: [call.points.maxima.between(call["self"], constant(0.0), None)],
    "maximum": lambda call: [call["self"] + call.points.maxima.between(
        call["other"], constant(0.0), None)],
    "ge.Scalar": lambda call: [call.points.maxima.above(call["self"], constant(1.0))],
    "amax": lambda call: [call.points.maxima.smallest(*meanings._along(call))],
    "addmm": lambda call: [meanings.product(call["mat1"], call["mat2"]) + call["self"]],
}  # fmt: skip


@pytest.mark.usefixtures("real")
@pytest.mark.parametrize("name", FAULTS)
def test_a_meaning_that_is_wrong_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setitem(MEANINGS, name, (MEANINGS[name][0], FAULTS[name]))
    assert any(gap > 0 for case in CASES[name] for gap in further(name, case()))


def test_who_is_called_otherwise_has_no_meaning() -> None:
    for case in (
        (aten.threshold.default, r(9), 0, 1),
        (aten.leaky_relu_backward.default, r(9), r(9), 0.1, True),
        (aten.pow.Tensor_Scalar, p(9), 2.5),
        (aten.softplus.default, r(9), 2),
        (aten.softplus.default, r(9), 1, 10),
        (aten.softplus_backward.default, r(9), r(9), 1, 20),
        (aten.div.Scalar, r(9), 0),
        (aten.add.Scalar, r(9), float("inf")),
        (aten._to_copy.default, r(9), {"dtype": torch.bfloat16}),
        (aten.index_put.default, r(3, 2), [torch.tensor([2, 0, 2])], r(3, 2)),
    ):
        func, args, kwargs = parted(case)
        assert worked_out(recorded(func, args, kwargs)) is None, case


def test_a_constant_is_the_number_that_a_dtype_holds() -> None:
    assert constant(0.1).value == Fraction(0.1)
    assert constant(0.1, torch.float32).value == Fraction(float(torch.tensor(0.1).double()))
    assert constant(0.1, torch.float32) != constant(0.1)
    assert [constant(v).variable for v in (0.5, 3, -196.0, 0.1, 2.0**-30)] == [False] * 3 + [
        True
    ] * 2
