"""A share of the zoo: small published networks, its interpreter, and faults that it has to see."""

import importlib
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import convgraph as cg
from tests.convert.masks import MASKS
from tests.convert.nets import NETS, build, image
from tests.convert.planting import plant
from tests.convert.truth import truth
from tests.convert.zoo import table
from tests.convert.zoo.catalogue import Entry, catalogue, declare
from tests.convert.zoo.judge import judge
from tests.convert.zoo.truth import Truth

PAGE = Path(__file__).resolve().parents[2] / "docs" / "supported-models.md"

SHARE = (
    "facenet/RNet", "pytorchcv/densenet40_k12_bc_cifar10",
    "pytorchcv/resnet20_cifar10", "smp/unet-resnet18", "timm/convnext_zepto_rms", "timm/lcnet_035",
    "timm/starnet_s050", "timm/test_mambaout", "timm/test_nfnet", "torchvision/mobilenet_v3_small",
    "torchvision/shufflenet_v2_x0_5", "torchvision/squeezenet1_1",
)  # fmt: skip

FEW = ("facenet/RNet", "timm/lcnet_035", "torchvision/squeezenet1_1")
"""Of the share what CI asks: an entry of the list comes to the judge and back."""

PACKAGES = {"smp": "segmentation_models_pytorch", "facenet": "facenet_pytorch"}


def answer(name: str) -> dict[str, Any]:
    """Ask for one network; skip where its library is not installed."""
    library = name.partition("/")[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what libraries deprecate in themselves
        declare()
        try:
            importlib.import_module(PACKAGES.get(library, library))
        except ImportError:
            pytest.skip(f"{library} is not installed; `make setup` does")
        (entry,) = (one for one in catalogue() if one.name == name)
        return judge(entry)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=getattr(pytest.mark, "ci" if n in FEW else "published")) for n in SHARE],
)
def test_a_published_network(name: str) -> None:
    found = answer(name)
    said = {key: found[key] for key in ("captured", "equal", "back", "strict", "masked")}
    assert all(said.values()), (said, found["reason"])


def test_what_is_tested_here_is_what_the_page_says() -> None:
    """The share, and no network twice in the list."""
    text = PAGE.read_text("utf-8").partition("## On grids only")[0]
    entries = {entry.name: entry for entry in catalogue()}
    assert len(entries) == len(list(catalogue()))
    for name in SHARE:
        assert f"{name.partition('/')[2]} {entries[name].size}" in text, name


@pytest.mark.parametrize("name", NETS)
def test_two_interpreters_say_the_same(name: str) -> None:
    """This one follows pixels through every view, the other knows the shapes of a few networks."""
    model, x, root = build(name), image(3, 2, 33, 41), MASKS["patches"](3, (33, 41))
    want = truth(model, x, root)
    exported = torch.export.export(model, (torch.zeros_like(x),), strict=False)
    got = Truth(exported, root, grain=False)(x)
    for mine, true in zip(got, want if isinstance(want, tuple) else (want,), strict=True):
        assert torch.equal(mine, true)


# Faults that a judgement has to see


def _by_a_millionth(old: Any) -> Any:
    def fault(*args: Any, **kwargs: Any) -> Any:
        out = old(*args, **kwargs)
        return out.with_x(out.x * (1 + 4e-6))

    return fault


def _mean_of_all(old: Any) -> Any:
    """Holes count as measurements of 0."""
    return lambda call, x, *rest: call.target(x.tensor(), *rest)


@pytest.mark.parametrize(
    ("name", "operator", "fault"),
    [
        ("facenet/RNet", "conv2d", _by_a_millionth),
        ("torchvision/shufflenet_v2_x0_5", "mean", _mean_of_all),
    ],
)
def test_a_fault_on_a_mask_is_seen(
    name: str, operator: str, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, operator, fault)
    found = answer(name)
    assert found["equal"]
    assert found["masked"] is False
    assert "differs in" in found["reason"]


def test_a_lost_parameter_and_other_bits_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = cg.to_graph

    def off(model: Any, *args: Any, **kwargs: Any) -> Any:
        net = real(model, *args, **kwargs)
        with torch.no_grad():
            first = next(net.parameters())
            first[(0,) * first.dim()] += first.abs().max() * 2.0**-40
        return net

    monkeypatch.setattr(cg, "to_graph", off)
    found = answer("facenet/RNet")
    assert found["built"]
    assert found["equal"] is False
    assert found["back"] is False


def test_a_network_that_cannot_be_is_an_answer_too() -> None:
    found = judge(Entry("timm/no_such_network", 64))
    assert not found["built"]
    assert found["reason"]
    page = table.page([json.loads(json.dumps(found))])
    assert "timm/no\\_such\\_network 64" in page.partition("## Neither")[2]
