"""What a package index would show of README: no link leads nowhere, and code is untouched."""

import re
import subprocess
import sys
import tomllib
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(!?)\[([^\[\]]*)\]\(([^()\s]+)\)")
CODE = re.compile(r"(?s)```.*?```")
BUILD = (
    "import sys; from hatchling import build; build.prepare_metadata_for_build_wheel(sys.argv[1])"
)


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The description in the metadata that the build writes."""
    for plug in ("hatchling", "hatch_fancy_pypi_readme"):
        pytest.importorskip(plug)
    into = tmp_path_factory.mktemp("metadata")
    subprocess.run([sys.executable, "-c", BUILD, str(into)], cwd=ROOT, check=True)
    (path,) = into.glob("*/METADATA")
    metadata = message_from_bytes(path.read_bytes())
    assert metadata["Description-Content-Type"] == "text/markdown"
    return str(metadata.get_payload(decode=True), "utf-8")


def test_no_link_of_the_description_leads_nowhere(description: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    address = project.get("urls", {}).get("Repository")
    readme = CODE.sub("", (ROOT / "README.md").read_text(encoding="utf-8"))
    shown = CODE.sub("", description)
    assert sum(":" not in target for _, _, target in LINK.findall(readme)) > 10
    for picture, words, target in LINK.findall(readme):
        if ":" in target:
            assert f"[{words}]({target})" in shown
        elif picture:
            assert words not in shown
        else:
            assert (f"[{words}]({address}/blob/main/{target})" if address else words) in shown
    assert all(":" in target for _, _, target in LINK.findall(shown))


def test_code_stays_as_it_is(description: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert CODE.findall(description) == CODE.findall(readme) != []
