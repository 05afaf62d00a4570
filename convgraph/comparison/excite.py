"""`cg.excite`: a copy of a network in which a fault can show.

A fresh network hides faults: a norm whose weight starts at zero closes its branch, a layer scale of
1e-6 shrinks it below rounding, and running statistics of 0 and 1 let values grow or vanish. May
import errors.
"""

import copy
from typing import Any

import torch
from torch import Tensor

from convgraph.door import door
from convgraph.errors import ProofError

NEARLY_ZERO = 1e-3
"""A parameter whose every entry is one number of at most this size is a constant that hides."""


@door
def excite(
    model: torch.nn.Module,
    images: Tensor | tuple[Tensor, ...],
    seed: int = 0,
) -> Any:
    """Return a copy with constants that start at zero randomised and batch norms calibrated.

    Weights whose entries are one number of at most 1e-3 in size (zero-initialised norms, layer
    scales, zero-initialised last layers) become normal numbers around 1 if they scale channels, of
    the usual size 1 / sqrt(fan_in) if they are matrices, and of size 0.1 if they are biases. Then
    each batch norm that keeps statistics gets those of the images, layer by layer in one pass, as
    if it had been trained on them.

    Args:
        model: not touched.
        images: what the model takes, e.g. (B, C, *size).
        seed: of the random numbers.

    Returns:
        The copy, with the training flags of the model.

    Raises:
        ProofError: the model is no module.

    Example:
        >>> norm = torch.nn.BatchNorm2d(4)
        >>> _ = torch.nn.init.zeros_(norm.weight)
        >>> open_ = excite(torch.nn.Sequential(norm), torch.randn(2, 4, 3, 3))
        >>> bool((open_[0].weight != 0).all()), bool((norm.weight == 0).all())
        (True, True)
    """
    if not isinstance(model, torch.nn.Module):
        raise ProofError(f"excite: expected a torch.nn.Module, got {type(model).__name__}")
    inputs = images if isinstance(images, tuple) else (images,)
    made = copy.deepcopy(model)
    flags = {module: module.training for module in made.modules()}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.is_floating_point() and _hides(parameter):
                drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.copy_(_sized(name, parameter, drawn).to(parameter))
        _calibrate(made, inputs)
    for module, training in flags.items():
        module.training = training
    return made


def _hides(parameter: Tensor) -> bool:
    if parameter.numel() < 2:
        return bool((parameter.abs() <= NEARLY_ZERO).all()) and parameter.numel() == 1
    first = parameter.reshape(-1)[0]
    return bool((parameter == first).all()) and float(first.abs()) <= NEARLY_ZERO


def _sized(name: str, parameter: Tensor, drawn: Tensor) -> Tensor:
    many = sum(n > 1 for n in parameter.shape)
    if many > 1:
        fan = parameter[0].numel()
        return drawn.div(fan**0.5)
    return 0.1 * drawn if name.endswith("bias") else 1 + 0.25 * drawn


def _calibrate(model: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """One pass in which each batch norm takes the statistics of what arrives, and uses them."""
    model.eval()
    handles = []

    def take(module: Any, args: tuple[Any, ...]) -> None:
        x = args[0]
        if not isinstance(x, Tensor) or x.numel() // max(x.shape[1], 1) < 2:
            return
        rows = x.transpose(0, 1).reshape(x.shape[1], -1).double()
        module.running_mean.copy_(rows.mean(1))
        module.running_var.copy_(rows.var(1, unbiased=False).clamp(min=module.eps))

    for module in model.modules():
        if getattr(module, "running_var", None) is not None and hasattr(module, "num_features"):
            handles.append(module.register_forward_pre_hook(take))
    try:
        model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
