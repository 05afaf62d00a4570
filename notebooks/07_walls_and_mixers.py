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
# # 7. Walls and mixers
#
# **Question.** Groups cut the channels of a layer into blocks that do not talk. How do they ever learn of each
# other?

# %%
# %matplotlib inline
import torch
from torch import nn

import convgraph as cg
from lesson import check, matrices

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

# %%
walls = mixing(layers[3].weight, 3)
dense = torch.randn(12, 12)
stacks = {"wall @ wall": walls @ walls, "mixer": dense, "wall @ mixer @ wall": walls @ dense @ walls}
matrices({f"{name}: {int((m != 0).sum())} of 144": m != 0 for name, m in stacks.items()}, row="output channel", column="hears channel")

# %% [markdown]
# <details><summary><b>Answer</b> (guess first)</summary>One. The pointwise stage is dense: a full matrix at
# every node.</details>

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
# ResNet's block projects, looks, expands; MobileNetV2's expands, looks, projects (and has no rectifier
# at the narrow end, since a rectifier there would forget for good). Count the weights for 64 channels outside and a factor 4:

# %%
count = lambda net: sum(p.numel() for p in net.parameters())
resnet = nn.Sequential(nn.Conv2d(64, 16, 1, bias=False), nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.Conv2d(16, 64, 1, bias=False))
mobile = nn.Sequential(nn.Conv2d(64, 256, 1, bias=False), nn.Conv2d(256, 256, 3, padding=1, groups=256, bias=False), nn.Conv2d(256, 64, 1, bias=False))
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
matrices({"shuffle": p != 0, "wall @ shuffle @ wall": reached}, row="output channel", column="hears channel")
check("wall, shuffle, wall: every channel has heard every other", bool(reached.all()))

# %% [markdown]
# ## What you take home
#
# - groups are walls in the matrices, not in the edges; no stack of walls has a door;
# - the pointwise stage is the door: dense, and at every node;
# - a bottleneck's rank is its narrowest part; a shuffle is a mixer without weights.
