"""A proof between two things that have names, so that its record can be run again elsewhere.

The command line and the pytest plugin both come here: "module:object" is imported, `cg.prove` is
called, and the names go into the record. May import prove, sides and proof.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from convgraph.errors import ProofError
from convgraph.nn import GraphConv
from convgraph.proof import EPSILON, Certificate
from convgraph.proof.certificate import importable
from convgraph.proof.verifier import resolve
from convgraph.prove import prove
from convgraph.sides import AsNodes


def certify(
    candidate: Any,
    reference: Any,
    *,
    size: Sequence[int],
    batch: int = 2,
    mask: Tensor | None = None,  # (batch, *size) or (*size) bool
    sites: Tensor | None = None,  # (batch, *output_size) bool
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    epsilon: float = EPSILON,
    seed: int | None = None,
    progress: bool = False,
) -> Certificate:
    """Prove two things the same, and keep in the record by which names they can be imported.

    Args:
        candidate: the accused, or its "module:object". A class or a function without parameters
            is a factory: it is called, after `torch.manual_seed(0)`.
        reference: the dense operator, or its "module:object".
        size: pixels of each image along each axis.
        batch: images, at least two.
        mask: which pixels are nodes; None for all.
        sites: names the output sites; None lets the rule decide.
        dtype: to which modules are moved first; None leaves them.
        device: the same.
        epsilon: the most that a wrong "proven" may be probable.
        seed: replays a recorded run.
        progress: show a progress bar.

    Returns:
        A Certificate that `convgraph verify` can run again if both sides have names.

    Raises:
        ImportError: a name leads nowhere.
        ProofError: the pair is none that can be compared.

    Example:
        >>> import convgraph as cg
        >>> conv = torch.nn.Conv2d(1, 2, 3)
        >>> certify(cg.nn.GraphConv2d.from_dense(conv), conv, size=(5, 5)).adapter["candidate"]
        'convgraph.sides:graph'
    """
    (one, name), (two, other) = _named(candidate), _named(reference)
    for side in (one, two):
        if isinstance(side, torch.nn.Module):
            side.to(device=device, dtype=dtype)
    found = prove(
        one, two, size=size, batch=batch, mask=mask, sites=sites, epsilon=epsilon, seed=seed,
        progress=progress,
    )  # fmt: skip
    how = found.adapter or {
        "candidate": _adapter(one, named=sites is not None),
        "reference": _adapter(two, named=False),
    }
    told = [f"{adapter} calls its side as it is" for adapter in how.values() if ":" in adapter]
    more = [line for line in dict.fromkeys(told) if line not in found.assumed]
    return replace(
        found,
        name=repr(one) if isinstance(one, torch.nn.Module) else name or found.name,
        candidate=found.candidate or name,
        reference=found.reference or other,
        adapter=how,
        assumed=(*found.assumed, *more),
    )


def replay(certificate: Certificate) -> list[str]:
    """Let the prover itself run a record again, and name the fields that come out otherwise.

    The verifier trusts nothing of the prover and therefore leaves some fields alone (the premise
    and its trace, typed edges, wording); here every field must be the same again.

    Args:
        certificate: a record of one convolution whose sides can be imported.

    Raises:
        ImportError: a name leads nowhere.
        ProofError: the pair is none that can be compared.
    """
    spec = certificate.spec
    masks = {end: spec.get(f"{end}_mask") for end in ("source", "target")}
    mask, sites = (None if m is None else torch.tensor(m) > 0 for m in masks.values())
    named = certificate.adapter.get("candidate") == "convgraph.sides:sites"
    again = certify(
        certificate.candidate,
        certificate.reference,
        size=spec["size"],
        batch=spec["batch"],
        mask=mask,
        sites=sites if named else None,
        dtype=getattr(torch, certificate.dtype),
        device=certificate.device.partition(" (")[0],
        epsilon=certificate.epsilon,
        seed=certificate.seed,
    )
    return [
        entry.name
        for entry in fields(certificate)
        if entry.name != "digest" and getattr(again, entry.name) != getattr(certificate, entry.name)
    ]


def _named(side: Any) -> tuple[Any, str]:
    """What was passed, imported if it is a name, and its name where it has one."""
    if not isinstance(side, str):
        return side, importable(side)
    if ":" not in side:
        raise ImportError(f"expected module:object, got {side!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            found = resolve(side)
        except TypeError as error:
            raise ProofError(f"{side}: cannot be built without arguments ({error})") from error
    if not callable(found):
        raise ProofError(f"{side}: expected a module or a function, got {type(found).__name__}")
    return found, side


def _adapter(side: Any, named: bool) -> str:
    if isinstance(side, AsNodes):
        return "convgraph.sides:nodes"
    if isinstance(side, GraphConv):
        return f"convgraph.sides:{'sites' if named else 'graph'}"
    return "convgraph.sides:image" if isinstance(side, torch.nn.Module) else "function"
