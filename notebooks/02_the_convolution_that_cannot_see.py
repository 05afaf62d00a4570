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
# # 2. The convolution that cannot see
#
# **Question.** Networks are full of 1 x 1 convolutions. A kernel of one pixel: what can it see?
#
# **Guess** before you read on: can a stack of ten 1 x 1 convolutions, with a ReLU between any two,
# find a horizontal edge in a picture?

# %%
# %matplotlib inline
import torch
from torch import nn

import convgraph as cg
from convgraph import draw
from lesson import check, curves, panels, photograph, show

generator = torch.manual_seed(0)

# %% [markdown]
# <details><summary><b>Answer</b> (guess first)</summary>No. Each layer has self-loops only, and ten steps along
# a self-loop lead nowhere.</details>

# %% [markdown]
# ## Self-loops only
#
# `PointwiseConv` is convgraph's 1 x 1 convolution; `edges` says who talks to whom.

# %%
pointwise = cg.nn.PointwiseConv(3, 8)
graph = cg.PixelGraph.from_image(photograph(64))
edges = pointwise.edges(graph)
source, target = edges.edge_index
check("exactly one edge per node", edges.num_edges == graph.num_nodes)
check("and every one starts where it ends", torch.equal(source, target))

# %% [markdown]
# The referee: on a pixel a 1 x 1 convolution is `nn.Linear`, and nothing else. Integers, so that the
# comparison is exact and no tolerance is needed.

# %%
whole = torch.randint(-9, 10, (1, 3, 8, 8)).double()
conv = nn.Conv2d(3, 8, 1, dtype=torch.float64)
with torch.no_grad():
    conv.weight.copy_(torch.randint(-9, 10, conv.weight.shape))
    conv.bias.copy_(torch.randint(-9, 10, conv.bias.shape))
rows = nn.functional.linear(whole.movedim(1, -1), conv.weight.flatten(1), conv.bias)
check("a 1 x 1 convolution is a Linear at every pixel", torch.equal(conv(whole), rows.movedim(-1, 1)))
twin = cg.nn.PointwiseConv.from_dense(conv)
check("and so is its graph", torch.equal(twin(cg.PixelGraph.from_image(whole)).to_image(), conv(whole)))

# %% [markdown]
# ## The receptive field of a stack
#
# Which pixels can a pixel of the output hear? Its *receptive field*: follow the arrows back, one hop a
# layer. In the picture each number says after how many hops a pixel is heard; the frame is the output pixel.

# %%
crop = photograph(128)[:, 20:37, 46:63]
picture = cg.PixelGraph.from_image(crop)
middle = 8 * 17 + 8  # the node in row 8, column 8 of 17 x 17
ones = [cg.nn.PointwiseConv(1, 1) for _ in range(10)]
threes = [cg.nn.GraphConv2d(1, 1, 3, padding=1) for _ in range(3)]
for ax, layers in zip(panels(2, 5, 5.2), (ones, threes)):
    draw.receptive_field(layers, picture, middle, ax=ax)

# %%
check("ten 1 x 1 layers: one pixel", int(draw.reach(ones, picture, middle)[-1].sum()) == 1)
check("three 3 x 3 layers: 7 x 7 pixels", int(draw.reach(threes, picture, middle)[-1].sum()) == 49)

# %% [markdown]
# The arrows say what *can* be heard. The gradient says what *is*: nudge a pixel and see whether the
# output moves. (With tanh between the layers: a ReLU that happens to be off would silence the pixel itself.)

# %%
stack = nn.Sequential(*(layer for _ in range(10) for layer in (nn.Conv2d(3, 3, 1), nn.Tanh())))
x = crop.unsqueeze(0).clone().requires_grad_()
stack(x)[0, :, 8, 8].sum().backward()
moved = x.grad[0].abs().sum(0) > 0
check("only the pixel itself moves the output of ten 1 x 1 layers", moved.nonzero().tolist() == [[8, 8]])

# %% [markdown]
# ## The horizontal edge
#
# Lower pixel minus upper pixel: `y[r] = x[r + 1] - x[r - 1]`. We let both kernels learn it from
# random pictures. For a linear layer the best possible answer is least squares, so nobody can say
# that we only stopped too early. We measure the share that is left *unexplained*: the sum of squared errors
# over the sum of squares of the target. **Guess** that share for a 1 x 1 kernel.

# %%
noise = torch.randn(8, 1, 32, 32, dtype=torch.float64)
edge = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
edge[0, 0, 0, 1], edge[0, 0, 2, 1] = -1, 1
wanted = nn.functional.conv2d(noise, edge, padding=1)


def best(k: int) -> tuple[torch.Tensor, float]:
    """The least-squares kernel of k x k, and the share of the target that it leaves unexplained."""
    # unfold: one row a pixel, with the k x k numbers under the kernel
    columns = nn.functional.unfold(noise, k, padding=k // 2).movedim(1, -1).reshape(-1, k * k)
    goal = wanted.reshape(-1, 1)
    found = torch.linalg.lstsq(columns, goal).solution
    left = (columns @ found - goal).square().sum() / goal.square().sum()
    return found.view(k, k), float(left)


kernel1, left1 = best(1)
kernel3, left3 = best(3)
print(f"1 x 1 leaves {left1:.1%} unexplained, 3 x 3 leaves {left3:.1e}")
print(kernel3.round(decimals=6) + 0)  # + 0 turns -0 into 0

# %% [markdown]
# <details><summary><b>Answer</b> (guess first)</summary>All of it. In random pictures a pixel says nothing
# about the two beside it.</details>

# %%
check("the best 1 x 1 kernel explains less than a hundredth", left1 > 0.99)
check("the best 3 x 3 kernel is the edge itself", torch.equal(kernel3.round(), edge[0, 0]))

# %% [markdown]
# By gradient descent, with a nonlinear 1 x 1 network, to be fair:

# %%
def train(net: nn.Module, steps: int = 200) -> list[float]:
    """Return, for every step, the share of the target that is left unexplained."""
    optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
    shares = []
    for _ in range(steps):
        loss = (net(noise) - wanted).square().mean() / wanted.square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        shares.append(loss.item())
    return shares


torch.manual_seed(0)
blind = nn.Sequential(nn.Conv2d(1, 16, 1), nn.ReLU(), nn.Conv2d(16, 1, 1)).double()
seeing = nn.Conv2d(1, 1, 3, padding=1).double()
losses = {"1 x 1, ReLU, 1 x 1": train(blind), "one 3 x 3": train(seeing)}
curves(losses, x="step", y="share unexplained", log=True)

# %%
check("the 1 x 1 network still misses more than nine tenths", losses["1 x 1, ReLU, 1 x 1"][-1] > 0.9)
check("the single 3 x 3 layer misses less than a thousandth", losses["one 3 x 3"][-1] < 1e-3)

# %% [markdown]
# ## The proof, in two pictures
#
# Optimisation shows that we did not find it. A proof shows that it is not there. Take two pictures
# that agree at one pixel (framed) and differ below it. Whatever a 1 x 1 network does at that pixel, it
# does it to both, since that pixel is all it hears. But the edge there, lower minus upper, is 0 in one and
# 1 in the other. No weights can help, and no number of layers.

# %%
one, two = torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)
two[0, 0, 2, 1] = 1.0
titles = ["framed: the same black. Edge: 0", "framed: the same black. Edge: 1"]
show([one[0], two[0]], titles, grid=True, mark=(1, 1))


def middle_of(net: nn.Module, picture: torch.Tensor) -> torch.Tensor:
    """What a network says at the middle pixel."""
    return net(picture)[0, :, 1, 1]


torch.manual_seed(0)
nets = [nn.Sequential(nn.Conv2d(1, 16, 1), nn.ReLU(), nn.Conv2d(16, 1, 1)) for _ in range(100)]
check(
    "100 random 1 x 1 networks say the same twice, as they must",
    all(torch.equal(middle_of(net, one), middle_of(net, two)) for net in nets),
)
three = nn.Conv2d(1, 1, 3, padding=1, bias=False)
three.weight.data.copy_(edge)
check("and the edge is not the same", not torch.equal(middle_of(three, one), middle_of(three, two)))

# %% [markdown]
# ## What you take home
#
# - a 1 x 1 convolution is the graph of self-loops: no pixel hears another, however many layers;
# - k hops through 3 x 3 kernels reach (2 k + 1) x (2 k + 1) pixels;
# - what a 1 x 1 layer *can* do is the subject of the next lesson: it mixes channels.
