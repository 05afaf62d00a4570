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
from lesson import check, curves, photograph, show

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
# **Guess** where in the photograph the second one is zero: the orange suit, the red stripes of the flag,
# the dark helmet, the grey wall?

# %%
luminance, contrast = mixer(0.3, 0.59, 0.11), mixer(1.0, -1.0, 0.0)
grey, opponent = run(luminance, photo), run(contrast, photo)
show([photo, grey], ["photograph", "luminance"])
show([opponent], ["red minus green: white is zero"], signed=True)

# %% [markdown]
# <details><summary><b>Answer</b> (guess first)</summary>On the helmet, the wall and the rocket: white, grey and
# black have as much red as green. The suit and the stripes have much more red; hardly anything here has more
# green.</details>

# %%
white = torch.full((3, 4, 4), 0.75)
check("red minus green of grey is exactly zero", not run(contrast, white).any())
levels = (photo * 255).round().double()  # whole numbers, so that nothing rounds
exact = 30 * levels[0] + 59 * levels[1] + 11 * levels[2]
percent = mixer(30, 59, 11).double()  # the same recipe in per cent
check("the weights of luminance sum to one", int(percent.weight.sum()) == 100)
check("in integers the layer is the formula, bit for bit", torch.equal(run(percent, levels)[0], exact))
check(
    "red minus green too",
    torch.equal(run(mixer(1, -1, 0).double(), levels)[0], levels[0] - levels[1]),
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
show([*a, *b], ["A, channel 1", "A, channel 2", "B, channel 1", "B, channel 2"], grid=True)
show([run(add, a), run(add, b)], ["one of them: 1 + 2", "the other: 1 + 2"], grid=True)

# %% [markdown]
# <details><summary><b>Answer</b> (guess first)</summary>You cannot tell: both sums are the same
# cross.</details>

# %% [markdown]
# The difference tells them apart at once:

# %%
show([run(subtract, a), run(subtract, b)], ["A: 1 - 2", "B: 1 - 2"], signed=True, grid=True)
check("the sum of the channels cannot tell A from B", torch.equal(run(add, a), run(add, b)))
check("channel 1 minus channel 2 can", not torch.equal(run(subtract, a), run(subtract, b)))
check("it even turns its sign", torch.equal(run(subtract, a), -run(subtract, b)))

# %% [markdown]
# ## Learnt instead of told
#
# A 1 x 1 layer with two weights makes one channel of two. A readout (`nn.Linear` on the 81 pixels) says A or
# B. Noise as loud as the bars lies over both channels. The mixing weights start at (1, 1), the sum that
# cannot work. **Guess** two things: how often is the readout right if the weights are held at the sum? And where
# do they go if gradient descent may move them?

# %%
def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy pictures (count, 2, 9, 9): A with label 1 and B with label 0, in turn."""
    pictures = torch.stack([a, b] * (count // 2))
    labels = torch.tensor([1.0, 0.0] * (count // 2))
    return pictures + torch.randn_like(pictures), labels


def score(mix: nn.Module, readout: nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    """Above 0: A. Below: B."""
    mixed = mix(cg.PixelGraph.from_image(pictures)).to_image()
    return readout(mixed.flatten(1)).squeeze(1)


def learn(mix: nn.Module, steps: int = 300) -> tuple[list[float], float]:
    """Train a readout, and the recipe where it may move; return the losses and the share it gets right."""
    torch.manual_seed(0)
    readout = nn.Linear(81, 1)
    optimiser = torch.optim.Adam([*mix.parameters(), *readout.parameters()], lr=0.03)
    losses = []
    for _ in range(steps):
        pictures, labels = batch(64)
        loss = nn.functional.binary_cross_entropy_with_logits(score(mix, readout, pictures), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    with torch.no_grad():
        pictures, labels = batch(1000)
        right = ((score(mix, readout, pictures) > 0) == (labels == 1)).float().mean()
    return losses, float(right)


held, free = mixer(1.0, 1.0).requires_grad_(False), mixer(1.0, 1.0)
held_losses, held_right = learn(held)
free_losses, free_right = learn(free)
first, second = free.weight.flatten().tolist()
curves({"held at the sum": held_losses, "free": free_losses}, x="step", y="loss")
print(f"held at the sum: {held_right:.1%} right; free: {free_right:.1%} right")
print(f"learnt: {first:+.2f} x channel 1 {second:+.2f} x channel 2")

# %% [markdown]
# <details><summary><b>Answer</b> (guess first)</summary>Held at the sum it can only toss a coin: the cross is
# the same, and what is left is noise. Free, the two weights move apart until one is about minus the other, for
# the sum brings nothing but noise.</details>

# %%
check("held at the sum it is right about half of the time", 0.4 < held_right < 0.6)
check("free to learn, it tells A from B nearly always", free_right > 0.95)
check("and the recipe it found has opposite signs: a difference", first * second < 0)

# %% [markdown]
# ## The referee
#
# Is our 1 x 1 layer really `nn.Conv2d`? On one image we could compare. `cg.prove` asks for *every* image and
# every weight, and says how probable it is that it is mistaken. Lesson 11 opens it up.

# %%
conv = nn.Conv2d(3, 1, 1, bias=False)
cert = cg.prove(cg.nn.PointwiseConv.from_dense(conv), conv, size=(16, 16))
print(f"{cert.verdict}; wrong with probability at most 2^{cert.log2_epsilon:.0f}")
check("a 1 x 1 convolution and the graph of self-loops are one function", cert.verdict == "proven")

# %% [markdown]
# ## What you take home
#
# - a 1 x 1 layer is a recipe for mixing channels, and it is the same at every node;
# - sums lose what differences keep: signs matter;
# - such a recipe can be learnt by gradient descent like any other weight.
