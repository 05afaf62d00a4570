"""Kernel geometry against windows of plain ints, against torch, and what it refuses.

Three independent answers are compared: the package's axis tables, a loop over windows of an index
image that `F.pad` has padded, and torch's own convolution of one-hot taps.
"""

from dataclasses import FrozenInstanceError
from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from convgraph.errors import GeometryError
from convgraph.geometry.kernel import KernelGeometry, as_int
from tests.cases import CONV, TRANSPOSED, edges_of

MODES = ("zeros", "reflect", "replicate", "circular")


def tabled(geometry: KernelGeometry, size: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """The edges (tap, target, source) that the axis tables multiply out to."""
    tables = [geometry.axis_sources(axis, n) for axis, n in enumerate(size)]
    out = geometry.output_size(size)
    found = []
    for tap, offset in enumerate(product(*map(range, geometry.kernel_size))):
        for target, place in enumerate(product(*map(range, out))):
            parts = [int(t[p, o]) for t, p, o in zip(tables, place, offset, strict=True)]
            if min(parts) >= 0:
                found.append((tap, target, int(np.ravel_multi_index(parts, size))))
    return found


@st.composite
def kernels(draw: st.DrawFn, *, transposed: bool = False) -> tuple[KernelGeometry, tuple[int, ...]]:
    d = draw(st.integers(1, 3))
    several = st.tuples(*[st.integers(1, 3)] * d)
    size = draw(st.tuples(*[st.integers(1, (9, 6, 4)[d - 1])] * d))
    kernel, stride, dilation = draw(several), draw(several), draw(several)
    ceil = not transposed and draw(st.booleans())
    # Pools pad by half a window at most, so that none starts behind the image and yet fits.
    most = [k // 2 if ceil else 3 for k in kernel]
    padding: Any = tuple((draw(st.integers(0, m)), draw(st.integers(0, m))) for m in most)
    if not transposed and set(stride) == {1}:
        padding = draw(st.sampled_from([padding, "same", "valid"]))
    options: dict[str, Any] = {}
    if transposed:
        options["transposed"] = True
        options["output_padding"] = tuple(
            draw(st.integers(0, max(s, dil) - 1)) for s, dil in zip(stride, dilation, strict=True)
        )
    else:
        options["padding_mode"] = "zeros" if ceil else draw(st.sampled_from(MODES))
        options["ceil_mode"] = ceil
    return KernelGeometry(kernel, stride, padding, dilation, **options), size


# The relation


@settings(max_examples=150)
@given(kernels())
def test_sizes_and_sources_are_those_of_the_windows(case) -> None:
    geometry, size = case
    try:
        out = geometry.output_size(size)
    except GeometryError:
        # Refused: torch cannot pad so far, or no window fits.
        try:
            found = edges_of(size, geometry)[0]
        except RuntimeError:
            return
        assert prod(found) == 0
        return
    assert (out, tabled(geometry, size)) == edges_of(size, geometry)


@settings(max_examples=100)
@given(kernels(transposed=True))
def test_a_transposed_kernel_throws_every_source_through_every_tap(case) -> None:
    geometry, size = case
    truth = edges_of(size, geometry)
    if min(truth[0]) < 1:
        with pytest.raises(GeometryError, match=r"leaves -?\d+ output sites"):
            geometry.output_size(size)
        return
    assert (geometry.output_size(size), tabled(geometry, size)) == truth


def one_hot(geometry: KernelGeometry) -> torch.Tensor:
    """(K, 1, *kernel): output channel t copies what tap t hears."""
    return torch.eye(geometry.num_taps).view(geometry.num_taps, 1, *geometry.kernel_size)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("padding", ["same", "valid", 0, 1, 2])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (2, 1), (3, 1), (2, 3), (4, 1), (3, 2)])
@pytest.mark.parametrize("d", [1, 2])
def test_torchs_layer_hears_the_same_sources(d: int, kernel: int, dilation: int, mode, padding):
    size = (7, 8)[-d:]
    geometry = KernelGeometry(kernel, 1, padding, dilation, mode, d=d)
    make = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d}[d]
    dense = make(1, geometry.num_taps, kernel, 1, padding, dilation, bias=False, padding_mode=mode)
    with torch.no_grad():
        dense.weight.copy_(one_hot(geometry))
        heard = dense(1 + torch.arange(float(prod(size))).view(1, 1, *size))[0]
    assert geometry.output_size(size) == tuple(heard.shape[1:])
    truth = [
        (tap, target, source - 1)
        for tap, row in enumerate(heard.flatten(1).int().tolist())
        for target, source in enumerate(row)
        if source
    ]
    assert tabled(geometry, size) == truth


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize(("stride", "padding", "extra"), [(1, 0, 0), (2, 1, 1), (3, 2, 2)])
def test_torchs_transposed_convolution_hears_the_same_sources(d, stride, padding, extra) -> None:
    size = (3, 4, 3)[:d]
    geometry = KernelGeometry(
        (3, 2, 3)[:d], stride, padding, transposed=True, output_padding=extra, d=d
    )
    weight = torch.eye(geometry.num_taps).view(1, geometry.num_taps, *geometry.kernel_size)
    image = 1 + torch.arange(float(prod(size))).view(1, 1, *size)
    heard = TRANSPOSED[d](image, weight, None, stride, padding, extra)[0]
    assert geometry.output_size(size) == tuple(heard.shape[1:])
    rows = heard.flatten(1).int().tolist()
    truth = [(t, p, q - 1) for t, row in enumerate(rows) for p, q in enumerate(row) if q]
    assert tabled(geometry, size) == truth


@given(
    n=st.integers(1, 12), k=st.integers(1, 5), s=st.integers(1, 6), pad=st.integers(0, 2),
    dil=st.integers(1, 2), ceil=st.booleans(),
)  # fmt: skip
def test_ceil_mode_counts_windows_as_torchs_pools_do(n, k, s, pad, dil, ceil) -> None:
    assume(pad <= k // 2)
    geometry = KernelGeometry(k, s, pad, dil, ceil_mode=ceil, d=1)
    image = torch.zeros(1, 1, n)
    try:
        out = F.max_pool1d(image, k, s, pad, dil, ceil_mode=ceil).shape[2]
    except RuntimeError:
        with pytest.raises(GeometryError, match="kernel_size"):
            geometry.output_size((n,))
        return
    assert geometry.output_size((n,)) == (out,)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"stride": 2}, {"stride": 1}),
        ({"padding": 1}, {"padding": 2}),
        ({"padding": ((1, 0), (0, 1))}, {"padding": ((0, 1), (1, 0))}),
        ({"dilation": (1, 2)}, {"dilation": (2, 1)}),
        ({"padding": 2, "padding_mode": "reflect"}, {"padding": 2, "padding_mode": "replicate"}),
        ({"padding": 2, "padding_mode": "circular"}, {"padding": 2, "padding_mode": "reflect"}),
        ({"padding": 1}, {"padding": 1, "transposed": True}),
        ({"stride": 3}, {"stride": 3, "ceil_mode": True}),
        ({"padding": "same"}, {"padding": "valid"}),
    ],
)
def test_the_comparison_sees_each_argument(one: dict, other: dict) -> None:
    size = (5, 6)
    first, second = KernelGeometry((3, 2), **one), KernelGeometry((3, 2), **other)
    assert (first.output_size(size), tabled(first, size)) == edges_of(size, first)
    assert (first.output_size(size), tabled(first, size)) != edges_of(size, second)


# The record


def test_an_int_stands_for_every_axis_and_lists_for_tuples() -> None:
    short = KernelGeometry(3, 2, 1, 1, d=3)
    long = KernelGeometry([3, 3, 3], [2] * 3, [1] * 3, [(1)] * 3, d=3)
    assert short == long
    assert hash(short) == hash(long)
    assert (short.kernel_size, short.padding) == ((3, 3, 3), ((1, 1),) * 3)
    assert KernelGeometry(np.int64(3), padding=np.int32(1), d=1) == KernelGeometry(3, 1, 1, d=1)
    assert KernelGeometry(3).d == 2


def test_it_is_frozen_and_its_tables_are_read_only() -> None:
    geometry = KernelGeometry(3, padding=1)
    with pytest.raises(FrozenInstanceError):
        geometry.stride = (2, 2)
    with pytest.raises(ValueError, match="read-only"):
        geometry.axis_sources(0, 4)[0, 0] = 5
    assert geometry.axis_sources(0, 4) is geometry.axis_sources(0, 4)


def test_taps_are_numbered_row_major_height_before_width() -> None:
    geometry = KernelGeometry((2, 3), padding=((0, 1), (2, 0)), dilation=(2, 1))
    assert geometry.num_taps == 6
    assert geometry.offsets.tolist() == [[0, -2], [0, -1], [0, 0], [2, -2], [2, -1], [2, 0]]


def test_pointwise_and_folding_say_what_they_are() -> None:
    assert KernelGeometry(1).is_pointwise
    assert not any(
        KernelGeometry(1, **other).is_pointwise
        for other in ({"stride": 2}, {"padding": 1}, {"padding": ((0, 1), (0, 0))})
    )
    assert not KernelGeometry((1, 2)).is_pointwise
    assert not KernelGeometry(1, 1, 0, 2, transposed=True, output_padding=1).is_pointwise
    assert KernelGeometry(3, padding=1, padding_mode="circular").folds
    assert not KernelGeometry(3, padding_mode="circular").folds
    assert not KernelGeometry(3, padding=1).folds


# What it refuses


@pytest.mark.parametrize("name", ["kernel_size", "stride", "padding", "dilation", "output_padding"])
@pytest.mark.parametrize(
    "value", [2.0, True, None, "2", float("nan"), (1, 2.5), (True, 1), np.True_, 1j, [1, None]]
)
def test_what_is_no_integer_is_refused(name: str, value: object) -> None:
    options = {"kernel_size": 3, "transposed": name == "output_padding", name: value}
    text = "expected padding 'same'" if (name, value) == ("padding", "2") else f"{name}: expected"
    with pytest.raises(GeometryError, match=text):
        KernelGeometry(**options)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("kernel_size", 0, "at least 1, got 0"),
        ("kernel_size", (3, -1), "at least 1, got -1"),
        ("stride", 0, "at least 1, got 0"),
        ("stride", (1, -2), "at least 1, got -2"),
        ("dilation", 0, "at least 1, got 0"),
        ("padding", -1, "at least 0, got -1"),
        ("padding", ((0, 0), (0, -3)), "at least 0, got -3"),
        ("output_padding", -1, "at least 0, got -1"),
    ],
)
def test_what_is_too_small_is_refused(name: str, value: object, text: str) -> None:
    with pytest.raises(GeometryError, match=f"KernelGeometry: {name}: expected {text}"):
        KernelGeometry(**{"kernel_size": 3, "transposed": name == "output_padding", name: value})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kernel_size": (3, 3), "stride": (1,)}, r"same number of axes, got lengths \[1, 2\]"),
        ({"kernel_size": (3,), "d": 2}, r"same number of axes, got lengths \[1, 2\]"),
        ({"kernel_size": (1, 1, 1, 1)}, "expected 1 to 3 axes, got 4"),
        ({"kernel_size": ()}, "expected 1 to 3 axes, got 0"),
        ({"d": 4}, r"expected d in 1\.\.3, got 4"),
        ({"d": 2.0}, r"expected d in 1\.\.3, got 2\.0"),
        ({"d": True}, r"expected d in 1\.\.3, got True"),
        ({"padding": ((1, 1, 1), (1, 1))}, r"2 pairs \(before, after\)"),
        ({"padding": "full"}, "expected padding 'same', 'valid' or integers, got 'full'"),
        ({"padding": "same", "stride": 2}, r"padding='same' needs stride 1, got stride=\(2, 2\)"),
        ({"padding": "same", "transposed": True}, "'same' has no meaning for a transposed"),
        ({"padding_mode": "constant"}, "expected padding_mode in .* got 'constant'"),
        ({"padding_mode": None}, "expected padding_mode in .* got None"),
        ({"padding_mode": "reflect", "transposed": True}, "takes padding_mode='zeros' only"),
        ({"transposed": 1}, "expected transposed to be a bool, got 1"),
        ({"ceil_mode": "yes"}, "expected ceil_mode to be a bool, got 'yes'"),
        ({"ceil_mode": True, "transposed": True}, "ceil_mode belongs to pools"),
        (
            {"ceil_mode": True, "padding": 1, "padding_mode": "reflect"},
            "ceil_mode belongs to pools, which know padding_mode='zeros' only, got 'reflect'",
        ),
        ({"output_padding": 1}, "needs transposed=True"),
        ({"output_padding": 1, "transposed": True}, "must be smaller than stride"),
        ({"output_padding": (0, 2), "stride": 2, "transposed": True}, "must be smaller than"),
    ],
)
def test_what_no_operator_means_is_refused(options: dict, text: str) -> None:
    with pytest.raises(GeometryError, match=text):
        KernelGeometry(**{"kernel_size": 3, **options})


@pytest.mark.parametrize(
    ("options", "size", "text"),
    [
        (
            {},
            (2, 9),
            "kernel_size=3 .* reaches over 3 pixels, more than the padded size 2 of axis 0",
        ),
        (
            {"dilation": (1, 4)},
            (9, 8),
            "reaches over 9 pixels, more than the padded size 8 of axis 1",
        ),
        ({"padding": 1, "kernel_size": 5}, (5, 2), "the padded size 4 of axis 1"),
        ({"ceil_mode": True, "kernel_size": 5, "stride": 2}, (3, 5), "padded size 3 of axis 0"),
        ({"padding": 3, "padding_mode": "reflect"}, (4, 3), r"reflect padding \(3, 3\) must be"),
        ({"padding": 3, "padding_mode": "circular"}, (3, 2), r"circular padding \(3, 3\) must not"),
        ({"padding": 3, "transposed": True}, (2, 9), "leaves -2 output sites along axis 0"),
        ({}, (9,), "expected a size of 2 ints"),
        ({}, (9, 9, 9), "expected a size of 2 ints"),
        ({}, (0, 9), "expected at least 1, got 0"),
        ({}, (9, 9.0), "expected an integer, got 9.0"),
        ({}, (True, 9), "expected an integer, got True"),
    ],
)
def test_a_lattice_that_does_not_fit_is_refused(options: dict, size: tuple, text: str) -> None:
    geometry = KernelGeometry(**{"kernel_size": 3, **options})
    with pytest.raises(GeometryError, match=text):
        geometry.output_size(size)


def test_the_widest_paddings_that_torch_knows_are_served() -> None:
    for mode, pad in (("reflect", 3), ("circular", 4), ("replicate", 9)):
        geometry = KernelGeometry(3, padding=pad, padding_mode=mode, d=1)
        size = (4,)
        assert (geometry.output_size(size), tabled(geometry, size)) == edges_of(size, geometry)
    image = torch.zeros(1, 1, 4)
    for mode, pad in (("reflect", 4), ("circular", 5)):
        with pytest.raises(RuntimeError):
            CONV[1](F.pad(image, [pad, pad], mode=mode), torch.zeros(1, 1, 3))
        with pytest.raises(GeometryError, match=f"{mode} padding"):
            KernelGeometry(3, padding=pad, padding_mode=mode, d=1).output_size((4,))


def test_as_int_names_who_asked() -> None:
    assert as_int("Me: groups", np.int8(4), least=1) == 4
    with pytest.raises(GeometryError, match=r"^Me: groups: expected an integer, got 1\.5 \(flo"):
        as_int("Me: groups", 1.5, least=1)
