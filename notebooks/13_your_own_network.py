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
# # 13. Your own network on holes
#
# **Question.** You have a network already: trained, with hooks, skips and plain functions in its `forward`. Now its images have holes. Must it be rewritten?
#
# **After this lesson you can** run a network of torch on the nodes alone, without touching it, say what its true answer on a hole is,
# and train through it. **You need** lesson 12. **Time**: 50 minutes. A tensor of nodes 8, the leak 10, the truth 8, training 6,
# the mean 4, what has no meaning 4, your turn 10.
#
# In lesson 12 a layer of `cg.nn` took a graph. Here the graph itself becomes something that any code of torch takes: a tensor.

# %%
# %matplotlib inline
import torch
import torch.nn.functional as F
from torch import nn

import convgraph as cg
from lesson import agree, bars, check, examine, photograph, show, without

generator = torch.manual_seed(0)

# %% [markdown]
# ## A tensor of nodes
#
# `graph.tensor()` has the shape (B, C, H, W) of an image and holds a row of numbers for each *node*. **Guess**: 8 x 8 pixels, a hole of 4 x 4,
# 3 channels in and 5 out. How many numbers does the result of a convolution hold?
#
# <details><summary><b>Answer</b></summary>48 nodes times 5 channels: 240, and not 320. What is absent is neither stored nor computed.</details>

# %%
mask = torch.ones(8, 8, dtype=torch.bool)
mask[2:6, 3:7] = False
image = torch.randint(0, 10, (1, 3, 8, 8)).double()
graph = cg.PixelGraph.from_image(image, mask=mask)
conv = nn.Conv2d(3, 5, 3, padding=1).double()  # torch's own layer
y = conv(graph.tensor())
print(y)
held = y.graph.x.numel()
print("numbers held:", held)

# %%
check("to whoever asks it is a tensor of images", isinstance(y, torch.Tensor) and y.shape == (1, 5, 8, 8))
check("it holds 48 nodes times 5 channels", held == 240)
check("and it is what the graph layer of lesson 4 says, bit for bit",
      torch.equal(y.graph.x, cg.nn.GraphConv2d.from_dense(conv)(graph).x))

# %% [markdown]
# ## The leak
#
# A small U-Net as people write them: a class, a pool, a resize, a skip that is concatenated. Its weights are whole numbers here, so that
# every sum is exact. The usual way with holes is to set them to 0 at the entrance and run. **Guess**: is the first convolution then
# right at every pixel that is there? And the rest of the network?
#
# <details><summary><b>Answer</b></summary>The first one is right: silence is a zero in a sum. But it also writes something <i>into</i> the
# hole, at least its bias, and from the second step on the network hears it. The error begins at the rim of the hole and spreads with every hop.</details>

# %%
class Net(nn.Module):
    """Two sizes, one skip."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.low = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = self.first(x).relu()
        coarse = self.low(F.max_pool2d(fine, 2)).relu()
        return self.last(torch.cat([fine, F.interpolate(coarse, scale_factor=2)], 1))


def whole_numbers(net: nn.Module) -> nn.Module:
    """The network in float64 with weights from -2 to 2: no sum is rounded."""
    with torch.no_grad():
        for p in net.double().parameters():
            p.copy_(torch.randint(-2, 3, p.shape))
    return net


net = whole_numbers(Net())
scene = (9 * photograph(32).mean(0)).round().double()[None, None, :24, 2:26]  # whole numbers from 0 to 9
there = torch.ones(24, 24, dtype=torch.bool)
there[9:14, 8:15] = False
holes = cg.PixelGraph.from_image(scene, mask=there)
with torch.no_grad():
    said = net(holes.tensor())  # the network itself, on the nodes
    zeroed = net(torch.where(there, scene, 0.0))
leak = torch.where(there, zeroed - said.to_dense(), 0.0)[0, 0]
show([scene[0, 0] / 9, torch.where(there, scene, 0.0)[0, 0] / 9], ["the image", "its hole, black"],
     "A small grey photograph of a face, and the same with a black rectangle in it.")
show([leak], ["zeroed image minus nodes"],
     "White everywhere but in a broad ring of orange and purple pixels around the rectangle: there the zeroed image gives another answer.", signed=True)
print(f"{int((leak != 0).sum())} of {int(there.sum())} pixels get another answer")

# %% [markdown]
# ## What is the truth?
#
# As in lesson 12, said once per step: before *every* operator that looks at neighbours, what is absent is filled with what counts as silence
# there, 0 before a sum and minus infinity before a maximum. Half as large, a pixel is there when one of its four is. By hand:

# %%
def by_hand(net: Net, x: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """The dense network, refilled before every step; (1, 1, H, W)."""
    half = F.max_pool2d(there[None, None].double(), 2)[0, 0] > 0
    fine = net.first(torch.where(there, x, 0.0)).relu()
    pooled = F.max_pool2d(torch.where(there, fine, float("-inf")), 2)
    coarse = net.low(torch.where(half, pooled, 0.0)).relu()
    both = torch.cat([fine, F.interpolate(coarse, scale_factor=2)], 1)
    return torch.where(there, net.last(torch.where(there, both, 0.0)), 0.0)


with torch.no_grad():
    truth = by_hand(net, scene, there)
    step = torch.where(there, net.first(torch.where(there, scene, 0.0)), 0.0)
    check("the first convolution of the zeroed image is right", torch.equal(step, net.first(holes.tensor()).to_dense()))
check("the network on nodes is the network that was refilled, bit for bit", torch.equal(said.to_dense(), truth))
check("the network on a zeroed image is not", (leak != 0).sum() > 20)

# %% [markdown]
# Nothing in `Net` says a word about masks. And because it is the network itself that runs, everything that hangs on it runs too: its hooks,
# its `state_dict`, whatever wraps it.

# %%
heard = []
handle = net.low.register_forward_hook(lambda module, inputs, output: heard.append(output))
with torch.no_grad():
    net(holes.tensor())
handle.remove()
print(heard[0])
check("a hook heard the coarse map, with its own nodes", heard[0].graph.num_nodes == int(F.max_pool2d(there[None].float(), 2).sum()))

# %% [markdown]
# ## Training through it
#
# Gradients are those of the rows. **Guess**: which pixels of the hole get a gradient?
#
# <details><summary><b>Answer</b></summary>None: they are not there, and no message came from them. The weights get the gradient of the
# pixels that are, and only of them.</details>

# %%
def gradients(run) -> list[torch.Tensor]:
    """The gradients of all weights, of the sum of squares of what a run returns."""
    net.zero_grad()
    run().square().sum().backward()
    return [p.grad.clone() for p in net.parameters()]


pixels = scene.clone().requires_grad_()
mine = gradients(lambda: net(cg.PixelGraph.from_image(pixels, mask=there).tensor()).to_dense())
refilled = gradients(lambda: by_hand(net, scene, there))
dense = gradients(lambda: torch.where(there, net(torch.where(there, scene, 0.0)), 0.0))
check("every weight has the gradient of the refilled network, bit for bit", all(map(torch.equal, mine, refilled)))
check("that of the zeroed image is another one", not all(map(torch.equal, mine, dense)))
check("no pixel of the hole has a gradient, and some others have", not pixels.grad[..., ~there].any() and pixels.grad.any())

# %% [markdown]
# ## The mean knows who is there
#
# A mean over the image, and so a batch norm in training, counts nodes. On a zeroed image every hole counts as a measurement of 0.

# %%
warm = torch.full((1, 1, 24, 24), 8.0)
scattered = torch.rand(24, 24, generator=generator) > 0.5
on_nodes = float(cg.PixelGraph.from_image(warm, mask=scattered).tensor().mean((2, 3)))
on_zeroed = float(torch.where(scattered, warm, 0.0).mean((2, 3)))
bars({"every pixel": 1.0, "half of them, on nodes": on_nodes / 8, "half of them, zeroed": on_zeroed / 8},
     "Three bars: the mean of all pixels and of the nodes are both whole, that of the zeroed image is about a half.",
     x="mean of an image that is 8 everywhere, as a share of 8")
norm = nn.BatchNorm2d(1, momentum=1.0)
norm(cg.PixelGraph.from_image(warm, mask=scattered).tensor())
check("the mean of what is 8 is 8, whoever is absent", on_nodes == 8)
check("and a batch norm learns 8 from it", float(norm.running_mean) == 8)
check("with zeros it is less than 5", on_zeroed < 5)

# %% [markdown]
# ## What has no meaning on holes
#
# A Fourier transform adds up *all* pixels; there is no silence for it. It is refused by name, instead of being made up. And
# `cg.to_graph` makes a copy with graph layers in it, of which a report says what was understood, and a certificate that nothing was lost:

# %%
try:
    torch.fft.fft(holes.tensor())
except cg.errors.ConversionError as error:
    print(error, "\n")
    refused = "fft" in str(error)
check("an operator without a meaning on holes is refused by its name", refused)
copy = cg.to_graph(net.float(), torch.rand(2, 1, 8, 8))
print(copy.conversion)
cert = cg.prove(copy, net, torch.rand(2, 1, 8, 8))
check("the copy with graph layers is proven equal to the network", cert.verdict == "proven")

# %% [markdown]
# ## What you take home
#
# - a graph is also a tensor: the network that you have runs on the nodes alone, hooks and all;
# - zeros at the entrance are right for one layer; a network leaks from the second step on;
# - the truth refills before every operator that looks at neighbours, and gradients follow it;
# - a mean is over what is there; what has no meaning on holes says so.

# %% [markdown]
# ### Your turn 1: who is there, half as large
#
# Write `pooled(mask)` for a mask (H, W) of even sizes: which pixels of the map behind `F.max_pool2d(x, 2)` are there? Return a bool tensor (H / 2, W / 2).
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# def pooled(mask):
#     return F.max_pool2d(mask[None].float(), 2)[0] > 0
# ```
#
# A slip that the examiner finds: a cell is there when *one* of its four pixels is, and not always the upper left one.
#
# ```python
# def pooled(mask):
#     return mask[::2, ::2]
# ```
#
# </details>

# %%
def pooled(mask):
    ...  # your turn

def as_the_network(function):
    drawn = [torch.rand(8, 10) > share for share in (0.2, 0.5, 0.8)]
    return all(
        agree(function(one), F.max_pool2d(cg.PixelGraph.from_image(torch.rand(1, 8, 10), mask=one).tensor(), 2).to_dense(fill=-1)[0, 0] >= 0)
        for one in drawn
    )


examine("the pixels that a pool of 2 x 2 leaves, on any mask", pooled, as_the_network)

# %% [markdown]
# ### Your turn 2: refill by hand
#
# Write `refilled(first, second, x, mask)`: what `second(first(x).relu())` says on a mask, with ordinary tensors; both are convolutions of torch. Return 0 in the holes.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# def refilled(first, second, x, mask):
#     inside = first(torch.where(mask, x, 0)).relu()
#     return torch.where(mask, second(torch.where(mask, inside, 0)), 0)
# ```
#
# A slip that the examiner finds: filled once, at the entrance; the bias of the first layer stands in the hole.
#
# ```python
# def refilled(first, second, x, mask):
#     return torch.where(mask, second(first(torch.where(mask, x, 0)).relu()), 0)
# ```
#
# </details>

# %%
def refilled(first, second, x, mask):
    ...  # your turn

def as_on_nodes(function):
    first, second = whole_numbers(nn.Conv2d(1, 4, 3, padding=1)), whole_numbers(nn.Conv2d(4, 2, 3, padding=1))
    x, mask = torch.randint(0, 10, (1, 1, 12, 12)).double(), torch.rand(12, 12) > 0.3
    return agree(function(first, second, x, mask), second(first(cg.PixelGraph.from_image(x, mask=mask).tensor()).relu()).to_dense())


examine("two layers, refilled, say what they say on nodes", refilled, as_on_nodes)

# %% [markdown]
# ### Your turn 3: a layer of your own
#
# Write a 3 x 3 convolution with padding 1 yourself: `own(x, weight, bias)` for (B, C, H, W), (C_out, C, 3, 3), (C_out,), with `F.unfold(x, 3, padding=1)`,
# which lays the nine neighbours of every pixel side by side as (B, C * 9, H * W), and one matrix product. The judge proves it for every image, and the examiner runs it on a hole, of which you never thought.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# def own(x, weight, bias):
#     heard = weight.flatten(1) @ F.unfold(x, 3, padding=1)
#     return heard.view(x.shape[0], -1, *x.shape[2:]) + bias.view(-1, 1, 1)
# ```
#
# A slip that the examiner finds: rows and columns of the kernel are swapped.
#
# ```python
# def own(x, weight, bias):
#     heard = weight.mT.flatten(1) @ F.unfold(x, 3, padding=1)
#     return heard.view(x.shape[0], -1, *x.shape[2:]) + bias.view(-1, 1, 1)
# ```
#
# </details>

# %%
def own(x, weight, bias):
    ...  # your turn

def proven_and_on_holes(function):
    layer = whole_numbers(nn.Conv2d(1, 2, 3, padding=1))
    without("conv", function, scene, layer.weight, layer.bias)
    cert = cg.prove(function, layer, size=(6, 6))
    if cert.verdict != "proven":
        return cert
    agree(function(holes.tensor(), layer.weight, layer.bias).to_dense(), layer(holes.tensor()).to_dense(), "on the holes")
    return cert


examine("your layer is the convolution, and has holes for nothing", own, proven_and_on_holes)
