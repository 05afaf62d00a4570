"""One published network through the whole converter, and what can be said of it.

excited in float64 -> to_graph -> the dense bits? -> to_dense -> strict? -> a mask, and its truth
"""

import gc
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import convgraph as cg
from convgraph.convert.capture import NESTED
from convgraph.convert.run import Run
from convgraph.convert.value import Spatial, from_graph
from tests.convert.zoo.catalogue import Entry
from tests.convert.zoo.held import UnknownMeaningError
from tests.convert.zoo.snap import is_view, snap, wide
from tests.convert.zoo.truth import Truth


@final
@dataclass
class Record:
    """What came out for one network; nothing is assumed that was not run.

    Attributes:
        name: of the network, its library first.
        size: of the images (pixels).
        parameters: how many (millions).
        built: whether the library made the network and the network took the images.
        captured: whether torch.export took it.
        equal: whether the converted network gave the dense bits.
        back: whether `to_dense` gave every parameter and buffer back, bit for bit.
        strict: whether every operator has a rule.
        masked: whether the masked run equals the masked truth; None where it was not asked.
        mask_matters: whether the mask changes the answer at all.
        reason: of the first no.
        fallbacks: operators without a rule, "operator: reason" with their number.
        seconds: of each stage.
    """

    name: str
    size: int = 0
    parameters: float = 0.0
    built: bool = False
    captured: bool = False
    equal: bool | None = None
    back: bool | None = None
    strict: bool | None = None
    masked: bool | None = None
    mask_matters: bool | None = None
    reason: str = ""
    fallbacks: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class Rounding(Run):
    """The converter's own interpreter, with every result rounded as the truth's are."""

    def _step(self, step: Any) -> Any:
        out = super()._step(step)
        if is_view(step.target):
            return out
        return pytree.tree_map(
            lambda one: self._snap(one, step.target), out, is_leaf=lambda o: isinstance(o, Spatial)
        )

    def _snap(self, one: Any, target: Any) -> Any:
        if isinstance(one, Spatial):
            rounded = snap(one.x, target)
            return one if rounded is one.x else one.with_x(rounded)
        return snap(one, target) if isinstance(one, Tensor) else one


class Exports:
    """torch.export, each network once: strict and non-strict read the same capture."""

    def __init__(self) -> None:
        self.original = torch.export.export
        self.found: Any = None

    def __enter__(self) -> "Exports":
        torch.export.export = self
        return self

    def __exit__(self, *_: object) -> None:
        torch.export.export = self.original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.found is None:
            self.found = self.original(*args, **kwargs)
        return self.found


def mask_of(batch: int, size: int) -> Tensor:
    """Patches of 8 x 8 pixels, scattered pixels, and one block; no image is empty."""
    generator = torch.Generator().manual_seed(5)
    mask = torch.zeros(batch, size, size, dtype=torch.bool)
    for number in range(batch):
        if number % 2 == 0:
            coarse = torch.rand(-(-size // 8), -(-size // 8), generator=generator) > 0.5
            coarse[0, 0] = True
            fine = coarse.repeat_interleave(8, 0).repeat_interleave(8, 1)
            mask[number] = fine[:size, :size]
        else:
            mask[number] = torch.rand(size, size, generator=generator) > 0.9
            mask[number, size // 2 :, : size // 2] = False
            mask[number, size // 4, size // 4] = True
    return mask


def flat(out: Any) -> list[Any]:
    leaves = pytree.tree_leaves(out, is_leaf=lambda one: isinstance(one, cg.PixelGraph))
    return [one for one in leaves if one is not None]


def same(got: list[Any], want: list[Any]) -> bool:
    """Bit for bit; NaN is never equal."""
    if len(got) != len(want):
        return False
    return all(
        torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b
        for a, b in zip(got, want, strict=True)
    )


def judge(entry: Entry) -> dict[str, Any]:
    """Take one network through; every exception becomes a reason."""
    record = Record(entry.name, entry.size)
    torch.manual_seed(0)
    try:
        _judge(entry, record)
    except Exception as error:  # noqa: BLE001 - one network must not end the run
        record.reason = record.reason or f"{type(error).__name__}: {_line(error)}"
    gc.collect()
    return asdict(record)


def _judge(entry: Entry, record: Record) -> None:
    clock = _Clock(record)
    model = entry.build().eval()
    record.parameters = round(sum(p.numel() for p in model.parameters()) / 1e6, 2)
    x = torch.randn(2, entry.channels, entry.size, entry.size, dtype=torch.float64)
    x = x.to(memory_format=torch.channels_last)
    model = cg.excite(model.double(), x).eval()
    for parameter in model.parameters():
        if parameter.dim() == 4:  # some networks have others, which `.to()` does not take
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        want = flat(model(x))
    record.built = True
    clock("build")
    with Exports() as exports:
        try:
            net = cg.to_graph(model, x)
        finally:
            record.captured = exports.found is not None
        clock("to_graph")
        with torch.no_grad():
            record.equal = same(flat(net(x)), want)
        record.back = _returns(model, cg.to_dense(net))
        clock("equal")
        report = net.conversion
        for line in report.fallbacks:
            key = f"{line.operator}: {line.reason}"
            record.fallbacks[key] = record.fallbacks.get(key, 0) + 1
        if not record.equal:
            record.reason = "the outputs differ from the dense network's"
            return
        try:
            net = cg.to_graph(model, x, strict=True)
            record.strict = True
        except cg.errors.ConversionError as error:
            record.strict = False
            record.reason = _line(error)
            return
        clock("strict")
        with torch.no_grad():
            _masked(net, exports.found, x, record)
        clock("masked")


def rounded(net: Any, exported: Any, x: Tensor, root: Tensor) -> tuple[list[Any], list[Any]]:
    """The masked run and the masked truth, flat, both rounded after every operator.

    Raises:
        UnknownMeaningError: the interpreter has no answer.
    """
    want = [one for one in Truth(exported, root)(x) if one is not None]
    graph = cg.PixelGraph.from_image(x, mask=root)
    found = net.captured(x)
    program = replace(found.program, steps=tuple(map(_wide, found.program.steps)))
    for one in program.constants.values():
        inner = getattr(one, "meta", {}).get(NESTED)
        if inner is not None:
            one.meta[NESTED] = replace(inner, steps=tuple(map(_wide, inner.steps)))
    run = Rounding(net, program, graph.sites, strict=True)
    return [_dense(one) for one in run([from_graph(graph)]) if one is not None], want


def matters(exported: Any, x: Tensor, want: list[Any]) -> bool:
    """Whether the mask changes an answer that says anything."""
    whole = torch.ones(len(x), *x.shape[2:], dtype=torch.bool)
    full = [one for one in Truth(exported, whole)(x) if one is not None]
    says = any(isinstance(one, Tensor) and len(one.unique()) > 2 for one in want)
    return says and not same(want, full)


def _masked(net: Any, exported: Any, x: Tensor, record: Record) -> None:
    root = mask_of(len(x), x.shape[-1])
    try:
        got, want = rounded(net, exported, x, root)
    except UnknownMeaningError as error:
        record.reason = f"the interpreter has no answer: {str(error).splitlines()[0]}"
        return
    record.mask_matters = matters(exported, x, want)
    record.masked = same(got, want) and record.mask_matters
    if not record.masked:
        record.reason = _difference(got, want) if record.mask_matters else "the mask says nothing"
        return
    for one in flat(net(cg.PixelGraph.from_image(x, mask=root))):  # as it is called, unrounded
        values = one.x if isinstance(one, cg.PixelGraph) else one
        if isinstance(values, Tensor) and not bool(values.isfinite().all()):
            record.masked, record.reason = False, "a masked run is not finite"


def _wide(step: Any) -> Any:
    args, kwargs = pytree.tree_map(wide, (list(step.args), dict(step.kwargs)))
    return replace(step, args=tuple(args), kwargs=kwargs)


def _difference(got: list[Any], want: list[Any]) -> str:
    for number, (mine, true) in enumerate(zip(got, want, strict=False)):
        if not torch.equal(mine, true):
            if mine.shape != true.shape:
                return f"masked output {number} has shape {tuple(mine.shape)}, not {true.shape}"
            share = float((mine != true).double().mean())
            most = float((mine - true).abs().max() / true.abs().max())
            return f"masked output {number} differs in {share:.2%} of entries, by {most:.1e}"
    return "masked outputs differ in number"


def _dense(value: Any) -> Any:
    return value.tensor() if isinstance(value, Spatial) else value


def _returns(model: Any, back: Any) -> bool:
    """Whether the way back has the same names and bits, and torch's own classes."""
    one, two = model.state_dict(), back.state_dict()
    return (
        type(model) is type(back)
        and list(one) == list(two)
        and all(torch.equal(one[key], two[key]) for key in one)
    )


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text[:240]


class _Clock:
    def __init__(self, record: Record) -> None:
        self.record, self.last = record, time.perf_counter()

    def __call__(self, stage: str) -> None:
        now = time.perf_counter()
        self.record.seconds[stage] = round(now - self.last, 2)
        self.last = now
