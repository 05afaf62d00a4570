"""What a comparison by tolerance says of the same faults: the demonstration, and the only one.

Nothing here decides anything. The house forbids picked tolerances; this file calls the two that
are picked most often, to show what they let through.
"""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from tests.proof.faults import SEED, Fault
from tests.proof.faults.operators import honest


@final
@dataclass(frozen=True)
class Tolerances:
    """Whether each comparison notices a fault, on one draw of standard normal numbers.

    Attributes:
        close: torch.testing.assert_close with its defaults, of y.
        loose: torch.allclose with atol=1e-4, of y.
        gradients: torch.testing.assert_close with its defaults, of y and of all gradients.
    """

    close: bool
    loose: bool
    gradients: bool


def tolerances(fault: Fault) -> Tolerances:
    """Compare a fault with the dense operator, in float64."""
    generator = np.random.Generator(np.random.Philox(SEED))
    spec = fault.spec
    shapes = (spec.x_shape, spec.w_shape, (spec.out_channels,))
    sent = [torch.from_numpy(generator.standard_normal(shape)) for shape in shapes]
    right = _evaluated(honest(spec), sent)
    try:
        found = _evaluated(fault.run, sent)
    except Exception:  # noqa: BLE001 - whoever raises has been noticed
        return Tolerances(True, True, True)
    close = _notices(found[0], right[0])
    loose = not isinstance(found[0], Tensor) or _differ(found[0], right[0])
    gradients = any(map(_notices, found, right))
    return Tolerances(close, loose, gradients)


def _evaluated(run: object, sent: list[Tensor]) -> list[object]:
    """Y and its gradients along a fixed cotangent."""
    leaves = [value.clone().requires_grad_() for value in sent]
    y = run(*leaves)
    if not isinstance(y, Tensor):
        return [y]
    cotangent = np.random.Generator(np.random.Philox(SEED + 1)).standard_normal(tuple(y.shape))
    along = torch.from_numpy(cotangent).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, leaves, along, allow_unused=True)]


def _notices(found: object, right: object) -> bool:
    try:
        torch.testing.assert_close(found, right)
    except (AssertionError, TypeError, ValueError):
        return True
    return False


def _differ(found: Tensor, right: Tensor) -> bool:
    try:
        return not torch.allclose(found, right, atol=1e-4)
    except RuntimeError:  # another shape or dtype
        return True
