"""Tools around networks know nothing of graphs, and work: on maps, and on converted networks."""

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

import convgraph as cg
from convgraph.errors import ConversionError
from tests.convert import nets


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    ).double()  # fmt: skip


def holes(seed: int = 1) -> cg.PixelGraph:
    torch.manual_seed(seed)
    mask = torch.rand(2, 12, 10) > 0.4
    return cg.PixelGraph.from_image(torch.randn(2, 3, 12, 10).double(), mask=mask)


@dataclass(frozen=True)
class Batch:
    pixels: Any
    name: str = "word"


class OfBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = network()[:4]

    def forward(self, batch: Batch) -> dict[str, Any]:
        return {"out": Batch(self.net(batch.pixels), batch.name)}

    def both(self, pair: list[Any]) -> Any:
        return [self.net(one) for one in pair]


def test_a_graph_within_a_dataclass_or_a_list_is_found() -> None:
    model = OfBatch().eval()
    net, given = cg.to_graph(model), holes()
    out = net(Batch(given))["out"]
    assert out.name == "word"
    want = model.net(given.tensor()).graph
    assert torch.equal(out.pixels.x, want.x)
    assert [torch.equal(one.x, want.x) for one in net.both([given, given])] == [True, True]


WAYS = pytest.mark.parametrize("converted", [False, True])


def made(converted: bool) -> tuple[Any, Any]:
    """A network and what it is called with."""
    net = network()
    return (cg.to_graph(net), holes()) if converted else (net, holes().tensor())


@WAYS
def test_an_averaged_model_is_the_average(converted: bool) -> None:
    net, given = made(converted)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.75))
    average.update_parameters(net)
    before = copy.deepcopy(net)
    net(given).sum().backward()
    torch.optim.SGD(net.parameters(), 0.1).step()
    average.update_parameters(net)
    mean = copy.deepcopy(net)
    pairs = zip(mean.parameters(), before.parameters(), net.parameters(), strict=True)
    with torch.no_grad():
        for one, old, new in pairs:
            one.copy_(old.lerp(new, 0.25))
    update_bn([given], average)
    update_bn([given], mean)
    for model in (average, mean):
        model.eval()
    assert torch.equal(average(given), mean(given))


@WAYS
def test_a_pruned_network_is_one_with_zeros(converted: bool) -> None:
    net, given = made(converted)
    prune.l1_unstructured(net[0], "weight", 0.5)
    prune.ln_structured(net[3], "weight", 0.5, 2, 0)
    out = net(given)
    out.sum().backward()
    assert not (net[0].weight_orig.grad * (net[0].weight_mask == 0)).any()
    for layer in (net[0], net[3]):
        prune.remove(layer, "weight")
        assert (layer.weight == 0).sum() >= layer.weight.numel() // 2
    net.zero_grad()
    assert torch.equal(net(given), out)


@WAYS
@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal"])
def test_a_parametrized_weight_is_the_weight(kind: str, converted: bool) -> None:
    """Before conversion and after it; taken off, the function is the same."""
    net, given = made(converted)
    net.eval()
    getattr(parametrizations, kind)(net[0])
    out = net(given)
    out.sum().backward()
    assert net[0].parametrizations.weight.original0.grad.any() if kind == "weight_norm" else True
    nn.utils.parametrize.remove_parametrizations(net[0], "weight")
    assert torch.equal(net(given), out)
    if not converted:
        getattr(parametrizations, kind)(net[0])
        assert torch.equal(cg.to_graph(net)(holes()), net(given))


@pytest.mark.filterwarnings("ignore:.*weight_norm")  # the older one is deprecated
@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm", "orthogonal", "older", "hook"])
def test_the_way_back_keeps_what_a_tool_has_added(kind: str) -> None:
    net, _ = made(True)
    image = torch.randn(2, 3, 12, 10).double()
    layer = net.eval()[0]
    if kind == "hook":
        layer.register_forward_hook(lambda module, args, out: out * 2)
    elif kind == "older":
        nn.utils.weight_norm(layer)
    else:
        getattr(parametrizations, kind)(layer)
    dense = cg.to_dense(net)
    assert isinstance(dense[0], nn.Conv2d)
    assert list(dense.state_dict()) == list(net.state_dict())
    assert torch.equal(dense(image), net(image))
    with torch.no_grad():
        next(iter(dense.parameters())).add_(1)
    assert not torch.equal(dense(image), net(image))


class Keeper(nn.Module):
    """A network that keeps what it computed, on itself and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        prune.l1_unstructured(self.net[0], "weight", amount=0.5)

    def forward(self, x: Any) -> Any:
        self.feature = self.net[:4](x)
        self.readouts = [self.feature.mean((2, 3))]
        return self.net[4:](self.feature)


def test_what_a_call_has_left_behind_is_copied_without_its_history() -> None:
    """Torch's own deepcopy refuses; the copy computes all of it anew."""
    net, given = Keeper().eval(), holes()
    net(given.to_image())  # an image without holes keeps plain tensors
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(net)
    made = cg.to_graph(net)
    assert torch.equal(made(given), net(given.tensor()))
    assert made.readouts[0].requires_grad  # so it cannot be copied by torch either
    assert cg.summary(made, given).flops > 0
    assert torch.equal(cg.to_dense(made)(given.tensor()), net(given.tensor()))


def test_a_module_that_wants_a_tensor_says_what_to_give() -> None:
    with pytest.raises(AttributeError, match=r"'dim', which is a tensor's: give graph.tensor"):
        network()[1](holes())
    with pytest.raises(AttributeError, match=r"no attribute 'nodes'$"):
        holes().nodes  # noqa: B018 - asked for, so that it raises
    calls = (
        nn.Conv2d(3, 4, 3),
        nn.Sequential(nn.ReLU()),
        lambda x: torch.cat([x, x]),
        torch.ones(1).add,
    )
    for call in calls:
        with pytest.raises(cg.errors.ArgumentError, match=r"expected a tensor, got a PixelGraph"):
            call(holes())


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace")  # of another class in each version
def test_traces_are_of_images() -> None:
    """As fvcore's counter makes them; on a map a trace would keep what it saw."""
    net, image = cg.to_graph(network().eval()), torch.randn(2, 3, 12, 10).double()
    traced = torch.jit.trace(net, image)
    assert torch.equal(traced(image * 2), net(image * 2))
    given, weight = holes().tensor(), torch.ones(1, 3, 3, 3).double()
    with pytest.raises(ConversionError, match=r"conv2d .*torch\.jit\.trace.*FlopCounterMode"):
        torch.jit.trace(lambda w: F.conv2d(given, w), (weight,), check_trace=False)


@pytest.mark.parametrize("form", ["graph", "full", "tensor", "image"])
@pytest.mark.parametrize("last", [4, 8])
def test_hooks_for_gradients_of_a_network_hear_maps(last: int, form: str) -> None:
    """One on the converted network itself: its gradients in and out, and what it says."""
    net = cg.to_graph(network()[:last].eval())
    graph = holes() if form in ("graph", "tensor") else cg.PixelGraph.from_image(holes().to_image())
    rows = graph.x.clone().requires_grad_()

    def slope() -> Any:
        given: Any = graph.with_x(rows)
        given = {"tensor": given.tensor, "image": given.to_image}.get(form, lambda: given)()
        out = net(given)
        out = getattr(getattr(out, "graph", out), "x", out)
        return torch.autograd.grad(out.square().sum(), rows)[0]

    plain, heard = slope(), []
    net.register_full_backward_pre_hook(lambda module, out: heard.append(out[0].shape))
    net.register_full_backward_hook(lambda module, into, out: heard.append(into[0].shape))
    assert torch.equal(slope(), plain)
    assert heard == [torch.Size([2, 8, 6, 5] if last == 4 else [2, 4]), torch.Size([2, 3, 12, 10])]
    net.register_full_backward_hook(lambda module, into, out: (into[0] * 2,))
    assert torch.equal(slope(), plain * 2)


@pytest.mark.ci
def test_a_copy_is_in_the_mode_of_the_original() -> None:
    """Extractors of torchvision are copied into training, and run another graph there."""
    models = nets.models()
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    made = models.squeezenet1_1().eval().double()
    made.features[3].train()
    extractor = extraction.create_feature_extractor(made, {"features.3": "map"})
    extractor.get_submodule("features.0").train()
    net = cg.to_graph(extractor)
    modes = {name: one.training for name, one in extractor.named_modules()}
    assert {name: one.training for name, one in net.named_modules()} == modes
    graph = cg.PixelGraph.from_image(
        torch.randn(1, 3, 33, 33).double(), mask=torch.rand(33, 33) > 0.3
    )
    assert torch.equal(net(graph)["map"].x, extractor(graph.tensor())["map"].graph.x)


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore")  # its own, of workers and of what it imports
@WAYS
def test_lightning_trains(converted: bool) -> None:
    """As the loop does that it stands for."""
    nets.models()  # torchvision, which it imports where there is one
    lightning = pytest.importorskip("lightning")
    net, given = made(converted)
    twin = copy.deepcopy(net)

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def training_step(self, batch: Any, number: int) -> Any:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    data = [(given, torch.tensor([1, 2]))] * 2
    trainer = lightning.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=None))
    optimizer = torch.optim.SGD(twin.parameters(), 0.1)
    for x, target in data:
        optimizer.zero_grad()
        F.cross_entropy(twin(x), target).backward()
        optimizer.step()
    assert all(map(torch.equal, net.parameters(), twin.parameters()))


@pytest.mark.ci
def test_torchinfo_sees_every_module() -> None:
    torchinfo = pytest.importorskip("torchinfo")
    net = network()
    for given in (holes().tensor(), holes().to_image()):
        found = torchinfo.summary(net, input_data=[given], verbose=0)
        assert found.total_params == sum(one.numel() for one in net.parameters())
        assert [one.output_size for one in found.summary_list[1:4]] == [[2, 8, 12, 10]] * 3


@pytest.mark.ci
def test_peft_adapts_and_merges() -> None:
    nets.models()
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["0", "3", "6"], init_lora_weights=False)
    model = peft.get_peft_model(network(), config)
    model.eval()
    out = model(holes().tensor())
    out.sum().backward()
    assert all(one.grad.any() for one in model.parameters() if one.requires_grad)
    merged = model.merge_and_unload()
    bound = 2**10 * torch.finfo(torch.float64).eps * (float(out.detach().abs().max()) + 1)
    assert (merged(holes().tensor()) - out).abs().max() <= bound
    assert torch.equal(cg.to_graph(merged)(holes()), merged(holes().tensor()))


def test_levels_of_quantization_are_those_of_the_nodes() -> None:
    """An observer that heard a hole would widen its range; rows are what torch is asked by."""
    graph = holes()
    graph = graph.with_x((graph.x + 5).float().requires_grad_())
    dense = graph.x.detach().clone().requires_grad_()
    ends = []
    for x in (graph.tensor(), dense):
        kept = [torch.full((1,), start) for start in (torch.inf, -torch.inf, 1.0)]
        zero, on = torch.zeros(1, dtype=torch.int32), torch.ones(1, dtype=torch.int64)
        out = torch.fused_moving_avg_obs_fake_quant(x, on, on, *kept, zero, 0.01, 0, 255, 1)
        out = torch.fake_quantize_per_channel_affine(out, torch.ones(3), torch.zeros(3), 1, 0, 7)
        out.square().sum().backward()
        ends.append((out, *kept, zero))
    (mine, *had), (true, *has) = ends
    assert torch.equal(mine.graph.x, true)
    assert all(map(torch.equal, had, has))
    assert torch.equal(graph.x.grad, dense.grad)
