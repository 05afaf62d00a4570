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
# # 4. k x k is message passing
#
# **Question.** Can we write a 3 x 3 convolution without ever saying "convolution"?
#
#     y[p] = b + sum over edges q --t--> p of  W[:, :, t] x[q]
#
# Three times: by hand, with PyTorch Geometric, with convgraph. The referee is `nn.Conv2d`.

# %%
# %matplotlib inline
import torch
from torch import nn
from torch_geometric.nn import MessagePassing

import convgraph as cg
from convgraph import draw
from lesson import answer, check, panels, photograph, show

torch.manual_seed(0)
image = torch.randint(0, 10, (3, 16, 16)).double()
conv = nn.Conv2d(3, 4, 3, padding=1, dtype=torch.float64)
with torch.no_grad():  # integers: sums of integers do not depend on their order
    conv.weight.copy_(torch.randint(-5, 6, conv.weight.shape))
    conv.bias.copy_(torch.randint(-5, 6, conv.bias.shape))
expected = conv(image)

# %% [markdown]
# ## By hand, in ten lines

# %%
H = W = 16
x = image.movedim(0, -1).reshape(H * W, 3)
y = conv.bias.repeat(H * W, 1)
for row in range(H):
    for column in range(W):
        for tap in range(9):
            r, c = row + tap // 3 - 1, column + tap % 3 - 1
            if 0 <= r < H and 0 <= c < W:
                message = conv.weight[:, :, tap // 3, tap % 3] @ x[r * W + c]
                y[row * W + column] += message
by_hand = y.view(H, W, 4).movedim(-1, 0)
check("ten lines of loops are nn.Conv2d, bit for bit", torch.equal(by_hand, expected))

# %% [markdown]
# ## With PyTorch Geometric
#
# The loops become an edge list, the body becomes `message`.

# %%
graph = cg.PixelGraph.from_image(image)
edges = cg.connect(cg.KernelGeometry(3, padding=1), graph)


class TypedConv(MessagePassing):
    def __init__(self, weight, bias):
        super().__init__(aggr="sum")
        self.taps = weight.flatten(2).permute(2, 1, 0)  # (9, C_in, C_out)
        self.bias = bias

    def forward(self, x, edge_index, edge_type):
        return self.propagate(edge_index, x=x, edge_type=edge_type) + self.bias

    def message(self, x_j, edge_type):
        return torch.einsum("ec,eco->eo", x_j, self.taps[edge_type])


by_pyg = TypedConv(conv.weight, conv.bias)(graph.x, edges.edge_index, edges.edge_type)
check("PyG says the same", torch.equal(by_pyg.view(H, W, 4).movedim(-1, 0), expected))

# %% [markdown]
# ## With convgraph
#
# The layer *is* a `MessagePassing`, with the parameters of `nn.Conv2d`. On a full image it runs the
# dense kernel; told to, it sends every message.

# %%
layer = cg.nn.GraphConv2d.from_dense(conv)
check("it is a MessagePassing", isinstance(layer, MessagePassing))
for name in ("dense", "gather", "messages"):
    with cg.backend(name):
        check(f"backend {name!r} equals nn.Conv2d", torch.equal(layer(graph).to_image(), expected))
print(cg.explain(layer, graph))

# %% [markdown]
# One node and everything it hears, with numbers:

# %%
grey = cg.PixelGraph.from_image(photograph(128)[:1, 8:15, 40:47])
sobel = cg.nn.GraphConv2d(1, 1, 3, padding=1, bias=False)
with torch.no_grad():
    sobel.weight.copy_(torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]]).view(1, 1, 3, 3))
draw.messages(sobel, grey, node=24).figure

# %% [markdown]
# ## Every argument is a statement about edges
#
# **Guess** for a 6 x 6 image and a 3 x 3 kernel with padding 1: what changes with stride 2? with
# dilation 2? with `padding_mode="circular"`?

# %%
tiny = cg.PixelGraph.from_image(torch.zeros(1, 6, 6))
table = {
    "plain": dict(padding=1),
    "stride 2": dict(padding=1, stride=2),
    "dilation 2": dict(padding=2, dilation=2),
    "circular": dict(padding=1, padding_mode="circular"),
    "no padding": dict(),
}
for name, arguments in table.items():
    found = cg.nn.GraphConv2d(1, 1, 3, **arguments).edges(tiny)
    print(f"{name:12} {found.num_targets:3} targets, {found.num_edges:4} edges")
answer(
    "Stride: fewer targets. Dilation: as many targets, longer edges. Circular: no edge is missing, "
    "so 9 for each of the 36 nodes."
)

# %%
count = lambda **k: cg.nn.GraphConv2d(1, 1, 3, **k).edges(tiny).num_edges
check("circular padding: every node hears nine", count(padding=1, padding_mode="circular") == 9 * 36)
check("zero padding: the edges that would leave are not there", count(padding=1) == 16 * 16)
long = cg.nn.GraphConv2d(1, 1, 3, padding=2, dilation=2).edges(tiny)
p, q = tiny.pos[long.edge_index[1]], tiny.pos[long.edge_index[0]]
check("dilation 2: every edge is 0 or 2 pixels long on each axis", set((p - q).abs().unique().tolist()) == {0, 2})

# %% [markdown]
# A transposed convolution turns the arrows round:

# %%
down = cg.nn.GraphConv2d(1, 1, 3, stride=2, padding=1, bias=False)
up = cg.nn.GraphConvTranspose2d(1, 1, 3, stride=2, padding=1, output_padding=1, bias=False)
there = down.edges(tiny)
back = up.edges(cg.PixelGraph.from_image(torch.zeros(1, 3, 3)))
arrows = lambda e, flip: sorted(
    zip(e.edge_index[flip].tolist(), e.edge_index[1 - flip].tolist(), e.edge_type.tolist())
)
check("transposed = the same edges, reversed", arrows(there, 0) == arrows(back, 1))

# %% [markdown]
# ## How far do k layers see?

# %%
field = cg.PixelGraph.from_image(photograph(128)[:, 20:37, 46:63])
stacks = [[cg.nn.GraphConv2d(1, 1, 3, padding=1)] * k for k in (1, 2, 3)]
for ax, stack in zip(panels(3, 4.4, 4.6), stacks):
    draw.receptive_field(stack, field, 8 * 17 + 8, ax=ax)

# %%
for k, stack in enumerate(stacks, start=1):
    reached = int(draw.reach(stack, field, 8 * 17 + 8)[-1].sum())
    check(f"{k} hops reach (2 * {k} + 1)^2 = {(2 * k + 1) ** 2} pixels", reached == (2 * k + 1) ** 2)

# %% [markdown]
# ## And the proof
#
# We compared on one image of integers. The certificate speaks of every image and every weight.

# %%
cert = cg.prove(layer, conv, size=(12, 12))
print(cert)
check("proven", cert.verdict == "proven")

# %% [markdown]
# ## What you take home
#
# - a convolution is a sum of typed messages: the loop, the GNN and `nn.Conv2d` agree to the last bit;
# - stride, dilation, padding and transposition change *who talks*, never *what is said*.
