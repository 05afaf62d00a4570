"""How each operator of a recording travels: node by node, along edges, or over the whole map.

An operator without a rule here is never guessed at: it counts as one that hears the whole map.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from convgraph.convert.rules import pointwise
from convgraph.geometry.kernel import KernelGeometry
from convgraph.geometry.resize import ResizeGeometry
from convgraph.scale.recording import RecordedCall, Recording, Ref, leaves
from convgraph.scale.relations import Pad, Shuffle, Slice, Unshuffle

Axes = tuple[int, ...] | None
"""Which dimensions of a value are axes of the image, counted from behind; None for no map."""


@dataclass(frozen=True)
class Travel:
    """How one operator travels.

    Attributes:
        how: "plain" (reads no map), "node", "edges", "sum" (hears the whole map through sums over
            it, see `passes`), "few" (hears it in ways of its own, and it has few pixels), or
            "whole".
        axes: of its results.
        relation: of "edges".
        fill: what an absent source counts as.
        why: of "sum", "few" and "whole", for people.
    """

    how: str
    axes: Axes = None
    relation: Any = None
    fill: float = 0.0
    why: str = "hears the whole map"


NODE = frozenset((
    *pointwise.NAMES, "prelu", "to", "_to_copy", "type_as", "float", "zeros_like", "ones_like",
    "full_like", "true_divide",
))  # fmt: skip
"""Operators that treat every pixel alike and by itself, beside those that torch tags so."""

DROPS = frozenset(["dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"])

VIEWS = frozenset(
    ["view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze"]
)

RANDOM = frozenset((*pointwise.DRAWN, "rand_like", "randn_like", "randint_like")) - DROPS


def travel(step: RecordedCall, recording: Recording, axes: list[Axes]) -> Travel:
    """Return how an operator travels, given the axes of the values before it."""
    maps = [source for source in step.sources if axes[source] is not None]
    if not maps:
        return Travel("plain", why=step.writes)
    if step.writes:
        return Travel("whole", why=step.writes)
    name = step.operator
    if name in RANDOM or (name in DROPS and step.args["train"]):
        return Travel("whole", why="draws random numbers; call eval() first")
    if name in DROPS:
        return Travel("node", axes[maps[0]])
    if name in _RULES:
        found: Travel | None = _RULES[name](step, recording, axes[maps[0]], maps[0])
        return found or _few(step, recording, axes)
    if name in VIEWS:
        kept = _viewed(recording.shapes[maps[0]], axes[maps[0]], recording.shapes[step.results[0]])
        return _few(step, recording, axes) if kept is None else Travel("node", kept)
    if name in NODE or torch.Tag.pointwise in step.call.tags:
        return _joined(step, recording, axes, maps)
    return _few(step, recording, axes)


FEW = 2**16
"""Pixels of a map, tokens, that are put together and heard as a whole."""


def _few(step: RecordedCall, recording: Recording, axes: list[Axes]) -> Travel:
    """What has no rule hears the map put together, if that is small."""
    sizes = [
        prod(recording.shapes[source][a] for a in axes[source] or ())
        for source in step.sources
        if axes[source] is not None
    ]
    if max(sizes) <= FEW:
        return Travel("few")
    return Travel("whole", why=f"hears the whole map, and {max(sizes)} pixels are more than {FEW}")


def _joined(step: RecordedCall, recording: Recording, axes: list[Axes], maps: list[int]) -> Travel:
    """Operators on several maps: they must lie on the same lattice, along the same dimensions."""
    first = axes[maps[0]]
    out = recording.shapes[step.results[0]]
    if any(axes[one] != first for one in maps):
        return Travel("whole", why="joins maps whose axes lie in other dimensions")
    for one in maps:
        shape = recording.shapes[one]
        if any(shape[a] not in (1, out[a]) for a in first or ()):
            return Travel("whole", why="joins maps of other sizes")
    return Travel("node", first)


def _viewed(shape: tuple[int, ...], axes: Axes, out: tuple[int, ...]) -> Axes:
    """Where the axes of the image lie after a view that leaves them as they are; None if not."""
    assert axes is not None
    first = len(shape) + axes[0]
    d = len(axes)
    if tuple(len(shape) + a for a in axes) != tuple(range(first, first + d)):
        return None
    size = shape[first : first + d]
    before, behind = prod(shape[:first]), prod(shape[first + d :])
    for k in range(len(out) - d + 1):
        if out[k : k + d] == size and prod(out[:k]) == before and prod(out[k + d :]) == behind:
            return tuple(range(k - len(out), k - len(out) + d))
    return None


def _trailing(axes: Axes, shape: tuple[int, ...], d: int) -> bool:
    return axes == tuple(range(-d, 0)) and len(shape) == d + 2


def _many(value: Any, d: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    return values * d if len(values) == 1 else values


def _dimensions(step: RecordedCall) -> int:
    return int(step.operator[-2]) if step.operator[-1] == "d" else len(step.args["stride"])


def weight_shape(step: RecordedCall, recording: Recording) -> tuple[int, ...]:
    """Return the shape of a convolution's weight."""
    return (
        recording.states[step.args["weight"].name]
        if not isinstance(step.args["weight"], Ref)
        else recording.shapes[step.args["weight"].index]
    )


def _conv(step: RecordedCall, recording: Recording, axes: Axes, source: int) -> Travel | None:
    a, d = step.args, _dimensions(step)
    if not _trailing(axes, recording.shapes[source], d) or _ref(a["weight"]) == source:
        return None
    kernel = weight_shape(step, recording)[2:]
    padding = a["padding"] if isinstance(a["padding"], str) else _many(a["padding"], d)
    transposed = step.operator.startswith("conv_transpose")
    relation = KernelGeometry(
        kernel, _many(a["stride"], d), padding, _many(a["dilation"], d), transposed=transposed,
        output_padding=_many(a["output_padding"], d) if transposed else 0, d=d,
    )  # fmt: skip
    return Travel("edges", axes, relation)


def _pool(step: RecordedCall, recording: Recording, axes: Axes, source: int) -> Travel | None:
    a, d = step.args, int(step.operator.removesuffix("_with_indices")[-2])
    if not _trailing(axes, recording.shapes[source], d):
        return None
    if step.operator.endswith("_with_indices") and recording.reads(step.results[1]):
        return Travel("whole", why="names places of the whole map by number")
    kernel = _many(a["kernel_size"], d)
    stride = _many(a["stride"], d) if a["stride"] else kernel
    relation = KernelGeometry(
        kernel, stride, _many(a["padding"], d), _many(a.get("dilation", 1), d),
        ceil_mode=bool(a["ceil_mode"]), d=d,
    )  # fmt: skip
    return Travel("edges", axes, relation, float("-inf") if "max" in step.operator else 0.0)


def _resize(step: RecordedCall, recording: Recording, axes: Axes, source: int) -> Travel | None:
    a, name = step.args, step.operator
    d = int(name[-2])
    if not _trailing(axes, recording.shapes[source], d) or name.endswith("_aa"):
        return None
    mode = name.removeprefix("upsample_").removeprefix("_upsample_")[:-2].replace("_", "-")
    size = a.get("output_size", a.get("size"))
    scale = a.get("scale_factors")
    if scale is None and "scales" in a:
        scale = [a["scales"]] if a["scales"] else None
    elif scale is None and a.get("scales_w"):
        scale = [a[k] for k in ("scales_d", "scales_h", "scales_w") if a.get(k)]
    corners = a.get("align_corners")
    relation = ResizeGeometry(
        mode, size=None if scale else tuple(size or ()),
        scale_factor=tuple(scale) if scale else None,
        align_corners=corners if mode not in ("nearest", "nearest-exact") else None,
        double=recording.dtypes[source] == torch.float64, d=d,
    )  # fmt: skip
    if (
        relation.output_size(recording.shapes[source][-d:])
        != recording.shapes[step.results[0]][-d:]
    ):
        return None
    return Travel("edges", axes, relation)


def _pad(step: RecordedCall, recording: Recording, axes: Axes, source: int) -> Travel | None:
    flat, shape = step.args["pad"], recording.shapes[source]
    pairs = {-1 - k: (flat[2 * k], flat[2 * k + 1]) for k in range(len(flat) // 2)}
    others = {a: pair for a, pair in pairs.items() if a not in (axes or ()) and pair != (0, 0)}
    if others or any(a < -len(shape) for a in pairs):
        return None
    relation = Pad(tuple(pairs.get(a, (0, 0)) for a in axes or ()), step.args["mode"])
    return Travel("edges", axes, relation, float(step.args["value"] or 0.0))


def _slice(step: RecordedCall, recording: Recording, axes: Axes, source: int) -> Travel | None:
    a, shape = step.args, recording.shapes[source]
    dim = a["dim"] - len(shape) if a["dim"] >= 0 else a["dim"]
    if dim not in (axes or ()):
        return Travel("node", axes)
    start, end, stride = slice(a["start"], a["end"], a["step"]).indices(shape[dim])
    whole = [(0, shape[k], 1) for k in axes or ()]
    whole[(axes or ()).index(dim)] = (start, end, stride)
    return Travel("edges", axes, Slice(tuple(whole)))


def _dim(step: RecordedCall, shape: tuple[int, ...], default: int = 0) -> int:
    dim = int(step.args.get("dim", default))
    return dim - len(shape) if dim >= 0 else dim


def _apart(step: RecordedCall, recording: Recording, axes: Axes, source: int) -> Travel | None:
    """Operators along one dimension, which must be none of the image's."""
    return None if _dim(step, recording.shapes[source]) in (axes or ()) else Travel("node", axes)


def _turned(step: RecordedCall, recording: Recording, axes: Axes, source: int) -> Travel | None:
    """Rolls and flips of channels; along the image they read another place of the whole map."""
    shape, dims = recording.shapes[source], _many(step.args["dims"], 1)
    turned = {d - len(shape) if d >= 0 else d for d in dims}
    return Travel("node", axes) if dims and not turned & set(axes or ()) else None


def _cat(step: RecordedCall, recording: Recording, axes: Axes, source: int) -> Travel | None:
    found = [one.index for one in leaves(step.args["tensors"]) if isinstance(one, Ref)]
    if len(found) < len(leaves(step.args["tensors"])) or _dim(step, recording.shapes[source]) in (
        axes or ()
    ):
        return None
    size = [recording.shapes[source][a] for a in axes or ()]
    same = all([recording.shapes[one][a] for a in axes or ()] == size for one in found)
    return Travel("node", axes) if same else None


def _select(step: RecordedCall, recording: Recording, axes: Axes, source: int) -> Travel | None:
    dim = _dim(step, recording.shapes[source])
    if dim in (axes or ()):
        return None
    return Travel("node", tuple(a + (dim > a) for a in axes or ()))


def _permute(step: RecordedCall, recording: Recording, axes: Axes, source: int) -> Travel | None:
    n = len(recording.shapes[source])
    if step.operator == "permute":
        order = [dim % n for dim in step.args["dims"]]
    else:
        order = list(range(n))
        i, j = step.args["dim0"] % n, step.args["dim1"] % n
        order[i], order[j] = order[j], order[i]
    found = tuple(order.index(a + n) - n for a in axes or ())
    return Travel("node", found)


def _linear(step: RecordedCall, recording: Recording, axes: Axes, source: int) -> Travel | None:
    return (
        None if -1 in (axes or ()) or _ref(step.args["input"]) != source else Travel("node", axes)
    )


def _layer_norm(step: RecordedCall, recording: Recording, axes: Axes, source: int) -> Travel | None:
    over, d = len(step.args["normalized_shape"]), len(axes or ())
    if any(a >= -over for a in axes or ()):  # over space, or over space and channels
        good = _trailing(axes, recording.shapes[source], d) and over in (d, d + 1)
        return Travel("sum", axes) if good else None
    return Travel("node", axes)


def _batch_norm(step: RecordedCall, recording: Recording, axes: Axes, source: int) -> Travel | None:
    if step.args["training"]:
        return Travel(
            "whole", axes,
            why="takes statistics of the whole batch in training; call eval(), or cg.sharded",
        )  # fmt: skip
    return Travel("node", axes)


def _reduced(step: RecordedCall, recording: Recording, axes: Axes, source: int) -> Travel | None:
    """Sums, means and maxima over dimensions: over the image's own they hear the whole map."""
    shape = recording.shapes[source]
    dims = step.args.get("dim")
    if dims is None or dims == []:
        return None
    found = {d - len(shape) if d >= 0 else d for d in _many(dims, 1)}
    if found & set(axes or ()):
        over = step.operator == "mean" and found == set(axes or ()) and step.args["dtype"] is None
        return Travel("sum") if over else None
    if step.args.get("keepdim"):
        return Travel("node", axes)
    return Travel("node", tuple(a + sum(d > a for d in found) for a in axes or ()))


def _pooled(step: RecordedCall, recording: Recording, axes: Axes, source: int) -> Travel | None:
    """A pool over everything is a mean; over windows of its own it reads the map in other ways."""
    sizes = _many(step.args["output_size"], 1)
    d = len(axes or ())
    return (
        Travel("sum")
        if set(sizes) == {1} and _trailing(axes, recording.shapes[source], d)
        else None
    )


def _map_norm(step: RecordedCall, recording: Recording, axes: Axes, source: int) -> Travel | None:
    """Instance and group norm: means and variances of the whole map."""
    if step.operator == "instance_norm":
        if not step.args["use_input_stats"]:
            return Travel("node", axes)
        if step.args["running_mean"] is not None:
            return Travel("whole", why="updates its statistics; call eval()")
    if not _trailing(axes, recording.shapes[source], len(axes or ())):
        return None
    return Travel("sum", axes)


def _shuffle(step: RecordedCall, recording: Recording, axes: Axes, source: int) -> Travel | None:
    if not _trailing(axes, recording.shapes[source], 2):
        return None
    if step.operator == "pixel_shuffle":
        return Travel("edges", axes, Shuffle(step.args["upscale_factor"]))
    return Travel("edges", axes, Unshuffle(step.args["downscale_factor"]))


def _ref(one: Any) -> int | None:
    return one.index if isinstance(one, Ref) else None


_SUMS = ("mean", "sum", "amax", "amin", "argmax", "argmin", "linalg_vector_norm")

_RULES: dict[str, Any] = {
    **{f"conv{d}d": _conv for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": _conv for d in (1, 2, 3)},
    **{f"max_pool{d}d": _pool for d in (1, 2, 3)},
    **{f"max_pool{d}d_with_indices": _pool for d in (2, 3)},
    **{f"avg_pool{d}d": _pool for d in (1, 2, 3)},
    **{
        f"upsample_{mode}{d}d": _resize
        for mode, ds in {
            "nearest": (1, 2, 3), "linear": (1,), "bilinear": (2,), "bicubic": (2,),
            "trilinear": (3,),
        }.items()
        for d in ds
    },
    **{f"_upsample_nearest_exact{d}d": _resize for d in (1, 2, 3)},
    "pad": _pad, "slice": _slice, "cat": _cat, "concat": _cat, "select": _select,
    "permute": _permute, "transpose": _permute, "swapaxes": _permute, "linear": _linear,
    "layer_norm": _layer_norm, "batch_norm": _batch_norm, "pixel_shuffle": _shuffle,
    "pixel_unshuffle": _shuffle, "group_norm": _map_norm, "instance_norm": _map_norm,
    **{f"adaptive_avg_pool{d}d": _pooled for d in (1, 2, 3)},
    **dict.fromkeys((
        "softmax", "log_softmax", "chunk", "split", "split_with_sizes", "sort", "topk", "cumsum",
        "cumprod",
    ), _apart),
    **dict.fromkeys(("roll", "flip"), _turned),
    **dict.fromkeys(_SUMS, _reduced),
}  # fmt: skip
