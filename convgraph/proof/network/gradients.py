"""Gradients of a network: the backward program of both sides, node by node, as the forward one.

Both sides run forward and backward under the recorder, `.backward()` into `.grad`, so that hooks of
modules, tensors and parameters run too. Every operator of autograd is a node, and a layer that is
one node forward is one backward; gradients of images and parameters are outputs by name. A skip
that is cut, a reversed gradient, a backward of one's own or a hook is another program, and a number
decides what that comes to: a gradient that is missing where the reference's is none, or one that is
further off than the running bound allows.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convgraph.proof.network.end_to_end import MEASURED_ONLY, Images, NetworkSide
from convgraph.proof.network.match import Different, Matcher, Reference
from convgraph.proof.network.node import Layer
from convgraph.proof.network.recorder import trace
from convgraph.proof.network.running_error.bound import RunningBound
from convgraph.proof.network.value_numbers import Numbering, Undecided, Unordered
from convgraph.proof.record.certificate import Part

NAME = "gradients"
MISSING = "no bound"
NOT_ASKED = "gradients of the network, and of its layers within it"


def gradients(
    candidate: NetworkSide,
    reference: NetworkSide,
    images: Images,
    whole: Collection[str] = (),
    backward: str = "",
) -> Part:
    """Compare the backward programs, and their numbers where they differ.

    Args:
        candidate: the accused; wired as the reference forward.
        reference: the dense network.
        images: what both run on.
        whole: paths of the layers that are one node, on both sides.
        backward: why the two programs need not be one; numbers are then compared whatever differs,
            and where they show nothing the part is not asked.
    """
    made: dict[str, Tensor] = {}

    def counted(reason: Different | Undecided) -> Part:
        alike = "not asked" if backward else "undecided"
        found = _decided(str(reason), candidate, reference, images, heads, alike)
        return (
            replace(found, facts=f"{backward}: {found.facts}")
            if found.status == "not asked"
            else found
        )

    numbering = Numbering()
    settled = Reference(numbering)
    heads: list[Tensor] = []
    try:
        heads = _heads(reference, images)
        layers = {path: candidate.layers[path] for path in whole}
        one = _traced(reference, images, numbering, settled.settle, heads, layers)
        matcher = Matcher(settled)
        two = _traced(candidate, images, numbering, matcher.settle, heads, layers, made)
        _same_names(one, two)
        names = [_what(name) for name in one]
        matcher.finish(list(one.values()), [two[name] for name in one], names)
    except Different as difference:
        return counted(difference)
    except Unordered as reason:  # no rule, so numbers alone
        found = _decided(str(reason), candidate, reference, images, heads)
        return replace(found, status=MEASURED_ONLY if found.status == "undecided" else found.status)
    except Undecided as reason:
        return counted(reason) if backward else Part(NAME, "undecided", str(reason))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a side raises is what is reported
        text = " ".join(str(error).split())[:200]
        return Part(NAME, "undecided", f"backward raised {type(error).__name__}: {text}")
    count = len(matcher.pairs)
    facts = (
        f"{len(one)} values and gradients, {count} operators forward and backward, each the same"
    )
    other = _where_images_learn_nothing(candidate, reference, images, heads, made)
    return other or Part(NAME, "proven", f"{facts} and of the same elements")


def _where_images_learn_nothing(
    candidate: NetworkSide,
    reference: NetworkSide,
    images: Images,
    heads: list[Tensor],
    made: dict[str, Tensor],
) -> Part | None:
    """Run once as a first layer is trained; the gradients of parameters are to be the same."""
    difference = "where the images need no gradient"
    try:
        with _fresh_gradients(candidate.net), torch.enable_grad():
            found = _backward(candidate, tuple(i.clone() for i in images), heads, learn=False)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a side raises is what is reported
        text = " ".join(str(error).split())[:200]
        return Part(NAME, "undecided", f"{difference} it raised {type(error).__name__}: {text}")
    rest = [name for name in made if not name.startswith("image ")]
    if all(name in found and torch.equal(found[name], made[name]) for name in rest):
        return None
    part = _decided(difference, candidate, reference, images, heads, found=found)
    return part if part.status == "refuted" or MISSING in part.facts else None


def _what(name: str) -> str:
    return name if name.startswith("output ") else f"the gradient of {name!r}"


def _same_names(one: dict[str, Any], two: dict[str, Any]) -> None:
    for name in one:
        if name not in two:
            raise Different(f"there is no gradient of {name!r}", None, None)
    for name in two:
        if name not in one:
            raise Different(
                f"there is a gradient of {name!r}, and the reference has none", None, None
            )


def _traced(
    side: NetworkSide,
    images: Images,
    numbering: Numbering,
    settle: Any,
    heads: list[Tensor],
    layers: Mapping[str, Layer],
    made: dict[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Numbers of outputs and gradients by name; `made` is filled with their values."""
    made = {} if made is None else made

    def run(inputs: Any) -> list[Tensor]:
        made.update(_backward(side, inputs, heads))
        return list(made.values())

    whole = {id(side.net.get_submodule(path)): layer for path, layer in layers.items()}
    with _fresh_gradients(side.net):
        numbers, _ = trace(
            side.net, run, tuple(image.clone() for image in images), numbering, whole, settle,
            gradients=True, heads=heads,
        )  # fmt: skip
    return dict(zip(made, numbers, strict=True))


def _backward(
    side: NetworkSide, images: Images, heads: list[Tensor], *, learn: bool = True
) -> dict[str, Tensor]:
    """Outputs and gradients of one run; `heads` are the same for both, and images may need none."""
    leaves = [i.requires_grad_(learn) if i.is_floating_point() else i for i in images]
    shapes = [tuple(g.shape) for g in heads]
    outputs = side.run(side.net, tuple(leaf.clone() for leaf in leaves), shapes)
    pairs = [(y, g) for y, g in zip(outputs, heads, strict=True) if y.requires_grad]
    found = {f"output {place}": y.detach() for place, y in enumerate(outputs)}
    if pairs:
        torch.autograd.backward([y for y, _ in pairs], [g for _, g in pairs])
    for place, leaf in enumerate(leaves):
        if leaf.grad is not None:
            found[f"image {place}"] = leaf.grad
    for name, parameter in side.net.named_parameters():
        if parameter.grad is not None:
            found[name] = parameter.grad
    return found


def _heads(reference: NetworkSide, images: Images) -> list[Tensor]:
    """What is sent into each output: normal numbers."""
    with torch.no_grad():
        outputs = reference.run(reference.net, tuple(i.clone() for i in images), None)
    draw = np.random.default_rng(0).standard_normal
    return [torch.from_numpy(np.asarray(draw(tuple(y.shape)))).to(y) for y in outputs]


@contextmanager
def _fresh_gradients(net: torch.nn.Module) -> Iterator[None]:
    """Take `.grad` away for a block, and give it back."""
    before = [(p, p.grad) for p in net.parameters()]
    try:
        for parameter, _ in before:
            parameter.grad = None
        yield
    finally:
        for parameter, grad in before:
            parameter.grad = grad


def by_numbers(
    difference: str, candidate: NetworkSide, reference: NetworkSide, images: Images
) -> Part:
    """Compare the gradients of two networks of one set of parameters that are wired otherwise."""
    try:
        heads = _heads(reference, images)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a side raises is reported
        return Part(NAME, "undecided", f"{difference}; no number: {type(error).__name__}")
    return _decided(difference, candidate, reference, images, heads)


def _decided(
    difference: str,
    candidate: NetworkSide,
    reference: NetworkSide,
    images: Images,
    heads: list[Tensor],
    alike: str = "undecided",
    *,
    found: dict[str, Tensor] | None = None,
) -> Part:
    """Another backward program refutes once a number shows that it is another gradient.

    Args:
        difference: of the programs, in words.
        candidate: the accused.
        reference: the dense network.
        images: what both run on.
        heads: what is sent into each output.
        alike: the status where no number shows it.
        found: what the candidate made where the images need no gradient; without it, it is run
            where they do.
    """
    try:
        running = RunningBound(reference.net)

        def run() -> dict[str, Tensor]:
            inputs = tuple(i.clone() for i in images)
            return _backward(reference, inputs, heads, learn=found is None)

        with _fresh_gradients(reference.net):
            one = running.run(run, gradients=True)
            limits = {name: 2 * running.bound(t) for name, t in one.items()}
        with _fresh_gradients(candidate.net), torch.enable_grad():
            two = found or _backward(candidate, tuple(i.clone() for i in images), heads)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - likewise
        return Part(NAME, "undecided", f"{difference}; no number: {type(error).__name__}")
    for name in reversed(one):
        a = one[name].double()
        if name not in two:
            at = int(a.abs().reshape(-1).argmax()) if a.numel() else 0
            if a.numel() and float(a.reshape(-1)[at]):
                return Part(
                    NAME, "refuted", f"{difference}; {name!r} has no gradient on the candidate, "
                    f"entry {at} of the reference's is {float(a.reshape(-1)[at])!r}"
                )  # fmt: skip
            continue
        if running.missing:
            continue
        gap = (a - two[name].double()).abs()
        over = gap > limits[name]
        if bool(over.any()):
            at = int((gap - limits[name]).reshape(-1).argmax())
            values = float(two[name].reshape(-1)[at]), float(a.reshape(-1)[at])
            return Part(
                NAME, "refuted", f"{difference}; entry {at} of {_what(name)} is "
                f"{values[0]!r}, the reference's {values[1]!r}; rounding explains "
                f"{float(limits[name].reshape(-1)[at]):.2g}"
            )  # fmt: skip
    why = f"; {MISSING}: {running.missing}" if running.missing else "; the numbers do not show it"
    return Part(NAME, alike, f"{difference}{why}")
