"""Where a part reads: every index that the arithmetic of a part uses, in integers.

`partial` computes with these indices and nothing else, and `claim` shows them to the judge.
"""

from typing import Any

import numpy as np

from convgraph.geometry.kernel import KernelGeometry
from convgraph.geometry.padding import folded
from convgraph.scale.positions import Positions, looked_up, places


def is_window(relation: Any) -> bool:
    """Whether consecutive outputs read one window with a stride: a kernel that is not reversed."""
    return isinstance(relation, KernelGeometry) and not relation.transposed


def window(relation: KernelGeometry, axis: int, size: int, out: Positions, have: Positions) -> Any:
    """Return the places, among the sources that are there, of the window of consecutive outputs.

    Tap t of the i-th output is entry i * stride + t * dilation; -1 where the image has ended, and
    where no tap reads.

    Example:
        >>> window(KernelGeometry(3, padding=1, d=1), 0, 9, np.array([0, 1]), np.arange(3)).tolist()
        [-1, 0, 1, 2]
    """
    s, dil, k = relation.stride[axis], relation.dilation[axis], relation.kernel_size[axis]
    first = int(out[0]) * s - relation.padding[axis][0]
    reach = np.arange(first, first + (len(out) - 1) * s + (k - 1) * dil + 1)
    sources = folded(reach, size, relation.modes[axis])
    read = np.zeros(len(reach), bool)
    read[np.arange(len(out))[:, None] * s + np.arange(k)[None] * dil] = True
    return places(have, np.where(read, sources, -1))


def table(relation: Any, axis: int, size: int, out: Positions, have: Positions) -> Any:
    """Return the place of the source of each output and tap among those that are there; or -1."""
    return places(have, looked_up(relation, axis, size, out))


def edges(relation: Any, axis: int, size: int, out: Positions, have: Positions) -> Any:
    """Return (outputs, taps) places along an axis as the arithmetic of a part has them.

    Args:
        relation: of the operator.
        axis: of the image.
        size: of the source along it (pixels).
        out: consecutive outputs.
        have: source positions that are there.
    """
    if not is_window(relation):
        return table(relation, axis, size, out, have)
    found = window(relation, axis, size, out, have)
    i, t = np.arange(len(out)), np.arange(relation.kernel_size[axis])
    return found[i[:, None] * relation.stride[axis] + t[None] * relation.dilation[axis]]
