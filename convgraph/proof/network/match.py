"""Two runs, node by node: the same operator with the same arguments on the same elements.

    same numbers at the same places        the same operator makes the same values there
    two inputs of a sum exchanged          likewise: a + b and b + a round alike
    results that nobody uses               whatever they are: a mean for a log
    elementwise, places exchanged          so are the outputs: rows (N, C) against (B, C, H, W)
    a reduction, groups exchanged          the same sets of elements, so the same results
    a sum                                  likewise, whatever adds up, and without what is 0
    what was computed before               the same once more: checkpoints compute forward twice
    other operators                        the same polynomials of the same elements (`polynomials`)

Anything else is a difference or undecided, and says at which module.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import log2
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor

from convgraph.proof.draws import EPSILON
from convgraph.proof.network.node import BACKWARD, CONVOLUTION, Node
from convgraph.proof.network.polynomials import Points
from convgraph.proof.network.value_numbers import (
    Numbering,
    Numbers,
    Progression,
    Undecided,
    Unordered,
    as_tensor,
    progression,
    same,
    tidy,
)

REDUCTIONS = (
    "mean.dim", "sum.dim_IntList", "amax", "amin", "linalg_vector_norm", "var.correction",
    "std.correction", "logsumexp",
)  # fmt: skip
"""Reductions whose result is a function of the set of elements, in whatever order."""

SOFTMAX = {
    "_softmax": 0,
    "_log_softmax": 0,
    "_softmax_backward_data": 1,
    "_log_softmax_backward_data": 1,
}
"""Operators that treat all elements along `dim` alike, and which input has every element once."""

COMMUTE = ("add.Tensor", "add_.Tensor", "mul.Tensor", "mul_.Tensor", "maximum", "minimum")
"""Operators whose two inputs may change places; `alpha` of a sum must be 1."""

LOST = 16
"""How many times as much as the reference's an entry may lose by its own rounding, where numbers
lie close together; how products are put together makes some of it."""

BEYOND = 2.0**32
"""How many times as large, or as small, as any of the reference's an entry on the way may be."""

ODD = 64
"""Operators of the candidate that fit nowhere, after which it is another network."""

BY_CHANNEL = {
    "native_batch_norm": 1,
    "_native_batch_norm_legit_no_training": 1,
    "cudnn_batch_norm": 1,
    "native_batch_norm_backward": 2,
}
"""Operators that, in evaluation, do the same to every pixel of a channel, and how many of their
inputs are pixels; what comes behind their first output is of the channel, whatever the order."""

ROWWISE = {"native_layer_norm": 0, "addmm": 1, "mm": 0}
"""Operators that do the same to every row of one of their inputs, and which one."""


class Different(Exception):  # noqa: N818  # a verdict, not an error
    """The two runs part here.

    Attributes:
        reference: the node of the reference, None if it has no more.
        candidate: the node of the candidate, None likewise.
        alike: whether both received the same elements, so that only the operators differ.
    """

    def __init__(
        self, text: str, reference: Node | None, candidate: Node | None, *, alike: bool = False
    ) -> None:
        """Keep both nodes."""
        super().__init__(text)
        self.reference, self.candidate, self.alike = reference, candidate, alike


@final
@dataclass
class Reference:
    """The nodes of the reference, numbered anew as they come.

    Attributes:
        numbering: shared with the candidate.
        nodes: in order.
        merges: whether elementwise operators make one number of equal elements, as of the gradient
            of a mean, which is one everywhere; their values are then of one place.
        points: what elements are worth, where operators may be written otherwise.
    """

    numbering: Numbering
    nodes: list[Node] = field(default_factory=list)
    merges: bool = False
    points: Points | None = None

    def settle(self, node: Node) -> None:
        """Number its outputs; what was computed before has its numbers."""
        before = next((other for other in reversed(self.nodes) if _repeats(other, node)), None)
        if before is not None:
            node.outputs = list(before.outputs)
            return
        node.outputs = [self.numbering.take(shape) for shape in node.shapes]
        if self.merges and node.elementwise and node.inputs and len(node.shapes) == 1:
            node.outputs = [_merged(node)]
        self.nodes.append(node)
        if self.points is not None:
            for numbers, found in zip(node.outputs, self.points.work_out(node), strict=True):
                self.points.put(numbers, found)

    def producer(self, numbers: Numbers) -> str:
        """Name what made the first element of a value."""
        first = as_tensor(numbers).reshape(-1)[:1].tolist()
        if not first:
            return "nothing"
        for name, (base, shape) in self.numbering.names.items():
            if base <= first[0] < base + max(torch.Size(shape).numel(), 1):
                return name
        for node in self.nodes:
            for out in node.outputs:
                base = int(as_tensor(out).reshape(-1)[0]) if 0 not in out.shape else -1
                if base <= first[0] < base + torch.Size(out.shape).numel():
                    return str(node)
        return "a constant"


@final
class Matcher:
    """Finds for every node of the candidate its node of the reference.

    Attributes:
        pairs: (reference, candidate) so far.
        left: nodes of the reference that no node of the candidate is.
        otherwise: nodes of the candidate that are none of the reference's, and were worked out.
        worked_out: whether what elements are worth decided anything, be it of the reference's own.
    """

    def __init__(self, reference: Reference) -> None:
        """Start with none matched."""
        self.reference, self.points = reference, reference.points
        self.otherwise: list[Node] = []
        self.worked_out = False
        self.left = list(reference.nodes)
        self.pairs: list[tuple[Node, Node]] = []
        self.odd: list[Different] = []

    @property
    def others(self) -> Points | None:
        """What elements are worth, if operators of either side are others."""
        return self.points if self.otherwise or self.worked_out else None

    def doubt(self, times: float = 1) -> str:
        """Why two sides that mean the same may not be the same, in words; "" where they are.

        Args:
            times: how many times as large terms as the reference the candidate may add up.
        """
        points = self.others
        if points is None:
            return ""
        first = self.otherwise[0] if self.otherwise else "what is returned"
        if points.log2_epsilon > log2(EPSILON):
            return (
                f"operators are others, and so many that 2^{points.log2_epsilon:.0f} is the most "
                "that can be said of the chance that they agree by accident; take smaller images"
            )
        if points.larger > times * (1 + 2.0**-30):  # both are worked out in float64
            return (
                f"no direct sum: an entry is put together of terms that are {points.larger:.6g} "
                f"times as large as the reference's, first at {first}; what cancels "
                "can lose every digit of real numbers"
            )
        if points.lost > LOST:
            return (
                f"no direct sum: where numbers lie close together an entry can lose "
                f"{points.lost:.6g} times as much as the reference's, first at {first}"
            )
        if points.beyond > BEYOND:
            return (
                f"an entry is {points.beyond:.6g} times as large, or as small, as any of the "
                f"reference's, first at {first}; it can leave the range of its dtype"
            )
        return ""

    def settle(self, node: Node) -> None:
        """Match one node, the next in order first.

        One that fits nowhere gets numbers of its own: it is a difference once somebody uses them.

        Raises:
            Different: there is none, and there were many such before.
            Unordered: there is one, but its elements lie in an order that no rule covers.
        """
        unordered: Unordered | None = None
        for place, other in enumerate(self.left):
            if not _may_match(other, node):
                continue
            try:
                outputs = _outputs(other, node)
            except Unordered as reason:
                unordered = unordered or reason
                continue
            if outputs is not None:
                node.outputs = outputs
                self.left.pop(place)
                self.pairs.append((other, node))
                return
        for other, before in reversed(self.pairs):
            for again in (other, before):
                if _repeats(again, node):
                    node.outputs = list(again.outputs)
                    self.pairs.append((other, node))
                    return
        if self.points is not None:
            if node.layer is not None and self._is_layer(node, self.points):
                return
            difference = self._difference(node)
            if not self.points.settle(node):
                self.odd.append(difference)
            self.otherwise.append(node)
            return
        if unordered is not None and not self.odd:
            raise unordered
        self.odd.append(self._difference(node))
        if len(self.odd) > ODD:
            raise self.odd[0]
        node.outputs = [self.reference.numbering.take(shape) for shape in node.shapes]

    def _is_layer(self, node: Node, points: Points) -> bool:
        """Match a layer that is one node with its own, if both take the same polynomials."""
        for place, other in enumerate(self.left):
            if (
                _may_match(other, node)
                and other.shapes == node.shapes
                and all(map(points.same, other.inputs, node.inputs))
            ):
                node.outputs = list(other.outputs)
                self.pairs.append((self.left.pop(place), node))
                self.worked_out = True
                return True
        return False

    def finish(self, one: list[Numbers], two: list[Numbers], names: Sequence[str] = ()) -> None:
        """Compare what is returned.

        Args:
            one: of the reference.
            two: of the candidate.
            names: of what is returned; without any they are numbered.

        Raises:
            Different: another number of outputs, or another element at some place.
        """
        if len(one) != len(two) and self.odd:
            raise self.odd[0]
        if len(one) != len(two):
            raise Different(f"{len(one)} outputs against {len(two)}", None, None)
        for place, (a, b) in enumerate(zip(one, two, strict=True)):
            if same(a, b):
                continue
            if self.points is not None and self.points.same(a, b):
                self.worked_out = True
                continue
            if self.odd:
                raise self.odd[0]
            skipped = f"; the candidate leaves out {self.left[0]}" if self.left else ""
            what = names[place] if names else f"output {place}"
            raise Different(
                f"{what} is made by {self.reference.producer(a)}, the candidate's by "
                f"{self.reference.producer(b)}, or its elements lie elsewhere{skipped}",
                self.left[0] if self.left else None,
                None,
            )

    def _difference(self, node: Node) -> Different:
        """Say how the first node that fits nowhere differs from the one expected."""
        if not self.left:
            return Different(f"the candidate has one more operator: {node}", None, node)
        other = self.left[0]
        if len(node.inputs) == len(other.inputs) and all(map(same, other.inputs, node.inputs)):
            what = (
                f"{node.name} in place of {other.name}"
                if node.name != other.name
                else f"{node.name}({node.arguments}) in place of ({other.arguments})"
            )
            return Different(f"at {other.path!r}: {what}", other, node, alike=True)
        if not _may_match(other, node):
            return Different(
                f"at {other.path!r}: {node.name} in place of {other.name}", other, node
            )
        for place, (a, b) in enumerate(zip(other.inputs, node.inputs, strict=True)):
            if not same(a, b):
                return Different(
                    f"at {other.path!r}: input {place} of {other.name} comes from "
                    f"{self.reference.producer(a)}, the candidate's from "
                    f"{self.reference.producer(b)}",
                    other, node,
                )  # fmt: skip
        return Different(f"at {other.path!r}: {other.name} differs", other, node)


def as_proven(matcher: Matcher) -> None:
    """See that each layer that is one node runs by itself, where it is proven, what it ran here.

    Raises:
        Undecided: one of the candidate's does not.
    """
    for _, node in matcher.pairs:
        other = node.alone() if node.alone is not None else ""
        if other:
            raise Undecided(f"the layer at {node.layer!r}: {other}")


SUMS = ("sum.dim_IntList", "index_add")
"""Operators that add up sets of elements."""


def _merged(node: Node) -> Numbers:
    """The output's numbers, those of equal elements one."""
    if any(n == progression(n.base, node.shapes[0]) for n in node.inputs
           if isinstance(n, Progression)):  # fmt: skip
        return node.outputs[0]  # no two elements are equal
    which = _key(_broadcast(node))
    count = int(which.max()) + 1 if len(which) else 0
    if count == len(which):
        return node.outputs[0]
    first = torch.full((count,), len(which)).scatter_reduce_(
        0, which, torch.arange(len(which)), "amin"
    )
    made = as_tensor(node.outputs[0]).reshape(-1)[first[which]]
    return tidy(made.reshape(node.shapes[0]))


def _repeats(one: Node, two: Node) -> bool:
    """Whether a node computes what another one has computed of the same elements."""
    return (
        one.name == two.name
        and one.shapes == two.shapes
        and one.layer == two.layer
        and one.arguments == two.arguments
        and not one.folded
        and not two.folded
        and len(one.inputs) == len(two.inputs)
        and all(map(same, one.inputs, two.inputs))
        and _who(one) == _who(two)
    )


def _who(node: Node) -> Any:
    """Who is there of what a layer takes, where it looks at that; None for all."""
    there = node.given.get("mask") if node.layer is not None else None
    return None if there is None or bool(there.all()) else there.tolist()


def _may_match(one: Node, two: Node) -> bool:
    if one.name in SUMS and two.name in SUMS:
        return bool(one.given.get("dtype") == two.given.get("dtype"))
    if one.name != two.name or len(one.inputs) != len(two.inputs):
        return False
    if one.name != CONVOLUTION and (one.layer or two.layer):
        alike = (one.layer, one.arguments) == (two.layer, two.arguments)
        told = two.name.endswith(BACKWARD) and _who(two) is not None  # an array tells nothing
        return alike and (not told or _who(one) == _who(two))
    if one.name == CONVOLUTION and two.layer is not None:
        return True  # its certificate says whether the arguments are the same
    if one.layer is not None and one.name == CONVOLUTION:
        return False
    if one.name in REDUCTIONS:
        return bool(_rest(one) == _rest(two))
    if one.name in SOFTMAX and one.shapes != two.shapes:
        return bool(_rest(one) == _rest(two))
    return one.arguments == two.arguments


def _rest(node: Node) -> Any:
    return {name: value for name, value in node.given.items() if name not in ("dim", "keepdim")}


def _axes(node: Node) -> set[int]:
    """The axes that a reduction runs over, counted from the front."""
    axes, d = node.given.get("dim"), len(node.inputs[0].shape)
    some = range(d) if axes in (None, []) else [axes] if isinstance(axes, int) else axes
    return {axis % d for axis in some}


def _outputs(one: Node, two: Node) -> list[Numbers] | None:
    """The candidate's outputs in the reference's numbers, or None if it reads something else."""
    if one.name in SUMS and one.arguments != two.arguments:
        return _sums(one, two)
    turned = one
    if one.name in COMMUTE and len(two.inputs) == 2 and two.given.get("alpha", 1) == 1:
        turned = replace(one, inputs=one.inputs[::-1])
        if all(map(same, turned.inputs, two.inputs)):
            return list(one.outputs)
    alike = one.name not in REDUCTIONS or _axes(one) == _axes(two)
    if alike and all(map(same, one.inputs, two.inputs)) and one.shapes == two.shapes:
        return list(one.outputs)
    if one.name in SUMS:
        return _sums(one, two)
    if not _overlap(one, two):
        return None
    if one.elementwise and len({*one.shapes}) == len({*two.shapes}) == 1:
        return _exchanged(one, two) or _exchanged(turned, two)
    if one.name in REDUCTIONS:
        return _regrouped(one, two)
    if one.name in SOFTMAX and _regrouped(one, two) is not None:
        return _exchanged(one, two)
    if one.name in ROWWISE:
        found = _reordered(one, two)
        if found is not None:
            return found
    trains = one.given.get("training") or one.given.get("train")
    if one.name.partition(".")[0] in BY_CHANNEL and not trains:
        found = _by_channel(one, two)
        if found is not None:
            return found
    apart = [
        k for k, pair in enumerate(zip(one.inputs, two.inputs, strict=True)) if not same(*pair)
    ]
    if apart and all(map(_content, one.inputs, two.inputs)):
        place = apart[0]
        raise Unordered(
            f"at {one.path!r}: the elements of input {place} of {one.name} lie in another order on "
            f"the candidate, and there is no rule for {one.name} in another order"
        )
    return None


def _overlap(one: Node, two: Node) -> bool:
    """A cheap look before an expensive one: the first inputs have one first element in common."""
    a, b = as_tensor(one.inputs[0]), as_tensor(two.inputs[0])
    return a.numel() >= b.numel() or one.elementwise


def _content(a: Numbers, b: Numbers) -> bool:
    one, two = as_tensor(a).reshape(-1), as_tensor(b).reshape(-1)
    return one.numel() == two.numel() and bool(torch.equal(one.sort()[0], two.sort()[0]))


def _broadcast(node: Node) -> list[Tensor]:
    return [as_tensor(n).expand(node.shapes[0]).reshape(-1) for n in node.inputs]


def _exchanged(one: Node, two: Node) -> list[Numbers] | None:
    """Find the places by one input whose elements all differ, then look at all inputs there.

    Where none is so, by all inputs at once: the same elements make the same result.
    """
    if torch.Size(one.shapes[0]).numel() < torch.Size(two.shapes[0]).numel():
        return None
    ours, theirs = _broadcast(one), _broadcast(two)
    if not ours:
        return None
    # 0 stands for whoever is absent, many times over, and computes one thing everywhere
    apart = [n[n != 0] for n in ours]
    unique = next((k for k, n in enumerate(apart) if n.unique().numel() == n.numel()), None)
    if unique is None and len(ours) == 1 and not _one_a_number(one):
        return None
    places = None
    if unique is not None:
        places = _found(ours[unique], theirs[unique], ours, theirs)
    if places is None:
        places = _found(*_together(ours, theirs), ours, theirs)
    if places is None:
        return None
    return [
        tidy(as_tensor(out).reshape(-1)[places].reshape(shape))
        for out, shape in zip(one.outputs, two.shapes, strict=True)
    ]


def _found(keys: Tensor, asked: Tensor, ours: list[Tensor], theirs: list[Tensor]) -> Tensor | None:
    """Where the places that are asked for are among ours, if all inputs are the same there."""
    sorted_, order = keys.sort(stable=True)
    at = torch.searchsorted(sorted_, asked.contiguous()).clamp_(max=sorted_.numel() - 1)
    places = order[at]
    alike = all(torch.equal(a[places], b) for a, b in zip(ours, theirs, strict=True))
    return places if alike else None


def _together(ours: list[Tensor], theirs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """One number for the elements of several inputs at a place, on both sides."""
    key = _key([torch.cat(pair) for pair in zip(ours, theirs, strict=True)])
    return key[: len(ours[0])], key[len(ours[0]) :]


def _key(columns: list[Tensor]) -> Tensor:
    """One number from 0 for the elements of several inputs at a place."""
    key = torch.zeros(len(columns[0]), dtype=torch.int64)
    for column in columns:
        own = column.unique(return_inverse=True)[1]
        most = int(own.max()) + 1 if len(own) else 1
        found, key = (key * most + own).unique(return_inverse=True)
        if len(found) == len(key):  # no two are the same, whatever the others say
            break
    return key


def _one_a_number(node: Node) -> bool:
    """Whether equal elements of its one input made equal elements; see `Reference.merges`."""
    pairs = torch.stack([_broadcast(node)[0], as_tensor(node.outputs[0]).reshape(-1)])
    return bool(pairs.unique(dim=1).shape[1] == pairs[0].unique().numel())


def _reordered(one: Node, two: Node) -> list[Numbers] | None:
    """The same rows in another order; everything else the same."""
    data = ROWWISE[one.name]
    rest = [pair for k, pair in enumerate(zip(one.inputs, two.inputs, strict=True)) if k != data]
    if not all(same(*pair) for pair in rest):
        return None
    width = torch.Size(one.given.get("normalized_shape", one.inputs[data].shape[-1:])).numel()
    ours, theirs = (as_tensor(node.inputs[data]).reshape(-1, width) for node in (one, two))
    places = _places(ours, theirs)
    if places is None:
        return None
    count = ours.shape[0]
    return [
        tidy(as_tensor(out).reshape(count, -1)[places].reshape(shape))
        for out, shape in zip(one.outputs, two.shapes, strict=True)
    ]


def _by_channel(one: Node, two: Node) -> list[Numbers] | None:
    """The same pixels (B, C, ...) in another order, each with its channels; the rest the same."""
    count = BY_CHANNEL[one.name.partition(".")[0]]
    if not all(map(same, one.inputs[count:], two.inputs[count:])):
        return None

    def rows(numbers: Numbers) -> Tensor:
        return as_tensor(numbers).movedim(1, -1).reshape(-1, numbers.shape[1])

    pixels = [
        (rows(a), rows(b)) for a, b in zip(one.inputs[:count], two.inputs[:count], strict=True)
    ]
    # A gradient may be one element everywhere; the pixels themselves tell where each is.
    for ours, theirs in reversed(pixels):
        places = _places(ours, theirs)
        if places is not None and all(torch.equal(a[places], b) for a, b in pixels):
            break
    else:
        return None
    batch, channels, *size = two.shapes[0]
    made = rows(one.outputs[0])[places].reshape(batch, *size, channels).movedim(-1, 1)
    return [tidy(made.contiguous()), *one.outputs[1:]]


def _places(ours: Tensor, theirs: Tensor) -> Tensor | None:
    """Where each of their rows is among ours, or None if one is not."""
    if len(ours) < len(theirs) or ours.shape[1:] != theirs.shape[1:] or not ours.numel():
        return None
    firsts, order = ours[:, 0].sort()
    at = torch.searchsorted(firsts, theirs[:, 0].contiguous()).clamp_(max=len(order) - 1)
    places = order[at]
    return places if torch.equal(ours[places], theirs) else None


def _groups(node: Node) -> Tensor:
    """(results, elements of each) numbers, sorted within a result."""
    x = as_tensor(node.inputs[SOFTMAX.get(node.name, 0)])
    dims = node.given.get("dim")
    dims = list(range(x.dim())) if dims in (None, []) else dims
    axes = [d % x.dim() for d in ([dims] if isinstance(dims, int) else dims)]
    kept = [d for d in range(x.dim()) if d not in axes]
    count = torch.Size([x.shape[d] for d in kept]).numel()
    return x.permute(*kept, *axes).reshape(count, -1).sort(dim=1)[0]


def _sums(one: Node, two: Node) -> list[Numbers] | None:
    """The same sets of elements added up, in whatever order and by whatever operator."""
    ours, theirs = _added(one), _added(two)
    if ours is None or theirs is None:
        return None
    width = max(ours.shape[1], theirs.shape[1])
    places = _places(*(F.pad(groups, (0, width - groups.shape[1])) for groups in (ours, theirs)))
    if places is None:
        return None
    return [tidy(as_tensor(one.outputs[0]).reshape(-1)[places].reshape(two.shapes[0]))]


def _added(node: Node) -> Tensor | None:
    """(results, elements of each) numbers, the largest first; 0 for what is 0."""
    if node.name == SUMS[0]:
        found = _groups(node)
    else:
        index, start, rows = (
            node.given.get("index"),
            *map(as_tensor, (node.inputs[0], node.inputs[2])),
        )
        dim = node.given["dim"] % start.dim()
        if index is None or "alpha" in node.given or bool(start.any()):
            return None
        rows = rows.movedim(dim, 0).reshape(len(index), -1)
        order = index.cpu().sort(stable=True)[1]
        counts = index.cpu().bincount(minlength=start.shape[dim])
        longest = int(counts.max()) if len(counts) else 0
        table = rows.new_zeros(start.shape[dim], longest, rows.shape[1])
        owner = index.cpu()[order]
        first = counts.cumsum(0) - counts
        table[owner, torch.arange(len(owner)) - first[owner]] = rows[order]
        rest = [n for axis, n in enumerate(start.shape) if axis != dim]
        moved = table.transpose(1, 2).reshape(start.shape[dim], *rest, longest).movedim(0, dim)
        found = moved.reshape(-1, longest).sort(dim=1)[0]
    return found.flip(1)[:, : int((found != 0).sum(1).max())] if found.numel() else found


def _regrouped(one: Node, two: Node) -> list[Numbers] | None:
    """The same sets of elements, in whatever order; a softmax is the caller's to finish."""
    places = _places(_groups(one), _groups(two))
    if places is None:
        return None
    if one.name in SOFTMAX:
        return []
    made = as_tensor(one.outputs[0]).reshape(-1)[places].reshape(two.shapes[0])
    return [tidy(made)]
