"""The judge of parts: does every rank compute its part of what the whole computes?

    y[own] = part(x[own]),    dx[own],    dw = sum over ranks        bit for bit, on random integers

Every operator is asked by itself, on integers so small that each sum is exact, with gradients for
every input and every weight; a difference of a multilinear operator stays unseen with a probability
of at most epsilon. Which positions each rank reads of which other is judged apart, in integers (see
`convgraph.proof.plan`); what treats every pixel by itself needs no more than that. The judge gets
callables and imports nothing of what it judges.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from convgraph.proof.draws import EPSILON, budget
from convgraph.proof.plan import PlanCertificate
from convgraph.proof.record import sealed


@dataclass(frozen=True)
class PartOf:
    """One operator, and this rank's part of it.

    Attributes:
        title: for people.
        maps: shapes of the inputs that are cut, (B, C, *size).
        others: shapes of the inputs that every rank has: weights and constants.
        terms: the most products in one sum, gradients included.
        unit: what every division of the operator divides: maps are multiples of it.
        whole: (inputs) -> the operator on the whole.
        part: (inputs, those that are cut as this rank's part) -> this rank's part.
        take: (whole, which input; None for the output) -> this rank's part of it.
    """

    title: str
    maps: tuple[tuple[int, ...], ...]
    others: tuple[tuple[int, ...], ...]
    terms: int
    whole: Callable[[Sequence[Tensor]], Tensor]
    part: Callable[[Sequence[Tensor]], Tensor]
    take: Callable[[Tensor, int | None], Tensor]
    unit: int = 1


@dataclass(frozen=True)
class PartsCertificate:
    """What a judge found on all ranks; the same on each.

    Attributes:
        verdict: "proven", "refuted" or "undecided".
        ranks: along each axis of the mesh.
        plan: who reads what of whom, in integers.
        operators: compared bit for bit.
        entries: numbers compared on this rank.
        by_pixel: operators that treat every pixel by itself, whose positions alone were judged.
        log2_epsilon: of the probability that a multilinear difference stays unseen.
        faults: what is wrong.
        reason: why nothing was decided.
        seed: of every draw; replays the run.
    """

    verdict: str
    ranks: tuple[int, ...]
    plan: PlanCertificate
    operators: int
    entries: int
    by_pixel: int
    log2_epsilon: float
    faults: tuple[str, ...] = field(default=())
    reason: str = ""
    seed: int = 0

    def to_json(self, path: str | Path | None = None) -> str:
        """Return the record as JSON and, with a path, write it there too."""
        return sealed.write("parts", asdict(self), path)

    @classmethod
    def from_json(cls, text: str) -> "PartsCertificate":
        """The way back from `to_json`.

        Raises:
            ProofError: the text is no record of parts; the error names the field.
        """
        found = sealed.read(text, "parts", tuple(one.name for one in fields(cls)))
        real = found["log2_epsilon"]
        fits = {
            "verdict": found["verdict"] in ("proven", "refuted", "undecided"),
            "ranks": sealed.wholes(found["ranks"]),
            "operators": sealed.whole(found["operators"]),
            "entries": sealed.whole(found["entries"]),
            "by_pixel": sealed.whole(found["by_pixel"]),
            "log2_epsilon": isinstance(real, (int, float)) and not isinstance(real, bool),
            "faults": sealed.listed(found["faults"], str),
            "reason": isinstance(found["reason"], str),
            "seed": type(found["seed"]) is int and found["seed"] >= 0,
        }
        sealed.check("parts", fits)
        found["plan"] = PlanCertificate.from_fields(found["plan"])
        lists = {name: tuple(found[name]) for name in ("ranks", "faults")}
        return cls(**{**found, **lists})

    def __str__(self) -> str:
        """Return what was found, line by line."""
        lines = [
            f"{self.verdict}: one image over {' x '.join(map(str, self.ranks))} ranks",
            f"  plan {self.plan}",
            f"  {self.operators} operators bit for bit on integers, {self.entries} numbers on this "
            f"rank, values and all gradients; unseen at most 2^{self.log2_epsilon:.0f}",
            f"  {self.by_pixel} operators treat every pixel by itself",
        ]
        lines += [f"  {self.reason}"] if self.reason else []
        return "\n".join([*lines, *(f"  {fault}" for fault in self.faults)])


def judge_operator(
    one: PartOf, seed: int, epsilon: float = EPSILON
) -> tuple[list[str], int, float]:
    """Compare this rank's part of an operator with the whole's, values and all gradients.

    Args:
        one: the operator.
        seed: the same on all ranks: they draw the same integers.
        epsilon: the most that a multilinear difference may go unseen.

    Returns:
        What is wrong; how many numbers were compared; log2 of the probability.
    """
    drawn = budget(one.terms * one.unit**2, "float64", epsilon, seed)
    faults: list[str] = []
    entries = 0
    for draw in drawn.generators():
        wholes = [
            (torch.from_numpy(drawn.draw(draw, shape)).double() * unit).requires_grad_()
            for shapes, unit in ((one.maps, one.unit), (one.others, 1))
            for shape in shapes
        ]
        parts = [
            (one.take(x.detach(), k) if k < len(one.maps) else x.detach()).clone().requires_grad_()
            for k, x in enumerate(wholes)
        ]
        want, got = one.whole(wholes), one.part(parts)
        head = torch.from_numpy(drawn.draw(draw, tuple(want.shape))).double() * one.unit
        truth = torch.autograd.grad(want, wholes, head, allow_unused=True)
        found = torch.autograd.grad(got, parts, one.take(head, None), allow_unused=True)
        pairs = [("its output", one.take(want.detach(), None), got.detach())]
        for k, (a, b) in enumerate(zip(truth, found, strict=True)):
            cut = k < len(one.maps)
            name = f"the gradient of input {k}" if cut else f"the gradient of weight {k}"
            zero = torch.zeros_like(wholes[k]) if a is None else a
            mine = one.take(zero, k) if cut else zero
            pairs.append((name, mine, torch.zeros_like(mine) if b is None else b))
        for name, a, b in pairs:
            entries += a.numel()
            if a.shape != b.shape:
                faults.append(
                    f"{one.title}: {name} has shape {tuple(b.shape)} for {tuple(a.shape)}"
                )
            elif not torch.equal(a, b):
                place: Any = tuple(map(int, (a != b).nonzero()[0]))
                faults.append(
                    f"{one.title}: {name} is {b[place].item():g} at {place} of this rank's part, "
                    f"the whole has {a[place].item():g}"
                )
    # no early end: ranks call each other, and have to call as often
    return faults[:3], entries, drawn.log2_epsilon


def verdict_of(
    ranks: tuple[int, ...], found: PlanCertificate, faults: Sequence[str], reason: str,
    by_pixel: int, compared: Sequence[tuple[int, float]], seed: int,
) -> PartsCertificate:  # fmt: skip
    """Return the certificate of what every rank found."""
    wrong = found.verdict != "proven" or bool(faults)
    verdict = "refuted" if wrong else "undecided" if reason else "proven"
    return PartsCertificate(
        verdict, ranks, found, len(compared), sum(n for n, _ in compared), by_pixel,
        max((e for _, e in compared), default=0.0), tuple(faults), reason, seed,
    )  # fmt: skip
