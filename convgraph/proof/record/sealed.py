"""Records of plans as text: JSON that is sealed, and is read back as data, field by field.

A record is one object: "kind", "schema", fields, and "digest", the SHA-256 of all the rest as
canonical JSON (keys sorted, no spaces, ASCII). Whoever reads one trusts nothing of it.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from convgraph.errors import ProofError

SCHEMA = 1
"""Version of these records; a reader refuses any other."""

LONGEST = 2**28
"""Characters of a record that are read at all."""


def seal(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a record's canonical JSON, the field `digest` itself left out."""
    rest = {name: value for name, value in record.items() if name != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(text.encode()).hexdigest()


def write(kind: str, fields: Mapping[str, Any], path: str | Path | None = None) -> str:
    """Return a record as JSON and, with a path, write it there too.

    Args:
        kind: of the record.
        fields: its values, plain.
        path: a file.

    Example:
        >>> read(write("plan", {"size": [3]}), "plan", ("size",))
        {'size': [3]}
    """
    record = {"kind": kind, "schema": SCHEMA, **fields}
    record = json.loads(json.dumps(record, allow_nan=False))
    text = json.dumps({**record, "digest": seal(record)}, allow_nan=False)
    if path is not None:
        Path(path).write_text(text + "\n", encoding="utf-8")
    return text


def kind_of(text: str) -> str:
    """Return what kind of record a text says that it is; "" for none of these."""
    try:
        found = json.loads(text) if len(text) <= LONGEST else None
    except (ValueError, RecursionError):
        return ""
    kind = found.get("kind") if isinstance(found, dict) else None
    return kind if kind in ("plan", "parts") else ""


def read(text: str, kind: str, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of a record, all of them and no other.

    Raises:
        ProofError: the text is no such record, or was changed after it was written.
    """
    what = f"the record of a {kind}"
    if not isinstance(text, str) or len(text) > LONGEST:
        raise ProofError(f"expected {what}: text of at most {LONGEST} characters")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProofError(f"expected {what} as JSON: {error}") from error
    if not isinstance(found, dict) or found.get("kind") != kind or found.get("schema") != SCHEMA:
        raise ProofError(f"expected {what}: an object of kind {kind!r} and schema {SCHEMA}")
    odd = sorted({"kind", "schema", "digest", *names} ^ {*found})
    if odd:
        raise ProofError(f"expected {what}: missing or unknown field {', '.join(odd)}")
    try:
        sealed = seal(found)
    except ValueError as error:
        raise ProofError(f"expected {what}: {error}") from error
    if sealed != found["digest"]:
        raise ProofError(
            f"expected {what}: its digest is {sealed}, the record says {found['digest']!r:.80}; it "
            "was changed after it was written"
        )
    return {name: found[name] for name in names}


def check(kind: str, good: Mapping[str, bool]) -> None:
    """Refuse a record of which a field is of another type, or says what cannot be.

    Args:
        kind: of the record, in words.
        good: for each field whether it fits.

    Raises:
        ProofError: the error names the field.
    """
    for name, fits in good.items():
        if not fits:
            raise ProofError(f"expected the record of {kind}: field {name} of its own type")


def whole(value: Any) -> bool:
    """Whether it is a whole number from 0 on."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def wholes(value: Any) -> bool:
    """Whether it is a list of whole numbers."""
    return isinstance(value, (list, tuple)) and all(map(whole, value))


def listed(value: Any, kind: type) -> bool:
    """Whether it is a list of one kind."""
    return isinstance(value, (list, tuple)) and all(isinstance(one, kind) for one in value)
