"""S2(a), identity without chance: every basis pair of a small geometry, all channels.

A multilinear form is its values on basis vectors. So, one after the other,

    x = e[q, c],  w = e[o, c', t]     y      is 1 at (p, o) where q --t--> p and c = c', else 0
    w = e[o, c, t],  g = e[p, o']     grad_x is 1 at (q, c) where q --t--> p and o = o', else 0
    x = e[q, c],  g = e[p, o]         grad_w is 1 at (o, c, t) where q --t--> p, else 0
    b = e[o]                         y is 1 at (p, o); grad_b of g = e[p, o] is e[o]

and f(0, 0, 0) = 0. Tied, lost and exchanged weights have nowhere to hide. For y and grad_x the
basis of x and g lies in the images of one batch, a vector an image; that images keep apart is what
the probes of S2(b) show.
"""

from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convgraph.errors import ProofError
from convgraph.proof.equation.oracle import Oracle
from convgraph.proof.equation.spec import ConvSpec
from convgraph.proof.layer.identity import Identity
from convgraph.proof.layer.trial import Run

CALLS = 500
"""Forward and backward calls up to which "auto" goes through the basis."""


def smallest(spec: ConvSpec) -> ConvSpec:
    """Return the same operator on the smallest lattice that uses all taps, two sites an axis.

    Masks do not shrink with a lattice: the small geometry is the full grid.

    Example:
        >>> smallest(ConvSpec(3, 8, (3, 3), (56, 56), padding=((1, 1), (1, 1)))).size
        (2, 2)
    """
    sizes = []
    for axis in range(spec.d):
        line = ConvSpec(
            1, 1, (spec.kernel_size[axis],), (spec.size[axis],), 1, (spec.stride[axis],),
            (spec.padding[axis],), (spec.dilation[axis],), spec.padding_mode, spec.transposed,
            (spec.output_padding[axis],),
        )  # fmt: skip
        sizes.append(next((n for n in range(1, spec.size[axis]) if _full(line, n)), line.size[0]))
    return replace(spec, size=tuple(sizes), source_mask=None, target_mask=None)


def _full(line: ConvSpec, n: int) -> bool:
    try:
        oracle = Oracle(replace(line, size=(n,)))
    except ProofError:
        return False
    return oracle.out_size[0] >= 2 and bool(np.diff(oracle.edges.ptr).all())


def calls(spec: ConvSpec) -> int:
    """How many evaluations the whole basis takes."""
    pixels, sites = prod(spec.size), prod(Oracle(spec).out_size)
    return prod(spec.w_shape) + pixels * spec.in_channels * sites * spec.out_channels


def check_basis(
    candidate: Run,
    reference: Run,
    spec: ConvSpec,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> Identity:
    """Hold both sides against the structure tensor, entry by entry.

    Args:
        candidate: f(x, w, b) -> y for any batch size; the accused.
        reference: f(x, w, b) -> y.
        spec: a small geometry without masks, see `smallest`.
        dtype: in which both run; every number is 0, 1 or a count of parallel edges.
        device: where both run.

    Returns:
        "refuted" names the basis pair that differs.

    Raises:
        WrongShapeError: a side returned something else than images of that geometry.
    """
    compared = 0
    for name, run in (("candidate", candidate), ("reference", reference)):
        side = _BasisSide(run, spec, dtype, device)
        for check in (side.weights, side.biases, side.pairs):
            if problem := check():
                return Identity("refuted", 3, compared, f"the {name}: {problem}")
        compared += side.compared
    if not compared:
        return Identity("undecided", 3, reason="there is nothing to compare")
    return Identity("proven", 3, compared)


class WrongShapeError(Exception):
    """What came back cannot be compared."""


class _BasisSide:
    """One implementation on the basis; each check returns what is wrong, or nothing."""

    def __init__(
        self, run: Run, spec: ConvSpec, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.run, self.dtype, self.device, self.compared = run, dtype, device, 0
        one = replace(spec, batch=1)
        oracle = Oracle(one)
        self.spec, self.out = spec, oracle.out_size
        self.w_shape, self.taps = spec.w_shape, spec.taps
        self.n, self.p = prod(spec.size), prod(self.out)
        e = oracle.edges
        # How often q --t--> p: 0 or 1, more where padding folds.
        self.edges = np.zeros((spec.taps, self.n, self.p))
        np.add.at(self.edges, (e.tap, e.source, e.target), 1)
        self.a, self.o = spec.in_channels // spec.groups, spec.out_channels // spec.groups

    def weights(self) -> str:
        """Y and grad_x of every entry of w."""
        s = self.spec
        inputs, outputs = self.n * s.in_channels, self.p * s.out_channels
        batch = max(inputs, outputs, 2)
        x = self._zeros(batch, s.in_channels, *s.size)
        x.view(batch, -1)[range(inputs), range(inputs)] = 1
        g = self._zeros(batch, s.out_channels, *self.out)
        g.view(batch, -1)[range(outputs), range(outputs)] = 1
        b = self._zeros(s.out_channels) if s.bias else None
        x.requires_grad_()
        if not bool((self._call(x.detach() * 0, self._zeros(*self.w_shape), b) == 0).all()):
            return "f(0, 0, 0) is not 0"
        for j in range(prod(self.w_shape)):
            w = self._zeros(*self.w_shape)
            w.view(-1)[j] = 1
            o, c, t = self._entry(j)
            y = self._call(x, w, b)
            want = np.zeros((batch, s.out_channels, self.p))
            want[c * self.n : (c + 1) * self.n, o] = self.edges[t]
            at = f"w = e{self._index(j)}"
            if problem := self._compare(f"y, {at}, x = e", y.detach(), want):
                return problem
            grad = torch.autograd.grad(y, x, g, allow_unused=True)[0] if y.requires_grad else None
            want = np.zeros((batch, s.in_channels, self.n))
            want[o * self.p : (o + 1) * self.p, c] = self.edges[t].T
            if problem := self._compare(f"grad_x, {at}, g = e", grad, want):
                return problem
        return ""

    def biases(self) -> str:
        """Y of every entry of b."""
        s = self.spec
        if not s.bias:
            return ""
        x, w = self._zeros(2, s.in_channels, *s.size), self._zeros(*self.w_shape)
        for o in range(s.out_channels):
            b = self._zeros(s.out_channels)
            b[o] = 1
            want = np.zeros((2, s.out_channels, self.p))
            want[:, o] = 1
            if problem := self._compare(f"y, b = e[{o}]", self._call(x, w, b).detach(), want):
                return problem
        return ""

    def pairs(self) -> str:
        """grad_w and grad_b of every entry of x with every one of g, in the last of two images."""
        s = self.spec
        w = self._zeros(*self.w_shape).requires_grad_()
        b = self._zeros(s.out_channels).requires_grad_() if s.bias else None
        leaves = [w] if b is None else [w, b]
        for c in range(s.in_channels):
            for q in range(self.n):
                x = self._zeros(2, s.in_channels, *s.size)
                x[1].view(s.in_channels, -1)[c, q] = 1
                y = self._call(x, w, b)
                for o in range(s.out_channels):
                    for p in range(self.p):
                        g = self._zeros(2, s.out_channels, *self.out)
                        g[1].view(s.out_channels, -1)[o, p] = 1
                        found: Any = (None,) * len(leaves)
                        if y.requires_grad:
                            found = torch.autograd.grad(
                                y, leaves, g, allow_unused=True, retain_graph=True
                            )
                        at = f"x = e[{c}, {q}], g = e[{o}, {p}]"
                        want = self._weight(c, q, o, p)
                        if problem := self._compare(f"grad_w, {at}", found[0], want):
                            return problem
                        if b is not None:
                            hot = np.zeros(s.out_channels)
                            hot[o] = 1
                            if problem := self._compare(f"grad_b, {at}", found[1], hot):
                                return problem
        return ""

    def _entry(self, j: int) -> tuple[int, int, int]:
        """(output channel, input channel, tap) of one entry of w in torch's layout."""
        s = self.spec
        shape = (*self.w_shape[:2], self.taps)
        row, column, t = (int(i) for i in np.unravel_index(j, shape))
        if s.transposed:
            return column + row // self.a * self.o, row, t
        return row, column + row // self.o * self.a, t

    def _weight(self, c: int, q: int, o: int, p: int) -> Any:
        s = self.spec
        want = np.zeros((self.w_shape[0], self.w_shape[1], self.taps))
        if c // self.a == o // self.o:
            row, column = (c, o % self.o) if s.transposed else (o, c % self.a)
            want[row, column] = self.edges[:, q, p]
        return want

    def _call(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        y = self.run(x, w, b)
        shape = (len(x), self.spec.out_channels, *self.out)
        if not isinstance(y, Tensor) or tuple(y.shape) != shape or y.dtype != self.dtype:
            got = f"{tuple(y.shape)} {y.dtype}" if isinstance(y, Tensor) else type(y).__name__
            raise WrongShapeError(f"returned {got}, expected {shape} {self.dtype}")
        return y

    def _compare(self, what: str, found: Tensor | None, want: Any) -> str:
        if found is None:
            return f"{what}: has no gradient" if want.any() else ""
        got = found.cpu().numpy()
        self.compared += got.size
        wrong = got.reshape(want.shape) != want
        if not wrong.any():
            return ""
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        number = float(got.reshape(want.shape)[at])
        return f"{what}: entry {list(at)} is {number!r}, not {float(want[at])!r}"

    def _index(self, j: int) -> list[int]:
        return [int(i) for i in np.unravel_index(j, self.w_shape)]

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.dtype, device=self.device)
