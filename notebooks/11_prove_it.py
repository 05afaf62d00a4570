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
# # 11. Prove it
#
# **Question.** You wrote a layer. On a random image it agrees with the old one to six digits. Are they the same function?
#
# `allclose` answers "on this image, nearly". We want "on every image, exactly", and for rounded numbers "within a bound
# that somebody derived".
#
# **After this lesson you can** say what "proven" rests on, plant a fault that `allclose` passes, and read a bound.
# **You need** lesson 4. **Time**: 60 minutes. By hand 10, the premise 8, chance 8, allclose 8, bounds 8, truncation 5, your turn 13.

# %%
# %matplotlib inline
import itertools

import torch
import torch.nn.functional as F
from torch import nn

import convgraph as cg
from convgraph import draw
from convgraph.proof import ConvSpec, prove_convolution
from lesson import agree, check, examine, panels, picture

generator = torch.manual_seed(0)

# %% [markdown]
# ## A certificate by hand, on a 4 x 4 image
#
# A convolution is *linear* in the image and *linear* in the kernel. So it is known everywhere if it is known on basis pairs:
# an image with a single 1, a kernel with a single 1. For 4 x 4 pixels and 3 x 3 taps there are 16 * 9 of them. **Guess**
# what the output looks like for one such pair.
#
# <details><summary><b>Answer</b></summary>A single 1, where the tap carries the pixel to, or
# nothing at all if that is outside.</details>

# %%
def by_hand(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """The layer to be judged: a sum over typed edges, padding 1."""
    edges = cg.connect(cg.KernelGeometry(3, padding=1), cg.PixelGraph.from_image(x))
    y = torch.zeros(16, dtype=x.dtype)
    for (q, p), t in zip(edges.edge_index.T, edges.edge_type, strict=True):
        y[p] += w.flatten()[t] * x.flatten()[q]
    return y.view(1, 4, 4)


pairs = 0
for pixel, tap in itertools.product(range(16), range(9)):
    x, w = torch.zeros(1, 4, 4), torch.zeros(1, 1, 3, 3)
    x.view(-1)[pixel], w.view(-1)[tap] = 1, 1
    pairs += int(torch.equal(by_hand(x, w), F.conv2d(x[None], w, padding=1)[0]))
print(f"{pairs} of {16 * 9} basis pairs agree")
check("all 144 basis pairs agree: if both are linear in x and in w, they agree everywhere", pairs == 144)

# %% [markdown]
# ## "If both are linear"
#
# That is the *premise*, and it needs a proof of its own. This one agrees on all 144 pairs too:

# %%
def sly(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> torch.Tensor:
    """Right, until a pixel is larger than a million."""
    return F.conv2d(x.clamp(max=1e6), w, b, padding=1)


alike = 0
for pixel, tap in itertools.product(range(16), range(9)):
    x, w = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 3, 3)
    x.view(-1)[pixel], w.view(-1)[tap] = 1, 1
    alike += int(torch.equal(sly(x, w), F.conv2d(x, w, padding=1)))
check("the sly layer passes every basis pair", alike == 144)
conv = nn.Conv2d(1, 1, 3, padding=1, dtype=torch.float64)
caught = cg.prove(sly, conv, size=(4, 4), seed=0)
print(caught.reason)
check("the judge follows every operator and refuses it", caught.verdict == "refuted")
premise = next(part for part in caught.parts if part.name == "S1 premise")
check("by name: clamp", "clamp" in premise.facts)

# %% [markdown]
# ## Larger images: chance, but counted
#
# Basis pairs are too many for a large layer. Instead: random integers, so that nothing rounds. If two such layers differ
# anywhere, they differ as polynomials, and a polynomial that is not zero is zero at a random point with a small probability
# that is known beforehand. After $r$ trials in $[-a, a]$ it is at most
#
# $$\left(\frac{2}{2a + 1}\right)^r .$$

# %%
big = nn.Conv2d(8, 8, 3, padding=1, dtype=torch.float64)
cert = cg.prove(cg.nn.GraphConv2d.from_dense(big), big, size=(16, 16))
print(f"{cert.trials} trials in [-{cert.a}, {cert.a}]")
bound = (2 / (2 * cert.a + 1)) ** cert.trials
print(f"a wrong 'proven' has probability at most {bound:.1e}")
check("proven", cert.verdict == "proven")
check("with less than 2^-100 to be wrong", bound <= 2.0**-100)

# %% [markdown]
# The formula itself can be tried where everything can be counted: x y - z w with each variable in [-a, a].

# %%
for a in (1, 2, 3, 4):
    values = torch.arange(-a, a + 1)
    x, y, z, w = torch.meshgrid(values, values, values, values, indexing="ij")
    share = float((x * y == z * w).double().mean())
    print(f"a = {a}: zero for {share:.3f} of all points, bound {2 / (2 * a + 1):.3f}")
    check(f"a = {a}: within the bound", share <= 2 / (2 * a + 1))

# %% [markdown]
# ## Why `allclose` is not enough
#
# Six planted faults. `torch.allclose` looks at the output of one random image, with a relative tolerance of 1e-5 and an
# absolute one of 1e-8 (its defaults; tests often loosen them). **Guess** how many of the six it passes.
#
# <details><summary><b>Answer</b></summary>All six: a gradient is no output, a large pixel was not
# drawn, and a small error is below the tolerance.</details>

# %%
dense = nn.Conv2d(4, 4, 3, padding=1, dtype=torch.float64)
run = lambda x, w, b: F.conv2d(x, w, b, padding=1)


def last_channel(x, w, b):
    return run(x, w, b) * torch.where(torch.arange(4) == 3, 1 + 1e-6, 1.0).view(1, 4, 1, 1)


FAULTS = {
    "right only below 100": lambda x, w, b: run(x.clamp(max=100), w, b),
    "weight has no gradient": lambda x, w, b: run(x, w.detach(), b),
    "gradient of x doubled": lambda x, w, b: run(2 * x - x.detach(), w, b),
    "rounded through float32": lambda x, w, b: run(x.float().double(), w, b),
    "last channel off by 1e-6": last_channel,
    "negative pixels at 1 - 1e-7": lambda x, w, b: run(torch.where(x < 0, x * (1 - 1e-7), x), w, b),
}
spec = ConvSpec(4, 4, (3, 3), (8, 8), padding=((1, 1), (1, 1)))
x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
passed, refuted = [], []
for name, fault in FAULTS.items():
    found = prove_convolution(fault, run, spec, explain=False)
    close = torch.allclose(fault(x, dense.weight, dense.bias), dense(x))
    passed += [name] * close
    refuted += [name] * (found.verdict == "refuted")
    print(f"{name:28} allclose: {'passes' if close else 'caught':7} judge: {found.verdict}")

# %%
check("allclose passes all six", len(passed) == 6)
check("the judge refutes all six", len(refuted) == 6)

# %% [markdown]
# ## Floating point: a bound, not a tolerance
#
# Real numbers round. Summing n products in any order is off by at most n u times the sum of their absolute values, with u the
# unit roundoff of the dtype. That is computed for every output, and the certificate says how much of it was used: rho.

# %%
axes = panels(2, 3.7, 3.6)
rhos = {}
for ax, dtype in zip(axes, (torch.float64, torch.bfloat16), strict=True):
    layer = nn.Conv2d(16, 16, 3, padding=1, dtype=dtype)
    graph = cg.nn.GraphConv2d.from_dense(layer)
    graph.backend = "gather"  # another order of summation than torch's kernel
    found = cg.prove(graph, layer, size=(12, 12))
    rhos[dtype] = max(found.rho.values())
    draw.certificate(found, ax=ax)
    ax.set_title(f"{found.verdict}, {found.dtype}")
    ax.set_xlabel("error / bound; circle: reference, diamond: oracle", fontsize=9)
picture(axes[0], "Two charts, float64 and bfloat16. For y and three gradients a line says which share of the bound was used; all end left of the dashed line at 1.")

# %%
check("every error is within its bound: rho <= 1", max(rhos.values()) <= 1)
check("and it is not zero: the two round differently", rhos[torch.float64] > 0)

# %% [markdown]
# ## TF32
#
# NVIDIA's tensor cores can multiply numbers of 11 bits instead of 24, and cuDNN's convolutions do so unless told otherwise. We can
# imitate it: cut the operands. **Guess**: does the result still lie within the float32 bound?
#
# <details><summary><b>Answer</b></summary>No. It needs a bound of its own, and a certificate has
# to say which of the two held.</details>

# %% tags=["nbval-ignore-output"]
def tf32(t: torch.Tensor) -> torch.Tensor:
    """Keep 11 bits of a float32 (round to nearest), as a tensor core reads it."""
    whole = t.contiguous().view(torch.int32)
    return ((whole + 0x1000) & ~0x1FFF).view(torch.float32)


w32, x32 = torch.randn(16, 16, 3, 3), torch.randn(1, 16, 12, 12)
exact = F.conv2d(x32.double(), w32.double(), padding=1)
size = F.conv2d(x32.double().abs(), w32.double().abs(), padding=1)
n, u24, u11 = 16 * 9, 2.0**-24, 2.0**-11
error = (F.conv2d(tf32(x32), tf32(w32), padding=1).double() - exact).abs()
print(f"error / float32 bound {float((error / (n * u24 * size)).max()):.1f}")
wide = 2 * u11 + u11**2 + n * u24 * (1 + u11) ** 2
print(f"error / TF32 bound    {float((error / (wide * size)).max()):.3f}")
check("operands of 11 bits break the float32 bound", bool((error > n * u24 * size).any()))
check("and keep the one that was derived for them", bool((error <= wide * size).all()))

# %% [markdown]
# ## What you take home
#
# - linear + equal on a basis = equal everywhere; the premise needs its own proof;
# - integers do not round, so "bit for bit" makes sense, and chance can be counted;
# - for real numbers a bound is derived, per output; a tolerance is somebody's guess.

# %% [markdown]
# ### Your turn 1: a fault that passes
#
# Plant one yourself: write `faulty(x, w, b)`, a 3 x 3 convolution with padding 1 that `torch.allclose` accepts on random images, and that is *not* a convolution. The examiner wants both: allclose passes and the judge refutes.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# def faulty(x, w, b):
#     return run(x, w, b) * (1 + 1e-7)
# ```
#
# A slip that the examiner finds: mirroring twice changes nothing: that one *is* a convolution, and the judge proves it.
#
# ```python
# def faulty(x, w, b):
#     return run(x.flip(-1).flip(-1), w, b)
# ```
#
# </details>

# %%
def faulty(x, w, b):
    ...  # your turn

def fools_allclose(f):
    image = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    close = torch.allclose(f(image, dense.weight, dense.bias), dense(image))
    verdict = prove_convolution(f, run, spec, explain=False).verdict
    return agree({"allclose passes": close, "the judge": verdict}, {"allclose passes": True, "the judge": "refuted"})


examine("allclose passes your fault and the judge refutes it", faulty, fools_allclose)

# %% [markdown]
# ### Your turn 2: how many trials?
#
# With whole numbers in [-10, 10], how many trials does a wrong "proven" with probability at most 2^-40 take? Use the formula of the lesson.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# trials = 12  # log(2^40) / log(21 / 2) = 11.8
# ```
#
# A slip that the examiner finds: one trial is worth log2(21 / 2) = 3.4 bits here, not one.
#
# ```python
# trials = 40
# ```
#
# </details>

# %%
trials = ...  # your turn

examine("the fewest trials in [-10, 10] for 2^-40", trials,
        lambda r: agree(r, next(n for n in range(1, 100) if (2 / 21) ** n <= 2.0**-40)))

# %% [markdown]
# ### Your turn 3: a layer of your own, proven
#
# Write a 3 x 3 convolution with padding 1 as *one* matrix product: `by_unfold(x, w, b)` with `F.unfold`. The judge follows every operator, values and gradients.
#
# <details><summary><b>Solution</b></summary>
#
# ```python
# def by_unfold(x, w, b):
#     columns = F.unfold(x, 3, padding=1)  # (N, C_in * 9, H * W)
#     return (w.flatten(1) @ columns + b[:, None]).view(x.shape[0], -1, *x.shape[2:])
# ```
#
# A slip that the examiner finds: the kernel's rows and columns are exchanged, and the judge says so by name.
#
# ```python
# def by_unfold(x, w, b):
#     columns = F.unfold(x, 3, padding=1)
#     return (w.transpose(2, 3).flatten(1) @ columns + b[:, None]).view(x.shape[0], -1, *x.shape[2:])
# ```
#
# </details>

# %%
def by_unfold(x, w, b):
    ...  # your turn

examine("one matrix product is a 3 x 3 convolution", by_unfold,
        lambda f: cg.prove(f, nn.Conv2d(2, 3, 3, padding=1), size=(4, 5)))

