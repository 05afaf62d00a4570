"""An image that is read window by window, from whatever has a shape and takes slices."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convgraph.errors import GraphError
from convgraph.scale.positions import Positions, runs


class Source:
    """An image (C, *size), or (*size, C), of which windows are read.

    Args:
        image: whatever has a shape and takes slices.
        channels_last: whether the channels come last, as slides are stored.

    Raises:
        GraphError: it has no shape or cannot be sliced, has less than two dimensions, or holds no
            real numbers.
    """

    def __init__(self, image: Any, *, channels_last: bool = False) -> None:
        shape = getattr(image, "shape", None)
        if shape is None or not hasattr(image, "__getitem__") or not 2 <= len(shape) <= 4:
            raise GraphError(
                "expected an image (C, *size) of one to three axes that has a shape and takes "
                f"slices (NumPy, zarr, dask, a tensor), got {type(image).__name__} of shape {shape}"
            )
        if any(not isinstance(n, (int, np.integer)) for n in shape):
            raise GraphError(
                f"expected an image whose size is known, got one of shape {shape}; of a dask array "
                "say image.compute_chunk_sizes() first"
            )
        self.image = image
        self._readable()
        self.channels_last = channels_last

    @property
    def channels(self) -> int:
        """How many there are."""
        return int(self.image.shape[-1 if self.channels_last else 0])

    @property
    def dtype(self) -> torch.dtype:
        """What a network without numbers of its own answers in: float32 for integers."""
        kind = getattr(self.image, "dtype", None)
        if isinstance(kind, np.dtype):
            kind = torch.from_numpy(np.empty(0, kind.newbyteorder("="))).dtype
        if isinstance(kind, torch.dtype) and kind.is_floating_point:
            return kind
        return torch.float32

    @property
    def size(self) -> tuple[int, ...]:
        """Of the image (pixels)."""
        shape = tuple(map(int, self.image.shape))
        return shape[:-1] if self.channels_last else shape[1:]

    def _readable(self) -> None:
        """Refuse what would be read as other numbers, or not at all, tile by tile.

        Raises:
            GraphError: with a way out.
        """
        image = self.image
        if isinstance(image, Tensor):
            if image.layout != torch.strided or image.device.type == "meta":
                raise GraphError(
                    f"expected an image whose pixels lie in memory, got a tensor of "
                    f"{image.layout} on {image.device}; say image.to_dense()"
                )
            kind = "c" if image.is_complex() else "f"
        else:
            kind = getattr(getattr(image, "dtype", None), "kind", "f")
        if kind not in "biuf":
            raise GraphError(
                f"expected an image of real numbers, got {image.dtype}; of complex ones give real "
                "and imaginary parts as channels"
            )
        if kind == "f" and getattr(getattr(image, "dtype", None), "itemsize", 0) > 8:
            raise GraphError(
                f"expected an image of at most 64 bits a number, got {image.dtype}; say "
                "image.astype('f8')"
            )
        if isinstance(image, np.ma.MaskedArray) and np.ma.getmask(image).any():
            raise GraphError(
                "expected an image without a mask of its own; give image.filled(0) and, as mask=, "
                "~np.ma.getmaskarray(image).any(0)"
            )

    def read(
        self, ask: tuple[Positions, ...], dtype: torch.dtype, device: Any, *, cells: bool = False
    ) -> Tensor:
        """Return (1, C, *positions): a box of consecutive positions at a time.

        Args:
            ask: positions along each axis.
            dtype: of what is returned.
            device: likewise.
            cells: whether the first axis names cells of the image, (1, C, cells, 1).
        """
        if cells:
            width = self.size[1]
            parts = [self.read(box, dtype, device).flatten(2) for box in _boxes_of(ask[0], width)]
            return torch.cat(parts, 2).unsqueeze(-1)
        rows = self._boxes(ask, ())
        if not isinstance(rows, Tensor):
            native = rows.dtype.newbyteorder("=")  # FITS and old TIFFs have the other order
            rows = torch.from_numpy(np.ascontiguousarray(rows, native))
        if self.channels_last:
            rows = rows.movedim(-1, 0)
        return rows[None].to(device=device, dtype=dtype)

    def _boxes(self, ask: tuple[Positions, ...], done: tuple[slice, ...]) -> Any:
        axis = len(done)
        if axis == len(ask):
            every = (slice(None),)
            got = self.image[(*done, *every) if self.channels_last else (*every, *done)]
            if hasattr(got, "compute"):  # dask: the task that needs the chunks reads them
                got = got.compute(scheduler="synchronous")
            return got if isinstance(got, Tensor) else np.asarray(got)
        parts = [
            self._boxes(ask, (*done, slice(int(run[0]), int(run[-1]) + 1)))
            for run in runs(ask[axis]) or [np.array([0, -1])]  # a part may read nothing at all
        ]
        along = axis if self.channels_last else axis + 1
        if len(parts) == 1:
            return parts[0]
        return (torch.cat if isinstance(parts[0], Tensor) else np.concatenate)(parts, along)


def _boxes_of(cells: Positions, width: int) -> Iterator[tuple[Positions, Positions]]:
    """Yield the boxes, rows and columns, that sorted cells fill one after the other."""
    rows, columns = np.divmod(cells, width)
    lines = np.split(columns, np.flatnonzero(np.diff(rows)) + 1) if len(cells) else []
    first = 0
    rows = np.unique(rows)
    for k in range(1, len(lines) + 1):
        if k == len(lines) or not np.array_equal(lines[k], lines[first]):
            yield rows[first:k], lines[first]
            first = k
