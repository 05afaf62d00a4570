"""The smallest case in which two sides differ, as a record: what went in, what came out, and why.

A counterexample is data: it prints as text of at most 100 columns, fit to be the message of a test
that fails, and goes to JSON.
"""

import textwrap
from dataclasses import asdict, dataclass, field, fields
from typing import Any, final

from convgraph.door import door
from convgraph.errors import ProofError

WIDTH = 100
NO_CAUSE = "none of the known faults predicts these numbers"

_PLACES = {
    "y": "(image, channel, site)",
    "grad_x": "(image, channel, pixel)",
    "grad_w": "in the layout of the weight",
    "grad_b": "(channel)",
}
_SENT = {
    "x": "image x",
    "w": "weight w",
    "b": "bias b",
    "g": "gradient g",
    "hx": "head of grad_x",
    "hw": "head of grad_w",
    "hb": "head of grad_b",
}


@final
@dataclass(frozen=True)
class TypedEdge:
    """One message: who speaks, through which tap, to whom. Coordinates are height before width."""

    image: int
    source: tuple[int, ...]
    tap: tuple[int, ...]
    target: tuple[int, ...]

    def __str__(self) -> str:
        """Write the arrow."""
        where = f"image {self.image}: " if self.image else ""
        return f"{where}pixel {_at(self.source)} --tap {_at(self.tap)}--> site {_at(self.target)}"


@final
@dataclass(frozen=True)
class Counterexample:
    """The smallest case found in which a side is not the operator.

    Attributes:
        side: "candidate" or "reference", whoever is off the equation.
        quantity: "y", "grad_x", "grad_w", "grad_b", or a second derivative "grad_grad_x", ...
        index: of the first entry that differs; empty where no numbers can be compared.
        found: what the side gives there, or in words what is wrong with it.
        expected: what the equation gives.
        differing: entries that differ, of
        entries: so many.
        spec: the integers of the smallest case.
        sent: input -> its entries that are not 0, as (index, value) pairs; "g" is the gradient
            that comes in, "hx", "hw", "hb" are heads of a second derivative.
        tap: kernel position, where the case has only one.
        channels: (input, output), where the case has only one pair.
        edges: what the equation says about the case, at most four.
        found_edges: where the side's messages arrive instead, at most four; y only.
        cause: the likely cause, in words; it predicts every number of the side.
        also: other causes that predict the same numbers.
        sized: whether the image or the batch could be made smaller; not if a mask or the side
            itself is tied to one size.
    """

    side: str
    quantity: str
    index: tuple[int, ...]
    found: float | str
    expected: float | str
    differing: int
    entries: int
    spec: dict[str, Any]
    sent: dict[str, tuple[tuple[tuple[int, ...], int], ...]] = field(default_factory=dict)
    tap: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()
    edges: tuple[TypedEdge, ...] = ()
    found_edges: tuple[TypedEdge, ...] = ()
    cause: str = ""
    also: tuple[str, ...] = ()
    sized: bool = True

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        return asdict(self)

    @classmethod
    @door
    def from_dict(cls, found: dict[str, Any]) -> "Counterexample":
        """The way back from `to_dict`, through JSON or not.

        Raises:
            ProofError: a field is missing or unknown.
        """
        names = {entry.name for entry in fields(cls)}
        if not isinstance(found, dict) or set(found) != names:
            raise ProofError(f"expected a counterexample with the fields {sorted(names)}")
        values = found | {name: tuple(found[name]) for name in ("index", "tap", "channels", "also")}
        for name in ("edges", "found_edges"):
            values[name] = tuple(
                TypedEdge(e["image"], tuple(e["source"]), tuple(e["tap"]), tuple(e["target"]))
                for e in found[name]
            )
        values["sent"] = {
            name: tuple((tuple(index), value) for index, value in entries)
            for name, entries in found["sent"].items()
        }
        return cls(**values)

    def __str__(self) -> str:
        """Render as text of at most 100 columns."""
        if self.index:
            head = (
                f"the {self.side}'s {self.quantity}{list(self.index)} is "
                f"{_number(self.found)}, exactly it is {_number(self.expected)}"
            )
        else:
            head = f"the {self.side}'s {self.quantity} {self.found}; expected {self.expected}"
        lines = _wrapped("", head)
        lines += _wrapped("smallest case", _case(self.spec, self.sized))
        if self.index and self.quantity in _PLACES:
            lines += _wrapped(
                "index",
                f"{_PLACES[self.quantity]}; {self.differing} of {self.entries} entries differ",
            )
        for name, entries in self.sent.items():
            lines += _wrapped(_SENT[name], _entries(name, entries))
        if self.channels:
            lines += _wrapped("channels", f"{self.channels[0]} -> {self.channels[1]}")
        for edge in self.edges:
            lines += _wrapped("edge", str(edge))
        for edge in self.found_edges:
            lines += _wrapped("found instead", str(edge))
        lines += _wrapped("likely cause", self.cause or NO_CAUSE)
        if self.also:
            lines += _wrapped("or, equal here", "; ".join(self.also))
        return "\n".join(lines)


def _wrapped(label: str, text: str) -> list[str]:
    indent = f"  {label:<16}" if label else ""
    rest = " " * len(indent) if label else "  "
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=rest) or [indent]


def _case(spec: dict[str, Any], sized: bool) -> str:
    d = len(spec["kernel_size"])
    images = "1 image" if spec["batch"] == 1 else f"{spec['batch']} images"
    pixels = " x ".join(str(n) for n in spec["size"]) + (" pixels" if d == 1 else "")
    parts = [
        f"{images} of {pixels}",
        f"{spec['in_channels']} -> {spec['out_channels']} channels",
        "kernel " + " x ".join(str(n) for n in spec["kernel_size"]),
    ]
    for name, plain in (("stride", 1), ("dilation", 1), ("output_padding", 0)):
        if any(n != plain for n in spec[name]):
            parts.append(f"{name} {_at(spec[name])}")
    if any(n for pair in spec["padding"] for n in pair):
        pads = [a if a == b else f"({a}, {b})" for a, b in spec["padding"]]
        parts.append(f"padding ({', '.join(str(pad) for pad in pads)}) {spec['padding_mode']}")
    if spec["groups"] > 1:
        parts.append(f"groups {spec['groups']}")
    if spec["transposed"]:
        parts.append("transposed")
    if spec["source_mask"] is not None or spec["target_mask"] is not None:
        parts.append("on a mask")
    return ", ".join(parts) + ("" if sized else " (no smaller image shows it)")


def _entries(name: str, entries: tuple[tuple[tuple[int, ...], int], ...]) -> str:
    if not entries:
        return "all 0"
    shown = [f"{name}{list(index)} = {value}" for index, value in entries[:4]]
    more = f" and {len(entries) - 4} more" if len(entries) > 4 else ""
    return ", ".join(shown) + more + ", all else 0"


def _number(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return str(int(value)) if value == int(value) else repr(value)


def _at(place: Any) -> str:
    return f"({', '.join(str(n) for n in place)})"
