"""What a side holds: its parameters, how they are computed from others, and state to put back."""

import copy
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from convgraph.comparison import callers
from convgraph.errors import ProofError
from convgraph.proof import ConvSpec
from convgraph.proof.surroundings import watched

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

COMPUTES = (WeightNorm, SpectralNorm, BasePruningMethod)
"""Hooks that compute a weight from others before every call."""

Parameters = Mapping[str, Tensor]


def module_of(side: Any) -> nn.Module | None:
    """The module that a side is, or that it calls; compiled ones as they are written."""
    found = side.layer if isinstance(side, callers.AsNodes) else side
    found = getattr(found, "_orig_mod", found)
    return found if isinstance(found, nn.Module) else None


def parameters_of(side: Any) -> Parameters | None:
    """The parameters that a side holds; None for a function."""
    module = module_of(side)
    return None if module is None else dict(module.named_parameters())


def trained(side: Any) -> Parameters:
    """The parameters of a side that learn."""
    return {name: p for name, p in (parameters_of(side) or {}).items() if p.requires_grad}


def both(candidate: Any, reference: Any) -> tuple[Parameters, Parameters] | None:
    """What both hold, in the candidate's layout; None where one of them holds nothing."""
    one, two = parameters_of(candidate), parameters_of(reference)
    if not one or not two:
        return None
    if isinstance(candidate, callers.AsNodes):
        trained = {name: p.requires_grad for name, p in two.items()}
        laid = candidate.named(two["weight"].detach(), _detached(two.get("bias")))
        kept = all(trained.values())
        two = {name: value.detach().requires_grad_(kept) for name, value in laid.items()}
        if not kept:
            one = {n: v.detach() if n in two else v for n, v in one.items()}
    return one, two


def _detached(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach()


def checked_numbers(side: Any, who: str) -> None:
    """Refuse a side that holds no numbers yet.

    Raises:
        ProofError: a parameter or buffer is lazy or on the meta device.
    """
    module = module_of(side)
    if module is None:
        return
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if isinstance(value, (UninitializedParameter, UninitializedBuffer)):
            raise ProofError(
                f"prove: {name!r} of the {who} is lazy: it has no shape yet; call it once on an "
                "image first"
            )
        if value.is_meta:
            raise ProofError(
                f"prove: {name!r} of the {who} is on the meta device and holds no numbers; "
                "to_empty(device='cpu') and load_state_dict give it some"
            )


def checked_shapes(candidate: Any, spec: ConvSpec, who: str) -> None:
    """Refuse a candidate whose weight cannot be the reference's.

    Raises:
        ProofError: it has none, or one of another shape.
    """
    if isinstance(candidate, callers.AsNodes):
        return
    weight, bias = getattr(candidate, "weight", None), getattr(candidate, "bias", None)
    if not isinstance(weight, Tensor):
        raise ProofError(
            f"prove: {who} has no parameter `weight`; wrap it in a function f(x, w, b), or in "
            "AsNodes(layer, parameters) if it takes nodes and edges"
        )
    if tuple(weight.shape) != spec.w_shape or (bias is not None) != spec.bias:
        raise ProofError(
            f"prove: the candidate's weight {tuple(weight.shape)} (bias: {bias is not None}) is "
            f"not the reference's {spec.w_shape} (bias: {spec.bias}); these two cannot be the "
            "same function"
        )


# -- weights that are computed from others


def as_held(side: Any) -> tuple[Any, tuple[str, ...]]:
    """Return a side whose weight is a parameter, and how it was computed before.

    A weight norm, a spectral norm or a mask of pruning is taken off a copy, which keeps the numbers
    that it computed. The layer is then judged as a function of its weight.
    """
    module = module_of(side)
    if module is None:
        return side, ()
    notes = []
    if parametrize.is_parametrized(module):
        for name, found in module.parametrizations.items():  # type: ignore[union-attr, operator]
            kinds = ", ".join(type(one).__name__ for one in found)
            numbers = [t.detach().double().sum().item() for t in found.parameters()]
            notes.append(f"{name} is computed by {kinds} of numbers that sum up to {numbers}")
    hooked = {key: h for key, h in module._forward_pre_hooks.items() if isinstance(h, COMPUTES)}
    notes += [f"its weight is computed by {type(hook).__name__}" for hook in hooked.values()]
    if not notes:
        return side, ()
    plain: Any = copy.copy(module) if hooked else copy.deepcopy(module)
    if hooked:  # its weight is no leaf, which nobody can copy: new places for what is replaced
        plain._parameters, plain._forward_pre_hooks = (
            module._parameters.copy(),
            module._forward_pre_hooks.copy(),
        )
    if parametrize.is_parametrized(plain):
        kind = type(plain)  # shared by copies, and what is taken off is taken off the class
        plain.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
        for name in [*plain.parametrizations]:
            parametrize.remove_parametrizations(plain, name)
    for key, hook in hooked.items():
        name = getattr(hook, "name", getattr(hook, "_tensor_name", "weight"))
        value = getattr(plain, name).detach().clone()
        for part in (f"{name}_g", f"{name}_v", f"{name}_orig"):
            plain._parameters.pop(part, None)
        plain.__dict__.pop(name, None)
        plain.register_parameter(name, nn.Parameter(value))
        del plain._forward_pre_hooks[key]
    if isinstance(side, callers.AsNodes):
        plain = callers.AsNodes(plain, side.parameters, side.typed)
    return plain, tuple(notes)


def doubts(candidate: Any, one: tuple[str, ...], two: tuple[str, ...]) -> tuple[str, ...]:
    """What keeps a pair from being the same, whatever its operators are.

    Args:
        candidate: the accused.
        one: how its weight is computed; see `as_held`.
        two: the same of the reference.
    """
    if one != two:
        both = "; ".join((*one, *(f"the reference's {text}" for text in two)))
        return (
            f"{both}: as functions of that weight they were judged, and what is trained differs",
        )
    module = module_of(candidate)
    odd = module is not None and not isinstance(candidate, callers.AsNodes)
    if odd and not isinstance(getattr(module, "weight", None), nn.Parameter):
        return ("its weight is no parameter: what is trained is not what was judged",)
    return ()


# -- how it is called


def two_arguments(function: Callable[..., Tensor]) -> bool:
    """Whether a function takes x and w and no bias."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return False
    try:
        signature.bind(0, 0, None)
    except TypeError:
        try:
            signature.bind(0, 0)
        except TypeError:
            return False
        return True
    return False


def is_torchs_own(reference: Any) -> bool:
    """Whether a reference runs torch's own forward, with nothing hooked in before or behind."""
    kind = next((k for k in (*CONVOLUTIONS, *TRANSPOSED) if isinstance(reference, k)), None)
    if kind is None:
        return False
    hooks = (reference._forward_hooks, reference._forward_pre_hooks, reference._backward_hooks)
    own = type(reference).forward is kind.forward and "forward" not in vars(reference)
    return own and not any(hooks)


@contextmanager
def unchanged(*sides: Any) -> Iterator[None]:
    """Put buffers, gradients, random states and flags back that a proof moves."""
    modules = [m for side in sides if (m := module_of(side)) is not None]
    kept = [{n: b.detach().clone() for n, b in m.named_buffers()} for m in modules]
    states = random.getstate(), np.random.get_state(legacy=True)  # noqa: NPY002  # their own
    try:
        with watched(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        with torch.no_grad():
            for module, before in zip(modules, kept, strict=True):
                for name, buffer in module.named_buffers():
                    if name in before and buffer.shape == before[name].shape:
                        buffer.copy_(before[name])
