"""A tensor whose pixels are nodes: any torch code runs on it, and computes on the nodes alone.

    x = graph.tensor()      (B, C, *size) to whoever asks, rows (N, C) in truth; nothing is copied
    y = cnn(x)              a network of torch, untouched
    y.graph                 a PixelGraph again

Each operator arrives whole and its rule (see `convgraph.convert.rules`) says what it means on rows,
whose autograd is torch's own. An operator without a rule is taken apart where torch can; on a full
grid it runs on the image; on a mask it raises.
"""

from dataclasses import replace
from math import prod
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.utils import _pytree as pytree

from convgraph.convert import keys, names, registry, rules, views, windows
from convgraph.convert.frames import where
from convgraph.convert.inner import inner
from convgraph.convert.names import ApartError, NoRuleError
from convgraph.convert.node_pairs import PairSites, pair_sites
from convgraph.convert.operators import _STATE, INTO_TENSOR, Operator, operator
from convgraph.convert.settle import settle, settled
from convgraph.convert.value import Spatial, dense, from_graph, placed
from convgraph.convert.views import Map
from convgraph.errors import ConversionError, ConvgraphError, GraphError
from convgraph.graph.network_sites import same
from convgraph.graph.pixel_graph import PixelGraph, tensors_by
from convgraph.graph.sites import Sites

REGISTERED = rules.FAMILIES
"""The families of rules; importing them registers them."""

OWN: dict[Any, Any] = {}
"""Functions of torch that a map answers without an operator; see `answers`."""

_TENSOR: Any = torch.Tensor
_make = _TENSOR._make_wrapper_subclass
_TO = torch.ops.aten._to_copy.default


class GraphTensor(Map):
    """A torch.Tensor of shape (B, C, *size), or of any shape made of it, that holds nodes only.

    Get one from `PixelGraph.tensor()`. Shape, dtype, device and gradients are a tensor's; what is
    absent is computed by nobody. `graph` gives the PixelGraph back, `to_dense()` a plain tensor.

    Example:
        >>> hole = torch.ones(4, 4, dtype=torch.bool)
        >>> hole[1:3, 1:3] = False
        >>> x = PixelGraph.from_image(torch.ones(1, 3, 4, 4), mask=hole).tensor()
        >>> y = torch.nn.Conv2d(3, 2, 3, padding=1)(x).relu()
        >>> y.shape, y.graph.num_nodes
        (torch.Size([1, 2, 4, 4]), 12)
    """

    @property
    def graph(self) -> PixelGraph:
        """The nodes as a PixelGraph; a map without channels has one.

        Raises:
            GraphError: the axes are no image's, (B, C, *size) or (B, *size).
        """
        value = settle(views.read(self))
        if isinstance(value, Spatial):
            if value.is_image():
                return value.graph()
            single = Spatial(
                value.x.unsqueeze(1), value.sites, (value.axes[0], (names.Name("plain", 1),),
                *value.axes[1:]))  # fmt: skip
            if value.x.dim() == 1 and single.is_image():
                return single.graph()
        raise GraphError(
            f"GraphTensor.graph: the axes {names.describe(self.value.axes)} of shape "
            f"{tuple(self.shape)} are no image's (B, C, *size); permute or reshape them back, or "
            "take to_dense()"
        )

    @property
    def sites(self) -> Any:
        """Whose nodes the rows are."""
        return self.value.sites

    def to_dense(self, fill: float = 0.0) -> Tensor:  # type: ignore[override]
        """Return a plain tensor of this shape, `fill` where a site is absent."""
        found: Tensor = views.read(self).tensor(fill)
        return found

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let torch take its own composites apart, and meet each operator below autograd."""
        own = OWN.get(func)
        if own is not None:
            return own(*args, **kwargs) if kwargs else own(*args)
        if type(func) is FunctionType:
            bare = _BARE.get(func)
            if bare is None:
                bare = _BARE.setdefault(func, unasked(func))
            if bare is not func:
                return bare(*args, **kwargs) if kwargs else bare(*args)
        if isinstance(func, HigherOrderOperator):
            raise ConversionError(  # read by a compiler, too
                "an operator that takes functions (flex_attention, torch.cond, a scan) has no rule "
                "for a map; call scaled_dot_product_attention, or write it in Python"
            )
        if kwargs and kwargs.get("requires_grad"):  # which torch would tell the wrapper alone
            return whole(func, args, kwargs | {"requires_grad": False}).requires_grad_()
        return whole(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Meet an operator; past the protocol, as vmap calls it, rows keep their autograd."""
        if _STATE.keys is not None or torch.is_inference_mode_enabled():
            return _met(func, args, kwargs)
        with keys.Guard(keys.included(), keys.excluded() - keys.AUTOGRAD):
            return _met(func, args, kwargs)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        """Say shape, nodes, dtype and device."""
        value = self.value
        grad = ", requires_grad=True" if value.x.requires_grad else ""
        return (
            f"GraphTensor({tuple(self.shape)}, {value.sites.num_nodes} nodes, "
            f"{names.describe(value.axes)}, {value.x.dtype}, {value.x.device}{grad})"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> "GraphTensor":
        """Copy the rows; sites never change."""
        if id(self) not in memo:
            value = views.read(self)
            rows = value.x.detach().clone().requires_grad_(value.x.requires_grad)
            memo[id(self)] = wrapped(value.with_x(rows))
        made: GraphTensor = memo[id(self)]
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle rows, sites and names."""
        value = views.read(self)
        return _rebuilt, (value.x, value.sites, value.axes)

    def __bool__(self) -> bool:
        """Refuse, as torch does for more than one entry."""
        raise ConversionError(
            f"a map of shape {tuple(self.shape)} is asked for its truth; reduce it first, or take "
            "to_dense()"
        )


def whole(func: Any, args: Any, kwargs: Any = None) -> Any:
    """Call a function of torch so that each of its operators arrives whole."""
    outer = _STATE.keys
    _STATE.keys = inside, outside = keys.included(), keys.excluded()
    try:
        with keys.DisableTorchFunction(), keys.Guard(inside, outside | keys.PASSED):
            in_parts = func in _OF_PARTS or isinstance(func, (FunctionType, MethodType))
            if in_parts or keys.modes():
                with _Rules():  # somebody listens to operators, or it may touch parameters
                    return func(*args, **kwargs) if kwargs else func(*args)
            return func(*args, **kwargs) if kwargs else func(*args)
    finally:
        _STATE.keys = outer


_OF_PARTS = (_TENSOR.__getitem__, _TENSOR.__setitem__)
"""Functions of torch's C++ that take views, of ordinary tensors too, before operators meet maps."""

_BARE: dict[Any, Any] = {}

_ASKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
"""What a function of torch's Python asks before it hands itself over."""


def unasked(func: Any) -> Any:
    """Return a function of torch's Python that no longer asks, so that operators come one by one.

    Others than those of `torch.nn.functional` as they are: behind one of them torch's C++ may name
    the function of Python again.
    """
    asked = [name for name in _ASKS if name in func.__globals__]
    if not asked or func.__module__ != "torch.nn.functional":
        return func
    scope = {**func.__globals__, **dict.fromkeys(asked, _nobody)}
    made = FunctionType(func.__code__, scope, func.__name__, func.__defaults__, func.__closure__)
    made.__kwdefaults__ = func.__kwdefaults__
    return made


def _nobody(*_: Any) -> bool:
    return False


class _Rules(keys.Mode):  # type: ignore[misc]
    """Operators that torch's Python calls, those on ordinary tensors included."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _met(func, args, kwargs)


def wrapped(value: Spatial) -> GraphTensor:
    """Return a value as a tensor."""
    x = value.x
    made: GraphTensor = _make(GraphTensor, value.shape, dtype=x.dtype, device=x.device)
    made.value = value
    return made


def _rebuilt(*fields: Any) -> GraphTensor:
    return wrapped(Spatial(*fields))


torch.serialization.add_safe_globals([_rebuilt, names.Name])


DOORS: list[Any] = []
"""What has to be open before the first map is made; see `functions`."""


def from_pixels(graph: PixelGraph) -> GraphTensor:
    """Return a graph as a tensor (B, C, *size); see `PixelGraph.tensor`."""
    for open_door in DOORS:
        open_door()
    try:
        return wrapped(from_graph(graph))
    except NoRuleError:
        raise GraphError(
            f"PixelGraph.tensor: expected images of one size, got {graph.sites.sizes[:3]}; run "
            "them one size at a time"
        ) from None


tensors_by(from_pixels)


def settled_map(one: Any) -> Any:
    """Return a map on the lattice of the image that its axes speak of, any other as it is."""
    if not isinstance(one, GraphTensor):
        return one
    value = views.read(one)
    found = settle(value)
    is_image = isinstance(found, Spatial) and found.is_image()
    return wrapped(found) if is_image and found is not value else one


def leaves(tree: Any) -> Any:
    """Return what is nested in arguments or results, graphs whole, and how it is nested."""
    return pytree.tree_flatten(tree, is_leaf=lambda one: isinstance(one, PixelGraph))


def given(out: Any) -> Any:
    """Return the tensors of values, in nested results."""
    kind = type(out)
    if kind is Spatial:
        return wrapped(out)
    if kind is tuple or kind is list:
        return kind([given(one) for one in out])
    return out


def _values(given: Any) -> list[Any]:
    """The values in nested arguments."""
    found: list[Any] = []
    for one in given:
        kind = type(one)
        if kind is Spatial:
            found.append(one)
        elif kind is list or kind is tuple:
            found += _values(one)
    return found


def _met(func: Any, args: Any, kwargs: Any) -> Any:
    """Compute an operator with the keys as its caller has set them."""
    with keys.Guard(*(_STATE.keys or (keys.included(), keys.excluded()))):
        call = operator(func)
        if keys.is_tracing():
            raise ConversionError(
                f"{call.name} {where()} meets torch.jit.trace, which keeps operators of tensors "
                "and no sites; count operations by torch.utils.flop_counter.FlopCounterMode or by "
                "cg.summary, and export by torch.export"
            )
        if keys.is_autocast():
            args, kwargs = keys.cast(func, args, kwargs, _to)
        onto = args[0].value if call.writes and type(args[0]) is GraphTensor else None
        if onto is not None:
            if call.name == "set_":
                return views.become(*args)
            views.loosen(args[0], call.name)
        taken = [views.contents(one) for one in args]
        named = {key: views.contents(one) for key, one in kwargs.items()} if kwargs else {}
        found = _values(taken)
        if named:
            found += _values(named.values())
        if not found:
            return func(*args, **(kwargs or {}))
        if call.out is not None and named.get(call.out) is not None:
            raise ConversionError(
                f"{call.name} {where()} writes into out=, which maps do not; take what it returns"
            )
        misplaced, call = call.writes and onto is None, call.meant if call.writes else call
        listener = _STATE.listener
        if listener is not None:
            listener.begin(call)
        try:
            if misplaced and getattr(call.rule, "family", None) != "positions":
                raise NoRuleError(INTO_TENSOR)
            if call.rule is None:
                raise NoRuleError(_no_rule(call))
            out = _meaning(call, taken, named, found)
            if misplaced:
                args[0].copy_(out)
                out = args[0]
            if any(one.cut for one in found):
                windows.note(call, taken, named, out)
            reason = None
        except NoRuleError as error:
            reason = error
        except (
            RuntimeError, IndexError, ValueError, TypeError, AttributeError, ZeroDivisionError
        ) as error:  # fmt: skip
            reason = _stopped(call, taken, named, error)
        if reason is not None:
            if (call.rule is None or isinstance(reason, ApartError)) and keys.is_composite(func):
                if listener is not None:
                    listener.dropped()
                return whole(func.decompose, args, kwargs)  # as those that torch makes of it
            out = _on_image(call, taken, named, found, reason)
            if onto is not None and type(out) is Tensor and out.shape == onto.shape:
                out = placed(out, onto.sites, onto.axes)
        if onto is not None:
            views.write(args[0], out, operator(func).name)
            made: Any = args[0]
        else:
            is_view = call.views and type(args[0]) is GraphTensor
            if not is_view and type(out) is Spatial and out.x is getattr(taken[0], "x", None):
                out = replace(out, x=out.x.clone())  # as torch, which gives no view
            made = given(out)
            if is_view:
                made = views.remember(made, args, kwargs, call)
            elif type(made) is GraphTensor and views.is_turned(call, args, kwargs):
                made.turned = True
        if listener is not None:
            listener.end(call, args, kwargs, made, reason)
        return made


def _to(one: Tensor, dtype: torch.dtype) -> Any:
    """A map, or a tensor, in a dtype."""
    if one.dtype == dtype:
        return one
    return whole(_TO, (one,), {"dtype": dtype}) if type(one) is GraphTensor else one.to(dtype)


def _no_rule(call: Operator) -> str:
    """Why an operator has no rule."""
    other = call.name.removesuffix("_")
    found = registry.find(other) if call.writes else None
    if found is None or found.family != "shapes":
        return "it has no rule"
    return f"it gives the map itself another shape; use {other} and take what it returns"


def _meaning(call: Operator, taken: Any, named: Any, found: list[Any]) -> Any:
    """Call a rule; where it needs an image, on lattices that a reshape only spoke of."""
    rule: Any = call.rule
    _meet(found)
    if rule.family in _OF_REALS or call.name in _OF_REALS:
        whole_numbers = not any(one.x.is_floating_point() or one.x.is_complex() for one in found)
        if whole_numbers and (kinds := _kinds(call, taken, named)) not in _TAKEN:
            if said := _refused(call, taken, named, _copied):
                raise said
            _TAKEN.add(kinds)
    own = inner(call, *taken, **named)
    if own is not None:
        return own
    try:
        return rule.call(call, *taken, **named)
    except ApartError:
        raise
    except NoRuleError:
        along = rule.family == "reductions"  # to whom an absent one says nothing, never 0
        moved = None if call.writes or along else settled(taken)
        if moved is None:
            raise
        if not _values(moved):
            if rule.family in _COUNTING:
                raise
            return call.target(*moved, **named)
        out = inner(call, *moved, **named)
        out = rule.call(call, *moved, **named) if out is None else out
        call.travelled("all")
        return out


_OF_REALS = frozenset((
    "norms", "pooling", "products", "resize", "softmax", "log_softmax", "std", "var", "std_mean",
    "var_mean", "im2col", "col2im",
))  # fmt: skip
"""Families, and other operators, that torch mostly refuses for whole numbers."""

_TAKEN: set[Any] = set()
"""Of what kinds torch was seen to take whole numbers."""


def _kinds(call: Operator, taken: Any, named: Any) -> Any:
    """The dtypes of operands and where they are, and what else a call says in words."""

    def kind(one: Any) -> Any:
        if isinstance(one, Tensor):
            return one.dtype, one.device.type
        return one if isinstance(one, torch.dtype) else type(one)

    leaves = pytree.tree_leaves((taken, named))
    return call.target, *(kind(getattr(one, "x", one)) for one in leaves)


_COUNTING = ("norms", "convolution", "pooling", "resize")
"""Families to whom an absent position of a flattened image is more than a 0."""


def _meet(values: list[Any]) -> None:
    """Refuse maps of several spaces: a pixel of one lies nowhere in another.

    Graphs that were made apart, of one mask, are on the same nodes from here on.

    Raises:
        NoRuleError: there are such.
    """
    if all(one.sites is values[0].sites for one in values):
        return
    for number, one in enumerate(values):
        for other in values[:number]:
            one.sites = _joined(one.sites, other.sites)
    sites = [one.sites for one in values if isinstance(one.sites, Sites)]
    maps = [one.space for one in sites if one.size is None or prod(one.size) > 1]
    if any(space != maps[0] for space in maps):
        lie = " and ".join(dict.fromkeys(str(space or "the plane") for space in maps))
        raise NoRuleError(f"maps that lie on {lie} meet")


def _joined(one: Any, other: Any) -> Any:
    """Return the sites of one as those of the other, if these are the same nodes."""
    if isinstance(one, PairSites):
        asking, answering = (
            _joined(getattr(one, side), getattr(other, side, other))
            for side in ("asking", "answering")
        )
        return pair_sites(asking, answering, one.group, one.heard)
    heard = getattr(other, "answering", other)  # of pairs, who is heard
    both = isinstance(one, Sites) and isinstance(heard, Sites)
    return same(heard, one) if both else one


def _stopped(call: Operator, taken: Any, named: Any, error: Exception) -> NoRuleError:
    """Say that a rule broke off; what torch refuses for an image too it says itself."""
    if isinstance(error, (ConvgraphError, torch.OutOfMemoryError)) or "forward AD" in str(error):
        raise error
    if said := _refused(call, taken, named, _copied):
        raise said from None
    words = " ".join(str(error).split())[:200]
    return NoRuleError(f"its rule broke off ({type(error).__name__}: {words})")


def _refused(call: Operator, taken: Any, named: Any, form: Any) -> Exception | None:
    """What torch says against an operator on such forms of its operands."""
    try:
        call.target(*form(taken), **{key: form(one) for key, one in named.items()})
    except Exception as error:  # noqa: BLE001 - whatever torch says of it
        unknown = form is views.blank and isinstance(error, NotImplementedError)
        return None if unknown else error
    return None


def _copied(given: Any) -> Any:
    """Images of their own, into which anybody may write."""
    return pytree.tree_map_only(Tensor, lambda one: one.detach().clone(), dense(given))


def _images(given: Any) -> Any:
    """Images of values, each as it lies; anything else as it is. Elsewhere a value is a tree."""
    return pytree.tree_map_only(
        Spatial, lambda one: one.tensor().contiguous(), given, lambda one: isinstance(one, Spatial)
    )


_BELOW = frozenset((
    "convolution", "_convolution", "native_batch_norm", "native_layer_norm", "native_group_norm",
    "_make_dual", "_unpack_dual", "_fw_primal", "convolution_overrideable",
))  # fmt: skip
"""What torch makes of operators for its own layers, and what opens forward mode."""


def _on_image(call: Operator, taken: Any, named: Any, found: list[Any], reason: Any) -> Any:
    """Run an operator on the images of full grids, and on ordinary tensors themselves.

    Raises:
        ConversionError: there are holes, it is not wanted, or a map would not hear of a write.
    """
    if _values([one for name, one in call.named(*taken, **named).items() if name in call.others]):
        raise ConversionError(
            f"{call.name} {where()} writes into a map that is one of a list, or not the first of "
            "its operands, and would not hear of it; call it for each by itself (foreach=False, "
            "fused=False), or on rows, .graph.x"
        )
    if call.name == "as_strided":
        raise ConversionError(
            f"as_strided {where()} counts numbers in memory, where rows lie otherwise; take "
            "to_dense().contiguous() for a plain tensor"
        )
    if call.name in _BELOW and call.rule is None:
        raise ConversionError(
            f"{call.name} {where()} met a map below torch's protocol: it was made outside of what "
            "torch.func transforms, or is returned by it; make it inside, by "
            "graph.with_x(rows).tensor(), and return rows, .graph.x, or what was reduced"
        ) from None
    if not all(value.sites.is_full for value in found):
        if _refused(call, taken, named, views.blank):
            own = _refused(call, taken, named, _copied)
            if own is not None:
                raise own from None
        spaces = (getattr(value.sites, "space", None) for value in found)
        lattice = next((space for space in spaces if space is not None), "a mask")
        raise ConversionError(
            f"{call.name} {where()} has no meaning on {lattice}: {reason}; call it on images or "
            "full grids, or replace the module"
        ) from None
    if getattr(_STATE.listener, "strict", False):
        raise ConversionError(
            f"{call.name} {where()} has no rule for graphs: {reason}; with strict=False it runs "
            "on the image view of a full grid"
        ) from None
    return call.target(*_images(taken), **_images(named))
