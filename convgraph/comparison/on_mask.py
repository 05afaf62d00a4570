"""A dense network on a mask: torch's operators on images whose absent pixels say nothing.

    y = op(x), 0 where nobody is          what looks at one pixel alone
    y = sum(x) / how many are there       means over an image
    y = op(x), minus infinity for nobody  maxima

It is the reference of a network's proof on a graph with holes: the network as it is, run under a
mode that puts 0 into every absent pixel behind every operator. Which output sites there are follows
from the mask of the images and from where a map lies (see `convgraph.proof.equation.where`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from convgraph.errors import ProofError
from convgraph.proof.equation import where
from convgraph.proof.equation.where import Where

BACKWARD = "what nodes say goes back to them in another order on both sides"
"""Why the backward programs are two, though each layer's is proven."""

SITE_BY_SITE = frozenset(
    """
    abs add mul sub rsub div truediv rtruediv radd rmul iadd imul isub neg pow square sqrt rsqrt exp
    log tanh sigmoid relu relu6 leaky_relu elu selu celu gelu silu mish hardtanh hardswish
    hardsigmoid softplus softsign clamp clamp_min clamp_max maximum minimum prelu logsigmoid
    batch_norm dropout dropout1d dropout2d dropout3d threshold
    """.split()  # noqa: SIM905
)
"""Functions of torch, by name, that do the same to every pixel, whoever else is there."""

KEEPS = frozenset({"clone", "contiguous", "detach", "double", "float", "requires_grad", "to"})
"""Functions that give the same values back."""


class OnMask(TorchFunctionMode):
    """Runs dense code on images with holes.

    A map knows where it lies; what was made of whole images lies nowhere.
    """

    def __init__(self) -> None:
        """Start without images."""
        super().__init__()
        self._lies: Any = WeakTensorKeyDictionary()

    def __torch_function__(  # noqa: D105
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        maps = [t for t in tree_leaves((args, kwargs)) if self.place(t) is not None]
        if not maps:
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "").strip("_")
        meant = MEANT.get(func, BY_NAME.get(name))
        if meant is not None:
            return meant(self, func, *args, **kwargs)
        out = func(*args, **kwargs)
        if not any(isinstance(one, Tensor) for one in tree_leaves(out)):
            return out  # what a tensor is like
        if name in KEEPS:
            self._lies[out] = self.known(args[0])
            return out
        if name not in SITE_BY_SITE or (name == "batch_norm" and _trains(args, kwargs)):
            raise ProofError(f"the judge has no truth for {name} on masks")
        return self.put(out, self.union(maps), maps)

    # -- who is there -----------------------------------------------------------------------------

    def place(self, x: Any) -> Where | None:
        """Where a map lies; None for what was made of whole images."""
        found: Where | None = self._lies.get(x) if isinstance(x, Tensor) else None
        return found

    def there(self, x: Any) -> Tensor | None:
        """Which pixels of a map are there, (B, *size) bool; None for what lies nowhere."""
        found = self.place(x)
        return None if found is None else found.there

    def known(self, x: Tensor) -> Where:
        """Where a map lies that has to lie somewhere."""
        found = self.place(x)
        if found is None:
            raise ProofError("the judge has no truth for what stands in the place of a map here")
        return found

    def image(self, x: Tensor, mask: Tensor) -> Tensor:
        """Take an image's pixels for absent where the mask says so."""
        return self.put(x.clone(), Where.of(mask))

    def put(self, x: Tensor, place: Where, given: Sequence[Tensor] = ()) -> Tensor:
        """Put 0 where nobody is, in place if the operator wrote to what it was given."""
        if tuple(x.shape[2:]) != place.size or len(x) != len(place.root):
            raise ProofError(
                f"the judge has no truth for values of shape {tuple(x.shape)} made of images of "
                f"size {place.size} with holes"
            )
        found = filled(x, place.there, 0.0)
        if any(x is one for one in given):  # written to: whoever holds it sees the holes too
            with _disable_current_modes():
                kept = torch.equal(found, x)
            found = found if kept else x.copy_(found)
        self._lies[found] = place
        return found

    def union(self, maps: Sequence[Tensor]) -> Where:
        """Where any of some maps is there; what one of them lacks says 0."""
        places = [self.known(one) for one in maps]
        met = places[0]
        for one in places[1:]:
            if one.size != met.size:
                raise ProofError("the judge has no truth for maps of several sizes with holes")
            met = met.meet(one)
        return met

    # -- operators --------------------------------------------------------------------------------

    def conv(
        self, func: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1,
        padding: Any = 0, dilation: Any = 1, groups: int = 1,
    ) -> Tensor:  # fmt: skip
        """A convolution: nobody says 0."""
        y = func(x, weight, bias, stride, padding, dilation, groups)
        kernel = tuple(weight.shape[2:])
        return self.put(y, self.windows(x, y, kernel, stride, padding, dilation))

    def conv_transpose(
        self, func: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1,
        padding: Any = 0, output_padding: Any = 0, groups: int = 1, dilation: Any = 1,
    ) -> Tensor:  # fmt: skip
        """The same edges with the arrows reversed."""
        y = func(x, weight, bias, stride, padding, output_padding, groups, dilation)
        d = x.dim() - 2
        step, pad, gap = (_each(value, d) for value in (stride, padding, dilation))
        return self.put(y, self.known(x).step(
            lambda k, e: where.reversed_kernel(
                e, y.shape[2 + k], weight.shape[2 + k], step[k], pad[k], gap[k]
            )
        ))  # fmt: skip

    def windows(
        self, x: Tensor, y: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any = 1
    ) -> Where:
        """Where the outputs of windows lie."""
        d = x.dim() - 2
        size, step, gap = (_each(value, d) for value in (kernel, stride, dilation))
        if isinstance(padding, str):
            same = padding == "same"
            reach = [g * (k - 1) * same for k, g in zip(size, gap, strict=True)]
            pads = [(n // 2, n - n // 2) for n in reach]
        else:
            pads = [(n, n) for n in _each(padding, d)]
        return self.known(x).step(
            lambda a, e: where.kernel(e, y.shape[2 + a], size[a], step[a], pads[a], gap[a])
        )

    def max_pool(
        self, func: Any, x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
        dilation: Any = 1, ceil_mode: bool = False, return_indices: bool = False,
    ) -> Tensor:  # fmt: skip
        """The maximum; nobody is minus infinity, and a maximum over nobody is 0."""
        if return_indices:
            raise ProofError("the judge has no truth for indices of maxima on masks")
        how = (kernel_size, stride, padding, dilation, ceil_mode)
        there = self.known(x).there
        y = func(filled(x, there, float("-inf")), *how)
        some = func(there.unsqueeze(1).double(), *how).squeeze(1) > 0
        y, step = filled(y, some, 0.0), stride or kernel_size
        return self.put(y, self.windows(x, y, kernel_size, step, padding, dilation))

    def avg_pool(
        self, func: Any, x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
        ceil_mode: bool = False, count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Tensor:  # fmt: skip
        """The sum over a window, by the window's size."""
        d = x.dim() - 2
        if _each(kernel_size, d) == tuple(x.shape[2:]) and not any(_each(padding, d)):
            return self.readout(x)
        if not count_include_pad:
            raise ProofError("the judge has no truth for means of who is there in a window")
        more = {} if divisor_override is None else {"divisor_override": divisor_override}
        y = func(x, kernel_size, stride, padding, ceil_mode, **more)
        return self.put(y, self.windows(x, y, kernel_size, stride or kernel_size, padding))

    def adaptive_avg_pool(self, func: Any, x: Tensor, output_size: Any) -> Tensor:
        """The mean over all pixels that are there."""
        d = x.dim() - 2
        if _each(output_size, d) != (1,) * d:
            raise ProofError("the judge has no truth for adaptive windows on masks")
        return self.readout(x)

    def readout(self, x: Tensor) -> Tensor:
        """The mean of all pixels that are there, (B, C, 1, ...)."""
        return self.mean(None, x, tuple(range(2, x.dim())), True)

    def mean(self, func: Any, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
        """The mean over all pixels that are there."""
        total, there = self.sum(func, x, dim, keepdim), self.known(x).there
        if bool(there.all()):
            return x.mean(dim, keepdim)
        count = there.flatten(1).sum(1).clamp(min=1)
        return total / count.view(-1, *(1,) * (total.dim() - 1))

    def sum(self, func: Any, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
        """The sum over all pixels that are there."""
        axes = sorted(a % x.dim() for a in ([dim] if isinstance(dim, int) else dim or ()))
        if axes != [*range(2, x.dim())]:
            raise ProofError(f"the judge has no truth for sums and means over {dim} on masks")
        return x.sum(axes, keepdim=keepdim)

    def cat(self, func: Any, tensors: Any, dim: int = 0) -> Tensor:
        """Channels behind one another, on the union."""
        if dim % tensors[0].dim() != 1:
            raise ProofError(f"the judge has no truth for maps joined along axis {dim} on masks")
        return self.put(func(tensors, dim), self.union(tensors))


def filled(x: Tensor, mask: Tensor, value: float) -> Tensor:
    """Return (B, C, *size) with a value where nobody is; as a move of rows."""
    absent = (~mask).flatten().nonzero().squeeze(1).to(x.device)
    if not len(absent):
        return x
    rows = x.movedim(1, -1)
    return rows.reshape(-1, x.shape[1]).index_fill(0, absent, value).view(rows.shape).movedim(-1, 1)


def _trains(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return bool(kwargs.get("training", args[5] if len(args) > 5 else False))


def _each(value: Any, d: int) -> tuple[int, ...]:
    found = tuple(value) if isinstance(value, (tuple, list)) else (value,) * d
    return found if len(found) == d else found * d


Meaning = Callable[..., Any]

MEANT: dict[Any, Meaning] = {
    torch.conv1d: OnMask.conv, torch.conv2d: OnMask.conv, torch.conv3d: OnMask.conv,
    torch.conv_transpose1d: OnMask.conv_transpose, torch.conv_transpose2d: OnMask.conv_transpose,
    torch.conv_transpose3d: OnMask.conv_transpose,
    F.max_pool1d: OnMask.max_pool, F.max_pool2d: OnMask.max_pool, F.max_pool3d: OnMask.max_pool,
    F.avg_pool1d: OnMask.avg_pool, F.avg_pool2d: OnMask.avg_pool, F.avg_pool3d: OnMask.avg_pool,
}  # fmt: skip
"""Function of torch -> what it means on a mask."""

BY_NAME: dict[str, Meaning] = {
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
                    OnMask.adaptive_avg_pool),
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), OnMask.max_pool),
    "mean": OnMask.mean, "sum": OnMask.sum,
    **dict.fromkeys(("cat", "concat", "concatenate"), OnMask.cat),
}  # fmt: skip
"""The same of whatever has a name: functions, and methods of a tensor."""
