"""A convolution and its norm, recorded as the one convolution that they were folded into.

The convolution is held back until the norm comes. It is then settled with the norm's output for its
own, and with weight and bias of the fold. Whoever else reads what it made before the norm reads
numbers that nothing on the other side has. A linear map is treated alike.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from convgraph.proof.network.folds import PRODUCTS, Fold, is_norm, operands, places, turned
from convgraph.proof.network.node import CONVOLUTION, Node, NodeCall, Observe, Settle
from convgraph.proof.network.value_numbers import (
    Numbering,
    Numbers,
    as_tensor,
    same,
    tidy,
)


@final
class FoldedWiring:
    """Stands between a recorder and who settles and observes its nodes.

    Args:
        folds: whose pairs are on this side.
        numbering: shared by both sides.
        settle: gives a node its outputs.
        observe: sees every node with its values.
    """

    def __init__(
        self, folds: Sequence[Fold], numbering: Numbering, settle: Settle, observe: Observe
    ) -> None:
        """Start with none held back."""
        self._folds, self._numbering = folds, numbering
        self._settle, self._observe = settle, observe
        self._held: list[tuple[Fold, Node]] = []
        self._given: dict[int, NodeCall] = {}
        self._last: tuple[Node, Node, Node, Fold, Tensor] | None = None

    def settle(self, node: Node) -> None:
        """Hold a convolution back, or settle it with its norm."""
        held = operands(node)
        if held is not None:
            for fold in self._folds:
                if self._reads(held, fold.pair[0]):
                    self._held.append((fold, node))
                    node.outputs = [self._numbering.take(shape) for shape in node.shapes]
                    return
        if is_norm(node):
            for fold, first in self._held:
                given = {k: node.given.get(k) for k in fold.given}
                where = places(first.outputs[0], node.inputs[0])
                if (
                    where is not None
                    and given == fold.given
                    and self._reads(node.inputs[1:], fold.pair[1])
                ):
                    self._settle_both(fold, first, node, where)
                    return
        self._settle(node)

    def observe(self, call: NodeCall) -> None:
        """Show both at once, where they are settled at once."""
        if any(call.node is node for _, node in self._held):
            self._given[id(call.node)] = call
        if self._last is None or self._last[0] is not call.node:
            self._observe(call)
            return
        _, whole, first, fold, where = self._last
        made = call.outputs[0]
        image = torch.empty(whole.shapes[0], dtype=made.dtype, device=made.device)
        image.view(-1)[where.reshape(-1).to(made.device)] = made.detach().reshape(-1)
        one, (weight, bias) = self._given[id(first)], fold.tensors
        given: dict[str, Any] = {**one.given, "weight": weight, "bias": bias}
        func = one.func
        if first.name != CONVOLUTION:
            x = one.given["mat1" if "mat1" in one.given else "self"]
            func, given = torch.ops.aten.addmm.default, {"self": bias, "mat1": x}
            given["mat2"] = weight.t()
        self._observe(NodeCall(whole, func, given, [image]))

    def _reads(self, held: Sequence[Numbers], names: Sequence[str]) -> bool:
        """Whether these are the tensors of these names."""
        known = [self._numbering.names.get(name) for name in names]
        return len(held) == len(names) and all(
            place is not None and same(self._numbering.named(name, place[1]), numbers)
            for name, place, numbers in zip(names, known, held, strict=True)
        )

    def _settle_both(self, fold: Fold, first: Node, norm: Node, where: Tensor) -> None:
        own = [
            self._numbering.named(name, tuple(tensor.shape))
            for name, tensor in zip(fold.renamed().values(), fold.tensors, strict=True)
        ]
        kind = str(fold.tensors[1].dtype).removeprefix("torch.")
        whole = replace(
            first, inputs=[first.inputs[0], *own], outputs=[], call=None, folded=True,
            arguments=first.arguments.replace("bias=None", f"bias=<{kind}>"),
        )  # fmt: skip
        if first.name != CONVOLUTION:
            whole.name = PRODUCTS[0]
            whole.arguments = f"self=<{kind}>, mat1=<{kind}>, mat2=<{kind}>"
            whole.inputs = [own[1], first.inputs[-2], turned(own[0])]
        self._settle(whole)
        made = as_tensor(whole.outputs[0]).reshape(-1)[where]
        rest = [self._numbering.take(shape) for shape in norm.shapes[1:]]
        norm.outputs = [tidy(made), *rest]
        self._last = (norm, whole, first, fold, where)
