"""Dense twins: a graph layer from a torch layer and back, parameters bit for bit.

The name says which: GraphX is the twin of torch.nn.X.
"""

from typing import Any

import torch

from convgraph.errors import ConversionError
from convgraph.geometry.kernel import KernelGeometry

CONV = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}
TRANSPOSED = {
    1: torch.nn.ConvTranspose1d,
    2: torch.nn.ConvTranspose2d,
    3: torch.nn.ConvTranspose3d,
}


def check_twin(cls: type, dense: object, expected: type[torch.nn.Module]) -> None:
    """Refuse what is not the torch module that a class is the twin of.

    A subclass passes only as long as it computes what torch's class computes.

    Raises:
        ConversionError: another type, a lazy module that was never called, a subclass with a
            forward of its own, or parameters that torch's class does not have.
    """
    who, kind = f"{cls.__name__}.from_dense", type(dense).__name__
    for name, parameter in dense.named_parameters() if isinstance(dense, torch.nn.Module) else ():
        if isinstance(parameter, torch.nn.parameter.UninitializedParameter):
            raise ConversionError(
                f"{who}: {kind} has no {name} yet; call it once on an image first"
            )
    if not isinstance(dense, expected):
        raise ConversionError(f"{who}: expected a torch.nn.{expected.__name__}, got {kind}")
    for method in ("forward", "_conv_forward"):
        if getattr(type(dense), method, None) is not getattr(expected, method, None):
            raise ConversionError(
                f"{who}: {kind} is a torch.nn.{expected.__name__} with a {method} of its own, "
                "which the graph layer would not compute"
            )


def by_name(cls: type) -> type[torch.nn.Module]:
    """Return torch.nn.X for a class GraphX.

    Raises:
        ConversionError: torch has no such module.
    """
    found = getattr(torch.nn, cls.__name__.removeprefix("Graph"), None)
    if found is None or not cls.__name__.startswith("Graph"):
        raise ConversionError(f"{cls.__name__} has no single torch twin; use a numbered class")
    twin: type[torch.nn.Module] = found
    return twin


def copy_state(source: torch.nn.Module, target: Any) -> Any:
    """Copy parameters, buffers, requires_grad flags and the training flag; return the target.

    Raises:
        ConversionError: the source keeps other parameters than its type says (weight norm,
            spectral norm, pruning), so that a copy would compute something else.
    """
    state = source.state_dict()
    if state.keys() != target.state_dict().keys():
        raise ConversionError(
            f"{type(source).__name__}: expected parameters {sorted(target.state_dict())}, got "
            f"{sorted(state)}; remove the reparametrization first, for example with "
            "torch.nn.utils.parametrize.remove_parametrizations"
        )
    target.load_state_dict(state)
    for name, parameter in target.named_parameters():
        parameter.requires_grad_(source.get_parameter(name).requires_grad)
    return target.train(source.training)


def tie(source: torch.nn.Module, target: Any) -> Any:
    """Make parameters of the target one where those of the source are one; return the target."""
    first: dict[int, str] = {}
    for name, parameter in source.named_parameters(remove_duplicate=False):
        original = first.setdefault(id(parameter), name)
        if original != name:
            path, _, leaf = name.rpartition(".")
            target.get_submodule(path).register_parameter(leaf, target.get_parameter(original))
    return target


def build(cls: Any, *args: Any, device: Any, **kwargs: Any) -> Any:
    """Build a module whose parameters are about to be overwritten: nothing is drawn.

    The caller's random state stays what it was, as if the parameters had been moved over.
    """
    return cls(*args, device="meta", **kwargs).to_empty(device=device)


def conv_arguments(dense: Any) -> dict[str, Any]:
    """Return the keyword arguments that say what a torch convolution was built with."""
    shared = {
        "stride": dense.stride,
        "padding": dense.padding,
        "dilation": dense.dilation,
        "bias": dense.bias is not None,
        "padding_mode": dense.padding_mode,
        "device": dense.weight.device,
        "dtype": dense.weight.dtype,
    }
    if dense.transposed:
        shared["output_padding"] = dense.output_padding
    return shared


def conv_from_dense(cls: Any, dense: Any) -> Any:
    """Return `cls` built like a torch convolution; see GraphConvNd.from_dense."""
    check_twin(cls, dense, by_name(cls))
    shared = conv_arguments(dense)
    layer = build(
        cls, dense.in_channels, dense.out_channels, dense.kernel_size, groups=dense.groups, **shared
    )
    return copy_state(dense, layer)


def conv_to_dense(layer: Any) -> Any:
    """Return the torch convolution of a graph layer; see GraphConvNd.to_dense."""
    make: Any = (TRANSPOSED if layer.geometry.transposed else CONV)[layer.geometry.d]
    return copy_state(layer, build(make, **dense_arguments(layer), device=layer.weight.device))


def dense_arguments(layer: Any) -> dict[str, Any]:
    """Return what the torch convolution of a graph layer is built with, but for the device.

    Raises:
        ConversionError: no torch layer is the same function.
    """
    g: KernelGeometry = layer.geometry
    uneven = any(before != after for before, after in g.padding)
    named = layer.padding_name or ("same" if uneven and is_same(g) else None)
    if uneven and named is None:
        raise ConversionError(
            f"{type(layer).__name__}.to_dense: torch's layers take one padding an axis, "
            f"this one has {g.padding}"
        )
    if not isinstance(g.padding_mode, str):
        raise ConversionError(
            f"{type(layer).__name__}.to_dense: torch's layers take one padding_mode, this one has "
            f"{g.padding_mode}; pad by F.pad, axis by axis, before a layer with padding=0"
        )
    if g.footprint is not None:
        raise ConversionError(
            f"{type(layer).__name__}.to_dense: torch's layers have all taps, this one has "
            f"{sum(g.footprint)} of {g.num_taps}; set the weights of the others to 0 and build the "
            "layer without a footprint"
        )
    shared: dict[str, Any] = {
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel_size": g.kernel_size,
        "stride": g.stride,
        "padding": named or tuple(a for a, _ in g.padding),
        "dilation": g.dilation,
        "groups": layer.groups,
        "bias": layer.bias is not None,
        "padding_mode": g.padding_mode,
        "dtype": layer.weight.dtype,
    }
    if g.transposed:
        shared["output_padding"] = g.output_padding
    return shared


def is_same(g: KernelGeometry) -> bool:
    """Whether the padding is what torch calls 'same'."""
    if g.transposed or set(g.stride) != {1}:
        return False
    same = KernelGeometry(g.kernel_size, padding="same", dilation=g.dilation, d=g.d)
    return bool(same.padding == g.padding)
