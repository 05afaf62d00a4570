"""Convolution on pixel graphs and on any typed graph: validate, choose a backend, call it.

    y[p] = b + sum over edges (q, p, t) of  W[:, :, t] x[q]

Layers are parameters plus one call of these.
"""

from collections.abc import Callable
from operator import index
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor

from convgraph import arguments, autocast, backends
from convgraph.backends import tf32
from convgraph.backends.messages import edges as messages
from convgraph.backends.problem import Problem
from convgraph.door import door
from convgraph.errors import (
    DeviceError,
    DtypeError,
    EdgeError,
    GeometryError,
    ShapeError,
    UnsupportedError,
)
from convgraph.geometry.kernel import MOST, KernelGeometry, as_int
from convgraph.graph.edges import Edges, connect
from convgraph.graph.pixel_graph import PixelGraph, check_graph
from convgraph.graph.typed_edges import TypedEdges


@door
def graph_conv(
    graph: PixelGraph,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    geometry: KernelGeometry,
    groups: int = 1,
    sites: Any = None,
    backend: str | None = None,
    propagate: Callable[..., Any] | None = None,
    tapped: bool = False,
    who: str = "graph_conv",
) -> PixelGraph:
    """Convolve a pixel graph.

    Args:
        graph: features (N, C_in) on their sites.
        weight: (C_out, C_in / groups, *kernel_size); transposed, (C_in, C_out / groups, ...).
        bias: (C_out,) or None.
        geometry: the kernel's integers.
        groups: blocks of channels that do not mix.
        sites: names the output sites; see `convgraph.connect`.
        backend: forces one backend.
        propagate: a MessagePassing layer's own, for its hooks.
        tapped: whether somebody listens to single messages.
        who: the caller's name, for error texts.

    Returns:
        A graph with features (P, C_out) on the output sites.

    Raises:
        ShapeError: channels, groups or weight do not fit.
        DtypeError: features, weight and bias differ in dtype.
        DeviceError: they live on different devices.
        GeometryError: the kernel does not fit the lattice, or groups is not positive.
        BackendError: a forced backend cannot serve.
        UnsupportedError: a geometry with ceil_mode, which no convolution of torch has.

    Example:
        >>> graph = PixelGraph.from_image(torch.ones(1, 3, 3))
        >>> box = graph_conv(graph, torch.ones(1, 1, 3, 3), geometry=KernelGeometry(3, padding=1))
        >>> box.to_image()[0].int().tolist()
        [[4, 6, 4], [6, 9, 6], [4, 6, 4]]

    Source: https://pytorch.org/docs/stable/generated/torch.nn.functional.conv2d.html
    """
    check_graph(graph, who)
    check_weight(graph.x, weight, bias, geometry, groups, who)
    edges = connect(geometry, graph.sites, sites)
    y = convolve(graph.x, weight, bias, edges, geometry, groups, backend, propagate, tapped=tapped)
    return PixelGraph(y, edges.target)


@door
def typed_conv(
    x: Tensor,
    edge_index: Tensor,
    edge_type: Tensor | None,
    edge_weight: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    num_targets: int,
    geometry: KernelGeometry,
    groups: int = 1,
    backend: str | None = None,
    propagate: Callable[..., Any] | None = None,
    tapped: bool = False,
    who: str = "typed_conv",
) -> Tensor:
    """Convolve any typed graph, given by its edge list.

    Args:
        x: (N, C_in), or (B, N, C_in) for B feature sets on one graph.
        edge_index: (2, E) integers, row 0 sources, row 1 targets.
        edge_type: (E,) integers in [0, num_taps); None if there is one tap.
        edge_weight: (E,) factors of the messages, or None.
        weight: as in `graph_conv`.
        bias: (C_out,) or None.
        num_targets: rows of the result.
        geometry: only its number of taps and its direction are read.
        groups: blocks of channels that do not mix.
        backend: forces one backend.
        propagate: a MessagePassing layer's own, for its hooks.
        tapped: whether somebody listens to single messages.
        who: the caller's name, for error texts.

    Returns:
        (num_targets, C_out), or (B, num_targets, C_out).

    Raises:
        ShapeError, DtypeError, DeviceError: as in `graph_conv`.
        GraphError: edges that are no tensors.
        EdgeError: an index or a type out of range (on the CPU; on CUDA an asynchronous assert).

    Example:
        >>> edge_index, edge_type = torch.tensor([[0, 1], [1, 0]]), torch.tensor([0, 2])
        >>> x, taps = torch.tensor([[1.0], [10.0]]), torch.tensor([[[2.0, 3.0, 5.0]]])
        >>> kernel = {"geometry": KernelGeometry(3, d=1), "num_targets": 2}
        >>> typed_conv(x, edge_index, edge_type, None, taps, **kernel).flatten().tolist()
        [50.0, 2.0]
    """
    arguments.tensor(who, "x", x, shape="(N, C) or (B, N, C)")
    num_targets = _rows(f"{who}: num_targets", num_targets)
    if x.dim() not in (2, 3):
        raise ShapeError(f"{who}: expected x of shape (N, C) or (B, N, C), got {tuple(x.shape)}")
    check_weight(x, weight, bias, geometry, groups, who)
    arguments.tensor(who, "edge_index", edge_index, shape="(2, E)")
    if edge_type is None:
        if geometry.num_taps != 1:
            raise EdgeError(
                f"{who}: a kernel of {geometry.num_taps} taps needs edge_type (E,), got None"
            )
        edge_type = torch.zeros_like(edge_index[0])
    _check_form(x, edge_index, edge_type, edge_weight, who)
    edge_index, edge_type = _wide(edge_index), _wide(edge_type)
    _check_bounds(x, edge_index, edge_type, num_targets, geometry.num_taps, who)
    edges = TypedEdges.unchecked(
        edge_index,
        edge_type,
        edge_weight,
        num_sources=x.shape[-2],
        num_targets=num_targets,
        num_taps=geometry.num_taps,
    )
    # An unsorted list costs `gather` a sort at every call; the typed-node table does without.
    chosen = backends.forced(backend) or messages.NAME
    return convolve(x, weight, bias, edges, geometry, groups, chosen, propagate, tapped=tapped)


def listed_conv(
    x: Tensor,
    edges: TypedEdges,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    geometry: KernelGeometry,
    groups: int = 1,
    backend: str | None = None,
    propagate: Callable[..., Any] | None = None,
    tapped: bool = False,
    who: str = "listed_conv",
) -> Tensor:
    """Convolve a typed graph whose edges are kept: sorted once, by whichever backend is cheapest.

    Args:
        x: (N, C_in), or (B, N, C_in).
        edges: of N sources.
        weight: as in `graph_conv`.
        bias: (C_out,) or None.
        geometry: only its number of taps and its direction are read.
        groups: blocks of channels that do not mix.
        backend: forces one backend.
        propagate: a MessagePassing layer's own, for its hooks.
        tapped: whether somebody listens to single messages.
        who: the caller's name, for error texts.

    Raises:
        ShapeError, DtypeError, DeviceError: as in `graph_conv`.
        EdgeError: the edges have more taps than the kernel.
    """
    if x.dim() not in (2, 3) or x.shape[-2] != edges.num_sources:
        raise ShapeError(
            f"{who}: expected x of shape (N, C) or (B, N, C) with N = {edges.num_sources} sources, "
            f"got {tuple(x.shape)}"
        )
    check_weight(x, weight, bias, geometry, groups, who)
    if edges.num_taps > geometry.num_taps:
        raise EdgeError(
            f"{who}: expected edges of at most {geometry.num_taps} taps, got {edges.num_taps}"
        )
    if edges.edge_index.device != x.device:
        raise DeviceError(f"{who}: x on {x.device} but edges on {edges.edge_index.device}")
    whole = edges if edges.num_taps == geometry.num_taps else edges.with_taps(geometry.num_taps)
    return convolve(x, weight, bias, whole, geometry, groups, backend, propagate, tapped=tapped)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    edges: Edges | TypedEdges,
    geometry: KernelGeometry,
    groups: int,
    backend: str | None,
    propagate: Callable[..., Any] | None,
    *,
    tapped: bool,
) -> Tensor:
    """Choose and run; the arguments have been checked."""
    if autocast.enabled(x.device):
        x, weight = x.to(autocast.wanted(x)), weight.to(autocast.wanted(weight))
        bias = None if bias is None else bias.to(autocast.wanted(bias))
        with autocast.off(x.device):
            return convolve(
                x, weight, bias, edges, geometry, groups, backend, propagate, tapped=tapped
            )
    problem = conv_problem(x, weight, edges, geometry, groups, tapped=tapped, propagate=propagate)
    run: ModuleType = backends.TABLES["conv"][backends.choose(problem, backend)]
    y: Tensor = run.conv(x, weight, bias, edges, problem)
    return y


def conv_problem(
    x: Tensor,
    weight: Tensor,
    edges: Edges | TypedEdges,
    geometry: KernelGeometry,
    groups: int,
    *,
    tapped: bool = False,
    propagate: Callable[..., Any] | None = None,
) -> Problem:
    """The static facts of a convolution, for the choice and for `explain`."""
    out_channels = weight.shape[1] * groups if geometry.transposed else weight.shape[0]
    given = edges.edge_weight if isinstance(edges, TypedEdges) else None
    return Problem(
        op="conv",
        edges=edges,
        # index() makes constants of them under torch.compile(dynamic=True).
        in_channels=index(x.shape[-1]),
        out_channels=index(out_channels),
        groups=groups,
        dtype=x.dtype,
        device=x.device,
        weight_needs_grad=given is not None and given.requires_grad,
        static=x.dim() == 3,
        tapped=tapped,
        ieee=x.device.type == "cuda" and x.dtype == torch.float32 and not tf32.allowed(),
        transposed=geometry.transposed,
        propagate=propagate,
    )


def check_weight(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: KernelGeometry,
    groups: int,
    who: str,
) -> None:
    """Raise the error that names what does not fit; see `graph_conv`."""
    if not isinstance(geometry, KernelGeometry):
        raise GeometryError(
            f"{who}: expected geometry as a KernelGeometry, got {type(geometry).__name__}; "
            "write KernelGeometry(3, padding=1)"
        )
    arguments.tensor(who, "weight", weight, shape="(C_out, C_in / groups, *kernel_size)")
    if bias is not None:
        arguments.tensor(who, "bias", bias, shape="(C_out,) or None")
    if geometry.ceil_mode:
        raise UnsupportedError(
            f"{who}: ceil_mode=True is for pools; torch has no convolution that rounds its "
            "output size up"
        )
    if weight.dim() != geometry.d + 2:
        raise ShapeError(
            f"{who}: expected a weight of {geometry.d + 2} axes (two of channels, then "
            f"kernel_size={geometry.kernel_size}), got {tuple(weight.shape)}"
        )
    as_int(f"{who}: groups", groups, least=1)
    in_axis = 0 if geometry.transposed else 1
    in_channels = weight.shape[in_axis] * (1 if geometry.transposed else groups)
    if x.shape[-1] != in_channels:
        raise ShapeError(
            f"{who}: expected x of shape (N, in_channels) = ({x.shape[-2]}, {in_channels}), "
            f"got {tuple(x.shape)}; build the layer with in_channels={x.shape[-1]} or check the "
            "preceding one"
        )
    if tuple(weight.shape[2:]) != geometry.kernel_size or weight.shape[0] % groups:
        raise ShapeError(
            f"{who}: expected a weight over kernel_size={geometry.kernel_size} whose first axis "
            f"divides into groups={groups}, got {tuple(weight.shape)}"
        )
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if tensor.device != x.device:
            raise DeviceError(
                f"{who}: x on {x.device} but {name} on {tensor.device}; "
                "move the layer or the graph with .to(device)"
            )
        if tensor.dtype != x.dtype and autocast.wanted(tensor) != autocast.wanted(x):
            raise DtypeError(
                f"{who}: x has dtype {x.dtype} but {name} has {tensor.dtype}; "
                "convert the layer or the graph with .to(dtype)"
            )
    out_channels = weight.shape[1] * groups if geometry.transposed else weight.shape[0]
    if bias is not None and tuple(bias.shape) != (out_channels,):
        raise ShapeError(
            f"{who}: expected bias of shape ({out_channels},), got {tuple(bias.shape)}"
        )


def _rows(name: str, value: Any) -> int:
    """`as_int`, but a size that a tracer leaves open stays open: `operator.index` would fix it."""
    # Dynamo shows an open size as an int, other tracers as a SymInt.
    kinds = (int, torch.SymInt) if torch.compiler.is_compiling() else torch.SymInt
    if isinstance(value, kinds) and not isinstance(value, bool):
        # torch.export refuses any bound on an open size, so there only what is known is too many.
        too_many = _known(value > MOST) if torch.compiler.is_exporting() else value > MOST
        if value >= 0 and not too_many:
            return cast(int, value)
    return as_int(name, value, least=0)


def _known(claim: Any) -> bool:
    """Whether the claim on sizes holds whatever the open ones are; asking fixes none of them."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # imports sympy

    return statically_known_true(claim)


def _wide(indices: Tensor) -> Tensor:
    """Indices of 32 or 64 bits; narrower ones could neither be compared with N nor looked up."""
    return indices if indices.dtype in (torch.int64, torch.int32) else indices.long()


def _check_form(
    x: Tensor,
    edge_index: Tensor,
    edge_type: Tensor,
    edge_weight: Tensor | None,
    who: str,
) -> None:
    """Refuse edge lists of another kind, dtype, device or shape."""
    lists = {"edge_index": edge_index, "edge_type": edge_type, "edge_weight": edge_weight}
    for name, tensor in lists.items():
        if tensor is None:
            continue
        arguments.tensor(who, name, tensor, shape="(E,)")
        if tensor.device != x.device:
            raise DeviceError(f"{who}: x on {x.device} but {name} on {tensor.device}")
        if name == "edge_weight":
            continue
        if tensor.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8):
            raise DtypeError(f"{who}: expected {name} of an integer dtype, got {tensor.dtype}")
    if edge_index.dim() != 2 or edge_index.shape[0] != 2:
        raise ShapeError(
            f"{who}: expected edge_index of shape (2, E), got {tuple(edge_index.shape)}"
        )
    for name, one in (("edge_type", edge_type), ("edge_weight", edge_weight)):
        if one is not None and tuple(one.shape) != tuple(edge_index.shape[1:]):
            raise ShapeError(
                f"{who}: expected {name} of shape (E,) = ({edge_index.shape[1]},), "
                f"got {tuple(one.shape)}"
            )


def _check_bounds(
    x: Tensor, edge_index: Tensor, edge_type: Tensor, num_targets: int, num_taps: int, who: str
) -> None:
    """Refuse nodes and taps that do not exist."""
    if torch.compiler.is_compiling() or edge_index.shape[1] == 0:
        return
    for name, row, limit in (
        ("edge_index[0] (sources)", edge_index[0], x.shape[-2]),
        ("edge_index[1] (targets)", edge_index[1], num_targets),
        ("edge_type", edge_type, num_taps),
    ):
        fine = ((row >= 0) & (row < limit)).all()
        if x.device.type == "cuda":
            torch._assert_async(fine)  # no wait for the device; the assert names this line
        elif not fine:
            low, high = int(row.min()), int(row.max())
            raise EdgeError(
                f"{who}: expected every entry of {name} in [0, {limit}), got {low} to {high}"
            )
