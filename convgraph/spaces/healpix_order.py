"""The numberings of HEALPix pixels: ring by ring, nested, and face by face.

    nest    face n^2 + the bits of x and y interleaved, x first        n a power of two
    ring    from the north, ring by ring, each from longitude 0 eastwards
    xy      face n^2 + row n + column, as an array (12 n, n) lies      see `convgraph.HEALPix`

An xy map may begin at another corner of its faces, and go round them the other way: eight in all.

with x = n - 1 - row to the north-east and y = n - 1 - column to the north-west. Integers but for
the vectors; knows no torch.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from convgraph.errors import GeometryError
from convgraph.geometry.kernel import IntTable

ORDERS = ("nest", "ring", "xy")
CORNERS = ("N", "E", "S", "W")

_NORTH = np.array([2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4])
"""Rings, in units of n, from the north pole to the southern corner of each face."""

_EAST = np.array([1, 3, 5, 7, 0, 2, 4, 6, 1, 3, 5, 7])
"""Longitude of each face's middle, in eighths of a circle."""


def numbers(order: str, n: int, origin: str = "N", clockwise: bool = True) -> IntTable:
    """(12 n^2,) int64: the number in `order` of each pixel of the array, row by row.

    Args:
        order: "nest", "ring" or "xy".
        n: pixels along an edge of a face, nside.
        origin: of "xy", the corner of a face at which its rows begin.
        clockwise: of "xy", whether a row leads to the next corner clockwise, seen from outside.

    Raises:
        GeometryError: another order or corner, or a nested one of an n that is no power of two.

    Example:
        >>> numbers("ring", 1).tolist()
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]
    """
    if order not in ORDERS:
        raise GeometryError(f"HEALPix: expected order in {ORDERS}, got {order!r}")
    face, row, column = (part.ravel() for part in np.indices((12, n, n)))
    if order != "xy" and (origin != "N" or not clockwise):
        raise GeometryError(f"HEALPix: origin and clockwise are of order 'xy', got {order!r}")
    if origin not in CORNERS:
        raise GeometryError(f"HEALPix: expected origin in {CORNERS}, got {origin!r}")
    if not isinstance(clockwise, bool):
        raise GeometryError(f"HEALPix: expected clockwise as a bool, got {clockwise!r}")
    if order == "xy":
        i, j = row, column
        for _ in range(CORNERS.index(origin)):  # the next corner clockwise
            i, j = n - 1 - j, i
        i, j = (i, j) if clockwise else (j, i)
        placed: IntTable = face * n * n + i * n + j
        return placed
    x, y = n - 1 - row, n - 1 - column
    if order == "ring":
        return _ring(n, face, x, y)
    if n & (n - 1):
        raise GeometryError(f"HEALPix: a nested map has nside a power of two, got {n}")
    found: IntTable = face * n * n
    for bit in range(n.bit_length()):
        found = found | ((x >> bit & 1) << (2 * bit)) | ((y >> bit & 1) << (2 * bit + 1))
    return found


def _rings(n: int, face: IntTable, x: IntTable, y: IntTable) -> tuple[IntTable, Any, IntTable]:
    """Ring from the north (1 to 4 n - 1), pixels in a quarter of it, and place in it from 1."""
    ring = _NORTH[face] * n - x - y - 1
    quarter = np.minimum(np.minimum(ring, 4 * n - ring), n)
    shift = np.where((ring >= n) & (ring <= 3 * n), (ring - n) & 1, 0)
    place = (_EAST[face] * quarter + x - y + 1 + shift) // 2
    place = (place - 1) % (4 * quarter) + 1
    return ring, quarter, place


def _ring(n: int, face: IntTable, x: IntTable, y: IntTable) -> IntTable:
    ring, quarter, place = _rings(n, face, x, y)
    pixels = 12 * n * n
    cap = 2 * n * (n - 1)
    before = np.select(
        [ring < n, ring > 3 * n],
        [2 * ring * (ring - 1), pixels - 2 * (quarter + 1) * quarter],
        cap + (ring - n) * 4 * n,
    )
    found: IntTable = before + place - 1
    return found


def vectors(n: int, face: IntTable, row: IntTable, column: IntTable) -> npt.NDArray[np.float64]:
    """(P, 3) unit vectors of pixel centres: x to longitude 0, y to 90 degrees east, z north."""
    ring, quarter, place = _rings(n, face, n - 1 - row, n - 1 - column)
    cap = (quarter < n) | (ring == n) | (ring == 3 * n)
    polar = 1 - quarter**2 / (3 * n**2)
    belt = (2 * n - ring) * 2 / (3 * n)
    z = np.where(cap, np.where(ring < 2 * n, polar, -polar), belt)
    odd = np.where((ring >= n) & (ring <= 3 * n), (ring - n) & 1, 0)
    longitude = (place - (1 + odd) / 2) * np.pi / (2 * quarter)
    r = np.sqrt(np.maximum(1 - z * z, 0))
    return np.stack([r * np.cos(longitude), r * np.sin(longitude), z], axis=1)
