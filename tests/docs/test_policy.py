"""The pages that are written load nothing from anywhere."""

import re

import pytest
import torch.nn.functional as F

import convgraph as cg
from convgraph.proof import ConvSpec, prove_convolution


@pytest.mark.parametrize("kind", ["explorer", "certificate"])
def test_a_page_says_that_it_loads_nothing(kind: str, tmp_path: object) -> None:
    if kind == "explorer":
        from convgraph.explorer import page

        text = page()
    else:
        text = prove_convolution(F.conv2d, F.conv2d, ConvSpec(1, 2, (3, 3), (5, 5))).to_html()
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert found is not None
    policy = dict(part.strip().split(" ", 1) for part in found.group(1).split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert ("script-src" in policy) is (kind == "explorer")
    assert text.index("Content-Security-Policy") < text.index("<style")
    assert cg.__version__
