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
# # 1. An image is a graph
#
# **Question.** A graph neural network knows nodes, neighbours and messages. A convolution knows an
# image and a kernel. Are these two things, or one?
#
# We start with the image. Every pixel becomes a *node*, its channels become the node's *features*,
# and a kernel decides which pixels are *neighbours*. Nothing is lost on the way, and we check that.

# %%
# %matplotlib inline
import torch

import convgraph as cg
from convgraph import draw
from lesson import answer, check, panels, photograph, show

# %% [markdown]
# ## A pixel is a node
#
# An image of H x W pixels with three channels. **Guess**: how many nodes does its graph have, and
# how many features has each?

# %%
image = photograph(64)
graph = cg.PixelGraph.from_image(image)
print(graph)
answer("64 * 64 = 4,096 nodes with 3 features each: red, green and blue of one pixel.")

# %%
check("one node a pixel, one feature a channel", graph.x.shape == (64 * 64, 3))
row, column = 20, 31
check(
    "node 20 * 64 + 31 holds the colour of the pixel in row 20, column 31",
    torch.equal(graph.x[row * 64 + column], image[:, row, column]),
)
check("and the way back is exact", torch.equal(graph.to_image(), image))

# %% [markdown]
# Nodes are numbered as you read: row by row. `pos` says where each one sits, height before width.

# %%
print(graph.pos[:3].tolist(), "...", graph.pos[-1].tolist())

# %% [markdown]
# ## A neighbour has a direction
#
# A 3 x 3 kernel looks at nine pixels. In a plain graph they would all be "neighbours", and a
# convolution could not tell left from right. So every edge carries its *tap*: which of the nine
# positions it stands for, numbered as you read, 0 at the upper left, 4 oneself, 8 at the lower right.
#
# **Guess** for a 12 x 12 image: how many edges? Nine per pixel would be 1,296. But a pixel on the
# border has nobody to listen to on the outside.

# %%
crop = photograph(128)[:, 23:35, 48:60]
small = cg.PixelGraph.from_image(crop)
kernel = cg.KernelGeometry(3, padding=1)
edges = cg.connect(kernel, small)
print(edges)
answer("Along one axis 12 + 11 + 11 = 34 pairs are inside, so 34 * 34 = 1,156 edges.")

# %%
check("34 pairs along each axis, hence 34 * 34 edges", edges.num_edges == 34 * 34)
axes = panels(2, 6, 6.6)
draw.pixel_graph(crop, kernel, ax=axes[0])
draw.pixel_graph(crop, cg.KernelGeometry(1), ax=axes[1])

# %% [markdown]
# On the left each pixel listens through up to nine taps, each in its colour; on the right the kernel
# is 1 x 1 and only the *self-loops* are left. The next lesson is about what that costs.
#
# ## One tap is one matrix
#
# Write a 1 at row p, column q when p hears q through tap t. That is the *adjacency matrix* of a tap.
# A 4 x 4 image has 16 nodes, so it is a 16 x 16 matrix.

# %%
tiny = cg.PixelGraph.from_image(torch.arange(16.0).view(1, 4, 4))
layer = cg.nn.GraphConv2d(1, 1, 3, padding=1, bias=False)
axes = panels(3, 4.2, 4.4)
for ax, tap in zip(axes, (4, 5, None)):
    draw.adjacency(layer, tiny, tap, ax=ax)

# %% [markdown]
# Tap 4 is oneself: the identity. Tap 5 is the pixel to the right: a diagonal beside the main one,
# with a gap at the end of each row of the image. All nine together make the bands of a convolution.

# %%
among = layer.edges(tiny)
matrices = torch.zeros(9, 16, 16)
matrices[among.edge_type, among.edge_index[1], among.edge_index[0]] = 1
check("tap 4 is the identity matrix", torch.equal(matrices[4], torch.eye(16)))
check("tap 3 is tap 5 with its arrows turned round", torch.equal(matrices[3], matrices[5].T))
heard = (matrices[5] @ tiny.x).view(4, 4)
print(heard)
check(
    "multiplying by tap 5 shows everybody the pixel to the right, and 0 where there is none",
    torch.equal(heard[:, :3], tiny.to_image()[0, :, 1:]) and not heard[:, 3].any(),
)

# %% [markdown]
# ## What you take home
#
# - pixel = node, channels = features, kernel position = *type* of an edge;
# - an image and its graph hold the same numbers, in the same order, and the way back is exact;
# - a tap is a matrix of zeros and ones, and padding with zeros is a row without a one.
#
# **Try it**: draw the graph of `cg.KernelGeometry(3, padding=2, dilation=2)`. Which edges grew?
