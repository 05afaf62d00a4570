"""A second look at a certificate, from its JSON alone, that trusts torch, numpy and integers.

    form        does the record agree with itself?
    elsewhere   what keeps this machine from running it again?
    truth       the operator, written out once more, and the numbers that both sides are sent
    again       what comes out when both sides are run again

It imports nothing of the package: read this file, and run it alone.

    python verifier.py certificate.json --trust MODULE ...

Exit code 0: proven again, 1: not so, 2: undecided.
"""

import hashlib
import importlib.util
import inspect
import json
import math
import sys
from collections.abc import Callable, Collection, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

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
WEAKEST_FIRST = ("refuted", "undecided", "proven", "measured only", "not asked")
QUANTITIES = ("y", "grad_x", "grad_w", "grad_b")
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
    wrong, unsure, verdict = list[str](), list[str](), "undecided"
    try:
        record = json.loads(text)
        odd = sorted({*FIELDS.split()} ^ {*record})
        if not odd and record["schema"] != SCHEMA:
            odd = ["schema"]
        if odd or json.dumps(record, indent=2) != text.strip():  # a field may stand twice
            problem = f"missing, unknown, not canonical, or not of schema {SCHEMA}"
            return 1, [f"{', '.join(odd)}: {problem}"]
        verdict = record["verdict"]
        wrong += form(record)
        unsure += elsewhere(record)
        for at, layer in zip(record["spec"].get("paths", ()), record["layers"], strict=True):
            code, lines = verify(json.dumps(layer, indent=2), at, trust)
            led = [f"layers: {at}: {line}" for line in lines]
            if code == 1 and lines != ["the record holds: refuted"]:
                wrong += led
            else:
                unsure += led
        if not unsure and verdict != "undecided":
            found, open_ = beyond(record), list[str]()
            if not found:
                torch.set_num_threads(int(record["flags"]["threads"]))
                found, open_ = again(record, path, trust)
            wrong += found
            unsure += open_
    except ImportError as error:
        unsure.append(f"candidate, reference, adapter: not run ({error})")
    except (Exception, SystemExit) as error:  # noqa: BLE001  # it does not run
        wrong.append(f"record: cannot be run, {type(error).__name__}: {error}; it {FROM}")
    if wrong:
        return 1, wrong + unsure
    if unsure:
        return 2, unsure
    return {"proven": 0, "refuted": 1}.get(str(verdict), 2), [f"the record holds: {verdict}"]


# -- form: does the record agree with itself? ------------------------------------------------------


def form(record: dict[str, Any]) -> list[str]:
    """Return what is wrong with a record as it stands."""
    spec, layers, verdict = record["spec"], record["layers"], record["verdict"]
    statuses = {part["name"]: part["status"] for part in record["parts"]}
    proven = verdict == "proven"
    kind = kind_of(spec)
    weakest = [*statuses.values(), *(layer["verdict"] for layer in layers)]
    blamed = {part["facts"] for part in record["parts"] if part["status"] == verdict}
    asked = {"network": (), "maximum": ("S1 premise", "S2 identity", "S3 rounding")}.get(
        kind, ("S2 identity", "S3 rounding")
    )
    holds = {
        "digest": record["digest"] == sealed(record),
        "parts": len(statuses) == len(record["parts"])
        and all(statuses.get(name) == "proven" for name in asked if proven),
        "verdict": verdict == min(weakest, key=WEAKEST_FIRST.index),
        "reason": record["reason"] in ({""} if proven else blamed),
        "cause, counterexample": not proven or not (record["cause"] or record["counterexample"]),
        "assumed": {*least_assumed(record, kind, statuses)} <= {*record["assumed"]},
        "not_covered": {*NOT_COVERED} <= {*record["not_covered"]},
        "kind, excluded": record["kind"] == kind and (kind == "network" or not record["excluded"]),
        "layers": len(layers) == spec.get("layers", 0),
        "epsilon": all(
            record[name] >= layer[name] for layer in layers for name in ("epsilon", "log2_epsilon")
        ),
    }
    return [f"{name}: not as the rest demands" for name, good in holds.items() if not good]


def kind_of(spec: dict[str, Any]) -> str:
    """Tell what kind of operator a spec describes."""
    if "terms" in spec:
        return "maximum" if "windows" in spec else "linear"
    return "network" if "images" in spec else "convolution"


def sealed(record: dict[str, Any]) -> str:
    """Return the SHA-256 of the record's canonical JSON, the digest itself left out."""
    rest = {name: value for name, value in record.items() if name != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def least_assumed(record: dict[str, Any], kind: str, statuses: dict[str, str]) -> Iterator[str]:
    """Yield what a record has to assume at least."""
    for how in record["adapter"].values():
        if ":" in how:
            yield f"{how} calls its side as it is"
    if kind == "network":
        for layer in record["layers"]:
            yield from layer["assumed"]
    elif statuses.get("S1 premise") != "proven" or not record["trace"]:
        yield ASSUMED


# -- elsewhere: what keeps this machine from running it again? -------------------------------------


def elsewhere(record: dict[str, Any]) -> list[str]:
    """Return what is recorded of the machine and is not so here."""
    where = record["device"].split(" (")[0]
    flags = record["flags"] | {"cpu": torch.backends.cpu.get_cpu_capability()}
    if torch.device(where).type == "cuda":
        name = torch.cuda.is_available() and torch.cuda.get_device_name(where)
        where = f"{where} ({name})"
    else:
        flags["tf32"] = f"not applicable on {where}"
    kind = record["kind"]
    if kind == "network":
        kind = "only its layers can be run again, not its wiring, operators and bounds"
    here = {
        "device": where,
        "versions": {
            "numpy": np.__version__,
            "torch": torch.__version__,
            "python": sys.version.split()[0],
        },
        "flags": flags,
        "kind": kind,
    }
    return [
        f"{name}: {record[name]} is recorded; here {value}"
        for name, value in here.items()
        if value != record[name]
    ]


def beyond(record: dict[str, Any]) -> list[str]:
    """Return what asks for more memory or threads than it may, before any is taken."""
    spec, threads = record["spec"], int(record["flags"]["threads"])
    arrays = [spec["shape"], spec["out"]] if "terms" in spec else []
    if not arrays:
        names = ("size", "kernel_size", "stride", "dilation", "output_padding", "padding")
        axes = zip(*(spec[name] for name in names), strict=True)
        large = [n * s + k * d + o + a + b for n, k, s, d, o, (a, b) in axes]
        both, kernel = [spec["in_channels"], spec["out_channels"]], spec["kernel_size"]
        arrays = [[spec["batch"], sum(both), *large], [*both, *kernel]]
        arrays.append([spec["batch"], *large, *kernel])
    good = all(min(one) >= 0 and math.prod(one) <= LIMIT for one in arrays)
    problem = f"spec, flags: it asks for more than {LIMIT} numbers at once, or {THREADS} threads"
    return [problem] * (not (good and 0 < threads <= THREADS))


# -- truth: the operator once more, and the numbers that both sides are sent -----------------------


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
    known = inspect.isroutine(thing) and (outer in trust or own or thing.__module__ == module)
    if not (
        known
        or isinstance(thing, torch.nn.Module)
        or (isinstance(thing, type) and issubclass(thing, torch.nn.Module))
    ):
        raise ImportError(f"{where!r} is no torch Module and no function of {module}")
    bare = inspect.isfunction(thing) and not inspect.signature(thing).parameters
    return thing(*sent) if sent or bare or isinstance(thing, type) else thing


def convolution(spec: dict[str, Any]) -> tuple[Callable[..., Any], list[Any]]:
    """Return the direct convolution f(x, w, b) of a spec, and the shapes of x, w, b and y.

    Edges with shares of their own are as loud as these say or, with loud=False, count once each.
    """
    groups, turned, images = spec["groups"], spec["transposed"], spec["batch"]
    inputs, outputs = spec["in_channels"], spec["out_channels"]
    out = output_size(spec)
    pairs, hears = (beside().typed_edges if bent(spec) else typed_edges)(spec, out)

    def run(x: Any, w: Any, b: Any, *, loud: bool = True) -> Any:
        rows = x.movedim(1, -1).reshape(-1, groups, inputs // groups).transpose(0, 1)
        taps = w.reshape(groups, w.shape[0] // groups, w.shape[1], -1)
        y = x.new_zeros(groups, hears.size, outputs // groups)
        for t, (source, target, *share) in enumerate(pairs):
            matrix = taps[..., t] if turned else taps[..., t].mT
            said = rows[:, source]
            for part in share * loud:
                said = said * part[:, None].to(said)
            y = y.index_add(1, target, said @ matrix)
        if b is not None:
            y = y + torch.tensor(hears)[:, None] * b.reshape(groups, 1, -1)
        return y.transpose(0, 1).reshape(images, *out, outputs).movedim(-1, 1)

    weight = [inputs, outputs // groups] if turned else [outputs, inputs // groups]
    return run, [
        [images, inputs, *spec["size"]],
        [*weight, *spec["kernel_size"]],
        [outputs] if spec["bias"] else None,
        [images, outputs, *out],
    ]


def bent(spec: dict[str, Any]) -> bool:
    """Whether taps land elsewhere than in the plane, or some are not there."""
    return spec.get("space") is not None or spec.get("footprint") is not None


@cache
def beside() -> Any:
    """The geometry of spaces and footprints, in a file of its own beside this one."""
    path = Path(__file__).with_name("verifier_spaces.py")
    if not path.is_file():
        raise ImportError(f"a record of a space or a footprint needs {path.name} beside this file")
    spec: Any = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def output_size(spec: dict[str, Any]) -> list[int]:
    """Return the output's pixels along each axis."""
    found = []
    for axis, n in enumerate(spec["size"]):
        before, after = spec["padding"][axis]
        span = spec["dilation"][axis] * (spec["kernel_size"][axis] - 1) + 1 - before - after
        step = spec["stride"][axis]
        if spec["transposed"]:
            found.append((n - 1) * step + span + spec["output_padding"][axis])
        else:
            found.append((n - span) // step + 1)
    return found


def typed_edges(spec: dict[str, Any], out: list[int]) -> tuple[list[Any], Any]:
    """Return sources and targets of each tap, and which sites receive.

    The lattice that taps read along is padded as a table of pixel numbers, -1 where there is none.
    """
    images, turned = spec["batch"], spec["transposed"]
    near, far = (spec["size"], out) if turned else (out, spec["size"])
    table = 1 + np.arange(images * math.prod(far)).reshape(images, *far)
    table = np.pad(table, [(0, 0), *spec["padding"]], PADS[spec["padding_mode"]]) - 1
    masks = []
    for name, size in (("source_mask", spec["size"]), ("target_mask", out)):
        given = spec[name]
        whole = np.ones((images, *size)) if given is None else np.array(given)
        masks.append(whole.ravel() > 0)
    sends, hears = masks
    pairs = []
    for taps in np.ndindex(*spec["kernel_size"]):
        cut = []
        for axis, tap in enumerate(taps):
            start, step = tap * spec["dilation"][axis], spec["stride"][axis]
            cut.append(slice(start, start + step * (near[axis] - 1) + 1, step))
        read = table[:, *cut].ravel()
        there = np.flatnonzero(read >= 0)
        source, target = (there, read[there]) if turned else (read[there], there)
        kept = sends[source] & hears[target]
        pairs.append((torch.tensor(source[kept]), torch.tensor(target[kept])))
    return pairs, hears


def evaluate(
    run: Callable[..., Any], sent: list[Any], dtype: Any, device: str = "cpu",
    manner: str = "plain", reuse: dict[int, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return y and its gradients, as far as there are any, in float64; g for y is sent last.

    Args:
        run: f(x, w, b) or f(x).
        sent: arrays, None where an argument is None.
        dtype: in which it runs.
        device: where.
        manner: how it is called, see the prover; "frozen x" leaves a gradient out.
        reuse: tensors of the plain trial, filled anew in place where the manner says so.
    """
    *leaves, g = [v if v is None else torch.as_tensor(v).to(device, dtype) for v in sent]
    reuse = {} if reuse is None else reuse
    if manner == "refilled":
        with torch.no_grad():
            leaves = [v if v is None else reuse[i].copy_(v) for i, v in enumerate(leaves)]
    frozen = "xwb".find(manner[7:]) if manner.startswith("frozen") else -1
    for place, leaf in enumerate(leaves):
        if leaf is not None:
            leaf.requires_grad_(place != frozen)
            reuse[place] = leaf
    x: Any = leaves[0]  # never None
    called = [x * 1 if manner == "inner" else x, *leaves[1:]]
    y = run(*called)
    wanted = {
        QUANTITIES[1 + place]: leaf
        for place, leaf in enumerate(leaves)
        if leaf is not None and leaf.requires_grad
    }
    grads: Any = [None] * len(wanted)
    if y.requires_grad and manner == "backward":
        y.backward(g)
        grads = [leaf.grad for leaf in wanted.values()]
        for leaf in wanted.values():
            leaf.grad = None
    elif y.requires_grad:
        for left in range(2 if manner == "again" else 1, 0, -1):
            grads = torch.autograd.grad(
                y, list(wanted.values()), g, allow_unused=True, retain_graph=left > 1
            )
    found = {"y": y, **dict(zip(wanted, grads, strict=True))}
    return {
        name: value.detach().to_dense().double().cpu().numpy()
        for name, value in found.items()
        if getattr(value, "dtype", None) == dtype
    }


# -- again: what comes out when both sides are run again? ------------------------------------------


def again(record: dict[str, Any], path: str, trust: Collection[str]) -> tuple[list[str], list[str]]:
    """Return what the record says and a second run does not, and what no second run can say."""
    spec, linear = record["spec"], record["kind"] in ("linear", "maximum")
    where, dtype = record["device"].split(" (")[0], getattr(torch, record["dtype"])
    runs, label = sides(record, path, where, dtype, trust)
    scale = spec["scale"] if linear else 1
    one, amiss = 1, []
    if not linear and bent(spec):
        one, amiss = beside().edges_held(record, output_size(spec))
    if linear:
        truth, shapes = runs["reference"], [spec["shape"], spec["out"]]
        terms = spec["terms"] * scale
        counts: dict[str, Any] = {}
    else:
        truth, shapes = convolution(spec)
        once, ones = partial(truth, loud=False), [s and np.ones(s) for s in shapes]
        counts = evaluate(once, ones, torch.float64)
        terms = max(1, *(int(v.max()) for v in counts.values())) * one
        if one > 1:  # a share rounds as it is taken, and once more where shares are added
            counts = {name: n + 2 * (name != "grad_b") for name, n in counts.items()}
    probe = torch.float64 if dtype.itemsize == 2 or one > 1 else dtype
    wrong, a, trials = drawn_as(record, label, terms, probe, linear)
    wrong += promised(record, truth, dtype, where) if linear else amiss
    exact_in = probe if linear else torch.float64
    kept: dict[str, dict[int, Any]] = {"candidate": {}, "reference": {}}
    for trial, child in enumerate(np.random.SeedSequence(record["seed"]).spawn(trials)):
        draw, (x, w, g) = np.random.Generator(np.random.Philox(child)).integers, POWERS[trial % 6]
        by = (x, g) if linear else (x, w, x + w, g)
        sent = [
            s and draw(-a, a, s, endpoint=True, dtype=np.int64) * scale * 2.0**power
            for s, power in zip(shapes, by, strict=True)
        ]
        exact = evaluate(truth, sent, exact_in, where if linear else "cpu")
        if record["kind"] == "maximum" and np.unique(sent[0]).size < sent[0].size:
            del exact["grad_x"]  # between equal numbers either choice is right
        for name, manner in calls(trial, sent, linear):
            found = evaluate(runs[name], sent, probe, where, manner, kept[name])
            for quantity, want in exact.items():
                if quantity == f"grad_{manner[7:]}" and manner.startswith("frozen"):
                    continue
                if not np.array_equal(want, found.get(quantity, ())):
                    seen = {"side": name, "quantity": quantity}
                    seen |= {"manner": manner} if manner != "plain" else {}
                    return wrong + differs(record, seen, found, exact), []
    wrong += rounding(record, runs, truth, shapes, counts, dtype, where)
    if record["verdict"] == "refuted" and not wrong:
        return shown_otherwise(record, runs, shapes, truth, dtype, where)
    return wrong, []


def sides(
    record: dict[str, Any], path: str, where: str, dtype: Any, trust: Collection[str]
) -> tuple[dict[str, Any], str]:
    """Return both sides as functions of images, and the name that the candidate goes by."""
    runs: dict[str, Any] = {}
    label = ""
    for name in ("reference", "candidate"):
        side, how = resolve(record[name], trust), record["adapter"][name]
        module = hasattr(side, "to")
        if module:
            side = side.get_submodule(path).to(where, dtype)
        runs[name] = side if how == "function" else resolve(how, trust)(side, record["spec"])
        label = repr(side) if module else record["candidate"]
    return runs, f"{path}: {label}" if path else label


def drawn_as(
    record: dict[str, Any], label: str, terms: int, dtype: Any, linear: bool
) -> tuple[list[str], int, int]:
    """Return what is wrong with the figures of the draws, the largest draw and the trials."""
    room = 2 ** (24 if dtype == torch.float32 else 53) // terms
    room = min(room if linear else math.isqrt(room), 2**31 - 1)
    smaller = record["trace"] and not linear  # S1 may ask for smaller draws
    a = min(room, record["a"] or 1) if smaller else room
    chance = math.log2((2 * a + 1) / 2)
    trials = max(1, math.ceil(-math.log2(record["epsilon"]) / chance))
    says = {"name": label, "a": a, "trials": trials}
    says["log2_epsilon"] = trials * math.log2(2 / (2 * a + 1))
    wrong = [
        f"{name}: {record[name]} is recorded; {value} {FROM}"
        for name, value in says.items()
        if value != record[name]
    ]
    return wrong, a, trials


def promised(record: dict[str, Any], truth: Any, dtype: Any, where: str) -> list[str]:
    """Return what is wrong with the terms and the scale of an operator without parameters.

    Where S1 followed it, it counted the terms, and the prover has to do so again; elsewhere all
    entries of one image may add up.
    """
    spec = record["spec"]
    draw = np.random.default_rng(0).integers
    sent = [draw(0, 9, shape) * spec["scale"] for shape in (spec["shape"], spec["out"])]
    made = evaluate(truth, sent, dtype, where)
    most = 1 if record["trace"] else max(value[0].size for value in made.values())
    if spec["terms"] < most or any((value % 1).any() for value in made.values()):
        return ["spec: more terms, or a scale that leaves fractions"]
    return []


def calls(trial: int, sent: list[Any], linear: bool) -> Iterator[tuple[str, str]]:
    """Yield who is called in one trial, and how; the candidate first, as the prover does."""
    if not trial and not linear:
        for name, value in zip("xwb", sent[:-1], strict=True):
            if value is not None:
                yield "candidate", f"frozen {name}"
    yield "candidate", MANNERS[trial % len(MANNERS)]
    yield "reference", "plain"


def differs(
    record: dict[str, Any], seen: dict[str, Any], found: dict[str, Any], exact: dict[str, Any]
) -> list[str]:
    """Return what is wrong with a record where an integer differs: nothing, if it says so."""
    shown = record["counterexample"]
    at = tuple(shown.get("index", ()))
    if at:
        seen["found"] = float(found[seen["quantity"]][at])
        seen["expected"] = float(exact[seen["quantity"]][at])
        if seen["found"] == seen["expected"]:
            seen["quantity"] = None
    if record["verdict"] == "refuted" and (not shown or shown | seen == shown):
        return []
    text = f"not that the {seen['side']}'s {seen['quantity']} differs; it {FROM}"
    return [f"verdict, counterexample: {text}"]


def rounding(
    record: dict[str, Any], runs: dict[str, Any], truth: Any, shapes: list[Any],
    counts: dict[str, Any], dtype: Any, where: str,
) -> list[str]:  # fmt: skip
    """Return what the record says of real numbers and a second run does not."""
    linear = record["kind"] in ("linear", "maximum")
    generator = np.random.Generator(np.random.Philox(record["seed"]))
    largest = min(20, int(np.log2(torch.finfo(dtype).max)) // 6)
    rho: dict[str, float] = {}
    slack = 9
    for spread in (0, largest):
        real: list[torch.Tensor | None] = []
        for shape in shapes:
            if shape is None:
                real.append(None)
                continue
            value = generator.standard_normal(shape)
            if spread:
                value *= 2.0 ** generator.integers(-spread, spread, size=shape, endpoint=True)
            real.append(torch.from_numpy(value).to(dtype))
        one, two = (evaluate(runs[name], real, dtype, where) for name in ("candidate", "reference"))
        sizes = evaluate(
            truth, [v if v is None else v.abs() for v in real], dtype if linear else torch.float64
        )
        for name, size in sizes.items():
            n = record["spec"]["terms"] if linear else counts[name]
            if linear and (size < np.abs(two[name])).any():  # entries of both signs: no |L| |x|
                continue
            slack = max(slack, int(np.max(n)) + 9)
            limit = bound(n, size, dtype)
            gap = np.abs(one[name] - two[name]) / np.maximum(limit, 2.0**-1074)
            rho[name] = max(rho.get(name, 0.0), float(gap.max(initial=0.0)))
        if max(rho.values(), default=0.0) > 1:
            break
    wrong = []
    facts = next(p["facts"] for p in record["parts"] if p["name"] == "S3 rounding")
    outside = "the reference's own" in facts  # its kernel is what leaves the bound
    for name, value in rho.items():
        said = record["rho"].get(name, np.inf)
        near = 2.0**-10 if linear else slack * 2.0**-51  # |L| |x| was itself rounded
        holds = abs(value - said) <= near * value and (value <= 1 or outside)
        if record["verdict"] == "proven" and not holds:
            wrong.append(f"rho: {name} {said}, but {value} {FROM}")
    return wrong


def bound(n: Any, size: Any, dtype: Any) -> Any:
    """Twice n u times the sum of the products' sizes, n eta, and what a half type rounds once."""
    low, wide = torch.finfo(dtype), torch.finfo(torch.float32 if dtype.itemsize == 2 else dtype)
    error = n * (wide.eps / 2 * size + wide.smallest_normal * wide.eps)
    if low is not wide and low.eps != wide.eps:
        error = error + low.eps / 2 * (size + error) + low.smallest_normal * low.eps
    return 2 * error * (1 + (n + 8) * 2.0**-53)


def shown_otherwise(
    record: dict[str, Any], runs: dict[str, Any], shapes: list[Any], truth: Any, dtype: Any,
    where: str,
) -> tuple[list[str], list[str]]:  # fmt: skip
    """A refutation that integers near zero do not show: by its recorded input, or by the prover."""
    shown = record["counterexample"]
    if "input" not in shown:
        blamed = {part["name"] for part in record["parts"] if part["status"] == "refuted"}
        if "S2 identity" in blamed and shown.get("manner") != "own":
            return ["verdict: not found again"], []
        return [], [f"parts: {', '.join(sorted(blamed))}: the prover alone can run that again"]
    sent = [
        None if shape is None else np.full(shape, shown["input"][name])
        for name, shape in zip("xwbg", shapes, strict=True)
    ]
    found = evaluate(runs["candidate"], sent, dtype, where)
    at, name = tuple(shown["index"]), shown["quantity"]
    if float(found[name][at]) != shown["found"] or shown["found"] == shown["expected"]:
        return [f"verdict, counterexample: {name} is {float(found[name][at])!r} there"], []
    return [], []


if __name__ == "__main__":
    status, lines = verify(Path(sys.argv[1]).read_text(encoding="utf-8"), trust=sys.argv[3:])
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(status)
