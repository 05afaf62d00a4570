"""Kernel geometry: who talks to whom along each axis, in integers.

An output site p listens through tap t to the source site

    q(p, t) = p * stride - padding + t * dilation        (componentwise)

and a transposed kernel reverses the arrows of the same relation. The relation is separable: along
each axis it is a small table of (output position, tap) -> source position, and every edge of a
d-dimensional kernel is one row of the product of d such tables.

This module knows integers only, and of convgraph nothing but its errors and the door that words
them.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from convgraph.door import described, door
from convgraph.errors import GeometryError
from convgraph.geometry.footprint import Footprint, checked
from convgraph.geometry.loaded import revive
from convgraph.geometry.padding import PADDING_MODES, folded

IntTable = npt.NDArray[np.int64]
"""An int64 array; as an axis table, (out, k) positions on the source axis, -1 where no edge is."""

MAX_DIMENSIONS = 3


class Relation(Protocol):
    """What edges are built from: a separable relation between two lattices, hashable.

    A kernel is one, and so are a resize and an adaptive window: all of them are one table
    (output position, tap) -> source position an axis, sometimes with a weight beside it.
    """

    @property
    def d(self) -> int:
        """Dimensions of both lattices."""

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Size of the output lattice for a source lattice of `size`."""

    def axis_sources(self, axis: int, size: int) -> IntTable:
        """(out, taps) int64 source positions along one axis, -1 where there is no edge."""

    def axis_weights(self, axis: int, size: int) -> npt.NDArray[np.float64] | None:
        """(out, taps) weights along one axis, or None when every edge counts once."""

    @property
    def keeps_sites(self) -> bool:
        """Whether an unchanged size means unchanged sites (stride 1 along every axis)."""


@dataclass(frozen=True)
class KernelGeometry:
    """The integers of a convolution, a transposed convolution or a pooling window.

    An int stands for the same number along every axis. After construction every field is a tuple
    with one entry an axis, height before width.

    Args:
        kernel_size: taps along each axis, at least 1.
        stride: lattice steps between neighbouring output sites (pixels), at least 1; for a
            transposed kernel, output steps between neighbouring input sites.
        padding: pixels added before and after each axis: an int, a tuple of d ints, a tuple of d
            pairs (before, after), ``"same"`` (stride 1 only) or ``"valid"``.
        dilation: pixels between neighbouring taps, at least 1.
        padding_mode: what a tap outside the lattice means: ``"zeros"`` (no edge), ``"reflect"``,
            ``"replicate"`` or ``"circular"`` (the source is folded back onto the lattice); a tuple
            says it axis by axis, as ``("zeros", "circular")`` for latitude and longitude.
        transposed: reverse the arrows.
        output_padding: extra output sites after each axis; transposed only, smaller than stride or
            dilation.
        ceil_mode: round the number of output sites up, as torch's pools do.
        d: dimensions, 1 to 3; needed only when no other argument tells.
        footprint: the taps that are there: "hexagon", "cross", "causal", or bools; None for all.

    Raises:
        GeometryError: an argument is not an integer, out of range, or of another length than d.

    Example:
        >>> geometry = KernelGeometry(3, stride=2, padding=1, d=2)
        >>> geometry.output_size((224, 224))
        (112, 112)
        >>> geometry.num_taps
        9

    Source: https://pytorch.org/docs/stable/generated/torch.nn.Conv2d.html and
    https://pytorch.org/docs/stable/generated/torch.nn.ConvTranspose2d.html
    """

    kernel_size: Any
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    padding_mode: Any = "zeros"
    transposed: bool = False
    output_padding: Any = 0
    ceil_mode: bool = False
    d: int = 0
    footprint: Any = None
    num_taps: int = field(init=False, repr=False, compare=False)
    """Edge types: the number of kernel positions, prod(kernel_size)."""
    modes: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """The padding mode of each axis."""
    folds: bool = field(init=False, repr=False, compare=False)
    """Whether taps outside the lattice are folded back (parallel edges are then possible)."""
    is_pointwise: bool = field(init=False, repr=False, compare=False)
    """Whether every edge is a self-loop: one tap, stride 1, no padding."""
    key: tuple[object, ...] = field(init=False, repr=False, compare=False)
    """All that tells it from another, in plain values: dictionaries compare them without a call."""
    _hash: int = field(init=False, repr=False, compare=False)

    def __hash__(self) -> int:
        """Of integers only, once: every call asks, and a pickled one is asked elsewhere."""
        return self._hash

    def __setstate__(self, state: Any) -> None:
        """Take pickled fields, checked anew."""
        revive(self, state)

    def __post_init__(self) -> None:
        """Normalise every field to one entry an axis and refuse what no operator means."""
        d = _dimensions(self)
        kernel = _ints("kernel_size", self.kernel_size, d, least=1)
        stride = _ints("stride", self.stride, d, least=1)
        dilation = _ints("dilation", self.dilation, d, least=1)
        extra = _ints("output_padding", self.output_padding, d, least=0)
        for name, value in (("transposed", self.transposed), ("ceil_mode", self.ceil_mode)):
            if not isinstance(value, bool):
                raise GeometryError(f"KernelGeometry: expected {name} to be a bool, got {value!r}")
        modes, mode = _modes(self.padding_mode, d)
        if self.transposed and mode != "zeros":
            raise GeometryError(
                "KernelGeometry: a transposed kernel takes padding_mode='zeros' only, "
                f"got {self.padding_mode!r}"
            )
        if self.transposed and self.ceil_mode:
            raise GeometryError("KernelGeometry: ceil_mode belongs to pools, not to transposed")
        if self.ceil_mode and mode != "zeros":
            raise GeometryError(
                "KernelGeometry: ceil_mode belongs to pools, which know padding_mode='zeros' only, "
                f"got {self.padding_mode!r}"
            )
        if any(extra) and not self.transposed:
            raise GeometryError(
                f"KernelGeometry: output_padding={extra} needs transposed=True; "
                "a forward kernel has no output_padding"
            )
        for e, s, dil in zip(extra, stride, dilation, strict=True):
            if e and e >= s and e >= dil:
                raise GeometryError(
                    f"KernelGeometry: output_padding={extra} must be smaller than "
                    f"stride={stride} or dilation={dilation} along each axis"
                )
        padding = _pads(self.padding, kernel, stride, dilation, transposed=self.transposed)
        there: Footprint | None = checked(self.footprint, kernel)
        fields = (kernel, stride, padding, dilation, extra, self.transposed, self.ceil_mode, there)
        derived: tuple[tuple[str, object], ...] = (
            ("padding_mode", mode),
            ("modes", modes),
            ("key", ("kernel", mode, fields)),
            ("_hash", hash((fields, tuple(map(PADDING_MODES.index, modes))))),
            ("d", d),
            ("kernel_size", kernel),
            ("stride", stride),
            ("dilation", dilation),
            ("output_padding", extra),
            ("padding", padding),
            ("footprint", there),
            ("num_taps", prod(kernel)),
            (
                "folds",
                any(a or b for (a, b), one in zip(padding, modes, strict=True) if one != "zeros"),
            ),
            (
                "is_pointwise",
                {*kernel, *stride} == {1}
                and not any(a or b for a, b in padding)
                and not any(extra),
            ),
        )
        for field_name, field_value in derived:
            object.__setattr__(self, field_name, field_value)

    @property
    def offsets(self) -> IntTable:
        """Offset of each tap from p * stride (for transposed, of p from q * stride).

        Returns:
            (num_taps, d) int64, row-major: tap t of a 2-D kernel is (t // k_w, t % k_w). In pixels.

        Example:
            >>> KernelGeometry((1, 3), padding=(0, 1)).offsets.tolist()
            [[0, -1], [0, 0], [0, 1]]
        """
        axes = [
            np.arange(k, dtype=np.int64) * dil - before
            for k, dil, (before, _) in zip(
                self.kernel_size, self.dilation, self.padding, strict=True
            )
        ]
        return np.stack([grid.ravel() for grid in np.meshgrid(*axes, indexing="ij")], axis=1)

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Size of the output lattice.

        Args:
            size: source lattice, d ints (pixels), height before width.

        Returns:
            d ints (pixels), each at least 1.

        Raises:
            GeometryError: the kernel does not fit the padded lattice, or a fold is wider than it.
        """
        if not isinstance(size, Sequence) or len(size) != self.d:
            raise GeometryError(
                f"KernelGeometry(d={self.d}): expected a size of {self.d} ints, "
                f"got {described(size)}"
            )
        pixels = (as_int(f"size of axis {axis}", n, least=1) for axis, n in enumerate(size))
        return tuple(self._axis_output(axis, n) for axis, n in enumerate(pixels))

    @door
    def axis_sources(self, axis: int, size: int) -> IntTable:
        """The relation along one axis: where each output position listens through each tap.

        Args:
            axis: 0 to d - 1.
            size: pixels of the source lattice along that axis.

        Returns:
            (out, kernel_size[axis]) int64, source positions, -1 where there is no edge. Read-only.

        Example:
            >>> KernelGeometry(3, padding=1, d=1).axis_sources(0, 3).tolist()
            [[-1, 0, 1], [0, 1, 2], [1, 2, -1]]
        """
        if not (isinstance(axis, int) and 0 <= axis < self.d and isinstance(size, int)):
            axis = as_int(f"KernelGeometry(d={self.d}): axis", axis, least=0)
            size = as_int("KernelGeometry: size", size, least=1)
            if axis >= self.d:
                raise GeometryError(
                    f"KernelGeometry: expected an axis of 0 to {self.d - 1}, got {axis}"
                )
        return _axis_sources(self, axis, size)

    def axis_weights(self, axis: int, size: int) -> None:
        """None: every edge of a kernel counts once."""

    @property
    def keeps_sites(self) -> bool:
        """Whether an unchanged size means unchanged sites: stride 1 along every axis."""
        return set(self.stride) == {1}

    def _axis_output(self, axis: int, n: int) -> int:
        k, s, dil = self.kernel_size[axis], self.stride[axis], self.dilation[axis]
        before, after = self.padding[axis]
        if n < 1:
            raise GeometryError(f"expected every axis of a lattice to have pixels, got size {n}")
        reach = dil * (k - 1) + 1
        if self.transposed:
            out = (n - 1) * s - before - after + reach + self.output_padding[axis]
            if out < 1:
                raise GeometryError(
                    f"transposed kernel of reach {reach} with padding {(before, after)} leaves "
                    f"{out} output sites along axis {axis} of size {n}; use less padding"
                )
            return int(out)
        mode = self.modes[axis]
        if mode == "reflect" and max(before, after) >= n:
            raise GeometryError(
                f"reflect padding {(before, after)} must be smaller than the size {n} of axis "
                f"{axis}; pad less or use padding_mode='replicate'"
            )
        if mode == "circular" and max(before, after) > n:
            raise GeometryError(
                f"circular padding {(before, after)} must not exceed the size {n} of axis {axis}: "
                "it would wrap around more than once"
            )
        span = n + before + after - reach
        if span < 0 and not (self.ceil_mode and span > -s):
            raise GeometryError(
                f"kernel_size={k} with dilation={dil} reaches over {reach} pixels, more than the "
                f"padded size {n + before + after} of axis {axis}; use a smaller kernel, more "
                "padding or a larger image"
            )
        out = (-(-span // s) if self.ceil_mode else span // s) + 1
        # A window that would start in the padding behind the image is dropped, as torch does.
        if self.ceil_mode and (out - 1) * s >= n + before:
            out -= 1
        if out < 1:
            raise GeometryError(
                f"kernel_size={k}, stride={s}, padding={(before, after)} leave no output site "
                f"along axis {axis} of size {n}"
            )
        return int(out)


@lru_cache(maxsize=512)
def _axis_sources(geometry: KernelGeometry, axis: int, size: int) -> IntTable:
    k, s, dil = geometry.kernel_size[axis], geometry.stride[axis], geometry.dilation[axis]
    before = geometry.padding[axis][0]
    out = geometry._axis_output(axis, size)
    p = np.arange(out, dtype=np.int64)[:, None]
    tap = np.arange(k, dtype=np.int64)[None, :]
    if geometry.transposed:
        reach = p + before - tap * dil
        q = np.where(reach % s == 0, reach // s, -1)
    else:
        q = p * s - before + tap * dil
        q = folded(q, size, geometry.modes[axis])
    q[(q < 0) | (q >= size)] = -1
    q.setflags(write=False)
    return q


def _dimensions(geometry: KernelGeometry) -> int:
    """Read d off the first argument that is a tuple; a named d must agree with it."""
    named = geometry.d
    if isinstance(named, bool) or not isinstance(named, int) or not 0 <= named <= MAX_DIMENSIONS:
        raise GeometryError(f"KernelGeometry: expected d in 1..{MAX_DIMENSIONS}, got {named!r}")
    lengths = {
        len(value)
        for value in (
            geometry.kernel_size,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            geometry.output_padding,
            geometry.padding_mode,
        )
        if isinstance(value, (tuple, list))
    }
    if named:
        lengths.add(named)
    if len(lengths) > 1:
        raise GeometryError(
            "KernelGeometry: kernel_size, stride, padding, dilation, output_padding and "
            f"padding_mode must all speak of the same number of axes, got lengths {sorted(lengths)}"
        )
    d = lengths.pop() if lengths else 2
    if not 1 <= d <= MAX_DIMENSIONS:
        raise GeometryError(f"KernelGeometry: expected 1 to {MAX_DIMENSIONS} axes, got {d}")
    return d


def _modes(given: Any, d: int) -> tuple[tuple[str, ...], Any]:
    """The mode of each axis, and what stands for them: one word where they agree."""
    modes = tuple(given) if isinstance(given, (tuple, list)) else (given,) * d
    if len(modes) != d or any(not isinstance(m, str) or m not in PADDING_MODES for m in modes):
        raise GeometryError(
            f"KernelGeometry: expected padding_mode in {PADDING_MODES}, or {d} of them, one an "
            f"axis, got {described(given)}"
        )
    return modes, modes[0] if len(set(modes)) == 1 else modes


def _ints(name: str, value: object, d: int, *, least: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * d
    if len(values) != d:
        raise GeometryError(f"KernelGeometry: expected {name} of {d} ints, got {value!r}")
    return tuple(as_int(f"KernelGeometry: {name}", v, least=least) for v in values)


MOST = 2**31 - 1
"""The largest integer that an argument may be: beyond it sizes overflow or no memory is left."""


def as_int(name: str, value: object, *, least: int) -> int:
    """Return `value` as an int, or say why it is none.

    Args:
        name: who asks, for the error text.
        value: anything; bools and floats are refused, NumPy integers are taken.
        least: the smallest value allowed.

    Raises:
        GeometryError: not an integer, or smaller than `least`.
    """
    try:
        number = operator.index(value) if not isinstance(value, bool) else None  # type: ignore[arg-type]
    except (TypeError, RuntimeError):  # torch's own for a tensor that is no one number
        number = None
    if number is None:
        raise GeometryError(f"{name}: expected an integer, got {described(value)}")
    if number < least:
        raise GeometryError(f"{name}: expected at least {least}, got {number}")
    if number > MOST:
        raise GeometryError(f"{name}: expected at most {MOST}, got {number}")
    return number


def _pads(
    padding: Any,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    *,
    transposed: bool,
) -> tuple[tuple[int, int], ...]:
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise GeometryError(
                f"KernelGeometry: expected padding 'same', 'valid' or integers, got {padding!r}"
            )
        if transposed:
            raise GeometryError(
                f"KernelGeometry: padding={padding!r} has no meaning for a transposed kernel"
            )
        if padding == "valid":
            return ((0, 0),) * len(kernel)
        if set(stride) != {1}:
            raise GeometryError(
                f"KernelGeometry: padding='same' needs stride 1, got stride={stride}"
            )
        totals = [dil * (k - 1) for k, dil in zip(kernel, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    values = tuple(padding) if isinstance(padding, (tuple, list)) else (padding,) * len(kernel)
    pairs = [tuple(v) if isinstance(v, (tuple, list)) else (v, v) for v in values]
    if len(pairs) != len(kernel) or any(len(pair) != 2 for pair in pairs):
        raise GeometryError(
            f"KernelGeometry: expected padding as an int, {len(kernel)} ints or {len(kernel)} "
            f"pairs (before, after), got {padding!r}"
        )
    return tuple(
        (
            as_int("KernelGeometry: padding", before, least=0),
            as_int("KernelGeometry: padding", after, least=0),
        )
        for before, after in pairs
    )
