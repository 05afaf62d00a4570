"""What dies on a cluster costs what was in the air: zarr's tiles are never computed again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("dask.array")
pytest.importorskip("zarr")
pytest.importorskip("distributed")

from tests.scale import cluster

pytestmark = [pytest.mark.ci, pytest.mark.slow]
LINE = (sys.executable, "-m", "tests.scale.cluster")


def test_a_worker_that_is_killed_costs_what_it_had_in_hand(tmp_path: Path) -> None:
    folder = str(tmp_path)
    subprocess.run([*LINE, "worker", folder], check=True, timeout=300)
    count, *held = Path(folder, "killed").read_text(encoding="ascii").split("\n")
    window = cluster.starts(folder)
    assert len(held) >= 6
    assert not {window[one] for one in held} & set(cluster.lines(folder)[int(count) :])
    assert cluster.right(folder)


def test_a_scheduler_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = str(tmp_path)
    first = subprocess.Popen([*LINE, "whole", folder], start_new_session=True)
    ends = time.monotonic() + 240
    while len(cluster.holds(folder)) < 6:
        assert first.poll() is None
        assert time.monotonic() < ends
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    while _alive(first.pid):
        assert time.monotonic() < ends
        time.sleep(0.02)
    held, count = cluster.holds(folder), len(cluster.lines(folder))
    window = cluster.starts(folder)
    assert 6 <= len(held) < len(window)
    subprocess.run([*LINE, "whole", folder], check=True, timeout=300)
    assert not {window[one] for one in held} & set(cluster.lines(folder)[count:])
    assert cluster.right(folder)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
