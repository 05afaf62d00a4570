"""The premise: planted faults that no probe of integers sees, each refused by operator and line.

Every fault marks the line that must be named with `# here`. Honest implementations in many styles
stand beside them and must be accepted, or the judge would be of no use.
"""

import linecache
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch_geometric.nn import RGCNConv

import convgraph as cg
from convgraph.errors import ProofError
from convgraph.proof.layer.premise.call import RULES, Call, Refusal
from convgraph.proof.layer.premise.check import Premise, check_premise
from convgraph.proof.layer.premise.degrees import Bound
from tests.proof.scipy_conv import SciPyConv

SHAPES = {"x": (2, 4, 6, 7), "w": (4, 4, 3, 3), "b": (4,)}
IMAGE = torch.zeros(SHAPES["x"])
BUFFER = torch.zeros(2, 4, 6, 7, dtype=torch.float64)
FAULTS: dict[str, tuple[Callable[..., Any], str, str]] = {}


def conv(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    return F.conv2d(x, w, b, 1, 1)


def fault(operator: str, status: str = "refuted") -> Callable[..., Any]:
    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        FAULTS[run.__name__] = (run, operator, status)
        return run

    return register


# Values


@fault("aten.clamp")
def clamps_far_out(x, w, b):
    return conv(x, w, b).clamp(max=1e30)  # here


@fault("aten.clamp_min")
def clamps_from_below(x, w, b):
    return torch.clamp_min(conv(x, w, b), -1e200)  # here


@fault("aten.abs")
def takes_magnitudes(x, w, b):
    return conv(x.abs(), w, b)  # here


@fault("aten.relu")
def rectifies(x, w, b):
    return conv(x, w, b).relu()  # here


@fault("aten.leaky_relu")
def leaks(x, w, b):
    return F.leaky_relu(conv(x, w, b), 0.999)  # here


@fault("aten.tanh")
def saturates(x, w, b):
    return conv(x.tanh(), w, b)  # here


@fault("aten.sign")
def takes_signs(x, w, b):
    return conv(x, w.sign(), b)  # here


@fault("aten.round")
def rounds(x, w, b):
    return conv(x, w, b).round()  # here


@fault("aten.round_")
def rounds_in_place(x, w, b):
    y = conv(x, w, b).clone()
    return y.round_()  # here


@fault("aten.floor_divide")
def divides_to_the_floor(x, w, b):
    return conv(x, w, b) // 1  # here


@fault("aten.remainder")
def wraps_around(x, w, b):
    return conv(x, w, b) % 2.0**60  # here


@fault("aten.gt")
def is_wrong_above_100(x, w, b):
    return conv(torch.where(x > 100, x + 1, x), w, b)  # here


@fault("aten.lt")
def is_wrong_below_0(x, w, b):
    return conv(x, w, b) * (1 + (x[0, 0, 0, 0] < -1e9).double())  # here


@fault("aten.isnan")
def repairs_nan(x, w, b):
    return conv(x.masked_fill(x.isnan(), 0), w, b)  # here


@fault("aten.nan_to_num")
def repairs_numbers(x, w, b):
    return conv(torch.nan_to_num(x), w, b)  # here


@fault("aten.max_pool2d_with_indices")
def takes_maxima(x, w, b):
    return F.max_pool2d(conv(x, w, b), 1)  # here


@fault("aten.maximum")
def takes_the_larger(x, w, b):
    y = conv(x, w, b)
    return torch.maximum(y, y)  # here


@fault("aten.sort")
def sorts(x, w, b):
    return conv(x.sort(-1).values, w, b)  # here


@fault("aten.native_layer_norm")
def normalises(x, w, b):
    return F.layer_norm(conv(x, w, b), (6, 7))  # here


@fault("aten._softmax")
def weighs_by_softmax(x, w, b):
    return conv(x.softmax(1), w, b)  # here


@fault("aten.div")
def divides_by_data(x, w, b):
    return conv(x, w, b) / (w.sum() + 1)  # here


@fault("aten.fmod_")
def works_in_place_on_a_view(x, w, b):
    y = conv(x, w, b).clone()
    y[1].view(-1)[3:4].fmod_(1e40)  # here
    return y


@fault("aten.eq")
def is_wrong_for_one_number(x, w, b):
    y = conv(x, w, b)
    return torch.where(y == 0.123456, y + 1, y)  # here


@fault("aten.cumprod")
def multiplies_up(x, w, b):
    return conv(x.cumprod(0), w, b)  # here


# Degrees


@fault("aten.mul")
def squares_the_image(x, w, b):
    return conv(x * x, w, b)  # here


@fault("aten.mul")
def adds_a_square_of_the_bias(x, w, b):
    return conv(x, w, b * b)  # here


@fault("aten.mul")
def weighs_twice(x, w, b):
    return conv(x, w * w, b)  # here


@fault("aten.add")
def adds_the_image(x, w, b):
    return conv(x, w, b) + x  # here


@fault("aten.add")
def adds_a_constant(x, w, b):
    return conv(x, w, b) + 1  # here


@fault("aten.add")
def adds_a_tiny_constant(x, w, b):
    return conv(x, w, b) + 2.0**-500  # here


@fault("aten.convolution")
def convolves_twice(x, w, b):
    return F.conv2d(conv(x, w, None), w, b, 1, 1)  # here


@fault("aten.mul")
def multiplies_bias_and_image(x, w, b):
    return conv(x, w, b) + (x * b.view(1, 4, 1, 1))  # here


@fault("aten.index_put_")
def corrupts_one_pixel(x, w, b):
    y = conv(x, w, b)
    y[torch.tensor([0]), 0, 0, 0] = 1.0  # here
    return y


@fault("aten.fill_")
def corrupts_through_a_view(x, w, b):
    y = conv(x, w, b)
    y.view(-1)[7:8].fill_(3.0)  # here
    return y


@fault("aten.copy_")
def corrupts_with_the_image(x, w, b):
    y = conv(x, w, b)
    y[1, 2].copy_(x[1, 2])  # here
    return y


@fault("aten.masked_fill")
def fills_with_a_constant(x, w, b):
    mask = torch.ones(6, 7, dtype=torch.bool).tril()
    return conv(x, w, b).masked_fill(mask, 5.0)  # here


@fault("aten.constant_pad_nd")
def pads_with_a_constant(x, w, b):
    return F.pad(conv(x, w, b)[..., 1:], (1, 0), value=1.0)  # here


# Casts


@fault("aten._to_copy")
def goes_through_half(x, w, b):
    return conv(x.half().to(x.dtype), w, b)  # here


@fault("aten._to_copy")
def goes_through_bfloat16_behind(x, w, b):
    return conv(x, w, b).bfloat16().to(x.dtype)  # here


@fault("aten._to_copy")
def goes_through_float32(x, w, b):
    return conv(x, w.float().double(), b)  # here


@fault("aten._to_copy")
def goes_through_integers(x, w, b):
    return conv(x.long().to(x.dtype), w, b)  # here


@fault("aten.copy_")
def narrows_in_a_copy(x, w, b):
    y = torch.zeros(2, 4, 6, 7, dtype=torch.float32)
    y.copy_(conv(x, w, b))  # here
    return y.to(x.dtype)


@fault("aten.view")
def reads_bits(x, w, b):
    return conv(x, w, b) + 0 * x.view(torch.int64)  # here


# Ways out of torch


@fault("aten._local_scalar_dense")
def branches_on_an_item(x, w, b):
    return conv(x, w, b) if x.sum().item() < 1e9 else x  # here


@fault("aten._local_scalar_dense")
def multiplies_by_an_item(x, w, b):
    return conv(x, w, b) * float(x[0, 0, 0, 0])  # here


@fault("aten._local_scalar_dense")
def branches_on_a_tensor(x, w, b):
    if b.sum():  # here
        return conv(x, w, b)
    return x


@fault("Tensor.tolist")
def reads_a_list(x, w, b):
    return conv(x, w, b) * len(x.detach().flatten().tolist())  # here


@fault("aten.nonzero")
def skips_zeros(x, w, b):
    return conv(x, w, b) * len(x.nonzero())  # here


@fault("aten.equal")
def compares(x, w, b):
    return conv(x, w, b) * (1 + torch.equal(x[0], x[1]))  # here


@fault("aten._to_copy")
def indexes_by_data(x, w, b):
    return conv(x, w, b)[:, w[0, 0, 0, :1].long()].expand(-1, 4, -1, -1)  # here


@fault("aten.argmax")
def picks_the_largest(x, w, b):
    return conv(x, w, b)[:, b.argmax().expand(4)]  # here


@fault("Tensor.numpy", "undecided")
def leaves_for_numpy(x, w, b):
    return conv(torch.from_numpy(x.detach().numpy()), w, b)  # here


@fault("Tensor.numpy", "undecided")
def leaves_for_numpy_by_asarray(x, w, b):
    return conv(torch.from_numpy(np.asarray(x.detach())), w, b)  # here


@fault("Tensor.numpy", "undecided")
def hides_the_escape(x, w, b):
    try:
        flat = x.detach().numpy()  # here
    except Exception:  # noqa: BLE001 - that is the fault
        flat = np.zeros(1)
    return conv(x, w, b) * (1 + (flat.size == 0))


@fault("Tensor.data_ptr", "undecided")
def reads_memory(x, w, b):
    return conv(x, w, b) * (1 + (x.data_ptr() == 0))  # here


@fault("Tensor.dlpack", "undecided")
def hands_memory_on(x, w, b):
    return conv(torch.from_dlpack(x.detach()), w, b)  # here


@fault("Tensor.dlpack", "undecided")
def hands_memory_on_the_old_way(x, w, b):
    return conv(torch.from_dlpack(torch.utils.dlpack.to_dlpack(x.detach())), w, b)  # here


EARLY_DOOR = torch._C._to_dlpack


@fault("aten.max", "undecided")
def hands_memory_on_by_a_door_of_before(x, w, b):
    """A wrapper has no memory; whoever read there would end the interpreter."""
    there = torch.from_dlpack(EARLY_DOOR(x.detach()))
    return conv(x, w, b) * (1 + (there.max() > 1e30))  # here


@fault("Tensor.untyped_storage", "undecided")
def reads_storage(x, w, b):
    return conv(x, w, b) * len(x.untyped_storage().tolist())  # here


@fault("aten.lt")
def asks_python_for_the_least(x, w, b):
    return conv(x, w, b) * min(b.detach())  # here


@fault("Tensor.data")
def swaps_data(x, w, b):
    y = conv(x, w, b)
    y.data = x.detach()  # here
    return y


# Writes that outlive the call


@fault("aten.mul_")
def writes_to_its_input(x, w, b):
    y = conv(x, w, b)
    with torch.no_grad():
        x.mul_(2)  # here
    return y


@fault("aten.copy_", "undecided")
def keeps_the_last_image(x, w, b):
    BUFFER.copy_(x.detach())  # here
    return conv(x, w, b)


# Gradients


@fault("aten.clamp")
def clips_a_gradient(x, w, b):
    y = conv(x, w, b)
    y.register_hook(lambda g: g.clamp(-1e9, 1e9))  # here
    return y


@fault("aten._to_copy")
def rounds_a_gradient_to_half(x, w, b):
    w.register_hook(lambda g: g.half().double())  # here
    return conv(x, w, b)


@fault("aten.add")
def decays_its_weights(x, w, b):
    w.register_hook(lambda g: g + w.detach())  # here
    return conv(x, w, b)


@fault("aten.mul_")
def scales_the_incoming_gradient(x, w, b):
    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y.clone()

        @staticmethod
        def backward(ctx, g):
            return g.mul_(2)  # here

    return Scale.apply(conv(x, w, b))


@fault("aten.mul")
def answers_with_a_square(x, w, b):
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y.clone()

        @staticmethod
        def backward(ctx, g):
            return g * g  # here

    return Square.apply(conv(x, w, b))


@fault("aten.sign")
def answers_with_signs_of_the_image(x, w, b):
    class Signs(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, y):
            ctx.save_for_backward(x)
            return y.clone()

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * x.sign(), g  # here

    return Signs.apply(x, conv(x, w, b))


@fault("aten.where")
def loses_a_gradient_by_its_sign(x, w, b):
    class Gate(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y.clone()

        @staticmethod
        def backward(ctx, g):
            return torch.where(torch.tensor(True), g, 1.0)  # here

    return Gate.apply(conv(x, w, b))


@fault("Tensor.numpy (Outside)", "undecided")
def computes_its_gradient_in_numpy(x, w, b):
    class Outside(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y.clone()

        @staticmethod
        def backward(ctx, g):
            return torch.from_numpy(g.numpy() + 0)  # here

    return Outside.apply(conv(x, w, b))


# No room, no function


@fault("aten.mul", "undecided")
def multiplies_by_a_third(x, w, b):
    return conv(x, w, b) * (1 / 3)  # here


@fault("aten.div", "undecided")
def divides_by_three(x, w, b):
    return conv(x, w, b) / 3  # here


@fault("aten.mean", "undecided")
def averages_seven(x, w, b):
    return conv(x, w, b).mean(-1, keepdim=True).expand(-1, -1, -1, 7)  # here


@fault("aten.mul", "undecided")
def grows_out_of_the_mantissa(x, w, b):
    return conv(x, w, b) * 2.0**60 * 2.0**-60  # here


@fault("aten.bernoulli_", "undecided")
def drops_out(x, w, b):
    return conv(x, w, b) * torch.empty(4, 1, 1, dtype=x.dtype).bernoulli_()  # here


@fault("aten.randperm", "undecided")
def shuffles(x, w, b):
    return conv(x, w, b)[:, torch.randperm(4)]  # here


@fault("aten._fft_r2c", "undecided")
def goes_through_frequencies(x, w, b):
    return conv(torch.fft.irfft(torch.fft.rfft(x), n=7), w, b)  # here


@fault("aten._to_copy", "undecided")  # which holds all that a float holds: nothing is rounded
def becomes_complex(x, w, b):
    return conv(x.to(torch.complex128).real, w, b)  # here


@fault("aten.set_", "undecided")
def looks_at_other_memory(x, w, b):
    y = torch.zeros_like(conv(x, w, b))
    return y.set_(conv(x, w, b).detach())  # here


@fault("aten.unsqueeze_", "refuted")
def reshapes_an_input(x, w, b):
    return conv(x.detach().unsqueeze_(0)[0], w, b)  # here


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_refused_by_operator_and_line(name: str) -> None:
    run, operator, status = FAULTS[name]
    found = check_premise(run, SHAPES)
    assert (found.status, found.operator) == (status, operator), found
    place, _, function = found.line.partition(" in ")
    path, _, number = place.rpartition(":")
    assert path == "tests/proof/layer/premise/test_premise.py"
    assert linecache.getline(__file__, int(number)).rstrip().endswith("# here")
    assert function
    assert found.reason


def test_there_are_enough_faults() -> None:
    assert len(FAULTS) >= 40


# Honest implementations


def slices(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    padded = F.pad(x, (1, 1, 1, 1))
    y = torch.zeros(2, 4, 6, 7, dtype=x.dtype) + b.view(1, -1, 1, 1)
    for i in range(3):
        for j in range(3):
            y += torch.einsum("bchw,oc->bohw", padded[..., i : i + 6, j : j + 7], w[:, :, i, j])
    return y


def written_into_empty(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = torch.empty(2, 4, 6, 7, dtype=x.dtype)
    for o in range(4):
        y[:, o : o + 1] = F.conv2d(x, w[o : o + 1], b[o : o + 1], 1, 1)
    return y


def unfolded(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return (w.flatten(1) @ F.unfold(x, 3, padding=1) + b.view(-1, 1)).view(2, 4, 6, 7)


def windows(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    seen = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)
    return torch.tensordot(seen, w, dims=([1, 4, 5], [1, 2, 3])).movedim(-1, 1) + b.view(-1, 1, 1)


def per_channel(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    planes = [
        sum(F.conv2d(x[:, c : c + 1], w[o : o + 1, c : c + 1], None, 1, 1) for c in range(4))
        for o in range(4)
    ]
    return torch.cat(planes, 1).add_(b.view(1, -1, 1, 1))


def mapped(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torch.vmap(lambda image: F.conv2d(image, w, b, 1, 1))(x)


def scattered(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    said = torch.einsum("bchw,ocij->ijbohw", x, w)
    y = x.new_zeros(2, 4, 8, 9)
    for i in range(3):
        for j in range(3):
            y[:, :, 2 - i : 8 - i, 2 - j : 9 - j].add_(said[i, j])
    return y[:, :, 1:-1, 1:-1] + b.view(-1, 1, 1)


def masked(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    seen = torch.ones(6, 7, dtype=torch.bool).tril(1)
    return torch.where(seen, conv(x.masked_fill(~seen, 0), w, b), 0)


def widened(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return conv(x.double(), w.double(), b.double()).to(x.dtype)


def checkpointed(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    from torch.utils.checkpoint import checkpoint

    return checkpoint(conv, x, w, b, use_reentrant=False)


def by_sparse_matrix(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    shift = torch.diag(torch.ones(41, dtype=x.dtype), 1).to_sparse()
    shifted = torch.sparse.mm(shift, x.flatten(2).movedim(-1, 0).flatten(1)).view(42, 2, 4)
    back = torch.sparse.mm(shift.t().coalesce(), shifted.flatten(1)).view(42, 2, 4)
    return conv(back.movedim(0, -1).view(x.shape), w, b)


def as_a_transposed_gradient(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    _, pull = torch.func.vjp(lambda z: F.conv_transpose2d(z, w, None, 1, 1), torch.zeros_like(x))
    return pull(x)[0] + b.view(-1, 1, 1)


def by_vectors(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The first row, pixel by pixel: a vector times a matrix is a view in place to torch."""
    mask = torch.ones(2).unsqueeze_(1)  # and so may a constant be
    seen = F.unfold(x, 3, padding=1)[..., :7] * mask.unsqueeze(2).to(x.dtype)
    said = [image[:, p] @ w.flatten(1).t() + b for image in seen for p in range(7)]
    first = torch.stack(said).view(2, 1, 7, 4).movedim(-1, 1)
    return torch.cat([first, conv(x, w, b)[:, :, 1:]], 2)


def turned_in_place(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    said = F.unfold(x, 3, padding=1).transpose_(1, 2) @ w.flatten(1).t() + b
    return said.transpose_(1, 2).reshape(2, 4, 6, 7)


def masked_into(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    y = conv(x, w, b)
    every = torch.ones(y.shape, dtype=torch.bool)
    return torch.zeros_like(y).masked_scatter(every, y)


def by_segments(x: Tensor, w: Tensor, b: Tensor, reduce: str = "sum") -> Tensor:
    """Taps are rows beside each other, added up as sorted edges are."""
    seen = F.unfold(x, 3, padding=1).view(2, 4, 9, 42).permute(0, 3, 2, 1)
    said = torch.einsum("bptc,oct->bpto", seen, w.flatten(2)).flatten(0, 2)
    ends = torch.arange(0, 9 * 84 + 1, 9)
    y = torch.segment_reduce(said, reduce, offsets=ends, initial=0)
    return y.view(2, 42, 4).movedim(-1, 1).reshape(2, 4, 6, 7) + b.view(-1, 1, 1)


HONEST = {
    run.__name__: run
    for run in (
        conv, slices, written_into_empty, unfolded, windows, per_channel, mapped, scattered, masked,
        widened, checkpointed, by_sparse_matrix, as_a_transposed_gradient, by_vectors,
        turned_in_place, masked_into,
    )
}  # fmt: skip


def accepted(found: Premise, *, bias: bool = True) -> None:
    assert found.status == "proven", found
    assert set(found.degrees["y"]) == ({"xw", "b"} if bias else {"xw"})
    assert found.degrees["grad_x"] == ("wg",)
    assert found.degrees["grad_w"] == ("xg",)
    assert not bias or found.degrees["grad_b"] == ("g",)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_implementation_is_accepted(name: str, dtype: torch.dtype) -> None:
    found = check_premise(HONEST[name], SHAPES, dtype=dtype, second=True)
    accepted(found)
    assert found.second == "followed"
    assert found.degrees["second_x"] == ("guw",)


def test_segments_are_added_up_and_nothing_else() -> None:
    """As PyG adds up sorted edges; torch has no second derivative of that."""
    accepted(check_premise(by_segments, SHAPES, dtype=torch.float64))
    for reduce in ("mean", "max", "prod"):
        found = check_premise(partial(by_segments, reduce=reduce), SHAPES, dtype=torch.float64)
        assert (found.status, found.operator) == ("refuted", "aten.segment_reduce"), found
        assert "is no sum" in found.reason


MODES = ("zeros", "reflect", "replicate", "circular")
LAYERS = {
    "plain": (cg.nn.GraphConv2d, {"padding": 1}),
    **{mode: (cg.nn.GraphConv2d, {"padding": 1, "padding_mode": mode}) for mode in MODES[1:]},
    "strided": (cg.nn.GraphConv2d, {"stride": 2, "padding": 1}),
    "dilated": (cg.nn.GraphConv2d, {"dilation": 2, "padding": 2}),
    "groups": (cg.nn.GraphConv2d, {"groups": 2, "padding": 1}),
    "depthwise": (cg.nn.GraphConv2d, {"groups": 4, "padding": 1}),
    "no bias": (cg.nn.GraphConv2d, {"bias": False}),
    "transposed": (cg.nn.GraphConvTranspose2d, {"stride": 2, "padding": 1, "output_padding": 1}),
    "transposed groups": (cg.nn.GraphConvTranspose2d, {"stride": 2, "groups": 2}),
}


@pytest.mark.parametrize("holes", [False, True])
@pytest.mark.parametrize("backend", ["dense", "gather", "messages"])
@pytest.mark.parametrize("name", LAYERS)
def test_each_backend_is_accepted(name: str, backend: str, holes: bool) -> None:
    if holes and backend == "dense":
        pytest.skip("dense serves full grids only")
    kind, how = LAYERS[name]
    layer = kind(4, 4, 3, backend=backend, dtype=torch.float64, **how)
    mask = torch.ones(2, 6, 7, dtype=torch.bool).tril(2) if holes else None

    def run(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        graph = cg.PixelGraph.from_image(x, mask)
        values = {"weight": w} if b is None else {"weight": w, "bias": b}
        return functional_call(layer, values, (graph,)).to_image()

    bias = layer.bias is not None
    shapes = {"x": (2, 4, 6, 7), "w": tuple(layer.weight.shape), "b": (4,) if bias else None}
    found = check_premise(run, shapes, second=True)
    accepted(found, bias=bias)
    assert found.second == "followed"
    assert check_premise(run, shapes, second=True).trace == found.trace


# Room, records, trust


def test_the_magnitude_is_that_of_the_sums() -> None:
    found = check_premise(conv, SHAPES, a=10)
    # y: 36 products and a bias; grad_x: 36; grad_w: 2 * 6 * 7 = 84, the most.
    assert (found.terms, found.magnitude, found.bits) == (84, 8400, 53)


def test_no_entry_exceeds_its_bound() -> None:
    from convgraph.proof.layer.premise.check import _Form
    from convgraph.proof.layer.premise.follower import Follower, Mode
    from convgraph.proof.layer.premise.made_of import MadeOf
    from convgraph.proof.layer.premise.trusted import trusted

    form = _Form({"x": "x", "w": "w", "b": "b"}, second=False)
    for run in HONEST.values():
        follower = Follower(form.lattice, torch.float64, 3, trusted(()), (MadeOf(),))
        filled = [
            follower.enter(torch.full(shape, 3.0, dtype=torch.float64), role)
            for role, shape in SHAPES.items()
        ]
        with Mode(follower):
            y = run(*filled)
            g = follower.enter(torch.full(y.shape, 3.0, dtype=torch.float64), "g")
            grads = torch.autograd.grad(y, filled, g)
        for tensor in (y, *grads):
            assert float(tensor.held.abs().max()) <= tensor.memory.bound.size(3)


def test_integers_that_do_not_fit_are_undecided() -> None:
    found = check_premise(conv, SHAPES, dtype=torch.float32, a=500)
    assert (found.status, found.operator) == ("undecided", "aten.convolution_backward")
    assert "24 bits" in found.reason
    # Backward of torch's own function stands on no stack; the line is the forward's.
    assert found.line.startswith("tests/proof/layer/premise/test_premise.py:")
    assert found.line.endswith(" in conv")
    assert check_premise(conv, SHAPES, dtype=torch.float32, a=2**8).status == "proven"


def test_vendors_kernels_are_named() -> None:
    assert check_premise(conv, SHAPES).assumed == ("aten.convolution", "aten.convolution_backward")
    assert check_premise(slices, SHAPES).assumed == ("aten.bmm",)


def test_the_trace_tells_programs_apart() -> None:
    programs = [run for run in HONEST.values() if run is not widened]  # in float64 it is `conv`
    assert len({check_premise(run, SHAPES).trace for run in programs}) == len(programs)
    assert check_premise(widened, SHAPES).trace == check_premise(conv, SHAPES).trace
    other = {**SHAPES, "x": (2, 4, 6, 8)}
    assert check_premise(conv, other).trace != check_premise(conv, SHAPES).trace


def test_a_detached_weight_keeps_its_degree_and_misses_its_gradient() -> None:
    found = check_premise(lambda x, w, b: conv(x, w.detach(), b), SHAPES)
    assert found.degrees["grad_w"] == ("missing",)


def test_what_is_returned_must_have_been_followed() -> None:
    found = check_premise(lambda x, w, b: BUFFER, SHAPES)
    assert found.status == "undecided"
    assert "nobody could follow" in found.reason
    assert check_premise(lambda x, w, b: None, SHAPES).status == "undecided"


def test_unwritten_memory_is_refuted() -> None:
    def forgets(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y = torch.empty(2, 4, 6, 7, dtype=x.dtype)
        y[:, :, :5] = conv(x, w, b)[:, :, :5]
        return y

    found = check_premise(forgets, SHAPES)
    assert found.status == "refuted"
    assert "nothing has written" in found.reason


def test_a_linear_operator_needs_no_weight() -> None:
    for run in (
        lambda x: F.avg_pool2d(x, 2),
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        lambda x: F.adaptive_avg_pool2d(x, 2),
        lambda x: x.mean((2, 3)),
        lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"),
    ):
        found = check_premise(run, {"x": (2, 3, 4, 4)}, second=True)
        assert found.status == "proven", found
        assert found.degrees["y"] == ("x",)
        assert found.degrees["grad_x"] == ("g",)


def test_a_weighted_kernel_without_binary_weights_is_undecided() -> None:
    found = check_premise(lambda x: F.avg_pool2d(x, 3), {"x": (2, 3, 6, 6)})
    assert (found.status, found.operator) == ("undecided", "aten.avg_pool2d")


def test_pyg_relations_read_their_edge_types() -> None:
    layer = cg.nn.GraphConv2d(4, 5, 3, padding=1)
    edges = layer.edges(cg.PixelGraph.from_image(torch.zeros(2, 4, 6, 7)))
    peer = RGCNConv(4, 5, 9, aggr="sum", root_weight=False).double()

    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        rows = x.movedim(1, -1).reshape(-1, 4)
        values = {"weight": w, "bias": b}
        out = functional_call(peer, values, (rows, edges.edge_index, edges.edge_type))
        return out.view(2, 6, 7, 5).movedim(-1, 1)

    accepted(check_premise(run, {"x": (2, 4, 6, 7), "w": (9, 4, 5), "b": (5,)}, second=True))


def test_two_weights_share_a_role() -> None:
    def run(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
        return F.conv2d(x, w, None, 1, 1) + F.conv2d(x, v)

    shapes = {"x": (2, 4, 6, 7), "w": (4, 4, 3, 3), "v": (4, 4, 1, 1)}
    found = check_premise(run, shapes, roles={"v": "w"})
    assert found.status == "proven"
    assert found.degrees["grad_v"] == ("xg",)


def test_scipy_is_undecided_until_it_is_trusted() -> None:
    apply = SciPyConv.apply
    found = check_premise(apply, SHAPES)
    assert (found.status, found.operator) == ("undecided", "Tensor.numpy (SciPyConv)")
    assert "trust=('SciPyConv',)" in found.reason
    before = SciPyConv.forward
    trusted = check_premise(apply, SHAPES, trust=("SciPyConv",))
    accepted(trusted)
    assert trusted.assumed == ("SciPyConv",)
    assert trusted.terms == 84
    assert SciPyConv.forward is before


class Apart(torch.autograd.Function):
    """The other way of writing a function: the context is set up apart."""

    @staticmethod
    def forward(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        y = F.conv2d(torch.from_numpy(x.numpy()), w, b, 1, 1)
        return y.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    backward = SciPyConv.backward


def test_a_function_with_its_context_apart_can_be_trusted() -> None:
    assert check_premise(Apart.apply, SHAPES).status == "undecided"
    name = f"{Apart.__module__}.Apart"
    found = check_premise(Apart.apply, SHAPES, trust=(name,), second=True)
    accepted(found)
    assert found.assumed == ("Apart",)
    assert found.second == "no gradient leads back to an input"
    assert check_premise(Apart.apply, SHAPES).status == "undecided"


class ClampedTwiceBehind(torch.autograd.Function):
    """Right forward and backward; the derivative of its backward is clamped."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return ClampedBehind.apply(g)


class ClampedBehind(torch.autograd.Function):
    """Passes on, and clamps what comes back."""

    @staticmethod
    def forward(ctx: Any, g: Tensor) -> Tensor:
        return g.clone()

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Any:
        return u.clamp(-1e9, 1e9)


def test_a_fault_of_double_backward_is_found_one_derivative_up() -> None:
    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return ClampedTwiceBehind.apply(conv(x, w, b))

    assert check_premise(run, SHAPES).status == "proven"
    found = check_premise(run, SHAPES, second=True)
    assert (found.status, found.operator) == ("refuted", "aten.clamp")
    assert found.line.endswith("in backward")


def test_trust_covers_what_it_names_only() -> None:
    def clamped(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return SciPyConv.apply(x, w, b).clamp(max=1e30)

    found = check_premise(clamped, SHAPES, trust=("SciPyConv",))
    assert (found.status, found.operator) == ("refuted", "aten.clamp")


@torch.library.custom_op("premise_test::fused", mutates_args=())
def fused(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """A kernel that nobody can look into."""
    return F.conv2d(x, w, b, 1, 1)


@torch.library.custom_op("premise_test::fused_backward", mutates_args=())
def fused_backward(g: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Its gradients."""
    grad_w = torch.nn.grad.conv2d_weight(x, w.shape, g, 1, 1)
    return torch.nn.grad.conv2d_input(x.shape, w, g, 1, 1), grad_w, g.sum((0, 2, 3))


fused.register_autograd(
    lambda ctx, g: fused_backward(g, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[:2]),
)


def test_a_custom_operator_is_undecided_until_it_is_trusted() -> None:
    found = check_premise(fused, SHAPES)
    assert (found.status, found.operator) == ("undecided", "premise_test::fused")
    both = ("premise_test::fused", "premise_test::fused_backward")
    half = check_premise(fused, SHAPES, trust=both[:1])
    assert (half.status, half.operator) == ("undecided", both[1])
    trusted = check_premise(fused, SHAPES, trust=both)
    accepted(trusted)
    assert trusted.assumed == both


def test_a_role_or_a_dtype_that_cannot_be_followed_is_an_error() -> None:
    with pytest.raises(ProofError, match="as the role of 'v'"):
        check_premise(conv, {"x": (1, 1, 3, 3), "v": (1, 1, 3, 3)})
    with pytest.raises(ProofError, match="float64, float32, float16, bfloat16"):
        check_premise(conv, SHAPES, dtype=torch.int8)


def test_a_line_of_a_library_is_named() -> None:
    peer = RGCNConv(4, 5, 2, aggr="sum", root_weight=False, num_bases=3).double()
    names = [name for name, _ in peer.named_parameters()]
    edges = torch.tensor([[0, 1], [1, 0]])

    def run(x: Tensor, *values: Tensor) -> Tensor:
        parameters = dict(zip(names, values, strict=True))
        return functional_call(peer, parameters, (x, edges, torch.tensor([0, 1])))

    shapes = {"x": (2, 4), **{name: tuple(p.shape) for name, p in peer.named_parameters()}}
    roles = {name: "b" if name == "bias" else "w" for name in names}
    found = check_premise(run, shapes, roles=roles)
    assert (found.status, found.operator) == ("refuted", "aten.mm")  # a product of two weights
    assert found.line.startswith("torch_geometric/nn/conv/rgcn_conv.py:")


def test_a_bag_of_rows_is_their_sum() -> None:
    rows, ptr = torch.tensor([2, 0, 1, 1]), torch.tensor([0, 1, 1, 4])
    call = [torch.ones(3, 2), rows, ptr, False, 0, False, None, True]
    func = torch.ops.aten._embedding_bag_forward_only.default
    x = Bound.of("x")
    found = RULES["_embedding_bag_forward_only"](Call(func, tuple(call), {}, lambda t: x))
    assert found[0] == x.many(3), "the longest bag has three rows"
    assert func(*call)[0].tolist() == [[1.0, 1.0], [0.0, 0.0], [3.0, 3.0]]
    call[4] = 2  # the maximum of a bag
    with pytest.raises(Refusal, match="mode=2"):
        RULES["_embedding_bag_forward_only"](Call(func, tuple(call), {}, lambda t: x))
