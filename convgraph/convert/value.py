"""Spatial values: node features whose axes, as the exported graph sees them, have names.

    x[n, p1, p2, ...]        n a node, p the plain names in the order of the exported axes

Everything else in a network (parameters, gates, readouts, logits) is an ordinary tensor of exactly
the exported shape.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from convgraph.backends.messages.edges import take
from convgraph.convert import names
from convgraph.convert.names import BATCH, Axes, Name, NoRuleError
from convgraph.graph.output_sites import network_sites
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.graph.sites import Sites


@dataclass(frozen=True, eq=False)
class Spatial:
    """Node features with named axes.

    Attributes:
        x: (N, *plain) floating or not; plain as `names.plain(axes)` says.
        sites: whose nodes the rows are.
        axes: the names of the exported axes.
    """

    x: Tensor
    sites: Sites
    axes: Axes

    @property
    def shape(self) -> tuple[int, ...]:
        """The exported shape, with the batch that is there."""
        return tuple(actual(axis, self.sites.batch_size) for axis in self.axes)

    def with_x(self, x: Tensor) -> "Spatial":
        """The same names on other features of the same shape."""
        return Spatial(x, self.sites, self.axes)

    def regrouped(self, shape: Sequence[int]) -> "Spatial":
        """Reshape; no node moves. `shape` counts the batch as `BATCH`."""
        return self.refined(names.regroup(self.axes, shape))

    def refined(self, axes: Axes) -> "Spatial":
        """The same names in the same order, split further."""
        rows = self.x.shape[0]
        return Spatial(self.x.reshape(rows, *names.plain(axes)), self.sites, axes)

    def permuted(self, dims: Sequence[int]) -> "Spatial":
        """Permute the exported axes; features follow in their own order, as a view."""
        slots: list[list[int]] = []
        number = 1
        for axis in self.axes:
            count = sum(name.kind == "plain" for name in axis)
            slots.append(list(range(number, number + count)))
            number += count
        order = [slot for dim in dims for slot in slots[dim]]
        axes = tuple(self.axes[dim] for dim in dims)
        return Spatial(self.x.permute(0, *order), self.sites, axes)

    def merged(self, dim: int) -> "Spatial":
        """Make a plain axis one name.

        Raises:
            NoRuleError: the axis names the batch or sites.
        """
        axis = self.axes[dim]
        if not names.is_plain(axis):
            raise NoRuleError(f"axis {dim} of {names.describe(self.axes)} is no plain one")
        one = (Name("plain", prod(name.size for name in axis)),)
        return self.refined((*self.axes[:dim], one, *self.axes[dim + 1 :]))

    def thin(self) -> "Spatial":
        """The same value, axes of one entry without a name, so that they broadcast."""
        if all(len(axis) == 0 or actual(axis, 2) > 1 for axis in self.axes):
            return self
        return self.refined(tuple(axis if actual(axis, 2) > 1 else () for axis in self.axes))

    def slot(self, dim: int) -> int:
        """Return the dimension of x that a merged plain axis is."""
        return 1 + len(names.plain(self.axes[:dim]))

    # -- to and from other forms ----------------------------------------------------------------

    def is_image(self) -> bool:
        """Whether the axes are (batch) (plain) (y) (x), whole and in order."""
        size = self.sites.size
        if size is None or len(self.axes) != len(size) + 2:
            return False
        expected = names.image_axes(1, size)
        return (
            self.axes[0] == expected[0]
            and names.is_plain(self.axes[1])
            and self.axes[2:] == expected[2:]
        )

    def graph(self) -> PixelGraph:
        """Return the pixel graph of an image.

        Raises:
            NoRuleError: the axes are no image's.
        """
        if not self.is_image():
            raise NoRuleError(f"axes {names.describe(self.axes)} are no image's")
        return PixelGraph(self.x.reshape(self.x.shape[0], -1), self.sites)

    def tensor(self, fill: float = 0.0) -> Tensor:
        """Return the exported tensor, `fill` where a site is absent; a view on a full grid."""
        sites, rest = self.sites, self.x.shape[1:]
        cells = self.x
        present = [name for name in names.names(self.axes) if name.kind != "plain"]
        order = sorted(present, key=lambda name: (name.kind == "key", name.axis, -name.stride))
        lattice = [sites.batch_size if name.kind == "batch" else name.size for name in order]
        if not sites.is_full and not isinstance(self.x, FakeTensor):
            cells = self.x.new_full((prod(lattice), *rest), fill)
            cells = cells.index_copy(0, index(order, sites), self.x)
        elif len(cells) != prod(lattice):
            cells = self.x.new_empty(prod(lattice), *rest)
        dense = cells.reshape(*lattice, *rest)
        where, number = [], len(lattice)
        for name in names.names(self.axes):
            if name.kind == "plain":
                where.append(number)
                number += 1
            else:
                where.append(order.index(name))
        return dense.permute(where).reshape(self.shape)


def actual(axis: Sequence[Name], batch: int) -> int:
    """Return the size of an axis at a batch size."""
    return prod(batch if name.kind == "batch" else name.size for name in axis)


def from_graph(graph: PixelGraph) -> Spatial:
    """Return an image's value."""
    if graph.sites.size is None:
        raise NoRuleError("images of different sizes")
    return Spatial(graph.x, graph.sites, names.image_axes(graph.num_channels, graph.sites.size))


def digit(name: Name, sites: Sites) -> Tensor:
    """Return (N,) int64: the value that a batch or site name takes at each node."""
    if not isinstance(sites, Sites):  # pairs
        return sites.digit(name)
    if name.kind == "batch":
        return sites.batch
    position = sites.pos[:, name.axis]
    return position // name.stride % name.size


def index(found: Sequence[Name], sites: Sites) -> Tensor:
    """Return (N,) int64: the row-major number of each node in the product of these names."""
    total = torch.zeros(sites.num_nodes, dtype=torch.int64, device=sites.device)
    for name in found:
        size = sites.batch_size if name.kind == "batch" else name.size
        total = total * size + digit(name, sites)
    return total


def is_raster(found: Sequence[Name], sites: Sites) -> bool:
    """Whether these names number the nodes of a full grid in their own order."""
    if not sites.is_full or sites.size is None:
        return False
    expected = [Name("batch", BATCH)]
    expected += [Name("site", n, k) for k, n in enumerate(sites.size) if n > 1]
    return list(found) == expected


def lift(tensor: Tensor, axes: Axes, sites: Sites) -> Tensor:
    """Return (N or 1, *plain): what a tensor, broadcast to these axes, says at each node.

    Args:
        tensor: of at most len(axes) dimensions, each of size 1 or the axis's own.
        axes: of the result.
        sites: of the result.
    """
    missing = len(axes) - tensor.dim()
    shape: list[int] = []
    kept: list[bool] = []
    present: list[Name] = []
    for number, axis in enumerate(axes):
        size = 1 if number < missing else tensor.shape[number - missing]
        spoken = size == actual(axis, sites.batch_size) and (size > 1 or bool(axis))
        if not spoken and size != 1:
            raise NoRuleError(
                f"a tensor of shape {tuple(tensor.shape)} meets {names.describe(axes)}"
            )
        for name in axis:
            is_row = name.kind != "plain"
            shape.append((sites.batch_size if name.kind == "batch" else name.size) if spoken else 1)
            kept.append(is_row)
            if is_row and spoken:
                present.append(name)
    split = tensor.reshape(shape)
    rows = [slot for slot, is_row in enumerate(kept) if is_row]
    rest = [slot for slot, is_row in enumerate(kept) if not is_row]
    tail = [shape[slot] for slot in rest]
    table = split.permute(*rows, *rest).reshape(-1, *tail)
    if table.shape[0] == 1 or is_raster(present, sites):
        return table
    if isinstance(tensor, FakeTensor):  # a plan computes nothing
        return table.new_empty(sites.num_nodes, *tail)
    return take(table, index(present, sites))


def spread(tensor: Tensor, root: Sites) -> Spatial:
    """Return a tensor (B, C, *size) as the value on the network's sites of that size."""
    size = tuple(tensor.shape[2:])
    sites = network_sites(root, (size,) * root.batch_size)
    axes = names.image_axes(tensor.shape[1], size)
    return Spatial(lift(tensor, axes, sites), sites, axes)
