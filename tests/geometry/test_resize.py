"""Which pixels a resize reads, with what weights, and what it refuses.

Sources are compared with torch's one by one; weights that are not dyadic within a derived bound.
"""

from math import ceil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import convgraph as cg
from convgraph import errors
from convgraph.functional import graph_resize
from convgraph.geometry.resize import ResizeGeometry
from convgraph.graph import edge_list
from convgraph.nn import GraphUpsample
from convgraph.proof.roundoff import dot_bound, unit_roundoff
from tests.cases import BACKENDS, holes
from tests.nn.resizes import LAYOUT, LINEAR, NAMED, SIZE, ours, torchs

# Source pixels of the nearest modes


def sources(how: dict, n: int, d: int) -> np.ndarray:
    return ResizeGeometry(**how, d=d).axis_sources(d - 1, n)[:, 0]


FACTORS = st.one_of(
    st.fractions(min_value=1 / 16, max_value=4, max_denominator=40).map(float),
    st.floats(0.05, 4),
)


@given(
    n=st.integers(1, 130),
    out=st.one_of(st.integers(1, 250), FACTORS),
    exact=st.booleans(),
    recompute=st.booleans(),
    d=st.integers(1, 3),
    channels=st.sampled_from([1, 5]),
    other=st.sampled_from([1, 3, 40]),
    dtype=st.sampled_from([torch.float16, torch.float32, torch.float64]),
    channels_last=st.booleans(),
)
@example(91, 77, False, False, 1, 1, 1, torch.float64, False)  # float32 and float64 part
@example(2, 41, True, False, 1, 1, 1, torch.float32, False)  # a fused multiply-add shows
@example(10, 1.0625, True, False, 1, 1, 1, torch.float32, False)  # equal sizes, another scale
@settings(max_examples=400)
def test_nearest_listens_to_torchs_pixels(
    n, out, exact, recompute, d, channels, other, dtype, channels_last
) -> None:
    others = (min(other, 3),) * (d - 1) if d == 3 else (other,) * (d - 1)
    how: dict = {"mode": "nearest-exact" if exact else "nearest"}
    if isinstance(out, int):
        how |= {"size": (*others, out)}
    else:
        assume(int(n * out) >= 1)
        how |= {"scale_factor": (*(1.0,) * (d - 1), out), "recompute_scale_factor": recompute}
    size = (*others, n)
    pixel = torch.arange(n, dtype=torch.float64).to(dtype).expand(1, channels, *size).contiguous()
    if channels_last and d > 1:
        pixel = pixel.contiguous(memory_format=LAYOUT[d])
    y, g, grad = torchs(pixel, how, weight=lambda y: torch.randint_like(y, -8, 9))
    heard = sources(how, n, d)
    assert ResizeGeometry(**how, d=d).output_size(size) == tuple(y.shape[2:])
    # Backward always asks the same function, whatever forward did.
    back = np.zeros((*g.shape[2:-1], n))
    np.add.at(back, (..., heard), g[0, 0].double().numpy())
    assert np.array_equal(grad[0, 0].double().numpy(), back)
    if ResizeGeometry(**how, d=d).settled(size, double=dtype == torch.float64):
        assert np.array_equal(y[0, -1].reshape(-1, len(heard))[0].double().numpy(), heard)


def test_where_torch_contradicts_itself_the_edges_follow_its_backward() -> None:
    how = {"size": 77, "mode": "nearest"}
    signal = torch.arange(91.0, dtype=torch.float64).expand(1, 1, 91)
    in_float64, _, grad = torchs(signal, how, weight=torch.ones_like)
    in_float32 = F.interpolate(signal.float(), **how).double()
    assert not torch.equal(in_float64, in_float32)
    # The gradient of a sum counts the listeners of each pixel: torch's backward is float32's.
    listeners = np.bincount(sources(how, 91, 1), minlength=91)
    assert np.array_equal(grad[0, 0].numpy(), listeners)
    assert np.array_equal(in_float32[0, 0].numpy(), sources(how, 91, 1))

    graph = cg.PixelGraph.from_image(signal.contiguous(), d=1)
    assert torch.equal(graph_resize(graph, **how).to_image(), in_float32)
    with pytest.raises(errors.BackendError, match="kernels disagree on the source pixels"):
        graph_resize(graph, **how, backend="dense")


# Real data, within a derived bound


def position_error(mode: str, n: int, u: float) -> tuple[float, float]:
    """Return (L, e): the absolute weights of one axis sum up to L at most, and err by e at most.

    The source position r is off by at most 5 u n: the scale carries two roundings, the product
    one, the subtraction one (r < n), and 1 more covers their products. Weights as functions of r
    are continuous, also where the tap changes. Linear: they change by at most 2 per pixel in sum;
    1 - t rounds once. Cubic (A = -3/4): |w'| is at most 3/4 twice and 1.35 twice, 4.2 in sum; the
    polynomials sum up to 36 (far) and 4.5 (near) in absolute values over at most 8 operations,
    2 * 8 * (36 + 4.5) = 648 u; and the weights sum up to 1.375 at t = 1/2.
    """
    delta = 5 * u * n
    return (1.375, 4.2 * delta + 648 * u) if mode == "bicubic" else (1.0, 2 * delta + 2 * u)


@given(
    d=st.integers(1, 3),
    cubic=st.booleans(),
    size=st.tuples(*[st.integers(1, 9)] * 3),
    out=st.tuples(*[st.integers(1, 12)] * 3),
    factor=st.one_of(
        st.none(), st.fractions(min_value=1 / 2, max_value=3, max_denominator=9).map(float)
    ),
    recompute=st.booleans(),
    align=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=120)
def test_real_data_stay_within_the_bound(
    d, cubic, size, out, factor, recompute, align, dtype, seed
) -> None:
    d = 2 if cubic else d
    size, mode = size[:d], "bicubic" if cubic else LINEAR[d]
    how: dict = {"mode": mode, "align_corners": align}
    if factor is None:
        how |= {"size": out[:d]}
    else:
        assume(int(min(size) * factor) >= 1)
        how |= {"scale_factor": factor, "recompute_scale_factor": recompute}
    geometry = ResizeGeometry(**how, double=dtype == torch.float64, d=d)
    # Equal sizes under a scale of their own: torch's bicubic copies backward but not forward.
    assume(geometry.settled(size, double=dtype == torch.float64))
    torch.manual_seed(seed)
    image = torch.randn(2, 2, *size, dtype=dtype)
    y, g, grad = torchs(image, how, weight=torch.randn_like)
    found = geometry.output_size(size)
    u = unit_roundoff(dtype)
    reach, terms, listeners, exact, off = 2 if cubic else 1, 1, 1, 1.0, 1.0
    for n, m in zip(size, found, strict=True):
        total, error = position_error(mode, n, u)
        exact, off = exact * total, off * (total + error)
        terms *= 2 * reach
        # Outputs whose position is within `reach` of one pixel, one spare on either side. Where
        # one scale is 0, or the border is replicated, no fewer than all of them may listen.
        scale = (n - 1) / max(m - 1, 1) if align else min(n / m, 1 / (factor or m / n))
        listeners *= min(m, ceil((2 * reach + 1) / scale) + 2) if scale else m
    # Each weight is a product of d of them: d more roundings.
    x_max, g_max = float(image.abs().max()), float(g.abs().max())
    y_bound = 2 * (dot_bound(terms + d, dtype, off * x_max) + (off - exact) * x_max)
    into = listeners * g_max
    grad_bound = 2 * (dot_bound(listeners * terms + d, dtype, off * into) + (off - exact) * into)
    for backend in BACKENDS:
        out_graph, got = ours(image, how, g, backend)
        assert float((out_graph.to_image().detach() - y).abs().max()) <= y_bound
        assert float((got - grad).abs().max()) <= grad_bound


# Weights and edges


def test_edges_are_weighted_and_say_so() -> None:
    graph = cg.PixelGraph.from_image(torch.ones(1, 1, 3), d=1)
    edges = GraphUpsample(scale_factor=2, mode="linear").edges(graph)
    triples = sorted(
        zip(*edges.edge_index.flip(0).tolist(), edges.edge_weight.tolist(), strict=True)
    )
    # Position 0 lies before the first pixel's centre, 5 behind the last one's: replicated there,
    # over two parallel edges.
    assert triples == [
        (0, 0, 1.0),
        (1, 0, 0.75), (1, 1, 0.25),
        (2, 0, 0.25), (2, 1, 0.75),
        (3, 1, 0.75), (3, 2, 0.25),
        (4, 1, 0.25), (4, 2, 0.75),
        (5, 2, 0.25), (5, 2, 0.75),
    ]  # fmt: skip
    assert not edges.injective


@pytest.mark.parametrize(("d", "how"), NAMED)
def test_weights_into_a_site_sum_to_one(d: int, how: dict) -> None:
    edges = ResizeGeometry(**how, d=d, double=True)
    found = cg.connect(edges, cg.Sites.full(1, SIZE[d]))
    weight = found.edge_weight
    weight = torch.ones(found.num_edges).double() if weight is None else weight
    total = torch.zeros(found.num_targets).double().index_add(0, found.edge_index[1], weight)
    assert torch.equal(total, torch.ones_like(total))
    assert found.num_edges == found.edge_index.shape[1]


def test_a_grid_builds_no_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("somebody asked for the edges of a full grid")

    monkeypatch.setattr(edge_list, "build", forbidden)
    graph = cg.PixelGraph.from_image(torch.ones(1, 2, 13, 11))
    for mode in ("nearest", "bilinear", "bicubic"):
        layer = GraphUpsample(scale_factor=3, mode=mode)
        assert layer(graph).num_nodes == 39 * 33
        assert cg.explain(layer, graph).backend == "dense"


# Refusals


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ({}, errors.GeometryError, "exactly one of size and scale_factor, got size=None"),
        ({"size": 2, "scale_factor": 2}, errors.GeometryError, "exactly one of size and scale"),
        ({"size": 2.5}, errors.GeometryError, "size: expected an integer, got 2.5"),
        ({"size": 0}, errors.GeometryError, "size: expected at least 1, got 0"),
        ({"size": (2, 2, 2)}, errors.GeometryError, "size as one number or 2, one an axis"),
        ({"scale_factor": -1}, errors.GeometryError, "scale_factor: expected a positive number"),
        ({"scale_factor": "2"}, errors.GeometryError, "scale_factor: expected a positive number"),
        ({"scale_factor": (2, None)}, errors.GeometryError, "expected a positive number, got None"),
        ({"scale_factor": 0.1}, errors.GeometryError, "leaves no pixel of the 4 along axis 0"),
        ({"size": 2, "mode": "lanczos"}, errors.GeometryError, "expected mode in .*'lanczos'"),
        ({"size": 2, "mode": "area"}, errors.UnsupportedError, "mode='area'.*GraphAdaptiveAvgPool"),
        ({"size": 2, "mode": "linear"}, errors.GeometryError, "'linear' resizes 1 dimensions"),
        ({"size": 2, "mode": "trilinear"}, errors.GeometryError, "d = 2; expected mode in"),
        ({"size": 2, "align_corners": True}, errors.GeometryError, "align_corners=True has no"),
        (
            {"size": 2, "recompute_scale_factor": True},
            errors.GeometryError,
            "recompute_scale_factor=True needs a scale_factor",
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(how: dict, kind: type, text: str) -> None:
    graph = cg.PixelGraph.from_image(torch.ones(1, 1, 4, 4))
    with pytest.raises(kind, match=text):
        GraphUpsample(**how)(graph)
    with pytest.raises(kind, match=text):
        graph_resize(graph, **how)


def test_other_refusals() -> None:
    graph = cg.PixelGraph.from_image(torch.ones(1, 1, 4, 4))
    with pytest.raises(errors.UnsupportedError, match="antialias=True is refused"):
        graph_resize(graph, 2, antialias=True)
    with pytest.raises(errors.GraphError, match="GraphUpsample: expected a PixelGraph, got Tensor"):
        GraphUpsample(2)(torch.ones(1, 1, 4, 4))
    with pytest.raises(errors.BackendError, match="no backend is called 'cuda'"):
        GraphUpsample(2, backend="cuda")
    with pytest.raises(errors.ConversionError, match=r"expected a torch\.nn\.Upsample, got Fold"):
        GraphUpsample.from_dense(torch.nn.Fold(2, 2))
    with pytest.raises(errors.UnsupportedError, match="mode='area'"):
        GraphUpsample.from_dense(torch.nn.Upsample(2, mode="area"))
    with pytest.raises(errors.GeometryError, match=r"d in 1\.\.3, got 4"):
        ResizeGeometry(size=2, d=4)
    with pytest.raises(errors.GeometryError, match="expected a size of 2 ints"):
        ResizeGeometry(size=2).output_size((3,))
    holed = cg.PixelGraph.from_image(torch.ones(1, 1, 4, 4), holes(1, (4, 4)))
    with pytest.raises(errors.BackendError, match="not every pixel is a node"):
        GraphUpsample(2, backend="dense")(holed)
