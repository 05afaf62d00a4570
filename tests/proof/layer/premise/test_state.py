"""The premise and what outlives a call: kept tensors, modules built inside, random numbers.

A program that keeps what it was given and uses it in the next call is no function. It must never
make the judge raise: the operator and its line are named, and the probes say whether it matters.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from convgraph.proof import prove_convolution
from convgraph.proof.layer.premise.check import check_premise
from tests.proof.faults.operators import PLAIN, plain

SHAPES = {"x": PLAIN.x_shape, "w": PLAIN.w_shape, "b": (PLAIN.out_channels,)}


def part(found: Any, name: str) -> Any:
    return next(part for part in found.parts if part.name == name)


class Keeps:
    """Calls `use(y, kept)` with what `keep(x, w)` left behind in the call before."""

    def __init__(self, keep: Callable[..., Any], use: Callable[..., Tensor]) -> None:
        self.keep, self.use = keep, use
        self.kept: Any = None

    def __call__(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y = plain(x, w, b)
        if self.kept is not None:
            y = self.use(y, self.kept)
        self.kept = self.keep(x, w)
        return y


HARMLESS = {
    "adds nothing": Keeps(lambda x, w: x, lambda y, kept: y + 0 * kept.sum()),
    "asks only": Keeps(lambda x, w: w, lambda y, kept: y if (kept < -5).any() else y.clone()),
    "reads numbers": Keeps(lambda x, w: w, lambda y, kept: y * (1 + 0 * len(kept.tolist()))),
    "through NumPy": Keeps(lambda x, w: w.detach(), lambda y, kept: y * (kept.numpy().size > 0)),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_kept_tensor_that_changes_nothing_is_undecided(name: str) -> None:
    run = HARMLESS[name]
    found = prove_convolution(run, plain, PLAIN, dtype=torch.float64)
    assert found.verdict == "undecided", str(found)
    premise = part(found, "S1 premise")
    assert "uses a tensor that an earlier call was given" in premise.facts
    assert "test_state.py" in premise.facts
    assert part(found, "S2 identity").status == "proven"


def test_a_kept_tensor_that_changes_a_number_is_refuted() -> None:
    run = Keeps(lambda x, w: x, lambda y, kept: y + kept.sum())
    found = prove_convolution(run, plain, PLAIN, dtype=torch.float64)
    assert found.verdict == "refuted"
    assert part(found, "S2 identity").status == "refuted"
    assert part(found, "S1 premise").facts.startswith("aten.sum uses a tensor")
    assert found.cause.startswith("aten.sum uses a tensor that an earlier call was given (tests/")


def test_a_kept_tensor_that_does_not_fit_is_undecided() -> None:
    """The basis goes through a smaller lattice, where the sum raises."""
    run = Keeps(lambda x, w: x, lambda y, kept: y + 0 * kept)
    found = prove_convolution(
        run, plain, PLAIN, dtype=torch.float64, small=lambda spec: (run, plain)
    )
    assert found.verdict == "undecided", str(found)
    basis = part(found, "S2 basis")
    assert basis.status == "not asked"
    assert "made for one geometry" in basis.facts
    assert "the candidate raised RuntimeError: The size of" in basis.facts
    assert "aten.mul uses a tensor" in part(found, "S1 premise").facts


class CachedKernel(nn.Module):
    """Lays its kernel out once, for the first weights that it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.laid_out: Tensor | None = None

    def forward(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if self.laid_out is None:
            self.laid_out = w.flip(-1)
        return F.conv2d(x, self.laid_out.flip(-1), b, *PLAIN_ARGS)


PLAIN_ARGS = (PLAIN.stride, tuple(a for a, _ in PLAIN.padding), PLAIN.dilation, PLAIN.groups)


def test_a_kernel_cached_for_other_weights_is_refuted() -> None:
    found = prove_convolution(CachedKernel(), plain, PLAIN, dtype=torch.float64)
    assert found.verdict == "refuted", str(found)
    assert "aten.flip uses a tensor" in part(found, "S1 premise").facts


def test_constants_may_be_kept() -> None:
    """An index or a mask that is made once is no data."""
    kept: dict[str, Tensor] = {}

    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if "one" not in kept:
            kept["one"] = torch.ones(1, dtype=x.dtype)
        return plain(x, w, b) * kept["one"]

    found = prove_convolution(run, plain, PLAIN, dtype=torch.float64)
    assert found.verdict == "proven", str(found)


def test_another_program_from_the_second_call_on_is_undecided() -> None:
    run = Keeps(lambda x, w: torch.ones(1, dtype=x.dtype), lambda y, kept: y * kept)
    found = prove_convolution(run, plain, PLAIN, dtype=torch.float64)
    assert found.verdict == "undecided", str(found)
    assert "behaves otherwise when it is followed: it runs aten.mul" in found.reason
    assert "test_state.py" in found.reason


# -- modules that are built inside -----------------------------------------------------------------


def layer() -> nn.Conv2d:
    pads = [a for a, _ in PLAIN.padding]
    return nn.Conv2d(
        PLAIN.in_channels, PLAIN.out_channels, PLAIN.kernel_size, PLAIN.stride, pads,  # type: ignore[arg-type]
        PLAIN.dilation, PLAIN.groups,
    )  # fmt: skip


def called(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    module = layer().to(w.dtype)
    made: Tensor = functional_call(module, {"weight": w, "bias": b}, (x,))
    return made


def replaced(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    module: Any = layer().double()
    del module.weight, module.bias
    module.weight, module.bias = w, b
    made: Tensor = module(x)
    return made


def overwritten(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Random numbers that nobody ever sees."""
    scratch = torch.randn(w.shape, dtype=w.dtype)
    scratch.copy_(w)
    return plain(x, scratch, b)


@pytest.mark.parametrize("run", [called, replaced, overwritten])
def test_a_module_built_inside_is_innocent(run: Callable[..., Tensor]) -> None:
    found = prove_convolution(run, plain, PLAIN, dtype=torch.float64)
    assert found.verdict == "proven", str(found)


def filled(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The numbers arrive, the gradients do not."""
    module = layer().double()
    module.weight.data, module.bias.data = w, b  # type: ignore[union-attr]
    made: Tensor = module(x)
    return made


def test_weights_that_are_filled_in_have_no_gradient() -> None:
    found = prove_convolution(filled, plain, PLAIN, dtype=torch.float64)
    assert found.verdict == "refuted"
    assert "has no gradient" in found.reason
    assert check_premise(filled, SHAPES).degrees["grad_w"] == ("missing",)


def noise(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return plain(x, w, b) + 0 * torch.rand(1, dtype=x.dtype)


def noise_moved(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    drawn = torch.zeros(4, dtype=x.dtype).normal_().reshape(2, 2).t()[0]
    return plain(x, w + drawn[0] * 0, b)


def noise_below(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Written over, but for one entry."""
    drawn = 0 * torch.randn(w.numel() + 1, dtype=w.dtype)
    drawn[1:] = w.flatten()
    return plain(x, drawn[1:].reshape(w.shape), b)


def noise_as_indices(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    order = torch.randperm(w.shape[0])
    return plain(x, w[order][order.argsort()], b)


def noise_read(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return plain(x, w, b) * (1 + 0 * len(torch.rand(3).tolist()))


@pytest.mark.parametrize("run", [noise, noise_moved, noise_below, noise_as_indices, noise_read])
def test_random_numbers_that_meet_data_are_undecided(run: Callable[..., Tensor]) -> None:
    found = check_premise(run, SHAPES)
    assert found.status == "undecided", found
    assert "two calls are two functions" in found.reason
    assert "test_state.py" in found.line


def test_data_swapped_into_an_input_is_refused() -> None:
    def swaps(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        x.data = w.new_zeros(x.shape)
        return plain(x, w, b)

    def brings(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        module = layer().double()
        module.weight.data = OUTSIDE
        return plain(x, w, b) + 0 * module.weight.sum()

    assert check_premise(swaps, SHAPES).operator == "Tensor.data"
    found = check_premise(brings, SHAPES)
    assert (found.status, found.operator) == ("undecided", "Tensor.data")


OUTSIDE = torch.zeros(PLAIN.w_shape, dtype=torch.float64)
