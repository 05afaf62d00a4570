"""Links of the built documentation that lead nowhere; `make docs` runs it on site/.

The documentation tool checks links between Markdown pages, but not those in plain HTML (the frame
of the explorer) and not the names that a page has twice. Links out of the site are not followed.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key == "id" and value:
                self.names.append(value)
            elif key in ("href", "src") and value:
                self.links.append(value)


def broken(site: Path) -> list[str]:
    """Return one line for each link without a target and each anchor that a page has twice."""
    # The page for what is not found is shown at any address: its links start at the site's root.
    pages = {
        path: _Page(path.read_text(encoding="utf-8"))
        for path in sorted(site.resolve().rglob("*.html"))
        if path.name != "404.html"
    }
    lines = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        lines += [f"{name}: two of #{n}" for n in set(page.names) if page.names.count(n) > 1]
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            anchor = unquote(url.fragment)
            target = path.parent / unquote(url.path) if url.path else path
            target = (target / "index.html" if target.is_dir() else target).resolve()
            if not target.exists():
                lines.append(f"{name}: {link} does not exist")
            elif target.name == "explorer-page.html":
                continue  # its script reads what follows the #
            elif anchor and target in pages and anchor not in pages[target].names:
                lines.append(f"{name}: {link} has no such anchor")
    return lines


if __name__ == "__main__":
    found = broken(Path(sys.argv[1]))
    sys.exit("\n".join(found) or None)
