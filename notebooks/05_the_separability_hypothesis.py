# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
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
# **After this lesson you can** draw the two stages, derive what they cost, and count it. **You need** lessons 1 to 4.
# **Time**: 50 minutes. Two graphs 10, the cost 12, the clock 6, MobileNet 7, your turn 15.
#
# *Depthwise*: messages within each channel. *Pointwise*: self-loops that mix. The bet of MobileNet
# (Howard et al., 2017) and Xception (Chollet, 2017) is that this is nearly as good, and far cheaper.
# **Guess** how much cheaper for 192 -> 384 channels.
#
# <details><summary><b>Answer</b></summary>It costs 1/384 + 1/9 = 0.1137 of the full one: a saving
# of 0.8863, nearly nine tenths.</details>

# %%
# %matplotlib inline
import time

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import convgraph as cg
from convgraph import draw
from lesson import COLOURS, INK, agree, check, curves, examine, panels, photograph, picture, show, without

generator = torch.manual_seed(0)

# %% [markdown]
# ## Two graphs instead of one

# %%
image = photograph(128)[:, 24:30, 50:56]
layer = cg.nn.DepthwiseSeparableConv(3, 5, 3, padding=1)
graph = cg.PixelGraph.from_image(image)
axes = panels(2, 3.7, 4.0)
draw.node(image, 2 * 6 + 2, layer.depthwise.geometry, ax=axes[0])
draw.node(image, 2 * 6 + 2, layer.pointwise.geometry, ax=axes[1])
axes[0].set_title("depthwise: look around")
axes[1].set_title("pointwise: mix, look nowhere")
picture(axes[0], "Left: a node with arrows from its eight neighbours and a loop. Right: the same node with the loop alone.")

# %% [markdown]
# What the picture of the nodes cannot show is the channels. In the depthwise stage each channel has a kernel of
# its own and hears nothing of the others: a photograph has three grey pictures, and each is filtered alone. Here red gets
# a blur, green a horizontal contour, blue a vertical one.

# %%
photo = photograph(128)
look = cg.nn.DepthwiseConv(3, 3, padding=1, bias=False)
with torch.no_grad():
    look.weight.zero_()
    look.weight[0] = 1 / 9
    look.weight[1, 0, 0, 1], look.weight[1, 0, 2, 1] = -1, 1
    look.weight[2, 0, 1, 0], look.weight[2, 0, 1, 2] = -1, 1
    seen = look(cg.PixelGraph.from_image(photo)).to_image()
show(list(photo), ["red", "green", "blue"], "The three channels of the photograph as grey pictures.")
show([seen[0], seen[1].abs(), seen[2].abs()], ["red, blurred", "green, contours", "blue, contours"],
     "Below each channel what its own kernel made of it: a blur, horizontal contours, vertical contours.")

# %% [markdown]
# Then the pointwise stage. At every pixel the channels are a column of numbers, and the layer multiplies each column by
# one small matrix, the same everywhere:

# %%
(ax,) = panels(1, 7.2, 3.2)
column = torch.tensor([0.9, 0.5, 0.2])
mix = torch.tensor([[0.5, 0.5, 0.0], [1.0, -1.0, 0.0], [0.0, 0.3, 0.7], [0.3, 0.3, 0.4]])
for x0, values in ((0.0, column), (6.0, mix @ column)):
    for row, value in enumerate(values.tolist()):
        ax.add_patch(plt.Rectangle((x0, -row), 1.2, 0.9, fc=plt.cm.PuOr_r(0.5 + value / 2), ec=INK))
        ax.text(x0 + 0.6, 0.45 - row, f"{value:.2f}", ha="center", va="center", color="#111111" if value < 0.6 else "#ffffff")
for row in range(4):
    for source in range(3):
        weight = float(mix[row, source])
        if weight:
            ax.plot([1.25, 5.95], [0.45 - source, 0.45 - row], color=COLOURS[0] if weight > 0 else COLOURS[1], lw=0.6 + 3 * abs(weight))
ax.text(0.6, 1.15, "3 channels of a pixel", ha="center")
ax.text(6.6, 1.15, "4 channels of the same pixel", ha="center")
ax.set(xlim=(-1.6, 8.8), ylim=(-3.3, 1.6))
ax.set_axis_off()
picture(ax, "A column of three numbers, a column of four, and lines between any two of them whose width is the weight; one weight, -1, has another colour.")

# %% [markdown]
# On an edge the full convolution multiplies by a whole matrix, the depthwise one by its diagonal
# only. The product of both stages is the matrix of a full convolution: `mix @ diag(tap)`.

# %%
def whole_numbers(tensor: torch.Tensor) -> torch.Tensor:
    """Numbers from -4 to 4 in the same shape: their sums do not round."""
    return torch.randint(-4, 5, tensor.shape).double()


depthwise = nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False).double()
pointwise = nn.Conv2d(3, 5, 1, bias=False).double()
one = nn.Conv2d(3, 5, 3, padding=1, bias=False).double()
with torch.no_grad():
    depthwise.weight.copy_(whole_numbers(depthwise.weight))
    pointwise.weight.copy_(whole_numbers(pointwise.weight))
    mix, taps = pointwise.weight[:, :, 0, 0], depthwise.weight[:, 0]
    one.weight.copy_(torch.einsum("oc,cij->ocij", mix, taps))
x = whole_numbers(torch.empty(2, 3, 9, 9))
both = pointwise(depthwise(x))
check("depthwise then pointwise is one convolution with matrices mix @ diag(tap)", torch.equal(both, one(x)))

pair = cg.nn.DepthwiseSeparableConv(3, 5, 3, padding=1, bias=False, dtype=torch.float64)
pair.depthwise.load_state_dict(depthwise.state_dict())
pair.pointwise.load_state_dict(pointwise.state_dict())
check("the graph form says the same", torch.equal(pair(cg.PixelGraph.from_image(x)).to_image(), one(x)))

# %% [markdown]
# ## The cost
#
# Count multiply-adds at one pixel. The full convolution has $k^2$ taps, and at each a matrix of
# $C_{out} \times C_{in}$. The depthwise stage has $k^2$ taps for each of its $C_{in}$ channels, the pointwise stage one matrix:
#
# $$\frac{\text{separable}}{\text{full}} = \frac{C_{in} k^2 + C_{in} C_{out}}{C_{in} C_{out} k^2}
# = \frac{1}{C_{out}} + \frac{1}{k^2}$$
#
# For $k = 3$ and many channels that is about a ninth; for a larger kernel it is less, so more is saved.

# %%
def ratio(c_out: int, k: int) -> float:
    """Cost of separable over full, on paper."""
    return 1 / c_out + 1 / k**2


def flops(net: nn.Module, channels: int) -> int:
    """What torch counts while the network runs on 14 x 14 pixels."""
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, channels, 14, 14))
    return counter.get_total_flops()


def counted(c_in: int, c_out: int, k: int) -> float:
    """Cost of separable over full, counted by torch while both run."""
    full = nn.Conv2d(c_in, c_out, k, padding=k // 2, bias=False)
    look = nn.Conv2d(c_in, c_in, k, padding=k // 2, groups=c_in, bias=False)
    parts = nn.Sequential(look, nn.Conv2d(c_in, c_out, 1, bias=False))
    split, whole = flops(parts, c_in), flops(full, c_in)
    same = split * c_out * k * k == whole * (k * k + c_out)  # as fractions
    check(f"{c_in} -> {c_out}, k = {k}: counted cost is the formula", same)
    return split / whole


for k in (3, 5, 7):
    print(f"k = {k}: on paper {ratio(384, k):.4f}, counted {counted(192, 384, k):.4f}")

# %%
saving = 1 - ratio(384, 3)
print(f"saving at k = 3, 192 -> 384: {saving:.4f}")
check("the saving at k = 3, 192 -> 384 is 0.8863", f"{saving:.4f}" == "0.8863")
check("at k = 3 about a ninth is left, a little more", 1 / 9 < ratio(384, 3) < 1 / 8)
check("at k = 5 the saving is larger", ratio(384, 5) < ratio(384, 3))

# %% [markdown]
# As curves: with more output channels the cost falls towards $1 / k^2$ and no further.

# %%
outs = [2**n for n in range(0, 11)]
curves({f"k = {k}": [ratio(c, k) for c in outs] for k in (3, 5, 7)},
       "Three falling curves over the number of output channels from 1 to 1024: they level off at 1/9, 1/25 and 1/49.",
       x="output channels", y="separable / full", at=outs, log=True)
sizes = range(1, 12)
curves({"64 output channels": [ratio(64, k) for k in sizes], "384 output channels": [ratio(384, k) for k in sizes]},
       "Two curves over the kernel size from 1 to 11: above 1 at k = 1, below 0.3 at k = 2, then slowly down to 1 / C_out.",
       x="kernel size k", y="separable / full", at=sizes, log=True)
check("at k = 1 splitting costs more than it saves", ratio(64, 1) > 1)

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
#
# <details><summary><b>Answer</b></summary>Compare the two ratios that the next cell prints. As a rule time falls less
# than cost: a depthwise kernel waits for memory, and the full one keeps the arithmetic units busy.</details>

# %% tags=["nbval-ignore-output"]
batch = torch.rand(4, 192, 28, 28).contiguous(memory_format=torch.channels_last)
dense_full = nn.Conv2d(192, 384, 3, padding=1, bias=False)
look = nn.Conv2d(192, 192, 3, padding=1, groups=192, bias=False)
dense_parts = nn.Sequential(look, nn.Conv2d(192, 384, 1, bias=False))
for net in (dense_full, dense_parts):
    net.to(memory_format=torch.channels_last)
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


stem = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
mobile = nn.Sequential(*stem, *block(8, 16, 1), *block(16, 32, 2), *block(32, 32, 1)).eval()
network = cg.nn.Sequential.from_dense(mobile).eval()
image = photograph(64).unsqueeze(0)
nodes = cg.PixelGraph.from_image(image)
for layer in network:
    if hasattr(layer, "edges"):
        found = layer.edges(nodes)
        loops = found.num_edges if layer.geometry.is_pointwise else 0
        if found.source is found.target and not loops:
            loops = int((found.edge_index[0] == found.edge_index[1]).sum())
        print(
            f"{found.num_sources:5} -> {found.num_targets:5} nodes, {found.num_taps} types, "
            f"{found.num_edges:6} edges, {loops / found.num_edges:5.0%} self-loops"
        )
        nodes = layer(nodes)
    elif getattr(layer, "takes_graph", False):
        nodes = layer(nodes)

# %%
with torch.no_grad():
    expected = mobile(image.contiguous(memory_format=torch.channels_last))
    same = torch.equal(network(cg.PixelGraph.from_image(image)).to_image(), expected)
    loops = sum(hasattr(layer, "edges") and layer.geometry.is_pointwise for layer in network)
check("three of the seven graph layers are self-loops", (loops, sum(hasattr(l, "edges") for l in network)) == (3, 7))
check("and the network gives the dense network's own numbers", same)

# %% [markdown]
# ## What you take home
#
# - depthwise = messages that stay in their channel; pointwise = self-loops that mix;
# - together $1 / C_{out} + 1 / k^2$ of the cost; 0.8863 saved at $k = 3$ and 192 -> 384;
# - what is given up for that is the next lesson.

# %% [markdown]
# ### Your turn 1: when is it worth it?
#
# For a 3 x 3 kernel: what is the smallest number of output channels for which the separable layer needs less than *half* of the multiply-adds? Use the formula.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# fewest = 3  # 1/C < 1/2 - 1/9 = 7/18, so C > 18/7 = 2.57
# ```
#
# A slip that the examiner finds: the ninth is the cost of the looking; compare the *sum* with a half.
#
# ```python
# fewest = 9
# ```
#
# </details>

# %%
fewest = ...  # your turn

examine("the fewest output channels for less than half of the cost at k = 3", fewest,
        lambda c: agree(c, next(n for n in range(1, 100) if ratio(n, 3) < 0.5)))

# %% [markdown]
# ### Your turn 2: take it apart
#
# Here is a full 3 x 3 kernel that happens to be separable: channel c always uses the same nine numbers, times a factor. Write `apart(weight)` that returns the depthwise weight (C_in, 1, 3, 3) and the pointwise weight (C_out, C_in, 1, 1), such that together they are `weight` (C_out, C_in, 3, 3). You may assume that no factor of output 0 is zero.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# def apart(weight):
#     look = weight[0][:, None]  # output 0's kernels
#     at = look.flatten(1).abs().argmax(1)  # a tap of each channel that is not zero
#     channels = torch.arange(weight.shape[1])
#     factor = weight.flatten(2)[:, channels, at] / look.flatten(1)[channels, at]
#     return look, factor[:, :, None, None]
# ```
#
# A slip that the examiner finds: the mean over the outputs mixes factors with kernels; every output needs its own factor.
#
# ```python
# def apart(weight):
#     look = weight.mean(0)[:, None]
#     return look, torch.ones(weight.shape[0], weight.shape[1], 1, 1, dtype=weight.dtype)
# ```
#
# </details>

# %%
def apart(weight):
    ...  # your turn

def gives_back(function):
    look, mix = function(one.weight.detach())
    return agree(torch.einsum("oc,cij->ocij", mix[:, :, 0, 0], look[:, 0]), one.weight)


one.weight.data[0] = depthwise.weight.data[:, 0]  # output 0 uses each channel's numbers as they are
examine("both parts together are the full kernel again", apart, gives_back)

# %% [markdown]
# ### Your turn 3: by two stages, proven
#
# Write a depthwise 3 x 3 convolution (padding 1, `groups` = channels) as a function of `x`, `w` (C, 1, 3, 3) and `b`, without a convolution: nine shifted pictures, each times one number a channel. The judge compares it with torch's grouped layer for every image and weight.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# def depthwise_by_hand(x, w, b):
#     H, W = x.shape[2:]
#     wide = nn.functional.pad(x, (1, 1, 1, 1))
#     y = b[:, None, None]
#     for r in range(3):
#         for c in range(3):
#             y = y + w[:, 0, r, c][:, None, None] * wide[:, :, r : r + H, c : c + W]
#     return y
# ```
#
# A slip that the examiner finds: `w[:1]` gives every channel the kernel of the first.
#
# ```python
# def depthwise_by_hand(x, w, b):
#     H, W = x.shape[2:]
#     wide = nn.functional.pad(x, (1, 1, 1, 1))
#     y = b[:, None, None]
#     for r in range(3):
#         for c in range(3):
#             y = y + w[:1, 0, r, c][:, None, None] * wide[:, :, r : r + H, c : c + W]
#     return y
# ```
#
# </details>

# %%
def depthwise_by_hand(x, w, b):
    ...  # your turn

examine("your function is nn.Conv2d(3, 3, 3, padding=1, groups=3)", depthwise_by_hand,
        lambda f: without("conv", f, torch.ones(1, 3, 5, 5), torch.ones(3, 1, 3, 3), torch.ones(3)) and cg.prove(f, nn.Conv2d(3, 3, 3, padding=1, groups=3), size=(5, 5)))

