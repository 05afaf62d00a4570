"""`cg.prove` on the library itself: its layers are proven on every backend.

Faults planted in its own files are refuted by the part that should see them.
"""

import gc
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convgraph as cg
from convgraph.backends import matrices, site_tiles
from convgraph.backends.dense import conv as dense
from convgraph.backends.gather import edges as gather
from convgraph.backends.gather import typed_nodes
from convgraph.backends.masked import filled_image
from convgraph.backends.messages import edges as messages
from convgraph.backends.tiles import conv as tiles
from convgraph.backends.tiles import cutting
from convgraph.errors import ProofError
from convgraph.functional import conv as functional
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph import edge_list
from convgraph.proof import Certificate
from tests.cases import CONV_BACKENDS, CONV_OFF_GRID, holes

SIZE = (6, 7)
nn = torch.nn


def status(found: Certificate, part: str) -> str:
    return next(p.status for p in found.parts if p.name.startswith(part))


# What is right is proven

LAYERS: dict[str, tuple[type, tuple[Any, ...], dict[str, Any]]] = {
    "plain": (nn.Conv2d, (3, 4, 3), {"padding": 1}),
    "no bias, even kernel": (nn.Conv2d, (3, 4, (2, 4)), {"bias": False}),
    "same": (nn.Conv2d, (3, 4, 3), {"padding": "same", "dilation": 2}),
    "stride beyond the kernel": (nn.Conv2d, (3, 4, 2), {"stride": 3}),
    "depthwise": (nn.Conv2d, (4, 8, 3), {"padding": 1, "groups": 4}),
    "reflect": (nn.Conv2d, (4, 4, 3), {"padding": 2, "padding_mode": "reflect", "groups": 2}),
    "replicate": (nn.Conv2d, (2, 3, 3), {"padding": (2, 1), "padding_mode": "replicate"}),
    "circular": (nn.Conv2d, (2, 3, 3), {"padding": 1, "padding_mode": "circular", "stride": 2}),
    "pointwise": (nn.Conv2d, (3, 5, 1), {}),
    "transposed": (
        nn.ConvTranspose2d,
        (4, 6, 3),
        {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2},
    ),
    "signal": (nn.Conv1d, (3, 4, 5), {"padding": 2, "stride": 2}),
    "volume": (nn.Conv3d, (2, 3, 3), {"padding": 1}),
    "transposed signal": (nn.ConvTranspose1d, (2, 3, 4), {"stride": 3, "dilation": 2}),
    "transposed volume": (nn.ConvTranspose3d, (2, 3, 2), {"stride": 2}),
}
SIZES = {1: (11,), 2: SIZE, 3: (3, 4, 3)}
GRAPH = {
    dense_class: getattr(cg.nn, "Graph" + dense_class.__name__)
    for dense_class in {entry[0] for entry in LAYERS.values()}
}


def pair(name: str, dtype: torch.dtype = torch.float64) -> tuple[Any, Any]:
    kind, arguments, options = LAYERS[name]
    twin = kind(*arguments, **options).to(dtype)
    return GRAPH[kind].from_dense(twin), twin


@pytest.mark.parametrize("backend", CONV_BACKENDS)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_proven_on_every_backend(name: str, backend: str) -> None:
    layer, twin = pair(name)
    with cg.backend(backend):
        found = cg.prove(layer, twin, size=SIZES[layer.geometry.d])
    assert found.verdict == "proven", str(found)
    assert found.log2_epsilon <= -100


@pytest.mark.parametrize("backend", CONV_OFF_GRID)
@pytest.mark.parametrize("name", LAYERS)
def test_masks_are_proven_against_the_written_truth(name: str, backend: str) -> None:
    layer, twin = pair(name)
    size = SIZES[layer.geometry.d]
    with cg.backend(backend):
        found = cg.prove(layer, twin, size=size, mask=holes(2, size))
    assert found.verdict == "proven", str(found)


@pytest.mark.parametrize("name", ["plain", "stride beyond the kernel", "transposed", "reflect"])
def test_named_sites_are_proven(name: str) -> None:
    layer, twin = pair(name)
    out = layer.geometry.output_size(SIZE)
    found = cg.prove(layer, twin, size=SIZE, mask=holes(2, SIZE), sites=holes(2, out))
    assert found.verdict == "proven", str(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", CONV_BACKENDS)
@pytest.mark.parametrize("name", ["plain", "reflect", "transposed"])
def test_float32_is_proven_and_half_types_never_blame_the_candidate(
    name: str, backend: str, dtype: torch.dtype
) -> None:
    layer, twin = pair(name, dtype)
    with cg.backend(backend):
        found = cg.prove(layer, twin, size=SIZE)
    if dtype.is_floating_point and dtype.itemsize == 2:
        # torch's own half kernels on the CPU leave the derived bound, and the certificate says
        # that it was the reference; the candidate may never be named.
        assert status(found, "S2 identity") == "proven", str(found)
        assert "candidate" not in found.reason, str(found)
    else:
        assert found.verdict == "proven", str(found)


# Another operator is refuted

TWIN = {"padding": 1, "stride": 2, "padding_mode": "reflect"}
OTHERS: dict[str, dict[str, Any]] = {
    "stride": {"stride": 1},
    "stride along the width": {"stride": (2, 1)},
    "padding": {"padding": 2},
    "asymmetric padding": {"padding": ((1, 1), (0, 2))},
    "padding mode replicate": {"padding_mode": "replicate"},
    "padding mode zeros": {"padding_mode": "zeros"},
    "padding mode circular": {"padding_mode": "circular"},
    "dilation": {"dilation": 2, "padding": 2},
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_layer_with_another_argument_is_refuted(name: str) -> None:
    twin = nn.Conv2d(4, 4, 3, **TWIN).double()
    other = cg.nn.GraphConv2d(4, 4, 3, **(TWIN | OTHERS[name])).double()
    other.load_state_dict(twin.state_dict())
    found = cg.prove(other, twin, size=SIZE)
    assert found.verdict == "refuted", str(found)
    assert status(found, "S0") == "refuted"


def test_one_bit_of_a_parameter_is_refuted() -> None:
    layer, twin = pair("plain")
    with torch.no_grad():
        layer.weight[0, 0, 0, 0].copy_(
            torch.nextafter(layer.weight[0, 0, 0, 0], torch.tensor(9.0).double())
        )
    found = cg.prove(layer, twin, size=SIZE)
    assert found.verdict == "refuted"
    assert "'weight' differs" in found.reason


# Faults in the library's own files

Plant = Callable[[pytest.MonkeyPatch], None]


def wrap(owner: Any, name: str, change: Callable[..., Any]) -> Plant:
    """Replace owner.name by change(original, *arguments)."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        original = getattr(owner, name)
        patch.setattr(owner, name, lambda *args, **options: change(original, *args, **options))

    return plant


def replaced_table(change: Callable[[Any, int], Any]) -> Plant:
    return wrap(
        KernelGeometry, "axis_sources", lambda f, self, axis, n: change(f(self, axis, n), n)
    )


def changed_list(change: Callable[[Tensor], Tensor]) -> Plant:
    return wrap(edge_list, "build", lambda f, *args: (change((r := f(*args))[0]), r[1]))


def tap_by_tap(plant: Plant) -> Plant:
    """Plant a fault in what `gather` does where the edges are too many for slots."""

    def both(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(typed_nodes, "MOST", 0)
        plant(patch)

    return both


def faulty_backward(owner: Any, place: int, change: Callable[[Tensor], Tensor]) -> Plant:
    """Change one of the gradients (grad_x, grad_taps) of an autograd function, where it is made."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        original = owner.backward

        def backward(ctx: Any, *heads: Any) -> Any:
            made = list(original(ctx, *heads))
            if made[place] is not None:  # None: nobody asked for this one
                made[place] = change(made[place])
            return tuple(made)

        patch.setattr(owner, "backward", staticmethod(backward))

    return plant


def lost_bias(f: Any, x: Tensor, w: Tensor, b: Any, *args: Any, **options: Any) -> Tensor:
    return f(x, w, b if b is None else 0 * b, *args, **options)


def mirrored(image: Tensor) -> Tensor:
    return image.clone().index_copy_(0, torch.tensor([0]), image[-1:])


def without_last(cells: Any) -> Any:
    return np.where(cells == cells.max(), -1, cells)


def inner(cells: Tensor) -> Tensor:
    """1 within, 0 at the last column."""
    kept = torch.ones(cells.shape[-1], dtype=cells.dtype)
    kept[-1] = 0
    return kept


_EDGES = "S0"
_VALUES = "S2 identity"
FAULTS: dict[str, tuple[str, str, Plant]] = {
    # who talks to whom
    "taps counted backwards": (_EDGES, "gather", replaced_table(lambda t, n: t[:, ::-1].copy())),
    "sources one too far": (
        _EDGES,
        "gather",
        replaced_table(lambda t, n: np.where((t >= 0) & (t + 1 < n), t + 1, -1)),
    ),
    "padding folded to the border": (
        _EDGES,
        "gather",
        replaced_table(lambda t, n: np.where(t < 0, 0, t)),
    ),
    "last row of windows hears nothing": (
        _EDGES,
        "gather",
        replaced_table(lambda t, n: np.where(np.arange(len(t))[:, None] == len(t) - 1, -1, t)),
    ),
    "source and target swapped": (_EDGES, "gather", changed_list(lambda e: e.flip(0))),
    "one edge goes astray": (
        _EDGES,
        "messages",
        changed_list(lambda e: torch.cat([e[:, :-1], e[:, :1]], 1)),
    ),
    "taps of the list shifted": (
        _EDGES,
        "gather",
        wrap(
            edge_list,
            "build",
            lambda f, *a: ((r := f(*a))[0], (*r[1][:4], r[1][4] + 1, *r[1][5:])),
        ),
    ),
    # what they say
    "matrices in another order": (
        _VALUES,
        "gather",
        wrap(matrices, "of_taps", lambda f, *a, **o: f(*a, **o).flip(0)),
    ),
    "matrices transposed": (
        _VALUES,
        "messages",
        wrap(matrices, "of_taps", lambda f, *a, **o: f(*a, **o).mT),
    ),
    "bias lost": (_VALUES, "gather", wrap(functional, "convolve", lost_bias)),
    "bias on the wire": (
        _VALUES,
        "messages",
        wrap(messages, "say", lambda f, x, taps: f(x, taps) + 1),
    ),
    "sums overwritten": (
        _VALUES,
        "gather",
        tap_by_tap(
            wrap(
                gather,
                "add_rows",
                lambda _, total, where, rows, *, distinct: total.index_copy_(0, where, rows),
            )
        ),
    ),
    "sum taken for a mean": (
        _VALUES,
        "messages",
        wrap(
            messages, "sum_by_target", lambda f, m, t, n: f(m, t, n) / f(m * 0 + 1, t, n).clamp(1)
        ),
    ),
    "computed in float32": (
        _VALUES,
        "gather",
        tap_by_tap(
            wrap(gather, "_multiply", lambda f, rows, tap: f(rows.float(), tap.float()).double())
        ),
    ),
    "first and last node swapped": (
        _VALUES,
        "dense",
        wrap(dense, "conv", lambda f, x, *a: f(mirrored(x), *a)),
    ),
    "a halo lost": (
        _VALUES,
        "tiles",
        wrap(site_tiles, "cells_along", lambda f, *a: without_last(f(*a))),
    ),
    "two tiles swapped": (
        _VALUES,
        "tiles",
        wrap(cutting, "as_rows", lambda f, tiles: f(tiles).roll(1, 0)),
    ),
    "holes not zero": (
        _VALUES,
        "tiles",
        wrap(cutting, "cutter", lambda f, *a: lambda chosen: f(*a)(chosen) + 1),
    ),
    "rows laid out one cell off": (
        _VALUES,
        "masked",
        wrap(dense, "convolution", lambda f, x, *a: f(x.roll(1, 0), *a)),
    ),
    "slots of the next node": (
        _VALUES,
        "gather",
        wrap(typed_nodes, "_bags_of", lambda f, ends, slot, n: f((ends + 1) % n, slot, n)),
    ),
    "an empty slot not empty": (
        _VALUES,
        "gather",
        wrap(
            typed_nodes,
            "bags",
            lambda f, x, rows, ptr: f(x, rows, ptr) + (ptr.diff() == 0)[:, None],
        ),
    ),
    "slots of another tap": (
        _VALUES,
        "gather",
        wrap(typed_nodes, "slots", lambda f, e: (r := f(e))._replace(taps=r.taps.flip(0))),
    ),
    # gradients
    "gradient of x lost in slots": (
        _VALUES,
        "gather",
        faulty_backward(typed_nodes._Send, 0, lambda g: g * 0),
    ),
    "gradient of w in slots for the tap turned round": (
        _VALUES,
        "gather",
        faulty_backward(typed_nodes._Send, 1, lambda g: g.flip(0)),
    ),
    "gradient of x laid out one cell off": (
        _VALUES,
        "masked",
        faulty_backward(filled_image._Lay, 0, lambda g: g.roll(1, 0)),
    ),
    "gradient of x sent along edges not reversed": (
        _VALUES,
        "tiles",
        wrap(tiles, "_turned", lambda f, w, groups: f(w, groups).flip(-1)),
    ),
    "gradient of w lost at the halo": (
        _VALUES,
        "tiles",
        wrap(cutting, "weight_gradient", lambda f, cells, g, s: f(cells * inner(cells), g, s)),
    ),
    "gradient of x lost": (
        _VALUES,
        "gather",
        tap_by_tap(faulty_backward(gather._Send, 0, lambda g: g * 0)),
    ),
    "gradient of w doubled": (
        _VALUES,
        "gather",
        tap_by_tap(faulty_backward(gather._Send, 1, lambda g: g * 2)),
    ),
    "gradient of w for the tap turned round": (
        _VALUES,
        "gather",
        tap_by_tap(faulty_backward(gather._Send, 1, lambda g: g.flip(0))),
    ),
    "gradient of w transposed": (
        _VALUES,
        "gather",
        tap_by_tap(faulty_backward(gather._Send, 1, lambda g: g.mT)),
    ),
}


@pytest.fixture(scope="module")
def _forget() -> Iterator[None]:
    """Let no faulty edges live on in the record of a full grid; here each fault has its own."""
    yield
    gc.collect()


SOUND = (3, 5)


@cache
def of_a_sound_layer(backend: str, masked: bool) -> str:
    """The verdict where nothing is planted."""
    twin = nn.Conv2d(4, 4, 3, padding=1).double()
    layer = cg.nn.GraphConv2d.from_dense(twin)
    with cg.backend(backend):
        mask = holes(2, SOUND) if masked else None
        return cg.prove(layer, twin, size=SOUND, mask=mask).verdict


@pytest.mark.usefixtures("_forget")
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_the_library_is_refuted(
    name: str, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, backend, plant = FAULTS[name]
    if masked and backend == "dense":
        pytest.skip("the dense backend serves full grids")
    if not masked and name == "gradient of x laid out one cell off":
        pytest.skip("a full grid is laid out as it is")
    assert of_a_sound_layer(backend, masked) == "proven"
    twin = nn.Conv2d(4, 4, 3, padding=1).double()
    layer = cg.nn.GraphConv2d.from_dense(twin)
    with cg.backend(backend):
        # Lattices of its own, so that edges kept from a sound run cannot help the faulty one.
        faulty = (3, 40 + list(FAULTS).index(name))
        plant(monkeypatch)
        mask = holes(2, faulty) if masked else None
        found = cg.prove(layer, twin, size=faulty, mask=mask)
    assert found.verdict == "refuted", f"{name} was not caught: {found}"
    assert status(found, part) == "refuted", str(found)


def test_one_layer_on_both_sides_keeps_its_weight_norm() -> None:
    """What a proof takes off a copy is not taken off the layer itself."""
    conv = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(2, 3, 3).double())
    assert cg.prove(conv, conv, size=(5, 5)).verdict == "proven"
    assert torch.nn.utils.parametrize.is_parametrized(conv, "weight")
    assert conv(torch.zeros(1, 2, 5, 5).double()).shape == (1, 3, 3, 3)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (lambda: torch.nn.LazyConv2d(3, 3), "is lazy: it has no shape yet"),
        (lambda: torch.nn.Conv2d(2, 3, 3, device="meta"), "on the meta device"),
    ],
)
def test_a_side_without_numbers_is_refused(layer: Any, words: str) -> None:
    conv = torch.nn.Conv2d(2, 3, 3)
    for pair in ((layer(), conv), (conv, layer())):
        with pytest.raises(ProofError, match=words):
            cg.prove(*pair, size=(5, 5))


@pytest.mark.parametrize("size", [(2**14, 2**14), (2**9, 2**21)])
@pytest.mark.parametrize(
    "side", [nn.Conv2d(3, 2, 5, padding=2), nn.MaxPool2d(2), nn.AvgPool2d((3, 2))]
)
def test_images_of_more_numbers_than_anybody_draws_at_once_are_refused(
    side: Any, size: tuple[int, int]
) -> None:
    with pytest.raises(ProofError, match=r"at most 268435456 numbers at once.*a smaller size"):
        cg.prove(side, side, size=size)


def test_edges_of_another_padding_are_not_said_to_lack_a_negative_number() -> None:
    conv = torch.nn.Conv2d(2, 3, 3, padding=1).double()
    layer = cg.nn.GraphConv2d(2, 3, 3, padding=1, padding_mode="reflect").double()
    layer.load_state_dict(conv.state_dict())
    found = cg.prove(layer, conv, size=(5, 6))
    assert (found.verdict, found.cause) == ("refuted", "padding is reflect, not zeros")


PADS: dict[str, tuple[nn.Module, Callable[[Tensor], Tensor]]] = {
    "reflect": (nn.ReflectionPad1d(1), lambda x: F.pad(x, (1, 1), "reflect")),
    "replicate": (nn.ReplicationPad1d((0, 1)), lambda x: torch.cat([x, x[..., -1:]], -1)),
    "circular": (nn.CircularPad1d((1, 0)), lambda x: torch.cat([x[..., -1:], x], -1)),
    "unflatten": (nn.Unflatten(2, (2, 3)), lambda x: x.reshape(*x.shape[:2], 2, 3)),
}


@pytest.mark.parametrize("name", PADS)
def test_pads_are_operators_that_only_move(name: str) -> None:
    module, run = PADS[name]
    assert cg.prove(run, module, size=(6,)).verdict == "proven"
    assert cg.prove(lambda x: run(x.flip(0)), module, size=(6,)).verdict == "refuted"


MAXIMA = [
    (cg.nn.GraphMaxPool1d, (3, 2, 1, 2), (9,), "gather"),
    (cg.nn.GraphMaxPool2d, (2,), (4, 6), "dense"),
    (cg.nn.GraphMaxPool2d, ((3, 2), 2, (1, 0), 1, False, True), (5, 5), "gather"),
    (cg.nn.GraphMaxPool2d, ((3, 2), 2, 1), (5, 4), "messages"),
    (cg.nn.GraphMaxPool3d, ((2, 1, 2),), (2, 2, 2), "messages"),
    (cg.nn.GraphAdaptiveMaxPool2d, ((2, 3),), (4, 6), "gather"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "arguments", "size", "backend"), MAXIMA)
def test_every_maximum_of_the_library_is_proven(
    kind: Any, arguments: tuple[Any, ...], size: tuple[int, ...], backend: str, dtype: torch.dtype
) -> None:
    layer = kind(*arguments, backend=backend)
    cert = cg.prove(layer, layer.to_dense(), torch.zeros(2, 1, *size), dtype=dtype)
    assert (cert.verdict, cert.kind) == ("proven", "maximum"), str(cert)
    assert cert.rho["y"] == 0
    assert any("equally large" in line for line in cert.not_covered)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_large_maximum_is_proven_and_a_wrong_one_refuted(dtype: torch.dtype) -> None:
    """Large images of float32 draw equal numbers, between which either choice is right."""
    known = torch.nn.MaxPool2d(2)
    for layer in (cg.nn.GraphMaxPool2d(2), lambda x: F.unfold(x, 2, stride=2).view(
        2, 4, 4, 24, 24).amax(2)):  # fmt: skip
        cert = cg.prove(layer, known, size=(48, 48), dtype=dtype)
        assert cert.verdict == "proven", str(cert)

    def zero(x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(x, 2).clamp(min=0)

    def detached(x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(x, 2).detach() + 0 * F.max_pool2d(x, 2)

    for wrong, quantity in ((zero, "y["), (detached, "grad_x[")):
        cert = cg.prove(wrong, known, size=(6, 8), dtype=dtype)
        assert cert.verdict == "refuted"
        assert f"the candidate's {quantity}" in cert.reason


class Standardised(torch.nn.Conv2d):
    """A convolution of its weight less the mean, over the deviation."""

    def forward(self, x: Tensor) -> Tensor:
        spread, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True, correction=0)
        return F.conv2d(x, (self.weight - mean) / (spread + 1e-5).sqrt(), self.bias, padding=1)


def test_a_standardised_weight_is_told_as_what_it_is() -> None:
    """It is no convolution of what it holds; as networks two of them are compared."""
    one, two = (Standardised(2, 3, 3, padding=1) for _ in range(2))
    two.load_state_dict(one.state_dict())
    cert = cg.prove(one, two, size=(4, 5))
    assert cert.verdict == "undecided"
    assert "the reference is not what its own integers say" in cert.reason
    assert "as a standardised weight is made" in cert.reason
    assert Certificate.from_json(cert.to_json()) == cert
    plain = torch.nn.Conv2d(2, 3, 3, padding=1)
    plain.load_state_dict(one.state_dict())
    images = torch.randn(2, 2, 4, 5)
    nets = [torch.nn.Sequential(layer, torch.nn.ReLU()) for layer in (one, two, plain)]
    assert cg.prove(nets[0], nets[1], images).verdict == "proven"
    for wrong, right in ((one, plain), (plain, one)):
        assert cg.prove(wrong, right, size=(4, 5)).verdict != "proven"
    assert cg.prove(nets[0], nets[2], images).verdict == "refuted"


def test_one_mask_is_of_every_image_and_a_masked_graph_of_one_image_is_taken() -> None:
    conv = torch.nn.Conv2d(2, 3, 3, padding=1)
    layer = cg.nn.GraphConv2d.from_dense(conv)
    holes = torch.ones(1, 4, 5, dtype=torch.bool)
    holes[0, 1, 2] = False
    graph = cg.PixelGraph.from_image(torch.rand(1, 2, 4, 5), mask=holes)
    for cert in (
        cg.prove(layer, conv, graph, seed=0),
        cg.prove(layer, conv, size=(4, 5), batch=3, mask=holes, seed=0),
    ):
        assert cert.verdict == "proven", cert.reason
        assert cert.spec["source_mask"] == [holes[0].int().tolist()] * cert.spec["batch"]


def keeping(layer: Any, part: str) -> Any:
    """A layer that hands out what it made before, where weight and input come again."""
    plain, held = layer.forward, list[Any]()

    def forward(given: Any, *more: Any) -> Any:
        key = [given.x if part == "rows" else given, getattr(layer, "weight", None)]
        if not held or any(one is not two for one, two in zip(key, held, strict=False)):
            held[:] = [*key, plain(given, *more)]
        return held[-1]

    layer.forward = forward
    return layer


@pytest.mark.parametrize("part", ["rows", "graph", "image"])
def test_what_is_made_of_an_image_comes_again_where_that_is_filled_anew(part: str) -> None:
    """A call makes nodes, or an image without what is masked: `is` has to find these again."""
    layer, twin = pair("no bias, even kernel")
    if part == "image":
        found = cg.prove(keeping(deepcopy(twin), part), twin, size=SIZE, mask=holes(2, SIZE))
    else:
        found = cg.prove(keeping(layer, part), twin, size=SIZE)
        pool = keeping(cg.nn.GraphAvgPool2d(2), part)
        mean = cg.prove(pool, nn.AvgPool2d(2), size=(4, 4))
        assert (mean.verdict, "filled anew" in mean.reason) == ("refuted", True), str(mean)
    assert (found.verdict, "filled anew" in found.reason) == ("refuted", True), str(found)
