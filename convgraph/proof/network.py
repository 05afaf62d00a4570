"""The proof of a whole network: parameters, wiring, a certificate per layer, and a run end to end.

    parameters     every parameter and buffer, bit for bit
    wiring         every operator reads the same elements on both sides, and is the same operator
    layers         each convolution and linear map carries its own certificate
    end to end     measured error of one run beside a bound that was propagated through the network

Receives two modules and what calls them, and never learns what they are made of. May import the
other files of proof and errors.
"""

import copy
import json
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from convgraph.errors import ProofError
from convgraph.proof import draws, precision
from convgraph.proof.certificate import NOT_COVERED, Certificate, Part
from convgraph.proof.match import Different, Matcher, Reference
from convgraph.proof.numbers import Numbering, Undecided
from convgraph.proof.running import RunningBound
from convgraph.proof.wiring import CONVOLUTION, Layer, Node, called, states, trace

ASSUMED = (
    "the wiring is the one recorded on these images: control flow that depends on data is outside, "
    "and no value leaves torch and comes back",
    "one operator of torch with one set of arguments is one function, whatever the memory layout",
    "exp, erf and tanh err by at most two units of roundoff, for the running bound alone",
)
MEASURED_ONLY = "measured only"

Images = tuple[Tensor, ...]


@final
@dataclass(frozen=True)
class Side:
    """One of the two networks.

    Attributes:
        net: its modules and parameters, by path.
        run: (net, images, shapes of the reference's outputs or None) -> output tensors.
        layers: by path, modules that are convolutions as wholes.
    """

    net: torch.nn.Module
    run: Callable[[torch.nn.Module, Images, Any], list[Tensor]]
    layers: Mapping[str, Layer] = field(default_factory=dict)

    def by_id(self, paths: Any) -> dict[int, Layer]:
        """The layers among these paths, by their module's id."""
        return {
            id(self.net.get_submodule(path)): layer
            for path, layer in self.layers.items()
            if path in paths
        }


Certify = Callable[[Node, Node, str], tuple[Any, Callable[[], Certificate]] | None]
"""(reference node, candidate node, path of its weight's owner) -> a key of what is proven, and how;
None where a node needs no certificate of its own."""


def prove_network(
    candidate: Side,
    reference: Side,
    images: Images,
    certify: Certify,
    *,
    name: str,
    progress: bool = False,
) -> Certificate:
    """Prove two networks the same.

    Args:
        candidate: the accused.
        reference: the dense network.
        images: what both are run on, at least two images.
        certify: proves one layer.
        name: of the candidate, for the record.
        progress: show a progress bar.

    Returns:
        A Certificate of kind "network" with one certificate per layer.
    """
    device = images[0].device
    floating = [t for _, t in states(reference.net) if t.is_floating_point()]
    dtype = (floating or list(images))[0].dtype
    with precision.plain(device), _unchanged(candidate.net, reference.net), _bar(progress) as step:
        parts = [_parameters(candidate.net, reference.net)]
        step("wiring", 1)
        wiring, matcher, difference = _wiring(candidate, reference, images)
        parts.append(wiring)
        layers: list[Certificate] = []
        if matcher is not None:
            layers = _layers(matcher, reference, certify, step)
            parts += [_layers_part(layers), _operators_part(matcher)]
        step("end to end", 1)
        end, rho = _end_to_end(candidate, reference, images)
        parts.append(end)
        if difference is not None:
            parts[1] = _settled(wiring, difference, end, candidate, reference, images)
    verdict, reason = _verdict(parts, layers)
    return Certificate(
        name=name,
        verdict=verdict,
        reason=reason,
        parts=tuple(parts),
        spec={"images": [list(i.shape) for i in images], "layers": len(layers),
              "operators": 0 if matcher is None else len(matcher.pairs)},
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        seed=layers[0].seed if layers else 0,
        a=0,
        trials=0,
        log2_epsilon=max((layer.log2_epsilon for layer in layers), default=0.0),
        epsilon=max((layer.epsilon for layer in layers), default=draws.EPSILON),
        rho=rho,
        versions={
            "torch": torch.__version__, "numpy": np.__version__,
            "python": platform.python_version(),
        },
        flags=precision.stated(device),
        assumed=tuple(dict.fromkeys((*ASSUMED, *(a for one in layers for a in one.assumed)))),
        not_covered=NOT_COVERED,
        kind="network",
        layers=tuple(layers),
    )  # fmt: skip


# -- parameters ------------------------------------------------------------------------------------


def _parameters(candidate: torch.nn.Module, reference: torch.nn.Module) -> Part:
    one, two = dict(states(candidate)), dict(states(reference))
    for name in sorted({*one, *two}):
        if name not in one or name not in two:
            side = "reference" if name in two else "candidate"
            return Part("parameters", "refuted", f"{name!r} is on the {side} alone")
        a, b = one[name], two[name]
        if a.shape != b.shape or a.dtype != b.dtype or not _equal(a, b):
            return Part(
                "parameters", "refuted", f"{name!r} differs; copy it first, e.g. by load_state_dict"
            )
    count = sum(t.numel() for t in two.values())
    return Part("parameters", "proven", f"{len(two)} tensors, {count} numbers, bit for bit")


def _equal(a: Tensor, b: Tensor) -> bool:
    """The same bits: a NaN equals itself."""
    return bool(torch.equal(a, b)) or bool(
        ((a == b) | ((a != a) & (b != b))).all()  # noqa: PLR0124
    )


# -- wiring ----------------------------------------------------------------------------------------


def _wiring(
    candidate: Side, reference: Side, images: Images
) -> tuple[Part, Matcher | None, Different | None]:
    numbering = Numbering()
    found = Reference(numbering)
    try:
        whole = called(candidate.net, lambda: candidate.run(candidate.net, images, None))
        paths = {path for path in candidate.layers if path in whole}
        shapes: list[tuple[int, ...]] = []

        def dense(inputs: Images) -> list[Tensor]:
            outputs = reference.run(reference.net, inputs, None)
            shapes.extend(tuple(t.shape) for t in outputs)
            return outputs

        inputs = tuple(image.clone() for image in images)
        one = trace(reference.net, dense, inputs, numbering, reference.by_id(paths), found.settle)
        matcher = Matcher(found)
        inputs = tuple(image.clone() for image in images)
        two = trace(
            candidate.net,
            lambda given: candidate.run(candidate.net, given, shapes),
            inputs, numbering, candidate.by_id(paths), matcher.settle,
        )  # fmt: skip
        matcher.finish(one, two)
    except Undecided as reason:
        return Part("wiring", "undecided", str(reason)), None, None
    except Different as difference:
        return Part("wiring", "undecided", str(difference)), None, difference
    facts = f"{len(matcher.pairs)} operators, each reads the same elements on both sides"
    return Part("wiring", "proven", facts), matcher, None


def _settled(
    wiring: Part,
    difference: Different,
    end: Part,
    candidate: Side,
    reference: Side,
    images: Images,
) -> Part:
    """Other wiring refutes once a number shows that it is another function."""
    if end.status == "refuted":
        return replace(wiring, status="refuted", facts=f"{wiring.facts}; {end.facts}")
    shown = _apart(difference)
    if not shown:
        try:
            sides = [replace(s, net=copy.deepcopy(s.net).double()) for s in (candidate, reference)]
            wide, _ = _end_to_end(sides[0], sides[1], tuple(i.double() for i in images))
        except Exception:  # a network that cannot be copied is judged in its own dtype alone
            wide = end
        if wide.status == "refuted":
            shown = f"in float64, {wide.facts}"
    if shown:
        return replace(wiring, status="refuted", facts=f"{wiring.facts}; {shown}")
    return replace(
        wiring,
        facts=f"{wiring.facts}; on these images the outputs do not show it, so it may be the same "
        "function written otherwise (cg.excite makes constants that start at zero show)",
    )


def _apart(difference: Different) -> str:
    """Run both operators on numbers of the judge's own, where both received the same elements."""
    one, two = difference.reference, difference.candidate
    if not difference.alike or one is None or two is None or not (one.call and two.call):
        return ""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for place, numbers in enumerate(one.inputs):
        drawn = torch.randn(tuple(numbers.shape), generator=generator, dtype=torch.float64)
        first = place == 0 and len(one.inputs) < 4  # norms take their input somewhere else
        inputs.append(8 * drawn if first else drawn.abs() + 0.5)
    outputs, bounds = [], []
    for node in (one, two):
        watch = RunningBound(torch.nn.Module())
        call: Any = node.call
        try:
            made = watch.run(lambda call=call: call(*inputs))
        except (RuntimeError, TypeError, Undecided):
            return ""
        made = made[0] if isinstance(made, (tuple, list)) else made
        if watch.missing:
            return ""
        outputs.append(made)
        bounds.append(watch.bound(made))
    if outputs[0].shape != outputs[1].shape:
        return f"they make {tuple(outputs[0].shape)} and {tuple(outputs[1].shape)}"
    gap = (outputs[0] - outputs[1]).abs() - bounds[0] - bounds[1]
    if not bool((gap > 0).any()):
        return ""
    at = int(gap.reshape(-1).argmax())
    values = [float(out.reshape(-1)[at]) for out in outputs]
    return f"on one input the reference's gives {values[0]:.6g}, the candidate's {values[1]:.6g}"


# -- layers ----------------------------------------------------------------------------------------


def _layers(
    matcher: Matcher, reference: Side, certify: Certify, step: Callable[[str, int], None]
) -> list[Certificate]:
    owners = {
        base: name.rpartition(".")[0]
        for name, (base, _) in reversed(list(matcher.reference.numbering.names.items()))
    }
    wanted = []
    for one, two in matcher.pairs:
        weight = [owners[n.base] for n in one.inputs[1:] if getattr(n, "base", None) in owners]
        asked = certify(one, two, weight[0] if weight else "")
        if asked is not None:
            wanted.append((one.path or (weight[0] if weight else ""), *asked))
    done: dict[str, Certificate] = {}
    layers = []
    for path, key, how in wanted:
        text = json.dumps(key, sort_keys=True, default=str)
        if text not in done:
            step(f"layer {path}", len({json.dumps(k, sort_keys=True, default=str)
                                        for _, k, _ in wanted}))  # fmt: skip
            done[text] = how()
        layers.append(
            replace(done[text], name=f"{path or '(the network itself)'}: {done[text].name}")
        )
    return layers


def _layers_part(layers: list[Certificate]) -> Part:
    if not layers:
        return Part("layers", "not asked", "there is no convolution and no linear map")
    bad = next(
        (c for wanted in ("refuted", "undecided") for c in layers if c.verdict == wanted), None
    )
    if bad is not None:
        return Part("layers", bad.verdict, f"{bad.name}: {bad.reason}")
    distinct = len({json.dumps(c.spec, sort_keys=True) + c.name.partition(": ")[2] for c in layers})
    worst = max(c.log2_epsilon for c in layers)
    return Part(
        "layers",
        "proven",
        f"{len(layers)} layers of {distinct} configurations, one certificate each; epsilon <= "
        f"2^{worst:.0f} per configuration",
    )


def _operators_part(matcher: Matcher) -> Part:
    kinds = Counter(one.name for one, _ in matcher.pairs if one.name != CONVOLUTION)
    if not kinds:
        return Part("operators", "not asked", "there are layers alone")
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return Part("operators", "proven", f"the same operator, the same arguments: {told}")


# -- end to end ------------------------------------------------------------------------------------


def _end_to_end(candidate: Side, reference: Side, images: Images) -> tuple[Part, dict[str, float]]:
    """Measure one run, beside the bound of the reference."""
    watch = RunningBound(reference.net)
    fresh = tuple(image.clone() for image in images)
    one = watch.run(lambda: reference.run(reference.net, fresh, None))
    with torch.no_grad():
        fresh = tuple(image.clone() for image in images)
        two = candidate.run(candidate.net, fresh, [tuple(t.shape) for t in one])
    name = "end to end"
    if [t.shape for t in one] != [t.shape for t in two]:
        shapes = [tuple(t.shape) for t in one], [tuple(t.shape) for t in two]
        return Part(name, "refuted", f"outputs of {shapes[0]} against {shapes[1]}"), {}
    gaps = [(a.double() - b.double()).abs() for a, b in zip(one, two, strict=True)]
    error = max((float(g.max()) for g in gaps if g.numel()), default=0.0)
    if watch.missing:
        return Part(name, MEASURED_ONLY, f"error {error:.3g}; no bound: {watch.missing}"), {}
    limits = [2 * watch.bound(t) for t in one]
    largest = max((float(m.max()) for m in limits if m.numel()), default=0.0)
    if not np.isfinite(largest):
        return Part(name, MEASURED_ONLY, f"error {error:.3g}; the bound is infinite"), {}
    rho = 0.0
    for place, (gap, limit) in enumerate(zip(gaps, limits, strict=True)):
        if not gap.numel():
            continue
        ratio = torch.where(gap == 0, 0.0, gap / limit)
        rho = max(rho, float(ratio.max()))
        if not bool((ratio <= 1).all()):
            at = int(ratio.reshape(-1).argmax())
            index = [int(i) for i in np.unravel_index(at, tuple(gap.shape))]
            a, b = float(one[place].reshape(-1)[at]), float(two[place].reshape(-1)[at])
            return Part(
                name, "refuted", f"output {place} at {index} is {a:.9g} on the reference and "
                f"{b:.9g} on the candidate; rounding explains {float(limit.reshape(-1)[at]):.2g}",
            ), {"y": float(ratio.max())}  # fmt: skip
    scale = max((float(t.abs().max()) for t in one if t.numel()), default=0.0)
    return Part(
        name, "proven",
        f"measured error {error:.3g}, running bound {largest:.3g}, largest output {scale:.3g}",
    ), {"y": rho}  # fmt: skip


# -- around ----------------------------------------------------------------------------------------


def _verdict(parts: list[Part], layers: list[Certificate]) -> tuple[str, str]:
    order = {"layers": 0, "parameters": 1, "wiring": 2, "operators": 3, "end to end": 4}
    for status in ("refuted", "undecided"):
        bad = sorted((p for p in parts if p.status == status), key=lambda p: order[p.name])
        if bad:
            return status, bad[0].facts
    return "proven", ""


@contextmanager
def _unchanged(*nets: torch.nn.Module) -> Iterator[None]:
    """Put buffers back that a run in training mode moves."""
    before = [{n: b.detach().clone() for n, b in net.named_buffers()} for net in nets]
    try:
        yield
    finally:
        with torch.no_grad():
            for net, kept in zip(nets, before, strict=True):
                for name, buffer in net.named_buffers():
                    if name in kept and buffer.shape == kept[name].shape:
                        buffer.copy_(kept[name])


@contextmanager
def _bar(shown: bool) -> Iterator[Callable[[str, int], None]]:
    """A progress bar: the parts, and one step for each distinct layer."""
    if not shown:
        yield lambda text, steps: None
        return
    with Progress(transient=True) as bar:
        task = bar.add_task("parameters", total=3)

        def step(text: str, steps: int) -> None:
            bar.update(task, description=text, total=steps + 2, advance=1)

        yield step


def checked_images(images: Any) -> Images:
    """Return images as a tuple of tensors.

    Raises:
        ProofError: none, no tensor, or fewer than two images.
    """
    found = images if isinstance(images, (tuple, list)) else (images,)
    if not found or not all(isinstance(image, Tensor) for image in found):
        kinds = [type(image).__name__ for image in found]
        raise ProofError(f"prove: expected images as a tensor or a tuple of tensors, got {kinds}")
    if found[0].dim() < 2 or found[0].shape[0] < 2:
        raise ProofError(
            f"prove: expected at least two images, so that a fault of the second one shows, got "
            f"{tuple(found[0].shape)}"
        )
    return tuple(image.detach() for image in found)
