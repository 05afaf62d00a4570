"""A lesson taken apart: its cells, its exercises, what a reader sees before unfolding anything."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TURN = "# your turn"
FOLD = re.compile(r"<details>.*?</details>", re.DOTALL)
BLOCK = re.compile(r"```python\n(.*?)\n```", re.DOTALL)
GUESS = re.compile(r"\*\*[Gg]uess\*\*")


@dataclass(frozen=True)
class Exercise:
    """One exercise: the cell it is solved in, and what stands in the fold above it.

    Attributes:
        at: index of the code cell.
        given: the cell as the student finds it.
        solution: the cell with the solution in place of the dots.
        slip: the cell with the wrong answer that the fold warns of.
    """

    at: int
    given: str
    solution: str
    slip: str


def exercises(cells: list[Any]) -> list[Exercise]:
    """Return the exercises of a lesson's cells, in order."""
    found = []
    for at, cell in enumerate(cells):
        if cell.cell_type != "code" or TURN not in cell.source:
            continue
        fold = FOLD.findall(cells[at - 1].source)
        solution, slip = BLOCK.findall(fold[-1])
        lines = cell.source.split("\n")
        rest = "\n".join(lines[1 + next(i for i, line in enumerate(lines) if TURN in line) :])
        found.append(Exercise(at, cell.source, f"{solution}\n{rest}", f"{slip}\n{rest}"))
    return found


def without_magics(source: str) -> str:
    """Return the cell as Python."""
    return "\n".join(line for line in source.split("\n") if not line.startswith("%"))


def spoilt(cells: list[dict[str, Any]]) -> list[str]:
    """Return every question whose answer is not folded away before something is printed.

    Args:
        cells: of an executed notebook, as its JSON has them.
    """
    found = []
    for cell in cells:
        if cell["cell_type"] != "markdown":
            continue
        text = "".join(cell["source"]).replace("it says **Guess**", "")
        asked = len(GUESS.findall(FOLD.sub("", text)))
        # Nothing is printed inside of a text, so a fold in the same cell is before every output.
        if asked != len(re.findall("<summary><b>Answer</b>", text)):
            found.append(text[:80])
    return found


def pictures_without_words(cells: list[dict[str, Any]]) -> list[int]:
    """Return the execution counts of cells that show a picture without an alternative text."""
    return [
        cell["execution_count"]
        for cell in cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
        and len(output["metadata"].get("image/png", {}).get("alt", "")) < 15
    ]


def lesson_paths(folder: Path) -> list[Path]:
    """Return the texts of the lessons, in order."""
    return sorted(folder.glob("[0-9]*.py"))
