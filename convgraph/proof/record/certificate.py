"""S4, record: what was proven, how, with which numbers, and what was assumed.

A certificate is data: it prints as a table of at most 100 columns, goes to JSON and back, and to
one HTML page. Its digest is the SHA-256 of its canonical JSON: keys sorted, no spaces, ASCII, a
number that is not finite spelled as a string.
"""

import json
import sys
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any, final, get_args, get_origin

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from convgraph.errors import ProofError
from convgraph.proof.record.counterexample import Counterexample
from convgraph.proof.record.page import page
from convgraph.proof.record.printable import printable, printable_lines

SCHEMA = 4
"""Version of the record; a reader refuses any other."""

VERDICTS = ("proven", "refuted", "undecided")
KINDS = ("convolution", "linear", "maximum", "network")

ASSUMED_VENDOR = "each side's operators are multilinear in x, w, b and g, vendor's kernels included"
NOT_COVERED = (
    "NaN and infinities, and numbers so large that a sum on the way overflows",
    "the sign of zero and flushing of subnormal numbers",
    "another geometry, batch size, dtype, device, memory layout or choice of kernel than recorded",
    "behaviour that depends on train/eval state, gradient mode, the number of calls, what made the "
    "image or hangs on it, threads, the clock, the environment, garbage collection or global flags "
    "such as autocast",
    "code that notices that it is judged, by the stack, by dispatch modes or by memory that it "
    "reads past torch, and random numbers from a generator of its own",
    "what compilers, exporters and converters make of it",
    "forward mode, vmap, and what happens if an input is changed between forward and backward",
)
NO_SECOND = "gradients of gradients, which were not asked for"
WIDTH = 100
NOT_FINITE = ("inf", "-inf", "nan")


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
        name: what was judged: the candidate's `repr`, so that nobody can choose it.
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
        counterexample: side, quantity, index and both numbers, if refuted; of S2 the trial and the
            manner of calling too, so that one call shows it again.
        versions: of torch, numpy, Python and convgraph.
        flags: settings that change what a kernel computes, TF32 among them.
        assumed: what was taken for granted.
        not_covered: what the certificate says nothing about.
        kind: "convolution", "linear" (an operator without parameters), "maximum" (of windows) or
            "network".
        candidate: "module:object" under which the candidate can be imported; empty if unknown.
        reference: the same for the reference.
        adapter: per side, how it is called: "function" f(x, w, b) on images, or "module:object" of
            a function (side, spec) -> f(x, w, b), such as "convgraph.comparison.callers:graph".
        epsilon: the probability of a wrong "proven" that was asked for; trials follow from it.
        trace: SHA-256 of the operators that the premise followed; empty where it was not asked.
        cause: the likely cause of a refutation, in words.
        excluded: what was left out of the comparison, in words.
        layers: certificates of a network's layers.
        schema: version of the record.
        digest: SHA-256 of all the rest; worked out, never given.
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
    kind: str = "convolution"
    candidate: str = ""
    reference: str = ""
    adapter: dict[str, str] = field(default_factory=dict)
    epsilon: float = 0.0
    trace: str = ""
    cause: str = ""
    excluded: tuple[str, ...] = ()
    layers: tuple["Certificate", ...] = ()
    schema: int = SCHEMA
    digest: str = field(default="", init=False)

    def __post_init__(self) -> None:
        """Refuse a verdict or a kind that is none, and seal the record."""
        if self.verdict not in VERDICTS:
            raise ProofError(f"expected a verdict in {VERDICTS}, got {self.verdict!r}")
        if self.kind not in KINDS:
            raise ProofError(f"expected a kind in {KINDS}, got {self.kind!r}")
        if self.schema != SCHEMA:
            raise ProofError(f"expected a record of schema {SCHEMA}, got {self.schema!r}")
        for name in ("spec", "counterexample"):  # as they come back from JSON
            object.__setattr__(self, name, _plain(getattr(self, name), finite=False))
        for name in ("reason", "cause"):  # what a side raised, and where, is its own choice
            object.__setattr__(self, name, printable(getattr(self, name)))
        parts = tuple(replace(part, facts=printable(part.facts)) for part in self.parts)
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "digest", digest(asdict(self)))

    @property
    def smallest_case(self) -> Counterexample | None:
        """The smallest case that refutes, if one was found."""
        found = self.counterexample.get("smallest")
        return None if found is None else Counterexample.from_dict(found)

    def __bool__(self) -> bool:
        """Refuse: "undecided" is neither true nor false."""
        raise ProofError(
            'a certificate is no bool, it may be "undecided"; write cert.verdict == "proven"'
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render as a table."""
        title = f"{printable(' '.join(self.name.split()))}: {self.verdict}"
        table = Table(title=title, title_justify="left", show_header=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for part in self.parts:
            table.add_row(part.name, f"{part.status}: {part.facts}" if part.facts else part.status)
        for layer in self.layers:
            table.add_row("layer", f"{layer.verdict}: {printable(layer.name)}")
        case = self.smallest_case
        shown = "" if case is None else printable_lines(str(case))
        for name, text in (("reason", self.reason), ("likely cause", self.cause), ("case", shown)):
            if text:
                table.add_row(name, text)
        for name, rho in (("rho", self.rho), ("rho, exact", self.rho_exact)):
            if rho:
                table.add_row(name, ", ".join(f"{k} {v:.2g}" for k, v in rho.items()))
        if self.candidate or self.reference:
            table.add_row("candidate", self.candidate or "(not importable)")
            table.add_row("reference", self.reference or "(not importable)")
        table.add_row("ran in", f"{self.dtype} on {self.device}, {_pairs(self.flags)}")
        table.add_row("versions", _pairs(self.versions))
        if self.excluded:
            table.add_row("left out", "; ".join(self.excluded))
        table.add_row("assumed", "; ".join(self.assumed))
        table.add_row("not covered", "; ".join(self.not_covered))
        yield table

    def __str__(self) -> str:
        """Render as plain text of at most 100 columns."""
        text = StringIO()  # and not the program's own output, which may be closed or full
        console = Console(
            file=text, width=WIDTH, color_system=None, force_jupyter=False, markup=False
        )
        console.print(self)
        return text.getvalue()

    def to_json(self, path: str | Path | None = None) -> str:
        """Return the record as JSON and, with a path, write it there too."""
        text = json.dumps(_plain(asdict(self)), indent=2, allow_nan=False)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def to_html(self, path: str | Path | None = None) -> str:
        """Return the record as one HTML page that needs no network and, with a path, write it."""
        text = page(asdict(self))
        if path is not None:
            Path(path).write_text(text, encoding="utf-8", errors="replace")  # what a side raised
        return text

    @classmethod
    def from_json(cls, text: str) -> "Certificate":
        """The way back from `to_json`.

        Raises:
            ProofError: the text is no record of a certificate; the error names the field.
        """
        try:
            return _certificate(json.loads(text))
        except ProofError:
            raise
        except Exception as error:  # whoever wrote the text chose what goes wrong
            raise ProofError(
                f"expected the JSON of a certificate: {type(error).__name__}: {error}"
            ) from error


def named(
    found: Certificate, adapter: dict[str, str], candidate: str = "", reference: str = ""
) -> Certificate:
    """Return a record that says how each side is called and by which name it can be imported.

    Args:
        found: the record; names that it has already stay.
        adapter: per side, "function" or "module:object" of what calls it.
        candidate: "module:object"; empty if unknown.
        reference: the same for the reference.
    """
    calls = [f"{how} calls its side as it is" for how in adapter.values() if ":" in how]
    more = [line for line in dict.fromkeys(calls) if line not in found.assumed]
    return replace(
        found,
        candidate=found.candidate or candidate,
        reference=found.reference or reference,
        adapter=adapter,
        assumed=(*found.assumed, *more),
    )


def digest(record: dict[str, Any]) -> str:
    """Return the SHA-256 of a record's canonical JSON, the field `digest` itself left out.

    Example:
        >>> digest({"b": 1, "a": [0.5]}) == digest({"a": (0.5,), "b": 1, "digest": "any"})
        True
    """
    rest = {name: value for name, value in _plain(record).items() if name != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(text.encode()).hexdigest()


def importable(target: object) -> str:
    """Return "module:object" where that is how an object can be imported, else an empty string.

    Example:
        >>> importable(importable), importable(lambda x: x)
        ('convgraph.proof.record.certificate:importable', '')
    """
    module, name = getattr(target, "__module__", None), getattr(target, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or module == "__main__":
        return ""
    found: object = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return f"{module}:{name}" if found is target else ""


def _certificate(found: Any) -> Certificate:
    """Build one certificate from parsed JSON, field by field."""
    values = _record(Certificate, found, "a certificate")
    values["parts"] = tuple(Part(**_record(Part, part, "a part")) for part in values["parts"])
    values["layers"] = tuple(_certificate(layer) for layer in values["layers"])
    for name in ("rho", "rho_exact", "counterexample"):
        values[name] = {
            key: float(value) if value in NOT_FINITE else value
            for key, value in values[name].items()
        }
    sealed = values.pop("digest")
    certificate = Certificate(**values)
    if certificate.digest != sealed:
        raise ProofError(
            f"expected the JSON of a certificate: its digest is {certificate.digest}, the record "
            f"says {sealed}; it was changed after it was written"
        )
    return certificate


def _record(kind: type, found: Any, what: str) -> dict[str, Any]:
    """Return the fields of one record, every one there, none unknown, each of its JSON type."""
    expected = {entry.name: entry.type for entry in fields(kind)}
    if not isinstance(found, dict):
        raise ProofError(f"expected the JSON of {what}: an object, got {type(found).__name__}")
    if "schema" in expected and found.get("schema") != SCHEMA:
        raise ProofError(
            f"expected the JSON of {what} of schema {SCHEMA}, got {found.get('schema')!r}"
        )
    for names, fault in (
        (found.keys() - expected.keys(), "unknown"),
        (expected.keys() - found.keys(), "missing"),
    ):
        if names:
            raise ProofError(
                f"expected the JSON of {what}: {fault} field {', '.join(sorted(names))}"
            )
    values = {}
    for name, annotation in expected.items():
        origin: Any = get_origin(annotation) or annotation
        inner = get_args(annotation)
        types: Any = (list,) if origin is tuple else (float, int) if origin is float else (origin,)
        value: Any = found[name]
        texts = inner == (str, ...) and isinstance(value, list)
        if (
            not isinstance(value, types)
            or isinstance(value, bool)
            or (texts and not all(isinstance(item, str) for item in value))
        ):
            raise ProofError(
                f"expected the JSON of {what}: field {name} as "
                f"{' or '.join(kind.__name__ for kind in types)}, got {value!r}"
            )
        values[name] = tuple(value) if origin is tuple else value
    return values


def _plain(value: Any, finite: bool = True) -> Any:
    """Return a value in JSON's own types; finite: other numbers become strings."""
    if isinstance(value, dict):
        return {str(key): _plain(item, finite) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, finite) for item in value]
    if hasattr(value, "item"):  # a number of numpy's
        value = value.item()
    if finite and isinstance(value, float) and str(value) in NOT_FINITE:
        return str(value)
    return value


def _pairs(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in found.items())
