"""The pytest plugin's door: options and one fixture, and nothing that costs another suite.

pytest imports this module in every run, because it is an entry point. It therefore stands beside
the package, whose `__init__` imports torch: torch and convgraph are imported when the fixture is
first used, and not before.
"""

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from convgraph.pytest_plugin import ProveEqual


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--convgraph-epsilon` and `--convgraph-report`."""
    group = parser.getgroup("convgraph", "proofs that two convolutions are the same")
    group.addoption(
        "--convgraph-epsilon",
        type=float,
        default=None,
        metavar="P",
        help='the most that a wrong "proven" may be probable (default: 2^-100)',
    )
    group.addoption(
        "--convgraph-report",
        default=None,
        metavar="DIR",
        help="write every certificate as JSON and HTML into DIR, and an index of them",
    )


@pytest.fixture
def prove_equal(request: pytest.FixtureRequest) -> "ProveEqual":
    """Prove two convolutions the same function, or fail with what tells them apart.

    `prove_equal(candidate, reference, size=(32, 32))` takes what `convgraph.prove` takes, or names
    "module:object" of both, and returns the certificate.
    """
    from convgraph.pytest_plugin import ProveEqual

    return ProveEqual(
        node=request.node.nodeid,
        epsilon=request.config.getoption("--convgraph-epsilon"),
        report=request.config.getoption("--convgraph-report"),
    )
