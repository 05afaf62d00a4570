"""Manners of calling in which a program computes otherwise: S1 follows it there too.

Trials in other manners compare integers, out of which (S + S') - S' comes as S does. So where one
computes what was not followed, as torch does with matrices of which one needs no gradient, the
program is followed once more as it was called there, and has to be a direct sum there as well.
Half types have no trials of their own; there a program is called in each manner for its steps.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from convgraph.proof.layer.direct import Direct
from convgraph.proof.layer.identity import raised
from convgraph.proof.layer.one_program import OneProgram
from convgraph.proof.layer.premise.check import Premise
from convgraph.proof.layer.trial import (
    COPIED,
    FROZEN,
    INNER,
    PLAIN,
    REFILLED,
    Probe,
    Run,
    frozen_in,
    handed_on,
    in_words,
    manners_of,
)

ENOUGH = 17
"""Trials in which every manner has its turn."""


Follows = Callable[[tuple[str, ...], Callable[[str, Tensor], Tensor]], Premise]
"""S1, by the names that need no gradient and what makes of a leaf what is handed on."""


def apart_without_proof(
    program: OneProgram,
    follow: Follows,
    direct: Callable[[Premise], Direct],
) -> str:
    """Say in which manner a program computes what is not proven; "" where there is none.

    Args:
        program: that saw the runs.
        follow: S1, as a program is called in a manner.
        direct: whether what was followed is a direct sum.
    """
    for manner, step in program.apart.items():
        why = ""
        if manner.startswith((INNER, COPIED, FROZEN)):
            followed = follow(frozen_in(manner), partial(handed_on, manner))
            why = followed.reason or direct(followed).reason
            if not why:
                continue
        how = in_words(manner).removeprefix(", ")
        return f"behaves otherwise {how}: it runs {step}" + (why and f"; {why}")
    return ""


def call_in_every_manner(
    run: Run, program: OneProgram, probe: Probe, dtype: torch.dtype, device: torch.device | str
) -> str:
    """Call a program for its steps, which `program` sees; say what it raised, or ""."""
    turns = [manners_of(trial, ENOUGH, probe.sent) for trial in range(ENOUGH)]
    for manner in dict.fromkeys(manner for turn in turns for manner in turn):
        if manner in (PLAIN, REFILLED):  # this is the program that was held
            continue
        try:
            program.called(run, probe, dtype, device, manner)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it raises is what is reported
            return raised("candidate", error)
    return ""
