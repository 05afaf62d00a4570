"""What any exported network means on a mask: its operators on dense images, holes refilled.

Before every operator that moves values between sites, absent sites are filled with the identity of
its aggregation: 0 for sums, minus infinity for maxima, where a maximum over nothing is then 0. At
the end they are 0. Means, norms, softmax and attention use the sites that are there. Which sites
are there follows from the mask of the input and from where a map lies, as the judge says it in
`convgraph.proof.equation.map_positions`. An operator that is not listed here has no answer: it is
never guessed. Nothing here reads what is judged.
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from convgraph.proof.equation import map_positions
from convgraph.proof.equation.map_positions import MapPositions
from tests.convert.zoo.held import (
    Held,
    Track,
    UnknownMeaningError,
    coarser,
    combined,
    compact,
    fresh,
    held,
    is_image,
    is_inner,
    lengthened,
    meeting,
    reduced,
    union,
)  # fmt: skip
from tests.convert.zoo.snap import is_exact, is_view, snap, wide
from tests.convert.zoo.sums import Sums, ints


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SITE_BY_SITE = _words(
    """
    abs add addcmul alias bitwise_and bitwise_not bitwise_or ceil celu clamp clamp_max
    clamp_min clone contiguous cos detach detach_ div dropout elu eq erf exp expm1
    feature_dropout floor floor_divide ge gelu gt hardshrink hardsigmoid hardswish hardtanh le
    leaky_relu lerp lift_fresh_copy log log1p log_sigmoid logical_and logical_not lt
    masked_fill maximum minimum mish mul ne neg ones_like pow reciprocal relu relu6 remainder
    round rsqrt rsub selu sigmoid sign silu sin softplus softsign sqrt square sub tan tanh
    threshold to where zeros_like _to_copy full_like prelu_one alpha_dropout
    feature_alpha_dropout rand_like
    """
)
VIEWS = _words(
    """
    view _unsafe_view reshape flatten unflatten permute transpose t movedim swapaxes unsqueeze
    squeeze unsqueeze_ squeeze_ mT adjoint channel_shuffle native_channel_shuffle glu repeat
    repeat_interleave tile view_as reshape_as numpy_T
    """
)
PIECES = _words("slice narrow select split split_with_sizes chunk unbind tensor_split")
SENDS = _words(
    """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d upsample_nearest2d
    upsample_bilinear2d upsample_bicubic2d upsample_nearest3d upsample_trilinear3d
    _upsample_nearest_exact2d pixel_shuffle pixel_unshuffle
    """
)
PADS = _words(
    """
    pad constant_pad_nd reflection_pad2d replication_pad2d reflection_pad3d replication_pad3d
    zero_pad2d
    """
)
ALONG = _words("max min argmax argmin cumsum logsumexp prod topk sort")
ON_IMAGES = _words(
    """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d max_pool1d max_pool2d
    max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d
    upsample_bicubic2d upsample_trilinear3d pixel_shuffle pixel_unshuffle im2col group_norm
    instance_norm
    """
)
"""Operators for which elements of one site are an image of their own, if the batch names sites."""
WRITABLE = ("aten::slice", "aten::select", "aten::alias")
ENCLOSES = {"wrap_with_autocast": 4, "wrap_with_set_grad_enabled": 1}
"""Operators that call a graph of their own, and where among their arguments it stands."""


class Truth(Sums):
    """One run on images whose pixels are there where `root` is True.

    Args:
        exported: what torch.export made of the dense network.
        root: (B, H, W) bool.
        grain: whether every result is rounded, see `snap`.
    """

    def __init__(self, exported: Any, root: Tensor, *, grain: bool = True) -> None:
        super().__init__(exported.graph_module)
        self.exported = exported
        self.root = root
        self.grain = grain

    def __call__(self, image: Tensor) -> list[Any]:
        """Return the flat outputs, 0 where no node is."""
        given: list[Any] = []
        state = self.exported.state_dict
        for spec in self.exported.graph_signature.input_specs:
            if spec.kind == InputKind.USER_INPUT:
                given.append(fresh(image, MapPositions.of(self.root)))
            elif spec.target in state:
                given.append(state[spec.target])
            else:
                given.append(self.exported.constants[spec.target])
        flat = self.run(*given, enable_io_processing=False)
        count = len(self.exported.graph_signature.user_outputs)
        return [self.fill(one, 0) for one in flat[len(flat) - count :]]

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        name = getattr(getattr(target, "_schema", None), "name", "").removeprefix("aten::")
        leaves = pytree.tree_leaves((args, kwargs), is_leaf=_is_held)
        if getattr(target, "__name__", "") in ENCLOSES:
            return self.enclosed(*args[ENCLOSES[target.__name__] :])
        args, kwargs = pytree.tree_map(wide, (args, kwargs), is_leaf=_is_held)
        if not name or name.startswith("_assert"):
            return None if name else super().call_function(target, args, kwargs)
        if not any(map(_is_held, leaves)):
            out = target(*args, **kwargs)  # of a readout no site is absent
        elif name in ON_IMAGES and is_inner(args[0]):
            out = held(target(args[0].x, *args[1:], **kwargs), args[0].tracks)
        else:
            out = self.meaning(name)(target, *args, **kwargs)
        return out if is_exact(target, args) else self.rounded(out, target)

    def run_node(self, n: torch.fx.Node) -> Any:
        self.node = n
        return super().run_node(n)

    def on_copy_(self, target: Any, x: Any, source: Any, non_blocking: bool = False) -> Any:
        """Written where the base of the view sees it, on the sites that are there already."""
        node = self.node.args[0]
        while getattr(getattr(node.target, "_schema", None), "name", "") in WRITABLE:
            node = node.args[0]
        base = self.env[node]
        if not isinstance(x, Held) or not isinstance(base, Held):
            raise UnknownMeaningError("a map is written into an ordinary tensor")
        tracks = union(meeting((x, source), self.fill), x.x.dim())
        seen = base.x.untyped_storage().data_ptr() == x.x.untyped_storage().data_ptr()
        if not seen or any(combined(a, b) is None for a, b in zip(tracks, x.tracks, strict=True)):
            raise UnknownMeaningError("it writes into another base or on other sites")
        target(x.x, _bare(source))
        return x

    def on_type_as(self, target: Any, x: Any, other: Any) -> Any:
        out = target(_bare(x), _bare(other))
        return Held(out, x.tracks) if isinstance(x, Held) else out

    def enclosed(self, inner: torch.fx.GraphModule, *operands: Any) -> Any:
        """What stands in a context that says nothing in float64 without gradients."""
        run = Truth.__new__(Truth)
        torch.fx.Interpreter.__init__(run, inner)
        run.root, run.grain = self.root, self.grain
        return run.run(*operands, enable_io_processing=False)

    def meaning(self, name: str) -> Callable[..., Any]:
        """The method that says what an operator does to values with holes."""
        bare = name.removesuffix("_")
        for names, call in (
            (SITE_BY_SITE, self.site_by_site), (PIECES, self.pieces), (SENDS, self.sends),
            (PADS, self.pads), (ALONG, self.along), (VIEWS, self.views),
        ):  # fmt: skip
            if name in names or (bare in names and call == self.site_by_site):
                return call
        own = getattr(self, f"on_{name}", None)
        if own is None:
            raise UnknownMeaningError(name)
        found: Callable[..., Any] = own
        return found

    def rounded(self, out: Any, target: Any) -> Any:
        if not self.grain:
            return out
        kept = is_view(target)
        return pytree.tree_map(lambda one: self._snap(one, target, kept), out, is_leaf=_is_held)

    def _snap(self, one: Any, target: Any, kept: bool) -> Any:
        if kept:
            return one
        if isinstance(one, Held):
            return Held(snap(one.x, target, self.some(one)), one.tracks)
        return snap(one, target) if isinstance(one, Tensor) else one

    # -- holes ------------------------------------------------------------------------------------

    def some(self, value: Held) -> Tensor:
        """(...) bool, broadcasting to the value: which elements belong to a site that is there."""
        out = torch.ones((1,) * value.x.dim(), dtype=torch.bool)
        for track in value.tracks:
            table = track.place.there
            index = [torch.zeros(1, dtype=torch.int64) if c is None else c for c in track.at]
            there = table[tuple(c.clamp(min=0) for c in index)]
            for c in index[1:]:
                there = there | (c < 0)  # of no site: a token beside nodes
            out = out & there
        return out

    def fill(self, value: Any, identity: float) -> Any:
        if not isinstance(value, Held):
            return value
        return torch.where(self.some(value), value.x, identity)

    def image(self, value: Any) -> Any:
        if not isinstance(value, Held) or is_image(value):
            return value
        if value.x.dim() == 2 + len(value.tracks[0].size):
            moved = lengthened(self.plain(value, 1), self.fill)
            if is_image(moved):
                return moved
        raise UnknownMeaningError("sends along edges of what is no image")

    def plain(self, value: Any, dim: int) -> Any:
        if not value.varies(dim) or self.whole(value, dim):
            return value
        return coarser(value, dim, self.fill)

    # -- families ---------------------------------------------------------------------------------

    def site_by_site(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """One element at a time; operands are broadcast."""
        met = meeting(args, self.fill)
        a, k = pytree.tree_map(_bare, (met, kwargs), is_leaf=_is_held)
        out = target(*a, **k)
        return held(out, union([*args, *kwargs.values()], out.dim()))

    def views(self, target: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Other shapes of the same elements; sites follow."""
        if not isinstance(x, Held):
            return target(*pytree.tree_map(_bare, (x, *args), is_leaf=_is_held), **kwargs)
        args = pytree.tree_map(_bare, args, is_leaf=_is_held)
        name = target._schema.name.removeprefix("aten::")

        def call(t: Tensor) -> Any:
            if name in ("view", "_unsafe_view"):
                return t.reshape(args[0])
            if name == "glu":
                return t.chunk(2, *args)[0]
            return target(t, *args, **kwargs)

        out = target(x.x, *args, **kwargs) if name == "glu" else call(x.x)
        return held(out, [t.each(lambda c: call(c.expand(x.x.shape))) for t in x.tracks])

    def pieces(self, target: Any, x: Held, *args: Any, **kwargs: Any) -> Any:
        """Some elements of a dimension; of a lattice axis that is a crop."""
        name = target._schema.name.removeprefix("aten::")
        place = 0 if name in ("slice", "narrow", "select", "unbind") else 1
        dim = kwargs.get("dim", args[place] if len(args) > place else 0) % x.x.dim()
        crops = x.varies(dim) and self.is_axis(x, dim)
        if crops and name in ("select", "unbind"):
            raise UnknownMeaningError(f"{name} along a lattice axis")
        out = target(self.fill(x, 0) if crops else x.x, *args, **kwargs)
        if isinstance(out, Tensor) and crops and out.shape == x.x.shape:
            return x
        if crops:
            line = target(torch.arange(x.x.shape[dim]), *self._on_line(name, args, kwargs, dim))
            if isinstance(out, Tensor):
                return held(out, self.cut(x, {dim: line.tolist()}))
            return [
                held(one, self.cut(x, {dim: part.tolist()}))
                for one, part in zip(out, line, strict=True)
            ]
        sites = [[target(c, *args, **kwargs) for c in _coordinates(t, x.x)] for t in x.tracks]
        if isinstance(out, Tensor):
            return held(out, [_track(t, c) for t, c in zip(x.tracks, sites, strict=True)])
        return [
            held(
                one, [_track(t, [c[k] for c in cs]) for t, cs in zip(x.tracks, sites, strict=True)]
            )
            for k, one in enumerate(out)
        ]

    def is_axis(self, x: Held, dim: int) -> bool:
        """Whether a dimension is one axis of one lattice, or the batch, and nothing beside it."""
        if len(x.tracks) != 1 or x.tracks[0].is_mixed:
            return False
        (track,) = x.tracks
        sizes = (len(track.place.root), *track.size)
        along = [
            (c, n)
            for c, n in zip(track.at, sizes, strict=True)
            if c is not None and c.shape[dim] > 1
        ]
        return len(along) == 1 and along[0][0].numel() == along[0][1]

    def _on_line(self, name: str, args: Any, kwargs: Any, dim: int) -> list[Any]:
        """The arguments of a crop, for one line of positions."""
        if name in ("slice", "narrow"):
            return [0, *args[1:]]
        return [args[0], 0]

    def cut(self, x: Held, sources: dict[int, list[Any]]) -> list[Track]:
        """The lattice when some of its axes, as dimensions of x, have other positions."""
        (track,) = x.tracks if len(x.tracks) == 1 else (None,)
        if track is None:
            raise UnknownMeaningError("a crop of pairs")
        at, moved = list(track.at), {}
        for dim, line in sources.items():
            axes = [k for k, c in enumerate(at) if c is not None and c.shape[dim] > 1]
            if not axes and is_image(x) and dim >= 2:
                axes = [dim - 1]  # an axis of one pixel grows
            if len(axes) != 1 or axes == [0] or (at[axes[0]] is not None and
                    at[axes[0]].numel() != track.size[axes[0] - 1]):  # fmt: skip
                raise UnknownMeaningError("a crop along no whole lattice axis")
            moved[axes[0] - 1] = line
            shape = [1] * x.x.dim()
            shape[dim] = len(line)
            at[axes[0]] = torch.arange(len(line)).view(shape) if len(line) > 1 else None
        return [Track(tuple(at), track.place.moved(moved))]

    def sends(self, target: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Weighted sums along edges: an absent source says 0."""
        if any(map(_is_held, pytree.tree_leaves((args, kwargs), is_leaf=_is_held))):
            raise UnknownMeaningError("a weight that is a map")
        name = target._schema.name
        if name.startswith("aten::conv") and prod(args[0].shape[2:]) == 1 and not is_image(x):
            out = target(x.x, *args, **kwargs)  # channels of each element mixed, if it is that
            if out.shape[2:] == x.x.shape[2:] and not x.varies(1):
                return Held(out, x.tracks)
        if x.x.shape[0] == 1 and name.startswith("aten::conv") and len(x.tracks) == 1:
            return self.by_image(target, x, *args, **kwargs)
        x = self.image(x)
        out = target(self.fill(x, 0), *args, **kwargs)
        return fresh(out, self.carried(name, x.tracks[0].place, out, args, kwargs), x)

    def by_image(self, target: Any, x: Held, *args: Any, **kwargs: Any) -> Any:
        """Images as groups of channels, each with a kernel of its own."""
        (track,) = x.tracks
        batch = len(track.place.root)
        apart = [batch, -1, *x.x.shape[2:]]
        call = track.each(lambda c: c.expand(x.x.shape).reshape(apart))
        self.image(Held(x.x.reshape(apart), (call,)))
        out = target(self.fill(x, 0), *args, **kwargs)
        many = out.reshape(batch, -1, *out.shape[2:])
        place = self.carried(target._schema.name, track.place, many, args, kwargs)
        found = fresh(many, place)
        back = [t.each(lambda c: c.expand(many.shape).reshape(out.shape)) for t in found.tracks]
        return held(out, back)

    def carried(self, name: str, place: Any, out: Tensor, args: Any, kwargs: Any) -> Any:
        """Where the results of messages lie."""
        size = tuple(out.shape[2:])
        if not name.startswith("aten::conv"):
            return place.scaled(size)
        turned = "transpose" in name
        keys = ["weight", "bias", "stride", "padding"]
        keys += ["output_padding", "groups", "dilation"] if turned else ["dilation", "groups"]
        given = dict(zip(keys, args, strict=False)) | kwargs
        rank = len(size)
        if given.get("padding") == "valid":
            given["padding"] = 0
        s, p, d = (
            ints(given.get(key, default), rank) if not isinstance(given.get(key), str) else key
            for key, default in (("stride", 1), ("padding", 0), ("dilation", 1))
        )
        k = given["weight"].shape[2:]
        if turned:
            return place.step(
                lambda a, e: map_positions.reversed_kernel(e, size[a], k[a], s[a], p[a], d[a])
            )
        if isinstance(given.get("padding"), str):
            return place
        return place.step(
            lambda a, e: map_positions.kernel(e, size[a], k[a], s[a], (p[a], p[a]), d[a])
        )

    def pads(self, target: Any, x: Held, pads: Any, *args: Any, **kwargs: Any) -> Any:
        if not is_image(x) and x.x.dim() >= 4:
            x = self.plain(x, 1)
        name = target._schema.name.removeprefix("aten::")
        mode = {"reflection": "reflect", "replication": "replicate"}.get(name.partition("_")[0])
        more = [*args, *kwargs.values()]
        mode = mode or next((one for one in more if isinstance(one, str)), "constant")
        value = next((one for one in more if isinstance(one, (int, float)) and one), 0)
        sources = {}
        for number in range(len(pads) // 2):
            dim = x.x.dim() - 1 - number
            two_pads = pads[2 * number : 2 * number + 2]
            other = x.varies(dim) and not self.is_axis(x, dim)
            if other and mode == "constant" and min(two_pads) >= 0 and any(two_pads):
                new = [x.x.new_full((*x.x.shape[:dim], n, *x.x.shape[dim + 1 :]), float(value))
                       for n in two_pads]  # fmt: skip
                return self.sequence(torch.cat, [new[0], x, new[1]], dim)
            if any(two_pads) and (x.varies(dim) or (is_image(x) and dim >= 2)):
                sources[dim] = map_positions.pad_sources(x.x.shape[dim], *two_pads, mode, value)
        out = target(self.fill(x, 0) if sources else x.x, pads, *args, **kwargs)
        return held(out, self.cut(x, sources) if sources else x.tracks)

    def along(self, target: Any, x: Held, *args: Any, **kwargs: Any) -> Any:
        """One dimension without sites, as torch does."""
        name = target._schema.name.removeprefix("aten::")
        dim = args[1] if name == "topk" and len(args) > 1 else (args[0] if args else None)
        if name in ("max", "min") and isinstance(dim, int) and x.varies(dim):
            sign = 1 if name == "max" else -1
            found = self._extreme(x, dim, bool(kwargs.get("keepdim", (*args, False)[1])), sign)
            return [found, None]
        if not isinstance(dim, int) or x.varies(dim):
            raise UnknownMeaningError(f"{name} over sites")
        keep = name in ("cumsum", "topk", "sort") or kwargs.get("keepdim", (*args, False)[1])
        out = target(x.x, *args, **kwargs)
        tracks = reduced(x, [dim % x.x.dim()], bool(keep))
        return held(out, tracks) if isinstance(out, Tensor) else [held(o, tracks) for o in out]


def _is_held(value: Any) -> bool:
    return isinstance(value, Held)


def _bare(value: Any) -> Any:
    return value.x if isinstance(value, Held) else value


def _coordinates(track: Track, x: Tensor) -> list[Any]:
    """The coordinates of every element."""
    return [torch.zeros(()).expand(x.shape) if c is None else c.expand(x.shape) for c in track.at]


def _track(track: Track, moved: list[Any]) -> Track:
    """A track whose coordinates were moved like its value."""
    at = (None if old is None else compact(new) for old, new in zip(track.at, moved, strict=True))
    return Track(tuple(at), track.place)
