"""Networks of torchvision, beside a torch whose build does not fit torchvision's operators."""

from typing import Any

import pytest
import torch

OPERATORS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def models() -> Any:
    """Return torchvision.models; skip the test where torchvision is not installed.

    A wheel built for another torch imports once the operators it registers shapes for are declared.
    """
    try:
        import torchvision
    except RuntimeError:
        for name, schema in OPERATORS.items():
            torch.library.define(f"torchvision::{name}", schema)
        import torchvision
    except ModuleNotFoundError:
        pytest.skip("torchvision is not installed")
    return torchvision.models
