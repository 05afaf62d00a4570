"""The verifier's own look at operators without parameters: linear ones, and maxima over windows.

    checked   what a record says of the sums that its reference makes
    either    where a gradient is open
    added_up  what one entry adds up, read off the reference
    off       where real numbers are further off than sums of that may be

They have no equation: the reference is what a candidate is compared with. The file lies beside
verifier.py, which reads it when a record speaks of such an operator, and imports nothing of the
package either. `says` takes [x, g] and returns y and grad_x.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Json = dict[str, Any]
Says = Callable[[list[Any]], Json]


def checked(
    record: Json, says: Says, probe: Any, demand: Callable[[bool, str], None]
) -> tuple[Any, ...]:
    """Return what the verifier's `Truth` holds; a record's terms and its scale may be too few."""
    spec, draw = record["spec"], np.random.default_rng(0).integers
    shapes, n, scale = [spec["shape"], spec["out"]], spec["terms"], spec["scale"]
    sent = [draw(0, 9, shape) * scale for shape in shapes]
    made = says(sent)
    demand({*made} == {"y", "grad_x"}, "reference: it has no gradient, or not the shapes of spec")
    most = 1 if record["trace"] else max(part[0].size for part in made.values())  # or S1 counts
    parts = ((value % 1 > 0) & ~either(record, name, sent[0]) for name, value in made.items())
    fits = n >= most and not any(part.any() for part in parts)
    demand(fits, "spec: more terms, or a scale that leaves fractions")
    eps, most = torch.finfo(probe).eps, max(math.prod(shape) for shape in shapes)
    half = (record["kind"], scale, record["dtype"][-7:]) == ("maximum", 1, "float16")
    a = int(2**24 if half else 2 / eps) // (n * scale)  # it may go to float32 and back
    return shapes, {"y": n, "grad_x": n}, a, probe, 4 * (min(n * scale, most) + 9) * eps


def either(record: Json, name: str, x: Any) -> Any:
    """Where a gradient is open: at equal pixels of a maximum (step 11d)."""
    if (record["kind"], name) != ("maximum", "grad_x"):
        return np.False_
    _, place, count = np.unique(x, return_inverse=True, return_counts=True)
    return count[place].reshape(x.shape) > 1


def added_up(record: Json, says: Says, sent: list[Any], name: str, at: Any) -> tuple[Any, Any]:
    """Return how many numbers one entry adds up, and their absolute sum, as the reference says.

    What a record says of its terms is not believed: an output adds up the gradient where this one
    alone has g = 1, and a pixel is heard by y of an image of this one alone. Of a linear operator
    whose gradient hangs on x nothing is known: infinitely many.
    """
    (x, g), one = sent, np.zeros(np.shape(sent[1 if name == "y" else 0]))
    one[at] = 1
    if record["kind"] == "linear" and (says([-x, g])["grad_x"] != says(sent)["grad_x"]).any():
        return math.inf, 0.0
    heard = says([x, one])["grad_x"] * x if name == "y" else says([one, g])["y"] * g
    return np.count_nonzero(heard) + 2, np.abs(heard).sum()  # a constant rounds, twice


def off(
    record: Json, truth: Any, real: list[Any], name: str, have: Any, want: Any, exact: Any,
    bound: Callable[[Any, Any, Any], Any], dtype: Any,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Return where the worst entry is too far off, the figure if it is known, and its bounds.

    Where an operator has entries of both signs there is no |L| |x|, and the largest difference is
    looked at. So it is in a maximum's gradient, whose figure is of exact sums, and which is linear
    in g alone.
    """
    x, g = real
    tied = (record["kind"], name) == ("maximum", "grad_x")
    size = np.abs(truth.says([x if tied else np.abs(x), np.abs(g)])[name])
    limit = bound(truth.counts[name], size, dtype)
    gap, known = abs(have - exact), not tied and bool((size >= np.abs(want)).all())
    if tied:
        gap = np.where(either(record, name, x), 0, gap)
        if record["spec"]["scale"] > 1:  # values between pixels change places, not most
            moved = gap > limit
            gap[moved] *= 2 * np.count_nonzero(moved) > np.count_nonzero(want)
    worst = np.nan_to_num(gap / limit if known else gap, nan=np.inf)
    at = np.unravel_index(worst.argmax(), worst.shape)
    n, most = added_up(record, truth.says, real, name, at)
    wrong = np.zeros(worst.shape, dtype=bool)
    wrong[at] = worst[at] > 0 and not abs(have - exact)[at] <= bound(n, most, dtype)
    ratio = (abs(have - want) / limit).max(initial=0.0) if known else None
    return wrong, ratio, limit if math.isfinite(n) else np.full(limit.shape, np.inf)
