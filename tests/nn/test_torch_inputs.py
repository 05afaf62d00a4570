"""PyTorch's own test inputs, run through the library: every sample passes or is refused by name.

Three collections that ship with torch: the inputs of its modules, the older table of module tests,
and the samples and error inputs of its functions. The reference runs on the same memory layout as
the rows of a graph (channels-last), where the same kernels answer bit for bit; a linear operator
may otherwise differ by the rounding that its summands allow, and a norm by that of its statistics.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import convgraph as cg
from convgraph.proof import dot_bound
from tests.torch_inputs import ADAPTERS, LINEAR, page, refused

with warnings.catch_warnings():
    # torch's private test modules warn about optional packages when they are imported.
    warnings.simplefilter("ignore")
    from torch.testing._internal import common_nn
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db
# They also forbid everybody to set torch.backends' flags for the rest of the process.
torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = True

pytestmark = [
    # The samples of torch's own tests reach deprecated corners of torch on purpose.
    pytest.mark.filterwarnings("ignore"),
]

PREFIX = "nn.functional."
OPS = [
    op for op in op_db if op.name.startswith(PREFIX) and op.name.removeprefix(PREFIX) in ADAPTERS
]
MODULES = [m for m in module_db if hasattr(cg.nn, f"Graph{m.module_cls.__name__}")]
TABLE = [
    test
    for test in [*common_nn.module_tests, *common_nn.get_new_module_tests()]
    if hasattr(cg.nn, f"Graph{test.get('module_name')}")
]


def op_id(op: Any) -> str:
    return f"{op.name.removeprefix('nn.functional.')} {op.variant_test_name}".strip()


def leaves_of(value: Any) -> list[Tensor]:
    """The differentiable tensors among arguments."""
    if isinstance(value, Tensor):
        return [value] if value.requires_grad else []
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [leaf for one in value for leaf in leaves_of(one)]
    return []


def rows_first(image: Tensor, d: int) -> Tensor:
    """The same image with its channels next to each other in memory, as node features lie."""
    channel = image.dim() - d - 1
    if channel < 0:
        return image
    return image.movedim(channel, -1).contiguous().movedim(-1, channel)


def first(found: Any) -> Tensor:
    return found[0] if isinstance(found, tuple) else found


def compare(
    name: str, found: Any, expected: Any, magnitude: Any, leaves: list[Tensor], shadow: list[Tensor]
) -> None:
    """Values and gradients, bit for bit; linear operators within n u of their absolute sums.

    Args:
        name: of the function.
        found: the library's answer, one tensor or (values, indices).
        expected: torch's.
        magnitude: torch's answer on absolute values, or None where only equality will do.
        leaves: what found and expected depend on.
        shadow: absolute values of the leaves, on which `magnitude` depends.
    """
    if isinstance(expected, tuple):
        assert torch.equal(found[1], expected[1]), f"{name}: indices differ"
    y, truth = first(found), first(expected)
    assert y.shape == truth.shape, (name, y.shape, truth.shape)
    assert y.dtype == truth.dtype, name
    pairs: list[Any] = [
        (y.detach(), truth.detach(), None if magnitude is None else first(magnitude).detach())
    ]
    if truth.requires_grad and truth.numel():
        g = torch.rand_like(truth)
        ours = torch.autograd.grad(y, leaves, g, allow_unused=True)
        theirs = torch.autograd.grad(truth, leaves, g, allow_unused=True)
        sizes: Any = [None] * len(leaves)
        if magnitude is not None:
            sizes = torch.autograd.grad(first(magnitude), shadow, g.abs(), allow_unused=True)
        elif "norm" in name:
            eps = (
                1e-5
                if "'eps'" not in name
                else float(name.split("'eps': ")[1].split("}")[0].split(",")[0])
            )
            value, *sizes = norm_sizes(leaves[0], max(eps, 1e-12), g, leaves[1:])
            pairs[0] = (y.detach(), truth.detach(), value)
        pairs += list(zip(ours, theirs, sizes, strict=True))
    terms = max([truth.numel(), *(leaf.numel() for leaf in leaves)]) + 1
    for a, b, size in pairs:
        close(name, a, b, size, terms)


def close(name: str, a: Tensor | None, b: Tensor | None, size: Tensor | None, terms: int) -> None:
    """Equal bit for bit, NaN included, or within twice the bound of sums of that size."""
    if a is None or b is None:
        only = b if a is None else a
        assert only is None or not only.any(), f"{name}: one side has no gradient"
        return
    assert torch.equal(a.isnan(), b.isnan()), name
    a, b = a.nan_to_num(), b.nan_to_num()
    if not torch.equal(a, b):
        assert size is not None, f"{name}: not bit-equal, by {(a - b).abs().max()}"
        bound = 2 * torch.as_tensor(dot_bound(terms, a.dtype, size.double().numpy()))
        assert ((a - b).abs() <= bound).all(), name


def norm_sizes(image: Tensor, eps: float, g: Tensor, parameters: list[Tensor]) -> list[Tensor]:
    """What the rounding errors of a norm and of its gradients are relative to.

    A value is (x - mean) / sigma * w + b with sigma >= sqrt(eps); its mean and variance are sums of
    at most n terms, each off by n u of at most (2 |x|)^2 / sigma^2. A gradient multiplies three
    such factors and sums n of them again. Loose where sigma is large; the norms have tests of
    their own.
    """
    n = image.numel()
    if n == 0:
        return [torch.zeros(())] * (2 + len(parameters))
    weight = max([1.0, *(p.detach().abs().max().item() for p in parameters if p.numel())])
    reach = 1 + 2 * image.detach().abs().max().item() / eps**0.5
    y = reach**2 * weight * 8
    grad = reach**3 * weight * n * 8 * g.abs().max().item()
    return [torch.as_tensor(y), *[torch.as_tensor(grad / eps**0.5)] * (1 + len(parameters))]


def absolute(value: Any) -> Any:
    """The same arguments with absolute values in their floating tensors."""
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            return value
        return value.detach().abs().requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        return {key: absolute(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(absolute(one) for one in value)
    return value


def axes_of(name: str, image: Tensor) -> int:
    """Lattice axes of a function's input."""
    for d in (1, 2, 3):
        if name.endswith(f"{d}d"):
            return d
    return 2 if name in ("unfold", "pixel_shuffle", "pixel_unshuffle") else image.dim() - 2


@pytest.mark.parametrize("op", OPS, ids=op_id)
def test_samples_of_functions(op: Any) -> None:
    name = op.name.removeprefix("nn.functional.")
    passed = named = 0
    for sample in op.sample_inputs("cpu", torch.float64, requires_grad=True):
        image, args, kwargs = sample.input, sample.args, sample.kwargs
        leaves = leaves_of([image, args, kwargs])
        # Norms update their running statistics: each side needs its own.
        kept = [a.clone() if isinstance(a, Tensor) and not a.requires_grad else a for a in args]
        try:
            found = ADAPTERS[name](image, *kept, **kwargs)
        except cg.errors.ConvgraphError as error:
            entry, text = refused(name, error), str(error)
        else:
            entry, text = None, ""
        if text:
            assert entry, f"{name}{args}{kwargs}: refused, and not in the table: {text}"
            named += 1
            continue
        expected = op.op(rows_first(image, axes_of(name, image)), *args, **kwargs)
        magnitude, shadow = None, []
        if any(part in name for part in LINEAR) and kwargs.get("mode") != "bicubic":
            x, a, k = absolute(image), absolute(args), absolute(kwargs)
            magnitude, shadow = op.op(x, *a, **k), leaves_of([x, a, k])
        compare(f"{name} {args} {kwargs}", found, expected, magnitude, leaves, shadow)
        passed += 1
    assert passed + named > 0
    assert passed > 0 or op.variant_test_name == "area", f"{name}: every sample was refused"


WITH_ERRORS = [op for op in OPS if op.error_inputs_func is not None]


@pytest.mark.parametrize("op", WITH_ERRORS, ids=op_id)
def test_what_torch_refuses_is_refused(op: Any) -> None:
    name = op.name.removeprefix("nn.functional.")
    for wrong in op.error_inputs("cpu"):
        sample = wrong.sample_input
        try:
            found = ADAPTERS[name](sample.input, *sample.args, **sample.kwargs)
        except (cg.errors.ConvgraphError, RuntimeError, ValueError, TypeError):
            continue
        # Without channels there is nothing to pool, and nothing comes back.
        assert first(found).numel() == 0, f"{name}{sample.args}{sample.kwargs} was not refused"


OTHER_DTYPES = [
    pytest.param(op, dtype, id=f"{op_id(op)} {dtype}")
    for op in OPS
    for dtype in (torch.complex128, torch.int64)
    if dtype in op.supported_dtypes("cpu")
]


@pytest.mark.parametrize(("op", "dtype"), OTHER_DTYPES)
def test_other_dtypes_agree_or_are_refused_by_name(op: Any, dtype: torch.dtype) -> None:
    name = op.name.removeprefix("nn.functional.")
    sample = next(iter(op.sample_inputs("cpu", dtype)))
    try:
        found, error = ADAPTERS[name](sample.input, *sample.args, **sample.kwargs), None
    except cg.errors.ConvgraphError as seen:
        found, error = None, seen
    if error is not None:
        assert refused(name, error), str(error)
    else:
        expected = first(op.op(sample.input, *sample.args, **sample.kwargs))
        assert torch.equal(first(found), expected), f"{name}{sample.args}{sample.kwargs}"


def run_module(dense: torch.nn.Module, image: Tensor, *rest: Any) -> None:
    """One module against its graph form on one image."""
    kind = type(dense).__name__
    try:
        layer = getattr(cg.nn, f"Graph{kind}").from_dense(dense)
    except cg.errors.ConvgraphError as error:
        raise RefusedError(str(error)) from error
    if "Norm" in kind and image.dim() < 3 and not kind.startswith("Instance"):
        raise RefusedError(f"input of shape {tuple(image.shape)} is no image")
    if kind == "LayerNorm" and tuple(dense.normalized_shape) != tuple(image.shape[1:]):
        # Torch normalizes the last axes of whatever comes, a graph its channels or whole images.
        raise RefusedError(f"normalized_shape={dense.normalized_shape}")
    d = next((d for d in (1, 2, 3) if kind.endswith(f"{d}d")), None)
    if d is None:
        d = 2 if kind.startswith(("Pixel", "Unfold", "Flatten")) else image.dim() - 2
    image = image.detach().clone().requires_grad_()
    try:
        out = layer(cg.PixelGraph.from_image(image, d=d), *rest)
        found = out.to_image() if isinstance(out, cg.PixelGraph) else (
            out[0].to_image(), out[0].with_x(out[1].double()).to_image().long()
        )  # fmt: skip
    except cg.errors.ConvgraphError as error:
        raise RefusedError(str(error)) from error
    if kind == "Flatten":
        found = found.reshape(len(image), -1)
    # For one image torch's instance norm answers a channels-last gradient wrongly: the reference
    # is then torch on its own layout, gradient included.
    alone = kind.startswith("Instance") and (image.dim() == d + 1 or image.shape[0] == 1)
    expected = dense(image if alone else rows_first(image, d), *rest)
    parameters = list(dense.parameters())
    mine = list(layer.parameters())
    g = torch.rand(first(expected).shape, dtype=torch.float64)
    magnitude, shadow = None, []
    if kind.startswith(("Conv", "AvgPool", "AdaptiveAvg")):
        twin = type(layer).from_dense(dense).to_dense()
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.abs_()
        x = image.detach().abs().requires_grad_()
        magnitude, shadow = twin(x), [x, *twin.parameters()]
    ours = torch.autograd.grad(first(found), [image, *mine], g)
    theirs = torch.autograd.grad(first(expected), [image, *parameters], g)
    sizes: Any = [None] * len(ours)
    if magnitude is not None:
        sizes = [magnitude.detach(), *torch.autograd.grad(magnitude, shadow, g.abs())]
    elif "Norm" in kind:
        sizes = norm_sizes(image, dense.eps, g, parameters)
    else:
        sizes = [None, *sizes]
    terms = max(first(expected).numel(), *(leaf.numel() for leaf in [image, *parameters])) + 1
    values = zip([first(found), *ours], [first(expected), *theirs], sizes, strict=True)
    for a, b, size in values:
        close(kind, a, b, size, terms)


class RefusedError(Exception):
    """The library refused an input; the caller looks it up in the table."""


def outcome(name: str, dense: torch.nn.Module, image: Tensor, *rest: Any) -> bool:
    """True if the module agrees, False if it was refused as the table says."""
    try:
        run_module(dense, image, *rest)
    except RefusedError as error:
        text: Exception | None = error
    else:
        text = None
    if text is None:
        return True
    functional = {"LayerNorm": "layer_norm", "GroupNorm": "group_norm"}.get(name, name)
    functional = "batch_norm" if "BatchNorm" in name else functional
    assert refused(functional, text), f"{name}: {text}"
    return False


def inputs_of(info: Any, training: bool) -> Iterator[tuple[torch.nn.Module, tuple[Any, ...]]]:
    for found in info.module_inputs_func(
        info, device="cpu", dtype=torch.float64, requires_grad=True, training=training
    ):
        built = found.constructor_input
        dense = info.module_cls(*built.args, **built.kwargs).double().train(training)
        yield dense, found.forward_input.args


@pytest.mark.parametrize("info", MODULES, ids=lambda m: m.module_cls.__name__)
def test_inputs_of_modules(info: Any) -> None:
    passed = named = 0
    for training in (True, False):
        for dense, (image, *rest) in inputs_of(info, training):
            if outcome(info.module_cls.__name__, dense, image, *rest):
                passed += 1
            else:
                named += 1
    assert passed > 0, f"{named} refused, none passed"


@pytest.mark.parametrize("test", TABLE, ids=lambda t: f"{t['module_name']} {t.get('desc', '')}")
def test_the_older_table_of_modules(test: dict[str, Any]) -> None:
    arguments = test.get("constructor_args", ())
    if "constructor_args_fn" in test:
        arguments = test["constructor_args_fn"]()
    dense = getattr(torch.nn, test["module_name"])(*arguments).double()
    image = (test["input_fn"]() if "input_fn" in test else torch.rand(test["input_size"])).double()
    outcome(test["module_name"], dense, image)


def test_the_collections_are_not_empty() -> None:
    assert len(OPS) >= 35
    assert len(WITH_ERRORS) >= 16
    assert len(OTHER_DTYPES) >= 20
    assert len(MODULES) >= 29
    assert len(TABLE) >= 40
    missing = set(ADAPTERS) - {op.name.removeprefix("nn.functional.") for op in OPS}
    assert not missing


def test_the_page_of_refusals_is_up_to_date() -> None:
    path = Path(__file__).parents[2] / "docs" / "refused.md"
    assert path.read_text(encoding="utf-8") == page(), "run: python -m tests.torch_inputs"
