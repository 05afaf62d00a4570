"""What is to be proven: the integers of one convolution on one batch of images.

Plain numbers and boolean arrays; nothing here knows how anybody computes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, final

import numpy as np
import numpy.typing as npt

from convgraph.door import door
from convgraph.errors import ProofError

Mask = npt.NDArray[np.bool_]
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


@final
@dataclass(frozen=True, eq=False)
class ConvSpec:
    """One convolution, forward or transposed, in numbers.

    Args:
        in_channels: channels of x.
        out_channels: channels of y.
        kernel_size: taps along each axis; their count is the dimension d, 1 to 3.
        size: pixels of each image along each axis.
        batch: images, at least two if a fault of the second one is to show.
        stride: output steps (transposed: input steps on the output lattice).
        padding: (before, after) along each axis, pixels.
        dilation: pixels between taps.
        padding_mode: "zeros", "reflect", "replicate" or "circular".
        transposed: arrows reversed.
        output_padding: extra output sites behind each axis, transposed only.
        groups: blocks of channels.
        bias: whether a bias is added.
        source_mask: (batch, *size) bool, which pixels send; None for all.
        target_mask: (batch, *output_size) bool, which sites receive; None for all.
        footprint: one bool a tap, which of them are there; None for all.
        space: settings of the space that the pixels lie in, "kind" among them; None is the plane.

    Raises:
        ProofError: a number is missing, of the wrong kind, or does not fit the others.

    Example:
        >>> ConvSpec(3, 8, (3, 3), (5, 5), padding=((1, 1), (1, 1))).d
        2
    """

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    size: tuple[int, ...]
    batch: int = 2
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    padding_mode: str = "zeros"
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    groups: int = 1
    bias: bool = True
    source_mask: Mask | None = None
    target_mask: Mask | None = None
    footprint: tuple[bool, ...] | None = None
    space: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Fill the defaults in and refuse what does not fit."""
        d = len(self.kernel_size)
        for name, default in (
            ("stride", (1,) * d),
            ("padding", ((0, 0),) * d),
            ("dilation", (1,) * d),
            ("output_padding", (0,) * d),
        ):
            value = tuple(getattr(self, name)) or default
            if len(value) != d:
                raise ProofError(f"ConvSpec: expected {name} of {d} entries, got {value}")
            object.__setattr__(self, name, value)
        if not 1 <= d <= 3 or len(self.size) != d:
            raise ProofError(
                f"ConvSpec: expected 1 to 3 axes in kernel_size={self.kernel_size} and as many in "
                f"size={self.size}"
            )
        if self.padding_mode not in PADDING_MODES:
            raise ProofError(f"ConvSpec: expected padding_mode in {PADDING_MODES}")
        if self.groups < 1 or self.in_channels % self.groups or self.out_channels % self.groups:
            raise ProofError(
                f"ConvSpec: groups={self.groups} must divide in_channels={self.in_channels} and "
                f"out_channels={self.out_channels}"
            )
        if self.footprint is not None and len(self.footprint) != prod(self.kernel_size):
            raise ProofError(
                f"ConvSpec: expected footprint of {prod(self.kernel_size)} bools, one a tap, "
                f"got {len(self.footprint)}"
            )
        if self.source_mask is not None and self.source_mask.shape != self.image_shape:
            raise ProofError(
                f"ConvSpec: expected source_mask of shape {self.image_shape}, "
                f"got {self.source_mask.shape}"
            )

    @property
    def d(self) -> int:
        """Axes of the lattice."""
        return len(self.kernel_size)

    @property
    def taps(self) -> int:
        """Edge types."""
        return prod(self.kernel_size)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(batch, *size)."""
        return (self.batch, *self.size)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """(batch, in_channels, *size)."""
        return (self.batch, self.in_channels, *self.size)

    @property
    def w_shape(self) -> tuple[int, ...]:
        """Shape of the weight as the torch layer keeps it."""
        rows, columns = self.out_channels, self.in_channels
        if self.transposed:
            rows, columns = columns, rows
        return (rows, columns // self.groups, *self.kernel_size)

    def to_dict(self) -> dict[str, Any]:
        """The numbers as plain JSON values; masks as nested lists of 0 and 1."""
        found: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            found[name] = value.astype(int).tolist() if isinstance(value, np.ndarray) else value
        return found

    @classmethod
    @door
    def from_dict(cls, found: dict[str, Any]) -> "ConvSpec":
        """The way back from `to_dict`."""
        values = dict(found)
        for name in ("kernel_size", "size", "stride", "dilation", "output_padding"):
            values[name] = tuple(values[name])
        if values.get("footprint") is not None:
            values["footprint"] = tuple(bool(there) for there in values["footprint"])
        values["padding"] = tuple((a, b) for a, b in values["padding"])
        for name in ("source_mask", "target_mask"):
            if values.get(name) is not None:
                values[name] = np.array(values[name], dtype=bool)
        return cls(**values)
