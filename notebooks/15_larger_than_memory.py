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
# # 15. Larger than memory
#
# **Question.** A slide under a microscope has 100,000 x 80,000 pixels, and a network's maps of it take terabytes. So people run it crop by crop. Is what they put together what the network would have said?
#
# **After this lesson you can** say how far a network reads, cut an image so that the parts equal the whole, name what can never be cut, and train on one huge image.
# **You need** lesson 4. **Time**: 50 minutes. How far it reads 8, one pixel less 10, by tables 8, what hears everything 6, training 6, your turn 12.
#
# Who talks to whom is a graph, and a graph can be asked: from which pixels do arrows, over any number of hops, lead to this output?

# %%
# %matplotlib inline
import dask
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import convgraph as cg
from convgraph.scale.plan import plan
from convgraph.scale.tiling import tiling
from lesson import agree, check, curves, examine, photograph, show

generator = torch.manual_seed(0)

# %% [markdown]
# ## How far does it read?
#
# A stem as many networks have it: a 7 x 7 convolution of stride 2, a maximum over 3 x 3 of stride 2, a 3 x 3 convolution.
# **Guess** how many pixels wide the square is that one output reads.
#
# <details><summary><b>Answer</b></summary>From the last layer to the first: 3 pixels of the smallest map are (3 - 1) * 2 + 3 = 7 of the map before,
# and those are (7 - 1) * 2 + 7 = 19 of the image.</details>

# %%
def whole_numbers(net: nn.Module) -> nn.Module:
    """The network in float64 with weights from -2 to 2: no sum is rounded."""
    with torch.no_grad():
        for p in net.double().parameters():
            p.copy_(torch.randint(-2, 3, p.shape))
    return net


net = whole_numbers(nn.Sequential(
    nn.Conv2d(1, 4, 7, stride=2, padding=3), nn.ReLU(),
    nn.MaxPool2d(3, 2, 1),
    nn.Conv2d(4, 2, 3, padding=1),
)).eval()
reach = cg.halo(net, (256, 256))
print(reach)

# %% [markdown]
# No pixel was computed for that: it is the edges of three layers, followed against the arrows. The referee is torch: no pixel
# outside of the square may move the output, and nudges within it may.

# %%
x = torch.rand(1, 1, 64, 64, dtype=torch.float64, requires_grad=True)
moved = torch.zeros(64, 64, dtype=torch.bool)
for _ in range(20):  # a maximum listens to one of its nine at a time: ask several images
    with torch.no_grad():
        x.copy_(torch.rand_like(x))
    (pull,) = torch.autograd.grad(net(x)[0, :, 8, 8].sum(), x)
    moved |= pull[0, 0] != 0
rows, columns = moved.nonzero().T
width = int(columns.max() - columns.min()) + 1
show([moved.float()], [f"pixels that move output (8, 8): {width} across"], "64 x 64 black pixels with a white square of 19 x 19 a little above and left of the middle.", grid=False)
check("one output reads 19 x 19 pixels, says the graph", reach.reads == (19, 19))
check("and no pixel beyond 19 moves it, says torch", width <= 19 and int(rows.max() - rows.min()) < 19)

# %% [markdown]
# ## One pixel less
#
# Crops whose middles are kept need a margin, and they have to start where the network's strides start, on its *grid*. **Guess**: the
# margin that `reach` names is 12 pixels and the grid 4. What happens with a margin of 8? And what with 12, but crops that start 2 pixels off the grid?
#
# <details><summary><b>Answer</b></summary>With 8 a seam is wrong around every crop: the crop's border is padded with zeros where there are pixels. Off the grid
# <i>everything</i> is wrong, since the strides take other pixels; that is no error at the border, and no larger margin mends it.</details>

# %%
photo = (9 * photograph(256).mean(0, keepdim=True)).round().double()[None]  # (1, 1, 256, 256), whole numbers
with torch.no_grad():
    whole = net(photo)


def by_crops(margin: int, shift: int = 0, tile: int = 64) -> torch.Tensor:
    """Run crops of `tile` pixels with a margin, keep their middles, and put them together."""
    out = torch.zeros_like(whole)
    for top in range(0, 256, tile):
        for left in range(0, 256, tile):
            a, b = max(top - margin + shift, 0), max(left - margin + shift, 0)
            part = net(photo[..., a : top + tile + margin, b : left + tile + margin])
            at = (top - a) // 4, (left - b) // 4
            kept = part[..., at[0] : at[0] + tile // 4, at[1] : at[1] + tile // 4]
            out[..., top // 4 : (top + tile) // 4, left // 4 : (left + tile) // 4] = kept
    return out


with torch.no_grad():
    wrong = [(by_crops(*how)[0, 0] != whole[0, 0]).float() for how in ((12,), (8,), (12, 2))]
show(wrong, ["margin 12, grid 4", "margin 8", "margin 12, 2 off the grid"], "Three black squares, white where the parts differ from the whole: the first is black; the second has a white line at seams; the third is white but for the first crop.")
print([f"{float(one.mean()):.1%} wrong" for one in wrong])

# %%
check("with the margin and the grid of the graph, the crops are the whole, bit for bit", not wrong[0].any())
check("with a margin of 8, they are not", 0 < wrong[1].mean() < 0.3)
check("off the grid, most of it is wrong", wrong[2].mean() > 0.5)

# %% [markdown]
# ## Let the tables do it
#
# `cg.tiled` asks the edges themselves for every tile, so that there is no margin to get wrong. It returns an array of dask, which reads, computes and writes
# one tile after another; the image may lie in a zarr on disk. Each tile is read with its margin, so small tiles cost more. **Guess**: with tiles of 16 outputs (64 pixels),
# how many times the multiply-adds of the whole image?
#
# <details><summary><b>Answer</b></summary>About 1.2. Tiles of a single output would cost eleven times the work: they are nearly nothing but margin.</details>

# %%
out = cg.tiled(net, photo[0].numpy(), tile=16)
print("outputs", out.shape, "in tiles of", out.chunksize)
with dask.config.set(scheduler="synchronous"):
    check("tiles are the whole, bit for bit", np.array_equal(out.compute(), whole[0].numpy()))

sides = (1, 2, 4, 8, 16, 32, 64)
work = [tiling(plan(net, (1, 1, 256, 256)), side).work for side in sides]
curves({"multiply-adds of all tiles": work}, "A falling curve: tiles of one output cost eleven times the work of the whole, tiles of 16 about 1.2 times, and from there it is nearly flat.",
       x="outputs along the side of a tile", y="times those of the whole image", at=sides, dots=True)

# %%
print([round(n, 2) for n in work])
check("small tiles are mostly margin", work[0] > 10)
check("at 16 the margin costs about a quarter", 1.2 < work[4] < 1.3)
slide = tiling(plan(net, (1, 1, 80_000, 100_000)), 512)
print(f"a slide of 80,000 x 100,000 pixels: {slide.counts} tiles, {slide.memory / 2**20:.0f} MiB at a time, {slide.work:.2f} times the work")
check("that every output is computed, with every edge it has, is proven in integers", tiling(plan(net, (1, 1, 512, 512)), 32).prove().verdict == "proven")

# %% [markdown]
# ## What hears everything
#
# Put into the network what every instance norm begins with: subtract the mean of the map. **Guess**: which margin makes crops equal to the whole now?
#
# <details><summary><b>Answer</b></summary>None. Every output hears every pixel through the mean. A crop has its own mean and is another function.
# What works is a pass over all tiles for the mean, and then a second one.</details>

# %%
class Centred(nn.Module):
    """The map without its mean."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean((2, 3), keepdim=True)


centred = nn.Sequential(net[0], Centred(), nn.ReLU(), net[3]).eval()
far = cg.halo(centred, (256, 256))
print(far.why)
try:
    cg.tiled(centred, photo[0].numpy(), tile=32)
except cg.errors.ConversionError as error:
    print(error)
with dask.config.set(scheduler="synchronous"), torch.no_grad():
    passed = cg.tiled(centred, photo[0].numpy(), tile=32, statistics="passes").compute()
    everything = centred(photo)[0].numpy()
check("no margin is enough, and the module is named", not far.exact and "'1'" in far.why)
check("with a pass for the mean and one for the rest, the tiles are the whole", np.array_equal(passed, everything))

# %% [markdown]
# ## Training on one huge image
#
# A derivative of a sum is the sum of the derivatives. So every tile can be run twice, once forward, keeping nothing but its output, and once backward with its part
# of the gradient, and what the tiles give adds up. **Guess** how much of the gradient is lost.
#
# <details><summary><b>Answer</b></summary>Nothing: on whole numbers it is the same, bit for bit, in the memory of a tile.</details>

# %%
def gradients(run) -> list[torch.Tensor]:
    """The gradients of all weights, of the sum of what a run returns, weighted by place."""
    net.zero_grad()
    y = run(photo)
    (y * torch.arange(y[0, 0].numel()).view(y.shape[2:])).sum().backward()
    return [p.grad.clone() for p in net.parameters()]


check("the gradient of every weight is that of the whole image, bit for bit", all(map(torch.equal, gradients(cg.streamed(net, tile=16)), gradients(net))))

# %% [markdown]
# ## What you take home
#
# - how far a network reads and where crops may start follow from its edges, in integers;
# - one pixel of margin too little, or a start off the grid, is wrong without any error;
# - tables instead of margins: tiles equal the whole, at any size, and it is proven;
# - a mean over the image hears everything: it needs a pass of its own, and cropping it makes another function.

# %% [markdown]
# ### Your turn 1: how far?
#
# Three 3 x 3 convolutions of stride 1, dilated by 1, by 2 and by 4. How many pixels wide is the square that one output reads?
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# wide = 1 + 2 * (1 + 2 + 4)
# ```
#
# A slip that the examiner finds: three layers of 3 x 3 in a row without dilation read 7.
#
# ```python
# wide = 1 + 2 * 3
# ```
#
# </details>

# %%
wide = ...  # your turn

dilated = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=d, dilation=d) for d in (1, 2, 4)))
examine("the width of what one output reads", wide, lambda n: agree(n, cg.halo(dilated, (64, 64)).reads[0]))

# %% [markdown]
# ### Your turn 2: a window
#
# A network of stride 1 keeps the size of its image, and one output reads `margin` pixels to each side. Write `window(start, stop, margin, size)`: from which pixel to
# which (the second one excluded) must be read along an axis, to know the outputs `start` to `stop` of an image of `size` pixels? Only the image's own border may be padded.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# def window(start, stop, margin, size):
#     return max(start - margin, 0), min(stop + margin, size)
# ```
#
# A slip that the examiner finds: no margin behind: every tile is wrong at its end.
#
# ```python
# def window(start, stop, margin, size):
#     return max(start - margin, 0), min(stop, size)
# ```
#
# </details>

# %%
def window(start, stop, margin, size):
    ...  # your turn

def put_together(function):
    chain = whole_numbers(nn.Sequential(nn.Conv1d(1, 2, 5, padding=2), nn.ReLU(), nn.Conv1d(2, 1, 3, padding=1)))
    line = torch.randint(0, 10, (1, 1, 50)).double()
    parts = []
    for start in range(0, 50, 16):
        stop = min(start + 16, 50)
        first, last = function(start, stop, 3, 50)
        agree(first < 0, False, "a window begins before the line")
        parts.append(chain(line[..., first:last])[..., start - first : stop - first])
    return agree(torch.cat(parts, -1), chain(line))


examine("the tiles of a line, put together, are the line", window, put_together)

# %% [markdown]
# ### Your turn 3: in two halves
#
# Write `halves(x, weight, bias)`: a 3 x 3 convolution with padding 1 of an image (B, C, H, W) that is run as an upper and a lower half, each with `F.conv2d(..., padding=1)`, and put together
# with `torch.cat`. The judge proves that it is the convolution, for every image.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# def halves(x, weight, bias):
#     cut = x.shape[2] // 2
#     upper = F.conv2d(x[:, :, : cut + 1], weight, bias, padding=1)[:, :, :cut]
#     lower = F.conv2d(x[:, :, cut - 1 :], weight, bias, padding=1)[:, :, 1:]
#     return torch.cat([upper, lower], 2)
# ```
#
# A slip that the examiner finds: halves without a margin: at the seam each of them is padded with zeros, where the other one has pixels.
#
# ```python
# def halves(x, weight, bias):
#     cut = x.shape[2] // 2
#     upper = F.conv2d(x[:, :, :cut], weight, bias, padding=1)
#     lower = F.conv2d(x[:, :, cut:], weight, bias, padding=1)
#     return torch.cat([upper, lower], 2)
# ```
#
# </details>

# %%
def halves(x, weight, bias):
    ...  # your turn

examine("two halves are the convolution", halves, lambda f: cg.prove(f, nn.Conv2d(2, 3, 3, padding=1), size=(8, 6)))
