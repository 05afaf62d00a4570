"""What a proof computes in: IEEE float32, no autocast, with gradients, whoever calls.

cuDNN's convolutions default to TF32, which multiplies operands of 11 bits; matrix products do not.
A proof in float32 states what held, runs in IEEE float32 and puts everything back; where TF32 was
allowed, rounding is judged a second time under it. Newer torch says it through `fp32_precision`,
older torch through `allow_tf32`; where the two contradict each other, reading the old one raises.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

_NEW = (("cudnn.conv", "fp32_precision", "ieee"), ("cuda.matmul", "fp32_precision", "ieee"))
_OLD = (("cudnn", "allow_tf32", False), ("cuda.matmul", "allow_tf32", False))


def _switches() -> tuple[tuple[str, str, Any], ...]:
    conv = getattr(torch.backends.cudnn, "conv", None)
    return _NEW if hasattr(conv, "fp32_precision") else _OLD


def _holder(path: str) -> Any:
    holder: Any = torch.backends
    for part in path.split("."):
        holder = getattr(holder, part)
    return holder


def state(device: torch.device | str) -> dict[str, str]:
    """Say what holds for float32 on a device now.

    Example:
        >>> state("cpu")
        {'tf32': 'not applicable on cpu'}
    """
    kind = torch.device(device).type
    if kind != "cuda":
        return {"tf32": f"not applicable on {kind}"}
    return {f"{path}.{name}": str(getattr(_holder(path), name)) for path, name, _ in _switches()}


def stated(device: torch.device | str) -> dict[str, str]:
    """Say what will hold within a proof: float32 on the device, threads and vector units beside it.

    Example:
        >>> sorted(stated("cpu"))
        ['cpu', 'tf32', 'threads']
    """
    outside = state(device)
    machine = {
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
    }
    if torch.device(device).type != "cuda":
        return outside | machine
    inside = {f"{path}.{name}": str(value) for path, name, value in _switches()}
    return machine | {
        key: value if value == outside[key] else f"{value} (outside of the proof: {outside[key]})"
        for key, value in inside.items()
    }


def allows_tf32(device: torch.device | str) -> bool:
    """Whether float32 operands may be rounded to 11 bits on a device, as the switches stand now.

    Example:
        >>> allows_tf32("cpu")
        False
    """
    above = str(getattr(torch.backends, "fp32_precision", "ieee"))
    values = {above if value == "none" else value for value in state(device).values()}
    return not values.isdisjoint(("tf32", "True"))


@contextmanager
def ieee_float32(device: torch.device | str) -> Iterator[None]:
    """Run a block with IEEE float32 on CUDA; what was set before is set again behind it."""
    if torch.device(device).type != "cuda":
        yield
        return
    switches = _switches()
    before = [getattr(_holder(path), name) for path, name, _ in switches]
    legacy = [(path, name, _legacy(path, name)) for path, name, _ in _OLD]
    try:
        # The old switches first: whoever reads one that contradicts the new ones gets an error, and
        # torch's own `cudnn.flags(...)` reads them.
        for path, name, _ in legacy:
            setattr(_holder(path), name, False)
        for path, name, value in switches:
            setattr(_holder(path), name, value)
        yield
    finally:
        for path, name, value in legacy:
            if value is not None:
                setattr(_holder(path), name, value)
        for (path, name, _), value in zip(switches, before, strict=True):
            setattr(_holder(path), name, value)


def _legacy(path: str, name: str) -> bool | None:
    """The old switch, or None where torch refuses to say, since the new ones contradict it."""
    try:
        return bool(getattr(_holder(path), name))
    except RuntimeError:
        return None


@contextmanager
def plain(device: torch.device | str, *, ieee: bool = True) -> Iterator[None]:
    """Run a block in the arithmetic that is judged; what the caller had on is on again behind it.

    Under autocast other dtypes would be judged than the certificate names, and within no_grad or
    inference mode there would be no gradients to judge.

    Args:
        device: where it runs.
        ieee: whether float32 is IEEE's too; otherwise TF32 stays as the caller has set it.
    """
    kind = torch.device(device).type
    with (
        torch.inference_mode(mode=False),
        torch.enable_grad(),
        torch.autocast(kind, enabled=False),
        ieee_float32(device) if ieee else nullcontext(),
    ):
        yield
