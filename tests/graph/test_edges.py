"""Typed edges against loops over plain ints: which there are, in which order, onto which sites."""

import gc
import weakref
from collections.abc import Iterator
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import convgraph as cg
from convgraph.errors import GraphError
from convgraph.graph.output_sites import network_sites
from convgraph.graph.sites import Sites
from tests.cases import batch_edges, edges_of, holes, listed

MODES = ("zeros", "reflect", "replicate", "circular")


@st.composite
def relations(draw: st.DrawFn, d: int) -> cg.KernelGeometry:
    several = st.tuples(*[st.integers(1, 3)] * d)
    if draw(st.booleans()) and draw(st.booleans()):
        stride = draw(several)
        return cg.KernelGeometry(
            draw(several),
            stride,
            0,
            draw(several),
            transposed=True,
            output_padding=tuple(s - 1 for s in stride),
        )
    pads = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(d))
    mode = draw(st.sampled_from(MODES))
    return cg.KernelGeometry(draw(several), draw(several), pads, draw(several), padding_mode=mode)


@st.composite
def batches(draw: st.DrawFn) -> tuple[cg.KernelGeometry, list[tuple[int, ...]], list[Tensor]]:
    """A geometry and one to three images, of one size or of several, with masks or without."""
    d = draw(st.integers(1, 3))
    lengths = st.tuples(*[st.integers(5, (9, 7, 5)[d - 1])] * d)
    sizes = draw(st.lists(lengths, min_size=1, max_size=3))
    if draw(st.booleans()):
        sizes = [sizes[0]] * len(sizes)
    keep = draw(st.sampled_from([1.0, 0.7, 0.3, 0.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    masks = [torch.rand(size, generator=generator) < keep for size in sizes]
    return draw(relations(d)), sizes, masks


def sites_of(sizes: list[tuple[int, ...]], masks: list[Tensor]) -> Sites:
    if all(mask.all() for mask in masks):
        return Sites.ragged(sizes)
    if len(set(sizes)) == 1:
        return Sites.from_mask(torch.stack(masks))
    return Sites.ragged(sizes, masks)


def fits(geometry: cg.KernelGeometry, sizes: list[tuple[int, ...]]) -> bool:
    try:
        return all(geometry.output_size(size) for size in sizes)
    except cg.errors.GeometryError:
        return False


@settings(max_examples=200)
@given(batches())
def test_edges_are_those_of_the_windows(case: Any) -> None:
    geometry, sizes, masks = case
    if not fits(geometry, sizes):
        return
    source = sites_of(sizes, masks)
    edges = cg.connect(geometry, source)
    truth = [edges_of(size, geometry) for size in sizes]
    # Where they arrive: the rule in words.
    if geometry.stride == (1,) * geometry.d and [out for out, _ in truth] == sizes:
        expected = masks
    elif all(mask.all() for mask in masks):
        expected = [torch.ones(out, dtype=torch.bool) for out, _ in truth]
    else:
        expected = []
        for mask, (out, found) in zip(masks, truth, strict=True):
            heard = torch.zeros(out, dtype=torch.bool).flatten()
            present = mask.flatten()
            heard[[p for _, p, q in found if present[q]]] = True
            expected.append(heard.view(out))
    targets = edges.target.mask_images()
    assert all(torch.equal(a, b) for a, b in zip(targets, expected, strict=True))
    # Which they are: by tap, then by target, then by source.
    expected_edges = batch_edges(masks, expected, [found for _, found in truth])
    assert edges.num_edges == len(expected_edges), "counting comes before building"
    assert listed(edges) == expected_edges
    assert edges.num_sources == sum(int(mask.sum()) for mask in masks)
    assert edges.num_targets == sum(int(mask.sum()) for mask in expected)
    ptr = edges.tap_ptr
    assert len(ptr) == edges.num_taps + 1
    assert all((edges.edge_type[a:b] == tap).all() for tap, (a, b) in enumerate(pairwise(ptr)))
    assert edges.edge_index.dtype == edges.edge_type.dtype == torch.int64


@settings(max_examples=60)
@given(batches(), st.integers(0, 10**6))
def test_named_sites_are_exactly_those(case: Any, seed: int) -> None:
    geometry, sizes, masks = case
    if not fits(geometry, sizes):
        return
    truth = [edges_of(size, geometry) for size in sizes]
    generator = torch.Generator().manual_seed(seed)
    wanted = [torch.rand(out, generator=generator) < 0.5 for out, _ in truth]
    named = Sites.ragged([out for out, _ in truth], wanted)
    found = cg.connect(geometry, sites_of(sizes, masks), named)
    assert found.target is named
    assert listed(found) == batch_edges(masks, wanted, [edges for _, edges in truth])


def test_sites_are_named_by_a_mask_a_graph_or_a_record() -> None:
    geometry = cg.KernelGeometry(3, stride=2, padding=1)
    graph = cg.PixelGraph.from_image(torch.rand(2, 1, 6, 8), holes(2, (6, 8)))
    mask = holes(2, (3, 4))
    expected = listed(cg.connect(geometry, graph, Sites.from_mask(mask)))
    for named in (mask, mask.unsqueeze(1), cg.PixelGraph.from_image(torch.rand(2, 5, 3, 4), mask)):
        assert listed(cg.connect(geometry, graph, named)) == expected
    alike = cg.connect(geometry, graph, mask[0])
    assert torch.equal(alike.target.mask.view(2, 3, 4), mask[:1].expand(2, 3, 4))
    for wrong, text in (
        (torch.ones(2, 6, 8).bool(), r"expected sites of shape \(2, 3, 4\) or \(3, 4\)"),
        (Sites.full(2, (4, 4)), "expected sites on lattices of sizes"),
        ("all", "a mask, a PixelGraph, 'reached' or 'network'"),
        (7, "expected a PixelGraph or Sites, got int"),
    ):
        with pytest.raises(cg.errors.GraphError, match=text):
            cg.connect(geometry, graph, wrong)
    with pytest.raises(cg.errors.DtypeError, match=r"torch\.bool"):
        cg.connect(geometry, graph, torch.ones(2, 3, 4))
    with pytest.raises(cg.errors.GraphError, match="build the geometry with d=2"):
        cg.connect(cg.KernelGeometry(3, d=1), graph)


# The rule of a network


def cells(old: tuple[int, ...], new: tuple[int, ...], mask: Tensor) -> Tensor:
    """Section by section of the rule: a cell is active when a pixel of it is."""
    active = torch.zeros(new, dtype=torch.bool)
    if all(n == 1 for n in new):
        return ~active
    for place in product(*map(range, new)):
        spans = []
        for p, s, t in zip(place, old, new, strict=True):
            spans.append([q for q in range(s) if q * t // s == p] if t <= s else [p * s // t])
        active[place] = any(bool(mask[pixel]) for pixel in product(*spans))
    return active


@settings(max_examples=60)
@given(
    st.integers(1, 2).flatmap(lambda d: st.tuples(*[st.tuples(*[st.integers(1, 9)] * d)] * 2)),
    st.integers(0, 10**6),
)
def test_a_network_has_one_site_set_per_size(sizes: Any, seed: int) -> None:
    old, new = sizes
    mask = torch.rand(old, generator=torch.Generator().manual_seed(seed)) < 0.3
    root = Sites.from_mask(mask.unsqueeze(0))
    found = network_sites(root, (new,))
    if root.is_full:
        assert found.is_full
    elif old == new:
        assert found is root
    else:
        assert torch.equal(found.mask_images()[0], cells(old, new, mask))
    assert network_sites(found, (new,)) is found or root.is_full
    assert network_sites(found, (old,)) is root or root.is_full


def test_every_path_to_a_size_ends_on_the_same_sites() -> None:
    graph = cg.PixelGraph.from_image(torch.rand(2, 1, 12, 9), holes(2, (12, 9), keep=0.1))
    half = cg.KernelGeometry(2, stride=2)
    strided = cg.KernelGeometry(3, stride=2, padding=(1, 0))
    assert half.output_size((12, 9)) == strided.output_size((12, 9)) == (6, 4)
    one, two = (cg.connect(g, graph, "network").target for g in (half, strided))
    assert one is two
    up = cg.KernelGeometry(2, stride=2, transposed=True, output_padding=(0, 1))
    assert cg.connect(up, one, "network").target is graph.sites, "and back to the entrance"


# What it costs


def test_a_full_grid_that_nobody_looks_at_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise AssertionError("an edge list was built")

    monkeypatch.setattr("convgraph.graph.edge_list.build", fail)
    geometry = cg.KernelGeometry(3, padding=1)
    edges = cg.connect(geometry, Sites.full(64, (100_000, 100_000)))
    assert edges.num_targets == 64 * 10**10
    assert edges.num_edges == 64 * (3 * 10**5 - 2) ** 2, "counted axis by axis"
    assert "edges)" in repr(edges)
    layer = cg.nn.GraphConv2d(3, 4, 3, padding=1)
    layer(cg.PixelGraph.from_image(torch.rand(2, 3, 9, 9))).x.sum().backward()
    with pytest.raises(AssertionError, match="was built"):
        cg.connect(geometry, Sites.full(1, (5, 5))).edge_index  # noqa: B018 - asking builds it


def test_asked_twice_it_is_the_same_record() -> None:
    graph = cg.PixelGraph.from_image(torch.rand(1, 1, 6, 6), holes(1, (6, 6)))
    geometry = cg.KernelGeometry(3, padding=1)
    edges = cg.connect(geometry, graph)
    assert cg.connect(cg.KernelGeometry(3, padding=1), graph) is edges
    assert edges.edge_index is cg.connect(geometry, graph).edge_index
    assert edges.edge_type is edges.edge_type
    assert edges.target is graph.sites
    layers = [cg.nn.GraphConv2d(1, 1, 3, padding=1) for _ in range(2)]
    assert layers[0].edges(graph) is layers[1].edges(graph) is edges, "layers share them"


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
def test_a_stream_of_masks_leaves_nothing_behind() -> None:
    """Edge lists die with the younger of their ends, at once: nothing goes round in circles."""
    geometry = cg.KernelGeometry(3, padding=1)
    stays = Sites.from_mask(holes(1, (6, 6)))
    gone = []
    for _ in range(5):
        named = Sites.from_mask(holes(1, (6, 6)))
        passing = Sites.from_mask(holes(1, (6, 6)))
        for edges in (cg.connect(geometry, stays, named), cg.connect(geometry, passing, stays)):
            assert edges.num_edges
            gone += [weakref.ref(edges), weakref.ref(edges.edge_index)]
        strided = cg.connect(cg.KernelGeometry(3, stride=2), passing)
        up = cg.KernelGeometry(3, stride=2, transposed=True, output_padding=1)
        back = cg.connect(up, strided.target, "network")
        layer = cg.nn.GraphConv2d(1, 1, 3, stride=2, backend="gather")
        y = layer(cg.PixelGraph(torch.rand(passing.num_nodes, 1), passing)).x
        y.sum().backward()
        gone += [weakref.ref(thing) for thing in (passing, back, strided.edge_index, y)]
    del edges, named, passing, strided, back, y
    assert not any(ref() for ref in gone)


def test_what_is_derived_is_kept_though_nobody_holds_it() -> None:
    """A network finds its edges again in the next step."""
    graph = cg.PixelGraph.from_image(torch.rand(2, 1, 9, 8), holes(2, (9, 8)))
    for kind in (None, "network"):
        lists = []
        for _ in range(2):
            first = cg.connect(cg.KernelGeometry(3, stride=2, padding=1), graph, kind)
            second = cg.connect(cg.KernelGeometry(2, dilation=2), first.target, kind)
            readout = second.target.readout()
            lists.append([first.edge_index, second.edge_index, readout.counts])
            del first, second, readout
        assert all(a is b for a, b in zip(*lists, strict=True))


def test_pointwise_layers_are_graphs_of_self_loops() -> None:
    graph = cg.PixelGraph.from_image(torch.rand(2, 3, 5, 4), holes(2, (5, 4)))
    for layer in (cg.nn.PointwiseConv(3, 4), cg.nn.GraphConv2d(3, 4, 1)):
        edges = layer.edges(graph)
        assert edges.num_edges == graph.num_nodes
        assert torch.equal(edges.edge_index[0], edges.edge_index[1])
        assert edges.edge_index[0].tolist() == list(range(graph.num_nodes))
        assert not edges.edge_type.any()


def test_transposing_reverses_the_arrows() -> None:
    for size, options in (((5, 6), {"stride": 2, "padding": 1}), ((5, 7), {"dilation": 2})):
        down = cg.connect(cg.KernelGeometry(3, **options), Sites.full(1, size))
        out = cg.KernelGeometry(3, **options).output_size(size)
        for extra in product(range(2), repeat=2):
            back = {**options, "transposed": True, "output_padding": extra}
            up = cg.connect(cg.KernelGeometry(3, **back), Sites.full(1, out))
            if up.target.size != size:
                continue
            turned = sorted((t, q, p) for t, p, q in listed(down))
            assert listed(up) == turned
            break
        else:
            raise AssertionError("no output_padding gives the size back")


def test_more_pixels_than_a_list_can_hold_are_no_list() -> None:
    """A full grid lists nothing and may be of any size; what lists pixels says so beforehand."""
    sites = Sites.full(2, (100_000, 100_000))
    assert sites.num_nodes == 2 * 10**10
    assert sites.counts.tolist() == [10**10, 10**10]
    for asked in ("nodes", "pos", "batch"):
        with pytest.raises(GraphError, match=r"at most 2147483647 pixels .*`cg.tiled`"):
            getattr(sites, asked)
    with pytest.raises(GraphError, match="at most 2147483647 pixels along an axis"):
        Sites.full(1, (2**40,))
    with pytest.raises(GraphError, match="at most 2147483647 pixels where each"):
        Sites.ragged([(3, 3), (100_000, 100_000)], [torch.ones(3, 3).bool(), None])
