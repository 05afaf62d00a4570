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
# # 1. An image is a graph
#
# **Question.** A graph neural network knows nodes, neighbours and messages. A convolution knows an
# image and a kernel. Are these two things, or one?
#
# The series begins with a paradox. A *convolution* looks at a neighbourhood; so what is a convolution of
# size 1 x 1, which has no neighbour to look at, and why is every modern network full of them? To answer it
# we need to see *who talks to whom* in a convolution. That is a graph, and this lesson builds it: every
# pixel becomes a *node*, its channels become the node's *features*, and a kernel decides which pixels are
# *neighbours*. Nothing is lost on the way, and we check that.
#
# **After this lesson you can** turn an image into a graph and back, count the edges of any kernel, and write
# one tap of a kernel as a matrix. **You need** Python and a little PyTorch (a tensor, a shape).
# **Time**: 45 minutes. A pixel is a node 8, a neighbour has a direction 12, one tap is one matrix 8, your
# turn 17.
#
# How to read a lesson: run the cells from the top. Where it says **Guess**, do, before you unfold the
# answer. A line with a check mark was computed just now, and the lesson stops where one does not hold. At the
# end it is your turn: write your answer in place of the dots, run the cell, and the examiner says whether it is
# right. Words: a node *hears* another when a message arrives from it; *who talks to whom* are the edges.
# `lesson.py` beside this notebook has the few helpers (`check`, `show`, ...); `cg` is convgraph.

# %%
# %matplotlib inline
import torch

import convgraph as cg
from convgraph import draw
from lesson import agree, check, examine, frame, panels, photograph, picture, show

# %% [markdown]
# ## A pixel is a node
#
# An image of 64 x 64 pixels with three channels, channels first as everywhere in PyTorch: (3, 64, 64).
# (A picture from matplotlib or NumPy is (H, W, 3); `movedim(-1, 0)` turns it.) **Guess**: how many
# nodes does its graph have, and how many features has each?
#
# <details><summary><b>Answer</b></summary>64 * 64 = 4,096 nodes with 3 features each: red, green
# and blue of one pixel.</details>

# %%
image = photograph(64)
show([image], ["64 x 64 pixels"], "A photograph of an astronaut, 64 x 64 pixels.")
graph = cg.PixelGraph.from_image(image)
print(graph)

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
# Here is one pixel of a photograph as a node, drawn large, and the nine edges that end in it. An arrow
# goes the way of the message: from the pixel that speaks to the pixel that hears. Its number is the tap. Tap 4 is
# the *self-loop*: the pixel hears itself.

# %%
photo = photograph(128)
crop = photo[:, 23:35, 48:60]  # the eye on the left
axes = panels(2, 3.7, 3.9)
for ax, geometry in zip(axes, (cg.KernelGeometry(3, padding=1), cg.KernelGeometry(1))):
    draw.node(crop, 5 * 12 + 5, geometry, ax=ax)
axes[0].set_title("a 3 x 3 kernel: nine edges")
axes[1].set_title("a 1 x 1 kernel: one self-loop")
picture(axes[0], "Left: a node with eight arrows from its eight neighbours, numbered 0 to 8 as one reads, and a loop with number 4. Right: the same node with the loop alone.")

# %% [markdown]
# On the right is the paradox as a picture: of a 1 x 1 kernel only the loop is left. (Being its only tap, it has number 0.)
#
# Now all of them at once. **Guess** for a 12 x 12 image: how many edges? Nine per pixel would be 1,296. But a pixel on the
# border has nobody to listen to on the outside. (`KernelGeometry` is the kernel without its weights:
# size, stride, padding. `connect` lists its edges on a graph.)
#
# <details><summary><b>Answer</b></summary>1,156. Along one axis 12 pixels hear themselves, 11
# hear the one before and 11 the one after: 34 pairs. An edge is a pair of rows and a pair of columns: 34 *
# 34.</details>

# %%
small = cg.PixelGraph.from_image(crop)
kernel = cg.KernelGeometry(3, padding=1)
edges = cg.connect(kernel, small)
print(edges)

# %%
check("34 pairs along each axis, hence 34 * 34 edges", edges.num_edges == 34 * 34)
axes = panels(2, 3.7, 4.6)
axes[0].imshow(photo.movedim(0, -1))
frame(axes[0], 23, 48, 12)
axes[0].set_axis_off()
axes[0].set_title("the 12 x 12 pixels drawn here")
draw.pixel_graph(crop, kernel, ax=axes[1])
axes[1].set_title("144 nodes, 1,156 typed edges")
picture(axes[0], "Left: the photograph with a frame around one eye. Right: the pixels in the frame, each with coloured line ends towards up to eight neighbours and a small loop; at the border some are missing.")

# %% [markdown]
# There is no room for 1,156 whole arrows. Of each edge you see the end: the last stretch, at the pixel that
# *hears*, in the colour of its tap; the small ring is the self-loop. At the border some are missing. (In
# the explorer, `cg.explore()`, you can walk over an image with whole arrows.)
#
# ## One tap is one matrix
#
# Write a 1 at row p, column q when p hears q through tap t. That is the *adjacency matrix* of a tap.
# A 4 x 4 image has 16 nodes, so it is a 16 x 16 matrix.

# %%
tiny = cg.PixelGraph.from_image(torch.arange(16.0).view(1, 4, 4))
layer = cg.nn.GraphConv2d(1, 1, 3, padding=1, bias=False)
axes = panels(2, 3.7, 4.0)
for ax, tap in zip(axes, (4, 5)):
    draw.adjacency(layer, tiny, tap, ax=ax)
picture(axes[0], "Two matrices of 16 x 16: tap 4 is the main diagonal, tap 5 the diagonal beside it with a gap after every fourth place.")
everyone = draw.adjacency(layer, tiny, legend=True)
everyone.figure.set_size_inches(4.6, 5.6)
picture(everyone, "One matrix of 16 x 16 with the nine taps in nine colours: three bands of three diagonals each.")

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

# %% [markdown]
# ### Your turn 1: count edges
#
# How many edges has a 5 x 5 kernel with padding 2 on the 12 x 12 crop? Count the pairs along one axis first.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# pairs = 12 + 2 * 11 + 2 * 10  # distance 0, distance 1 both ways, distance 2 both ways
# edges_of_five = pairs**2
# ```
#
# A slip that the examiner finds: 25 for each pixel forgets the border.
#
# ```python
# edges_of_five = 25 * 144
# ```
#
# </details>

# %%
edges_of_five = ...  # your turn

examine("the edges of a 5 x 5 kernel on 12 x 12 pixels", edges_of_five,
        lambda n: agree(n, cg.connect(cg.KernelGeometry(5, padding=2), small).num_edges))

# %% [markdown]
# ### Your turn 2: a kernel that leaps
#
# Choose a kernel of 3 x 3 taps whose edges go 0 or 3 pixels along each axis, never 1 or 2, and which keeps the image's size. Fill in `dilation` and `padding`.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# leaping = cg.KernelGeometry(3, dilation=3, padding=3)
# ```
#
# A slip that the examiner finds: without padding the output shrinks to 6 x 6, and a node of the output no longer lies on its pixel.
#
# ```python
# leaping = cg.KernelGeometry(3, dilation=3)
# ```
#
# </details>

# %%
leaping = ...  # cg.KernelGeometry(3, dilation=?, padding=?)  # your turn

def leaps_by_three(geometry):
    found = cg.connect(geometry, small)
    far = (small.pos[found.edge_index[1]] - small.pos[found.edge_index[0]]).abs()
    return (agree(found.target.sizes[0], small.sites.sizes[0], "the size of the output")
            and agree(far.unique().tolist(), [0, 3], "how far the edges go along an axis"))


examine("nine taps, every edge goes 0 or 3 pixels along each axis, the size stays", leaping, leaps_by_three)

# %% [markdown]
# ### Your turn 3: one tap as a matrix
#
# Write the adjacency matrix of tap 1 (the pixel above) of the 4 x 4 image, 16 x 16, from scratch: `A[p, q] = 1` where p hears q. No convgraph, only a loop or `torch.diag`.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# above = torch.diag(torch.ones(12), -4)  # the node 4 numbers earlier: one row up
# ```
#
# A slip that the examiner finds: row p *hears* column q; above the diagonal it would be the pixel below.
#
# ```python
# above = torch.diag(torch.ones(12), 4)
# ```
#
# </details>

# %%
above = ...  # your turn

examine("multiplying by your matrix shows everybody the pixel above, and 0 in the first row", above,
        lambda a: agree(a @ tiny.x, torch.cat([torch.zeros(4, 1), tiny.x[:-4]]), "what the nodes hear") and agree(a, matrices[1]))

# %% [markdown]
# ### Your turn 4: the way back
#
# Rows of features in, image out. Write `to_image(x, height, width)` for `x` of shape (height * width, C): it returns (C, height, width), as `graph.to_image()` does.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# def to_image(x, height, width):
#     return x.T.reshape(-1, height, width)
# ```
#
# A slip that the examiner finds: the channels of one pixel lie side by side in a row; without the transpose they are taken for neighbours.
#
# ```python
# def to_image(x, height, width):
#     return x.reshape(-1, height, width)
# ```
#
# </details>

# %%
def to_image(x, height, width):
    ...  # your turn

examine("your way back is exact", to_image,
        lambda back: agree(back(small.x, 12, 12), crop) and agree(back(graph.x[: 8 * 64], 8, 64), image[:, :8], "8 x 64 pixels"))

