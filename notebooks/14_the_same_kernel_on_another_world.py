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
# # 14. The same kernel on another world
#
# **Question.** A texture that tiles a wall, a camera with hexagonal pixels, a map of the whole sky: none of them is a rectangle. Must a convolution be invented anew for each?
#
# **After this lesson you can** put an ordinary kernel on a torus, on hexagons and on a sphere, say which pixels it hears there, and
# tell a network that wraps from one that only looks as if. **You need** lessons 4 and 12. **Time**: 50 minutes. A world without
# a border 10, what everybody does 12, hexagons 6, the sphere 10, your turn 12.
#
# A kernel asks a pixel for its neighbours. A dense layer answers with the array. A graph may ask the *world*: only the arrows change, the weights stay.

# %%
# %matplotlib inline
import copy

import torch
import torch.nn.functional as F
from torch import nn

import convgraph as cg
from convgraph import draw
from lesson import agree, check, examine, panels, photograph, picture, show

generator = torch.manual_seed(0)

# %% [markdown]
# ## A world without a border
#
# On a **torus** the first column comes behind the last one, and the first row below the last one. **Guess**: 8 x 8 pixels and a 3 x 3 kernel with
# padding 1. In the plane there are 484 edges. How many are there on the torus?
#
# <details><summary><b>Answer</b></summary>576: nine for each of the 64 pixels. Nobody stands at a border, so nothing is lost there.</details>

# %%
crop = photograph(128)[:, 24:32, 50:58]
kernel = cg.KernelGeometry(3, padding=1)
plane, torus = cg.PixelGraph.from_image(crop), cg.PixelGraph.from_image(crop, on=cg.Torus())
print(torus)
on_plane, on_torus = (cg.connect(kernel, graph).num_edges for graph in (plane, torus))

# %%
check("484 edges in the plane, 9 x 64 = 576 on the torus", (on_plane, on_torus) == (484, 576))
(ax,) = panels(1, 5.2, 5.2)
picture(draw.world(torus, kernel, node=0, ax=ax), "8 x 8 pixels; from the pixel in the upper left corner lines lead to its neighbours, five of them to the far sides.")

# %% [markdown]
# ## What everybody does, and what it leaves out
#
# Seamless textures are made by setting `padding_mode="circular"` on every convolution of a network. Below is a small U-Net with whole
# numbers for weights, so that sums are exact. The truth is easy to see: tile the plane with the texture, run the network, cut out the tile in
# the middle. **Guess**: which parts of the network do not wrap, though all of its convolutions do?
#
# <details><summary><b>Answer</b></summary>The max pool and the bilinear enlargement. Both look at neighbours, neither has a padding mode.
# The seam is wrong wherever they look across it, and the convolutions behind them carry it further in.</details>

# %%
class Net(nn.Module):
    """Down by a pool, up by a resize, one skip."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.deep = nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x):
        one = self.first(x).relu()
        two = self.deep(F.max_pool2d(one, 3, 2, 1)).relu()
        up = F.interpolate(two, scale_factor=2, mode="bilinear")
        return self.last(torch.cat([one, up], dim=1))


net = Net().double()
with torch.no_grad():
    for parameter in net.parameters():
        parameter.copy_(torch.randint(-2, 3, parameter.shape))
texture = (photograph(32)[:1, None] * 9).round().double()
truth = net(texture.repeat(1, 1, 5, 5))[:, :, 64:96, 64:96]

usual = copy.deepcopy(net)
for module in usual.modules():
    if isinstance(module, nn.Conv2d):
        module.padding_mode = "circular"
        module._reversed_padding_repeated_twice = [1, 1, 1, 1]
seamless = cg.to_graph(net)(cg.PixelGraph.from_image(texture, on=cg.Torus())).to_image()

with torch.no_grad():
    errors = [(found - truth)[0, 0] for found in (net(texture), usual(texture), seamless)]
show(errors, ["zero padding", "circular convolutions", "on the torus"], "Three maps of the error: zero padding is far off along the sides, circular convolutions are off in places there, the torus nowhere.", signed=True)

# %%
check("on the torus the network is the network on the tiling, bit for bit", torch.equal(seamless, truth))
check("circular padding on every convolution is not", bool((errors[1] != 0).any()))
check("far from the seam both are right", bool((errors[1][8:24, 8:24] == 0).all()))

# %% [markdown]
# The judge has its own idea of a torus: it lays the pixels out anew before each operator of the dense network. It proves the one network and refutes the
# other, with the pixel at which it shows.

# %%
pair = torch.cat([texture, texture.flip(3)])
good = cg.prove(cg.to_graph(net), net, pair, on=cg.Torus())
bad = cg.prove(usual, net, pair, on=cg.Torus())
print(good.verdict)
print(bad.verdict, "-", bad.reason.partition("; ")[2])

# %%
check("proven on the torus", good.verdict == "proven")
check("circular convolutions alone are refuted", bad.verdict == "refuted")

# %% [markdown]
# ## Hexagons
#
# The cameras of gamma-ray telescopes have hexagonal pixels. Written in slanted ("axial") coordinates they are a square array again. **Guess**: which of the nine
# taps of a 3 x 3 kernel does a hexagon not have?
#
# <details><summary><b>Answer</b></summary>Two opposite corners. A step down goes down and to the right, so one diagonal leads to neighbours and the other
# one past them. Seven taps are left, and the 3 x 3 weight keeps its shape.</details>

# %%
hexagons = cg.PixelGraph.from_image(photograph(128)[:, 24:33, 50:59], on=cg.Hexagonal())
ones = nn.Conv2d(1, 1, 3, padding=1, bias=False).double()
nn.init.ones_(ones.weight)
heard = cg.nn.GraphConv2d.from_dense(ones)(hexagons.with_x(torch.ones(81, 1).double())).to_image()
print(heard[0, :3, :5])
(ax,) = panels(1, 5.6, 4.4)
picture(draw.world(hexagons, node=40, ax=ax), "A slanted patch of hexagons; the one in the middle has six coloured lines to its neighbours.")

# %%
check("inside, a kernel of ones hears seven pixels", bool((heard[0, 1:-1, 1:-1] == 7).all()))
conv = nn.Conv2d(2, 3, 3, padding=1).double()
layer = cg.nn.GraphConv2d.from_dense(conv)
check("proven on hexagons", cg.prove(layer, conv, size=(7, 7), on=cg.Hexagonal()).verdict == "proven")

# %% [markdown]
# ## The sphere
#
# **HEALPix** cuts the sky into twelve squares of n x n pixels of one area; weather models and maps of the first light of the universe live on it. Inside a square a kernel
# sees what it always saw, over an edge it walks on into the next square. Four squares meet at some corners, at others only three. **Guess**: at n = 8 there are 768 pixels.
# How many of them have seven neighbours instead of eight?
#
# <details><summary><b>Answer</b></summary>24: three at each of eight points where three squares meet. Their number does not grow with n.</details>

# %%
sphere = cg.HEALPix(corner="absent")
sky = cg.PixelGraph.from_image(torch.rand(1, 1, 12 * 8, 8), on=sphere)
edges = cg.connect(kernel, sky)
neighbours = torch.bincount(edges.edge_index[1]) - 1
print("neighbours -> pixels:", {int(n): int((neighbours == n).sum()) for n in neighbours.unique()})
corner = int((neighbours == 7).nonzero()[0])
(ax,) = panels(1, 5.2, 5.2)
place = sphere.positions((96, 8))[corner]
view = (float(torch.rad2deg(torch.asin(torch.tensor(place[2])))), float(torch.rad2deg(torch.atan2(*map(torch.tensor, (place[1], place[0]))))))
picture(draw.world(sky, node=corner, view=view, ax=ax), "The sphere from outside; the marked pixel lies where three squares meet and has seven lines to its neighbours.")

# %%
check("24 pixels have seven neighbours, all others eight", int((neighbours == 7).sum()) == 24 and int((neighbours == 8).sum()) == 744)
check("a layer is proven on the sphere", cg.prove(layer, conv, size=(96, 8), on=sphere).verdict == "proven")
flat = cg.prove(conv, conv, size=(96, 8), on=sphere, seed=0)
check("the dense layer on the stacked squares is another function", flat.verdict == "refuted")
print(flat.reason)

# %% [markdown]
# One thing is not claimed. A network on the sphere does not become blind to turns: weights that learnt upright digits expect upright digits, and
# the squares of HEALPix stand on their corners. The [guide](../guide/spaces.md) has the figures.
#
# ## What you take home
#
# - a space changes who talks to whom, and nothing else: weights, layers and networks stay;
# - every operator that looks at neighbours has to know the world, not the convolutions alone;
# - in slanted coordinates a hexagon is a square without two corners;
# - on a sphere most pixels are like in the plane, and 24 are not.

# %% [markdown]
# ### Your turn 1: edges on a cylinder
#
# On a cylinder only the columns close: `cg.Torus(rows=False)`. How many edges has a 3 x 3 kernel with padding 1 on `rows` x `columns` pixels, both at least 3? Write the formula.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# def cylinder_edges(rows, columns):
#     return (3 * rows - 2) * 3 * columns
# ```
#
# A slip that the examiner finds: this is the plane, where columns lose their outermost taps too.
#
# ```python
# def cylinder_edges(rows, columns):
#     return (3 * rows - 2) * (3 * columns - 2)
# ```
#
# </details>

# %%
def cylinder_edges(rows, columns):
    ...  # your turn

def counted(rows, columns):
    return cg.connect(kernel, cg.PixelGraph.from_image(torch.zeros(1, rows, columns), on=cg.Torus(rows=False))).num_edges


examine("the edges of a cylinder", cylinder_edges,
        lambda f: all(agree(f(*size), counted(*size), f"{size[0]} x {size[1]} pixels") for size in ((3, 3), (5, 8), (9, 4))))

# %% [markdown]
# ### Your turn 2: a torus without a graph
#
# Write the convolution of the torus as torch code: `wrapped(x, w, b)` for a 3 x 3 kernel on images (B, C, H, W). `F.pad` has a mode that helps. The judge decides.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# def wrapped(x, w, b):
#     return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), w, b)
# ```
#
# A slip that the examiner finds: reflected, the border meets itself instead of the other side.
#
# ```python
# def wrapped(x, w, b):
#     return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), w, b)
# ```
#
# </details>

# %%
def wrapped(x, w, b):
    ...  # your turn

def on_the_torus(function):
    function(torch.zeros(1, 2, 6, 5).double(), conv.weight, conv.bias)
    return cg.prove(function, conv, size=(6, 5), on=cg.Torus())


examine("your convolution is that of the torus", wrapped, on_the_torus)

# %% [markdown]
# ### Your turn 3: a hexagon without a graph
#
# Which taps does a hexagon have? Give `taps`, a (3, 3) tensor of ones and zeros by which the weight is multiplied, so that the dense layer is the layer on hexagons.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# taps = torch.tensor([[0, 1, 1], [1, 1, 1], [1, 1, 0]])
# ```
#
# A slip that the examiner finds: the other diagonal; it leads past the neighbours.
#
# ```python
# taps = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]])
# ```
#
# </details>

# %%
taps = ...  # your turn

examine("with these taps a dense layer is the layer on hexagons", taps,
        lambda m: cg.prove(lambda x, w, b: F.conv2d(x, w * m, b, padding=1), conv, size=(7, 7), on=cg.Hexagonal()))
