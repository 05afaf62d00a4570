"""A second look at a certificate, from its JSON alone, that trusts torch, numpy and integers.

    form        does the record agree with itself?
    elsewhere   what keeps this machine from running it again?
    truth       the operator, written out once more, and how a side is sent numbers
    again       what comes out when both sides are run again

It imports nothing of the package: read it, and run it alone. Steps are docs/design/theorem.md's.
Spaces and footprints need verifier_spaces.py beside it, and pools verifier_operators.py.

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
from contextlib import suppress
from functools import cache, partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

Json = dict[str, Any]
Run = Callable[..., Any]
SCHEMA = 4
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
    "behaviour that depends on train/eval state, gradient mode, the number of calls, what made the "
    "image or hangs on it, threads, the clock, the environment, garbage collection or global flags "
    "such as autocast",
    "code that notices that it is judged, by the stack, by dispatch modes or by memory that it "
    "reads past torch, and random numbers from a generator of its own",
    "what compilers, exporters and converters make of it",
    "forward mode, vmap, and what happens if an input is changed between forward and backward",
)
NO_SECOND = "gradients of gradients, which were not asked for"
SECOND = "not_covered: first derivatives were found again; the second are the prover's alone"
CODES = {"refuted": 1, "undecided": 2, "proven": 0}
WEAKEST_FIRST = (*CODES, "measured only", "not asked")
KINDS = {  # what tells the kind in a spec, and which parts a proof of it needs
    "convolution": (set(), ("S2 identity", "S3 rounding")),
    "linear": ({"terms"}, ("S2 identity", "S3 rounding")),
    "maximum": ({"terms", "windows"}, ("S1 premise", "S2 identity", "S3 rounding")),
    "network": ({"images"}, ()),
}
MANNERS = ("inner", "refilled", "anew", "again", "backward", "between")  # see `evaluate`
POWERS = ((0, 0, 0), (12, 0, -12), (-12, 12, 0), (0, -12, 12), (12, -12, -12), (-12, 0, 12))
PADS: Json = {"reflect": "reflect", "replicate": "edge", "circular": "wrap", "zeros": "constant"}
LIMIT, THREADS = 2**28, 1024  # the most numbers of one array, and threads, of a record
FROM = "follows from spec, dtype, device, seed, epsilon, candidate, reference, adapter"


def verify(text: str, path: str = "", trust: Collection[str] = ()) -> tuple[int, list[str]]:
    """Return 0 proven again, 1 not so or 2 undecided, and lines, each led by its fields.

    Of the code that a record names only what `trust` lists is run, see `resolve`; `path` is that of
    a layer within the network that the record names.
    """
    try:
        record = json.loads(text)
        form(record, text)
        unsure = elsewhere(record)
        if record["kind"] == "network":
            unsure += of_layers(record, trust)
        elif not unsure and record["verdict"] != "undecided":
            unsure = again(record, path, trust)
    except Refused as error:
        return 1, [*error.args]
    except ImportError as error:
        return 2, [f"candidate, reference, adapter: not run ({error})"]
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  # it does not run
        return 1, [f"record: cannot be run, {type(error).__name__}: {error}; it {FROM}"]
    if unsure:
        return 2, unsure
    return CODES[record["verdict"]], [f"the record holds: {record['verdict']}"]


class Refused(Exception):  # noqa: N818  # of a record that says what is not so
    """What is wrong with a record, a line each."""


def demand(good: bool, *wrong: str) -> None:
    """Refuse a record unless this is so, and say what is wrong."""
    if not good:
        raise Refused(*wrong)


# -- form: does the record agree with itself? ------------------------------------------------------


def form(record: Json, text: str) -> None:
    """Refuse a record that does not agree with itself."""
    odd = {*FIELDS.split()} ^ {*record}
    names = ", ".join(sorted(odd)) or "schema"
    good = json.dumps(record, indent=2) == text.strip()  # a field may stand twice
    good = good and not odd and record["schema"] == SCHEMA
    demand(good, f"{names}: missing, unknown, not canonical, or not of schema {SCHEMA}")
    spec, kind, layers, verdict = (record[n] for n in ("spec", "kind", "layers", "verdict"))
    proven, (marks, demanded) = verdict == "proven", KINDS[kind]
    parts = {part["name"]: part["status"] for part in record["parts"]}
    statuses = [*parts.values(), *(layer["verdict"] for layer in layers)]
    blamed = {part["facts"] for part in record["parts"] if part["status"] == verdict}
    assumed = [text for layer in layers for text in layer["assumed"]]
    assumed += [f"{s} calls its side as it is" for s in record["adapter"].values() if ":" in s]
    if kind != "network" and not (parts.get("S1 premise") == "proven" and record["trace"]):
        assumed.append(ASSUMED)  # section 2
    bounds = [(name, layer) for name in ("epsilon", "log2_epsilon") for layer in layers]
    rest = {name: value for name, value in record.items() if name != "digest"}
    sealed = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    holds = {
        "digest": record["digest"] == hashlib.sha256(sealed.encode()).hexdigest(),
        "parts": len(parts) == len(record["parts"]),
        "parts, S1 to S3": not proven or all(parts.get(n) == "proven" for n in demanded),
        "verdict": verdict == min(statuses, key=WEAKEST_FIRST.index) and verdict in CODES,
        "reason": record["reason"] in ({""} if proven else blamed),
        "cause, counterexample": not proven or not (record["cause"] or record["counterexample"]),
        "assumed, adapter, trace": {*assumed} <= {*record["assumed"]},
        "not_covered": {*NOT_COVERED} <= {*record["not_covered"]},  # section 7
        "kind": {*spec} & {"terms", "windows", "images"} == marks,
        "excluded": kind == "network" or not record["excluded"],
        "dtype": record["dtype"] in ("float64", "float32", "bfloat16", "float16"),
        "layers": len(layers) == spec.get("layers", 0) * (kind == "network"),
        "epsilon, log2_epsilon": all(record[n] >= layer[n] for n, layer in bounds),  # step 6
        f"spec, flags, at most {LIMIT} numbers at once, {THREADS} threads": modest(record),
    }
    wrong = [f"{name}: not as the rest demands" for name, good in holds.items() if not good]
    demand(not wrong, *wrong)


def modest(record: Json) -> bool:
    """Whether it asks for no more numbers and threads than it may, before any is taken."""
    spec, arrays = record["spec"], []
    if "terms" in spec:
        arrays = [spec["shape"], spec["out"]]
    elif "images" not in spec:
        large = [n * s + k * d + more + a + b for n, k, s, d, more, (a, b) in axes(spec)]
        batch, kernel = spec["batch"], spec["kernel_size"]
        channels = [spec["in_channels"], spec["out_channels"]]
        arrays = [[batch, sum(channels), *large], [*channels, *kernel], [batch, *large, *kernel]]
    good = all(min(one) >= 0 and math.prod(one) <= LIMIT for one in arrays)
    return good and 0 < int(record["flags"]["threads"]) <= THREADS


def axes(spec: Json) -> list[Any]:
    """Return the numbers of a convolution axis by axis."""
    names = ("size", "kernel_size", "stride", "dilation", "output_padding", "padding")
    return list(zip(*(spec[name] for name in names), strict=True))


# -- elsewhere: what keeps this machine from running it again? -------------------------------------


def elsewhere(record: Json) -> list[str]:
    """Return what is recorded of the machine and is not so here."""
    where = record["device"].partition(" (")[0]
    device = torch.device(where)
    flags = record["flags"] | {"cpu": torch.backends.cpu.get_cpu_capability()}
    if device.type != "cuda":
        flags["tf32"] = f"not applicable on {where}"
    elif (device.index or 0) < torch.cuda.device_count():
        where += f" ({torch.cuda.get_device_name(device)})"
    python = sys.version.split()[0]
    versions = {"numpy": np.__version__, "torch": torch.__version__, "python": python}
    here = {"device": where, "versions": versions, "flags": flags}
    if record["kind"] == "network":
        here["kind"] = "only its layers can be run again, not its wiring, operators and bounds"
    return otherwise(record, here, "")


def otherwise(record: Json, found: Json, why: str) -> list[str]:
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
        says: what is sent -> y and its gradients, see `evaluate`.
        shapes: of x, w, b if there is one, and g; of an operator without parameters of x and g.
        counts: per quantity how many products each entry adds up, n of step 17.
        a: the largest integers whose sums are exact (step 3).
        probe: the dtype of integers; half types and shares have no room in their own.
        near: how far |L| |x|, which was itself rounded, may be off, relative to itself.
        facts: what S0 has to say of the edges.
    """

    says: Callable[[list[Any]], Json]
    shapes: list[Any]
    counts: Json
    a: int
    probe: Any
    near: float
    facts: str = ""


def truth_of(record: Json, reference: Run) -> Truth:
    """Return the truth of a record: of an operator without parameters what its reference says."""
    dtype = getattr(torch, record["dtype"])
    probe = torch.float64 if dtype.itemsize == 2 else dtype
    spec = record["spec"]
    if record["kind"] != "convolution":
        says = partial(reference, dtype=probe)
        return Truth(says, *beside("operators")["checked"](record, says, probe, demand))
    run, shapes = convolution(spec)
    edges, _ = typed_edges(spec, shapes[-1][2:])
    facts = f"{sum(len(source) for source, _, _ in edges)} typed edges, every one"
    if bent(spec):
        facts += beside("spaces")["locally_square"](spec, shapes[-1][2:], typed_edges)
    ones = [np.ones(shape) for shape in shapes]
    counts = evaluate(partial(run, loud=False), ones, torch.float64)
    terms = max(1, *(int(count.max()) for count in counts.values()))
    if any((share != 1).any() for _, _, share in edges):  # step 17: a share rounds, and once more
        counts = {name: n + 2 * (n > 0) * (name != "grad_b") for name, n in counts.items()}
        probe, terms = torch.float64, terms * 2**16
    a = math.isqrt(int(2 / torch.finfo(probe).eps) // terms)
    if record["trace"]:  # S1 may ask for smaller draws
        a = min(a, record["a"])
    near = (max(int(count.max()) for count in counts.values()) + 9) * 2.0**-51
    return Truth(partial(evaluate, run, dtype=torch.float64), shapes, counts, a, probe, near, facts)


def convolution(spec: Json) -> tuple[Run, list[Any]]:
    """Return the direct convolution f(x, w, b) of section 1, and the shapes of x, w, b and g.

    Edges with shares of their own are as loud as these say or, with loud=False, count once each.
    """
    groups, turned, images = spec["groups"], spec["transposed"], spec["batch"]
    inputs, outputs = spec["in_channels"], spec["out_channels"]
    out = []
    for n, taps, step, gap, more, pads in axes(spec):
        reach = gap * (taps - 1) - sum(pads)
        out.append((n - 1) * step + reach + more + 1 if turned else (n - 1 - reach) // step + 1)
    edges, hears = typed_edges(spec, out)

    def run(x: Any, w: Any, b: Any, *, loud: bool = True) -> Any:
        rows = x.movedim(1, -1).reshape(-1, groups, inputs // groups).transpose(0, 1)
        taps = w.reshape(groups, w.shape[0] // groups, w.shape[1], -1)
        y = x.new_zeros(groups, hears.size, outputs // groups)
        for matrix, (source, target, share) in zip(taps.unbind(-1), edges, strict=True):
            said = rows[:, source] * (share[:, None] if loud else 1)
            y = y.index_add(1, target, said @ (matrix if turned else matrix.mT))
        if b is not None:
            y = y + torch.tensor(hears)[:, None] * b.reshape(groups, 1, -1)
        return y.transpose(0, 1).reshape(images, *out, outputs).movedim(-1, 1)

    weight = [inputs, outputs // groups] if turned else [outputs, inputs // groups]
    shapes = [[images, inputs, *spec["size"]], [*weight, *spec["kernel_size"]]]
    bias = [[outputs]] if spec["bias"] else []
    return run, [*shapes, *bias, [images, outputs, *out]]


def typed_edges(spec: Json, out: list[int]) -> tuple[list[Any], Any]:
    """Return source, target and share of each tap's edges (step 13), and which sites receive."""
    images, turned = spec["batch"], spec["transposed"]
    near, far = (spec["size"], out) if turned else (out, spec["size"])
    behind = np.arange(images)[:, None]
    sends, hears = (
        np.ravel(np.ones((images, *size)) if spec[name] is None else spec[name]) > 0
        for name, size in (("source_mask", spec["size"]), ("target_mask", out))
    )
    edges = []
    for cells, shares in (beside("spaces")["heard"] if bent(spec) else heard)(spec, near, far):
        site, place = np.nonzero(cells >= 0)
        here = (site + behind * math.prod(near)).ravel()
        there = (cells[site, place] + behind * math.prod(far)).ravel()
        source, target = (here, there) if turned else (there, here)
        kept = sends[source] & hears[target]
        share = np.tile(shares[site, place], images)
        edges.append(tuple(torch.tensor(part[kept]) for part in (source, target, share)))
    return edges, hears


def heard(spec: Json, near: list[int], far: list[int]) -> Iterator[tuple[Any, Any]]:
    """Yield per tap which pixel each site of the plane reads, (P, 1), -1 for none, how loud."""
    table = 1 + np.arange(math.prod(far)).reshape(far)
    table = np.pad(table, spec["padding"], PADS[spec["padding_mode"]]) - 1
    for taps in np.ndindex(*spec["kernel_size"]):
        steps = zip(taps, spec["dilation"], spec["stride"], near, strict=True)
        read = np.ix_(*(tap * gap + step * np.arange(n) for tap, gap, step, n in steps))
        yield table[read].reshape(-1, 1), np.ones((table[read].size, 1))


def bent(spec: Json) -> bool:
    """Whether taps land elsewhere than in the plane, or some are not there."""
    return spec.get("space") is not None or spec.get("footprint") is not None


@cache
def beside(name: str) -> Json:
    """What other records than a plane's convolutions need, in files of their own beside this."""
    path = Path(__file__).with_name(f"verifier_{name}.py")
    if not path.is_file():
        raise ImportError(f"such a record needs {path.name} beside this file")
    return runpy.run_path(str(path))


def evaluate(
    run: Run, sent: Any, dtype: Any, device: str = "cpu", manner: str = "plain", reuse: Any = None
) -> Json:
    """Return y and its gradients, as far as there are any, in float64; g for y is sent last.

    Nothing if y is no dense tensor like g, or if an image that is no leaf was written to. A side
    is called plainly; with views ("inner") or copies ("anew") that are no leaves; with tensors of
    the plain call, `reuse`, whose graph stays, filled anew ("refilled"); with tensors written to
    and a graph walked twice ("again"); with parameters to whose .grad `backward` adds; with another
    call before its backward ("between"); or with some that need no gradient ("frozen x, w").
    """
    if manner == "inner":
        with suppress(Exception):  # of another layout nothing is said
            return evaluate(run, sent, dtype, device, "viewed")
        manner = "anew"
    *leaves, g = [torch.as_tensor(value).to(device, dtype, copy=True) for value in sent]
    if manner == "refilled" and reuse:
        for old, new in zip(reuse, leaves, strict=True):
            old.data.copy_(new)  # no version tells of it
        leaves = [*reuse]
    if manner == "plain" and reuse is not None:
        reuse[:] = leaves
    if manner == "again":
        torch.autograd.graph.increment_version((*leaves, g))
    if manner == "backward":
        leaves = [torch.nn.Parameter(leaf) for leaf in leaves]
        for leaf in leaves:
            leaf.grad = torch.zeros_like(leaf)
    named = {f"grad_{name}": leaf for name, leaf in zip("xwb", leaves, strict=False)}
    frozen = manner.partition("frozen ")[2]
    wanted = {name: leaf.requires_grad_() for name, leaf in named.items() if name[-1] not in frozen}
    view = {"viewed": lambda t: torch.stack([t, t], -1)[..., 1], "anew": torch.clone}.get(manner)
    x, *others, g = [view(t) if view else t for t in (*leaves, g)]
    without = [None] if len(others) == 1 else []  # a bias
    y = run(x, *others, *without)
    if manner == "between":
        run(*(torch.ones_like(leaf).requires_grad_() for leaf in leaves), *without)
    if getattr(y, "layout", None) != torch.strided or y.shape != g.shape or (view and x._version):
        return {}
    grads: Any = []
    if y.requires_grad and manner == "backward":
        y.backward(g)
        grads = [leaf.grad for leaf in leaves]
    elif y.requires_grad and wanted:
        for more in (True, False) if manner == "again" else (manner == "plain",):
            grads = torch.autograd.grad(y, [*wanted.values()], g, more, allow_unused=True)
    return {
        name: value.detach().to_dense().double().cpu().numpy()
        for name, value in [("y", y), *zip(wanted, grads, strict=False)]
        if getattr(value, "dtype", None) == dtype
    }


def manners_of(sent: int) -> list[str]:
    """Return how a side of so many tensors is called beside plainly."""
    sets = [some for n in range(sent) for some in combinations("xwb"[:sent], n + 1)]
    return [*MANNERS, *(f"frozen {', '.join(some)}" for some in sets)]


# -- again: what comes out when both sides are run again? ------------------------------------------


def again(record: Json, path: str, trust: Collection[str]) -> list[str]:
    """Refuse a record that says what a second run does not; return what no second run can say."""
    torch.set_num_threads(int(record["flags"]["threads"]))
    runs, name = sides(record, path, trust)
    truth = truth_of(record, runs["reference"])
    trials = budget(record, truth.a, name)
    status = {part["name"]: part["status"] for part in record["parts"]}
    refuting = sorted(name for name in status if status[name] == "refuted")
    shown, how = record["counterexample"], record["adapter"]["candidate"]
    own = shown.get("manner") == "own" and how != "function"  # parameters, or second derivatives
    own |= shown.get("quantity") in ("double_x", "double_w", "double_g")
    found = "S2 identity" in refuting and not own  # again: a number that refutes is enough
    if found:
        found = refutation(record, runs, truth)
    elif "proven" in (status.get("S1 premise"), status.get("S2 identity")):
        identity(record, runs, truth, trials)
    if status.get("S3 rounding") in ("proven", "refuted"):
        found |= rounding(record, runs, truth, status["S3 rounding"])
    listed = {part["facts"] for part in record["parts"] if "typed edges" in part["facts"]}
    demand(listed <= {truth.facts}, f"parts: S0 structure: {truth.facts}; it {FROM}")
    if refuting:
        return [] if found else [f"parts: {', '.join(refuting)}: the prover alone can run it"]
    return [] if NO_SECOND in record["not_covered"] else [SECOND]


def of_layers(record: Json, trust: Collection[str]) -> list[str]:
    """Refuse a network for one of its layers; return what is open: step 22 is the prover's."""
    unsure = list[str]()
    for path, layer in zip(record["spec"].get("paths", ()), record["layers"], strict=True):
        code, said = verify(json.dumps(layer, indent=2), path, trust)
        lines = [f"layers: {path}: {line}" for line in said]
        demand(code != 1 or said == ["the record holds: refuted"], *lines)
        unsure += lines
    return unsure


def sides(record: Json, path: str, trust: Collection[str]) -> tuple[dict[str, Run], str]:
    """Return both sides as `evaluate` calls them, and the name that the candidate goes by."""
    where, dtype = record["device"].split(" (")[0], getattr(torch, record["dtype"])
    runs: dict[str, Run] = {}
    for name in ("reference", "candidate"):
        torch.manual_seed(0)  # what its module draws when it is imported here
        side, how, label = resolve(record[name], trust), record["adapter"][name], record[name]
        if hasattr(side, "to"):
            side = side.get_submodule(path).to(where, dtype)
            label = repr(side)
        run = side if how == "function" else resolve(how, trust)(side, record["spec"])
        runs[name] = partial(evaluate, run, device=where, reuse=[])
    return runs, f"{path}: {label}" if path else label


def resolve(where: str, trust: Collection[str]) -> Any:
    """Import "module:object": a torch Module, a class of one, or a function of that module.

    A class or a bare function is called, f(g) with g. `trust`: modules, and names that may be f.
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


def budget(record: Json, a: int, name: str) -> int:
    """Return the number of trials, and refuse other figures than follow: step 7."""
    a = min(a, 2**31 - 1)
    demand(a >= 1, "spec, a: no integers are left to draw")
    trials = max(1, math.ceil(-math.log2(record["epsilon"]) / math.log2((2 * a + 1) / 2)))
    log2 = trials * math.log2(2 / (2 * a + 1))
    says = {"name": name, "a": a, "trials": trials, "log2_epsilon": log2}
    wrong = otherwise(record, says, f", which {FROM}")
    demand(not wrong, *wrong)
    return trials


def called(
    record: Json, runs: dict[str, Run], truth: Truth, trial: int, calls: list[tuple[str, str]]
) -> Iterator[Any]:
    """Call sides on the integers of a trial (steps 8 to 10), and hold them to what is true.

    Yields side, manner, quantity, what came, what is true, and where it is wrong. A gradient at
    ties (step 11d), or of what is frozen, is free.
    """
    sent = drawn(record, truth.shapes, trial)
    exact = truth.says(sent)
    heard = exact["y"][np.broadcast_to(truth.counts["y"], exact["y"].shape) > 0]
    some = 2 * np.count_nonzero(heard) >= max(1, heard.size)
    demand(some, "spec: there is nothing to compare, or most of it is zero")
    for side, manner in calls:
        found = runs[side](sent, truth.probe, manner=manner)
        for name, want in exact.items():
            have = found[name] if name in found else np.full(want.shape, None)
            wrong = (have != want) & (name[-1] not in manner.partition("frozen ")[2])
            if record["kind"] == "maximum":
                wrong &= ~beside("operators")["either"](record, name, sent[0])
            yield side, manner, name, have, want, wrong


def identity(record: Json, runs: dict[str, Run], truth: Truth, trials: int) -> None:
    """Refuse a record if a side says else than the truth on integers."""
    manners = manners_of(len(truth.shapes) - 1)
    for trial in range(trials):
        mine = [*manners[trial % len(manners) :: trials], "plain"]
        calls = [*(("candidate", manner) for manner in mine), ("reference", "plain")]
        for side, manner, name, _, _, wrong in called(record, runs, truth, trial, calls):
            demand(not wrong.any(), f"verdict: the {side}'s {name} differs, {manner}; it {FROM}")


def refutation(record: Json, runs: dict[str, Run], truth: Truth) -> bool:
    """Refuse a number that does not come again; return whether no rounding explains it."""
    shown = {"manner": "plain", **record["counterexample"]}
    side, trial, manner = shown["side"], shown["trial"], shown["manner"]
    if manner == "refilled":
        list(called(record, runs, truth, max(trial - 1, 0), [(side, "plain")]))
    calls = called(record, runs, truth, trial, [(side, manner)])
    have, want, wrong = {name: found for _, _, name, *found in calls}[shown["quantity"]]
    at = tuple(shown["index"] if "index" in shown else shown["at"])
    good = wrong[at] and want[at] == shown["expected"] and str(have[at]) == str(shown.get("found"))
    good = good and manner in ("plain", *manners_of(len(truth.shapes) - 1))
    demand(good, f"verdict, counterexample: not found again; it {FROM}")
    name, sent = shown["quantity"], drawn(record, truth.shapes, trial)
    if record["kind"] == "convolution":
        n, size = truth.counts[name], truth.says([np.abs(value) for value in sent])[name]
    else:
        n, size = beside("operators")["added_up"](record, truth.says, sent, name, at)
    return have[at] is None or not (abs(have - want) <= bound(n, size, truth.probe))[at]


def drawn(record: Json, shapes: list[Any], trial: int) -> list[Any]:
    """Return what is sent in a trial: integers (step 8) times powers of two of their own."""
    a, scale = record["a"], record["spec"].get("scale", 1)
    seed = np.random.SeedSequence(record["seed"], spawn_key=(trial,))
    draw = np.random.Generator(np.random.Philox(seed)).integers
    x, w, g = POWERS[trial % len(POWERS)]
    powers = [*(x, w, x + w)[: len(shapes) - 1], g]
    return [
        draw(-a, a, shape, endpoint=True, dtype=np.int64) * scale * 2.0**power
        for shape, power in zip(shapes, powers, strict=True)
    ]


def rounding(record: Json, runs: Json, truth: Truth, status: str = "proven") -> bool:
    """Refuse real numbers that leave their bound (steps 17 to 21), or say that one refutes."""
    dtype, whole = getattr(torch, record["dtype"]), record["kind"] == "convolution"
    generator = np.random.Generator(np.random.Philox(record["seed"]))
    rho, left = dict[str, float](), False
    for spread in (0, min(20, int(np.log2(torch.finfo(dtype).max)) // 6)):
        real = []
        for shape in truth.shapes:
            value = generator.standard_normal(shape)
            value *= 2.0 ** generator.integers(-spread, spread, size=shape, endpoint=True)
            real.append(torch.tensor(value, dtype=dtype).double().numpy())
        sizes, exact = truth.says([np.abs(value) for value in real]), truth.says(real)
        one, two = (runs[name](real, dtype) for name in ("candidate", "reference"))
        for name, true in exact.items():
            have, want = one[name], two[name]
            if whole:
                limit = bound(truth.counts[name], sizes[name], dtype)
                off, ratio = ~(abs(have - true) <= limit), (abs(have - want) / limit).max(initial=0)
            else:
                how = (record, truth, real, name, have, want, true, bound, dtype)
                off, ratio, limit = beside("operators")["off"](*how)
            left |= bool((off & (abs(want - true) <= limit) & ~np.isinf(have)).any())
            good = status == "refuted" or (~off & np.isfinite(limit)).all()
            demand(good, f"rho: {name} leaves its bound, or n u >= 1; it {FROM}")
            if ratio is not None:
                rho[name] = float(np.maximum(rho.get(name, 0.0), ratio))  # NaN stays NaN
    if status == "proven":
        demand({*record["rho"]} <= {*exact}, f"rho: of more than {', '.join(exact)}")
        for name, value in rho.items():
            said = record["rho"].get(name, np.inf)
            good = abs(value - said) <= truth.near * value and (whole or said <= 1)
            demand(good, f"rho: {name} {said}, but {value} {FROM}")
    return left


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
    sys.stdout.write("".join(f"{ascii(line)[1:-1]}\n" for line in said))
    sys.exit(status)
