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
#
# How to read a lesson: run the cells from the top. Where it says **Guess**, do, before you unfold the
# answer. A line with a check mark was computed just now, and the lesson stops where one does not hold.
# `lesson.py` beside this notebook has the few helpers (`check`, `show`, ...); `cg` is convgraph.

# %%
# %matplotlib inline
import torch

import convgraph as cg
from convgraph import draw
from lesson import check, frame, panels, photograph, show

# %% [markdown]
# ## A pixel is a node
#
# An image of 64 x 64 pixels with three channels, channels first as everywhere in PyTorch: (3, 64, 64).
# (A picture from matplotlib or NumPy is (H, W, 3); `movedim(-1, 0)` turns it.) **Guess**: how many
# nodes does its graph have, and how many features has each?

# %%
image = photograph(64)
show([image], ["64 x 64 pixels"])
graph = cg.PixelGraph.from_image(image)
print(graph)

# %% [markdown]
# <details><summary><b>Answer</b> (guess first)</summary>64 * 64 = 4,096 nodes with 3 features each: red, green
# and blue of one pixel.</details>

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
# border has nobody to listen to on the outside. (`KernelGeometry` is the kernel without its weights:
# size, stride, padding. `connect` lists its edges on a graph.)

# %%
photo = photograph(128)
crop = photo[:, 23:35, 48:60]  # the eye on the left
small = cg.PixelGraph.from_image(crop)
kernel = cg.KernelGeometry(3, padding=1)
edges = cg.connect(kernel, small)
print(edges)

# %% [markdown]
# <details><summary><b>Answer</b> (guess first)</summary>1,156. Along one axis 12 pixels hear themselves, 11
# hear the one before and 11 the one after: 34 pairs. An edge is a pair of rows and a pair of columns: 34 *
# 34.</details>

# %%
check("34 pairs along each axis, hence 34 * 34 edges", edges.num_edges == 34 * 34)
axes = panels(3, 5.4, 6.0)
axes[0].imshow(photo.movedim(0, -1))
frame(axes[0], 23, 48, 12)
axes[0].set_axis_off()
axes[0].set_title("a photograph, and the 12 x 12 pixels drawn here")
for ax, geometry in zip(axes[1:], (kernel, cg.KernelGeometry(1))):
    draw.pixel_graph(crop, geometry, ax=ax)

# %% [markdown]
# A short line is the beginning of an edge, at the pixel that *hears*, pointing to the pixel it hears;
# its colour is the tap, and a ring is a pixel that hears itself. In the middle each pixel listens through
# up to nine taps. On the right the kernel is 1 x 1: it has one tap, which is now number 0, and only the
# *self-loops* are left. The next lesson is about what that costs.
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
# with a gap at the end of each row of the image. All nine together, in the colours from above, make the
# bands of a convolution.

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
# **Try it** before you run the next cell: with `cg.KernelGeometry(3, padding=2, dilation=2)`, which edges
# grow, and how many are left on the 12 x 12 crop?

# %%
dilated = cg.connect(cg.KernelGeometry(3, padding=2, dilation=2), small)
far = (small.pos[dilated.edge_index[1]] - small.pos[dilated.edge_index[0]]).abs().amax(1)
check("dilated by 2, an edge is a self-loop or 2 pixels long", sorted(far.unique().tolist()) == [0, 2])
check("and 32 * 32 of them are left", dilated.num_edges == 32 * 32)

# %% [markdown]
# <details><summary><b>Answer</b> (guess first)</summary>All but the self-loops: each is 2 pixels long instead
# of 1 along the axes where it had a length. Two pixels from the border there is nobody any more, so along an
# axis 12 + 10 + 10 = 32 pairs are left: 1,024.</details>
