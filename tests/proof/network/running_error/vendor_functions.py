"""How far torch's functions err on this processor, as a share of what their rules grant.

`python -m tests.proof.network.running_error.vendor_functions` prints the vector units and, for each
function, the largest error over its bound: float32 against torch's float64, float64 against mpmath.
ATEN_CPU_CAPABILITY (default, avx2, avx512) chooses the kernels, once a process.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import mpmath
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convgraph.proof.network.running_error.bound import RunningBound

FINER = 2.0**-28
"""Of a value: what float64's own error may add to a comparison with float32."""

Function = Callable[[Tensor], Tensor]
FUNCTIONS: dict[str, tuple[Function, Callable[[mpmath.mpf], mpmath.mpf], str]] = {
    "sqrt": (torch.sqrt, mpmath.sqrt, "positive"),
    "rsqrt": (torch.rsqrt, lambda x: 1 / mpmath.sqrt(x), "positive"),
    "reciprocal": (torch.reciprocal, lambda x: 1 / x, "positive"),
    "square root as a power": (lambda x: x**0.5, mpmath.sqrt, "positive"),
    "cube": (lambda x: x**3, lambda x: x**3, "signed"),
    "exp": (torch.exp, mpmath.exp, "signed"),
    "log": (torch.log, mpmath.log, "positive"),
    "tanh": (torch.tanh, mpmath.tanh, "signed"),
    "atan": (torch.atan, mpmath.atan, "signed"),
    "erf": (torch.erf, mpmath.erf, "signed"),
    "sin": (torch.sin, mpmath.sin, "signed"),
    "cos": (torch.cos, mpmath.cos, "signed"),
    "sigmoid": (torch.sigmoid, lambda x: 1 / (1 + mpmath.exp(-x)), "signed"),
    "silu": (F.silu, lambda x: x / (1 + mpmath.exp(-x)), "signed"),
    "gelu": (F.gelu, lambda x: x * mpmath.ncdf(x), "signed"),
    "gelu, tanh": (
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + GELU * x**3))),
        "signed",
    ),
    "mish": (F.mish, lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))), "signed"),
    "softplus": (F.softplus, lambda x: mpmath.log1p(mpmath.exp(x)), "signed"),
    "elu": (F.elu, lambda x: x if x > 0 else mpmath.expm1(x), "signed"),
    "hardswish": (F.hardswish, lambda x: x * min(max(x + 3, 0), 6) / 6, "signed"),
    "hardsigmoid": (F.hardsigmoid, lambda x: min(max(x + 3, 0), 6) / mpmath.mpf(6), "signed"),
}
GELU = mpmath.mpf(0.044715)

SLOPES = ("tanh", "sigmoid", "silu", "gelu", "gelu, tanh", "elu", "hardswish")
"""Functions whose backward operators are measured as well.

hardsigmoid's takes a sixth in float32 for float64 too: a constant of torch's, and no rounding.
"""


def _slope(of: Function) -> Function:
    def made(x: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        y = of(leaf)
        return torch.autograd.grad(y, leaf, torch.ones_like(y))[0]

    return made


for _name in SLOPES:
    _of, _exact, _kind = FUNCTIONS[_name]
    FUNCTIONS[f"slope of {_name}"] = _slope(_of), partial(mpmath.diff, _exact), _kind


def _points(kind: str, count: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    wide = 2 * torch.rand(count, generator=generator, dtype=torch.float64) - 1
    if kind == "signed":  # softplus is the identity above 20
        return (wide * 20).to(dtype)
    near_one = 1 + wide[: count // 2] * 0.1
    return torch.cat([near_one, (wide[count // 2 :] * 30).exp()]).to(dtype)


def _truth(function: Callable[[mpmath.mpf], mpmath.mpf], x: Tensor, y: Tensor) -> Tensor:
    """|y - f(x)| for float64, to 120 bits."""
    with mpmath.workprec(120):
        pairs = zip(x.tolist(), y.tolist(), strict=True)
        return torch.tensor(
            [float(abs(mpmath.mpf(b) - function(mpmath.mpf(a)))) for a, b in pairs],
            dtype=torch.float64,
        )


def share(name: str, dtype: torch.dtype) -> float:
    """Return the largest error of a function over its bound."""
    function, exact, kind = FUNCTIONS[name]
    x = _points(kind, 1 << 18 if dtype == torch.float32 else 400, dtype)
    running = RunningBound(nn.Module())
    y = running.run(lambda: function(x), gradients="slope" in name)
    if running.missing:
        raise ValueError(running.missing)
    if dtype == torch.float64:
        error, spare = _truth(exact, x, y), 0.0
    else:
        fine = function(x.double())
        error, spare = (y.double() - fine).abs(), FINER * fine.abs()
    return float(((error - spare) / running.bound(y)).max())


def measured() -> dict[str, Any]:
    """Return the vector units that run here and, by dtype and function, the share of its bound."""
    found = {
        str(dtype).removeprefix("torch."): {
            name: round(share(name, dtype), 4) for name in FUNCTIONS
        }
        for dtype in (torch.float32, torch.float64)
    }
    return {"vector units": torch.backends.cpu.get_cpu_capability(), **found}


def main() -> None:
    """Print what was measured."""
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(measured()) + "\n")


if __name__ == "__main__":
    main()
