"""Graph convolutions: the parameters of a torch convolution, run by sending messages.

    y[p] = b + sum over edges (q, p, t) of  W[:, :, t] x[q]

`GraphConvNd` is a PyG MessagePassing; read its `message` and `aggregate` and you have read the
equation. The numbered classes in `convgraph.nn.convs` only fix the dimension, so that their
arguments are torch's.
"""

from dataclasses import replace
from math import sqrt
from typing import Any, ClassVar, Optional, Self

import torch
from torch import Tensor
from torch.nn import init
from torch_geometric.nn import MessagePassing

from convgraph import backends
from convgraph.backends.messages import edges as messages
from convgraph.backends.problem import Problem
from convgraph.errors import (
    GeometryError,
    GraphError,
    ShapeError,
    UnsupportedError,
)
from convgraph.functional import conv as functional
from convgraph.functional import prepared
from convgraph.geometry.kernel import KernelGeometry, as_int
from convgraph.graph.edges import Edges, connect
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.graph.typed_edges import TypedEdges
from convgraph.nn import twin
from convgraph.nn.loading import FromFile

_OF_THE_CLASS = frozenset(
    {"inspector", "_user_args", "_fused_user_args", "_edge_user_args", "aggr_module"}
)
"""Attributes that PyG derives from a class: from its signatures, and that it sums."""


class GraphConvNd(FromFile, MessagePassing):  # type: ignore[misc]  # PyG ships no types for it
    """A convolution on the typed edges of a d-dimensional pixel graph, or of any typed graph.

    Use GraphConv1d, GraphConv2d, GraphConv3d or their transposed forms; this class holds what they
    share. The layer has torch's parameters under torch's names (`weight`, `bias`), so a
    `state_dict` moves both ways as it is.

    Args:
        in_channels: features per source node.
        out_channels: features per target node.
        geometry: the kernel's integers; their number of taps is the number of edge types.
        groups: blocks of channels that do not mix; divides both channel numbers.
        bias: whether a bias is added, once per target node.
        device: of the parameters.
        dtype: of the parameters, floating.
        backend: forces one of `convgraph.backends.NAMES`; None leaves the choice to the cost model.
        flow: "source_to_target" (row 0 of edge_index sends) or "target_to_source", as in PyG.

    Attributes:
        padding_name: "same" or "valid" where the padding was given by name, for `to_dense`.

    Raises:
        GeometryError: a number is not an integer or out of range, or groups do not divide.
        BackendError: no backend has that name.

    Example:
        >>> layer = GraphConvNd(2, 4, KernelGeometry(3, padding=1))
        >>> edge_index = torch.tensor([[0, 1, 2], [1, 2, 0]])
        >>> layer(torch.ones(3, 2), edge_index, torch.tensor([0, 8, 4])).shape
        torch.Size([3, 4])
    """

    takes_graph: ClassVar[bool] = True

    # What PyG reads to generate `propagate`; the comment is its syntax.
    # propagate_type: (Wx: Tensor, edge_type: Tensor, edge_weight: Optional[Tensor])

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        geometry: KernelGeometry,
        groups: int = 1,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        backend: str | None = None,
        flow: str = "source_to_target",
    ) -> None:
        """Check the numbers, make the parameters, draw them as torch does."""
        super().__init__(aggr="sum", node_dim=-2, flow=flow)
        self._be_one_layer()
        who = type(self).__name__
        self.in_channels = as_int(f"{who}: in_channels", in_channels, least=1)
        self.out_channels = as_int(f"{who}: out_channels", out_channels, least=1)
        self.groups = as_int(f"{who}: groups", groups, least=1)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise GeometryError(
                f"{who}: groups={groups} must divide in_channels={in_channels} and "
                f"out_channels={out_channels}"
            )
        self.geometry = geometry
        self.padding_name: str | None = None
        self.backend = backends.check_name(backend)
        rows, columns = self.out_channels, self.in_channels
        if geometry.transposed:
            rows, columns = columns, rows
        shape = (rows, columns // self.groups, *geometry.kernel_size)
        self.weight = torch.nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        if bias:
            self.bias = torch.nn.Parameter(
                torch.empty(self.out_channels, device=device, dtype=dtype)
            )
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle all but what PyG finds out about the class, which no file has to say."""
        return {
            key: value
            for key, value in self.__dict__.items()
            if key not in _OF_THE_CLASS and not (key.endswith("_hooks") and not value)
        }

    def __setstate__(self, state: Any) -> None:
        """Take a pickled state, if it is one of such a layer."""
        MessagePassing.__init__(self, aggr="sum", node_dim=-2)
        self._be_one_layer()
        super().__setstate__(state)

    def _be_one_layer(self) -> None:
        """Have no module inside, as torch's layers: tools count and walk what has none."""
        self.__dict__["aggr_module"] = self._modules.pop("aggr_module")

    def reset_parameters(self) -> None:
        """Draw weight and bias as torch's convolutions do: the same seed gives the same numbers."""
        init.kaiming_uniform_(self.weight, a=sqrt(5))
        if self.bias is not None:
            fan_in, _ = init._calculate_fan_in_and_fan_out(self.weight)
            if fan_in:
                init.uniform_(self.bias, -1 / sqrt(fan_in), 1 / sqrt(fan_in))

    # -- the equation -------------------------------------------------------------------------

    def message(
        self,
        Wx: Tensor,  # noqa: N803 - (N, K, C_out); Wx[q, t] = W[:, :, t] x[q], once per node
        edge_index_j: Tensor,  # (E,) q, the node that speaks
        edge_type: Tensor,  # (E,) t, the tap it speaks through
        edge_weight: Optional[Tensor],  # noqa: UP045 - PyG reads this form only; (E,)
    ) -> Tensor:
        """Message of the edge q --t--> p:  W[:, :, t] x[q]."""
        return messages.along_edges(Wx, edge_index_j, edge_type, edge_weight)

    def aggregate(self, inputs: Tensor, index: Tensor, dim_size: int) -> Tensor:
        """y[p] = the sum of the messages into p, in an order that repeats."""
        return messages.sum_by_target(inputs, index, dim_size)

    # -- calling ------------------------------------------------------------------------------

    def forward(
        self,
        x: PixelGraph | Tensor | tuple[Tensor, Tensor | None],
        edge_index: Tensor | TypedEdges | None = None,
        edge_type: Tensor | None = None,
        edge_weight: Tensor | None = None,
        size: tuple[int | None, int | None] | None = None,
        *,
        sites: Any = None,
    ) -> PixelGraph | Tensor:
        """Send the messages.

        Args:
            x: a PixelGraph, whose edges the layer knows; or, as in PyG, features (N, C_in) with
                the edges in the next arguments, (B, N, C_in) for B feature sets on one graph, or a
                pair (x_src, x_dst) for a bipartite graph.
            edge_index: (2, E) integers; row 0 sends unless flow says otherwise. Or `TypedEdges`,
                which are sorted once and kept.
            edge_type: (E,) integers in [0, num_taps); may be left out for one tap.
            edge_weight: (E,) factors of the messages.
            size: (number of sources, number of targets) for a bipartite graph.
            sites: with a PixelGraph, names the output sites; see `convgraph.connect`.

        Returns:
            A PixelGraph on the output sites for a PixelGraph; else (P, C_out) or (B, P, C_out).

        Raises:
            GraphError: edges with a PixelGraph, or features without edges.
            ShapeError, DtypeError, DeviceError, EdgeError, GeometryError, BackendError: as
                `convgraph.functional.graph_conv` and `typed_conv` say.
        """
        tapped = self._tapped()
        if isinstance(x, PixelGraph):
            if edge_index is not None or edge_type is not None or edge_weight is not None:
                raise GraphError(
                    f"{self._who()}: a PixelGraph brings its own edges; pass graph.x to use others"
                )
            if sites is None and not tapped and self.backend is None:
                try:
                    y = prepared.convolved(x, self.weight, self.bias, self.geometry, self.groups)
                except RuntimeError:
                    y = None  # the general way says what does not fit
                if y is not None:
                    return y
            return functional.graph_conv(
                x,
                self.weight,
                self.bias,
                geometry=self.geometry,
                groups=self.groups,
                sites=sites,
                backend=self.backend,
                propagate=self.propagate,
                tapped=tapped,
                who=self._who(),
            )
        who = self._who()
        if isinstance(edge_index, TypedEdges):
            if isinstance(x, tuple) or edge_type is not None or edge_weight is not None:
                raise GraphError(
                    f"{who}: TypedEdges bring types, weights and sizes; pass features x alone"
                )
            return functional.listed_conv(
                x,
                edge_index,
                self.weight,
                self.bias,
                geometry=self.geometry,
                groups=self.groups,
                backend=self.backend,
                propagate=self.propagate,
                tapped=tapped,
                who=who,
            )
        if edge_index is None:
            raise GraphError(
                f"{who}: expected a PixelGraph, or features with edge_index and edge_type; "
                "wrap an image with PixelGraph.from_image(image)"
            )
        features, num_targets = self._ends(x, size)
        if self.flow == "target_to_source" and isinstance(edge_index, Tensor):
            edge_index = edge_index.flip(0)
        return functional.typed_conv(
            features,
            edge_index,
            edge_type,
            edge_weight,
            self.weight,
            self.bias,
            num_targets=num_targets,
            geometry=self.geometry,
            groups=self.groups,
            backend=self.backend,
            propagate=self.propagate,
            tapped=tapped,
            who=who,
        )

    def edges(self, graph: PixelGraph, sites: Any = None) -> Edges:
        """Return who talks to whom when this layer meets the graph; see `convgraph.connect`."""
        return connect(self.geometry, graph, sites)

    def problem(self, graph: PixelGraph, sites: Any = None) -> Problem:
        """Return what the choice of a backend sees of this layer on a graph; see `cg.explain`."""
        functional.check_weight(
            graph.x, self.weight, self.bias, self.geometry, self.groups, self._who()
        )
        edges = self.edges(graph, sites)
        return functional.conv_problem(
            graph.x, self.weight, edges, self.geometry, self.groups, tapped=self._tapped()
        )

    def _ends(
        self,
        x: Tensor | tuple[Tensor, Tensor | None],
        size: tuple[int | None, int | None] | None,
    ) -> tuple[Tensor, int]:
        """Return the sending features and the number of targets."""
        receiving = None
        if isinstance(x, (tuple, list)):
            if len(x) != 2:
                raise GraphError(
                    f"{self._who()}: expected a pair (x_src, x_dst), got {len(x)} entries"
                )
            x, receiving = x
        for name, rows in (("x", x), ("x_dst", receiving)):
            if rows is None and name == "x_dst":
                continue
            if not isinstance(rows, Tensor):
                raise GraphError(
                    f"{self._who()}: expected {name} as a tensor, got {type(rows).__name__}"
                )
            if rows.dim() < 2:
                raise ShapeError(
                    f"{self._who()}: expected {name} of shape (N, C) or (B, N, C), "
                    f"got {tuple(rows.shape)}"
                )
        if not (size is None or (isinstance(size, (tuple, list)) and len(size) == 2)):
            raise GraphError(
                f"{self._who()}: expected size=(sources, targets) for a bipartite graph, "
                f"got {size!s:.60}"
            )
        n_source, n_target = size if size is not None else (None, None)
        if self.flow == "target_to_source":
            n_source, n_target = n_target, n_source
        if n_source is not None and n_source != x.shape[-2]:
            raise ShapeError(
                f"{self._who()}: size={size} names {n_source} sources but x has {x.shape[-2]} rows"
            )
        if receiving is not None:
            if n_target is not None and n_target != receiving.shape[-2]:
                raise ShapeError(
                    f"{self._who()}: size={size} names {n_target} targets but x_dst has "
                    f"{receiving.shape[-2]} rows"
                )
            return x, receiving.shape[-2]
        return x, x.shape[-2] if n_target is None else n_target

    def _tapped(self) -> bool:
        """Whether a PyG hook or an explainer listens to the messages of this layer."""
        if self.decomposed_layers != 1:
            raise UnsupportedError(
                f"{self._who()}: decomposed_layers={self.decomposed_layers} is refused; "
                "messages of a convolution are already computed once per node"
            )
        return bool(
            self.explain
            or self._propagate_forward_pre_hooks
            or self._propagate_forward_hooks
            or self._message_forward_pre_hooks
            or self._message_forward_hooks
            or self._aggregate_forward_pre_hooks
            or self._aggregate_forward_hooks
        )

    # -- the dense twin -----------------------------------------------------------------------

    @classmethod
    def from_dense(cls, dense: torch.nn.Module) -> Self:
        """Return the layer of a torch convolution, parameters copied bit for bit.

        Args:
            dense: the torch module whose name the class carries.

        Raises:
            ConversionError: another type of module, or a lazy one that was never called.
        """
        layer: Self = twin.conv_from_dense(cls, dense)
        return layer

    def to_dense(self) -> Any:
        """Return the torch convolution with the same parameters, copied bit for bit.

        Raises:
            ConversionError: the padding differs before and after, or the kernel has a footprint;
                no torch layer takes either.
        """
        return twin.conv_to_dense(self)

    # -- what it says about itself --------------------------------------------------------------

    # Assigned like torch's, for example to dilate the last stages of a network.

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Taps along each axis; the weight says so, and nobody assigns it."""
        return tuple(self.geometry.kernel_size)

    @property
    def stride(self) -> tuple[int, ...]:
        """Pixels between neighbouring output sites."""
        return tuple(self.geometry.stride)

    @stride.setter
    def stride(self, value: Any) -> None:
        self._assign(stride=value)

    @property
    def dilation(self) -> tuple[int, ...]:
        """Pixels between neighbouring taps."""
        return tuple(self.geometry.dilation)

    @dilation.setter
    def dilation(self, value: Any) -> None:
        self._assign(dilation=value)

    @property
    def padding(self) -> tuple[tuple[int, int], ...]:
        """Pixels (before, after) along each axis."""
        return tuple(self.geometry.padding)

    @padding.setter
    def padding(self, value: Any) -> None:
        self._assign(padding=value)
        self.padding_name = value if isinstance(value, str) else None

    @property
    def padding_mode(self) -> str | tuple[str, ...]:
        """What a tap outside the lattice means; one word an axis where they differ."""
        mode: str | tuple[str, ...] = self.geometry.padding_mode
        return mode

    @padding_mode.setter
    def padding_mode(self, value: Any) -> None:
        self._assign(padding_mode=value)

    @property
    def output_padding(self) -> tuple[int, ...]:
        """Sites more after each axis, of a transposed convolution."""
        return tuple(self.geometry.output_padding)

    @output_padding.setter
    def output_padding(self, value: Any) -> None:
        self._assign(output_padding=value)

    def _assign(self, **given: Any) -> None:
        """Be a layer of another geometry, with the same weight."""
        padding = self.padding_name or self.geometry.padding
        self.geometry = replace(self.geometry, **{"padding": padding, **given})

    def _who(self) -> str:
        return (
            f"{type(self).__name__}({self.in_channels}, {self.out_channels}, "
            f"kernel_size={self.geometry.kernel_size})"
        )

    def __repr__(self) -> str:
        """Show what differs from the defaults, as torch does."""
        g = self.geometry
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={g.kernel_size}"]
        parts.append(f"stride={g.stride}")
        if any(a or b for a, b in g.padding):
            even = all(a == b for a, b in g.padding)
            parts.append(f"padding={tuple(a for a, _ in g.padding) if even else g.padding}")
        if set(g.dilation) != {1}:
            parts.append(f"dilation={g.dilation}")
        if any(g.output_padding):
            parts.append(f"output_padding={g.output_padding}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if g.padding_mode != "zeros":
            parts.append(f"padding_mode={g.padding_mode!r}")
        if g.footprint is not None:
            parts.append(f"footprint of {sum(g.footprint)} taps")
        if self.backend is not None:
            parts.append(f"backend={self.backend!r}")
        return f"{type(self).__name__}({', '.join(parts)})"
