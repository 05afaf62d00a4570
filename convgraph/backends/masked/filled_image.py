"""Rows on the sites of a lattice, laid out as images with zeros in the holes, and read again.

    lay(x)[cell] = x[node of the cell], or 0          read(y)[node] = y[cell of the node]

Each is the other's derivative. On the CPU `lay` is one pass of bags of one row or none; to write
rows into an image of zeros would be two.
"""

from typing import Any

import torch
from torch import Tensor

from convgraph.backends.bags import bags
from convgraph.backends.compiled import add_rows, linear, operators, untracked, unwatched
from convgraph.graph.sites import Sites


def lay(
    x: Tensor,  # (N, C)
    sites: Sites,
) -> Tensor:
    """Return (num_cells, C), 0 where no node stands; x itself on a full grid."""
    if sites.is_full:
        return x
    if torch.compiler.is_compiling():
        return add_rows(x.new_zeros(sites.num_cells, x.shape[1]), sites.nodes, x, distinct=True)
    made: Tensor = (_Lay.forward if untracked() else _lay)(x, *_lists(sites))
    return made


def read(
    y: Tensor,  # (num_cells, C)
    sites: Sites,
) -> Tensor:
    """Return (N, C), the rows of the nodes; y itself on a full grid."""
    if sites.is_full:
        return y
    if untracked() or torch.compiler.is_compiling():
        return y.index_select(0, sites.nodes)
    made: Tensor = _read(y, *_lists(sites))
    return made


def _lists(sites: Sites) -> tuple[Tensor, Tensor, Tensor]:
    """The cell of each node (N,), the nodes (N,), and how many stand before each cell, and all."""

    def make() -> tuple[Tensor, Tensor]:
        nodes = sites.nodes
        there = torch.zeros(sites.num_cells + 1, dtype=torch.int64, device=nodes.device)
        there[nodes + 1] = 1
        return torch.arange(len(nodes), device=nodes.device), there.cumsum(0)

    return (sites.nodes, *sites.memo("laid out", make))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep the lists; neither derivative reads the rows."""
    ctx.plain = ()
    ctx.save_for_backward(*inputs[1:])
    ctx.save_for_forward(*inputs[1:])


class _Lay(torch.autograd.Function):
    """An image from rows."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, nodes: Tensor, rows: Tensor, before: Tensor) -> Tensor:
        if x.device.type == "cpu" and unwatched(x):
            wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
            return bags(wide, rows, before).to(x.dtype)
        return add_rows(x.new_zeros(len(before) - 1, x.shape[1]), nodes, x, distinct=True)

    setup_context = staticmethod(_keep)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _read_back(grads[0], *ctx.saved_tensors), None, None, None


class _Read(torch.autograd.Function):
    """Rows from an image."""

    generate_vmap_rule = True

    @staticmethod
    def forward(y: Tensor, nodes: Tensor, rows: Tensor, before: Tensor) -> Tensor:
        return y.index_select(0, nodes)

    setup_context = staticmethod(_keep)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _lay_back(grads[0], *ctx.saved_tensors), None, None, None


_lay, _lay_back = operators(_Lay, linear)
_read, _read_back = operators(_Read, linear)
