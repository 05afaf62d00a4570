"""Views: whose part a map is, and what is written into one of those that share their numbers.

    o[..., ::2, ::2] = a        scattered into the rows of o, and heard by all of its views

A view keeps the operator that made it and whose it is. Who is read after a write takes its numbers
anew; what torch would not have known as a view, or what is no map, is refused where it would tell.
"""

from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from convgraph.backends.compiled import memory, outermost
from convgraph.convert.frames import where
from convgraph.convert.names import NoRuleError
from convgraph.convert.operators import _STATE, IDLE, Operator, asked, operator
from convgraph.convert.settle import settled
from convgraph.convert.value import Spatial, brought
from convgraph.convert.windows import note
from convgraph.errors import ConversionError


class Map(Tensor):
    """A tensor that holds a value, alone or with others.

    Attributes:
        value: the rows, their sites and the names of the axes.
        base: of a view, whose it is and by which operator.
        copies: parts of it and of its views that are no maps, while somebody may write into them.
        clock: how often it, or a view of it, was written into.
        at: what the clock of the one it is a view of said when its value was read.
        turned: whether torch may have laid its numbers in another order than that of its axes.
        laid: the strides that torch would have given it, once somebody has asked.
    """

    value: Any
    base: Any = None
    copies: Any = ()
    clock: int = 0
    at: int = 0
    turned: bool = False
    laid: Any = None


def blank(given: Any) -> Any:
    """Shapes and dtypes alone."""
    if isinstance(given, Spatial):
        return torch.empty(given.shape, dtype=given.x.dtype, device="meta")
    if isinstance(given, Tensor):
        return given.to("meta")
    return [blank(one) for one in given] if isinstance(given, (list, tuple)) else given


def contents(given: Any) -> Any:
    """The values of tensors, in nested arguments."""
    kind = type(given)
    if isinstance(given, Map):
        return read(given)
    if kind is list or kind is tuple:
        return [contents(one) for one in given]
    return given


_MAY_COPY = frozenset(("reshape", "flatten", "contiguous"))
"""Views that are copies where the numbers lie in another order than that of the axes."""

_TURNS = frozenset(("permute", "transpose", "t", "movedim", "swapaxes", "mT", "unfold"))
"""Views whose numbers lie in another order than their axes; what is made of them may do so too."""

_IN_ORDER = frozenset(("contiguous", "linear", "layer_norm", "matmul", "bmm"))
"""What torch lays in the order of its axes, whatever it is made of."""

_SAME = frozenset(
    ("detach", "alias", "lift_fresh", "positive", "resolve_conj", "resolve_neg", "conj", *IDLE)
)
"""Views that say what their base says, entry by entry."""


def remember(made: Any, args: Any, kwargs: Any, call: Operator) -> Any:
    """Note whose views the results of an operator are; see `_remembered`."""
    if not isinstance(made, (list, tuple)):
        return _remembered(made, args, kwargs, call, 0)
    found = enumerate(made)
    return type(made)(_remembered(one, args, kwargs, call, number) for number, one in found)


def _remembered(view: Any, args: Any, kwargs: Any, call: Operator, number: int) -> Any:
    """Note whose view a result is, or whose part it has copied; what torch copies is a copy."""
    source: Map = args[0]
    if isinstance(view, Map):
        view.turned = is_turned(call, args, kwargs)
        shares = _shares(view, args, kwargs, call, number)
        if shares is not False:
            view.base = (args, kwargs, call, number, shares)
            view.at = root_of(source).clock
        elif _alike(view.value, source.value):
            view.value = replace(view.value, x=view.value.x.clone())
    elif type(view) is Tensor and not torch.compiler.is_compiling():
        shares = _shares(view, args, kwargs, call, number)
        root = root_of(source)
        if _STATE.into is not None and root_of(_STATE.into) is root:
            raise ConversionError(
                f"{call.name} {where()} takes a part of a map that is no map, into which nothing "
                "can be written; write into the map by its own axes"
            )
        if memory(view) == memory(source.value.x):
            if shares is True:
                return view
            view = view.clone()
        if outermost() and shares is not False:
            if view.is_inference():  # nobody would count its writes
                with torch.inference_mode(False):
                    view = view.clone()
            kept = (one for one in root.copies if one.matters)
            root.copies = (*kept, _Copy(view, call.name))
    return view


def is_turned(call: Operator, args: Any, kwargs: Any) -> bool:
    """Whether the numbers of a result may lie in another order than its axes."""
    if kwargs and kwargs.get("memory_format") in (torch.channels_last, torch.channels_last_3d):
        return True
    return call.name not in _IN_ORDER and (call.name in _TURNS or any(map(_lies_turned, args)))


def _lies_turned(given: Any) -> bool:
    kind = type(given)
    if isinstance(given, Map):
        return bool(given.turned)
    return any(map(_lies_turned, given)) if kind is list or kind is tuple else False


def _strides(one: Map) -> tuple[int, ...]:
    """How torch would lay this map; with gaps, where that is not known."""
    if one.laid is None and one.base is not None:
        with suppress(RuntimeError):  # a view of what is laid otherwise than gaps are
            one.laid = _followed(*one.base[:4])[0]
    if one.laid is None:
        blank = torch.empty([n + one.turned for n in one.shape], device="meta")
        one.laid = blank.stride()
    found: tuple[int, ...] = one.laid
    return found


def _followed(args: Any, kwargs: Any, call: Operator, number: int) -> tuple[tuple[int, ...], bool]:
    """How torch would lay what an operator makes of a map, and whether as a view."""
    source, *more = args
    strides = _strides(source)
    if call.name in _SAME:  # what rows have told, whatever dtype or device was asked for
        return strides, True
    if any(isinstance(one, Tensor) for one in more):
        found = asked(call.target, source.shape, strides, blank(contents(more)), ())
    else:
        found = call.laid(tuple(source.shape), strides, more, kwargs or {})
    one: tuple[tuple[int, ...], bool] = found[number][1:]
    return one


def _shares(view: Any, args: Any, kwargs: Any, call: Operator, number: int) -> bool | None:
    """Whether torch would have given a view of a map; None where that is not known."""
    source: Map = args[0]
    if call.name in _SAME:
        return isinstance(view, Map) and _alike(view.value, source.value)
    if call.name not in _MAY_COPY or (source.base is None and not source.turned):
        return True
    if _followed(args, kwargs, call, number)[1]:
        return True
    return None if root_of(source).turned else False


class _Copy:
    """Whether a tensor has been written into; its numbers are not kept."""

    __slots__ = ("before", "counter", "kept", "name")

    def __init__(self, made: Tensor, name: str) -> None:
        self.name, self.before = name, made._version
        self.kept = StorageWeakRef(made.untyped_storage())
        self.counter = made.detach()  # counts the writes into both, whatever it holds
        self.counter.data = made.new_empty(0)

    @property
    def written(self) -> bool:
        return self.counter._version != self.before

    @property
    def matters(self) -> bool:
        """Whether it has been written into, or still can be."""
        return self.written or not self.kept.expired()


def root_of(one: Map) -> Map:
    """Return the map that a view, or a view of a view, is a part of; any other is its own."""
    while one.base is not None:
        one = one.base[0][0]
    return one


def read(one: Map) -> Any:
    """The value of a map, with what was written into those whose view it is.

    Raises:
        ConversionError: a part of it was written into, as a tensor of its own.
    """
    root = one if one.base is None else root_of(one)
    if one.at != root.clock:
        _refresh(one)
        root = root_of(one)
    for copy in root.copies:
        if copy.written:
            raise ConversionError(
                f"a map of shape {tuple(one.shape)} is read {where()}, but {copy.name} gave a part "
                "of it as a tensor of its own that was written into since, which no map hears; "
                "write into the map by its own axes, or into a clone of the part"
            )
    return one.value


def _refresh(view: Map) -> None:
    """Take over what was written into whose view this is."""
    if view.base is None:
        view.at = view.clock
        return
    args, kwargs, call, number, sure = view.base
    if sure is None:
        raise ConversionError(
            f"a map of shape {tuple(view.shape)} is read {where()}, which {call.name} made of one "
            "that was written into since; torch's own may be a view or a copy: say which by "
            "view() or by clone()"
        )
    value = read(args[0])
    if not _alike(value, view.value):
        view.value = _again(value, args, kwargs, call, number)
    view.at = root_of(view).clock
    listener = _STATE.listener
    if listener is not None:  # it has heard of the view as it was
        listener.again(call, args, kwargs, view, number)


def _alike(one: Spatial, other: Spatial) -> bool:
    """Whether the numbers of two values lie at one place."""
    return memory(one.x) == memory(other.x)


def as_view(one: Map, source: Map, call: Operator) -> None:
    """Note that a map says what another says."""
    one.base, one.at = ((source,), {}, call, 0, True), root_of(source).clock


def become(one: Map, source: Any = None, *more: Any) -> Map:
    """Be the same as another map; without one torch gives memory back, and rows are nobody's."""
    if source is None:
        return one
    if not isinstance(source, Map) or more or source.shape != one.shape:
        raise ConversionError("set_: a map becomes what is no map of its shape; make a new one")
    one.value, one.turned, one.copies = read(source), source.turned, ()
    as_view(one, source, operator(torch.ops.aten.alias.default))
    return one


def _again(value: Any, args: Any, kwargs: Any, call: Operator, number: int) -> Any:
    """What a view's operator says of another value of its base; who listens has heard it once."""
    if call.name in _SAME:
        return value.with_x(value.x.detach()) if call.name == "detach" else value
    listener, _STATE.listener = _STATE.listener, None
    try:
        taken = [value, *map(contents, args[1:])]
        try:
            found = call.rule.call(call, *taken, **(kwargs or {}))
        except NoRuleError:
            taken = settled(taken) or taken  # as it was the first time
            found = call.rule.call(call, *taken, **(kwargs or {}))
        if value.cut:
            note(call, taken, kwargs or {}, found)
    finally:
        _STATE.listener = listener
    return found[number] if isinstance(found, (list, tuple)) else found


def loosen(target: Map, name: str) -> None:
    """Before a write: what may be a copy becomes one, and whoever reads its base is told.

    Raises:
        RuntimeError: the gradient of what is written into is asked; torch's own words.
    """
    one, is_hidden = target, name == "detach_"
    while one.base is not None:
        args, _, call, _, sure = one.base
        is_hidden = is_hidden or call.name == "detach"
        if sure is None:
            root = root_of(one)
            unsure = SimpleNamespace(name=call.name, written=True, matters=True)
            root.copies = (*root.copies, unsure)
            one.value, one.base = replace(one.value, x=one.value.x.clone()), None
            one.clock += 1
            one.at = one.clock
            return
        one = args[0]
    rows = one.value.x
    if rows.is_leaf and rows.requires_grad and torch.is_grad_enabled() and not is_hidden:
        raise RuntimeError(
            "a leaf Variable that requires grad is being used in an in-place operation."
        )


def write(target: Map, out: Any, name: str) -> None:
    """Give a tensor, and whoever it is a view of, a new value."""
    links: list[Any] = []
    root = target
    while root.base is not None:
        links.append(root.base[:4])
        root = root.base[0][0]
    if not isinstance(out, Spatial) or out.shape != target.value.shape:
        raise ConversionError(
            f"{name} {where()} writes into a map of shape {tuple(target.shape)} what is none of "
            "this shape; use the operator without the underscore"
        )
    if out.x.dtype != target.value.x.dtype:  # of what is made anew, as sums of whole numbers are
        out = out.with_x(out.x.to(target.value.x.dtype))
    root.copies = tuple(copy for copy in root.copies if copy.matters)
    for one in root.copies:
        if not one.written:
            raise ConversionError(
                f"{name} {where()} writes into a map of shape {tuple(root.shape)}, of which "
                f"{one.name} gave a part as a tensor of its own, which would not hear of it; write "
                "into the map before, or take a clone of the part"
            )
    target.value = out
    if root is not target and not _alike(out, root.value):
        _scatter(root, out, links[::-1], name)
    root.clock += 1
    target.at = root.clock


def _scatter(root: Map, out: Any, links: list[Any], name: str) -> None:
    """Write what a view says into the rows of its root."""
    old = root.value
    places = torch.arange(1, old.x.numel() + 1, device=old.x.device).view(old.x.shape)
    view: Any = old.with_x(places)
    for link in links:
        view = _again(view, *link)
    if getattr(out.sites, "size", None) != getattr(view.sites, "size", None):
        raise ConversionError(
            f"{name} {where()} writes a map into a part of one that has other pixels along its "
            "axes; use the operator without the underscore, and put the whole together anew"
        )
    new = out.x if out.sites is view.sites else brought(out, view.sites)
    number, rows, new = view.x.reshape(-1), old.x, new.reshape(-1).to(old.x.dtype)
    hidden = any(link[2].name == "detach" for link in links)
    if hidden:
        rows, new = rows.detach(), new.detach()
    if outermost() and not torch.compiler.is_compiling() and rows.is_contiguous():
        there = number > 0
        rows.view(-1).index_copy_(0, number[there] - 1, new[there])
    else:  # an absent one writes before all others, so that no size hangs on numbers
        flat = torch.cat([rows.new_zeros(1), rows.reshape(-1)]).index_copy(0, number, new)
        root.value = old.with_x(flat[1:].view(rows.shape))
