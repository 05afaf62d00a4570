"""Which sites of a plan's maps are there, on any part of them, from a mask of the image.

A map of one site is a readout and has no mask, nor has a map that is made of such maps alone; any
other has the sites that follow from its size, see `mask_sites`.
"""

from math import prod
from typing import Any

import numpy as np

from convgraph.errors import ConversionError
from convgraph.geometry.kernel import KernelGeometry
from convgraph.scale.mask_sites import MaskSites
from convgraph.scale.plan import Plan
from convgraph.scale.positions import Positions
from convgraph.scale.recording import RecordedCall
from convgraph.scale.rules import Travel


class PlannedSites:
    """Sites of every map of a plan; see `sites_of`."""

    def __init__(self, plan: Plan, rule: MaskSites) -> None:
        self.plan, self.rule = plan, rule
        self.bare = {0} if prod(plan.array(0)) == 1 else set[int]()
        for step, how in plan.steps:
            maps = [source for source in step.sources if plan.axes[source] is not None]
            made = how.axes is not None and all(source in self.bare for source in maps)
            self.bare.update(r for r in step.results if made or prod(plan.array(r)) == 1)

    def __call__(self, value: int, part: tuple[Positions, ...]) -> Any:
        """Return bools, one for each position of a part of a map."""
        if value in self.bare:
            return np.ones([len(p) for p in part], bool)
        return self.rule(self.plan.array(value), part)

    def whole(self, value: int) -> Any:
        """Return bools of the whole map as an array has it, (*size)."""
        found = self(value, tuple(map(np.arange, self.plan.size(value))))
        return found.reshape(self.plan.array(value))


def sites_of(plan: Plan, mask: Any, who: str) -> PlannedSites | None:
    """Return which sites of a network's maps are there; None without a mask.

    Args:
        plan: of the network.
        mask: of the image, see `MaskSites`; or None.
        who: asks.

    Raises:
        ConversionError: an operator has no plan where pixels are absent; with the module's path.
        GraphError: it is no mask of such an image.
    """
    if mask is None:
        return None
    for step, how in plan.steps:
        name = step.operator
        good = name.startswith(("conv", "max_pool", "avg_pool", "upsample", "_upsample_nearest"))
        if how.how == "edges" and not (good and _centred(plan, step, how)):
            raise ConversionError(
                f"{who}: {step.title} has no plan with a mask; convolutions with zero padding, "
                "pools and resizes have one, if their pads keep the kernel in the middle. Leave "
                "the mask out, and zero what is absent yourself"
            )
    return PlannedSites(plan, MaskSites(mask, plan.array(0), flat=plan.space is not None))


def _centred(plan: Plan, step: RecordedCall, how: Travel) -> bool:
    """Whether sites follow from sizes alone: no position of a kernel's map lies elsewhere."""
    kernel = how.relation
    if plan.space is not None or not isinstance(kernel, KernelGeometry):
        return True
    source = next(s for s in step.sources if plan.axes[s] is not None)
    for axis, (n, out) in enumerate(
        zip(plan.size(source), plan.size(step.results[0]), strict=True)
    ):
        reach, stride = kernel.dilation[axis] * (kernel.kernel_size[axis] - 1), kernel.stride[axis]
        before = kernel.padding[axis][0]
        if stride == 1:
            shift = (reach - before if kernel.transposed else before) - reach // 2
            good = not shift and n == out
        else:  # a step in scale; pads of a stride or more beyond the middle are sites outside
            good = kernel.transposed or max(kernel.padding[axis]) - reach // 2 < stride
        if not good:
            return False
    return True
