"""One program: what S1 follows is what S2 and S3 run, operator by operator.

Code can tell a tensor that is followed from a plain one: a fast path for plain tensors, a kernel
that raises and a slower one behind `except`, a first call that sets things up, another branch in
half precision. So runs on plain tensors are written down too, as the list of their operators on
data with the shapes and dtypes of what they made, and held against the list that S1 followed.
Views are left out: autograd makes them anew as it likes. One list may be put together otherwise, or
with other constants: so what comes back has to be made of the same as well, see `made_of`.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, final

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from convgraph.proof import aten
from convgraph.proof.layer.own_parameters import OwnParameters
from convgraph.proof.layer.premise import source_lines
from convgraph.proof.layer.premise.call import RULES, falls_apart
from convgraph.proof.layer.premise.check import Premise
from convgraph.proof.layer.premise.linear_rules import NOT_COMPUTED
from convgraph.proof.layer.premise.made_of import NOTHING, Given, MadeOf, Seen
from convgraph.proof.layer.premise.steps import Step, asks_only, is_step, made_by, reshapes
from convgraph.proof.layer.premise.trusted import named_in
from convgraph.proof.layer.trial import (
    AGAIN,
    BACKWARD,
    BETWEEN,
    OWN,
    PLAIN,
    Probe,
    Run,
    each_view,
    evaluate,
    in_words,
)
from convgraph.proof.surroundings import as_written, handed_on, watched
from convgraph.proof.ways_out import WaysOut, by_name, storage_of

LEFT = "Tensor."
"""How the name of a way out of torch begins, where it is a step."""

_EMPTY = frozenset({"empty", "empty_like", "new_empty", "new_empty_strided", "empty_strided"})

CASTS = ("aten::_to_copy",)
"""Operators by which a half program may differ from that of float64."""


@final
class Plain(TorchDispatchMode):
    """Writes down the operators that a run on plain tensors performs on data.

    Data are the tensors that `enter` was given and whatever is made of them. What belongs to memory
    is known of memory, as it is where S1 follows.

    Attributes:
        steps: in order.
        made_of: what memories are made of.
        results: what came back is made of, by quantity.
    """

    def __init__(self) -> None:
        """Start with nothing written down."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self.made_of = MadeOf()
        self.results: dict[str, Seen] = {}
        self._inputs: dict[int, Any] = {}
        self._data: dict[int, Any] = {}

    def enter(self, tensor: Tensor) -> Tensor:
        """Take a tensor for data."""
        with torch._C.DisableTorchFunction():
            self._mark(tensor)
            self.made_of.enter(tensor)
        if tensor.numel():  # what NumPy or DLPack makes of it is other memory of the same address
            with torch._C.DisableTorchFunction():
                storage = storage_of(tensor)
                self._inputs[storage.data_ptr()] = storage  # kept, so that no other gets the place
        return tensor

    def holds_data(self, tensor: Tensor) -> bool:
        """Whether a tensor lies in memory that holds data."""
        tensor = getattr(tensor, "held", tensor)  # of S1, kept by the program until now
        if tensor.layout != torch.strided:
            return id(tensor) in self._data
        storage = storage_of(tensor)
        return storage._cdata in self._data or storage.data_ptr() in self._inputs

    def _mark(self, tensor: Tensor) -> None:
        tensor = getattr(tensor, "held", tensor)
        if tensor.layout != torch.strided:
            self._data[id(tensor)] = tensor
            return
        storage = storage_of(tensor)
        self._data[storage._cdata] = StorageWeakRef(storage)  # keeps the address from being reused

    def note(self, operator: str, outputs: Any, given: Given = (0, None)) -> None:
        """Write an operator down."""
        self.steps.append(Step(operator, made_by(outputs), source_lines.place(), given[0]))

    def leave(self, tensor: Tensor, way: str) -> Tensor:
        """Write down that data leave torch."""
        with _disable_current_modes():
            if self.holds_data(tensor):
                self.note(f"{LEFT}{way}", ())
        return tensor

    def came_back(self, found: Mapping[str, Tensor | None]) -> None:
        """Say what results are made of."""
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            for quantity, tensor in found.items():
                if tensor is not None:
                    self.results[quantity] = self.made_of.result(tensor)

    def made(self, operator: str, args: Any, outputs: Any) -> None:
        """Write down what is trusted as a whole, and take what it made for data."""
        given = self.made_of.whole(operator, args)
        self.note(operator, outputs, given)
        self.made_of.made(given, outputs)
        for tensor in aten.tensors_in(outputs):
            if tensor.is_floating_point():
                self._mark(tensor)

    def __torch_dispatch__(  # noqa: D105
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        with torch._C.DisableTorchFunction():
            return self._run(func, args, kwargs or {})

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name, asks, step = _about(func)
        if not any(map(self.holds_data, aten.tensors_in(args, kwargs))):
            return self._beside(func, name, args, kwargs)
        if not asks and falls_apart(func, name):
            with self:
                return func.decompose(*args, **kwargs)
        if asks:
            return func(*args, **kwargs)
        given = self.made_of.given(func, args, kwargs) if step else (0, None)
        outputs = func(*args, **kwargs)
        if name in _EMPTY:
            _filled(outputs)
        if step and not reshapes(func, args):
            self.note(func.name(), outputs, given)
        if name not in NOTHING:
            written = aten.written(func, args, kwargs)
            if step:
                self.made_of.made(given, outputs, written, (args, kwargs))
            for tensor in (*written, *aten.tensors_in(outputs)):
                if tensor.is_floating_point():
                    self._mark(tensor)
        return outputs

    def _beside(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An operator on constants, or on places and truths that were made of data."""
        written = aten.written(func, args, kwargs)
        given = self.made_of.beside(func, args, kwargs, written)
        made = func(*args, **kwargs)
        if given is not None:
            self.made_of.made(given, made, written, (args, kwargs))
        return _filled(made) if name in _EMPTY else made


def _filled(made: Tensor) -> Tensor:
    """Memory that nobody has written, the same in each run."""
    return made.fill_(torch.nan if made.is_floating_point() else 0)


@lru_cache(maxsize=1024)
def _about(func: Any) -> tuple[str, bool, bool]:
    """What an operator's schema says: its name, whether it only asks, whether it is a step."""
    name = aten.base_of(func)
    return name, asks_only(func, name), is_step(func)


@contextmanager
def written_down(trust: Collection[str] = (), *, ways: bool = True) -> Iterator[Plain]:
    """Write down the program of a block; autograd functions that are trusted are one step each.

    A gradient goes back through a view that was written to as the view was made, which is how torch
    has it where it is followed. By itself torch takes strides: other moves to the same places.

    Args:
        trust: names of such functions.
        ways: whether a function mode sees data that leave torch, on whatever tensor. Of it
            `torch.overrides.has_torch_function` tells, and code may have a fast path without:
            without, the methods of torch.Tensor are seen.
    """
    mode = Plain()
    with ExitStack() as stack:
        stack.enter_context(torch.autograd.grad_mode._force_original_view_tracking(True))
        for function, name in named_in(trust):
            stack.enter_context(_one_step(mode, function, name))
        stack.enter_context(WaysOut(mode.leave) if ways else by_name(mode.leave))
        stack.enter_context(mode)
        yield mode


@contextmanager
def _one_step(mode: Plain, function: Any, name: str) -> Iterator[None]:
    forward, backward = function.forward, function.backward

    def aside(operator: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with _disable_current_modes(), torch._C.DisableTorchFunction():
                found = inner(*args)
                mode.made(operator, args, found)
            return found

        return run

    function.forward = staticmethod(aside(name, forward))
    function.backward = staticmethod(aside(f"{name}.backward", backward))
    try:
        yield
    finally:
        function.forward, function.backward = staticmethod(forward), staticmethod(backward)


def difference(followed: Sequence[Step], run: Sequence[Step]) -> str:
    """Say how a plain run differs from what was followed; "" where it is the same program."""
    one, two = Counter(followed), Counter(run)
    if one == two:
        return ""
    more, less = two - one, one - two
    extra = next((step for step in run if more[step]), None)
    missing = next((step for step in followed if less[step]), None)
    ways = [] if extra is None else [f"it runs {extra}"]
    ways += [] if missing is None else [f"what was followed has {missing}"]
    return "behaves otherwise when it is followed: " + "; ".join(ways)


def otherwise_made(
    followed: Mapping[str, Seen],
    steps: Sequence[Step],
    run: Sequence[Step],
    made: Mapping[str, Seen],
) -> str:
    """Say what is put together otherwise by the same operators; "" where nothing is.

    Args:
        followed: what results are made of where they were followed.
        steps: of that program.
        run: of the other.
        made: what results of that are made of.
    """
    apart = next((q for q, seen in made.items() if followed.get(q, seen) != seen), None)
    if apart is None:
        return ""
    known = {step.given for step in steps}
    first = next((step for step in run if step.given not in known), None)
    where = "" if first is None else f", first in {first}"
    return (
        f"behaves otherwise when it is followed: {apart} is made of other operands or constants "
        f"by the same operators{where}"
    )


def apart_from_casts(half: Premise, wide: Premise) -> str:
    """Say how a program in half precision differs from that in float64, casts left out."""

    def bare(steps: Sequence[Step]) -> list[Step]:
        return [
            Step(s.operator, tuple((shape, torch.float64) for shape, _ in s.made), s.place)
            for s in steps
            if s.operator not in CASTS
        ]

    found = difference(bare(wide.steps), bare(half.steps))
    found = found or otherwise_made(wide.bare, (), (), half.bare)
    return (
        found.replace("when it is followed: it runs", "in half precision: it runs")
        .replace("what was followed has", "in float64 it has")
        .replace("when it is followed", "in half precision")
    )


BY_ARGUMENT = frozenset({
    "div", "scatter", "scatter_reduce", "_embedding_bag", "segment_reduce",
    "_segment_reduce_backward",
})  # fmt: skip
"""Operators of which an argument says whether they are linear."""


def unknown(followed: Sequence[Step], run: Sequence[Step]) -> Step | None:
    """The first operator of a run whose kind was not followed, and is not linear; others may vary.

    A derivative that is left out takes operators away, torch multiplies matrices otherwise where
    one of them needs none, and a graph that is walked twice has some twice. What linear operators
    come to is seen by the numbers, if nothing compares, rounds or casts.

    Args:
        followed: the steps of S1.
        run: of another manner of calling.
    """
    kinds = {_kind(step) for step in followed} | {"aten::_to_dense"}
    kinds |= {f"aten::{name}" for name in RULES.keys() - BY_ARGUMENT}
    dtypes = {dtype for step in followed for _, dtype in step.made}
    for step in run:
        casts = step.operator in CASTS and not {dtype for _, dtype in step.made} <= dtypes
        if _kind(step) not in kinds or casts:
            return step
    return None


def beyond(
    followed: Sequence[Step], run: Sequence[Step], manner: str, added: Sequence[tuple[int, ...]]
) -> Step | None:
    """The first operator of a run that computes what was not followed; moves and casts are none.

    Integers come out of (S + S') - S' as of S, so that numbers do not see it. A derivative that is
    left out makes fewer tensors; a graph that is walked twice, or a second call, has all twice.

    Args:
        followed: the steps of S1.
        run: of another manner of calling.
        manner: that manner.
        added: shapes of the gradients that are added to what is there already.
    """
    room: dict[str, list[Counter[Any]]] = {}
    for step in followed:
        room.setdefault(_kind(step), []).append(_made(step))
    often = 2 if manner in (AGAIN, BETWEEN, OWN) else 1
    left = {kind: made * often for kind, made in room.items()}
    sums = list(added)
    for step in run:
        kind, made = _kind(step), _made(step)
        if not made or RULES.get(kind.removeprefix("aten::")) in NOT_COMPUTED:
            continue
        if kind == "aten::add" and step.made[0][0] in sums:
            sums.remove(step.made[0][0])
            continue
        fits = next((one for one in left.get(kind, ()) if made <= one), None)
        if fits is None:
            return step
        left[kind].remove(fits)
    return None


def _made(step: Step) -> Counter[Any]:
    """What it makes; autograd takes a product or its transpose, by how the weight lies."""
    if _kind(step) != "aten::mm":
        return Counter(step.made)
    return Counter((tuple(sorted(shape)), *rest) for shape, *rest in step.made)


def _kind(step: Step) -> str:
    name = step.operator
    return name if name.startswith(LEFT) else name.partition(".")[0].rstrip("_")


Enter = Callable[[Tensor], Tensor]
"""Takes a tensor for data."""


@final
class OneProgram:
    """Holds runs against what S1 followed, every other one under a function mode.

    Args:
        followed: by S1; None where nothing was: flags alone are then watched.
        trust: autograd functions that are one step each.

    Attributes:
        held: how many runs were the same program.
        apart: manner -> the first operator of such a run that computes what was not followed, in
            words.
    """

    def __init__(self, followed: Premise | None, trust: Collection[str] = ()) -> None:
        """Start with no run held."""
        self.followed, self.trust = followed, trust
        self._mode: Plain | None = None
        self.held, self._ways = 0, dict[str, bool]()
        self.apart: dict[str, str] = {}
        self._plainly, self._otherwise = "", ""

    @property
    def difference(self) -> str:
        """Of the first plain run that is another program, or else of one in another manner."""
        return self._plainly or self._otherwise

    @contextmanager
    def holding(self) -> Iterator[Enter]:
        """Write a plain run down and hold it; yields what takes a tensor for data."""
        with self._written(PLAIN) as mode, handed_on() as handed:
            yield _as_it_is if mode is None else mode.enter
        if mode is None or self.followed is None:
            return
        steps, made = self.followed.steps, self.followed.made
        other = difference(steps, mode.steps)
        other = other or otherwise_made(made, steps, mode.steps, mode.results)
        if other and handed:
            other = f"{other}; {handed[0]}"
        self.held += not other
        self._plainly = self._plainly or other

    @contextmanager
    def watching(self, manner: str, added: Sequence[tuple[int, ...]] = ()) -> Iterator[Enter]:
        """Hold a plain run; of one in another manner, see that no operator of another kind runs.

        Args:
            manner: one of how trials call.
            added: shapes of the gradients that are added to what is there already.
        """
        if manner == PLAIN:
            with self.holding() as enter:
                yield enter
            return
        with self._written(manner) as mode:
            yield _as_it_is if mode is None else mode.enter
        if mode is None or self.followed is None:
            return
        left = [step for step in mode.steps if step.operator.startswith(LEFT)]
        steps, made = self.followed.steps, self.followed.made
        alike = mode.results and _orders(mode.results) == _orders(made)
        if alike and not left and mode.results.items() <= made.items():
            return  # nothing that comes back is made otherwise
        step = unknown(steps, mode.steps)
        if step is not None:
            how = in_words(manner).removeprefix(", ")
            self._otherwise = self._otherwise or f"behaves otherwise {how}: it runs {step}"
        elif other := beyond(steps, mode.steps, manner, added):
            self.apart.setdefault(manner, str(other))
        elif alike:
            self.apart.setdefault(manner, str(mode.steps[-1]) if mode.steps else "no operator")

    def called(
        self,
        run: Run,
        probe: Probe,
        dtype: torch.dtype,
        device: torch.device | str,
        manner: str,
        reuse: dict[str, Tensor] | None = None,
    ) -> list[tuple[str, dict[str, Tensor | None] | str]]:
        """Call in a manner, watched: what came of it, by manner; see `each_view` and `evaluate`.

        Args:
            run: the program.
            probe: what is sent.
            dtype: in which.
            device: where.
            manner: one of how trials call.
            reuse: tensors of an earlier trial.
        """
        added = [value.shape for value in probe.sent.values()] if manner == BACKWARD else []

        def once(manner: str) -> dict[str, Tensor | None] | str:
            with self.watching(manner, added) as enter:
                found = evaluate(run, probe, dtype, device, enter=enter, manner=manner, reuse=reuse)
                self.came_back(found)
            return found

        return each_view(once, manner, probe.sent)

    def called_with_its_own(
        self, own: OwnParameters, probe: Probe, dtype: torch.dtype, device: torch.device | str
    ) -> dict[str, Tensor | None] | str:
        """Call a module with parameters of its own, watched: what came of it."""
        with self.watching(OWN, own.added(probe)) as enter:
            return own.evaluate(probe, dtype, device, enter)

    def came_back(self, found: Mapping[str, Tensor | None] | str) -> None:
        """Look at what a run that is held returned, before its block ends."""
        if self._mode is not None and not isinstance(found, str):
            self._mode.came_back(found)

    @contextmanager
    def _written(self, manner: str) -> Iterator[Plain | None]:
        """Write a run down; None where there is nothing to hold it against."""
        ways = self._ways.get(manner, manner == PLAIN)  # others may be called once only
        self._ways[manner] = not ways
        moved = list[str]()
        try:
            with watched() as moved:
                if self.followed is None:
                    yield None
                else:
                    with as_written(), written_down(self.trust, ways=ways) as self._mode:
                        yield self._mode
        finally:  # of a call that raises too
            if moved and not self._plainly:
                self._plainly = moved[0]


def _orders(found: Collection[str]) -> bool:
    """Whether second derivatives are among what came back; they may take another first one."""
    return any(quantity.startswith("double") for quantity in found)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor
