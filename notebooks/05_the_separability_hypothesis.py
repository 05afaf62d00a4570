# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5. The separability hypothesis
#
# **Question.** A 3 x 3 convolution does two things at once: it looks around, and it mixes channels.
# What if they were done one after the other?
#
# *Depthwise*: messages within each channel. *Pointwise*: self-loops that mix. The bet of MobileNet
# (Howard et al., 2017) and Xception (Chollet, 2017) is that this is nearly as good, and far cheaper.
# **Guess** how much cheaper for 192 -> 384 channels.

# %%
# %matplotlib inline
import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import convgraph as cg
from convgraph import draw
from lesson import check, panels, photograph

generator = torch.manual_seed(0)

# %% [markdown]
# <details><summary><b>Answer</b> (guess first)</summary>It costs 1/384 + 1/9 = 0.1137 of the full one: a saving
# of 0.8863, nearly nine tenths.</details>

# %% [markdown]
# ## Two graphs instead of one

# %%
image = photograph(128)[:, 24:30, 50:56]
layer = cg.nn.DepthwiseSeparableConv(3, 5, 3, padding=1)
graph = cg.PixelGraph.from_image(image)
stages = {"depthwise: look around, channel by channel": layer.depthwise, "pointwise: mix channels, look nowhere": layer.pointwise}
for ax, (title, stage) in zip(panels(2, 5.4, 6.0), stages.items()):
    draw.pixel_graph(image, stage.geometry, ax=ax)
    ax.set_title(title)

# %% [markdown]
# On an edge the full convolution multiplies by a whole matrix, the depthwise one by its diagonal
# only. The product of both stages is the matrix of a full convolution: `mix @ diag(tap)`.

# %%
dense = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.Conv2d(3, 5, 1)).double()
ints = lambda t: torch.randint(-4, 5, t.shape).double()
with torch.no_grad():
    for parameter in dense.parameters():
        parameter.copy_(ints(parameter))
    one = nn.Conv2d(3, 5, 3, padding=1, bias=False, dtype=torch.float64)
    one.weight.copy_(torch.einsum("oc,cij->ocij", dense[1].weight.flatten(1), dense[0].weight[:, 0]))
    dense[0].bias.zero_(), dense[1].bias.zero_()
x = ints(torch.empty(2, 3, 9, 9))
check("depthwise then pointwise is one convolution with matrices mix @ diag(tap)", torch.equal(dense(x), one(x)))
pair = cg.nn.DepthwiseSeparableConv(3, 5, 3, padding=1, dtype=torch.float64)
pair.load_state_dict({f"{n}.{k}": v for n, m in zip(("depthwise", "pointwise"), dense) for k, v in m.state_dict().items()})
check("the graph form says the same", torch.equal(pair(cg.PixelGraph.from_image(x)).to_image(), one(x)))

# %% [markdown]
# ## The cost
#
# Multiply-adds per pixel: full `C_in * C_out * k^2`; separable `C_in * k^2 + C_in * C_out`. So the
# ratio is `1 / C_out + 1 / k^2`: about a ninth for k = 3, and less for a larger kernel, where more is saved.

# %%
def ratio(c_out: int, k: int) -> float:
    """Cost of separable over full, on paper."""
    return 1 / c_out + 1 / k**2


def counted(c_in: int, c_out: int, k: int, size: int = 14) -> float:
    """The same, counted by torch while both run."""
    full = nn.Conv2d(c_in, c_out, k, padding=k // 2, bias=False)
    parts = nn.Sequential(nn.Conv2d(c_in, c_in, k, padding=k // 2, groups=c_in, bias=False), nn.Conv2d(c_in, c_out, 1, bias=False))
    totals = []
    for net in (full, parts):
        with FlopCounterMode(display=False) as counter:
            net(torch.zeros(1, c_in, size, size))
        totals.append(counter.get_total_flops())
    check(f"{c_in} -> {c_out}, k = {k}: counted cost is the formula, as fractions",
          totals[1] * c_out * k * k == totals[0] * (k * k + c_out))
    return totals[1] / totals[0]


for k in (3, 5, 7):
    print(f"k = {k}: on paper {ratio(384, k):.4f}, counted {counted(192, 384, k):.4f}")

# %%
saving = 1 - ratio(384, 3)
print(f"saving at k = 3, 192 -> 384: {saving:.4f}")
check("the saving at k = 3, 192 -> 384 is 0.8863", f"{saving:.4f}" == "0.8863")
check("at k = 3 about a ninth is left, a little more", 1 / 9 < ratio(384, 3) < 1 / 8)
check("at k = 5 the saving is larger", ratio(384, 5) < ratio(384, 3))

# %% [markdown]
# Parameters follow the same rule:

# %%
full = nn.Conv2d(192, 384, 3, bias=False)
parts = cg.nn.DepthwiseSeparableConv(192, 384, 3, bias=False)
count = lambda net: sum(p.numel() for p in net.parameters())
print(f"{count(full):,} against {count(parts):,} weights")
check("192 * 384 * 9 against 192 * 9 + 192 * 384", (count(full), count(parts)) == (663552, 75456))

# %% [markdown]
# ## The clock
#
# Cost on paper is not time. **Guess** whether the stopwatch shows the same nine tenths. (A depthwise
# kernel does little arithmetic for each number that it fetches.) The figure depends on the machine, so the lesson prints
# it and asserts nothing about it.

# %%
batch = torch.rand(4, 192, 28, 28).contiguous(memory_format=torch.channels_last)
dense_full = nn.Conv2d(192, 384, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
dense_parts = nn.Sequential(nn.Conv2d(192, 192, 3, padding=1, groups=192, bias=False), nn.Conv2d(192, 384, 1, bias=False)).to(memory_format=torch.channels_last)
times = {"full": [], "separable": []}
with torch.no_grad():
    for _ in range(12):
        for name, net in (("full", dense_full), ("separable", dense_parts)):
            start = time.perf_counter()
            net(batch)
            times[name].append(time.perf_counter() - start)
median = {name: sorted(t)[len(t) // 2] for name, t in times.items()}
print(f"cost ratio {ratio(384, 3):.3f}, time ratio here {median['separable'] / median['full']:.3f}")

# %% [markdown]
# <details><summary><b>Answer</b> (guess first)</summary>Compare the two ratios above. As a rule time falls less
# than cost: a depthwise kernel waits for memory, and the full one keeps the arithmetic units busy.</details>

# %% [markdown]
# ## MobileNet as a graph network
#
# A stem that looks, then blocks of depthwise, pointwise, norm and rectifier. As a graph network every
# other layer is self-loops.

# %%
def block(c_in: int, c_out: int, stride: int) -> list[nn.Module]:
    """Depthwise, norm, rectifier, pointwise, norm, rectifier."""
    return [
        nn.Conv2d(c_in, c_in, 3, stride, 1, groups=c_in, bias=False), nn.BatchNorm2d(c_in), nn.ReLU(),
        nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(),
    ]


mobile = nn.Sequential(
    nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), *block(8, 16, 1), *block(16, 32, 2), *block(32, 32, 1),
).eval()
network = cg.nn.Sequential.from_dense(mobile).eval()
picture = photograph(64).unsqueeze(0)
nodes = cg.PixelGraph.from_image(picture)
for layer in network:
    if hasattr(layer, "edges"):
        found = layer.edges(nodes)
        share = (found.edge_index[0] == found.edge_index[1]).float().mean() if found.source is found.target else 0
        print(f"{found.num_sources:5} -> {found.num_targets:5} nodes, {found.num_taps} types, {found.num_edges:6} edges, {share:5.0%} self-loops")
    nodes = layer(nodes) if getattr(layer, "takes_graph", False) or hasattr(layer, "edges") else nodes

# %%
with torch.no_grad():
    same = torch.equal(network(cg.PixelGraph.from_image(picture)).to_image(), mobile(picture.contiguous(memory_format=torch.channels_last)))
    loops = sum(hasattr(layer, "edges") and layer.geometry.is_pointwise for layer in network)
check("three of the seven graph layers are self-loops", (loops, sum(hasattr(l, "edges") for l in network)) == (3, 7))
check("and the network gives the dense network's own numbers", same)

# %% [markdown]
# ## What you take home
#
# - depthwise = messages that stay in their channel; pointwise = self-loops that mix;
# - together `1 / C_out + 1 / k^2` of the cost; 0.8863 saved at k = 3 and 192 -> 384;
# - what is given up for that is the next lesson.
