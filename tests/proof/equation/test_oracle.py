"""The truth is tested first: by hand, by impulses, against torch on integers, and in two dtypes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from convgraph.errors import ProofError
from convgraph.proof import ConvSpec, Oracle
from convgraph.proof.equation.depthwise import ByShift
from convgraph.proof.equation.oracle import as_exact, output_size


def conv1d(x: list[int], w: list[int], **options: object) -> list[int]:
    spec = ConvSpec(1, 1, (len(w),), (len(x),), batch=1, bias=False, **options)
    y = Oracle(spec).convolve(np.array([[x]]), np.array([[w]]))
    return y[0, 0].tolist()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [321, 432]),
        ({"padding": ((1, 1),)}, [210, 321, 432, 43]),
        ({"padding": ((2, 0),)}, [100, 210, 321, 432]),
        ({"padding": ((1, 1),), "padding_mode": "reflect"}, [212, 321, 432, 343]),
        ({"padding": ((1, 1),), "padding_mode": "replicate"}, [211, 321, 432, 443]),
        ({"padding": ((1, 1),), "padding_mode": "circular"}, [214, 321, 432, 143]),
        ({"padding": ((1, 1),), "stride": (2,)}, [210, 432]),
        ({"padding": ((2, 2),), "dilation": (2,)}, [310, 420, 31, 42]),
        ({"transposed": True}, [1, 12, 123, 234, 340, 400]),
        ({"transposed": True, "stride": (2,)}, [1, 10, 102, 20, 203, 30, 304, 40, 400]),
        ({"transposed": True, "padding": ((1, 1),)}, [12, 123, 234, 340]),
        (
            {"transposed": True, "stride": (2,), "padding": ((1, 1),), "output_padding": (1,)},
            [10, 102, 20, 203, 30, 304, 40, 400],
        ),
    ],
    ids=str,
)
def test_hand_worked_tables(options: dict[str, object], expected: list[int]) -> None:
    """The signal 1 2 3 4 under the kernel 1 10 100: each digit says which pixel a tap read."""
    assert conv1d([1, 2, 3, 4], [1, 10, 100], **options) == expected


def test_an_impulse_shows_the_kernel_turned_around_it() -> None:
    spec = ConvSpec(1, 1, (3, 3), (5, 5), batch=1, padding=((1, 1), (1, 1)), bias=False)
    x = np.zeros((1, 1, 5, 5), dtype=np.int64)
    x[0, 0, 1, 3] = 1
    w = np.arange(1, 10).reshape(1, 1, 3, 3)
    y = Oracle(spec).convolve(x, w)[0, 0]
    assert y[0:3, 2:5].tolist() == [[9, 8, 7], [6, 5, 4], [3, 2, 1]]
    assert y.sum() == 45


KERNEL = np.arange(1, 10).reshape(1, 1, 3, 3)


def impulse(size: tuple[int, int], at: tuple[int, int], **options: object) -> list[list[int]]:
    spec = ConvSpec(1, 1, (3, 3), size, batch=1, bias=False, **options)
    x = np.zeros(spec.x_shape, dtype=np.int64)
    x[0, 0, *at] = 1
    return Oracle(spec).convolve(x, KERNEL)[0, 0].tolist()


def test_an_impulse_throws_the_kernel_as_it_is_where_arrows_are_reversed() -> None:
    found = np.array(impulse((2, 2), (1, 0), transposed=True, stride=(2, 2)))
    assert found.shape == (5, 5)
    assert found[2:5, 0:3].tolist() == KERNEL[0, 0].tolist()
    assert found.sum() == 45


def test_an_impulse_in_a_corner_comes_round() -> None:
    around = {"padding": ((1, 1), (1, 1)), "padding_mode": "circular"}
    assert impulse((4, 5), (0, 0), **around) == [
        [5, 4, 0, 0, 6],
        [2, 1, 0, 0, 3],
        [0, 0, 0, 0, 0],
        [8, 7, 0, 0, 9],
    ]


def test_an_impulse_beside_a_mirror_is_seen_twice() -> None:
    """Pixel (1, 1) also stands at -1: sites of row 0 hear it through taps 0 and 2."""
    mirrored = {"padding": ((1, 1), (1, 1)), "padding_mode": "reflect"}
    assert impulse((4, 5), (1, 1), **mirrored) == [
        [20, 10, 8, 0, 0],
        [10, 5, 4, 0, 0],
        [4, 2, 1, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_groups_are_blocks_of_channels() -> None:
    spec = ConvSpec(4, 2, (1,), (2,), batch=1, groups=2, bias=False)
    x = np.array([[[1, 2], [3, 4], [5, 6], [7, 8]]])
    w = np.array([[[1], [10]], [[100], [1000]]])
    assert Oracle(spec).convolve(x, w)[0].tolist() == [[31, 42], [7500, 8600]]
    back = ConvSpec(2, 4, (1,), (2,), batch=1, groups=2, bias=False, transposed=True)
    thrown = Oracle(back).convolve(np.array([[[1, 2], [3, 4]]]), w)
    assert thrown[0].tolist() == [[1, 2], [10, 20], [300, 400], [3000, 4000]]


def test_masks_silence_where_arrows_are_reversed() -> None:
    source = np.array([[True, True, False, True]])
    target = np.array([[True, False, True, True, True, True]])
    assert conv1d(
        [1, 2, 3, 4], [1, 10, 100], transposed=True, source_mask=source, target_mask=target
    ) == [1, 0, 120, 204, 40, 400]


def test_height_comes_before_width() -> None:
    spec = ConvSpec(1, 1, (1, 2), (2, 3), batch=1, bias=False)
    x = np.array([[[[1, 2, 3], [4, 5, 6]]]])
    y = Oracle(spec).convolve(x, np.array([[[[1, 10]]]]))
    assert y[0, 0].tolist() == [[21, 32], [54, 65]]


SMALL = st.integers(1, 3)


@st.composite
def specs(draw: st.DrawFn) -> ConvSpec:
    d = draw(SMALL)
    each = lambda s: tuple(draw(s) for _ in range(d))  # noqa: E731
    transposed = draw(st.booleans())
    modes = ["zeros"] if transposed else ["zeros", "reflect", "replicate", "circular"]
    stride, dilation = each(st.integers(1, 4)), each(st.integers(1, 2))
    pad = st.integers(0, 2)
    pads = tuple((p, p) if transposed else (p, draw(pad)) for p in each(pad))
    extra = tuple(
        draw(st.integers(0, max(s, dil) - 1)) if transposed else 0
        for s, dil in zip(stride, dilation, strict=True)
    )
    groups = draw(st.sampled_from([1, 2]))
    spec = ConvSpec(
        2 * draw(SMALL),
        2 * draw(SMALL),
        each(SMALL),
        each(st.integers(2, 6)),
        batch=2,
        stride=stride,
        padding=pads,
        dilation=dilation,
        padding_mode=draw(st.sampled_from(modes)),
        transposed=transposed,
        output_padding=extra,
        groups=groups,
        bias=draw(st.booleans()),
    )
    try:
        output_size(spec)
    except ProofError:
        assume(False)
    return spec


@settings(max_examples=120)
@given(specs(), st.integers(0, 2**32))
def test_the_oracle_is_torch_on_integers(spec: ConvSpec, seed: int) -> None:
    rng = np.random.default_rng(seed)
    oracle = Oracle(spec)
    draw = lambda shape: rng.integers(-4, 5, shape)  # noqa: E731
    x, w, g = draw(spec.x_shape), draw(spec.w_shape), draw(oracle.y_shape)
    b = draw((spec.out_channels,)) if spec.bias else None
    leaves = [torch.from_numpy(a).double().requires_grad_() for a in (x, w)]
    if b is not None:
        leaves.append(torch.from_numpy(b).double().requires_grad_())
    y = _torch(spec, *leaves)
    grads = torch.autograd.grad(y, leaves, torch.from_numpy(g).double())
    ways = [(np.int64, "column"), (np.float64, "band"), (np.float64, "column"), (np.float32, None)]
    for dtype, way in [*ways, (np.int64, "shift")]:
        oracle = Oracle(spec, way=way)
        xs, ws, gs = (a.astype(dtype) for a in (x, w, g))
        bs = None if b is None else b.astype(dtype)
        assert np.array_equal(oracle.convolve(xs, ws, bs), y.detach().numpy())
        assert np.array_equal(oracle.grad_x(ws, gs), grads[0].numpy())
        assert np.array_equal(oracle.grad_w(xs, gs), grads[1].numpy())
        if b is not None:
            assert np.array_equal(oracle.grad_b(gs), grads[2].numpy())


FOLDS = [(mode, False) for mode in ("zeros", "reflect", "replicate", "circular")]


@pytest.mark.parametrize(("mode", "transposed"), [*FOLDS, ("zeros", True)])
@pytest.mark.parametrize("gap", [1, 2, 5])
def test_depthwise_rows_add_up_to_what_columns_add_up_to(
    mode: str, transposed: bool, gap: int
) -> None:
    rng = np.random.default_rng(gap)
    reach = 2 * gap
    pads = ((2, 2), (gap, gap)) if transposed else ((2, 1), (reach, reach - 1))
    spec = ConvSpec(
        3, 3, (2, 3), (6, 37), padding=pads, dilation=(1, gap), padding_mode=mode,
        transposed=transposed, groups=3,
    )  # fmt: skip
    one, two = Oracle(spec, way="shift"), Oracle(spec, way="column")
    x, w, g = (rng.integers(-9, 10, s) for s in (spec.x_shape, spec.w_shape, one.y_shape))
    assert isinstance(one._way(x, w), ByShift)
    for dtype in (np.int64, np.float32, np.longdouble):
        xs, ws, gs = (a.astype(dtype) for a in (x, w, g))
        assert np.array_equal(one.convolve(xs, ws), two.convolve(x, w))
        assert np.array_equal(one.grad_x(ws, gs), two.grad_x(w, g))
        assert np.array_equal(one.grad_w(xs, gs), two.grad_w(x, g))


@pytest.mark.parametrize("change", [{"stride": (2,)}, {"groups": 1}])
def test_what_reads_along_no_row_is_not_shifted(change: dict[str, Any]) -> None:
    spec = replace(ConvSpec(2, 2, (3,), (7,), groups=2), **change)
    x, w = np.ones(spec.x_shape), np.ones(spec.w_shape)
    assert not isinstance(Oracle(spec, way="shift")._way(x, w), ByShift)


def _torch(
    spec: ConvSpec, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None
) -> torch.Tensor:
    if spec.transposed:
        run = getattr(F, f"conv_transpose{spec.d}d")
        pads = tuple(a for a, _ in spec.padding)
        return run(x, w, b, spec.stride, pads, spec.output_padding, spec.groups, spec.dilation)
    mode = "constant" if spec.padding_mode == "zeros" else spec.padding_mode
    x = F.pad(x, [n for pair in reversed(spec.padding) for n in pair], mode=mode)
    run = getattr(F, f"conv{spec.d}d")
    return run(x, w, b, spec.stride, 0, spec.dilation, spec.groups)


def test_masks_silence_sources_and_sites() -> None:
    source = np.array([[True, True, False, True]])
    target = np.array([[True, False, True, True]])
    spec = ConvSpec(
        1, 1, (3,), (4,), batch=1, padding=((1, 1),), source_mask=source, target_mask=target
    )
    y = Oracle(spec).convolve(np.array([[[1, 2, 3, 4]]]), np.array([[[1, 10, 100]]]), np.array([5]))
    assert y[0, 0].tolist() == [215, 0, 407, 45]


def test_int64_is_taken_before_a_float64_could_round() -> None:
    big = np.array([2**30])
    assert as_exact(1, big, np.array([2**22]))[0].dtype == np.float64
    assert as_exact(4, big, np.array([2**22]))[0].dtype == np.int64
    with pytest.raises(ProofError, match="do not fit int64"):
        as_exact(2**5, big, big)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kernel_size": (5,)}, "leaves no output site"),
        ({"padding": ((4, 0),), "padding_mode": "reflect"}, "reflect padding"),
        ({"padding": ((5, 0),), "padding_mode": "circular"}, "circular padding"),
        ({"padding_mode": "mirror"}, "expected padding_mode"),
        ({"groups": 2}, "must divide"),
        ({"stride": (1, 1)}, "expected stride of 1 entries"),
        ({"source_mask": np.ones((2, 5), dtype=bool)}, "expected source_mask of shape"),
        ({"target_mask": np.ones((2, 5), dtype=bool)}, "expected target_mask of shape"),
    ],
    ids=str,
)
def test_a_spec_that_describes_nothing_is_refused(options: dict[str, object], text: str) -> None:
    numbers = {"in_channels": 1, "out_channels": 1, "kernel_size": (3,), "size": (4,), **options}
    with pytest.raises(ProofError, match=text):
        Oracle(ConvSpec(**numbers))


def test_a_spec_survives_json() -> None:
    spec = ConvSpec(2, 4, (3, 3), (4, 4), source_mask=np.eye(4, dtype=bool)[None].repeat(2, 0))
    again = ConvSpec.from_dict(spec.to_dict())
    assert again.to_dict() == spec.to_dict()
