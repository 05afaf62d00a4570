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
# # 8. Attention is a denser graph
#
# **Question.** A convolution sends messages along a fixed graph with learnt matrices. What does attention change: the
# graph, the messages, or the matrices?
#
# **After this lesson you can** write attention as message passing on the complete graph, squeeze-and-excitation as a
# readout node, and a convolution as nine heads. **You need** lessons 3 and 4. **Time**: 50 minutes. Queries 5,
# the complete graph 12, squeeze-and-excitation 8, heads 10, your turn 15.

# %%
# %matplotlib inline
import torch
from torch import nn

import convgraph as cg
from lesson import COLOURS, INK, agree, check, examine, matrices, panels, photograph, picture, show

torch.manual_seed(0)
integers = lambda *shape: torch.randint(-4, 5, shape).double()

# %% [markdown]
# ## 1 x 1 for queries, keys, values
#
# In attention every node asks (query), offers (key) and says (value). Each of the three is a linear map
# *of that node alone*: a 1 x 1 convolution.

# %%
C, H, W = 4, 5, 5
x = integers(1, C, H, W)
graph = cg.PixelGraph.from_image(x)
qkv = cg.nn.PointwiseConv(C, 3 * C, bias=False, dtype=torch.float64)
with torch.no_grad():
    qkv.weight.copy_(integers(3 * C, C, 1, 1))
q, k, v = qkv(graph).x.detach().chunk(3, dim=1)
linear = nn.functional.linear(x.flatten(2).mT, qkv.weight.flatten(1))[0]
check("queries, keys and values are a graph of self-loops", torch.equal(torch.cat([q, k, v], 1), linear))

# %% [markdown]
# ## The complete graph
#
# Now everybody talks to everybody. **Guess**: how many edges does an image of 5 x 5 pixels have then? And one
# of 224 x 224?
#
# <details><summary><b>Answer</b></summary>N squared: 625, and two and a half thousand million at
# 224 x 224.</details>

# %%
nodes = torch.arange(H * W)
target, source = torch.cartesian_prod(nodes, nodes).T
print(f"{len(source)} edges at 5 x 5, {(224 * 224) ** 2:,} at 224 x 224; a 3 x 3 kernel needs at most {9 * 224 * 224:,}")

# %% [markdown]
# The weight on an edge is computed from the two nodes at its ends, and sums to one over what a node hears.
# Written as message passing: one type of edge, an `edge_weight`, and torch's dense formula as the referee. Queries and
# keys are small integers here, so the scores are exact on both sides.

# %%
scores = (q[target] * k[source]).sum(1) / 64
weight = torch.zeros_like(scores)
for node in nodes:
    heard = target == node
    weight[heard] = scores[heard].softmax(0)
dense_weight = (q @ k.T / 64).softmax(1)
check("a softmax over what a node hears is the row of the dense matrix", torch.equal(weight.view(25, 25), dense_weight))
check("some weights are really different", float(dense_weight.std()) > 0)

# %% [markdown]
# And the sum of the messages. To compare it bit for bit, the weights are put on a grid of 2^-30: then no sum of
# products is rounded, in whatever order it is taken.

# %% tags=["nbval-ignore-output"]
say = cg.nn.GraphConvNd(C, C, cg.KernelGeometry(1), bias=False, dtype=torch.float64)
with torch.no_grad():
    say.weight.copy_(torch.eye(C).view(C, C, 1, 1))
grid = (weight * 2**30).round() / 2**30
by_messages = say(v, torch.stack([source, target]), edge_weight=grid)
check("message passing on the complete graph is attention, bit for bit", torch.equal(by_messages, grid.view(25, 25) @ v))
referee = nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], scale=1 / 64)[0]
print(f"torch's fused attention, which rounds: largest difference {float((by_messages - referee).detach().abs().max()):.1e}")

# %%
local = cg.nn.GraphConv2d(1, 1, 3, padding=1)
kernel = torch.zeros(25, 25)
edges = local.edges(cg.PixelGraph.from_image(torch.zeros(1, 5, 5)))
kernel[edges.edge_index[1], edges.edge_index[0]] = 1
matrices(
    {"3 x 3: the graph is fixed": kernel, "attention: all, more or less": weight.view(25, 25)},
    "Two matrices of 25 x 25. Left: bands of equal squares around the diagonal. Right: a few dark places in every row, anywhere, and pale ones between them.",
    row="target node", column="source node",
)

# %% [markdown]
# ## Squeeze-and-excitation: a readout node that talks back
#
# One extra node hears every pixel (the mean), thinks (two small linear maps), and tells every pixel how much of
# each channel to keep. $N$ edges in, $N$ edges out: cheap, and yet every pixel has heard of every other. As a graph:

# %%
(ax,) = panels(1, 7.2, 3.0)
rng = range(9)
for n in rng:
    for x0, start, end in ((-3.0, (-3.0, n), (0.0, 4.0)), (3.0, (0.0, 4.0), (3.0, n))):
        ax.annotate("", end, start, arrowprops=dict(arrowstyle="-|>", color=COLOURS[0 if x0 < 0 else 1], shrinkA=7 if x0 < 0 else 20, shrinkB=20 if x0 < 0 else 8))
        ax.scatter(x0, n, s=120, color="#dddddd", edgecolors=INK, zorder=3)
ax.scatter(0, 4, s=1500, color="#ffffff", edgecolors=INK, linewidths=2, zorder=3)
ax.text(0, 4, "readout", ha="center", va="center", fontsize=9, color="#111111", zorder=4)
ax.text(-3, 9.3, "squeeze: every pixel speaks", ha="center")
ax.text(3, 9.3, "excite: every pixel hears its gates", ha="center")
ax.set(xlim=(-5, 5), ylim=(-0.8, 10.2))
ax.set_axis_off()
picture(ax, "Nine pixels on the left send an arrow each to one large readout node in the middle, which sends an arrow to each of nine pixels on the right.")

# %% [markdown]
# With a photograph: the readout node hears three means, and a gate a channel changes the light of the whole picture.

# %%
photo = cg.PixelGraph.from_image(photograph(128))
means = cg.nn.GraphGlobalAvgPool()(photo).x
gates = means.min() / means  # a simple way of thinking: make the three means equal
shown = photo.with_x(photo.x * gates[photo.batch]).to_image()
show([photo.to_image(), shown], ["before", "gates that make the means equal"], "The photograph, and the same with less red: every pixel was scaled by three gates that one node computed.")

# %% [markdown]
# And now with weights, against the dense formula:

# %%
squeeze = nn.Sequential(nn.Linear(C, 2), nn.ReLU(), nn.Linear(2, C), nn.Sigmoid()).double()
readout = cg.nn.GraphGlobalAvgPool()(graph).x
gate = squeeze(readout)
gated = graph.with_x(graph.x * gate[graph.batch]).to_image()
dense = x * gate[:, :, None, None]
heard = (readout * 25).round()
check("25 times what the readout node heard is the sum over the image", torch.equal(heard, x.sum((2, 3))))
check("one readout node for the image, one gate a channel", gate.shape == (1, C))
check("gating the nodes is gating the image", torch.equal(gated, dense))

# %% [markdown]
# ## Heads that are taps
#
# Can attention be a convolution? Give it nine heads, and let head t look at one place only: the neighbour at
# tap t. Scores that depend on *positions* do that: a large number where the offset is right. (Cordonnier, Loukas
# and Jaggi, "On the relationship between self-attention and convolutional layers", ICLR 2020.)
# **Guess** what the softmax becomes when the large number grows.
#
# <details><summary><b>Answer</b></summary>It becomes a one and zeros: the head copies exactly one
# neighbour. exp(-10000) is 0 in floating point.</details>

# %%
kernel3 = nn.Conv2d(C, C, 3, bias=False, dtype=torch.float64)
with torch.no_grad():
    kernel3.weight.copy_(integers(C, C, 3, 3))
pos = graph.pos
inner = [n for n in range(H * W) if 0 < pos[n, 0] < H - 1 and 0 < pos[n, 1] < W - 1]
total = torch.zeros(H * W, C, dtype=torch.float64)
for tap in range(9):
    offset = torch.tensor([tap // 3 - 1, tap % 3 - 1])
    distance = (pos[None, :] - pos[:, None] - offset).square().sum(-1).double()
    attention = (-1e4 * distance).softmax(1)  # every other pixel is at least 1 away: exp(-10000) is 0
    total += attention @ graph.x @ kernel3.weight[:, :, tap // 3, tap % 3].T
expected = kernel3(x)[0].flatten(1).T
check("nine heads reproduce the nine taps, bit for bit, inside of the border", torch.equal(total[inner], expected))
heads = {}
for tap in (0, 4, 5):
    offset = torch.tensor([tap // 3 - 1, tap % 3 - 1])
    distance = (pos[None, :] - pos[:, None] - offset).square().sum(-1).double()
    heads[f"head {tap}"] = (-1e4 * distance).softmax(1)
matrices(heads, "Three matrices of 25 x 25 with a diagonal each: head 4 on the main one, head 5 beside it, head 0 further below; at their ends the border looks elsewhere.",
         row="target node", column="source node")
outside = [n for n in range(H * W) if n not in inner]
padded = nn.functional.conv2d(x, kernel3.weight, padding=1)[0].flatten(1).T
different = not torch.equal(total[outside], padded[outside])
check("on the border they do not: a softmax must look somewhere, padding is silence", different)

# %% [markdown]
# ## What you take home
#
# - queries, keys, values and gates are self-loops; attention is the *complete* graph with weights made from its nodes;
# - a convolution is the sparse special case: the graph is fixed, and the type of an edge chooses the matrix;
# - a readout node is the cheapest way to let everybody hear of everybody.

# %% [markdown]
# ### Your turn 1: queries by a 1 x 1
#
# Write `queries(w, image)` for a weight `w` (D, C, 1, 1) and an image (C, H, W): one query a pixel, as rows (H * W, D) in reading order. No convolution: a query is a matrix times one pixel.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# def queries(w, image):
#     return image.flatten(1).T @ w[:, :, 0, 0].T
# ```
#
# A slip that the examiner finds: `reshape` keeps the order in memory, which is channel by channel; transpose first.
#
# ```python
# def queries(w, image):
#     return image.reshape(-1, image.shape[0]) @ w[:, :, 0, 0].T
# ```
#
# </details>

# %%
def queries(w, image):
    ...  # your turn

examine("your queries are those of a 1 x 1 convolution", queries,
        lambda f: agree(f(qkv.weight.detach()[:C], x[0]), nn.functional.conv2d(x, qkv.weight[:C])[0].flatten(1).T))

# %% [markdown]
# ### Your turn 2: attention on an edge list
#
# Write `attend(q, k, v, edge_index)`: for every target the softmax of its incoming scores `q[target] . k[source]`, then the weighted sum of `v[source]`. On the complete graph it is torch's attention (scale 1); on *any* graph it is sparse attention. Targets are `edge_index[1]`; every node has an edge.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# def attend(q, k, v, edge_index):
#     source, target = edge_index
#     score = (q[target] * k[source]).sum(1)
#     out = torch.zeros_like(v)
#     for node in range(len(v)):
#         here = target == node
#         out[node] = score[here].softmax(0) @ v[source[here]]
#     return out
# ```
#
# A slip that the examiner finds: one softmax over *all* edges: it has to sum to one at each target.
#
# ```python
# def attend(q, k, v, edge_index):
#     source, target = edge_index
#     weight = (q[target] * k[source]).sum(1).softmax(0)
#     return torch.zeros_like(v).index_add(0, target, weight[:, None] * v[source])
# ```
#
# </details>

# %%
def attend(q, k, v, edge_index):
    ...  # your turn

def is_attention(f):
    few = torch.arange(16)
    to, come = torch.cartesian_prod(few, few).T
    everyone, say = torch.stack([come, to]), integers(16, 3)
    equal = f(torch.zeros(16, 2).double(), torch.zeros(16, 2).double(), say, everyone)  # every weight is 1/16
    one_hot = 1e6 * torch.eye(16).double()
    sharp = f(one_hot, one_hot.roll(1, 0), say, everyone)  # every weight is 0 or 1
    alone = f(q, k, v, nodes.repeat(2, 1))  # who hears only itself says its own value
    return (agree(equal, say.mean(0).expand(16, 3), "all scores equal, complete graph") and agree(sharp, say.roll(-1, 0), "one score far above the others")
            and agree(alone, v, "self-loops alone"))


examine("attention over any edges: complete, and self-loops alone", attend, is_attention)

# %% [markdown]
# ### Your turn 3: a gate that keeps everything
#
# Squeeze-and-excitation multiplies each channel by a sigmoid. Write the weight (C, 2) and bias (C) of the last linear map such that every gate is exactly 1/2, whatever the image: then the block only halves.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# last = torch.zeros(C, 2), torch.zeros(C)
# ```
#
# A slip that the examiner finds: the sigmoid comes after the bias: of 0 it is one half, of 0.5 it is 0.62.
#
# ```python
# last = torch.zeros(C, 2), torch.full((C,), 0.5)
# ```
#
# </details>

# %%
last = ...  # weight, bias  # your turn

def halves(pair):
    w, b = (part.double() for part in pair)
    for scale in (1.0, -30.0, 1e6):
        gate = torch.sigmoid(nn.functional.linear(torch.relu(squeeze[0](readout * scale)), w, b))
        agree(graph.x * gate[graph.batch], graph.x / 2, "the gated nodes")
    return agree(tuple(w.shape), (C, 2), "shape of the weight") and agree(tuple(b.shape), (C,), "shape of the bias")


examine("gates of exactly one half for every image", last, halves)

