"""Malformed operands for the operators `torch.ops.convgraph`, as a foreign program has them.

Well-formed lists of a small graph are spoilt in one or two places. A call has to raise, or to
answer what a plain loop over the same lists answers; a crash is found because a child dies of it.
"""

import random
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import convgraph as cg
from convgraph.backends.fused import cpp_build, cpp_tables
from convgraph.backends.fused.operators import ABSENT
from convgraph.backends.resample.bags import reversible
from tests.fuzz.campaign import campaign, options
from tests.fuzz.children import Found

LISTS = ("who", "sites", "slots", "back_who", "back_sites", "back_slots")
REFUSED = (RuntimeError, IndexError, TypeError, ValueError, NotImplementedError)
"""What may be raised; torch's dispatcher has its own words where schemas are not met."""


def well_formed(dice: random.Random, *, bags: bool = False) -> dict[str, Any]:
    """Operands that fit together; of bags, `who`, `sites`, `slots` are rows, ptr and weights."""
    generator = torch.Generator().manual_seed(dice.getrandbits(32))
    d, groups = dice.choice([1, 2]), dice.choice([1, 1, 2, 4])
    per = (1, 1) if groups == 4 else (dice.choice([1, 3, 8]), dice.choice([1, 2, 17]))
    size = (5, 4)[:d]
    mask = torch.rand((2, *size), generator=generator) < 0.7
    graph = cg.PixelGraph.from_image(torch.ones(2, 1, *size), mask, d=d)
    edges = cg.connect(cg.KernelGeometry(3, stride=dice.choice([1, 2]), padding=1, d=d), graph)
    lists = reversible(edges, torch.float32) if bags else cpp_tables.sides(edges)
    there, back = (tuple(part.clone() for part in side) for side in lists)

    def numbers(*shape: int) -> Tensor:
        return torch.randint(-3, 4, shape, generator=generator).float()

    return {
        "x": numbers(edges.num_sources, groups * per[0]),
        "g": numbers(edges.num_targets, groups * per[1]),
        "taps": numbers(3**d, groups, *per),
        "bias": dice.choice([None, numbers(groups * per[1])]),
        **dict(zip(LISTS, (*there, *back), strict=True)),
        "groups": groups,
        "backwards": 0,
    }


def _entry(t: Tensor, dice: random.Random) -> Tensor:
    if t.numel() == 0 or t.is_floating_point():
        return t[:0]
    flat = t.clone().flatten()
    wide = [-2, -1, t.numel(), 2**31 - 1, -(2**31), int(flat.max()) + 1, int(flat[0])]
    wide += [2**62, -(2**63), 2**63 - 1] if t.dtype == torch.int64 else []
    flat[dice.randrange(len(flat))] = dice.choice(wide)
    return flat.view(t.shape)


SPOILT: dict[str, Callable[[Tensor, random.Random], Any]] = {
    "an entry": _entry,
    "not contiguous": lambda t, dice: torch.stack([t, t], -1)[..., 0],
    "turned": lambda t, dice: t.t().contiguous().t() if t.dim() == 2 else t.flip(0),
    "transposed": lambda t, dice: t.t() if t.dim() == 2 else t.unsqueeze(0),
    "one row": lambda t, dice: t[:1],
    "shorter": lambda t, dice: t[..., :-1].contiguous(),
    "longer": lambda t, dice: torch.cat([t, t], -1),
    "empty": lambda t, dice: t[..., :0],
    "flat": lambda t, dice: t.flatten(),
    "another dtype": lambda t, dice: t.to(
        dice.choice([torch.int64, torch.int32, torch.float64, torch.float16, torch.complex64])
    ),
    "on meta": lambda t, dice: t.to("meta"),
    "None": lambda t, dice: None,
    "sparse": lambda t, dice: t.to_sparse(),
    "a number": lambda t, dice: 3,
}


def draw(dice: random.Random) -> tuple[str, int, tuple[tuple[str, str], ...]]:
    """Draw an operator, a seed, and what is spoilt in what."""
    operator = dice.choice(["send", "correlate", "send_bags", "correlate_bags"])
    names = [*LISTS, "x", *(("taps", "bias") if "send" in operator else ("g",))]
    spoilt = [(dice.choice(names), dice.choice(list(SPOILT))) for _ in range(dice.choice([1, 2]))]
    return operator, dice.getrandbits(32), tuple(spoilt)


def judge(drawn: tuple[str, int, tuple[tuple[str, str], ...]]) -> str:
    """Return "", or what is wrong with the answer."""
    operator, seed, spoilt = drawn
    dice = random.Random(seed)
    given = well_formed(dice, bags=operator.endswith("bags"))
    if operator.startswith("send") and dice.random() < 0.3:
        given["backwards"], given["x"], given["bias"] = 1, given["g"], None
        given["taps"] = given["taps"].mT
    for name, how in spoilt:
        whole = isinstance(given[name], Tensor) and given[name].device.type == "cpu"
        if whole and not given[name].is_sparse:
            given[name] = SPOILT[how](given[name], dice)
    order = ("x", "taps", "bias") if operator.startswith("send") else ("x", "g")
    last = "backwards" if operator.startswith("send") else "groups"
    arguments = [given[name] for name in (*order, *LISTS, last)]
    held = [torch.full((n,), torch.nan) for n in (20, 60, 200, 600, 2000) * 3]
    del held
    try:
        found = getattr(torch.ops.convgraph, operator)(*arguments)
    except REFUSED:
        return ""
    try:
        truth = TRUTHS[operator](given)
    except REFUSED as error:
        return f"answered what does not fit ({type(error).__name__})"
    return "" if found.shape == truth.shape and torch.equal(found, truth) else "a wrong answer"


def _row(who: Tensor, sites: Tensor, slots: Tensor, m: int, s: int) -> int:
    if int(slots[0, s]) == ABSENT:
        return -1
    at = int(sites[0, m]) + int(slots[0, s])
    if not 0 <= at < len(who):
        raise IndexError(at)
    row = int(who[at])
    if row < -1:
        raise IndexError(row)
    return row


def _send(given: dict[str, Any]) -> Tensor:
    side = "back_" if given["backwards"] else ""
    who, sites, slots = (given[f"{side}{name}"] for name in ("who", "sites", "slots"))
    taps, x = given["taps"], given["x"]
    rows = taps.shape[1] * taps.shape[3]
    y = torch.full((sites.shape[1], rows), torch.nan)
    for m in range(sites.shape[1]):
        total = torch.zeros(rows) if given["bias"] is None else given["bias"].clone()
        for s in range(slots.shape[1]):
            q = _row(who, sites, slots, m, s)
            if q >= 0:
                parts = x[q].view(taps.shape[1], 1, -1) @ taps[int(slots[1, s])]
                total = total + parts.flatten()
        y[int(sites[1, m])] = total
    return y


def _correlate(given: dict[str, Any]) -> Tensor:
    who, sites, slots = (given[name] for name in ("who", "sites", "slots"))
    x, g, n = given["x"], given["g"], given["groups"]
    found = torch.zeros(slots.shape[1], n, x.shape[1] // n, g.shape[1] // n)
    for m in range(sites.shape[1]):
        for s in range(slots.shape[1]):
            q = _row(who, sites, slots, m, s)
            if q >= 0:
                head = g[int(sites[1, m])].view(n, 1, -1)
                found[s] += x[q].view(n, -1, 1) @ head
    return found


def _bagged(given: dict[str, Any], side: str, x: Tensor, taps: int) -> Tensor:
    """(P, taps, C): what stands in the bags, added up."""
    rows, ptr, weight = (given[f"{side}{name}"] for name in ("who", "sites", "slots"))
    if ptr.dim() != 1 or rows.dim() != 1 or (len(ptr) - 1) % taps or rows.dtype != torch.int32:
        raise ValueError("no bags")
    if int(ptr[0]) or int(ptr[-1]) != len(rows) or bool((ptr.diff() < 0).any()):
        raise ValueError("bags that do not share out their entries")
    if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < len(x):
        raise IndexError("a row that is not there")
    into = torch.arange(len(ptr) - 1).repeat_interleave(ptr.diff())
    said = x[rows.long()] * weight.unsqueeze(1)
    return x.new_zeros(len(ptr) - 1, x.shape[1]).index_add(0, into, said).unflatten(0, (-1, taps))


def _send_bags(given: dict[str, Any]) -> Tensor:
    taps, x = given["taps"], given["x"]
    heard = _bagged(given, "back_" if given["backwards"] else "", x, len(taps))
    y = torch.einsum("ptgi,tgio->pgo", heard.unflatten(2, (taps.shape[1], -1)), taps).flatten(1)
    return y if given["bias"] is None else y + given["bias"]


def _correlate_bags(given: dict[str, Any]) -> Tensor:
    x, g, n = given["x"], given["g"], given["groups"]
    heard = _bagged(given, "", x, (len(given["sites"]) - 1) // len(g))
    parts = heard.unflatten(2, (n, -1)), g.unflatten(1, (n, -1))
    return torch.einsum("ptgi,pgo->tgio", *parts)


TRUTHS = {
    "send": _send,
    "correlate": _correlate,
    "send_bags": _send_bags,
    "correlate_bags": _correlate_bags,
}


def search(count: int, seed: int, seconds: float) -> tuple[int, list[Found]]:
    """Return how many calls were made, and what was wrong."""
    torch.set_num_threads(1)
    dice = random.Random(seed)
    drawn = (draw(dice) for _ in range(count))
    return campaign(drawn, judge, seconds, at_once=100, together=100)


def main() -> int:
    """Print what was found; 1 if anything was."""
    given = options(__doc__, 2000).parse_args()
    if cpp_build.lacks():
        sys.stdout.write(f"no kernels to attack: {cpp_build.lacks()}\n")
        return 0
    done, wrong = search(given.draws, given.seed, given.seconds)
    for found in wrong[:40]:
        sys.stdout.write(f"{found.what}: {found.draw}\n")
    sys.stdout.write(f"{done} calls, {len(wrong)} wrong\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
