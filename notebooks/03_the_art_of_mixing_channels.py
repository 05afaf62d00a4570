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
# # 3. The art of mixing channels
#
# **Question.** If a 1 x 1 convolution sees one pixel only, what is it good for?
#
# It is a recipe: how much of each channel goes into the result, the same at every pixel.

# %%
# %matplotlib inline
import torch
from torch import nn

import convgraph as cg
from lesson import answer, check, panels, photograph, show

photo = photograph(256)


def mixer(*weights: float) -> cg.nn.PointwiseConv:
    """A 1 x 1 convolution to one channel with these weights."""
    layer = cg.nn.PointwiseConv(len(weights), 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights).view(1, -1, 1, 1))
    return layer


def run(layer: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """Image to graph, through the layer, and back."""
    with torch.no_grad():
        return layer(cg.PixelGraph.from_image(image)).to_image()


# %% [markdown]
# ## Two recipes
#
# Luminance weighs the colours as the eye does: (0.3, 0.59, 0.11). Red minus green: (1, -1, 0).
# **Guess** where the second one is zero on a white spacesuit.

# %%
luminance, contrast = mixer(0.3, 0.59, 0.11), mixer(1.0, -1.0, 0.0)
grey, opponent = run(luminance, photo), run(contrast, photo)
show([photo, grey, opponent], ["photograph", "luminance", "red minus green"], cmap="gray")
answer("On every pixel without colour: white, grey and black have as much red as green.")

# %%
white = torch.full((3, 4, 4), 0.75)
check("red minus green of grey is exactly zero", not run(contrast, white).any())
check("the weights of luminance sum to one", 30 + 59 + 11 == 100)
tens = (photo * 255).round().double()
exact = 30 * tens[0] + 59 * tens[1] + 11 * tens[2]
integer = mixer(30, 59, 11).double()
check("in integers the layer is the formula, bit for bit", torch.equal(run(integer, tens)[0], exact))
check(
    "red minus green too",
    torch.equal(run(mixer(1, -1, 0).double(), tens)[0], tens[0] - tens[1]),
)

# %% [markdown]
# ## The bars A and B
#
# Two pictures of two channels. A has a vertical bar in channel 1 and a horizontal one in channel 2;
# B has them swapped. Add the two channels: **guess** which of A and B you are looking at.

# %%
vertical, horizontal = torch.zeros(9, 9), torch.zeros(9, 9)
vertical[:, 4], horizontal[4, :] = 1, 1
a, b = torch.stack([vertical, horizontal]), torch.stack([horizontal, vertical])
add, subtract = mixer(1, 1), mixer(1, -1)
show(
    [run(add, a), run(add, b), run(subtract, a), run(subtract, b)],
    ["A: 1 + 2", "B: 1 + 2", "A: 1 - 2", "B: 1 - 2"],
)
answer("You cannot tell: both sums are the same cross. The difference tells them apart at once.")

# %%
check("the sum of the channels cannot tell A from B", torch.equal(run(add, a), run(add, b)))
check("channel 1 minus channel 2 can", not torch.equal(run(subtract, a), run(subtract, b)))
check("it even turns its sign", torch.equal(run(subtract, a), -run(subtract, b)))

# %% [markdown]
# ## Learnt instead of told
#
# A 1 x 1 layer with two weights, a rectifier, the mean over the picture, a threshold: is it A or B?
# Here the bar of channel 1 is brighter along its own half, so that the pictures are not just mirror
# images, and noise is added. We start from the recipe that cannot work, the plain sum, and descend.

# %%
torch.manual_seed(0)


def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy A (label 1) and B (label 0): A has twice the ink in channel 1."""
    labels = torch.randint(0, 2, (count,))
    scale = torch.tensor([[1.0, 2.0], [2.0, 1.0]])[labels].view(count, 2, 1, 1)
    pictures = torch.where(labels.view(-1, 1, 1, 1) == 1, a, b) * scale
    return pictures + 0.1 * torch.randn_like(pictures), labels.float()


mix = mixer(1.0, 1.0)
head = nn.Parameter(torch.zeros(2))
optimiser = torch.optim.Adam([mix.weight, head], lr=0.1)
losses = []
for _ in range(150):
    pictures, labels = batch(64)
    mixed = mix(cg.PixelGraph.from_image(pictures)).to_image()
    score = head[0] * mixed.mean((1, 2, 3)) + head[1]
    loss = nn.functional.binary_cross_entropy_with_logits(score, labels)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    losses.append(loss.item())
first, second = (mix.weight.flatten() * head[0].sign()).tolist()
print(f"learnt: {first:+.2f} x channel 1 {second:+.2f} x channel 2")
ax = panels(1, 6, 3.2)[0]
ax.plot(losses, lw=2)
ax.set(xlabel="step", ylabel="loss")

# %%
pictures, labels = batch(500)
with torch.no_grad():
    mixed = mix(cg.PixelGraph.from_image(pictures)).to_image()
    right = ((head[0] * mixed.mean((1, 2, 3)) + head[1] > 0) == (labels == 1)).float().mean()
check("it tells A from B nearly always", right > 0.95)
check("and the recipe it found has opposite signs: a difference", first > 0 > second)

# %% [markdown]
# ## The referee
#
# The same layer, from `torch.nn`, for every image and every weight:

# %%
conv = nn.Conv2d(3, 1, 1, bias=False)
cert = cg.prove(cg.nn.PointwiseConv.from_dense(conv), conv, size=(16, 16))
print(cert.verdict, "with probability of error at most 2 **", round(cert.log2_epsilon))
check("a 1 x 1 convolution and the graph of self-loops are one function", cert.verdict == "proven")

# %% [markdown]
# ## What you take home
#
# - a 1 x 1 layer is a recipe for mixing channels, and it is the same at every node;
# - sums lose what differences keep: signs matter;
# - such a recipe can be learnt by gradient descent like any other weight.
