"""Who takes turns: our choice, each backend of ours, and the libraries that are installed.

An arm is a pair (forward, leaves): a call without arguments, and the tensors that a training step
differentiates. Everything that a real program would do once (masks, maps, layouts) is done before.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import blocks
import torch
from cases import BLOCK, Case
from torch import Tensor, nn

import convgraph as cg

Arm = tuple[Callable[[], Tensor], list[Tensor]]

DENSE = "nn.Conv2d x mask"
OURS = "convgraph"
EDGE_LIMIT = 6_000_000
"""Edges times channels / 64 above which PyG's layers would take most of the run."""


def arms(
    case: Case, mask: Tensor | None, device: torch.device, dtype: torch.dtype
) -> dict[str, Arm]:
    """Return everybody who can serve the case; `DENSE` is the measure of all."""
    if case.layer == BLOCK.layer and mask is not None:
        dense, ours = blocks.arms(case, mask, device, dtype)
        return {DENSE: dense, OURS: ours}
    options = {"stride": case.stride, "padding": (case.kernel - 1) // 2, "groups": case.groups}
    dense = nn.Conv2d(case.channels, case.out, case.kernel, **options)
    dense = dense.to(device, dtype).to(memory_format=torch.channels_last)
    image = torch.randn(case.batch, case.channels, case.size, case.size, device=device, dtype=dtype)
    image = image.to(memory_format=torch.channels_last)
    if mask is not None:
        mask = mask.to(device)
    layer = cg.nn.GraphConv2d.from_dense(dense).to(device, dtype)
    graph = cg.PixelGraph.from_image(image, mask)
    found = {DENSE: _dense(dense, image, mask, layer, graph), OURS: _ours(layer, graph, None)}
    if mask is not None:
        options_of = cg.backends.options(layer.problem(graph))
        for option in options_of:
            if option.refusal is None and option.name != "messages":
                found[f"backend {option.name}"] = _ours(layer, graph, option.name)
    else:
        nchw = image.contiguous()
        plain = nn.Conv2d(case.channels, case.out, case.kernel, **options).to(device, dtype)
        found["nn.Conv2d from NCHW"] = (lambda: plain(nchw), list(plain.parameters()))
        from_image = lambda: layer(cg.PixelGraph.from_image(nchw)).x  # noqa: E731
        found["convgraph from NCHW"] = (from_image, list(layer.parameters()))
    reads = graph.num_nodes * case.kernel**2 * case.channels // 64
    if case.groups == 1 and reads < EDGE_LIMIT:
        found |= _pyg(case, layer, graph)
    if find_spec("spconv") and case.groups == 1 and case.stride == 1 and dtype != torch.float64:
        found |= _spconv(case, graph)
    small = case.kernel**2 <= 32 and case.groups == 1 and case.stride == 1
    if find_spec("flex_gemm") and device.type == "cuda" and small and dtype != torch.float64:
        found |= _flex_gemm(case, graph)
    return found


def _leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def _dense(
    conv: nn.Conv2d, image: Tensor, mask: Tensor | None, layer: Any, graph: cg.PixelGraph
) -> Arm:
    """The image is masked, convolved and masked again, as masked autoencoders do."""
    x = _leaf(image)
    leaves = [x, *conv.parameters()]
    if mask is None:
        return lambda: conv(x), leaves
    before = mask.unsqueeze(1).to(image.dtype)
    target = layer.edges(graph).target
    after = torch.stack(target.mask_images()).unsqueeze(1).to(image.dtype)
    return lambda: conv(x * before) * after, leaves


def _ours(layer: Any, graph: cg.PixelGraph, backend: str | None) -> Arm:
    """The layer on rows that have been packed before, as in the middle of a network."""
    graph = graph.with_x(_leaf(graph.x))

    def forward() -> Tensor:
        if backend is None:
            return layer(graph).x
        with cg.backend(backend):
            return layer(graph).x

    return forward, [graph.x, *layer.parameters()]


def _pyg(case: Case, layer: Any, graph: cg.PixelGraph) -> dict[str, Arm]:
    """RGCNConv on the same typed edges: the tap is the relation."""
    from torch_geometric.nn import FastRGCNConv, RGCNConv

    edges, x = layer.edges(graph), _leaf(graph.x)
    pair = (x, x.new_zeros(edges.num_targets, case.channels))
    found: dict[str, Arm] = {}
    for kind in (RGCNConv, FastRGCNConv):
        if kind is FastRGCNConv and edges.num_edges * case.channels * case.out > 2e8:
            continue  # it would gather more than 0.8 GB of weights
        peer = kind(case.channels, case.out, case.kernel**2, aggr="sum", root_weight=False).to(
            x.device, x.dtype
        )
        call = lambda peer=peer: peer(pair, edges.edge_index, edges.edge_type)  # noqa: E731
        found[kind.__name__] = (call, [x, *peer.parameters()])
    return found


def _spconv(case: Case, graph: cg.PixelGraph) -> dict[str, Arm]:
    """SubMConv2d with its map cached between calls; the CPU's backward asks for CUDA and fails."""
    import spconv.pytorch as spconv

    x = _leaf(graph.x)
    where = torch.cat([graph.batch[:, None], graph.pos], 1).int()
    peer = spconv.SubMConv2d(case.channels, case.out, case.kernel, indice_key="map")
    peer = peer.to(x.device, x.dtype)
    size, maps = [case.size, case.size], {}

    def forward() -> Tensor:
        tensor = spconv.SparseConvTensor(x, where, size, case.batch, indice_dict=maps)
        out: Tensor = peer(tensor).features
        return out

    leaves = [x, *peer.parameters()] if x.device.type == "cuda" else []
    return {"spconv SubMConv2d": (forward, leaves)}


def _flex_gemm(case: Case, graph: cg.PixelGraph) -> dict[str, Arm]:
    """FlexGEMM's submanifold convolution of a volume one pixel deep, its map kept between calls."""
    from flex_gemm.ops import spconv

    spconv.set_algorithm(spconv.Algorithm.MASKED_IMPLICIT_GEMM_SPLITK)
    x, size = _leaf(graph.x), torch.Size((case.batch, case.channels, case.size, case.size, 1))
    flat = torch.zeros_like(graph.batch[:, None])
    where = torch.cat([graph.batch[:, None], graph.pos, flat], 1).int().contiguous()
    shape = (case.out, 1, case.kernel, case.kernel, case.channels)
    weight, bias = _leaf(torch.randn(shape).to(x)), _leaf(x.new_zeros(case.out))
    kept: list[Any] = [None]

    def forward() -> Tensor:
        y: Tensor
        y, kept[0] = spconv.sparse_submanifold_conv3d(x, where, size, kept[0], weight, bias)
        return y

    return {"FlexGEMM": (forward, [x, weight, bias])}
