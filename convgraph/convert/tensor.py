"""A tensor whose pixels are nodes: any torch code runs on it, and computes on the nodes alone.

    x = graph.tensor()      (B, C, *size) to whoever asks, rows (N, C) in truth; nothing is copied
    y = cnn(x)              a network of torch, untouched
    y.graph                 a PixelGraph again

Each operator arrives whole and its rule (see `convgraph.convert.rules`) says what it means on rows,
whose autograd is torch's own. An operator without a rule is taken apart where torch can; on a full
grid it runs on the image; on a mask it raises.
"""

import threading
from functools import lru_cache
from math import prod
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from convgraph.backends.compiled import memory, outermost
from convgraph.convert import keys, names, registry, rules, scores, tokens
from convgraph.convert.frames import where
from convgraph.convert.inner import inner
from convgraph.convert.names import NoRuleError
from convgraph.convert.scores import Scores
from convgraph.convert.settle import settle, settled
from convgraph.convert.tokens import Tokens
from convgraph.convert.value import Spatial, brought, from_graph, lift
from convgraph.errors import ConversionError, ConvgraphError, GraphError
from convgraph.graph.pixel_graph import PixelGraph, tensors_by
from convgraph.graph.sites import Sites

_VALUES = (Spatial, Tokens, Scores)
"""What a tensor may hold."""

REGISTERED = rules.FAMILIES
"""The families of rules; importing them registers them."""

_make = torch.Tensor._make_wrapper_subclass


class GraphTensor(Tensor):
    """A torch.Tensor of shape (B, C, *size), or of any shape made of it, that holds nodes only.

    Get one from `PixelGraph.tensor()`. Shape, dtype, device and gradients are a tensor's; what is
    absent is computed by nobody. `graph` gives the PixelGraph back, `to_dense()` a plain tensor.

    Attributes:
        value: the rows, their sites and the names of the axes.
        base: of a view, whose it is and by which operator.
        copies: parts of it and of its views that are no maps, while somebody may write into them.
        clock: how often it, or a view of it, was written into.
        at: what the clock of the one it is a view of said when its value was read.
        turned: whether torch may have laid its numbers in another order than that of its axes.
        laid: the strides that torch would have given it, once somebody has asked.

    Example:
        >>> hole = torch.ones(4, 4, dtype=torch.bool)
        >>> hole[1:3, 1:3] = False
        >>> x = PixelGraph.from_image(torch.ones(1, 3, 4, 4), mask=hole).tensor()
        >>> y = torch.nn.Conv2d(3, 2, 3, padding=1)(x).relu()
        >>> y.shape, y.graph.num_nodes
        (torch.Size([1, 2, 4, 4]), 12)
    """

    value: Spatial
    base: Any = None
    copies: Any = ()
    clock: int = 0
    at: int = 0
    turned: bool = False
    laid: Any = None

    @property
    def graph(self) -> PixelGraph:
        """The nodes as a PixelGraph; a map without channels has one.

        Raises:
            GraphError: the axes are no image's, (B, C, *size) or (B, *size).
        """
        value = settle(_read(self))
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
        found: Tensor = _read(self).tensor(fill)
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
                bare = _BARE.setdefault(func, _bare(func))
            if bare is not func:
                return bare(*args, **kwargs) if kwargs else bare(*args)
        return _whole(func, args, kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Meet an operator."""
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
            value = _read(self)
            rows = [x.detach().clone().requires_grad_(x.requires_grad) for x in parts(value)]
            memo[id(self)] = wrapped(remade(value, rows))
        made: GraphTensor = memo[id(self)]
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle rows, sites and names; of tokens, piece by piece."""
        value: Any = _read(self)
        if isinstance(value, Scores):
            raise ConversionError("who hears whom is pickled as a plain tensor: take to_dense()")
        pieces = value.pieces if isinstance(value, Tokens) else (value,)
        flat = [(p.x, p.sites, p.axes) if isinstance(p, Spatial) else p for p in pieces]
        beside = (value.dim, value.before) if isinstance(value, Tokens) else None
        return _rebuilt, (flat, beside)

    def __bool__(self) -> bool:
        """Refuse, as torch does for more than one entry."""
        raise ConversionError(
            f"a map of shape {tuple(self.shape)} is asked for its truth; reduce it first, or take "
            "to_dense()"
        )


def _whole(func: Any, args: Any, kwargs: Any = None) -> Any:
    """Call a function of torch so that each of its operators arrives whole."""
    outer = _STATE.keys
    _STATE.keys = inside, outside = keys.included(), keys.excluded()
    try:
        with keys.DisableTorchFunction(), keys.Guard(inside, outside | keys.PASSED):
            if keys.modes() or isinstance(func, (FunctionType, MethodType)):
                with _Rules():  # somebody listens to operators, or it may touch parameters
                    return func(*args, **kwargs) if kwargs else func(*args)
            return func(*args, **kwargs) if kwargs else func(*args)
    finally:
        _STATE.keys = outer


_BARE: dict[Any, Any] = {}

_ASKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
"""What a function of torch's Python asks before it hands itself over."""


def _bare(func: Any) -> Any:
    """A function of torch's Python that no longer asks, so that its operators come one by one.

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


class _State(threading.local):
    """The dispatch keys as the caller of the operator in progress has set them; who else matters.

    Attributes:
        keys: those keys.
        listener: who records what is run.
        into: the map that is being written into by indices.
    """

    keys: Any = None
    listener: Any = None
    into: Any = None


_STATE = _State()


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


def parts(value: Any) -> list[Tensor]:
    """Return the tensors of a value: its rows, and of tokens the readouts beside them."""
    if isinstance(value, Tokens):
        return [one.x if isinstance(one, Spatial) else one for one in value.pieces]
    return [value.x]


def remade(value: Any, tensors: Any) -> Any:
    """Return a value of other tensors of the same shapes; see `parts`."""
    if isinstance(value, Tokens):
        return value.with_pieces(
            [
                one.with_x(x) if isinstance(one, Spatial) else x
                for one, x in zip(value.pieces, tensors, strict=True)
            ]
        )
    (x,) = tensors
    return value.with_x(x)


def _rebuilt(flat: Any, beside: Any) -> GraphTensor:
    pieces = tuple(Spatial(*one) if isinstance(one, tuple) else one for one in flat)
    value: Any = pieces[0] if beside is None else Tokens(pieces, *beside)
    return wrapped(value)


torch.serialization.add_safe_globals([_rebuilt, names.Name])


HOOKS: list[Any] = []
"""Who gives the backward node of a map, and who opens the door for Functions: `functions` says."""


def from_pixels(graph: PixelGraph) -> GraphTensor:
    """Return a graph as a tensor (B, C, *size); see `PixelGraph.tensor`."""
    HOOKS[1]()
    try:
        return wrapped(from_graph(graph))
    except NoRuleError:
        raise GraphError(
            f"PixelGraph.tensor: expected images of one size, got {graph.sites.sizes[:3]}; run "
            "them one size at a time"
        ) from None


tensors_by(from_pixels)


# Operators


class Operator:
    """One of torch's operators, as a rule is given it.

    Attributes:
        target: what to call on ordinary tensors.
        name: that rules are registered under.
        out: the argument into which its result is to be written, None where there is none.
        writes: whether it writes into its first operand.
        views: whether its result shares memory with its first operand.
    """

    __slots__ = ("name", "out", "target", "views", "writes")

    def __init__(self, target: Any) -> None:
        """Read what the operator says of itself."""
        self.target = target
        self.name = str(target._schema.name).removeprefix("aten::")
        first = target._schema.arguments[0] if target._schema.arguments else None
        alias = getattr(first, "alias_info", None)
        self.writes = alias is not None and alias.is_write
        written = [one.name for one in target._schema.arguments if one.is_out]
        self.out = written[0] if written else None
        self.views = (alias is not None and not alias.is_write) or self.name in _IDLE

    @property
    def rule(self) -> Any:
        """Its rule, or None."""
        return registry.find(self.name)

    @property
    def listening(self) -> bool:
        """Whether somebody asks how far values travel."""
        return _STATE.listener is not None

    def travelled(self, how: Any) -> None:
        """Note along which edges (or picked rows) the values came."""
        if _STATE.listener is not None:
            _STATE.listener.moved = how


_IDLE = (
    "dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "type_as", "to",
    "float", "double", "half", "bfloat16",
)  # fmt: skip
"""What gives the very tensor that it was given, where there is nothing to do."""

_MAY_COPY = frozenset(("reshape", "flatten", "contiguous", "reshape_as"))
"""Views that are copies where the numbers lie in another order than that of the axes."""

_TURNS = frozenset(
    ("permute", "transpose", "t", "movedim", "swapaxes", "adjoint", "mT", "numpy_T", "unfold")
)
"""Views whose numbers lie in another order than their axes; what is made of them may do so too."""

_IN_ORDER = frozenset(("contiguous", "linear", "layer_norm", "matmul", "bmm"))
"""What torch lays in the order of its axes, whatever it is made of."""

_SAME = frozenset(
    ("detach", "alias", "lift_fresh", "positive", "resolve_conj", "resolve_neg", "conj", *_IDLE)
)
"""Views that say what their base says, entry by entry."""

_ALIAS, _DETACH = Operator(torch.ops.aten.alias.default), Operator(torch.ops.aten.detach.default)
_CONTIGUOUS = torch.ops.aten.contiguous.default

_OPERATORS: dict[Any, Operator] = {}


def operator(target: Any) -> Operator:
    """Return the one record of an operator."""
    found = _OPERATORS.get(target)
    if found is None:
        found = _OPERATORS.setdefault(target, Operator(target))
    return found


def _taken(given: Any) -> Any:
    """The values of tensors, in nested arguments."""
    kind = type(given)
    if kind is GraphTensor:
        return _read(given)
    if kind is list or kind is tuple:
        return [_taken(one) for one in given]
    return given


def _given(out: Any) -> Any:
    """The tensors of values, in nested results."""
    kind = type(out)
    if kind in _VALUES:
        return wrapped(out)
    if kind is tuple or kind is list:
        return kind([_given(one) for one in out])
    return out


def _has_value(given: Any) -> bool:
    kind = type(given)
    if kind is list or kind is tuple:
        return any(map(_has_value, given))
    return kind in _VALUES


def _has_tokens(given: Any) -> bool:
    kind = type(given)
    if kind is list or kind is tuple:
        return any(map(_has_tokens, given))
    return kind is Tokens or kind is Scores


def _met(func: Any, args: Any, kwargs: Any) -> Any:
    """Compute an operator with the keys as its caller has set them."""
    with keys.Guard(*(_STATE.keys or (keys.included(), keys.excluded()))):
        call = operator(func)
        if call.writes and type(args[0]) is GraphTensor:
            if call.name == "set_":
                return _become(*args)
            _loosen(args[0])
        taken = [_taken(one) for one in args]
        named = {key: _taken(one) for key, one in kwargs.items()} if kwargs else {}
        if not any(map(_has_value, taken)) and not any(map(_has_value, named.values())):
            return func(*args, **(kwargs or {}))
        if call.out is not None and named.get(call.out) is not None:
            raise ConversionError(
                f"{call.name} {where()} writes into out=, which maps do not; take what it returns"
            )
        listener = _STATE.listener
        if listener is not None:
            listener.begin(call)
        try:
            if call.rule is None:
                raise NoRuleError(_no_rule(call))
            out = _meaning(call, taken, named)
            reason = None
        except NoRuleError as error:
            reason = error
        except (RuntimeError, IndexError, ValueError, TypeError, AttributeError) as error:
            reason = _stopped(call, taken, named, error)
        if reason is not None:
            if call.rule is None and keys.is_composite(func):
                if listener is not None:
                    listener.dropped()
                return _whole(func.decompose, args, kwargs)  # as those that torch makes of it
            out = _on_image(call, taken, named, reason)
            if call.writes and type(out) is Tensor and type(args[0]) is GraphTensor:
                out = _on_nodes(out, taken[0])
        if call.writes and type(args[0]) is GraphTensor:
            _write(args[0], out, call.name)
            made: Any = args[0]
        else:
            views = call.views and type(args[0]) is GraphTensor
            if not views and type(out) is Spatial and out.x is getattr(taken[0], "x", None):
                out = out.with_x(out.x.clone())  # as torch, which gives no view
            made = _given(out)
            if views:
                if type(made) in (list, tuple):
                    made = type(made)(
                        _remember(one, args, kwargs, call, number)
                        for number, one in enumerate(made)
                    )
                else:
                    made = _remember(made, args, kwargs, call, 0)
            elif type(made) is GraphTensor and _is_turned(call, args, kwargs):
                made.turned = True
        if listener is not None:
            listener.end(call, args, kwargs, made, reason)
        return made


def _no_rule(call: Operator) -> str:
    """Why an operator has no rule."""
    other = call.name.removesuffix("_")
    found = registry.find(other) if call.writes else None
    if found is None or found.family != "shapes":
        return "it has no rule"
    return f"it gives the map itself another shape; use {other} and take what it returns"


def _on_nodes(out: Tensor, like: Any) -> Any:
    """What was written into the image of a full grid, as its rows."""
    if type(like) is not Spatial or out.shape != like.shape:
        return out
    return like.with_x(lift(out, like.axes, like.sites).reshape(like.x.shape))


def _meaning(call: Operator, taken: list[Any], named: dict[str, Any]) -> Any:
    """Call a rule; where it needs an image, on lattices that a reshape only spoke of."""
    rule: Any = call.rule
    _meet(_values([taken, list(named.values())]))
    if any(map(_has_tokens, taken)):
        by_scores = call.name in ("matmul", "bmm", "baddbmm", "einsum") or any(
            type(one) is Scores for one in taken
        )
        return (scores if by_scores else tokens).meaning(call, taken, named)
    try:
        return rule.call(call, *taken, **named)
    except NoRuleError:
        found = inner(call, *taken, **named)
        if found is not None:
            return found
        moved = None if call.writes else settled(taken)
        if moved is None:
            raise
        if not any(map(_has_value, moved)):
            return call.target(*moved, **named)
        out = rule.call(call, *moved, **named)
        call.travelled("all")
        return out


def _meet(values: list[Any]) -> None:
    """Refuse maps of several spaces: a pixel of one lies nowhere in another.

    Raises:
        NoRuleError: there are such.
    """
    if len(values) < 2:
        return
    sites = [one.sites for one in values if isinstance(one.sites, Sites)]
    maps = [one.space for one in sites if one.size is None or prod(one.size) > 1]
    if any(space != maps[0] for space in maps):
        lie = " and ".join(dict.fromkeys(str(space or "the plane") for space in maps))
        raise NoRuleError(f"maps that lie on {lie} meet")


def _stopped(call: Operator, taken: Any, named: Any, error: Exception) -> NoRuleError:
    """Say that a rule broke off; what torch refuses for an image too is raised as it is."""
    if isinstance(error, (ConvgraphError, torch.OutOfMemoryError)) or "forward AD" in str(error):
        raise error
    try:
        call.target(*_blank(taken), **{key: _blank(one) for key, one in named.items()})
    except NotImplementedError:
        pass
    except Exception:  # noqa: BLE001 - whatever torch says of it
        raise error from None
    said = " ".join(str(error).split())[:200]
    return NoRuleError(f"its rule broke off ({type(error).__name__}: {said})")


def _blank(given: Any) -> Any:
    """Shapes and dtypes alone."""
    if isinstance(given, _VALUES):
        return torch.empty(given.shape, dtype=given.x.dtype, device="meta")
    if isinstance(given, Tensor):
        return given.to("meta")
    return [_blank(one) for one in given] if isinstance(given, (list, tuple)) else given


_BELOW = frozenset(
    (
        "convolution",
        "_convolution",
        "native_batch_norm",
        "native_layer_norm",
        "native_group_norm",
        "_make_dual",
        "_unpack_dual",
        "convolution_overrideable",
        "addmm",
        "mm",
    )
)
"""What torch makes of operators for its own layers, and what opens forward mode."""


def _on_image(call: Operator, taken: Any, named: Any, reason: NoRuleError) -> Any:
    """Run an operator on the images of full grids.

    Raises:
        ConversionError: there are holes, or it is not wanted.
    """
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
    if not all(value.sites.is_full for value in _values([taken, list(named.values())])):
        raise ConversionError(
            f"{call.name} {where()} has no meaning on {_where_not(taken, named)}: {reason}; call "
            "it on images or full grids, or replace the module"
        ) from None
    if getattr(_STATE.listener, "strict", False):
        raise ConversionError(
            f"{call.name} {where()} has no rule for graphs: {reason}; with strict=False it runs "
            "on the image view of a full grid"
        ) from None
    return call.target(*_dense(taken), **{key: _dense(one) for key, one in named.items()})


def _where_not(taken: Any, named: Any) -> Any:
    """What a map lies on that is no full grid."""
    spaces = [getattr(v.sites, "space", None) for v in _values([taken, list(named.values())])]
    return next((space for space in spaces if space is not None), "a mask")


def _values(given: Any) -> list[Spatial]:
    if isinstance(given, _VALUES):
        return [given]  # type: ignore[list-item]
    return [v for one in given for v in _values(one)] if isinstance(given, (list, tuple)) else []


def _dense(given: Any) -> Any:
    if isinstance(given, _VALUES):
        return given.tensor()
    return [_dense(one) for one in given] if isinstance(given, list) else given


# Views and what is written into them


def _remember(view: Any, args: Any, kwargs: Any, call: Operator, number: int) -> Any:
    """Note whose view a result is, or whose part it has copied; what torch copies is a copy."""
    source: GraphTensor = args[0]
    if type(view) is GraphTensor:
        view.turned = _is_turned(call, args, kwargs)
        shares = _shares(view, args, kwargs, call, number)
        if shares is not False:
            view.base = (args, kwargs, call, number, shares)
            view.at = _root(source).clock
        elif memories(view.value) & memories(source.value):
            view.value = _cloned(view.value)
    elif type(view) is Tensor and not torch.compiler.is_compiling():
        shares = _shares(view, args, kwargs, call, number)
        if memory(view) in memories(source.value):
            if shares is True:
                return view
            view = view.clone()
        root = _root(source)
        if _STATE.into is not None and _root(_STATE.into) is root:
            raise ConversionError(
                f"{call.name} {where()} takes a part of a map that is no map, into which nothing "
                "can be written; write into the map by its own axes"
            )
        if outermost() and shares is not False:
            if view.is_inference():  # nobody would count its writes
                with torch.inference_mode(False):
                    view = view.clone()
            kept = (one for one in root.copies if one.matters)
            root.copies = (*kept, _Copy(view, call.name))
    return view


def _cloned(value: Any) -> Any:
    return remade(value, [x.clone() for x in parts(value)])


def _is_turned(call: Operator, args: Any, kwargs: Any) -> bool:
    """Whether the numbers of a result may lie in another order than its axes."""
    if kwargs and kwargs.get("memory_format") in (torch.channels_last, torch.channels_last_3d):
        return True
    return call.name not in _IN_ORDER and (call.name in _TURNS or any(map(_lies_turned, args)))


def _lies_turned(given: Any) -> bool:
    kind = type(given)
    if kind is GraphTensor:
        return bool(given.turned)
    return any(map(_lies_turned, given)) if kind is list or kind is tuple else False


def _strides(one: GraphTensor) -> tuple[int, ...]:
    """How torch would lay this map; with gaps, where that is not known."""
    if one.laid is None:
        if one.base is not None:
            one.laid = _followed(*one.base[:4])[0]
        else:
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
        found = _blanks.__wrapped__(call.target, source.shape, strides, _blank(_taken(more)), ())
    else:
        given = tuple(tuple(one) if isinstance(one, list) else one for one in more)
        named = tuple((kwargs or {}).items())
        found = _blanks(call.target, tuple(source.shape), strides, given, named)
    one: tuple[tuple[int, ...], bool] = found[number]
    return one


@lru_cache(maxsize=4096)
def _blanks(target: Any, shape: Any, strides: Any, args: Any, kwargs: Any) -> Any:
    blank = torch.empty_strided(shape, strides, device="meta")
    made = target(blank, *args, **dict(kwargs))
    kept = blank.untyped_storage()._cdata
    return [
        (one.stride(), one.untyped_storage()._cdata == kept)
        for one in (made if isinstance(made, (list, tuple)) else (made,))
    ]


def _shares(view: Any, args: Any, kwargs: Any, call: Operator, number: int) -> bool | None:
    """Whether torch would have given a view of a map; None where that is not known."""
    source: GraphTensor = args[0]
    if call.name in _SAME:
        return type(view) is GraphTensor and bool(memories(view.value) & memories(source.value))
    if call.name not in _MAY_COPY or (source.base is None and not source.turned):
        return True
    if _followed(args, kwargs, call, number)[1]:
        return True
    return None if _root(source).turned else False


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


class _Unsure:
    """A write into what torch may have made a view of a map, or a copy."""

    written = matters = True

    def __init__(self, name: str) -> None:
        self.name = name


def _root(one: GraphTensor) -> GraphTensor:
    while one.base is not None:
        one = one.base[0][0]
    return one


def _read(one: GraphTensor) -> Any:
    """The value of a map, with what was written into those whose view it is.

    Raises:
        ConversionError: a part of it was written into, as a tensor of its own.
    """
    root = one if one.base is None else _root(one)
    if one.at != root.clock:
        _refresh(one)
        root = _root(one)
    for copy in root.copies:
        if copy.written:
            raise ConversionError(
                f"a map of shape {tuple(one.shape)} is read {where()}, but {copy.name} gave a part "
                "of it as a tensor of its own that was written into since, which no map hears; "
                "write into the map by its own axes, or into a clone of the part"
            )
    return one.value


def _refresh(view: GraphTensor) -> None:
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
    value = _read(args[0])
    if not memories(value) & memories(view.value):
        view.value = _again(value, args, kwargs, call, number)
    view.at = _root(view).clock


def memories(value: Any) -> set[int]:
    """Where the numbers of a value lie."""
    return set(map(memory, parts(value)))


def _again(value: Any, args: Any, kwargs: Any, call: Operator, number: int) -> Any:
    """What a view's operator says of another value of its base."""
    if call.name in _SAME:
        return value.with_x(value.x.detach()) if call.name == "detach" else value
    found = call.rule.call(call, value, *map(_taken, args[1:]), **(kwargs or {}))
    return found[number] if isinstance(found, (list, tuple)) else found


def _loosen(target: GraphTensor) -> None:
    """Before a write: what may be a copy becomes one, and whoever reads its base is told."""
    one = target
    while one.base is not None:
        args, _, call, _, sure = one.base
        if sure is None:
            root = _root(one)
            root.copies = (*root.copies, _Unsure(call.name))
            one.value, one.base = _cloned(one.value), None
            one.clock += 1
            one.at = one.clock
            return
        one = args[0]


def _write(target: GraphTensor, out: Any, name: str) -> None:
    """Give a tensor, and whoever it is a view of, a new value."""
    links: list[Any] = []
    root = target
    while root.base is not None:
        links.append(root.base[:4])
        root = root.base[0][0]
    if not isinstance(out, _VALUES) or out.shape != target.value.shape:
        raise ConversionError(
            f"{name} {where()} writes into a map of shape {tuple(target.shape)} what is none of "
            "this shape; use the operator without the underscore"
        )
    root.copies = tuple(copy for copy in root.copies if copy.matters)
    for one in root.copies:
        if not one.written:
            raise ConversionError(
                f"{name} {where()} writes into a map of shape {tuple(root.shape)}, of which "
                f"{one.name} gave a part as a tensor of its own, which would not hear of it; write "
                "into the map before, or take a clone of the part"
            )
    target.value = out  # type: ignore[assignment]
    if root is not target and not memories(out) & memories(root.value):
        _scatter(root, out, links[::-1], name)
    root.clock += 1
    target.at = root.clock


def _scatter(root: GraphTensor, out: Any, links: list[Any], name: str) -> None:
    """Write what a view says into the rows of its root."""
    old = root.value
    if not isinstance(old, Spatial) or not isinstance(out, Spatial):
        raise ConversionError(f"{name} {where()} writes into a part of tokens; write into them all")
    places = torch.arange(1, old.x.numel() + 1, device=old.x.device).view(old.x.shape)
    view: Any = old.with_x(places)
    for link in links:
        view = _again(view, *link)
    new = out.x if out.sites is view.sites else brought(out, view.sites)
    number = view.x.reshape(-1)
    there = number > 0
    new = new.reshape(-1)[there].to(old.x.dtype)
    rows, at = old.x, number[there] - 1
    hidden = any(link[2].name == "detach" for link in links)
    if hidden:
        rows, new = rows.detach(), new.detach()
    if outermost() and not torch.compiler.is_compiling() and rows.is_contiguous():
        rows.view(-1).index_copy_(0, at, new)
    else:
        root.value = old.with_x(rows.reshape(-1).index_copy(0, at, new).view(rows.shape))


# What a tensor answers without an operator


def _plainly(func: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        with keys.DisableTorchFunction():
            return func(*args, **kwargs)

    return call


def _by_rows(func: Any) -> Any:
    return lambda self, *args: func(self.value.x, *args)


def _by_all(func: Any, joined: Any) -> Any:
    return lambda self, *args: joined([func(x, *args) for x in parts(self.value)])


def _returning(func: Any) -> Any:
    def call(self: GraphTensor, *args: Any) -> GraphTensor:
        for x in parts(self.value):
            func(x, *args)
        return self

    return call


def rows(given: Any, like: Spatial) -> Any:
    """Return what is said of a value as rows like its own."""
    if isinstance(given, GraphTensor):
        from_other = given.value
        if from_other.axes != like.axes or from_other.sites is not like.sites:
            raise ConversionError("a gradient of other axes or sites than its tensor's")
        return from_other.x
    if isinstance(given, Tensor) and given.dim():
        return lift(given, like.axes, like.sites).expand(like.x.shape)
    return given


def _sent(given: Any, like: Any) -> list[Any]:
    """What is said of a value, as tensors like its own; see `parts`."""
    if not isinstance(like, Tokens) or given is None:
        return [rows(given, like)] if given is not None else [None] * len(parts(like))
    if isinstance(given, GraphTensor):
        other: Any = given.value
        alike = isinstance(other, Tokens) and other.sites is like.sites
        if not alike or (other.axes, other.dim, other.lengths) != (
            like.axes, like.dim, like.lengths
        ):  # fmt: skip
            raise ConversionError("a gradient of other tokens or sites than its tensor's")
        return parts(other)
    apart = given.unflatten(like.dim, (like.before, -1)).split(like.lengths, like.dim + 1)
    return [
        rows(one.flatten(like.dim, like.dim + 1), piece) if isinstance(piece, Spatial)
        else one.flatten(like.dim, like.dim + 1)
        for one, piece in zip(apart, like.pieces, strict=True)
    ]  # fmt: skip


def _listed(given: Any) -> list[Any]:
    return [given] if isinstance(given, Tensor) else list(given)


def _plain(tensors: Any) -> list[Tensor]:
    """Tensors of both kinds as those that autograd knows."""
    found: list[Tensor] = []
    for one in _listed(tensors):
        found += parts(one.value) if isinstance(one, GraphTensor) else [one]
    return found


def _spoken(tensors: Any, grads: Any) -> tuple[list[Tensor], Any]:
    """Tensors of both kinds, and what is sent to each, as those that autograd knows."""
    outs = _listed(tensors)
    if grads is None and not any(isinstance(one, GraphTensor) for one in outs):
        return outs, None
    given = [None] * len(outs) if grads is None else _listed(grads)
    plain, sent = [], []
    for one, grad in zip(outs, given, strict=True):
        held = isinstance(one, GraphTensor)
        mine = parts(one.value) if held else [one]
        for x, g in zip(mine, _sent(grad, one.value) if held else [grad], strict=True):
            if x.requires_grad or len(mine) == 1:
                plain.append(x)
                sent.append(g)
    return plain, sent


def _backward(
    self: GraphTensor, gradient: Any = None, retain_graph: Any = None, create_graph: bool = False,
    inputs: Any = None,
) -> None:  # fmt: skip
    backward_all([self], [gradient], retain_graph, create_graph, inputs=inputs)


def backward_all(
    tensors: Any, grad_tensors: Any = None, retain_graph: Any = None, create_graph: bool = False,
    grad_variables: Any = None, inputs: Any = None,
) -> None:  # fmt: skip
    """torch.autograd.backward, from and to tensors of both kinds."""
    heard = None if inputs is None else _plain(inputs)
    torch.autograd.backward(
        *_spoken(tensors, grad_tensors), retain_graph, create_graph, inputs=heard
    )


def _grad(
    outputs: Any, inputs: Any, grad_outputs: Any = None, retain_graph: Any = None,
    create_graph: bool = False, only_inputs: bool = True, allow_unused: bool | None = None,
    **more: Any,
) -> Any:  # fmt: skip
    """torch.autograd.grad, from and to tensors of both kinds."""
    ins = _listed(inputs)
    heard = _plain(ins)
    pieces = len(heard) > len(ins)  # a sequence is heard if one of its pieces is
    outs, sent = _spoken(outputs, grad_outputs)
    found = iter(
        torch.autograd.grad(
            outs, heard, sent, retain_graph, create_graph, only_inputs,
            True if pieces else allow_unused, **more,
        )
    )  # fmt: skip
    made: list[Any] = []
    for one in ins:
        mine = [next(found) for _ in _plain([one])]
        made.append(_together(one, mine))
        if pieces and made[-1] is None and not allow_unused:
            raise RuntimeError(
                "One of the differentiated Tensors appears to not have been used in the graph. Set "
                "allow_unused=True if this is the desired behavior."
            )
    return tuple(made)


def _together(one: Any, grads: list[Any]) -> Any:
    """The gradients of a tensor's own tensors as one like it."""
    if not isinstance(one, GraphTensor) or all(grad is None for grad in grads):
        return grads[0]
    pairs = zip(grads, parts(one.value), strict=True)
    return wrapped(remade(one.value, [torch.zeros_like(x) if g is None else g for g, x in pairs]))


def _get_grad(self: GraphTensor) -> Any:
    return _together(self, [x.grad for x in parts(self.value)])


def _set_grad(self: GraphTensor, grad: Any) -> None:
    for x, one in zip(parts(self.value), _sent(grad, self.value), strict=True):
        x.grad = one


def _register_hook(self: GraphTensor, hook: Any) -> Any:
    value = self.value
    if isinstance(value, Tokens):
        return _tokens_hook(self, hook)

    def call(grad: Tensor) -> Any:
        out = hook(wrapped(value.with_x(grad)))
        return None if out is None else rows(out, value)

    return value.x.register_hook(call)


def _tokens_hook(self: GraphTensor, hook: Any) -> Any:
    """A hook that hears of all pieces of a sequence at once."""

    def call(grads: Any) -> None:
        heard = iter(grads)
        out = hook(_together(self, [next(heard) if x.requires_grad else None for x in own]))
        if out is not None:
            raise ConversionError(
                "a hook changes the gradient of tokens beside nodes; hook the map or the readouts "
                "before they are concatenated"
            )

    own = parts(self.value)
    return torch.autograd.graph.register_multi_grad_hook([x for x in own if x.requires_grad], call)


def _get_data(self: GraphTensor) -> GraphTensor:
    made = wrapped(remade(_read(self), [x.data for x in parts(self.value)]))
    made.base, made.at = ((self,), {}, _DETACH, 0, True), _root(self).clock
    return made


def _become(self: GraphTensor, source: Any = None, *more: Any) -> GraphTensor:
    """Be the same as another map; without one torch gives memory back, and rows are nobody's."""
    if source is None:
        return self
    if not isinstance(source, GraphTensor) or more or source.shape != self.shape:
        raise ConversionError("set_: a map becomes what is no map of its shape; make a new one")
    self.value, self.turned, self.copies = _read(source), source.turned, ()
    self.base, self.at = ((source,), {}, _ALIAS, 0, True), _root(source).clock
    return self


def _set_data(self: GraphTensor, data: Any) -> None:
    for x, one in zip(parts(self.value), _sent(data, self.value), strict=True):
        x.data = one


def _written(self: GraphTensor, *args: Any) -> None:
    """x[...] = y: whatever is a copy on the way would not hear it."""
    outer, _STATE.into = _STATE.into, self
    try:
        _whole(_T.__setitem__, (self, *args))
    finally:
        _STATE.into = outer


def _no_numbers(*_: Any, **__: Any) -> Any:
    raise ConversionError(
        "a map on nodes is no array; take to_dense() for a plain tensor with 0 in the holes, or "
        ".graph.x for the rows"
    )


_T: Any = torch.Tensor

OWN: dict[Any, Any] = {
    torch.autograd.grad: _grad,
    torch.autograd.backward: backward_all,
    _T.__setitem__: _written,
    _T.backward: _backward,
    _T.register_hook: _register_hook,
    _T.requires_grad.__get__: _by_all(_T.requires_grad.__get__, any),
    _T.requires_grad.__set__: _returning(_T.requires_grad.__set__),
    _T.requires_grad_: _returning(_T.requires_grad_),
    _T.retain_grad: _returning(_T.retain_grad),
    _T.retains_grad.__get__: _by_rows(_T.retains_grad.__get__),
    _T.is_leaf.__get__: _by_all(_T.is_leaf.__get__, all),
    _T.grad_fn.__get__: lambda self: HOOKS[0](self),
    _T.grad.__get__: _get_grad,
    _T.grad.__set__: _set_grad,
    _T.data.__get__: _get_data,
    _T.contiguous: lambda self, **how: _whole(_CONTIGUOUS, (self,), how),
    _T.data.__set__: _set_data,
    _T._version.__get__: _by_rows(_T._version.__get__),
    _T.data_ptr: _by_rows(_T.data_ptr),
    _T.untyped_storage: _by_rows(_T.untyped_storage),
    _T.is_inference: _by_rows(_T.is_inference),
    _T.is_shared: _by_rows(_T.is_shared),
    _T.numpy: _no_numbers, _T.tolist: _no_numbers, _T.__array__: _no_numbers,
    _T.item: _no_numbers,
}  # fmt: skip

_PLAIN_GETTERS = (
    "shape", "device", "dtype", "layout", "ndim", "is_cuda", "is_cpu", "is_meta", "is_sparse",
    "is_quantized", "is_nested", "is_mps", "is_xpu", "itemsize", "nbytes", "is_mkldnn",
    "is_sparse_csr", "is_vulkan", "is_xla", "is_ipu", "is_maia", "is_mtia", "names", "output_nr",
)  # fmt: skip
_PLAIN_METHODS = (
    "size", "dim", "ndimension", "numel", "nelement", "element_size", "__len__", "is_same_size",
    "is_floating_point", "is_complex", "is_contiguous", "stride", "storage_offset", "get_device",
    "is_signed", "__hash__", "has_names", "is_coalesced", "is_conj", "is_neg",
)  # fmt: skip

for _name in _PLAIN_GETTERS:
    if hasattr(_T, _name):
        OWN[getattr(_T, _name).__get__] = _plainly(getattr(_T, _name).__get__)
for _name in _PLAIN_METHODS:
    if hasattr(_T, _name):
        OWN[getattr(_T, _name)] = _plainly(getattr(_T, _name))
for _function in (
    torch.is_floating_point, torch.is_complex, torch.numel, torch.is_tensor, torch.is_same_size,
):  # fmt: skip
    OWN[_function] = _plainly(_function)
