"""Manners of calling in which a program computes otherwise: S1 follows it there too.

Trials in other manners compare integers, out of which (S + S') - S' comes as S does. So where one
computes what was not followed, as torch does with matrices of which one needs no gradient, the
program is followed once more as it was called there, and has to be a direct sum there as well.
Half types, and float32 with shares of pixels, have no trials of their own; there a program is
called in each manner on real numbers, and what comes out is held against the bound of S3.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from convgraph.proof.equation.oracle import Oracle
from convgraph.proof.layer.direct import Direct
from convgraph.proof.layer.identity import raised
from convgraph.proof.layer.one_program import OneProgram
from convgraph.proof.layer.own_parameters import OwnParameters
from convgraph.proof.layer.premise.check import Premise
from convgraph.proof.layer.rounding import (
    Rounding,
    bounds,
    drawn,
    exactly,
    furthest,
    slack_of,
    spread_of,
)
from convgraph.proof.layer.trial import (
    COPIED,
    FROZEN,
    INNER,
    OWN,
    PLAIN,
    REFILLED,
    Probe,
    Run,
    every_manner,
    frozen_in,
    handed_on,
    in_words,
)
from convgraph.proof.roundoff import HALF


def apart_without_proof(
    program: OneProgram,
    follow: Callable[..., Premise],
    direct: Callable[[Premise], Direct],
) -> str:
    """Say in which manner a program computes what is not proven; "" where there is none.

    Args:
        program: that saw the runs.
        follow: S1 by `frozen` and `handed`, see `check_premise`.
        direct: whether what was followed is a direct sum.
    """
    for manner, step in program.apart.items():
        why = ""
        if manner.startswith((INNER, COPIED, FROZEN)):
            followed = follow(frozen=frozen_in(manner), handed=partial(handed_on, manner))
            why = followed.reason or direct(followed).reason
            if not why:
                continue
        how = in_words(manner).removeprefix(", ")
        return f"behaves otherwise {how}: it runs {step}" + (why and f"; {why}")
    return ""


def call_in_every_manner(
    run: Run,
    program: OneProgram,
    oracle: Oracle,
    generator: np.random.Generator,
    dtype: torch.dtype,
    device: torch.device | str,
    own: OwnParameters | None = None,
) -> Rounding:
    """Call a program on real numbers in each manner; `program` sees its steps.

    Args:
        run: that is within its bound where it is called plainly.
        program: of the same dtype.
        oracle: of the spec.
        generator: where the numbers come from; the same as of S3 draws the same.
        dtype: in which no integers were compared.
        device: where.
        own: the same as a module with parameters of its own.
    """
    real, other = (_Real(oracle, generator, dtype, n) for n in (0, spread_of(dtype)))
    reuse, unsure = dict[str, Tensor](), Rounding("proven")
    for manner in [*every_manner(real.probe.sent), *([OWN] if own else [])]:
        sent = other if manner == PLAIN else real  # so that tensors are refilled with other numbers
        try:
            if own is not None and manner == OWN:
                called = [(OWN, program.called_with_its_own(own, sent.probe, dtype, device))]
            else:
                kept = reuse if manner in (PLAIN, REFILLED) else None
                called = program.called(run, sent.probe, dtype, device, manner, kept)
            held = [sent.holds(made, way) for way, made in called]
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it raises is what is reported
            held = [Rounding("undecided", reason=raised("candidate", error))]
        for found in held:
            if found.status == "refuted":
                return found
            unsure = unsure if found.status == "proven" or unsure.reason else found
    return unsure


class _Real:
    """Real numbers, and what comes of them within the bound of S3."""

    def __init__(
        self, oracle: Oracle, generator: np.random.Generator, dtype: torch.dtype, spread: int
    ) -> None:
        x, w, *rest = (t.double().numpy() for t in drawn(generator, oracle, dtype, spread))
        b, g = rest[0] if oracle.spec.bias else None, rest[-1]
        self.probe = Probe({"x": x, "w": w} | ({} if b is None else {"b": b}), g)
        self.exact, self.name, fineness = exactly(oracle, x, w, b, g, dtype)
        slack = slack_of(fineness, dtype)
        self.limit, self.wide = (
            {name: v * slack for name, v in vars(found).items() if v is not None}
            for found in (
                bounds(oracle, x, w, b, g, dtype),
                bounds(oracle, x, w, b, g, dtype, within=dtype in HALF),
            )
        )

    def holds(self, made: dict[str, Tensor | None] | str, manner: str) -> Rounding:
        """What came back in a manner, quantity by quantity."""
        how = in_words(manner)
        if isinstance(made, str):
            return Rounding("undecided", reason=f"the candidate {made}{how}")
        unsure = Rounding("proven")
        for quantity, tensor in made.items():
            if tensor is None:
                return Rounding("undecided", reason=f"no {quantity} came back{how}")
            found, exact = tensor.double().cpu().numpy(), self.exact[quantity]
            gap = np.abs(found - exact)
            if (gap <= self.limit[quantity]).all():
                continue
            reason = (
                f"the candidate's {quantity} is beyond its bound away from {self.name}"
                f"{furthest(found, exact, self.limit[quantity])}{how}"
            )
            alone = manner.startswith(f"{INNER} ")  # no other program calls so again
            if not alone and np.isfinite(found).all() and not (gap <= self.wide[quantity]).all():
                return Rounding("refuted", reason=reason)
            unsure = Rounding("undecided", reason=reason)
        return unsure
