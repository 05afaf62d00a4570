"""S1, premise: the implementation is multilinear, with exact arithmetic on small integers.

Identity on random integers proves something about multilinear forms only: a clamp at 1e30 passes
every probe. So forward and backward are run once with tensors that carry the degrees of their
entries in (x, w, b, g), and it is required that

    y in {xw, b},   grad_x in {wg},   grad_w in {xg},   grad_b in {g}

with integer (or binary) constants, and with every entry on the way so small that sums are exact in
any order. A vendor's kernel is multilinear by assumption and named under `assumed`.
"""

import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, combinations
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from convgraph.door import door
from convgraph.errors import ProofError
from convgraph.proof.layer.premise import source_lines
from convgraph.proof.layer.premise.call import Refusal
from convgraph.proof.layer.premise.degrees import BITS, ORDER, Bound, Monomial, multiply, spell
from convgraph.proof.layer.premise.follower import Follower, Mode
from convgraph.proof.layer.premise.made_of import MadeOf, Seen
from convgraph.proof.layer.premise.rounded import HALF
from convgraph.proof.layer.premise.steps import Step
from convgraph.proof.layer.premise.traced_tensor import Origin, Traced, guarded
from convgraph.proof.layer.premise.trusted import trusted, trusting
from convgraph.proof.surroundings import as_written, watched
from convgraph.proof.ways_out import WaysOut

Shape = tuple[int, ...]

RAISED = "it cannot be followed"
"""How the reason begins where a program raised."""


@final
@dataclass(frozen=True)
class Premise:
    """The verdict on the premise.

    Attributes:
        status: "proven", "refuted" or "undecided".
        reason: why not, or "".
        operator: the one that was refused, e.g. "aten.abs".
        line: of user code that called it, "file:line in function".
        degrees: what was found: "y" -> ("xw", "b"), "grad_x" -> ("wg",), ...; "missing" for a
            gradient that is not there.
        constant: the largest constant that met data.
        magnitude: the largest integer on the way, for inputs of [-a, a]; at most 2^bits.
        bits: d of the dtype.
        terms: n such that every integer on the way is at most n a^2, for every a; draws have to
            leave room for it.
        assumed: what is multilinear by assumption: vendors' kernels, trusted operators.
        trace: SHA-256 of the operators that were followed.
        operators: how many.
        second: whether double backward was followed: "followed", "not asked", or why it was not.
        steps: the operators on data, views left out; see `one_program`.
        made: quantity -> what it is made of, see `made_of`; `bare` the same apart from casts, where
            that was asked for.
        wide: the program of the dtype in which integers are probed, where that is another.
        sums: quantity -> how many products each entry puts together, counted on ones, what cancels
            counted too; empty in half precision, which cannot count so far.
        finest: s, where every entry on the way is a multiple of 2^-s: numbers shrink so far.
        numbers: constants of the operator that was refused; data near them may show why.
        compiled: whether something compiled was followed as it is written.
        rounded: quantity -> how often its entries are rounded to the half type on their way.
        late: where later calls used tensors that this one was given; see `afterwards`.
    """

    status: str
    reason: str = ""
    operator: str = ""
    line: str = ""
    degrees: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    constant: float = 0.0
    magnitude: int = 0
    bits: int = 53
    terms: int = 0
    assumed: tuple[str, ...] = ()
    trace: str = ""
    operators: int = 0
    second: str = "not asked"
    steps: tuple[Step, ...] = ()
    made: Mapping[str, Seen] = field(default_factory=dict, compare=False, repr=False)
    bare: Mapping[str, Seen] = field(default_factory=dict, compare=False, repr=False)
    wide: "Premise | None" = None
    sums: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)
    finest: int = 0
    numbers: tuple[float, ...] = ()
    compiled: bool = False
    rounded: Mapping[str, int] = field(default_factory=dict)
    late: list[Origin] = field(default_factory=list, compare=False, repr=False)

    def afterwards(self) -> "Premise":
        """The verdict once the program has been called again, by whoever probes it.

        What it keeps of one call and uses in another makes it no function of its inputs; whether
        that changes a number is for the probes to say, and here it is undecided.
        """
        if self.status != "proven" or not self.late:
            return self
        first = self.late[0]
        reason = f"{first.operator} uses a tensor that an earlier call was given"
        return replace(
            self, status="undecided", reason=reason, operator=first.operator, line=first.line
        )


@door
def check_premise(
    run: Callable[..., Any],
    shapes: Mapping[str, Shape | None],
    *,
    roles: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    a: int = 1,
    trust: Collection[str] = (),
    second: bool = False,
    scale: int = 1,
    entries: Mapping[str, Tensor] | None = None,
    frozen: Collection[str] = (),
    handed: Callable[[str, Tensor], Tensor] = lambda _, leaf: leaf,
    bare: bool = False,
) -> Premise:
    """Follow an implementation forward and backward and say whether it is multilinear.

    Args:
        run: takes tensors by position, in the order of `shapes`, and returns y.
        shapes: of each argument by name; None is handed on as None.
        roles: "x", "w" or "b" for each name that is none of these; several may share a role, as
            two weights do. Without any "w", y = L x (+ b) is required.
        dtype: in which it computes. In half types degrees are followed, and nothing is counted.
        device: where it computes.
        a: inputs will be integers of [-a, a]; 0 where they are none, and need no room.
        trust: names of custom operators ("ns::op") and of autograd functions ("SciPyConv") that
            are taken as multilinear by assumption.
        second: whether double backward is followed too.
        scale: x and g are multiples of it, so that constants such as 1 / scale divide exactly.
        entries: magnitudes to follow in place of ones, by name, "g" among them; none negative.
        frozen: names that need no gradient.
        handed: makes of each leaf, by its name, what the program is given.
        bare: whether it is also said what results are made of apart from casts.

    Returns:
        The verdict; "undecided" says which assumption or room is missing.

    Raises:
        ProofError: a role or the dtype is none that can be followed.

    Example:
        >>> import torch.nn.functional as F
        >>> shapes = {"x": (2, 1, 4, 4), "w": (1, 1, 3, 3), "b": (1,)}
        >>> check_premise(F.conv2d, shapes).degrees["y"]
        ('xw', 'b')
        >>> clamped = lambda x, w, b: F.conv2d(x, w, b).clamp(max=1e30)
        >>> check_premise(clamped, shapes).operator
        'aten.clamp'
    """
    if dtype not in BITS:
        known = ", ".join(str(one)[6:] for one in BITS)
        raise ProofError(f"check_premise: expected one of {known}, got {dtype}")
    named = {name: (roles or {}).get(name, name) for name, s in shapes.items() if s is not None}
    for name, role in named.items():
        if role not in ("x", "w", "b"):
            raise ProofError(f"check_premise: expected x, w or b as the role of {name!r}: {role!r}")
    form = _Form(named, second)
    found, late, compiled = Premise("undecided"), list[Origin](), list[str]()
    for anomaly in (False, True):  # once more if a line is known to autograd's nodes only
        made_of = (MadeOf(), *([MadeOf(casts=False)] if bare else []))
        follower = Follower(form.lattice, dtype, a, trusted(frozenset(trust)), made_of)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with (
                torch.autograd.set_detect_anomaly(anomaly, check_nan=False),
                as_written() as compiled,
                watched() as moved,
            ):
                found = _attempt(
                    run, shapes, form, follower, device, frozenset(trust), scale, entries or {},
                    frozenset(frozen), handed,
                )  # fmt: skip
        follower.ended, follower.late = True, late
        if moved and found.status != "refuted":
            found = replace(found, status="undecided", reason=moved[0])
        if moved or found.status == "proven" or found.line:
            break
    return replace(found, late=late, compiled=bool(compiled))


@final
class _Form:
    """The multilinear form T and what it asks of each result."""

    def __init__(self, roles: Mapping[str, str], second: bool) -> None:
        self.roles, self.second = roles, second
        product: Monomial = ("x", "w") if "w" in roles.values() else ("x",)
        self.whole: list[Monomial] = [multiply(product, ("g",))]
        if "b" in roles.values():
            self.whole.append(("b", "g"))
        self.directed = [
            multiply(_less(m, role), (f"u{role}",)) for m in self.whole for role in m if role != "g"
        ]
        self.lattice = frozenset(
            part
            for m in self.whole + self.directed * second
            for part in chain.from_iterable(combinations(m, n) for n in range(min(len(m), 3)))
        )

    def of(self, quantity: str) -> set[Monomial]:
        """The monomials that a result may have."""
        if quantity == "y":
            return {_less(m, "g") for m in self.whole}
        kind, _, name = quantity.partition("_")
        role = self.roles.get(name, name)
        return {
            _less(m, role) for m in (self.whole if kind == "grad" else self.directed) if role in m
        }


def _less(monomial: Monomial, role: str) -> Monomial:
    rest = list(monomial)
    rest.remove(role)
    return tuple(rest)


def _attempt(
    run: Callable[..., Any],
    shapes: Mapping[str, Shape | None],
    form: _Form,
    follower: Follower,
    device: torch.device | str,
    trust: frozenset[str],
    scale: int,
    entries: Mapping[str, Tensor],
    frozen: frozenset[str],
    handed: Callable[[str, Tensor], Tensor],
) -> Premise:
    """Run once under a follower; the stack beyond this function is not looked at."""

    def enter(shape: Shape, role: str, requires_grad: bool = True, name: str = "") -> Traced:
        by = scale if role in ("x", "g") else 1
        with _disable_current_modes():
            held = torch.full(shape, by, dtype=follower.dtype, device=device)
            if name in entries:
                held = entries[name].to(held, copy=True)
        return follower.enter(held, role, scale=by, requires_grad=requires_grad)

    results: dict[str, Any] = {}
    second = "not asked"
    try:
        inputs = {
            name: None
            if shape is None
            else enter(tuple(shape), form.roles[name], name not in frozen, name)
            for name, shape in shapes.items()
        }
        leaves = {n: t for n, t in inputs.items() if t is not None and n not in frozen}
        with guarded(), trusting(follower, trust), WaysOut(_leave), Mode(follower):
            y = run(*(None if t is None else handed(n, t) for n, t in inputs.items()))
            if follower.refused is None and not isinstance(y, Traced):
                came = "a tensor" if isinstance(y, Tensor) else f"a {type(y).__name__}"
                return _verdict(
                    follower, results, second, "undecided",
                    f"what was returned is {came} that was made where nobody could follow",
                )  # fmt: skip
            if follower.refused is not None:  # and the program went on
                return _judge(follower, form, results, second)
            results["y"] = y
            grads: tuple[Any, ...] = (None,) * len(leaves)
            g: Tensor = enter(tuple(y.shape), "g", form.second, "g")
            if y.requires_grad and leaves:
                if y.dtype != g.dtype:
                    g = g.to(y.dtype)
                g = handed("g", g)
                grads = torch.autograd.grad(
                    y, list(leaves.values()), g, allow_unused=True, create_graph=form.second
                )
            results |= {f"grad_{n}": t for n, t in zip(leaves, grads, strict=True)}
            if form.second:
                second = _twice(enter, leaves, grads, g, form, results)
    except Refusal:
        pass
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the accused raises is what is reported
        if follower.refused is None:
            text = str(error).partition("\n")[0]
            return _verdict(
                follower, results, second, "undecided",
                f"{RAISED}: {type(error).__name__}: {text}",
                Origin(type(error).__name__, source_lines.of_error(error)),
            )  # fmt: skip
    return _judge(follower, form, results, second)


def _leave(tensor: Tensor, way: str) -> Tensor:
    """What a way out may hand out of a tensor."""
    return tensor.follower.escape(tensor, way) if isinstance(tensor, Traced) else tensor


def _twice(
    enter: Callable[..., Traced],
    leaves: Mapping[str, Traced],
    grads: tuple[Any, ...],
    g: Tensor,
    form: _Form,
    results: dict[str, Any],
) -> str:
    """Differentiate the gradients along directions u, and note what comes out."""
    heads = [
        (n, t) for n, t in zip(leaves, grads, strict=True) if t is not None and t.requires_grad
    ]
    if not heads:
        return "no gradient has a gradient"
    along = [enter(tuple(t.shape), f"u{form.roles[n]}", False) for n, t in heads]
    try:
        found = torch.autograd.grad(
            [t for _, t in heads], [*leaves.values(), g], along, allow_unused=True
        )
    except RuntimeError as error:
        if isinstance(error, Refusal) or "differentiat" not in str(error):
            raise
        return str(error).partition("\n")[0]
    results |= {f"second_{n}": t for n, t in zip([*leaves, "g"], found, strict=True)}
    if all(t is None for t in found):
        return "no gradient leads back to an input"
    return "followed"


def _judge(follower: Follower, form: _Form, results: dict[str, Any], second: str) -> Premise:
    """The verdict on what came out, if nothing was refused on the way."""
    if follower.refused is not None:
        refusal, origin = follower.refused
        return _verdict(follower, results, second, refusal.status, refusal.reason, origin)
    for quantity, tensor in results.items():
        if tensor is None:
            continue
        if isinstance(tensor, Traced) and tensor.held.is_meta:
            return _verdict(
                follower, results, second, "undecided", f"{quantity} is on meta, without numbers",
                tensor.memory.origin,
            )  # fmt: skip
        if not isinstance(tensor, Traced) or tensor.memory.bound is None:
            if isinstance(tensor, Traced) and not bool(tensor.held.count_nonzero()):
                continue
            return _verdict(
                follower, results, second, "refuted", f"{quantity} does not depend on its inputs",
                tensor.memory.origin if isinstance(tensor, Traced) else Origin(),
            )  # fmt: skip
        wanted, origin = form.of(quantity), tensor.memory.origin
        extra = (tensor.bound or Bound()).terms.keys() - wanted
        if extra:
            may = ", ".join(sorted(spell(m) for m in wanted)) or "nothing"
            return _verdict(
                follower, results, second, "refuted", f"{quantity} has degree "
                f"{', '.join(sorted(spell(m) for m in extra))}; it may have {may}", origin,
            )  # fmt: skip
        if not bool(tensor.held.isfinite().all()):
            return _verdict(
                follower, results, second, "refuted",
                f"{quantity} holds memory that nothing has written", origin,
            )  # fmt: skip
    if follower.doubt is not None:
        refusal, origin = follower.doubt
        return _verdict(follower, results, second, "undecided", refusal.reason, origin)
    return _verdict(follower, results, second, "proven")


def _verdict(
    follower: Follower,
    results: Mapping[str, Any],
    second: str,
    status: str,
    reason: str = "",
    origin: Origin | None = None,
) -> Premise:
    bits = BITS[follower.dtype]
    sizes = [
        (sum(c * follower.a**n for n, c in enumerate(by_degree)), by_degree, own)
        for by_degree, own in follower.nodes
    ]
    return Premise(
        status,
        reason,
        *(("", "") if origin is None else (origin.operator, origin.line)),
        degrees={name: _found(tensor) for name, tensor in results.items()},
        constant=follower.constant,
        magnitude=max((size for size, _, _ in sizes), default=0),
        bits=bits,
        # A node of more bits than the program's has so much more room.
        terms=max((-(-sum(c) // 2 ** max(0, own - bits)) for _, c, own in sizes), default=0),
        assumed=tuple(sorted(follower.assumed)),
        trace=follower.trace,
        operators=follower.operators,
        second=second,
        steps=tuple(follower.steps),
        **_made(follower, results),
        sums={} if follower.dtype in HALF else _sums(results),
        finest=follower.finest,
        numbers=tuple(follower.numbers),
        rounded={n: t.memory.rounded.times for n, t in results.items() if isinstance(t, Traced)},
    )


def _made(follower: Follower, results: Mapping[str, Any]) -> dict[str, Any]:
    """What results are made of, by the names that trials have for them."""
    held = {
        name.replace("second", "double"): t.held
        for name, t in results.items()
        if isinstance(t, Traced) and t.held.layout == torch.strided
    }
    return {
        name: {quantity: numbers.result(t) for quantity, t in held.items()}
        for name, numbers in zip(("made", "bare"), follower.made_of, strict=False)
    }


def _sums(results: Mapping[str, Any]) -> dict[str, Tensor]:
    return {
        name: t.held.detach().to_dense()
        for name, t in results.items()
        if isinstance(t, Traced) and not t.held.is_meta
    }


def _found(tensor: Any) -> tuple[str, ...]:
    if tensor is None:
        return ("missing",)
    if not isinstance(tensor, Traced) or tensor.memory.bound is None:
        return ("1",)
    known = tensor.bound or Bound()
    order = sorted(known.terms, key=lambda m: (-len(m), [ORDER.index(n) for n in m]))
    return tuple(spell(m) for m in order)
