"""What torchrun's launcher starts: images over two ranks of data, each over two of space, one step.

Every rank compares its step with that of the whole batch in one process, bit for bit on numbers
that are whole, and writes what differs.
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import convgraph as cg
from convgraph.errors import DeviceError


def made() -> tuple[nn.Module, Tensor, Tensor]:
    """A batch norm in training whose statistics are whole, a strided convolution, a step up."""
    draw = torch.Generator().manual_seed(0)
    body = [nn.Conv2d(2, 3, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(3, 2, 4, 2, 1)]
    net = nn.Sequential(nn.BatchNorm2d(2, eps=1e-30, momentum=1.0), *body).double().train()
    for p in net.parameters():
        p.data = torch.randint(-2, 3, p.shape, generator=draw).double()
    net[0].weight.data.fill_(2)
    signs = torch.tensor([1.0, -1.0]).double().repeat(4 * 2 * 8 * 4).view(4, 2, 8, 8)
    x = torch.stack([signs[:, 0] * 4 + 3, signs[:, 1] * 2 - 1], 1)
    y = net(x)
    head = torch.randint(-2, 3, y.shape, generator=draw).double()
    net[0].reset_running_stats()
    return net, x, head


def step(net: nn.Module, x: Tensor, head: Tensor) -> Tensor:
    """One step; the loss is a sum over images, of which data parallelism takes the mean."""
    optimizer = torch.optim.SGD(net.parameters(), lr=2.0**-6)
    y = net(x)
    (y * head).sum().backward()
    optimizer.step()
    return y


def whole(one: Any) -> Tensor:
    """Return a parameter as a tensor: FSDP keeps a part of it on each rank."""
    return one.full_tensor() if hasattr(one, "full_tensor") else one


def compare(folder: str) -> None:
    """What one rank does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "space"))
    net, x, head = made()
    mine = slice(2 * mesh.get_local_rank("data"), 2 * mesh.get_local_rank("data") + 2)
    truth = copy.deepcopy(net)
    want = step(truth, x, head / 2)  # the mean over two ranks of data
    wrong = []
    for way in ("ddp", "fsdp"):
        part = cg.sharded(copy.deepcopy(net), mesh["space"], batch=mesh["data"])
        take = part.take
        wrapped: Any = (
            DistributedDataParallel(part, process_group=mesh.get_group("data"))
            if way == "ddp"
            else fully_shard(part, mesh=mesh["data"])
        )
        got = step(wrapped, take(x[mine]), take(head[mine]))
        if not torch.equal(got, take(want[mine])):
            wrong.append([way, "values"])
        for (name, a), b in zip(truth.named_parameters(), part.net.parameters(), strict=True):
            if not torch.equal(a, whole(b)) or torch.equal(a, net.get_parameter(name)):
                wrong.append([way, name])
        for name in ("running_mean", "running_var"):
            if not torch.equal(getattr(truth[0], name), getattr(part.net[0], name)):
                wrong.append([way, name])
    other = x[mine] * (1 + mesh.get_local_rank("data"))  # images that are unlike each other
    heard, alone = (
        cg.sharded(copy.deepcopy(net), mesh["space"], batch=batch) for batch in (mesh["data"], None)
    )
    same = torch.equal(heard(heard.take(other)), alone(alone.take(other)))
    within = cg.sharded(copy.deepcopy(net), mesh["space"])
    fully_shard(within.net[1], mesh=mesh["data"])
    try:
        within(within.take(x[mine]))
        said = "nothing"
    except DeviceError as error:
        said = str(error)
    rank = dist.get_rank()
    Path(folder, f"trained{rank}").write_text(json.dumps([wrong, same, said]))
    dist.destroy_process_group()
