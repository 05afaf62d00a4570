"""Sequential: pixel graphs through graph layers, node features through everything else.

A network has one site set per size (see `convgraph.graph.output_sites`), so every graph layer is
called with `sites="network"`. A torch module that works row by row (ReLU, Linear, Dropout, ...) is
a node transform and gets x (N, C); one that expects an image would misread rows and is refused.
"""

import copy
from typing import Any, ClassVar, Self, final

import torch

from convgraph import torch_modules
from convgraph.errors import ConversionError, GraphError, UnsupportedError
from convgraph.geometry.kernel import as_int
from convgraph.graph.pixel_graph import PixelGraph, check_graph
from convgraph.nn import (
    adaptive,
    convs,
    dropout,
    flatten,
    nodewise,
    norm,
    pixel_shuffle,
    pool,
    rearrange,
    resize,
    synced,
    twin,
    unpool,
)
from convgraph.nn.loading import FromFile

TWINS: dict[str, Any] = {
    name: value
    for module in (
        adaptive,
        convs,
        dropout,
        flatten,
        norm,
        pixel_shuffle,
        pool,
        rearrange,
        resize,
        unpool,
    )
    for name, value in vars(module).items()
    if name.startswith("Graph") and isinstance(value, type) and issubclass(value, torch.nn.Module)
}
"""GraphX -> the layer, for every torch.nn.X that has a graph twin."""


@final
class Sequential(FromFile, torch.nn.Sequential):
    """torch.nn.Sequential for pixel graphs; indexing, names and state_dict keys are torch's.

    A child with `takes_graph = True` is called as `child(graph, sites="network")` and returns a
    PixelGraph; any other is a node transform and is called with the features x (N, C).

    After a global pool or a flatten there is one node per image and x is (B, C): a
    `torch.nn.Linear` then gives one row of logits per image, to be read as `net(graph).x`.

    It is built from modules, or from one OrderedDict of named modules, as torch's is.

    Raises:
        UnsupportedError: a torch module that expects an image; the text names its graph twin.

    Example:
        >>> net = Sequential(
        ...     convs.GraphConv2d(1, 4, 3, padding=1), torch.nn.ReLU(),
        ...     adaptive.GraphGlobalAvgPool(), torch.nn.Linear(4, 10),
        ... )
        >>> net(PixelGraph.from_image(torch.ones(2, 1, 5, 5))).x.shape
        torch.Size([2, 10])

    Source: https://pytorch.org/docs/stable/generated/torch.nn.Sequential.html
    """

    takes_graph: ClassVar[bool] = True

    def __setstate__(self, state: Any) -> None:
        """Take a pickled state, whose children are looked at like any other."""
        super().__setstate__(state)
        for name, module in self._modules.items():
            if module is not None:
                nodewise.check(name, module, TWINS)

    # -- children -------------------------------------------------------------------------------

    def add_module(self, name: str, module: torch.nn.Module | None) -> None:
        """Add a child, refusing one that would misread rows."""
        if not isinstance(name, str):
            raise GraphError(f"Sequential: expected the name of a child as text, got {name!s:.60}")
        if module is not None:
            nodewise.check(name, module, TWINS)
        super().add_module(name, module)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a module becomes a child and is looked at like any other."""
        if isinstance(value, torch.nn.Module):
            nodewise.check(name, value, TWINS)
        super().__setattr__(name, value)

    def insert(self, index: int, module: torch.nn.Module) -> Self:
        """Insert a child, refusing one that would misread rows."""
        as_int("Sequential.insert: index", index, least=-len(self))
        nodewise.check(str(index), module, TWINS)
        return super().insert(index, module)

    def __add__(self, other: Any) -> "Sequential":
        """Chain two; torch's own would give a plain torch.nn.Sequential."""
        if not isinstance(other, torch.nn.Sequential):
            raise GraphError(
                f"Sequential: expected another Sequential behind +, got {type(other).__name__}; "
                "append() takes a single layer"
            )
        return Sequential(*super().__add__(other))

    def __mul__(self, other: int) -> "Sequential":
        """Repeat the children, which stay shared, as torch does."""
        return Sequential(*super().__mul__(other))

    # -- calling --------------------------------------------------------------------------------

    def forward(self, graph: PixelGraph, *, sites: Any = None) -> PixelGraph:
        """Send the graph through.

        Args:
            graph: the input; its root mask decides the sites at every size.
            sites: None or "network"; a network's sites cannot be named one by one.

        Returns:
            A PixelGraph on the sites that the network's rule gives.

        Raises:
            GraphError: no graph came in, or a child gave none back.
            UnsupportedError: sites named.
        """
        if not (sites is None or (isinstance(sites, str) and sites == "network")):
            raise UnsupportedError(
                "Sequential: sites= names the output of one layer; a network has one site set per "
                "size, which follows from the mask of its input"
            )
        check_graph(graph, "Sequential")
        for name, module in self._modules.items():  # named_children() would skip a repeated one
            if isinstance(module, synced.Norm):
                graph = module(graph)
            elif getattr(module, "takes_graph", False):
                graph = module(graph, sites="network")
                if not isinstance(graph, PixelGraph):
                    raise GraphError(
                        f"Sequential: expected child {name!r} to return a PixelGraph, got "
                        f"{type(graph).__name__}; return_indices=True has no place in a chain"
                    )
            else:
                graph = graph.map(module)
        return graph

    # -- the dense twin -------------------------------------------------------------------------

    @classmethod
    def from_dense(cls, dense: torch.nn.Module) -> Self:
        """Return the graph form of a torch.nn.Sequential, parameters copied bit for bit.

        A small table, no general converter: layers with a graph twin, node transforms, and
        Sequentials of these. Modules and parameters that occur twice still do.

        Args:
            dense: takes an image (B, C, *size); only after a `Flatten` may it read rows.

        Raises:
            ConversionError: a child has no graph twin, or would mean something else on nodes.
        """
        twin.check_twin(cls, dense, torch.nn.Sequential)
        made, _ = _graph_form(cls, dense, "", {}, flat=False)
        tied: Self = twin.tie(dense, made)
        return tied

    def to_dense(self) -> torch.nn.Sequential:
        """Return the torch.nn.Sequential of the same children, parameters copied bit for bit.

        Raises:
            ConversionError: a child has no dense twin, or reads rows before a GraphFlatten.
        """
        made, _ = _dense_form(self, "", {}, flat=False)
        tied: torch.nn.Sequential = twin.tie(self, made)
        return tied


_Done = dict[int, torch.nn.Module]
"""What a module, by id, was turned into: one that occurs twice is one module afterwards too."""


def _graph_form(cls: Any, dense: Any, path: str, done: _Done, *, flat: bool) -> tuple[Any, bool]:
    """Return the graph form of a torch Sequential, and whether rows (B, F) leave it."""
    made = cls()
    for name, module in dense._modules.items():
        where = f"{path}{name}"
        if isinstance(module, torch.nn.Sequential):
            twin.check_twin(cls, module, torch.nn.Sequential)
            child, flat = _graph_form(cls, module, f"{where}.", done, flat=flat)
        else:
            child = done.get(id(module))
            _check_place(where, module, flat=flat)
            if child is None:
                layer = _twin_of(type(module))
                child = copy.deepcopy(module) if layer is None else layer.from_dense(module)
            flat = flat or isinstance(module, torch.nn.Flatten)
        done[id(module)] = child
        made.add_module(name, child)
    return made.train(dense.training), flat


def _dense_form(net: Any, path: str, done: _Done, *, flat: bool) -> tuple[Any, bool]:
    """Return the torch form of a Sequential of graph layers, and whether rows (B, F) leave it."""
    made = torch.nn.Sequential()
    for name, module in net._modules.items():
        where = f"{path}{name}"
        if isinstance(module, Sequential):
            child, flat = _dense_form(module, f"{where}.", done, flat=flat)
        elif getattr(module, "takes_graph", False):
            if not hasattr(module, "to_dense"):
                raise ConversionError(
                    f"Sequential.to_dense: child {where!r}, a {type(module).__name__}, has no "
                    "dense twin"
                )
            child = done.get(id(module)) or module.to_dense()
            for part in child.modules():
                _check_place(where, part, flat=flat)
            flat = flat or isinstance(module, flatten.GraphFlatten)
        else:
            _check_place(where, module, flat=flat)
            child = done.get(id(module)) or copy.deepcopy(module)
        done[id(module)] = child
        made.add_module(name, child)
    return made.train(net.training), flat


def _twin_of(kind: type[torch.nn.Module]) -> Any:
    """The graph layer of a torch class, or None."""
    if not kind.__module__.startswith("torch.nn."):
        return None
    if issubclass(kind, torch.nn.Upsample):
        return resize.GraphUpsample
    return TWINS.get(f"Graph{kind.__name__}")


def _check_place(where: str, module: torch.nn.Module, *, flat: bool) -> None:
    """Refuse a torch module that is not the same on nodes and on an image, at this place."""
    kind, own = type(module).__name__, type(module).__module__.startswith("torch.nn.")
    problem = None
    if own and kind in torch_modules.ELEMENTWISE | torch_modules.BY_CHANNEL | {"Sequential"}:
        return
    if own and kind in torch_modules.ALONG_A_DIMENSION:
        if getattr(module, "dim", None) not in ((None, 1, -1) if flat else (None, 1)):
            problem = f"{module} does not run over channels, dim=1"
    elif own and (
        kind in torch_modules.LAST_AXIS
        or (kind == "LayerNorm" and len(getattr(module, "normalized_shape", ())) == 1)
    ):
        if not flat:
            problem = (
                f"{kind} reads the last axis: channels of a node, but columns of an image; "
                "put a Flatten before it"
            )
    elif _twin_of(type(module)) is None:
        problem = f"{kind} is no layer with a graph twin and no known node transform"
    elif flat and kind not in torch_modules.READS_ROWS:
        problem = f"{kind} reads an image, but after a Flatten there is none"
    if problem is not None:
        raise ConversionError(f"Sequential: child {where!r} cannot be converted: {problem}")
