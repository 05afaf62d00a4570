"""A module as its user has it: called with parameters of its own, gradients left in `.grad`.

Other trials put tensors in the parameters' places, and there no hook of a parameter runs, and a
module that asks whether its weight is a Parameter hears no. Here the parameters themselves are
filled with the integers of a trial, the module is called, and `.backward()` is what its user calls.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from convgraph.proof.layer.trial import Probe


@final
@dataclass(frozen=True, eq=False)
class OwnParameters:
    """A candidate that holds parameters.

    Attributes:
        module: that holds them.
        run: f(x) -> y with the parameters that it holds.
        laid_out: (w, b) -> its parameters by name.
        frozen: names that are no trainable parameters of the reference either.
    """

    module: torch.nn.Module
    run: Callable[[Tensor], Tensor]
    laid_out: Callable[[Tensor, Tensor | None], Mapping[str, Tensor]]
    frozen: frozenset[str] = frozenset()

    def added(self, probe: Probe) -> list[tuple[int, ...]]:
        """Shapes of the gradients that the second of two calls adds to those of the first."""
        return [probe.sent["x"].shape, *(tuple(p.shape) for p in self.module.parameters())]

    def evaluate(
        self,
        probe: Probe,
        dtype: torch.dtype,
        device: torch.device | str,
        enter: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    ) -> dict[str, Tensor | None] | str:
        """Return y and half of what two calls of `.backward()` leave, or what is wrong.

        Gradients are added up where there are some already, as over the batches of one step.
        """

        def tensor(name: str, value: Any) -> Tensor:
            return enter(torch.from_numpy(value).to(device, dtype) * probe.scale(name))

        sent = {name: tensor(name, value) for name, value in probe.sent.items()}
        g = tensor("g", probe.g)
        expected = g.shape, g.dtype, g.layout
        leaves = {name: sent[name].clone().requires_grad_() for name in ("w", "b") if name in sent}
        laid = self.laid_out(leaves["w"], leaves.get("b"))
        x = sent["x"].requires_grad_()
        with self._filled(laid) as held:
            for _ in range(2):
                y = self.run(x)
                if not isinstance(y, Tensor) or (y.shape, y.dtype, y.layout) != expected:
                    return "returned another shape, dtype or layout with parameters of its own"
                found: dict[str, Tensor | None] = {"y": y.detach().clone()}
                if y.requires_grad:
                    y.backward(g)
            with _disable_current_modes():  # this is the judge's arithmetic
                found["grad_x"] = None if x.grad is None else x.grad * 0.5  # as exact as it was
                back = {name: p.grad for name, p in held.items()}
                dense = {n: t.to_dense() * 0.5 for n, t in back.items() if t is not None}
        pulled: Any = (None,) * len(leaves)
        heads = {n: t for n, t in dense.items() if laid[n].requires_grad}
        if heads:
            with _disable_current_modes():
                pulled = torch.autograd.grad(
                    [laid[n] for n in heads], list(leaves.values()), list(heads.values()),
                    allow_unused=True,
                )  # fmt: skip
        for (name, leaf), grad in zip(leaves.items(), pulled, strict=True):
            missing = [n for n in held if laid[n] is leaf and n in self.frozen]
            if not missing:
                found[f"grad_{name}"] = grad
        return found

    @contextmanager
    def _filled(self, values: Mapping[str, Tensor]) -> Iterator[dict[str, torch.nn.Parameter]]:
        """Fill the parameters for a block, and leave numbers and gradients as they were."""
        held = {n: p for n, p in self.module.named_parameters() if n in values}
        before = {n: (p.detach().clone(), p.grad) for n, p in held.items()}
        try:
            with torch.no_grad():
                for name, parameter in held.items():
                    parameter.copy_(values[name])
                    parameter.grad = None
            yield held
        finally:
            with torch.no_grad():
                for name, parameter in held.items():
                    parameter.copy_(before[name][0])
                    parameter.grad = before[name][1]
