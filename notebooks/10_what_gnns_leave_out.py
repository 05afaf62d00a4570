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
# # 10. What GNNs leave out
#
# **Question.** Textbooks have many graph layers: GCN, GraphSAGE, GAT, RGCN. "A CNN is a GNN on a grid", they say. Which
# of these four, on the grid of an image, *is* a convolution?
#
# **Guess** before you run anything. The judge is `cg.prove`: it follows the layer operator by operator, compares it with
# `nn.Conv2d` bit for bit, and where they differ it looks for the smallest image that shows it.

# %%
# %matplotlib inline
import torch
from torch import nn
from torch_geometric.nn import GATConv, GCNConv, RGCNConv, SAGEConv

import convgraph as cg
from convgraph import draw
from convgraph.comparison.callers import relational
from lesson import check, show

torch.manual_seed(0)
conv = nn.Conv2d(3, 4, 3, padding=1)

# %% [markdown]
# <details><summary><b>Answer</b> (guess first)</summary>One: RGCN, because its edges have types, and with a sum
# and without a root weight. The others cannot tell left from right.</details>

# %% [markdown]
# ## What they see
#
# Without a type an edge says "neighbour" and no more. Mirror the image, and a layer without types gives the mirrored
# answer: it cannot know that anything happened. A convolution can.

# %%
image = torch.randn(3, 6, 6)
graph = cg.PixelGraph.from_image(image)
edges = cg.connect(cg.KernelGeometry(3, padding=1), graph)
others = edges.edge_type != 4  # GCN and GAT add the self-loop themselves
plain = edges.edge_index[:, others]
layers = {
    "GCN": lambda x: GCN(x, plain),
    "GraphSAGE": lambda x: SAGE(x, plain),
    "GAT": lambda x: GAT(x, plain),
    "RGCN": lambda x: RGCN(x, edges.edge_index, edges.edge_type),
}
GCN, SAGE, GAT = GCNConv(3, 4), SAGEConv(3, 4), GATConv(3, 4)
RGCN = RGCNConv(3, 4, 9, aggr="sum", root_weight=False)


def turned(x: torch.Tensor, channels: int) -> torch.Tensor:
    """The same rows for the image turned by 180 degrees."""
    return x.view(6, 6, channels).flip(0, 1).reshape(36, channels)


def blind(name: str) -> float:
    """How much turning the image first differs from turning the answer, as a share of the answer."""
    layer = layers[name]
    with torch.no_grad():
        first, after = layer(turned(graph.x, 3)), turned(layer(graph.x), 4)
    return float((first - after).norm() / after.norm())


shares = {name: blind(name) for name in layers}
for name, share in shares.items():
    print(f"{name:10} {share:.1e}")

# %%
u = torch.finfo(torch.float32).eps / 2
check("GCN, GraphSAGE and GAT do not notice that the image was turned (they only round)", max(shares[n] for n in ("GCN", "GraphSAGE", "GAT")) < 1000 * u)
check("RGCN does: its edges have types", shares["RGCN"] > 0.1)

# %% [markdown]
# ## RGCN, proven
#
# One matrix per edge type, summed, plus a bias. With the kernel laid out as RGCN keeps it, the judge agrees:

# %%
RGCN.load_state_dict(relational(conv.weight, conv.bias))
cert = cg.prove(cg.AsNodes(RGCN, relational), conv, size=(6, 6))
print(cert)
draw.certificate(cert).figure

# %%
check("RGCN with a sum and without a root weight is a convolution", cert.verdict == "proven")

# %% [markdown]
# Its *defaults* are something else: a root weight, so that every node hears itself twice. The judge shows the smallest
# image that tells, and a likely cause:

# %%
default = RGCNConv(3, 4, 9)
default.load_state_dict(relational(conv.weight, conv.bias), strict=False)
no = cg.prove(cg.AsNodes(default, relational), conv, size=(6, 6))
print(no.cause)
print(no.smallest_case)
check("RGCN with its defaults is refuted", no.verdict == "refuted")
check("and the cause is named: a root weight", "root weight" in no.cause)

# %% [markdown]
# The other default is a *mean* for each type. **Guess**: on a grid with zero padding, does it matter?

# %%
mean = RGCNConv(3, 4, 9, aggr="mean", root_weight=False)
mean.load_state_dict(relational(conv.weight, conv.bias))
zeros = cg.prove(cg.AsNodes(mean, relational), conv, size=(6, 6))
print("mean, by type:", zeros.verdict)
check("the mean of at most one message per type is the message: proven", zeros.verdict == "proven")

# %% [markdown]
# <details><summary><b>Answer</b> (guess first)</summary>No! Through one tap a pixel hears at most one other,
# and the mean of one is that one. A mean over all <i>types</i> together would matter.</details>

# %% [markdown]
# ## GraphSAGE and GCN, refuted
#
# Lay a kernel out as they keep it, as well as it can be done: GraphSAGE has one matrix for all neighbours and one
# for oneself, GCN a single one. The judge is asked about *every* kernel, and shows the smallest case that differs: **guess**
# how many pixels it needs.

# %%
def same_for_all(w: torch.Tensor, b: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """GraphSAGE's two matrices, read off a 3 x 3 kernel: neighbours from tap 0, oneself from tap 4."""
    taps = w.flatten(2)
    return {"lin_l.weight": taps[:, :, 0], "lin_r.weight": taps[:, :, 4], "lin_l.bias": b}


def one_matrix(w: torch.Tensor, b: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """GCN's single matrix: the kernel's middle."""
    return {"lin.weight": w[:, :, 1, 1], "bias": b}


refused = {}
for name, layer, layout in (("GraphSAGE", SAGE, same_for_all), ("GCN", GCN, one_matrix)):
    layer.load_state_dict(layout(conv.weight, conv.bias))
    refused[name] = cg.prove(cg.AsNodes(layer, layout, typed=False), conv, size=(4, 4))
    print(name, refused[name].verdict)
    print(refused[name].smallest_case)

# %% [markdown]
# <details><summary><b>Answer</b> (guess first)</summary>One for GraphSAGE: a pixel alone hears itself, whatever
# the tap. Two for GCN: the second has a tap of its own in a convolution.</details>

# %%
check("GraphSAGE is no convolution", refused["GraphSAGE"].verdict == "refuted")
check("GCN is no convolution", refused["GCN"].verdict == "refuted")
copied = [part.status for c in refused.values() for part in c.parts if part.name == "parameters"]
check("and not for their parameters, which were copied bit for bit", copied == ["proven", "proven"])

# %% [markdown]
# To be fair: is there *one* convolution that GraphSAGE is? The same matrix at all eight neighbours, divided by eight for
# the mean, and another for oneself. **Guess** where it still differs. (Whole numbers, and an eighth is exact.)

# %%
fair = nn.Conv2d(3, 4, 3, padding=1, dtype=torch.float64)
whole = cg.PixelGraph.from_image(torch.randint(-8, 9, (3, 6, 6)).double())
with torch.no_grad():
    fair.weight.copy_((torch.randint(-3, 4, (4, 3, 1, 1)) / 8).expand(4, 3, 3, 3))
    fair.weight[:, :, 1, 1] = torch.randint(-3, 4, (4, 3)).double()
    fair.bias.zero_()
    sage = SAGEConv(3, 4).double()
    sage.load_state_dict({"lin_l.weight": 8 * fair.weight[:, :, 0, 0], "lin_r.weight": fair.weight[:, :, 1, 1], "lin_l.bias": fair.bias})
    gap = (sage(whole.x, plain).T.view(4, 6, 6) - fair(whole.to_image())).abs().amax(0)
show([gap], ["largest difference of the two, pixel by pixel"], signed=True, grid=True)
check("inside, GraphSAGE is that convolution, bit for bit", not gap[1:-1, 1:-1].any())
check("on the border it is not", bool(gap[0].any() and gap[:, -1].any()))

# %% [markdown]
# <details><summary><b>Answer</b> (guess first)</summary>On the border: GraphSAGE divides by the neighbours that
# are there, five or three, and a convolution does not.</details>

# %% [markdown]
# ## GAT, refuted by its premise
#
# GAT computes the weight of an edge from the two nodes at its ends, through a softmax. That is no sum of products of
# weights and pixels any more, whatever the numbers: the *premise* fails before a single number is compared.

# %%
def attention(w: torch.Tensor, b: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """GAT's shared matrix from the middle of the kernel; its attention vectors stay its own."""
    return {"lin.weight": w[:, :, 1, 1], "bias": b}


gat = cg.prove(cg.AsNodes(GAT, attention, typed=False), conv, size=(4, 4))
premise = next(part for part in gat.parts if part.name == "S1 premise")
print(premise.status, "-", premise.facts.partition(" (")[0])
check("GAT is no convolution", gat.verdict == "refuted")
check("already its premise fails", premise.status != "proven")

# %% [markdown]
# ## What you take home
#
# - what GNNs leave out is the *type* of an edge: without it, left and right are the same;
# - RGCN with `aggr="sum", root_weight=False` is a convolution, bit for bit on integers; its defaults are not;
# - "is it the same function?" has an answer that is not a tolerance.
