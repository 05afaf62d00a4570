"""One published network through the whole converter, and what can be said of it.

excited in float64 -> to_graph -> the dense bits? -> to_dense -> strict? -> a mask, and its truth
"""

import gc
import time
import zlib
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
from tests.convert.zoo.snap import grain_of, is_exact, is_view, snap, wide
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
        gradients: whether the gradients of all parameters and of the image agree on the mask, see
            `gradients_agree`; None where it was not asked.
        again: whether the masked answers agreed for a second draw of the images only.
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
    gradients: bool | None = None
    again: bool = False
    reason: str = ""
    fallbacks: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class Rounding(TorchDispatchMode):
    """Listens to a run on nodes, and rounds every result as the truth's are."""

    strict = True
    moved: Any = None

    def __init__(self, *, grain: bool = True) -> None:
        super().__init__()
        self.depth = 0
        self.grain = grain

    def __enter__(self) -> Any:
        self.outer, _STATE.listener = _STATE.listener, self
        self.rules = dict(registry._RULES)
        for name, entry in self.rules.items():
            registry._RULES[name] = replace(entry, call=_widened(entry.call))
        if self.grain:  # operators on readouts are rounded whole, too
            self.below = keys.Guard(keys.included(), keys.excluded() | keys.PASSED)
            self.below.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        _STATE.listener = self.outer
        registry._RULES.update(self.rules)
        super().__exit__(*error)
        if self.grain:
            self.below.__exit__(*error)

    def begin(self, call: Any) -> None:
        self.depth += 1

    def dropped(self) -> None:
        self.depth -= 1

    def end(self, call: Any, args: Any, kwargs: Any, made: Any, reason: Any) -> None:
        for one in () if is_exact(call.target, args) else pytree.tree_leaves(made):
            if isinstance(one, GraphTensor) and not is_view(call.target):
                if self.grain:
                    one.value = one.value.with_x(snap(one.value.x, call.target))
            elif not self.grain:
                continue
            elif isinstance(one, Tensor) and not is_view(call.target):
                one.copy_(snap(one, call.target))  # a readout
        self.depth -= 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = pytree.tree_map(wide, (args, kwargs or {}))
        out = func(*args, **kwargs)
        if self.depth or is_view(func) or is_exact(func, args) or not self.grain:
            return out
        return pytree.tree_map_only(Tensor, lambda one: snap(one, func), out)


def _widened(rule: Any) -> Any:
    """A rule to which float32 is float64."""

    def call(operator: Any, *args: Any, **kwargs: Any) -> Any:
        args = tuple(wide(one) for one in args)
        return rule(operator, *args, **{key: wide(one) for key, one in kwargs.items()})

    return call


def mask_of(batch: int, size: int, d: int = 2) -> Tensor:
    """Patches of 8 x 8 pixels, scattered pixels, and one block; no image is empty."""
    generator = torch.Generator().manual_seed(5)
    mask = torch.zeros(batch, *(size,) * d, dtype=torch.bool)
    for number in range(batch):
        if number % 2 == 0:
            coarse = torch.rand((-(-size // 8),) * d, generator=generator) > 0.5
            coarse[(0,) * d] = True
            for axis in range(d):
                coarse = coarse.repeat_interleave(8, axis).narrow(axis, 0, size)
            mask[number] = coarse
        else:
            mask[number] = torch.rand((size,) * d, generator=generator) > 0.9
            mask[number, size // 2 :, : size // 2] = False
            mask[(number, *(size // 4,) * d)] = True
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
    x = torch.randn(2, entry.channels, *(entry.size,) * entry.d, dtype=torch.float64)
    last = torch.channels_last if entry.d == 2 else torch.channels_last_3d
    x = x.to(memory_format=last)
    model = cg.excite(model.double(), x).eval()
    for parameter in model.parameters():
        if parameter.dim() == 2 + entry.d:  # some networks have others, which `.to()` refuses
            parameter.data = parameter.data.contiguous(memory_format=last)
    with torch.no_grad():
        try:
            want = flat(model(x))
        except RuntimeError:  # some networks take no channels-last image
            x = x.contiguous()
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
    exported = captured(model, x)
    record.captured = True
    clock("export")
    with torch.no_grad():
        _masked(net, exported, x, record, want)
    clock("masked")
    if record.masked and _is_in_share(record):
        record.gradients = gradients_agree(net, exported, x)
        clock("gradients")


def captured(model: Any, x: Tensor) -> Any:
    """Return what torch.export makes of a network on the path that it takes when it runs.

    Some networks ask whether they are exported, and then resize what has its size already: that is
    the same answer by more operators, each of which would be rounded.
    """

    def as_it_runs(*_: Any) -> None:
        torch.compiler._is_exporting_flag = False  # export's own context puts it back

    hook = model.register_forward_pre_hook(as_it_runs)
    try:
        return torch.export.export(model, (x,), strict=False)
    finally:
        hook.remove()


def _is_in_share(record: Record) -> bool:
    """Every third network, by its name, of those that are no large ones."""
    return zlib.crc32(record.name.encode()) % 3 == 0 and record.parameters < 12


def gradients_agree(net: Any, exported: Any, x: Tensor) -> bool:
    """Compare a masked backward pass with that of the truth, for a loss that hears all outputs.

    Nothing is rounded on the way. Two gradients may differ by one grain: 20 bits below the largest
    entry, or 40 below the largest of all, since one that is 0 but for rounding has no digits.
    """
    root = mask_of(len(x), x.shape[-1], x.dim() - 2)
    one, two = (x.clone().requires_grad_() for _ in range(2))
    want = [o for o in Truth(exported, root, grain=False)(one) if o is not None]
    with Rounding(grain=False):
        out = net(cg.PixelGraph.from_image(two, mask=root, d=x.dim() - 2).tensor())
    got = [_dense(o) for o in pytree.tree_leaves(out) if o is not None]
    known = dict(exported.state_dict)
    both = [
        (p, known[name]) for name, p in net.named_parameters() if name in known and p.requires_grad
    ]
    loss = []
    for outs in (got, want):
        generator = torch.Generator().manual_seed(3)
        total: Any = 0
        for o in outs:
            if isinstance(o, Tensor) and o.is_floating_point() and o.requires_grad:
                send = torch.randn(o.shape, generator=generator, dtype=o.dtype)
                total = total + (o * send).sum()
        loss.append(total)
    mine = torch.autograd.grad(loss[0], [two, *(p for p, _ in both)], allow_unused=True)
    true = torch.autograd.grad(loss[1], [one, *(q for _, q in both)], allow_unused=True)
    least = (grain_of([(t, None) for t in true if t is not None]) or 0) * 2.0**-20
    return bool(true[0].abs().max() > 0) and all(
        _within(a, b, least) for a, b in zip(mine, true, strict=True)
    )


def _within(mine: Tensor | None, true: Tensor | None, least: float) -> bool:
    if true is None or mine is None:
        return all(one is None or bool((one.abs() <= least).all()) for one in (mine, true))
    grain = max(grain_of([(true, None)]) or 0, least)
    return bool(((mine - true).abs() <= grain).all())


def rounded(net: Any, exported: Any, x: Tensor, root: Tensor) -> tuple[list[Any], list[Any]]:
    """The masked run and the masked truth, flat, both rounded after every operator.

    Raises:
        UnknownMeaningError: the interpreter has no answer.
    """
    want = [one for one in Truth(exported, root)(x) if one is not None]
    graph = cg.PixelGraph.from_image(x, mask=root, d=x.dim() - 2)
    with Rounding():
        out = net(graph.tensor())
    return [_dense(one) for one in pytree.tree_leaves(out) if one is not None], want


def matters(exported: Any, x: Tensor, want: list[Any], dense: Any = ()) -> bool:
    """Whether the mask changes an answer that says anything.

    Where the dense answers are given, and one is off by a 64th of the largest entry, no rounding
    has done it; else the unmasked truth is asked.
    """
    if not any(isinstance(one, Tensor) and len(one.unique()) > 1 for one in want):
        return False
    for one, other in zip(want, dense, strict=False):
        if isinstance(one, Tensor) and isinstance(other, Tensor) and one.is_floating_point():
            largest = other.abs().amax() if other.numel() else 0
            if one.shape == other.shape and bool(((one - other).abs() > largest / 64).any()):
                return True
    whole = torch.ones(len(x), *x.shape[2:], dtype=torch.bool)
    full = [one for one in Truth(exported, whole)(x) if one is not None]
    return not same(want, full)


def _masked(net: Any, exported: Any, x: Tensor, record: Record, dense: list[Any]) -> None:
    root = mask_of(len(x), x.shape[-1], x.dim() - 2)
    try:
        got, want = rounded(net, exported, x, root)
    except UnknownMeaningError as error:
        record.reason = f"the interpreter has no answer: {str(error).splitlines()[0]}"
        return
    record.mask_matters = matters(exported, x, want, dense)
    record.masked = same(got, want) and record.mask_matters
    if record.mask_matters and not record.masked and _is_near(got, want):
        # Two roundings may part at one entry by chance; a difference in meaning is there again.
        generator = torch.Generator().manual_seed(1)
        again = torch.empty_like(x).normal_(generator=generator)  # lies as x does
        got, want = rounded(net, exported, again, root)
        record.masked = record.again = same(got, want)
    if not record.masked:
        record.reason = _difference(got, want) if record.mask_matters else "the mask says nothing"
        return
    for one in flat(
        net(cg.PixelGraph.from_image(x, mask=root, d=x.dim() - 2))
    ):  # as it is called, unrounded
        values = one.x if isinstance(one, cg.PixelGraph) else _dense(one)
        if isinstance(values, Tensor) and not bool(values.isfinite().all()):
            record.masked, record.reason = False, "a masked run is not finite"


def _is_near(got: list[Any], want: list[Any]) -> bool:
    """Whether every entry is within 2^-10 of its map's largest, so that chance may have done it."""
    return len(got) == len(want) and all(
        mine.shape == true.shape
        and bool(((mine - true).abs() <= true.abs().max() * 2.0**-10).all())
        for mine, true in zip(got, want, strict=True)
        if isinstance(mine, Tensor) and isinstance(true, Tensor) and true.numel()
    )


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
