"""Maxima over messages: which source speaks loudest into each target, channel by channel.

    y[p, c] = max over edges (q, p, t) of x[q, c];   over no message it is 0 with gradient 0

Two ways of finding the loudest, tap by tap (`by_tap`) and over one message per edge (`by_message`);
both take the first of equals in the order of the taps, as torch does, and the last NaN if there is
one. The value is then read, and its gradient goes back to where it came from.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from convgraph.backends.compiled import add_rows, linear, operators
from convgraph.backends.problem import EdgeSource


def _quietest(dtype: torch.dtype) -> float:
    """Return what is no louder than anything of a dtype."""
    return -torch.inf if dtype.is_floating_point else torch.iinfo(dtype).min


def by_tap(x: Tensor, edges: EdgeSource) -> Tensor:
    """Return (P, C) int64: the loudest source of each target, -1 where no message arrives."""
    source, target, _, ptr = edges.by_tap()
    values = x.detach()
    shape = (edges.num_targets, x.shape[1])
    best = values.new_full(shape, _quietest(x.dtype))
    # Made from the values: under vmap it is batched as they are.
    chosen = values.new_full(shape, -1, dtype=torch.int64)
    for tap in range(len(ptr) - 1):
        q, p = source[ptr[tap] : ptr[tap + 1]], target[ptr[tap] : ptr[tap + 1]]
        spoken, loudest, known = values[q], best[p], chosen[p]
        louder = (spoken > loudest) | spoken.isnan() | (known < 0)
        # Within a tap no target appears twice, so these writes never meet.
        best[p] = torch.where(louder, spoken, loudest)
        chosen[p] = torch.where(louder, q.unsqueeze(1), known)
    return chosen


def by_message(x: Tensor, edges: EdgeSource) -> Tensor:
    """Return the same from one message per edge: the maximum, then the first tap that has it."""
    source, target = edges.edge_index
    tap = edges.edge_type
    messages = x.detach()[source]  # (E, C)
    shape = (edges.num_targets, x.shape[1])
    where = target.unsqueeze(1).expand_as(messages)
    loudest = messages.new_full(shape, _quietest(x.dtype))
    loudest = loudest.scatter_reduce(0, where, messages, "amax")
    taps = tap.unsqueeze(1).expand_as(messages)
    # NaN is louder than anything, and the last of several wins: a key below every tap's.
    key = torch.where(messages.isnan(), -1 - taps, taps)
    says_it = messages.isnan() | (messages == loudest[target])
    nobody = edges.num_taps
    first = torch.full(shape, nobody, dtype=torch.int64, device=x.device)
    first = first.scatter_reduce(0, where, torch.where(says_it, key, nobody), "amin")
    table = torch.full((edges.num_targets, nobody + 1), -1, dtype=torch.int64, device=x.device)
    table[target, tap] = source
    return table.gather(1, torch.where(first < 0, -1 - first, first))


def between(x: Tensor, edges: EdgeSource) -> Tensor:
    """Return (P, C): the loudest tap of each target, where a tap may hear several sources.

    What a tap says is the weighted sum of its sources; the first of equal taps is taken, the last
    NaN, and over no message it is 0. Differentiable, through the tap that was loudest.
    """
    source, target, weight, ptr = edges.by_tap()
    loudest: Tensor | None = None
    anyone = torch.zeros(edges.num_targets, 1, dtype=torch.bool, device=x.device)
    for start, stop in pairwise(ptr):
        rows = x.index_select(0, source[start:stop])
        if weight is not None:
            rows = rows * weight[start:stop, None].to(x.dtype)
        said = x.new_zeros(edges.num_targets, x.shape[1])
        said = add_rows(said, target[start:stop], rows, distinct=False)
        heard = torch.zeros_like(anyone)
        heard[target[start:stop]] = True
        anyone = anyone | heard
        said = torch.where(heard, said, -torch.inf)
        louder = None if loudest is None else (said > loudest) | said.isnan()
        loudest = said if loudest is None else torch.where(louder, said, loudest)  # type: ignore[arg-type]
    if loudest is None:
        return x.new_zeros(edges.num_targets, x.shape[1])
    return torch.where(anyone, loudest, 0)


def by_image(x: Tensor, batch: Tensor, num_images: int) -> Tensor:
    """Return (B, C) int64: the loudest node of each image, -1 for an image without nodes."""
    values = x.detach()
    if values.dtype == torch.bool:
        values = values.byte()
    where = batch.unsqueeze(1).expand_as(values)
    lowest = -torch.inf if values.is_floating_point() else torch.iinfo(values.dtype).min
    loudest = values.new_full((num_images, x.shape[1]), lowest)
    loudest = loudest.scatter_reduce(0, where, values, "amax")
    node = torch.arange(x.shape[0], device=x.device).unsqueeze(1).expand_as(values)
    says_it = values.isnan() | (values == loudest[batch])
    first = torch.full_like(loudest, x.shape[0], dtype=torch.int64)
    first = first.scatter_reduce(0, where, torch.where(says_it, node, x.shape[0]), "amin")
    return torch.where(first == x.shape[0], -1, first)


def values_at(
    x: Tensor,  # (N, C)
    chosen: Tensor,  # (P, C) rows of x, -1 for none
) -> Tensor:
    """Return (P, C): x at the chosen rows, 0 where there is none."""
    return _values(x, chosen, x.shape[0])


class _Values(torch.autograd.Function):
    """y[p, c] = x[chosen[p, c], c], 0 where chosen is -1."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, chosen: Tensor, rows: int) -> Tensor:
        if rows == 0:
            return x.new_zeros(chosen.shape)
        return torch.where(chosen >= 0, x.gather(0, chosen.clamp(min=0)), x.new_zeros(()))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, chosen, *ctx.plain = inputs
        ctx.save_for_backward(chosen)
        ctx.save_for_forward(chosen)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (chosen,) = ctx.saved_tensors
        return _place_back(grads[0], chosen, *ctx.plain), None, None


class _Place(torch.autograd.Function):
    """x[q, c] = sum of g[p, c] over the targets p that chose q; its derivative is `_Values`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(g: Tensor, chosen: Tensor, rows: int) -> Tensor:
        # One spare row takes what nobody chose; sums of half types run in float32.
        wide = g if g.dtype == torch.float64 else g.float()
        total = wide.new_zeros(rows + 1, g.shape[1])
        where = torch.where(chosen >= 0, chosen, rows)
        if g.device.type == "cuda":  # sorted first, where scatter_add would race
            column = torch.arange(g.shape[1], device=g.device).expand_as(where)
            total = total.index_put((where, column), wide, accumulate=True)
        else:
            total = total.scatter_add(0, where, wide)
        return total[:rows].to(g.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, chosen, *ctx.plain = inputs
        ctx.save_for_backward(chosen)
        ctx.save_for_forward(chosen)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (chosen,) = ctx.saved_tensors
        return _values_back(grads[0], chosen, *ctx.plain), None, None


_values, _values_back = operators(_Values, linear)
_, _place_back = operators(_Place, linear)
