"""Losses: what every node is off by, then the mean or the sum over the nodes that are there.

mean   of the entries of nodes; an absent one is neither right nor wrong
"""

from typing import Any

import torch
from torch import Tensor

from convgraph.convert import names
from convgraph.convert.align import align, expanded
from convgraph.convert.names import ApartError, NoRuleError
from convgraph.convert.registry import rule
from convgraph.convert.value import Spatial, brought, lift
from convgraph.graph.network_sites import union
from convgraph.graph.sites import Sites

_NONE, _MEAN = 0, 1
"""How torch's operators number what is done to the entries of a loss; 2 is their sum."""


@rule(
    "mse_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "soft_margin_loss", hop="all",
)  # fmt: skip
def entries(call: Any, *args: Any, **kwargs: Any) -> Any:
    """Entry by entry, operands broadcast by names."""
    given = call.named(*args, **kwargs)
    reduction = given["reduction"]
    given["reduction"] = _NONE
    call.travelled("node" if reduction == _NONE else "all")
    moved, sites, axes = align(list(given.values()))
    rows = expanded(call.target(**dict(zip(given, moved, strict=True))), sites, axes)
    if reduction == _NONE:
        return Spatial(rows, sites, axes)
    return rows.mean() if reduction == _MEAN else rows.sum()


def _holds(larger: Any, sites: Any) -> bool:
    """Whether the nodes of one lattice are all among those of another, as large."""
    lattices = all(isinstance(one, Sites) for one in (larger, sites))
    return lattices and larger.size == sites.size and union(larger, sites) is larger


@rule("nll_loss_forward", "nll_loss2d_forward", "cross_entropy_loss", hop="all")
def classes(call: Any, x: Any, target: Any, weight: Tensor | None = None, reduction: int = _MEAN,
            *more: Any) -> Any:  # fmt: skip
    """The class of every node, or its shares of all, from an image or from others on the nodes."""
    if not isinstance(x, Spatial):
        raise NoRuleError("its labels are a map, and what it judges is none")
    by_channels = len(x.axes) > 1 and names.is_plain(x.axes[1])
    if call.name == "cross_entropy_loss" and not by_channels:
        raise ApartError("its classes are positions")
    call.travelled("node" if reduction == _NONE else "all")
    value = x.merged(1)
    axes = names.replaced(value.axes, 1)
    shares = (target.x if isinstance(target, Spatial) else target).is_floating_point()
    known = value.axes if shares else axes
    if target.shape != names.sizes(known):
        raise ValueError(f"labels of shape {tuple(target.shape)} judge {tuple(x.shape)}")
    if isinstance(target, Spatial):
        if _holds(target.sites, x.sites):
            target = Spatial(brought(target, x.sites), x.sites, target.axes)
        judged = value if shares else value.along(1, value.x.select(value.slot(1), 0))
        (labels, _), sites, found = align([target, judged])
        if sites is not x.sites or found != judged.thin().axes:
            raise NoRuleError("its labels live on other nodes")
        labels = labels.reshape(-1, *names.plain(known))  # one class alone has no name there
    else:
        labels = lift(target, known, x.sites)
    labels = expanded(labels, x.sites, known)
    rows, slot = value.x.movedim(value.slot(1), -1), value.slot(1)
    labels = labels.movedim(slot, -1).flatten(0, -2) if shares else labels.flatten()
    call_on_rows = getattr(torch.ops.aten, call.name.replace("2d", ""))
    out = call_on_rows(rows.flatten(0, -2), labels, weight, reduction, *more)
    loss, *total = out if isinstance(out, tuple) else (out,)
    if reduction == _NONE:
        loss = Spatial(loss.view(rows.shape[:-1]), x.sites, axes)
    return (loss, *total) if total else loss
