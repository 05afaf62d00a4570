"""A region of a network, recorded as the one convolution or linear map that stands for it.

Its operators are held back until the last one comes. If they are the ones that were read when the
region was worked out, and read its input and each other alike, the last one's output is that of the
convolution. What they hold has to be the same bits. Whoever else reads what is made within reads
numbers that nothing on the other side has.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from convgraph.proof import trees
from convgraph.proof.network.folds import PRODUCTS, turned
from convgraph.proof.network.node import CONVOLUTION, Node, NodeCall, Observe, Settle
from convgraph.proof.network.regions import DataNumbers, Region, labels
from convgraph.proof.network.value_numbers import Numbering, Undecided


@final
class RegionWiring:
    """Stands between a recorder and who settles and observes its nodes.

    Args:
        regions: that are on this side.
        numbering: shared by both sides.
        settle: gives a node its outputs.
        observe: sees every node with its values.
    """

    def __init__(
        self, regions: Sequence[Region], numbering: Numbering, settle: Settle, observe: Observe
    ) -> None:
        """Start with none held back."""
        self._at = {
            place: (region, k) for region in regions for k, place in enumerate(region.places)
        }
        self._numbering, self._data = numbering, DataNumbers(numbering)
        self._settle, self._observe = settle, observe
        self._nodes: dict[int, list[Node]] = {}
        self._x: dict[int, Tensor] = {}
        self._whole: dict[int, Node] = {}
        self._of: dict[int, tuple[Region, int]] = {}
        self._count = 0

    def settle(self, node: Node) -> None:
        """Hold a region's operator back, or settle all of them with the last one."""
        region, k = self._at.get(self._count, (None, 0))
        self._count += 1
        if region is None:
            self._settle(node)
        else:
            nodes = self._nodes.setdefault(id(region), [])
            nodes.append(node)
            self._of[id(node)] = region, k
            if k + 1 < len(region.places):
                node.outputs = [self._numbering.take(shape) for shape in node.shapes]
            elif labels(nodes, region.source.numbers(nodes), self._data) == region.labels:
                self._settle_whole(region, nodes)
            else:
                self._settle(node)
        if self._at:
            self._data.note(node)

    def observe(self, call: NodeCall) -> None:
        """Show the convolution, where a region is settled; what is within it is seen by nobody."""
        region, k = self._of.get(id(call.node), (None, 0))
        if region is None:
            self._observe(call)
            return
        tensors = [t for t in trees.leaves(dict(call.given)) if isinstance(t, Tensor)]
        for place, held in region.held[k].items():
            if place >= len(tensors) or not torch.equal(tensors[place], held):
                raise Undecided(f"{call.node} holds other numbers than were read before")
        if region.source.node == k:
            x, part = tensors[region.source.place], region.source.part
            self._x[id(region)] = (x if part is None else x[part]).detach().clone()
        whole = self._whole.get(id(call.node))
        if whole is None:
            if k + 1 == len(region.places):
                self._observe(call)
            return
        x, (weight, *bias) = self._x.pop(id(region)), region.tensors
        if whole.name == CONVOLUTION:
            func, given = torch.ops.aten.convolution.default, {"input": x, "weight": weight}
            rest: dict[str, Any] = {"bias": bias[0] if bias else None}
            given |= rest | {k: v for k, v in whole.given.items() if k not in rest}
        elif bias:
            func = torch.ops.aten.addmm.default
            given = {"self": bias[0], "mat1": x, "mat2": weight.t()}
        else:
            func, given = torch.ops.aten.mm.default, {"self": x, "mat2": weight.t()}
        self._observe(NodeCall(whole, func, given, call.outputs[:1]))

    def _settle_whole(self, region: Region, nodes: Sequence[Node]) -> None:
        source, last = region.source.numbers(nodes), nodes[-1]
        weight, *bias = [
            self._numbering.named(name, tuple(tensor.shape))
            for name, tensor in zip(region.renamed().values(), region.tensors, strict=True)
        ]
        whole = replace(region.whole, outputs=[], call=None, folded=True, path=last.path)
        whole.inputs = [source, weight, *bias]
        if whole.name in PRODUCTS:
            whole.inputs = [*bias, source, turned(weight)]
        self._settle(whole)
        last.outputs = [*whole.outputs, *(self._numbering.take(s) for s in last.shapes[1:])]
        self._whole[id(last)] = whole
