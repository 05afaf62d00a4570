"""A second look at a certificate, from its JSON alone, that trusts torch, numpy and integers."""

import hashlib
import importlib
import inspect
import json
import math
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch

FIELDS = """a adapter assumed candidate cause counterexample device digest dtype epsilon excluded
flags kind layers log2_epsilon name not_covered parts reason reference rho rho_exact schema seed
spec trace trials verdict versions"""
ASSUMED = "each side's operators are multilinear in x, w, b and g, vendor's kernels included"
NOT_COVERED = """NaN and infinities\nthe sign of zero and flushing of subnormal numbers
another geometry, batch size, dtype, device, memory layout or choice of kernel than recorded
behaviour that depends on train/eval state, gradient mode or the number of calls""".splitlines()
ONLY = {"network": "only its layers can be run again, not its wiring, operators and bounds"}
RANK = ("refuted", "undecided", "proven", "measured only", "not asked").index  # the weakest first
MODES: Any = {"reflect": "reflect", "replicate": "edge", "circular": "wrap", "zeros": "constant"}
POWERS = ((0, 0, 0), (12, 0, -12), (-12, 12, 0), (0, -12, 12), (12, -12, -12), (-12, 0, 12))
LIMIT, THREADS = (
    2**28,
    1024,
)  # the most numbers of one array, and threads, that a record may ask for
FROM = "follows from spec, dtype, device, seed, epsilon, candidate, reference, adapter"


def verify(text: str, path: str = "", trust: Collection[str] = ()) -> tuple[int, list[str]]:
    """Return 0 proven again, 1 not so or 2 undecided, and lines, each led by its fields.

    Of the code that a record names only what `trust` lists is run, see `resolve`.
    """
    wrong, unsure, verdict = list[str](), list[str](), "undecided"
    try:
        record = json.loads(text)
        odd = sorted({*FIELDS.split()} ^ {*record}) or ["schema"] * (record["schema"] != 3)
        if odd or json.dumps(record, indent=2) != text.strip():  # a field may stand twice
            return 1, [f"{', '.join(odd)}: missing, unknown, not canonical, or not of schema 3"]
        wrong += _form(record)
        unsure, verdict = _elsewhere(record), record["verdict"]
        for at, layer in zip(record["spec"].get("paths", ()), record["layers"], strict=True):
            code, lines = verify(json.dumps(layer, indent=2), at, trust)
            bad = code == 1 and lines != ["the record holds: refuted"]
            (wrong if bad else unsure).extend(f"layers: {at}: {line}" for line in lines)
        if not unsure and verdict != "undecided":
            if not (beyond := _beyond(record)):
                torch.set_num_threads(int(record["flags"]["threads"]))
            wrong += beyond or _again(record, path, trust)
    except ImportError as error:
        unsure.append(f"candidate, reference, adapter: not run ({error})")
    except Exception as error:  # noqa: BLE001  # whatever it is, the record does not run
        wrong.append(f"record: cannot be run, {type(error).__name__}: {error}; it {FROM}")
    right = 2 if unsure else {"proven": 0, "refuted": 1}.get(verdict, 2)
    return 1 if wrong else right, wrong + unsure or [f"the record holds: {verdict}"]


def _form(record: dict[str, Any]) -> list[str]:
    """What is wrong with the record as it stands."""
    rest = {k: v for k, v in record.items() if k != "digest"}
    plain = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    parts = {part["name"]: part["status"] for part in record["parts"]}
    proven, spec, layers = record["verdict"] == "proven", record["spec"], record["layers"]
    kind = "linear" if "terms" in spec else "network" if "images" in spec else "convolution"
    blamed = {part["facts"] for part in record["parts"] if part["status"] == record["verdict"]}
    least = {f"{how} calls its side as it is" for how in record["adapter"].values() if ":" in how}
    known = kind == "network" or (parts.get("S1 premise") == "proven" and record["trace"])
    least |= {told for layer in layers for told in layer["assumed"]} if known else {ASSUMED}
    must = ("S2 identity", "S3 rounding")[: {"network": 0, "linear": 1}.get(kind)] * proven
    weakest = min([*parts.values(), *(one["verdict"] for one in layers)], key=RANK)
    holds = {
        "digest": record["digest"] == hashlib.sha256(plain).hexdigest(),
        "parts": len(parts) == len(record["parts"]) and {*map(parts.get, must)} <= {"proven"},
        "verdict": record["verdict"] == weakest,
        "reason": record["reason"] in ({""} if proven else blamed),
        "cause, counterexample": not proven or not (record["cause"] or record["counterexample"]),
        "assumed": least <= {*record["assumed"]},
        "not_covered": {*NOT_COVERED} <= {*record["not_covered"]},
        "kind, excluded": record["kind"] == kind and (kind == "network" or not record["excluded"]),
        "layers": len(layers) == spec.get("layers", 0),
        "epsilon": all(record[k] >= v[k] for v in layers for k in ("epsilon", "log2_epsilon")),
    }
    return [f"{name}: not as the rest demands" for name, good in holds.items() if not good]


def _elsewhere(record: dict[str, Any]) -> list[str]:
    """What keeps this machine from running the record again."""
    where, kind = record["device"].split(" (")[0], record["kind"]
    made = {"numpy": np.__version__, "torch": torch.__version__, "python": sys.version.split()[0]}
    flags = record["flags"] | {"cpu": torch.backends.cpu.get_cpu_capability()}
    if cuda := torch.device(where).type == "cuda":
        where += f" ({torch.cuda.is_available() and torch.cuda.get_device_name(where)})"
    here = {"device": where, "versions": made, "flags": flags, "kind": ONLY.get(kind, kind)}
    flags |= {} if cuda else {"tf32": f"not applicable on {where}"}
    return [f"{k}: {record[k]} is recorded; here {v}" for k, v in here.items() if v != record[k]]


def _beyond(record: dict[str, Any]) -> list[str]:
    """What asks for more memory or threads than it may, told before any is taken."""
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
    told = f"spec, flags: it asks for more than {LIMIT} numbers at once, or {THREADS} threads"
    return [told] * (not (good and 0 < threads <= THREADS))


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


def _truth(spec: dict[str, Any]) -> tuple[Any, list[Any]]:
    """The direct convolution f(x, w, b) and the shapes of x, w, b and y."""
    groups, turned, images = spec["groups"], spec["transposed"], spec["batch"]
    kernel, steps, gaps, pads = (spec[k] for k in ("kernel_size", "stride", "dilation", "padding"))
    reach = [g * (k - 1) + 1 - a - b for g, k, (a, b) in zip(gaps, kernel, pads, strict=True)]
    axes = [*zip(spec["size"], reach, steps, spec["output_padding"], strict=True)]
    out = [(n - 1) * s + r + o if turned else (n - r) // s + 1 for n, r, s, o in axes]
    near, far = (spec["size"], out) if turned else (out, spec["size"])
    table = 1 + np.arange(images * math.prod(far)).reshape(images, *far)
    table = np.pad(table, [(0, 0), *pads], MODES[spec["padding_mode"]]) - 1  # a pixel, -1 for none
    edges, masks = [], ((spec["source_mask"], spec["size"]), (spec["target_mask"], out))
    sends, hears = (np.array(m or np.ones((images, *n))).ravel() > 0 for m, n in masks)
    for taps in np.ndindex(*kernel):
        cuts = zip(taps, gaps, steps, near, strict=True)
        at = table[:, *(slice(t * g, t * g + s * (m - 1) + 1, s) for t, g, s, m in cuts)].ravel()
        q, p = (np.flatnonzero(at >= 0), at[at >= 0])[:: 1 if turned else -1]
        edges.append([torch.tensor(v[sends[q] & hears[p]]) for v in (q, p)])
    c, o, bias = spec["in_channels"], spec["out_channels"], [spec["out_channels"]] * spec["bias"]
    weight = [c, o // groups, *kernel] if turned else [o, c // groups, *kernel]

    def run(x: Any, w: Any, b: Any) -> Any:
        rows = x.movedim(1, -1).reshape(-1, groups, c // groups).transpose(0, 1)
        taps = w.reshape(groups, w.shape[0] // groups, w.shape[1], -1)
        y = x.new_zeros(groups, hears.size, o // groups)
        for t, (q, p) in enumerate(edges):
            y = y.index_add(1, p, rows[:, q] @ (taps[..., t] if turned else taps[..., t].mT))
        y = y if b is None else y + torch.tensor(hears)[:, None] * b.reshape(groups, 1, -1)
        return y.transpose(0, 1).reshape(images, *out, o).movedim(-1, 1)

    return run, [[images, c, *spec["size"]], weight, bias or None, [images, o, *out]]


def _evaluate(run: Any, sent: list[Any], dtype: Any, device: str = "cpu") -> dict[str, Any]:
    """Return y and its gradients, as far as there are any, in float64; g for y is sent last."""
    *leaves, g = [v if v is None else torch.as_tensor(v).to(device, dtype) for v in sent]
    given = [v.requires_grad_() for v in leaves if v is not None]
    y = run(*leaves)
    more = torch.autograd.grad(y, given, g, allow_unused=True) if y.requires_grad else [None] * 3
    named = zip(("y", "grad_x", "grad_w", "grad_b")[: 1 + len(given)], (y, *more), strict=False)
    return {k: v.data.double().cpu().numpy() for k, v in named if getattr(v, "dtype", 0) == dtype}


def _again(record: dict[str, Any], path: str, trust: Collection[str]) -> list[str]:
    """What the record says and a second run does not."""
    spec, runs, scale = record["spec"], dict[str, Any](), record["spec"].get("scale", 0)
    where, dtype = record["device"].split(" (")[0], getattr(torch, record["dtype"])
    for name in ("reference", "candidate"):
        side, how = resolve(record[name], trust), record["adapter"][name]
        side = side.get_submodule(path).to(where, dtype) if hasattr(side, "to") else side
        runs[name] = side if how == "function" else resolve(how, trust)(side, spec)
    told = f"{path}: " * bool(path) + (repr(side) if hasattr(side, "to") else record["candidate"])
    truth, shapes = (runs["reference"], [spec["shape"], spec["out"]]) if scale else _truth(spec)
    count = {} if scale else _evaluate(truth, [s and np.ones(s) for s in shapes], torch.float64)
    n = max(1, scale * spec.get("terms", 1), *(int(v.max()) for v in count.values()))
    room = 2 ** (24 if dtype == torch.float32 else 53) // n  # S1 may ask for smaller draws
    a = min(room if scale else math.isqrt(room), record["a"] or 1 if record["trace"] else 2**31 - 1)
    r = max(1, math.ceil(-math.log2(record["epsilon"]) / math.log2((2 * a + 1) / 2)))
    says = {"name": told, "a": a, "trials": r, "log2_epsilon": r * math.log2(2 / (2 * a + 1))}
    wrong = [f"{k}: {record[k]} is recorded; {v} {FROM}" for k, v in says.items() if v != record[k]]
    for trial, child in enumerate(np.random.SeedSequence(record["seed"]).spawn(r)):
        draw, (x, w, g) = np.random.Generator(np.random.Philox(child)).integers, POWERS[trial % 6]
        by = [scale] * 2 if scale else [2.0**e for e in (x, w, x + w, g)]
        ends = zip(shapes, by, strict=True)
        sent = [s and draw(-a, a, s, endpoint=True, dtype=np.int64) * e for s, e in ends]
        exact = _evaluate(truth, sent, torch.float64)
        odd = any(v[0].size * scale > n or (v % 1 * scale).any() for v in exact.values())
        wrong += ["spec: more terms, or a scale that leaves fractions"] * odd
        for name, run in [*runs.items()][::-1]:  # the candidate first, as the prover does
            found = _evaluate(run, sent, torch.float64 if dtype.itemsize == 2 else dtype, where)
            for k in (k for k, v in exact.items() if not np.array_equal(v, found.get(k, ()))):
                told, mine = record["counterexample"], {"side": name, "quantity": k}
                at = tuple(told.get("index", ()))
                both = {"found": float(found[k][at]), "expected": float(exact[k][at])} if at else {}
                fits = not told or (told | mine | both == told and len({*both.values()}) != 1)
                line = f"verdict, counterexample: not that the {name}'s {k} differs; it {FROM}"
                return wrong + [line] * (record["verdict"] == "proven" or not fits)
    normal = np.random.Generator(np.random.Philox(record["seed"])).standard_normal
    real = [s and torch.from_numpy(normal(s)).to(dtype) for s in shapes]
    one, two = (_evaluate(run, real, dtype, where) for run in runs.values())
    size = _evaluate(truth, [v if v is None else v.abs() for v in real], torch.float64)
    low, wide = torch.finfo(dtype), torch.finfo(torch.float32 if dtype.itemsize == 2 else dtype)
    for k, m in size.items() if count else ():  # where sums are kept: half types round once more
        bound = count[k] * (wide.eps / 2 * m + wide.smallest_normal * wide.eps)
        half = (low != wide) * (low.eps / 2 * (m + bound) + low.smallest_normal * low.eps)
        bound = 2 * (bound + half) * (1 + (count[k] + 8) * 2.0**-53)
        rho = float((np.abs(one[k] - two[k]) / np.maximum(bound, 2.0**-1074)).max())
        told, near = record["rho"].get(k, np.inf), (n + 9) * 2.0**-51 * rho  # of two sums of n
        wrong += [f"rho: {k} {told}, but {rho} {FROM}"] * (not abs(rho - told) <= near or rho > 1)
    return wrong + ["verdict: not found again"] * (record["verdict"] == "refuted")


if __name__ == "__main__":
    status, lines = verify(Path(sys.argv[1]).read_text(encoding="utf-8"), trust=sys.argv[3:])
    sys.exit(sys.stdout.write("\n".join(lines) + "\n") and status)
