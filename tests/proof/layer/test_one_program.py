"""One program, direct sums, and as it is called: each fault is caught, honest code is not."""

import random
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import convgraph as cg
from convgraph.errors import ProofError
from convgraph.proof import (
    Certificate,
    ConvSpec,
    Oracle,
    check_premise,
    prove_convolution,
    prove_linear,
)
from convgraph.proof.layer.direct import check_direct, counts
from convgraph.proof.layer.one_program import OneProgram, written_down
from convgraph.proof.layer.trial import manners_of
from convgraph.proof.surroundings import settings, watched
from tests.proof.faults.operators import APART, PLAIN, patches, plain


def prove(run: Callable[..., Any], **how: Any) -> Certificate:
    return prove_convolution(run, plain, PLAIN, seed=3, **how)


def prove_apart(run: Callable[..., Any], **how: Any) -> Certificate:
    """Of windows that do not meet, which every CPU proves in half types too."""
    return prove_convolution(run, patches, APART, seed=3, **how)


def status(found: Certificate, name: str) -> str:
    return next(part.status for part in found.parts if part.name.startswith(name))


# -- one program


def fast_path(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = plain(x, w, b)
    return y.clamp(-1e30, 1e30) if type(x) is Tensor else y


def fast_unless_watched(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = plain(x, w, b)
    return y if torch.overrides.has_torch_function((x, w, b)) else y.clamp(-1e30, 1e30)


def fallback(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = plain(x, w, b)
    try:
        torch._C.TensorBase.numpy(x.detach())
    except Exception:  # noqa: BLE001 - that is the fault
        return y
    return y.clamp(-1e30, 1e30)


class Late:
    """Sets things up in its first call, and is another function from the second on."""

    calls = 0

    def __call__(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        self.calls += 1
        y = plain(x, w, b)
        return y if self.calls == 1 else y.clamp(-1e30, 1e30)


def drops(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return plain(x, w, b) * (random.random() >= 1e-9)


def drops_by_numpy(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return plain(x, w, b) * float(np.random.rand() >= 1e-9)  # noqa: NPY002 - that is the fault


def leaves_unless_watched(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Looks at numbers in NumPy where no function mode can see it."""
    y = plain(x, w, b)
    watched = torch.overrides.has_torch_function((x, w, b))
    return y if watched or np.abs(y.detach().numpy()).max() < 1e30 else 2 * y


@pytest.mark.parametrize(
    "run",
    [
        fast_path,
        fast_unless_watched,
        leaves_unless_watched,
        fallback,
        Late(),
        drops,
        drops_by_numpy,
    ],
)
def test_another_program_than_was_followed_is_undecided(run: Callable[..., Any]) -> None:
    found = prove(run)
    assert found.verdict == "undecided", str(found)
    assert status(found, "S1") == "undecided"


@pytest.mark.parametrize("alone", [(), ("b",)])
def test_numbers_are_seen_to_leave_in_a_manner_that_is_called_once(alone: tuple[str, ...]) -> None:
    """Where all that is sent is frozen but `alone`."""

    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        asks = [name for name, t in (("x", x), ("w", w), ("b", b)) if t.requires_grad]
        return leaves_unless_watched(x, w, b) if tuple(asks) == alone else plain(x, w, b)

    found = prove(run)
    assert found.verdict == "undecided", str(found)
    assert "it runs Tensor.numpy" in found.reason


def beside_a_constant(y: Tensor, wrong: bool) -> Tensor:
    """Loses what is far smaller than 1, by the operators and shapes of one that loses nothing."""
    beside = torch.ones(()) if wrong else torch.zeros(())
    return y + beside - beside


def beside_a_neighbour(y: Tensor, wrong: bool, by: float = 2.0**-30) -> Tensor:
    """The same, and by the same constants too: what is put together is another."""
    near, none = y.detach().roll(1) * by, y.detach() * 0
    beside = near if wrong else none
    return y + beside - beside


def is_plain(x: Tensor) -> bool:
    return type(x) in (Tensor, torch.nn.Parameter)


def is_unwatched(x: Tensor) -> bool:
    return not torch.overrides.has_torch_function((x,))


@pytest.mark.parametrize("tells", [is_plain, is_unwatched])
@pytest.mark.parametrize("lossy", [beside_a_constant, beside_a_neighbour])
def test_one_list_of_operators_may_be_two_programs(
    tells: Callable[[Tensor], bool], lossy: Callable[[Tensor, bool], Tensor]
) -> None:
    """Integers come out as they are, and drawn numbers are within the bound."""

    def run(tells: Callable[[Tensor], bool]) -> Certificate:
        return prove(lambda x, w, b: lossy(plain(x, w, b), tells(x)), dtype=torch.float64)

    found = run(tells)
    assert found.verdict == "undecided", str(found)
    assert "is made of other operands or constants by the same operators" in found.reason
    assert "tests/proof/layer/test_one_program.py" in found.reason
    assert run(lambda x: False).verdict == "proven"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_a_half_type_adds_up_is_what_was_counted(dtype: torch.dtype) -> None:
    """Where it is counted, in float32, nothing is lost."""

    def run(other: torch.dtype) -> Certificate:
        return prove_apart(
            lambda x, w, b: beside_a_neighbour(
                patches(x.float(), w.float(), b.float()), x.dtype == other, by=1
            ).to(x.dtype),
            dtype=dtype,
        )

    found = run(dtype)
    assert found.verdict != "proven"  # some numbers may show it
    facts = next(part.facts for part in found.parts if part.name.startswith("S1"))
    assert facts.startswith("behaves otherwise in half precision: y is made of other"), facts
    assert run(torch.float64).verdict == "proven"


def test_what_lies_where_data_lay_is_no_data() -> None:
    with written_down() as mode:
        for _ in range(20):
            mode.enter(torch.rand(4))  # and let it go
            assert not mode.holds_data(torch.empty(4))


def test_the_operator_and_its_line_are_told() -> None:
    reason = prove(fast_path).reason
    assert reason.startswith("behaves otherwise when it is followed: it runs aten.clamp")
    assert "tests/proof/layer/test_one_program.py" in reason


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_branch_in_half_precision_is_not_proven(dtype: torch.dtype) -> None:
    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return plain(x, w.clamp(-100, 100) if x.dtype == dtype else w, b)

    assert prove(run, dtype=dtype).verdict != "proven"


def halves(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Adds up two products in the dtype of the image."""
    two = [x[:, c : c + 1] * w[:, c, 0, 0].view(1, -1, 1, 1) for c in range(2)]
    return two[0] + two[1] + b.view(1, -1, 1, 1)


def biased_behind(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Casts what came of float32, and adds the bias behind that."""
    y = torch.nn.functional.conv2d(x.float(), w.float()).to(x.dtype)
    return y + b.view(1, -1, 1, 1)


def put_together(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Adds up in float32, image by image; halves what comes out and adds 0."""
    y = x.new_zeros(2, 1, 3, 4)
    for image in range(2):
        one = x[image : image + 1].float() * 2
        y[image : image + 1] = torch.nn.functional.conv2d(one, w.float(), b.float() * 2)
    return y * torch.tensor(0.5).to(x.dtype) + torch.zeros(1).to(x.dtype)


def by_groups(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Group by group; gradients of slices are added up, and no two of them meet."""
    parts = zip(x.split(2, 1), w.split(2), b.split(2), strict=True)
    return torch.cat([patches(*part) for part in parts], 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_of_what_does_not_meet_round_nothing(dtype: torch.dtype) -> None:
    def proof(run: Callable[..., Tensor]) -> Certificate:
        return prove_convolution(run, by_groups, replace(APART, groups=2), dtype=dtype)

    assert proof(by_groups).verdict == "proven"

    def meets(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y = by_groups(x, w, b)
        one = torch.nn.functional.pad(y[:, :, :1], (0, 0, 0, 1))  # a row that the other lacks
        return (y + one) - one

    found = proof(meets)
    assert found.verdict != "proven"
    assert found.reason.startswith("entries of y are rounded to")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kernel", "backend"), [(1, None), (1, "masked"), (3, "masked")])
def test_layers_on_a_mask_are_proven_in_half_types(
    dtype: torch.dtype, kernel: int, backend: str | None
) -> None:
    dense = torch.nn.Conv2d(2, 3, kernel, padding=kernel // 2).to(dtype)
    layer = cg.nn.GraphConv2d.from_dense(dense)
    mask = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(1)) > 0.4
    with nullcontext() if backend is None else cg.backend(backend):
        found = cg.prove(layer, dense, size=(4, 5), mask=mask)
    assert found.verdict == "proven", str(found)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("run", [halves, biased_behind])
def test_what_is_rounded_twice_to_a_half_type_is_undecided(run: Any, dtype: torch.dtype) -> None:
    """Random numbers of few entries are within the bound in most draws."""
    spec = ConvSpec(2, 1, (1, 1), (3, 4))
    found = prove_convolution(run, torch.nn.functional.conv2d, spec, dtype=dtype, seed=7)
    assert found.verdict == "undecided", str(found)
    assert f"are rounded to {dtype} more than once on the way" in found.reason


def test_moves_and_powers_of_two_round_nothing() -> None:
    shapes = {"x": (2, 2, 3, 4), "w": (1, 2, 1, 1), "b": (1,)}
    found = check_premise(put_together, shapes, dtype=torch.bfloat16)
    assert found.rounded["y"] == 1, found
    assert check_premise(halves, shapes, dtype=torch.bfloat16).rounded["y"] == 3


def unfolded(x: Tensor, w: Tensor, step: int) -> Tensor:
    """Every patch of four pixels times the weights."""
    cells = torch.nn.functional.unfold(x, 2, stride=step).transpose(1, 2)
    out = [(n - 2) // step + 1 for n in x.shape[2:]]
    return (cells.flatten(0, 1) @ w.flatten(1).t()).view(len(x), *out, -1).movedim(-1, 1)


LONE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "patches that do not meet": lambda x, w: unfolded(x, w, 2),
    "a sum over one": lambda x, w: torch.nn.functional.conv2d(x.unsqueeze(0).sum(0), w, stride=2),
    "zeros put, not added": lambda x, w: torch.nn.functional.conv2d(
        x.scatter(2, torch.zeros(2, 2, 1, 4, dtype=torch.int64), 0.0), w, stride=2
    ),
}


@pytest.mark.parametrize("name", LONE)
def test_one_number_alone_is_no_sum(name: str) -> None:
    """What is put together of one entry each is rounded by nobody."""
    shapes = {"x": (2, 2, 4, 4), "w": (3, 2, 2, 2)}
    found = check_premise(LONE[name], shapes, dtype=torch.bfloat16)
    assert (found.status, max(found.rounded.values())) == ("proven", 1), found


def test_patches_that_meet_are_added_one_by_one() -> None:
    shapes = {"x": (2, 2, 4, 4), "w": (3, 2, 2, 2)}
    found = check_premise(lambda x, w: unfolded(x, w, 1), shapes, dtype=torch.bfloat16)
    assert found.rounded["grad_x"] == 4, found  # a product, and three of the four sums


# -- direct sums


def adds_and_takes_away(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = plain(x, w, b)
    other = y.roll(1, 1)
    return (y + other) - other


class Across(torch.autograd.Function):
    """Right forward; backward adds another image's gradient and takes it away again."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return (g + g.flip(0)) - g.flip(0)


class Shrunk(torch.autograd.Function):
    """Right forward; a gradient that underflows on its way."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return (g * 2.0**-100) * 2.0**100


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (adds_and_takes_away, "no direct sum: y"),
        (lambda x, w, b: Across.apply(plain(x, w, b)), "no direct sum: grad_x"),
        (lambda x, w, b: Shrunk.apply(plain(x, w, b)), "numbers shrink by 2^-100"),
    ],
)
def test_what_is_no_direct_sum_has_no_bound(run: Callable[..., Any], why: str) -> None:
    oracle = Oracle(PLAIN)
    shapes = {"x": PLAIN.x_shape, "w": PLAIN.w_shape, "b": (PLAIN.out_channels,)}
    followed = check_premise(run, shapes)
    direct = check_direct(followed, counts(oracle), oracle.terms(), torch.float64)
    assert (direct.status, why in direct.reason) == ("undecided", True), direct
    found = prove(run)  # on data of spread size the first two are off by many times their bound
    assert found.verdict != "proven", str(found)
    assert status(found, "S2 identity") == "proven"


@pytest.mark.parametrize(
    ("dtype", "verdict"), [(torch.float64, "proven"), (torch.float16, "undecided")]
)
def test_what_shrinks_on_the_way_widens_the_bound(dtype: torch.dtype, verdict: str) -> None:
    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return plain(x * 2.0**-10, w, None) * 2.0**10 + b.view(1, -1, 1, 1)

    found = prove(run, dtype=dtype)
    facts = next(part.facts for part in found.parts if part.name == "S3 rounding")
    assert (found.verdict, "2^10 times" in facts) == (verdict, verdict == "proven"), str(found)
    assert "2^" not in next(p.facts for p in prove(plain).parts if p.name == "S3 rounding")


def test_a_difference_may_be_a_direct_sum() -> None:
    found = prove(lambda x, w, b: -(plain(-x, w, None)) - (-b).view(1, -1, 1, 1))
    assert found.verdict == "proven", str(found)


# -- as it is called


class Remembers:
    """Answers anew only if one of the tensors is another object."""

    def __init__(self) -> None:
        self.kept: Any = None

    def __call__(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if self.kept is not None and self.kept[0]() is x and self.kept[1]() is w:
            return self.kept[2]
        y = plain(x, w, b)
        self.kept = (weakref.ref(x), weakref.ref(w), y)
        return y


class Packs(torch.autograd.Function):
    """A kernel of weights that were packed before."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor, packed: Tensor) -> Tensor:
        ctx.save_for_backward(x, packed)
        return plain(x, packed, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        grads = torch.nn.grad.conv2d_input, torch.nn.grad.conv2d_weight
        by = grads[0](x.shape, w, g, padding=1), grads[1](x, w.shape, g, padding=1)
        return *by, g.sum((0, 2, 3)), None


class KeepsOne:
    """Packs a weight once for as long as it is the tensor of the last call, of the same version."""

    key: Any = (None, 0)

    def __call__(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if self.key[0] is not w or self.key[1] != w._version:
            self.key, self.packed = (w, w._version), w.detach().clone()
        return Packs.apply(x, w, b, self.packed)


@pytest.mark.parametrize("epsilon", [1e-9, 2.0**-60, 2.0**-100])
def test_however_few_trials_the_second_refills_what_the_first_sent(epsilon: float) -> None:
    found = prove(KeepsOne(), epsilon=epsilon, explain=False)
    assert found.verdict == "refuted", str(found)
    assert found.counterexample["manner"] == "refilled"
    calls = [[manners_of(t, n, "xwb") for t in range(n)] for n in range(2, 20)]
    assert all((one[0], one[1][0]) == (["plain"], "refilled") for one in calls)
    several = [sorted(manner for turn in one for manner in turn) for one in calls[:8]]
    assert all(manners == several[0] for manners in several)  # and no turn is left out


class Counts(torch.autograd.Function):
    """The second walk of one graph is wrong."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        ctx.walks = 0
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        ctx.walks += 1
        return g * ctx.walks


class Versions(torch.autograd.Function):
    """Backward of a gradient that was written to is wrong."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g * (1.0 + (g._version > 0))


class Reads(torch.autograd.Function):
    """Backward takes g for contiguous, as a kernel does that asks for its address alone."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g.as_strided(g.shape, torch.empty(g.shape).stride())


class Sums:
    """Keeps the sum of a gradient for as long as it is the same object."""

    def __init__(self) -> None:
        self.kept: dict[int, Any] = {}

    def __call__(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        kept = self.kept

        class Bias(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, y: Tensor, b: Tensor) -> Tensor:
                return y + b.view(1, -1, 1, 1)

            @staticmethod
            def backward(ctx: Any, g: Tensor) -> Any:
                if id(g) not in kept:
                    kept[id(g)] = g, g.sum((0, 2, 3))  # and g itself, so that no other gets its id
                return g, kept[id(g)][1]

        y: Tensor = Bias.apply(torch.nn.functional.conv2d(x, w, padding=1), b)
        return y


MANNERS = {
    "x is no leaf": lambda x, w, b: plain(x, w, b) * (1.0 if x.is_leaf else 2.0),
    "w is frozen": lambda x, w, b: plain(x, w, b) * (1.0 if w.requires_grad else 2.0),
    "b is frozen": lambda x, w, b: plain(x, w, b) * (1.0 if b.requires_grad else 2.0),
    "tensors are refilled": Remembers(),
    "w is no leaf": lambda x, w, b: plain(x, w, b) * (1.0 if w.is_leaf else 2.0),
    "x is a parameter": lambda x, w, b: plain(x, w, b) * (1.0 + isinstance(x, torch.nn.Parameter)),
    "b has a gradient": lambda x, w, b: plain(x, w, b) * (1.0 + (b.is_leaf and b.grad is not None)),
    "x is a view": lambda x, w, b: plain(x, w, b) * (1.0 + x._is_view()),
    "x lies behind an offset": lambda x, w, b: plain(x, w, b) * (1.0 + (x.storage_offset() > 0)),
    "w lies otherwise": lambda x, w, b: plain(x, w, b) * (1.0 + (not w.is_contiguous())),
    "g is refilled": Sums(),
    "g lies otherwise": lambda x, w, b: Reads.apply(plain(x, w, b)),
    "a graph is walked twice": lambda x, w, b: Counts.apply(plain(x, w, b)),
    "w was written to": lambda x, w, b: plain(x, w, b) * (1.0 + (w._version > 0)),
    "g was written to": lambda x, w, b: Versions.apply(plain(x, w, b)),
}


@pytest.mark.parametrize("name", MANNERS)
def test_a_fault_of_one_way_of_calling_is_refuted(name: str) -> None:
    found = prove(MANNERS[name], explain=False)
    if name == "tensors are refilled":  # S1 sees first that it keeps what it was given
        assert found.verdict != "proven", str(found)
        return
    assert found.verdict == "refuted", str(found)
    assert "manner" in found.counterexample


def test_another_branch_for_what_was_written_to_is_undecided() -> None:
    """Of a version, as of no manner else, S1 sees nothing, and no integer comes near the clamp."""

    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y = plain(x, w, b)
        return y.clamp(-1e30, 1e30) if w._version else y

    found = prove(run)
    assert found.verdict == "undecided", str(found)
    assert "aten.clamp" in found.reason


class Flat(torch.autograd.Function):
    """Raises where g lies otherwise."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g.view(-1).view(g.shape)


def test_of_a_layout_that_it_refuses_nothing_is_said() -> None:
    found = prove(lambda *sent: Flat.apply(plain(*sent)), explain=False)
    assert found.verdict == "proven", str(found)
    assert any("memory layout" in text for text in found.not_covered)


def picky(*names: str, otherwise: Any = None, plainly: Any = plain) -> Any:
    """Refuses views of these, so that all tensors would never be views at once.

    Of the others it may get one, where it computes otherwise.
    """
    otherwise = otherwise or plainly

    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        lie = {"x": x, "w": w, "b": b}
        viewed = {name for name, tensor in lie.items() if tensor.storage_offset()}
        if viewed & {*names}:
            raise RuntimeError("expected a contiguous tensor")
        y: Tensor = (otherwise if viewed else plainly)(x, w, b)
        return Flat.apply(y) if "g" in names else y

    return run


def wipes(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = plain(x, w, b)
    with torch.no_grad():
        x.zero_()
    return y


ALONE = {
    "another number": (picky("x", otherwise=lambda x, w, b: plain(x, 2 * w, b)), "exactly it is"),
    "another shape": (picky("x", otherwise=lambda *sent: plain(*sent)[:1]), "y of shape (1"),
    "but one": (picky("x", "b", "g", otherwise=lambda *sent: plain(*sent)[:1]), "y of shape (1"),
    "another dtype": (
        picky("x", "b", "g", otherwise=lambda *sent: (2 * plain(*sent)).half()), "float16",
    ),
    "a clamp": (
        picky("x", otherwise=lambda *sent: plain(*sent).clamp(-1e30, 1e30)), "it runs aten.clamp",
    ),
    "a sum": (picky("x", otherwise=lambda *sent: around(*sent)), "no direct sum"),
    "an image is written to": (picky("w", otherwise=wipes), "writes to the image"),
}  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
def test_each_tensor_lies_otherwise_where_all_at_once_are_refused(name: str) -> None:
    """Integers, what numbers cannot see, and what is no number at all: of one view alone."""
    run, why = ALONE[name]
    found = prove(run, explain=False)
    assert found.verdict == "undecided", str(found)
    assert "a view of other memory for" in found.reason
    assert why in found.reason


@pytest.mark.parametrize("name", ["another number", "another shape", "but one", "another dtype"])
def test_nor_is_one_view_alone_forgotten_where_nothing_is_followed(name: str) -> None:
    found = prove(ALONE[name][0], explain=False, premise=False)
    assert found.verdict == "undecided", str(found)
    assert "a view of other memory for w alone" in found.reason


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("names", ["x", "w", "b", "xb", "xbg", "xwb"])
def test_who_refuses_views_and_is_right_is_proven(names: str, dtype: torch.dtype) -> None:
    """What the judge itself computes of the results is no step of the program."""
    found = prove_apart(picky(*names, plainly=patches), dtype=dtype)
    assert found.verdict == "proven", str(found)


@pytest.mark.parametrize("kind", ["AvgPool2d", "MaxPool2d"])
def test_a_pool_that_refuses_views_and_is_right_is_proven(kind: str) -> None:
    pool = getattr(torch.nn, kind)(2)

    def run(x: Tensor) -> Any:
        if not x.is_contiguous():
            raise RuntimeError("expected a contiguous image")
        return pool(x)

    found = cg.prove(run, pool, size=(4, 6))
    assert found.verdict == "proven", str(found)


def test_a_view_that_is_refused_once_only_is_not_left_out() -> None:
    """Whether it is taken then hangs on something else than the layout."""
    calls = []

    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if w.storage_offset() and not x.storage_offset():
            calls.append(w)
            if len(calls) == 1:
                raise RuntimeError("not now")
        return picky("x")(x, w, b)

    found = prove(run, explain=False, premise=False)
    assert found.verdict == "undecided", str(found)
    assert "not now" in found.reason


def test_a_flag_that_is_moved_before_it_raises_is_seen() -> None:
    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if x.storage_offset():
            torch.set_default_dtype(torch.float64)
            raise RuntimeError("expected a contiguous image")
        return plain(x, w, b)

    found = prove(run, explain=False)
    assert found.verdict == "undecided", str(found)
    assert "torch.get_default_dtype()" in found.reason


def test_a_result_without_numbers_is_refuted() -> None:
    """No number of it may be asked for: that would raise within the judge."""
    found = prove(lambda x, w, b: plain(x, w, b).to("meta"), explain=False)
    assert found.verdict == "refuted", str(found)
    assert "returned y on meta" in found.reason
    for kind in ("AvgPool2d", "MaxPool2d"):
        pool = getattr(torch.nn, kind)(2)
        found = cg.prove(lambda x, pool=pool: pool(x).to("meta"), pool, size=(4, 6))
        assert found.verdict == "refuted", str(found)


def test_a_result_of_another_layout_is_refuted() -> None:
    found = prove(lambda x, w, b: plain(x, w, b).to_sparse())
    assert found.verdict == "refuted"
    assert "layout torch.sparse_coo" in found.reason


FLAGS = {
    "torch.get_float32_matmul_precision()": lambda: torch.set_float32_matmul_precision("medium"),
    "torch.backends.mkldnn.enabled": lambda: torch._C._set_mkldnn_enabled(False),
    "torch.backends.cudnn.benchmark": lambda: torch._C._set_cudnn_benchmark(True),
    "torch.set_flush_denormal": lambda: torch.set_flush_denormal(True),
    "torch.get_default_dtype()": lambda: torch.set_default_dtype(torch.float64),
}


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("premise", [True, False])
def test_every_flag_is_watched_whether_a_program_is_followed_or_not(
    name: str, premise: bool
) -> None:
    if name == "torch.set_flush_denormal" and not torch.set_flush_denormal(False):
        pytest.skip("this processor cannot flush subnormal numbers")

    def leaves(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        FLAGS[name]()
        return plain(x, w, b)

    def pools(x: Tensor) -> Tensor:
        FLAGS[name]()
        return torch.nn.functional.avg_pool2d(x, 2)

    before = settings()
    dense: list[tuple[Any, Any]] = [
        (leaves, torch.nn.Conv2d(2, 3, 3, padding=1)),
        (pools, torch.nn.AvgPool2d(2)),
    ]
    for run, twin in dense:
        found = cg.prove(run, twin, size=(4, 6), premise=premise)
        assert found.verdict == "undecided", str(found)
        assert f"it leaves {name} at" in found.reason
    assert settings() == before


def test_what_leaves_a_flag_otherwise_is_undecided_and_the_flag_is_put_back() -> None:
    def leaves(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        torch.set_default_dtype(torch.float64)
        return plain(x, w, b)

    found = cg.prove(leaves, torch.nn.Conv2d(2, 3, 3, padding=1), size=(5, 6))
    assert (found.verdict, torch.get_default_dtype()) == ("undecided", torch.float32)
    assert "it leaves torch.get_default_dtype() at torch.float64" in found.reason


class Once:
    """Does something beside its work in its first call, or in that of a kind."""

    def __init__(self, does: Callable[[], Any], asked: Callable[..., bool]) -> None:
        self.does, self.asked, self.done = does, asked, False

    def __call__(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        if not self.done and self.asked(x, w):
            self.done = True
            self.does()
        return plain(x, w, b)


def moves() -> None:
    torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("first", [True, False])
def test_a_flag_that_one_call_moves_is_seen(dtype: torch.dtype, first: bool) -> None:
    """The first, which is followed; or the first of those where w is frozen, which are not."""
    run = Once(moves, lambda x, w: first or (x.requires_grad and not w.requires_grad))
    found = prove(run, dtype=dtype)
    assert (found.verdict, torch.get_default_dtype()) == ("undecided", torch.float32)
    assert "it leaves torch.get_default_dtype() at torch.float64" in found.reason


def test_what_warned_of_what_is_not_deterministic_goes_on_to_warn() -> None:
    before = torch.get_deterministic_debug_mode()
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        with watched() as moved:
            torch.use_deterministic_algorithms(True)
        assert len(moved) == 1
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.set_deterministic_debug_mode(before)


def test_what_raises_once_alone_is_not_passed_over() -> None:
    def raises() -> None:
        raise RuntimeError("no views today")

    found = prove(Once(raises, lambda x, w: not x.is_leaf), explain=False)
    assert (found.verdict, "no views today" in found.reason) == ("undecided", True), str(found)
    honest = prove(Once(lambda: None, lambda x, w: not x.is_leaf), explain=False)
    assert honest.verdict == "proven", str(honest)


def test_a_hook_of_a_parameter_is_refuted() -> None:
    conv = torch.nn.Conv2d(2, 3, 3, padding=1).double()
    layer = cg.nn.GraphConv2d.from_dense(conv)
    assert cg.prove(layer, conv, size=(5, 6)).verdict == "proven"
    layer.weight.register_hook(lambda g: 2 * g)
    found = cg.prove(layer, conv, size=(5, 6))
    assert found.verdict == "refuted", str(found)
    assert found.counterexample["manner"] == "own"


def test_parameters_that_one_side_lacks_are_judged() -> None:
    conv = torch.nn.Conv2d(2, 3, 3, padding=1).double()
    layer = cg.nn.GraphConv2d.from_dense(conv)
    layer.register_parameter("gain", torch.nn.Parameter(torch.ones(1).double()))
    found = cg.prove(layer, conv, size=(5, 6))
    assert (found.verdict, status(found, "parameters")) == ("undecided", "undecided")
    assert "'gain' is a parameter of the candidate alone" in found.reason


# -- memory that left


def saturates_by_numpy(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = torch.zeros(PLAIN.x_shape, dtype=x.dtype)
    raw = y.numpy()
    y += plain(x, w, b).detach()
    np.minimum(raw, 1e30, out=raw)
    return y + plain(x, w, b) * 0


def test_data_written_to_memory_that_left_are_undecided() -> None:
    found = prove(saturates_by_numpy, explain=False)
    assert status(found, "S1") == "undecided"
    assert "memory that has left torch by Tensor.numpy" in next(
        part.facts for part in found.parts if part.name == "S1 premise"
    )


# -- operators without parameters


def pool(x: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(x, 2)


LINEAR = {
    "clamped far out": lambda x: pool(x).clamp(-1e30, 1e30),
    "rounded": lambda x: pool(x + (x.round() - x).detach()),
    "squared in (0, 1)": lambda x: pool(torch.where((x > 0) & (x < 1), x * x, x)),
    "computed in bfloat16": lambda x: pool(x.bfloat16()).to(x.dtype),
    "prefix sums": lambda x: _prefixed(x),
    "dropped by Python": lambda x: pool(x) * (random.random() >= 1e-9),
}


def _prefixed(x: Tensor) -> Tensor:
    c = torch.nn.functional.pad(x, (1, 0, 1, 0)).cumsum(2).cumsum(3)
    low, high = slice(None, -1, 2), slice(2, None, 2)
    return (c[..., high, high] - c[..., high, low] - c[..., low, high] + c[..., low, low]) / 4


@pytest.mark.parametrize("name", LINEAR)
def test_a_wrong_operator_without_parameters_is_not_proven(name: str) -> None:
    found = prove_linear(LINEAR[name], pool, (2, 2, 6, 6), scale=4, seed=3)
    assert found.verdict != "proven", str(found)


class NoReal(torch.autograd.Function):
    """What is trusted, and gives NaN for whatever is no integer of a trial."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1 if torch.equal(x * 2**14, (x * 2**14).round()) else x * float("nan")

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 1


def test_nan_for_real_numbers_is_out_of_every_bound() -> None:
    found = prove_linear(
        lambda x: NoReal.apply(pool(x)), pool, (2, 2, 6, 6), scale=4, trust=("NoReal",), seed=1
    )
    assert found.verdict == "refuted", str(found)
    assert "is nan, not" in found.reason


def test_an_average_over_nine_is_proven_however_it_is_written() -> None:
    def window(x: Tensor) -> Tensor:
        return x.unfold(2, 3, 3).unfold(3, 3, 3).sum((-1, -2)) / 9

    ref = torch.nn.AvgPool2d(3)
    found = prove_linear(window, ref, (2, 2, 6, 6), scale=9, dtype=torch.float32)
    assert found.verdict == "proven", str(found)
    assert {part.name for part in found.parts} == {"S1 premise", "S2 identity", "S3 rounding"}


AVERAGES = {
    "a mean": lambda x: x.unfold(2, 3, 3).unfold(3, 3, 3).mean((-1, -2)),
    "two means": lambda x: x.unfold(2, 3, 3).mean(-1).unfold(3, 3, 3).mean(-1),
    "torch's": torch.nn.AdaptiveAvgPool2d(2),
    "a convolution": lambda x: (
        torch.nn.functional.conv2d(x, x.new_ones(x.shape[1], 1, 3, 3), stride=3, groups=x.shape[1])
        / 9
    ),
}


@pytest.mark.parametrize("name", AVERAGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mean_counts_the_sum_that_it_divides(name: str, dtype: torch.dtype) -> None:
    """Its integers are nine times as large on the way, and nine terms round."""
    for seed in range(3):
        found = cg.prove(AVERAGES[name], torch.nn.AvgPool2d(3), size=(6, 6), dtype=dtype, seed=seed)
        assert found.verdict == "proven", str(found)
        assert found.spec["terms"] >= 9


def test_what_overflows_on_the_way_does_not_refute() -> None:
    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return plain(x * 2.0**14, w, None) * 2.0**-14 + b.view(1, -1, 1, 1)

    found = prove(run, dtype=torch.float16)
    assert found.verdict == "undecided", str(found)
    s3 = next(part for part in found.parts if part.name == "S3 rounding")
    assert "overflows on the way" in s3.facts


def test_what_an_operator_without_parameters_does_not_use_is_refused() -> None:
    with pytest.raises(cg.errors.ProofError, match="mask= is for a convolution"):
        cg.prove(
            cg.nn.GraphAvgPool2d(2), torch.nn.AvgPool2d(2), size=(6, 6), mask=torch.ones(6, 6) > 0
        )


# -- the draw decides nothing


@pytest.mark.parametrize("seed", range(20))
def test_a_verdict_does_not_depend_on_the_seed(seed: int) -> None:
    proven = [
        prove_convolution(run, plain, PLAIN, seed=seed, explain=False).verdict == "proven"
        for run in (plain, adds_and_takes_away, fast_path)
    ]
    assert proven == [True, False, False]


# -- as a layer is called where something is frozen, inside a network, or several times


def far(y: Tensor) -> Tensor:
    return y.clamp(-1e30, 1e30)


class Kept(torch.autograd.Function):
    """Saves its image where the next call writes its own."""

    image: Any = None

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(w)
        Kept.image = x
        return plain(x, w, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (w,) = ctx.saved_tensors
        x = Kept.image
        grads = torch.nn.grad.conv2d_input, torch.nn.grad.conv2d_weight
        return (
            grads[0](x.shape, w, g, padding=1),
            grads[1](x, w.shape, g, padding=1),
            g.sum((0, 2, 3)),
        )


CALLED = {
    "a first layer": lambda x, w, b: plain(x, w, b) if x.requires_grad else far(plain(x, w, b)),
    "within": lambda x, w, b: plain(x, w, b) if x.is_leaf else far(plain(x, w, b)),
    "frozen": lambda x, w, b: plain(x, w, b) * (1 if w.requires_grad or b.requires_grad else 2),
    "nothing learns": lambda x, w, b: (
        plain(x, w, b) if any(t.requires_grad for t in (x, w, b)) else far(plain(x, w, b))
    ),
    "twice before backward": Kept.apply,
}


@pytest.mark.parametrize("name", CALLED)
def test_another_manner_of_calling_is_another_program(name: str) -> None:
    assert prove(CALLED[name]).verdict != "proven"


def around(x: Tensor, w: Tensor, b: Tensor, plainly: Any = plain) -> Tensor:
    """(S + S') - S', of which integers see nothing."""
    other = plainly(x.flip(0), w, b)
    found: Tensor = (plainly(x, w, b) + other) - other
    return found


AROUND = {
    "within": lambda x, w, b: plain(x, w, b) if x.is_leaf else around(x, w, b),
    "another layout": lambda x, w, b: plain(x, w, b) if x.is_contiguous() else around(x, w, b),
    "frozen": lambda x, w, b: plain(x, w, b) if w.requires_grad else around(x, w, b),
    "a first layer": lambda x, w, b: plain(x, w, b) if x.requires_grad else around(x, w, b),
    "a parameter": lambda x, w, b: (
        around(x, w, b) if isinstance(w, torch.nn.Parameter) else plain(x, w, b)
    ),
    "a gradient": lambda x, w, b: (
        plain(x, w, b) if not w.is_leaf or w.grad is None else around(x, w, b)
    ),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", AROUND)
def test_what_is_no_direct_sum_in_one_manner_is_undecided(name: str, dtype: torch.dtype) -> None:
    found = prove(AROUND[name], dtype=dtype)
    assert found.verdict == "undecided", str(found)
    assert found.reason.startswith("behaves otherwise ")


@pytest.mark.parametrize("name", ["frozen", "a first layer"])
def test_where_second_derivatives_are_asked_first_ones_alone_are_followed_too(name: str) -> None:
    """What is frozen has none of them, and is held against a program that was followed so."""
    found = prove(AROUND[name], second=True)
    assert found.verdict == "undecided", str(found)
    assert found.reason.startswith("behaves otherwise without a gradient")


def decoy(other: bool, x: Tensor, w: Tensor, b: Tensor, plainly: Any = plain) -> Tensor:
    """Computes in both branches what one of them uses alone."""
    found = plainly(x, w, b), around(x, w, b, plainly)
    return found[other]


def weighted(other: bool, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Adds nothing of another sum in one branch, by a number."""
    beside = plain(x.flip(0), w, b) * float(other)
    return (plain(x, w, b) + beside) - beside


def weighted_by_a_tensor(other: bool, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    beside = plain(x.flip(0), w, b) * torch.full((1, 4, 1, 1), float(other), dtype=x.dtype)
    return (plain(x, w, b) + beside) - beside


BRANCHES: dict[str, Callable[..., bool]] = {
    "frozen": lambda x, w: not x.requires_grad,
    "within": lambda x, w: not x.is_leaf,
    "a parameter": lambda x, w: isinstance(w, torch.nn.Parameter),
    "a gradient": lambda x, w: w.is_leaf and w.grad is not None,
}


@pytest.mark.parametrize("manner", BRANCHES)
@pytest.mark.parametrize("run", [decoy, weighted, weighted_by_a_tensor])
def test_one_list_of_operators_may_be_put_together_otherwise(
    run: Callable[..., Tensor], manner: str
) -> None:
    """By names and shapes both branches are one program, and integers see no difference."""
    found = prove(lambda x, w, b: run(BRANCHES[manner](x, w), x, w, b))
    assert found.verdict == "undecided", str(found)
    assert "behaves otherwise " in found.reason
    assert prove(lambda x, w, b: run(False, x, w, b)).verdict == "proven"


@pytest.mark.parametrize("manner", BRANCHES)
def test_nor_is_a_half_type_put_together_otherwise(manner: str) -> None:
    half = torch.bfloat16

    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return decoy(x.dtype == half and BRANCHES[manner](x, w), x, w, b, patches)

    found = prove_apart(run, dtype=half)
    assert found.verdict != "proven", str(found)
    right = prove_apart(lambda x, w, b: decoy(False, x, w, b, patches), dtype=half)
    assert right.verdict == "proven", str(right)


class Bucket(torch.autograd.Function):
    """Answers with views of one flat memory of gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return plain(x, w, b)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        grads = torch.nn.grad.conv2d_input, torch.nn.grad.conv2d_weight
        by = grads[0](x.shape, w, g, padding=1), grads[1](x, w.shape, g, padding=1)
        flat = torch.cat([by[1].flatten(), g.sum((0, 2, 3))])
        return by[0], flat[: w.numel()].view(w.shape), flat[w.numel() :]


def added_to_a_view(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = plain(x, w, torch.zeros_like(b)).flatten(2).view(*x.shape[:1], len(b), *x.shape[2:])
    y += b.view(-1, 1, 1)
    return y


def added_to_channels(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = plain(x, w, torch.zeros_like(b)).permute(0, 2, 3, 1)
    y[..., 0] += b[0]
    y[..., 1:] += b[1:]
    return y.permute(0, 3, 1, 2)


@pytest.mark.parametrize("run", [added_to_a_view, added_to_channels])
def test_a_view_may_be_written_to(run: Callable[..., Any]) -> None:
    """Torch leads its gradient back by strides, and where it is followed by the views."""
    assert prove(run).verdict == "proven", prove(run).reason

    def twice(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return run(x, w, 2 * b)

    assert prove(twice).verdict == "refuted"


def test_gradients_may_be_views_of_one_memory() -> None:
    found = prove(Bucket.apply)
    assert found.verdict == "proven", str(found)


class Put(torch.autograd.Function):
    """Two sums in one memory, of which the first comes back."""

    @staticmethod
    def forward(ctx: Any, one: Tensor, two: Tensor, place: int) -> Tensor:
        both = torch.empty((2, *one.shape), dtype=one.dtype)
        torch.mul(two, 1, out=both[1 - place])
        torch.mul(one, 1, out=both[place])
        return both[0].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None, None


def puts_them_otherwise(other: bool, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The same is written last, to another place of the memory."""
    return Put.apply(plain(x, w, b), around(x, w, b).detach(), int(other))


def other_half_of_a_copy(other: bool, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    both = torch.cat([plain(x, w, b), around(x, w, b)]).clone()
    return both[2:] if other else both[:2]


def by_numpy(other: bool, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = plain(x, w, b)
    if other:
        array = y.detach().numpy()
        array += 2.0**24
        array -= 2.0**24
    return y


def by_a_large_constant(write: Callable[[Tensor, Tensor], Any]) -> Callable[..., Tensor]:
    """Rows are mixed and unmixed by constants that no version tells of."""
    whole, mixing = torch.eye(112).double(), torch.eye(112).double()
    mixing[0, 1] = 2.0**12
    there, back = whole.clone(), whole.clone()

    def run(other: bool, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        write(there, mixing if other else whole)
        write(back, 2 * whole - mixing if other else whole)
        y = plain(x, w, b)
        return ((y.reshape(-1, 112) @ there) @ back).reshape(y.shape)

    return run


def mixing_by(number: float) -> Tensor:
    """A sparse one with an entry of that number beside the diagonal, 0 perhaps."""
    places = torch.cat([torch.arange(112).expand(2, -1), torch.tensor([[0], [1]])], 1)
    numbers = torch.cat([torch.ones(112), torch.tensor([number])]).double()
    return torch.sparse_coo_tensor(places, numbers, (112, 112))


def by_a_sparse_constant(other: bool, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = plain(x, w, b)
    mixed = torch.sparse.mm(mixing_by(2.0**12 * other), y.reshape(-1, 112).t())
    return torch.sparse.mm(mixing_by(-(2.0**12) * other), mixed).t().reshape(y.shape)


HIDDEN: dict[str, Callable[..., Tensor]] = {
    "a sparse constant": by_a_sparse_constant,
    "another place of a memory": puts_them_otherwise,
    "another half of a copy": other_half_of_a_copy,
    "an array": by_numpy,
    "a constant through .data": by_a_large_constant(lambda to, of: to.data.copy_(of)),
    "a constant through an array": by_a_large_constant(
        lambda to, of: np.copyto(to.numpy(), of.numpy())
    ),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_a_result_is_made_of_is_not_hidden(name: str) -> None:
    """Where nothing needs a gradient the same operators run, on the same shapes."""
    run = HIDDEN[name]
    found = prove(lambda *sent: run(not any(t.requires_grad for t in sent), *sent))
    assert found.verdict == "undecided", str(found)
    assert "behaves otherwise without a gradient for x, w, b" in found.reason
    assert prove(lambda x, w, b: run(False, x, w, b)).verdict == "proven"


def partly(by: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Writes to one half of a memory, and returns the other."""

    def make(x: Tensor, y: Tensor) -> Tensor:
        whole = torch.cat([x * by, x * by])
        whole[:2].copy_(y)
        return whole[2:]

    return make


def test_constants_and_their_places_are_told_apart() -> None:
    """Operators, constants and order; a copy and a sum with zeros hand on what they are given."""

    def of(make: Callable[[Tensor, Tensor], Tensor]) -> Any:
        with written_down() as mode:
            one, two = mode.enter(torch.ones(2, 3)), mode.enter(torch.ones(2, 3))
            made = make(one, two)
        return mode.made_of.result(made)

    same = of(lambda x, y: x * 2 + y)
    assert same == of(lambda x, y: x.clone() * 2 + y.clone())
    assert same == of(lambda x, y: torch.zeros(2, 3).add_(x * 2 + y))
    others = [
        of(lambda x, y: y * 2 + x),
        of(lambda x, y: x * 3 + y),
        of(lambda x, y: x * torch.tensor(2.0) + y),
        of(lambda x, y: (x * 2 + y).t()),
        of(lambda x, y: torch.ones(2, 3).add_(x * 2 + y)),
    ]
    assert len({same, *others}) == 6
    assert of(lambda x, y: torch.cat([x, y])[:2]) != of(lambda x, y: torch.cat([y, x])[:2])
    assert of(partly(1)) == of(partly(1)) != of(partly(2))
    large = torch.ones(5000)
    before = of(lambda x, y: x.sum() * large)
    large[-1] = 2
    assert of(lambda x, y: x.sum() * large) != before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("manner", ["within", "frozen"])
def test_what_a_half_type_does_in_one_manner_alone_is_seen(dtype: torch.dtype, manner: str) -> None:
    """No integer has that dtype, and the plain run in it is right."""

    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y = patches(x, w, b)
        plainly = x.is_leaf if manner == "within" else w.requires_grad
        return y if plainly or x.dtype != dtype else y.clamp(-100, 100)

    found = prove_apart(run, dtype=dtype)
    assert found.verdict == "undecided", str(found)
    assert "clamp" in found.reason
    assert prove_apart(patches, dtype=dtype).verdict == "proven"


def folds(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Torch multiplies matrices otherwise where one of them needs no gradient."""
    rows = torch.nn.functional.unfold(x, 3, padding=1).transpose(1, 2)
    y = torch.matmul(rows, w.flatten(1).t()).transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])
    return y + b.view(1, -1, 1, 1)


def test_what_is_a_direct_sum_in_every_manner_is_proven() -> None:
    seen = OneProgram(check_premise(folds, {"x": (2, 2, 4, 5), "w": (3, 2, 3, 3), "b": (3,)}))
    x, w, b = (torch.ones(s) for s in ((2, 2, 4, 5), (3, 2, 3, 3), (3,)))
    with seen.watching("frozen x, b") as enter:
        folds(enter(x), enter(w).requires_grad_(), enter(b)).sum().backward()
    assert seen.apart  # another operator than was followed: it is followed once more, as called
    assert prove(folds).verdict == "proven"


def test_a_pool_that_is_no_direct_sum_within_is_undecided() -> None:
    def run(x: Tensor) -> Tensor:
        y, other = average(x), average(x.flip(0))
        return y if x.is_leaf else (y + other) - other

    found = cg.prove(run, torch.nn.AvgPool2d(2), size=(4, 4))
    assert found.verdict == "undecided", str(found)
    assert "no direct sum" in found.reason


@pytest.mark.parametrize("second", [False, True])
def test_parameters_of_its_own_take_no_sum_that_was_not_followed(second: bool) -> None:
    class Other(torch.nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            if self.weight is not own:
                return y
            other = super().forward(x.flip(0))
            return (y + other) - other

    dense = torch.nn.Conv2d(2, 3, 3, padding=1).double()
    other = Other(2, 3, 3, padding=1).double()
    own = other.weight
    other.load_state_dict(dense.state_dict())
    found = cg.prove(other, dense, size=(4, 5), second=second)
    assert found.verdict == "undecided", str(found)
    assert "two calls of .backward()" in found.reason


class Owned(torch.nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return far(y) if isinstance(self.weight, torch.nn.Parameter) else y


def test_its_own_parameters_take_the_program_that_was_followed() -> None:
    dense = torch.nn.Conv2d(2, 3, 3, padding=1).double()
    owned = Owned(2, 3, 3, padding=1).double()
    owned.load_state_dict(dense.state_dict())
    found = cg.prove(owned, dense, size=(4, 5))
    assert found.verdict == "undecided"
    assert "clamp" in found.reason


def test_gradients_of_two_calls_add_up() -> None:
    dense = torch.nn.Conv2d(2, 3, 3, padding=1).double()
    other = torch.nn.Conv2d(2, 3, 3, padding=1).double()
    other.load_state_dict(dense.state_dict())
    last: list[Tensor] = []

    def overwrite(parameter: Tensor) -> None:
        assert parameter.grad is not None
        now = parameter.grad - last[-1] if last else parameter.grad.clone()
        parameter.grad.copy_(now)
        last.append(now)

    other.weight.register_post_accumulate_grad_hook(overwrite)
    found = cg.prove(other, dense, size=(4, 5))
    assert found.verdict == "refuted"
    assert "two calls of .backward()" in found.reason


def average(x: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(x, 2)


class Trained(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return average(x) * self.scale


@pytest.mark.parametrize("pool", [torch.nn.AvgPool2d, torch.nn.MaxPool2d])
def test_operators_without_parameters_are_called_in_every_manner(pool: Any) -> None:
    dense = pool(2)
    wrong = [
        lambda x: dense(x) * (1 if x.requires_grad else 2),
        lambda x: dense(x) if x.requires_grad else far(dense(x)),
        lambda x: dense(x) if x.is_leaf else far(dense(x)),
    ]
    for run in wrong:
        assert cg.prove(run, dense, size=(4, 4)).verdict != "proven"


def test_what_the_reference_does_not_train_is_undecided() -> None:
    found = cg.prove(Trained(), torch.nn.AvgPool2d(2), size=(4, 4))
    assert found.verdict == "undecided"
    assert found.reason == "'scale' is a parameter of the candidate alone"
    fixed = Trained()
    fixed.scale.requires_grad_(False)
    assert cg.prove(fixed, torch.nn.AvgPool2d(2), size=(4, 4)).verdict == "proven"


@pytest.mark.parametrize("pool", [torch.nn.AvgPool2d(1), torch.nn.MaxPool2d(1)])
def test_memory_of_the_image_is_not_returned(pool: torch.nn.Module) -> None:
    found = cg.prove(lambda x: x, pool, size=(4, 4))
    assert found.verdict == "undecided"
    assert "in place" in found.reason
    assert cg.prove(lambda x: x.clone(), pool, size=(4, 4)).verdict == "proven"
    assert cg.prove(lambda x: x.view(x.shape), torch.nn.Identity(), size=(4, 4)).verdict == "proven"


def test_a_half_type_by_name_is_undecided() -> None:
    """It is right in the recorded dtype, and no float64 number refutes that."""
    dense = torch.nn.Conv2d(2, 3, 3, padding=1).bfloat16()

    def by_name(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return plain(x.float(), w.float(), b.float()).bfloat16()

    found = cg.prove(by_name, dense, size=(4, 5))
    assert found.verdict == "undecided"
    assert "by name" in found.reason
    assert (
        cg.prove(lambda *a: by_name(*a).to(a[0].dtype).half(), dense, size=(4, 5)).verdict
        != "proven"
    )


def test_a_result_of_another_dtype_than_its_half_type_is_undecided() -> None:
    """Integers are probed in float32 there, and come back as they should."""
    dense = torch.nn.Conv2d(2, 3, 3, padding=1).bfloat16()
    found = cg.prove(lambda x, w, b: plain(x.float(), w.float(), b.float()), dense, size=(4, 5))
    assert found.verdict == "undecided", str(found)
    assert "returns y of dtype torch.float32, expected torch.bfloat16" in found.reason


def test_what_the_candidate_raises_by_itself_is_the_reason() -> None:
    def raising(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        raise RuntimeError("no such kernel")

    assert prove(raising).reason.startswith("the candidate raised RuntimeError: no such kernel")


def test_what_is_wrong_plainly_is_said_so() -> None:
    for pool in (torch.nn.AvgPool2d(2), torch.nn.MaxPool2d(2)):
        found = cg.prove(lambda x, pool=pool: 2 * pool(x), pool, size=(4, 4))
        assert found.verdict == "refuted"
        assert "without a gradient" not in found.reason


def test_a_scale_is_for_operators_without_parameters() -> None:
    dense = torch.nn.Conv2d(2, 3, 3)
    with pytest.raises(ProofError, match="scale= is for"):
        cg.prove(dense, dense, size=(4, 4), scale=3)
