"""Spatial values: node features whose axes, as the network sees them, have names.

    x[n, p1, p2, ...]        n a node, p the plain names in the order of the axes

Everything else in a network (parameters, gates, readouts, logits) is an ordinary tensor.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from convgraph.backends.messages.edges import take
from convgraph.convert import names
from convgraph.convert.names import Axes, Name, NoRuleError
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.graph.sites import Sites

LOST = "lost"
"""Of windows that were made by more than can be done again."""


@dataclass(eq=False, slots=True)
class Spatial:
    """Node features with named axes.

    Attributes:
        x: (N, *plain) of any dtype; plain as `names.plain(axes)` says.
        sites: whose nodes the rows are.
        axes: the names of the axes.
        cut: of windows, what made them; see `convgraph.convert.windows`.
    """

    x: Tensor
    sites: Any  # Sites, TokenSites, or PairSites where the rows are pairs of nodes
    axes: Axes
    cut: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the network sees."""
        return names.sizes(self.axes)

    def with_x(self, x: Tensor) -> "Spatial":
        """The same names on other features of the same shape."""
        return Spatial(x, self.sites, self.axes, self.cut and LOST)

    def regrouped(self, shape: Sequence[int]) -> "Spatial":
        """Reshape; no node moves."""
        return self.refined(names.regroup(self.axes, tuple(shape)))

    def refined(self, axes: Axes) -> "Spatial":
        """The same names in the same order, split further."""
        rows = self.x.shape[0]
        return Spatial(self.x.reshape(rows, *names.plain(axes)), self.sites, axes)

    def permuted(self, dims: Sequence[int]) -> "Spatial":
        """Permute the axes; features follow in their own order, as a view."""
        slots = names.slots(self.axes)
        order = [slot for dim in dims for slot in slots[dim]]
        axes = tuple(self.axes[dim] for dim in dims)
        return Spatial(self.x.permute(0, *order), self.sites, axes)

    def merged(self, dim: int) -> "Spatial":
        """Make a plain axis one name.

        Raises:
            NoRuleError: the axis names the batch or sites.
        """
        axis = self.axes[dim]
        if len(axis) == 1 and axis[0].kind == "plain":
            return self
        if not names.is_plain(axis):
            raise NoRuleError(f"axis {dim} of {names.describe(self.axes)} is no plain one")
        of_windows = max((name.axis for name in axis), default=-1)
        one = (Name("plain", prod(name.size for name in axis), of_windows),)
        return self.refined(names.replaced(self.axes, dim, one))

    def unsqueezed(self, dim: int) -> "Spatial":
        """The same value with an axis more, of one entry."""
        return Spatial(self.x, self.sites, (*self.axes[:dim], (), *self.axes[dim:]))

    def there(self) -> Tensor:
        """Which entries of the tensor that the network sees are a node's."""
        return self.with_x(torch.ones_like(self.x, dtype=torch.bool)).tensor()

    def thin(self) -> "Spatial":
        """The same value, axes of one entry without a name, so that they broadcast."""
        axes = _thin(self.axes)
        return self if axes is self.axes else self.refined(axes)

    def slot(self, dim: int) -> int:
        """Return the dimension of x that a merged plain axis is."""
        return names.slots(self.axes)[dim].start

    def along(self, dim: int, rows: Tensor) -> "Spatial":
        """Other features along a merged plain axis: of any length, or without that dimension."""
        gone = rows.dim() < self.x.dim()
        (name,) = self.axes[dim]
        new = () if gone else ((name._replace(size=rows.shape[self.slot(dim)]),),)
        return Spatial(rows, self.sites, names.replaced(self.axes, dim, *new))

    def on_axis(self, dim: int, call: Callable[[Tensor, int], Tensor]) -> "Spatial":
        """What call(x, the dimension of x that it is) makes of a plain axis; see `along`."""
        value = self.merged(dim)
        return value.along(dim, call(value.x, value.slot(dim)))

    def on_lines(self, call: Callable[[Tensor], Tensor]) -> "Spatial":
        """What call(lines) makes of every line along a plain last axis, as rows of a matrix."""
        return self.on_axis(
            len(self.axes) - 1,
            lambda rows, _: call(rows.flatten(0, -2)).unflatten(0, rows.shape[:-1]),
        )

    # -- to and from other forms ----------------------------------------------------------------

    def is_image(self) -> bool:
        """Whether the axes are (batch) (plain) (y) (x), whole and in order."""
        sites = self.sites
        return isinstance(sites, Sites) and _is_image(self.axes, sites.size, sites.batch_size)

    def is_line(self, dim: int) -> bool:
        """Whether it is an image with one pixel along this axis, which is one of its lattice."""
        return dim > 1 and self.shape[dim] == 1 and self.is_image()

    def graph(self) -> PixelGraph:
        """Return the pixel graph of an image.

        Raises:
            NoRuleError: the axes are no image's.
        """
        if not self.is_image():
            axes = names.describe(self.axes)
            raise NoRuleError(f"it takes an image, (batch) (channels) and its lattice, not {axes}")
        x = self.x  # no view of itself, which FSDP2 would warn of
        return PixelGraph(x if x.dim() == 2 else x.reshape(x.shape[0], self.shape[1]), self.sites)

    def tensor(self, fill: float = 0.0) -> Tensor:
        """Return the tensor that the network sees, `fill` where a site is absent."""
        sites, rest = self.sites, self.x.shape[1:]
        cells = self.x
        present = names.of_rows(self.axes)
        order = sorted(present, key=lambda name: (name.kind == "key", name.axis, -name.stride))
        count = prod(name.size for name in order)
        if self.x.shape[0] != count or not sites.is_array:
            cells = self.x.new_full((count, *rest), fill)
            # index_copy would keep the rows for its backward, which their map may write into.
            cells = cells.index_put((index(order, sites),), self.x)
        return arranged(cells, order, self.axes)


def dense(given: Any, fill: float = 0.0) -> Any:
    """Return what the network sees of values, in lists too; anything else as it is."""
    if isinstance(given, Spatial):
        return given.tensor(fill)
    return [dense(one) for one in given] if isinstance(given, list) else given


def reshaped(given: Any, shape: Sequence[int]) -> Any:
    """Return a value, or a tensor, in another shape."""
    return given.regrouped(shape) if isinstance(given, Spatial) else given.reshape(shape)


def arranged(cells: Tensor, order: Sequence[Name], axes: Axes) -> Tensor:
    """Return cells (all values of some names in their order, *plain) as the axes order them."""
    dense = cells.reshape((*(name.size for name in order), *names.plain(axes)))
    return dense.permute(_places(order, axes)).reshape(names.sizes(axes))


def cells(dense: Tensor, order: Sequence[Name], axes: Axes) -> Tensor:
    """Return (all values of some names in their order, *plain) of a tensor of these axes."""
    apart = dense.reshape([name.size for name in names.names(axes)])
    where = _places(order, axes)
    back = sorted(range(len(where)), key=where.__getitem__)
    return apart.permute(back).reshape(prod(name.size for name in order), *names.plain(axes))


def _places(order: Sequence[Name], axes: Axes) -> list[int]:
    """Where each name of the axes stands among the names of rows in order and the plain ones."""
    where, number = [], len(order)
    for name in names.names(axes):
        where.append(number if name.kind == "plain" else order.index(name))
        number += name.kind == "plain"
    return where


@lru_cache(maxsize=4096)
def _is_image(axes: Axes, size: tuple[int, ...] | None, batch: int) -> bool:
    if size is None or len(axes) != len(size) + 2:
        return False
    expected = names.image_axes(1, size, batch)
    return axes[0] == expected[0] and names.is_plain(axes[1]) and axes[2:] == expected[2:]


@lru_cache(maxsize=4096)
def _thin(axes: Axes) -> Axes:
    if all(len(axis) == 0 or prod(name.size for name in axis) != 1 for axis in axes):
        return axes
    return tuple(axis if prod(name.size for name in axis) != 1 else () for axis in axes)


def from_graph(graph: PixelGraph) -> Spatial:
    """Return an image's value.

    Raises:
        NoRuleError: images of different sizes.
    """
    sites = graph.sites
    if sites.size is None:
        raise NoRuleError("images of different sizes")
    axes = names.image_axes(graph.x.shape[1], sites.size, sites.batch_size)
    return Spatial(graph.x, sites, axes)


def digit(name: Name, sites: Any) -> Tensor:
    """Return (N,) int64: the value that a batch or site name takes at each node."""
    if not isinstance(sites, Sites):  # tokens, or pairs
        found: Tensor = sites.digit(name)
        return found
    position = sites.batch if name.kind == "batch" else sites.pos[:, name.axis]
    return position // name.stride % name.size


def within_charts(sites: Sites, together: Sequence[Name]) -> None:
    """Refuse to make one of pixels of several charts, where other pixels stay apart.

    Args:
        sites: of the pixels.
        together: the names that run through those that become one, or talk to each other.

    Raises:
        NoRuleError: these are pixels of charts that only lie one under the other in the array.
    """
    space = sites.space
    if space is None or sites.size is None or sites.root.size is None:
        return
    number = space.charts(sites.root.size)[0]
    height = sites.size[0] // number
    reach = [name.size * name.stride for name in together if name.kind == "site" and not name.axis]
    if number > 1 and any(height % one for one in reach):
        raise NoRuleError(
            f"along the {number} stacked faces of {space} it mixes faces that are no neighbours; "
            f"split that axis into {(number, height)} and stay within each, or take the whole map"
        )


def index(found: Sequence[Name], sites: Any) -> Tensor:
    """Return (N,) int64: the row-major number of each node in the product of these names."""

    def make() -> Tensor:
        total = torch.zeros(sites.num_nodes, dtype=torch.int64, device=sites.device)
        for name in found:
            total = total * name.size + digit(name, sites)
        return total

    made: Tensor = sites.memo(("index", tuple(found)), make)
    return made


def is_raster(found: Sequence[Name], sites: Any) -> bool:
    """Whether these names number the nodes of a full grid in their own order."""
    if not sites.is_array:
        return False
    expected = [*names.batch_axis(sites.batch_size)]
    expected += [Name("site", n, k) for k, n in enumerate(sites.size) if n > 1]
    return list(found) == expected


def lift(tensor: Tensor, axes: Axes, sites: Any) -> Tensor:
    """Return (N or 1, *plain): what a tensor, broadcast to these axes, says at each node.

    Args:
        tensor: of at most len(axes) dimensions, each of size 1 or the axis's own.
        axes: of the result.
        sites: of the result.
    """
    split, order, shape, present = _lifted(tuple(tensor.shape), axes)
    table = tensor.reshape(split).permute(order).reshape(shape)
    if table.shape[0] == 1 or is_raster(present, sites):
        return table
    if sites.is_array and list(present) == [*names.batch_axis(sites.batch_size)]:
        # One number an image: spread like torch does, so that its gradient is torch's sum.
        whole = table.unsqueeze(1).expand(-1, prod(sites.size), *shape[1:])
        return whole.reshape(sites.num_nodes, *shape[1:])
    return take(table, index(present, sites))


@lru_cache(maxsize=4096)
def _lifted(given: tuple[int, ...], axes: Axes) -> Any:
    """How a tensor of this shape is split into names, and in what order; the table, whose rows."""
    missing = len(axes) - len(given)
    shape: list[int] = []
    kept: list[bool] = []
    present: list[Name] = []
    for number, axis in enumerate(axes):
        size = 1 if number < missing else given[number - missing]
        own = prod(name.size for name in axis)
        spoken = size == own and (size > 1 or bool(axis))
        if not spoken and size != 1:
            raise NoRuleError(f"a tensor of shape {given} meets {names.describe(axes)}")
        for name in axis:
            is_row = name.kind != "plain"
            shape.append(name.size if spoken else 1)
            kept.append(is_row)
            if is_row and spoken:
                present.append(name)
    rows = [slot for slot, is_row in enumerate(kept) if is_row]
    rest = [slot for slot, is_row in enumerate(kept) if not is_row]
    table = [prod(shape[slot] for slot in rows), *(shape[slot] for slot in rest)]
    return shape, (*rows, *rest), table, tuple(present)


def brought(value: Spatial, sites: Sites) -> Tensor:
    """Return (N', *plain): the rows of a value on other sites of its lattice, 0 where it has none.

    Args:
        value: on sites of some size.
        sites: of the same size.
    """

    def make() -> tuple[Tensor, Tensor]:
        node = value.sites.node_at(sites.nodes % value.sites.num_cells)  # one image is all images
        return node.clamp(min=0), node >= 0

    return picked(value.x, *sites.memo(("brought", value.sites.token), make))


def of_nobody(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Return zeros that no entry says, as there is none in x, to which gradients are sent still."""
    return x.new_zeros(shape) + x.sum(dtype=x.dtype)


def picked(x: Tensor, node: Tensor, there: Tensor | None) -> Tensor:
    """Return the rows of nodes by their numbers, 0 where nobody is there."""
    if not x.shape[0]:
        return of_nobody(x, (node.shape[0], *x.shape[1:]))
    rows: Tensor = take(x, node)
    if there is None:
        return rows
    return torch.where(there.view(-1, *(1,) * (rows.dim() - 1)), rows, rows.new_zeros(()))


def result(graph: PixelGraph) -> Spatial | Tensor:
    """Return a layer's graph as a value: a map of one site is a readout, so a tensor."""
    size = graph.sites.size or ()
    if prod(size) == 1 and graph.sites.space is None:
        return graph.x.view(*graph.x.shape, *(1,) * graph.sites.d)
    return from_graph(graph)


def placed(dense: Tensor, sites: Any, axes: Axes | None = None) -> Spatial:
    """Return what a plain tensor of these axes, an image by default, says at each node."""
    if axes is None:
        axes = names.image_axes(dense.shape[1], tuple(dense.shape[2:]), sites.batch_size)
    rows = lift(dense, axes, sites)
    return Spatial(rows.expand(sites.num_nodes, *names.plain(axes)), sites, axes)
