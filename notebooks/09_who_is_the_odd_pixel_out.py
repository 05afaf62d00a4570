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
# # 9. Who is the odd pixel out?
#
# **Question.** A multispectral camera gives every pixel many channels. Something in the scene is not like the rest.
# Can a 1 x 1 convolution find it?
#
# The classic answer is the RX detector (Reed and Yu, 1990): the *Mahalanobis distance* of each pixel's channel vector
# from all others, `d(x)^2 = (x - m)^T S^-1 (x - m)` with mean m and covariance S.

# %%
# %matplotlib inline
import numpy as np
import torch

import convgraph as cg
from lesson import check, photograph, show

generator = torch.Generator().manual_seed(0)

# %% [markdown]
# ## A scene with six channels
#
# The photograph's three colours, three mixtures of them with noise as further "bands", and nine pixels
# painted with a colour that is not rare in any single channel, but in their combination.

# %%
photo = photograph(64).double()
bands = torch.einsum("oc,chw->ohw", torch.tensor([[0.5, 0.5, 0], [0, 0.5, 0.5], [0.3, 0.3, 0.4]]).double(), photo)
scene = torch.cat([photo, bands + 0.02 * torch.randn(3, 64, 64, generator=generator, dtype=torch.float64)])
odd = torch.zeros(64, 64, dtype=torch.bool)
odd[50:53, 8:11] = True
scene[3:, odd] += torch.tensor([0.15, -0.15, 0.15]).double()[:, None]
graph = cg.PixelGraph.from_image(scene)
show([scene[:3].clamp(0, 1), scene[3], odd], ["what the eye sees", "band 4", "nine odd pixels"])

# %% [markdown]
# ## Whitening is a 1 x 1 convolution
#
# With `S = L L^T` the distance is the length of `L^-1 (x - m)`. That is a linear map and a bias at every pixel:
# weights `L^-1`, bias `-L^-1 m`. **Guess** what the covariance of its output is.

# %%
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
# <details><summary><b>Answer</b> (guess first)</summary>The identity: whitening makes all directions alike,
# which is what the name says.</details>

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

# %%
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
show([picture.sqrt(), picture >= distance[ranked[8]]], ["distance: brighter is odder", "the nine largest"])
hits = int(odd.flatten()[ranked[:9]].sum())
print(f"{hits} of the nine largest distances are the odd pixels")
single = [int(odd.flatten()[(graph.x[:, c] - mean[c]).abs().argsort(descending=True)[:9]].sum()) for c in range(6)]
print("by a single band:", single)

# %%
check("at least eight of the nine odd pixels are found", hits >= 8)
check("no single band finds more than one", max(single) <= 1)
shuffled = torch.randperm(graph.num_nodes, generator=generator)
check(
    "and neighbours play no part: shuffle the pixels, and each keeps its distance",
    torch.equal(whiten.double()(cg.PixelGraph.from_image(graph.x[shuffled].T.reshape(6, 64, 64).contiguous())).x.square().sum(1), distance[shuffled]),
)

# %% [markdown]
# ## What you take home
#
# - a covariance and a mean make a 1 x 1 convolution: whitening;
# - anomaly detection by channels needs no neighbour; the odd pixel is odd by itself;
# - where the *neighbourhood* makes a pixel odd, self-loops cannot help: that is lesson 2.
