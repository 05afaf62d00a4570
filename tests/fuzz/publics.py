"""Every public name, with arguments that it takes: what malformed calls start from.

Layers follow from their signatures: what has a default keeps it, the rest is in `REQUIRED`.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

import convgraph as cg
from convgraph import functional as G
from convgraph import proof as P
from convgraph.proof.equation.maximum_windows import kernel_axis, windows

Call = tuple[Callable[..., Any], Callable[[], dict[str, Any]]]

REQUIRED: dict[str, Any] = {
    "in_channels": 8, "out_channels": 8, "kernel_size": 2, "output_size": 3, "num_features": 8,
    "num_groups": 2, "num_channels": 8, "normalized_shape": 8, "norm_type": 2.0,
    "upscale_factor": 2, "downscale_factor": 2,
}  # fmt: skip
"""Argument of a layer -> a value that a graph of 8 channels on 4 pixels an axis takes."""

SPECIAL: dict[str, dict[str, Any]] = {
    "GraphUpsample": {"scale_factor": 2},
    "GraphFold": {"output_size": 5},
    "GraphConvNd": {"geometry": cg.KernelGeometry(2)},
}
"""Layer -> what it needs beside that."""

TWINS: dict[str, Any] = {
    "Sequential": torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)),
    "GraphUpsample": torch.nn.Upsample(scale_factor=2),
    "GraphFlatten": torch.nn.Flatten(),
    "DepthwiseConv": torch.nn.Conv2d(2, 2, 3, groups=2),
    "PointwiseConv": torch.nn.Conv2d(2, 2, 1),
}
"""Layer -> a dense twin, where the name is not torch's."""


def graph(d: int = 2, channels: int = 8) -> cg.PixelGraph:
    """Two images of 4 pixels an axis."""
    return cg.PixelGraph.from_image(torch.rand(2, channels, *(4,) * d), d=d)


def geometry() -> cg.KernelGeometry:
    """A kernel of nine taps."""
    return cg.KernelGeometry(3, padding=1)


def window() -> cg.KernelGeometry:
    """A pool's."""
    return cg.KernelGeometry(2, stride=2)


def typed() -> cg.TypedEdges:
    """Two edges between five nodes."""
    edges = torch.tensor([[0, 1], [2, 3]])
    return cg.TypedEdges(edges, torch.tensor([0, 8]), torch.rand(2), 5, num_taps=9)


def _net() -> Any:
    return cg.nn.Sequential(cg.nn.GraphConv2d(8, 8, 3, padding=1), torch.nn.ReLU())


def _dense() -> Any:
    return torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.ReLU())


def _converted() -> Any:
    return cg.to_graph(_dense(), torch.rand(2, 8, 4, 4))


def _data(name: Any, value: Any) -> Any:
    data = graph().to_data(geometry())
    setattr(data, str(name), value)
    return cg.PixelGraph.from_data(data)


def _identity(x: Any, w: Any, b: Any) -> Any:
    return torch.conv2d(x, w, b)


def _spec() -> P.ConvSpec:
    return P.ConvSpec(1, 1, (2, 2), (3, 3))


def _blocked(name: Any) -> Any:
    with cg.backend(name):
        return cg.nn.GraphConv2d(8, 8, 3)(graph())


CALLS: dict[str, Call] = {
    "PixelGraph": (
        cg.PixelGraph,
        lambda: {"x": torch.rand(20, 3), "sites": cg.Sites.full(1, (4, 5))},
    ),
    "PixelGraph.from_image": (
        cg.PixelGraph.from_image,
        lambda: {
            "image": torch.rand(2, 3, 4, 5),
            "mask": torch.rand(2, 4, 5) > 0.5,
            "d": 2,
            "on": None,
        },
    ),
    "PixelGraph.from_image of a list": (
        lambda one, other, mask: cg.PixelGraph.from_image([one, other], [mask, None]),
        lambda: {
            "one": torch.rand(3, 4, 5),
            "other": torch.rand(3, 2, 2),
            "mask": torch.rand(4, 5) > 0.5,
        },
    ),
    "PixelGraph.to_image": (lambda fill: graph().to_image(fill), lambda: {"fill": 0.0}),
    "PixelGraph.to_images": (lambda fill: graph().to_images(fill), lambda: {"fill": 0.0}),
    "PixelGraph.with_x": (lambda x: graph().with_x(x), lambda: {"x": torch.rand(32, 2)}),
    "PixelGraph.map": (lambda y: graph().map(lambda x: y), lambda: {"y": torch.rand(32, 2)}),
    "PixelGraph.map by": (
        lambda transform: graph().map(transform),
        lambda: {"transform": torch.relu},
    ),
    "PixelGraph.to": (lambda to: graph().to(to), lambda: {"to": torch.float64}),
    "PixelGraph.to_data": (
        lambda geometry, y: graph().to_data(geometry, y=y),
        lambda: {"geometry": geometry(), "y": torch.zeros(2)},
    ),
    "PixelGraph.to_data_list": (
        lambda geometry: graph().to_data_list(geometry),
        lambda: {"geometry": geometry()},
    ),
    "PixelGraph.to_networkx": (
        lambda geometry: graph().to_networkx(geometry),
        lambda: {"geometry": geometry()},
    ),
    "PixelGraph.from_data": (
        lambda data, batched: cg.PixelGraph.from_data(data, batched=batched),
        lambda: {"data": graph().to_data(), "batched": True},
    ),
    **{
        f"PixelGraph.from_data with {name}": (
            partial(_data, name),
            lambda name=name: {"value": graph().to_data(geometry())[name]},
        )
        for name in ("x", "pos", "image_size", "image_nodes", "batch", "edge_index", "edge_type")
    },
    "PixelGraph.concat": (cg.PixelGraph.concat, lambda: {"graphs": [graph(), graph()]}),
    "PixelGraph.concat of": (
        lambda one: cg.PixelGraph.concat([graph(), one]),
        lambda: {"one": graph()},
    ),
    "Sites.full": (
        cg.Sites.full,
        lambda: {"batch_size": 2, "size": (4, 5), "device": "cpu", "batched": True, "space": None},
    ),
    "Sites.from_mask": (
        cg.Sites.from_mask,
        lambda: {"mask": torch.rand(2, 4, 5) > 0.5, "batched": True, "space": None},
    ),
    "Sites.ragged": (
        cg.Sites.ragged,
        lambda: {
            "sizes": [(2, 3), (4, 4)],
            "masks": None,
            "device": "cpu",
            "batched": True,
            "space": None,
        },
    ),
    "Sites.ragged of": (
        lambda one, mask: cg.Sites.ragged([one, (4, 4)], [mask, None]),
        lambda: {"one": (2, 3), "mask": torch.rand(2, 3) > 0.5},
    ),
    "Sites.to": (lambda device: graph().sites.to(device), lambda: {"device": "cpu"}),
    "KernelGeometry": (
        cg.KernelGeometry,
        lambda: {
            "kernel_size": 3,
            "stride": 1,
            "padding": 1,
            "dilation": 1,
            "padding_mode": "zeros",
            "transposed": False,
            "output_padding": 0,
            "ceil_mode": False,
            "d": 2,
            "footprint": None,
        },
    ),
    "KernelGeometry.output_size": (
        lambda size: geometry().output_size(size),
        lambda: {"size": (4, 5)},
    ),
    "KernelGeometry.axis_sources": (
        lambda axis, size: geometry().axis_sources(axis, size),
        lambda: {"axis": 0, "size": 4},
    ),
    "Edges": (
        lambda relation, source, target: cg.Edges(relation, source, target).edge_index,
        lambda: {"relation": geometry(), "source": graph().sites, "target": graph().sites},
    ),
    "connect": (
        lambda relation, graph, sites: cg.connect(relation, graph, sites).edge_index,
        lambda: {"relation": geometry(), "graph": graph(), "sites": None},
    ),
    "connect to": (
        lambda sites: cg.connect(geometry(), graph(), sites).edge_index,
        lambda: {"sites": torch.ones(2, 4, 4, dtype=torch.bool)},
    ),
    "TypedEdges": (
        lambda edge_index, edge_type, edge_weight, sizes, num_taps: cg.TypedEdges(
            edge_index, edge_type, edge_weight, sizes, num_taps=num_taps
        ).by_tap(),
        lambda: {
            "edge_index": torch.tensor([[0, 1], [2, 3]]),
            "edge_type": torch.tensor([0, 8]),
            "edge_weight": torch.rand(2),
            "sizes": 5,
            "num_taps": 9,
        },
    ),
    "TypedEdges.with_taps": (lambda num_taps: typed().with_taps(num_taps), lambda: {"num_taps": 9}),
    "ToPixelGraph": (
        lambda geometry, d, fields, image: cg.ToPixelGraph(geometry, d=d, fields=fields)(image),
        lambda: {"geometry": "3x3", "d": 2, "fields": (), "image": torch.rand(3, 4, 5)},
    ),
    "AsNodes": (
        lambda layer, parameters, typed: cg.AsNodes(layer, parameters, typed),
        lambda: {"layer": cg.nn.GraphConv2d(1, 1, 1), "parameters": None, "typed": True},
    ),
    "backend": (_blocked, lambda: {"name": "gather"}),
    "excite": (
        cg.excite,
        lambda: {"model": _dense(), "images": torch.rand(2, 8, 4, 4), "seed": 0},
    ),
    "explain": (
        cg.explain,
        lambda: {
            "layer": cg.nn.GraphConv2d(8, 4, 3),
            "graph": graph(),
            "sites": None,
            "measure": False,
        },
    ),
    "explore": (
        cg.explore,
        lambda: {"layer": cg.nn.GraphConv2d(3, 4, 3), "image": torch.rand(3, 5, 5)},
    ),
    "prove": (
        cg.prove,
        lambda: {
            "candidate": cg.nn.GraphConv2d(1, 1, 1),
            "reference": torch.nn.Conv2d(1, 1, 1),
            "images": None,
            "size": (2, 2),
            "batch": 2,
            "spec": None,
            "mask": None,
            "sites": None,
            "on": None,
            "footprint": None,
            "dtype": None,
            "device": None,
            "premise": False,
            "trust": (),
            "identity": "auto",
            "second": False,
            "scale": None,
            "epsilon": 1e-9,
            "seed": 1,
            "progress": False,
        },
    ),
    "receptive_field": (
        cg.receptive_field,
        lambda: {"net": _converted(), "pixel": (1, 1), "graph": graph()},
    ),
    "summary": (cg.summary, lambda: {"net": _converted(), "graph": graph()}),
    "to_graph": (
        lambda model, example, strict: cg.to_graph(model, example, strict=strict),
        lambda: {"model": _dense(), "example": torch.rand(2, 8, 4, 4), "strict": False},
    ),
    "to_dense": (cg.to_dense, lambda: {"net": _net()}),
    "a converted network": (
        lambda x: _converted()(x),
        lambda: {"x": graph()},
    ),
    "halo": (cg.halo, lambda: {"net": _dense(), "size": (9, 9), "channels": 8}),
    "tiled": (
        cg.tiled,
        lambda: {
            "net": _dense(),
            "image": torch.rand(8, 9, 9),
            "tile": 4,
            "mask": None,
            "channels_last": False,
            "held": None,
            "statistics": "tiles",
        },
    ),
    "streamed": (
        lambda net, tile, x: cg.streamed(net, tile=tile)(x),
        lambda: {"net": _dense(), "tile": 4, "x": torch.rand(1, 8, 9, 9)},
    ),
    "sharded": (
        cg.sharded,
        lambda: {"net": _dense(), "mesh": None, "shares": None},
    ),
    "Torus": (cg.Torus, lambda: {"rows": True, "columns": True}),
    "Hexagonal": (cg.Hexagonal, lambda: {"layout": "axial"}),
    "Hexagonal.from_image": (
        cg.Hexagonal().from_image,
        lambda: {"image": torch.rand(1, 2, 6, 6), "mask": None, "align": 1},
    ),
    "Hexagonal.to_image": (
        lambda graph, size, fill, align: cg.Hexagonal().to_image(graph, size, fill, align),
        lambda: {
            "graph": cg.Hexagonal().from_image(torch.rand(1, 2, 6, 6)),
            "size": (6, 6),
            "fill": 0.0,
            "align": 1,
        },
    ),
    "Hexagonal.from_camera": (
        cg.Hexagonal().from_camera,
        lambda: {
            "charges": torch.rand(1, 1, 3),
            "pix_x": np.array([0.0, 1.0, 0.5]),
            "pix_y": np.array([0.0, 0.0, 0.866]),
            "pix_rotation": 0.0,
            "mask": None,
        },
    ),
    "HEALPix": (cg.HEALPix, lambda: {"corner": "hpxpad"}),
    "HEALPix.from_map": (
        cg.HEALPix().from_map,
        lambda: {"maps": torch.rand(1, 48), "order": "nest", "mask": None},
    ),
    "HEALPix.to_map": (
        cg.HEALPix().to_map,
        lambda: {"graph": cg.HEALPix().from_map(torch.rand(1, 48)), "order": "nest", "fill": 0.0},
    ),
    "Equirectangular": (cg.Equirectangular, lambda: {"taps": "tangent"}),
    "a space": (
        lambda image, on: cg.nn.GraphConv2d(2, 2, 3, padding=1)(
            cg.PixelGraph.from_image(image, on=on)
        ),
        lambda: {"image": torch.rand(1, 2, 4, 8), "on": cg.Torus()},
    ),
    "layer": (
        lambda graph, sites, backend: cg.nn.GraphConv2d(8, 4, 3, backend=backend)(
            graph, sites=sites
        ),
        lambda: {"graph": graph(), "sites": None, "backend": None},
    ),
    "layer on edges": (
        lambda x, edge_index, edge_type, edge_weight, size: cg.nn.GraphConv2d(3, 4, 3)(
            x, edge_index, edge_type, edge_weight, size
        ),
        lambda: {
            "x": torch.rand(5, 3),
            "edge_index": torch.tensor([[0, 1], [2, 3]]),
            "edge_type": torch.tensor([0, 8]),
            "edge_weight": torch.rand(2),
            "size": None,
        },
    ),
    "layer's edges": (
        lambda graph, sites: cg.nn.GraphConv2d(8, 4, 3).edges(graph, sites),
        lambda: {"graph": graph(), "sites": None},
    ),
    "layer's problem": (
        lambda graph, sites: cg.nn.GraphConv2d(8, 4, 3).problem(graph, sites),
        lambda: {"graph": graph(), "sites": None},
    ),
    "Sequential": (
        lambda one, two: cg.nn.Sequential(one, two)(graph()),
        lambda: {"one": cg.nn.GraphConv2d(8, 8, 3), "two": torch.nn.ReLU()},
    ),
    "Sequential.append": (
        lambda module: cg.nn.Sequential().append(module),
        lambda: {"module": torch.nn.ReLU()},
    ),
    "Sequential.insert": (
        lambda index, module: cg.nn.Sequential(torch.nn.ReLU()).insert(index, module),
        lambda: {"index": 0, "module": torch.nn.ReLU()},
    ),
    "Sequential.add_module": (
        lambda name, module: cg.nn.Sequential().add_module(name, module),
        lambda: {"name": "one", "module": torch.nn.ReLU()},
    ),
    "Sequential +": (
        lambda other: cg.nn.Sequential(torch.nn.ReLU()) + other,
        lambda: {"other": cg.nn.Sequential()},
    ),
    "Sequential on": (
        lambda x, sites: _net()(x, sites=sites),
        lambda: {"x": graph(), "sites": None},
    ),
    "graph_conv": (
        G.graph_conv,
        lambda: {
            "graph": graph(),
            "weight": torch.rand(4, 8, 3, 3),
            "bias": torch.rand(4),
            "geometry": geometry(),
            "groups": 1,
            "sites": None,
            "backend": None,
        },
    ),
    "typed_conv": (
        G.typed_conv,
        lambda: {
            "x": torch.rand(5, 3),
            "edge_index": torch.tensor([[0, 1], [2, 3]]),
            "edge_type": torch.tensor([0, 8]),
            "edge_weight": torch.rand(2),
            "weight": torch.rand(4, 3, 3, 3),
            "bias": None,
            "num_targets": 5,
            "geometry": geometry(),
            "groups": 1,
            "backend": None,
        },
    ),
    "graph_max_pool": (
        G.graph_max_pool,
        lambda: {"graph": graph(), "geometry": window(), "sites": None, "backend": None},
    ),
    "graph_avg_pool": (
        G.graph_avg_pool,
        lambda: {
            "graph": graph(),
            "geometry": window(),
            "count_include_pad": True,
            "divisor_override": None,
            "sites": None,
            "backend": None,
        },
    ),
    "graph_lp_pool": (
        G.graph_lp_pool,
        lambda: {
            "graph": graph(),
            "norm_type": 2.0,
            "geometry": window(),
            "sites": None,
            "backend": None,
        },
    ),
    "graph_fold": (
        G.graph_fold,
        lambda: {
            "graph": graph(),
            "output_size": 5,
            "kernel_size": 2,
            "dilation": 1,
            "padding": 0,
            "stride": 1,
            "sites": None,
            "backend": None,
        },
    ),
    "graph_unfold": (
        G.graph_unfold,
        lambda: {
            "graph": graph(),
            "kernel_size": 2,
            "dilation": 1,
            "padding": 0,
            "stride": 1,
            "sites": None,
            "backend": None,
        },
    ),
    "graph_pixel_shuffle": (
        G.graph_pixel_shuffle,
        lambda: {"graph": graph(), "upscale_factor": 2, "sites": None, "backend": None},
    ),
    "graph_pixel_unshuffle": (
        G.graph_pixel_unshuffle,
        lambda: {"graph": graph(), "downscale_factor": 2, "sites": None, "backend": None},
    ),
    "graph_resize": (
        G.graph_resize,
        lambda: {
            "graph": graph(),
            "size": None,
            "scale_factor": 2,
            "mode": "nearest",
            "align_corners": None,
            "recompute_scale_factor": None,
            "antialias": False,
            "sites": None,
            "backend": None,
        },
    ),
    "typed_avg_pool": (G.typed_avg_pool, lambda: {"x": torch.rand(5, 3), "edges": typed()}),
    "typed_max_pool": (G.typed_max_pool, lambda: {"x": torch.rand(5, 3), "edges": typed()}),
    "typed_resize": (G.typed_resize, lambda: {"x": torch.rand(5, 3), "edges": typed()}),
    "proof.ConvSpec": (
        P.ConvSpec,
        lambda: {
            "in_channels": 1,
            "out_channels": 1,
            "kernel_size": (2, 2),
            "size": (3, 3),
            "batch": 2,
            "stride": (1, 1),
            "padding": ((0, 0), (0, 0)),
            "dilation": (1, 1),
            "padding_mode": "zeros",
            "transposed": False,
            "output_padding": (0, 0),
            "groups": 1,
            "bias": True,
            "source_mask": None,
            "target_mask": None,
            "footprint": None,
            "space": None,
        },
    ),
    "proof.ConvSpec.from_dict": (P.ConvSpec.from_dict, lambda: {"found": _spec().to_dict()}),
    "proof.ConvSpec.from_dict with": (
        lambda key, value: P.ConvSpec.from_dict({**_spec().to_dict(), str(key): value}),
        lambda: {"key": "stride", "value": [1, 1]},
    ),
    "proof.Oracle": (
        lambda spec, way: P.Oracle(spec, way=way),
        lambda: {"spec": _spec(), "way": None},
    ),
    "proof.Oracle.convolve": (
        lambda x, w, b: P.Oracle(_spec()).convolve(x, w, b),
        lambda: {"x": np.ones((2, 1, 3, 3)), "w": np.ones((1, 1, 2, 2)), "b": np.ones(1)},
    ),
    "proof.Oracle.grad_x": (
        lambda w, g: P.Oracle(_spec()).grad_x(w, g),
        lambda: {"w": np.ones((1, 1, 2, 2)), "g": np.ones((2, 1, 2, 2))},
    ),
    "proof.Oracle.grad_w": (
        lambda x, g: P.Oracle(_spec()).grad_w(x, g),
        lambda: {"x": np.ones((2, 1, 3, 3)), "g": np.ones((2, 1, 2, 2))},
    ),
    "proof.Oracle.grad_b": (
        lambda g: P.Oracle(_spec()).grad_b(g),
        lambda: {"g": np.ones((2, 1, 2, 2))},
    ),
    "proof.bounds": (
        P.bounds,
        lambda: {
            "oracle": P.Oracle(_spec()),
            "x": np.ones((2, 1, 3, 3)),
            "w": np.ones((1, 1, 2, 2)),
            "b": np.ones(1),
            "g": np.ones((2, 1, 2, 2)),
            "dtype": torch.float32,
            "tf32": False,
            "within": False,
        },
    ),
    "proof.dot_bound": (
        P.dot_bound,
        lambda: {
            "terms": 5,
            "dtype": torch.float32,
            "magnitude": 1.0,
            "tf32": False,
            "within": False,
        },
    ),
    "proof.unit_roundoff": (P.unit_roundoff, lambda: {"dtype": torch.float32}),
    "proof.check_premise": (
        P.check_premise,
        lambda: {
            "run": _identity,
            "shapes": {"x": (1, 1, 3, 3), "w": (1, 1, 2, 2), "b": (1,)},
            "roles": None,
            "dtype": torch.float64,
            "device": "cpu",
            "a": 1,
            "trust": (),
            "second": False,
            "scale": 1,
            "entries": None,
        },
    ),
    "proof.prove_convolution": (
        P.prove_convolution,
        lambda: {
            "candidate": _identity,
            "reference": _identity,
            "spec": _spec(),
            "edges": None,
            "parameters": None,
            "premise": False,
            "trust": (),
            "identity": "auto",
            "dtype": torch.float64,
            "device": "cpu",
            "epsilon": 1e-9,
            "seed": 1,
            "name": "conv",
        },
    ),
    "proof.prove_linear": (
        P.prove_linear,
        lambda: {
            "candidate": torch.flatten,
            "reference": torch.flatten,
            "shape": (2, 3),
            "terms": None,
            "scale": 1,
            "premise": False,
            "trust": (),
            "dtype": torch.float64,
            "device": "cpu",
            "epsilon": 1e-9,
            "seed": 1,
            "name": "flat",
        },
    ),
    "proof.prove_maximum": (
        P.prove_maximum,
        lambda: {
            "candidate": torch.nn.MaxPool1d(2),
            "reference": torch.nn.MaxPool1d(2),
            "shape": (2, 3, 4),
            "windows": windows((4,), [kernel_axis(4, 2, 2, 0, 1, False)]),
            "premise": False,
            "trust": (),
            "dtype": torch.float64,
            "device": "cpu",
            "epsilon": 1e-9,
            "seed": 1,
            "name": "pool",
        },
    ),
    "proof.explain_refutation": (
        P.explain_refutation,
        lambda: {
            "candidate": _identity,
            "reference": _identity,
            "spec": _spec(),
            "edges": None,
            "dtype": torch.float64,
            "device": "cpu",
            "quantity": None,
            "seed": 0,
        },
    ),
    "proof.prove_all_sizes": (
        P.prove_all_sizes,
        lambda: {
            "kernel": 1,
            "modes": ("zeros",),
            "transposed": False,
            "builder": None,
            "timeout": 5.0,
        },
    ),
    "proof.Certificate.from_json": (P.Certificate.from_json, lambda: {"text": "{}"}),
    "proof.Counterexample.from_dict": (P.Counterexample.from_dict, lambda: {"found": {}}),
}
"""Name -> a public call, and arguments that it takes."""


def _dimension(name: str) -> int:
    return int(name[-2]) if name[-2:] in ("1d", "2d", "3d") else 2


def _built(kind: Any, dimension: int, /, **given: Any) -> Any:
    return kind(**given)(graph(dimension))


def _on(layer: Any, /, graph: Any, sites: Any) -> Any:
    return layer(graph, sites=sites)


def arguments(kind: Any, name: str) -> dict[str, Any]:
    known = {**REQUIRED, **SPECIAL.get(name, {})}
    return {
        key: known.get(key, parameter.default)
        for key, parameter in inspect.signature(kind).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def _add_layers() -> None:
    for name in cg.nn.__all__:
        if name == "Sequential":
            continue
        kind, d = getattr(cg.nn, name), _dimension(name)
        unpool = "Unpool" in name
        if name != "GraphFlatten":
            call = kind if unpool else partial(_built, kind, d)
            CALLS[f"nn.{name}"] = (call, partial(arguments, kind, name))
        if unpool:
            CALLS[f"nn.{name} on"] = (
                lambda kind=kind, **given: kind(2)(**given),
                lambda d=d: {"graph": graph(d), "indices": torch.zeros(2 * 4**d, 8).long(),
                             "output_size": None, "sites": None},
            )  # fmt: skip
        else:
            made = kind(**arguments(kind, name))
            CALLS[f"nn.{name} on"] = (
                partial(_on, made), lambda d=d: {"graph": graph(d), "sites": None},
            )  # fmt: skip
        if hasattr(kind, "from_dense"):
            CALLS[f"nn.{name}.from_dense"] = (
                kind.from_dense, lambda name=name, kind=kind: {"dense": _twin(name, kind)},
            )  # fmt: skip


def _twin(name: str, kind: Any) -> Any:
    if name in TWINS:
        return TWINS[name]
    found = getattr(torch.nn, name.removeprefix("Graph"), None)
    if found is None:
        return torch.nn.ReLU()
    taken = inspect.signature(found).parameters
    return found(**{k: v for k, v in arguments(kind, name).items() if k in taken})


_add_layers()
