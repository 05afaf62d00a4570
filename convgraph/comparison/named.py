"""A proof between two things that have names, so that its record can be run again elsewhere.

The command line and the pytest plugin both come here: "module:object" is imported, `cg.prove` is
called, and the names go into the record.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from convgraph.comparison.callers import AsNodes
from convgraph.comparison.linear_callers import takes_graph
from convgraph.comparison.networks import LAYERS
from convgraph.comparison.prove import prove
from convgraph.comparison.side_state import CONVOLUTIONS, TRANSPOSED
from convgraph.convert import to_graph
from convgraph.errors import ProofError
from convgraph.nn import GraphConvNd
from convgraph.proof import EPSILON, Certificate, ConvSpec
from convgraph.proof.record.certificate import NO_SECOND, importable, named
from convgraph.proof.verifier import bent, resolve
from convgraph.spaces import from_dict

ADAPTERS = (
    "convgraph:to_graph",
    *(
        f"convgraph.comparison.callers:{how}"
        for how in ("graph", "sites", "image", "nodes", "truth")
    ),
    "convgraph.comparison.linear_callers:graph",
    "convgraph.comparison.linear_callers:maximum",
    "convgraph.comparison.on_space:truth",
    "convgraph.proof.network.operator_layers:as_operator",
)
"""Names that a record may hold whoever wrote it: what the library itself calls a side by."""


def certify(
    candidate: Any,
    reference: Any,
    *,
    size: Sequence[int] | int | None = None,
    batch: int = 2,
    mask: Tensor | None = None,  # (batch, *size) or (*size) bool
    sites: Tensor | None = None,  # (batch, *output_size) bool
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    epsilon: float = EPSILON,
    seed: int | None = None,
    progress: bool = False,
    **more: Any,
) -> Certificate:
    """Prove two things the same, and keep in the record by which names they can be imported.

    Args:
        candidate: the accused, or its "module:object". A class or a function without parameters
            is a factory: it is called, after `torch.manual_seed(0)`; its module is imported after
            it too. None for the reference, made a graph network by `convgraph.to_graph`.
        reference: the dense operator or network, or its "module:object".
        size: pixels of each image along each axis; None where `images` or `spec` say it.
        batch: images, at least two.
        mask: which pixels are nodes; None for all.
        sites: names the output sites; None lets the rule decide.
        dtype: to which modules are moved first; None leaves them.
        device: the same.
        epsilon: the most that a wrong "proven" may be probable.
        seed: replays a recorded run; networks also run on images drawn from it.
        progress: show a progress bar.
        more: whatever else `convgraph.prove` takes: images, spec, premise, trust, identity, ...

    Returns:
        A Certificate that `convgraph verify` can run again if both sides have names; of a network,
        the certificates of its layers.

    Raises:
        ImportError: a name leads nowhere.
        ProofError: the pair is none that can be compared.

    Example:
        >>> import convgraph as cg
        >>> conv = torch.nn.Conv2d(1, 2, 3)
        >>> certify(cg.nn.GraphConv2d.from_dense(conv), conv, size=(5, 5)).adapter["candidate"]
        'convgraph.comparison.callers:graph'
    """
    two, other = _named(reference)
    if candidate is None:
        one, name = to_graph(two), other and f"convgraph:to_graph({other})"
    else:
        one, name = _named(candidate)
    for side in (one, two):
        if isinstance(side, torch.nn.Module):
            side.to(device=device, dtype=dtype)
    where: dict[str, Any] = {"size": size, "batch": batch}
    if (candidate is None or _is_network(two)) and "images" not in more:
        if size is None:
            raise ProofError("certify: expected size=(H, W) or images= for a network")
        where = {"images": _images(two, size, batch, seed)}
    found: Certificate = prove(
        one, two, **where, **more, mask=mask, sites=sites, epsilon=epsilon, seed=seed,
        progress=progress,
    )  # fmt: skip
    if found.kind == "network":
        layers = (
            named(layer, layer.adapter, name, other) if layer.adapter in LAYERS else layer
            for layer in found.layers
        )
        return replace(found, layers=tuple(layers), candidate=name, reference=other)
    how = found.adapter or {
        "candidate": _adapter(one, named=sites is not None),
        "reference": _adapter(two, named=False, lies=bent(found.spec)),
    }
    if found.kind == "maximum" and {"space", "source_mask"} & {*found.spec}:
        how["reference"] = "convgraph.comparison.linear_callers:maximum"
    shown = repr(one) if isinstance(one, torch.nn.Module) else name or found.name
    return replace(named(found, how, name, other), name=shown)


def replay(certificate: Certificate) -> list[str]:
    """Let the prover itself run a record again, and name the fields that come out otherwise.

    The verifier trusts nothing of the prover and therefore leaves some fields alone (the premise
    and its trace, typed edges, wording); here every field must be the same again.

    Args:
        certificate: a record of one operator whose sides can be imported.

    Raises:
        ImportError: a name leads nowhere.
        ProofError: the pair is none that can be compared.
    """
    spec = certificate.spec
    parts = {part.name: part for part in certificate.parts}
    more: dict[str, Any] = {
        "dtype": getattr(torch, certificate.dtype),
        "device": certificate.device.partition(" (")[0],
        "epsilon": certificate.epsilon,
        "seed": certificate.seed,
        "premise": parts["S1 premise"].status != "not asked",
    }
    masks = {end: spec.get(f"{end}_mask") for end in ("source", "target")}
    mask, sites = (None if m is None else torch.tensor(m) > 0 for m in masks.values())
    lies = {"mask": mask, "on": from_dict(spec.get("space"))}
    if certificate.kind == "convolution":
        basis = parts["S2 basis"]
        left = "auto" if basis.facts else "probabilistic"  # where it was not left out by itself
        more["identity"] = left if basis.status == "not asked" else "deterministic"
        more["second"] = NO_SECOND not in certificate.not_covered
        lies["footprint"] = spec.get("footprint")
        calls_sites = certificate.adapter.get("candidate") == "convgraph.comparison.callers:sites"
    else:
        more["images"] = torch.zeros(spec["shape"])
        calls_sites = True
    if certificate.kind == "linear":
        more["scale"] = spec["scale"]
    if certificate.adapter.get("reference") == "function":
        more["spec"] = ConvSpec.from_dict(spec)
    else:
        more |= lies | {"sites": sites if calls_sites else None}
    if "shape" not in spec:
        more |= {"size": spec["size"], "batch": spec["batch"]}
    again = certify(certificate.candidate, certificate.reference, **more)
    return [
        entry.name
        for entry in fields(certificate)
        if entry.name != "digest" and getattr(again, entry.name) != getattr(certificate, entry.name)
    ]


def _is_network(reference: Any) -> bool:
    """Whether a reference is more than one operator."""
    if not isinstance(reference, torch.nn.Module) or hasattr(reference, "kernel_size"):
        return False
    return bool([*reference.parameters()])


def _images(
    model: torch.nn.Module, size: Sequence[int] | int, batch: int, seed: int | None
) -> Tensor:  # (batch, C, *size)
    """Images that fit the first convolution of a network; one number is the size of every axis."""
    if isinstance(size, int):
        size = (size,) * next((p.ndim - 2 for p in model.parameters() if p.ndim > 2), 2)
    d = len(size)
    weight = next((p for p in model.parameters() if p.ndim == d + 2), None)
    first = next((m for m in model.modules() if getattr(m, "weight", 0) is weight), None)
    if weight is None or first is None:
        raise ProofError(
            f"{type(model).__name__}: expected a convolution of {d} axes in the model, found none"
        )
    channels = getattr(first, "in_channels", weight.shape[1])
    generator = torch.Generator().manual_seed(0 if seed is None else seed % 2**64)
    return torch.randn((batch, channels, *size), generator=generator).to(weight)


def _named(side: Any) -> tuple[Any, str]:
    """What was passed, imported if it is a name, and its name where it has one."""
    if not isinstance(side, str):
        return side, importable(side)
    if ":" not in side or side.startswith(".") or side.count("(") != side.count(")"):
        raise ImportError(f"expected module:object, got {side!r}")
    with torch.random.fork_rng(devices=[]):
        try:
            for module in filter(None, modules(side)):
                torch.manual_seed(0)
                import_module(module)  # first: a factory draws alike if somebody else imported it
            torch.manual_seed(0)
            found = resolve(side, [*ADAPTERS, *modules(side)])
        except TypeError as error:
            raise ProofError(f"{side}: cannot be built without arguments ({error})") from error
    if not callable(found):
        raise ProofError(f"{side}: expected a module or a function, got {type(found).__name__}")
    return found, side


def modules(name: str) -> list[str]:
    """Return the modules that a name leads to: of "m:f(n:g)" m and n."""
    return [part.partition(":")[0] for part in name.replace(")", "").split("(") if part]


def _adapter(side: Any, named: bool, lies: bool = False) -> str:
    if isinstance(side, AsNodes):
        return "convgraph.comparison.callers:nodes"
    if not isinstance(side, GraphConvNd) and takes_graph(side):
        return "convgraph.comparison.linear_callers:graph"
    if isinstance(side, GraphConvNd):
        return f"convgraph.comparison.callers:{'sites' if named else 'graph'}"
    if lies and not isinstance(side, (*CONVOLUTIONS, *TRANSPOSED)):
        return "convgraph.comparison.on_space:truth"
    image = f"convgraph.comparison.callers:{'truth' if lies else 'image'}"
    return image if isinstance(side, torch.nn.Module) else "function"
