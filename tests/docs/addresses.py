"""Where the project lives, for the documentation: from `[project.urls]` of pyproject.toml alone.

With a Repository every page has a link to it and one to edit the page; with a Documentation pages
name their own address. Without them there are no such links, and nothing is broken.
"""

import re
import tomllib
from pathlib import Path

# Pages that are made from a text that lies elsewhere.
MADE = (
    (r"docs/lessons/(\w+)\.md", r"notebooks/\1.py"),
    (r"docs/zh/lessons/(\w+)\.md", r"notebooks/zh/\1.md"),
    (r"docs/contributing\.md", "CONTRIBUTING.md"),
)


def variables(pyproject: str) -> dict[str, str]:
    r"""Return the variables that mkdocs.yml reads.

    Args:
        pyproject: text of pyproject.toml.

    Example:
        >>> text = '[project.urls]\nRepository = "https://example.org/a/b/"'
        >>> variables(text)["CONVGRAPH_EDIT"]
        'https://example.org/a/b/edit/main/docs/'
        >>> variables("[project]")
        {}
    """
    urls = tomllib.loads(pyproject).get("project", {}).get("urls", {})
    found = {}
    if repository := urls.get("Repository", "").rstrip("/"):
        found["CONVGRAPH_REPOSITORY"] = repository
        dash = "-/" if "gitlab" in repository else ""
        found["CONVGRAPH_EDIT"] = f"{repository}/{dash}edit/main/docs/"
    if documentation := urls.get("Documentation", ""):
        found["CONVGRAPH_DOCUMENTATION"] = documentation
    return found


def edit_the_text(site: Path) -> None:
    """Let "edit this page" lead to the text that a page is made from."""
    for path in site.rglob("index.html"):
        text = path.read_text(encoding="utf-8")
        for made, written in MADE:
            text = re.sub(rf'(href="[^"]*/edit/main/){made}"', rf'\g<1>{_after(written)}"', text)
        path.write_text(text, encoding="utf-8")


def _after(written: str) -> str:
    """The template, whose group comes after one more."""
    return written.replace(r"\1", r"\g<2>")
