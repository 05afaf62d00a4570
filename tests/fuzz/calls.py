"""Malformed calls by a grammar: one argument of a public call is of another kind, shape or dtype.

A call has to succeed, or to raise an error of ours; a raw error of Python or torch is a finding.
"""

import argparse
import random
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import convgraph as cg
from convgraph import functional as G
from convgraph.errors import ConvgraphError
from tests.fuzz.children import Found, attacked

CALLS: dict[str, tuple[Callable[..., Any], Callable[[], dict[str, Any]]]] = {
    "from_image": (
        cg.PixelGraph.from_image,
        lambda: {"image": torch.rand(2, 3, 4, 5), "mask": torch.rand(2, 4, 5) > 0.5, "d": 2},
    ),
    "PixelGraph": (
        cg.PixelGraph,
        lambda: {"x": torch.rand(20, 3), "sites": cg.Sites.full(1, (4, 5))},
    ),
    "with_x": (lambda x: _graph().with_x(x), lambda: {"x": torch.rand(40, 2)}),
    "map": (lambda y: _graph().map(lambda x: y), lambda: {"y": torch.rand(40, 2)}),
    "concat": (cg.PixelGraph.concat, lambda: {"graphs": [_graph(), _graph()]}),
    "full": (cg.Sites.full, lambda: {"batch_size": 2, "size": (4, 5), "device": "cpu"}),
    "from_mask": (cg.Sites.from_mask, lambda: {"mask": torch.rand(2, 4, 5) > 0.5}),
    "ragged": (cg.Sites.ragged, lambda: {"sizes": [(2, 3), (4, 4)], "masks": None}),
    "KernelGeometry": (
        cg.KernelGeometry,
        lambda: {"kernel_size": 3, "stride": 1, "padding": 1, "dilation": 1, "d": 2},
    ),
    "connect": (cg.connect, lambda: {"relation": _geometry(), "graph": _graph(), "sites": None}),
    "GraphConv2d": (
        cg.nn.GraphConv2d,
        lambda: {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "padding": 1, "groups": 1},
    ),
    "layer": (lambda graph: cg.nn.GraphConv2d(3, 4, 3)(graph), lambda: {"graph": _graph()}),
    "graph_conv": (
        G.graph_conv,
        lambda: {
            "graph": _graph(), "weight": torch.rand(4, 3, 3, 3), "bias": torch.rand(4),
            "geometry": _geometry(), "groups": 1,
        },
    ),
    "typed_conv": (
        G.typed_conv,
        lambda: {
            "x": torch.rand(5, 3), "edge_index": torch.tensor([[0, 1], [2, 3]]),
            "edge_type": torch.tensor([0, 8]), "edge_weight": torch.rand(2),
            "weight": torch.rand(4, 3, 3, 3), "bias": None, "num_targets": 5,
            "geometry": _geometry(), "groups": 1,
        },
    ),
    "graph_max_pool": (
        G.graph_max_pool,
        lambda: {"graph": _graph(), "geometry": cg.KernelGeometry(2, stride=2)},
    ),
    "graph_avg_pool": (
        G.graph_avg_pool,
        lambda: {"graph": _graph(), "geometry": cg.KernelGeometry(2, stride=2)},
    ),
    "global pool": (lambda g: cg.nn.GraphGlobalAvgPool()(g), lambda: {"g": _graph()}),
    "explain": (cg.explain, lambda: {"layer": cg.nn.GraphConv2d(3, 4, 3), "graph": _graph()}),
    "prove": (
        cg.prove,
        lambda: {
            "candidate": cg.nn.GraphConv2d(1, 1, 1), "reference": torch.nn.Conv2d(1, 1, 1),
            "size": (2, 2), "epsilon": 1e-9, "seed": 1,
        },
    ),
    "from_data": (lambda name, value: _from(name, value), lambda: {
        "name": "batch", "value": _graph().to_data().batch,
    }),
}  # fmt: skip
"""Name -> a public call, and arguments that it takes."""


def _graph() -> cg.PixelGraph:
    return cg.PixelGraph.from_image(torch.rand(2, 3, 4, 5))


def _geometry() -> cg.KernelGeometry:
    return cg.KernelGeometry(3, padding=1)


def _from(name: Any, value: Any) -> cg.PixelGraph:
    data = _graph().to_data()
    setattr(data, str(name), value)
    return cg.PixelGraph.from_data(data)


VALUES: dict[str, Callable[[Any], Any]] = {
    "None": lambda v: None,
    "a string": lambda v: "three",
    "a number": lambda v: 3,
    "zero": lambda v: 0,
    "minus one": lambda v: -1,
    "a float": lambda v: 1.5,
    "nan": lambda v: float("nan"),
    "a large number": lambda v: 2**62,
    "True": lambda v: True,
    "complex": lambda v: 1j,
    "an array": lambda v: np.ones((2, 3, 4, 5), dtype=np.float32),
    "a list": lambda v: [1, 2, 3],
    "an empty list": lambda v: [],
    "a dict": lambda v: {"a": 1},
    "a class": lambda v: torch.nn.Conv2d,
    "an object": lambda v: object(),
    "a scalar tensor": lambda v: torch.tensor(1.0),
    "an image": lambda v: torch.rand(2, 3, 4, 5),
    "no elements": lambda v: torch.rand(0, 3, 4, 5),
    "integers": lambda v: v.long() if isinstance(v, torch.Tensor) else torch.ones(3).long(),
    "complex numbers": lambda v: v.cfloat() if isinstance(v, torch.Tensor) else torch.ones(3) * 1j,
    "bools": lambda v: v.bool() if isinstance(v, torch.Tensor) else torch.ones(3).bool(),
    "halves": lambda v: v.half() if isinstance(v, torch.Tensor) else torch.ones(3).half(),
    "doubles": lambda v: v.double() if isinstance(v, torch.Tensor) else torch.ones(3).double(),
    "fractions": lambda v: (
        v + 0.7 if isinstance(v, torch.Tensor) and v.dtype != torch.bool else 0.7
    ),
    "eighths": lambda v: torch.ones(2, 3, 4, 5).to(torch.float8_e4m3fn),
    "sparse": lambda v: v.to_sparse() if isinstance(v, torch.Tensor) else torch.eye(3).to_sparse(),
    "on meta": lambda v: v.to("meta") if isinstance(v, torch.Tensor) else torch.ones(3).to("meta"),
    "nested": lambda v: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "one axis more": lambda v: v.unsqueeze(0) if isinstance(v, torch.Tensor) else (v, v),
    "one axis less": lambda v: v[0] if isinstance(v, torch.Tensor) and v.dim() else v,
    "shorter": lambda v: v[:-1] if isinstance(v, torch.Tensor) and v.dim() else v,
    "a device": lambda v: torch.device("meta"),
    "a module": lambda v: torch.nn.ReLU(),
}
"""Name -> what stands in an argument's place."""


def draw(dice: random.Random) -> tuple[str, str, str]:
    """Draw a call, one of its arguments, and what stands in its place."""
    call = dice.choice(list(CALLS))
    return call, dice.choice(list(CALLS[call][1]())), dice.choice(list(VALUES))


def judge(drawn: tuple[str, str, str]) -> str:
    """Return "", or the raw error."""
    call, argument, value = drawn
    function, arguments = CALLS[call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = arguments()
        try:
            given[argument] = VALUES[value](given[argument])
        except (RuntimeError, TypeError, NotImplementedError):
            return ""  # torch itself has no such thing
        try:
            function(**given)
        except ConvgraphError as error:
            return "" if len(str(error)) > 10 else f"says nothing: {error}"
    return ""


def search(count: int, seed: int, seconds: float) -> tuple[int, list[Found]]:
    """Return how many calls were made, and which raised something raw."""
    torch.set_num_threads(1)
    dice, start, done = random.Random(seed), time.monotonic(), 0
    wrong: list[Found] = []
    every = [(c, a, v) for c in CALLS for a in CALLS[c][1]() for v in VALUES]
    dice.shuffle(every)
    every = every[:count]
    while done < len(every) and time.monotonic() - start < seconds:
        draws = every[done : done + 200]
        wrong += [found for found in attacked(draws, judge, 200) if found is not None]
        done += len(draws)
    return done, wrong


def main() -> int:
    """Print what was found; 1 if anything was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=10**6)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3600)
    given = parser.parse_args()
    done, wrong = search(given.draws, given.seed, given.seconds)
    for found in wrong:
        sys.stdout.write(f"{found.draw}: {found.what}\n")
    sys.stdout.write(f"{done} malformed calls, {len(wrong)} raised something raw\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
