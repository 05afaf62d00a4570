"""Manners of calling where no integers were compared: half types, shares in float32."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import convgraph as cg
from convgraph.proof import Certificate, Oracle, prove_convolution
from convgraph.proof.layer.one_program import OneProgram
from convgraph.proof.layer.other_manners import call_in_every_manner
from tests.proof.faults.operators import APART, patches

HALF = [torch.bfloat16, torch.float16]


def prove(run: Callable[..., Any], **how: Any) -> Certificate:
    return prove_convolution(run, patches, APART, seed=3, explain=False, **how)


WRONG: dict[str, Callable[..., Tensor]] = {
    "doubled": lambda y, x, w, b: y * 2,
    "turned": lambda y, x, w, b: patches(x, w.flip(-1), b),
}
PLAINLY: dict[str, Callable[..., bool]] = {
    "x is frozen": lambda x, w: x.requires_grad,
    "w is frozen": lambda x, w: w.requires_grad,
    "x is no leaf": lambda x, w: x.is_leaf,
    "w lies otherwise": lambda x, w: w.is_contiguous(),
    "w is a parameter": lambda x, w: not isinstance(w, torch.nn.Parameter),
    "w has a gradient": lambda x, w: not w.is_leaf or w.grad is None,
}


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("manner", PLAINLY)
@pytest.mark.parametrize("wrong", WRONG)
def test_numbers_of_a_half_type_are_held_in_every_manner(
    dtype: torch.dtype, manner: str, wrong: str
) -> None:
    """Multilinear, of known kinds and rounded once, so that the steps alone say nothing."""

    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y = patches(x, w, b)
        plainly = PLAINLY[manner](x, w) or x.dtype != dtype
        return y if plainly else WRONG[wrong](y, x, w, b)

    found = prove(run, dtype=dtype)
    assert found.verdict == "refuted", str(found)
    assert "beyond its bound away from the oracle" in found.reason
    wide = prove(run)
    assert wide.verdict == "proven", str(wide)


class SecondWalk(torch.autograd.Function):
    """The second walk of one graph is wrong, in a half type alone."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.walks = 0
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        ctx.walks += g.dtype in HALF
        return g * max(1, ctx.walks)


@pytest.mark.parametrize("dtype", HALF)
def test_a_graph_of_a_half_type_is_walked_twice(dtype: torch.dtype) -> None:
    found = prove(lambda x, w, b: SecondWalk.apply(patches(x, w, b)), dtype=dtype)
    assert found.verdict == "refuted", str(found)
    assert "where the graph is walked twice" in found.reason


class KeepsOne:
    """A weight that is packed for as long as it is the same tensor."""

    weight: Any = None

    def __call__(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if self.weight is not w:
            self.weight, self.packed = w, w.detach().clone()
        return patches(x, self.packed + (w - w.detach()), b)


@pytest.mark.parametrize("dtype", HALF)
def test_tensors_of_a_half_type_are_filled_with_other_numbers(dtype: torch.dtype) -> None:
    oracle, seed = Oracle(APART), np.random.default_rng(3)
    found = call_in_every_manner(KeepsOne(), OneProgram(None), oracle, seed, dtype, "cpu")
    assert (found.status, "filled anew" in found.reason) == ("refuted", True), found


@pytest.mark.parametrize("dtype", HALF)
def test_one_view_alone_of_a_half_type_is_undecided(dtype: torch.dtype) -> None:
    """No other program calls so again, as of the dtypes in which integers are compared."""

    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if x.storage_offset():
            raise RuntimeError("expected a contiguous image")
        return patches(x, w, b) * (1 + (x.dtype == dtype and w.storage_offset() > 0))

    found = prove(run, dtype=dtype)
    assert found.verdict == "undecided", str(found)
    assert "a view of other memory for w alone" in found.reason


class Patches(torch.nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(4, 4, 3, stride=3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return patches(x, self.weight, self.bias)


class Tagged(Patches):
    """Doubles where its weight is the very one that it was given a mark with."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1 + hasattr(self.weight, "mark"))


@pytest.mark.parametrize("dtype", HALF)
def test_parameters_of_a_half_type_are_called_as_they_are(dtype: torch.dtype) -> None:
    """Other trials put tensors in their places, and in a wider dtype."""
    dense = Patches().to(dtype)
    marked, hooked = Tagged(), Patches()
    for other in (marked, hooked):
        other.to(dtype).load_state_dict(dense.state_dict())
        assert cg.prove(other, dense, size=(5, 8)).verdict == "proven"
    marked.weight.mark = True  # type: ignore[attr-defined]
    hooked.weight.register_hook(lambda g: 2 * g)
    for other in (marked, hooked):
        found = cg.prove(other, dense, size=(5, 8))
        assert found.verdict == "refuted", str(found)
        assert "two calls of .backward()" in found.reason


class Sphere:
    """A layer on a sphere, whose shares leave integers no room in float32."""

    def __init__(self, wrong: Callable[..., Tensor], groups: int) -> None:
        self.dense = torch.nn.Conv2d(4, 4, 3, padding=1, groups=groups)
        self.layer = cg.nn.GraphConv2d.from_dense(self.dense)
        self.space, self.wrong = cg.Equirectangular(), wrong

    def __call__(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        graph = cg.PixelGraph.from_image(x, on=self.space)
        held = {"weight": w, "bias": b}
        y: Tensor = torch.func.functional_call(self.layer, held, (graph,)).to_image()
        return self.wrong(y, x)

    def proven(self) -> Certificate:
        return cg.prove(self, self.dense, size=(4, 8), on=self.space)


def in_float32(wrong: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda y, x: wrong(y) if y.dtype == torch.float32 else y


def frozen(wrong: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda y, x: y if x.requires_grad or y.dtype == torch.float64 else wrong(y)


def around(y: Tensor, by: float) -> Tensor:
    return (y + y.flip(0) * by) - y.flip(0) * by


SHARES = {
    "halved on the way": in_float32(lambda y: y.half().float()),
    "clamped": in_float32(lambda y: y.clamp(-1e18, 1e18)),
    "no direct sum": in_float32(lambda y: around(y, 1.0)),
    "hardly a direct sum": in_float32(lambda y: around(y, 2.0**-14)),
    "doubled where x is frozen": frozen(lambda y: y * 2),
    "clamped where x is frozen": frozen(lambda y: y.clamp(-1e18, 1e18)),
    "no direct sum where x is frozen": frozen(lambda y: around(y, 2.0**-14)),
}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("name", SHARES)
def test_float32_with_shares_is_held_in_every_manner(name: str, groups: int) -> None:
    """Its integers are probed in float64, which says nothing of what float32 alone does.

    Grouped, the honest layer itself adds up by a kernel that float64 has not.
    """
    found = Sphere(SHARES[name], groups).proven()
    assert found.verdict != "proven", str(found)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_layer_on_a_sphere_is_proven_in_float32(groups: int) -> None:
    found = Sphere(lambda y, x: y, groups).proven()
    assert found.verdict == "proven", str(found)
