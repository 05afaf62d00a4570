"""torch.compile of a network on masks: one program, and each mask's tables as its inputs.

A compiler that follows Python cannot follow the tensor whose pixels are nodes, and must take
nothing of one mask for a constant. So it is shown three things: the rows, tables that it reads as
one attribute of the sites, and straight operators. The attribute is made when somebody asks for it;
the compiler asks before each call, to see whether what it compiled still holds. So a new mask has
its tables by then, and only sizes differ.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import count
from operator import index
from typing import Any
from weakref import WeakSet, finalize, ref

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from convgraph import autocast, backends
from convgraph.convert.copies import HOOKS
from convgraph.convert.program import Made, Program, Tables
from convgraph.convert.tensor import wrapped
from convgraph.convert.value import Spatial
from convgraph.errors import ConversionError
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.graph.sites import Sites
from convgraph.memo import constant
from convgraph.nn.traced import runs_by

OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13)
"""A compiler that follows `__get__` itself, but reads what an object has of its own without it.

So the tables have to lie there when it looks, and it compiles anew for each mask.
"""

_NUMBERS = count()
_KNOWN: dict[Any, str] = {}
"""What was compiled, and the attribute of sites that its tables are."""
_READ: dict[str, WeakSet[Sites]] = {}
"""Such an attribute, and the sites on which an old compiler has looked at it."""


def run(net: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the program of a network; a compiler follows each line of this."""
    graph: Any = None
    given: list[Any] = []
    facts: list[Any] = []
    for one in (*args, *kwargs.values()):
        if isinstance(one, PixelGraph):
            if graph is not None:
                raise ConversionError("a compiled network takes one graph; others are for eager")
            graph = one
            facts.append(("graph", one.x.dtype, index(one.x.shape[1])))
            given.append(one.x)
        elif isinstance(one, Tensor):
            facts.append(("tensor", one.dtype, tuple([index(n) for n in one.shape])))
            given.append(one)
        else:
            facts.append(("plain", one))
    training = tuple([module.training for module in net.modules()])
    lower = autocast.lower(graph.x.device)
    key = (training, tuple(facts), tuple(kwargs), (backends.forced(None), lower))
    name, single = constant(_named, net, graph.sites if OLD else None, *key)
    tables = getattr(graph.sites, name)
    # An exporter that reads them as attributes would make them inputs of the program.
    tensors = constant(_tensors, graph.sites, name) if single else tables.tensors
    state = [*dict(net.named_parameters()).values(), *dict(net.named_buffers()).values()]
    found = tables.program.module(*given, *tensors, *state)
    kinds = tables.outputs
    if any([one.axes is not None for one in kinds]):  # noqa: C419 - compilers follow no generator
        return _nested(_maps(found, kinds), tables.program)
    return _nested(_outputs(found, kinds), tables.program)


runs_by(run)


def _outputs(found: Any, kinds: tuple[Made, ...]) -> list[Any]:
    return [_output(x, made) for x, made in zip(found, kinds, strict=True)]


def _output(x: Tensor, made: Made) -> Any:
    if made.sites is None:
        return x
    if made.axes is not None:
        return wrapped(Spatial(x, made.sites, made.axes))
    graph: PixelGraph = object.__new__(PixelGraph)
    object.__setattr__(graph, "x", x.flatten(1) if x.dim() > 1 else x.unsqueeze(1))
    object.__setattr__(graph, "sites", made.sites)
    return graph


_maps: Any = torch.compiler.disable(
    _outputs,
    reason="a network compiled with fullgraph=True returns images or tensors without nodes; this "
    "one returns tokens, or another map that is no image, which fullgraph=False makes behind the "
    "program",
)


def _nested(outputs: list[Any], program: Program) -> Any:
    return outputs[0] if program.single else pytree.tree_unflatten(outputs, program.spec)


def _named(
    net: Any, sites: Sites | None, training: Any, facts: Any, words: Any, around: Any
) -> tuple[str, bool]:
    """The attribute of sites that holds a network's tables, as it is called now.

    Beside it, whether they are asked for by an exporter that takes constants alone.
    """
    plain = torch.compiler.is_exporting()
    key = (ref(net), training, facts, words, around, plain)
    name = _KNOWN.get(key)
    if name is None:
        name = f"_tables_{next(_NUMBERS)}"
        get = _Get(name, ref(net), facts, words, around, plain)
        kind = type("Asked", (), {"__get__": get} if OLD else {"__get__": get, "__set__": _refuse})
        setattr(Sites, name, kind())
        _KNOWN[key] = name
        finalize(net, _gone, key, get.memos, _READ.setdefault(name, WeakSet()))
    if sites is not None:
        vars(sites)[name] = getattr(sites, name)
        _READ[name].add(sites)
    return name, plain and OLD


def _tensors(sites: Sites, name: str) -> tuple[Tensor, ...]:
    return tuple(getattr(sites, name).tensors)


def _gone(key: Any, memos: Any, read: Any) -> None:
    """A network is gone, and with it the attribute of sites and the tables that sites keep."""
    name = _KNOWN.pop(key)
    _READ.pop(name, None)
    delattr(Sites, name)
    for sites in list(read):
        vars(sites).pop(name, None)
    for memo in list(memos):
        for kept in [one for one in memo if isinstance(one, tuple) and one[0] == name]:
            memo.pop(kept, None)


def _refuse(*_: Any) -> None:
    raise AttributeError("tables of a program are not set")


class _Get:
    """Makes the tables of sites; no function, so that a compiler calls it and does not follow.

    It is asked before each call. So what a program has frozen, a norm's momentum or a module's own
    switch, is looked at then: another network is another program.
    """

    def __init__(self, name: str, net: Any, facts: Any, words: Any, around: Any, plain: bool):
        self.name, self.net, self.facts, self.words = name, net, facts, words
        (self.backend, self.lower), self.plain = around, plain
        self.programs: dict[Any, list[Program]] = {}
        self.memos: WeakSet[Any] = WeakSet()

    def __call__(self, asked: Any, sites: Any, kind: Any = None) -> Tables:
        if sites is None or self.net() is None:
            raise AttributeError(self.name)
        frozen = _frozen(self.net())
        self.memos.add(sites.memo_key)
        try:
            found: Tables = sites.memo(
                (self.name, frozen), lambda: _elsewhere(self.make, sites, frozen)
            )
        except AttributeError as error:  # which would read as: there are no such tables
            raise RuntimeError(f"{type(self.net()).__name__} on a mask: {error}") from error
        return found

    def make(self, sites: Sites, frozen: Any) -> Tables:
        """Record a run on these sites, after a program was traced on the first of their size."""
        leaves = [_blank(fact, sites) for fact in self.facts]
        first = len(leaves) - len(self.words)
        args, kwargs = tuple(leaves[:first]), dict(zip(self.words, leaves[first:], strict=True))
        net = self.net()
        _refuse_hooks(net)
        kind = (frozen, sites.sizes, sites.device, sites.space, sites.mask is None)
        # An exported program is one mask's, and so are the sums of some backends.
        single = self.plain or not _serves_all_masks(net, self.backend)
        known = [] if single else self.programs.setdefault(kind, [])
        mixed = torch.autocast(sites.device.type, self.lower) if self.lower else nullcontext()
        with backends.backend(self.backend), mixed:
            found = next(filter(None, (one.tables(leaves) for one in known)), None)
            if found is None:
                for _ in range(2):  # its first run ever may note what it has seen
                    before = _frozen(net)
                    program = Program(ref(net), args, kwargs, plain=self.plain)
                    if before == _frozen(net):
                        break
                else:
                    raise ConversionError(
                        f"{type(net).__name__} on a mask, compiled: its forward changes numbers of "
                        "its modules (a counter, a step), which no program of operators does; "
                        "change them outside, or run the network without torch.compile"
                    )
                known.append(program)
                found = program.tables(leaves)
        if found is None:
            raise ConversionError(
                f"{type(net).__name__}: two runs on one mask ask for other tables; its forward "
                "does not do the same twice, so no program can hold it"
            )
        if self.plain and any(one.axes is not None for one in found.outputs):
            raise ConversionError(
                f"{type(net).__name__} on a mask, exported: it returns tokens, or another map that "
                "is no image, which no program returns; end it with an image or a readout"
            )
        return found


_PLAIN = (bool, int, float, complex, str, type(None), KernelGeometry)


def _frozen(net: Any) -> Any:
    """What a program takes from modules besides their tensors: classes, numbers, words."""
    return tuple((id(one), type(one), *_plain_of(one)) for one in net.modules())


def _plain_of(module: Any) -> Iterator[Any]:
    for name, value in vars(module).items():
        if isinstance(value, _PLAIN) or (
            type(value) in (tuple, list) and all(isinstance(one, _PLAIN) for one in value)
        ):
            yield name, tuple(value) if type(value) is list else value


def _serves_all_masks(net: Any, backend: Any) -> bool:
    """Whether the sums that somebody named are the same operators for every mask."""
    named = {backend, *(getattr(module, "backend", None) for module in net.modules())}
    return named <= {None, *backends.ALL_MASKS}


def _refuse_hooks(net: Any) -> None:
    """Refuse what Python would have to be called for, but for hooks that are torch's own."""
    for path, module in net.named_modules():
        for name in HOOKS if path else ():
            for hook in getattr(module, name).values():
                if not (getattr(hook, "__module__", None) or "").startswith("torch."):
                    raise ConversionError(
                        f"{type(net).__name__} on a mask, compiled: its module {path!r} has a "
                        "hook, which no program of operators calls; remove it, put it on the "
                        "network itself, or run the network without torch.compile"
                    )


def _elsewhere(make: Any, *args: Any) -> Any:
    """Call in a thread of its own, which has none of the modes that a compiler has set in this."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(make, *args).result()


def _blank(fact: Any, sites: Sites) -> Any:
    kind, *rest = fact
    if kind == "graph":
        dtype, channels = rest
        blank = torch.empty(sites.num_nodes, channels, dtype=dtype, device=sites.device)
        return PixelGraph(blank, sites)
    return torch.empty(rest[1], dtype=rest[0]) if kind == "tensor" else rest[0]
