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
# # 3. The art of mixing channels
#
# **Question.** If a 1 x 1 convolution sees one pixel only, what is it good for?
#
# It is a recipe: how much of each channel goes into the result, the same at every pixel. Of three channels
# it makes one by
#
# $$y_p = w_R R_p + w_G G_p + w_B B_p .$$
#
# **After this lesson you can** write such recipes by hand, say what a sum loses and a difference keeps, and
# let gradient descent find one. **You need** lessons 1 and 2. **Time**: 45 minutes. Two recipes 10, the bars 8,
# learnt 8, the referee 4, your turn 15.
#
# Channels are counted from 1, as the article counts them; a tensor's index counts from 0.

# %%
# %matplotlib inline
import torch
from torch import nn

import convgraph as cg
from lesson import agree, check, curves, examine, photograph, show

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
#
# <details><summary><b>Answer</b></summary>On the helmet, the wall and the rocket: white, grey and
# black have as much red as green. The suit and the stripes have much more red; hardly anything here has more
# green.</details>

# %%
luminance, contrast = mixer(0.3, 0.59, 0.11), mixer(1.0, -1.0, 0.0)
grey, opponent = run(luminance, photo), run(contrast, photo)
show([photo, grey], ["photograph", "luminance"], "The photograph in colour, and the same in grey.")
show([photo[c] for c in range(3)], ["red channel", "green channel", "blue channel"], "The three channels as grey pictures: the orange suit is bright in red, darker in green, dark in blue.")
show([opponent], ["red minus green: white is zero"], "Orange where red is stronger: the suit and the stripes of the flag; nearly white elsewhere.", signed=True)

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
#
# <details><summary><b>Answer</b></summary>You cannot tell: both sums are the same
# cross.</details>

# %%
vertical, horizontal = torch.zeros(9, 9), torch.zeros(9, 9)
vertical[:, 4], horizontal[4, :] = 1, 1
a, b = torch.stack([vertical, horizontal]), torch.stack([horizontal, vertical])
add, subtract = mixer(1, 1), mixer(1, -1)
show([*a, *b], ["A, channel 1", "A, channel 2", "B, channel 1", "B, channel 2"],
     "Four pictures of 9 x 9 pixels: A has a vertical bar in channel 1 and a horizontal one in channel 2, B the other way round.", grid=True)
show([run(add, a), run(add, b)], ["one of them: 1 + 2", "the other: 1 + 2"], "Twice the same cross.", grid=True)

# %% [markdown]
# The difference tells them apart at once:

# %%
show([run(subtract, a), run(subtract, b)], ["A: 1 - 2", "B: 1 - 2"], "Two crosses: in A the vertical bar is orange and the horizontal one purple, in B it is the other way round.", signed=True, grid=True)
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
#
# <details><summary><b>Answer</b></summary>Held at the sum it can only toss a coin: the cross is
# the same, and what is left is noise. Free, the two weights move apart until one is about minus the other, for
# the sum brings nothing but noise.</details>

# %% tags=["nbval-ignore-output"]
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
curves({"held at the sum": held_losses, "free": free_losses}, "Two curves over 300 steps: held at the sum the loss stays above 0.7, free it falls below 0.1.", x="step", y="loss")
print(f"held at the sum: {held_right:.1%} right; free: {free_right:.1%} right")
print(f"learnt: {first:+.2f} x channel 1 {second:+.2f} x channel 2")

# %%
check("held at the sum it is right about half of the time", 0.4 < held_right < 0.6)
check("free to learn, it tells A from B nearly always", free_right > 0.95)
check("and the recipe it found has opposite signs: a difference", first * second < 0)

# %% [markdown]
# ## The referee
#
# Is our 1 x 1 layer really `nn.Conv2d`? On one image we could compare. `cg.prove` asks for *every* image and
# every weight, and says how probable it is that it is mistaken. Lesson 11 opens it up.

# %% tags=["nbval-ignore-output"]
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

# %% [markdown]
# ### Your turn 1: yellow against blue
#
# The eye has a second opponent pair: yellow (as much red as green) against blue. Write the recipe of three numbers that gives +1 for pure yellow (1, 1, 0), -1 for pure blue (0, 0, 1), and exactly 0 for every grey, with red and green weighing the same.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# yellow_blue = 0.5, 0.5, -1
# ```
#
# A slip that the examiner finds: then white, which has all three, gives 1 and not 0.
#
# ```python
# yellow_blue = 1, 1, -1
# ```
#
# </details>

# %%
yellow_blue = ...  # your turn

colours = {"yellow": (1, 1, 0), "blue": (0, 0, 1), "grey": (0.75, 0.75, 0.75), "white": (1, 1, 1)}


def said(weights):
    return {name: run(mixer(*weights), torch.tensor(c).float().view(3, 1, 1)).item() for name, c in colours.items()}


examine("+1 for yellow, -1 for blue, 0 for grey and white", yellow_blue, lambda weights: agree(said(weights), {"yellow": 1, "blue": -1, "grey": 0, "white": 0}))

# %% [markdown]
# ### Your turn 2: undo a mixture
#
# Channel 1 + channel 2 and channel 1 - channel 2 are two recipes, so together a 1 x 1 layer 2 -> 2. Write the 2 x 2 matrix of the layer that gives the two channels back.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# unmix = [[0.5, 0.5], [0.5, -0.5]]
# ```
#
# A slip that the examiner finds: the sum of sum and difference is *twice* the first channel.
#
# ```python
# unmix = [[1, 1], [1, -1]]
# ```
#
# </details>

# %%
unmix = ...  # your turn

def layer_of(rows):
    layer = cg.nn.PointwiseConv(2, 2, bias=False)
    layer.weight.data.copy_(torch.as_tensor(rows, dtype=torch.float32).view(2, 2, 1, 1))
    return layer


both = layer_of([[1, 1], [1, -1]])
examine("your layer undoes sum and difference, for A and for B", unmix,
        lambda rows: all(agree(run(layer_of(rows), run(both, x)), x) for x in (a, b, 7 * a - 2 * b)))

# %% [markdown]
# ### Your turn 3: two recipes in a row
#
# A 1 x 1 layer 3 -> 5 and then one 5 -> 2, with biases and nothing in between, are a single 1 x 1 layer 3 -> 2. Write `merged(first, second)` that returns it as an `nn.Conv2d` of the same dtype as `first`.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# def merged(first, second):
#     one = nn.Conv2d(first.in_channels, second.out_channels, 1, dtype=first.weight.dtype)
#     with torch.no_grad():
#         one.weight.copy_((second.weight[:, :, 0, 0] @ first.weight[:, :, 0, 0])[:, :, None, None])
#         one.bias.copy_(second.weight[:, :, 0, 0] @ first.bias + second.bias)
#     return one
# ```
#
# A slip that the examiner finds: the first bias goes through the second layer's weights too. (With a ReLU in between no such layer exists.)
#
# ```python
# def merged(first, second):
#     one = nn.Conv2d(first.in_channels, second.out_channels, 1, dtype=first.weight.dtype)
#     with torch.no_grad():
#         one.weight.copy_((second.weight[:, :, 0, 0] @ first.weight[:, :, 0, 0])[:, :, None, None])
#         one.bias.copy_(second.bias)
#     return one
# ```
#
# </details>

# %%
def merged(first, second):
    ...  # your turn

def same_as_both(function):
    first, second = nn.Conv2d(3, 5, 1).double(), nn.Conv2d(5, 2, 1).double()
    for parameter in (*first.parameters(), *second.parameters()):  # whole numbers do not round
        parameter.data.copy_(torch.randint(-9, 10, parameter.shape))
    x = torch.randint(-9, 10, (2, 3, 4, 5)).double()
    one = function(first, second)
    return agree(one.kernel_size, (1, 1), "the size of the kernel") and agree(one(x), second(first(x)))


examine("one 1 x 1 layer that is both, bit for bit on whole numbers", merged, same_as_both)

