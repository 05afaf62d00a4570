"""Print the table of planted faults, or write it into the documentation.

python -m tests.proof.faults.table            print
python -m tests.proof.faults.table PATH       write the page
"""

import sys
from functools import cache
from pathlib import Path

from convgraph.proof import Certificate
from tests.proof.faults import FAMILIES, FAULTS, judge
from tests.proof.faults.tolerances import Tolerances, tolerances

PAGE = Path(__file__).resolve().parents[3] / "docs" / "faults.md"
PIPE = r"\|"
SEEN, MISSED = "noticed", "**missed**"

HEAD = """# Planted faults

A judge that has never been seen to refute proves nothing. Each line below is a convolution with one
mistake. The judge takes it through structure (S0), premise (S1), identity of value, gradients and
their gradients (S2) and rounding (S3), see [what is proven](design/proof.md), and has to say
*refuted*; "could not be decided" is not enough. Edges that differ are no number yet: where S0 says
that they do, S2 has to show one. Where S2 refutes, S3 is not asked.

Beside it stand comparisons that tests often make, in float64 on one draw of standard normal
numbers: `torch.testing.assert_close` with its defaults and `torch.allclose(atol=1e-4)`, both of the
output, as most tests do; and `assert_close` of the output and all first gradients, as careful ones
do. A fault of a gradient cannot show in an output.

This page is made by `make faults`; a test holds it to the faults.
"""

COLUMNS = (
    "fault",
    "refuted by",
    "`assert_close`",
    "`allclose(atol=1e-4)`",
    "`assert_close`, gradients too",
)


@cache
def beside(name: str) -> Tolerances:
    """Return what tolerances say of a fault."""
    return tolerances(FAULTS[name])


def refuting(found: Certificate) -> list[str]:
    """Return the parts that refute, in order; S2 with the first quantity that differs."""
    parts = []
    for part in found.parts:
        if part.status == "refuted":
            short = part.name.split()[0]
            quantity = found.counterexample.get("quantity") if short == "S2" else None
            parts.append(f"{short} ({quantity})" if quantity else short)
    return parts


def page() -> str:
    """Return the whole page, in Markdown."""
    return "\n".join([HEAD, _summary(), *(_family(family) for family in FAMILIES)])


def _summary() -> str:
    total = len(FAULTS)
    alone = {
        part: sum([p.split()[0] for p in refuting(judge(name))] == [part] for name in FAULTS)
        for part in ("S1", "S2", "S3")
    }
    rows = [
        ("the judge", sum(judge(name).verdict == "refuted" for name in FAULTS)),
        ("`assert_close`, output", sum(beside(name).close for name in FAULTS)),
        ("`allclose(atol=1e-4)`, output", sum(beside(name).loose for name in FAULTS)),
        ("`assert_close`, output and gradients", sum(beside(name).gradients for name in FAULTS)),
    ]
    lines = [f"| {who} | {seen} of {total} | {total - seen} |" for who, seen in rows]
    parts = ", ".join(f"{count} by {part} alone" for part, count in alone.items())
    head = ["| compared by | noticed | missed |", "|---|---|---|"]
    parts = f"Refuted {parts}; the others by more than one part.\n"
    return "\n".join([*head, *lines, "", parts])


def _family(family: str) -> str:
    lines = [
        f"## {family[0].upper()}{family[1:]}\n",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for name in FAMILIES[family]:
        seen_by = beside(name)
        words = [
            SEEN if seen else MISSED for seen in (seen_by.close, seen_by.loose, seen_by.gradients)
        ]
        verdict = ", ".join(refuting(judge(name))) or judge(name).verdict
        lines.append(f"| {name.replace('|', PIPE)} | {verdict} | {' | '.join(words)} |")
    return "\n".join([*lines, ""])


def main(arguments: list[str]) -> None:
    """Print, or write."""
    text = page()
    if arguments:
        Path(arguments[0]).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main(sys.argv[1:])
