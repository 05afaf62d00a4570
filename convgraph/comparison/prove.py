"""`cg.prove`: any two sides of a claim, handed to the judge as plain callables.

The judge (`convgraph.proof`) knows nothing of graphs. This adapter reads the operator's integers
off the dense side, never off the one that is judged, wraps both as f(x, w, b) -> y on images (see
`sides`), and shows the judge the typed edges where there are any. A mask means what padding means:
the truth is the dense operator on the image whose absent pixels are 0, restricted to the output
sites.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convgraph import arguments
from convgraph.backends import TABLES
from convgraph.comparison import callers, linear_callers, on_space, side_state, typed_graph
from convgraph.comparison.networks import prove_pair
from convgraph.convert.network import GraphNetwork
from convgraph.convert.tensor import GraphTensor
from convgraph.door import door
from convgraph.errors import ProofError
from convgraph.geometry.footprint import checked
from convgraph.geometry.kernel import as_int
from convgraph.geometry.space import Space
from convgraph.graph.images import check_space
from convgraph.graph.lattice import checked_size
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.nn import GraphConvNd
from convgraph.proof import (
    EPSILON,
    Certificate,
    ConvSpec,
    Oracle,
    precision,
    prove_convolution,
    prove_linear,
    prove_maximum,
)
from convgraph.proof.draws import check_room
from convgraph.proof.equation.maximum_windows import finest
from convgraph.proof.layer.own_parameters import OwnParameters
from convgraph.spaces import from_dict

_FUSED = tuple(
    dict.fromkeys(
        f"convgraph::{name}"
        for module in TABLES["conv"].values()
        for name in getattr(module, "OPERATORS", ())
    )
)
"""The library's fused kernels, trusted as torch's are: to be multilinear, and by name."""

Side = Any
"""A module, an `AsNodes`, or a function f(x, w, b) -> y."""


def _parts() -> Any:
    """The door of plans and parts, opened when it is first asked for."""
    from convgraph.comparison import parts

    return parts


@door
def prove(
    candidate: Side,
    reference: Side | None = None,
    images: Tensor | Sequence[Tensor] | PixelGraph | GraphTensor | None = None,  # (B, C, *size)
    *,
    size: Sequence[int] | None = None,
    batch: int = 2,
    spec: ConvSpec | None = None,
    mask: Tensor | None = None,  # (batch, *size), (1, *size) or (*size) bool
    sites: Tensor | None = None,  # (batch, *output_size) bool
    on: Space | None = None,
    footprint: Any = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    premise: bool = True,
    trust: Collection[str] = (),
    identity: str = "auto",
    second: bool = False,
    scale: int | None = None,
    edges: tuple[Tensor, Tensor] | None = None,  # (2, E), (E,)
    epsilon: float = EPSILON,
    seed: int | None = None,
    progress: bool = False,
) -> Any:
    """Prove that two sides are the same function, for every image and every weight.

    Typed edges against an independent integer formula (S0), every operator of the candidate
    followed (S1), values and all gradients bit for bit on random integers, three ways (S2), and
    rounding errors within a derived bound (S3).

    Of two networks, with `images`: every parameter bit for bit, the wiring node by node, a
    certificate for each layer, and both runs held together by running error bounds.

    Of a plan, the `.plan` of what `cg.tiled` returns, alone: every output in one tile, every edge
    the definition's, everything there that is read; integers, at any size. Of what `cg.sharded`
    returns, beside the network and with `images`, called on every rank: who reads what of whom in
    integers, and every operator's part bit for bit, gradients included.

    Args:
        candidate: a graph convolution; a module on images with torch's `weight` and `bias`; a layer
            on nodes and edges as `AsNodes(layer, parameters)`; or a function f(x, w, b) -> y. Or a
            network: made by `to_graph`, or built by hand under the reference's names.
        reference: torch.nn.Conv1d/2d/3d or ConvTranspose1d/2d/3d; a function, beside `spec`; or an
            operator without parameters (average pool, resize, unfold, pixel shuffle, ...). Or the
            dense network.
        images: gives size and batch, if `size` does not; of networks, a tuple where they take more.
            A PixelGraph of images of one size gives its space or its mask too; its `.tensor()`
            does, and is what a candidate that takes images is called with.
        size: pixels of each image along each axis.
        batch: images; at least two, so that a fault of the second one shows.
        spec: the integers of the operator, where the reference is a function.
        mask: which pixels are nodes; None for all. Of networks, the truth is the dense one whose
            absent pixels say nothing to any operator.
        sites: names the output sites; None lets the rule decide.
        on: the space that the pixels lie in, as in `PixelGraph.from_image`; the truth is then the
            dense operator over what the judge's own geometry of that space says each tap reads.
        footprint: which taps of the kernel are there: a name or bools, as a layer takes it; the
            truth is then the dense operator with 0 for the weights of the others.
        dtype: in which functions compute; modules compute in their own.
        device: where functions compute; modules compute where they are.
        premise: follow the candidate's operators; without it they are assumed multilinear.
        trust: custom operators ("ns::op") and autograd functions (by class name) of the candidate
            that are taken as multilinear, and named in the record; as torch's own kernels are, and
            the library's fused ones ("convgraph::send", "convgraph::correlate",
            "convgraph::send_bags", "convgraph::correlate_bags").
        identity: "probabilistic", "deterministic" (every basis pair of a small geometry as well),
            or "auto": deterministic too where that is cheap.
        second: also compare the gradients of the gradients.
        scale: of an operator without parameters: its entries are k / scale with whole k. None
            works it out for those of torch that are known.
        edges: (edge_index, edge_type) of any typed graph, for two sides that are both `AsNodes`;
            size is then its number of nodes, if it has more than an edge names.
        epsilon: the most that a wrong "proven" may be probable.
        seed: replays a recorded run.
        progress: show a progress bar.

    Returns:
        A Certificate: print it, read `verdict`, or write it with `to_json`. A refutation carries
        the smallest case and its likely cause. A `PlanCertificate` of a plan, a `PartsCertificate`
        of a sharded part: print it, or read `verdict` and `faults`.

    Raises:
        ProofError: the pair is none that can be compared, or size, mask or sites do not fit it.
        GraphError, GeometryError: size or batch are no integers, or fewer than two images.

    Example:
        >>> import convgraph as cg
        >>> conv = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1)
        >>> cg.prove(cg.nn.GraphConv2d.from_dense(conv), conv, size=(8, 8)).verdict
        'proven'
    """
    arguments.number("prove", "epsilon", epsilon)
    if seed is not None:
        arguments.number("prove", "seed", seed, whole=True)
    if reference is None:
        return _parts().prove_plan(candidate)
    if hasattr(candidate, "claims"):
        return _parts().prove_part(candidate, reference, images, epsilon, seed)
    for name, side in (("candidate", candidate), ("reference", reference)):
        if isinstance(side, type) or not (callable(side) or isinstance(side, callers.AsNodes)):
            raise ProofError(
                f"prove: expected {name} as a module, an AsNodes, or a function f(x, w, b), "
                f"got {type(side).__name__}"
            )
        side_state.checked_numbers(side, name)
    trust = (*trust, *_FUSED)
    if edges is not None:
        if any(given is not None for given in (images, spec, mask, sites, on, footprint, scale)):
            raise ProofError("prove: edges= says who talks to whom; it stands alone with size=")
        if not (isinstance(candidate, callers.AsNodes) and isinstance(reference, callers.AsNodes)):
            raise ProofError(
                "prove: expected both sides as AsNodes(layer, parameters) beside edges=, got "
                f"{type(candidate).__name__} and {type(reference).__name__}"
            )
        where = _where(candidate, reference, dtype, device)
        with precision.plain(where[1], ieee=False):
            return _prove_on_edges(
                candidate, reference, edges, size, where, premise=premise, trust=trust,
                identity=identity, second=second, epsilon=epsilon, seed=seed, progress=progress,
            )  # fmt: skip
    if isinstance(images, (tuple, list)):
        images = _alone(images)
    tensors = isinstance(images, GraphTensor)
    if isinstance(images, GraphTensor):
        images = images.graph
    if isinstance(images, PixelGraph):
        images, on, holes = _array(images, on)
        if mask is not None and holes is not None:
            raise ProofError("prove: the graph has a mask already; mask= is for images")
        mask = holes if mask is None else mask
    if isinstance(size, int) and not isinstance(size, bool):
        axes = spec.kernel_size if spec is not None else getattr(reference, "kernel_size", None)
        size = (size,) * (len(axes) if isinstance(axes, tuple) else 2)
    channels = getattr(reference, "in_channels", None)
    if isinstance(images, Tensor) and channels is not None and images.shape[1] != channels:
        raise ProofError(
            f"prove: expected images of {channels} channels for {reference}, got {images.shape[1]}"
        )
    networks = tensors or _is_network(candidate, reference, images)
    if images is not None and networks and (size is None or tensors):
        if any(given is not None for given in (spec, sites, footprint, size)):
            raise ProofError(
                "prove: spec, sites, footprint and size are for one layer, got two networks"
            )
        return prove_pair(
            candidate, reference, images, prove, on=on, mask=mask, tensors=tensors,
            progress=progress, epsilon=epsilon, seed=seed, premise=premise, trust=trust,
            identity=identity, second=second,
        )  # fmt: skip
    if images is not None and not isinstance(images, Tensor):
        raise ProofError(f"prove: expected images of one layer as a tensor, got {type(images)}")
    if images is not None and size is None:
        size, batch = tuple(images.shape[2:]), max(2, images.shape[0])
    if size is None and spec is not None:
        size, batch = spec.size, spec.batch
    if size is None:
        raise ProofError("prove: expected size=(H, W), images (B, C, H, W), or spec=")
    shape, batch = checked_size(size), as_int("prove: batch", batch, least=2)
    check_room((batch, *shape))
    how: dict[str, Any] = {"epsilon": epsilon, "seed": seed, "progress": progress}
    where = _where(candidate, reference, dtype, device)
    conv = isinstance(reference, (*side_state.CONVOLUTIONS, *side_state.TRANSPOSED))
    if spec is None and not conv:
        if not isinstance(reference, torch.nn.Module) or [*reference.parameters()]:
            raise ProofError(
                "prove: expected a torch convolution or an operator without parameters as "
                f"reference, or spec=ConvSpec(...) beside a function, got {_who(reference)}"
            )
        if sites is not None and mask is None:
            raise ProofError("prove: sites= of a pool names outputs on a mask; pass mask= too")
        maxima = linear_callers.windows_of(reference, shape) is not None
        wrong = () if maxima else (("mask", mask), ("sites", sites))
        for name, given in (*wrong, ("second", second or None)):
            if given is not None:
                raise ProofError(
                    f"prove: {name}= is for a convolution or a max pool; {_who(reference)} has no "
                    "parameters, and is compared on full grids, in y and its gradient"
                )
        if identity == "deterministic":
            raise ProofError("prove: an operator without parameters is probed; identity= is not")
        how |= {"premise": premise, "trust": trust}
        check_space(on, shape)
        with side_state.unchanged(candidate, reference):
            if maxima:
                return _prove_maximum(
                    candidate, reference, (batch, shape), images, (mask, sites), where, on, how
                )
            return _prove_linear(
                candidate, reference, (batch, shape), images, scale, where, on, how
            )
    if scale is not None:
        raise ProofError("prove: scale= is for an operator without parameters, got a convolution")
    if spec is None and len(shape) != len(reference.kernel_size):
        raise ProofError(
            f"prove: expected a size of {len(reference.kernel_size)} axes for {reference}, "
            f"got {shape}"
        )
    more = {"premise": premise, "trust": trust, "identity": identity, "second": second}
    if spec is not None and (on is not None or footprint is not None):
        raise ProofError("prove: expected space= and footprint= in spec=ConvSpec(...) beside it")
    check_space(on, shape)
    lies: dict[str, Any] = {"space": None if on is None else on.to_dict()}
    if footprint is not None:
        lies["footprint"] = checked(footprint, reference.kernel_size)
    with precision.plain(where[1], ieee=False):  # the judge switches, and states what was set
        return _prove(
            candidate, reference, spec, (batch, shape), mask, sites, lies, where, **how, **more
        )


def _alone(images: Sequence[Any]) -> Any:
    """What networks are sent; a graph, which says where pixels lie, without the tuple around it."""
    if not any(isinstance(image, (PixelGraph, GraphTensor)) for image in images):
        return images
    if len(images) > 1:
        raise ProofError(
            "prove: a graph says of all images which pixels are there; of networks that take more "
            "than one, expected tensors, with mask= and on= beside them"
        )
    return images[0]


def _array(graph: PixelGraph, on: Space | None) -> tuple[Tensor, Space | None, Tensor | None]:
    """The images of a graph, the space that they lie in, and which pixels are there."""
    space, holes = graph.sites.space, graph.sites.mask is not None
    if graph.sites.size is None:
        raise ProofError(f"prove: expected a graph of images of one size, got {graph.sites}")
    if on is not None and space is not None and on != space:
        raise ProofError(f"prove: expected a graph on {on}, got one on {space}")
    mask = torch.stack(graph.sites.mask_images()) if holes else None
    return graph.to_image(), on if space is None else space, mask


def _is_network(candidate: Side, reference: Side, images: Any) -> bool:
    """Whether a pair is more than one layer."""
    if not isinstance(reference, torch.nn.Module):
        return False
    if isinstance(reference, (*side_state.CONVOLUTIONS, *side_state.TRANSPOSED)):
        several = bool([*getattr(candidate, "children", list)()])
        return isinstance(candidate, GraphNetwork) or (
            several and not isinstance(candidate, GraphConvNd)
        )
    several = bool([*reference.children()] or [*reference.parameters()])
    return several or not isinstance(images, Tensor)


def _prove(
    candidate: Side,
    reference: Side,
    given: ConvSpec | None,
    lattices: tuple[int, tuple[int, ...]],
    mask: Tensor | None,
    sites: Tensor | None,
    lies: dict[str, Any],
    where: tuple[torch.dtype, torch.device],
    **how: Any,
) -> Certificate:
    """Hand the pair to the judge; kinds and numbers have been checked."""
    batch, size = lattices
    source = None if mask is None else _as_array(mask, (batch, *size), "mask")
    spec = given or replace(_spec(reference, size, batch, source), **lies)
    if given is not None and (mask is not None or sites is not None):
        raise ProofError("prove: expected masks in spec=ConvSpec(source_mask=..., ...) beside it")
    if given is None:
        spec = replace(spec, target_mask=_expected_sites(spec, sites))
    named = sites is not None
    candidate, one = side_state.as_held(candidate)
    reference, two = side_state.as_held(reference)
    if all(side_state.parameters_of(side) is not None for side in (candidate, reference)):
        side_state.checked_shapes(candidate, spec, _who(candidate))
    layer = side_state.module_of(candidate)
    edges = None
    if isinstance(layer, GraphConvNd):
        edges = partial(_edges, layer, spec, named, where[1])
    side = partial(_run, candidate, named=named), partial(_truth, reference)
    follows = layer is not None or spec is not given  # a function may be made for one geometry
    assumed = tuple(f"{text}, on both sides alike, and is not looked into" for text in one)
    with side_state.unchanged(candidate, reference):
        return prove_convolution(
            side[0](spec),
            side[1](spec),
            spec,
            edges=edges,
            parameters=side_state.both(candidate, reference),
            small=(lambda little: (side[0](little), side[1](little))) if follows else None,
            own=_own(candidate, reference, side[0](spec)),
            doubts=side_state.doubts(candidate, one, two),
            doubted=given is None and not side_state.is_torchs_own(reference),
            assumed=assumed if one == two else (),
            dtype=where[0],
            device=where[1],
            name=_who(candidate),
            **how,
        )


def _prove_on_edges(
    candidate: callers.AsNodes,
    reference: callers.AsNodes,
    edges: Any,
    size: Any,
    where: tuple[torch.dtype, torch.device],
    **how: Any,
) -> Certificate:
    """Hand two layers on one typed graph to the judge."""
    count = None
    if size is not None:
        count, *more = checked_size(size if isinstance(size, Sequence) else (size,))
        if more:
            raise ProofError(f"prove: expected size= as one number of nodes, got {size}")
    spec = typed_graph.spec_of(edges, count, (candidate, reference))
    runs = [typed_graph.caller(side, spec) for side in (candidate, reference)]
    alike = typed_graph.held_alike(candidate, reference)
    one, two = (dict(side.layer.named_parameters()) for side in (candidate, reference))
    apart = (
        "what both hold are the numbers of one (w, b): their layouts differ, and are not compared"
    )
    with side_state.unchanged(candidate, reference):
        return prove_convolution(
            runs[0],
            runs[1],
            spec,
            parameters=(one, two) if alike and one else None,
            own=_own(candidate, reference, runs[0]),
            doubted=True,
            assumed=() if alike else (apart,),
            dtype=where[0],
            device=where[1],
            name=_who(candidate),
            **how,
        )


def _own(candidate: Side, reference: Side, run: Callable[..., Tensor]) -> OwnParameters | None:
    """The candidate with parameters of its own; None for a function."""
    module = side_state.module_of(candidate)
    if module is None:
        return None
    trained = side_state.parameters_of(reference) or {}

    def laid_out(w: Tensor, b: Tensor | None) -> Mapping[str, Tensor]:
        if isinstance(candidate, callers.AsNodes):
            return candidate.named(w, b)
        return {"weight": w} if b is None else {"weight": w, "bias": b}

    frozen = frozenset(name for name, p in trained.items() if not p.requires_grad)
    return OwnParameters(module, run, laid_out, frozen)


def _prove_linear(
    candidate: Side,
    reference: torch.nn.Module,
    lattices: tuple[int, tuple[int, ...]],
    images: Tensor | None,
    scale: int | None,
    where: tuple[torch.dtype, torch.device],
    on: Space | None,
    how: dict[str, Any],
) -> Certificate:
    """Prove two operators without parameters the same."""
    batch, size = lattices
    channels = 4 if images is None else int(images.shape[1])
    on_graph = linear_callers.takes_graph(candidate)
    settings = None if on is None else on.to_dict()
    if scale is None:
        halves = settings is not None and settings["kind"] == "healpix"  # of its corners
        scale = linear_callers.scale_of(reference, size) * (1 + halves)
    found = prove_linear(
        linear_callers.on_graph(candidate, on) if on_graph else candidate,
        reference if settings is None else on_space.truth(reference, {"space": settings}),
        (batch, channels, *size),
        parameters=side_state.trained(candidate),
        scale=scale,
        dtype=where[0],
        device=where[1],
        name=_who(candidate),
        **how,
    )
    if settings is None:
        return found
    return replace(
        found, spec={**found.spec, "space": settings}, assumed=(*found.assumed, on_space.ASSUMED)
    )


def _prove_maximum(
    candidate: Side,
    reference: torch.nn.Module,
    lattices: tuple[int, tuple[int, ...]],
    images: Tensor | None,
    masks: tuple[Tensor | None, Tensor | None],
    where: tuple[torch.dtype, torch.device],
    on: Space | None,
    how: dict[str, Any],
) -> Certificate:
    """Prove a maximum over windows; on a mask and in a space, those that the judge knows there."""
    batch, size = lattices
    lies: dict[str, Any] = {} if on is None else {"space": on.to_dict()}
    bent = on is not None or masks[0] is not None
    # Whoever compares entry by entry is followed window by window: two channels halve that.
    channels = int(images.shape[1]) if images is not None else 2 if bent else 4
    spec: dict[str, Any] = {"shape": [batch, channels, *size], **lies}
    if masks[0] is not None:
        spec["source_mask"] = _as_array(masks[0], (batch, *size), "mask")
        full = linear_callers.looks_of(reference, {"shape": spec["shape"], **lies})
        assert full is not None  # it is a max pool
        if masks[1] is not None:
            spec["target_mask"] = _as_array(masks[1], (batch, *full[0].out_size), "sites")
    looks = linear_callers.looks_of(reference, spec)
    assert looks is not None  # likewise
    run: Any = candidate
    if linear_callers.takes_graph(candidate):
        run = linear_callers.graph(candidate, spec)
    values = looks[0].values
    found = prove_maximum(
        run,
        linear_callers.maximum(reference, spec) if bent else reference,
        (batch, channels, *size),
        looks,
        parameters=side_state.trained(candidate),
        scale=1 if values is None else finest(values[1]),
        dtype=where[0],
        device=where[1],
        name=_who(candidate),
        **how,
    )
    lists = {k: v.astype(int).tolist() for k, v in spec.items() if k.endswith("mask")}
    return replace(found, spec={**found.spec, **lies, **lists})


def _run(side: Side, spec: ConvSpec, *, named: bool) -> Callable[..., Tensor]:
    """One side as f(x, w, b) -> y on images, for a spec."""
    values = {name: getattr(spec, name) for name in spec.__dataclass_fields__}
    if isinstance(side, callers.AsNodes):
        return side.run(values)
    if isinstance(side_state.module_of(side), GraphConvNd):
        return (callers.sites if named else callers.graph)(side, values)
    if isinstance(side, torch.nn.Module):
        return callers.image(side, values)
    found: Callable[..., Tensor] = side
    if not spec.bias and side_state.two_arguments(found):
        return lambda x, w, b=None: found(x, w)
    return found


def _truth(reference: Side, spec: ConvSpec) -> Callable[..., Tensor]:
    """The dense side: where pixels lie elsewhere, or taps are missing, as the judge says."""
    if isinstance(reference, torch.nn.Module) and (spec.space or spec.footprint):
        values = {name: getattr(spec, name) for name in spec.__dataclass_fields__}
        return callers.truth(reference, values)
    return _run(reference, spec, named=False)


def _edges(
    layer: GraphConvNd, spec: ConvSpec, named: bool, device: torch.device
) -> tuple[Any, ...]:
    """The typed edges that a graph convolution shows, with weights where it has any."""

    def on(mask: np.ndarray[Any, Any] | None) -> Tensor | None:
        return None if mask is None else torch.from_numpy(mask.copy()).to(device)

    empty = torch.zeros(spec.x_shape, device=device)
    space = from_dict(spec.space)
    graph = PixelGraph.from_image(empty, on(spec.source_mask), d=spec.d, on=space)
    found = layer.edges(graph, on(spec.target_mask) if named else None)
    q, p = found.source.nodes[found.edge_index[0]], found.target.nodes[found.edge_index[1]]
    lists = q.cpu().numpy(), p.cpu().numpy(), found.edge_type.cpu().numpy()
    weight = found.edge_weight
    return lists if weight is None else (*lists, weight.cpu().numpy())


def _where(
    candidate: Side,
    reference: Side,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> tuple[torch.dtype, torch.device]:
    """In which dtype and where: the candidate's own, the reference's, or what was asked for."""
    pair = (candidate, reference)
    known = next((found for side in pair if (found := side_state.parameters_of(side))), {})
    first = next(iter(known.values()), None)
    if first is None:
        return dtype or torch.get_default_dtype(), torch.device(device or "cpu")
    if (dtype or first.dtype) != first.dtype or (
        device is not None and torch.device(device).type != first.device.type
    ):
        raise ProofError(
            f"prove: a module computes where it is, in {first.dtype} on {first.device}; move it "
            f"with .to({device or dtype}) first"
        )
    return first.dtype, first.device


def _who(side: Side) -> str:
    if isinstance(side, callers.AsNodes):
        return repr(side.layer)
    if isinstance(side, torch.nn.Module):
        return repr(side)
    return str(getattr(side, "__name__", type(side).__name__))


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
    one = (1, *shape[1:])  # of every image
    if mask.dtype != torch.bool or tuple(mask.shape) not in (shape, one, one[1:]):
        raise ProofError(
            f"prove: expected {name} of dtype bool and shape {shape} or {shape[1:]}, got "
            f"{mask.dtype} {tuple(mask.shape)}"
        )
    return mask.expand(shape).cpu().numpy().copy()
