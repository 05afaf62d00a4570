"""Launching the kernels of `triton`: which blocks, by rule, and in which order of sums.

Few configurations, from channels and dtype alone; nothing is tuned or timed, so that every process
compiles the same kernels and a run repeats. `operators` registers the two functions.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from convgraph.backends import tf32
from convgraph.backends.fused import triton_operands

PART_ROWS = 1024
"""Fewest rows whose products one part of a weight gradient adds up."""

PART_ELEMENTS = 2**24
"""Most elements of all parts together: 64 MiB of float32 however large the weight."""

FUSED = {"enable_fp_fusion": True}
"""A product and its sum round once; said aloud, for Triton's default changes with its version."""


class Blocks(NamedTuple):
    """Sides of the blocks that one program computes."""

    rows: int
    inner: int
    outer: int
    warps: int


def blocks(c_in: int, c_out: int, itemsize: int) -> Blocks:
    """Return the blocks of a matrix product: the channels' next power of two, within bounds.

    A tensor core takes no side below 16; a block of 128 x 128 sums fills the registers of 8 warps;
    64 bytes of float32, or 128 of half types, are one line of a row.

    Example:
        >>> blocks(3, 64, 4)
        Blocks(rows=128, inner=16, outer=64, warps=4)
        >>> blocks(256, 256, 2)
        Blocks(rows=128, inner=64, outer=128, warps=8)
    """
    inner = min(max(16, _power(c_in)), 128 // itemsize)
    outer = min(max(16, _power(c_out)), 128)
    return Blocks(128, inner, outer, 8 if outer == 128 else 4)


def parts(num_rows: int, weights: int) -> tuple[int, int]:
    """Return how many parts a weight gradient is split into, and the rows of each.

    From the sizes alone, never from the device: sums group alike wherever they run.

    Example:
        >>> parts(5000, 9 * 64 * 64)
        (5, 1024)
    """
    most = max(1, min(PART_ELEMENTS // max(1, weights), 512))
    count = max(1, min(-(-num_rows // PART_ROWS), most))
    chunk = -(-num_rows // (count * 128)) * 128
    return -(-num_rows // chunk), chunk


def half_block(channels: int) -> int:
    """Return the side over channels of a block that is no matrix product's widest."""
    return min(max(16, _power(channels)), 64)


def _power(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << (n - 1).bit_length()


# What there is to run on


def interpreted() -> bool:
    """Whether Triton's interpreter stands in for a device, as its own environment variable says."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def lacks(device: torch.device) -> str:
    """Say what this machine lacks for the kernels to run on a device; "" if nothing."""
    if device.type != "cuda" and not (device.type == "cpu" and interpreted()):
        return f"the kernels run on CUDA, not on {device.type} (TRITON_INTERPRET=1 interprets them)"
    if not _has_triton():
        return "triton is not installed; pip install triton"
    if device.type == "cuda" and not interpreted() and torch.cuda.is_available():
        capability = _capability(device)
        if capability < (8, 0):
            return f"the kernels need compute capability 8.0 or newer, got {capability}"
    return ""


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


@cache
def _kernels() -> ModuleType:
    return import_module("convgraph.backends.fused.triton_kernels")


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


# What the operators do on CUDA


def send(
    x: Tensor,  # (N, G * C_in)
    taps: Tensor,  # (K, G, C_in, C_out)
    bias: Tensor | None,  # (G * C_out,)
    table: Tensor,  # (K, P), and so on: both sides of triton_tables.Neighbours
    order: Tensor,
    kind: Tensor,
    back_table: Tensor,  # (S, N)
    back_order: Tensor,
    back_kind: Tensor,
    backwards: int,
) -> Tensor:
    """y[order[m]] = bias + sum over slots s of x[table[s, m]] @ taps[kind[s]], there or back."""
    if backwards:
        table, order, kind = back_table, back_order, back_kind
    triton_operands.check_send(x, taps, bias, table, order, kind)
    x, taps = x.contiguous(), taps.contiguous()
    (slots, rows), (_, groups, c_in, c_out) = table.shape, taps.shape
    y = x.new_empty(rows, groups * c_out)
    if y.numel() == 0:
        return y
    bias = None if bias is None else bias.contiguous()
    args = (x, taps, x if bias is None else bias, table, order, kind, y, rows, slots)
    with _on(x.device):
        if c_in == c_out == 1:
            bn = half_block(groups)
            grid = (-(-rows // 64) * -(-groups // bn),)
            _kernels().send_depthwise[grid](
                *args, C=groups, HAS_BIAS=bias is not None, BM=64, BN=bn, num_warps=4, **FUSED
            )
            return y
        b = blocks(c_in, c_out, x.itemsize)
        grid2 = (-(-rows // b.rows) * -(-c_out // b.outer), groups)
        _kernels().send[grid2](
            *args,
            GROUPS=groups,
            CI=c_in,
            CO=c_out,
            HAS_BIAS=bias is not None,
            BM=b.rows,
            BN=b.outer,
            BK=b.inner,
            PRECISION=_precision(),
            WIDEN=interpreted(),
            num_warps=b.warps,
            **FUSED,
        )
    return y


def correlate(
    x: Tensor,  # (N, G * C_in)
    g: Tensor,  # (P, G * C_out)
    table: Tensor,  # (K, P)
    order: Tensor,  # (P,)
    kind: Tensor,
    back_table: Tensor,
    back_order: Tensor,
    back_kind: Tensor,
    groups: int,
) -> Tensor:
    """T[t] = sum over sites m of x[table[t, m]]^T g[order[m]], (K, G, C_in, C_out)."""
    triton_operands.check_correlate(x, g, table, order, kind, groups)
    x, g = x.contiguous(), g.contiguous()
    taps, rows = table.shape
    shape = (taps, groups, x.shape[1] // groups, g.shape[1] // groups)
    c_in, c_out = shape[2:]
    weights = taps * groups * c_in * c_out
    if rows == 0 or x.shape[0] == 0 or weights == 0:
        return x.new_zeros(shape)
    count, chunk = parts(rows, weights)
    found = torch.empty((count, *shape), dtype=torch.float32, device=x.device)
    args = (x, g, table, order, found, rows, chunk)
    with _on(x.device):
        if c_in == c_out == 1:
            bn = half_block(groups)
            grid = (taps * -(-groups // bn), 1, count)
            _kernels().correlate_depthwise[grid](
                *args, TAPS=taps, C=groups, BM=32, BN=bn, num_warps=4, **FUSED
            )
        else:
            b = blocks(c_in, c_out, x.itemsize)
            high = half_block(c_in)
            grid = (taps * -(-c_in // high) * -(-c_out // b.outer), groups, count)
            _kernels().correlate[grid](
                *args,
                TAPS=taps,
                GROUPS=groups,
                CI=c_in,
                CO=c_out,
                BI=high,
                BN=b.outer,
                BM=128 // x.itemsize,
                PRECISION=_precision(),
                WIDEN=interpreted(),
                num_warps=4,
                **FUSED,
            )
    return found.sum(0).to(x.dtype)


def _precision() -> str:
    """How float32 operands are multiplied; half types are exact either way."""
    return "tf32" if tf32.allowed() else "ieee"
