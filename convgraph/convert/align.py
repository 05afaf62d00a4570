"""Alignment: operands of one operator, broadcast to common names on common sites."""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor

from convgraph.convert import names
from convgraph.convert.names import Axes, Name, NoRuleError
from convgraph.convert.value import Spatial, lift
from convgraph.graph.output_sites import network_sites
from convgraph.graph.sites import Sites


def align(operands: Sequence[Any], root: Sites) -> tuple[list[Any], Sites, Axes]:
    """Broadcast operands as torch does, by names.

    Args:
        operands: spatial values (at least one), tensors, or anything else, which is left alone.
        root: the sites at the entrance of the network.

    Returns:
        The operands as tensors (N or 1, *plain) of one order, their sites and their axes.

    Raises:
        NoRuleError: axes of one size mean different things.
    """
    operands = [one.thin() if isinstance(one, Spatial) else one for one in operands]
    spatial = [one for one in operands if isinstance(one, Spatial)]
    rank = max(
        [len(one.axes) for one in spatial]
        + [one.dim() for one in operands if isinstance(one, Tensor)]
    )
    axes = names.broadcast([((),) * rank, *(one.axes for one in spatial)])
    extra: list[Axes] = []
    for one in operands:
        if isinstance(one, Tensor) and one.dim():
            missing = rank - one.dim()
            extra.append(
                tuple(
                    (Name("plain", n),) if n > 1 and not axes[missing + k] else ()
                    for k, n in enumerate(one.shape)
                )
            )
    axes = names.broadcast([axes, *extra])
    sites = _sites(spatial, axes, root)
    return [_to(one, axes, sites) for one in operands], sites, axes


def _sites(spatial: Sequence[Spatial], axes: Axes, root: Sites) -> Sites:
    """The sites whose lattice the axes name, digit by digit."""
    found = [name for name in names.names(axes) if name.kind in ("site", "key")]
    if len({(name.kind, name.axis, name.stride) for name in found}) != len(found):
        raise NoRuleError(f"axes {names.describe(axes)} name a lattice axis twice")
    if sum(name.kind == "batch" for name in names.names(axes)) != 1:
        raise NoRuleError(f"axes {names.describe(axes)} do not name the batch once")
    pairs = [one.sites for one in spatial if not isinstance(one.sites, Sites)]
    if pairs:
        if any(one.sites is not pairs[0] for one in spatial):
            raise NoRuleError("pairs of nodes meet nodes")
        return pairs[0]
    size = tuple(prod(n.size for n in found if n.axis == axis) for axis in range(root.d))
    for one in spatial:
        if one.sites.size == size:
            return one.sites
    return network_sites(root, (size,) * root.batch_size)


def _to(one: Any, axes: Axes, sites: Sites) -> Any:
    """One operand as (N or 1, *plain) of these axes."""
    if isinstance(one, Tensor):
        return lift(one, axes, sites) if one.dim() else one
    if not isinstance(one, Spatial):
        return one
    if one.sites is not sites:
        return lift(one.tensor(), axes, sites)
    shape = [one.x.shape[0]]
    own = ((),) * (len(axes) - len(one.axes)) + one.axes
    for mine, axis in zip(own, axes, strict=True):
        shape += [name.size if mine else 1 for name in axis if name.kind == "plain"]
    return one.x.reshape(shape)


def same(one: Spatial, axes: Axes, root: Sites) -> Tensor:
    """Return the features of one value in the order and grouping of these axes."""
    (x,), sites, found = align([one], root)
    if sites is not one.sites or names.sizes(found) != names.sizes(axes):
        raise NoRuleError(f"axes {names.describe(one.axes)} are not {names.describe(axes)}")
    out: Tensor = x
    return out
