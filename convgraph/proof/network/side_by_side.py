"""Both runs side by side: at every operator, is their difference one that rounding may make?

A bound that is propagated from the images grows with every layer, whatever happens. Here each
operator starts anew from the measured difference d of its inputs: with the rules of the running
bound, E(d) covers any correct result for inputs that are off by d, so the two results differ by at
most 2 E(d). It is as tight at the last layer as at the first.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from convgraph.proof import trees
from convgraph.proof.network.match import SUMS
from convgraph.proof.network.node import CONVOLUTION, Node, NodeCall
from convgraph.proof.network.running_error.bound import FILES
from convgraph.proof.network.running_error.call import RULES, BoundedCall, NoRule, WithError
from convgraph.proof.network.value_numbers import Numbers, Progression, as_tensor, progression

__all__ = ["FILES", "Beside", "Values"]


@final
class Values:
    """What the reference computed, by the numbers of its elements."""

    def __init__(self) -> None:
        """Start without any."""
        self._bases: list[int] = []
        self._flat: list[Tensor] = []

    def keep(self, call: NodeCall) -> None:
        """Keep the floating outputs of a node of the reference."""
        for numbers, tensor in zip(call.node.outputs, call.outputs, strict=True):
            plain = tensor.is_floating_point() and tensor.numel()
            if not plain or not isinstance(numbers, Progression):
                continue
            if not self._bases or numbers.base > self._bases[-1]:  # not what was kept before
                self._bases.append(numbers.base)
                self._flat.append(tensor.detach().contiguous().reshape(-1).clone())

    def at(self, numbers: Numbers, own: Tensor) -> Tensor:
        """Return the reference's values of these elements.

        Args:
            numbers: which elements.
            own: the candidate's values; parameters, images and constants are the same.
        """
        if isinstance(numbers, Progression):
            place = bisect_right(self._bases, numbers.base) - 1
            start = numbers.base - self._bases[place] if place >= 0 else -1
            if 0 <= start <= self._flat[place].numel() - own.numel() and numbers == progression(
                numbers.base, numbers.shape
            ):
                return self._flat[place][start : start + own.numel()].view(own.shape)
        flat = as_tensor(numbers).reshape(-1)
        found = own.reshape(-1).clone()
        bases = torch.tensor(self._bases or [0])
        block = torch.searchsorted(bases, flat, right=True) - 1
        for place in block.unique().tolist():
            if place < 0 or not self._bases:
                continue
            offset = flat - self._bases[place]
            mask = (block == place) & (offset < self._flat[place].numel())
            where = mask.to(found.device)
            found[where] = self._flat[place][offset[mask].to(found.device)]
        return found.reshape(own.shape)


@final
class Beside:
    """Holds every operator of the candidate against the reference's values.

    Attributes:
        off: of parameters that are not the same on both sides, how far either run may be from the
            exact one of them, float64.
        held: how many operators were within their bound.
        worst: largest difference / bound, and where.
        missing: operators without a rule, by name.
        over: what exceeds its bound, in words; "" if nothing does.
        vendor: whether the reference itself exceeds it there, against the same operator in float64.
    """

    def __init__(self, values: Values) -> None:
        """Start with none looked at, and parameters the same on both sides."""
        self.values = values
        self.off: dict[Numbers, Tensor] = {}
        self.held = 0
        self.worst: tuple[float, str] = (0.0, "")
        self.missing: Counter[str] = Counter()
        self.over = ""
        self.vendor = False

    def look(self, call: NodeCall, partner: Node) -> None:
        """Compare one operator.

        Args:
            call: of the candidate.
            partner: its node of the reference.
        """
        if not call.outputs or not call.outputs[call.first].is_floating_point():
            return
        known = call.node.name if partner.name in SUMS else partner.name
        name = CONVOLUTION if partner.name == CONVOLUTION else known.partition(".")[0]
        rule = RULES.get(name)
        given = dict(call.given)
        if call.node.layer is not None and partner.name == CONVOLUTION:
            if partner.layer is not None:  # the layer's own padding; its certificate covers it
                self.missing["padded convolution"] += 1
                return
            given |= {k: v for k, v in partner.given.items() if k not in given}
        if rule is None:
            self.missing[name] += 1
            return
        tensors = [t for t in trees.leaves(given) if isinstance(t, Tensor)]
        if len(tensors) != len(call.node.inputs):
            self.missing[f"{name} of a list"] += 1
            return
        order = iter(call.node.inputs)
        floats = [t for t in tensors if t.is_floating_point()]
        if not floats:  # whole numbers, the same on both sides, so the same result to the bit
            floats, rule = call.outputs, _nothing
        dtype = max((t.dtype for t in floats), key=lambda d: torch.finfo(d).eps)
        parted: dict[str, Tensor] = {}

        def entry(key: str, value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return [entry(key, one) for one in value]
            if not isinstance(value, Tensor):
                return value
            numbers = next(order)
            if not value.is_floating_point():
                return value
            x = self.values.at(numbers, value).double()
            off = self.off.get(numbers) if isinstance(numbers, Progression) else None
            if off is None:
                return WithError(x, _apart(x, value.double()))
            parted[key] = off
            return WithError(x, off)

        entries = {key: entry(key, value) for key, value in given.items()}
        own = call.outputs[call.first]
        mine, true = own.double(), self.values.at(call.node.outputs[call.first], own).double()
        there = call.node.given.get("sites")
        if there is not None:  # the operator says something of absent pixels too, the layer 0
            true = torch.where(there.unsqueeze(1).to(true.device), true, 0.0)
        bounded = BoundedCall(call.func, entries, dtype, y=true)
        try:
            limit = 2 * _bound(rule, bounded)
        except NoRule as reason:
            self.missing[f"{name} ({reason})"] += 1
            return
        gap = _apart(mine, true)
        ratio = torch.where(gap == 0, 0.0, gap / limit)
        largest = float(ratio.max()) if ratio.numel() else 0.0
        if largest <= 1:
            self.held += 1
            self.worst = max(self.worst, (largest, str(partner)))
        elif not self.over:
            # A layer without parameters was proven to be the judge's own where pixels are absent.
            whole = partner.layer is not None
            self.vendor = not whole and _exceeds(bounded, rule, call.func, true, parted)
            self.over = f"{partner}: the two results differ by {largest:.3g} times their bound"


def _apart(one: Tensor, two: Tensor) -> Tensor:
    """|one - two|, and 0 where both are one infinity, as what a maximum leaves out."""
    return torch.where(one == two, 0.0, (one - two).abs())


def _nothing(bounded: BoundedCall) -> Tensor:
    """No rounding at all explains a difference."""
    return torch.zeros_like(bounded.y, dtype=torch.float64)


def _bound(rule: Callable[[BoundedCall], Any], bounded: BoundedCall) -> Tensor:
    """What a rule grants the first result of its operator; a backward has several."""
    found = rule(bounded)
    first: Tensor = found[0] if isinstance(found, (tuple, list)) else found
    return first


def _exceeds(
    bounded: BoundedCall,
    rule: Callable[[BoundedCall], Tensor],
    func: Any,
    true: Tensor,
    parted: dict[str, Tensor],
) -> bool:
    """Say whether the reference's own result is outside of its bound, against float64.

    Args:
        bounded: the call.
        rule: of its operator.
        func: the operator.
        true: the reference's result.
        parted: what parameters are off by that are not the same on both sides.
    """
    exact = BoundedCall(
        func,
        {k: WithError(v.x, parted.get(k, torch.zeros_like(v.e))) if isinstance(v, WithError) else v
         for k, v in bounded.given.items()},
        bounded.dtype,
        y=true,
    )  # fmt: skip
    finer = func(**{k: v.x if isinstance(v, WithError) else v for k, v in exact.given.items()})
    finer = finer[0] if isinstance(finer, (tuple, list)) else finer
    return bool(((finer - true).abs() > 2 * _bound(rule, exact)).any())
