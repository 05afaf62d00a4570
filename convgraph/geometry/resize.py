"""Resize geometry: which source pixels an output pixel of a resize reads, and with what weight.

Along each axis, output position p looks at the real source position

    r(p) = scale * (p + 1/2) - 1/2        (align_corners: r(p) = p * (size - 1) / (out - 1))

and reads the 1 (nearest), 2 (linear) or 4 (cubic) pixels around it:

    y[p] = sum over taps t of  w(p, t) x[q(p, t)]

so a resize is a typed graph with weights, in d dimensions the product of d such tables. Positions
and weights are computed step by step as torch's kernels do, in their precision.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

from convgraph.errors import GeometryError, UnsupportedError
from convgraph.geometry.kernel import MAX_DIMENSIONS, IntTable, as_int

FloatTable = npt.NDArray[np.float64]

TAPS = {"nearest": 1, "nearest-exact": 1, "linear": 2, "bilinear": 2, "trilinear": 2, "bicubic": 4}
"""Mode -> taps along each axis."""

DIMENSIONS = {"linear": 1, "bilinear": 2, "trilinear": 3, "bicubic": 2}
"""Mode -> the one number of dimensions that torch has it for; the nearest modes take any."""

NEAREST = ("nearest", "nearest-exact")

CUBIC_A = -0.75
"""The free parameter of the cubic kernel (Keys 1981), as torch and OpenCV choose it."""


@dataclass(frozen=True)
class ResizeGeometry:
    """The numbers of a resize; a separable relation with weights, see `convgraph.connect`.

    Args:
        mode: "nearest", "nearest-exact", "linear" (d = 1), "bilinear" (2), "trilinear" (3) or
            "bicubic" (2).
        size: output lattice (pixels), an int or d ints; or None.
        scale_factor: output pixels per source pixel, a number or d numbers; or None. Exactly one
            of size and scale_factor is given.
        align_corners: whether the corner pixels' centres, not the images' borders, coincide; None
            is False. The nearest modes refuse anything but None.
        recompute_scale_factor: with a scale_factor, whether the scale is taken from the rounded
            sizes instead of from the factor itself.
        double: compute positions and weights in float64, as torch does for float64 features,
            instead of float32. The nearest modes always use float32, see `settled`.
        d: dimensions, 1 to 3.

    Raises:
        GeometryError: an argument is out of range, of another length than d, or missing.
        UnsupportedError: mode "area", which is an adaptive average.

    Example:
        >>> twice = ResizeGeometry("linear", scale_factor=2, d=1)
        >>> twice.output_size((3,))
        (6,)
        >>> twice.axis_sources(0, 3)[1].tolist(), twice.axis_weights(0, 3)[1].tolist()
        ([0, 1], [0.75, 0.25])

    Source: https://pytorch.org/docs/stable/generated/torch.nn.functional.interpolate.html
    """

    mode: str = "nearest"
    size: Any = None
    scale_factor: Any = None
    align_corners: bool | None = None
    recompute_scale_factor: bool | None = None
    double: bool = False
    d: int = 2

    def __post_init__(self) -> None:
        """Normalise to tuples of d entries; refuse what no resize means."""
        if isinstance(self.d, bool) or self.d not in range(1, MAX_DIMENSIONS + 1):
            raise GeometryError(
                f"ResizeGeometry: expected d in 1..{MAX_DIMENSIONS}, got {self.d!r}"
            )
        check_arguments(
            "ResizeGeometry",
            self.size,
            self.scale_factor,
            self.mode,
            self.align_corners,
            self.recompute_scale_factor,
        )
        only = DIMENSIONS.get(self.mode, self.d)
        if only != self.d:
            fitting = [m for m in TAPS if DIMENSIONS.get(m, self.d) == self.d]
            raise GeometryError(
                f"ResizeGeometry: mode={self.mode!r} resizes {only} dimensions, the graph has "
                f"d = {self.d}; expected mode in {fitting}"
            )
        normal: tuple[tuple[str, object], ...] = (
            ("size", _per_axis("size", self.size, self.d)),
            ("scale_factor", _per_axis("scale_factor", self.scale_factor, self.d)),
            ("align_corners", bool(self.align_corners)),
            ("recompute_scale_factor", bool(self.recompute_scale_factor)),
            ("double", self.double and self.mode not in NEAREST),
        )
        for name, value in normal:
            object.__setattr__(self, name, value)

    @property
    def num_taps(self) -> int:
        """Edge types: taps along one axis to the power of d."""
        return int(TAPS[self.mode] ** self.d)

    @property
    def keeps_sites(self) -> bool:
        """True: a resize to the same size stays on the same sites."""
        return True

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Size of the output lattice for a source lattice of `size` (pixels).

        Raises:
            GeometryError: another number of axes, or an axis without output pixels.
        """
        if len(size) != self.d:
            raise GeometryError(
                f"ResizeGeometry(d={self.d}): expected a size of {self.d} ints, got {tuple(size)}"
            )
        return tuple([self._axis_output(axis, n) for axis, n in enumerate(size)])

    def axis_sources(self, axis: int, size: int) -> IntTable:
        """(out, taps) int64 source positions along one axis; -1 where the weight is exactly 0."""
        return _axis(self, axis, size)[0]

    def axis_weights(self, axis: int, size: int) -> FloatTable | None:
        """(out, taps) float64 weights along one axis; None for the nearest modes, all 1."""
        return _axis(self, axis, size)[1]

    def settled(self, size: Sequence[int], *, double: bool) -> bool:
        """Whether all of torch's kernels agree on the sources for a lattice of `size`.

        They do not always: its CPU kernels round the source position of the nearest modes in
        float32 or in the features' own precision, and take or leave a short cut for equal and
        doubled sizes, depending on memory format, number of channels and image size; forward and
        backward may use different ones. Where they part, the edges follow ATen's `nearest_idx`
        (float32, short cuts) and `nearest_exact_idx` (float32), as CPU backward always does.

        Args:
            size: source lattice, d ints (pixels).
            double: whether the features are float64.

        Example:
            >>> ResizeGeometry("nearest", size=77, d=1).settled((91,), double=False)
            True
            >>> ResizeGeometry("nearest", size=77, d=1).settled((91,), double=True)
            False
        """
        return all(_settled(self, axis, n, double) for axis, n in enumerate(size))

    def _axis_output(self, axis: int, n: int) -> int:
        if self.size is not None:
            return int(self.size[axis])
        out = int(n * self.scale_factor[axis])
        if out < 1:
            raise GeometryError(
                f"ResizeGeometry: scale_factor={self.scale_factor} leaves no pixel of the {n} "
                f"along axis {axis}; take a factor of at least 1 / {n} there"
            )
        return out

    def _kernel_scale(self, axis: int, n: int, out: int, real: Any) -> Any:
        """Source pixels per output pixel, rounded once to the type `real`, as ATen does."""
        if self.scale_factor is not None and not self.recompute_scale_factor:
            return real(1.0 / self.scale_factor[axis])
        return real(n) / real(out)


def check_arguments(
    who: str,
    size: Any,
    scale_factor: Any,
    mode: str,
    align_corners: bool | None,
    recompute_scale_factor: bool | None,
) -> None:
    """Refuse what can be refused before a graph is there; see `ResizeGeometry`."""
    if mode == "area":
        raise UnsupportedError(
            f"{who}: mode='area' is an adaptive average, not a weighted resize; "
            "use cg.nn.GraphAdaptiveAvgPool1d/2d/3d(size)"
        )
    if mode not in TAPS:
        raise GeometryError(f"{who}: expected mode in {tuple(TAPS)}, got {mode!r}")
    if (size is None) == (scale_factor is None):
        raise GeometryError(
            f"{who}: expected exactly one of size and scale_factor, "
            f"got size={size}, scale_factor={scale_factor}"
        )
    if align_corners is not None and mode in NEAREST:
        raise GeometryError(
            f"{who}: align_corners={align_corners} has no meaning for mode={mode!r}; "
            "leave it None or use a mode with weights"
        )
    if recompute_scale_factor and size is not None:
        raise GeometryError(
            f"{who}: recompute_scale_factor={recompute_scale_factor} needs a scale_factor, "
            f"got size={size}"
        )
    for name, value in (("size", size), ("scale_factor", scale_factor)):
        if value is not None:
            for one in value if isinstance(value, (tuple, list)) else (value,):
                _checked(f"{who}: {name}", one, whole=name == "size")


def _checked(name: str, value: Any, *, whole: bool) -> int | float:
    if whole:
        return as_int(name, value, least=1)
    try:
        number = float(value) if not isinstance(value, (bool, str)) else float("nan")
    except (TypeError, ValueError):
        number = float("nan")
    if not isfinite(number) or number <= 0:
        raise GeometryError(f"{name}: expected a positive number, got {value!r}")
    return number


def _per_axis(name: str, value: Any, d: int) -> tuple[int | float, ...] | None:
    if value is None:
        return None
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * d
    if len(values) != d:
        raise GeometryError(
            f"ResizeGeometry: expected {name} as one number or {d}, one an axis, got {value!r}"
        )
    return tuple(_checked(f"ResizeGeometry: {name}", v, whole=name == "size") for v in values)


@lru_cache(maxsize=512)
def _axis(geometry: ResizeGeometry, axis: int, size: int) -> tuple[IntTable, FloatTable | None]:
    """Return one axis' sources and weights, read-only."""
    out = geometry._axis_output(axis, size)
    if geometry.mode in NEAREST:
        sources = _nearest(geometry, axis, size, out)[:, None]
        sources.setflags(write=False)
        return sources, None
    real = np.float64 if geometry.double else np.float32
    if geometry.mode == "bicubic":
        first, t = _position(geometry, axis, size, out, real)
        offsets = np.arange(-1, 3)
        weights = _cubic(t)
    else:
        first, t = _position(geometry, axis, size, out, real)
        if out == size:  # torch copies, whatever the scale
            first, t = np.arange(size), np.zeros(size, real)
        offsets = np.arange(2)
        weights = np.stack([real(1) - t, t], axis=1)
    # The border is replicated: taps beyond it listen to the last pixel, over parallel edges.
    sources = np.clip(first[:, None] + offsets, 0, size - 1).astype(np.int64)
    sources[weights == 0] = -1  # a message that is always 0 is no edge
    wide = weights.astype(np.float64)
    for table in (sources, wide):
        table.setflags(write=False)
    return sources, wide


def _position(
    geometry: ResizeGeometry, axis: int, size: int, out: int, real: Any
) -> tuple[IntTable, Any]:
    """Pixel at or before the source position of each output, and the fraction t in [0, 1]."""
    p = np.arange(out).astype(real)
    if geometry.align_corners:
        scale = real(size - 1) / real(out - 1) if out > 1 else real(0)
        r = scale * p
    else:
        scale = geometry._kernel_scale(axis, size, out, real)
        r = scale * (p + real(0.5)) - real(0.5)
        if geometry.mode != "bicubic":
            r = np.maximum(r, real(0))
    # ATen takes the floor of a float32, also of a float64 position.
    first = np.minimum(np.floor(r.astype(np.float32)).astype(np.int64), size - 1)
    return first, np.clip(r - first.astype(real), real(0), real(1))


def _cubic(t: Any) -> Any:
    """(out, 4) weights of the cubic kernel at distances t + 1, t, 1 - t and 2 - t."""
    a, one = t.dtype.type(CUBIC_A), t.dtype.type(1)

    def near(x: Any) -> Any:
        return ((a + 2) * x - (a + 3)) * x * x + one

    def far(x: Any) -> Any:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return np.stack([far(t + one), near(t), near(one - t), far((one - t) + one)], axis=1)


def _nearest(geometry: ResizeGeometry, axis: int, size: int, out: int) -> IntTable:
    """The float32 rule of ATen's `nearest_idx` and `nearest_exact_idx`."""
    if geometry.mode == "nearest":
        p = np.arange(out, dtype=np.int64)
        if out == size:
            return p
        if out == 2 * size:
            return p >> 1
    return _nearest_rules(geometry, axis, size, out, np.float32)[0]


def _nearest_rules(
    geometry: ResizeGeometry, axis: int, size: int, out: int, real: Any
) -> list[IntTable]:
    """Source positions by each of the formulas that torch's kernels use, in one precision."""
    p = np.arange(out)
    scale = geometry._kernel_scale(axis, size, out, real)
    if geometry.mode == "nearest":
        found = [scale * p.astype(real)]
    else:
        half = real(0.5)
        # A fused multiply-add rounds once: computed in a wider type, then rounded.
        wide: Any = np.float64 if real is np.float32 else np.longdouble
        fused = (wide(scale) * (p.astype(wide) + wide(0.5)) - wide(0.5)).astype(real)
        found = [
            np.float64(scale) * (p + 0.5),
            scale * (p.astype(real) + half),
            np.maximum(scale * (p.astype(real) + half) - half, real(0)) + half,
            np.maximum(fused, real(0)) + half,
        ]
    return [
        np.minimum(np.floor(np.asarray(r).astype(np.float32)).astype(np.int64), size - 1)
        for r in found
    ]


@lru_cache(maxsize=512)
def _settled(geometry: ResizeGeometry, axis: int, size: int, double: bool) -> bool:
    out = geometry._axis_output(axis, size)
    if geometry.mode not in NEAREST:
        # Equal sizes with a scale of their own: some kernels copy, some interpolate.
        scale = geometry._kernel_scale(axis, size, out, np.float64)
        return geometry.align_corners is True or out != size or bool(scale == 1)
    chosen = _nearest(geometry, axis, size, out)
    precisions = (np.float32, np.float64) if double else (np.float32,)
    return all(
        np.array_equal(rule, chosen)
        for real in precisions
        for rule in _nearest_rules(geometry, axis, size, out, real)
    )
