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
# # 6. The price of simplicity
#
# **Question.** Depthwise then pointwise costs a ninth. What can a full convolution do that it cannot?
#
# **After this lesson you can** say which kernels a separable layer can be, by rank and by example, and what buys the
# others back. **You need** lesson 5. **Time**: 45 minutes. Rank 10, which kernels 10, digits 10, your turn 15.
#
# A convolution is a matrix $W$ of shape $(C_{out}, C_{in} k^2)$: what each output channel makes of all the
# numbers under the kernel. Its *rank* says how many different things the layer can ask.

# %%
# %matplotlib inline
import torch
from sklearn.datasets import load_digits
from torch import nn

import convgraph as cg
from lesson import agree, bars, check, curves, examine, show

generator = torch.manual_seed(0)

# %% [markdown]
# ## Rank of one layer
#
# **Guess** the rank of a random 3 x 3 convolution 8 -> 64, and of the same layer when its depthwise
# part is the identity (each channel only looks at itself, in the middle).
#
# <details><summary><b>Answer</b></summary>min(C_out, C_in k^2) = min(64, 72) = 64, against
# min(C_out, C_in) = min(64, 8) = 8.</details>

# %%
def rank(weight: torch.Tensor) -> int:
    """Rank of a convolution as a matrix (C_out, C_in k^2), by its singular values."""
    return int(torch.linalg.matrix_rank(weight.detach().double().flatten(1)))


def product(layer: cg.nn.DepthwiseSeparableConv) -> torch.Tensor:
    """The full convolution (C_out, C_in, k, k) that both stages make together."""
    mix, taps = layer.pointwise.weight.double().flatten(1), layer.depthwise.weight[:, 0].double()
    return torch.einsum("oc,cij->ocij", mix, taps)


full = cg.nn.GraphConv2d(8, 64, 3, padding=1, bias=False)
simple = cg.nn.DepthwiseSeparableConv(8, 64, 3, padding=1, bias=False)
with torch.no_grad():
    simple.depthwise.weight.zero_()
    simple.depthwise.weight[:, :, 1, 1] = 1
print("full:", rank(full.weight), " depthwise part the identity:", rank(product(simple)))

# %%
for c_in, c_out, k in ((8, 64, 3), (4, 64, 3), (16, 8, 3), (3, 100, 5)):
    whole = nn.Conv2d(c_in, c_out, k, bias=False)
    plain = cg.nn.DepthwiseSeparableConv(c_in, c_out, k, bias=False)
    with torch.no_grad():
        plain.depthwise.weight.zero_()
        plain.depthwise.weight[:, :, k // 2, k // 2] = 1
    most, least = min(c_out, c_in * k * k), min(c_out, c_in)
    check(f"{c_in} -> {c_out}, k = {k}: min(C_out, C_in k^2) = {most}", rank(whole.weight) == most)
    check(f"{c_in} -> {c_out}, k = {k}: min(C_out, C_in) = {least}", rank(product(plain)) == least)

# %% [markdown]
# A random depthwise part does not lift it: every output channel still sees each input channel
# through *one* filter.

# %%
random = cg.nn.DepthwiseSeparableConv(8, 64, 3, bias=False)
check("8 filters, whatever they are, leave rank 8", rank(product(random)) == 8)
kernels = {"full": full.weight, "separable": product(random)}
values = {name: torch.linalg.svdvals(w.detach().double().flatten(1)) for name, w in kernels.items()}
curves({name: s / s[0] for name, s in values.items()},
       "64 singular values, largest first: those of the full layer fall slowly, those of the separable one are zero from the ninth on.",
       x="singular values, largest first", y="share of the largest", dots=True)

# %% [markdown]
# ## Which kernels can it be?
#
# Per *input channel*: the 3 x 3 kernels that go to different outputs must be multiples of one
# another. In symbols: for each $c$ the matrix `W[:, c, :]` of shape $(C_{out}, k^2)$ has rank 1.
#
# **Guess**: one input channel, two outputs, a vertical and a horizontal contour. Can it?
#
# <details><summary><b>Answer</b></summary>No: the two kernels are no multiples of one another.
# The nearest layer keeps one and gives up the other: half is lost.</details>

# %%
vertical = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]).double()
pair = torch.stack([vertical, vertical.T]).view(2, 1, 3, 3)
scaled = torch.stack([vertical, -3 * vertical]).view(2, 1, 3, 3)


def nearest(weight: torch.Tensor) -> torch.Tensor:
    """The nearest kernel of a depthwise-separable layer: rank 1 for each input channel (SVD)."""
    u, s, v = torch.linalg.svd(weight.flatten(2).movedim(1, 0), full_matrices=False)
    best = u[..., :1] * s[:, None, :1] @ v[:, :1]
    return best.movedim(0, 1).reshape(weight.shape)


def lost(weight: torch.Tensor) -> float:
    """Share of the kernel's sum of squares that no depthwise-separable layer can hold."""
    return float((weight - nearest(weight)).square().sum() / weight.square().sum())


show(
    [*pair[:, 0], *nearest(pair)[:, 0]],
    ["wanted, output 1", "wanted, output 2", "nearest, output 1", "nearest, output 2"],
    "Four kernels of 3 x 3: wanted are a vertical and a horizontal contour; the nearest keep one of them and leave the other white.",
    signed=True, grid=True,
)
print(f"lost: {lost(pair):.3f} of the pair, {lost(scaled):.3f} of the multiples")

# %%
half = round(lost(pair) * 1000) == 500
check("of two contours at right angles half is lost", half)
check("a kernel and its multiple lose nothing that rounding would not", round(lost(scaled), 12) == 0)
wide = cg.nn.DepthwiseConv(1, 3, multiplier=2, padding=1, bias=False, dtype=torch.float64)
with torch.no_grad():
    wide.weight.copy_(pair)
x = torch.randint(-9, 10, (1, 1, 8, 8)).double()
check(
    "a depth multiplier of 2 buys both contours back",
    torch.equal(wide(cg.PixelGraph.from_image(x)).to_image(), nn.functional.conv2d(x, pair, padding=1)),
)

# %% [markdown]
# ## And yet it works
#
# Handwritten digits, 8 x 8 pixels, 1,797 of them. Two networks that differ in the middle only.

# %% tags=["nbval-ignore-output"]
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
labels = torch.tensor(digits.target)
order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
train, test = order[:1400], order[1400:]


def network(separable: bool) -> nn.Module:
    """Stem, two blocks, head."""
    kind = cg.nn.DepthwiseSeparableConv if separable else cg.nn.GraphConv2d
    return cg.nn.Sequential(
        cg.nn.GraphConv2d(1, 16, 3, padding=1), nn.ReLU(),
        kind(16, 32, 3, padding=1), nn.ReLU(), cg.nn.GraphMaxPool2d(2),
        kind(32, 48, 3, padding=1), nn.ReLU(),
        cg.nn.GraphGlobalMaxPool(), nn.Linear(48, 10),
    )


def learn(separable: bool, epochs: int = 25) -> tuple[float, int]:
    """Test accuracy and number of weights."""
    torch.manual_seed(0)
    net = network(separable)
    optimiser = torch.optim.Adam(net.parameters(), lr=4e-3)
    for _ in range(epochs):
        for rows in train[torch.randperm(len(train))].split(100):
            out = net(cg.PixelGraph.from_image(images[rows])).x
            loss = nn.functional.cross_entropy(out, labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        guess = net(cg.PixelGraph.from_image(images[test])).x.argmax(1)
    return float((guess == labels[test]).float().mean()), sum(p.numel() for p in net.parameters())


scores = {name: learn(name == "separable") for name in ("full", "separable")}
for name, (accuracy, weights) in scores.items():
    print(f"{name:10} {accuracy:.1%} of the test digits with {weights:,} weights")
bars({f"{name}: {weights:,} weights": accuracy for name, (accuracy, weights) in scores.items()},
     "Two bars of nearly the same length, both above 95 per cent; the separable one has a fifth of the weights.", x="share of the test digits that are read")

# %%
check("the separable network has less than a fifth of the weights", scores["separable"][1] * 5 < scores["full"][1])
check("both read more than 95 % of the digits", min(a for a, _ in scores.values()) > 0.95)

# %% [markdown]
# ## What you take home
#
# - rank $\min(C_{out}, C_{in} k^2)$ against $\min(C_{out}, C_{in})$: one filter per input channel;
# - a depth multiplier, or a nonlinearity and another block, buys back what is needed;
# - on real digits little is lost: much of what a full convolution can ask is not asked.

# %% [markdown]
# ### Your turn 1: can it be?
#
# Write `separable(weight)`: True where a layer of depthwise and pointwise can be this kernel (C_out, C_in, k, k) exactly.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# def separable(weight):
#     ranks = [int(torch.linalg.matrix_rank(weight[:, c].flatten(1))) for c in range(weight.shape[1])]
#     return max(ranks) <= 1
# ```
#
# A slip that the examiner finds: a small rank of the whole matrix is necessary and not enough: the slices of each input channel decide.
#
# ```python
# def separable(weight):
#     return rank(weight) <= weight.shape[1]
# ```
#
# </details>

# %%
def separable(weight):
    ...  # your turn

hidden = torch.cat([pair, torch.zeros_like(pair)], 1)  # two input channels, one of them silent
cases = {"two contours": (pair, False), "two contours beside a silent channel": (hidden, False), "multiples of one contour": (scaled, True),
         "a separable layer": (product(random).detach(), True), "a full layer": (full.weight.detach().double(), False)}
examine("right about two contours, their multiples, a separable layer and a full one", separable,
        lambda f: all(agree(bool(f(weight)), answer, name) for name, (weight, answer) in cases.items()))

# %% [markdown]
# ### Your turn 2: how many filters?
#
# A depth multiplier m gives every input channel m filters. What is the smallest m with which one input channel can feed *any* four 3 x 3 kernels? And any twenty? Answer with a pair.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# multipliers = 4, 9  # there are no more than nine different 3 x 3 kernels, as directions
# ```
#
# A slip that the examiner finds: 3 x 3 kernels have nine numbers, so nine of them make all others.
#
# ```python
# multipliers = 4, 20
# ```
#
# </details>

# %%
multipliers = ...  # your turn

def enough(count, m):
    torch.manual_seed(1)
    return rank(torch.randn(count, 1, 3, 3)) <= m


examine("the smallest depth multipliers for any 4 and any 20 kernels of 3 x 3", multipliers,
        lambda ms: agree(ms, tuple(next(m for m in range(1, 21) if enough(n, m)) for n in (4, 20))))

# %% [markdown]
# ### Your turn 3: buy it back
#
# Give the depthwise kernels (2, 1, 3, 3) and the pointwise weights (2, 2, 1, 1) of a layer with depth multiplier 2 that computes both contours of `pair`, the second one *minus* the first in output 2.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# bought = pair, torch.tensor([[1.0, 0.0], [-1.0, 1.0]]).view(2, 2, 1, 1)
# ```
#
# A slip that the examiner finds: a row of the matrix is an *output*: the second row says -1 of the first and 1 of the second.
#
# ```python
# bought = pair, torch.tensor([[1.0, -1.0], [0.0, 1.0]]).view(2, 2, 1, 1)
# ```
#
# </details>

# %%
bought = ...  # depthwise, pointwise  # your turn

wanted = torch.stack([pair[0], pair[1] - pair[0]])
examine("output 1 the vertical contour, output 2 horizontal minus vertical", bought,
        lambda parts: agree(nn.functional.conv2d(nn.functional.conv2d(x, parts[0].double(), padding=1), parts[1].double()),
                              nn.functional.conv2d(x, wanted, padding=1)))

