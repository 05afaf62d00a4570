"""Random convolutions agree with torch and with the integer oracle, gradients included.

Seven hundred in CI, half of them in `make test`.

Every argument of every layer in one to three dimensions, on full grids, masks, named sites and
ragged batches, on every backend that accepts the case: bit for bit on integers, and within the
derived bound on real numbers in four dtypes. The truth on a mask is the dense operator on the image
whose absent pixels are 0, restricted to the output sites. (Pools, resizes, rearrangements and norms
have random cases of their own beside their other tests.)
"""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, event, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

import convgraph as cg
from convgraph.backends import onednn
from convgraph.proof import Oracle, bounds
from tests.cases import CONV_BACKENDS, ran
from tests.strategies import Case, cases, images_of, layer_of, spec_of

pytestmark = pytest.mark.slow

BACKENDS = CONV_BACKENDS
SERVED: dict[str, int] = dict.fromkeys(BACKENDS, 0)


def by_torch(layer: cg.nn.GraphConvNd, image: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """The dense operator on one image (C, *size); uneven pads are padded by hand."""
    g, d = layer.geometry, layer.geometry.d
    x = image.unsqueeze(0)
    if g.transposed:
        pads = tuple(a for a, _ in g.padding)
        run = getattr(F, f"conv_transpose{d}d")
        y = run(x, w, b, g.stride, pads, g.output_padding, layer.groups, g.dilation)
    else:
        mode = "constant" if g.padding_mode == "zeros" else g.padding_mode
        x = F.pad(x, [n for pair in reversed(g.padding) for n in pair], mode=mode)
        y = getattr(F, f"conv{d}d")(x, w, b, g.stride, 0, g.dilation, layer.groups)
    return y.squeeze(0)


def prepared(
    case: Case, dtype: torch.dtype
) -> tuple[cg.nn.GraphConvNd, list[Tensor], Any, list[Tensor]]:
    """Build layer, images, masks and torch's outputs; refusals on both sides must agree."""
    images, masks = images_of(case)
    try:
        layer = layer_of(case, dtype)
    except cg.errors.GeometryError:
        # What the constructor refuses, torch refuses when it builds or runs the layer.
        kind = "ConvTranspose" if case.transposed else "Conv"
        options = case.options
        if isinstance(options["padding"], tuple) and isinstance(options["padding"][0], tuple):
            assume(False)
        with pytest.raises((ValueError, RuntimeError)):
            getattr(torch.nn, f"{kind}{case.d}d")(**options)(images[0].float())
        event("refused by both when built")
        assume(False)
    parameters = [torch.randint(-3, 4, p.shape).to(dtype) for p in layer.parameters()]
    with torch.no_grad():
        for parameter, value in zip(layer.parameters(), parameters, strict=True):
            parameter.copy_(value)
    w, b = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    try:
        outputs = [by_torch(layer, image.to(dtype), w, b) for image in images]
        if any(n == 0 for y in outputs for n in y.shape):
            raise RuntimeError("torch answers a transposed convolution of no size with no pixels")
    except RuntimeError:
        with pytest.raises(cg.errors.GeometryError):
            layer(cg.PixelGraph.from_image(images, masks, d=case.d).to(dtype))
        event("refused by both when run")
        assume(False)
    return layer, images, masks, outputs


def graph_of(case: Case, images: list[Tensor], masks: list[Tensor] | None) -> cg.PixelGraph:
    """One batch of equal sizes, or a ragged one."""
    if len(set(case.sizes)) > 1:
        return cg.PixelGraph.from_image(images, masks, d=case.d)
    mask = None if masks is None else torch.stack(masks)
    return cg.PixelGraph.from_image(torch.stack(images), mask, d=case.d)


def expected_sites(
    case: Case, layer: cg.nn.GraphConvNd, masks: list[Tensor] | None, named: Tensor | None,
    outputs: list[Tensor],
) -> list[Tensor | None]:  # fmt: skip
    """The output sites by the rule, from the oracle's edges; None where every site is one."""
    if named is not None:
        return list(named)
    if masks is None:
        return [None] * len(outputs)
    same = set(layer.stride) == {1} and all(
        tuple(y.shape[1:]) == size for y, size in zip(outputs, case.sizes, strict=True)
    )
    if same:
        return list(masks)
    if all(mask.all() for mask in masks):
        return [None] * len(outputs)
    found = []
    for mask, size, y in zip(masks, case.sizes, outputs, strict=True):
        oracle = Oracle(spec_of(case, layer, size, mask, None))
        found.append(torch.from_numpy(oracle.in_degree() > 0).view(y.shape[1:]))
    return found


def serving(layer: cg.nn.GraphConvNd, graph: cg.PixelGraph, named: Tensor | None) -> list[str]:
    options = cg.backends.options(layer.problem(graph, named))
    names = [option.name for option in options if option.refusal is None]
    assert {"gather", "messages"} <= set(names)
    for name in names:
        SERVED[name] += 1
    return names


@pytest.mark.parametrize("examples", [350, pytest.param(375, marks=pytest.mark.ci)])
def test_integers_agree_bit_for_bit_three_ways(examples: int) -> None:
    """Where the same are drawn every time, each share draws its own, not those of the other."""
    drawn = given(cases(), st.sampled_from([torch.float32, torch.float64]))(integers_agree)
    if settings().derandomize:
        drawn = seed(examples)(drawn)
    settings(max_examples=examples)(drawn)()


def integers_agree(case: Case, dtype: torch.dtype) -> None:
    """In float32 too, which oneDNN serves; but for the volumes that torch itself errs on there."""
    layer, images, masks, outputs = prepared(case, torch.float64)
    named = torch.rand(len(outputs), *outputs[0].shape[1:]) < 0.6 if case.named else None
    sites = expected_sites(case, layer, masks, named, outputs)
    heads = [torch.randint(-3, 4, y.shape).double() for y in outputs]
    w = layer.weight.detach().clone().requires_grad_()
    b = None if layer.bias is None else layer.bias.detach().clone().requires_grad_()
    leaves = [image.clone().requires_grad_() for image in images]
    truth = []
    for index, leaf in enumerate(leaves):
        seen = leaf if masks is None else torch.where(masks[index], leaf, 0)
        y = by_torch(layer, seen, w, b)
        truth.append(y if sites[index] is None else torch.where(sites[index], y, 0))
    parameters = [w] if b is None else [w, b]
    torch_grads = torch.autograd.grad(truth, [*leaves, *parameters], heads)
    oracle_grads = by_oracle(case, layer, images, masks, sites, truth, heads)
    assert all(torch.equal(a, o) for a, o in zip(torch_grads, oracle_grads, strict=True))
    if not any(deep(layer, size) for size in case.sizes):
        layer, images = layer.to(dtype), [image.to(dtype) for image in images]
    heads = [head.to(images[0].dtype) for head in heads]
    for name in serving(layer, graph_of(case, images, masks), named):
        sent = [image.clone().requires_grad_() for image in images]
        with cg.backend(name), ran(name):
            out = layer(graph_of(case, sent, masks), sites=named)
        found = out.to_images()
        assert all(torch.equal(f.double(), t) for f, t in zip(found, truth, strict=True)), name
        grads = torch.autograd.grad(found, [*sent, *layer.parameters()], heads, allow_unused=True)
        for grad, expected in zip(grads, torch_grads, strict=True):
            assert grad is not None, f"{name} lost a gradient"
            assert torch.equal(grad.double(), expected), name
    event(f"{case.d}-D, {'ragged' if len(set(case.sizes)) > 1 else 'uniform'}")


def deep(layer: cg.nn.GraphConvNd, size: tuple[int, ...]) -> bool:
    """Whether a volume, or the one that is made, is no deeper than its padding; see refused.md."""
    g = layer.geometry
    pads = tuple(max(pair) for pair in g.padding)
    return any(onednn.is_deep(one, g.stride, pads) for one in (size, g.output_size(size)))


def by_oracle(
    case: Case, layer: cg.nn.GraphConvNd, images: list[Tensor], masks: list[Tensor] | None,
    sites: list[Tensor | None], truth: list[Tensor], heads: list[Tensor],
) -> list[Tensor]:  # fmt: skip
    """Check the values, return the gradients: of each image, then of weight and bias."""
    w = layer.weight.detach().numpy()
    b = None if layer.bias is None else layer.bias.detach().numpy()
    grads_x, grad_w, grad_b = [], np.zeros_like(w), np.zeros(layer.out_channels)
    for index, image in enumerate(images):
        mask = None if masks is None else masks[index]
        oracle = Oracle(spec_of(case, layer, case.sizes[index], mask, sites[index]))
        x, g = image.unsqueeze(0).numpy(), heads[index].unsqueeze(0).numpy()
        assert np.array_equal(oracle.convolve(x, w, b)[0], truth[index].detach().numpy())
        grads_x.append(torch.from_numpy(oracle.grad_x(w, g)[0]))
        grad_w += oracle.grad_w(x, g)
        grad_b += oracle.grad_b(g)
    parameters = [torch.from_numpy(grad_w)]
    return [*grads_x, *parameters, *([] if b is None else [torch.from_numpy(grad_b)])]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@settings(max_examples=80)
@given(case=cases())
def test_real_numbers_agree_within_the_derived_bound(dtype: torch.dtype, case: Case) -> None:
    assume(len(set(case.sizes)) == 1)
    layer, images, masks, outputs = prepared(case, dtype)
    sites = expected_sites(case, layer, masks, None, outputs)
    x = torch.randn(len(images), *images[0].shape).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    mask = None if masks is None else torch.stack(masks)
    heads = torch.randn(len(outputs), *outputs[0].shape).to(dtype)
    arrays = [t.detach().double().numpy() for t in (x, layer.weight, heads)]
    bias = None if layer.bias is None else layer.bias.detach().double().numpy()
    # One spec for the whole batch, so that the bound of a weight's gradient counts every image.
    single = spec_of(case, layer, case.sizes[0], None, None)
    full = {**single.to_dict(), "batch": len(images)}
    full["source_mask"] = None if mask is None else mask.numpy()
    full["target_mask"] = None if sites[0] is None else torch.stack(sites).numpy()
    oracle = Oracle(type(single)(**full))
    limit = bounds(oracle, arrays[0], arrays[1], bias, arrays[2], dtype)
    exact = [oracle.convolve(arrays[0], arrays[1], bias), oracle.grad_x(arrays[1], arrays[2]),
             oracle.grad_w(arrays[0], arrays[2]), oracle.grad_b(arrays[2])]  # fmt: skip
    # The exact side is float64 itself: where that is the dtype judged, it may be off as much again.
    slack = 2 if dtype == torch.float64 else 1 + 2.0**-20
    for name in serving(layer, cg.PixelGraph.from_image(x, mask, d=case.d), None):
        leaf = x.clone().requires_grad_()
        with cg.backend(name), ran(name):
            out = layer(cg.PixelGraph.from_image(leaf, mask, d=case.d)).to_image()
        grads = torch.autograd.grad(out, [leaf, *layer.parameters()], heads)
        held = [limit.y, limit.grad_x, limit.grad_w, limit.grad_b]
        for found, truth, bound in zip([out, *grads], exact, held, strict=False):
            off = np.abs(found.detach().double().numpy() - truth)
            assert (off <= slack * np.broadcast_to(bound, off.shape)).all(), name


def test_every_backend_served_many_cases() -> None:
    """Runs last: a backend that refuses everything would pass the tests above."""
    if sum(SERVED.values()):
        assert min(SERVED.values()) > 50, SERVED
