"""Weighted sums of rows in bags, and the same along the reversed edges.

    read[p, t] = sum over edges q --t--> p of  w x[q]          a bag a site and tap, in one pass
    back[q]    = sum over edges q --t--> p of  w g[p, t]

Each is the other's derivative, so nothing but the lists is kept. Bags are summed one by one in the
order of their list: nothing races, and a run repeats bit for bit.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from convgraph.backends.compiled import linear, operators, unwatched
from convgraph.backends.problem import EdgeSource
from convgraph.graph.edges import Edges
from convgraph.graph.typed_edges import TypedEdges


class Lists(NamedTuple):
    """One direction of the edges.

    Attributes:
        rows: (E,) int32 rows that are read, bag after bag.
        ptr: (bags + 1,) int32 where each bag begins.
        weight: (E,) of the features' dtype.
    """

    rows: Tensor
    ptr: Tensor
    weight: Tensor


class Both(NamedTuple):
    """Both directions of the edges of one topology."""

    ahead: Lists
    back: Lists


def lists(edges: EdgeSource, dtype: torch.dtype) -> Both:
    """Return bags of sources for each site and tap, and of sites and taps for each source."""
    if isinstance(edges, (Edges, TypedEdges)):
        return edges.memo_of(_lists, dtype)
    return _lists(edges, dtype)


def reversible(edges: EdgeSource, dtype: torch.dtype) -> Both:
    """Return bags of sources for each site and tap, and of sites for each source and tap.

    Backwards a bag is what one tap answers to one source, so that both ways are the same sum.
    """
    if isinstance(edges, (Edges, TypedEdges)):
        return edges.memo_of(_reversible, dtype)
    return _reversible(edges, dtype)


def _reversible(edges: EdgeSource, dtype: torch.dtype) -> Both:
    source, target, tap, loud, taps = _of(edges, dtype)
    ends = (
        (source, target * taps + tap, edges.num_targets * taps),
        (target, source * taps + tap, edges.num_sources * taps),
    )
    return Both(*(_bags(read, into, count, loud) for read, into, count in ends))


def _of(edges: EdgeSource, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Source, target, tap and weight of each edge, (E,) each, and how many taps there are."""
    source, target, weight, ptr = edges.by_tap()
    device, taps = source.device, len(ptr) - 1
    sizes = torch.tensor(ptr, device=device).diff()
    tap = torch.arange(taps, device=device).repeat_interleave(sizes)
    loud = torch.ones(len(source), dtype=dtype, device=device) if weight is None else weight
    return source, target, tap, loud.to(dtype), taps


def _lists(edges: EdgeSource, dtype: torch.dtype) -> Both:
    source, target, tap, loud, taps = _of(edges, dtype)
    slot = target * taps + tap
    ends = (source, slot, edges.num_targets * taps), (slot, source, edges.num_sources)
    return Both(*(_bags(read, into, count, loud) for read, into, count in ends))


def _bags(read: Tensor, into: Tensor, count: int, weight: Tensor) -> Lists:
    order = into.argsort(stable=True)
    ptr = into.new_zeros(count + 1)
    ptr[1:] = torch.bincount(into, minlength=count).cumsum(0)
    return Lists(read[order].int(), ptr.int(), weight[order])


def read(
    x: Tensor,  # (N, C)
    both: Both,
) -> Tensor:
    """Return (P * taps, C): what each tap of each site reads, 0 where it reads nothing."""
    if unwatched(x):
        found: Tensor = _read(x, both)
        return found
    return _plainly(x, both.ahead)


def _summed(x: Tensor, way: Lists) -> Tensor:
    plain: tuple[Any, ...] = (False, 0, False, way.weight, True)
    call = torch.ops.aten._embedding_bag_forward_only.default
    found: Tensor = call(x.contiguous(), way.rows, way.ptr, *plain)[0]
    return found


def _plainly(x: Tensor, way: Lists) -> Tensor:
    """The same by what a compiler or a transform can follow."""
    count = len(way.ptr) - 1
    into = torch.arange(count, device=x.device).repeat_interleave(way.ptr.diff())
    rows = x.index_select(0, way.rows) * way.weight.unsqueeze(1)
    return rows.new_zeros(count, x.shape[1]).index_add(0, into, rows)


class _Read(torch.autograd.Function):
    """Bags of sources; its derivative is `_Back`."""

    @staticmethod
    def forward(x: Tensor, both: Both) -> Tensor:
        return _summed(x, both.ahead)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.plain = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _back_back(grads[0], *ctx.plain), None


class _Back(torch.autograd.Function):
    """Bags of sites and taps; its derivative is `_Read`."""

    @staticmethod
    def forward(g: Tensor, both: Both) -> Tensor:
        return _summed(g, both.back)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.plain = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _read_back(grads[0], *ctx.plain), None


_read, _read_back = operators(_Read, linear)
_, _back_back = operators(_Back, linear)
