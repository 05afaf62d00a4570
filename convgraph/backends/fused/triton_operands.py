"""Operands that Triton's kernels may read: whoever calls the operators, nothing is read beyond.

A foreign program brings its own lists. Shapes, dtypes and devices of numbers are looked at in every
call; the lists once, for their entries are on the device, and again when somebody wrote to them.
"""

from typing import Any

import torch
from torch import Tensor

from convgraph.errors import DeviceError, DtypeError, EdgeError, ShapeError


def check_send(
    x: Tensor, taps: Tensor, bias: Tensor | None, table: Tensor, order: Tensor, kind: Tensor
) -> None:
    """Refuse operands of `send` that do not fit each other.

    Args:
        x: (N, G * C_in).
        taps: (K, G, C_in, C_out).
        bias: (G * C_out,) or None.
        table: (S, P) int32 rows of x, -1 for none.
        order: (P,) int32, every site once.
        kind: (S,) int32 in [0, K).

    Raises:
        ShapeError, DtypeError, DeviceError, EdgeError: the text names the operand.
    """
    who = "convgraph::send"
    for name, one in (("taps", taps), ("bias", bias)):
        if one is not None:
            _like(who, name, one, x)
    if x.dim() != 2 or taps.dim() != 4 or x.shape[1] != taps.shape[1] * taps.shape[2]:
        raise ShapeError(
            f"{who}: expected x (N, G * C_in) and taps (K, G, C_in, C_out), got "
            f"{tuple(x.shape)} and {tuple(taps.shape)}"
        )
    if bias is not None and bias.shape != (taps.shape[1] * taps.shape[3],):
        raise ShapeError(
            f"{who}: expected a bias of {taps.shape[1] * taps.shape[3]} entries, "
            f"got {tuple(bias.shape)}"
        )
    _read(who, x, table, order, kind, taps.shape[0])


def check_correlate(
    x: Tensor, g: Tensor, table: Tensor, order: Tensor, kind: Tensor, groups: int
) -> None:
    """Refuse operands of `correlate` that do not fit each other.

    Args:
        x: (N, G * C_in).
        g: (P, G * C_out).
        table: (K, P) int32 rows of x, -1 for none.
        order: (P,) int32, every site once.
        kind: (K,) int32.
        groups: G.

    Raises:
        ShapeError, DtypeError, DeviceError, EdgeError: the text names the operand.
    """
    who = "convgraph::correlate"
    _like(who, "g", g, x)
    if table.dim() != 2:
        raise ShapeError(f"{who}: expected table of shape (K, P), got {tuple(table.shape)}")
    fits = x.dim() == g.dim() == 2 and g.shape[0] == table.shape[1]
    if not fits or groups < 1 or x.shape[1] % groups or g.shape[1] % groups:
        raise ShapeError(
            f"{who}: expected x (N, G * C_in) and g ({table.shape[1]}, G * C_out) for {groups} "
            f"groups, got {tuple(x.shape)} and {tuple(g.shape)}"
        )
    _read(who, x, table, order, kind, table.shape[0])


def _like(who: str, name: str, one: Tensor, x: Tensor) -> None:
    if one.device != x.device:
        raise DeviceError(f"{who}: x on {x.device} but {name} on {one.device}; move one of them")
    if one.dtype != x.dtype:
        raise DtypeError(
            f"{who}: x has dtype {x.dtype} but {name} {one.dtype}; convert one of them"
        )


def _read(who: str, x: Tensor, table: Tensor, order: Tensor, kind: Tensor, taps: int) -> None:
    """Look at the lists and at every entry, once a topology: the device answers once."""
    held: Any = getattr(table, "_convgraph_read", None)
    # What inference mode made does not tell that it was written to.
    made = table.is_inference() or order.is_inference() or kind.is_inference()
    versions = None if made else (table._version, order._version, kind._version)
    now = (x.shape[0], taps, versions)
    if held is not None and held[0] is order and held[1] is kind and held[2] == now and not made:
        return
    lists = (
        ("table", table, 2, -1, x.shape[0]),
        ("order", order, 1, 0, len(order)),
        ("kind", kind, 1, 0, taps),
    )
    for name, one, axes, _, _ in lists:
        if one.device != x.device:
            raise DeviceError(f"{who}: x on {x.device} but {name} on {one.device}; move one")
        if one.dtype != torch.int32:
            raise DtypeError(f"{who}: expected {name} of int32, got {one.dtype}; use {name}.int()")
        if one.dim() != axes or not one.is_contiguous():
            raise ShapeError(
                f"{who}: expected {name} contiguous with {axes} axes, got {tuple(one.shape)}"
            )
    if table.shape != (kind.shape[0], order.shape[0]):
        raise ShapeError(
            f"{who}: expected table of shape (S, P) = ({kind.shape[0]}, {order.shape[0]}), "
            f"got {tuple(table.shape)}"
        )
    if table.is_cuda and torch.cuda.is_current_stream_capturing():
        return  # what is captured has run before
    for name, one, _, low, high in lists:
        if one.numel() and not bool(((one >= low) & (one < high)).all()):
            raise EdgeError(f"{who}: expected every entry of {name} in [{low}, {high})")
    if len(order) and int(torch.bincount(order.long(), minlength=len(order)).max()) > 1:
        raise EdgeError(f"{who}: expected every site once in order")
    table._convgraph_read = (order, kind, now)  # type: ignore[attr-defined]
