"""Positions of a map that are looked up or written by number, or by yes and no.

x[:, :, [1, 2], [3, 4]]      what is read is a readout; an absent pixel says 0
x[x > 0]                     an absent pixel says no, and is left out
x[:, :, [0, 2]] = y          what is absent stays absent, and says 0 to others
"""

from typing import Any

import torch
from torch import Tensor

from convgraph.convert import names
from convgraph.convert.align import align, expanded, together
from convgraph.convert.frames import where
from convgraph.convert.names import Axes, Name, NoRuleError
from convgraph.convert.node_pairs import PairSites, keys
from convgraph.convert.operators import INTO_TENSOR
from convgraph.convert.registry import rule
from convgraph.convert.value import Spatial, dense, lift, placed, reshaped
from convgraph.errors import ConversionError
from convgraph.graph.sites import Sites


def looked_up(call: Any, x: Any, indices: Any) -> Any:
    """Return x[indices] as a readout, or rows of a table on the nodes of a map of numbers."""
    given = [(dim, one) for dim, one in enumerate(indices) if one is not None]
    maps = [one for _, one in given if isinstance(one, Spatial)]
    kinds = [(one.x if isinstance(one, Spatial) else one).dtype for _, one in given]
    if kinds == [torch.bool]:
        return chosen(call, x, *given[0])
    if torch.bool in kinds and maps:
        raise NoRuleError("it looks up by a map of yes and no and by others")
    if maps:
        (place, index), table = given[0], x
        if isinstance(x, Spatial) or len(given) > 1 or place:
            raise NoRuleError("it looks up a map, or several axes of a table, by a map")
        more = tuple((Name("plain", n),) for n in table.shape[1:])
        return Spatial(table[index.x], index.sites, (*index.axes, *more))
    if (numbers := _of_each_image(x, given)) is not None:
        call.travelled("node")
        dim = given[1][0]
        numbers = numbers.view(-1, *(1,) * (len(x.shape) - 1))
        wide = numbers.expand(*x.shape[:dim], 1, *x.shape[dim + 1 :])
        return gather(call, x, dim, wide).regrouped(names.replaced(x.shape, dim))
    return call.target(readout_but(call, x, *(dim for dim, _ in given)), indices)


def _of_each_image(x: Spatial, given: Any) -> Tensor | None:
    """The number of a plain entry for each image, if x[torch.arange(B), numbers] asks for it."""
    dims = [dim for dim, _ in given]
    if len(dims) != 2 or dims[0] or not names.is_plain(x.axes[dims[1]]):
        return None
    images, numbers = (one for _, one in given)
    every = torch.arange(x.shape[0], device=images.device)
    if numbers.shape != every.shape or not torch.equal(images, every):
        return None
    return torch.where(numbers < 0, numbers + x.shape[dims[1]], numbers)


def readout_but(call: Any, x: Spatial, *dims: int) -> Tensor:
    """Return a map as a tensor, 0 where it is absent, if only the given axes name its pixels."""
    left = tuple(axis for dim, axis in enumerate(x.axes) if dim not in dims)
    if not names.no_pixels(left):
        raise NoRuleError("it looks up positions along some axes of the lattice only")
    call.travelled("all")
    return x.tensor()


def chosen(call: Any, x: Any, dim: int, yes: Any) -> Tensor:
    """Return the entries at which a map, or an image, says yes and both are there."""
    call.travelled("all")
    mask = dense(yes)
    mask = _there(x, dim, mask) if isinstance(x, Spatial) else mask
    found: Tensor = dense(x)[(*[slice(None)] * dim, mask)]
    return found


def _there(x: Spatial, dim: int, yes: Tensor) -> Tensor:
    """Which of the positions that a mask says yes to are there, from an axis on."""
    spread = range(dim, dim + yes.dim())
    left = (*x.axes[:dim], *x.axes[spread.stop :])
    if not all(map(names.is_plain, left)):
        raise NoRuleError("it chooses along some axes of the lattice only")
    there = x.there()
    return yes & there[tuple(slice(None) if k in spread else 0 for k in range(there.dim()))]


def _of_those_there(call: Any, x: Spatial, indices: Any, value: Tensor) -> Any:
    """Return indices that write a list to the positions that it was read off by the same mask.

    Raises:
        ConversionError: it has another length.
    """
    dim, yes = next((dim, one) for dim, one in enumerate(indices) if one is not None)
    place = value.dim() - 1 - (len(x.axes) - dim - yes.dim())
    count = value.shape[place] if place >= 0 else 1
    if count in (1, int(yes.sum())):
        return indices
    there = _there(x, dim, yes)
    if count != int(there.sum()):
        raise ConversionError(
            f"{call.name} {where()} writes a list of {count} to {int(there.sum())} positions that "
            "are there, as one read off a map of other nodes is; choose by torch.where"
        )
    return [*[None] * dim, there]


@rule("masked_select", hop="all")
def masked_select(call: Any, x: Any, yes: Any) -> Tensor:
    """The entries at which a mask says yes."""
    whole = torch.broadcast_shapes(x.shape, yes.shape)
    if isinstance(x, Spatial) and x.shape != whole:
        raise NoRuleError("its mask is larger than the map")
    mask = dense(yes).expand(whole)
    return chosen(call, x if isinstance(x, Spatial) else x.expand(whole), 0, mask)


@rule("masked_scatter", "masked_scatter_")
def masked_scatter(call: Any, x: Any, yes: Any, source: Any) -> Spatial:
    """Numbers of a list, one for every entry that is there and at which a mask says yes."""
    if not isinstance(x, Spatial):
        raise NoRuleError(INTO_TENSOR)
    if isinstance(source, Spatial):
        raise NoRuleError("it reads a list off a map; give it masked_select() of that map")
    return written(call, x, dense(yes) & x.there(), source)


@rule("take", hop="all")
def take(call: Any, x: Any, index: Any) -> Any:
    """Entries of a flattened map as a readout, or of a flattened table on the nodes of a map."""
    if not isinstance(index, Spatial):
        return call.target(x.tensor(), index)
    if isinstance(x, Spatial):
        raise NoRuleError("it looks up a map by a map")
    call.travelled("node")
    return index.with_x(call.target(x, index.x))


@rule("put", "put_", hop="all")
def put(call: Any, x: Any, index: Any, *args: Any, **kwargs: Any) -> Spatial:
    """Numbers at entries of the flattened map."""
    if isinstance(index, Spatial):
        raise NoRuleError("it writes at positions that are a map's numbers")
    return written(call, x, index, *args, **kwargs)


@rule("diagonal", hop="all")
def diagonal(call: Any, x: Spatial, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """A diagonal of two plain axes as the last one; of the lattice, a readout."""
    one, other = (names.place(dim, len(x.axes)) for dim in (dim1, dim2))
    dims = sorted((one, other))
    if isinstance(x.sites, PairSites) and any(names.of_rows((x.axes[dim],)) for dim in dims):
        return _with_itself(call, x, dims, offset)
    if not all(names.is_plain(x.axes[dim]) for dim in dims):
        return call.target(readout_but(call, x, *dims), offset, dim1, dim2)
    call.travelled("node")
    x = x.merged(dims[0]).merged(dims[1])
    rows = call.target(x.x, offset, x.slot(one), x.slot(other))
    left = names.replaced(names.replaced(x.axes, dims[1]), dims[0])
    return Spatial(rows, x.sites, (*left, (Name("plain", rows.shape[-1]),)))


def _with_itself(call: Any, x: Spatial, dims: list[int], offset: int) -> Spatial:
    """Return what pairs of a node with itself say, as what the node says."""
    sites, (one, other) = x.sites, (x.axes[dim] for dim in dims)
    mine, heard = (other, one) if names.kinds(one) == {"key"} else (one, other)
    if offset or sites.asking is not sites.answering or keys(mine) != heard:
        raise NoRuleError("a diagonal of pairs on which not every node meets itself")
    call.travelled("node")
    left = names.replaced(names.replaced(x.axes, dims[1]), dims[0])
    return Spatial(x.x[sites.itself], sites.asking, (*left, mine))


@rule("nonzero", "argwhere", "nonzero_numpy", "multinomial", hop="all")
def nonzero(call: Any, x: Spatial, *args: Any, **kwargs: Any) -> Any:
    """Positions that are there and not 0; or some of them, drawn."""
    if call.name == "multinomial" and names.is_plain(x.axes[-1]):  # a node draws by its own
        return x.on_lines(lambda lines: call.target(lines, *args, **kwargs))
    return call.target(x.tensor(), *args, **kwargs)


def written(call: Any, x: Any, *args: Any, **kwargs: Any) -> Spatial:
    """Return what an operator writes at positions of a map; what is absent stays absent."""
    if not isinstance(x, Spatial):
        raise NoRuleError(INTO_TENSOR)
    into = getattr(torch.ops.aten, call.name.removesuffix("_"))
    rows = x.with_x(x.x.clone())  # autograd keeps them, and the map's own may be written into
    found = into(rows.tensor(), *map(dense, args), **kwargs)
    return placed(found, x.sites, x.axes)


def _cells(x: Tensor, dim: int, rows: Tensor, sites: Any, axes: Axes) -> Tensor:
    """Return the cell of an ordinary tensor at each place, if rows are its number along one axis.

    A number that is none of that axis is a cell that the tensor has not, so that torch refuses it.

    Raises:
        IndexError: another axis is too short; torch says which.
    """
    dim, sizes = names.place(dim, len(axes)), names.sizes(axes)
    others = [number for number in range(len(axes)) if number != dim]
    if len(axes) != x.dim() or any(sizes[number] > x.shape[number] for number in others):
        raise IndexError(f"cells beyond the shape {tuple(x.shape)}")
    steps = torch.empty(x.shape, device="meta").stride()
    where = rows * steps[dim]
    for number in others:
        line = torch.arange(sizes[number], device=x.device) * steps[number]
        where = where + lift(line.view(-1, *(1,) * (len(axes) - 1 - number)), axes, sites)
    return torch.where((rows >= 0) & (rows < x.shape[dim]), where, x.numel())


def _counted_in(
    call: Any, x: Tensor, dim: int, index: Any, said: Any, *more: Any, **how: Any
) -> Any:
    """Return an ordinary tensor with what nodes write into it, or add: at classes, regions, bins.

    An absent pixel writes nothing.
    """
    call.travelled("all")
    (rows, said), sites, axes = together(index, said)
    where = _cells(x, dim, rows, sites, axes).flatten()
    said = said.flatten() if isinstance(said, Tensor) and said.dim() else said
    write = getattr(torch.ops.aten, call.name.removesuffix("_").replace("index", "scatter"))
    return write(x.reshape(-1), 0, where, said, *more, **how).view(x.shape)


def _put_in(call: Any, x: Tensor, indices: Any, value: Any, accumulate: bool) -> Any:
    """Return an ordinary tensor with what nodes write at cells that they name, or say yes to."""
    kinds = {
        (one.x if isinstance(one, Spatial) else one).dtype for one in indices if one is not None
    }
    into = torch.ops.aten.index_put
    if kinds == {torch.bool} and not isinstance(value, Spatial):
        return into(x, dense(indices), value, accumulate)
    if torch.bool in kinds or None in indices or len(indices) < x.dim():
        raise NoRuleError(INTO_TENSOR)
    shape = torch.broadcast_shapes(*(one.shape for one in indices))
    (*numbers, value), _, axes = together(*indices, value)
    torch.empty(names.sizes(axes), device="meta").expand(shape)  # a larger value is refused
    return into(x, numbers, value, accumulate)


def on_same(x: Spatial, *others: Any) -> None:
    """Refuse maps of other nodes beside one."""
    if any(isinstance(one, Spatial) and one.sites is not x.sites for one in others):
        raise NoRuleError("map and index do not live on the same nodes")


@rule("gather")
def gather(call: Any, x: Any, dim: int, index: Any, **_: Any) -> Any:
    """Entries of an axis by a map or an image of numbers; of pixels by an image, a readout."""
    if not isinstance(x, Spatial):
        return index.with_x(x.reshape(-1)[_cells(x, dim, index.x, index.sites, index.axes)])
    dim = names.place(dim, len(x.axes))
    plain = names.is_plain(x.axes[dim])
    if not plain and isinstance(index, Tensor):
        return readout_but(call, x, dim).gather(dim, index)
    lines = not plain and isinstance(x.sites, Sites) and x.sites.space is None
    if lines and names.replaced(x.axes, dim) == names.replaced(index.axes, dim):
        call.travelled("all")
        return placed(x.tensor().gather(dim, dense(index)), index.sites, index.axes)
    on_same(x, index)
    sizes = (*x.shape[:dim], index.shape[dim], *x.shape[dim + 1 :])
    if not plain or tuple(index.shape) != sizes:
        raise NoRuleError("map and index differ in their axes")
    axes = names.replaced(x.axes, dim, (Name("plain", sizes[dim]),))
    return placed(x.tensor().gather(dim, dense(index)), x.sites, axes)


@rule(
    "slice_scatter", "select_scatter", "diagonal_scatter", "index_fill", "index_fill_",
    "index_copy", "index_copy_", "index_add", "index_add_", hop="all",
)  # fmt: skip
def scattered(call: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """A number, a map or a tensor, written or added at some entries of an axis, or at a part."""
    given = call.named(x, *args, **kwargs)
    if not isinstance(x, Spatial) and "alpha" in given:
        index, said, alpha = given["index"], given["source"], given["alpha"]
        dim = names.place(given["dim"], len(said.shape))
        if names.replaced(x.shape, dim) != names.replaced(said.shape, dim):
            raise IndexError("it adds what has another shape; torch says which")
        index = reshaped(index, (index.shape[0], *(1,) * (len(said.shape) - 1 - dim)))
        said = said.with_x(said.x * alpha) if isinstance(said, Spatial) else said * alpha
        return _counted_in(call, x, dim, index, said)
    found = written(call, x, *args, **kwargs)
    if "dim" in given:
        _stayed(call, x, [given["dim"]], given.values())
    return found


def _stayed(call: Any, x: Spatial, dims: Any, others: Any) -> None:
    """Note that nothing moved, where plain axes were written and maps lie as the one does."""
    maps = [one for one in others if isinstance(one, Spatial)]
    lattice = [[axis for axis in one.axes if not names.is_plain(axis)] for one in (x, *maps)]
    plain = all(names.is_plain(x.axes[dim]) for dim in dims)
    call.travelled("node" if plain and all(one == lattice[0] for one in lattice) else "all")


@rule(
    "scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_",
    hop="all",
)  # fmt: skip
def scatter(call: Any, x: Any, dim: int, index: Any, *args: Any, **more: Any) -> Any:
    """Entries of a plain axis, chosen by a map or an image of numbers; of the lattice, by these."""
    if not isinstance(x, Spatial):
        if any(getattr(one, "shape", index.shape) != index.shape for one in args):
            raise NoRuleError("its numbers and what is written differ in their shapes")
        return _counted_in(call, x, dim, index, *args, **more)
    if not names.is_plain(x.axes[dim]):
        reduces = "reduce" in call.name and any(isinstance(one, Spatial) for one in args)
        if isinstance(index, Spatial) or reduces:
            raise NoRuleError("it scatters along the lattice by a map, or reduces one there")
        return written(call, x, dim, index, *args, **more)
    on_same(x, index, *args)
    found = written(call, x, dim, index, *args, **more)
    call.travelled("node")
    return found


@rule("index_put", "index_put_", "_unsafe_index_put", hop="all")
def index_put(call: Any, x: Any, indices: Any, value: Tensor, accumulate: bool = False) -> Any:
    """Where a map of yes and no says yes, another value: y[y < 0] = 0; or at numbers."""
    if not isinstance(x, Spatial):
        return _put_in(call, x, indices, value, accumulate)
    chosen = indices[0]
    says = isinstance(chosen, Spatial) and chosen.x.dtype == torch.bool
    if says and isinstance(value, Tensor) and value.numel() != 1:
        indices = [dense(chosen), *indices[1:]]  # a list, as one read off by that map
    given = [one for one in indices if one is not None]
    if all(isinstance(one, Tensor) for one in given):
        by_mask = len(given) == 1 and given[0].dtype == torch.bool
        if by_mask and isinstance(value, Tensor):
            indices = _of_those_there(call, x, indices, value)
        found = written(call, x, indices, value, accumulate)
        dims = [dim for dim, one in enumerate(indices) if one is not None]
        _stayed(call, x, dims, [value])
        return found
    simple = len(given) == 1 and says and not accumulate
    if not simple or isinstance(value, Spatial):
        raise NoRuleError("it writes at positions that are no map of yes and no")
    if chosen.shape != x.shape[: len(chosen.axes)]:
        raise IndexError(f"a mask of shape {tuple(chosen.shape)} meets {tuple(x.shape)}")
    call.travelled("node")
    missing = len(x.axes) - len(chosen.axes)
    wide = Spatial(chosen.x, chosen.sites, (*chosen.axes, *((),) * missing))
    (rows, yes), sites, axes = align([x, wide])
    out = torch.where(yes, value.to(rows.dtype).reshape(()), rows)
    return Spatial(expanded(out, sites, axes), sites, axes)
