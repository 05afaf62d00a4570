"""The documentation, from docs/ and everything that is made for it, into site/.

`python -m tests.docs.build` writes the pages with their pictures and outputs into build/docs, lets
Zensical make the site of them, sets the formulas and looks for links that lead nowhere. With a
folder named behind it, the site is put there too, beside the versions that it holds.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from convgraph import __version__
from convgraph.explorer import page
from tests.docs import addresses, pictures, shown
from tests.docs.formulas import typeset_site
from tests.docs.languages import link_languages
from tests.docs.links import broken
from tests.docs.versions import publish

ROOT = Path(__file__).resolve().parents[2]


def stage(folder: Path) -> None:
    """Write every page and picture of the site into a folder, as Markdown."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder)
    for language in ("", "zh"):
        text = page(language=language or "en")
        (folder / language).mkdir(exist_ok=True)
        (folder / language / "explorer-page.html").write_text(text, encoding="utf-8")
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (folder / "contributing.md").write_text(contributing.replace("](docs/", "]("), encoding="utf-8")
    translate(folder)
    for draw in (pictures.pixel_graph, pictures.first_graph):
        draw(folder / "images")
    lessons = [sys.executable, "notebooks/editions.py", "pages", str(folder / "lessons")]
    subprocess.run(lessons, cwd=ROOT, check=True)
    shown.show(folder)


def translate(folder: Path) -> None:
    """Put into Chinese pages what they share with the English ones: code, the explorer."""
    english = (folder / "tutorial.md").read_text(encoding="utf-8")
    tutorial = folder / "zh" / "tutorial.md"
    tutorial.write_text(with_code(tutorial.read_text(encoding="utf-8"), english), encoding="utf-8")
    text = (folder / "explorer.md").read_text(encoding="utf-8")
    frame = text[text.index("<iframe") : text.index("</script>") + len("</script>")]
    explorer = folder / "zh" / "explorer.md"
    chinese = explorer.read_text(encoding="utf-8")
    frame = frame.replace("convgraph explorer", "卷积的探索页")
    explorer.write_text(chinese.replace("{frame}", frame), encoding="utf-8")


def with_code(translated: str, english: str) -> str:
    """Return a translated page with the English code in place of each `{code}`.

    Raises:
        ValueError: the two have another number of blocks.
    """
    blocks = [found[0] for found in shown.BLOCK.finditer(english)]
    if translated.count("{code}") != len(blocks):
        raise ValueError(f"expected {len(blocks)} blocks of code, got {translated.count('{code}')}")
    for block in blocks:
        translated = translated.replace("{code}", block, 1)
    return translated


def forget(folder: Path) -> None:
    """Clear what Zensical keeps, a file each; its `--clean` takes kernels beside it too."""
    for kept in folder.glob("*"):
        if kept.is_file():
            kept.unlink()


def main(versions: list[str]) -> None:
    """Build the site; a warning is an error."""
    stage(ROOT / "build" / "docs")
    zensical = Path(sys.executable).with_name("zensical")
    env = os.environ | addresses.variables((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    forget(ROOT / ".cache")
    subprocess.run([zensical, "build", "--strict"], cwd=ROOT, env=env, check=True)
    addresses.edit_the_text(ROOT / "site")
    typeset_site(ROOT / "site")
    link_languages(ROOT / "site")
    found = broken(ROOT / "site")
    if found:
        sys.exit("\n".join(found))
    for folder in versions:
        publish(ROOT / "site", Path(folder), __version__)


if __name__ == "__main__":
    main(sys.argv[1:])
