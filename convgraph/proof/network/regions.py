"""Regions: which convolution or linear map of one side stands for several operators of the other.

Reparametrised networks run branches, norms and skips as one convolution. Which one stands for what
is a guess by numbers: what it reads and what it makes are near what the other side's region reads
and makes. What the region comes to is worked out of what it holds (`affine`), and the convolution's
weight and bias are held against that: they may be off by the roundings of a fold, no more. The
wiring then has the region as that one convolution (`region_wiring`), where its operators are the
ones that were read here, and hold the same bits.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, final

import torch
from torch import Tensor

from convgraph.proof import trees
from convgraph.proof.network.affine import (
    Affine,
    NoConvolution,
    NotAffine,
    Rounded,
    convolved,
    fitted,
    identity,
    padded,
    step,
)
from convgraph.proof.network.end_to_end import Images, NetworkSide
from convgraph.proof.network.folds import NoFold, is_norm, operands, runs
from convgraph.proof.network.match import Reference
from convgraph.proof.network.names import within
from convgraph.proof.network.node import CONVOLUTION, Node, NodeCall
from convgraph.proof.network.recorder import trace
from convgraph.proof.network.running_error.call import GROWN, BoundedCall
from convgraph.proof.network.value_numbers import (
    Numbering,
    Numbers,
    Progression,
    as_tensor,
    progression,
    same,
    tidy,
)

NEAR = 0.25
"""How far values may be apart, of the largest, to be guessed to be the same."""

LOOKED_AT = 2048
"""Elements of a value that a guess is made by."""

GUESSES = 4
"""How many inputs and how many outputs are tried."""

MOST = 256
"""Operators that a region may have."""

Label = tuple[Any, ...]


@final
class DataNumbers:
    """Which numbers depend on images.

    Args:
        numbering: of the side; its images are named.
    """

    def __init__(self, numbering: Numbering) -> None:
        """Start with the images."""
        self._numbering = numbering
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._images = 0

    def note(self, node: Node) -> None:
        """Hear of a node whose outputs are known."""
        if any(map(self.among, node.inputs)):
            for made in node.outputs:
                self._add(made)

    def _add(self, numbers: Numbers) -> None:
        if not torch.Size(numbers.shape).numel():
            return
        if isinstance(numbers, Progression):
            first, last = numbers.base, _last(numbers)
        else:
            first, last = int(as_tensor(numbers).min()), int(as_tensor(numbers).max())
        low, high = bisect_left(self._ends, first), bisect_right(self._starts, last)
        met = slice(low, high)  # they are apart and in order: what is met becomes one
        first, last = min([first, *self._starts[met]]), max([last, *self._ends[met]])
        self._starts[met], self._ends[met] = [first], [last]

    def among(self, numbers: Numbers) -> bool:
        """Whether any of these depends on an image."""
        if not self._images:
            for name, (base, shape) in self._numbering.names.items():
                if name.startswith("<image"):
                    self._images += 1
                    self._add(progression(base, shape))
        if not torch.Size(numbers.shape).numel():
            return False
        if isinstance(numbers, Progression):
            first, last = numbers.base, _last(numbers)
        else:
            first, last = int(numbers.min()), int(numbers.max())
        near = self._near(first, last)
        if not near or (isinstance(numbers, Progression) and near[0][0] <= first <= near[0][1]):
            return bool(near)
        flat = as_tensor(numbers).reshape(-1)
        return any(bool(((flat >= a) & (flat <= b)).any()) for a, b in near)

    def _near(self, first: int, last: int) -> list[tuple[int, int]]:
        low, high = bisect_left(self._ends, first), bisect_right(self._starts, last)
        return list(zip(self._starts[low:high], self._ends[low:high], strict=True))


def _last(numbers: Progression) -> int:
    return numbers.base + sum(
        s * (n - 1) for s, n in zip(numbers.stride, numbers.shape, strict=True)
    )


@final
@dataclass(frozen=True)
class Source:
    """Where a region finds its input: at which operator of its own, which input, which part of it.

    Attributes:
        node: which operator.
        place: which of its inputs.
        part: of that input, where zeros are padded around it.
    """

    node: int
    place: int
    part: tuple[slice, ...] | None

    def numbers(self, nodes: Sequence[Node]) -> Numbers:
        """The numbers of the input."""
        found = nodes[self.node].inputs[self.place]
        return found if self.part is None else tidy(as_tensor(found)[self.part].contiguous())


@final
@dataclass(frozen=True)
class Region:
    """One convolution or linear map, and what it stands for.

    Attributes:
        on: the side that holds it, "candidate" or "reference".
        whole: its node.
        names: of its weight and, if it has one, its bias, as both sides have them.
        tensors: these.
        off: what they are off by, float64, the rounding of a run included.
        paths: the modules that the region ran in.
        reads: names of what the region holds, as both sides have them.
        places: when its operators ran, of all operators of that side.
        labels: what each of them is, and reads.
        held: what each of them holds, by its place among the inputs.
        source: where its input is.
    """

    on: str
    whole: Node
    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    off: tuple[Tensor, ...]
    paths: tuple[str, ...]
    reads: frozenset[str]
    places: tuple[int, ...]
    labels: tuple[Label, ...]
    held: tuple[Mapping[int, Tensor], ...]
    source: Source

    @property
    def other(self) -> str:
        """The side of its operators."""
        return "reference" if self.on == "candidate" else "candidate"

    def __str__(self) -> str:
        """Say what stands for what."""
        return f"{_of(self.paths)} into {self.whole.path!r} of the {self.on}"

    def renamed(self) -> dict[str, str]:
        """Names for what it holds: they are not the other side's."""
        return {name: f"{name}, folded" for name in self.names}


def _of(paths: Sequence[str]) -> str:
    """A few modules by name."""
    few = ", ".join(map(repr, paths[:3]))
    return few if len(paths) <= 3 else f"{few} and {len(paths) - 3} more"


def labels(nodes: Sequence[Node], source: Numbers, data: DataNumbers) -> tuple[Label, ...]:
    """What operators of a region are and read, in words that do not depend on numbers.

    Args:
        nodes: in order.
        source: numbers of the input.
        data: which numbers depend on images.
    """
    return tuple(
        (n.name, n.arguments, tuple(n.shapes), n.layer,
         tuple(_label(numbers, nodes[:at], source, data) for numbers in n.inputs))
        for at, n in enumerate(nodes)
    )  # fmt: skip


def _label(
    numbers: Numbers, before: Sequence[Node], source: Numbers, data: DataNumbers
) -> Label | None:
    if same(numbers, source):
        return ("x",)
    if not data.among(numbers):
        return ("held", tuple(numbers.shape))
    for place, node in enumerate(before):
        if same(numbers, node.outputs[0]):
            return ("made", place)
    flat = as_tensor(numbers)
    for place, made in enumerate((source, *(node.outputs[0] for node in before))):
        if isinstance(made, Progression):
            own = torch.where(flat == 0, 0, flat - made.base + 1)
            if int(own.min()) >= 0 and int(own.max()) <= torch.Size(made.shape).numel():
                digest = sha256(own.contiguous().numpy().tobytes()).hexdigest()
                return ("moved", place, tuple(own.shape), digest)
    return ("unknown", object())  # equals nothing


# -- what was run ----------------------------------------------------------------------------------


@final
@dataclass
class _Entry:
    """A node, what it holds, and what it made."""

    node: Node
    held: dict[int, Tensor] = field(default_factory=dict)
    dtypes: frozenset[torch.dtype] = frozenset()
    made: Tensor | None = None


@final
class _Followed:
    """The nodes of one side, with as much of their values as a guess needs."""

    def __init__(self, side: NetworkSide) -> None:
        self.side = side
        self.numbering = Numbering()
        self.data = DataNumbers(self.numbering)
        self.entries: list[_Entry] = []
        self.values: list[tuple[Numbers, Tensor]] = []
        self._settled = Reference(self.numbering)
        self._by_node: dict[int, _Entry] = {}
        self._known: set[Any] = set()
        self._made_of_held: list[tuple[int, int, str]] = []
        self._inputs: dict[str, list[Numbers]] = {}

    def settle(self, node: Node) -> None:
        self._settled.settle(node)
        self.data.note(node)
        if not any(map(self.data.among, node.inputs)):
            for made in node.outputs:
                first, name = int(as_tensor(made).min()), f"<made {len(self._inputs)}>"
                count = torch.Size(made.shape).numel()
                self._made_of_held.append((first, first + count, name))
                self._inputs[name] = node.inputs
        entry = _Entry(node)
        self.entries.append(entry)
        self._by_node[id(node)] = entry

    def observe(self, call: NodeCall) -> None:
        entry = self._by_node[id(call.node)]
        tensors = [t for t in trees.leaves(dict(call.given)) if isinstance(t, Tensor)]
        if len(tensors) == len(call.node.inputs):
            for place, (numbers, tensor) in enumerate(zip(call.node.inputs, tensors, strict=True)):
                if self.data.among(numbers):
                    self._keep(numbers, tensor)
                else:
                    entry.held[place] = tensor.detach().clone()  # as it was where it was read
        entry.dtypes = frozenset(t.dtype for t in (*tensors, *call.outputs[:1]))
        if call.outputs and call.outputs[0].is_floating_point():
            entry.made = _look(call.outputs[0])
            self._keep(call.node.outputs[0], call.outputs[0])

    def _keep(self, numbers: Numbers, tensor: Tensor) -> None:
        key = numbers if isinstance(numbers, Progression) else id(numbers)
        if tensor.is_floating_point() and key not in self._known:
            self._known.add(key)
            self.values.append((numbers, _look(tensor)))

    def names_of(self, held: Sequence[Numbers]) -> tuple[str, ...]:
        """Names of what is held as it is; fewer if one is not."""
        known = {place: name for name, place in self.numbering.names.items()}
        found = []
        for numbers in held:
            name = known.get((getattr(numbers, "base", -1), tuple(numbers.shape)))
            if name is None or not same(progression(*self.numbering.names[name]), numbers):
                break
            found.append(name)
        return tuple(found)

    def read(self, inputs: Sequence[Numbers]) -> frozenset[str]:
        """Names of parameters that these are made of, by operators or none."""
        spans = sorted(
            [(base, base + max(torch.Size(shape).numel(), 1), name)
             for name, (base, shape) in self.numbering.names.items()] + self._made_of_held
        )  # fmt: skip
        found: set[str] = set()
        left = list(inputs)
        while left:
            for name in set(within(left.pop(), spans)) - found:
                found.add(name)
                left += self._inputs.get(name, [])
        return frozenset(found - self._inputs.keys())


def _look(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // LOOKED_AT) | 1].double().cpu().clone()


def _apart(one: Tensor, two: Tensor) -> float:
    """How far two values are apart, of the largest of the first."""
    if one.shape != two.shape or not one.numel():
        return torch.inf
    size = float(one.abs().max())
    found = float((one - two).abs().max())
    return found / size if size else (0.0 if found == 0 else torch.inf)


def _follow(candidate: NetworkSide, reference: NetworkSide, images: Images) -> dict[str, _Followed]:
    found: dict[str, _Followed] = {}
    for key, side, run, paths in runs(candidate, reference, images):
        followed = found[key] = _Followed(side)
        fresh = tuple(image.clone() for image in images)
        trace(
            side.net, run, fresh, followed.numbering,
            side.by_id(paths, candidate.names if key == "reference" else {}),
            followed.settle, followed.observe, renamed=side.renamed(), blocks=side.blocks,
        )  # fmt: skip
        for place, image in enumerate(images):
            base, shape = followed.numbering.names[f"<image {place}>"]
            if image.is_floating_point():
                followed.values.append((progression(base, shape), _look(image)))
    return found


# -- which is which --------------------------------------------------------------------------------


def find_regions(
    candidate: NetworkSide, reference: NetworkSide, images: Images, known: Collection[str]
) -> tuple[list[Region], dict[str, str]]:
    """Look for what stands for a region, on either side.

    Args:
        candidate: the accused.
        reference: the dense network.
        images: what both run on.
        known: names of weights that are folds of a pair.

    Returns:
        Those that hold, and by the name of its weight why what looks like one is none.
    """
    try:
        seen = _follow(candidate, reference, images)
    except (Exception, SystemExit):  # noqa: BLE001 - whoever compares the wiring says so
        return [], {}
    regions: list[Region] = []
    reasons: list[tuple[str, int, str, str]] = []
    for on, other in (("candidate", "reference"), ("reference", "candidate")):
        own, theirs = seen[on], seen[other]
        tensors, rest = own.side.named(), theirs.side.named()
        called_here = {common: name for name, common in own.side.names.items()}
        used: set[int] = set()
        for at, entry in enumerate(own.entries):
            held = operands(entry.node)
            names = () if held is None else own.names_of(held)
            if held is None or len(names) != len(held) or names[0] in known:
                continue
            if (on, at) in {(r.other, place) for r in regions for place in r.places}:
                continue
            if all(n in rest and _alike(tensors[n], rest[n]) for n in names):
                continue
            said = tuple(called_here.get(n, n) for n in names)
            try:
                found = _region(on, entry, names, said, own, theirs)
            except NoFold as reason:
                reasons.append((on, at, names[0], f"{said[0]!r} differs; {reason}"))
                continue
            if found is not None and used.isdisjoint(found.places):
                used.update(found.places)
                regions.append(found)
    right = {name for region in regions for name in region.names}
    inner = {(region.other, place) for region in regions for place in region.places}
    return regions, {name: text for on, at, name, text in reversed(reasons)
                     if name not in right and (on, at) not in inner}  # fmt: skip


def _alike(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and one.dtype == two.dtype and bool(torch.equal(one, two))


def _region(
    on: str,
    entry: _Entry,
    names: tuple[str, ...],
    said: tuple[str, ...],
    own: _Followed,
    theirs: _Followed,
) -> Region | None:
    """What a convolution stands for; None if nothing is near.

    Raises:
        NoFold: what is nearest is another map.
    """
    node = entry.node
    tensors = own.side.named()
    held = tuple(tensors[n] for n in names)
    x = node.inputs[0] if node.name == CONVOLUTION else node.inputs[-2]
    value = next((v for n, v in own.values if same(n, x)), None)
    if value is None or entry.made is None or len(entry.dtypes) != 1 or len(node.shapes[0]) < 2:
        return None
    sources = sorted(
        ((_apart(value, v), place) for place, (n, v) in enumerate(theirs.values)
         if tuple(n.shape) == tuple(x.shape)),
    )[:GUESSES]  # fmt: skip
    ends = sorted(
        (_apart(entry.made, e.made), place) for place, e in enumerate(theirs.entries)
        if e.made is not None and e.node.shapes[0] == node.shapes[0]
    )[:GUESSES]  # fmt: skip
    reason: NoFold | None = None
    for far, end in ends:
        for away, source in sources:
            if far > NEAR or away > NEAR:
                continue
            builder = _Builder(theirs, theirs.values[source][0], entry.dtypes)
            try:
                made = builder.made(end)
            except NoConvolution as why:
                text = f"what {theirs.entries[end].node.path!r} makes looks folded into it, but "
                reason = reason or NoFold(f"{text}{why}")
                continue
            except (NotAffine, RecursionError):
                continue
            places = tuple(sorted(builder.used))
            nodes = [theirs.entries[at].node for at in places]
            if len(nodes) == 1 and _is_other(nodes[0], node, theirs):
                return None
            paths = tuple(dict.fromkeys(n.path for n in nodes))
            try:
                here = tuple(tensor.detach().cpu() for tensor in held)
                node, off = _held_against(made, node, said, here, paths)
                off = tuple(error.to(held[0].device) for error in off)
            except NoFold as why:
                if operands(nodes[0]) is not None and [*map(is_norm, nodes[1:])] in ([], [True]):
                    return None  # other numbers, or a pair: who looks for those says so
                text = f"what {_of(paths)} make looks folded into it, but "
                reason = reason or NoFold(f"{text}{why}")
                continue
            numbers = theirs.values[source][0]
            at = _address(nodes, numbers)
            if at is None:
                continue
            return Region(
                on, node, names, held, off, paths,
                theirs.read([n.inputs[k] for n, p in zip(nodes, places, strict=True)
                             for k in theirs.entries[p].held]),
                places, labels(nodes, numbers, theirs.data),
                tuple(theirs.entries[at].held for at in places), at,
            )  # fmt: skip
    if reason is not None:
        raise reason
    return None


def _is_other(node: Node, whole: Node, followed: _Followed) -> bool:
    """Whether an operator is the same one of other parameters, which is no fold."""
    held = operands(node)
    if held is None or (node.name, node.arguments) != (whole.name, whole.arguments):
        return False
    return len(followed.names_of(held)) == len(held)


def _address(nodes: Sequence[Node], source: Numbers) -> Source | None:
    """Where a region's input is found among the inputs of its operators."""
    for padded_too in (False, True):
        for at, node in enumerate(nodes):
            for place, numbers in enumerate(node.inputs):
                if not padded_too and same(numbers, source):
                    return Source(at, place, None)
                part = _inside(numbers) if padded_too else None
                if part is not None and same(tidy(as_tensor(numbers)[part].contiguous()), source):
                    return Source(at, place, part)
    return None


def _inside(numbers: Numbers) -> tuple[slice, ...] | None:
    """The part that zeros are padded around; None without any."""
    flat = as_tensor(numbers)
    some = flat != 0
    if isinstance(numbers, Progression) or flat.dim() < 3 or not bool(some.any()):
        return None
    found = [slice(None), slice(None)]
    for axis in range(2, flat.dim()):
        there = some.transpose(0, axis).flatten(1).any(1).nonzero().flatten()
        found.append(slice(int(there[0]), int(there[-1]) + 1))
    inside = tuple(found)
    if inside == tuple(map(slice, (None, None))) or not bool(some[inside].all()):
        return None
    return inside if int(some.sum()) == some[inside].numel() != flat.numel() else None


@final
class _Builder:
    """Works out what a node comes to, back to where x is."""

    def __init__(self, followed: _Followed, x: Numbers, dtypes: frozenset[torch.dtype]) -> None:
        self.followed, self.x, self.dtypes = followed, x, dtypes
        self.used: set[int] = set()
        self.met = False
        self._done: dict[int, Affine] = {}
        self._by_base = {
            made.base: at
            for at, entry in reversed(list(enumerate(followed.entries)))
            for made in entry.node.outputs[:1]
            if isinstance(made, Progression)
        }

    def made(self, at: int) -> Affine:
        """What a node makes of x.

        Raises:
            NotAffine: something on the way is not of the form.
        """
        if at in self._done:
            return self._done[at]
        entry = self.followed.entries[at]
        if len(self.used) > MOST:
            raise NotAffine(f"it has more than {MOST} operators")
        values: list[Affine | Tensor] = []
        for place, numbers in enumerate(entry.node.inputs):
            held = entry.held.get(place)
            values.append(self._value(numbers) if held is None else held.cpu())
        if entry.dtypes != self.dtypes:
            raise NotAffine(f"{entry.node} computes in another dtype")
        found = self._done[at] = step(entry.node, values)
        self.used.add(at)
        return found

    def _value(self, numbers: Numbers) -> Affine:
        if same(numbers, self.x):
            self.met = True
            return identity(numbers.shape[1], tuple(numbers.shape[2:]))
        at = self._by_base.get(getattr(numbers, "base", -1))
        if at is not None and same(self.followed.entries[at].node.outputs[0], numbers):
            return self.made(at)
        part = _inside(numbers)
        if part is None:
            raise NotAffine("it reads more than one image, or its elements in another order")
        inner = self._value(tidy(as_tensor(numbers)[part].contiguous()))
        return padded(
            inner, tuple(p.start for p in part[2:]), tuple(numbers.shape[2:])
        )  # fmt: skip


# -- numbers ---------------------------------------------------------------------------------------


def _held_against(
    region: Affine,
    node: Node,
    names: tuple[str, ...],
    held: tuple[Tensor, ...],
    paths: tuple[str, ...],
) -> tuple[Node, tuple[Tensor, ...]]:
    """Hold a convolution against what a region comes to.

    Returns:
        The node that stands for the region on its side, and what weight and bias are off by.

    Raises:
        NoFold: the numbers are others, or it is no convolution.
    """
    weight = held[0]
    axes = len(region.size)
    given = dict(node.given)
    if node.layer is not None:  # its certificate says what it is; here it is what the region needs
        given = {
            "stride": list(region.stride), "padding": [-low for low in region.low],
            "dilation": [1] * axes, "transposed": False, "output_padding": [0] * axes,
            "groups": region.source and _channels(node) // weight.shape[1], "bias": None,
        }  # fmt: skip
        if any(low > 0 for low in region.low):
            raise NoFold("its first window starts within the image")
        node = replace(node, given=given, layer=None, alone=None)
    if node.name == CONVOLUTION and (given.get("transposed") or isinstance(
            given.get("padding"), str)):  # fmt: skip
        raise NoFold("it is transposed")
    dilation = tuple(given.get("dilation", [1] * axes)) if axes else ()
    try:
        whole = convolved(
            identity(_channels(node), region.source), torch.ones_like(weight), [],
            groups=int(given.get("groups", 1)), stride=tuple(given.get("stride", ())),
            padding=tuple(given.get("padding", ())), dilation=dilation,
            size=tuple(node.shapes[0][2:]),
        )  # fmt: skip
        kernel = fitted(region, weight, whole, dilation)
    except NotAffine as why:
        raise NoFold(str(why)) from None
    if len(held) < 2 and bool(region.bias.size.any()):
        raise NoFold("there is no bias: theirs is forgotten")
    call = BoundedCall(None, {}, weight.dtype)
    own = BoundedCall(None, {}, torch.float64)
    gaps = []
    for name, tensor, true in zip(names, held, (kernel, region.bias), strict=False):
        gap = (tensor.detach().double() - true.value).abs()
        limit = (call.gamma(true.steps) + own.gamma(true.steps)) * true.size
        limit = (limit + true.least * call.tiny) * GROWN
        if not bool(limit.isfinite().all()):
            raise NoFold(f"{true.steps} roundings are too many for {call.dtype} to bound")
        _within(gap, limit, name, tensor, true, paths)
        gaps.append(gap)
    per = weight[0].numel() + 1
    runs = call.gamma(max(region.run, per))
    off = []
    for place, (gap, tensor, true) in enumerate(
        zip(gaps, held, (kernel, region.bias), strict=False)
    ):
        most = torch.maximum(true.size, tensor.detach().double().abs())
        least = true.least + (region.reach + per if place else 0)
        off.append(GROWN * (gap + runs * most + least * call.tiny))
    if not all(bool(t.isfinite().all()) for t in off):
        raise NoFold(f"{region.run} roundings are too many for {call.dtype} to bound")
    return node, tuple(off)


def _channels(node: Node) -> int:
    x = node.inputs[0] if node.name == CONVOLUTION else node.inputs[-2]
    return int(x.shape[1])


def _within(
    gap: Tensor, limit: Tensor, name: str, tensor: Tensor, true: Rounded, paths: tuple[str, ...]
) -> None:
    """See that every number is one that rounding explains.

    Raises:
        NoFold: one is not; the one that is off the most is said.
    """
    if bool((gap <= limit).all()):
        return
    at = int(torch.where(gap <= limit, 0.0, gap - limit).nan_to_num(torch.inf).argmax())
    one, two, most = (float(t.detach().reshape(-1)[at]) for t in (tensor, true.value, limit))
    raise NoFold(
        f"entry {at} of {name!r} is {one!r}, what they come to is {two!r}; "
        f"rounding explains {most:.2g}"
    )
