"""Networks on masks over two processes equal one: values, gradients, running statistics."""

import json
from pathlib import Path

import pytest

from tests.convert import ranks
from tests.ranks import processes


@pytest.mark.ci
@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    """Synced norms (with holes, no node or every pixel on a rank), DDP, FSDP2."""
    processes(ranks.compare, 2, 2, str(tmp_path))
    assert [json.loads(Path(tmp_path, f"found{rank}").read_text()) for rank in (0, 1)] == [{}, {}]
