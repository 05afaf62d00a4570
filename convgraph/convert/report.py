"""The report of a conversion: each operator, its module, and the rule that gives it a meaning."""

from collections import Counter
from dataclasses import dataclass
from typing import Any, final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table


@final
@dataclass(frozen=True)
class Line:
    """What was done with one operator.

    Attributes:
        path: of the module that called it, "" for the network itself.
        operator: its name.
        rule: the family of its rule, or None where it runs on the image view.
        reason: why it has no rule.
    """

    path: str
    operator: str
    rule: str | None
    reason: str


@final
@dataclass(frozen=True)
class Conversion:
    """What `to_graph` found in a network at one size.

    Attributes:
        network: name of the dense class.
        size: of the images (pixels).
        lines: the operators on maps, in order; those on readouts are torch's own.
        outputs: the axes of each output, "" where it is an ordinary tensor.
    """

    network: str
    size: tuple[int, ...]
    lines: tuple[Line, ...]
    outputs: tuple[str, ...]

    @property
    def fallbacks(self) -> tuple[Line, ...]:
        """The operators without a rule: they run on the image view, and never on a mask."""
        return tuple(line for line in self.lines if line.rule is None)

    @property
    def is_strict(self) -> bool:
        """Whether every operator has a rule, so that the network runs on masks."""
        return not self.fallbacks

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render as a table: a row a kind of operator, then a row a fallback."""
        size = " x ".join(str(n) for n in self.size)
        table = Table(title=f"{self.network} on {size} pixels", title_justify="left")
        for name in ("operator", "times", "rule", "module"):
            table.add_column(name, justify="right" if name == "times" else "left")
        counts = Counter((line.rule, line.operator) for line in self.lines if line.rule)
        for (rule, operator), count in sorted(counts.items(), key=lambda item: -item[1]):
            table.add_row(operator, str(count), rule, "")
        for line in self.fallbacks:
            table.add_row(line.operator, "1", f"image view: {line.reason}", line.path or "itself")
        yield table

    def __str__(self) -> str:
        """Render as plain text of at most 100 columns."""
        return plain_text(self, 100)


def plain_text(shown: Any, width: int) -> str:
    """Return what a console of so many columns prints."""
    console = Console(width=width, color_system=None, force_jupyter=False)
    with console.capture() as capture:
        console.print(shown)
    return capture.get()
