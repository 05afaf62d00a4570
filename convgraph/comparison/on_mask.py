"""A dense network on a mask: torch's operators on images whose absent pixels say nothing.

    y = op(x), 0 where nobody is          what looks at one pixel alone
    y = sum(x) / how many are there       means over an image
    y = op(x), minus infinity for nobody  maxima

It is the reference of a network's proof on a graph with holes: the network as it is, run under a
mode that puts 0 into every absent pixel behind every operator. Which output sites there are follows
from the mask of the images and from where a map lies: `convgraph.proof.equation.map_positions`.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary

from convgraph.comparison.derived import Derived, one_memory
from convgraph.errors import ProofError
from convgraph.proof.equation import map_positions
from convgraph.proof.equation.map_positions import MapPositions

SITE_BY_SITE = frozenset(
    """
    abs add mul sub rsub div truediv rtruediv radd rmul iadd imul isub neg pow square sqrt rsqrt exp
    log tanh sigmoid relu relu6 leaky_relu elu selu celu gelu silu mish hardtanh hardswish
    hardsigmoid softplus softsign clamp clamp_min clamp_max maximum minimum prelu logsigmoid
    batch_norm dropout dropout1d dropout2d dropout3d threshold erf expm1 log1p sin cos atan
    hardshrink softshrink tanhshrink addcmul addcdiv lerp
    """.split()  # noqa: SIM905
)
"""Functions of torch, by name, that do the same to every pixel, whoever else is there."""

DIM_AT = {
    **dict.fromkeys(("mean", "sum", "amax", "amin", "var", "std", "logsumexp"), 1),
    **dict.fromkeys(("softmax", "log_softmax"), 1),
    **dict.fromkeys(("chunk", "split", "normalize"), 2),
}
"""Functions along one axis, by name, and which argument says along which."""

_ALONE = SITE_BY_SITE - {"batch_norm", "prelu"}
"""Of these, what does the same wherever the channels lie."""

NORMS = frozenset({"norm", "vector_norm", "linalg_vector_norm"})
"""Functions (sum |x|^p)^(1/p), to which a 0 adds nothing."""

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
        self._last: Any = WeakTensorKeyDictionary()  # of maps whose channels are the last axis
        self._flat: Any = WeakTensorKeyDictionary()  # of maps (B, C * pixels) before a linear layer
        self._shares: Any = WeakTensorKeyDictionary()  # with whom memory is shared in torch
        self._stale: Any = WeakTensorKeyDictionary()  # whose memory was written to by another name
        self._given: list[Tensor] = []
        self._derived = Derived()
        self._refused: ProofError | None = None

    def __enter__(self) -> "OnMask":  # noqa: D105
        self._refused = None
        self._derived.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:  # noqa: D105
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self._derived.__exit__(*raised)  # type: ignore[no-untyped-call]
        if self._refused is not None and raised[0] is None:  # the network went on without it
            raise self._refused

    def __torch_function__(  # noqa: D105
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        leaves = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        self._given = leaves
        try:
            self.fresh(*leaves)
            shared = [(t, t._version, self._shares[t]) for t in leaves if t in self._shares]
            out = self.meant(func, args, kwargs, leaves)
        except ProofError as error:
            self._refused = self._refused or error
            raise
        finally:
            self._given = []
        for t, version, group in shared:
            if t._version != version:
                self._stale.update(dict.fromkeys(_elsewhere(t, group), True))
        return out

    def meant(self, func: Any, args: tuple[Any, ...], kwargs: Any, leaves: list[Tensor]) -> Any:
        """What a call means on images with holes."""
        if not any(map(self.is_map, leaves)):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "").strip("_")
        module = getattr(func, "__module__", None) or "torch"
        if module.partition(".")[0] != "torch" or _sets_data(func):
            raise ProofError(f"the judge has no truth for {module}.{name} on masks")
        if any(t in self._flat for t in leaves):
            out = self.flattened(func, name, args, kwargs, leaves)
        elif any(t in self._last for t in leaves):
            out = self.channels_last(func, args, kwargs)
        else:
            out = self.of_maps(func, name, args, kwargs, leaves)
        whole = [t for t in tree_leaves(out) if isinstance(t, Tensor) and not self.is_map(t)]
        self._derived.clear(*(t for t in whole if not any(one_memory(t, x) for x in leaves)))
        return out

    def of_maps(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: Any, leaves: list[Tensor]
    ) -> Any:
        """The same where channels are the second axis."""
        maps = [t for t in leaves if self.place(t) is not None]
        meant = MEANT.get(func, BY_NAME.get(name))
        if self.of_channels(name, args, kwargs):
            meant = OnMask.channels
        if meant is not None:
            return meant(self, func, *args, **kwargs)
        if name == "batch_norm" and trains(args, kwargs):
            return self.rows(func, *args, **kwargs)
        out = func(*args, **kwargs)
        if name == "setitem" and maps[0] is args[0]:
            self.put(args[0], self.known(args[0]), maps)
        if not any(isinstance(one, Tensor) for one in tree_leaves(out)):
            return out  # what a tensor is like
        if name in KEEPS or (name == "view_as" and out.shape == args[0].shape):
            return self.kept(name, out, args[0])
        if name not in SITE_BY_SITE:
            raise ProofError(f"the judge has no truth for {name} on masks")
        return self.put(out, self.union(maps), maps)

    # -- who is there -----------------------------------------------------------------------------

    def place(self, x: Any) -> MapPositions | None:
        """Where a map lies; None for what was made of whole images."""
        found: MapPositions | None = self._lies.get(x) if isinstance(x, Tensor) else None
        return found

    def there(self, x: Any) -> Tensor | None:
        """Which pixels of a map are there, (B, *size) bool; None for what lies nowhere."""
        found = self.place(x)
        return None if found is None else found.there

    def known(self, x: Tensor) -> MapPositions:
        """Where a map lies that has to lie somewhere."""
        found = self.place(x)
        if found is None:
            raise ProofError("the judge has no truth for what stands in the place of a map here")
        return found

    def is_map(self, x: Tensor) -> bool:
        """Whether it is known where a tensor lies."""
        return x in self._last or x in self._flat or self.place(x) is not None

    def image(self, x: Tensor, mask: Tensor) -> Tensor:
        """Take an image's pixels for absent where the mask says so."""
        image = x.clone()
        self._derived.mark(image)
        with self._derived:
            return self.put(image, MapPositions.of(mask, bool(mask.all())))

    def put(self, x: Tensor, place: MapPositions, given: Sequence[Tensor] = ()) -> Tensor:
        """Put 0 where nobody is, in place if the operator wrote to what it was given."""
        if tuple(x.shape[2:]) != place.size or len(x) != len(place.root):
            raise ProofError(
                f"the judge has no truth for values of shape {tuple(x.shape)} made of images of "
                f"size {place.size} with holes"
            )
        if prod(place.size) == 1:  # a readout
            return x
        found = filled(x, place.there, 0.0)
        if any(x is one for one in given):  # written to: whoever holds it sees the holes too
            if not torch.equal(self.known(x).there, place.there):
                raise ProofError("the judge has no truth for a write that brings nodes, on masks")
            with _disable_current_modes():
                kept = torch.equal(found, x)
            found = found if kept else x.copy_(found)
            self._lies[x] = place
        self._lies[found] = place
        self.share(x, found)
        return found

    def share(self, x: Tensor, found: Tensor) -> None:
        """Note what stands for x here, which has the memory of what was given in torch."""
        for one in self._given:
            if one is not found and one_memory(one, x):
                group = [*self._shares.get(one, [TensorWeakRef(one)]), TensorWeakRef(found)]
                for member in (ref() for ref in group):
                    if member is not None:
                        self._shares[member] = group

    def kept(self, name: str, found: Tensor, x: Tensor) -> Tensor:
        """The same values, in the same memory or another; where torch's layout decides, in both."""
        if self.place(x) is None:  # of the dtype that a map has
            return found
        if found is x and name != "requires_grad":
            found = x.clone()
        self._lies[found] = self.known(x)
        self.share(x if name != "clone" else found, found)
        return found

    def fresh(self, *tensors: Tensor) -> None:
        """Refuse what was written to by another name, and maps that no function of torch gave."""
        for t in tensors:
            if t in self._stale:
                raise ProofError("the judge has no truth for a write into what is a view, on masks")
            if t in self._derived and not self.is_map(t):
                raise ProofError(
                    "the judge has no truth for what becomes of maps where no function of torch "
                    "says it (a buffer that is written to, vmap, a script), on masks"
                )

    def union(self, maps: Sequence[Tensor]) -> MapPositions:
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
        step, pad, gap = (each(value, d) for value in (stride, padding, dilation))
        return self.put(y, self.known(x).step(
            lambda k, e: map_positions.reversed_kernel(
                e, y.shape[2 + k], weight.shape[2 + k], step[k], pad[k], gap[k]
            )
        ))  # fmt: skip

    def windows(
        self, x: Tensor, y: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any = 1
    ) -> MapPositions:
        """Where the outputs of windows lie."""
        d = x.dim() - 2
        size, step, gap = (each(value, d) for value in (kernel, stride, dilation))
        if isinstance(padding, str):
            same = padding == "same"
            reach = [g * (k - 1) * same for k, g in zip(size, gap, strict=True)]
            pads = [(n // 2, n - n // 2) for n in reach]
        else:
            pads = [(n, n) for n in each(padding, d)]
        return self.known(x).step(
            lambda a, e: map_positions.kernel(e, y.shape[2 + a], size[a], step[a], pads[a], gap[a])
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
        whole = each(kernel_size, d) == tuple(x.shape[2:]) and not any(each(padding, d))
        if whole and divisor_override is None:
            return self.readout(x)
        more = {} if divisor_override is None else {"divisor_override": divisor_override}
        how = (kernel_size, stride, padding, ceil_mode)
        if count_include_pad or more:
            y = func(x, *how, **more)
        elif d == 1:  # nothing bounds what it rounds; see `function_layers`
            raise ProofError("the judge has no truth for means of who is there in a window")
        else:
            y = mean_of_who_is_there(x, self.known(x).there, pool_windows(self.known(x).size, *how))
        return self.put(y, self.windows(x, y, kernel_size, stride or kernel_size, padding))

    def adaptive_avg_pool(self, func: Any, x: Tensor, output_size: Any) -> Tensor:
        """The mean over the pixels of each window that are there."""
        place = self.known(x)
        size = adaptive_size(x, output_size)
        if size == (1,) * (x.dim() - 2):
            return self.readout(x)
        if size == place.size:
            return self.put(x.clone(), place)
        y = mean_of_who_is_there(x, place.there, adaptive_windows(place.size, size))
        return self.put(y, place.scaled(size))

    def adaptive_max_pool(
        self, func: Any, x: Tensor, output_size: Any, return_indices: bool = False
    ) -> Tensor:
        """The maximum over all pixels that are there; over nobody it is 0."""
        d = x.dim() - 2
        if each(output_size, d) != (1,) * d or return_indices:
            raise ProofError("the judge has no truth for adaptive windows on masks")
        there = self.known(x).there
        y = func(filled(x, there, float("-inf")), output_size)
        return filled(y, there.flatten(1).any(1).view(-1, *(1,) * d), 0.0)

    def readout(self, x: Tensor) -> Tensor:
        """The mean of all pixels that are there, (B, C, 1, ...)."""
        return self.mean(None, x, tuple(range(2, x.dim())), True)

    def mean(self, func: Any, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
        """The mean over all pixels that are there."""
        there = self.known(x).there
        if bool(there.all()):
            return x.mean(dim, keepdim)
        total = self.sum(func, x, dim, keepdim)
        count = there.flatten(1).sum(1).clamp(min=1)
        return total / count.view(-1, *(1,) * (total.dim() - 1))

    def sum(self, func: Any, x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
        """The sum over all pixels that are there."""
        axes = sorted(a % x.dim() for a in ([dim] if isinstance(dim, int) else dim or ()))
        if axes != [*range(2, x.dim())]:
            raise ProofError(f"the judge has no truth for sums and means over {dim} on masks")
        return x.sum(axes, keepdim=keepdim)

    def norm(self, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(sum over who is there of |x|^p)^(1/p): 0 adds nothing."""
        axes = self.of_norm(x, args, kwargs)
        if axes != [*range(2, x.dim())]:
            raise ProofError(f"the judge has no truth for norms over axes {axes} on masks")
        return func(x, *args, **kwargs)  # type: ignore[no-any-return]

    @staticmethod
    def of_norm(x: Tensor, args: tuple[Any, ...], kwargs: Any) -> list[int]:
        """The axes of a norm, counted from the front; none where a 0 would count."""
        given = dict(zip(("p", "dim", "keepdim", "dtype"), args, strict=False)) | kwargs
        p, dim = given.get("p", given.get("ord")), given.get("dim")
        counts = not (p is None or p == "fro" or (isinstance(p, (int, float)) and p > 0))
        axes = (dim,) if isinstance(dim, int) else dim or ()
        return [] if counts else sorted(axis % x.dim() for axis in axes)

    def interpolate(self, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """A resize: nobody says 0, and the map covers what it covered; an area's mean is a pool."""
        named = dict(zip(("size", "scale_factor", "mode"), args, strict=False)) | kwargs
        if named.get("mode") == "area":
            size = area_size(input, named.get("size"), named.get("scale_factor"))
            return self.adaptive_avg_pool(func, input, size)
        y: Tensor = func(input, *args, **kwargs)
        return self.put(y, self.known(input).scaled(tuple(y.shape[2:])))

    # -- channels ---------------------------------------------------------------------------------

    def of_channels(self, name: str, args: tuple[Any, ...], kwargs: Any) -> bool:
        """Whether a function looks along the channels of one pixel alone."""
        at, d = DIM_AT.get(name), args[0].dim() if args and isinstance(args[0], Tensor) else 0
        if at is None or not d or self.place(args[0]) is None:
            return False
        dim = kwargs.get("dim", args[at] if len(args) > at else 1 if name == "normalize" else None)
        axes = dim if isinstance(dim, (tuple, list)) else (dim,)
        return all(isinstance(axis, int) and axis % d == 1 for axis in axes)

    def channels(self, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The same of every pixel: what comes out lies where the map did."""
        place, found = self.known(x), func(x, *args, **kwargs)
        return tree_map_only(Tensor, lambda y: self.put(y, place), found)

    def rows(self, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The rows of who is there, (N, C), and of nobody else."""
        place = self.known(input)
        there = place.there.flatten().nonzero().squeeze(1).to(input.device)
        every = input.movedim(1, -1)
        y = func(every.reshape(-1, input.shape[1]).index_select(0, there), *args, **kwargs)
        found = y.new_zeros(place.there.numel(), y.shape[1]).index_copy(0, there, y)
        self._derived.clear(*(t for t in self._given if not self.is_map(t)))  # statistics that run
        return self.put(found.view(*every.shape[:-1], -1).movedim(-1, 1).contiguous(), place)

    def glu(self, func: Any, input: Tensor, dim: int = -1) -> Tensor:
        """One half of the channels by what the other half lets through."""
        if dim % input.dim() != 1:
            raise ProofError(f"the judge has no truth for glu along axis {dim} on masks")
        return self.rows(func, input, 1)

    def local_response_norm(self, func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Channels by those beside them, of one pixel."""

        def each(rows: Tensor) -> Tensor:
            y: Tensor = func(rows[:, :, None, None], *args, **kwargs)
            return y[:, :, 0, 0]

        return self.rows(each, input)

    # -- channels last ----------------------------------------------------------------------------

    def permute(self, func: Any, x: Tensor, *dims: Any) -> Tensor:
        """Channels behind the lattice, as norms of nodes want them, and back."""
        axes = tuple(a % x.dim() for a in _flat(dims))
        behind = (0, *range(2, x.dim()), 1)
        if axes not in (behind, tuple(range(x.dim()))):
            raise ProofError(f"the judge has no truth for axes in the order {axes} on masks")
        y: Tensor = x.permute(axes)
        if axes == behind:
            y = y.contiguous()  # as rows of nodes lie, of which torch makes other products
            self._last[y] = self.known(x)
            self.share(x, y)
        else:
            self._lies[y] = self.known(x)
            self.share(x, y)
        return y

    def channels_last(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """What looks at one pixel alone, whose channels are the last axis."""
        name = getattr(func, "__name__", "").strip("_")
        leaves = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        x = next(t for t in leaves if t in self._last)
        if (not args or args[0] is not x) and name not in _ALONE:
            raise ProofError(f"the judge has no truth for {name} of channels in the last axis")
        place, d = self._last[x], x.dim()
        if name in NORMS and self.of_norm(x, args[1:], kwargs) == [*range(1, d - 1)]:
            whole = filled(x.movedim(-1, 1), place.there, 0.0).movedim(1, -1)
            return func(whole, *args[1:], **kwargs)
        y = func(*args, **kwargs)
        if not isinstance(y, Tensor):
            values = name == "setitem" and any(self.place(t) is not None for t in leaves)
            if values or any(isinstance(one, Tensor) for one in tree_leaves(y)):
                raise ProofError(f"the judge has no truth for {name} of channels in the last axis")
            return y  # what a tensor is like; of what was written, nobody's part is read
        if name == "permute":
            axes = tuple(a % d for a in _flat(args[1:] or tuple(kwargs.values())))
            if axes != (0, d - 1, *range(1, d - 1)):
                raise ProofError(f"the judge has no truth for axes in the order {axes} on masks")
            found = self.put(y.contiguous(), place)
            self.share(x, found)
            return found
        shape = kwargs.get("normalized_shape", args[1] if len(args) > 1 else ())
        norm = name == "layer_norm" and len(shape) == 1
        alike = name in _ALONE and y.shape == x.shape and all(self.beside(t, x) for t in leaves)
        wide = any(t.dim() > 2 for t in leaves if t is not x)
        if not alike and (wide or (not norm and name not in {"linear", *KEEPS})):
            raise ProofError(f"the judge has no truth for {name} of channels in the last axis")
        channels = filled(y.movedim(-1, 1), place.there, 0.0).movedim(1, -1).contiguous()
        self._last[channels] = place
        self.share(y, channels)
        return channels

    def beside(self, t: Tensor, x: Tensor) -> bool:
        """Whether what meets a map whose channels are last is such a map, or one to all pixels."""
        if t in self._last:
            return bool(self._last[t].same(self._last[x]))
        lattice = t.shape[-x.dim() + 1 : -1] if t.dim() > 1 else ()
        return self.place(t) is None and all(n == 1 for n in lattice)

    # -- flattened --------------------------------------------------------------------------------

    def flatten(self, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Channels and pixels as one axis, for a linear layer: nobody says 0."""
        y: Tensor = func(x, *args, **kwargs)
        if tuple(y.shape) != (len(x), x[0].numel()):
            raise ProofError(f"the judge has no truth for a map in shape {tuple(y.shape)} on masks")
        found = y.clone()  # torch gives a view or a copy, as the map lies in memory
        self._flat[found] = self.known(x)
        self.share(x, found)
        return found

    def flattened(
        self, func: Any, name: str, args: tuple[Any, ...], kwargs: Any, leaves: list[Tensor]
    ) -> Any:
        """A linear layer of a flattened map, and what is done to each entry before it."""
        x = next(t for t in leaves if t in self._flat)
        place = self._flat[x]
        others = [t for t in leaves if self.is_map(t) and not (t in self._flat and t is x)]
        y = func(*args, **kwargs)
        if name == "linear" and args and args[0] is x and not others:
            return y
        if not any(isinstance(one, Tensor) for one in tree_leaves(y)) and name != "setitem":
            return y  # what a tensor is like
        alike = all(t in self._flat and self._flat[t].same(place) for t in others)
        known = name in _ALONE or (name in KEEPS and args[0] is x)
        if not (alike and known and isinstance(y, Tensor) and y.shape == x.shape):
            raise ProofError(f"the judge has no truth for {name} of a flattened map on masks")
        found = filled(y.view(len(x), -1, *place.size), place.there, 0.0).flatten(1)
        found = found.clone() if found is y or one_memory(found, y) else found
        if y is x:
            x.copy_(found)
        self._flat[found] = place
        self.share(y, found)
        return found

    # -- norms ------------------------------------------------------------------------------------

    def group_norm(
        self, func: Any, input: Tensor, num_groups: int,
        weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5,
        cudnn: bool = True,
    ) -> Tensor:  # fmt: skip
        """Mean and variance of a group of channels, over the pixels that are there.

        y = (x - mean) / sqrt(var + eps),   mean = sum over who is there of x / how many they are
        """
        x, place = input, self.known(input)
        if place.full and func is F.group_norm:
            return self.put(func(x, num_groups, weight, bias, eps), place)
        there = place.there.to(x.device)
        count = there.flatten(1).sum(1).clamp(min=1).unsqueeze(1)

        def spread(value: Tensor) -> Tensor:
            lattice = value[(slice(None), slice(None), *(None,) * (x.dim() - 2))]
            return lattice.expand(-1, -1, *x.shape[2:]).unsqueeze(2)  # pixels first, as nodes do

        def mean(blocks: Tensor) -> Tensor:
            axes = tuple(range(2, x.dim()))
            return filled(blocks.mean(2), there, 0.0).sum(axes) / count

        blocks = x.unflatten(1, (num_groups, x.shape[1] // num_groups))
        centred = blocks - spread(mean(blocks))
        centred = filled(centred.flatten(1, 2), there, 0.0).unflatten(1, (num_groups, -1))
        square = filled(centred.square().flatten(1, 2), there, 0.0).unflatten(1, (num_groups, -1))
        y = (centred * spread((mean(square) + eps).rsqrt())).flatten(1, 2)
        return self.put(affine(y, weight, bias), place)

    def instance_norm(
        self, func: Any, input: Tensor, running_mean: Tensor | None = None,
        running_var: Tensor | None = None, weight: Tensor | None = None,
        bias: Tensor | None = None, use_input_stats: bool = True, momentum: float = 0.1,
        eps: float = 1e-5, cudnn: bool = True,
    ) -> Tensor:  # fmt: skip
        """The same of every channel by itself; or by statistics that ran before, as they are."""
        if func is not F.instance_norm:  # the operator beneath it, which takes them otherwise
            running_mean, running_var, weight, bias = weight, bias, running_mean, running_var
        if running_mean is None or running_var is None:
            return self.group_norm(func, input, input.shape[1], weight, bias, eps)
        if use_input_stats:
            raise ProofError("the judge has no truth for statistics of images that run on masks")
        y = by_statistics(input, running_mean, running_var, weight, bias, eps)
        return self.put(y, self.known(input))

    # -- moves ------------------------------------------------------------------------------------

    def moved(self, x: Tensor, y: Tensor, sources: dict[int, list[Any]]) -> Tensor:
        """Positions of old ones, along some axes of the lattice; channels and images stay."""
        if any(axis < 0 for axis in sources):
            raise ProofError("the judge has no truth for moves of images or channels on masks")
        return self.put(y, self.known(x).moved(sources))

    def pad(
        self, func: Any, input: Tensor, pad: Any, mode: str = "constant",
        value: float | None = None,
    ) -> Tensor:  # fmt: skip
        """Nobody beyond the border, or a number; or copies of who is there."""
        x, pairs = input, [(pad[k], pad[k + 1]) for k in range(0, len(pad), 2)]
        if len(pairs) > x.dim() - 2:
            raise ProofError("the judge has no truth for pads of channels on masks")
        sources = {}
        for k, (before, behind) in enumerate(pairs):
            axis = x.dim() - 3 - k
            n = x.shape[2 + axis]
            found = map_positions.pad_sources(n, max(before, 0), max(behind, 0), mode, value or 0.0)
            sources[axis] = found[max(-before, 0) : len(found) - max(-behind, 0)]
        if mode == "constant":
            return self.moved(x, func(x, pad, mode, value), sources)
        place, wide = torch.arange(prod(x.shape[2:]), device=x.device).view(x.shape[2:]), x.shape
        for axis, row in sources.items():
            place = place.index_select(axis, torch.tensor(row, device=x.device))
        y = x.flatten(2).index_select(2, place.flatten())  # one move, as of nodes
        return self.moved(x, y.view(*wide[:2], *place.shape), sources)

    def flip(self, func: Any, x: Tensor, *dims: Any) -> Tensor:
        """The other way round."""
        axes = _flat(dims)
        size = self.known(x).size
        return self.moved(
            x, func(x, axes), {a % x.dim() - 2: [*range(size[a % x.dim() - 2])][::-1] for a in axes}
        )

    def roll(self, func: Any, x: Tensor, shifts: Any, dims: Any = None) -> Tensor:
        """Round an axis."""
        if dims is None:
            raise ProofError("the judge has no truth for a roll of whole images on masks")
        steps, axes = _flat((shifts,)), _flat((dims,))
        sources: dict[int, list[Any]] = {}
        for step, axis in zip(steps, axes, strict=True):
            at = axis % x.dim() - 2
            row = sources.get(at, [*range(x.shape[2 + at])])
            sources[at] = [row[(p - step) % len(row)] for p in range(len(row))]
        return self.moved(x, func(x, shifts, dims), sources)

    def getitem(self, func: Any, x: Tensor, index: Any) -> Tensor:
        """A crop by slices; all images, and any channels."""
        parts = list(index) if isinstance(index, tuple) else [index]
        if Ellipsis in parts:
            at = parts.index(Ellipsis)
            parts[at : at + 1] = [slice(None)] * (x.dim() - len(parts) + 1)
        whole = parts[:1] in ([], [slice(None)])
        if not whole or not all(isinstance(part, slice) for part in parts):
            raise ProofError("the judge has no truth for what is picked out of a map on masks")
        size = self.known(x).size
        sources: dict[int, list[Any]] = {
            axis: [*range(size[axis])][part] for axis, part in enumerate(parts[2:])
        }
        return self.moved(x, func(x, index), sources)

    def pixel_shuffle(self, func: Any, x: Tensor, r: int) -> Tensor:
        """Channels as r x r positions of each pixel."""
        y: Tensor = func(x, r)
        return self.put(y, self.known(x).step(
            lambda a, e: map_positions.reversed_kernel(e, y.shape[2 + a], r, r, 0, 1)
        ))  # fmt: skip

    def pixel_unshuffle(self, func: Any, x: Tensor, r: int) -> Tensor:
        """The r x r positions of a block as channels of one; nobody says 0."""
        y: Tensor = func(x, r)
        return self.put(y, self.windows(x, y, r, r, 0))

    def narrow(self, func: Any, x: Tensor, dim: int, start: int, length: int) -> Tensor:
        """A crop along one axis."""
        parts = [slice(None)] * x.dim()
        begin = start % x.shape[dim]
        parts[dim % x.dim()] = slice(begin, begin + length)
        return self.getitem(lambda x, _: func(x, dim, start, length), x, tuple(parts))

    def cat(self, func: Any, tensors: Any, dim: int = 0) -> Tensor:
        """Channels behind one another, on the union."""
        if dim % tensors[0].dim() != 1:
            raise ProofError(f"the judge has no truth for maps joined along axis {dim} on masks")
        maps = [t for t in tensors if self.place(t) is not None]  # others are the same everywhere
        return self.put(func(tensors, dim), self.union(maps))


def filled(x: Tensor, mask: Tensor, value: float) -> Tensor:
    """Return (B, C, *size) with a value where nobody is; as a move of rows.

    It lies as torch's own images do: where an image lies channels last, oneDNN writes the gradient
    of a strided 1 x 1 of few channels beyond its memory (uxlfoundation/oneDNN#6035).
    """
    absent = (~mask).flatten().nonzero().squeeze(1).to(x.device)
    if not len(absent):
        return x
    rows = x.movedim(1, -1)
    made = rows.reshape(-1, x.shape[1]).index_fill(0, absent, value).view(rows.shape)
    return made.movedim(-1, 1).contiguous()


Windows = Sequence[Sequence[tuple[int, int]]]
"""Of each output along each axis, its first pixel and its end."""


def mean_of_who_is_there(x: Tensor, there: Tensor, windows: Windows) -> Tensor:
    """Sums over windows by how many are there; over nobody it is 0.

    Args:
        x: (B, C, *size), 0 where nobody is.
        there: (B, *size) bool.
        windows: of the size.
    """
    count = window_sums(there.unsqueeze(1).to(x.device, x.dtype), windows)
    return window_sums(x, windows) / count.clamp(min=1)


def window_sums(x: Tensor, windows: Windows) -> Tensor:
    """The sums over windows, one axis behind the other."""
    for axis, ends in enumerate(windows, 2):
        lines = [x.narrow(axis, low, high - low).sum(axis) for low, high in ends]
        x = torch.stack(lines, axis)
    return x


def pool_windows(
    size: Sequence[int], kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool
) -> Windows:
    """What an average pool's windows see, pads left out; none starts behind the last pixel.

    Example:
        >>> pool_windows((5,), 3, 2, 1, False)
        [[(0, 2), (1, 4), (3, 5)]]
    """
    d, found = len(size), []
    whole = (each(value, d) for value in (kernel_size, stride or kernel_size, padding))
    for n, k, step, pad in zip(size, *whole, strict=True):
        room = n + 2 * pad - k + (step - 1) * ceil_mode
        starts = range(-pad, min(n, (room // step + 1) * step - pad), step)
        found.append([(max(low, 0), min(low + k, n)) for low in starts])
    return found


def adaptive_windows(size: Sequence[int], count: Sequence[int]) -> Windows:
    """What so many adaptive windows of an axis see.

    Example:
        >>> adaptive_windows((5,), (3,))
        [[(0, 2), (1, 4), (3, 5)]]
    """
    return [
        [(p * n // m, -(-(p + 1) * n // m)) for p in range(m)]
        for n, m in zip(size, count, strict=True)
    ]


def adaptive_size(x: Tensor, output_size: Any) -> tuple[int, ...]:
    """How large an adaptive pool's output is; None leaves an axis as it is."""
    asked = each(output_size, x.dim() - 2)
    return tuple(n if m is None else m for n, m in zip(x.shape[2:], asked, strict=True))


def area_size(x: Tensor, size: Any, scale_factor: Any) -> tuple[int, ...]:
    """How large a resize by areas makes an image, which torch computes as an adaptive pool."""
    made = F.interpolate(torch.empty(x.shape, device="meta"), size, scale_factor, "area")
    return tuple(made.shape[2:])


def affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Channel by channel, times a weight, plus a bias."""
    channel = (slice(None), *(None,) * (x.dim() - 2))
    y = x if weight is None else x * weight[channel]
    return y if bias is None else y + bias[channel]


def by_statistics(
    x: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """A norm that looks at one pixel: what it knows of its channel ran before."""
    channel = (slice(None), *(None,) * (x.dim() - 2))
    return affine((x - mean[channel]) * (var + eps).rsqrt()[channel], weight, bias)


def _flat(value: Any) -> tuple[int, ...]:
    """Numbers that come alone, behind one another, or in a list."""
    return tuple(v for one in value for v in (one if isinstance(one, (tuple, list)) else (one,)))


def _sets_data(func: Any) -> bool:
    """Whether a function gives a tensor other memory, as `x.data = y` does."""
    which = getattr(getattr(func, "__self__", None), "__name__", "")
    return getattr(func, "__name__", "") == "__set__" and which not in ("grad", "requires_grad")


def _elsewhere(x: Tensor, group: Sequence[TensorWeakRef]) -> list[Tensor]:
    """Those of a group that do not see what is written to one of it."""
    others = [one for ref in group if (one := ref()) is not None and one is not x]
    return [one for one in others if not one_memory(one, x)]


def trains(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a batch norm takes the statistics of what it is given."""
    return bool(kwargs.get("training", args[5] if len(args) > 5 else False))


def each(value: Any, d: int) -> tuple[int, ...]:
    """A number of each axis, or one for all of them."""
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
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"),
                    OnMask.adaptive_max_pool),
    "interpolate": OnMask.interpolate,
    "mean": OnMask.mean, "sum": OnMask.sum, **dict.fromkeys(NORMS, OnMask.norm),
    "pad": OnMask.pad, "flip": OnMask.flip, "roll": OnMask.roll, "getitem": OnMask.getitem,
    "narrow": OnMask.narrow, "permute": OnMask.permute,
    **dict.fromkeys(("flatten", "view", "reshape"), OnMask.flatten),
    "pixel_shuffle": OnMask.pixel_shuffle, "pixel_unshuffle": OnMask.pixel_unshuffle,
    "channel_shuffle": OnMask.channels, "native_channel_shuffle": OnMask.channels,
    "glu": OnMask.glu, "local_response_norm": OnMask.local_response_norm,
    "group_norm": OnMask.group_norm, "instance_norm": OnMask.instance_norm,
    **dict.fromkeys(("cat", "concat", "concatenate"), OnMask.cat),
}  # fmt: skip
"""The same of whatever has a name: functions, and methods of a tensor."""
