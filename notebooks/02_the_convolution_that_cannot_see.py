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
# # 2. The convolution that cannot see
#
# **Question.** Networks are full of 1 x 1 convolutions. A kernel of one pixel: what can it see?
#
# **After this lesson you can** say what a 1 x 1 kernel does to one channel, show with a photograph, by
# optimisation and by proof that it sees no neighbour, and count the receptive field of a stack.
# **You need** lesson 1. **Time**: 45 minutes. One number 8, self-loops 6, receptive field 8, a contour 10,
# your turn 13.
#
# We call a place where the brightness changes a *contour*. (Others say "edge"; here an edge is an edge of the graph.)
#
# **Guess** before you read on: can a stack of ten 1 x 1 convolutions, with a ReLU between any two,
# find a horizontal contour in a picture?
#
# <details><summary><b>Answer</b></summary>No. Each layer has self-loops only, and ten steps along
# a self-loop lead nowhere.</details>

# %%
# %matplotlib inline
import torch
from torch import nn

import convgraph as cg
from convgraph import draw
from lesson import agree, check, curves, examine, panels, photograph, picture, show, without

generator = torch.manual_seed(0)

# %% [markdown]
# ## One channel, one number
#
# Begin with a grey picture: one channel. The kernel of a 1 x 1 convolution is then a single number $w$, and
# $y_p = w \, x_p$ at every pixel $p$: it makes the picture brighter or darker, and that is all.
# Beside it, three kernels of 3 x 3: the mean of nine pixels, the pixel twice minus that mean, and the lower
# minus the upper neighbour. **Guess** before you run the cell: which of blur, sharpen and contours can the single number do?
#
# <details><summary><b>Answer</b></summary>None. Each of them compares or mixes a pixel with another one.</details>

# %%
grey = photograph(128).mean(0, keepdim=True)


def filtered(kernel: list[list[float]], image: torch.Tensor = grey) -> torch.Tensor:
    """One channel through the graph convolution with this kernel."""
    weight = torch.as_tensor(kernel, dtype=image.dtype)
    layer = cg.nn.GraphConv2d(1, 1, len(kernel), padding=len(kernel) // 2, bias=False, dtype=image.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight.view(layer.weight.shape))
        return layer(cg.PixelGraph.from_image(image)).to_image()


blur = [[1 / 9] * 3] * 3
sharpen = [[-1 / 9, -1 / 9, -1 / 9], [-1 / 9, 17 / 9, -1 / 9], [-1 / 9, -1 / 9, -1 / 9]]
contours = [[0, -1, 0], [0, 0, 0], [0, 1, 0]]
dim, bright = filtered([[0.4]]), filtered([[1.6]]).clamp(0, 1)
show([image.expand(3, -1, -1) for image in (grey, dim, bright)], ["the picture", "1 x 1: times 0.4", "1 x 1: times 1.6"],
     "The photograph three times: as it is, darker, and brighter. Nothing else has changed.")
show([filtered(blur)[0], filtered(sharpen)[0].clamp(0, 1), filtered(contours)[0].abs()], ["3 x 3: blur", "3 x 3: sharpen", "3 x 3: contours"],
     "The photograph three times: softer, crisper, and as bright lines on black where the brightness changes from top to bottom.")

# %%
levels = (grey * 255).round().double()
check("one channel: a 1 x 1 kernel is one number that scales every pixel", torch.equal(filtered([[3.0]], levels), 3 * levels))
alone = torch.zeros_like(grey)
alone[0, 64, 64] = grey[0, 64, 64]  # the same pixel, its neighbours gone
same = [torch.equal(filtered(kernel)[0, 64, 64], filtered(kernel, alone)[0, 64, 64]) for kernel in ([[0.4]], blur, sharpen, contours)]
check("take the neighbours away: 1 x 1 does not notice, the three others do", same == [True, False, False, False])

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
patch = cg.PixelGraph.from_image(crop)
middle = 8 * 17 + 8  # the node in row 8, column 8 of 17 x 17
ones = [cg.nn.PointwiseConv(1, 1) for _ in range(10)]
threes = [cg.nn.GraphConv2d(1, 1, 3, padding=1) for _ in range(3)]
axes = panels(2, 3.7, 4.0)
for ax, layers in zip(axes, (ones, threes)):
    draw.receptive_field(layers, patch, middle, ax=ax)
axes[0].set_title("ten 1 x 1 layers: 1 pixel")
axes[1].set_title("three 3 x 3 layers: 49 pixels")
picture(axes[0], "Left: one framed pixel with the number 1 in it. Right: 7 x 7 pixels around the framed one, in rings numbered 1, 2 and 3.")

# %%
check("ten 1 x 1 layers: one pixel", int(draw.reach(ones, patch, middle)[-1].sum()) == 1)
check("three 3 x 3 layers: 7 x 7 pixels", int(draw.reach(threes, patch, middle)[-1].sum()) == 49)

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
# ## A horizontal contour
#
# Lower pixel minus upper pixel: $y_r = x_{r+1} - x_{r-1}$. We let both kernels learn it from
# random pictures. For a linear layer the best possible answer is least squares, so nobody can say
# that we only stopped too early. We measure the share that is left *unexplained*: the sum of squared errors
# over the sum of squares of the target. **Guess** that share for a 1 x 1 kernel.
#
# <details><summary><b>Answer</b></summary>All of it. In random pictures a pixel says nothing
# about the two beside it.</details>

# %% tags=["nbval-ignore-output"]
noise = torch.randn(8, 1, 32, 32, dtype=torch.float64)
contour = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
contour[0, 0, 0, 1], contour[0, 0, 2, 1] = -1, 1
wanted = nn.functional.conv2d(noise, contour, padding=1)


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

# %%
check("the best 1 x 1 kernel explains less than a hundredth", left1 > 0.99)
check("the best 3 x 3 kernel is the contour filter itself", torch.equal(kernel3.round(), contour[0, 0]))

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
curves(losses, "Two curves over 200 steps: the one of the 1 x 1 network stays at 1, the one of the 3 x 3 layer falls below a ten thousandth.", x="step", y="share unexplained", log=True)

# %%
check("the 1 x 1 network still misses more than nine tenths", losses["1 x 1, ReLU, 1 x 1"][-1] > 0.9)
check("the single 3 x 3 layer misses less than a thousandth", losses["one 3 x 3"][-1] < 1e-3)

# %% [markdown]
# ## The proof, in two pictures
#
# Optimisation shows that we did not find it. A proof shows that it is not there. Take two pictures
# that agree at one pixel (framed) and differ below it. Whatever a 1 x 1 network does at that pixel, it
# does it to both, since that pixel is all it hears. But the contour there, lower minus upper, is 0 in one and
# 1 in the other. No weights can help, and no number of layers.

# %%
one, two = torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)
two[0, 0, 2, 1] = 1.0
titles = ["framed: black; lower minus upper: 0", "framed: black; lower minus upper: 1"]
show([one[0], two[0]], titles, "Two pictures of 3 x 3 pixels, all black; in the right one the pixel below the middle is white.", grid=True, mark=(1, 1))


def middle_of(net: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """What a network says at the middle pixel."""
    return net(image)[0, :, 1, 1]


torch.manual_seed(0)
nets = [nn.Sequential(nn.Conv2d(1, 16, 1), nn.ReLU(), nn.Conv2d(16, 1, 1)) for _ in range(100)]
check(
    "100 random 1 x 1 networks say the same twice, as they must",
    all(torch.equal(middle_of(net, one), middle_of(net, two)) for net in nets),
)
three = nn.Conv2d(1, 1, 3, padding=1, bias=False)
three.weight.data.copy_(contour)
check("and the contour is not the same", not torch.equal(middle_of(three, one), middle_of(three, two)))

# %% [markdown]
# ## What you take home
#
# - a 1 x 1 convolution is the graph of self-loops: no pixel hears another, however many layers;
# - of one channel it makes a brighter or a darker one: blur, sharpen and contours need neighbours;
# - $n$ hops through 3 x 3 kernels reach $(2n + 1) \times (2n + 1)$ pixels;
# - what a 1 x 1 layer *can* do is the subject of the next lesson: it mixes channels.

# %% [markdown]
# ### Your turn 1: the contour to the right
#
# Write the 3 x 3 kernel of *right pixel minus left pixel*, as a list of three rows. The examiner looks at a single bright pixel through it, and at the photograph.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# kernel = [[0, 0, 0], [-1, 0, 1], [0, 0, 0]]
# ```
#
# A slip that the examiner finds: PyTorch does not flip a kernel: what stands on the right is multiplied by the pixel on the right.
#
# ```python
# kernel = [[0, 0, 0], [1, 0, -1], [0, 0, 0]]
# ```
#
# </details>

# %%
kernel = ...  # your turn

dot = torch.zeros(1, 5, 5).double()
dot[0, 2, 2] = 1
right_minus_left = contour.mT[0, 0].tolist()
examine("your kernel is right minus left", kernel,
        lambda rows: all(agree(filtered(rows, image), filtered(right_minus_left, image)) for image in (dot, levels)))

# %% [markdown]
# ### Your turn 2: enough hops
#
# How many 3 x 3 layers does the middle pixel of a 17 x 17 picture need until it hears every pixel? And how many if the last of them is dilated by 4 (with padding 4)? Answer with a pair of numbers.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# hops = 8, 5  # 8 pixels in every direction: 8 hops of 1, or 4 of 1 and one of 4
# ```
#
# A slip that the examiner finds: the distance is counted from the middle, 8 pixels, not across the picture.
#
# ```python
# hops = 17, 14
# ```
#
# </details>

# %%
hops = ...  # your turn

def reaches(count, dilated):
    layers = [cg.nn.GraphConv2d(1, 1, 3, padding=1)] * count
    if dilated:
        layers[-1] = cg.nn.GraphConv2d(1, 1, 3, padding=4, dilation=4)
    return bool(draw.reach(layers, patch, middle)[-1].all())


def fewest(dilated):
    return next(count for count in range(1, 18) if reaches(count, dilated))


examine("the fewest layers that hear all of 17 x 17, plain and with a dilated last one", hops,
        lambda pair: agree(pair, (fewest(False), fewest(True))))

# %% [markdown]
# ### Your turn 3: 1 x 1 without a convolution
#
# Write a 1 x 1 convolution as a function of image `x` (N, C_in, H, W), weight `w` (C_out, C_in, 1, 1) and bias `b` (C_out), without calling any convolution. `torch.einsum` is enough. The judge asks for every image and every weight.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# def pointwise_by_hand(x, w, b):
#     return torch.einsum("oc,nchw->nohw", w[:, :, 0, 0], x) + b[:, None, None]
# ```
#
# A slip that the examiner finds: the bias is added once to every output, it does not go through the weights.
#
# ```python
# def pointwise_by_hand(x, w, b):
#     return torch.einsum("oc,nchw->nohw", w[:, :, 0, 0], x + b.mean())
# ```
#
# </details>

# %%
def pointwise_by_hand(x, w, b):
    ...  # your turn

examine("your function is nn.Conv2d(3, 4, 1)", pointwise_by_hand,
        lambda function: without("conv", function, whole, conv.weight[:4], conv.bias[:4]) and cg.prove(function, nn.Conv2d(3, 4, 1), size=(5, 6)))

