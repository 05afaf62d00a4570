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
# # 8. Attention is a denser graph
#
# **Question.** A convolution sends messages along a fixed graph with learnt matrices. What does attention change: the
# graph, the messages, or the matrices?

# %%
# %matplotlib inline
import torch
from torch import nn

import convgraph as cg
from lesson import check, matrices

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

# %%
nodes = torch.arange(H * W)
target, source = torch.cartesian_prod(nodes, nodes).T
print(f"{len(source)} edges at 5 x 5, {(224 * 224) ** 2:,} at 224 x 224; a 3 x 3 kernel needs at most {9 * 224 * 224:,}")

# %% [markdown]
# <details><summary><b>Answer</b> (guess first)</summary>N squared: 625, and two and a half thousand million at
# 224 x 224.</details>

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

# %%
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
    {"3 x 3: who talks to whom is fixed": kernel, "attention: everybody, more or less": weight.view(25, 25)},
    row="target node", column="source node",
)

# %% [markdown]
# ## Squeeze-and-excitation: a readout node that talks back
#
# One extra node hears every pixel (the mean), thinks (two small linear maps), and tells every pixel how much of
# each channel to keep. N edges in, N edges out: cheap, and yet every pixel has heard of every other.

# %%
squeeze = nn.Sequential(nn.Linear(C, 2), nn.ReLU(), nn.Linear(2, C), nn.Sigmoid()).double()
readout = cg.nn.GraphGlobalAvgPool()(graph).x
gate = squeeze(readout)
gated = graph.with_x(graph.x * gate[graph.batch]).to_image()
dense = x * gate[:, :, None, None]
check("25 times what the readout node heard is the sum over the image", torch.equal((readout * 25).round(), x.sum((2, 3))))
check("one readout node for the image, one gate a channel", gate.shape == (1, C))
check("gating the nodes is gating the image", torch.equal(gated, dense))

# %% [markdown]
# ## Heads that are taps
#
# Can attention be a convolution? Give it nine heads, and let head t look at one place only: the neighbour at
# tap t. Scores that depend on *positions* do that: a large number where the offset is right. (Cordonnier, Loukas
# and Jaggi, "On the relationship between self-attention and convolutional layers", ICLR 2020.)
# **Guess** what the softmax becomes when the large number grows.

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
outside = [n for n in range(H * W) if n not in inner]
padded = nn.functional.conv2d(x, kernel3.weight, padding=1)[0].flatten(1).T
check("on the border they do not: a softmax must look somewhere, padding is silence", not torch.equal(total[outside], padded[outside]))

# %% [markdown]
# <details><summary><b>Answer</b> (guess first)</summary>It becomes a one and zeros: the head copies exactly one
# neighbour. exp(-10000) is 0 in floating point.</details>

# %% [markdown]
# ## What you take home
#
# - queries, keys, values and gates are self-loops; attention is the *complete* graph with weights made from its nodes;
# - a convolution is the sparse special case: the graph is fixed, and the type of an edge chooses the matrix;
# - a readout node is the cheapest way to let everybody hear of everybody.
