"""The judge of a plan: is an image cut into parts the same sum as the whole? Integers, at any size.

A plan claims, for every part and axis, which positions of every value are there and which of
them each output reads through each tap. It is right if, along every axis,

    every output lies in exactly one part,
    what each output of each operator reads is what the operator's definition says, all of it,
    and every position that is read is there;

with a mask, every position stands for the pixels that the rule of masks gives it.

Operators are separable, so their axes can be judged one by one. The definitions are written here a
second time, from the operators' arguments as torch names them; nothing of the planner is imported.
A plan may be right and its arithmetic wrong: values are compared elsewhere.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from convgraph.errors import ProofError
from convgraph.proof.equation import in_space
from convgraph.proof.equation.in_space import Operator
from convgraph.proof.placed_maps import Mask, PlacedMap, placed_maps, stood
from convgraph.proof.record import sealed

Table = Any  # (outputs, taps) int64, -1 where nothing is


@dataclass(frozen=True)
class AxisPart:
    """One part along one axis.

    Attributes:
        out: positions of the output that are this part's.
        have: positions of each value that are there.
        reads: result of an operator -> (positions, taps) places among those of its source; -1.
        stands: with a mask, value -> (positions, 2) first pixel and end that a position stands for:
            0, 0 for none, -2, -2 for all; of cells of a space (positions, 4).
    """

    out: Any
    have: Mapping[int, Any]
    reads: Mapping[int, Table]
    stands: Mapping[int, Table] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A plan as integers: operators in order, and the parts along each axis; 0 is the image.

    `given` are maps that are there whole, as the image is, with their sizes; `mask` says which
    pixels of the image are there, None for all.
    """

    operators: tuple[Operator, ...]
    size: tuple[int, ...]
    out: int
    out_size: tuple[int, ...]
    axes: tuple[tuple[AxisPart, ...], ...]
    given: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    mask: Mask | None = None


@dataclass(frozen=True)
class PlanCertificate:
    """What a judge found.

    Attributes:
        verdict: "proven" or "refuted".
        operators: how many were compared with their definition.
        parts: parts along each axis.
        edges: axis edges compared.
        size: of the image (pixels).
        faults: what is wrong, the first of each operator.
        claims: what was judged, as plain data: operators, the positions of every value that each
            part holds as runs [first, last], and the SHA-256 of all that the parts read.
    """

    verdict: str
    operators: int
    parts: tuple[int, ...]
    edges: int
    size: tuple[int, ...]
    faults: tuple[str, ...] = field(default=())
    claims: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)

    def to_json(self, path: str | Path | None = None) -> str:
        """Return the record as JSON and, with a path, write it there too.

        `convgraph verify` and `convgraph.proof.again.verify` judge it anew, from its text alone.
        """
        return sealed.write("plan", asdict(self), path)

    @classmethod
    def from_json(cls, text: str) -> "PlanCertificate":
        """The way back from `to_json`.

        Raises:
            ProofError: the text is no record of a plan; the error names the field.
        """
        names = tuple(one.name for one in fields(cls))
        return cls.from_fields(sealed.read(text, "plan", names))

    @classmethod
    def from_fields(cls, found: Any) -> "PlanCertificate":
        """Return a certificate of plain values, each of its type.

        Raises:
            ProofError: a field is of another type, or its values say what cannot be.
        """
        if not isinstance(found, dict) or set(found) != {one.name for one in fields(cls)}:
            raise ProofError("expected the record of a plan: an object of its fields")
        fits = {
            "verdict": found["verdict"] in ("proven", "refuted"),
            "operators": sealed.whole(found["operators"]),
            "parts": sealed.wholes(found["parts"]),
            "edges": sealed.whole(found["edges"]),
            "size": sealed.wholes(found["size"]),
            "faults": sealed.listed(found["faults"], str),
            "claims": sealed.listed(found["claims"], dict),
        }
        sealed.check("a plan", fits)
        listed = {name: tuple(found[name]) for name in ("parts", "size", "faults", "claims")}
        return cls(**{**found, **listed})

    def __str__(self) -> str:
        """Return a line, and one more a fault."""
        head = (
            f"{self.verdict}: {' x '.join(map(str, self.parts))} parts of an image of "
            f"{' x '.join(map(str, self.size))}, "
            f"{self.operators} operators, {self.edges} axis edges"
        )
        return "\n".join([head, *(f"  {fault}" for fault in self.faults)])


def judge_plan(claim: Claim) -> PlanCertificate:
    """Judge a plan.

    Args:
        claim: what it says.

    Raises:
        ProofError: an operator whose definition the judge does not know.
    """
    faults: list[str] = []
    edges = 0
    heard = sha256()
    lies = {} if claim.mask is None else placed_maps(claim.operators, claim.mask)
    for axis, parts in enumerate(claim.axes):
        faults += _covered(claim, axis)
        for number, part in enumerate(parts):
            where = f"part {number} of axis {axis}"
            found, count = _part(claim, axis, part, where, heard)
            faults += found + [f"{where}: {one}" for one in _stands(claim, lies, axis, part, heard)]
            edges += count
    verdict = "refuted" if faults else "proven"
    named = sum(bool(one.name) for one in claim.operators if one.result not in claim.given)
    parts_of = tuple(len(parts) for parts in claim.axes)
    said = (recorded(claim, heard.hexdigest()),)
    return PlanCertificate(verdict, named, parts_of, edges, claim.size, tuple(faults[:20]), said)


def judge_plans(claims: Sequence[Claim]) -> PlanCertificate:
    """Judge several plans as one: what each operator of a network claims by itself.

    Args:
        claims: in order; the first reads the image.
    """
    each = [judge_plan(one) for one in claims]
    faults = tuple(fault for one in each for fault in one.faults)[:20]
    return PlanCertificate(
        "refuted" if faults else "proven",
        sum(one.operators for one in each),
        each[0].parts if each else (),
        sum(one.edges for one in each),
        each[0].size if each else (),
        faults,
        tuple(said for one in each for said in one.claims),
    )


def _covered(claim: Claim, axis: int) -> list[str]:
    n = claim.out_size[axis]
    count = np.zeros(n + 1, np.int64)
    for part in claim.axes[axis]:
        inside = (part.out >= 0) & (part.out < n)
        np.add.at(count, np.where(inside, part.out, n), 1)
    if count[n] or (count[:n] != 1).any():
        wrong = int(np.flatnonzero(np.append(count[:n] != 1, count[n] > 0))[0])
        return [f"axis {axis}: output {wrong} lies in {int(count[wrong])} parts instead of one"]
    return []


def _part(claim: Claim, axis: int, part: AxisPart, where: str, heard: Any) -> tuple[list[str], int]:
    faults: list[str] = []
    edges = 0
    there = {0: claim.size, **claim.given}
    made = set(there)
    for value, size in there.items():
        if value in part.have and _outside(part.have[value], size[axis]):
            faults.append(f"{where}: reads positions that value {value} does not have")
    for operator in claim.operators:
        if operator.result not in part.have or operator.result in there:
            continue
        mine = part.have[operator.result]
        if lost := [s for s in operator.sources if s not in made or s not in part.have]:
            faults.append(f"{where}: {operator.title} reads value {lost[0]}, which is not there")
            continue
        made.add(operator.result)
        if _outside(mine, operator.out[axis]):
            faults.append(f"{where}: {operator.title} makes positions that its map does not have")
            continue
        if not operator.name:
            for source in operator.sources:
                if operator.size[axis] > 1 and not np.isin(mine, part.have[source]).all():
                    faults.append(f"{where}: {operator.title} reads positions that are not there")
            continue
        if "space" in operator.arguments:
            found, count = _in_space(operator, part, heard)
            faults += [f"{where}: {one}" for one in found]
            edges += count
            continue
        want = definition(operator, axis)[mine]
        places, have = part.reads[operator.result], part.have[operator.sources[0]]
        edges += int((want >= 0).sum())
        if places.shape != want.shape or (places >= len(have)).any():
            faults.append(f"{where}: {operator.title} reads places that are not there")
            continue
        got = np.where(places >= 0, have[np.maximum(places, 0)] if len(have) else -1, -1)
        heard.update(np.ascontiguousarray(got, "<i8").tobytes())
        if (wrong := got != want).any():
            row, tap = map(int, np.argwhere(wrong)[0])
            faults.append(
                f"{where}: output {int(mine[row])} of {operator.title} reads "
                f"{_said(got[row, tap])} through tap {tap}, "
                f"its definition says {_said(want[row, tap])}"
            )
    if claim.out not in made or not np.array_equal(part.have.get(claim.out, ()), part.out):
        faults.append(f"{where}: does not make the outputs that are its own")
    return faults, edges


def _stands(
    claim: Claim, lies: Mapping[int, PlacedMap], axis: int, part: AxisPart, heard: Any
) -> list[str]:
    """What is wrong with the pixels that positions stand for under a mask."""
    faults = []
    title = {0: "the image", **{one.result: one.title for one in claim.operators}}
    for value in sorted(lies.keys() & part.have.keys()):
        want = stood(lies[value], len(claim.axes), axis, part.have[value])
        got = np.asarray(part.stands.get(value, ()))
        heard.update(np.ascontiguousarray(got, "<i8").tobytes())
        if got.shape != want.shape:
            faults.append(f"{title[value]} does not say which pixels its positions stand for")
        elif (wrong := (got != want).any(1)).any():
            k = int(np.flatnonzero(wrong)[0])
            faults.append(
                f"position {int(part.have[value][k])} of {title[value]} stands for pixels "
                f"{got[k].tolist()}, the rule of masks says {want[k].tolist()}"
            )
    return faults


def _in_space(operator: Operator, part: AxisPart, heard: Any) -> tuple[list[str], int]:
    """Compare the edges of an operator in a space with the judge's own."""
    mine, have = part.have[operator.result], part.have[operator.sources[0]]
    places, weights = part.reads[operator.result]
    want = in_space.edges(operator, mine)
    if (places >= len(have)).any():
        return [f"{operator.title} reads places that are not there"], len(want)
    row, tap, k = np.nonzero(places >= 0)
    units = np.ones(len(row)) if weights is None else weights[row, tap, k]
    whole = np.rint(units * in_space.ONE).astype(np.int64)
    got = in_space.in_order(mine[row], tap, have[places[row, tap, k]], whole)
    heard.update(np.ascontiguousarray(got, "<i8").tobytes())
    if got.shape == want.shape and (got == want).all():
        return [], len(want)
    p, t, q, _ = min(set(map(tuple, got.tolist())) ^ set(map(tuple, want.tolist())))
    said = f"{operator.title}: cell {p} hears cell {q} through tap {t} otherwise than it should"
    return [said], len(want)


def recorded(claim: Claim, heard: str) -> dict[str, Any]:
    """Return a claim as plain data.

    Args:
        claim: what a plan says.
        heard: SHA-256 of the positions that its parts read, -1 for none, as int64 in order of axes,
            parts and operators; behind those of a part what the positions of its values stand for.
    """
    masked = {} if claim.mask is None else {"mask": claim.mask.to_fields()}
    return masked | {
        "operators": [_plain(asdict(one)) for one in claim.operators],
        "size": _plain(claim.size),
        "out": claim.out,
        "out_size": _plain(claim.out_size),
        "given": {str(value): _plain(size) for value, size in claim.given.items()},
        "axes": [
            [
                {
                    "out": _runs(part.out),
                    "have": {str(value): _runs(found) for value, found in part.have.items()},
                }
                for part in parts
            ]
            for parts in claim.axes
        ],
        "heard": heard,
    }


def _plain(value: Any) -> Any:
    """Return a value in JSON's own types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    value = value.item() if hasattr(value, "item") else value
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def _runs(positions: Any) -> list[list[int]]:
    """Return positions as runs [first, last] of consecutive ones."""
    found = np.asarray(positions)
    if not len(found):
        return []
    ends = np.flatnonzero(np.diff(found) != 1)
    first, last = found[np.append(0, ends + 1)], found[np.append(ends, len(found) - 1)]
    return [[int(a), int(b)] for a, b in zip(first, last, strict=True)]


def _outside(positions: Any, n: int) -> bool:
    return bool(len(positions)) and bool((positions < 0).any() or (positions >= n).any())


def _said(position: Any) -> str:
    return "nothing" if position < 0 else f"position {int(position)}"


# The definitions, a second time


def definition(operator: Operator, axis: int) -> Table:
    """Return (outputs, taps) source positions along an axis, from torch's description alone.

    Raises:
        ProofError: an operator that is not described here.
    """
    a, n, out, d = operator.arguments, operator.size[axis], operator.out[axis], len(operator.size)
    name = operator.name
    p = np.arange(out)[:, None]

    def one(key: str, default: int) -> int:
        value = a.get(key, default)
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        return int(values[axis] if len(values) == d else values[0] if values else default)

    if name.startswith("conv_transpose"):
        k, s, dil = int(a["kernel"][axis]), one("stride", 1), one("dilation", 1)
        reach = p + one("padding", 0) - np.arange(k)[None] * dil
        q, rest = np.divmod(reach, s)
        return np.where((rest == 0) & (q >= 0) & (q < n), q, -1)
    if name.startswith(("conv", "max_pool", "avg_pool")):
        k = int(a["kernel"][axis]) if "kernel" in a else one("kernel_size", 1)
        s = one("stride", k if "pool" in name else 1)
        dil = one("dilation", 1)
        named = {"same": dil * (k - 1) // 2, "valid": 0}
        pad = named[a["padding"]] if isinstance(a["padding"], str) else one("padding", 0)
        q = p * s - pad + np.arange(k)[None] * dil
        return np.where((q >= 0) & (q < n), q, -1)
    if name == "pad":
        return _padded(a, axis, d, n, out)
    if name == "slice":
        start, _, step = a["bounds"][axis]
        return start + step * p
    if name == "pixel_shuffle":
        return p // int(a["upscale_factor"])
    if name == "pixel_unshuffle":
        return p * int(a["downscale_factor"]) + np.arange(int(a["downscale_factor"]))[None]
    if name.startswith("upsample_nearest"):
        scale = a.get("scale")
        real = np.float32
        step = real(1.0 / scale[axis]) if scale else real(n) / real(out)
        q = np.minimum(np.floor(np.arange(out).astype(real) * step).astype(np.int64), n - 1)
        if out == n or out == 2 * n:
            q = np.arange(out) * n // out
        return q[:, None]
    if name.startswith(("upsample_linear", "upsample_bilinear", "upsample_trilinear")):
        return _linear(a, axis, n, out)
    raise ProofError(f"judge_plan: the judge has no definition of {operator.title}")


def _padded(a: Mapping[str, Any], axis: int, d: int, n: int, out: int) -> Table:
    flat = list(a["pad"])
    k = 2 * (d - 1 - axis)
    before = int(flat[k]) if k < len(flat) else 0
    q = np.arange(out) - before
    mode = a["mode"]
    if mode == "circular":
        q = q % n
    elif mode == "replicate":
        q = np.minimum(np.maximum(q, 0), n - 1)
    elif mode == "reflect":
        q = (n - 1) - np.abs((n - 1) - np.abs(q))
    else:
        q = np.where((q < 0) | (q >= n), -1, q)
    return q[:, None]


def _linear(a: Mapping[str, Any], axis: int, n: int, out: int) -> Table:
    real: Any = np.float64 if a.get("double") else np.float32
    p = np.arange(out).astype(real)
    if a.get("align_corners"):
        r = p * (real(n - 1) / real(out - 1) if out > 1 else real(0))
    else:
        step = real(1.0 / a["scale"][axis]) if a.get("scale") else real(n) / real(out)
        r = np.maximum(step * (p + real(0.5)) - real(0.5), 0)
    if out == n:
        r = p
    low = np.minimum(np.floor(r.astype(np.float32)).astype(np.int64), n - 1)
    share = np.clip(r - low, 0, 1)
    high = np.minimum(low + 1, n - 1)
    return np.stack([np.where(share == 1, -1, low), np.where(share == 0, -1, high)], 1)


# Which sites of a coarse map are there


def judge_sites(
    rule: Callable[[tuple[int, ...], tuple[Any, ...]], Any],
    mask: Any,  # (*size) bool, of the whole image
    size: Sequence[int],
    part: Sequence[Any],
) -> list[str]:
    """Judge the sites of a masked map on a part: a site is there if a pixel of its cell is.

    Args:
        rule: (size of the map, positions of the part) -> bools, the candidate.
        mask: which pixels of the whole image are there.
        size: of the map, along each axis at most the image's.
        part: positions along each axis.

    Returns:
        What is wrong; nothing where the rule is right.
    """
    got = np.asarray(rule(tuple(size), tuple(part)))
    cells = [
        [np.flatnonzero(np.arange(n) * s // n == p) for p in positions]
        for n, s, positions in zip(mask.shape, size, part, strict=True)
    ]
    for place in np.ndindex(got.shape):
        cell = np.ix_(*(cells[k][i] for k, i in enumerate(place)))
        if bool(mask[cell].any()) != bool(got[place]):
            where = tuple(int(part[k][i]) for k, i in enumerate(place))
            there = "there" if mask[cell].any() else "not there"
            return [f"site {where} of the map of size {tuple(size)} is {there} on the whole image"]
    return []
