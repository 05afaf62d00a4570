"""Published networks on masks, at a size that nothing divides: equal to the refilled dense ones.

Each is built, converted and exported once, and then asked about every mask.
"""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import convgraph as cg
from tests.convert.masks import MASKS, images
from tests.convert.nets import Snap, build, image, zoo
from tests.convert.truth import program, truth

pytestmark = pytest.mark.published

SIZE = (65, 77)

NETWORKS = (
    "resnet18",
    "mobilenet_v2",
    "convnext_tiny",
    "unet",
    "deeplabv3_mobilenet_v3_large",
)


class Answer(nn.Module):
    """The map that a segmentation returns by name; its last operator is a resize."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.snap = Snap()

    def forward(self, x: Tensor) -> Tensor:
        return self.snap(self.inner(x)["out"])


class Ready(NamedTuple):
    """A network, converted, its operators for the truth, and what that says without a mask."""

    net: Any
    program: torch.fx.GraphModule
    image: Tensor
    whole: Tensor


@pytest.fixture(scope="module", params=NETWORKS)
def ready(request: pytest.FixtureRequest) -> Ready:
    torch.manual_seed(1)
    name = request.param
    model = build("unet") if name == "unet" else zoo(name)
    if name.startswith("deeplab"):
        model = Answer(model)
    x = image(2, 2 if name == "unet" else 3, *SIZE)
    model.requires_grad_(False)
    made = program(model, x)
    whole = truth(made, x, torch.ones(2, *SIZE, dtype=torch.bool))
    return Ready(cg.to_graph(model, x, strict=True), made, x, whole)


@pytest.mark.parametrize("mask", MASKS)
@torch.no_grad()
def test_a_published_network_on_a_mask(ready: Ready, mask: str) -> None:
    torch.manual_seed(2)
    root = MASKS[mask](2, SIZE)
    (got,) = images(ready.net(cg.PixelGraph.from_image(ready.image, mask=root)))
    (want,) = images(truth(ready.program, ready.image, root))
    assert torch.equal(got, want), (got != want).sum()
    assert len(got.unique()) > 2
    assert not torch.equal(want, torch.where(want == 0, 0, ready.whole))  # the mask says something
