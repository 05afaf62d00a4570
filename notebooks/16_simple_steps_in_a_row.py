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
# # 16. Simple steps in a row
#
# **Question.** We have taken a convolution apart: looking without mixing, mixing without looking, silence where nothing is. What
# was it good for?
#
# **After this lesson you can** solve a small problem of seeing by steps that you can name, show that no single step
# solves it, and prove the whole row. **You need** lessons 2 to 5. **Time**: 45 minutes. The problem 6, three steps 12, why
# not fewer 7, the proof 5, your turn 15.
#
# The series began with a paradox: a convolution of size 1 x 1, which looks at nothing. Its answer was that a
# convolution is two jobs in one, *who talks to whom* and *what they say*, and that the two can be done one after the
# other, each by something simple. This last lesson builds a whole little network that way, by hand.

# %%
# %matplotlib inline
import torch
from torch import nn

import convgraph as cg
from lesson import agree, check, examine, show

generator = torch.manual_seed(0)

# %% [markdown]
# ## The problem
#
# Pictures with bars: red or green, standing or lying. Say yes where there is a *red standing* bar, and no otherwise.
# Neither colour nor direction is enough. **Guess** which steps you would take, with what you know from lessons 2 and 3.
#
# <details><summary><b>Answer</b></summary>Mix: red minus green, a 1 x 1 layer; keep what is above 0. Look: three pixels on top of one another and
# none beside them, a 3 x 3 layer in one channel; keep what is above a threshold. Read out: is there any?</details>

# %%
def bar(colour: int, standing: bool, at: int = 4) -> torch.Tensor:
    """A picture (3, 9, 9) with one bar; colour 0 is red and 1 is green."""
    image = torch.zeros(3, 9, 9)
    if standing:
        image[colour, 1:8, at] = 1
    else:
        image[colour, at, 1:8] = 1
    return image


kinds = {"red, standing": bar(0, True), "red, lying": bar(0, False), "green, standing": bar(1, True), "green, lying": bar(1, False)}
show(list(kinds.values()), list(kinds), "Four black pictures with one bar each: a red standing one, a red lying one, a green standing one, a green lying one.")

# %% [markdown]
# ## Three steps
#
# Each is a layer that you can read. As graphs: self-loops, then a typed graph of neighbours, then one readout node.

# %%
mix = cg.nn.PointwiseConv(3, 1, bias=False)  # red minus green, at every pixel
look = cg.nn.GraphConv2d(1, 1, 3, padding=1)  # a column of three, and nobody beside it
with torch.no_grad():
    mix.weight.copy_(torch.tensor([1.0, -1, 0]).view(1, 3, 1, 1))
    look.weight.copy_(torch.tensor([[-1.0, 1, -1], [-1, 1, -1], [-1, 1, -1]]).view(1, 1, 3, 3))
    look.bias.fill_(-2)  # three in a column give 3; only they are left above 0
network = cg.nn.Sequential(mix, nn.ReLU(), look, nn.ReLU(), cg.nn.GraphGlobalMaxPool())

graph = cg.PixelGraph.from_image(torch.stack(list(kinds.values())))
with torch.no_grad():
    mixed = mix(graph)
    looked = look(mixed.with_x(mixed.x.relu()))
    kept = looked.with_x(looked.x.relu())
    found = network(graph).x.flatten()
show(list(mixed.to_image()[:, 0]), list(kinds), "After mixing: red bars are orange, green ones purple.", signed=True)
show(list(kept.to_image()[:, 0]), list(kinds), "After looking and rectifying: only the red standing bar has left a trace.", signed=True)
print(dict(zip(kinds, found.tolist())))

# %%
check("only the red standing bar is found", found.tolist() == [1, 0, 0, 0])
everywhere = torch.stack([bar(0, True, at) for at in range(1, 8)])
with torch.no_grad():
    check("wherever it stands", network(cg.PixelGraph.from_image(everywhere)).x.flatten().tolist() == [1.0] * 7)
    both = torch.maximum(bar(0, False, 2), bar(1, True, 6))
    check("a red lying and a green standing bar together do not fool it", float(network(cg.PixelGraph.from_image(both[None])).x) == 0)

# %% [markdown]
# ## Why not fewer?
#
# A network of 1 x 1 layers and a maximum sees a *bag* of pixels: it cannot tell a standing red bar from a lying one,
# whose pixels are the same seven. A network that looks but reads a single channel, here red plus green, cannot
# tell red from green. Both by two pictures, as in lesson 2. **Guess** which pair of pictures shows the first.
#
# <details><summary><b>Answer</b></summary>The red standing and the red lying bar: the same seven red pixels and the
# same black ones, in other places.</details>

# %%
bags = [nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 1, 1), nn.AdaptiveMaxPool2d(1)) for _ in range(100)]
red, lying, green = (kinds[name][None] for name in ("red, standing", "red, lying", "green, standing"))
check("100 networks of 1 x 1 layers say the same to standing and lying", all(torch.equal(net(red), net(lying)) for net in bags))
sums = [nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1), nn.AdaptiveMaxPool2d(1)) for _ in range(100)]
check("100 networks on red plus green say the same to red and green", all(
    torch.equal(net(red.sum(1, keepdim=True)), net(green.sum(1, keepdim=True))) for net in sums))

# %% [markdown]
# ## The proof of the row
#
# Each step is a graph layer, and each equals its dense twin. So does the row, for every image:

# %%
dense = nn.Sequential(
    nn.Conv2d(3, 1, 1, bias=False), nn.ReLU(), nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(),
    nn.AdaptiveMaxPool2d(1), nn.Flatten(),
)
with torch.no_grad():
    dense[0].weight.copy_(mix.weight)
    dense[2].weight.copy_(look.weight)
    dense[2].bias.copy_(look.bias)
    check("the dense twin finds the same", dense(torch.stack(list(kinds.values()))).flatten().tolist() == found.tolist())
cert = cg.prove(cg.to_graph(dense), dense, torch.stack(list(kinds.values())))
print(cert.verdict)
check("the row of steps is proven equal to its dense twin", cert.verdict == "proven")

# %% [markdown]
# ## What you take home
#
# - a problem that no single layer solves falls to simple steps in a row: mix, look, decide;
# - because each step has one job, you can name it, count it, draw it and prove it;
# - that is what a depthwise-separable network, a bottleneck block and an attention block have in common, and why the layer
#   that sees nothing, the 1 x 1, stands in all of them: it is the step that only thinks.
#
# Here the article ends, and so does the series. What is left is yours: a problem of your own, taken apart.

# %% [markdown]
# ### Your turn 1: another bar
#
# Change the row so that it finds *green lying* bars and nothing else: give the mixing weights (three numbers) and the kernel (three rows); the bias stays -2.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# row = (-1, 1, 0), [[-1, -1, -1], [1, 1, 1], [-1, -1, -1]]
# ```
#
# A slip that the examiner finds: this looks for a column; a lying bar is a row of three.
#
# ```python
# row = (0, 1, 0), [[-1, 1, -1]] * 3
# ```
#
# </details>

# %%
row = ...  # mix, kernel  # your turn

def built(pair):
    weights, rows = pair
    look = nn.Conv2d(1, 1, 3, padding=1)
    net = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.ReLU(), look, nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    net[0].weight.data.copy_(torch.tensor(weights).float().view(1, 3, 1, 1))
    look.weight.data.copy_(torch.tensor(rows).float().view(1, 1, 3, 3))
    look.bias.data.fill_(-2)
    return net


def answers(net):
    with torch.no_grad():
        return net(torch.stack(list(kinds.values()))).flatten().tolist()


examine("only the green lying bar is found", row, lambda pair: agree({kind: a > 0 for kind, a in zip(kinds, answers(built(pair)))}, {kind: n == 3 for n, kind in enumerate(kinds)}))

# %% [markdown]
# ### Your turn 2: two steps in one
#
# Without the rectifier between them mixing and looking are linear, so together they are *one* 3 x 3 convolution 3 -> 1. Write `together(mix_weight, look_weight)` for (1, 3, 1, 1) and (1, 1, 3, 3); it returns (1, 3, 3, 3).
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# def together(mix_weight, look_weight):
#     return mix_weight * look_weight
# ```
#
# A slip that the examiner finds: what goes through two layers in a row is multiplied by both weights.
#
# ```python
# def together(mix_weight, look_weight):
#     return mix_weight + look_weight
# ```
#
# </details>

# %%
def together(mix_weight, look_weight):
    ...  # your turn

def one_is_two(function):
    m, k = torch.randint(-5, 6, (1, 3, 1, 1)).double(), torch.randint(-5, 6, (1, 1, 3, 3)).double()
    x = torch.randint(-5, 6, (2, 3, 6, 6)).double()
    steps = nn.functional.conv2d(nn.functional.conv2d(x, m), k, padding=1)
    return agree(nn.functional.conv2d(x, function(m, k), padding=1), steps)


examine("one convolution is both steps, bit for bit on whole numbers", together, one_is_two)

# %% [markdown]
# ### Your turn 3: what did the split save?
#
# A problem with 64 channels in and 64 out, 3 x 3: how many weights has one full layer, and how many have depthwise then pointwise (no biases)? Answer with a pair, and remember what lesson 6 said about the price.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# weights = 64 * 64 * 9, 64 * 9 + 64 * 64
# ```
#
# A slip that the examiner finds: the depthwise stage has nine numbers for *each* of the 64 channels.
#
# ```python
# weights = 64 * 64 * 9, 64 * 64 + 9
# ```
#
# </details>

# %%
weights = ...  # your turn

def size_of(net):
    return sum(p.numel() for p in net.parameters())


examine("the weights of a full 64 -> 64 layer and of its split", weights,
        lambda pair: agree(pair, (size_of(nn.Conv2d(64, 64, 3, bias=False)),
                             size_of(cg.nn.DepthwiseSeparableConv(64, 64, 3, padding=1, bias=False)))))
