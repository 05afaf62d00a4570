"""Wiring: which operator reads what, recorded on a run of one side, and compared node by node.

A node is one ATen operator that computes, or one layer that carries its own certificate. Its inputs
are the numbers of their elements (`numbers`), so a value that reaches it by another way of views,
copies and concatenations is the same input if and only if it is the same element at every place.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode

from convgraph.proof import aten, trees
from convgraph.proof.network.blocks import Block, compared
from convgraph.proof.network.by_itself import Lister, apart
from convgraph.proof.network.node import (
    BACKWARD,
    CONVOLUTION,
    FunctionLayer,
    Layer,
    Node,
    NodeCall,
    Observe,
    Settle,
)
from convgraph.proof.network.value_numbers import (
    Memory,
    Numbering,
    Numbers,
    Progression,
    Random,
    Undecided,
    Unordered,
    as_tensor,
    tidy,
)
from convgraph.proof.network.whole_layers import as_one, bare, differentiated
from convgraph.proof.ways_out import SAYS, WaysOut, by_name

ABOUT = ("sym_", "is_pinned", "is_same_size", "_has_compatible")
"""Operators that say what a tensor is like, not what it holds."""

DESCRIBES = ("data_ptr", "storage", "untyped_storage", "_typed_storage", "share_memory_")
"""Ways by which one memory is known from another, as caches and checks for shared memory do."""

SWEEP = 32
"""Nodes after which memory that is gone is forgotten."""


class Recorder(TorchDispatchMode):
    """Writes down every node of a run.

    Args:
        net: the side.
        memory: where its elements' numbers are kept.
        layers: by id, the modules that are nodes as wholes.
        settle: called with every node.
        observe: called with every node and its values.
        renamed: other names for parameters that are not the other side's of that name.
        functions: which calls of functions are nodes, by the paths of their layers; None for all.
        blocks: parameters that are cut or joined, and have the numbers of the other side's.
    """

    def __init__(
        self,
        net: torch.nn.Module,
        memory: Memory,
        layers: Mapping[int, Layer],
        settle: Settle,
        observe: Observe,
        renamed: Mapping[str, str],
        functions: Collection[str] | None = None,
        blocks: Sequence[Block] = (),
    ) -> None:
        """Number parameters and buffers by their names; tied ones share the first name."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.net, self.memory, self.layers, self.settle = net, memory, layers, settle
        self.observe, self.functions = observe, functions
        self.paths = {id(module): path for path, module in net.named_modules()}
        self.modules = {layer.path for layer in layers.values()}
        self.open: list[str] = []
        self.inside = 0
        self.within: Lister | None = None
        self.count = 0
        self.cut: dict[Numbers, tuple[Any, ...]] = {}
        self.asked = set[str]()
        cut = {n: own for block in blocks for n, own in block.numbers(memory.numbering).items()}
        for name, tensor in states(net):
            if not _is_known(memory, tensor):
                own = renamed.get(name, name)
                named = (
                    cut[name] if name in cut else memory.numbering.named(own, tuple(tensor.shape))
                )
                memory.write(tensor, named)
                if _is_switch(tensor):
                    memory.is_switch(tensor, frozenset({name}))

    @contextmanager
    def follow(self, *, gradients: bool = False, told: bool = True) -> Iterator[None]:
        """Record what runs within, and what leaves torch there without an operator.

        Of a function mode code can be told, by `torch.overrides.has_torch_function`, and may have a
        fast path without: then methods of torch.Tensor alone are watched.
        """
        before = hooks.register_module_forward_pre_hook(self._enter)
        behind = hooks.register_module_forward_hook(self._leave, always_call=True)
        called = [
            module.register_forward_pre_hook(self._begin, with_kwargs=True)
            for module in self.net.modules()
            if id(module) in self.layers
        ]
        whole = self.layers if gradients else {}
        with differentiated(self.net, whole, partial(_aside, self), self._back):
            try:
                ways = WaysOut(self._out) if told else nullcontext()
                named = by_name(self._out)  # pickles go around the first
                with torch.set_grad_enabled(gradients), ways, named, self:
                    yield
            finally:
                for handle in (before, behind, *called):
                    handle.remove()

    def _out(self, tensor: Tensor, way: str) -> Tensor:
        """Refuse data that leave torch, where they cannot be followed."""
        with torch._C.DisableTorchFunction():
            plain = tensor.layout == torch.strided and not self.inside
            if plain and not self.memory.knows(tensor) and way not in SAYS:
                self.memory.hand_out(tensor, way)
            elif plain and self.memory.knows(tensor) and way not in DESCRIBES:
                path = self.open[-1] if self.open else ""
                raise Undecided(
                    f"Tensor.{way} at {path!r}: data leave torch, and may come back or decide what "
                    "is run"
                )
        return tensor

    # -- modules ----------------------------------------------------------------------------------

    def _enter(self, module: torch.nn.Module, args: Any) -> None:
        with torch._C.DisableTorchFunction():
            self._entered(module, args)

    def _leave(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        with torch._C.DisableTorchFunction():
            self._left(module, output)

    def _entered(self, module: torch.nn.Module, args: Any) -> None:
        if self.inside:
            self.inside += 1
            return
        self.open.append(self.paths.get(id(module), self.open[-1] if self.open else ""))
        if isinstance(module, FunctionLayer):
            self._begun(module, args, {})

    def _begin(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        with torch._C.DisableTorchFunction():
            if self.inside == 0:  # else a layer within one that is a node
                self._begun(module, args, kwargs)

    def _begun(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        """Start the node of a layer: what its own hooks do before is no part of it."""
        layer = self._layer_of(module)
        if layer is None:
            return
        if isinstance(module, FunctionLayer) and not self.memory.knows(layer.values(args[0])):
            return  # of a constant, such as a mask
        with _aside(self):
            image = layer.image(args[0])
            _in_its_own_type(layer, image)
            sent, there = self._sent(layer, args[0], image), layer.there(args[0])
        again, own = None, []
        if layer.bare is not None or isinstance(module, FunctionLayer):
            again, own = _once_more(module, layer, args[0]), list(args[1:])
        else:
            held: Any = module
            own = [held.weight, *([] if held.bias is None else [held.bias])]
        if layer.bare is not None:
            self._given = {"self": image, **layer.given}
        else:
            weight, bias = (*own, None)[:2]
            self._given = {"input": image, "weight": weight, "bias": bias}
        self._layer = Node(
            layer.name, "", [sent, *map(self.memory.read, own)], layer.path, [], call=again,
            layer=layer.path, given={} if there is None else {"mask": there},
        )  # fmt: skip
        self.inside = 1
        if not torch.is_grad_enabled():
            self._list(module, args, kwargs)
        elif isinstance(module, FunctionLayer):
            module.as_one = partial(self._as_one, module)

    def _as_one(self, module: FunctionLayer, taken: Any, *own: Tensor) -> Any:
        layer = module.layer

        def call(x: Tensor, *own: Tensor) -> Any:
            return module.run(layer.put(taken, x), *own)

        return as_one(layer, call, taken, own, partial(_aside, self), self._back)

    def _layer_of(self, module: torch.nn.Module) -> Layer | None:
        """The layer that a module is as a whole, if it is one."""
        if isinstance(module, FunctionLayer):
            known = self.functions is None or module.layer.path in self.functions
            return module.layer if known else None
        return self.layers.get(id(module))

    def _list(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        """List what a layer runs within its network, and keep how to call it by itself."""
        within = self.within = Lister()
        within.__enter__()  # type: ignore[no-untyped-call]

        def again() -> None:
            with torch.no_grad(), bare(module):
                module(*args, **kwargs)

        self._layer.alone = partial(apart, within.found, again)

    def _sent(self, layer: Layer, value: Any, image: Tensor) -> Numbers:
        """The numbers of what a layer takes or returns, as an image; an absent pixel is 0."""
        if self.memory.knows(image):
            return self.memory.read(image)
        rows = layer.values(value)
        if not self.memory.knows(rows):
            raise Undecided(f"the layer at {layer.path!r} is sent what cannot be followed")
        numbers = as_tensor(self.memory.read(rows))
        return tidy(layer.image(layer.put(value, numbers)).contiguous())

    def _left(self, module: torch.nn.Module, output: Any) -> None:
        if self.inside > 1:
            self.inside -= 1
            return
        if not self.open:
            return
        self.open.pop()
        if isinstance(module, FunctionLayer):
            module.as_one = None
        layer = self._layer_of(module)
        if self.inside and layer is not None:
            self.inside = 0
            if self.within is not None:
                self.within.__exit__(None, None, None)  # type: ignore[no-untyped-call]
                self.within = None
            if output is None:  # the call raised
                return
            with _aside(self):
                image, there = layer.image(output), layer.there(output)
            if there is not None:
                self._layer.given["sites"] = there
            self._layer.shapes = [tuple(image.shape)]
            self._settle(self._layer, [image])
            with _aside(self):
                if there is not None:  # of what is absent the layer said nothing
                    if bool(image.movedim(1, -1)[~there.to(image.device)].count_nonzero()):
                        raise Undecided(f"the layer at {layer.path!r} speaks for absent pixels")
                    made = as_tensor(self._layer.outputs[0]) * there.unsqueeze(1)
                    self.memory.write(
                        layer.values(output), tidy(layer.rows(output, made).contiguous())
                    )
                direct = layer.bare or torch.ops.aten.convolution.default
                self.observe(NodeCall(self._layer, direct, self._given, [image]))

    def _back(
        self,
        layer: Layer,
        taken: Any,
        returned: Any,
        g: Tensor,
        given: list[Tensor | None],
        found: list[Tensor | None],
        alone: Callable[[], str],
    ) -> None:
        """The backward of a layer that is one node: (g, x, w) -> what is asked of grad_x, w, b.

        A layer without parameters may look at who is there, which zeros do not tell.
        """
        x, *own = given
        weights = [t for t in own[:1] if t is not None]
        assert x is not None
        if layer.path in self.modules and not all(map(self.memory.knows, weights)):
            raise Undecided(f"the backward at {layer.path!r} is sent what nobody can follow")
        values = layer.put(returned, g), layer.put(taken, x)  # followed: it may copy what is spread
        with _aside(self):
            sent = [self._sent(layer, value, layer.image(value)) for value in values]
            there = layer.there(returned)
            if there is not None:  # to what is absent nothing was said, and nothing comes back
                sent[0] = tidy(as_tensor(sent[0]) * there.unsqueeze(1))
        asked = [n for n, t in zip("xwb", found, strict=False) if t is not None]
        with _aside(self):
            looks = None if layer.bare is None else layer.there(taken)
            made = [t for t in found if t is not None]
            if found[0] is not None:
                made[0] = layer.image(layer.put(taken, found[0]))
            node = Node(
                layer.name + BACKWARD, f"by {', '.join(asked)}",
                [*sent, *map(self.memory.read, weights)], layer.path,
                [tuple(t.shape) for t in made], layer=layer.path, alone=alone,
                given={} if looks is None else {"mask": looks},
            )  # fmt: skip
            self._settle(node, made)
            if found[0] is not None and not _share(found[0], made[0]):
                numbers = layer.rows(taken, as_tensor(node.outputs[0]))
                self.memory.write(found[0], tidy(numbers.contiguous()))

    # -- operators --------------------------------------------------------------------------------

    def __torch_dispatch__(  # noqa: D105
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if not self.inside and any(map(_meets_operators, types)):
            return NotImplemented  # what it runs itself is met again
        with torch._C.DisableTorchFunction():
            return self._node(func, args, kwargs or {})

    def _node(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.inside:
            return func(*args, **kwargs)
        tensors = [t for t in trees.leaves((args, kwargs)) if isinstance(t, Tensor)]
        targets = aten.written(func, args, kwargs)
        name, path = aten.name_of(func), self.open[-1] if self.open else ""
        if torch.Tag.nondeterministic_seeded in func.tags and not _sure(func, args, kwargs):
            raise Random(f"{name} at {path!r} draws random numbers; call eval() on both sides")
        if not any(map(self.memory.knows, tensors)) or torch.Tag.inplace_view in func.tags:
            return func(*args, **kwargs)
        if func.namespace == "prim" or name in aten.FILLS or name.startswith(ABOUT):
            return func(*args, **kwargs)
        switches = self.memory.switches(tensors)
        if name == "_local_scalar_dense" and switches:
            self._settle(Node(name, "", [self.memory.read(args[0])], path, []), [])
            self.asked |= switches
            return func(*args, **kwargs)
        if name in aten.READS or self._sized_by_data(func, name, args, kwargs):
            raise Undecided(
                f"{name} at {path!r} reads numbers off data: the wiring may depend on them"
            )
        try:
            with _aside(self):
                out = self._run(func, name, path, args, kwargs, targets)
                for made in aten.tensors_in(out) if switches else ():
                    self.memory.is_switch(made, switches)
                return out
        except Unordered:
            raise
        except Undecided as reason:
            raise Undecided(f"{name} at {path!r}: {reason}") from None

    def _sized_by_data(self, func: Any, name: str, args: Any, kwargs: Any) -> bool:
        """Whether data say how large a result is; what is picked by places is as large as those."""
        if torch.Tag.dynamic_output_shape not in func.tags:
            return False
        named = aten.arguments(func, args, kwargs)
        if name != "index":
            return any(map(self.memory.knows, aten.tensors_in(named)))
        kept = [
            t for t in aten.tensors_in(named["indices"]) if t.dtype in (torch.bool, torch.uint8)
        ]
        return any(map(self.memory.knows, kept))

    def _run(
        self, func: Any, name: str, path: str, args: Any, kwargs: Any, targets: list[Tensor]
    ) -> Any:
        if name == "_convolution":  # the same, as traced programs have it
            func, name = torch.ops.aten.convolution.default, CONVOLUTION
            args, kwargs = args[:9], {}
        for target in targets:
            self.memory.adopt(target)
        if name in aten.WRITES:
            source = _source(self.memory, name, args)
            if source is not None:
                out = func(*args, **kwargs)
                self.memory.write(args[0], source)
                return out
        named = aten.spelled_out(func, aten.arguments(func, args, kwargs))
        moved = self._left_out(name, named)
        if name in aten.MOVES and self._is_move(name, args, kwargs):
            moved = self._moved(func, args, kwargs)
        if moved is None and (aten.does_nothing(func, named) or self._again(name, named)):
            first = named["self" if name != "threshold_backward" else "grad_output"]
            moved = [self.memory.read(first)]
        matter = aten.that_matter(func, self._in_one_dtype(name, named))
        text, inputs = aten.taken_apart(matter)
        if targets and moved is None:
            named = {k: _kept(v, targets) for k, v in named.items()}
        numbers: list[Numbers] | None = [] if moved is not None else None
        if moved is None and (targets or not _is_view(func)):
            numbers = [self.memory.read(t) for t in inputs]
        out = func(*args, **kwargs)
        outputs = [t for t in trees.leaves(out) if isinstance(t, Tensor)]
        if not outputs:
            raise Undecided("what it returns is no tensor, and may depend on data")
        if moved is not None:
            for tensor, found in zip(outputs, moved, strict=True):
                if not (self.memory.knows(tensor) and not targets):
                    self.memory.write(tensor, found)
            return out
        if numbers is None or (not targets and all(map(self.memory.knows, outputs))):
            return out  # a view: its memory is known
        fresh = targets + [t for t in outputs if not any(t is other for other in targets)]
        node = Node(
            name + ("." + func._overloadname if func._overloadname not in ("", "default") else ""),
            text, numbers, path, [tuple(t.shape) for t in fresh],
            elementwise=aten.elementwise(func), call=_again(func, args, kwargs, inputs),
            given={k: v for k, v in named.items() if k in matter and not isinstance(v, Tensor)},
        )  # fmt: skip
        if name in ("index_add", "scatter_add") and not self.memory.knows(named["index"]):
            node.given["index"] = named["index"]
        if name == CONVOLUTION:
            node.name = CONVOLUTION
            node.given = named | {"bias": None}
            node.given = {k: v for k, v in node.given.items() if not isinstance(v, Tensor)}
        self._settle(node, fresh)
        if name in ("mul", "neg") and len(fresh) == 1:
            self._annihilated(numbers, fresh[0])
        if name in ("sum", "mean") and not isinstance(node.inputs[0], Progression):
            self._of_nothing(node.inputs[0], named, fresh[0])
        if name in ("relu", "threshold_backward") and isinstance(node.outputs[0], Progression):
            self.cut[node.outputs[0]] = self._cut(name, node.inputs, named)
        first = next(place for place, t in enumerate(fresh) if t is outputs[0])
        self.observe(NodeCall(node, aten.out_of_place(func), named, fresh, first))
        return out

    def _annihilated(self, factors: list[Numbers], product: Tensor) -> None:
        """Say that a product is the constant 0 where a factor is, and so is what is negative."""
        zeros = [as_tensor(one) == 0 for one in factors]
        if any(map(torch.any, zeros)):
            made = as_tensor(self.memory.read(product))
            for zero in zeros:
                made = made.masked_fill(zero, 0)
            self.memory.write(product, tidy(made))

    def _of_nothing(self, added: Numbers, named: Mapping[str, Any], total: Tensor) -> None:
        """Say that a sum, or a mean, of zeros alone is the constant 0."""
        some = as_tensor(added) != 0
        found = some.sum(named.get("dim") or [*range(some.dim())], named.get("keepdim", False))
        if not bool(found.all()):
            made = as_tensor(self.memory.read(total)) * (found != 0)
            self.memory.write(total, tidy(made))

    @staticmethod
    def _cut(name: str, inputs: list[Numbers], named: Mapping[str, Any]) -> tuple[Any, ...]:
        """By what a value was cut: relu by itself, a gradient where what it belongs to is small."""
        if name == "relu":
            return (name,)
        return name, inputs[1], float(named.get("threshold", 0))

    def _again(self, name: str, named: Mapping[str, Any]) -> bool:
        """Whether a relu, or the backward of one, cuts what it has cut before."""
        if name not in ("relu", "threshold_backward"):
            return False
        given = [self.memory.read(t) for t in named.values() if isinstance(t, Tensor)]
        if not all(isinstance(numbers, Progression) for numbers in given):
            return False
        before = self.cut.get(given[0])
        return before is not None and before == self._cut(name, given, named)

    def _is_move(self, name: str, args: Any, kwargs: Any) -> bool:
        """Say whether values are moved as they are, to places that do not depend on data."""
        if name == "_to_copy":
            return kwargs.get("dtype") in (None, args[0].dtype)
        if name in aten.PLACES:
            return len(args) == 4 and not self.memory.knows(args[2])
        rest = [t for t in trees.leaves((args[1:], kwargs)) if isinstance(t, Tensor)]
        return name not in aten.PICKS or not any(map(self.memory.knows, rest))

    def _moved(self, func: Any, args: Any, kwargs: Any) -> list[Numbers]:
        """Run a move on numbers instead of values."""

        def integer(tensor: Tensor) -> Tensor:
            return as_tensor(self.memory.read(tensor))

        def real(tensor: Tensor) -> Tensor:
            return as_tensor(self.memory.read(tensor)).double()  # exact up to 2^53

        def pad(value: Any) -> int:
            return self.memory.numbering.constant(value, args[0].dtype)

        try:
            found = aten.on_numbers(func, args, kwargs, integer, pad)
        except (RuntimeError, NotImplementedError):
            found = aten.on_numbers(func, args, kwargs, real, pad)
        return [tidy(t.long().contiguous()) for t in trees.leaves(found) if isinstance(t, Tensor)]

    def _in_one_dtype(self, name: str, named: dict[str, Any]) -> dict[str, Any]:
        """Whole numbers that are constants in the dtype that they are put together in."""
        x, other = named.get("self"), named.get("other")
        if name in ("add", "sub", "mul", "div") and isinstance(x, Tensor) and x.is_floating_point():
            whole = isinstance(other, Tensor) and not other.is_floating_point()
            if isinstance(other, Tensor) and whole and not self.memory.knows(other):
                return named | {"other": other.to(x.dtype)}
        return named

    def _left_out(self, name: str, named: Mapping[str, Any]) -> list[Numbers] | None:
        """What keeps entries or puts constants as a constant says; the mean or sum of one is it."""
        x: Any = named.get("self")
        other: Any = named.get("other", named.get("value"))
        if name in ("mean", "sum") and named.keys() <= {"self", "dim", "keepdim"}:
            axes: Any = named.get("dim")
            several = not axes or any(x.shape[axis] != 1 for axis in axes)
            if several and (name == "mean" or isinstance(self.memory.read(x), Progression)):
                return None
            keeps = named.get("keepdim", False)
            return self._alone(lambda numbers: numbers.sum(axes, keeps), x)
        if name == "index_add" and named.keys() == {"self", "dim", "index", "source"}:
            if self.memory.knows(named["index"]):
                return None
            dim, index = named["dim"], named["index"].cpu()
            return self._alone(lambda to, rows: to.index_add(dim, index, rows), x, named["source"])
        if name == "index_put":
            return self._put_at(x, named)
        if name == "add" and isinstance(x, Tensor) and isinstance(other, Tensor):
            whole = all(isinstance(self.memory.read(t), Progression) for t in (x, other))
            if whole or x.dtype != other.dtype or "alpha" in named:
                return None
            return self._alone(torch.add, x, other)
        if name == "mul" and isinstance(other, Tensor) and isinstance(x, Tensor):
            x, kept = (other, x) if self.memory.knows(other) else (x, other)
            if self.memory.knows(kept) or torch.result_type(x, kept) != x.dtype:
                return None
            if not bool(((kept == 0) | (kept == 1)).all()):
                return None
            return [tidy(as_tensor(self.memory.read(x)) * kept.cpu().long())]
        chooses: Any = named.get("condition" if name == "where" else "mask")
        if name not in ("where", "masked_fill") or self.memory.knows(chooses):
            return None
        dtypes = {t.dtype for t in (x, other) if isinstance(t, Tensor) and self.memory.knows(t)}
        kind, *more = dtypes or {torch.get_default_dtype()}
        if more or torch.result_type(x, other) != kind:
            return None
        one, two = (
            as_tensor(self.memory.read(t.to(kind)))
            if isinstance(t, Tensor)
            else torch.tensor(self.memory.numbering.constant(t, kind))
            for t in ((x, other) if name == "where" else (other, x))
        )
        return [tidy(torch.where(chooses.cpu(), one, two).contiguous())]

    def _put_at(self, x: Tensor, named: Mapping[str, Any]) -> list[Numbers] | None:
        """Values at places that do not depend on data, and of which none is named twice.

        Where they are added, it is to the constant 0.
        """
        if any(map(self.memory.knows, aten.tensors_in(named["indices"]))):
            return None
        places = [None if at is None else at.cpu() for at in named["indices"]]
        to, values = (as_tensor(self.memory.read(t)) for t in (x, named["values"]))
        put = torch.ops.aten.index_put
        times = put(torch.zeros_like(to), places, torch.ones_like(values), True)
        added = named.get("accumulate") and bool((to[times > 0] != 0).any())
        if added or bool((times > 1).any()):
            return None
        return [tidy(put(to, places, values))]

    def _alone(self, add: Callable[..., Tensor], *tensors: Tensor) -> list[Numbers] | None:
        """A sum of which each result adds up one entry at most, and zeros: it is that entry."""
        numbers = [as_tensor(self.memory.read(t)) for t in tensors]
        if bool((add(*((one != 0).long() for one in numbers)) > 1).any()):
            return None
        return [tidy(add(*numbers))]

    def _settle(self, node: Node, tensors: list[Tensor]) -> None:
        self.settle(node)
        for tensor, numbers in zip(tensors, node.outputs, strict=True):
            self.memory.write(tensor, numbers)
        self.count += 1
        if not self.count % SWEEP:
            self.memory.sweep()


@contextmanager
def _aside(recorder: Recorder) -> Iterator[None]:
    """The judge's own arithmetic is no part of the run."""
    recorder.inside += 1
    try:
        yield
    finally:
        recorder.inside -= 1


def _once_more(module: Any, layer: Layer, taken: Any) -> Callable[..., Tensor]:
    """Call a layer as it was called, on other images of the same pixels, by any weight and bias."""
    image = layer.image(taken)

    def run(x: Tensor, *own: Tensor) -> Tensor:
        rows = x if tuple(layer.values(taken).shape) == tuple(image.shape) else layer.rows(taken, x)
        with bare(module):
            return layer.image(module(layer.put(taken, rows), *own))

    return run


def _in_its_own_type(layer: Layer, image: Tensor) -> None:
    """Refuse autocast, but of float64, which it leaves as it is."""
    on = torch.is_autocast_enabled(image.device.type) and image.dtype != torch.float64
    if on and layer.bare is None:
        raise Undecided(
            f"autocast is on at {layer.path!r}: the layer computes in another type there than its "
            "certificate is of; prove both networks without it, or after .to(torch.bfloat16)"
        )


def _share(one: Tensor, two: Tensor) -> bool:
    """Whether two tensors lie in one memory."""
    return one.untyped_storage().data_ptr() == two.untyped_storage().data_ptr()


def _meets_operators(kind: Any) -> bool:
    """Whether a tensor of this class says itself what an operator does."""
    return kind.__torch_dispatch__ is not torch._C._disabled_torch_dispatch_impl and kind is not (
        Tensor
    )


def states(net: torch.nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers by name, every name of a tied one."""
    yield from net.named_parameters(remove_duplicate=False)
    yield from net.named_buffers(remove_duplicate=False)


def _is_switch(tensor: Tensor) -> bool:
    """Whether a state is one whole number with memory of its own, which nothing trains."""
    alone = tensor.untyped_storage().nbytes() == tensor.element_size()
    return alone and not tensor.is_floating_point() and not tensor.is_complex()


def _kept(value: Any, targets: list[Tensor]) -> Any:
    """A copy of what an operator is about to overwrite."""
    return value.clone() if any(value is target for target in targets) else value


def _is_known(memory: Memory, tensor: Tensor) -> bool:
    """Say whether a parameter was met before, under another name; memory alone may be shared."""
    try:
        return memory.knows(tensor) and memory.read(tensor) is not None
    except Undecided:
        return False


def _is_view(func: Any) -> bool:
    return bool(func.is_view)


def _sure(func: Any, args: Any, kwargs: Any) -> bool:
    """Say whether an operator that may draw random numbers draws none here."""
    named = aten.arguments(func, args, kwargs)
    name = aten.name_of(func)
    if "attention" in name:
        return not named.get("dropout_p")
    if "rrelu" in name:
        return not named.get("training")
    return not named.get("p", named.get("train", True))


def _source(memory: Memory, name: str, args: Any) -> Numbers | None:
    """The numbers that a plain write brings, or None where it casts."""
    target = args[0]
    if name == "copy_":
        if args[1].dtype != target.dtype:
            return None
        return tidy(as_tensor(memory.read(args[1])).expand(target.shape).contiguous())
    value = 0 if name == "zero_" else args[1]
    if isinstance(value, Tensor):
        return tidy(as_tensor(memory.read(value)).expand(target.shape).contiguous())
    number = memory.numbering.constant(value, target.dtype)
    return torch.full(tuple(target.shape), number, dtype=torch.int64)


def _again(func: Any, args: Any, kwargs: Any, inputs: list[Tensor]) -> Callable[..., Any]:
    """The same operator on other tensors, in the order of its inputs; never in place."""
    shapes = [t.shape for t in inputs]
    named = aten.arguments(func, args, kwargs)
    plain = {name: value for name, value in named.items() if not isinstance(value, Tensor)}
    places = [name for name in named if isinstance(named[name], Tensor)]

    def run(*tensors: Tensor) -> Any:
        if len(places) != len(shapes):
            raise Undecided("lists of tensors are not run again")
        filled = plain | dict(zip(places, (t.clone() for t in tensors), strict=True))
        return func(**filled)

    return run


def trace(
    net: torch.nn.Module,
    run: Callable[[Any], Any],
    images: Any,
    numbering: Numbering,
    layers: Mapping[int, Layer],
    settle: Settle,
    observe: Observe = lambda call: None,
    *,
    gradients: bool = False,
    heads: Sequence[Tensor] = (),
    renamed: Mapping[str, str] = MappingProxyType({}),
    told: bool = True,
    functions: Collection[str] | None = None,
    blocks: Sequence[Block] = (),
) -> tuple[list[Numbers], dict[str, Numbers]]:
    """Run one side; return the numbers of its outputs, and of what it holds and is sent afterwards.

    Args:
        net: the side; its parameters and buffers carry their names.
        run: images -> list of output tensors.
        images: a tuple of tensors, numbered by their place.
        numbering: shared by both sides.
        layers: by id, modules that are nodes as wholes.
        settle: gives every node its outputs.
        observe: sees every node with its values.
        gradients: whether the run is differentiated too.
        heads: the gradients that are sent into the outputs, numbered by their place.
        renamed: other names for parameters that are not the other side's of that name.
        told: whether code can be told that it is followed; see `Recorder.follow`.
        functions: which calls of functions are nodes, by the paths of their layers; None for all.
        blocks: parameters that are cut or joined; they come back as the other side has them.

    Raises:
        Undecided: something on the way cannot be followed.
    """
    memory = Memory(numbering)
    recorder = Recorder(net, memory, layers, settle, observe, renamed, functions, blocks)
    for place, image in enumerate(images):
        memory.write(image, numbering.named(f"<image {place}>", tuple(image.shape)))
    for place, head in enumerate(heads):
        memory.write(head, numbering.named(f"<gradient of output {place}>", tuple(head.shape)))
    before = {name: t.clone() for name, t in states(net) if _is_switch(t)}
    with recorder.follow(gradients=gradients, told=told):
        outputs = run(images)
    for name in sorted(recorder.asked):
        if not torch.equal(before[name], dict(states(net))[name]):
            raise Undecided(
                f"{name!r} is read, and is another number afterwards: the wiring may depend on it"
            )
    with torch.no_grad():
        held = {name: memory.read(t) for name, t in states(net)}
        left = {repr(other): n for other, n in compared(held, renamed, blocks).items()}
        left |= {f"<image {place}>": memory.read(image) for place, image in enumerate(images)}
        return [memory.read(t) for t in outputs], left


def called(net: torch.nn.Module, run: Callable[[], Any]) -> set[str]:
    """Return the paths of the modules that a run calls."""
    paths = {id(module): path for path, module in net.named_modules()}
    found: set[str] = set()

    def note(module: torch.nn.Module, args: Any) -> None:
        found.add(paths.get(id(module), ""))

    handle = hooks.register_module_forward_pre_hook(note)
    try:
        with torch.no_grad():
            run()
    finally:
        handle.remove()
    return found
