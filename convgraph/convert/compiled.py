"""torch.compile of a network on masks: one program, and each mask's tables as its inputs.

A compiler that follows Python cannot follow the tensor whose pixels are nodes, and must take
nothing of one mask for a constant. So it is shown three things: the rows, tables that it reads as
one attribute of the sites, and straight operators. The attribute is made when somebody asks for it;
the compiler asks before each call, to see whether what it compiled still holds. So a new mask has
its tables by then, and only sizes differ.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import count
from operator import index
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from convgraph.convert.program import Bare, Made, Program, Tables
from convgraph.errors import ConversionError
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.graph.sites import Sites
from convgraph.nn.traced import runs_by

_NUMBERS = count()
_KNOWN: dict[Any, str] = {}
"""What was compiled, and the attribute of sites that its tables are."""


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
    name = _named(net, training, tuple(facts), tuple(kwargs))[0]
    tables = getattr(graph.sites, name)
    state = [*dict(net.named_parameters()).values(), *dict(net.named_buffers()).values()]
    found = tables.program.module(*given, *tables.tensors, *state)
    outputs = [_output(one, made) for one, made in zip(found, tables.outputs, strict=True)]
    return _nested(outputs, tables.program)


runs_by(run)


def _output(x: Tensor, made: Made) -> Any:
    if made.sites is None:
        return x
    graph: PixelGraph = object.__new__(PixelGraph)
    object.__setattr__(graph, "x", x.reshape(x.shape[0], -1))
    object.__setattr__(graph, "sites", made.sites)
    return graph


def _nested(outputs: list[Any], program: Program) -> Any:
    return outputs[0] if program.single else pytree.tree_unflatten(outputs, program.spec)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _named(net: Any, training: Any, facts: Any, words: Any) -> tuple[str]:
    """The attribute of sites that holds a network's tables, as it is called now."""
    plain = torch.compiler.is_exporting()
    key = (ref(net), training, facts, words, plain)
    name = _KNOWN.get(key)
    if name is None:
        name = f"_tables_{next(_NUMBERS)}"
        kind = type("Asked", (), {
            "__get__": _Get(name, ref(net), facts, words, plain), "__set__": _refuse,
        })  # fmt: skip
        setattr(Sites, name, kind())
        _KNOWN[key] = name
    return (name,)


def _refuse(*_: Any) -> None:
    raise AttributeError("tables of a program are not set")


class _Get:
    """Makes the tables of sites; no function, so that a compiler calls it and does not follow."""

    def __init__(self, name: str, net: Any, facts: Any, words: Any, plain: bool) -> None:
        self.name, self.net, self.facts, self.words = name, net, facts, words
        self.plain = plain
        self.programs: dict[Any, Program] = {}

    def __call__(self, asked: Any, sites: Any, kind: Any = None) -> Tables:
        if sites is None:
            raise AttributeError(self.name)
        try:
            found: Tables = sites.memo(self.name, lambda: _elsewhere(self.make, sites))
        except AttributeError as error:  # which would read as: there are no such tables
            raise RuntimeError(f"{type(self.net()).__name__} on a mask: {error}") from error
        return found

    def make(self, sites: Sites) -> Tables:
        """Record a run on these sites, after the program was traced on the first of their size."""
        leaves = [_blank(fact, sites) for fact in self.facts]
        first = len(leaves) - len(self.words)
        args, kwargs = tuple(leaves[:first]), dict(zip(self.words, leaves[first:], strict=True))
        net = self.net()
        bare = Bare(net, on_graphs=getattr(net, "takes_graph", False))
        state = {**dict(bare.named_parameters()), **dict(bare.named_buffers())}
        # An exported program is one mask's.
        key: Any = (sites.sizes, sites.device, sites.space, sites.mask is None)
        key = sites if self.plain else key
        if key not in self.programs:
            self.programs[key] = Program(bare, state, args, kwargs, plain=self.plain)
        tables = self.programs[key].tables(leaves)
        for one in tables.outputs:
            if one.sites is not None and not one.is_image:
                raise ConversionError("a compiled network returns images or tensors without nodes")
        return tables


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
