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
# # 7. Walls and mixers
#
# **Question.** Groups cut the channels of a layer into blocks that do not talk. How do they ever learn of each
# other?
#
# **After this lesson you can** read a grouped layer as a block-diagonal matrix, mix across the blocks, and find the
# narrowest place of a stack by its rank. **You need** lesson 3. **Time**: 45 minutes. Walls 10, mixers 6,
# bottlenecks 8, shuffle 6, your turn 15.

# %%
# %matplotlib inline
import torch
from torch import nn

import convgraph as cg
from lesson import agree, check, examine, matrices

torch.manual_seed(0)


def mixing(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """(C_out, C_in) matrix of one tap, groups laid out as blocks."""
    blocks = weight.detach().flatten(2).sum(-1).chunk(groups)
    return torch.block_diag(*blocks)

# %% [markdown]
# ## Walls
#
# The edges do not change with `groups`. What changes is the matrix on each edge: it becomes block-diagonal.

# %%
layers = {g: cg.nn.GraphConv2d(12, 12, 3, padding=1, groups=g, bias=False) for g in (1, 3, 12)}
matrices(
    {f"groups={g}: {layer.weight.numel():,} weights": mixing(layer.weight, g) != 0 for g, layer in layers.items()},
    "Three matrices of 12 x 12: full, three blocks of 4 x 4 on the diagonal, and the diagonal alone.",
    row="output channel", column="hears channel",
)

# %%
graph = cg.PixelGraph.from_image(torch.zeros(12, 6, 6))
lists = [layer.edges(graph).edge_index for layer in layers.values()]
check("groups leave the edges alone", all(torch.equal(lists[0], other) for other in lists))
check("three groups: a third of the weights", 3 * layers[3].weight.numel() == layers[1].weight.numel())
x = torch.randint(-5, 6, (1, 12, 6, 6)).double()
whole = nn.Conv2d(12, 12, 3, padding=1, bias=False, dtype=torch.float64)
walled = nn.Conv2d(12, 12, 3, padding=1, groups=3, bias=False, dtype=torch.float64)
with torch.no_grad():
    walled.weight.copy_(torch.randint(-5, 6, walled.weight.shape))
    whole.weight.zero_()
    for block in range(3):
        part = slice(4 * block, 4 * block + 4)
        whole.weight[part, part] = walled.weight[part]
same = torch.equal(cg.nn.GraphConv2d.from_dense(walled)(cg.PixelGraph.from_image(x)).to_image(), whole(x))
check("a grouped layer is a full layer with zeros outside of the blocks", same)

# %% [markdown]
# ## Mixers
#
# A wall is never crossed by stacking: block-diagonal times block-diagonal is block-diagonal. **Guess**
# how many *pointwise* layers it takes until every channel has heard every other.
#
# <details><summary><b>Answer</b></summary>One. The pointwise stage is dense: a full matrix at
# every node.</details>

# %%
walls = mixing(layers[3].weight, 3)
dense = torch.randn(12, 12)
stacks = {"wall @ wall": walls @ walls, "mixer": dense, "wall @ mixer @ wall": walls @ dense @ walls}
matrices(
    {f"{name}: {int((m != 0).sum())}": m != 0 for name, m in stacks.items()},
    "Three matrices of 12 x 12, and how many of their 144 numbers are not 0: wall times wall still has three blocks; the mixer is full; wall, mixer, wall is full.",
    row="output channel", column="hears channel",
)

# %%
check("ten walls are still a wall", int((torch.linalg.matrix_power((walls != 0).double(), 10) != 0).sum()) == 48)
check("one mixer between two walls reaches everybody", int((walls @ dense @ walls != 0).sum()) == 144)

# %% [markdown]
# ## Bottleneck, projection, expansion
#
# A pointwise layer may change the number of channels. To fewer: a *projection*, which forgets. To more: an
# *expansion*, which cannot invent. A bottleneck is both, and its rank is its narrowest part.

# %%
down, up = torch.randn(4, 12).double(), torch.randn(12, 4).double()
rank = lambda m: int(torch.linalg.matrix_rank(m))
print("ranks:", rank(down), rank(up), rank(up @ down))
check("12 -> 4 -> 12 has rank 4", rank(up @ down) == 4)
check("4 -> 12 -> 4 can be the identity: nothing is lost by expanding first", rank(down @ up) == 4)
forgotten = torch.linalg.svd(down).Vh[4:]
check("8 directions are forgotten by the projection", len(forgotten) == 8 and rank(torch.cat([down, forgotten])) == 12)

# %% [markdown]
# The three as pictures, for random weights: tall, wide, and their product of rank 4.

# %%
matrices({"projection 12 -> 4": down.abs(), "expansion 4 -> 12": up.abs(), "bottleneck: rank 4": (up @ down).abs()},
         "A matrix of 4 rows and 12 columns, one of 12 rows and 4 columns, and their product of 12 x 12.",
         row="output channel", column="hears channel")

# %% [markdown]
# ResNet's block projects, looks, expands; MobileNetV2's expands, looks, projects (and has no rectifier
# at the narrow end, since a rectifier there would forget for good). Count the weights for 64 channels outside and a factor 4:

# %%
count = lambda net: sum(p.numel() for p in net.parameters())
def block(inside: int, groups: int) -> nn.Sequential:
    """To `inside` channels, look, and back to 64."""
    look = nn.Conv2d(inside, inside, 3, padding=1, groups=groups, bias=False)
    return nn.Sequential(nn.Conv2d(64, inside, 1, bias=False), look, nn.Conv2d(inside, 64, 1, bias=False))


resnet, mobile = block(16, groups=1), block(256, groups=256)
print(f"bottleneck {count(resnet):,}, inverted {count(mobile):,}, plain 3 x 3 {64 * 64 * 9:,}")
check("the bottleneck has less than a seventh of the plain layer's weights", count(resnet) * 7 < 64 * 64 * 9)

# %% [markdown]
# ## Channel shuffle
#
# ShuffleNet crosses walls for free: deal the channels out like cards, one from each group in turn. No
# weights, no sum, only another order.

# %%
def shuffle(channels: int, groups: int) -> torch.Tensor:
    """The permutation matrix of a channel shuffle."""
    order = torch.arange(channels).view(groups, -1).T.flatten()
    return torch.eye(channels)[order]


p = shuffle(12, 3)
image = torch.arange(12.0).view(1, 12, 1, 1).expand(1, 12, 2, 2).contiguous()
mixer = cg.nn.PointwiseConv(12, 12, bias=False)
with torch.no_grad():
    mixer.weight.copy_(p.view(12, 12, 1, 1))
dealt = mixer(cg.PixelGraph.from_image(image)).to_image()
check("a shuffle is a 1 x 1 convolution with a permutation for weights", torch.equal(dealt, nn.ChannelShuffle(3)(image)))
reached = walls @ p @ walls != 0
matrices({"shuffle": p != 0, "wall @ shuffle @ wall": reached},
         "Left a matrix with a single 1 in every row and column. Right, between two walls, it reaches everywhere.",
         row="output channel", column="hears channel")
check("wall, shuffle, wall: every channel has heard every other", bool(reached.all()))

# %% [markdown]
# ## What you take home
#
# - groups are walls in the matrices, not in the edges; no stack of walls has a door;
# - the pointwise stage is the door: dense, and at every node;
# - a bottleneck's rank is its narrowest part; a shuffle is a mixer without weights.

# %% [markdown]
# ### Your turn 1: build the wall
#
# Write `widened(weight, groups)`: the weight (C_out, C_in, 3, 3) of the full convolution that equals a grouped one with weight (C_out, C_in / groups, 3, 3). The judge compares your full layer with the grouped one for every image and weight.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# def widened(weight, groups):
#     rows = weight.shape[0] // groups
#     blocks = []
#     for g in range(groups):
#         block = weight[g * rows : (g + 1) * rows]
#         before, after = g * block.shape[1], (groups - 1 - g) * block.shape[1]
#         blocks.append(nn.functional.pad(block, (0, 0, 0, 0, before, after)))
#     return torch.cat(blocks)
# ```
#
# A slip that the examiner finds: repeating the block fills the walls; outside of the diagonal there have to be zeros.
#
# ```python
# def widened(weight, groups):
#     return weight.repeat(1, groups, 1, 1)
# ```
#
# </details>

# %%
def widened(weight, groups):
    ...  # your turn

grouped = nn.Conv2d(4, 6, 3, padding=1, groups=2)


def full_of(x, w, b):
    return nn.functional.conv2d(x, widened(w, 2), b, padding=1)


examine("a full layer with your weight is the grouped layer", widened,
        lambda f: ... if f(grouped.weight.detach(), 2) is None else cg.prove(full_of, grouped, size=(4, 5)))

# %% [markdown]
# ### Your turn 2: how narrow?
#
# Three 1 x 1 layers without a nonlinearity, 32 -> a -> b -> 32, have rank 10 and 1,160 weights. Find a and b.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# widths = 10, 20  # 32 * 10 + 10 b + 32 b = 1,160, and the narrowest place is 10
# ```
#
# A slip that the examiner finds: 10 and 10 have rank 10 too, but 740 weights: only the narrowest place sets the rank, the other is free.
#
# ```python
# widths = 10, 10
# ```
#
# </details>

# %%
widths = ...  # your turn

def fits(pair):
    a, b = pair
    net = nn.Sequential(*(nn.Conv2d(i, o, 1, bias=False) for i, o in ((32, a), (a, b), (b, 32)))).double()
    product = net[2].weight[:, :, 0, 0] @ net[1].weight[:, :, 0, 0] @ net[0].weight[:, :, 0, 0]
    return agree(rank(product.detach()), 10, "rank") and agree(count(net), 1160, "weights")


examine("rank 10 with 1,160 weights", widths, fits)

# %% [markdown]
# ### Your turn 3: cross without weights
#
# A shuffle with 3 groups between two walls of 3 groups reaches everybody when each group has 4 channels. How many channels can a group have at most, in a layer of 3 groups, so that wall, shuffle, wall still reaches everybody? And at least? Answer `(fewest, most)`; write `None` for no limit.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# limits = 3, None  # every group has to deal at least one channel to each of the three
# ```
#
# A slip that the examiner finds: a group of one channel can give it to one group only.
#
# ```python
# limits = 1, None
# ```
#
# </details>

# %%
limits = ...  # your turn

def all_reached(inside):
    wall = torch.block_diag(*[torch.ones(inside, inside)] * 3)
    return bool((wall @ shuffle(3 * inside, 3) @ wall > 0).all())


examine("the fewest and the most channels a group may have", limits,
        lambda pair: pair[1] is None and all_reached(pair[0]) and not all_reached(pair[0] - 1) and all(map(all_reached, range(pair[0], 20))))

