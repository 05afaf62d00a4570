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
# # 12. Where the grid ends
#
# **Question.** Sensors have dead pixels, satellites see clouds, a face is not a rectangle. What is a convolution on an image with holes?
#
# **After this lesson you can** say what a hole means to a sum, a maximum and a mean, tell an honest fill from one that
# is not, and run a layer on regions of any shape. **You need** lesson 4. **Time**: 55 minutes. Fewer nodes 8, the truth 10,
# ragged batches 5, the coast 8, digits 9, your turn 15.
#
# A dense layer must put *something* into the hole, and cannot tell it from a pixel. On a graph the answer is simpler: what is not there is not a node. No message comes from it, and none arrives there.

# %%
# %matplotlib inline
import torch
from sklearn.datasets import load_digits
from torch import nn

import convgraph as cg
from convgraph import draw
from lesson import agree, bars, check, examine, panels, photograph, picture, show

generator = torch.manual_seed(0)

# %% [markdown]
# ## Fewer nodes, fewer edges
#
# **Guess**: a hole of one pixel in the middle of an image. How many of the edges of a 3 x 3 kernel are gone?
#
# <details><summary><b>Answer</b></summary>17: the nine that arrived, the nine that left, and the
# self-loop counted in both.</details>

# %%
crop = photograph(128)[:, 24:34, 50:60]
mask = torch.ones(10, 10, dtype=torch.bool)
mask[4, 5] = False
kernel = cg.KernelGeometry(3, padding=1)
whole, holed = cg.PixelGraph.from_image(crop), cg.PixelGraph.from_image(crop, mask=mask)
gone = cg.connect(kernel, whole).num_edges - cg.connect(kernel, holed).num_edges

# %%
check("a hole of one pixel takes 9 + 9 - 1 = 17 edges away", gone == 17)
mask[6:9, 2:7] = False
(ax,) = panels(1, 5.2, 5.6)
picture(draw.pixel_graph(cg.PixelGraph.from_image(crop, mask=mask), kernel, ax=ax), "10 x 10 pixels with the ends of their edges; a hole of one pixel and one of 3 x 5 are empty, and no line points into them.")

# %%
with_hole = cg.PixelGraph.from_image(crop, mask=mask)
filled = with_hole.to_image(fill=-1.0)
check("the way back knows the holes", torch.equal(filled, torch.where(mask, crop, -1.0)))
black = cg.PixelGraph.from_image(torch.where(mask, crop, 0.0))
check("a black pixel is not a hole: it is a node", black.num_nodes == 100 > with_hole.num_nodes)

# %% [markdown]
# ## What is the truth?
#
# For a sum, silence is zero. So the result on a mask is the dense convolution of the image whose holes are 0, looked
# at where there are nodes. For a maximum silence is *minus infinity*, for a mean over the image it does not count at all.

# %%
x = torch.randint(-9, 10, (1, 3, 10, 10)).double()
conv = nn.Conv2d(3, 4, 3, padding=1, dtype=torch.float64)
with torch.no_grad():
    conv.weight.copy_(torch.randint(-5, 6, conv.weight.shape))
    conv.bias.copy_(torch.randint(-5, 6, conv.bias.shape))
graph = cg.PixelGraph.from_image(x, mask=mask)
layer = cg.nn.GraphConv2d.from_dense(conv)
truth = torch.where(mask, conv(torch.where(mask, x, 0.0)), 0.0)
found = layer(graph).to_image()
check("convolution: holes are zeros, before; and holes again, behind", torch.equal(found, truth))
pool = cg.nn.GraphMaxPool2d(2)
low = nn.functional.max_pool2d(torch.where(mask, x, float("-inf")), 2)
most = pool(graph).to_image()
check("maximum: holes are minus infinity", torch.equal(most, torch.where(low.isinf(), 0.0, low)))
total = cg.nn.GraphGlobalAvgPool()(graph).x * int(mask.sum())
check("mean: only what is there counts", torch.equal(total.round(), torch.where(mask, x, 0.0).sum((2, 3))))
nan = cg.PixelGraph.from_image(torch.where(mask, x, float("nan")), mask=mask)
check("and a NaN in a hole is never touched", torch.equal(layer(nan).to_image(), truth))

# %% [markdown]
# The certificate holds for masks too:

# %%
cert = cg.prove(layer, conv, size=(10, 10), mask=mask)
print(cert.verdict)
check("proven on this mask, for every image and every weight", cert.verdict == "proven")

# %% [markdown]
# ## Ragged batches
#
# Images of different sizes in one batch, without padding: a graph does not mind.

# %%
sizes = ((20, 31), (7, 9), (64, 48))
images = [photograph(128)[:, :h, :w].double() for h, w in sizes]
several = cg.PixelGraph.from_image(images)
print(several)
both = cg.nn.GraphConv2d.from_dense(conv)
singles = [both(cg.PixelGraph.from_image(image)) for image in images]
check("one node per pixel, no filling", several.num_nodes == sum(h * w for h, w in sizes))
with cg.backend("messages"):
    alone = torch.cat([both(cg.PixelGraph.from_image(image)).x for image in images])
    check("a batch says what its images say alone, bit for bit", torch.equal(both(several).x, alone))

# %% [markdown]
# ## A coast: where no fill is honest
#
# The temperature of the sea, in whole tenths of a degree, around two islands. A satellite's map is smoothed by the mean of
# 5 x 5 pixels. Land has no water temperature. **Guess** at which sea pixels filling the land with 0, or with the mean
# of the whole sea, gives a wrong mean, and how wrong.
#
# <details><summary><b>Answer</b></summary>Wherever a window touches land: everywhere along the coast. With 0 the coast
# seems icy; with the mean of the sea, the cold north is too warm there and the warm south too cold. No single number
# is right at every coast. Left out, land does not count, and the mean is the mean of the water.</details>

# %%
rows, columns = torch.meshgrid(torch.arange(32), torch.arange(48), indexing="ij")
sea = (80 + 5 * rows + (columns % 7)).double()[None]  # 8 degrees in the north, 24 in the south
land = ((rows - 9) ** 2 + (columns - 14) ** 2 < 40) | ((rows - 22) ** 2 + (columns - 33) ** 2 < 70)
water = ~land

near = range(-2, 3)
truth = torch.full_like(sea, float("nan"))  # by hand: the mean of the water within two pixels
for r, c in water.nonzero().tolist():
    around = [(r + i, c + j) for i in near for j in near if 0 <= r + i < 32 and 0 <= c + j < 48]
    seen = [float(sea[0][p]) for p in around if water[p]]
    truth[0, r, c] = sum(seen) / len(seen)

smooth = cg.nn.GraphAvgPool2d(5, stride=1, padding=2, count_include_pad=False)
dense = nn.AvgPool2d(5, stride=1, padding=2, count_include_pad=False)
maps = {
    "land = 0 degrees": dense(torch.where(water, sea, 0.0)),
    "land = mean of the sea": dense(torch.where(water, sea, sea[:, water].mean())),
    "land left out": smooth(cg.PixelGraph.from_image(sea, mask=water)).to_image(),
}
errors = {name: float((found - truth)[:, water].abs().max()) / 10 for name, found in maps.items()}
wrong = [torch.where(water, found - truth, 0.0)[0] / 10 for found in maps.values()]
show(wrong, list(maps), "Three maps of the error in degrees. Filled with 0: dark rings around both islands. Filled with the mean: one ring too warm, one too cold. Left out: white everywhere.", signed=True)
for name, error in errors.items():
    print(f"{name:24} wrong by up to {error:.1f} degrees")

# %%
u = torch.finfo(torch.float64).eps / 2
bound = 2 * 25 * u * float(sea.max()) / 10  # 25 numbers are added and divided, on both sides
check("left out, every mean is the mean of the water", errors["land left out"] <= bound)
check("filled with zeros the coast is wrong by more than 5 degrees", errors["land = 0 degrees"] > 5)
check("filled with the mean of the sea it is wrong by more than 1", errors["land = mean of the sea"] > 1)

# %% [markdown]
# ## Digits with a hole: four ways, all shown
#
# Now a trained network. It learns whole digits, dark ink on white paper, and reads 98 % of them. Then a
# square of 4 x 4 pixels disappears from every test digit. What to give the network there: zeros (which are ink
# here), white paper, the mean of the training pixels, or nothing at all? **Guess** the order.
#
# <details><summary><b>Answer</b></summary>For a network that has never seen a hole, the mean disturbs least;
# leaving out comes second, for silence is a <i>zero</i> to every later sum, and zero was ink. There is no
# law in this order: it depends on what the fill looks like to these weights. A graph does not make a
# network wiser about what it was never shown.</details>

# %%
digits = load_digits()
pictures = 1 - torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16  # 0 is ink, 1 is paper
labels = torch.tensor(digits.target)
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
train, test = order[:1400], order[1400:]
average = float(pictures[train].mean())


def squares(count: int, generator: torch.Generator) -> torch.Tensor:
    """Masks (count, 8, 8) with a hole of 4 x 4 somewhere."""
    mask = torch.ones(count, 8, 8, dtype=torch.bool)
    for number, (r, c) in enumerate(torch.randint(0, 5, (count, 2), generator=generator).tolist()):
        mask[number, r : r + 4, c : c + 4] = False
    return mask


def reader() -> nn.Module:
    """The same network and start for all; on graphs, as every layer here takes images or graphs."""
    torch.manual_seed(0)
    return cg.nn.Sequential(
        cg.nn.GraphConv2d(1, 16, 3, padding=1), nn.ReLU(),
        cg.nn.GraphConv2d(16, 32, 3, padding=1), nn.ReLU(), cg.nn.GraphMaxPool2d(2),
        cg.nn.GraphConv2d(32, 48, 3, padding=1), nn.ReLU(), cg.nn.GraphGlobalMaxPool(), nn.Linear(48, 10),
    )


FILLS = {"zeros (ink)": 0.0, "white paper": 1.0, "training mean": average, "left out": None}


def given(rows: torch.Tensor, mask: torch.Tensor, fill: float | None) -> cg.PixelGraph:
    """What the network gets: a full image with the hole filled, or a graph without these nodes."""
    if fill is None:
        return cg.PixelGraph.from_image(pictures[rows], mask=mask)
    return cg.PixelGraph.from_image(torch.where(mask[:, None], pictures[rows], fill))


def learn(net: nn.Module, fill: float | None, *, holes: bool, epochs: int = 15) -> nn.Module:
    """Train on digits that are whole, or that have a hole treated in one way."""
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    draws = torch.Generator().manual_seed(1)
    for _ in range(epochs):
        for rows in train[torch.randperm(len(train), generator=draws)].split(100):
            mask = squares(len(rows), draws) if holes else torch.ones(len(rows), 8, 8, dtype=torch.bool)
            loss = nn.functional.cross_entropy(net(given(rows, mask, fill)).x, labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net


def share(net: nn.Module, mask: torch.Tensor, fill: float | None) -> float:
    """Share of the test digits that are read."""
    with torch.no_grad():
        return float((net(given(test, mask, fill)).x.argmax(1) == labels[test]).float().mean())


nothing = torch.ones(len(test), 8, 8, dtype=torch.bool)
hole = squares(len(test), torch.Generator().manual_seed(5))
whole_reader = learn(reader(), 1.0, holes=False)
untrained = {name: share(whole_reader, hole, fill) for name, fill in FILLS.items()}
whole_share = share(whole_reader, nothing, 1.0)
bars({"no hole": whole_share, **untrained},
     "Five bars: without a hole nearly all digits are read; with one, between a half and three quarters, the training mean first.",
     x="share of the test digits that are read; trained on whole digits")

# %%
check("without a hole the network reads more than 96 %", whole_share > 0.96)
check("a hole costs every way of treating it at least a tenth of the digits", max(untrained.values()) < whole_share - 0.1)
check("and the honest mean does better here than leaving out", untrained["training mean"] > untrained["left out"])

# %% [markdown]
# So train *with* holes, treated as they will be treated later. **Guess** again: which way wins?
#
# <details><summary><b>Answer</b></summary>None of them by much. A network can get used to any fill, if it is
# always the same. What counts is that training and use agree. The graph's part is another: it says which
# pixels are there without a code for it, takes no time for those that are not, and is the only one that is <i>right</i>
# where the question is a mean, as at the coast.</details>

# %%
trained = {}
for name in ("white paper", "left out"):
    trained[name] = share(learn(reader(), FILLS[name], holes=True), hole, FILLS[name])
bars({"no hole": whole_share, **{f"{name}, trained with holes": s for name, s in trained.items()}},
     "Three bars: without a hole, and the two ways of treating it, trained with holes; these two are nearly equal.",
     x="share of the test digits that are read")

# %%
check("trained with holes, both read more than the best way without that training", min(trained.values()) > max(untrained.values()))
check("and they differ by less than five per cent of the digits", abs(trained["white paper"] - trained["left out"]) < 0.05)

# %% [markdown]
# ## What you take home
#
# - a mask is fewer nodes; nothing else about a layer changes;
# - what silence means depends on the question: 0 for sums, minus infinity for maxima, "not there" for means;
# - where the answer is a mean over what is there, no fill is honest; a trained network is used to what it was trained with;
# - one function, proven, on images of any shape.

# %% [markdown]
# ### Your turn 1: edges around a hole
#
# A hole of 2 x 2 pixels in the middle of a large image. How many edges of a 3 x 3 kernel are gone? Count what arrived at the four pixels, what left them, and what you counted twice.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# lost_edges = 36 + 36 - 16  # 16 edges run among the four pixels themselves
# ```
#
# A slip that the examiner finds: 17 each counts the edges between the four twice.
#
# ```python
# lost_edges = 4 * 17
# ```
#
# </details>

# %%
lost_edges = ...  # your turn

def lost_by(hole_size):
    there = torch.ones(12, 12, dtype=torch.bool)
    full = cg.connect(kernel, cg.PixelGraph.from_image(torch.zeros(1, 12, 12), mask=there)).num_edges
    there[4 : 4 + hole_size, 4 : 4 + hole_size] = False
    return full - cg.connect(kernel, cg.PixelGraph.from_image(torch.zeros(1, 12, 12), mask=there)).num_edges


examine("the edges that a hole of 2 x 2 takes away", lost_edges, lambda n: agree(n, lost_by(2)))

# %% [markdown]
# ### Your turn 2: a normalised blur
#
# Blurring next to a hole makes it darker: silence is 0. Write `fair_blur(graph)`: the mean of those of the nine pixels that *are there*, from two sums: a 3 x 3 kernel of ones over the pixels, and over ones. Use `cg.nn.GraphConv2d`; return a `PixelGraph`.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# def fair_blur(graph):
#     add = cg.nn.GraphConv2d(1, 1, 3, padding=1, bias=False)
#     with torch.no_grad():
#         add.weight.fill_(1)
#         return graph.with_x(add(graph).x / add(graph.with_x(torch.ones_like(graph.x))).x)
# ```
#
# A slip that the examiner finds: a ninth of fewer than nine pixels: at the border and beside the hole it is too dark.
#
# ```python
# def fair_blur(graph):
#     add = cg.nn.GraphConv2d(1, 1, 3, padding=1, bias=False)
#     with torch.no_grad():
#         add.weight.fill_(1 / 9)
#         return add(graph)
# ```
#
# </details>

# %%
def fair_blur(graph):
    ...  # your turn

flat = cg.PixelGraph.from_image(torch.full((1, 10, 10), 8.0), mask=mask)
steps = cg.PixelGraph.from_image(torch.arange(100.0).view(1, 10, 10), mask=mask)
examine("flat stays flat beside a hole, and elsewhere it is the mean", fair_blur,
        lambda f: agree(f(flat).x, flat.x, "a flat image") and agree(f(steps).to_image()[0, 1, 1].item(), 11, "the mean of nine pixels"))

# %% [markdown]
# ### Your turn 3: prove it on your mask
#
# Choose a mask (8, 8) in which *no* pixel has a neighbour left or right, but half of all pixels are there. On it a 3 x 3 convolution hears at most three rows of one column. The judge then proves the masked layer.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# stripes = torch.zeros(8, 8, dtype=torch.bool)
# stripes[:, ::2] = True
# ```
#
# A slip that the examiner finds: these are rows: every pixel has a neighbour on both sides.
#
# ```python
# stripes = torch.zeros(8, 8, dtype=torch.bool)
# stripes[::2] = True
# ```
#
# </details>

# %%
stripes = ...  # your turn

def striped(there):
    agree(int(there.sum()), 32, "pixels that are there")
    agree(bool((there[:, 1:] & there[:, :-1]).any()), False, "some pixel has a neighbour left or right")
    return cg.prove(cg.nn.GraphConv2d.from_dense(conv), conv, size=(8, 8), mask=there)


examine("half of the pixels, no neighbour left or right, and the layer is proven there", stripes, striped)

