"""Networks with trained weights that arrive in a wheel: the three of MTCNN, in facenet-pytorch."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.zoo import models


def library() -> Any:
    """Return facenet_pytorch; skip the test where it is not installed.

    Its detector asks torchvision for the suppression of boxes that overlap, which is compiled code:
    where torchvision was built for another torch, it is done here.
    """
    models()
    found = pytest.importorskip(
        "facenet_pytorch",
        reason="facenet-pytorch is not installed: pip install --no-deps facenet-pytorch==2.6.0",
    )
    from facenet_pytorch.models.utils import detect_face
    from torchvision.extension import _has_ops

    if not _has_ops():
        detect_face.batched_nms = best_of_overlapping
    return found


def best_of_overlapping(boxes: Tensor, scores: Tensor, image: Tensor, most: float) -> Tensor:
    """Return the boxes (x0, y0, x1, y1) of each image, best first, that no better one covers.

    A box is covered by a better one if what both share is more than `most` of what either has.
    """
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    left = scores.argsort(descending=True, stable=True)
    kept = [left[:0]]
    while len(left):
        best, left = left[:1], left[1:]
        kept.append(best)
        low = torch.maximum(boxes[best, :2], boxes[left, :2])
        high = torch.minimum(boxes[best, 2:], boxes[left, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        either = area[best] + area[left] - shared
        left = left[(shared <= most * either) | (image[left] != image[best])]
    return torch.cat(kept)
