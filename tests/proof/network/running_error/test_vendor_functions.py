"""The rules of vendor functions hold on this processor, whichever of its vector units run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convgraph.proof.network.running_error.call import RULES, rounded
from tests.proof.network.running_error import vendor_functions
from tests.proof.network.running_error.vendor_functions import share

ROOT = Path(__file__).resolve().parents[4]


@pytest.mark.parametrize("units", ["default", "avx2", "avx512"])
def test_no_function_errs_by_more_than_it_is_granted(units: str) -> None:
    """Units that the processor lacks are answered by the next smaller ones."""
    if units == torch.backends.cpu.get_cpu_capability().lower():
        measured = vendor_functions.measured()
    else:  # chosen once a process
        run = subprocess.run(
            [sys.executable, "-m", "tests.proof.network.running_error.vendor_functions"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "ATEN_CPU_CAPABILITY": units},
            check=True,
        )
        measured = json.loads(run.stdout)
    for dtype in ("float32", "float64"):
        beyond = {name: part for name, part in measured[dtype].items() if part > 1}
        assert not beyond, (measured["vector units"], dtype, beyond)


def test_a_function_that_errs_by_more_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a rounding for exp, which nothing that is rounded can keep."""
    monkeypatch.setitem(RULES, "exp", lambda s: rounded(s, torch.zeros_like(s.y), 0.4))
    assert share("exp", torch.float32) > 1
