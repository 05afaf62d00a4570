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
from torch.utils._python_dispatch import TorchDispatchMode

import convgraph as cg
from convgraph.convert import keys, registry
from convgraph.convert.tensor import _STATE, GraphTensor
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
        captured: whether torch.export took it, for the truth.
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


class Rounding(TorchDispatchMode):
    """Listens to a run on nodes, and rounds every result as the truth's are."""

    strict = True
    moved: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.depth = 0

    def __enter__(self) -> Any:
        self.outer, _STATE.listener = _STATE.listener, self
        self.rules = dict(registry._RULES)
        for name, entry in self.rules.items():
            registry._RULES[name] = replace(entry, call=_widened(entry.call))
        self.below = keys.Guard(keys.included(), keys.excluded() | keys.PASSED)
        self.below.__enter__()  # operators on readouts are rounded whole, too
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        _STATE.listener = self.outer
        registry._RULES.update(self.rules)
        super().__exit__(*error)
        self.below.__exit__(*error)

    def begin(self, call: Any) -> None:
        self.depth += 1

    def dropped(self) -> None:
        self.depth -= 1

    def end(self, call: Any, args: Any, kwargs: Any, made: Any, reason: Any) -> None:
        for one in pytree.tree_leaves(made):
            if isinstance(one, GraphTensor) and not is_view(call.target):
                rows = one.value.x
                snapped = snap(rows, call.target)
                if snapped is not rows:
                    one.value = one.value.with_x(snapped)
            elif isinstance(one, Tensor) and not is_view(call.target):
                one.copy_(snap(one, call.target))  # a readout
        self.depth -= 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = pytree.tree_map(wide, (args, kwargs or {}))
        out = func(*args, **kwargs)
        if self.depth or is_view(func):
            return out
        return pytree.tree_map_only(Tensor, lambda one: snap(one, func), out)


def _widened(rule: Any) -> Any:
    """A rule to which float32 is float64."""

    def call(operator: Any, *args: Any, **kwargs: Any) -> Any:
        args = tuple(wide(one) for one in args)
        return rule(operator, *args, **{key: wide(one) for key, one in kwargs.items()})

    return call


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
    net = cg.to_graph(model)
    clock("to_graph")
    with torch.no_grad():
        record.equal = same(flat(net(x)), want)
    record.back = _returns(model, cg.to_dense(net))
    clock("equal")
    if not record.equal:
        record.reason = "the outputs differ from the dense network's"
        return
    report = net.conversion
    for line in report.fallbacks:
        key = f"{line.operator}: {line.reason}"
        record.fallbacks[key] = record.fallbacks.get(key, 0) + 1
    record.strict = report.is_strict
    clock("strict")
    if not record.strict:
        record.reason = next(iter(record.fallbacks))
        return
    exported = torch.export.export(model, (x,), strict=False)
    record.captured = True
    clock("export")
    with torch.no_grad():
        _masked(net, exported, x, record)
    clock("masked")


def rounded(net: Any, exported: Any, x: Tensor, root: Tensor) -> tuple[list[Any], list[Any]]:
    """The masked run and the masked truth, flat, both rounded after every operator.

    Raises:
        UnknownMeaningError: the interpreter has no answer.
    """
    want = [one for one in Truth(exported, root)(x) if one is not None]
    graph = cg.PixelGraph.from_image(x, mask=root)
    with Rounding():
        out = net(graph.tensor())
    return [_dense(one) for one in pytree.tree_leaves(out) if one is not None], want


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
    return value.to_dense() if isinstance(value, GraphTensor) else value


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
