"""Trained weights: what a network knows, its graph knows; R-Net's faces and the astronaut's."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convgraph as cg
from tests.convert.trained import best_of_overlapping, library

pytestmark = pytest.mark.slow

FACES = torch.arange(200) < 100
"""Of scikit-image's `lfw_subset`: a hundred faces, then a hundred pieces of background."""

SURE = 0.7
"""From which probability on MTCNN calls what R-Net sees a face."""


def scaled(pixels: Tensor) -> Tensor:
    """Bytes as MTCNN's networks want them."""
    return (pixels - 127.5) / 128


@pytest.fixture(scope="module")
def images() -> Tensor:
    """(200, 3, 24, 24): the 25 x 25 grey images, resized as MTCNN resizes what it shows R-Net."""
    from skimage.data import lfw_subset

    grey = torch.from_numpy(lfw_subset()).float()[:, None] * 255
    small = F.interpolate(grey, (24, 24), mode="area").expand(-1, 3, -1, -1)
    return scaled(small).to(memory_format=torch.channels_last)


@pytest.fixture
def detector() -> Any:
    found = library().MTCNN(keep_all=True)
    return found.to(memory_format=torch.channels_last)


@torch.no_grad()
def test_r_net_tells_all_faces_apart(detector: Any, images: Tensor) -> None:
    dense = detector.rnet
    net = cg.to_graph(dense, images, strict=True)
    graph = cg.PixelGraph.from_image(images)
    box, face = dense(images)
    assert torch.equal(face[:, 1] > SURE, FACES)
    for found in (net(images), net(graph)):
        assert torch.equal(found[0], box)
        assert torch.equal(found[1], face)
    with cg.backend("messages"):  # one message per edge, in whatever order
        assert torch.equal(net(graph)[1][:, 1] > SURE, FACES)
    with torch.no_grad():
        net.conv2.weight.copy_(net.conv2.weight.flip(3))
    assert not torch.equal(net(images)[1][:, 1] > SURE, FACES)  # it is no easy question


def test_r_net_on_rows_is_proven(detector: Any, images: Tensor) -> None:
    """Row by row the sums run in another order, so that bits differ: by no more than they may."""
    net = cg.to_graph(detector.rnet)
    with cg.backend("gather"):
        assert cg.prove(net, detector.rnet, images[[0, 100]]).verdict == "proven"
        with torch.no_grad():
            net.conv2.weight[0, 0, 0, 0] += 1e-3
        assert cg.prove(net, detector.rnet, images[[0, 100]]).verdict == "refuted"


def detections(detector: Any) -> list[np.ndarray]:
    from skimage.data import astronaut

    return [np.stack(list(part)).astype("f8") for part in detector.detect(astronaut(), True)]


def test_the_three_nets_find_the_astronauts_face(detector: Any) -> None:
    want = detections(detector)
    for name in ("pnet", "rnet", "onet"):
        setattr(detector, name, cg.to_graph(getattr(detector, name), strict=True))
    boxes, sure, points = got = detections(detector)
    assert all(np.array_equal(one, two) for one, two in zip(got, want, strict=True))
    (left, top, right, bottom), ((*_, nose, _, _),) = boxes[0], points
    assert sure > 0.99
    # The head is the only one of the photograph, in the upper half and left of the middle.
    assert 150 < left < nose[0] < right < 300
    assert 30 < top < nose[1] < bottom < 200


def test_boxes_that_overlap() -> None:
    boxes = torch.tensor([[0, 0, 4, 4], [0, 0, 4, 3], [0, 0, 4, 2], [9, 9, 10, 10.0]])
    scores, image = torch.tensor([0.2, 0.9, 0.5, 0.1]), torch.tensor([0, 0, 0, 0])
    assert best_of_overlapping(boxes, scores, image, 0.7).tolist() == [1, 2, 3]
    assert best_of_overlapping(boxes, scores, image, 0.6).tolist() == [1, 3]
    other = torch.tensor([0, 1, 0, 0])
    assert best_of_overlapping(boxes, scores, other, 0.6).tolist() == [1, 2, 0, 3]
    assert best_of_overlapping(boxes[:0], scores[:0], image[:0], 0.5).tolist() == []
