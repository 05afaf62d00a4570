"""A second look at a certificate, from its JSON alone, that trusts torch, numpy and integers.

    form        does the record agree with itself?
    elsewhere   what keeps this machine from running it again?
    truth       the operator, written out once more, and how a side is sent numbers
    again       what comes out when both sides are run again

It imports nothing of the package: read this file, and run it alone. Steps are those of the theorem,
docs/design/theorem.md.

    python verifier.py certificate.json --trust MODULE ...

Exit code 0: proven again, 1: not so, 2: undecided, 3: there is no such file.
"""

import hashlib
import importlib
import inspect
import json
import math
import runpy
import sys
from collections.abc import Callable, Collection, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

SCHEMA = 3
FIELDS = (
    "a adapter assumed candidate cause counterexample device digest dtype epsilon excluded flags "
    "kind layers log2_epsilon name not_covered parts reason reference rho rho_exact schema seed "
    "spec trace trials verdict versions"
)
ASSUMED = "each side's operators are multilinear in x, w, b and g, vendor's kernels included"
NOT_COVERED = (
    "NaN and infinities, and numbers so large that a sum on the way overflows",
    "the sign of zero and flushing of subnormal numbers",
    "another geometry, batch size, dtype, device, memory layout or choice of kernel than recorded",
    "behaviour that depends on train/eval state, gradient mode, the number of calls, threads, the "
    "clock, the environment, garbage collection or global flags such as autocast",
    "code that notices that it is judged, by the stack, by dispatch modes or by memory that it "
    "reads past torch, and random numbers from a generator of its own",
    "what compilers, exporters and converters make of it",
    "forward mode, vmap, and what happens if an input is changed between forward and backward",
)
CODES = {"proven": 0, "refuted": 1, "undecided": 2}
WEAKEST_FIRST = ("refuted", "undecided", "proven", "measured only", "not asked")
DEMANDED = {
    "convolution": ("S2 identity", "S3 rounding"),
    "linear": ("S2 identity", "S3 rounding"),
    "maximum": ("S1 premise", "S2 identity", "S3 rounding"),
    "network": (),
}
MANNERS = ("plain", "refilled", "inner", "again", "backward")
POWERS = ((0, 0, 0), (12, 0, -12), (-12, 12, 0), (0, -12, 12), (12, -12, -12), (-12, 0, 12))
PADS: dict[str, Any] = {
    "reflect": "reflect", "replicate": "edge", "circular": "wrap", "zeros": "constant",
}  # fmt: skip
LIMIT, THREADS = 2**28, 1024
"""The most numbers of one array, and threads, that a record may ask for."""
FROM = "follows from spec, dtype, device, seed, epsilon, candidate, reference, adapter"


def verify(text: str, path: str = "", trust: Collection[str] = ()) -> tuple[int, list[str]]:
    """Return 0 proven again, 1 not so or 2 undecided, and lines, each led by its fields.

    Args:
        text: the record.
        path: of a layer within the network that the record names.
        trust: of the code that a record names only what this lists is run, see `resolve`.
    """
    wrong, unsure = list[str](), list[str]()
    try:
        record = json.loads(text)
        wrong = form(record, text)
        if not wrong:
            unsure = elsewhere(record)
        if not wrong and record["kind"] == "network":
            wrong, open_ = of_layers(record, trust)
            unsure += open_
        elif not wrong and not unsure and record["verdict"] != "undecided":
            wrong, unsure = again(record, path, trust)
    except ImportError as error:
        unsure.append(f"candidate, reference, adapter: not run ({error})")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  # it does not run
        wrong.append(f"record: cannot be run, {type(error).__name__}: {error}; it {FROM}")
    if wrong:
        return 1, wrong + unsure
    if unsure:
        return 2, unsure
    return CODES[record["verdict"]], [f"the record holds: {record['verdict']}"]


# -- form: does the record agree with itself? ------------------------------------------------------


def form(record: dict[str, Any], text: str) -> list[str]:
    """Return what is wrong with a record as it stands."""
    odd = {*FIELDS.split()} ^ {*record}
    canonical = json.dumps(record, indent=2) == text.strip()  # a field may stand twice
    if odd or not canonical or record["schema"] != SCHEMA:
        names = ", ".join(sorted(odd)) or "schema"
        return [f"{names}: missing, unknown, not canonical, or not of schema {SCHEMA}"]
    spec, layers, verdict = record["spec"], record["layers"], record["verdict"]
    parts = {part["name"]: part["status"] for part in record["parts"]}
    proven, kind = verdict == "proven", kind_of(spec)
    statuses = [*parts.values(), *(layer["verdict"] for layer in layers)]
    blamed = {part["facts"] for part in record["parts"] if part["status"] == verdict}
    assumed = [f"{how} calls its side as it is" for how in record["adapter"].values() if ":" in how]
    for layer in layers:
        assumed += layer["assumed"]
    if kind != "network" and not (parts.get("S1 premise") == "proven" and record["trace"]):
        assumed.append(ASSUMED)  # section 2
    rest = {name: value for name, value in record.items() if name != "digest"}
    sealed = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    holds = {
        "digest": record["digest"] == hashlib.sha256(sealed.encode()).hexdigest(),
        "parts": len(parts) == len(record["parts"]),
        "parts, S1 to S3": not proven or all(parts.get(n) == "proven" for n in DEMANDED[kind]),
        "verdict": verdict == min(statuses, key=WEAKEST_FIRST.index) and verdict in CODES,
        "reason": record["reason"] in ({""} if proven else blamed),
        "cause, counterexample": not proven or not (record["cause"] or record["counterexample"]),
        "assumed, adapter, trace": {*assumed} <= {*record["assumed"]},
        "not_covered": {*NOT_COVERED} <= {*record["not_covered"]},  # section 7
        "kind, excluded": record["kind"] == kind and (kind == "network" or not record["excluded"]),
        "layers": len(layers) == spec.get("layers", 0),
        "epsilon": all(record["epsilon"] >= layer["epsilon"] for layer in layers),  # step 6
        "log2_epsilon": all(record["log2_epsilon"] >= layer["log2_epsilon"] for layer in layers),
        f"spec, flags, at most {LIMIT} numbers at once, {THREADS} threads": modest(record),
    }
    return [f"{name}: not as the rest demands" for name, good in holds.items() if not good]


def kind_of(spec: dict[str, Any]) -> str:
    """Tell what kind of operator a spec describes."""
    if "terms" in spec:
        return "maximum" if "windows" in spec else "linear"
    return "network" if "images" in spec else "convolution"


def modest(record: dict[str, Any]) -> bool:
    """Whether it asks for no more numbers and threads than it may, before any is taken."""
    spec, kind, arrays = record["spec"], kind_of(record["spec"]), []
    if kind in ("linear", "maximum"):
        arrays = [spec["shape"], spec["out"]]
    elif kind == "convolution":
        names = ("size", "kernel_size", "stride", "dilation", "output_padding", "padding")
        axes = zip(*(spec[name] for name in names), strict=True)
        large = [n * s + k * d + o + a + b for n, k, s, d, o, (a, b) in axes]
        batch, kernel = spec["batch"], spec["kernel_size"]
        channels = [spec["in_channels"], spec["out_channels"]]
        arrays = [[batch, sum(channels), *large], [*channels, *kernel], [batch, *large, *kernel]]
    good = all(min(one) >= 0 and math.prod(one) <= LIMIT for one in arrays)
    return good and 0 < int(record["flags"]["threads"]) <= THREADS


# -- elsewhere: what keeps this machine from running it again? -------------------------------------


def elsewhere(record: dict[str, Any]) -> list[str]:
    """Return what is recorded of the machine and is not so here."""
    where = record["device"].split(" (")[0]
    device = torch.device(where)
    flags = record["flags"] | {"cpu": torch.backends.cpu.get_cpu_capability()}
    if device.type == "cuda":
        there = (device.index or 0) < torch.cuda.device_count()
        where = f"{where} ({torch.cuda.get_device_name(device) if there else None})"
    else:
        flags["tf32"] = f"not applicable on {where}"
    python = sys.version.split()[0]
    versions = {"numpy": np.__version__, "torch": torch.__version__, "python": python}
    here = {"device": where, "versions": versions, "flags": flags}
    if record["kind"] == "network":
        here["kind"] = "only its layers can be run again, not its wiring, operators and bounds"
    return otherwise(record, here, "")


def otherwise(record: dict[str, Any], found: dict[str, Any], why: str) -> list[str]:
    """Name the fields that are recorded otherwise than they were found."""
    return [
        f"{name}: {record[name]} is recorded; here {value}{why}"
        for name, value in found.items()
        if value != record[name]
    ]


# -- truth: the operator, written out once more, and how a side is sent numbers --------------------


class Truth(NamedTuple):
    """What both sides have to be.

    Attributes:
        run: f(x, w, b), or f(x) of an operator without parameters, which is then the reference.
        shapes: of x, w, b if there is one, and g; or of x and g.
        counts: per quantity how many products each entry adds up, n of step 17.
        terms: the most of them that have to be exact, n of step 3.
        probe: the dtype of integers; half types and shares have no room in their own.
        exact: the dtype in which `run` is the truth.
    """

    run: Callable[..., Any]
    shapes: list[Any]
    counts: dict[str, Any]
    terms: int
    probe: Any
    exact: Any


def truth_of(record: dict[str, Any], reference: Any) -> tuple[Truth, list[str]]:
    """Return the truth of a record, and what the record says otherwise of its edges."""
    spec, dtype, wrong = record["spec"], getattr(torch, record["dtype"]), list[str]()
    if record["kind"] != "convolution":
        counts = {"y": spec["terms"], "grad_x": spec["terms"]}
        probe = torch.float64 if dtype.itemsize == 2 else dtype
        shapes, terms = [spec["shape"], spec["out"]], spec["terms"] * spec["scale"]
        return Truth(reference, shapes, counts, terms, probe, probe), wrong
    run, shapes = convolution(spec)
    one = 1
    if bent(spec):
        one, wrong = beside()["edges_held"](record, shapes[-1][2:])
    counts = evaluate(partial(run, loud=False), [np.ones(shape) for shape in shapes], torch.float64)
    terms = max(1, *(int(count.max()) for count in counts.values())) * one
    if one > 1:  # step 17: a share rounds as it is taken, and once more where shares are added
        counts = {name: n + 2 * (n > 0) * (name != "grad_b") for name, n in counts.items()}
    probe = torch.float64 if dtype.itemsize == 2 or one > 1 else dtype
    return Truth(run, shapes, counts, terms, probe, torch.float64), wrong


def convolution(spec: dict[str, Any]) -> tuple[Callable[..., Any], list[Any]]:
    """Return the direct convolution f(x, w, b) of section 1, and the shapes of x, w, b and g.

    Edges with shares of their own are as loud as these say or, with loud=False, count once each.
    """
    groups, turned, images = spec["groups"], spec["transposed"], spec["batch"]
    inputs, outputs = spec["in_channels"], spec["out_channels"]
    out = output_size(spec)
    edges_of = beside()["typed_edges"] if bent(spec) else typed_edges
    edges, hears = edges_of(spec, out)

    def run(x: Any, w: Any, b: Any, *, loud: bool = True) -> Any:
        rows = x.movedim(1, -1).reshape(-1, groups, inputs // groups).transpose(0, 1)
        taps = w.reshape(groups, w.shape[0] // groups, w.shape[1], -1)
        y = x.new_zeros(groups, hears.size, outputs // groups)
        for t, (source, target, share) in enumerate(edges):
            matrix = taps[..., t] if turned else taps[..., t].mT
            said = rows[:, source]
            if loud and share is not None:
                said = said * share[:, None].to(said)
            y = y.index_add(1, target, said @ matrix)
        if b is not None:
            y = y + torch.tensor(hears)[:, None] * b.reshape(groups, 1, -1)
        return y.transpose(0, 1).reshape(images, *out, outputs).movedim(-1, 1)

    weight = [inputs, outputs // groups] if turned else [outputs, inputs // groups]
    shapes = [[images, inputs, *spec["size"]], [*weight, *spec["kernel_size"]]]
    bias = [[outputs]] if spec["bias"] else []
    return run, [*shapes, *bias, [images, outputs, *out]]


def bent(spec: dict[str, Any]) -> bool:
    """Whether taps land elsewhere than in the plane, or some are not there."""
    return spec.get("space") is not None or spec.get("footprint") is not None


@cache
def beside() -> dict[str, Any]:
    """The geometry of spaces and footprints, in a file of its own beside this one."""
    path = Path(__file__).with_name("verifier_spaces.py")
    if not path.is_file():
        raise ImportError(f"a record of a space or a footprint needs {path.name} beside this file")
    return runpy.run_path(str(path))


def output_size(spec: dict[str, Any]) -> list[int]:
    """Return the output's pixels along each axis."""
    found = []
    for axis, n in enumerate(spec["size"]):
        step, taps = spec["stride"][axis], spec["kernel_size"][axis]
        reach = spec["dilation"][axis] * (taps - 1) - sum(spec["padding"][axis])
        if spec["transposed"]:
            found.append((n - 1) * step + reach + spec["output_padding"][axis] + 1)
        else:
            found.append((n - 1 - reach) // step + 1)
    return found


def typed_edges(spec: dict[str, Any], out: list[int]) -> tuple[list[Any], Any]:
    """Return source, target and share of each tap's edges (step 13), and which sites receive.

    The lattice that taps read along is padded as a table of pixel numbers, -1 where there is none.
    """
    images, turned = spec["batch"], spec["transposed"]
    near, far = (spec["size"], out) if turned else (out, spec["size"])
    table = 1 + np.arange(images * math.prod(far)).reshape(images, *far)
    table = np.pad(table, [(0, 0), *spec["padding"]], PADS[spec["padding_mode"]]) - 1
    masks = []
    for name, size in (("source_mask", spec["size"]), ("target_mask", out)):
        whole = np.ones((images, *size)) if spec[name] is None else np.array(spec[name])
        masks.append(whole.ravel() > 0)
    sends, hears = masks
    edges = []
    for taps in np.ndindex(*spec["kernel_size"]):
        cut = []
        for axis, tap in enumerate(taps):
            start, step = tap * spec["dilation"][axis], spec["stride"][axis]
            cut.append(slice(start, start + step * (near[axis] - 1) + 1, step))
        read = table[:, *cut].ravel()
        there = np.flatnonzero(read >= 0)
        source, target = (there, read[there]) if turned else (read[there], there)
        kept = sends[source] & hears[target]
        edges.append((torch.tensor(source[kept]), torch.tensor(target[kept]), None))
    return edges, hears


def evaluate(
    run: Callable[..., Any], sent: list[Any], dtype: Any, device: str = "cpu",
    manner: str = "plain", reuse: list[Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return y and its gradients, as far as there are any, in float64; g for y is sent last.

    Args:
        run: f(x, w, b) or f(x).
        sent: arrays for x, w, b and g, as far as there are any.
        dtype: in which it runs.
        device: where.
        manner: one of `MANNERS`, or "frozen x", which leaves a gradient out.
        reuse: tensors of the call before, which "refilled" fills anew in place; then of this one.
    """
    *leaves, g = [torch.as_tensor(value).to(device, dtype) for value in sent]
    if manner == "refilled" and reuse:
        with torch.no_grad():
            leaves = [old.copy_(new) for old, new in zip(reuse, leaves, strict=True)]
    if reuse is not None:
        reuse[:] = leaves
    wanted = {}
    for name, leaf in zip("xwb", leaves, strict=False):
        if manner != f"frozen {name}":
            wanted[f"grad_{name}"] = leaf.requires_grad_()
    called = [leaves[0] * 1 if manner == "inner" else leaves[0], *leaves[1:]]
    y = run(*called, None) if len(called) == 2 else run(*called)  # without a bias
    found = {"y": y}
    if y.requires_grad and manner == "backward":
        y.backward(g)
        for name, leaf in wanted.items():
            found[name], leaf.grad = leaf.grad, None
    elif y.requires_grad:
        inputs = list(wanted.values())
        if manner == "again":
            torch.autograd.grad(y, inputs, g, allow_unused=True, retain_graph=True)
        grads = torch.autograd.grad(y, inputs, g, allow_unused=True)
        found |= zip(wanted, grads, strict=True)
    return {
        name: value.detach().to_dense().double().cpu().numpy()
        for name, value in found.items()
        if getattr(value, "dtype", None) == dtype
    }


# -- again: what comes out when both sides are run again? ------------------------------------------


def again(record: dict[str, Any], path: str, trust: Collection[str]) -> tuple[list[str], list[str]]:
    """Return what the record says and a second run does not, and what no second run can say."""
    torch.set_num_threads(int(record["flags"]["threads"]))
    where = record["device"].split(" (")[0]
    runs, name = sides(record, path, where, trust)
    truth, wrong = truth_of(record, runs["reference"])
    if record["kind"] != "convolution":
        wrong += promised(record, truth, where)
    a, trials, amiss = budget(record, truth, name)
    wrong += amiss
    if wrong:
        return wrong, []
    differs, amiss = identity(record, runs, truth, a, trials, where)
    if differs:
        return amiss, []
    if record["verdict"] == "proven":
        return rounding(record, runs, truth, where), []
    refuting = {part["name"] for part in record["parts"] if part["status"] == "refuted"}
    if "S2 identity" in refuting and record["counterexample"].get("manner") != "own":
        return ["verdict: not found again"], []
    return [], [f"parts: {', '.join(sorted(refuting))}: the prover alone can run that again"]


def of_layers(record: dict[str, Any], trust: Collection[str]) -> tuple[list[str], list[str]]:
    """Return what is wrong with a network's layers, and what is open; step 22 is the prover's."""
    wrong, unsure = [], []
    for path, layer in zip(record["spec"].get("paths", ()), record["layers"], strict=True):
        code, lines = verify(json.dumps(layer, indent=2), path, trust)
        led = [f"layers: {path}: {line}" for line in lines]
        if code == 1 and lines != ["the record holds: refuted"]:
            wrong += led
        else:
            unsure += led
    return wrong, unsure


def sides(
    record: dict[str, Any], path: str, where: str, trust: Collection[str]
) -> tuple[dict[str, Any], str]:
    """Return both sides as functions of images, and the name that the candidate goes by."""
    runs: dict[str, Any] = {}
    label = ""
    for name in ("reference", "candidate"):
        side, how = resolve(record[name], trust), record["adapter"][name]
        module = hasattr(side, "to")
        if module:
            side = side.get_submodule(path).to(where, getattr(torch, record["dtype"]))
        runs[name] = side if how == "function" else resolve(how, trust)(side, record["spec"])
        label = repr(side) if module else record["candidate"]
    return runs, f"{path}: {label}" if path else label


def resolve(where: str, trust: Collection[str]) -> Any:
    """Import "module:object": a torch Module, a class of one, or a function of that module.

    A class or a bare function is called first, f(g) is called with g.

    `trust`: modules to import names from, and names that may stand for f in f(g).
    """
    outer, _, inner = where.removesuffix(")").partition("(")
    module, _, path = outer.partition(":")
    own = module == "torch" and hasattr(torch._C._VariableFunctions, path)  # its operators
    within = not inner and (own or any(f"{module}.".startswith(f"{one}.") for one in trust))
    if not module or module.partition(".")[0] in sys.stdlib_module_names:
        raise ImportError(f"expected module:object of no standard module, got {where!r}")
    if not (outer in trust or within):
        raise ImportError(f"{outer!r} is not trusted; --trust {module} runs its code")
    sent = [resolve(inner, trust)] if inner else []
    thing: Any = importlib.import_module(module)
    for part in path.split("."):
        if (thing := getattr(thing, part, None)) is None:
            raise ImportError(f"expected module:object, got {where!r}: there is no {part!r}")
    made = isinstance(thing, type) and issubclass(thing, torch.nn.Module)
    known = inspect.isroutine(thing) and (outer in trust or own or thing.__module__ == module)
    if not (known or made or isinstance(thing, torch.nn.Module)):
        raise ImportError(f"{where!r} is no torch Module and no function of {module}")
    bare = inspect.isfunction(thing) and not inspect.signature(thing).parameters
    return thing(*sent) if sent or bare or made else thing


def promised(record: dict[str, Any], truth: Truth, where: str) -> list[str]:
    """Return what is wrong with the terms and the scale of an operator without parameters.

    Where S1 followed it, it counted the terms, and the prover has to do so again; elsewhere all
    entries of one image may add up.
    """
    draw = np.random.default_rng(0).integers
    sent = [draw(0, 9, shape) * record["spec"]["scale"] for shape in truth.shapes]
    made = evaluate(truth.run, sent, truth.probe, where)
    most = 1 if record["trace"] else max(value[0].size for value in made.values())
    if record["spec"]["terms"] < most or any((value % 1).any() for value in made.values()):
        return ["spec: more terms, or a scale that leaves fractions"]
    return []


def budget(record: dict[str, Any], truth: Truth, name: str) -> tuple[int, int, list[str]]:
    """Return the largest draw, the trials, and what the record says otherwise: steps 3 and 7."""
    room = 2 ** (24 if truth.probe == torch.float32 else 53) // truth.terms
    if record["kind"] == "convolution":
        room = math.isqrt(room)
    a = min(room, 2**31 - 1)
    if record["kind"] == "convolution" and record["trace"]:  # S1 may ask for smaller draws
        a = min(a, record["a"])
    if a < 1:
        return a, 0, ["spec, a: no integers are left to draw"]
    trials = max(1, math.ceil(-math.log2(record["epsilon"]) / math.log2((2 * a + 1) / 2)))
    log2 = trials * math.log2(2 / (2 * a + 1))
    says = {"name": name, "a": a, "trials": trials, "log2_epsilon": log2}
    return a, trials, otherwise(record, says, f", which {FROM}")


def identity(
    record: dict[str, Any], runs: dict[str, Any], truth: Truth, a: int, trials: int, where: str
) -> tuple[bool, list[str]]:
    """Return whether a side differs on integers, and what is wrong with a record that denies it."""
    whole = record["kind"] == "convolution"
    kept: dict[str, list[Any]] = {"candidate": [], "reference": []}
    for trial, sent in enumerate(drawn(record, truth, a, trials)):
        exact = evaluate(truth.run, sent, truth.exact, "cpu" if whole else where)
        heard = exact["y"][np.broadcast_to(truth.counts["y"], exact["y"].shape) > 0]
        if 2 * np.count_nonzero(heard) < max(1, heard.size):
            return True, ["spec: there is nothing to compare, or most of it is zero"]  # step 10
        if record["kind"] == "maximum" and np.unique(sent[0]).size < sent[0].size:
            del exact["grad_x"]  # step 11d: between equal numbers either choice is right
        manners = [MANNERS[trial % len(MANNERS)]]
        if whole and not trial:
            manners = ["frozen x", "frozen w", "frozen b", "plain"]
        calls = [("candidate", manner) for manner in manners]
        for name, manner in [*calls, ("reference", "plain")]:
            found = evaluate(runs[name], sent, truth.probe, where, manner, kept[name])
            for quantity, want in exact.items():
                frozen = manner == f"frozen {quantity[-1]}"
                if not frozen and not np.array_equal(want, found.get(quantity, ())):
                    seen = {"side": name, "quantity": quantity}
                    if manner != "plain":
                        seen["manner"] = manner
                    return True, denied(record, seen, found, exact)
    return False, []


def drawn(record: dict[str, Any], truth: Truth, a: int, trials: int) -> Iterator[list[Any]]:
    """Yield what is sent in each trial: integers (step 8) times powers of two of their own."""
    scale = record["spec"].get("scale", 1)
    for trial, child in enumerate(np.random.SeedSequence(record["seed"]).spawn(trials)):
        draw = np.random.Generator(np.random.Philox(child)).integers
        x, w, g = POWERS[trial % len(POWERS)]
        powers = [*(x, w, x + w)[: len(truth.shapes) - 1], g]
        yield [
            draw(-a, a, shape, endpoint=True, dtype=np.int64) * scale * 2.0**power
            for shape, power in zip(truth.shapes, powers, strict=True)
        ]


def denied(
    record: dict[str, Any], seen: dict[str, Any], found: dict[str, Any], exact: dict[str, Any]
) -> list[str]:
    """Return what is wrong with a record where an integer differs: nothing, if it says so."""
    shown = record["counterexample"]
    at = tuple(shown.get("index", ()))
    if at:
        seen["found"] = float(found[seen["quantity"]][at])
        seen["expected"] = float(exact[seen["quantity"]][at])
    same = bool(at) and seen["found"] == seen["expected"]
    if record["verdict"] == "refuted" and not same and (not shown or shown | seen == shown):
        return []
    text = f"not that the {seen['side']}'s {seen['quantity']} differs; it {FROM}"
    return [f"verdict, counterexample: {text}"]


def rounding(record: dict[str, Any], runs: dict[str, Any], truth: Truth, where: str) -> list[str]:
    """Return what the record says of real numbers and a second run does not: steps 17 to 21."""
    dtype, whole = getattr(torch, record["dtype"]), record["kind"] == "convolution"
    generator = np.random.Generator(np.random.Philox(record["seed"]))
    rho: dict[str, float] = {}
    wrong = []
    for spread in (0, min(20, int(np.log2(torch.finfo(dtype).max)) // 6)):
        real = [normal(generator, shape, spread, dtype) for shape in truth.shapes]
        sizes = evaluate(truth.run, [value.abs() for value in real], truth.exact)
        one = evaluate(runs["candidate"], real, dtype, where)
        two = evaluate(runs["reference"], real, dtype, where)
        for name, size in sizes.items():
            if not whole and (size < np.abs(two[name])).any():
                continue  # entries of both signs: this is no |L| |x|
            limit = bound(truth.counts[name], size, dtype)
            ratio = (np.abs(one[name] - two[name]) / limit).max(initial=0.0)
            rho[name] = float(np.maximum(rho.get(name, 0.0), ratio))  # NaN stays NaN
            if not ratio <= 1:  # so the reference's own kernel has to be what leaves the bound
                exact = evaluate(truth.run, real, truth.exact)[name]
                if not (np.abs(one[name] - exact) <= limit).all():
                    wrong.append(f"rho: {name} leaves its bound; {ratio} {FROM}")
            if not np.isfinite(limit).all():
                wrong.append(f"rho: n u >= 1, the bound of {name} says nothing")
    near = 4 * (truth.terms + 9) * torch.finfo(truth.exact).eps  # |L| |x| was itself rounded
    if whole:
        near = (max(int(np.max(n)) for n in truth.counts.values()) + 9) * 2.0**-51
    for name, value in rho.items():
        said = record["rho"].get(name, np.inf)
        if not abs(value - said) <= near * value:
            wrong.append(f"rho: {name} {said}, but {value} {FROM}")
    return wrong


def normal(generator: Any, shape: Any, spread: int, dtype: Any) -> Any:
    """Return normal numbers, times powers of two from 2^-spread to 2^spread."""
    value = generator.standard_normal(shape)
    if spread:
        value *= 2.0 ** generator.integers(-spread, spread, size=shape, endpoint=True)
    return torch.from_numpy(value).to(dtype)


def bound(n: Any, size: Any, dtype: Any) -> Any:
    """Twice what step 17 allows, n u size + n eta, and what a half type rounds once (step 20)."""
    low, wide = torch.finfo(dtype), torch.finfo(torch.float32 if dtype.itemsize == 2 else dtype)
    error = n * (wide.eps / 2 * size + wide.smallest_normal * wide.eps)
    if low.eps != wide.eps:
        error = error + low.eps / 2 * (size + error) + low.smallest_normal * low.eps
    says = n * wide.eps / 2 < 1  # step 21
    return np.where(says, np.maximum(2 * error * (1 + (n + 8) * 2.0**-53), 2.0**-1074), np.inf)


if __name__ == "__main__":
    try:
        given = Path(sys.argv[1]).read_text(encoding="utf-8")
    except (IndexError, OSError, ValueError) as error:
        sys.stderr.write(f"verifier.py certificate.json --trust MODULE ...: {error}\n")
        sys.exit(3)
    status, said = verify(given, trust=sys.argv[3:])
    sys.stdout.write("\n".join(said) + "\n")
    sys.exit(status)
