"""The proof of one layer: S0 to S3 in order, a cause if it is refuted, and the record of it.

The verdict is the weakest part's: one refutation refutes, otherwise one undecided part leaves it
undecided.
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from convgraph.door import door
from convgraph.errors import ProofError
from convgraph.proof import draws, precision
from convgraph.proof.equation.oracle import Oracle
from convgraph.proof.equation.spec import ConvSpec
from convgraph.proof.layer.basis import CALLS, WrongShapeError, calls, check_basis, smallest
from convgraph.proof.layer.following import Follows
from convgraph.proof.layer.identity import NO_ROOM, NOT_ITSELF, Identity, check_identity, raised
from convgraph.proof.layer.one_program import OneProgram
from convgraph.proof.layer.other_manners import apart_without_proof, call_in_every_manner
from convgraph.proof.layer.own_parameters import OwnParameters
from convgraph.proof.layer.premise.check import Premise
from convgraph.proof.layer.premise.follower import NARROWING
from convgraph.proof.layer.rounding import (
    TF32_CONDITION,
    Rounding,
    bounds,
    check_rounding,
    conditional,
    drawn,
)
from convgraph.proof.layer.showing import show
from convgraph.proof.layer.structure import Structure, check_structure
from convgraph.proof.layer.to_record import (
    Parameters,
    dtype_name,
    identity_part,
    parameters_part,
    premise_part,
    record,
    rounding_part,
    structure_part,
    taken_for_granted,
)
from convgraph.proof.layer.trial import Run
from convgraph.proof.record.certificate import Certificate, Part
from convgraph.proof.refutation.shrink import explain_refutation
from convgraph.proof.roundoff import HALF
from convgraph.proof.surroundings import COMPILERS, keep_what_is_freed, watched

EdgeLists = tuple[Any, ...]
"""Flat source pixels, flat target sites and taps, (E,) integer arrays each; perhaps weights."""

Pair = Callable[[ConvSpec], tuple[Run, Run]]
"""Builds candidate and reference for another spec of the same kind."""

MADE_ANEW = (
    "a layer that makes another weight of the one that it holds, as a standardised weight is made, "
    "is no convolution of it; two of them in a torch.nn.Sequential, with images, are compared "
    "operator by operator"
)
IDENTITIES = ("auto", "deterministic", "probabilistic")


@door
def prove_convolution(
    candidate: Run,
    reference: Run,
    spec: ConvSpec,
    *,
    edges: Callable[[], EdgeLists] | None = None,
    parameters: tuple[Parameters, Parameters] | None = None,
    premise: bool = True,
    trust: Collection[str] = (),
    identity: str = "auto",
    small: Pair | None = None,
    own: OwnParameters | None = None,
    doubts: tuple[str, ...] = (),
    doubted: bool = False,
    second: bool = False,
    explain: bool = True,
    assumed: tuple[str, ...] = (),
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    epsilon: float = draws.EPSILON,
    seed: int | None = None,
    progress: bool = False,
    name: str = "convolution",
) -> Certificate:
    """Prove that two implementations are the convolution that a spec describes.

    Args:
        candidate: f(x, w, b) -> y on images (B, C_in, *size) and weights in torch's layout;
            differentiable. The accused.
        reference: the same for the dense operator.
        spec: the integers of the operator.
        edges: returns the candidate's typed edges, for S0; None if it has none to show.
        parameters: of both sides by name; if they are given and differ in a bit, the two hold
            different functions, whatever their operators are, and the verdict says so.
        premise: follow the candidate's operators (S1); without it they are assumed multilinear.
        trust: custom operators ("ns::op") and autograd functions (by class name) of the candidate
            that are taken as multilinear, and named in the record.
        identity: "probabilistic" probes the geometry itself; "deterministic" also goes through
            every basis pair of a small one; "auto" does so where that takes few calls.
        small: returns both sides for a smaller spec of the same kind, without masks. None: "auto"
            leaves the basis out, and "deterministic" hands the smaller images to those given.
        own: the candidate as a module with parameters of its own, called so once as well.
        doubts: what keeps the two from being proven the same, whatever their operators are.
        doubted: whether the reference may be another operator than the spec says. Then it is held
            against the oracle before the candidate is accused.
        second: also probe one derivative up.
        explain: shrink a refutation to the smallest case and look for its cause.
        assumed: what the caller takes for granted, for the record.
        dtype: in which both compute. Integers are probed in it for float64 and float32, in float64
            for half types, which have no room for them, or in float32 where those cast to it.
        device: where both compute.
        epsilon: the most that a wrong "proven" may be probable.
        seed: replays a recorded run.
        progress: show a progress bar.
        name: of the candidate, for the record.

    Returns:
        A Certificate.

    Raises:
        ProofError: the spec describes no operator, or epsilon is no probability.

    Example:
        >>> import torch.nn.functional as F
        >>> spec = ConvSpec(1, 2, (3, 3), (5, 5))
        >>> flipped = lambda x, w, b: F.conv2d(x, w.flip(-1), b)
        >>> prove_convolution(F.conv2d, F.conv2d, spec).verdict
        'proven'
        >>> prove_convolution(flipped, F.conv2d, spec).verdict
        'refuted'
    """
    if identity not in IDENTITIES:
        raise ProofError(f"expected identity in {IDENTITIES}, got {identity!r}")
    if not 0 < epsilon < 1:
        raise ProofError(f"expected 0 < epsilon < 1, got {epsilon}")
    draws.check_room(spec.x_shape, spec.w_shape, (spec.batch, *spec.size, *spec.kernel_size))
    keep_what_is_freed()
    oracle = Oracle(spec)
    # Half types have no room for integers, nor has float32 for integers with weights.
    probe = torch.float64 if dtype in HALF or oracle.scale > 1 else dtype
    structure = Structure("not asked", 0, reason="the candidate shows no edges")
    if edges is not None:
        listed = edges()
        source, target, tap = (np.asarray(array, dtype=np.int64) for array in listed[:3])
        structure = check_structure(oracle, source, target, tap, *listed[3:])
    flags = precision.stated(device)
    followed, following = Premise("not asked"), Follows(candidate, oracle, dtype, device, trust)
    if premise:
        with precision.plain(device):
            followed = following.plainly(probe, second)
            narrow = f"{NARROWING}: {torch.float32} "
            if dtype in HALF and oracle.scale == 1 and followed.reason.startswith(narrow):
                probe = torch.float32  # it adds up in float32 by name, which has room too
                followed = following.plainly(probe, second)
    by_name = dtype in HALF and followed.reason.startswith(f"{NARROWING}: {dtype} ")
    direct = following.direct(probe, probe, followed)
    twice, once = OneProgram(None), followed
    if second and followed.status == "proven":  # some manners have first derivatives alone
        with precision.plain(device):
            once = following.plainly(probe, second=False)
        if not followed.compiled:
            twice = OneProgram(followed.wide or followed, trust)
        if once.status != "proven":
            followed = once
        elif direct.status == "proven":
            direct = replace(following.direct(probe, probe, once), shrunk=direct.shrunk)
    assumed = (*assumed, *following.taken(followed))
    follows = followed.status == "proven" and not followed.compiled
    program = OneProgram(once if follows else None, trust)
    wide = OneProgram(once.wide, trust) if follows else OneProgram(None)
    probing, moved = wide if dtype != probe else program, list[str]()
    probed, rounding = Identity("not asked", 3), Rounding("not asked")
    basis, under = Identity("not asked", 3), list[Rounding]()
    budget = None
    try:
        # One derivative up, two contractions and a cotangent add up in one entry. An implementation
        # that adds up more on the way needs the room for it.
        needed = oracle.terms() * (1 + second) * oracle.scale
        if followed.status == "proven":
            needed = max(needed, followed.terms * oracle.scale)
        budget = draws.budget(needed, dtype_name(probe), epsilon, seed)
    except ProofError as error:
        probed = Identity("undecided", 3, reason=str(error))
    if budget is not None:  # edges that differ are no number yet: the probes look for one
        with precision.plain(device), watched() as moved:
            probed = check_identity(
                candidate, reference, oracle, budget, dtype=probe, device=device, second=second,
                exact=followed.status in ("proven", "not asked"),
                program=probing, twice=twice, own=own if dtype == probe else None,
                doubted=doubted, progress=progress,
            )  # fmt: skip
            if small is not None and probed.reason.startswith(NOT_ITSELF):
                probed = replace(probed, reason=f"{probed.reason}; {MADE_ANEW}")
            if probed.status == "refuted" and own is not None and parameters is not None:
                probed = _as_held(own, parameters, oracle, budget, probed, dtype, device)
            if probed.status == "proven" or identity == "deterministic":
                basis = _basis(candidate, reference, spec, identity, small, probe, device)
            if probed.status == "proven" and basis.status == "refuted":
                # Luck, or zeros in memory that nobody wrote: not what a proof rests on.
                text = f"equal in {budget.trials} trials, but not on the basis"
                probed = replace(probed, status="undecided", reason=text)
            if probed.status == "proven":
                generator = np.random.Generator(np.random.Philox(budget.seed))
                rounding = check_rounding(
                    candidate, reference, oracle, generator, dtype=dtype, device=device,
                    program=program,
                )  # fmt: skip
    if rounding.status == "proven" and dtype == torch.float32 and precision.allows_tf32(device):
        assert budget is not None  # nothing was probed without
        generator = np.random.Generator(np.random.Philox(budget.seed))
        with precision.plain(device, ieee=False):
            found_under = check_rounding(
                candidate, reference, oracle, generator, dtype=dtype, device=device, tf32=True
            )
        under.append(conditional(found_under))
        assumed = (*assumed, TF32_CONDITION)
    if by_name and "refuted" in (followed.status, probed.status):
        reason = f"it casts to {dtype} by name, whatever it is given: {NO_ROOM}"
        followed = replace(followed, status="undecided", reason=reason)
        probed = Identity("undecided", 3, probed.compared, reason)
    alike = parameters is None or parameters[0].keys() == parameters[1].keys()
    if rounding.status == "proven" and alike:
        assert budget is not None  # nothing was rounded without
        with precision.plain(device):
            programs = {probe: probing, dtype: program}
            called, other = _otherwise_called(following, programs, probe, budget, own)
            other.append(
                apart_without_proof(
                    twice,
                    partial(following.called, probe, second=True),
                    partial(following.direct, probe, probe),
                )
            )
        moved = [*moved, *other]
        if called.status != "proven":
            rounding = replace(rounding, status=called.status, reason=called.reason)
    astray = probed.status == "undecided" and probed.reason.startswith(NOT_ITSELF)
    if astray and followed.status == "refuted":  # whoever is held against what is wrong is not
        followed = replace(followed, status="undecided")
    followed, shown = _settled(
        followed, probed, rounding, program, [probing.difference, twice.difference, *moved], budget,
        lambda known: show(
            candidate, oracle, known, dtype=dtype, device=device, second=second,
            numbers=followed.numbers,
        ),
    )  # fmt: skip
    if COMPILERS in trust and followed.compiled:
        assumed = (*assumed, f"{COMPILERS}: a compiled program does what was written")
    if structure.status == "refuted" and probed.status == "refuted":
        structure = replace(structure, reason=f"{structure.reason}: {probed.reason}")
    same = {followed.status, probed.status, rounding.status, direct.status} <= {"proven"}
    parts = [
        structure_part(structure),
        *([] if parameters is None else [parameters_part(*parameters, same=same)]),
        *(Part("as it is called", "undecided", text) for text in doubts[:1]),
        premise_part(followed, (twice if second else program).held),
        Part("S2 basis", basis.status, basis.reason),
        identity_part(probed, budget, probe, second=second),
        rounding_part(rounding, direct=direct),
        *(rounding_part(found, "S3 under TF32") for found in under),
    ]
    found = record(
        name, parts, spec.to_dict(), dtype, device, budget, flags, rounding,
        probed.counterexample or shown.counterexample,
        (*taken_for_granted(followed), *assumed), second=second,
    )  # fmt: skip
    found = replace(found, trace=followed.trace)
    if found.verdict == "undecided" and astray:
        return replace(found, reason=probed.reason)  # whatever else is open, this is why
    if found.verdict == "refuted" and followed.late:  # a smaller case would be another state
        return replace(found, cause=f"{followed.reason} ({followed.line})")
    if found.verdict == "refuted" and explain and (parameters is None or probed.status != "proven"):
        found = _explained(found, candidate, reference, spec, edges, probe, device)
    if structure.status == "refuted" and found.smallest_case is None:
        return _without_a_number(found, "S0 structure")
    return found


def _otherwise_called(
    follows: Follows,
    programs: Mapping[torch.dtype, OneProgram],
    probe: torch.dtype,
    budget: draws.Budget,
    own: OwnParameters | None,
) -> tuple[Rounding, list[str]]:
    """What comes out and what is open where another program runs than the plain one."""
    dtype, found = follows.dtype, Rounding("proven")
    if dtype != probe:
        found = call_in_every_manner(
            follows.candidate, programs[dtype], follows.oracle,
            np.random.Generator(np.random.Philox(budget.seed)), dtype, follows.device, own,
        )  # fmt: skip
    return found, [
        apart_without_proof(
            one, partial(follows.called, kind), partial(follows.direct, kind, probe)
        )
        for kind, one in programs.items()
    ]


def _as_held(
    own: OwnParameters,
    parameters: tuple[Parameters, Parameters],
    oracle: Oracle,
    budget: draws.Budget,
    found: Identity,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Identity:
    """Two functions of their parameters that hold other ones may be one function of the image."""
    one, two = ({n: p.detach() for n, p in side.items()} for side in parameters)
    alike = one.keys() == two.keys() == ({"weight", "bias"} if oracle.spec.bias else {"weight"})
    if not alike or all(torch.equal(one[n], two[n]) for n in one):
        return found
    generator = np.random.Generator(np.random.Philox(budget.seed))
    x, *_, g = (t.double().numpy() for t in drawn(generator, oracle, dtype, 0))
    w, b = (two[n].double().cpu().numpy() if n in two else None for n in ("weight", "bias"))
    assert w is not None
    limit = bounds(oracle, x, w, b, g, dtype).y
    try:
        with torch.no_grad():
            y = own.run(torch.from_numpy(x).to(device, dtype)).double().cpu().numpy()
    except (Exception, SystemExit):  # noqa: BLE001 - what it raises has been reported
        return found
    if y.shape != oracle.y_shape or not (np.abs(y - oracle.convolve(x, w, b)) <= 2 * limit).all():
        return found
    reason = (
        "it is another function of its parameters and holds other numbers in them; with what both "
        "hold, the outputs agree within rounding on the images that were tried"
    )
    return Identity("undecided", 3, found.compared, reason)


def _settled(
    followed: Premise,
    probed: Identity,
    rounding: Rounding,
    program: OneProgram,
    others: list[str],
    budget: draws.Budget | None,
    show_it: Callable[[draws.Budget], Identity | None],
) -> tuple[Premise, Identity]:
    """What S1 comes to once all runs are over, and the input that shows it: a refusal needs one.

    `others`: what runs did beside those that `program` held, in words.
    """
    nothing = Identity("not asked", 3)
    followed = followed.afterwards()
    other = next(filter(None, [program.difference, *others]), "")
    if followed.status in ("proven", "not asked") and other:
        return replace(followed, status="undecided", reason=other), nothing
    if followed.status == "proven" and followed.compiled and COMPILERS not in program.trust:
        reason = (
            "something is compiled: it was followed as it is written, and the compiled program was "
            f"probed and cannot be followed; trust=({COMPILERS!r},) takes compilers for granted"
        )
        return replace(followed, status="undecided", reason=reason), nothing
    if followed.status != "refuted" or "refuted" in (probed.status, rounding.status):
        return followed, nothing
    with watched():
        shown = None if budget is None else show_it(budget)
    if shown is not None and shown.status == "refuted":
        return replace(followed, reason=f"{followed.reason}: {shown.reason}"), shown
    reason = (
        f"{followed.reason}; no input was found on which that makes a difference, so it may be "
        "the same function on finite numbers: write it without, or name it in trust="
    )
    return replace(followed, status="undecided", reason=reason), nothing


def _without_a_number(found: Certificate, name: str) -> Certificate:
    """A part that refutes, and no input that shows it: undecided, unless another part has one."""
    if any(part.status == "refuted" and part.name != name for part in found.parts):
        return found
    parts = tuple(replace(p, status="undecided") if p.name == name else p for p in found.parts)
    return replace(found, parts=parts, verdict="undecided", cause="")


def _explained(
    found: Certificate,
    candidate: Run,
    reference: Run,
    spec: ConvSpec,
    edges: Callable[[], EdgeLists] | None,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Certificate:
    """Add the smallest case and the likely cause, where random integers show one."""
    try:
        with precision.plain(device), watched():
            case = explain_refutation(
                candidate, reference, spec, edges=edges, dtype=dtype, device=device
            )
    except (Exception, SystemExit):  # noqa: BLE001 - a side that raises on smaller cases has none
        return found
    if case is None:
        return found
    smallest_case = json.loads(json.dumps(case.to_dict()))
    return replace(
        found,
        cause=case.cause,
        counterexample={**found.counterexample, "smallest": smallest_case},
    )


def _basis(
    candidate: Run,
    reference: Run,
    spec: ConvSpec,
    identity: str,
    small: Pair | None,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Identity:
    """S2(a) where it was asked for, or where it is cheap."""
    if identity == "probabilistic":
        return Identity("not asked", 3)
    if spec.space is not None:
        return Identity("not asked", 3, reason="a space has no small geometry of the same kind")
    if small is None and identity == "auto":
        return Identity("not asked", 3, reason="no smaller geometry of the same kind was given")
    little = smallest(spec)
    many = calls(little)
    if identity == "auto" and many > CALLS:
        return Identity("not asked", 3, reason=f"it would take {many} calls; S2 probes instead")
    other = "undecided" if identity == "deterministic" else "not asked"
    try:
        one, two = (candidate, reference) if small is None else small(little)
        found = check_basis(one, two, little, dtype=dtype, device=device)
    except WrongShapeError as error:
        return Identity(other, 3, reason=f"made for one geometry: at size {little.size} {error}")
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a side raises is what is reported
        reason = f"made for one geometry: at size {little.size} {raised('candidate', error)}"
        return Identity(other, 3, reason=reason)
    if found.status != "proven":
        return found
    facts = f"{many} calls at size {little.size}, {found.compared} entries, nothing left to chance"
    return replace(found, reason=facts)
