"""The running error bound: never exceeded, named where it ends, no blanket.

Each rule is held against the same operator in float64 on the same float32 numbers, whose own error
is smaller by 2^29, with inputs that are off by their bound in every direction that a sample finds.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convgraph.proof.network.running_error import bound
from convgraph.proof.network.running_error.bound import RunningBound
from convgraph.proof.network.running_error.call import RULES

FINER = 2.0**-28
"""Of a bound: what float64's own error may add to a comparison."""


def carried(run: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, Tensor]:
    running = RunningBound(nn.Module())
    y = running.run(lambda: run(*inputs))
    assert running.missing == ""
    return y, running.bound(y)


def around(*values: Tensor) -> list[Tensor]:
    """Each as the sum of two: its rounding error is known to the bound, and not zero."""
    return [v + v.roll(1, -1) for v in values]


X = (2, 6, 8, 8)
AT = torch.tensor([3, 3, 0, 5])
INNER = (..., slice(1, 7), slice(2, 6))
aten = torch.ops.aten


def pooled_back(
    x: Tensor, w: Tensor, kernel: Any, stride: Any, pad: Any = 0, gap: Any = 1, ceil: bool = False
) -> Tensor:
    how = (kernel, stride, pad, gap, ceil)
    y, chosen = aten.max_pool2d_with_indices(x, *how)
    g = w[:2, :, : y.shape[2], : y.shape[3]]
    found: Tensor = aten.max_pool2d_with_indices_backward(g, x, *how, chosen)
    return found


def volume_back(x: Tensor, w: Tensor) -> Tensor:
    how = (2, 2, 0, 1, False)
    y, chosen = aten.max_pool3d_with_indices(x, *how)
    g = w[tuple(slice(n) for n in y.shape)]
    found: Tensor = aten.max_pool3d_with_indices_backward(g, x, *how, chosen)
    return found


def convolved_back(x: Tensor, w: Tensor) -> Any:
    how = ([4], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, True])
    return aten.convolution_backward(w[:2, :4], x, w[:4, :, :3, :3], *how)


def batch_normed_back(x: Tensor, w: Tensor) -> Any:
    held = w[0, :, 0, 0], x.new_full((6,), 0.25), x.new_full((6,), 0.75), None, None
    return aten.native_batch_norm_backward(w[:2], x, *held, False, 1e-5, [True, True, True])


def normed_back(x: Tensor, w: Tensor) -> Any:
    held = [8], w[0, 0, 0], w[0, 0, 1]
    _, mean, rstd = aten.native_layer_norm(x, *held, 1e-5)
    back = aten.native_layer_norm_backward
    return back(w[:2], x, held[0], mean, rstd, *held[1:], [True, True, True])


def groups_back(x: Tensor, w: Tensor) -> Any:
    held = w[0, :, 0, 0], 2, 6, 64, 3
    _, mean, rstd = aten.native_group_norm(x, held[0], None, *held[1:], 1e-5)
    return aten.native_group_norm_backward(w[:2], x, mean, rstd, *held, [True, True, True])


def trained_back(x: Tensor, w: Tensor) -> Any:
    held = w[0, :, 0, 0], w[0, :, 0, 1]
    _, mean, rstd = aten.native_batch_norm(x, *held, None, None, True, 0.1, 1e-5)
    back = aten.native_batch_norm_backward
    return back(w[:2], x, held[0], None, None, mean, rstd, True, 1e-5, [True, True, True])


HEARD = torch.ones(8, 8, dtype=torch.bool).tril(2)
ATTENTION: dict[str, dict[str, Any]] = {
    "plain": {}, "causal": {"is_causal": True}, "scaled": {"scale": 0.2},
    "masked": {"attn_mask": torch.zeros(8, 8).masked_fill(~HEARD, -torch.inf)},
}  # fmt: skip


def attended(x: Tensor, w: Tensor, how: str) -> Any:
    """The output, the logarithm of each sum, and the gradients of queries, keys and values."""
    q, k, v, more = x, x.roll(1, 0) + w[:2], w[2:4] - x, dict(ATTENTION[how])
    causal = more.pop("is_causal", False)
    more |= {name: mask.to(x.dtype) for name, mask in more.items() if name == "attn_mask"}
    name = "_scaled_dot_product_flash_attention_for_cpu"
    out, sums = getattr(aten, name)(q, k, v, 0.0, causal, **more)
    back = getattr(aten, f"{name}_backward")
    return out, sums, *back(w[4:6], q, k, v, out, sums, 0.0, causal, **more)


def by_softmax(x: Tensor, w: Tensor, log: bool) -> Tensor:
    name = "_log_softmax" if log else "_softmax"
    y = getattr(aten, name)(x, 1, False)
    found: Tensor = getattr(aten, f"{name}_backward_data")(w[:2], y, 1, x.dtype)
    return found


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "conv": lambda x, w: F.conv2d(x, w[:4, :, :3, :3], w[0, 0, 0, :4], padding=1),
    "depthwise": lambda x, w: F.conv2d(x, w[:, :1, :3, :3], stride=2, groups=6),
    "transposed": lambda x, w: F.conv_transpose2d(x, w[:, :4, :3, :3], w[0, 0, 0, :4], stride=2),
    "linear": lambda x, w: F.linear(x, w[0, 0, :5], w[0, 0, 0, :5]),
    "matmul": lambda x, w: x @ w[:2],
    "add": lambda x, w: x + w[:2],
    "sub alpha": lambda x, w: torch.sub(x, w[:2], alpha=0.3),
    "rsub": lambda x, w: 1.7 - x,
    "mul": lambda x, w: x * w[:2],
    "scalar": lambda x, w: x * 0.3 + 0.1,
    "div": lambda x, w: x / (w[:2].abs() + 0.5),
    "relu": lambda x, w: x.relu(),
    "relu6": lambda x, w: F.relu6(x),
    "leaky": lambda x, w: F.leaky_relu(x, 0.3),
    "prelu": lambda x, w: F.prelu(x, w[0, :, 0, 0].abs()),
    "elu": lambda x, w: F.elu(x),
    "sigmoid": lambda x, w: x.sigmoid(),
    "tanh": lambda x, w: x.tanh(),
    "silu": lambda x, w: F.silu(x),
    "gelu": lambda x, w: F.gelu(x),
    "gelu tanh": lambda x, w: F.gelu(x, approximate="tanh"),
    "hardswish": lambda x, w: F.hardswish(x),
    "hardsigmoid": lambda x, w: F.hardsigmoid(x),
    "softplus": lambda x, w: F.softplus(x),
    "mish": lambda x, w: F.mish(x),
    "atan": lambda x, w: x.atan(),
    "erf": lambda x, w: x.erf(),
    "exp": lambda x, w: x.exp(),
    "log": lambda x, w: (x.abs() + 0.1).log(),
    "sqrt": lambda x, w: x.abs().sqrt(),
    "rsqrt": lambda x, w: (x.abs() + 0.1).rsqrt(),
    "reciprocal": lambda x, w: (x.abs() + 0.1).reciprocal(),
    "square": lambda x, w: x**2,
    "cube": lambda x, w: x**3,
    "vector norm": lambda x, w: torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True),
    "mean": lambda x, w: x.mean((2, 3), keepdim=True),
    "sum": lambda x, w: x.sum(1),
    "amax": lambda x, w: x.amax((2, 3)),
    "max pool": lambda x, w: F.max_pool2d(x, 3, 2, 1),
    "adaptive max": lambda x, w: F.adaptive_max_pool2d(x, 3),
    "average": lambda x, w: F.avg_pool2d(x, 3, 2, 1),
    "adaptive": lambda x, w: F.adaptive_avg_pool2d(x, 3),
    "bilinear": lambda x, w: F.interpolate(x, size=(13, 5), mode="bilinear"),
    "corners": lambda x, w: F.interpolate(x, size=(13, 5), mode="bilinear", align_corners=True),
    "nearest": lambda x, w: F.interpolate(x, scale_factor=2),
    "softmax": lambda x, w: x.softmax(1),
    "batch norm": lambda x, w: F.batch_norm(
        x, w[0, :, 0, 0], w[0, :, 0, 1].abs() + 0.1, w[0, :, 0, 2], w[0, :, 0, 3]
    ),
    "layer norm": lambda x, w: F.layer_norm(x, (8,), w[0, 0, 0], w[0, 0, 1]),
    "group norm": lambda x, w: F.group_norm(x, 3, w[0, :, 0, 2], w[0, :, 0, 3]),
    "shuffle": lambda x, w: F.channel_shuffle(x, 2).flip(1),
    "pads": lambda x, w: F.pad(F.pad(x, (1, 1, 2, 0), mode="reflect"), (2, 0), value=0.5),
    "cat": lambda x, w: torch.cat([x, w[:2]], 1)[:, ::2].permute(0, 2, 3, 1).reshape(2, -1),
    "in place": lambda x, w: x.clone().add_(w[:2]).relu_().mul_(1.5),
    "transpose": lambda x, w: x.clone().transpose(1, 2).contiguous() * 0.7,
    "powers": lambda x, w: x**1 + x**0 + (x.abs() + 0.1) ** -1 + (x.abs() + 0.1) ** -0.5,
    "leaky back": lambda x, w: aten.leaky_relu_backward(w[:2], x, 0.3, False),
    "elu back": lambda x, w: aten.elu_backward(w[:2], 1.0, 1.0, 1.0, False, x),
    "silu back": lambda x, w: aten.silu_backward(w[:2], x),
    "gelu back": lambda x, w: aten.gelu_backward(w[:2], x),
    "gelu tanh back": lambda x, w: aten.gelu_backward(w[:2], x, approximate="tanh"),
    "hardswish back": lambda x, w: aten.hardswish_backward(w[:2], x),
    "slice back": lambda x, w: aten.slice_backward(w[:2], (2, 6, 8, 20), 3, 2, 18, 2),
    "reflect back": lambda x, w: aten.reflection_pad2d_backward(w[:2], x[INNER], [2, 2, 1, 1]),
    "replicate back": lambda x, w: aten.replication_pad2d_backward(w[:2], x[INNER], [2, 2, 1, 1]),
    "relu back": lambda x, w: aten.threshold_backward(w[:2], x.relu(), 0),
    "max pool back": lambda x, w: pooled_back(x, w, (3, 3), (2, 2), (1, 1)),
    "dilated pool back": lambda x, w: pooled_back(x, w, (2, 3), (1, 2), (0, 1), (2, 1)),
    "ceil pool back": lambda x, w: pooled_back(x, w, (3, 3), (3, 3), (0, 0), (1, 1), True),
    "tied pool back": lambda x, w: pooled_back(x.relu(), w, (2, 2), (1, 1)),
    "layer norm back": lambda x, w: normed_back(x, w)[0],
    "layer norm weight back": lambda x, w: normed_back(x, w)[1],
    "layer norm bias back": lambda x, w: normed_back(x, w)[2],
    "tanh back": lambda x, w: aten.tanh_backward(w[:2], x.tanh()),
    "sigmoid back": lambda x, w: aten.sigmoid_backward(w[:2], x.sigmoid()),
    "hardtanh back": lambda x, w: aten.hardtanh_backward(w[:2], x, -0.5, 0.7),
    "hardsigmoid back": lambda x, w: aten.hardsigmoid_backward(w[:2], x),
    "conv back": lambda x, w: convolved_back(x, w)[0],
    "conv weight back": lambda x, w: convolved_back(x, w)[1],
    "conv bias back": lambda x, w: convolved_back(x, w)[2],
    "batch norm back": lambda x, w: batch_normed_back(x, w)[0],
    "batch norm weight back": lambda x, w: batch_normed_back(x, w)[1],
    "batch norm bias back": lambda x, w: batch_normed_back(x, w)[2],
    "average back": lambda x, w: aten.avg_pool2d_backward(
        w[:2, :, :4, :4], x, [3, 3], [2, 2], [1, 1], False, True, None
    ),
    "adaptive back": lambda x, w: aten._adaptive_avg_pool2d_backward(w[:2, :, :3, :3], x),
    "nearest back": lambda x, w: aten.upsample_nearest2d_backward(w[:2], [8, 8], [2, 6, 4, 4]),
    "bilinear back": lambda x, w: aten.upsample_bilinear2d_backward(
        w[:2], [8, 8], [2, 6, 3, 5], False
    ),
    "linear back": lambda x, w: aten.upsample_linear1d_backward(w[0], [8], [6, 8, 5], False),
    "trilinear back": lambda x, w: aten.upsample_trilinear3d_backward(
        w[None, :2], [6, 8, 8], [1, 2, 2, 5, 9], False
    ),
    "bilinear back, of corners": lambda x, w: aten.upsample_bilinear2d_backward(
        w[:2], [8, 8], [2, 6, 13, 5], True
    ),
    "select back": lambda x, w: aten.select_backward(w[:2], (2, 6, 3, 8, 8), 2, 1),
    "index add": lambda x, w: x.index_add(3, AT, w[:2, ..., :4]),
    "extremes": lambda x, w: torch.maximum(torch.minimum(x, w[:2]), x * 0.5),
    "clamped": lambda x, w: x.clamp(-0.5, 0.7).clamp_min(-0.3).clamp_max(0.6).neg().abs(),
    "hardtanh": lambda x, w: F.hardtanh(x),
    "filled": lambda x, w: x.masked_fill(torch.arange(8) < 3, 0.5) * 1.1,
    "products": lambda x, w: F.linear(x[0, 0], w[0, 0], w[0, 0, 0]) + torch.mv(x[0, 0], w[0, 0, 0]),
    "batches": lambda x, w: torch.baddbmm(w[0], x[0], w[1]) + torch.bmm(x[1], w[2]),
    "vectors": lambda x, w: torch.addmv(w[0, 0, 0], x[0, 0], w[0, 1, 0]) + x[0, 0, 0] @ w[0, 0, 1],
    "volume": lambda x, w: F.max_pool3d(F.avg_pool3d(x, 2, 1), 2),
    "row": lambda x, w: F.avg_pool1d(F.adaptive_avg_pool1d(x[0, 0], 6), 2),
    "smallest": lambda x, w: x.amin((2, 3)),
    "there": lambda x, w: torch.where(torch.arange(8) < 3, x, w[:2]),
    "cast": lambda x, w: (x * 1.1).to(torch.float64 if x.dtype == torch.float64 else torch.half),
    "matrices": lambda x, w: torch.mm(x[0, 0], w[0, 0]),
    "adaptive volume": lambda x, w: F.adaptive_avg_pool3d(F.adaptive_max_pool3d(x, 4), 3),
    "trilinear": lambda x, w: F.interpolate(x[None], size=(5, 9, 4), mode="trilinear"),
    "resized row": lambda x, w: F.interpolate(x[0], size=13, mode="linear"),
    "pads of a row back": lambda x, w: (
        aten.reflection_pad1d_backward(w[0], x[0, ..., 2:6], [2, 2])
        + aten.replication_pad1d_backward(w[1], x[0, ..., 2:6], [2, 2])
    ),
    "pads of a volume back": lambda x, w: (
        aten.reflection_pad3d_backward(w[:2], x[:, 1:5, 1:7, 2:6], [2, 2, 1, 1, 1, 1])
        + aten.replication_pad3d_backward(w[:2], x[:, 1:5, 1:7, 2:6], [2, 2, 1, 1, 1, 1])
    ),
    "max pool of a volume back": lambda x, w: volume_back(x, w),
    "sines": lambda x, w: x.sin() + x.cos(),
    "unfold back": lambda x, w: aten.col2im(
        w[:2, :, :6].flatten(1, 2), [3, 8], [2, 3], [1, 2], [1, 0], [2, 1]
    ),
    "sliding back": lambda x, w: aten.unfold_backward(
        w[:2].unflatten(3, (2, 4)), [2, 6, 8, 6], 3, 4, 2
    ),
    "group norm back": lambda x, w: groups_back(x, w)[0],
    "group norm weight back": lambda x, w: groups_back(x, w)[1],
    "group norm bias back": lambda x, w: groups_back(x, w)[2],
    "safe softmax": lambda x, w: aten._safe_softmax(x.masked_fill(~HEARD, -torch.inf), -1),
    "log softmax": lambda x, w: x.log_softmax(1),
    "softmax back": lambda x, w: by_softmax(x, w, log=False),
    "log softmax back": lambda x, w: by_softmax(x, w, log=True),
    "sum of exponentials": lambda x, w: x.logsumexp(1),
    **{f"attention {how} {place}": lambda x, w, how=how, place=place: attended(x, w, how)[place]
       for how in ATTENTION for place in range(5)},
    "batch norm, trained": lambda x, w: F.batch_norm(
        x, x.new_zeros(6), x.new_ones(6), w[0, :, 0, 2], w[0, :, 0, 3], training=True
    ),
    "batch norm, trained back": lambda x, w: trained_back(x, w)[0],
    "batch norm, trained weight back": lambda x, w: trained_back(x, w)[1],
    "batch norm, trained bias back": lambda x, w: trained_back(x, w)[2],
    "celu": lambda x, w: F.celu(x, 1.7) + F.selu(w[:2]),
    "shrinks": lambda x, w: F.softshrink(x, 0.3) + F.hardshrink(w[:2] * 0.3, 0.2),
    "with a product": lambda x, w: torch.addcmul(x, w[:2], w[2:4], value=0.3),
    "with a quotient": lambda x, w: torch.addcdiv(x, w[:2], w[2:4].abs() + 0.5, value=0.3),
    "between": lambda x, w: torch.lerp(x, w[:2], 0.3) + torch.lerp(x, w[:2], w[2:4]),
    "two exponentials": lambda x, w: torch.logaddexp(x, w[:2]),
    "gated": lambda x, w: F.glu(x, 1),
    "less one": lambda x, w: x.expm1(),
    "powers of two": lambda x, w: x.exp2(),
    "logarithms": lambda x, w: (x.abs() + 0.1).log2() + (x.abs() + 0.1).log10() + x.abs().log1p(),
    "log sigmoid": lambda x, w: F.logsigmoid(x),
    "running sum": lambda x, w: x.cumsum(3),
    "variance": lambda x, w: x.var((0, 2, 3)) + x.var((0, 2, 3), correction=0),
    "deviation": lambda x, w: x.std((1, 3), keepdim=True),
    "celu back": lambda x, w: aten.elu_backward(w[:2], 1.7, 1.0, 1 / 1.7, False, x),
    "selu back": lambda x, w: aten.elu_backward(w[:2], 1.67, 1.05, 1.0, False, x),
    "mish back": lambda x, w: aten.mish_backward(w[:2], x),
    "softplus back": lambda x, w: aten.softplus_backward(w[:2], x, 2, 20),
    "log sigmoid back": lambda x, w: aten.log_sigmoid_backward(
        w[:2], x, aten.log_sigmoid_forward(x)[1]
    ),
    "gated back": lambda x, w: aten.glu_backward(w[:2, :3], x, 1),
    "shrinks back": lambda x, w: (
        aten.softshrink_backward(w[:2], x, 0.3) + aten.hardshrink_backward(w[:2], x, 0.3)
    ),
    "prelu back": lambda x, w: aten._prelu_kernel_backward(w[:2], x, w[2:4])[0],
    "prelu weight back": lambda x, w: aten._prelu_kernel_backward(w[:2], x, w[2:4])[1],
    "average of a volume back": lambda x, w: aten.avg_pool3d_backward(
        w[:2, :3, :4, :4], x, [2, 2, 2], [2, 2, 2], [0, 0, 0], False, True, None
    ) + aten._adaptive_avg_pool3d_backward(w[:2, :3, :4, :4], x),
    "index": lambda x, w: aten.index(x, [None, AT]) * 1.1,
    "index put": lambda x, w: aten.index_put(x, [None, AT], w[:2, :4], True),
    "index write": lambda x, w: aten.index_put(x, [None, AT[1:]], w[:2, :3], False),
}  # fmt: skip


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e-3])
@pytest.mark.parametrize("name", OPERATORS)
def test_no_error_exceeds_its_bound(name: str, scale: float) -> None:
    run = OPERATORS[name]
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        x = scale * torch.randn(X, generator=generator)
        w = torch.randn((6, 6, 8, 8), generator=generator)
        y, bound = carried(lambda a, b: run(*around(a, b)), x, w)
        exact = run(*around(x.double(), w.double()))
        error = (y.double() - exact).abs()
        assert bool((error <= bound + FINER * exact.abs()).all()), float((error / bound).max())


@pytest.mark.parametrize("name", OPERATORS)
def test_a_bound_is_no_blanket(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(X, generator=generator), torch.randn((6, 6, 8, 8), generator=generator)
    y, bound = carried(lambda a, b: OPERATORS[name](*around(a, b)), x, w)
    assert float(bound.median()) < 1e-3 * float(y.abs().max())


ELSEWHERE = {
    "_native_batch_norm_legit_no_training", "adaptive_avg_pool1d", "avg_pool1d", "batch_norm",
    "cudnn_batch_norm", "detach", "index", "linear", "max_pool1d", "max_pool2d", "max_pool3d",
    "relu6",
}  # fmt: skip
"""Names that torch takes apart here; on a card and in inference mode they may come as they are. An
index moves here, and is an operator where two runs are held side by side."""


def test_every_rule_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set[str]()

    class Tried(dict[str, Any]):
        def get(self, name: str, default: Any = None) -> Any:
            seen.add(name)
            return super().get(name, default)

    monkeypatch.setattr(bound, "RULES", Tried(RULES))
    for run in OPERATORS.values():
        carried(run, torch.rand(X), torch.rand(6, 6, 8, 8))
    assert RULES.keys() - seen == ELSEWHERE


OFF = ["conv", "sigmoid", "layer norm", "mul", "softmax", "batch norm"]
OFF += ["leaky back", "elu back", "silu back", "gelu back", "gelu tanh back", "hardswish back"]
OFF += ["index put", "index write", "powers", "relu back", "max pool back", "dilated pool back"]
OFF += ["layer norm back", "layer norm weight back"]
OFF += ["group norm back", "group norm weight back", "log softmax", "softmax back"]
OFF += ["log softmax back", "sum of exponentials"]
OFF += ["celu", "with a product", "with a quotient", "between", "two exponentials", "gated"]
OFF += ["log sigmoid", "deviation", "variance", "celu back", "selu back", "mish back"]
OFF += ["softplus back", "log sigmoid back", "gated back", "shrinks back", "prelu back"]
OFF += ["prelu weight back", "shrinks", "less one", "powers of two", "logarithms", "running sum"]
OFF += ["batch norm, trained", "batch norm, trained back", "batch norm, trained weight back"]
OFF += [f"attention masked {place}" for place in range(5)]


@pytest.mark.parametrize("name", OFF)
def test_inputs_off_by_their_bound_stay_within(name: str) -> None:
    """A far larger error comes in than rounding makes: the part of the bound that is carried."""
    run, generator = OPERATORS[name], torch.Generator().manual_seed(3)
    x = torch.randn(X, generator=generator, dtype=torch.float64)
    w = torch.randn((6, 6, 8, 8), generator=generator, dtype=torch.float64)
    error = 1e-3 * torch.rand(X, generator=generator, dtype=torch.float64)
    running = RunningBound(nn.Module())

    def off() -> Tensor:
        given = x.clone()
        running._write(given, error)
        return run(given, w)

    y = running.run(off)
    for _ in range(20):
        sign = torch.randint(-1, 2, X, generator=generator)
        other = run(x + sign * error, w)
        assert bool(((other - y).abs() <= running.bound(y)).all())
    assert float(running.bound(y).max()) > 1e-5


def test_a_network_stays_within_its_bound() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Hardswish(),
        nn.Conv2d(8, 8, 3, stride=2, groups=4), nn.GELU(), nn.Flatten(), nn.Linear(72, 5),
    ).eval()  # fmt: skip
    x = torch.randn(2, 3, 8, 8)
    y, bound = carried(net, x)
    exact = net.double()(x.double())
    assert bool(((y.double() - exact).abs() <= bound).all())
    assert float(bound.max()) < float(y.abs().max())


def test_an_operator_without_a_rule_is_named_with_its_module() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x * 1.1)

    net = nn.Sequential(nn.ReLU(), Odd())
    running = RunningBound(net)
    running.run(lambda: net(torch.randn(2, 3)))
    assert running.missing == "special_bessel_j0 at '1' (no rule for its error)"


def test_a_bound_too_small_is_found() -> None:
    """The comparison of this file fails for a bound that a thousandth is missing of."""
    x, w = torch.randn(X), torch.randn(6, 6, 8, 8)
    y, bound = carried(lambda a, b: OPERATORS["conv"](*around(a, b)), x, w)
    error = (y.double() - OPERATORS["conv"](*around(x.double(), w.double()))).abs()
    assert not bool((error <= bound / 1000).all())


def test_a_choice_that_rounding_can_change_ends_the_bound() -> None:
    def chosen(x: Tensor) -> Tensor:
        y = x * 1.1
        return y.flatten(1).gather(1, y.flatten(1).argmax(1, keepdim=True)) * 2

    running = RunningBound(nn.Module())
    running.run(lambda: chosen(torch.randn(X)))
    assert "gather" in running.missing or "argmax" in running.missing


def test_a_choice_among_exact_numbers_is_exact() -> None:
    _, bound = carried(lambda x: torch.where(x > 0, x, 0.0), torch.randn(X))
    assert not bool(bound.any())
