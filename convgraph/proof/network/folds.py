r"""Folds: which convolution or linear map of one network is one and its batch norm of the other.

In evaluation a norm is one factor and one summand a channel: with s = gamma / sqrt(var + eps),

    s (conv(x, w) + b - mean) + beta = conv(x, s w) + (b - mean) s + beta

whatever x is. The fold, s w and (b - mean) s + beta, is worked out in float64. Whoever folds
rounds: the sum under the root (1: half of what eps and the sum itself err by), the root and the
quotient (as the rules of the running bound grant them), the product with gamma and that with w; for
the bias the difference and the sum come on top. More than that is no fold.

What the held numbers are really off by then counts as an error of weight and bias, and so does the
rounding of either run. A convolution computes sum w x (1 + t) + b (1 + t), |t| <= gamma(n + 1), and
a norm behind it adds at most as many roundings as the fold of the bias has: so each run is the
exact one of a weight and a bias that are off by no more than `off`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from convgraph.proof.network.end_to_end import Images, NetworkSide
from convgraph.proof.network.match import BY_CHANNEL, Reference
from convgraph.proof.network.node import CONVOLUTION, Node
from convgraph.proof.network.recorder import called, states, trace
from convgraph.proof.network.running_error.call import GROWN, QUOTIENT, ROOT, BoundedCall
from convgraph.proof.network.value_numbers import (
    Numbering,
    Numbers,
    Progression,
    as_tensor,
    tidy,
)

ROUNDINGS = 1 + ROOT + QUOTIENT + 2
"""Of a folded weight."""

BIAS_ROUNDINGS = ROUNDINGS + 2
"""Of a folded bias, and of what a norm computes of one value."""

ROLES = ("weight", "bias", "running_mean", "running_var")
"""Tensors of a norm, as its operator is given them behind its input."""


@final
@dataclass(frozen=True)
class Fold:
    """One convolution, and the convolution and the norm that it was folded of.

    Attributes:
        on: the side that holds the one convolution, "candidate" or "reference".
        path: of the convolutions.
        norm: path of the norm.
        weight: name of both weights.
        bias: name of both biases; the convolution before the norm may have none.
        pair: names of what the convolution (weight, bias) and its norm hold, on the other side.
        given: of the norm's operator, what is no tensor.
        tensors: weight and bias of the one convolution.
        off: what they are off by, float64, the rounding of a run included.
        carried: the same as errors of the reference's own parameters, by name.
    """

    on: str
    path: str
    norm: str
    weight: str
    bias: str
    pair: tuple[tuple[str, ...], tuple[str, ...]]
    given: Mapping[str, Any]
    tensors: tuple[Tensor, Tensor]
    off: tuple[Tensor, Tensor]
    carried: Mapping[str, Tensor]

    def __str__(self) -> str:
        """Say what was folded into what."""
        return f"{self.norm!r} into {self.path!r} of the {self.on}"

    def renamed(self) -> dict[str, str]:
        """Names for weight and bias of the one convolution: they are not the other side's."""
        return {name: f"{name}, folded" for name in (self.weight, self.bias)}


class NoFold(Exception):  # noqa: N818  # a reason, no error
    """It looks like a fold and is none; the text says why."""


def is_norm(node: Node) -> bool:
    """Whether a node is a batch norm, forward."""
    name = node.name.partition(".")[0]
    return name in BY_CHANNEL and not name.endswith("_backward") and "eps" in node.given


PRODUCTS = ("addmm", "mm")
"""A linear map, as torch runs it: x times its weight turned over."""


def operands(node: Node) -> list[Numbers] | None:
    """Weight and, if there is one, bias of a convolution or a linear map, as modules hold them.

    None for any other operator.
    """
    if node.name == CONVOLUTION:
        return node.inputs[1:]
    if node.name not in PRODUCTS or node.given:
        return None
    return [turned(node.inputs[-1]), *node.inputs[: len(node.inputs) - 2]]


def turned(matrix: Numbers) -> Numbers:
    """The numbers of a transposed matrix."""
    if isinstance(matrix, Progression):
        return Progression(matrix.base, matrix.shape[::-1], matrix.stride[::-1])
    return tidy(matrix.t().contiguous())


def find_folds(
    candidate: NetworkSide, reference: NetworkSide, images: Images
) -> tuple[list[Fold], dict[str, str]]:
    """Look for folds, on either side.

    Args:
        candidate: the accused.
        reference: the dense network.
        images: what both run on.

    Returns:
        Those that hold, and by the name of its weight why what looks like a fold is none.
    """
    sides = {"candidate": candidate, "reference": reference}
    if not any(name.endswith("running_var") for s in sides.values() for name, _ in states(s.net)):
        return [], {}
    try:
        seen = _convolutions(candidate, reference, images)
    except (Exception, SystemExit):  # noqa: BLE001 - whoever compares the wiring says so
        return [], {}
    folds: list[Fold] = []
    reasons: dict[str, str] = {}
    for name in seen["reference"].keys() & seen["candidate"].keys():
        (one, norm), (two, other) = seen["reference"][name], seen["candidate"][name]
        if (norm is None) == (other is None):
            continue
        pair, whole = (one, two) if norm is not None else (two, one)
        on = "candidate" if norm is not None else "reference"
        made = other if norm is None else norm
        assert made is not None
        held = sides["reference" if on == "candidate" else "candidate"].named()
        folded = sides[on].named()
        try:
            folds.append(_fold(on, name, pair, made, whole, held, folded))
        except NoFold as reason:
            what = _other(pair, whole, held, folded)
            if what:
                reasons[name] = f"{what}; a batch norm looks folded into it, but {reason}"
        except KeyError:  # what was run is not what is held
            continue
    return sorted(folds, key=str), reasons


_Seen = dict[str, tuple["_Read", "_Read | None"]]


@final
@dataclass(frozen=True)
class _Read:
    """A node, and the names of its tensors behind the first."""

    node: Node
    names: tuple[str, ...]


def _convolutions(
    candidate: NetworkSide, reference: NetworkSide, images: Images
) -> dict[str, _Seen]:
    """By side and the name of the weight: each convolution, and the norm that reads it."""
    found: dict[str, _Seen] = {}
    for key, side, run, paths in runs(candidate, reference, images):
        numbering = Numbering()
        settled = Reference(numbering)
        fresh = tuple(image.clone() for image in images)
        trace(
            side.net, run, fresh, numbering, side.by_id(paths), settled.settle,
            renamed=side.renamed(), blocks=side.blocks,
        )  # fmt: skip
        names = {place: name for name, place in numbering.names.items()}
        found[key] = _pairs(settled.nodes, names)
    return found


def runs(
    candidate: NetworkSide, reference: NetworkSide, images: Images
) -> Iterator[tuple[str, NetworkSide, Callable[[Images], list[Tensor]], set[str]]]:
    """Both sides by name, the reference first, as `trace` runs them; and which layers are wholes.

    Args:
        candidate: the accused, which hears the shapes of the reference's outputs.
        reference: the dense network.
        images: what both run on.
    """
    fresh = tuple(image.clone() for image in images)
    whole = called(candidate.net, lambda: candidate.run(candidate.net, fresh, None))
    paths = {path for path in candidate.layers if path in whole}
    shapes: list[tuple[int, ...]] = []
    for key, side in (("reference", reference), ("candidate", candidate)):

        def run(inputs: Images, side: NetworkSide = side) -> list[Tensor]:
            outputs = side.run(side.net, inputs, shapes or None)
            shapes.extend([tuple(t.shape) for t in outputs] if not shapes else [])
            return outputs

        yield key, side, run, paths


def _pairs(nodes: list[Node], names: Mapping[Any, str]) -> _Seen:
    def read(node: Node, held: list[Numbers]) -> _Read | None:
        places = [(getattr(n, "base", None), tuple(n.shape)) for n in held]
        known = tuple(names.get(place, "") for place in places)
        return _Read(node, known) if all(known) else None

    found: _Seen = {}
    makers: list[tuple[Progression, str]] = []
    for node in nodes:
        held = operands(node)
        makes = held is not None
        if held is None and is_norm(node):
            held = node.inputs[1:]
        own = None if held is None else read(node, held)
        if own is None:
            continue
        if makes:
            found.setdefault(own.names[0], (own, None))
            if isinstance(node.outputs[0], Progression):
                makers.append((node.outputs[0], own.names[0]))
            continue
        made = next((name for out, name in makers if places(out, node.inputs[0]) is not None), None)
        if made is not None and found[made][1] is None:
            found[made] = (found[made][0], own)
    return found


def places(made: Numbers, taken: Numbers) -> Tensor | None:
    """Where each element of what a norm takes (B, C, ...) lies in what a convolution made.

    None if it is not all of it, each once, or a channel is another one's.
    """
    if not isinstance(made, Progression) or len(taken.shape) < 2:
        return None
    count = torch.Size(made.shape).numel()
    found = as_tensor(taken) - made.base
    flat = found.reshape(-1)
    if flat.numel() != count or not count or int(flat.min()) < 0 or int(flat.max()) >= count:
        return None
    channels, pixels = made.shape[1], torch.Size(made.shape[2:]).numel()
    own = torch.arange(channels).view(1, -1, *(1,) * (found.dim() - 2))
    if found.shape[1] != channels or not bool((found // pixels % channels == own).all()):
        return None
    return found if flat.unique().numel() == count else None


def _other(
    pair: _Read, whole: _Read, held: Mapping[str, Tensor], folded: Mapping[str, Tensor]
) -> str:
    """Say what the two convolutions do not hold alike; "" if nothing tells of a fold."""
    for one, two in zip(pair.names, whole.names, strict=False):
        if held[one].shape != folded[two].shape or not torch.equal(held[one], folded[two]):
            return f"{two!r} differs"
    if len(pair.names) == len(whole.names):
        return ""
    return f"the bias of {pair.node.path!r} differs"


# -- numbers ---------------------------------------------------------------------------------------


def _fold(
    on: str,
    weight: str,
    pair: _Read,
    norm: _Read,
    whole: _Read,
    held: Mapping[str, Tensor],
    folded: Mapping[str, Tensor],
) -> Fold:
    """Hold one convolution against a pair.

    Args:
        on: which side holds the one convolution.
        weight: name of both weights.
        pair: the convolution before the norm.
        norm: the norm.
        whole: the one convolution.
        held: what the pair's side holds, by name.
        folded: what the other side holds.

    Raises:
        NoFold: the numbers are others, or depend on the images.
    """
    node = norm.node
    if node.given.get("training"):
        raise NoFold(f"{node.path!r} is in training mode: it norms by the images; call eval()")
    if len(whole.names) < 2:
        raise NoFold(f"there is no bias: that of {node.path!r} is forgotten")
    if len(pair.names) > 1 and pair.names[1] != whole.names[1]:
        raise NoFold(f"its bias is {whole.names[1]!r}, that before {node.path!r} {pair.names[1]!r}")
    role = dict(zip((r for r in ROLES if r not in node.given), norm.names, strict=True))
    w, new = held[weight], (folded[weight], folded[whole.names[1]])
    used = [w, *new, *(held[n] for n in (*pair.names, *norm.names))]
    if w.shape != new[0].shape or w.dtype != new[0].dtype:
        raise NoFold(f"it is {list(new[0].shape)} {new[0].dtype} of {list(w.shape)} {w.dtype}")

    def of(name: str | None, otherwise: float) -> Tensor:
        if name is None:
            return torch.full_like(new[1], otherwise, dtype=torch.float64)
        return held[name].detach().double()

    groups = whole.node.given.get("groups", 1)
    transposed = bool(whole.node.given.get("transposed", False))

    def spread(channel: Tensor) -> Tensor:
        """One number a channel, in the place of each weight."""
        rest = (1,) * (w.dim() - 2)
        if not transposed:
            return channel.view(-1, 1, *rest).expand(w.shape)
        table = channel.view(groups, 1, -1, *rest)  # a transposed weight is (in, out / groups, ...)
        return table.expand(groups, w.shape[0] // groups, *w.shape[1:]).reshape(w.shape)

    root = (of(role["running_var"], 1) + node.given["eps"]).sqrt()
    scale = of(role.get("weight"), 1) / root
    mean, beta = of(role["running_mean"], 0), of(role.get("bias"), 0)
    before = of(pair.names[1] if len(pair.names) > 1 else None, 0)
    true = w.detach().double() * spread(scale), (before - mean) * scale + beta
    sizes = true[0].abs(), (before.abs() + mean.abs()) * scale.abs() + beta.abs()
    call = BoundedCall(None, {}, max((t.dtype for t in used), key=lambda d: torch.finfo(d).eps))
    own = BoundedCall(None, {}, torch.float64)
    tiny = (1 + w.detach().double().abs()) * call.tiny, (2 + before.abs() + mean.abs()) * call.tiny
    gaps = tuple((a.detach().double() - b).abs() for a, b in zip(new, true, strict=True))
    for name, gap, size, n, least, a, b in zip(
        whole.names, gaps, sizes, (ROUNDINGS, BIAS_ROUNDINGS), tiny, new, true, strict=True
    ):
        limit = ((call.gamma(n) + own.gamma(n)) * size + least) * GROWN
        if not bool((gap <= limit).all()):
            at = int(torch.where(gap <= limit, 0.0, gap - limit).nan_to_num(torch.inf).argmax())
            held_, fold, most = (float(t.detach().reshape(-1)[at]) for t in (a, b, limit))
            raise NoFold(
                f"entry {at} of {name!r} is {held_!r}, the fold of {node.path!r} is {fold!r}; "
                f"rounding explains {most:.2g}"
            )
    per = w[0].numel() if not transposed else w.numel() // (w.shape[1] * groups)
    runs = call.gamma(per + 1 + BIAS_ROUNDINGS)
    reach = (per + 2) * call.tiny * (1 + scale.abs())
    off = (
        GROWN * (gaps[0] + runs * torch.maximum(sizes[0], new[0].detach().double().abs())),
        GROWN * (gaps[1] + runs * torch.maximum(sizes[1], new[1].detach().double().abs()) + reach),
    )
    if not all(bool(t.isfinite().all()) for t in off):
        raise NoFold(f"{per} products are too many for {call.dtype} to bound")
    apart = torch.where(off[0] == 0, 0.0, off[0] / spread(scale).abs())
    if not bool(apart.isfinite().all()):
        raise NoFold(f"{node.path!r} closes a channel, and its weight is not 0")
    shift = {role["bias"]: off[1]} if "bias" in role else {role["running_mean"]: off[1] * root}
    carried = dict(zip(whole.names, off, strict=True))
    return Fold(
        on, weight.rpartition(".")[0], node.path, weight, whole.names[1],
        (pair.names, norm.names), {k: node.given.get(k) for k in ("eps", "training")}, new, off,
        carried if on == "reference" else {weight: GROWN * apart} | shift,
    )  # fmt: skip
