"""Two networks, handed to the judge of networks: who calls them, and which layer proves which.

A converted network takes the images as they are; one built by hand of graph layers takes their
pixel graph. A graph convolution that is called is one node; what a converted network runs on the
full grid is torch's own operator, and its graph layer is proven beside it.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from hashlib import sha256
from types import NoneType
from typing import Any

import torch
from torch import Tensor

from convgraph.comparison.function_layers import AsLayers, by_linear, by_weight, dense_of
from convgraph.comparison.on_mask import OnMask, filled
from convgraph.comparison.on_space import ASSUMED, OnSpace
from convgraph.convert.copies import calls_torch
from convgraph.convert.network import GraphNetwork
from convgraph.convert.tensor import GraphTensor
from convgraph.errors import ProofError
from convgraph.geometry.space import Space
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.nn import GraphConvNd
from convgraph.proof import Certificate, prove_convolution
from convgraph.proof.network.end_to_end import Images, NetworkSide, Returned
from convgraph.proof.network.judge import checked_images, prove_network
from convgraph.proof.network.node import CONVOLUTION, Layer, Node
from convgraph.proof.network.operator_layers import as_operator, name_of, spec_of
from convgraph.proof.network.recorder import states
from convgraph.proof.network.value_numbers import Undecided
from convgraph.proof.network.whole_layers import bare
from convgraph.proof.record.certificate import named
from convgraph.proof.surroundings import without_checkpoints

LAYER = {
    "candidate": "convgraph.comparison.callers:graph",
    "reference": "convgraph.comparison.callers:image",
}
LAYER_ON = {**LAYER, "reference": "convgraph.comparison.callers:truth"}
SITES = {**LAYER, "candidate": "convgraph.comparison.callers:sites"}
SITES_ON = {**SITES, "reference": LAYER_ON["reference"]}
LAYERS = (LAYER, LAYER_ON, SITES, SITES_ON)
OPERATOR = dict.fromkeys(LAYER, "convgraph.proof.network.operator_layers:as_operator")
"""How a verifier calls the sides of a layer again."""

ARRAYS = "the candidate on arrays: it was called with the tensor of a graph"

_CONVOLUTIONS_AND_LINEAR = (
    torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d,
    torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d,
)  # fmt: skip


def prove_pair(
    candidate: torch.nn.Module,
    reference: torch.nn.Module,
    images: Tensor | Sequence[Tensor],
    prove_layer: Callable[..., Certificate],
    *,
    on: Space | None = None,
    mask: Tensor | None = None,
    tensors: bool = False,
    progress: bool = False,
    **how: Any,
) -> Certificate:
    """Prove a graph network the same function as a dense one, layer by layer and end to end.

    Args:
        candidate: made by `to_graph`, or built by hand of graph layers under the same names.
        reference: the dense network.
        images: (B, C, *size), at least two, or a tuple of what the network takes.
        prove_layer: `cg.prove` of one layer.
        on: the space of the pixels; the reference then runs as the judge's own geometry says.
        mask: (B, *size) bool, which pixels are nodes; absent ones then say nothing.
        tensors: whether a candidate that takes images is called with the tensors of graphs.
        progress: show a progress bar.
        how: epsilon and seed, for every layer.

    Raises:
        ProofError: one side is no module, or there are fewer than two images.
    """
    for side in (candidate, reference):
        if not isinstance(side, torch.nn.Module):
            raise ProofError(f"prove: expected two networks, got {type(side).__name__}")
    candidate, reference = _unwrapped(candidate), _unwrapped(reference)
    found = checked_images(images)
    if tensors and mask is None:
        mask = torch.ones_like(found[0][:, 0], dtype=torch.bool)
    mask = None if mask is None else _whole_mask(mask, found[0])
    modules = dict(candidate.named_modules())
    functions: dict[str, torch.nn.Module] = {}

    def certify(one: Node, two: Node, owner: str) -> Any:
        spec = spec_of(one)
        path = two.layer if two.layer is not None else owner
        layer = modules.get(path)
        dense = _submodule(reference, path)
        dense = _submodule(reference, owner) if dense is None else dense
        mine = one.name == CONVOLUTION and isinstance(layer, GraphConvNd)
        own = type(dense) in _CONVOLUTIONS_AND_LINEAR and (spec is None or _is(dense, spec))
        if mine and spec is not None and two.layer is not None and not own:
            dense = _holding(layer, dense_of(spec))  # of several operators, or of a function
        elif mine and (one.folded or two.folded) and type(dense) in _CONVOLUTIONS_AND_LINEAR:
            dense = _holding(layer, dense)
        if mine and type(dense) in _CONVOLUTIONS_AND_LINEAR and (spec is None or _is(dense, spec)):
            x = one.inputs[0].shape

            bent = on is not None and len(x) == 4 and x[2:] != (1, 1)  # a readout lies nowhere
            more = {**how, "on": on} if bent else how
            lies = {name: two.given[name] for name in ("mask", "sites") if name in two.given}
            adapter = LAYER_ON if bent else LAYER
            if "sites" in lies:
                adapter = SITES_ON if bent else SITES

            def by_layer() -> Certificate:
                with bare(layer), bare(dense):
                    made = prove_layer(layer, dense, size=x[2:], batch=x[0], **lies, **more)
                return named(made, adapter)

            sites = [sha256(there.numpy().tobytes()).hexdigest() for there in lies.values()]
            return (repr(layer), list(x), str(dense), sites), by_layer
        if two.layer is not None and two.call is not None:
            dense = functions.get(two.layer, dense)
            held = [t for t in states(reference) if t[1].is_floating_point()]
            place = {"dtype": held[0][1].dtype, "device": held[0][1].device} if held else {}
            if one.name == CONVOLUTION and spec is not None:
                return by_weight(spec, two, place, prove_layer, how)
            if type(dense) not in _MAXIMA:
                return by_linear(one, two, dense, place, how)
            return _of_maximum(one, two, dense, place, prove_layer, how)
        if two.layer is not None:
            raise ProofError(
                f"prove: expected torch's own convolution at {path!r} of the reference, got "
                f"{type(dense).__name__}"
            )
        if spec is None or (one.name != CONVOLUTION and spec.batch < 2):
            return None
        where = name_of(one)
        run = as_operator(getattr(torch, where.partition(":")[2]), spec.to_dict())

        def by_operator() -> Certificate:
            weight = next(reference.parameters())
            found = prove_convolution(
                run, run, spec, dtype=weight.dtype, device=weight.device, name=where, **how
            )
            return named(found, OPERATOR, where, where)

        return (where, spec.to_dict()), by_operator

    bent = on is not None or mask is not None
    layers = {
        path: Layer(path, partial(_image_in, on), _values, _put, _rows, _there)
        for path, module in modules.items()
        if isinstance(module, GraphConvNd) and (bent or not calls_torch(module))
    }
    dense_layers = {
        path: replace(layer, image=_image)
        for path, layer in layers.items()
        if on is not None or _pads_itself(_submodule(reference, path))
    }
    if mask is not None and on is None:
        pools = _pools(modules, reference)
        layers |= pools
        dense_layers |= pools
    run, truth = (_run, _run) if on is None else (partial(_run_on, on), _truth_on(on))
    twin: Callable[[Layer], Layer] = replace
    told = Told()
    if mask is not None:
        mode = OnMask()
        around: list[Any] = [nullcontext(), nullcontext()]
        if on is None:
            like = Layer("", _image, _values, _put, _rows, _there)
            dense_like = replace(like, there=mode.there, rows=lambda _, image: image)
            around = [AsLayers(like, functions), AsLayers(dense_like, functions)]
        run = partial(_run_with, mask, on, tensors, around[0], told)
        truth = _truth_with(mode, mask, on, around[1], told)
        twin = partial(replace, there=mode.there, rows=lambda _, image: image)
        dense_layers = {path: twin(layer) for path, layer in dense_layers.items()}
    cert = prove_network(
        NetworkSide(candidate, run, layers),
        NetworkSide(reference, truth, dense_layers, twin=twin),
        found,
        certify,
        name=type(candidate).__name__,
        trust=how.get("trust", ()),
        progress=progress,
    )
    if mask is not None:
        cert = replace(cert, spec={**cert.spec, "mask": mask.int().tolist()})
        if told.apart and cert.verdict == "proven":
            parts = [
                replace(part, status="undecided", facts=told.apart)
                if part.name == "wiring"
                else part
                for part in cert.parts
            ]
            cert = replace(cert, verdict="undecided", reason=told.apart, parts=tuple(parts))
    if tensors and not _takes(candidate):
        spec = {**cert.spec, "tensors": True}
        cert = replace(cert, spec=spec, not_covered=(*cert.not_covered, ARRAYS))
    if on is None:
        return cert
    spec = {**cert.spec, "space": on.to_dict()}
    return replace(cert, spec=spec, assumed=(*cert.assumed, ASSUMED))


def _unwrapped(net: torch.nn.Module) -> torch.nn.Module:
    """A network without the wrapper that calls it as it is where there is one device or none."""
    if isinstance(net, torch.nn.DataParallel) and len(net.device_ids) < 2:
        inner: torch.nn.Module = net.module
        return inner
    return net


def _whole_mask(mask: Any, images: Tensor) -> Tensor:
    """A mask of all images of a batch.

    Raises:
        ProofError: it is none of theirs.
    """
    shape = (len(images), *images.shape[2:])
    good = isinstance(mask, Tensor) and mask.dtype == torch.bool
    if not good or tuple(mask.shape) not in (shape, shape[1:]):
        raise ProofError(
            f"prove: expected mask of dtype bool and shape {shape} or {shape[1:]}, got "
            f"{getattr(mask, 'dtype', type(mask).__name__)} {tuple(getattr(mask, 'shape', ()))}"
        )
    found: Tensor = mask.expand(shape).cpu().contiguous()
    return found


def _pads_itself(dense: Any) -> bool:
    """Whether a torch convolution is more than one operator."""
    return type(dense) in _CONVOLUTIONS_AND_LINEAR and (
        dense.padding_mode != "zeros" or isinstance(dense.padding, str)
    )


_MAXIMA = {
    torch.nn.MaxPool1d: torch.ops.aten.max_pool1d.default,
    torch.nn.MaxPool2d: torch.ops.aten.max_pool2d.default,
    torch.nn.MaxPool3d: torch.ops.aten.max_pool3d.default,
}
"""Torch's max pools, and the operator that each of them is on full images."""


def _pools(modules: Mapping[str, Any], reference: torch.nn.Module) -> dict[str, Layer]:
    """Modules that are max pools on both sides, as nodes."""
    found = {}
    for path in modules:
        dense = _submodule(reference, path)
        bare = _MAXIMA.get(type(dense))
        if bare is None or dense.return_indices:
            continue
        given = {
            name: getattr(dense, name)
            for name in ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        }
        for name in ("kernel_size", "stride", "padding", "dilation"):
            value = given[name]
            given[name] = [value] if isinstance(value, int) else list(value)
        found[path] = Layer(path, _image, _values, _put, _rows, _there, bare, given)
    return found


def _of_maximum(
    one: Node,
    two: Node,
    dense: Any,
    place: dict[str, Any],
    prove_layer: Any,
    how: dict[str, Any],
) -> Any:
    """What is proven of a max pool, and how: called as it was, against the judge's own pixels."""
    lies = {name: one.given[name] for name in ("mask", "sites") if name in one.given}
    shape, made = two.inputs[0].shape, two.call

    def largest(x: Tensor) -> Tensor:
        assert made is not None  # a layer without parameters says how it was called
        found: Tensor = made(x)
        return found

    def by_order() -> Certificate:
        more = place | {k: v for k, v in how.items() if k not in ("identity", "second")}
        with bare(dense):
            found: Certificate = prove_layer(largest, dense, torch.zeros(shape), **lies, **more)
        return replace(found, name=str(dense))

    sites = [sha256(there.numpy().tobytes()).hexdigest() for there in lies.values()]
    return (two.layer, list(shape), str(dense), sites), by_order


def _submodule(net: torch.nn.Module, path: str) -> Any:
    try:
        return net.get_submodule(path)
    except AttributeError:
        return None


def _holding(layer: Any, dense: Any) -> Any:
    """The dense layer with the graph layer's weight and bias, e.g. those of a fold."""
    found = copy.deepcopy(dense)
    for name in ("weight", "bias"):
        setattr(found, name, copy.deepcopy(getattr(layer, name)))
    return found


def _is(dense: Any, spec: Any) -> bool:
    """Whether a module's own numbers are those that its operator ran with."""
    pads = dense.padding
    return (
        dense.padding_mode == "zeros"
        and not isinstance(pads, str)
        and tuple((n, n) for n in pads) == spec.padding
        and tuple(dense.stride) == spec.stride
        and tuple(dense.dilation) == spec.dilation
        and dense.groups == spec.groups
        and bool(dense.transposed) == spec.transposed
    )


def _takes(net: torch.nn.Module) -> bool:
    """Whether a network is called with graphs."""
    return isinstance(net, GraphNetwork) or _takes_graph(net)


def _takes_graph(net: torch.nn.Module) -> bool:
    if isinstance(net, GraphNetwork):
        return False
    return any(getattr(module, "takes_graph", False) for module in net.modules())


def _run(net: torch.nn.Module, images: Images, shapes: Any) -> Returned:
    """Call a network on images and return its outputs as the reference's shapes."""
    inputs: Any = images
    if _takes_graph(net):
        inputs = [PixelGraph.from_image(image, d=image.dim() - 2) for image in images]
    return _called(net, inputs, shapes)


def _run_on(on: Space, net: torch.nn.Module, images: Images, shapes: Any) -> list[Tensor]:
    """The same with images in a space, for whoever takes graphs; others see arrays."""
    return _called(net, [_placed(on, i) for i in images] if _takes(net) else images, shapes)


def _placed(on: Space | None, image: Tensor) -> Any:
    """An image in a space as a graph; what is no image is left as it is."""
    return image if on is None or image.dim() != 4 else PixelGraph.from_image(image, on=on)


@dataclass
class Told:
    """What the truth on a mask says beside its outputs, for the candidate's run behind it.

    Attributes:
        there: which pixels of each output are nodes, None where it lies nowhere.
        written: the places of the inputs that it wrote to.
        apart: which of the candidate's outputs has other nodes, in words.
    """

    there: list[Tensor | None] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    apart: str = ""


def _run_with(
    mask: Tensor, on: Space | None, tensors: bool, within: Any, told: Told, net: torch.nn.Module,
    images: Images, shapes: Any,
) -> list[Tensor]:  # fmt: skip
    """The same with holes, for whoever takes graphs; others see images that are 0 there."""
    takes = _takes(net)

    def given(image: Tensor) -> Any:
        if not _fits(image, mask):
            return _placed(on, image) if takes else image
        if not takes and not tensors:
            return filled(image, mask, 0.0)
        graph = PixelGraph.from_image(image, mask.to(image.device), d=image.dim() - 2, on=on)
        return graph if takes else graph.tensor()

    inputs = [given(image) for image in images]
    before = [_state(one) for one in inputs]
    with within:
        outputs = _called(net, inputs, shapes)
    written = [k for k, one in enumerate(inputs) if _state(one) != before[k]]
    if shapes is not None:
        _as_told(told, outputs, written)
    return _and_inputs(outputs, inputs, written, mask)


def _as_told(told: Told, outputs: Returned, written: list[int]) -> None:
    """See that a candidate's graphs have the nodes that the truth says, and what it wrote to.

    Raises:
        Undecided: it wrote to what the reference did not, or the other way round.
    """
    if written != told.written:
        sides = [f"input {k}" for k in sorted({*written} ^ {*told.written})]
        raise Undecided(f"{', '.join(sides)} is written to on one side alone")
    for place, (found, here) in enumerate(zip(outputs.nodes, told.there, strict=False)):
        if found is None or (here is not None and here.shape != found.shape):
            continue
        if not bool((found == (here if here is not None else True)).all()):
            told.apart = f"output {place} has other nodes than the judge says"


def _state(value: Any) -> tuple[Any, ...]:
    """What is another once a value was written to."""
    found = _values(value)
    return id(found), 0 if found.is_inference() else found._version


def _and_inputs(outputs: Returned, inputs: list[Any], written: list[int], mask: Tensor) -> Returned:
    """What a network returns, and what it wrote into what it was given."""
    more = [filled(_image(inputs[k]), mask, 0.0) for k in written if _fits(_image(inputs[k]), mask)]
    names = tuple(f"input {k} afterwards" for k in written[: len(more)])
    return Returned([*outputs, *more], (*outputs.names, *names), outputs.nodes)


def _truth_with(
    mode: OnMask, mask: Tensor, on: Space | None, within: Any, told: Told
) -> Callable[..., list[Tensor]]:
    """The dense network whose absent pixels say nothing, in a space as the judge says."""
    around = nullcontext() if on is None else OnSpace(on.to_dict())

    def run(net: torch.nn.Module, images: Images, shapes: Any) -> list[Tensor]:
        inputs = [mode.image(i, mask) if _fits(i, mask) else i for i in images]
        before = [_state(one) for one in inputs]
        with around, mode, within, without_checkpoints():
            outputs = _called(net, inputs, shapes)
        told.written = [k for k, one in enumerate(inputs) if _state(one) != before[k]]
        told.there = [mode.there(one) for one in outputs]
        mode.fresh(*outputs, *(inputs[k] for k in told.written))
        return _and_inputs(outputs, inputs, told.written, mask)

    return run


def _fits(image: Tensor, mask: Tensor) -> bool:
    return image.dim() > 2 and tuple(image.shape[:1] + image.shape[2:]) == tuple(mask.shape)


def _truth_on(on: Space) -> Callable[..., list[Tensor]]:
    """The dense network in a space, as the judge says; see `on_space`."""
    mode = OnSpace(on.to_dict())

    def run(net: torch.nn.Module, images: Images, shapes: Any) -> list[Tensor]:
        with mode, without_checkpoints():
            return _called(net, images, shapes)

    return run


def _called(net: torch.nn.Module, inputs: Any, shapes: Any) -> Returned:
    """Call a network and return what it gives, as tensors by name."""
    found: list[Tensor] = []
    names, nodes = [], []
    for name, value in _leaves(net(*inputs), "output"):
        if isinstance(value, (str, NoneType)):
            names.append(f"{name} = {value!r}")
            continue
        there = None
        if isinstance(value, PixelGraph):
            there = _there(value)
            if there is None and value.sites.size is not None:
                there = torch.ones(value.batch_size, *value.sites.size, dtype=torch.bool)
            place = len(found)
            wanted = shapes[place] if shapes and place < len(shapes) else None
            rows = wanted is not None and tuple(value.x.shape) == tuple(wanted)
            value = value.x if rows else value.to_image()
        names.append(name)
        nodes.append(there)
        found.append(value)
    return Returned(found, tuple(names), tuple(nodes))


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """What is in a value, by name: tensors and graphs, text and None, numbers as tensors.

    Raises:
        Undecided: nobody says where the tensors in it are.
    """
    if isinstance(value, GraphTensor):
        value = value.graph
    if isinstance(value, (Tensor, PixelGraph, str, NoneType)):
        yield name, value
    elif isinstance(value, (bool, int, float, complex)):
        yield name, torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            yield from _leaves(value[key], f"{name}[{key!r}]")
    elif isinstance(value, (tuple, list)):
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{name}[{place}]")
    elif is_dataclass(value):
        for one in fields(value):
            yield from _leaves(getattr(value, one.name), f"{name}[{one.name!r}]")
    else:
        raise Undecided(
            f"a {type(value).__name__} is returned, and nobody says where its tensors are: return "
            "tensors, tuples, lists, dicts or dataclasses of them"
        )


def _image(value: Any) -> Tensor:
    """What a layer takes or returns, as an image."""
    if isinstance(value, GraphTensor):
        value = value.graph
    if isinstance(value, Tensor):
        return value
    if isinstance(value, PixelGraph) and value.sites.size is not None:
        return value.to_image()
    raise Undecided("a layer is called on something else than a graph of images of one size")


def _image_in(on: Space | None, value: Any) -> Tensor:
    """The same of a candidate's layer, which is proven in one space and has to be called there.

    Raises:
        Undecided: it is called in another one, or on an array.
    """
    found = _image(value)
    if isinstance(value, GraphTensor):
        value = value.graph
    where = value.sites.space if isinstance(value, PixelGraph) else None
    lies = found.dim() == 4 and tuple(found.shape[2:]) != (1, 1)
    if on is not None and lies and where != on:
        raise Undecided(f"a layer is called in {where or 'the plane'}, and is proven in {on}")
    return found


def _values(value: Any) -> Tensor:
    """The tensor in what a layer takes or returns."""
    if isinstance(value, GraphTensor):
        value = value.graph
    found: Tensor = value.x if isinstance(value, PixelGraph) else value
    return found


def _there(value: Any) -> Tensor | None:
    """Which pixels are nodes, (B, *size) bool; None for all."""
    if isinstance(value, GraphTensor):
        value = value.graph
    if not isinstance(value, PixelGraph) or value.sites.mask is None:
        return None
    return torch.stack(value.sites.mask_images()).cpu()


def _rows(value: Any, image: Tensor) -> Tensor:
    """An image's values where the nodes of a value are, in their order."""
    there = _there(value)
    every = image.movedim(1, -1)
    return every.flatten(0, -2) if there is None else every[there]


def _put(value: Any, tensor: Tensor) -> Any:
    """What a layer takes or returns, with another tensor in it."""
    if isinstance(value, GraphTensor):
        return value.graph.with_x(tensor).tensor()
    return value.with_x(tensor) if isinstance(value, PixelGraph) else tensor
