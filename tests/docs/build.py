"""The documentation, from docs/ and everything that is made for it, into site/.

`python -m tests.docs.build` writes the pages with their pictures and outputs into build/docs, lets
Zensical make the site of them, sets the formulas and looks for links that lead nowhere.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from convgraph.explorer import page
from tests.docs import pictures, shown
from tests.docs.formulas import typeset_site
from tests.docs.links import broken

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
    for draw in (pictures.pixel_graph, pictures.first_graph):
        draw(folder / "images")
    lessons = [sys.executable, "notebooks/editions.py", "pages", str(folder / "lessons")]
    subprocess.run(lessons, cwd=ROOT, check=True)
    shown.show(folder)


def main() -> None:
    """Build the site; a warning is an error."""
    stage(ROOT / "build" / "docs")
    zensical = Path(sys.executable).with_name("zensical")
    subprocess.run([zensical, "build", "--clean", "--strict"], cwd=ROOT, check=True)
    typeset_site(ROOT / "site")
    found = broken(ROOT / "site")
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
