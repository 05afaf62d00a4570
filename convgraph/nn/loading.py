"""Layers out of files: a layer that is loaded is one that its constructor would build.

`torch.load` takes layers by its safe default, which imports nothing that a file names and calls
nothing but what was allowed: these classes and torch's own modules, all of which are data. But a
file may say anything about them, so the arguments that it gives go through the constructor again,
on no device, and the parameters have to have the shapes that follow.
"""

import copy
import inspect
from typing import Any, Self

import torch
from torch import Tensor

from convgraph.errors import ConversionError

HELD = (("_parameters", Tensor), ("_buffers", Tensor), ("_modules", torch.nn.Module))
"""Where a module keeps what it holds, and what that is."""


class FromFile:
    """What layers share: out of a file they are checked, and copied as they are."""

    def __setstate__(self, state: Any) -> None:
        """Take a pickled state.

        Raises:
            ConversionError: no state of such a layer.
        """
        take(self, state)

    def __copy__(self) -> Self:
        """Return another layer that holds the same, whatever somebody made of it."""
        made: Self = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy; whatever somebody made of the layer is copied with it."""
        made: Self = object.__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made


def take(layer: Any, state: Any) -> None:
    """Give a layer its pickled state, once that is a state of such a layer.

    Args:
        layer: made without its constructor.
        state: its `__dict__`.

    Raises:
        ConversionError: it does not fit; a file may say anything.
    """
    who = type(layer).__name__
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ConversionError(f"{who}: expected its attributes in the file, got {state!s:.60}")
    for name, kind in HELD:
        held = state.get(name)
        if not isinstance(held, dict) or not all(
            isinstance(key, str) and (one is None or isinstance(one, kind))
            for key, one in held.items()
        ):
            raise ConversionError(
                f"{who}: expected {name} of names and {kind.__name__}s in the file, "
                f"got {held!s:.60}"
            )
    if not isinstance(state.get("training"), bool):
        raise ConversionError(f"{who}: the file does not say whether it was training")
    torch.nn.Module.__setstate__(layer, state)
    own = type(layer).__module__.partition(".")[0] == __name__.partition(".")[0]
    if own and "parametrizations" not in layer._modules:
        _compare(layer)


def _compare(layer: Any) -> None:
    """Refuse a layer that differs from what its constructor makes of its arguments."""
    who = type(layer).__name__
    try:
        arguments = _arguments(layer)
        again = None if arguments is None else type(layer)(**arguments)
    except (ValueError, TypeError, AttributeError, RuntimeError, LookupError) as error:
        raise ConversionError(
            f"{who}: the file gives it arguments that it does not take ({error}); "
            "it was not written by torch.save, or was changed"
        ) from error
    if again is None:
        return
    for name in ("_parameters", "_buffers"):
        found, expected = [
            {key: None if one is None else tuple(one.shape) for key, one in side.items()}
            for side in (getattr(layer, name), getattr(again, name))
        ]
        if found != expected:
            raise ConversionError(
                f"{who}: expected {name} of shapes {expected} in the file, got {found}"
            )
    if getattr(again, "geometry", None) != getattr(layer, "geometry", None):
        raise ConversionError(
            f"{who}: expected {again.geometry} in the file, got {layer.geometry!s:.80}"
        )


def _arguments(layer: Any) -> dict[str, Any] | None:
    """Return what the constructor was given; None where a layer is no more than its children."""
    geometry = getattr(layer, "geometry", None)
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(layer)).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            return None
        if name == "device":
            found[name] = "meta"
        elif name == "dtype":
            held = [one for one in layer._parameters.values() if one is not None]
            found[name] = held[0].dtype if held else None
        elif name == "bias":
            found[name] = layer._parameters.get("bias") is not None
        elif name == "multiplier":
            found[name] = layer.out_channels // layer.in_channels
        elif hasattr(layer, name) or hasattr(geometry, name):
            found[name] = getattr(layer, name, getattr(geometry, name, None))
        elif parameter.default is parameter.empty and layer._modules:
            return None
        elif parameter.default is parameter.empty:
            raise ValueError(f"it does not say {name}")
    return found


TORCH = [
    kind
    for kind in vars(torch.nn).values()
    if isinstance(kind, type)
    and issubclass(kind, torch.nn.Module)
    and kind.__module__.startswith("torch.nn.modules.")
]
"""torch's own modules, which stand beside graph layers in a network."""
