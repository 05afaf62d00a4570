"""What a rank does in tests of one image over processes: it compares with the whole."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import convgraph as cg
from convgraph.comparison import parts
from convgraph.proof.again import verify
from convgraph.proof.parts import PartsCertificate
from convgraph.scale import partial, sharded
from convgraph.scale.plan import plan
from convgraph.scale.sharded import equal_nodes
from convgraph.scale.traffic import traffic
from tests.ranks import join
from tests.scale import faces, hearing, masked, moving
from tests.scale import published as networks_of
from tests.scale.nets import Masked, Volume, blocks, counted, networks, whole

NETWORKS = (
    "3x3", "strides 2 and 3", "1x1 stride 2", "dilated", "even", "padding beyond reach", "reflect",
    "circular", "transposed", "silent sites", "ceil", "average, own count", "bilinear by 2",
    "groups", "skips", "channels last", "in place", "volume",
)  # fmt: skip


def compare(rank: int, world: int, folder: str, shape: tuple[int, ...]) -> None:
    """Run every network on a mesh of this shape, write what differs, rank by rank."""
    join(rank, world, folder)
    mesh = dist.device_mesh.init_device_mesh("cpu", shape) if len(shape) > 1 else None
    wrong = []
    for name in NETWORKS if len(shape) == 1 else ("strides 2 and 3", "skips", "circular"):
        net, x = whole(*networks()[name])
        full = x.clone().requires_grad_()
        y = net(full)
        head = torch.randint(-2, 3, y.shape, generator=torch.Generator().manual_seed(1)).double()
        head = head * counted(net)
        (y * head).sum().backward()
        want = [p.grad for p in net.parameters()]
        net.zero_grad(set_to_none=True)
        shares = [0.7, 0.3] if name == "dilated" and world == 2 else None
        part = cg.sharded(net, mesh, shares=shares)
        mine = part.take(x).clone().requires_grad_()
        out = part(mine)
        (out * part.take(head)).sum().backward()
        same = [torch.equal(out, part.take(y)), torch.equal(mine.grad, part.take(full.grad))]
        same += [torch.equal(p.grad, g) for p, g in zip(net.parameters(), want, strict=True)]
        if not all(same):
            wrong.append([name, same])
    Path(folder, f"compare{rank}").write_text(json.dumps(wrong))
    dist.destroy_process_group()


def weigh(rank: int, world: int, folder: str, shape: tuple[int, ...]) -> None:
    """Count the bytes that this rank sends to others, beside those of the model."""
    join(rank, world, folder)
    mesh = dist.device_mesh.init_device_mesh("cpu", shape)
    send, found = dist.all_to_all_single, {}
    count = [0, 0]

    def counted_send(into: Any, rows: Any, get: Any, sent: Any, group: Any) -> Any:
        me = dist.get_rank(group)
        entry = rows[:1].numel() * rows.element_size() if len(rows) else 0
        count[0] += (sum(sent) - sent[me]) * entry
        count[1] += 1
        return send(into, rows, get, sent, group=group)

    dist.all_to_all_single = counted_send
    for name in ("strides 2 and 3", "skips", "circular", "dilated"):
        net, x = whole(*networks()[name])
        count[:] = [0, 0]
        with torch.no_grad():
            part = cg.sharded(net, mesh)
            part(part.take(x))
        model = traffic(plan(net, tuple(x.shape), x.dtype), shape)
        found[name] = [*count, model.sent, model.messages]
    Path(folder, f"weigh{rank}").write_text(json.dumps(found))
    dist.destroy_process_group()


def published(rank: int, world: int, folder: str) -> None:
    """Run published networks over all ranks, write which ran and what differs.

    CI asks each network on one number of ranks, in turn; otherwise each on every number.
    """
    join(rank, world, folder)
    names, wrong = [], []
    light = networks_of.LIGHT
    for name in light[world - 1 :: 4] if os.environ.get("CI") else light:
        try:
            net, x, y, head, want = networks_of.whole(name)
        except pytest.skip.Exception:  # its library is not installed
            continue
        part = cg.sharded(net)
        mine = part.take(x.detach()).clone().requires_grad_()
        out = part(mine)
        got = networks_of.gradients(net, (out * part.take(head)).sum(), mine)
        # a rank's gradients are sums of all ranks' residues: congruent to the whole's
        same = [torch.equal(out.detach(), part.take(y)), torch.equal(got[-1], part.take(want[-1]))]
        same.append(networks_of.equal(got[:-1], want[:-1]))
        names.append(name)
        if not all(same):
            wrong.append([name, same])
    Path(folder, f"published{rank}").write_text(json.dumps([names, wrong]))
    dist.destroy_process_group()


def prove(rank: int, world: int, folder: str, shape: tuple[int, ...]) -> None:
    """Prove parts, and plant faults of every kind: each rank writes the verdicts."""
    join(rank, world, folder)
    mesh = dist.device_mesh.init_device_mesh("cpu", shape)
    found: dict[str, object] = {}
    for name in ("strides 2 and 3", "skips", "circular", "average, own count", "transposed"):
        net, x = whole(*networks()[name])
        cert = cg.prove(cg.sharded(net, mesh), net, x)
        assert str(PartsCertificate.from_json(cert.to_json())) == str(cert)
        again = verify(cert.to_json())[1][0]  # its plan, from the text
        found[name] = [
            cert.verdict if again == "plan: proven again" else again,
            cert.operators,
            str(cert),
        ]
    net, x = whole(*networks()["skips"])
    other = copy.deepcopy(net)
    if rank == world - 1:
        other.mid.weight.data[0, 0, 0, 0] += 1
    strided = copy.deepcopy(net)
    strided.one.dilation, strided.one.padding = (2, 2), (2, 2)
    planted = {
        "a weight of one rank": (other, None, None),
        "another dilation": (strided, None, None),
        "rows off by one": (
            net, "sends",
            lambda cut, wants, r: [p + (len(p) > 0) for p in kept["sends"](cut, wants, r)],
        ),
        "a share of the gradient": (net, "_Exchange", Halved),
        "gradients of one rank": (net, "shared", lambda groups, parameters: parameters),
    }  # fmt: skip
    for name, (candidate, what, instead) in planted.items():
        if what is not None:
            kept[what] = getattr(sharded, what)
            setattr(sharded, what, instead)
            if what == "shared":
                parts.shared = instead
        cert = cg.prove(cg.sharded(candidate, mesh), net, x)
        found[name] = [cert.verdict, cert.operators, str(cert)]
        if what is not None:
            setattr(sharded, what, kept[what])
            parts.shared = sharded.shared
    net, x = normed()
    cert = cg.prove(cg.sharded(net, mesh), net, x)
    found["norm in training"] = [cert.verdict, cert.operators, str(cert)]
    Path(folder, f"prove{rank}").write_text(json.dumps(found))
    dist.destroy_process_group()


kept: dict[str, Any] = {}


class Halved(sharded._Exchange):
    """Sends home the gradients of its own rank only."""

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        dim, index, sent, get, shape, group = ctx.exchange
        rank = dist.get_rank(group)
        there = grad.movedim(dim, 0).contiguous()
        first = sum(get[:rank])
        mine = index[sum(sent[:rank]) : sum(sent[: rank + 1])]
        home = there.new_zeros(shape).index_add_(0, mine, there[first : first + get[rank]])
        return home.movedim(0, dim), None, None, None, None


def normed() -> tuple[nn.Module, torch.Tensor]:
    """A batch norm in training on whole numbers whose mean and variance are whole."""
    net = nn.BatchNorm2d(2, eps=1e-30, momentum=1.0).double().train()
    x = torch.tensor([1.0, -1.0]).double().repeat(2 * 2 * 6 * 2).view(2, 2, 6, 4)
    return net, torch.stack([x[:, 0] * 4 + 3, x[:, 1] * 2 - 1], 1)


def elsewhere(rank: int, world: int, folder: str) -> None:
    """Spaces, masks and what hears the whole map: write what differs from the whole."""
    join(rank, world, folder)
    wrong: list[object] = []

    def same(name: str, net: Any, x: torch.Tensor, want: Any, part: Any, **more: Any) -> None:
        mine = part.take(x).clone().requires_grad_()
        y, head, *grads = want
        out = part(mine, **more)
        own = part.take if out.dim() > 2 else lambda one: one
        share = 1.0 if out.dim() > 2 else float(rank == 0)  # a readout: one rank has the loss
        (out * own(head) * share).sum().backward()
        good = [torch.equal(out, own(y)), torch.equal(mine.grad, part.take(grads[0]))]
        good += [torch.equal(p.grad, g) for p, g in zip(net.parameters(), grads[1:], strict=True)]
        if not all(good):
            wrong.append([name, good])

    for space, size in ((cg.HEALPix(), (48, 4)), (cg.Torus(), (8, 12)), faces.HEXAGONS):
        net, x, head = faces.given(space, size)
        y, grads = faces.truth(net, x, space, head)
        same(str(space), net, x, (y, head, *grads), cg.sharded(net, on=space))
    for space, size in ((cg.HEALPix(), (48, 4)), (cg.Equirectangular(), (8, 16))):
        net, x, head = faces.given(space, size, faces.Short)  # the second: fractions of a pixel
        part = cg.sharded(net, on=space)
        cert = cg.prove(part, net, x)
        if cert.verdict != "proven" or cert.operators < 2:
            wrong.append(str(cert))
    taken = partial.take  # the last rank's taps are off by the smallest share that there is
    off = 1 + 2.0**-16 * (rank == world - 1)
    partial.take = lambda *given: taken(*given) * off
    cert = cg.prove(part, net, x)
    partial.take = taken
    if cert.verdict != "refuted" or "'down' (conv2d)" not in str(cert):
        wrong.append(f"a share of a tap: {cert}")
    for name, (net, x) in {
        "gates": whole(hearing.Gated(), (16, 16)),
        "readout": hearing.classifier(),
        "norm": hearing.signed(nn.GroupNorm(2, 4)),
        "attention": hearing.attending(),
    }.items():
        image = x.clone().requires_grad_()
        y = net(image)
        draw = torch.Generator().manual_seed(3)
        head = torch.randint(-2, 3, y.shape, generator=draw).double()
        grads = faces.derived(y, head, image, net)
        same(name, net, x, (y.detach(), head, *grads), cg.sharded(net, statistics="passes"))
    for name, (net, x) in masked.cases().items():
        _, mask = masked.masks(tuple(x.shape[2:]))
        part = cg.sharded(net, statistics="passes")
        same(f"masked {name}", net, x, masked.truth(net, x, mask), part, mask=mask.numpy())
    for name, (net, size) in moving.networks().items():
        net, x = whole(net, size)
        unit = 12 if name == "own counts" else 4
        mask = torch.rand(size, generator=torch.Generator().manual_seed(4)) < 0.4
        want = masked.truth(net, x * unit, mask, unit)
        same(f"moving {name}", net, x * unit, want, cg.sharded(net), mask=mask.numpy())
    net, x = normed()
    mask = torch.zeros(6, 4, dtype=torch.bool)
    mask[1:5, :2] = True  # and a rank with no pixel, where there are four
    want = masked.truth(net, x, mask)
    graph = cg.to_graph(normed()[0])
    graph(cg.PixelGraph.from_image(x, mask=mask))
    same("masked norm in training", net, x, want, cg.sharded(net), mask=mask.numpy())
    learned = zip(net.buffers(), graph.buffers(), strict=True)
    if not all(torch.equal(a, b) for a, b in learned) or not net.running_mean.any():
        wrong.append("masked norm in training: buffers")
    for name, kind, size in (("masked", Masked, (24, 32)), ("masked volume", Volume, (8, 8, 8))):
        net, x = whole(kind(), size)
        coarse, mask = blocks(size, 0.5)
        image = x.clone().requires_grad_()
        graph = cg.to_graph(net)
        y = graph(cg.PixelGraph.from_image(image, mask=mask[None], d=len(size))).to_image()
        head = torch.randint(-2, 3, y.shape, generator=torch.Generator().manual_seed(3)).double()
        grads = faces.derived(y, head, image, graph)
        want = (y.detach(), head, *grads)
        same(name, net, x, want, cg.sharded(net), mask=coarse.numpy())
    Path(folder, f"elsewhere{rank}").write_text(json.dumps(wrong))
    dist.destroy_process_group()


def refuse(rank: int, world: int, folder: str) -> None:
    """What a norm in training gives, and what is refused."""
    join(rank, world, folder)
    found: dict[str, object] = {}
    net, x = normed()
    y = net(x)
    running = [b.clone() for b in net.buffers()]
    net, _ = normed()
    part = cg.sharded(net)
    found["norm"] = torch.equal(part(part.take(x)), part.take(y))
    found["buffers"] = all(torch.equal(a, b) for a, b in zip(net.buffers(), running, strict=True))
    for name, call in {
        "part": lambda: part(x[:, :, : 2 + rank]),
        "dtype": lambda: part(part.take(x).to([torch.float64, torch.float32][rank])),
        "width": lambda: part(part.take(x)[..., rank:]),
        "zeros": lambda: cg.sharded(net, shares=[0.0] * world),
        "group_norm": lambda: cg.sharded(nn.GroupNorm(1, 2).double())(part.take(x)),
        "shares": lambda: cg.sharded(net, shares=[1.0]),
        "mesh": lambda: cg.sharded(net, 5),
    }.items():
        try:
            call()
            found[name] = "nothing"
        except Exception as error:  # noqa: BLE001 (its text is the result)
            found[name] = f"{type(error).__name__}: {error}"
    found["nodes"] = equal_nodes(torch.ones(8, 3).bool(), 4)
    Path(folder, f"refuse{rank}").write_text(json.dumps(found))
    dist.destroy_process_group()


def spawned(rank: int, what: str, world: int, folder: str, *more: object) -> None:
    """Call one of these in a process of its own."""
    os.environ["OMP_NUM_THREADS"] = "1"
    globals()[what](rank, world, folder, *more)


def one_after_the_other(
    rank: int, world: int, folder: str, calls: dict[str, tuple[Any, ...]]
) -> None:
    """Call several of these, each in a folder of its own: a process imports torch once."""
    for what, more in calls.items():
        place = Path(folder, what)
        place.mkdir(exist_ok=True)
        globals()[what](rank, world, str(place), *more)
