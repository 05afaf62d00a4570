"""Digits: a small network trained in its dense and in its graph form from one seed.

    3x3 stem, then twice [depthwise-separable, batch norm, ReLU, average pool], linear head

Both forms hold the same parameters under the same names and run, on a full grid, the same kernels
on the same memory layout. The derived bound on the difference of their losses is therefore 0: the
same operations on the same bits in the same order round alike. After training the graph form also
runs on `gather`, where sums run in another order; its logits are held against a running error bound

    e_out <= |W| e_in + n u (|W| |x| + |b|)          layer by layer, per entry

and each prediction against the margin that this bound leaves. Uses the public API only.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

import convgraph as cg
from convgraph.proof import dot_bound, prove_linear

SEED, BATCH, GOAL = 0, 64, 0.97


@dataclass(frozen=True)
class Row:
    """One line of the table of certificates."""

    name: str
    verdict: str
    edges: str = ""
    epsilon: str = ""
    rho: str = ""


@dataclass
class Learned:
    """What the training showed.

    Attributes:
        losses: one dense loss a step.
        loss_gap: largest difference of the two losses over all steps; its bound is 0.
        same_parameters: whether both forms end with the same parameters, bit for bit.
        accuracy: share of right answers on the test images.
        same_predictions: whether dense, graph and gather predict alike on every test image.
        logit_gap: largest difference of a logit, dense against gather.
        logit_bound: the running bound at that logit.
        within: whether every logit is within its bound.
        decided: test images whose prediction no rounding within the bounds can change.
        images: how many test images there are.
        rows: the certificates.
    """

    losses: list[float] = field(default_factory=list)
    loss_gap: float = 0.0
    same_parameters: bool = False
    accuracy: float = 0.0
    same_predictions: bool = False
    logit_gap: float = 0.0
    logit_bound: float = 0.0
    within: bool = False
    decided: int = 0
    images: int = 0
    rows: list[Row] = field(default_factory=list)

    def checks(self) -> dict[str, bool]:
        """Return what was claimed and whether it held."""
        judged = [row for row in self.rows if row.verdict != "same operator"]
        return {
            f"the two loss curves are the same, bit for bit, over {len(self.losses)} steps "
            f"(bound 0, difference {self.loss_gap:g})": self.loss_gap == 0,
            "the trained parameters are the same, bit for bit": self.same_parameters,
            f"test accuracy {self.accuracy:.1%} is at least {GOAL:.0%}": self.accuracy >= GOAL,
            f"the same prediction on every one of {self.images} test images, on three backends "
            f"({self.decided} proven by their margin)": self.same_predictions,
            f"logits of gather within the running bound (largest difference {self.logit_gap:.1e}, "
            f"bound {self.logit_bound:.1e})": self.within,
            f"{len(judged)} layers proven": all(row.verdict == "proven" for row in judged),
        }


def dense_network() -> torch.nn.Sequential:
    """Return the network in torch's own modules."""
    nn = torch.nn

    def separable(inside: int, outside: int) -> torch.nn.Sequential:
        parts: OrderedDict[str, torch.nn.Module] = OrderedDict(
            depthwise=nn.Conv2d(inside, inside, 3, padding=1, groups=inside),
            pointwise=nn.Conv2d(inside, outside, 1),
        )
        return nn.Sequential(parts)

    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(1, 32, 3, padding=1),
            stem_relu=nn.ReLU(),
            block1=separable(32, 64),
            norm1=nn.BatchNorm2d(64),
            relu1=nn.ReLU(),
            pool1=nn.AvgPool2d(2),
            block2=separable(64, 128),
            norm2=nn.BatchNorm2d(128),
            relu2=nn.ReLU(),
            pool2=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            head=nn.Linear(128, 10),
        )
    )


def graph_network() -> cg.nn.Sequential:
    """Return the same network on pixel graphs; the same names, hence the same state_dict."""
    nn = cg.nn
    return nn.Sequential(
        OrderedDict(
            stem=nn.GraphConv2d(1, 32, 3, padding=1),
            stem_relu=torch.nn.ReLU(),
            block1=nn.DepthwiseSeparableConv(32, 64, 3, padding=1),
            norm1=nn.GraphBatchNorm2d(64),
            relu1=torch.nn.ReLU(),
            pool1=nn.GraphAvgPool2d(2),
            block2=nn.DepthwiseSeparableConv(64, 128, 3, padding=1),
            norm2=nn.GraphBatchNorm2d(128),
            relu2=torch.nn.ReLU(),
            pool2=nn.GraphGlobalAvgPool(),
            head=torch.nn.Linear(128, 10),
        )
    )


def learn(console: Console, epochs: int) -> Learned:
    """Train both forms side by side and compare everything that can be compared.

    Args:
        console: where the progress bar goes.
        epochs: passes over the training images.
    """
    train_x, train_y, test_x, test_y = load()
    torch.manual_seed(SEED)
    dense = _channels_last(dense_network())
    torch.manual_seed(SEED)
    graph = _channels_last(graph_network())
    found = Learned(images=len(test_y))
    steps = [torch.optim.Adam(net.parameters(), lr=3e-3) for net in (dense, graph)]
    order = torch.Generator().manual_seed(SEED)
    with Progress(console=console) as bars:
        task = bars.add_task("training both forms", total=epochs * (len(train_x) // BATCH))
        for _ in range(epochs):
            for batch in torch.randperm(len(train_x), generator=order).split(BATCH)[:-1]:
                x, y = train_x[batch], train_y[batch]
                one = F.cross_entropy(dense(x.contiguous(memory_format=torch.channels_last)), y)
                two = F.cross_entropy(graph(cg.PixelGraph.from_image(x)).x, y)
                for loss, step in zip((one, two), steps, strict=True):
                    step.zero_grad()
                    loss.backward()
                    step.step()
                gap = abs(one.item() - two.item())
                found.losses.append(one.item())
                found.loss_gap = max(found.loss_gap, gap)
                bars.update(task, advance=1, description=f"training both forms, loss {one:.4f}")
    dense.eval()
    graph.eval()
    mine, theirs = graph.state_dict(), dense.state_dict()
    found.same_parameters = mine.keys() == theirs.keys() and all(
        torch.equal(mine[name], value) for name, value in theirs.items()
    )
    _predict(found, dense, graph, test_x, test_y)
    found.rows = certificates(dense, graph, test_x)
    return found


def load() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return scikit-learn's digits as (N, 1, 8, 8) float64 in [0, 1]: train x, y, test x, y."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(images / 16).view(-1, 1, 8, 8)
    y = torch.from_numpy(labels)
    order = torch.from_numpy(np.random.default_rng(SEED).permutation(len(y)))
    cut = len(y) * 4 // 5
    return x[order[:cut]], y[order[:cut]], x[order[cut:]], y[order[cut:]]


@torch.no_grad()
def _predict(found: Learned, dense: Any, graph: Any, x: Tensor, y: Tensor) -> None:
    expected = dense(x.contiguous(memory_format=torch.channels_last))
    pixels = cg.PixelGraph.from_image(x)
    logits = {"chosen": graph(pixels).x}
    for name in ("gather", "messages"):
        with cg.backend(name):
            logits[name] = graph(pixels).x
    answer = expected.argmax(1)
    found.accuracy = float((answer == y).double().mean())
    found.same_predictions = all(torch.equal(v.argmax(1), answer) for v in logits.values())
    error = running_bound(dense, x)
    gap = (logits["gather"] - expected).abs()
    # Each side is within `error` of the exact value, so the two are within twice of each other.
    found.within = bool((gap <= 2 * error).all())
    worst = int(gap.argmax())
    found.logit_gap = float(gap.flatten()[worst])
    found.logit_bound = float(2 * error.flatten()[worst])
    best, second = expected.topk(2, dim=1).values.unbind(1)
    found.decided = int((best - second > 4 * error.amax(1)).sum())


def running_bound(dense: torch.nn.Sequential, x: Tensor) -> Tensor:
    """Return (B, 10): the most by which rounding can move each logit, whatever the order of sums.

    The error of each layer's input goes through |W|, its own rounding is added on top.
    """
    error = torch.zeros_like(x)
    for layer in _leaves(dense):
        y = layer(x)
        if isinstance(layer, torch.nn.Conv2d):
            carried = _absolute(layer, error, bias=False)
            size = _absolute(layer, x.abs() + error)
            terms = layer.weight[0].numel() + 1
        elif isinstance(layer, torch.nn.Linear):
            carried = F.linear(error, layer.weight.abs())
            size = F.linear(x.abs() + error, layer.weight.abs(), layer.bias.abs())
            terms = layer.weight.shape[1] + 1
        elif isinstance(layer, torch.nn.BatchNorm2d):
            mean, var = layer.running_mean, layer.running_var
            if mean is None or var is None:
                raise TypeError("a batch norm without running statistics has no fixed scale")
            # x - mean, var + eps, root, quotient, product, sum: 6 roundings, at most 8 in any form.
            scale = (layer.weight.abs() / (var + layer.eps).sqrt()).view(1, -1, 1, 1)
            carried = error * scale
            size = (x.abs() + error + mean.abs().view(1, -1, 1, 1)) * scale
            size = size + layer.bias.abs().view(1, -1, 1, 1)
            terms = 8
        elif isinstance(layer, torch.nn.AvgPool2d | torch.nn.AdaptiveAvgPool2d):
            carried, size = layer(error), layer(x.abs() + error)
            terms = x[0, 0].numel() // y[0, 0].numel() + 1
        else:  # ReLU moves no two numbers apart, Flatten moves none
            error, x = layer(error), y
            continue
        own = dot_bound(terms, torch.float64, size.numpy())
        error, x = carried + torch.as_tensor(own), y
    return error


def certificates(dense: Any, graph: Any, x: Tensor) -> list[Row]:
    """Prove every layer of the graph form against its dense twin, the graph side on `gather`."""
    rows = []
    sizes = {"stem": 8, "block1": 8, "block2": 4}
    with cg.backend("gather"):
        for name, module in graph.named_children():
            twin = getattr(dense, name)
            if name in sizes:
                size = (sizes[name],) * 2
                pairs = [(name, module, twin)]
                if isinstance(module, cg.nn.DepthwiseSeparableConv):
                    pairs = [
                        (f"{name}.{stage}", getattr(module, stage), getattr(twin, stage))
                        for stage in ("depthwise", "pointwise")
                    ]
                rows += [_proven(label, one, two, size) for label, one, two in pairs]
            elif "pool" in name:
                side = 8 if name == "pool1" else 4
                rows.append(_pooled(name, module, twin, side))
            else:
                rows.append(_same(name, module, twin, x))
    return rows


def _proven(name: str, layer: Any, twin: Any, size: tuple[int, int]) -> Row:
    found = cg.prove(layer, twin, size=size)
    edges = next(part.facts for part in found.parts if part.name == "S0 structure").split()[0]
    worst = max([*found.rho.values(), *found.rho_exact.values()], default=0.0)
    return Row(name, found.verdict, edges, f"2^{found.log2_epsilon:.0f}", f"{worst:.2f}")


def _pooled(name: str, layer: Any, twin: Any, side: int) -> Row:
    """An average pool is linear and has no parameters: y and grad_x, two ways."""
    window = 4 if name == "pool1" else side * side
    found = prove_linear(
        lambda x: layer(cg.PixelGraph.from_image(x)).to_image(), twin, (2, 3, side, side),
        terms=window, scale=window, name=name,
    )  # fmt: skip
    return Row(name, found.verdict, "", f"2^{found.log2_epsilon:.0f}", "0 (dyadic)")


def _same(name: str, layer: Any, twin: Any, x: Tensor) -> Row:
    """A node transform: the same torch operator with the same numbers, seen on real rows."""
    torch.manual_seed(SEED)
    if isinstance(layer, torch.nn.Linear):
        rows = torch.rand(len(x), layer.in_features).double()
        equal = torch.equal(layer(rows), twin(rows))
    else:
        channels = getattr(twin, "num_features", 8)
        image = torch.rand(16, channels, 4, 4).double()
        image = image.contiguous(memory_format=torch.channels_last)
        graph = cg.PixelGraph.from_image(image)
        takes = getattr(layer, "takes_graph", False)
        seen = layer(graph) if takes else graph.map(layer)
        equal = torch.equal(seen.to_image(), twin(image))
    return Row(name, "same operator" if equal else "refuted", "", "", "0")


def _channels_last(net: Any) -> Any:
    return net.double().to(memory_format=torch.channels_last)


def _leaves(net: torch.nn.Sequential) -> list[Any]:
    return [m for m in net.modules() if not isinstance(m, torch.nn.Sequential)]


def _absolute(layer: torch.nn.Conv2d, x: Tensor, *, bias: bool = True) -> Tensor:
    shift = layer.bias.abs() if bias and layer.bias is not None else None
    return F.conv2d(
        x, layer.weight.abs(), shift, layer.stride, (1, 1) if layer.kernel_size == (3, 3) else 0,
        layer.dilation, layer.groups,
    )  # fmt: skip
