"""How networks are called: code can ask a tensor for more than its numbers, and do otherwise.

Whether it is a leaf, needs a gradient, is a parameter, how it lies in memory, how often it was
written to, whether it is the tensor of the call before: what holds where a program was followed is
one of each. So both sides are called in the other ways too, forward and backward, and what comes
back is held against what came before.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from convgraph.proof import trees
from convgraph.proof.network.end_to_end import Images, NetworkSide, unchanged


@final
@dataclass(frozen=True)
class Manner:
    """One way to call a network and to ask for its gradients.

    Attributes:
        words: when that is, as a sentence goes on.
        learns: whether the images need a gradient.
        leaf: whether they are handed over as leaves.
        frozen: whether no parameter needs a gradient.
        apart: whether they lie otherwise in memory, behind an offset, and keep the gradient that
            reaches them; see `_lying`.
        refilled: whether they are parameters that held other numbers in the call before.
        times: how often backward runs through the one graph.
        calls: how often it is called, so that the last finds the gradients of the one before.
        between: whether it is called on other numbers before its backward runs.
        inference: whether nothing is recorded for backward.
    """

    words: str = ""
    learns: bool = True
    leaf: bool = False
    frozen: bool = False
    apart: bool = False
    refilled: bool = False
    times: int = 1
    calls: int = 1
    between: bool = False
    inference: bool = False

    @property
    def adds(self) -> int:
        """How often each gradient is added to what is there."""
        return self.times * self.calls

    def keeps(self, name: str, needed: bool) -> bool:
        """Whether a value or gradient of this name comes back too.

        Args:
            name: as `called` names it.
            needed: whether a parameter of that name needed a gradient.
        """
        if name.startswith("output "):
            return True
        if self.inference:
            return False
        return self.learns if name.startswith("image ") else needed and not self.frozen


FOLLOWED = Manner()
"""As a run is followed: images are no leaves, and everything learns."""

OTHERS = (
    Manner("where the images need no gradient", learns=False),
    Manner("where the images are leaves", leaf=True),
    Manner(
        "where a second call adds to the gradients of images that are leaves", True, True, calls=2
    ),
    Manner("where no parameter needs a gradient", frozen=True),
    Manner("where the images lie otherwise in memory", apart=True),
    Manner("where parameters are sent that held other numbers before", leaf=True, refilled=True),
    Manner("where backward runs twice through one graph", times=2),
    Manner("where it is called once more before its backward runs", between=True),
    Manner("in inference mode", learns=False, inference=True),
)
"""As networks are trained, shown, attacked, cached and served."""


def called(
    side: NetworkSide, images: Images, heads: list[Tensor], how: Manner = FOLLOWED
) -> dict[str, Tensor]:
    """Outputs and gradients of one run, by name.

    Args:
        side: whom to call; its buffers are as before afterwards.
        images: what it is called on; they are not written to.
        heads: what is sent into each output.
        how: in which manner.
    """
    shapes = [tuple(g.shape) for g in heads]
    leaves = [_leaf(image, how) for image in images]
    few = any(map(_is_few, side.net.modules()))
    mode = torch.inference_mode() if how.inference else nullcontext()
    with unchanged(side.net), _frozen(side.net, how.frozen), mode:
        if how.refilled:
            with torch.no_grad():
                for leaf, image in zip(leaves, images, strict=True):
                    leaf.copy_(_other(image))
            side.run(side.net, tuple(leaves), shapes)
            with torch.no_grad():
                for leaf, image in zip(leaves, images, strict=True):
                    leaf.copy_(image)
        found: dict[str, Tensor] = {}
        for _ in range(how.calls):
            sent = leaves if how.leaf else [_sent(leaf, how, few) for leaf in leaves]
            outputs = side.run(side.net, tuple(sent), shapes)
            found = {f"output {place}": y.detach() for place, y in enumerate(outputs)}
            if how.between:
                found = {name: y.clone() for name, y in found.items()}
                side.run(side.net, tuple(_other(image) for image in images), shapes)
            pairs = [(y, g) for y, g in zip(outputs, heads, strict=True) if y.requires_grad]
            for left in range(how.times if pairs else 0, 0, -1):
                ys, gs = zip(*pairs, strict=True)
                torch.autograd.backward(ys, gs, retain_graph=left > 1)
    for place, leaf in enumerate(leaves):
        if leaf.grad is not None:
            found[f"image {place}"] = leaf.grad
    grads = {name: p.grad for name, p in side.net.named_parameters() if p.grad is not None}
    return found | side.compared(grads)


def _other(image: Tensor) -> Tensor:
    """An image that holds other numbers."""
    return image.flip(0) * 0.5 if image.is_floating_point() else image.flip(0)


def _leaf(image: Tensor, how: Manner) -> Tensor:
    learns = how.learns and image.is_floating_point()
    if how.refilled:
        return torch.nn.Parameter(image.clone(), requires_grad=learns)
    return image.clone().requires_grad_(learns)


def _sent(leaf: Tensor, how: Manner, few: bool) -> Tensor:
    """What a network is sent in place of a leaf."""
    if not how.apart:
        return leaf.clone()
    order = _lying(leaf.dim(), few)
    moved = leaf.permute(order)
    flat = torch.cat([leaf.new_zeros(1), moved.reshape(-1)])
    view = flat[1:].view(moved.shape).permute([order.index(axis) for axis in range(leaf.dim())])
    if view.requires_grad:
        view.retain_grad()
    return view


def _lying(dims: int, few: bool) -> list[int]:
    """In which order the axes of an image lie in memory: channels last, or the last two turned.

    Where channels are few, a strided 1 x 1 of an image that lies channels last has the gradient of
    its weight written beyond its memory (uxlfoundation/oneDNN#6035).
    """
    if not few:
        return [0, *range(2, dims), 1]
    return [0, 1, 2] if dims == 3 else [*range(dims - 2), dims - 1, dims - 2]


def _is_few(module: torch.nn.Module) -> bool:
    """Whether it may be such an operator."""
    steps = getattr(module, "stride", 2)  # of what is no convolution nobody knows
    if {*trees.leaves(steps)} == {1}:
        return False
    own = [p.shape for p in module.parameters(recurse=False)]
    return any(len(s) > 2 and s[2:].numel() == 1 and s[1] < 16 for s in own)


@contextmanager
def _frozen(net: torch.nn.Module, frozen: bool) -> Iterator[None]:
    """Let no parameter need a gradient within a block."""
    before = [p for p in net.parameters() if frozen and p.requires_grad]
    for parameter in before:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in before:
            parameter.requires_grad_(True)


@contextmanager
def fresh_gradients(net: Any) -> Iterator[None]:
    """Take `.grad` away for a block, and give it back."""
    before = [(p, p.grad) for p in net.parameters()]
    try:
        for parameter, _ in before:
            parameter.grad = None
        yield
    finally:
        for parameter, grad in before:
            parameter.grad = grad
