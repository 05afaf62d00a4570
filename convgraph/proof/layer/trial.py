"""One trial: integers for x, w, b and g, what they must give, and what a side makes of them.

First order: y and its gradients. One derivative up, with fresh cotangents u, v and z of grad_x,
grad_w and grad_b, the gradients of

    L(x, w, g) = <grad_x, u> + <grad_w, v> + <grad_b, z>

are contractions of the same form:  dL/dx = grad_x(v, g),  dL/dw = grad_w(u, g)  and
dL/dg = conv(u, w) + conv(x, v) + z.

Integers lie near zero, behaviour that depends on size does not. So each trial multiplies x, w and g
by powers of two of its own: results move by a power of two, which is exact, and values between
2^-12 and 2^12 a are all seen.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, combinations
from typing import Any, TypeVar, final

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from convgraph.proof.draws import Budget
from convgraph.proof.equation.oracle import Oracle, as_exact

Found = TypeVar("Found")

Run = Callable[..., Tensor]
"""Takes x (B, C, *size), w, b and returns y (B, C', *out), differentiable; x alone if linear."""

EXPONENTS = ((0, 0, 0), (12, 0, -12), (-12, 12, 0), (0, -12, 12), (12, -12, -12), (-12, 0, 12))
"""Per trial, in turn: the powers of two by which x, w and g are multiplied."""


PLAIN, REFILLED, INNER, AGAIN, FROZEN = "plain", "refilled", "inner", "again", "frozen"
BACKWARD, BETWEEN, OWN, COPIED = "backward", "between", "own", "copied"
MANNERS = (PLAIN, REFILLED, INNER, AGAIN, BACKWARD)
"""How trials call, in turn: with fresh leaves; with the tensors of the trial before, filled anew in
place; with views of other memory, which are no leaves; with gradients taken twice through one
graph of tensors whose versions say that they were written to, as those of initialised weights do;
and with parameters, gradients as `.backward()` adds them to the `.grad` that is there."""


ENOUGH = 17
"""Trials in which every manner has its turn."""


def manners_of(trial: int, trials: int, names: Iterable[str]) -> list[str]:
    """How a trial calls.

    The first trials take one turn each: as `MANNERS` says, called once more before the backward,
    and without a gradient for each set of tensors. What one call leaves out, another of the same
    turn has, so every trial compares every quantity. Where trials are few, the last ones take the
    turns that are left: nobody is to call between the first two, of which one fills anew.

    Example:
        >>> [manners_of(trial, 17, "xw") for trial in (0, 4, 5, 6, 7)]
        [['plain'], ['backward'], ['between', 'frozen x, w'], ['frozen x', 'frozen w'], ['inner']]
        >>> manners_of(3, 5, "xw")
        ['again', 'frozen x', 'frozen w']
    """
    x, *others = names
    turns = [[manner] for manner in MANNERS] + [[BETWEEN, without(x, *others)]]
    for n in range(len(others)):
        for some in combinations(others, n):
            rest = [name for name in others if name not in some]
            turns.append([without(x, *some), without(*rest)])
    last = trials - 1
    at = [n if n < trials else last - (n - trials) % max(1, last) for n in range(len(turns))]
    mine = [manner for n, turn in zip(at, turns, strict=True) if n == trial for manner in turn]
    return mine or [MANNERS[trial % len(MANNERS)]]


def every_manner(names: Iterable[str]) -> list[str]:
    """All manners, each once.

    Example:
        >>> every_manner("x")
        ['plain', 'refilled', 'inner', 'again', 'backward', 'between', 'frozen x']
    """
    sent = [*names]
    turns = [manners_of(trial, ENOUGH, sent) for trial in range(ENOUGH)]
    return [*dict.fromkeys(chain.from_iterable(turns))]


def without(*names: str) -> str:
    """The manner in which these tensors need no gradient."""
    return f"{FROZEN} {', '.join(names)}"


def frozen_in(manner: str) -> tuple[str, ...]:
    """The tensors that need no gradient."""
    return tuple(manner.partition(" ")[2].split(", ")) if manner.startswith(FROZEN) else ()


IN_WORDS = {
    BACKWARD: ", as .backward() adds it to the .grad of parameters",
    REFILLED: ", with the tensors of the call before filled anew in place, through .data",
    BETWEEN: ", where it is called once more before its backward runs",
    INNER: ", with views of other memory, which are no leaves",
    COPIED: ", with copies, which are no leaves",
    AGAIN: ", where the graph is walked twice, of tensors that were written to before",
    FROZEN: ", without a gradient for ",
    OWN: ", as two calls of .backward() add it up in .grad of its own parameters, halved",
}


def in_words(manner: str) -> str:
    """How a side was called, as an end of a sentence; "" where it was called plainly.

    Example:
        >>> in_words("frozen x, b")
        ', without a gradient for x, b'
        >>> in_words("inner w")
        ', with a view of other memory for w alone, and no leaves'
    """
    if manner.startswith(f"{INNER} "):
        return f", with a view of other memory for {manner.split()[1]} alone, and no leaves"
    return f"{IN_WORDS.get(manner.partition(' ')[0], '')}{', '.join(frozen_in(manner))}"


@final
@dataclass(frozen=True, eq=False)
class Probe:
    """The numbers of one trial, before they are scaled.

    Attributes:
        sent: x and, if there are any, w and b: whole numbers.
        g: cotangent of y.
        up: cotangents of the gradients, in the order of `sent`; empty for first order only.
        exponents: of x, w and g.
    """

    sent: dict[str, Any]
    g: Any
    up: dict[str, Any] = field(default_factory=dict)
    exponents: tuple[int, int, int] = (0, 0, 0)

    def scale(self, quantity: str) -> float:
        """The power of two that a quantity carries.

        Example:
            >>> Probe({}, None, exponents=(12, 0, -12)).scale("grad_w")
            1.0
        """
        x, w, g = self.exponents
        powers = {
            "x": x, "w": w, "b": x + w, "g": g, "y": x + w, "grad_x": w + g, "grad_w": x + g,
            "grad_b": g, "double_x": w + g, "double_w": x + g, "double_g": x + w,
        }  # fmt: skip
        return 2.0 ** powers[quantity]


def draw(
    budget: Budget, oracle: Oracle, generator: np.random.Generator, trial: int, second: bool
) -> Probe:
    """Draw the integers of one trial."""
    spec = oracle.spec
    shapes = {"x": spec.x_shape, "w": spec.w_shape}
    if spec.bias:
        shapes["b"] = (spec.out_channels,)
    sent = {name: budget.draw(generator, shape) for name, shape in shapes.items()}
    g = budget.draw(generator, oracle.y_shape)
    up = {n: budget.draw(generator, shape) for n, shape in shapes.items()} if second else {}
    return Probe(sent, g, up, EXPONENTS[trial % len(EXPONENTS)])


def lightest(probe: Probe, terms: int) -> Probe:
    """The same numbers in the fastest dtype in which no sum of `terms` products rounds."""
    g, *rest = as_exact(terms, probe.g, *probe.sent.values(), *probe.up.values())
    sent = dict(zip(probe.sent, rest, strict=False))
    up = dict(zip(probe.up, rest[len(sent) :], strict=True))
    return replace(probe, g=g, sent=sent, up=up)


def truth(oracle: Oracle, probe: Probe) -> dict[str, Any]:
    """What the oracle says, unscaled, of a probe that is `lightest`."""
    g, at, up = probe.g, probe.sent, probe.up
    found = {
        "y": oracle.convolve(at["x"], at["w"], at.get("b")),
        "grad_x": oracle.grad_x(at["w"], g),
        "grad_w": oracle.grad_w(at["x"], g),
    }
    if "b" in at:
        found["grad_b"] = oracle.grad_b(g)
    if up:
        found["double_x"] = oracle.grad_x(up["w"], g)
        found["double_w"] = oracle.grad_w(up["x"], g)
        found["double_g"] = oracle.convolve(up["x"], at["w"]) + oracle.convolve(
            at["x"], up["w"], up.get("b")
        )
    return found


HANDS_ON = (
    "it returns memory of the image that it is sent, and the reference does not: who writes to one "
    "in place writes to both"
)


def hands_on(y: Tensor, x: Tensor) -> bool:
    """Whether a result is memory of what was sent."""
    if not y.layout == x.layout == torch.strided or not y.numel():
        return False
    places = {t.untyped_storage().data_ptr() for t in (x, y)}
    return len(places) == 1


def apart(tensor: Tensor) -> Tensor:
    """The same numbers as a view of other memory, every other entry of it.

    Example:
        >>> apart(torch.ones(2, 3)).stride()
        (6, 2)
    """
    return torch.stack([tensor.detach(), tensor], -1)[..., 1]


def handed_on(manner: str, name: str, leaf: Tensor) -> Tensor:
    """What a side is given of a leaf: itself, or in memory that is no leaf's.

    Example:
        >>> [handed_on("inner w", name, torch.ones(2, 3)).stride() for name in "xw"]
        [(3, 1), (6, 2)]
    """
    kind, _, alone = manner.partition(" ")
    if kind == INNER and alone in ("", name):
        return apart(leaf)
    return leaf.clone() if kind in (INNER, COPIED) else leaf


class OtherwiseError(RuntimeError):
    """A side is no function of its numbers: the text says what its result hangs on."""


def evaluate(
    run: Run,
    probe: Probe,
    dtype: torch.dtype,
    device: torch.device | str,
    *,
    enter: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    manner: str = PLAIN,
    reuse: dict[str, Tensor] | None = None,
) -> dict[str, Tensor | None] | str:
    """Return y and the gradients of one side, scaled, or what is wrong with it.

    Args:
        run: the side.
        probe: the numbers.
        dtype: in which it runs.
        device: where it runs.
        enter: sees every tensor of data before the side does.
        manner: one of those that `manners_of` names.
        reuse: tensors of an earlier trial, to be filled anew; filled with those of this one.

    Raises:
        OtherwiseError: what is wrong in words was so in one call, and not in the next.
    """
    call = partial(_evaluate, run, probe, dtype, device, enter, manner, reuse)
    found = call()
    if isinstance(found, str) and call() != found:
        raise OtherwiseError(f"{found}, and not so in the next call")
    return found


def each_view(
    call: Callable[[str], Found], manner: str, names: Iterable[str]
) -> list[tuple[str, Found]]:
    """Call in a manner and say in which; where views are refused, with copies and one view alone.

    A layer that takes no view of an image may take one of its weight, and is held to what it then
    returns as in any other manner. Of layouts of memory that it refuses nothing is said.

    Args:
        call: in a manner; may raise.
        manner: one of those that `manners_of` names.
        names: of the tensors that are sent, g left out.

    Example:
        >>> def call(manner):
        ...     if manner in ("inner", "inner x"):
        ...         raise ValueError("no views of images")
        ...     return manner.upper()
        >>> each_view(call, "inner", "x")
        [('copied', 'COPIED'), ('inner g', 'INNER G')]
    """
    if manner != INNER:
        return [(manner, call(manner))]
    if taken := _unless_refused(call, INNER):
        return taken
    alone = [_unless_refused(call, f"{INNER} {name}") for name in (*names, "g")]
    return [(COPIED, call(COPIED)), *chain.from_iterable(alone)]


def _unless_refused(call: Callable[[str], Found], manner: str) -> list[tuple[str, Found]]:
    try:
        return [(manner, call(manner))]
    except OtherwiseError:
        raise
    except Exception:
        try:
            call(manner)
        except Exception:  # noqa: BLE001 - it is the accused who raises
            return []
        raise  # it raised once only, so it was not the layout


def _evaluate(
    run: Run,
    probe: Probe,
    dtype: torch.dtype,
    device: torch.device | str,
    enter: Callable[[Tensor], Tensor],
    manner: str,
    reuse: dict[str, Tensor] | None,
) -> dict[str, Tensor | None] | str:
    """One call."""

    def tensor(name: str, value: Any) -> Tensor:
        return enter(torch.from_numpy(value).to(device, dtype) * probe.scale(name))

    leaves = {name: tensor(name, value) for name, value in probe.sent.items()}
    leaves["g"] = tensor("g", probe.g)
    if reuse is not None:
        if manner == REFILLED:
            for name, leaf in leaves.items():
                reuse[name].data.copy_(leaf)  # as some optimizers write: no version tells of it
            leaves = {name: reuse[name] for name in leaves}
        reuse.update(leaves)
    if manner == AGAIN:
        for leaf in leaves.values():
            torch.autograd.graph.increment_version(leaf)
    g = leaves.pop("g")
    if manner == BACKWARD:
        leaves = {name: torch.nn.Parameter(leaf) for name, leaf in leaves.items()}
        for leaf in leaves.values():
            leaf.grad = torch.zeros_like(leaf)
    frozen = frozen_in(manner)
    for name, leaf in leaves.items():
        leaf.requires_grad_(name not in frozen)
    handed = {name: handed_on(manner, name, leaf) for name, leaf in leaves.items()}
    x = handed["x"]
    within = not x.is_leaf
    before = x.detach().clone() if within else x
    version = x._version
    y = run(x, handed["w"], handed.get("b")) if "w" in handed else run(x)
    if not isinstance(y, Tensor):
        return f"returned {type(y).__name__}, not a tensor"
    if tuple(y.shape) != tuple(probe.g.shape):
        return f"returned y of shape {tuple(y.shape)}, expected {tuple(probe.g.shape)}"
    if y.dtype != dtype:
        return f"returned y of dtype {y.dtype}, expected {dtype}"
    if y.device != leaves["x"].device:
        return f"returned y on {y.device}"
    if y.layout != torch.strided:
        return f"returned y of layout {y.layout}, expected {torch.strided}"
    if manner == BETWEEN:
        other = {name: torch.ones_like(leaf).requires_grad_() for name, leaf in leaves.items()}
        run(*other.values()) if len(other) != 2 else run(*other.values(), None)
    if within and x._version != version:
        with _disable_current_modes():  # what the judge computes is no step of the accused
            return _written(before, x.detach())
    found: dict[str, Tensor | None] = {"y": y.detach()}
    wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    grads: tuple[Tensor | None, ...] = (None,) * len(wanted)
    g = handed_on(manner, "g", g)
    if y.requires_grad and wanted:
        g.requires_grad_(bool(probe.up))
        inputs = list(wanted.values())
        times = {AGAIN: 2, BACKWARD: 0}.get(manner, 1) or int(bool(probe.up))
        if not times:
            y.backward(g)
            grads = tuple(leaf.grad for leaf in inputs)
            for leaf in inputs:
                leaf.grad = None
        kept = manner == PLAIN and reuse is not None  # nodes of an image that is filled anew
        for last in range(times, 0, -1):
            grads = torch.autograd.grad(
                y, inputs, g, allow_unused=True, create_graph=bool(probe.up),
                retain_graph=bool(probe.up) or last > 1 or kept,
            )  # fmt: skip
    for name, grad in zip(wanted, grads, strict=True):
        found[f"grad_{name}"] = None if grad is None else grad.detach().to_dense()
    if probe.up:
        again = _second(probe, leaves, grads, g, tensor)
        if isinstance(again, str):
            return again
        found |= again
    return found


def _written(before: Tensor, x: Tensor) -> str:
    text = "writes to the image that it is sent, where that is no leaf"
    places = (x != before).nonzero()
    if not len(places):
        return f"{text}, the numbers that were there"
    at = tuple(places[0].tolist())
    return f"{text}: x{list(at)} was {float(before[at])!r} and is {float(x[at])!r}"


def _second(
    probe: Probe,
    leaves: dict[str, Tensor],
    grads: tuple[Tensor | None, ...],
    g: Tensor,
    tensor: Callable[[str, Any], Tensor],
) -> dict[str, Tensor | None] | str:
    """The gradients of L by x, w and g."""
    pairs = [
        (grad, tensor(name, probe.up[name]))
        for name, grad in zip(leaves, grads, strict=True)
        if grad is not None and grad.requires_grad
    ]
    wanted = {f"double_{name}": leaf for name, leaf in leaves.items()} | {"double_g": g}
    if not pairs:
        return dict.fromkeys(wanted)
    heads, cotangents = zip(*pairs, strict=True)
    try:
        found = torch.autograd.grad(heads, list(wanted.values()), cotangents, allow_unused=True)
    except RuntimeError as error:
        return f"has no second derivative: {str(error).splitlines()[0]}"
    made: dict[str, Tensor | None] = dict(zip(wanted, found, strict=True))
    made.pop("double_b", None)  # T has no term in which b meets anything but g
    return made
