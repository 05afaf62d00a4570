"""Fused kernels as functions to differentiate: one pass reads neighbours, multiplies, writes once.

    send(x, T, b)      y[p]  = b + sum over slots s of  x[q(s, p)] @ T[kind[s]]
    correlate(x, g)    T[t]  = sum over sites of  x[q(t, p)]^T g[p]

No message and no gathered row ever reaches memory. The two are closed under differentiation, to any
order, over both directions of the edges:

    d send / dx = send back along the edges with T^T;   d send / dT = correlate

Both take the lists of both directions, as `operators` describes them; lists whose third tensor is
weights are bags, and `operators` has kernels of their own for them. `plain` is whether the call
runs backwards. Each block of the result has one owner and each sum one order: results repeat
bit for bit.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from convgraph import autocast
from convgraph.backends.compiled import keeping, operators, untracked
from convgraph.backends.fused import operators as fused_operators


def conv(
    x: Tensor,  # (N, C_in)
    taps: Tensor,  # (K, G, C_in / G, C_out / G)
    bias: Tensor | None,  # (C_out,)
    there: tuple[Tensor, ...],
    back: tuple[Tensor, ...],
) -> Tensor:
    """Return y (num_targets, C_out), bias included and rounded once."""
    # One by one: torch 2.11 unpacks no named tuple that is a constant of an export.
    who, sites, slots = there[0], there[1], there[2]
    lists = (who, sites, slots, back[0], back[1], back[2])
    send = _kernel("send", slots) if untracked() else _send
    y: Tensor = send(x, taps, bias, *lists, 0)
    return y


def _kernel(name: str, third: Tensor) -> Callable[..., Tensor]:
    """The operator for these lists: weights are floating, and the slots of a grid are not."""
    found: Callable[..., Tensor] = getattr(
        fused_operators, f"{name}_bags" if third.is_floating_point() else name
    )
    return found


class _Send(torch.autograd.Function):
    """y[p] = b + sum over slots of x[q(s, p)] @ T[kind[s]], along the edges or back."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        taps: Tensor,
        bias: Tensor | None,
        who: Tensor,
        sites: Tensor,
        slots: Tensor,
        back_who: Tensor,
        back_sites: Tensor,
        back_slots: Tensor,
        backwards: int,
    ) -> Tensor:
        lists = (who, sites, slots, back_who, back_sites, back_slots)
        y: Tensor = _kernel("send", slots)(x, taps, bias, *lists, backwards)
        return y

    setup_context = keeping(9)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, taps, _, *lists = ctx.saved_tensors
        (g,), (backwards,) = grads, ctx.plain
        grad_x = grad_taps = grad_bias = None
        g = g.contiguous()  # once for all three: a sum's gradient is one number, expanded
        with autocast.off(g.device):
            if ctx.needs_input_grad[0]:
                grad_x = _send_back(g, taps.mT, None, *lists, 1 - backwards)
            if ctx.needs_input_grad[1]:
                grad_taps = _correlated(x, g, lists, taps.shape[1], backwards)
            if ctx.needs_input_grad[2]:
                grad_bias = g.sum(0)
        return (grad_x, grad_taps, grad_bias, *[None] * 7)


class _Correlate(torch.autograd.Function):
    """T[t] = sum over sites of x[q(t, p)]^T g[p], per group, along the edges."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        g: Tensor,
        who: Tensor,
        sites: Tensor,
        slots: Tensor,
        back_who: Tensor,
        back_sites: Tensor,
        back_slots: Tensor,
        groups: int,
    ) -> Tensor:
        lists = (who, sites, slots, back_who, back_sites, back_slots)
        found: Tensor = _kernel("correlate", slots)(x, g, *lists, groups)
        return found

    setup_context = keeping(8)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, g, *lists = ctx.saved_tensors
        (grad_taps,) = grads
        grad_x = grad_g = None
        with autocast.off(g.device):
            if ctx.needs_input_grad[0]:
                grad_x = _send_back(g, grad_taps.mT, None, *lists, 1)
            if ctx.needs_input_grad[1]:
                grad_g = _send_back(x, grad_taps, None, *lists, 0)
        return (grad_x, grad_g, *[None] * 7)


def _correlated(x: Tensor, g: Tensor, lists: list[Any], groups: int, backwards: int) -> Tensor:
    """The gradient of the matrices; backwards the same edges are read from their other end."""
    if backwards:
        return _correlate_back(g, x, *lists, groups).mT
    return _correlate_back(x, g, *lists, groups)


def _affine(operator: Callable[..., Tensor], ctx: Any, tangents: tuple[Any, ...]) -> Tensor:
    """Forward mode of `_Send`: bilinear in x and T, and the bias is added."""
    x, taps, _, *lists = ctx.saved_tensors
    parts = []
    if tangents[0] is not None:
        parts.append(operator(tangents[0], taps, None, *lists, *ctx.plain))
    if tangents[1] is not None:
        parts.append(operator(x, tangents[1], None, *lists, *ctx.plain))
    if tangents[2] is not None:
        rows = lists[4 if ctx.plain[0] else 1].shape[-1]
        if lists[2].is_floating_point():  # offsets of a bag for each site and tap
            rows = (rows - 1) // taps.shape[0]
        parts.append(tangents[2].expand(rows, -1))
    total: Tensor = sum(parts[1:], parts[0])
    return total


def _bilinear(operator: Callable[..., Tensor], ctx: Any, tangents: tuple[Any, ...]) -> Tensor:
    """Forward mode of `_Correlate`."""
    x, g, *lists = ctx.saved_tensors
    parts = []
    if tangents[0] is not None:
        parts.append(operator(tangents[0], g, *lists, *ctx.plain))
    if tangents[1] is not None:
        parts.append(operator(x, tangents[1], *lists, *ctx.plain))
    total: Tensor = sum(parts[1:], parts[0])
    return total


_followed, _send_back = operators(_Send, _affine)
_, _correlate_back = operators(_Correlate, _bilinear)


def _send(*args: Any) -> Tensor:
    """Call it; a compiler gets the operator itself, which brings its own derivative."""
    compiling = torch.compiler.is_compiling()
    y: Tensor = (_kernel("send", args[5]) if compiling else _followed)(*args)
    return y


# Compiled and exported programs keep the operators and none of the classes.
for _name in fused_operators.NAMES:
    _function = _Correlate if _name.startswith("correlate") else _Send
    torch.library.register_autograd(
        f"convgraph::{_name}", _function.backward, setup_context=_function.setup_context
    )
