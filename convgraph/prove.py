"""`cg.prove`: a graph layer and its dense twin, handed to the judge as plain callables.

The judge (`convgraph.proof`) knows nothing of graphs. This adapter reads the operator's integers
off the dense twin, never off the layer that is judged, wraps both as f(x, w, b) -> y on images,
and shows the judge the layer's typed edges. A mask means what padding means: the truth is the dense
operator on the image whose absent pixels are 0, restricted to the output sites.

May import errors, geometry's integers, lattice, graph, nn and proof.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from convgraph.errors import ProofError
from convgraph.geometry import as_int
from convgraph.graph import PixelGraph
from convgraph.lattice import checked_size
from convgraph.network_pair import prove_pair
from convgraph.nn import GraphConv
from convgraph.proof import EPSILON, Certificate, ConvSpec, Oracle, precision, prove_convolution

_CONVS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
_TRANSPOSED = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)


def prove(
    candidate: torch.nn.Module,
    reference: torch.nn.Module,
    images: Tensor | Sequence[Tensor] | None = None,
    *,
    size: Sequence[int] | None = None,
    batch: int = 2,
    mask: Tensor | None = None,
    sites: Tensor | None = None,
    epsilon: float = EPSILON,
    seed: int | None = None,
    progress: bool = False,
) -> Certificate:
    """Prove that a graph convolution, or a whole network, is the same function as a dense one.

    For every image and every weight: typed edges against an independent integer formula (S0),
    values and all gradients bit for bit on random integers, three ways (S2), and rounding errors
    within a derived bound (S3). Runs in the dtype and on the device of the candidate.

    With `images`, two networks are compared: every parameter bit for bit, the wiring node by node,
    a certificate for each layer, and a run with its error beside a running error bound.

    Args:
        candidate: a graph convolution (GraphConv*, GraphConvTranspose*, PointwiseConv, ...), or a
            network: made by `to_graph`, or built by hand with the reference's names.
        reference: torch.nn.Conv1d/2d/3d or ConvTranspose1d/2d/3d with the same parameters, or the
            dense network.
        images: (B, C, *size) or a tuple of what the networks take, at least two images; for
            networks, in place of size, batch, mask and sites.
        size: pixels of each image along each axis, for one layer.
        batch: images; at least two, so that a fault of the second one shows.
        mask: (batch, *size) or (*size) bool, which pixels are nodes; None for all.
        sites: (batch, *output_size) bool, names the output sites; None lets the rule decide.
        epsilon: the most that a wrong "proven" may be probable.
        seed: replays a recorded run.
        progress: show a progress bar.

    Returns:
        A Certificate: print it, read `verdict`, or write it with `to_json`.

    Raises:
        ProofError: the pair is none that can be compared yet, or size, mask or sites do not fit it.
        GraphError, GeometryError: size or batch are no integers, or fewer than two images.

    Example:
        >>> import convgraph as cg
        >>> conv = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1)
        >>> cg.prove(cg.nn.GraphConv2d.from_dense(conv), conv, size=(8, 8)).verdict
        'proven'
    """
    if images is not None:
        if size is not None or mask is not None or sites is not None:
            raise ProofError("prove: images are for two networks; size, mask and sites for a layer")
        how: dict[str, Any] = {"epsilon": epsilon, "seed": seed}
        return prove_pair(candidate, reference, images, prove, progress=progress, **how)
    if size is None:
        raise ProofError("prove: expected size= of one layer, or images of two networks")
    if not isinstance(candidate, GraphConv):
        raise ProofError(
            f"prove: expected a graph convolution as candidate, got {type(candidate).__name__}"
        )
    if not isinstance(reference, (*_CONVS, *_TRANSPOSED)):
        raise ProofError(
            f"prove: expected a torch convolution as reference, got {type(reference).__name__}"
        )
    shape, batch = checked_size(size), as_int("prove: batch", batch, least=2)
    if len(shape) != len(reference.kernel_size):
        raise ProofError(
            f"prove: expected a size of {len(reference.kernel_size)} axes for {reference}, "
            f"got {shape}"
        )
    with precision.plain(candidate.weight.device):
        return _prove(
            candidate, reference, shape, batch, mask, sites,
            epsilon=epsilon, seed=seed, progress=progress,
        )  # fmt: skip


def _prove(
    candidate: GraphConv,
    reference: torch.nn.Module,
    size: tuple[int, ...],
    batch: int,
    mask: Tensor | None,
    sites: Tensor | None,
    **how: Any,
) -> Certificate:
    """Hand the pair to the judge; kinds and numbers have been checked."""
    weight = candidate.weight
    source = None if mask is None else _as_array(mask, (batch, *size), "mask")
    spec = _spec(reference, size, batch, source)
    spec = replace(spec, target_mask=_expected_sites(spec, sites))
    if tuple(weight.shape) != spec.w_shape or (candidate.bias is not None) != spec.bias:
        raise ProofError(
            f"prove: the candidate's weight {tuple(weight.shape)} (bias: "
            f"{candidate.bias is not None}) is not the reference's {spec.w_shape} "
            f"(bias: {spec.bias}); these two cannot be the same function"
        )
    device = weight.device
    node_mask = None if source is None else torch.from_numpy(source).to(device)
    named = None if sites is None else torch.from_numpy(np.array(spec.target_mask)).to(device)

    def judged(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        graph = PixelGraph.from_image(x, node_mask, d=spec.d)
        values = {"weight": w} if b is None else {"weight": w, "bias": b}
        out: PixelGraph = functional_call(candidate, values, (graph,), {"sites": named})
        return out.to_image()

    def edges() -> tuple[Any, Any, Any]:
        empty = torch.zeros(spec.x_shape, device=device)
        found = candidate.edges(PixelGraph.from_image(empty, node_mask, d=spec.d), named)
        q, p = found.source.nodes[found.edge_index[0]], found.target.nodes[found.edge_index[1]]
        return q.cpu().numpy(), p.cpu().numpy(), found.edge_type.cpu().numpy()

    return prove_convolution(
        judged,
        _masked(reference, spec, device),
        spec,
        edges=edges,
        parameters=(dict(candidate.named_parameters()), dict(reference.named_parameters())),
        dtype=weight.dtype,
        device=device,
        name=repr(candidate),
        **how,
    )


def _spec(
    dense: Any, size: tuple[int, ...], batch: int, source: np.ndarray[Any, Any] | None
) -> ConvSpec:
    """The operator's integers as the torch module states them."""
    pads: tuple[tuple[int, int], ...]
    if dense.padding == "same":
        reach = [gap * (k - 1) for k, gap in zip(dense.kernel_size, dense.dilation, strict=True)]
        pads = tuple((total // 2, total - total // 2) for total in reach)
    elif dense.padding == "valid":
        pads = ((0, 0),) * len(dense.kernel_size)
    else:
        pads = tuple((n, n) for n in dense.padding)
    return ConvSpec(
        in_channels=dense.in_channels,
        out_channels=dense.out_channels,
        kernel_size=tuple(dense.kernel_size),
        size=size,
        batch=batch,
        stride=tuple(dense.stride),
        padding=pads,
        dilation=tuple(dense.dilation),
        padding_mode=dense.padding_mode,
        transposed=bool(dense.transposed),
        output_padding=tuple(dense.output_padding),
        groups=dense.groups,
        bias=dense.bias is not None,
        source_mask=source,
    )


def _expected_sites(spec: ConvSpec, sites: Tensor | None) -> np.ndarray[Any, Any] | None:
    """The output sites by the rule in words, worked out from the oracle's edges alone."""
    oracle = Oracle(spec)
    shape = (spec.batch, *oracle.out_size)
    if sites is not None:
        return _as_array(sites, shape, "sites")
    if spec.source_mask is None or spec.source_mask.all():  # every pixel there: a full grid
        return None
    if set(spec.stride) == {1} and oracle.out_size == spec.size:
        return spec.source_mask
    reached: np.ndarray[Any, Any] = (oracle.in_degree() > 0).reshape(shape)
    return reached


def _as_array(mask: Tensor, shape: tuple[int, ...], name: str) -> np.ndarray[Any, Any]:
    if not isinstance(mask, Tensor):
        raise ProofError(f"prove: expected {name} as a tensor, got {type(mask).__name__}")
    if mask.dtype != torch.bool or tuple(mask.shape) not in (shape, shape[1:]):
        raise ProofError(
            f"prove: expected {name} of dtype bool and shape {shape} or {shape[1:]}, got "
            f"{mask.dtype} {tuple(mask.shape)}"
        )
    return mask.expand(shape).cpu().numpy().copy()


def _masked(
    dense: torch.nn.Module, spec: ConvSpec, device: torch.device
) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """The truth on a mask: absent pixels are 0 before, and what is no output site is 0 behind."""

    def on(mask: np.ndarray[Any, Any] | None) -> Tensor | None:
        return None if mask is None else torch.from_numpy(mask).to(device).unsqueeze(1)

    present, wanted = on(spec.source_mask), on(spec.target_mask)

    def run(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        values = {"weight": w} if b is None else {"weight": w, "bias": b}
        seen = x if present is None else torch.where(present, x, 0)
        y: Tensor = functional_call(dense, values, (seen,))
        return y if wanted is None else torch.where(wanted, y, 0)

    return run
