"""Neighbour tables: for each site and each of its slots, the one row that it hears there, or none.

    table[s, m] = row that speaks to site order[m] through tap kind[s];  -1 where none does

Forwards a slot is a tap. Backwards, where padding folds several targets onto one source within one
tap, that tap has as many slots as its busiest source needs. Sites stand in the order of small
spatial tiles, so that one block of rows shares its neighbours and the taps it does without.

Integers only; made once per topology, by counting: nothing is hashed, and only folds are sorted.
"""

from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from convgraph.backends import site_tiles
from convgraph.graph.edges import Edges
from convgraph.graph.sites import Sites

BLOCK = {1: (64,), 2: (8, 8), 3: (4, 4, 4)}
"""Sites of a spatial tile along each axis, by the dimension of the lattice: 64 rows in all."""


class NeighbourTable(NamedTuple):
    """The table of one direction of the edges.

    Attributes:
        table: (S, P) int32 row that site order[m] hears in slot s, -1 for none.
        order: (P,) int32 the sites, tile after tile.
        kind: (S,) int32 tap of each slot.
    """

    table: Tensor
    order: Tensor
    kind: Tensor


class Neighbours(NamedTuple):
    """Both directions: what targets hear, and what sources are answered."""

    there: NeighbourTable
    back: NeighbourTable


def neighbours(edges: Edges) -> Neighbours:
    """Return the tables of a kernel's edges on a lattice."""
    source, target, _, ptr = edges.by_tap()
    taps = torch.arange(len(ptr) - 1, device=target.device)
    there = _side(edges.edge_type, target, source, taps, edges.target)
    return Neighbours(there, answers(edges))


def answers(edges: Edges) -> NeighbourTable:
    """Return what sources are answered."""
    source, target, _, ptr = edges.by_tap()
    tap = edges.edge_type
    taps = torch.arange(len(ptr) - 1, device=tap.device)
    if edges.injective:
        return _side(tap, source, target, taps, edges.source)
    turn = _turns(tap * edges.num_sources + source)
    most = torch.zeros(len(taps), dtype=torch.int64, device=tap.device)
    most = most.scatter_reduce(0, tap, turn + 1, "amax")
    slot = (most.cumsum(0) - most)[tap] + turn
    return _side(slot, source, target, taps.repeat_interleave(most), edges.source)


def _side(
    slot: Tensor,  # (E,)
    hears: Tensor,  # (E,)
    speaks: Tensor,  # (E,)
    kind: Tensor,  # (S,) tap of each slot
    sites: Sites,
) -> NeighbourTable:
    """Write the lists into a table; no pair of slot and site comes twice."""
    order = tile_order(sites)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    table = torch.full((len(kind), len(order)), -1, dtype=torch.int32, device=order.device)
    table[slot, place[hears]] = speaks.int()
    return NeighbourTable(table, order.int(), kind.int())


def _turns(key: Tensor) -> Tensor:
    """(E,): how many earlier edges have the same key."""
    ranked, order = key.sort(stable=True)
    place = torch.arange(len(key), device=key.device)
    first = torch.ones_like(ranked, dtype=torch.bool)
    first[1:] = ranked[1:] != ranked[:-1]
    start = torch.where(first, place, 0).cummax(0).values
    turns = torch.empty_like(place)
    turns[order] = place - start
    return turns


def tile_order(sites: Sites) -> Tensor:
    """(P,) int64: the sites tile after tile, within a tile in raster order; kept with the sites."""
    return sites.memo("tile order", lambda: _tile_order(sites, BLOCK[sites.d]))


def _tile_order(sites: Sites, tile: tuple[int, ...]) -> Tensor:
    if sites.num_nodes == 0:
        return torch.empty(0, dtype=torch.int64, device=sites.device)
    within, number, count = site_tiles.cells(sites, tile)
    held = torch.full((count * prod(tile),), -1, device=sites.device)
    held[number * prod(tile) + within] = torch.arange(sites.num_nodes, device=sites.device)
    return held[held >= 0]
