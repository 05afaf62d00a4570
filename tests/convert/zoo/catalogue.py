"""The networks of the zoo by name, and how each library makes one without trained weights.

A network counts once by architecture and configuration. Images are the smallest that the network
takes without a change of its width, mostly 64 x 64.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import torch

from tests.convert.zoo import configured, listed
from tests.zoo import OPERATORS


@final
@dataclass(frozen=True)
class Entry:
    """One network.

    Attributes:
        name: "library/network", as the library calls it.
        size: of the images (pixels).
        channels: of the images.
    """

    name: str
    size: int
    channels: int = 3

    @property
    def d(self) -> int:
        """How many axes its images have."""
        return 3 if self.name.endswith("-3d") else 2

    def build(self) -> Any:
        """Return the network with random weights.

        Raises:
            ModuleNotFoundError: its library is not installed.
        """
        library, _, name = self.name.partition("/")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return BUILDERS[library](name, self.size)


def declare() -> None:
    """Declare what torchvision's import asks for, where its wheel was built for another torch."""
    for name, signature in OPERATORS.items():
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", signature)


def _torchvision(name: str, size: int) -> Any:
    import torchvision

    more: dict[str, Any] = {}
    if name.startswith(("deeplab", "fcn", "lraspp")):
        more = {"weights_backbone": None}
    if name in ("googlenet", "inception_v3"):
        more = {"init_weights": False}
    return torchvision.models.get_model(name, weights=None, **more)


def _timm(name: str, size: int) -> Any:
    import timm

    try:
        return timm.create_model(name, pretrained=False, img_size=size)
    except TypeError:
        return timm.create_model(name, pretrained=False)


def _pytorchcv(name: str, size: int) -> Any:
    from pytorchcv.model_provider import get_model

    try:
        return get_model(name, pretrained=False, in_size=(size, size))
    except TypeError:
        return get_model(name, pretrained=False)


def _smp(name: str, size: int) -> Any:
    import segmentation_models_pytorch as smp

    architecture, _, encoder = name.partition("-")
    return smp.create_model(architecture, encoder, encoder_weights=None, classes=3)


def _facenet(name: str, size: int) -> Any:
    from facenet_pytorch import InceptionResnetV1
    from facenet_pytorch.models import mtcnn

    if name == "InceptionResnetV1":
        return InceptionResnetV1(num_classes=10, classify=True)
    return getattr(mtcnn, name)(pretrained=False)


BUILDERS = {
    "torchvision": _torchvision,
    "timm": _timm,
    "pytorchcv": _pytorchcv,
    "smp": _smp,
    "facenet": _facenet,
    "transformers": configured.transformers,
    "monai": configured.monai,
    "diffusers": configured.diffusers,
}

CHANNELS = {"monai/VNet": 4, "diffusers/DiTTransformer2DModel": 4}
"""Of the images that are no three."""

TOO_LARGE = ("monai/VNet-3d", "monai/SwinUNETR-3d")
"""One has a fixed width of 46 million parameters, one takes no volume below 64 x 64 x 64."""


def catalogue() -> Iterator[Entry]:
    """Yield every network of the zoo."""
    for library, groups in listed.NETWORKS.items():
        for size, names in groups.items():
            for name in names.split():
                full = f"{library}/{name}"
                yield Entry(full, size, CHANNELS.get(full, 3))
    for name in configured.TRANSFORMERS:
        yield Entry(f"transformers/{name}", 64)
    for name in configured.MONAI:
        for full in (f"monai/{name}", f"monai/{name}-3d"):
            if full in TOO_LARGE:
                continue
            size = 64 if name == "SwinUNETR" else 32
            yield Entry(full, size, CHANNELS.get(full, 3))
    for name in configured.DIFFUSERS:
        yield Entry(f"diffusers/{name}", 32, CHANNELS.get(f"diffusers/{name}", 3))
