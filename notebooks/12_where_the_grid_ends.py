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
# # 12. Where the grid ends
#
# **Question.** Sensors have dead pixels, satellites see clouds, a face is not a rectangle. What is a convolution on an image with holes?
#
# A dense layer must put *something* into the hole, usually zero, and cannot tell it from a black pixel. On a graph the
# answer is simpler: what is not there is not a node. Nobody hears it, and it hears nobody.

# %%
# %matplotlib inline
import torch
from sklearn.datasets import load_digits
from torch import nn

import convgraph as cg
from convgraph import draw
from lesson import check, panels, photograph, show

generator = torch.manual_seed(0)

# %% [markdown]
# ## Fewer nodes, fewer edges
#
# **Guess**: a hole of one pixel in the middle of an image. How many of the edges of a 3 x 3 kernel are gone?

# %%
crop = photograph(128)[:, 24:34, 50:60]
mask = torch.ones(10, 10, dtype=torch.bool)
mask[4, 5] = False
kernel = cg.KernelGeometry(3, padding=1)
whole, holed = cg.PixelGraph.from_image(crop), cg.PixelGraph.from_image(crop, mask=mask)
gone = cg.connect(kernel, whole).num_edges - cg.connect(kernel, holed).num_edges

# %% [markdown]
# <details><summary><b>Answer</b> (guess first)</summary>17: the nine that arrived, the nine that left, and the
# self-loop counted in both.</details>

# %%
check("a hole of one pixel takes 9 + 9 - 1 = 17 edges away", gone == 17)
mask[6:9, 2:7] = False
draw.pixel_graph(cg.PixelGraph.from_image(crop, mask=mask), kernel).figure

# %%
with_hole = cg.PixelGraph.from_image(crop, mask=mask)
check("the way back knows the holes", torch.equal(with_hole.to_image(fill=-1.0), torch.where(mask, crop, -1.0)))
black = cg.PixelGraph.from_image(torch.where(mask, crop, 0.0))
check("a black pixel is not a hole: it is a node", black.num_nodes == 100 and with_hole.num_nodes == int(mask.sum()))

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
check("convolution: holes are zeros, before; and holes again, behind", torch.equal(layer(graph).to_image(), truth))
pool = cg.nn.GraphMaxPool2d(2)
low = nn.functional.max_pool2d(torch.where(mask, x, float("-inf")), 2)
check("maximum: holes are minus infinity", torch.equal(pool(graph).to_image(), torch.where(low.isinf(), 0.0, low)))
mean = cg.nn.GraphGlobalAvgPool()(graph).x
check("mean: only what is there counts", torch.equal((mean * int(mask.sum())).round(), torch.where(mask, x, 0.0).sum((2, 3))))
nan = torch.where(mask, x, float("nan"))
check("and a NaN in a hole is never touched", torch.equal(layer(cg.PixelGraph.from_image(nan, mask=mask)).to_image(), truth))

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
# ## A trained network and a photograph with a hole
#
# We train on whole digits. Then a part of every test digit disappears. The dense network is given zeros there, the
# graph network is told that there is nothing. Same weights. **Guess** which one reads better.

# %%
digits = load_digits()
pictures = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
labels = torch.tensor(digits.target)
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
train, test = order[:1400], order[1400:]
dense = nn.Sequential(
    nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10),
)
optimiser = torch.optim.Adam(dense.parameters(), lr=5e-3)
for _ in range(30):
    for rows in train[torch.randperm(len(train))].split(100):
        loss = nn.functional.cross_entropy(dense(1 - pictures[rows]), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
network = cg.nn.Sequential.from_dense(dense)
visible = torch.ones(8, 8, dtype=torch.bool)
visible[:, :2] = False
with torch.no_grad():
    paper = 1 - pictures[test]  # dark ink on white paper: here 0 is ink, not silence
    full = dense(paper).argmax(1)
    zeros = dense(torch.where(visible, paper, 0.0)).argmax(1)
    holes = network(cg.PixelGraph.from_image(paper, mask=visible)).x.argmax(1)
share = lambda guess: float((guess == labels[test]).float().mean())
print(f"whole {share(full):.1%}, hole filled with zeros {share(zeros):.1%}, hole left out {share(holes):.1%}")

# %% [markdown]
# <details><summary><b>Answer</b> (guess first)</summary>Left out: zeros look like two columns of ink, and the
# mean over the image counts them.</details>

# %%
check("without a hole the two networks agree on every digit", torch.equal(full, network(cg.PixelGraph.from_image(paper)).x.argmax(1)))
check("leaving the hole out reads more digits than filling it with zeros", share(holes) > share(zeros))
show([paper[0], torch.where(visible, paper[0], 0.0)], ["a test digit, whole", "the hole filled with 0: as black as ink"])

# %% [markdown]
# ## What you take home
#
# - a mask is fewer nodes; nothing else about a layer changes;
# - what silence means depends on the question: 0 for sums, minus infinity for maxima, "not there" for means;
# - one function, proven, on images of any shape.
