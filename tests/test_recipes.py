"""The recipes of the documentation run, each for itself; one whose tool is missing is skipped."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.convert import nets

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guide" / "recipes.md"
SECTIONS = dict(
    re.findall(r"^## (.+?)\n.*?^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
)
TOOLS = ("timm", "peft")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*__array_wrap__.*"),
]


def test_every_section_is_read() -> None:
    assert len(SECTIONS) == PAGE.read_text("utf-8").count("```python\n")
    assert {"Grad-CAM", "FSDP2", "An ocean"} < set(SECTIONS)


def _marked(name: str) -> Any:
    """A recipe whose tools take seconds to import is CI's."""
    long = any(f"import {tool}\n" in SECTIONS[name] for tool in TOOLS)
    return pytest.param(name, marks=[pytest.mark.ci] if long else [])


@pytest.mark.parametrize("name", [_marked(name) for name in SECTIONS])
def test_a_recipe_runs(name: str) -> None:
    source = SECTIONS[name]
    for tool in TOOLS:
        if f"import {tool}\n" in source:
            nets.models()  # torchvision, which both import where it is installed
            pytest.importorskip(tool)
    scope: dict[str, Any] = {"__name__": "recipe"}
    exec(compile(source, name, "exec"), scope)
