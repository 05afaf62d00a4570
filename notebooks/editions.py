"""Every form a lesson comes in, made from its one text.

    python notebooks/editions.py execute [03 ...]   the notebooks, executed, as they are committed
    python notebooks/editions.py lab FOLDER         copies to work in: no outputs, nothing given away
    python notebooks/editions.py pages FOLDER       Markdown for the documentation, with outputs
    python notebooks/editions.py slides FOLDER      slides to teach from; a browser shows them

The Chinese lessons have the English code, and therefore its outputs: `zh/` holds their running text
alone, one part for each part of the English text, parted by lines that say `%%`. A line in it that
begins with `{答：` is an answer folded away, one with `{解：` the fold of an exercise: the English
solution and slip, with the reason why the slip is one.
"""

import argparse
import copy
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat

HERE = Path(__file__).resolve().parent
ANSWER = re.compile(r"^\{答：(.*)\}$", re.MULTILINE)
SOLUTION = re.compile(r"^\{解：(.*)\}$", re.MULTILINE)
BLOCK = re.compile(r"```python\n.*?\n```", re.DOTALL)
PICTURE_WITH_WORDS = """{%- extends 'markdown/index.md.j2' -%}
{%- block data_png -%}
![{{ output.metadata.get('image/png', {}).get('alt', '') }}]({{ output.metadata.filenames['image/png'] | path2url }})
{%- endblock data_png -%}
"""


def texts(chosen: list[str] | None = None) -> list[Path]:
    """Return the lessons' texts in order, or those whose numbers are given."""
    found = sorted(HERE.glob("[0-9]*.py"))
    return [path for path in found if not chosen or path.stem[:2] in chosen]


def notebook(text: Path) -> Any:
    """Return a lesson without outputs, with cell names that do not change from run to run."""
    book = jupytext.read(text)
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number:03d}"
    book.metadata.pop("jupytext", None)
    return book


def executed(text: Path) -> Any:
    """Return the committed notebook."""
    return nbformat.read(text.with_suffix(".ipynb"), as_version=4)


def execute(text: Path) -> None:
    """Run a lesson in a kernel and write the notebook beside it; a check that fails stops it."""
    from nbclient import NotebookClient

    book = notebook(text)
    where = {"metadata": {"path": str(HERE)}}
    NotebookClient(
        book, timeout=300, kernel_name="python3", resources=where, record_timing=False
    ).execute()
    book.metadata["language_info"].pop("version", None)
    nbformat.write(book, text.with_suffix(".ipynb"))


def chinese(text: Path, book: Any) -> Any:
    """Return the same notebook with Chinese text: same code, same outputs.

    Raises:
        ValueError: the Chinese text has another number of parts, or of blocks of code in a part.
    """
    (path,) = (HERE / "zh").glob(f"{text.stem[:2]}_*.md")
    parts = [part.strip() for part in path.read_text(encoding="utf-8").split("\n%%\n")]
    book = copy.deepcopy(book)
    cells = [cell for cell in book.cells if cell.cell_type == "markdown"]
    if len(parts) != len(cells):
        raise ValueError(f"{path.name}: expected {len(cells)} parts as in English, got {len(parts)}")
    for number, (cell, part) in enumerate(zip(cells, parts, strict=True)):
        blocks = BLOCK.findall(cell.source)
        if len(SOLUTION.findall(part)) != len(blocks) // 2:
            raise ValueError(f"{path.name}, part {number}: expected the fold of an exercise")
        if len(ANSWER.findall(part)) != cell.source.count("<summary><b>Answer</b>"):
            raise ValueError(f"{path.name}, part {number}: expected as many answers as in English")
        part = ANSWER.sub(r"<details><summary><b>答案</b></summary>\1</details>", part)
        for reason in SOLUTION.findall(part):
            fold = (
                f"<details><summary><b>解答</b></summary>\n\n{blocks[0]}\n\n"
                f"检查者会发现的一个错误：{reason}\n\n{blocks[1]}\n\n</details>"
            )
            part = part.replace(f"{{解：{reason}}}", fold)
        cell.source = part
    return book


def languages(text: Path, book: Any) -> dict[str, Any]:
    """Return the notebook in every language it is written in."""
    translated = list((HERE / "zh").glob(f"{text.stem[:2]}_*.md"))
    return {"": book, **({"zh": chinese(text, book)} if translated else {})}


def lab(folder: Path) -> None:
    """Write copies to work in; what a student has changed stays."""
    for text in texts():
        for language, book in languages(text, notebook(text)).items():
            place = folder / language / f"{text.stem}.ipynb"
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(HERE / "lesson.py", place.parent)
            if not place.exists():
                nbformat.write(book, place)
    sys.stdout.write(f"lessons to work in: {folder} (delete one to have it anew)\n")


# Where the explorer stands on a lesson's page: after which part of the text, and what it opens with.
EXPLORER = {
    "01": (4, "graph"), "02": (4, "pointwise"), "03": (3, "bars"), "04": (3, "messages"), "05": (1, "split"),
    "07": (1, "walls"), "08": (8, "hops"), "12": (2, "holes"), "13": (1, "holes"), "14": (4, "hexagon"),
    "15": (1, "hops"), "16": (2, "photo"),
}
FRAME = """

<iframe class="explorer-in-lesson" src="../explorer-page.html#{opens}" title="{title}" loading="lazy"></iframe>
"""


def with_explorer(book: Any, number: str, title: str) -> Any:
    """Return a notebook whose page has the explorer where the sentence is."""
    if number not in EXPLORER:
        return book
    after, opens = EXPLORER[number]
    book = copy.deepcopy(book)
    cells = [cell for cell in book.cells if cell.cell_type == "markdown"]
    cells[after].source += FRAME.format(opens=opens, title=title)
    return book


def links_back(page: Path, titles: dict[str, str]) -> None:
    """Say on the explorer's page which lessons have it."""
    links = ", ".join(f"[{words}](lessons/{name}.md)" for name, words in titles.items())
    page.write_text(page.read_text(encoding="utf-8").replace("{lessons}", links), encoding="utf-8")


def pages(folder: Path) -> None:
    """Write a page a lesson and language, its pictures and the explorer in it, which links back."""
    from nbconvert import MarkdownExporter

    exporter = MarkdownExporter(raw_template=PICTURE_WITH_WORDS)
    having: dict[str, dict[str, str]] = {}
    for text in texts():
        for language, book in languages(text, executed(text)).items():
            if text.stem[:2] in EXPLORER:
                words = book.cells[0].source.partition("\n")[0].removeprefix("# ")
                having.setdefault(language, {})[text.stem] = words
            place = folder.parent / language / folder.name
            named = {"unique_key": text.stem, "output_files_dir": f"{text.stem}_files"}
            title = "卷积的探索页" if language == "zh" else "explorer of convolutions"
            shown = with_explorer(book, text.stem[:2], title)
            body, found = exporter.from_notebook_node(shown, resources=named)
            (place / named["output_files_dir"]).mkdir(parents=True, exist_ok=True)
            (place / f"{text.stem}.md").write_text(body, encoding="utf-8")
            for name, data in found["outputs"].items():
                (place / name).write_bytes(data)
    for language, titles in having.items():
        links_back(folder.parent / language / "explorer.md", titles)


def slides(folder: Path) -> None:
    """Write slides: a new one at every heading, what follows step by step; answers stay folded."""
    from nbconvert import SlidesExporter

    folder.mkdir(parents=True, exist_ok=True)
    exporter = SlidesExporter(reveal_scroll=True)
    for text in texts():
        for language, book in languages(text, executed(text)).items():
            for cell in book.cells:
                heading = cell.cell_type == "markdown" and "## " in f"\n{cell.source}"
                kind = "slide" if heading else "fragment" if cell.cell_type == "markdown" else "-"
                cell.metadata["slideshow"] = {"slide_type": kind}
            body, _ = exporter.from_notebook_node(book)
            name = "-".join(filter(None, (text.stem, language)))
            (folder / f"{name}.slides.html").write_text(body, encoding="utf-8")
    sys.stdout.write(f"slides: {folder}\n")


def main() -> None:
    """Make what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("execute", "lab", "pages", "slides"))
    parser.add_argument("names", nargs="*", help="numbers of lessons, or the folder to write to")
    args = parser.parse_args()
    if args.what == "execute":
        for text in texts(args.names):
            sys.stdout.write(f"{text.stem}\n")
            sys.stdout.flush()
            execute(text)
    else:
        {"lab": lab, "pages": pages, "slides": slides}[args.what](Path(args.names[0]).resolve())


if __name__ == "__main__":
    main()
