"""What the pytest fixture `prove_equal` does: one proof, a report, and a failure that helps.

The options and the fixture themselves are in `pytest_convgraph`, which pytest may import without
importing torch. This module knows pytest for `fail` alone.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, final

import pytest

from convgraph.comparison.named import certify
from convgraph.comparison.prove import prove
from convgraph.errors import ProofError
from convgraph.proof import EPSILON, Certificate
from convgraph.proof.parts import PartsCertificate
from convgraph.proof.plan import PlanCertificate
from convgraph.proof.record.page import index
from convgraph.proof.record.sealed import kind_of

Found = Certificate | PlanCertificate | PartsCertificate
"""What a proof comes to: of two sides, of a plan, of the parts of a network."""

READERS: dict[str, Callable[[str], Found]] = {
    "plan": PlanCertificate.from_json,
    "parts": PartsCertificate.from_json,
}


@final
@dataclass
class ProveEqual:
    """The fixture's value: call it with two convolutions.

    Attributes:
        node: the test's id, which names the files of the report.
        epsilon: from the command line; None for the default.
        report: folder of the report, or None for none.
        certificates: what this test has proven, or failed to, so far.
    """

    node: str
    epsilon: float | None = None
    report: str | None = None
    certificates: list[Found] = field(default_factory=list)

    def __call__(
        self,
        candidate: Any,
        reference: Any = None,
        images: Any = None,
        **how: Any,
    ) -> Found:
        """Prove, report, and fail the test unless the verdict is "proven".

        Args:
            candidate: the accused, or its "module:object"; or a plan, alone.
            reference: the dense operator, or its "module:object".
            images: as `convgraph.prove` takes them.
            how: whatever else `convgraph.prove` takes: size, batch, mask, dtype, edges, ...

        Returns:
            The certificate.

        Raises:
            ProofError: the two cannot be compared.
        """
        __tracebackhide__ = True
        if how.get("epsilon") is None:
            how["epsilon"] = EPSILON if self.epsilon is None else self.epsilon
        if images is not None:
            how["images"] = images
        plan_or_parts = reference is None or hasattr(candidate, "claims")
        run = prove if plan_or_parts else certify
        found: Found = run(candidate, reference, **how)
        self.certificates.append(found)
        if self.report is not None:
            write(Path(self.report), self.node, len(self.certificates), found)
        if found.verdict != "proven":
            pytest.fail(explanation(found), pytrace=False)
        return found


def explanation(
    found: Found,
) -> str:
    """Return the failure text: what tells the two apart, or why nothing could be said."""
    if not isinstance(found, Certificate):
        return str(found)
    lines = [f"{found.name}: {found.verdict}", f"  {found.reason}"]
    if found.cause:
        lines.append(f"  likely cause: {found.cause}")
    if found.smallest_case is not None:
        lines += [f"  {line}" for line in str(found.smallest_case).splitlines()]
    lines += [
        f"  {name}: {value}" for name, value in found.counterexample.items() if name != "smallest"
    ]
    how = f"{found.dtype} on {found.device}, seed {found.seed}"
    return "\n".join([*lines, f"  to replay: {how}"])


def write(
    folder: Path,
    node: str,
    number: int,
    found: Found,
) -> None:
    """Write one certificate as JSON and, of two sides, HTML, and the index of all in the folder.

    Args:
        folder: is made if it is not there.
        node: the test's id.
        number: of the certificate within the test, from 1.
        found: the certificate.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Ids hold characters that no file name may; the digest keeps two ids apart that look alike.
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", node)[-80:].strip("-.")
    stem = f"{plain}-{sha256(node.encode()).hexdigest()[:8]}-{number}"
    # Other processes (pytest-xdist) read the folder meanwhile: a file is whole, or not there.
    _whole(folder / f"{stem}.json", found.to_json() + "\n")
    if isinstance(found, Certificate):
        found.to_html(folder / f"{stem}.html")
    rows = []
    for path in sorted(folder.glob("*-*-*.json")):
        text = path.read_text(encoding="utf-8")
        read = READERS.get(kind_of(text), Certificate.from_json)
        try:
            other = read(text)
        except ProofError:  # of another version, or of somebody else; no reason to fail this test
            rows.append((path.name, path.stem, "unreadable"))
            continue
        page = f"{path.stem}.html" if isinstance(other, Certificate) else path.name
        name = getattr(other, "name", kind_of(text))
        rows.append((page, f"{path.stem}: {name}", other.verdict))
    _whole(folder / "index.html", index(rows))


def _whole(path: Path, text: str) -> None:
    """Write a file that nobody sees half written."""
    made = path.with_name(f".{path.name}.{os.getpid()}")
    made.write_text(text, encoding="utf-8")
    made.replace(path)
