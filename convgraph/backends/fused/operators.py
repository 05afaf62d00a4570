"""The fused operators `convgraph::*`: how compilers, transforms and devices know them.

    send(x, T, b)           y[p]  = b + sum over slots s of  x[q(s, p)] @ T[kind[s]],  there or back
    correlate(x, g)         T[t]  = sum over sites of  x[q(t, p)]^T g[p]
    send_bags(x, T, b)      y[p]  = b + sum over taps t of  read(t, p) @ T[t],  there or back
    correlate_bags(x, g)    T[t]  = sum over sites of  read(t, p)^T g[p]

where read(t, p) = sum over i of weight[i] x[rows[i]], i from ptr[p K + t] to the next: rows (E,),
ptr (P K + 1,) and weight (E,) are the three tensors of a direction of bags.

Two kernels serve the first two, and each reads who speaks to whom, q(s, p), in a form of its own,
three tensors a direction: on CUDA those of `triton_tables.NeighbourTable`, on the CPU those of
`cpp_tables.RankGrid`. Which form it is they do not say; all that is read of it here is how many
sites and slots it has.

On CUDA, and where Triton interprets, the kernels are `triton_launch`'s; on the CPU those of
`cpp_kernels.cpp`, which `cpp_build` compiles and loads. Bags are summed on the CPU alone.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils.flop_counter import register_flop_formula

from convgraph.backends.compiled import outermost
from convgraph.backends.fused import triton_launch
from convgraph.errors import DeviceError, DtypeError

_LISTS = ", ".join(
    f"Tensor {side}{name}" for side in ("", "back_") for name in ("who", "sites", "slots")
)
_BAGS = ", ".join(
    f"Tensor {side}{name}" for side in ("", "back_") for name in ("rows", "ptr", "weight")
)
SCHEMAS = {
    f"{name}{suffix}": schema
    for suffix, lists in (("", _LISTS), ("_bags", _BAGS))
    for name, schema in (
        ("send", f"(Tensor x, Tensor taps, Tensor? bias, {lists}, int backwards) -> Tensor"),
        ("correlate", f"(Tensor x, Tensor g, {lists}, int groups) -> Tensor"),
    )
}
"""Operator -> what it takes and gives, in torch's words."""

NAMES = tuple(SCHEMAS)

ABSENT = -(2**63)
"""Offset, among the slots of a rank grid, of a tap that no site has."""

for _name, _schema in SCHEMAS.items():
    torch.library.define(f"convgraph::{_name}", _schema, tags=(torch.Tag.pt2_compliant_tag,))

_DEVICES = ("cuda", "cpu") if triton_launch.interpreted() else ("cuda",)
torch.library.impl("convgraph::send", _DEVICES, triton_launch.send)
torch.library.impl("convgraph::correlate", _DEVICES, triton_launch.correlate)


def _one_device(name: str, bias: Tensor | None, *others: Tensor) -> None:
    """Refuse what torch sends here because one operand is on `meta` and another is not, or None."""
    if any(other is None for other in others):
        raise DtypeError(f"convgraph::{name}: expected every operand but the bias as a tensor")
    x = others[0]
    for other in others if bias is None else (bias, *others):
        if other.device != x.device:
            raise DeviceError(
                f"convgraph::{name}: x on {x.device} but another operand on {other.device}; "
                "move them to one device"
            )


def _send_like(
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
    _one_device("send", bias, x, taps, who, sites, slots, back_who, back_sites, back_slots)
    rows = (back_sites if backwards else sites).shape[-1]
    return x.new_empty(rows, taps.shape[1] * taps.shape[3])


def _correlate_like(
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
    _one_device("correlate", None, x, g, who, sites, slots, back_who, back_sites, back_slots)
    return x.new_empty(slots.shape[-1], groups, x.shape[1] // groups, g.shape[1] // groups)


def _send_bags_like(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    rows: Tensor,
    ptr: Tensor,
    weight: Tensor,
    back_rows: Tensor,
    back_ptr: Tensor,
    back_weight: Tensor,
    backwards: int,
) -> Tensor:
    lists = (rows, ptr, weight, back_rows, back_ptr, back_weight)
    _one_device("send_bags", bias, x, taps, *lists)
    sites = ((back_ptr if backwards else ptr).shape[0] - 1) // taps.shape[0]
    return x.new_empty(sites, taps.shape[1] * taps.shape[3])


def _correlate_bags_like(
    x: Tensor,
    g: Tensor,
    rows: Tensor,
    ptr: Tensor,
    weight: Tensor,
    back_rows: Tensor,
    back_ptr: Tensor,
    back_weight: Tensor,
    groups: int,
) -> Tensor:
    lists = (rows, ptr, weight, back_rows, back_ptr, back_weight)
    _one_device("correlate_bags", None, x, g, *lists)
    taps = (ptr.shape[0] - 1) // g.shape[0]
    return x.new_empty(taps, groups, x.shape[1] // groups, g.shape[1] // groups)


def _one_by_one(op: Any) -> Callable[..., tuple[Tensor, int]]:
    """The rule of vmap for an operator: call it for each sample, whichever factors have several."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        found = []
        for n in range(info.batch_size):
            one = [
                arg if dim is None else arg.select(dim, n)
                for arg, dim in zip(args, in_dims, strict=True)
            ]
            found.append(op(*one))
        return torch.stack(found), 0

    return rule


_FAKES: tuple[Callable[..., Tensor], ...] = (
    _send_like,
    _correlate_like,
    _send_bags_like,
    _correlate_bags_like,
)
for _name, _fake in zip(NAMES, _FAKES, strict=True):
    torch.library.register_fake(f"convgraph::{_name}", _fake)
    torch.library.register_vmap(
        f"convgraph::{_name}", _one_by_one(getattr(torch.ops.convgraph, _name).default)
    )

_send: Any = torch.ops.convgraph.send.default
_correlate: Any = torch.ops.convgraph.correlate.default
send_bags: Any = torch.ops.convgraph.send_bags.default
correlate_bags: Any = torch.ops.convgraph.correlate_bags.default


def _spoken(who: Tensor, sites: Tensor, slots: Tensor) -> int:
    """How many messages a direction has; without values, as many as it has places for."""
    places = int(sites.shape[-1]) * int(slots.shape[-1])
    if who.is_meta or isinstance(who, FakeTensor):
        return places
    if sites.dim() == 1:  # a table: Triton's
        return int((who >= 0).sum())
    there = (offset for offset in slots[0].tolist() if offset != ABSENT)
    return sum(int((who[sites[0] + offset] >= 0).sum()) for offset in there)


def _send_flops(
    x: Tensor, taps: Tensor, bias: Any, who: Tensor, sites: Tensor, slots: Tensor,
    back_who: Tensor, back_sites: Tensor, back_slots: Tensor, backwards: int, **_: Any,
) -> int:  # fmt: skip
    """Two a multiply-add: each message is a row times one matrix a group."""
    there, back = (who, sites, slots), (back_who, back_sites, back_slots)
    each: int = taps.shape[1] * taps.shape[2] * taps.shape[3]
    return 2 * _spoken(*(back if backwards else there)) * each


def _correlate_flops(
    x: Tensor, g: Tensor, who: Tensor, sites: Tensor, slots: Tensor,
    back_who: Tensor, back_sites: Tensor, back_slots: Tensor, groups: int, **_: Any,
) -> int:  # fmt: skip
    """Two a multiply-add: each message adds one matrix a group."""
    each: int = x.shape[1] * (g.shape[1] // groups)
    return 2 * _spoken(who, sites, slots) * each


def _read(ptr: Tensor) -> int:
    """How many bags hold something; without values, how many there are."""
    if ptr.is_meta or isinstance(ptr, FakeTensor):
        return int(ptr.shape[0]) - 1
    return int((ptr.diff() > 0).sum())


def _send_bags_flops(
    x: Tensor, taps: Tensor, bias: Any, rows: Tensor, ptr: Tensor, weight: Tensor,
    back_rows: Tensor, back_ptr: Tensor, back_weight: Tensor, backwards: int, **_: Any,
) -> int:  # fmt: skip
    """Two a multiply-add: a row of the features an entry, and one matrix a group a bag."""
    each: int = taps.shape[1] * taps.shape[2] * taps.shape[3]
    entries = back_rows if backwards else rows
    blended: int = entries.shape[0] * x.shape[1]
    return 2 * (_read(back_ptr if backwards else ptr) * each + blended)


def _correlate_bags_flops(
    x: Tensor, g: Tensor, rows: Tensor, ptr: Tensor, weight: Tensor,
    back_rows: Tensor, back_ptr: Tensor, back_weight: Tensor, groups: int, **_: Any,
) -> int:  # fmt: skip
    """The same: what a bag holds is added up, then one matrix a group."""
    each: int = x.shape[1] * (g.shape[1] // groups)
    blended: int = rows.shape[0] * x.shape[1]
    return 2 * (_read(ptr) * each + blended)


_FLOPS: tuple[Callable[..., int], ...] = (
    _send_flops,
    _correlate_flops,
    _send_bags_flops,
    _correlate_bags_flops,
)
for _counted, _count in zip(NAMES, _FLOPS, strict=True):
    register_flop_formula(getattr(torch.ops.convgraph, _counted), get_raw=True)(_count)


def _shortest(operator: Any, kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The operator, or Triton's kernel where torch's dispatcher has nothing to add.

    To pass through the dispatcher and back into Python takes longer than to launch a kernel.
    """

    def call(x: Tensor, *args: Any) -> Tensor:
        bare = (
            type(x) is Tensor
            and x.device.type in _DEVICES
            and not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and not torch._C._len_torch_dispatch_stack()
            and outermost()
        )
        made: Tensor = kernel(x, *args) if bare else operator(x, *args)
        return made

    return call


send = _shortest(_send, triton_launch.send)
correlate = _shortest(_correlate, triton_launch.correlate)
