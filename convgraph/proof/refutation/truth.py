"""The truth as a differentiable program: what a suspect is measured against, and what one may be.

    y[p] = b + sum over edges (q, p, t) of  W[:, :, t] x[q]

summed over the oracle's edges with torch, so that one program gives y, the gradients and the second
derivatives, and so that a known fault is a small change to it: other edges, another W, another x.
On the integers of inputs everything is exact.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from convgraph.proof.equation.oracle import Oracle
from convgraph.proof.equation.spec import ConvSpec

Run = Callable[..., Tensor]
Array = npt.NDArray[Any]
Measured = dict[str, Array | str]
"""Quantity -> its numbers, or in words why there are none."""

FIRST = ("y", "grad_x", "grad_w", "grad_b")
SECOND = ("grad_grad_x", "grad_grad_w", "grad_grad_g")
QUANTITIES = (*FIRST, *SECOND)
"""Output, gradients, and the derivatives of the gradients by x, w and g."""

INPUTS = {
    "y": ("x", "w", "b"),
    "grad_x": ("x", "w", "b", "g"),
    "grad_w": ("x", "w", "b", "g"),
    "grad_b": ("x", "w", "b", "g"),
} | dict.fromkeys(SECOND, ("x", "w", "b", "g", "hx", "hw", "hb"))
"""What each quantity is computed from; h are the heads of the gradients."""


@final
@dataclass(frozen=True, eq=False)
class Inputs:
    """Integers to feed in: x, w, b, the gradient g of y, and heads hx, hw, hb of the gradients.

    Attributes:
        values: name -> int64 array; b and hb are missing where there is no bias.
    """

    values: dict[str, Array] = field(default_factory=dict)

    @classmethod
    def random(cls, oracle: Oracle, generator: np.random.Generator, a: int) -> "Inputs":
        """Draw every entry uniformly from the integers of [-a, a]."""
        spec = oracle.spec
        shapes = {
            "x": spec.x_shape,
            "w": spec.w_shape,
            "g": oracle.y_shape,
            "hx": spec.x_shape,
            "hw": spec.w_shape,
        }
        if spec.bias:
            shapes |= {"b": (spec.out_channels,), "hb": (spec.out_channels,)}
        return cls(
            {
                name: generator.integers(-a, a, size=shape, endpoint=True, dtype=np.int64)
                for name, shape in shapes.items()
            }
        )

    def with_(self, **values: Array) -> "Inputs":
        """Return inputs with some of the arrays replaced."""
        return replace(self, values=self.values | values)


def operator(spec: ConvSpec, oracle: Oracle | None = None) -> Run:
    """Return the convolution of a spec as f(x, w, b) -> y, differentiable as often as wanted.

    Args:
        spec: the integers of the operator.
        oracle: of the spec, if its edges have been worked out already.

    Example:
        >>> run = operator(ConvSpec(1, 1, (3,), (3,), batch=1, padding=((1, 1),), bias=False))
        >>> run(torch.tensor([[[1, 2, 3]]]), torch.tensor([[[1, 10, 100]]]), None).tolist()
        [[[210, 321, 32]]]
    """
    oracle = oracle or Oracle(spec)
    e = oracle.edges
    return along(spec, oracle.y_shape, e.source, e.target, e.tap, oracle.targets)


def along(
    spec: ConvSpec,
    y_shape: tuple[int, ...],
    source: Array,  # (E,) flat pixels
    target: Array,  # (E,) flat sites
    tap: Array,  # (E,)
    targets: Array | None = None,  # (sites,) bool, which get the bias; None for all
) -> Run:
    """Return f(x, w, b) -> y that sums along the edges it is given, whatever they are."""
    pairs = [
        (torch.from_numpy(source[tap == t]), torch.from_numpy(target[tap == t]))
        for t in range(spec.taps)
    ]
    receives = None if targets is None or targets.all() else torch.from_numpy(targets.copy())

    def run(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        rows = x.movedim(1, -1).reshape(-1, x.shape[1])
        taps = w.reshape(spec.groups, w.shape[0] // spec.groups, w.shape[1], spec.taps)
        taps = taps.permute(3, 0, 1, 2) if spec.transposed else taps.permute(3, 0, 2, 1)
        sites = y_shape[0] * prod(y_shape[2:])
        y = rows.new_zeros(sites, y_shape[1])
        for t, (q, p) in enumerate(pairs):
            blocks = rows[q].reshape(len(q), spec.groups, x.shape[1] // spec.groups)
            if taps.shape[2:] == (1, 1):  # depthwise: a matrix of one number each
                said = blocks * taps[t].squeeze(2)
            else:
                said = (blocks.transpose(0, 1) @ taps[t]).transpose(0, 1)
            y = y.index_add(0, p, said.reshape(len(q), y_shape[1]))
        if b is not None:
            y = y + (b if receives is None else receives.unsqueeze(1).to(b.dtype) * b)
        return y.reshape(y_shape[0], *y_shape[2:], y_shape[1]).movedim(-1, 1)

    return run


def measure(
    run: Run,
    inputs: Inputs,
    quantities: tuple[str, ...] = FIRST,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Measured:
    """Return what a side gives for inputs, as float64 arrays.

    Args:
        run: f(x, w, b) -> y.
        inputs: the integers.
        quantities: which to compute; a second derivative costs a double backward.
        dtype: float64 or float32, in which the side computes.
        device: where it computes.

    Returns:
        Each quantity's numbers, or why there are none, in words. A side that raises gives the
        words for every quantity.
    """
    sent = {
        name: torch.from_numpy(value).to(device, dtype) for name, value in inputs.values.items()
    }
    leaves: dict[str, Tensor] = {
        str(name): sent[name].requires_grad_() for name in ("x", "w", "b") if name in sent
    }
    try:
        return _measured(run, leaves, sent, quantities, dtype)
    except (Exception, SystemExit) as error:  # noqa: BLE001  (the accused may raise anything; that is a finding)
        words = " ".join(str(error).split())
        text = f"raised {type(error).__name__}: {words[:160]}"
        return dict.fromkeys(quantities, text)


def _measured(
    run: Run,
    leaves: dict[str, Tensor],
    sent: dict[str, Tensor],
    quantities: tuple[str, ...],
    dtype: torch.dtype,
) -> Measured:
    y = run(leaves["x"], leaves["w"], leaves.get("b"))
    if not isinstance(y, Tensor):
        return dict.fromkeys(quantities, f"is of type {type(y).__name__}, not a tensor")
    if y.dtype != dtype:
        return dict.fromkeys(quantities, f"has dtype {y.dtype}")
    found: Measured = {"y": _array(y)}
    if set(quantities) <= {"y"}:
        return found
    head = sent["g"]
    if tuple(y.shape) != tuple(head.shape):
        return found | {name: f"has no meaning: y has shape {tuple(y.shape)}"
                        for name in quantities if name != "y"}  # fmt: skip
    again = any(name in SECOND for name in quantities)
    grads = _grads([y], leaves, [head.requires_grad_(again)], again)
    found |= {f"grad_{name}": _words(grad) for name, grad in grads.items()}
    if again:
        inner = {name: leaf for name, leaf in leaves.items() if name != "b"} | {"g": head}
        live = {name: grad for name, grad in grads.items() if grad is not None}
        second = _grads([*live.values()], inner, [sent[f"h{name}"] for name in live], False)
        found |= {f"grad_grad_{name}": _words(grad) for name, grad in second.items()}
    return {name: found[name] for name in quantities if name in found}


def _grads(
    outputs: list[Tensor], leaves: dict[str, Tensor], heads: list[Tensor], again: bool
) -> dict[str, Tensor | None]:
    live = [(out, head) for out, head in zip(outputs, heads, strict=True) if out.requires_grad]
    if not live:
        return dict.fromkeys(leaves)
    grads = torch.autograd.grad(
        [out for out, _ in live],
        list(leaves.values()),
        [head for _, head in live],
        allow_unused=True,
        create_graph=again,
    )
    return dict(zip(leaves, grads, strict=True))


def _array(value: Tensor) -> Array:
    found: Array = value.detach().double().cpu().numpy()
    return found


def _words(grad: Tensor | None) -> Array | str:
    return "is missing" if grad is None else _array(grad)
