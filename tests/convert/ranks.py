"""What a rank does in tests of networks on masks over processes: it compares with one process."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import convgraph as cg
from tests.ranks import join

SHARES = ((0, 1), (1, 4))
"""First and last image of each rank's batch: they differ in number."""


def network(norm: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), norm(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1, groups=2), norm(4, momentum=None), nn.Conv2d(4, 2, 1),
    ).double()  # fmt: skip


def grouped(channels: int, **_: Any) -> nn.Module:
    return nn.GroupNorm(2, channels)


def layers(kind: Any) -> Any:
    """The same of graph layers."""
    norm: Any = cg.nn.GraphBatchNorm2d
    torch.manual_seed(0)
    made = [cg.nn.GraphConv2d(3, 4, 3, padding=1), norm(4), cg.nn.GraphMaxPool2d(2), norm(4)]
    return kind(*made).double()


class Own(nn.Module):
    """Graph layers in a module of one's own."""

    def __init__(self, *layers: Any) -> None:
        super().__init__()
        self.parts = nn.ModuleList(layers)

    def forward(self, graph: Any) -> Any:
        for part in self.parts:
            graph = part(graph)
        return graph


def batch(empty: bool, full: bool = False) -> tuple[Tensor, Tensor]:
    """Images and their mask; all of the first rank's pixels may be absent, or none."""
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(4, 3, 8, 10, dtype=torch.float64, generator=generator)
    mask = torch.rand(4, 8, 10, generator=generator) > 0.4
    mask[0] = full or (mask[0] & (not empty))
    return image, mask


def graph(images: slice, empty: bool, full: bool) -> Any:
    image, mask = batch(empty, full)
    return cg.PixelGraph.from_image(image[images], mask=mask[images])


def loss(out: Any, images: slice) -> Tensor:
    """A sum over nodes, so that a batch's is the sum of its parts'."""
    head = torch.arange(out.num_channels, dtype=torch.float64) + 1
    number = torch.arange(images.start, images.stop, dtype=torch.float64)[out.sites.batch]
    return ((out.x * head).sin() * (number + 1).unsqueeze(1)).sum()


def near(mine: Tensor, true: Tensor) -> bool:
    """Equal up to the order of sums: 2^12 terms of what is at most this large."""
    scale = float(true.detach().abs().max()) + 1 if true.numel() else 1.0
    off = (mine - true).detach().abs()
    return not off.numel() or float(off.max()) <= 2**12 * torch.finfo(torch.float64).eps * scale


def called(net: Any, given: Any) -> Any:
    out = net(given)
    return out if isinstance(out, cg.PixelGraph) else out.graph


def grads(net: Any) -> list[Tensor]:
    found = [one.grad for one in net.parameters()]
    return [one.full_tensor() if hasattr(one, "full_tensor") else one for one in found]


def whole(net: Any, empty: bool, full: bool) -> tuple[Any, list[Tensor], list[Tensor]]:
    """Output, gradients and buffers of one process."""
    images = slice(0, 4)
    out = called(net, graph(images, empty, full))
    loss(out, images).backward()
    return out, grads(net), list(net.buffers())


def compared(rank: int, net: Any, part: Any, how: Any, mean: bool) -> list[str]:
    """What of a rank's part differs from the whole; `mean` where its gradients are averaged."""
    images, wrong = slice(*SHARES[rank]), []
    empty, full, tensors = how
    out, want, buffers = whole(net, empty, full)
    given = graph(images, empty, full)
    mine = called(part, given.tensor() if tensors else given)
    (loss(mine, images) * (2 if mean else 1)).backward()
    own = (out.sites.batch >= images.start) & (out.sites.batch < images.stop)
    if not near(mine.x, out.x[own]):
        wrong.append("values")
    for got, true in zip(grads(part), want, strict=True):
        if not mean:
            dist.all_reduce(got)
        if not near(got, true):
            wrong.append("gradients")
    inner = part.module if isinstance(part, DistributedDataParallel) else part
    for got, true in zip(inner.buffers(), buffers, strict=True):
        if not near(got.double(), true.double()):
            wrong.append("buffers")
    return wrong


def synced(net: Any) -> Any:
    return nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))


def compare(rank: int, world: int, folder: str) -> None:
    """Run every way on two ranks and write what differs from one process."""
    join(rank, world, folder)
    wrong: dict[str, list[str]] = {}
    holes, empty, full = (False, False, False), (True, False, False), (False, True, False)
    tensors = (False, False, True)
    for name, how in (("holes", holes), ("empty", empty), ("full", full)):
        net = cg.to_graph(network(nn.BatchNorm2d))
        wrong[f"synced, {name}"] = compared(rank, net, synced(net), how, False)
        for kind in (Own, cg.nn.Sequential):
            net = layers(kind)
            wrong[f"{kind.__name__}, {name}"] = compared(rank, net, synced(net), how, False)
    net = cg.to_graph(network(nn.BatchNorm2d))
    dense = nn.SyncBatchNorm.convert_sync_batchnorm(network(nn.BatchNorm2d))
    wrong["synced, tensors"] = compared(rank, net, dense, tensors, False)
    net = cg.to_graph(network(grouped))
    part = DistributedDataParallel(copy.deepcopy(net))  # which refuses SyncBatchNorm on CPUs itself
    wrong["ddp"] = compared(rank, net, part, holes, True)
    net.zero_grad()
    part = DistributedDataParallel(network(grouped), find_unused_parameters=True)
    wrong["ddp, tensors"] = compared(rank, net, part, tensors, True)
    for name, how in (("holes", holes), ("tensors", tensors)):
        net.zero_grad()
        part = copy.deepcopy(net) if name == "holes" else network(grouped)
        for layer in part:
            if list(layer.parameters()):
                fully_shard(layer)
        wrong[f"fsdp, {name}"] = compared(rank, net, fully_shard(part), how, True)
    own = layers(Own)
    part = synced(own)
    fully_shard(part.parts[0])
    wrong["fsdp, layers"] = compared(rank, own, fully_shard(part), holes, True)
    Path(folder, f"found{rank}").write_text(json.dumps({k: v for k, v in wrong.items() if v}))
    dist.destroy_process_group()
