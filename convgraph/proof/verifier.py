"""A second look at a certificate, from its JSON alone: is what it says so, here and now?

Trusts torch, numpy and integers, and runs both sides by name; S0, S1, wiring, wording not again.
"""

import hashlib
import importlib
import inspect
import json
import math
import sys
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
ODD = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
POWERS = ((0, 0, 0), (12, 0, -12), (-12, 12, 0), (0, -12, 12), (12, -12, -12), (-12, 0, 12))
Found = dict[str, Any]
FROM = "follows from spec, dtype, device, seed, epsilon, candidate, reference, adapter"


def verify(text: str) -> tuple[int, list[str]]:
    """Return 0 proven again, 1 not so or 2 undecided, and lines, each led by its fields."""
    wrong, unsure, verdict = list[str](), list[str](), "undecided"
    try:
        record = json.loads(text)
        odd = sorted({*FIELDS.split()} ^ {*record}) or ["schema"] * (record["schema"] != 2)
        if odd or json.dumps(record, indent=2) != text.strip():  # a field may stand twice
            return 1, [f"{', '.join(odd)}: missing, unknown, not canonical, or not of schema 2"]
        wrong += _form(record)
        unsure, verdict = _elsewhere(record), record["verdict"]
        for at, layer in enumerate(record["layers"]):
            code, lines = verify(json.dumps(layer, indent=2))
            (unsure if code == 2 else wrong).extend(f"layers: {at}: {s}" for s in lines if code)
        if not unsure and verdict != "undecided":
            torch.set_num_threads(int(record["flags"]["threads"]))
            wrong += _again(record)
    except ImportError as error:
        unsure.append(f"candidate, reference, adapter: not importable here ({error})")
    except (RuntimeError, *ODD) as error:
        wrong.append(f"record: cannot be run, {type(error).__name__}: {error}; it {FROM}")
    right = 2 if unsure else {"proven": 0, "refuted": 1}.get(verdict, 2)
    return 1 if wrong else right, wrong + unsure or [f"the record holds: {verdict}"]


def _form(record: Found) -> list[str]:
    """What is wrong with the record as it stands."""
    rest = {k: v for k, v in record.items() if k != "digest"}
    plain = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    parts = {part["name"]: part["status"] for part in record["parts"]}
    proven = record["verdict"] == "proven"
    weakest = next((v for v in ("refuted", "undecided", "proven") if v in parts.values()), "")
    blamed = {part["facts"] for part in record["parts"] if part["status"] == record["verdict"]}
    least = {f"{how} calls its side as it is" for how in record["adapter"].values() if ":" in how}
    least |= set() if parts.get("S1 premise") == "proven" and record["trace"] else {ASSUMED}
    done = parts.get("S2 identity") == parts.get("S3 rounding") == "proven"
    holds = {
        "digest": record["digest"] == hashlib.sha256(plain).hexdigest(),
        "parts": len(parts) == len(record["parts"]) and (done or not proven),
        "verdict": record["verdict"] == weakest,
        "reason": record["reason"] in ({""} if proven else blamed),
        "cause, counterexample": not proven or not (record["cause"] or record["counterexample"]),
        "assumed": least <= {*record["assumed"]},
        "not_covered": {*NOT_COVERED} <= {*record["not_covered"]},
        "layers": record["kind"] == "network" or not record["layers"],
        "excluded": record["kind"] == "network" or not record["excluded"],
    }
    return [f"{name}: not as the rest demands" for name, good in holds.items() if not good]


def _elsewhere(record: Found) -> list[str]:
    """What keeps this machine from running the record again."""
    where, flags = record["device"].split(" (")[0], {"cpu": torch.backends.cpu.get_cpu_capability()}
    here: Found = {"kind": "convolution", "device": where, "versions": {"numpy": np.__version__}}
    here["versions"] |= {"torch": torch.__version__, "python": sys.version.split()[0]}
    if torch.device(where).type == "cuda":
        here["device"] += f" ({torch.cuda.is_available() and torch.cuda.get_device_name(where)})"
    else:
        flags["tf32"] = f"not applicable on {where}"
    here["flags"] = record["flags"] | flags
    return [f"{k}: {record[k]} is recorded, {v} is here" for k, v in here.items() if v != record[k]]


def resolve(where: str) -> Any:
    """Import "module:object"; a class, or a function without parameters, is called first."""
    module, _, path = where.partition(":")
    thing: Any = importlib.import_module(module or "?")
    for part in path.split("."):
        if (thing := getattr(thing, part, None)) is None:
            raise ImportError(f"expected module:object, got {where!r}: there is no {part!r}")
    bare = inspect.isfunction(thing) and not inspect.signature(thing).parameters
    return thing() if bare or isinstance(thing, type) else thing


def _truth(spec: Found) -> tuple[Any, list[Any]]:
    """The direct convolution f(x, w, b) and the shapes of x, w, b and y."""
    groups, turned, images = spec["groups"], spec["transposed"], spec["batch"]
    kernel, steps, gaps, pads = (spec[k] for k in ("kernel_size", "stride", "dilation", "padding"))
    reach = [g * (k - 1) + 1 - a - b for g, k, (a, b) in zip(gaps, kernel, pads, strict=True)]
    axes = [*zip(spec["size"], reach, steps, spec["output_padding"], strict=True)]
    out = [(n - 1) * s + r + o if turned else (n - r) // s + 1 for n, r, s, o in axes]
    near, far = (spec["size"], out) if turned else (out, spec["size"])
    modes: Any = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    fold = modes.get(spec["padding_mode"])
    table = np.arange(images * math.prod(far)).reshape(images, *far)
    pads = [(0, 0), *pads]  # each place of the padded table shows a pixel, -1 for none
    table = np.pad(table, pads, fold) if fold else np.pad(table, pads, constant_values=-1)
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


def _evaluate(run: Any, sent: list[Any], dtype: Any, device: str = "cpu") -> Found:
    """Return y and its gradients in float64, empty for none; what comes in for y is sent last."""
    *leaves, g = [v if v is None else torch.as_tensor(v).to(device, dtype) for v in sent]
    given = [v.requires_grad_() for v in leaves if v is not None]
    y = run(*leaves)
    more = torch.autograd.grad(y, given, g, allow_unused=True) if y.requires_grad else [None] * 3
    named = zip(("y", "grad_x", "grad_w", "grad_b")[: 1 + len(given)], (y, *more), strict=False)
    good = {k: v if v is not None and v.dtype == dtype else torch.empty(0) for k, v in named}
    return {k: v.detach().double().cpu().numpy() for k, v in good.items()}


def _again(record: Found) -> list[str]:
    """What the record says and a second run does not."""
    spec, runs, says = record["spec"], dict[str, Any](), dict[str, Any]()
    where, dtype = record["device"].split(" (")[0], getattr(torch, record["dtype"])
    for name in ("reference", "candidate"):
        side, how = resolve(record[name]), record["adapter"][name]
        says["name"] = repr(side) if isinstance(side, torch.nn.Module) else record[name]
        side = side.to(where, dtype) if isinstance(side, torch.nn.Module) else side
        runs[name] = side if how == "function" else resolve(how)(side, spec)
    truth, shapes = _truth(spec)
    count = _evaluate(truth, [s and np.ones(s) for s in shapes], torch.float64)
    n = max(1, *(int(v.max()) for v in count.values()))
    a = min(math.isqrt(2 ** (24 if dtype == torch.float32 else 53) // n), 2**31 - 1)
    a = min(a, max(1, record["a"])) if record["trace"] else a  # S1 may ask for smaller ones
    r = max(1, math.ceil(-math.log2(record["epsilon"]) / math.log2((2 * a + 1) / 2)))
    says |= {"a": a, "trials": r, "log2_epsilon": r * math.log2(2 / (2 * a + 1))}
    wrong = [f"{k}: {record[k]} is recorded; {v} {FROM}" for k, v in says.items() if v != record[k]]
    wide: Any = torch.float64 if dtype.itemsize == 2 else dtype
    for trial, child in enumerate(np.random.SeedSequence(record["seed"]).spawn(r)):
        draw, (x, w, g) = np.random.Generator(np.random.Philox(child)).integers, POWERS[trial % 6]
        ends = zip(shapes, (x, w, x + w, g), strict=True)
        sent = [s and draw(-a, a, s, endpoint=True, dtype=np.int64) * 2.0**e for s, e in ends]
        exact = _evaluate(truth, sent, torch.float64)
        for name in ("candidate", "reference"):
            found = _evaluate(runs[name], sent, wide, where)
            for k in (k for k, v in exact.items() if not np.array_equal(v, found[k])):
                told, mine = record["counterexample"], {"side": name, "quantity": k}
                at = tuple(told.get("index", ()))
                both = {"found": float(found[k][at]), "expected": float(exact[k][at])} if at else {}
                fits = not told or (told | mine | both == told and len({*both.values()}) != 1)
                line = f"verdict, counterexample: not that the {name}'s {k} differs; it {FROM}"
                return wrong + [line] * (record["verdict"] == "proven" or not fits)
    normal = np.random.Generator(np.random.Philox(record["seed"])).standard_normal
    real = [s and torch.from_numpy(normal(s)).to(dtype) for s in shapes]
    one, two = (_evaluate(runs[name], real, dtype, where) for name in ("candidate", "reference"))
    size = _evaluate(truth, [v if v is None else v.abs() for v in real], torch.float64)
    low, wide = torch.finfo(dtype), torch.finfo(torch.float32 if dtype.itemsize == 2 else dtype)
    for k, m in size.items():  # dtype, and where sums are kept: half types round once more
        bound = count[k] * (wide.eps / 2 * m + wide.smallest_normal * wide.eps)
        half = (low != wide) * (low.eps / 2 * (m + bound) + low.smallest_normal * low.eps)
        bound = 2 * (bound + half) * (1 + (count[k] + 8) * 2.0**-53)
        rho = float((np.abs(one[k] - two[k]) / np.maximum(bound, 2.0**-1074)).max())
        told, near = record["rho"].get(k, np.inf), (n + 9) * 2.0**-51 * rho  # of two sums of n
        if not (abs(rho - told) <= near and rho <= 1):
            wrong.append(f"rho: {k} {told} is recorded; {rho} {FROM}")
    return wrong + ["verdict: not found again"] * (record["verdict"] == "refuted")


if __name__ == "__main__":
    status, lines = verify(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.exit(sys.stdout.write("\n".join(lines) + "\n") and status)
