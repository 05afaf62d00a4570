"""S2(a) and double backward: honest passes, and faults that only they can see are caught."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.proof import ConvSpec, prove_convolution

SPEC = ConvSpec(2, 2, (3, 3), (5, 5), padding=((1, 1), (1, 1)))


def plain(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.conv2d(x, w, b, 1, 1)


class _Twice(torch.autograd.Function):
    """conv2d whose gradients are right, and whose gradients' gradients are lost for w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return plain(x, w, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        grad_x = torch.nn.grad.conv2d_input(x.shape, w.detach(), g, 1, 1)
        return grad_x, torch.nn.grad.conv2d_weight(x, w.shape, g, 1, 1), g.sum((0, 2, 3))


FAULTS = {
    "tied": lambda x, w, b: plain(x, w[:1].expand_as(w), b),
    "flipped": lambda x, w, b: plain(x, w.flip(-1), b),
    "lost bias": lambda x, w, b: plain(x, w, 0 * b),
    "detached w": lambda x, w, b: plain(x, w.detach(), b),
    "constant": lambda x, w, b: plain(x, w, b) + 1,
}


@pytest.mark.parametrize("name", ["honest", *FAULTS])
def test_the_basis_tells_right_from_wrong(name: str) -> None:
    candidate = FAULTS.get(name, plain)
    found = prove_convolution(candidate, plain, SPEC, identity="deterministic")
    status = next(p.status for p in found.parts if p.name == "S2 basis")
    assert status == ("proven" if name == "honest" else "refuted"), str(found)


def test_a_fault_one_derivative_up_is_seen_by_double_backward_alone() -> None:
    assert prove_convolution(_Twice.apply, plain, SPEC).verdict == "proven"
    assert prove_convolution(_Twice.apply, plain, SPEC, second=True).verdict == "refuted"
    assert prove_convolution(plain, plain, SPEC, second=True).verdict == "proven"
