"""The dense convolution of a space: what every tap reads is laid out side by side, then convolved.

    image[b, c, p k + t] = sum over j of  weight[t, p, j] x[b, c, source[t, p, j]]
    y = conv(image, W, stride=k)

so that torch's own convolution is the reference wherever the pixels lie. Sources and weights are
the judge's, not the library's; a transposed convolution goes the same way back.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.errors import ProofError
from convgraph.proof.equation import spaces
from convgraph.proof.equation.listed import lists
from convgraph.proof.equation.oracle import output_size
from convgraph.proof.equation.spec import ConvSpec

Run = Callable[..., Tensor]


def applies(spec: Mapping[str, Any]) -> bool:
    """Whether a record's numbers speak of a space in which taps land elsewhere."""
    return spaces.bends(spec.get("space"))


def convolution(spec: Mapping[str, Any]) -> Run:
    """Return f(x, w, b) -> y, by torch's convolution over what the judge says each tap reads.

    Args:
        spec: the integers of a record, `space` among them.
    """
    plain = {name: spec[name] for name in ConvSpec.__dataclass_fields__ if name in spec}
    numbers = ConvSpec.from_dict({**plain, "source_mask": None, "target_mask": None})
    if numbers.d != 2:
        raise ProofError(f"spaces have arrays of 2 axes, got a kernel of {numbers.d}")
    out = output_size(numbers)
    found = lists(numbers, out)
    widest = max(sources.shape[1] for sources, _ in found)
    cells = torch.full((numbers.taps, len(found[0][0]), widest), -1)
    shares = torch.zeros(cells.shape, dtype=torch.float64)
    for tap, (sources, weights) in enumerate(found):
        cells[tap, :, : sources.shape[1]] = torch.from_numpy(sources)
        shares[tap, :, : sources.shape[1]] = torch.from_numpy(weights) / spaces.ONE
    kernel, coarse = numbers.kernel_size, numbers.size if numbers.transposed else out

    def forward(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        image = _side_by_side(_read(x.flatten(2), cells, shares), kernel, coarse)
        y: Tensor = F.conv2d(image, w, b, stride=kernel, groups=numbers.groups)
        return y

    def backward(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        image = F.conv_transpose2d(x, w, None, stride=kernel, groups=numbers.groups)
        said = image.unflatten(3, (coarse[1], kernel[1])).unflatten(2, (coarse[0], kernel[0]))
        said = said.permute(0, 1, 3, 5, 2, 4).flatten(4).flatten(2, 3)  # (B, C, T, P)
        y: Tensor = _write(said, cells, shares, out[0] * out[1]).unflatten(2, out)
        return y if b is None else y + b.view(-1, 1, 1)

    return backward if numbers.transposed else forward


def _read(x: Tensor, cells: Tensor, shares: Tensor) -> Tensor:
    """(B, C, N) -> (B, C, T, P): what each tap reads at each site."""
    here, nothing = cells.to(x.device), x.new_zeros(*x.shape[:2], 1)
    room = torch.cat([x, nothing], dim=2)
    total = None
    for place in range(here.shape[2]):
        said = room[:, :, here[:, :, place]]  # -1 is the last one: nothing
        if bool((shares[:, :, place] != 1).logical_and(shares[:, :, place] != 0).any()):
            said = said * shares[:, :, place].to(x)
        total = said if total is None else total + said
    if total is None:
        raise ProofError("no tap reads anything")
    return total


def _write(said: Tensor, cells: Tensor, shares: Tensor, count: int) -> Tensor:
    """(B, C, T, P) -> (B, C, N): the same the other way."""
    total = said.new_zeros(*said.shape[:2], count + 1)
    for place in range(cells.shape[2]):
        where = torch.where(cells[:, :, place] < 0, count, cells[:, :, place]).flatten()
        share = shares[:, :, place].to(said)
        total = total.index_add(2, where.to(said.device), (said * share).flatten(2))
    return total[:, :, :count]


def _side_by_side(taps: Tensor, kernel: tuple[int, ...], out: tuple[int, ...]) -> Tensor:
    """(B, C, T, P) -> (B, C, h k, w k)."""
    parts: Tensor = taps.unflatten(3, out).unflatten(2, kernel)  # (B, C, kh, kw, h, w)
    return parts.permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)
