"""S4, record: what was proven, how, with which numbers, and what was assumed.

A certificate is data: it prints as a table of at most 100 columns and goes to JSON and back. May
import errors, spec and rich.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from convgraph.errors import ProofError

VERDICTS = ("proven", "refuted", "undecided")

ASSUMED_VENDOR = "each side's operators are multilinear in x, w, b and g, vendor's kernels included"
NOT_COVERED = (
    "NaN and infinities",
    "the sign of zero and flushing of subnormal numbers",
    "another geometry, batch size, dtype, device, memory layout or choice of kernel than recorded",
    "behaviour that depends on train/eval state, gradient mode or the number of calls",
)
WIDTH = 100


@final
@dataclass(frozen=True)
class Part:
    """One part of a certificate.

    Attributes:
        name: "S0 structure", "S2 identity" or "S3 rounding".
        status: "proven", "refuted", "undecided" or "not asked".
        facts: what was compared, in one line.
    """

    name: str
    status: str
    facts: str


@final
@dataclass(frozen=True)
class Certificate:
    """The record of one proof.

    Attributes:
        name: what was judged.
        verdict: "proven", "refuted" or "undecided".
        reason: the first part that failed, in words; empty when proven.
        parts: one entry per part.
        spec: the integers of the operator.
        dtype: in which both sides computed.
        device: where.
        seed: of every draw; replays the run.
        a: probes are uniform on the integers of [-a, a].
        trials: r.
        log2_epsilon: log2 of the probability of a wrong "proven".
        rho: per quantity, largest |candidate - reference| / bound.
        rho_exact: per quantity, largest |candidate - finer reference| / bound.
        counterexample: quantity, index and both numbers, if refuted.
        versions: of torch, numpy, Python and convgraph.
        flags: settings that change what a kernel computes, TF32 among them.
        assumed: what was taken for granted.
        not_covered: what the certificate says nothing about.
    """

    name: str
    verdict: str
    reason: str
    parts: tuple[Part, ...]
    spec: dict[str, Any]
    dtype: str
    device: str
    seed: int
    a: int
    trials: int
    log2_epsilon: float
    rho: dict[str, float] = field(default_factory=dict)
    rho_exact: dict[str, float] = field(default_factory=dict)
    counterexample: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)
    assumed: tuple[str, ...] = (ASSUMED_VENDOR,)
    not_covered: tuple[str, ...] = NOT_COVERED

    def __post_init__(self) -> None:
        """Refuse a verdict that is none."""
        if self.verdict not in VERDICTS:
            raise ProofError(f"expected a verdict in {VERDICTS}, got {self.verdict!r}")

    def __bool__(self) -> bool:
        """Refuse: "undecided" is neither true nor false."""
        raise ProofError(
            'a certificate is no bool, it may be "undecided"; write cert.verdict == "proven"'
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render as a table."""
        table = Table(title=f"{self.name}: {self.verdict}", title_justify="left", show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for part in self.parts:
            table.add_row(part.name, f"{part.status}: {part.facts}" if part.facts else part.status)
        if self.reason:
            table.add_row("reason", self.reason)
        for name, rho in (("rho", self.rho), ("rho, exact", self.rho_exact)):
            if rho:
                table.add_row(name, ", ".join(f"{k} {v:.2g}" for k, v in rho.items()))
        table.add_row("ran in", f"{self.dtype} on {self.device}, {_pairs(self.flags)}")
        table.add_row("versions", _pairs(self.versions))
        table.add_row("assumed", "; ".join(self.assumed))
        table.add_row("not covered", "; ".join(self.not_covered))
        yield table

    def __str__(self) -> str:
        """Render as plain text of at most 100 columns."""
        console = Console(width=WIDTH, color_system=None)
        with console.capture() as capture:
            console.print(self)
        return capture.get()

    def to_json(self, path: str | Path | None = None) -> str:
        """Return the record as JSON and, with a path, write it there too."""
        text = json.dumps(asdict(self), indent=2)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, text: str) -> "Certificate":
        """The way back from `to_json`.

        Raises:
            ProofError: the text is no record of a certificate.
        """
        try:
            values = json.loads(text)
            values["parts"] = tuple(Part(**part) for part in values["parts"])
            for name in ("assumed", "not_covered"):
                values[name] = tuple(values[name])
            return cls(**values)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ProofError(f"expected the JSON of a certificate: {error}") from error


def _pairs(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in found.items())
