"""The table of known faults: small changes to the truth, each with the operator that it predicts.

Another spec, other edges, another W, another x. A fault that means nothing for a spec (of groups
where there is one, of a mask where there is none) is not listed for it.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, permutations
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convgraph.errors import ProofError
from convgraph.proof.equation.oracle import Oracle, output_size, row
from convgraph.proof.equation.spec import PADDING_MODES, ConvSpec
from convgraph.proof.refutation.truth import Run, along, operator

Suspect = tuple[str, Run]
"""A cause in words, and the operator that it predicts."""

AXES = {1: ("width",), 2: ("height", "width"), 3: ("depth", "height", "width")}
MOST_TAPS = 27
"""Kernels up to this many taps are searched for lost and swapped ones."""
EDGES_SWAPPED = "source and target are swapped"


def suspects(spec: ConvSpec) -> Iterator[Suspect]:
    """Every known fault of a spec with the operator that it predicts."""
    truth = operator(spec)
    yield from _weights(spec, truth)
    yield from _taps(spec, truth)
    yield from _specs(spec)
    yield from _padded_per_axis(spec)
    yield from _edges(spec)
    yield from _biases(spec, truth)
    yield from _channels(spec, truth)
    yield from _images(spec, truth)


def _weights(spec: ConvSpec, truth: Run) -> Iterator[Suspect]:
    axes = AXES[spec.d]
    wide = [axis for axis in range(spec.d) if spec.kernel_size[axis] > 1]
    for count in (spec.d, *range(1, spec.d)):
        for chosen in combinations(range(spec.d), count):
            if not set(chosen) & set(wide) or (count < spec.d and not set(chosen) <= set(wide)):
                continue
            where = "" if count == spec.d > 1 else " along the " + " and the ".join(
                axes[a] for a in chosen)  # fmt: skip
            dims = [2 + a for a in chosen]
            yield (
                f"the kernel is flipped{where}",
                lambda x, w, b, dims=dims: truth(x, w.flip(dims), b),
            )
    for order in permutations(range(spec.d)):
        if order == tuple(range(spec.d)):
            continue
        name = (
            "height and width are swapped in the kernel"
            if spec.d == 2
            else f"the kernel's axes are permuted to {order}"
        )
        kernel = tuple(spec.kernel_size[a] for a in order)
        dims = [0, 1, *(2 + a for a in order)]

        def swapped(x: Tensor, w: Tensor, b: Any, kernel: Any = kernel, dims: Any = dims) -> Tensor:
            return truth(x, w.reshape(*w.shape[:2], *kernel).permute(dims).reshape(w.shape), b)

        yield name, swapped
    rows, columns = spec.w_shape[:2]
    if spec.groups == 1 and rows == columns > 1:
        yield (
            "input and output channels are swapped in the weight",
            lambda x, w, b: truth(x, w.transpose(0, 1), b),
        )
    if spec.groups == 1 and rows != columns and min(rows, columns) > 1:
        yield (
            "the weight is read as (in, out) instead of (out, in)",
            lambda x, w, b: truth(
                x, w.reshape(columns, rows, *w.shape[2:]).transpose(0, 1), b
            ),
        )  # fmt: skip
    yield "negative weights are cut off at 0", lambda x, w, b: truth(x, w.relu(), b)


def _taps(spec: ConvSpec, truth: Run) -> Iterator[Suspect]:
    if not 1 < spec.taps <= MOST_TAPS:
        return
    for tap in np.ndindex(*spec.kernel_size):
        keep = torch.ones(spec.kernel_size)
        keep[tap] = 0
        yield f"tap {tap} is lost", lambda x, w, b, keep=keep: truth(x, w * keep.to(w), b)
    for one, two in combinations(range(spec.taps), 2):
        order = torch.arange(spec.taps)
        order[one], order[two] = two, one
        places = [_ints(np.unravel_index(t, spec.kernel_size)) for t in (one, two)]
        yield (
            f"taps {places[0]} and {places[1]} are swapped",
            lambda x, w, b, order=order: truth(x, w.flatten(2)[:, :, order].reshape(w.shape), b),
        )


def _specs(spec: ConvSpec) -> Iterator[Suspect]:
    """The same operator with other integers."""
    axes = AXES[spec.d]
    changed: list[tuple[str, dict[str, Any]]] = []
    for mode in PADDING_MODES if not spec.transposed else ():
        if mode != spec.padding_mode and any(map(any, spec.padding)):
            changed.append((f"padding is {mode}, not {spec.padding_mode}", {"padding_mode": mode}))
    for axis, name in enumerate(axes):
        before, after = spec.padding[axis]
        for step in (1, -1):
            moved = (before + step, after - step)
            if min(moved) >= 0:
                pads = _put(spec.padding, axis, moved)
                changed.append((f"padding is shifted by one along the {name}", {"padding": pads}))
        for step in (1, -1):
            pads = _put(spec.padding, axis, (max(before + step, 0), max(after + step, 0)))
            more = "one too much" if step > 0 else "one too little"
            changed.append((f"padding along the {name} is {more}", {"padding": pads}))
        for field in ("stride", "dilation"):
            ones = _put(getattr(spec, field), axis, 1)
            changed.append((f"{field} is ignored along the {name}", {field: ones}))
        gap = spec.dilation[axis]
        changed.append((
            f"dilation is ignored along the {name}, in the padding too",
            {
                "dilation": _put(spec.dilation, axis, 1),
                "padding": _put(spec.padding, axis, (before // gap, after // gap)),
            },
        ))  # fmt: skip
    changed += [
        ("padding is ignored", {"padding": ((0, 0),) * spec.d}),
        ("padding before and after are swapped", {"padding": tuple(p[::-1] for p in spec.padding)}),
        ("padding of height and width is swapped", {"padding": spec.padding[::-1]}),
        ("stride and dilation are swapped", {"stride": spec.dilation, "dilation": spec.stride}),
        ("stride is ignored", {"stride": (1,) * spec.d}),
        ("dilation is ignored", {"dilation": (1,) * spec.d}),
        ("stride of height and width is swapped", {"stride": spec.stride[::-1]}),
        ("dilation of height and width is swapped", {"dilation": spec.dilation[::-1]}),
        ("output_padding is ignored", {"output_padding": (0,) * spec.d}),
    ]
    if spec.source_mask is not None:
        changed += [
            ("the mask is ignored", {"source_mask": None, "target_mask": None}),
            ("the mask is ignored on the way in", {"source_mask": None}),
        ]
    if spec.target_mask is not None:
        changed.append(("sites that should be absent carry values", {"target_mask": None}))
    if not spec.transposed and spec.in_channels == spec.out_channels:
        changed.append(
            (
                "a transposed convolution is computed",
                {"transposed": True, "padding_mode": "zeros", "target_mask": None},
            )
        )
    if spec.transposed and spec.in_channels == spec.out_channels:
        off = {"transposed": False, "output_padding": (0,) * spec.d, "target_mask": None}
        changed.append(("a forward convolution is computed, not a transposed one", off))
    for name, values in changed:
        if all(v is not None and getattr(spec, field) == v for field, v in values.items()):
            continue
        run = _other(spec, **values)
        if run is not None:
            yield name, run
    yield from _shifted(spec)


def _other(spec: ConvSpec, **values: Any) -> Run | None:
    """The operator with other integers; None where they describe nothing on this image."""
    try:
        other = replace(spec, **values)
        if other.target_mask is not None and output_size(other) != other.target_mask.shape[1:]:
            return None
        return operator(other)
    except ProofError:
        return None


def _padded_per_axis(spec: ConvSpec) -> Iterator[Suspect]:
    """Another padding mode along one axis alone."""
    if spec.d == 1 or spec.transposed or spec.space is not None or spec.source_mask is not None:
        return
    for axis, name in enumerate(AXES[spec.d]):
        for mode in PADDING_MODES:
            if mode == spec.padding_mode or not any(spec.padding[axis]):
                continue
            modes = _put((spec.padding_mode,) * spec.d, axis, mode)
            sides = zip(spec.size, spec.padding, modes, strict=True)
            try:
                places = [row(n, before, after, how) for n, (before, after), how in sides]
            except ProofError:  # that mode reaches less far
                continue
            inner = _other(
                spec, size=tuple(map(len, places)), padding=((0, 0),) * spec.d, padding_mode="zeros"
            )
            if inner is not None:
                yield (
                    f"padding along the {name} is {mode}, not {spec.padding_mode}",
                    lambda x, w, b, inner=inner, places=places: inner(_laid(x, places), w, b),
                )


def _laid(x: Tensor, places: list[Any]) -> Tensor:
    """Each axis of the pixels along a row of source positions; None is 0."""
    for axis, sources in enumerate(places, start=2):
        there = x.new_tensor([s is not None for s in sources])
        along_axis = [1] * x.ndim
        along_axis[axis] = -1
        at = torch.tensor([s or 0 for s in sources])
        x = x.index_select(axis, at) * there.view(along_axis)
    return x


def _shifted(spec: ConvSpec) -> Iterator[Suspect]:
    """Windows that start one pixel late: their last row or column hears the padding behind."""
    for axes in [*combinations(range(spec.d), 1), tuple(range(spec.d))]:
        pads = tuple(
            (before - 1, after + 1) if axis in axes else (before, after)
            for axis, (before, after) in enumerate(spec.padding)
        )
        if min(min(pair) for pair in pads) < 0 or spec.d == len(axes) == 1:
            continue
        run = _other(spec, padding=pads)
        if len(axes) > 1 and run is not None:
            yield "windows start one pixel late along every axis", run


def _edges(spec: ConvSpec) -> Iterator[Suspect]:
    oracle = Oracle(spec)
    e = oracle.edges
    if oracle.out_size == spec.size:
        yield EDGES_SWAPPED, along(spec, oracle.y_shape, e.target, e.source, e.tap, oracle.targets)
    if spec.batch > 1:
        pixels = prod(spec.image_shape)
        other = (e.source + prod(spec.size)) % pixels
        yield "images are mixed up", along(
            spec, oracle.y_shape, other, e.target, e.tap, oracle.targets)  # fmt: skip


def _biases(spec: ConvSpec, truth: Run) -> Iterator[Suspect]:
    if not spec.bias:
        return
    oracle = Oracle(spec)
    degree = torch.from_numpy(oracle.in_degree().reshape(spec.batch, 1, *oracle.out_size))
    first = torch.zeros_like(degree)
    first[:1] = 1

    def added(b: Tensor, times: Tensor) -> Tensor:
        return b.view(1, -1, *[1] * spec.d) * times.to(b)

    yield "the bias is lost", lambda x, w, b: truth(x, w, 0 * b)
    yield "the bias is added per edge", lambda x, w, b: truth(x, w, 0 * b) + added(b, degree)
    yield (
        "the bias is added only where an edge arrives",
        lambda x, w, b: truth(x, w, 0 * b) + added(b, (degree > 0).to(b)),
    )
    yield (
        "the bias is added to the first image only",
        lambda x, w, b: truth(x, w, 0 * b) + added(b, first),
    )
    yield "the bias is subtracted", lambda x, w, b: truth(x, w, -b)
    yield "the bias is in reverse order", lambda x, w, b: truth(x, w, b.flip(0))


def _channels(spec: ConvSpec, truth: Run) -> Iterator[Suspect]:
    groups = spec.groups
    if groups > 1:
        shift = spec.in_channels // groups
        for turn in range(1, groups):
            yield (
                f"groups read the input of another group ({turn} further)",
                lambda x, w, b, turn=turn: truth(x.roll(-turn * shift, 1), w, b),
            )
        for where, channels in (("output", spec.out_channels), ("input", spec.in_channels)):
            for rows, way in ((groups, "by group"), (channels // groups, "against the groups")):
                if 1 in (rows, channels // rows):
                    continue
                order = torch.arange(channels).reshape(rows, -1).T.reshape(-1)
                if where == "output":
                    run: Run = lambda x, w, b, order=order: truth(x, w, b)[:, order]  # noqa: E731
                else:
                    run = lambda x, w, b, order=order: truth(x[:, order], w, b)  # noqa: E731
                yield f"groups are transposed: {where} channels are shuffled {way}", run
    if spec.in_channels > 1:
        yield "input channels are in reverse order", lambda x, w, b: truth(x.flip(1), w, b)
        yield (
            "channels are summed before the kernel",
            lambda x, w, b: truth(x.sum(1, keepdim=True).expand_as(x), w, b),
        )
    if spec.out_channels > 1:
        yield "output channels are in reverse order", lambda x, w, b: truth(x, w, b).flip(1)
        yield (
            "all output channels share the first one's weight",
            lambda x, w, b: (
                truth(x, w.narrow(1, 0, 1).expand_as(w), b)
                if spec.transposed
                else truth(x, w[:1].expand_as(w), b)
            ),
        )


def _images(spec: ConvSpec, truth: Run) -> Iterator[Suspect]:
    if spec.d == 2 and spec.size[0] == spec.size[1]:
        yield "height and width are swapped in the image", lambda x, w, b: truth(x.mT, w, b)
    if spec.d == 2 and Oracle(spec).out_size[0] == Oracle(spec).out_size[1]:
        yield "height and width are swapped in the output", lambda x, w, b: truth(x, w, b).mT
    if spec.batch > 1:
        yield (
            "every image gets the result of the first",
            lambda x, w, b: truth(x[:1].expand_as(x), w, b),
        )
        yield "images are in reverse order", lambda x, w, b: truth(x, w, b).flip(0)
    yield "negative inputs are cut off at 0", lambda x, w, b: truth(x.relu(), w, b)
    yield "the sign of the input is lost", lambda x, w, b: truth(x.abs(), w, b)
    yield "negative outputs are cut off at 0", lambda x, w, b: truth(x, w, b).relu()


def _put(values: Any, axis: int, value: Any) -> Any:
    return (*values[:axis], value, *values[axis + 1 :])


def _ints(at: Any) -> tuple[int, ...]:
    return tuple(int(i) for i in at)
