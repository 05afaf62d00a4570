"""Rank grids say who speaks to whom, both ways: the edges, triple for triple."""

from typing import Any

import pytest
import torch
from torch import Tensor

import convgraph as cg
from convgraph import KernelGeometry
from convgraph.backends.fused import cpp_tables
from convgraph.graph.edges import connect
from convgraph.graph.sites import Sites
from tests.cases import Triple, batch_edges, edges_of, holes, listed

GEOMETRIES: dict[str, KernelGeometry] = {
    "plain": KernelGeometry(3, padding=1),
    "bare": KernelGeometry(3),
    "even": KernelGeometry((2, 4)),
    "asymmetric": KernelGeometry(3, padding=((2, 0), (1, 1))),
    "wide margin": KernelGeometry(2, padding=3),
    "strided": KernelGeometry(3, stride=2, padding=1),
    "long strides": KernelGeometry(2, stride=(3, 4)),
    "dilated": KernelGeometry((3, 2), dilation=(2, 3), padding=(2, 1)),
    "dilated and strided": KernelGeometry(3, stride=2, dilation=2, padding=2),
    "reflect": KernelGeometry(3, padding=2, padding_mode="reflect"),
    "replicate": KernelGeometry(3, padding=3, padding_mode="replicate", stride=2),
    "circular": KernelGeometry(3, padding=2, padding_mode="circular"),
    "transposed": KernelGeometry(3, transposed=True),
    "transposed in place": KernelGeometry((3, 5), padding=(1, 2), transposed=True),
    "strided transposed": KernelGeometry(3, stride=2, padding=1, transposed=True, output_padding=1),
    "dilated transposed": KernelGeometry(
        (2, 3), stride=(2, 1), dilation=(3, 2), padding=(1, 2), transposed=True
    ),
    "line": KernelGeometry(3, padding=1, d=1),
    "folded line": KernelGeometry(5, padding=2, padding_mode="reflect", d=1),
    "space": KernelGeometry((2, 3, 2), padding=1, stride=(1, 2, 1), d=3),
    "space in the middle": KernelGeometry(3, padding=1, d=3),
}
SIZES = {1: (9,), 2: (6, 7), 3: (3, 4, 5)}


def triples(side: cpp_tables.RankGrid, *, back: bool = False) -> list[Triple]:
    """What a side says, as (tap, target, source)."""
    (base, site), (offset, kind) = side.sites.tolist(), side.slots.tolist()
    who = side.who.tolist()
    found = []
    for place, m in zip(base, site, strict=True):
        for step, tap in zip(offset, kind, strict=True):
            assert 0 <= place + step < len(who), "the kernels read without looking"
            other = who[place + step]
            if other >= 0:
                found.append((tap, other, m) if back else (tap, m, other))
    return sorted(found)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_both_sides_are_the_edges(name: str, masked: bool) -> None:
    g = GEOMETRIES[name]
    size = SIZES[g.d]
    source = Sites.from_mask(holes(2, size)) if masked else Sites.full(2, size)
    edges = connect(g, source)
    out, per_image = edges_of(size, g)
    targets = list(edges.target.mask_images())
    assert targets[0].shape == out
    truth = batch_edges(list(source.mask_images()), targets, [per_image] * 2)
    there, back = cpp_tables.sides(edges)
    assert triples(there) == truth
    assert triples(back, back=True) == truth
    assert truth == listed(edges)
    assert there.slots[1].tolist() == list(range(g.num_taps)), "weights' gradients rely on it"


@pytest.mark.parametrize("name", ["plain", "strided", "reflect", "strided transposed"])
def test_images_of_different_sizes(name: str) -> None:
    images = [torch.rand(1, 6, 7), torch.rand(1, 9, 5), torch.rand(1, 6, 7)]
    masks: list[Any] = [torch.rand(6, 7) < 0.6, torch.rand(9, 5) < 0.6, None]
    graph = cg.PixelGraph.from_image(images, masks)
    edges = connect(GEOMETRIES[name], graph)
    there, back = cpp_tables.sides(edges)
    assert triples(there) == listed(edges)
    assert triples(back, back=True) == listed(edges)


@pytest.mark.parametrize("rule", ["network", "named"])
def test_output_sites_of_any_kind(rule: str) -> None:
    g = KernelGeometry(3, stride=2, padding=1)
    source = Sites.from_mask(holes(2, (6, 7)))
    sites: Any = "network" if rule == "network" else torch.rand(2, 3, 4) < 0.5
    edges = connect(g, source, sites)
    there, back = cpp_tables.sides(edges)
    assert triples(there) == listed(edges)
    assert triples(back, back=True) == listed(edges)


@pytest.mark.parametrize("kept", [0, 1])
def test_empty_graphs(kept: int) -> None:
    mask = torch.zeros(2, 4, 5, dtype=torch.bool)
    mask[0, 0, :kept] = True
    edges = connect(KernelGeometry(3, padding=1), Sites.from_mask(mask))
    there, back = cpp_tables.sides(edges)
    assert triples(there) == listed(edges) == triples(back, back=True)


def test_what_looks_both_ways_reads_one_grid() -> None:
    edges = connect(GEOMETRIES["plain"], Sites.from_mask(holes(2, (6, 7))))
    there, back = cpp_tables.sides(edges)
    assert there.who is back.who
    assert there.sites is back.sites


def moved(side: cpp_tables.RankGrid, which: str) -> cpp_tables.RankGrid:
    """A side with a fault."""
    parts: dict[str, Tensor] = {key: part.clone() for key, part in side._asdict().items()}
    if which == "who":
        parts["who"][(parts["who"] >= 0).nonzero()[0]] = -1
    elif which == "tap":
        parts["slots"][1, :2] = parts["slots"][1, :2].flip(0)
    else:
        parts["slots"][0, 0] += 1
    return cpp_tables.RankGrid(**parts)


@pytest.mark.parametrize("which", ["who", "tap", "offset"])
def test_a_fault_is_seen(which: str) -> None:
    edges = connect(GEOMETRIES["plain"], Sites.from_mask(holes(2, (6, 7))))
    there, _ = cpp_tables.sides(edges)
    assert triples(moved(there, which)) != listed(edges)
