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
# # 9. Who is the odd pixel out?
#
# **Question.** A multispectral camera gives every pixel many channels. Something in the scene is not like the rest.
# Can a 1 x 1 convolution find it?
#
# The classic answer is the RX detector (Reed and Yu, 1990): the *Mahalanobis distance* of each pixel's channel vector
# from all others,
#
# $$d(x)^2 = (x - m)^T S^{-1} (x - m)$$
#
# with mean $m$ and covariance $S$.
#
# **After this lesson you can** turn a mean and a covariance into a 1 x 1 convolution, and say which anomalies it
# can find and which it cannot. **You need** lesson 3 and a covariance. **Time**: 40 minutes. The scene 5, whitening 8,
# the formula 6, found 6, your turn 15.

# %%
# %matplotlib inline
import numpy as np
import torch

import convgraph as cg
from lesson import agree, check, examine, photograph, show

generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## A scene with six channels
#
# The photograph's three colours, three mixtures of them with noise as further "bands", and nine pixels
# painted with a colour that is not rare in any single channel, but in their combination.

# %%
photo = photograph(64).double()
recipes = torch.tensor([[0.5, 0.5, 0], [0, 0.5, 0.5], [0.3, 0.3, 0.4]]).double()
bands = torch.einsum("oc,chw->ohw", recipes, photo)
noise = torch.randn(3, 64, 64, generator=generator, dtype=torch.float64)
scene = torch.cat([photo, bands + 0.02 * noise])
odd = torch.zeros(64, 64, dtype=torch.bool)
odd[50:53, 8:11] = True
scene[3:, odd] += torch.tensor([0.15, -0.15, 0.15]).double()[:, None]
graph = cg.PixelGraph.from_image(scene)
show([scene[:3].clamp(0, 1), scene[3], odd], ["what the eye sees", "band 4", "nine odd pixels"],
     "The photograph, its fourth band in grey, and a black picture with a white square of 3 x 3 pixels at the lower left.")

# %% [markdown]
# ## Whitening is a 1 x 1 convolution
#
# With $S = L L^T$ the distance is the length of $L^{-1}(x - m)$. That is a linear map and a bias at every pixel:
# weights $L^{-1}$, bias $-L^{-1} m$. **Guess** what the covariance of its output is.
#
# <details><summary><b>Answer</b></summary>The identity: whitening makes all directions alike,
# which is what the name says.</details>

# %% tags=["nbval-ignore-output"]
mean = graph.x.mean(0)
centred = graph.x - mean
covariance = centred.T @ centred / len(centred)
inverse = torch.linalg.inv(torch.linalg.cholesky(covariance))
whiten = cg.nn.PointwiseConv(6, 6, dtype=torch.float64)
with torch.no_grad():
    whiten.weight.copy_(inverse.view(6, 6, 1, 1))
    whiten.bias.copy_(-inverse @ mean)
    white = whiten(graph)
    distance = white.x.square().sum(1)
print((white.x.T @ white.x / len(white.x)).round(decimals=6) + 0)

# %% [markdown]
# ## The textbook formula
#
# The referee uses the inverse covariance, pixel by pixel. First with integers, where nothing rounds: a covariance
# `L L^T` whose L has whole numbers and ones on its diagonal, so that its inverse has whole numbers too.

# %%
L = torch.eye(6, dtype=torch.float64) + torch.randint(-2, 3, (6, 6), generator=generator).tril(-1)
L_inverse = torch.linalg.inv(L).round()
check("L^-1 is whole and exact", torch.equal(L_inverse @ L, torch.eye(6, dtype=torch.float64)))
precision = L_inverse.T @ L_inverse
whole = torch.randint(-50, 50, (500, 6), generator=generator).double()
centre = torch.tensor([3.0, -1, 4, 1, -5, 9]).double()
exact = cg.nn.PointwiseConv(6, 6, dtype=torch.float64)
with torch.no_grad():
    exact.weight.copy_(L_inverse.view(6, 6, 1, 1))
    exact.bias.copy_(-L_inverse @ centre)
    line = cg.PixelGraph.from_image(whole.T.reshape(6, 20, 25).contiguous())
    by_layer = exact(line).x.square().sum(1)
book = torch.einsum("ni,ij,nj->n", whole - centre, precision, whole - centre)
check("whitening, then length, is the textbook formula bit for bit", torch.equal(by_layer, book))

# %% [markdown]
# On the scene both round, each in its own way, so we ask what a user would ask: are the same pixels on top?

# %% tags=["nbval-ignore-output"]
pixels = graph.x.numpy()
gap = pixels - pixels.mean(0)
rx = np.einsum("ni,ij,nj->n", gap, np.linalg.inv(gap.T @ gap / len(gap)), gap)
print(f"largest difference on the scene {np.abs(rx - distance.numpy()).max():.1e} at distances up to {rx.max():.0f}")
check("the same nine pixels are on top", set(rx.argsort()[-9:].tolist()) == set(distance.argsort()[-9:].tolist()))
check("the mean squared distance is the number of channels, 6", round(float(distance.mean()), 6) == 6)

# %% [markdown]
# ## Found?

# %%
ranked = distance.argsort(descending=True)
picture = distance.view(64, 64)
show([picture.sqrt(), picture >= distance[ranked[8]]], ["distance: brighter is odder", "the nine largest"],
     "Left: a dark map with a bright square of 3 x 3 at the lower left. Right: the nine largest distances, the same square.")
hits = int(odd.flatten()[ranked[:9]].sum())
print(f"{hits} of the nine largest distances are the odd pixels")
by_band = [(graph.x[:, c] - mean[c]).abs().argsort(descending=True)[:9] for c in range(6)]
single = [int(odd.flatten()[top].sum()) for top in by_band]
print("by a single band:", single)

# %%
check("at least eight of the nine odd pixels are found", hits >= 8)
check("no single band finds more than one", max(single) <= 1)
shuffled = torch.randperm(graph.num_nodes, generator=generator)
again = cg.PixelGraph.from_image(graph.x[shuffled].T.reshape(6, 64, 64).contiguous())
check("and neighbours play no part: shuffle the pixels, and each keeps its distance",
      torch.equal(whiten(again).x.square().sum(1), distance[shuffled]))

# %% [markdown]
# ## What you take home
#
# - a covariance and a mean make a 1 x 1 convolution: whitening;
# - anomaly detection by channels needs no neighbour; the odd pixel is odd by itself;
# - where the *neighbourhood* makes a pixel odd, self-loops cannot help: that is lesson 2.

# %% [markdown]
# ### Your turn 1: whitening by hand
#
# Two channels with mean (3, -1) and covariance [[4, 0], [0, 16]]. Write weight (2, 2) and bias (2) of the 1 x 1 layer that whitens them.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# weight, bias = torch.tensor([[0.5, 0.0], [0.0, 0.25]]), torch.tensor([-1.5, 0.25])
# ```
#
# A slip that the examiner finds: whitening divides by the standard deviation; the inverse covariance is the *square* of it.
#
# ```python
# weight, bias = torch.tensor([[0.25, 0.0], [0.0, 1 / 16]]), torch.tensor([-0.75, 1 / 16])
# ```
#
# </details>

# %%
weight, bias = ..., ...  # your turn

points = torch.tensor([[3.0, -1], [5, -1], [3, 3], [1, -5]]).double()
examine("the mean goes to (0, 0); one standard deviation away is at distance 1", (weight, bias),
        lambda wb: ... if wb[0] is ... else agree(
            points @ torch.as_tensor(wb[0]).double().T + torch.as_tensor(wb[1]).double(),
            torch.tensor([[0.0, 0], [1, 0], [0, 1], [-1, -1]]).double()))

# %% [markdown]
# ### Your turn 2: the distance as a network
#
# Write `rx(image, whiten)` that takes an image (6, H, W) and a whitening layer and returns the map of squared distances (H, W), with a `PixelGraph` on the way.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# def rx(image, whiten):
#     out = whiten(cg.PixelGraph.from_image(image))
#     return out.x.square().sum(1).view(image.shape[1:])
# ```
#
# A slip that the examiner finds: squares first, then the sum over the channels.
#
# ```python
# def rx(image, whiten):
#     out = whiten(cg.PixelGraph.from_image(image))
#     return out.x.sum(1).square().view(image.shape[1:])
# ```
#
# </details>

# %%
def rx(image, whiten):
    ...  # your turn

examine("your map is the distance of every pixel", rx,
        lambda f: agree(f(scene, whiten).detach(), distance.view(64, 64)))

# %% [markdown]
# ### Your turn 3: odd by its neighbours
#
# A pixel of a quite ordinary colour in the wrong place is not found: why not? Make it visible to the detector: write the 3 x 3 kernel of one channel (list of rows) that gives *the pixel minus the mean of its eight neighbours*.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# kernel = [[-1 / 8, -1 / 8, -1 / 8], [-1 / 8, 1, -1 / 8], [-1 / 8, -1 / 8, -1 / 8]]
# ```
#
# A slip that the examiner finds: then a flat bright region does not say 0: the weights have to sum to zero.
#
# ```python
# kernel = [[-1 / 9, -1 / 9, -1 / 9], [-1 / 9, 1, -1 / 9], [-1 / 9, -1 / 9, -1 / 9]]
# ```
#
# </details>

# %%
kernel = ...  # your turn

board = torch.zeros(1, 9, 9, dtype=torch.float64)
board[0, :, 4:] = 8  # a dark half and a bright half: both colours are ordinary
board[0, 4, 1] = 8  # and one bright pixel in the dark half


def oddest(rows):
    layer = cg.nn.GraphConv2d(1, 1, 3, padding=1, padding_mode="replicate", bias=False, dtype=torch.float64)
    layer.weight.data.copy_(torch.tensor(rows).double().view(1, 1, 3, 3))
    out = layer(cg.PixelGraph.from_image(board)).to_image()[0]
    found = {"the odd pixel": out[4, 1].item(), "a flat dark place": out[1, 1].item(), "a flat bright place": out[1, 7].item()}
    return agree(found, {"the odd pixel": 8, "a flat dark place": 0, "a flat bright place": 0}) and int(out.abs().argmax()) == 4 * 9 + 1


examine("the pixel in the wrong place is the oddest, flat regions say 0", kernel, oddest)

