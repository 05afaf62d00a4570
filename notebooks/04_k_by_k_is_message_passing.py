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
# In words: pixel p hears every neighbour q through its tap t; the tap's matrix W[:, :, t] turns what q has
# into a *message*, and p adds up its messages and a bias b.
#
# Three times: by hand, with PyTorch Geometric, with convgraph. The referee is `nn.Conv2d`.

# %%
# %matplotlib inline
import torch
from torch import nn
from torch_geometric.nn import MessagePassing

import convgraph as cg
from convgraph import draw
from lesson import check, panels, photograph, show

torch.manual_seed(0)
image = torch.randint(0, 10, (3, 16, 16)).double()
conv = nn.Conv2d(3, 4, 3, padding=1, dtype=torch.float64)
with torch.no_grad():  # integers: sums of integers do not depend on their order
    conv.weight.copy_(torch.randint(-5, 6, conv.weight.shape))
    conv.bias.copy_(torch.randint(-5, 6, conv.bias.shape))
expected = conv(image)

# %% [markdown]
# ## By hand, in ten lines
#
# With padding 1 and a 3 x 3 kernel, tap t sits t // 3 - 1 rows and t % 3 - 1 columns away from p.

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
# The loops become an edge list, the body becomes `message`. PyG's `propagate` hands `message` one row for
# each edge: `x_j` are the features of the pixel that speaks (j), `edge_type` is the tap. It then adds up what
# `message` returns, target by target.

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
# The layer *is* a `MessagePassing`, with the parameters of `nn.Conv2d`. It has several ways of computing the
# one sum, its *backends*: "dense" is torch's own kernel, "gather" one matrix product for each tap, "messages"
# the form above. It chooses by a table of costs, which `cg.explain` shows; `cg.backend` chooses for it.

# %%
layer = cg.nn.GraphConv2d.from_dense(conv)
check("it is a MessagePassing", isinstance(layer, MessagePassing))
for name in ("dense", "gather", "messages"):
    with cg.backend(name):
        check(f"backend {name!r} equals nn.Conv2d", torch.equal(layer(graph).to_image(), expected))
print(cg.explain(layer, graph))

# %% [markdown]
# One node and everything it hears. The kernel is Sobel's, -1, -2, -1 on the left and 1, 2, 1 on the right;
# each number is weight times pixel, and the title is their sum:

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
# dilation 2 (and padding 2, so that the size stays)? with `padding_mode="circular"`? without padding?
# A *target* is an output pixel.

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

# %% [markdown]
# <details><summary><b>Answer</b> (guess first)</summary>Stride: fewer targets. Dilation: as many targets,
# longer edges, of which more would leave the image. Circular: no edge is missing, so 9 for each of the 36
# nodes. No padding: only the 16 targets that have all nine.</details>

# %%
count = lambda **k: cg.nn.GraphConv2d(1, 1, 3, **k).edges(tiny).num_edges
check("circular padding: every node hears nine", count(padding=1, padding_mode="circular") == 9 * 36)
check("zero padding: the edges that would leave are not there", count(padding=1) == 16 * 16)
long = cg.nn.GraphConv2d(1, 1, 3, padding=2, dilation=2).edges(tiny)
p, q = tiny.pos[long.edge_index[1]], tiny.pos[long.edge_index[0]]
check("dilation 2: every edge is 0 or 2 pixels long on each axis", set((p - q).abs().unique().tolist()) == {0, 2})

# %% [markdown]
# In pictures: with stride 2 only every second pixel listens, and circular edges leave at one side and come
# back at the other: on the border a line points right across the picture, to the pixel at the far side.

# %%
grey6 = photograph(128)[:1, 24:30, 50:56]
for ax, name in zip(panels(3, 4.4, 5.2), ("plain", "stride 2", "circular")):
    draw.pixel_graph(grey6, cg.KernelGeometry(3, **table[name]), ax=ax)
    ax.set_title(f"{name}\n{ax.get_title()}")

# %% [markdown]
# A transposed convolution turns the arrows round. `down` takes 6 x 6 to 3 x 3, `up` takes 3 x 3 back to 6 x 6:

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
    check(f"after {k} of 3: (2 * {k} + 1)^2 = {(2 * k + 1) ** 2} pixels are heard", reached == (2 * k + 1) ** 2)

# %% [markdown]
# ## And the proof
#
# We compared on one image of integers. The certificate speaks of every image and every weight. How to read it:
#
# - *structure*: every typed edge was compared with a formula written a second time. Two images of 12 x 12 are
#   used (a fault may spare the first), hence 2 * 34 * 34 = 2,312 edges;
# - *premise*: every operator of the layer was followed, and none of them can turn on its input's size or sign;
# - *basis*, *identity*: outputs and gradients on random whole numbers, bit for bit. *epsilon* is the probability that
#   two different layers would have passed;
# - *rounding*: on real numbers the largest difference, as a share (*rho*) of what rounding alone may do: at most 1;
# - *assumed* and *not covered* say what it does not speak of. Lesson 11 builds one by hand.

# %%
cert = cg.prove(layer, conv, size=(12, 12))
print(cert)
check("proven", cert.verdict == "proven")
check("and the edges it compared are the ones we counted", "2312 typed edges" in str(cert))

# %% [markdown]
# ## What you take home
#
# - a convolution is a sum of typed messages: the loop, the GNN and `nn.Conv2d` agree to the last bit;
# - stride, dilation, padding and transposition change *who talks*, never *what is said*.
#
# **Try it** before you run the next cell: how many edges has a 5 x 5 kernel with padding 2 on the 6 x 6 image?

# %%
five = cg.nn.GraphConv2d(1, 1, 5, padding=2).edges(tiny).num_edges
check("5 x 5: 24 pairs along each axis", five == 24 * 24)

# %% [markdown]
# <details><summary><b>Answer</b> (guess first)</summary>Along an axis 6 + 2 * 5 + 2 * 4 = 24 pairs, so 24 * 24
# = 576.</details>
