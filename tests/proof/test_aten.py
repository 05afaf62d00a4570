"""The table of ATen facts: each operator is called, and does what the table says of it."""

import ast
from collections import OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from convgraph.proof import aten, trees
from convgraph.proof.layer.premise import linear_rules
from convgraph.proof.layer.premise.call import RULES

op = torch.ops.aten
LINE = torch.arange(1.0, 13).view(1, 2, 6)
IMAGE = torch.arange(1.0, 65).view(1, 4, 4, 4)
VOLUME = torch.arange(1.0, 129).view(1, 2, 4, 4, 4)
WHERE = torch.tensor([2, 0, 2])

KEEPS = {
    "clone": (IMAGE,),
    "index": (IMAGE, [None, WHERE]),
    "index_select": (IMAGE, 1, WHERE),
    "gather": (LINE, 2, torch.tensor([[[5, 0], [1, 1]]])),
    "take": (IMAGE, WHERE),
    "flip": (IMAGE, [2]),
    "roll": (IMAGE, [1], [3]),
    "rot90": (IMAGE, 1, [2, 3]),
    "repeat": (LINE, [2, 1, 3]),
    "repeat_interleave": (LINE, 2, 1),
    "tile": (LINE, [2]),
    "reflection_pad1d": (LINE, [1, 2]),
    "reflection_pad2d": (IMAGE, [1, 2, 0, 1]),
    "reflection_pad3d": (VOLUME, [1, 0, 0, 1, 1, 1]),
    "replication_pad1d": (LINE, [1, 2]),
    "replication_pad2d": (IMAGE, [1, 2, 0, 1]),
    "replication_pad3d": (VOLUME, [1, 0, 0, 1, 1, 1]),
    "pixel_shuffle": (IMAGE, 2),
    "pixel_unshuffle": (IMAGE, 2),
    "channel_shuffle": (IMAGE, 2),
    "native_channel_shuffle": (IMAGE, 2),
    "im2col": (IMAGE, [3, 3], [1, 1], [1, 1], [2, 2]),
    "upsample_nearest1d": (LINE, [9]),
    "upsample_nearest2d": (IMAGE, [7, 9]),
    "upsample_nearest3d": (VOLUME, [5, 6, 7]),
    "_upsample_nearest_exact1d": (LINE, [9]),
    "_upsample_nearest_exact2d": (IMAGE, [7, 9]),
    "_upsample_nearest_exact3d": (VOLUME, [5, 6, 7]),
    "contiguous": (IMAGE.mT,),
    "tril": (IMAGE,),
    "triu": (IMAGE, 1),
    "narrow_copy": (IMAGE, 1, 1, 2),
    "view_copy": (IMAGE, [16, 4]),
    "permute_copy": (IMAGE, [3, 0, 2, 1]),
    "_reshape_copy": (IMAGE, [16, 4]),
    "_to_copy": (IMAGE,),
    "diag_embed": (LINE,),
    "unfold_copy": (LINE, 2, 3, 2),
    "slice_backward": (LINE, [*LINE.shape[:-1], 2 * LINE.shape[-1]], LINE.dim() - 1, 1, 99, 2),
    "select_backward": (LINE, [*LINE.shape, 3], LINE.dim(), 1),
}
JOINS = {name: ([LINE, -LINE],) for name in ("cat", "stack", "hstack", "vstack")}
PUTS = {
    "slice_scatter": (LINE, -LINE[..., 1:5:2], 2, 1, 5, 2),
    "select_scatter": (LINE, -LINE[:, 1], 1, 1),
}
PLACES = {
    "index_copy": (IMAGE, 1, WHERE[:2], -IMAGE[:, :2]),
    "index_fill": (IMAGE, 1, WHERE[:2], -7.0),
}
PADS = {"constant_pad_nd": (IMAGE, [1, 2], -7.0), "pad": (IMAGE, [1, 2], "constant", -7.0)}


@pytest.mark.parametrize("table", ["KEEPS", "JOINS", "PUTS", "PLACES", "PADS"])
def test_every_operator_of_the_table_is_tried(table: str) -> None:
    assert set(globals()[table]) == getattr(aten, table)


@pytest.mark.parametrize("name", sorted(aten.MOVES))
def test_a_move_computes_nothing(name: str) -> None:
    """Every entry that comes out went in, or is 0, or is the constant that pads."""
    args = (KEEPS | JOINS | PUTS | PLACES | PADS)[name]
    went_in = [t for value in args for t in (value if isinstance(value, list) else [value])]
    entries = torch.cat([t.flatten() for t in went_in if isinstance(t, torch.Tensor)])
    made = getattr(op, name)(*args)
    known = torch.isin(made, torch.cat([entries, torch.tensor([0.0, -7.0])]))
    assert made.numel() > 0
    assert bool(known.all())


def test_a_sum_is_found_to_be_no_move() -> None:
    """What the test above would say of an operator that computes."""
    made = op.avg_pool2d(IMAGE, [2, 2])
    assert not bool(torch.isin(made, IMAGE).all())


@pytest.mark.parametrize("name", sorted(aten.FILLS | aten.DRAWS))
def test_what_takes_a_shape_alone_reads_no_entry(name: str) -> None:
    nothing = torch.full((2, 3), float("nan"))
    more = {
        "full_like": (5.0,), "new_full": ([2], 5.0), "randint_like": (9,),
        "new_empty_strided": ([2], [1]),
    }  # fmt: skip
    shape = ([2],) if name in ("new_zeros", "new_ones", "new_empty") else ()
    made = getattr(op, name)(nothing, *more.get(name, shape))
    assert "empty" in name or not bool(made.isnan().any())


def test_what_both_judges_know_stands_once() -> None:
    """The layer's rules take the table of moves by name, and list only what is theirs alone."""
    tree = ast.parse(Path(linear_rules.__file__).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    rules = [call.args for call in calls if getattr(call.func, "id", "") == "linear_rule"]
    listed = {getattr(one, "value", "") for names in rules for one in names}
    assert "index_add" in listed
    assert not listed & (aten.KEEPS | aten.JOINS | aten.PUTS | aten.FILLS | aten.DRAWS)
    assert set(RULES) >= aten.KEEPS | aten.JOINS | aten.PUTS


class Pair(NamedTuple):
    one: Any
    two: Any


def test_trees_are_those_of_torch() -> None:
    """What torch takes for a tree and this for a leaf would hide tensors from whoever follows."""
    x = torch.ones(2, 3)
    every = (
        [1, (x, None), [], ()], {"a": x, "b": {"c": [x.T, 2.0]}}, Pair(x, [Pair(3, x)]),
        OrderedDict(z=x, y=[x]), defaultdict(list, {"k": [x]}), deque([x, (4,)]), x.shape,
        torch.max(x, 1), slice(2), "text", torch.float32, nn.Parameter(x),
    )  # fmt: skip
    for tree in (*every, list(every), {"all": every}):
        found, true = trees.leaves(tree), tree_leaves(tree)
        assert all(mine is torchs for mine, torchs in zip(found, true, strict=True))
        mine, torchs = trees.mapped(id, tree), tree_map(id, tree)
        assert (type(mine), mine) == (type(torchs), torchs)
