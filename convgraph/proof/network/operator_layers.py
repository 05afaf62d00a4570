"""Layers as bare operators: a convolution or a linear map of a run, as f(x, w, b) -> y.

`as_operator` is also how a record names them, so that a verifier can call them again.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from convgraph.errors import ProofError
from convgraph.proof.equation.spec import ConvSpec
from convgraph.proof.network.node import CONVOLUTION, Node

Run = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def spec_of(node: Node) -> ConvSpec | None:
    """Return the integers of a convolution or of a product with a weight; None for anything else.

    Args:
        node: of the reference's run. A layer that was recorded as a whole tells none.
    """
    if node.name == CONVOLUTION and node.layer is None:
        x, w, given = node.inputs[0].shape, node.inputs[1].shape, node.given
        d, transposed = len(w) - 2, bool(given["transposed"])
        if len(x) != d + 2 or not 1 <= d <= 3:
            return None
        groups = given["groups"]
        try:
            return ConvSpec(
                in_channels=x[1],
                out_channels=w[1] * groups if transposed else w[0],
                kernel_size=tuple(w[2:]),
                size=tuple(x[2:]),
                batch=x[0],
                stride=_full(given["stride"], d),
                padding=tuple((n, n) for n in _full(given["padding"], d)),
                dilation=_full(given["dilation"], d),
                transposed=transposed,
                output_padding=_full(given["output_padding"], d) if transposed else (),
                groups=groups,
                bias=len(node.inputs) == 3,
            )
        except ProofError:
            return None
    if node.name in ("addmm", "mm") and node.given.keys() <= {"bias"}:
        x, w = (numbers.shape for numbers in node.inputs[-2:])
        return ConvSpec(x[1], w[1], (1,), (1,), batch=x[0], bias=node.name == "addmm")
    return None


def name_of(node: Node) -> str:
    """The name under which the operator of a node can be imported; see `operator`."""
    return f"torch:{'convolution' if node.name == CONVOLUTION else node.name}"


def as_operator(side: Callable[..., Tensor], spec: Mapping[str, Any]) -> Run:
    """Call an operator of torch on images.

    Args:
        side: torch.convolution, torch.mm or torch.addmm.
        spec: the integers of a record.

    Example:
        >>> run = as_operator(torch.mm, {})
        >>> run(torch.ones(2, 3, 1), torch.ones(4, 3, 1), None).shape
        torch.Size([2, 4, 1])
    """
    if side is torch.convolution:
        pads = [before for before, _ in spec["padding"]]
        rest = (
            spec["stride"], pads, spec["dilation"], spec["transposed"], spec["output_padding"],
            spec["groups"],
        )  # fmt: skip
        return lambda x, w, b: side(x, w, b, *rest)

    def product(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        rows, matrix = x.squeeze(2), w.squeeze(2).t()
        return (side(rows, matrix) if b is None else side(b, rows, matrix)).unsqueeze(2)

    return product


def _full(value: Any, d: int) -> tuple[int, ...]:
    return tuple(value) * d if len(value) == 1 else tuple(value)
