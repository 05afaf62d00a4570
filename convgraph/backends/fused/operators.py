"""`convgraph::send` and `convgraph::correlate`: how compilers, transforms and devices know them.

    send(x, T, b)      y[p]  = b + sum over slots s of  x[q(s, p)] @ T[kind[s]],  there or back
    correlate(x, g)    T[t]  = sum over sites of  x[q(t, p)]^T g[p]

Two kernels serve them, and each reads who speaks to whom, q(s, p), in a form of its own, three
tensors a direction: on CUDA those of `triton_tables.NeighbourTable`, on the CPU those of
`cpp_tables.RankGrid`. Which form it is they do not say; all that is read of it here is how many
sites and slots it has.

On CUDA, and where Triton interprets, the kernels are `triton_launch`'s; on the CPU those of
`cpp_kernels.cpp`, which `cpp_build` compiles and loads.
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
SCHEMAS = {
    "send": f"(Tensor x, Tensor taps, Tensor? bias, {_LISTS}, int backwards) -> Tensor",
    "correlate": f"(Tensor x, Tensor g, {_LISTS}, int groups) -> Tensor",
}
"""Operator -> what it takes and gives, in torch's words."""

NAMES = tuple(SCHEMAS)

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


torch.library.register_fake("convgraph::send", _send_like)
torch.library.register_fake("convgraph::correlate", _correlate_like)

_send: Any = torch.ops.convgraph.send.default
_correlate: Any = torch.ops.convgraph.correlate.default
torch.library.register_vmap("convgraph::send", _one_by_one(_send))
torch.library.register_vmap("convgraph::correlate", _one_by_one(_correlate))


def _spoken(who: Tensor, sites: Tensor, slots: Tensor) -> int:
    """How many messages a direction has; without values, as many as it has places for."""
    places = int(sites.shape[-1]) * int(slots.shape[-1])
    if who.is_meta or isinstance(who, FakeTensor):
        return places
    if sites.dim() == 1:  # a table: Triton's
        return int((who >= 0).sum())
    return sum(int((who[sites[0] + offset] >= 0).sum()) for offset in slots[0])


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


for _counted, _count in (("send", _send_flops), ("correlate", _correlate_flops)):
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
