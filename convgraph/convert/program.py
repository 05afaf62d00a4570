"""A network as a program on rows, for who wants one: torch.compile, torch.export, ONNX.

    y = program(rows..., tensors..., tables..., parameters..., buffers...)

The program is straight operators of torch, traced once through the tensor whose pixels are nodes.
What a mask decides (which node hears which, how many there are) comes in as tables: tensors that
the sites keep, in the order in which the run asks for them. Another mask of the same lattice is
other tables to the same program; its sizes are open.
"""

import operator
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, disable_fake_tensor_cache
from torch.fx.experimental import symbolic_shapes
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from convgraph import memo
from convgraph.convert import keys
from convgraph.convert.tensor import GraphTensor, from_pixels, leaves, settled_map
from convgraph.graph.network_sites import at
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.graph.sites import Sites


@dataclass(frozen=True, eq=False)
class Made:
    """What an output of a run is: a plain tensor, a graph, or rows on sites under names."""

    sites: Any = None
    axes: Any = None


@dataclass(frozen=True, eq=False)
class Tables:
    """What a program is given for one mask.

    Attributes:
        tensors: in the order in which the run asks for them.
        outputs: what each output is.
        program: whose tables they are.
    """

    tensors: tuple[Tensor, ...]
    outputs: tuple[Made, ...]
    program: Any = None

    def signature(self) -> tuple[Any, ...]:
        """What is the same for all masks of a program."""
        return tuple((one.dtype, one.dim()) for one in self.tensors)


class _Lender:
    """Notes the kept tensors that a run asks for, and what stands for each."""

    def __init__(self, lend: Any, plain: bool) -> None:
        self.lend = lend
        self.plain = plain
        self.thread = get_ident()
        self.asked: dict[int, tuple[Tensor, Tensor]] = {}

    def tensor(self, kept: Tensor) -> Tensor:
        if id(kept) not in self.asked:
            self.asked[id(kept)] = (kept, self.lend(kept))
        return self.asked[id(kept)][1]

    def count(self, sites: Sites) -> Any:
        return sites.nodes.shape[0]


class Bare(torch.nn.Module):
    """A module whose forward alone is called: hooks of the module itself are its caller's.

    Attributes:
        net: the module.
        on_graphs: whether it takes graphs, as layers do, and not tensors whose pixels are nodes.
    """

    def __init__(self, net: torch.nn.Module, *, on_graphs: bool) -> None:
        """Hold a module."""
        super().__init__()
        self.net = net
        self.on_graphs = on_graphs

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer's forward, or that of the class that a network was converted from."""
        if self.on_graphs:
            return self.net.forward(*args, **kwargs)
        graph_network: Any = type(self.net).__mro__[1]
        return super(graph_network, self.net).forward(*args, **kwargs)  # type: ignore[misc]


class Program:
    """A network on lattices of given sizes, as operators on rows.

    Attributes:
        module: takes rows, other tensors, tables, parameters and buffers, in this order.
        names: of the parameters and buffers.
        spec: how outputs are nested.
        sizes: of each table, None where they are open.
    """

    def __init__(self, net: Any, args: Any, kwargs: Any, *, plain: bool = False) -> None:
        """Trace a run.

        Args:
            net: a weak reference to the module that runs; the program does not keep it.
            args: its inputs, graphs among them.
            kwargs: likewise.
            plain: whether torch's own operators are to do without the library's.
        """
        self._net = net
        state = {**dict(self.run.named_parameters()), **dict(self.run.named_buffers())}
        self.names = tuple(state)
        self.plain = plain
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._state = {name: _blank(self._fake, one) for name, one in state.items()}
        given, self.inputs = leaves((args, kwargs))
        tables, self.spec = self._recorded(given)
        self.signature = tables.signature()
        self.single = self.spec.is_leaf()
        self.module = self._traced(given, tables)

    @property
    def run(self) -> Bare:
        """The module that runs, its state under the names that the program has."""
        net = self._net()
        return Bare(net, on_graphs=getattr(net, "takes_graph", False))

    def tables(self, given: Any) -> Tables | None:
        """Return what the program is given for the masks of these inputs.

        None where it serves them not: the run asks for other tables than the one that was traced,
        or for a table of another size where the program has a number.
        """
        found = self._recorded(given)[0]
        if found.signature() != self.signature:
            return None
        tensors = tuple(found.tensors[number] for number in self.used)
        for one, sizes in zip(tensors, self.sizes, strict=True):
            if any(n is not None and n != m for n, m in zip(sizes, one.shape, strict=True)):
                return None
        for one, sizes in zip(tensors, self.sizes, strict=True):
            for axis, n in enumerate(sizes):
                if n is None:
                    torch._dynamo.maybe_mark_dynamic(one, axis)
        return Tables(tensors, found.outputs, self)

    def _called(self, inputs: Any, given: Any, state: Any) -> Any:
        """Run the network on given rows and tensors, on the sites of `inputs`."""
        left = iter(given)
        made = []
        for one in inputs:
            if isinstance(one, PixelGraph):
                sites = one.sites if one.sites.mask is None else one.sites.holding()
                graph = PixelGraph(next(left), sites)
                made.append(graph if self.run.on_graphs else from_pixels(graph))
            else:
                made.append(next(left) if isinstance(one, Tensor) else one)
        args, kwargs = pytree.tree_unflatten(made, self.inputs)
        out, spec = leaves(torch.func.functional_call(self.run, state, args, kwargs))
        return [settled_map(one) for one in out], spec

    def _recorded(self, inputs: Any) -> tuple[Tables, Any]:
        """A run without numbers: which tables it asks for, and what comes out."""
        fake = self._fake
        lender = _Lender(lambda kept: _blank(fake, kept), self.plain)
        given = [one.x if isinstance(one, PixelGraph) else one for one in inputs]
        given = [_blank(fake, one) for one in given if isinstance(one, Tensor)]
        with keys.compiling(), fake, memo.lending(lender):
            flat, spec = self._called(inputs, given, self._state)
        roots = [one.sites for one in inputs if isinstance(one, PixelGraph)]
        outputs = tuple(_made(one, roots) for one in flat)
        kept = tuple(kept for kept, _ in lender.asked.values())
        return Tables(kept, outputs, self), spec

    def _traced(self, inputs: Any, tables: Tables) -> Any:
        """The operators of a run, sizes of rows and tables open."""
        tensors = [one for one in inputs if isinstance(one, (PixelGraph, Tensor))]
        count, rows = len(tensors), len(tensors) + len(tables.tensors)
        # Sizes that happen to be equal here are not one size.
        fake = FakeTensorMode(
            shape_env=symbolic_shapes.ShapeEnv(duck_shape=False), allow_non_fake_inputs=True
        )

        def flat(*tensors: Tensor) -> list[Tensor]:
            lent = dict(zip(map(id, tables.tensors), tensors[count:rows], strict=True))
            lender = _Lender(lambda kept: lent[id(kept)], self.plain)
            shown = dict(zip(self.names, tensors[rows:], strict=True))
            with memo.lending(lender):
                out, _ = self._called(inputs, tensors[:count], shown)
            return [_rows(one) for one in out]

        shown = [
            _open(fake, one.x, 0 if self.plain else 1)
            if isinstance(one, PixelGraph)
            else _open(fake, one, 0)
            for one in tensors
        ]
        shown += [_open(fake, one, 0 if self.plain else one.dim()) for one in tables.tensors]
        shown += [_blank(fake, one) for one in self._state.values()]
        # Sizes are symbols of their own: to keep what an operator gave costs more than it saves.
        with keys.compiling(), fake, disable_fake_tensor_cache(fake):
            made = make_fx(flat, tracing_mode="symbolic", pre_dispatch=True)(*shown)
        places = list(made.graph.find_nodes(op="placeholder"))[count:rows]
        self.used = tuple(number for number, node in enumerate(places) if node.users)
        self.sizes = tuple(
            tuple(None if _is_open(n) else int(n) for n in shown[count + number].shape)
            for number in self.used
        )
        for node in places:
            if not node.users:
                made.graph.erase_node(node)
        _straight(made.graph)
        return torch.fx.GraphModule(made, made.graph)  # a compiler's own may be a lazy one


def _open(fake: Any, tensor: Tensor, axes: int) -> Tensor:
    """A tensor without numbers, the sizes of its first axes open, but for those of one entry."""
    size = symbolic_shapes.DimDynamic
    kinds = [
        size.DYNAMIC if n > 1 and axis < axes else size.STATIC
        for axis, n in enumerate(tensor.shape)
    ]
    context: Any = symbolic_shapes.StatelessSymbolicContext(kinds)
    made: Tensor = fake.from_tensor(tensor.detach(), symbolic_context=context)
    return made


def _blank(fake: Any, tensor: Tensor) -> Tensor:
    """A tensor of the same shape without numbers."""
    with fake:
        return torch.empty_strided(
            tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
        )


def _is_open(size: Any) -> bool:
    return isinstance(size, torch.SymInt) and size.node.maybe_as_int() is None


def _straight(graph: torch.fx.Graph) -> None:
    """Take out what was no operator: sizes that nobody reads, gradients put off and on again."""
    enabled: Any = True
    for node in list(graph.nodes):
        if node.target in _SIZES and not node.users:
            graph.erase_node(node)
        elif node.target is torch.ops.aten.sym_numel.default:  # which compilers do not take
            (tensor,) = node.args
            with graph.inserting_before(node):
                total: Any = 1
                for axis in range(tensor.meta["val"].dim()):
                    size = graph.call_function(torch.ops.aten.sym_size.int, (tensor, axis))
                    total = graph.call_function(operator.mul, (total, size))
            node.replace_all_uses_with(total)
            graph.erase_node(node)
        elif node.target is torch._C._set_grad_enabled:
            after = node.next
            while after.target in _SIZES:
                after = after.next
            if after.target is torch._C._set_grad_enabled or node.args[0] == enabled:
                graph.erase_node(node)
            else:
                enabled = node.args[0]


_SIZES = (torch.ops.aten.sym_size.int, torch.ops.aten.sym_numel.default)


def _rows(one: Any) -> Any:
    return one.value.x if isinstance(one, GraphTensor) else getattr(one, "x", one)


def _made(one: Any, roots: Any) -> Made:
    """What an output is."""
    if isinstance(one, PixelGraph):
        return Made(_freed(one.sites, roots))
    if not isinstance(one, GraphTensor):
        return Made()
    value = one.value
    return Made(_freed(value.sites, roots), None if value.is_image() else value.axes)


def _freed(sites: Any, roots: Any) -> Any:
    """The sites as the caller knows them, of whose masks the run has held its own."""
    if not isinstance(sites, Sites) or not sites.held:
        return sites
    for root in roots:
        if root.mask is None:
            continue
        if sites is root.holding():
            return root
        if sites.root is root.holding() and sites.place is not None:
            return at(root, sites.place)
    return sites.released()
