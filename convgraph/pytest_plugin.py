"""What the pytest fixture `prove_equal` does: one proof, a report, and a failure that helps.

The options and the fixture themselves are in `pytest_convgraph`, which pytest may import without
importing torch. This module knows pytest for `fail` alone.
"""

import re
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, final

import pytest

from convgraph.comparison.named import certify
from convgraph.errors import ProofError
from convgraph.proof import EPSILON, Certificate
from convgraph.proof.record.page import index


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
    certificates: list[Certificate] = field(default_factory=list)

    def __call__(
        self,
        candidate: Any,
        reference: Any,
        **how: Any,
    ) -> Certificate:
        """Prove, report, and fail the test unless the verdict is "proven".

        Args:
            candidate: the accused, or its "module:object".
            reference: the dense operator, or its "module:object".
            how: what `convgraph.comparison.named.certify` takes: size, batch, mask, dtype, ...

        Returns:
            The certificate.

        Raises:
            ProofError: the two cannot be compared.
        """
        __tracebackhide__ = True
        if not {"size", "images", "spec"} & how.keys():
            raise ProofError("prove_equal: expected size=(height, width), pixels along each axis")
        if how.get("epsilon") is None:
            how["epsilon"] = EPSILON if self.epsilon is None else self.epsilon
        found = certify(candidate, reference, **how)
        self.certificates.append(found)
        if self.report is not None:
            write(Path(self.report), self.node, len(self.certificates), found)
        if found.verdict != "proven":
            pytest.fail(explanation(found), pytrace=False)
        return found


def explanation(
    found: Certificate,
) -> str:
    """Return the failure text: what tells the two apart, or why nothing could be said."""
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
    found: Certificate,
) -> None:
    """Write one certificate as JSON and HTML, and the index of all that are in the folder.

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
    found.to_json(folder / f"{stem}.json")
    found.to_html(folder / f"{stem}.html")
    rows = []
    for path in sorted(folder.glob("*-*-*.json")):
        other = Certificate.from_json(path.read_text(encoding="utf-8"))
        rows.append((f"{path.stem}.html", f"{path.stem}: {other.name}", other.verdict))
    (folder / "index.html").write_text(index(rows), encoding="utf-8")
