"""Malformed calls and damaged records are answered in our own words."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import convgraph as cg
from tests.fuzz import calls

ROOT = Path(__file__).parent.parent.parent


ATTACKS = """
import sys
from tests.fuzz import calls, records
ended = []
for attack, draws in ((calls, "600"), (records, "400")):
    sys.argv[1:] = ["--draws", draws]
    ended.append(attack.main())
sys.exit(any(ended))
"""


def test_no_raw_error_no_crash_nothing_imported() -> None:
    run = subprocess.run(
        [sys.executable, "-c", ATTACKS], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "600 malformed calls, 0 raised" in run.stdout
    assert "400 damaged records, 0 wrong" in run.stdout


def test_a_raw_error_is_found() -> None:
    def raw(x: object) -> None:
        raise AttributeError("planted")

    calls.CALLS["planted"] = (raw, lambda: {"x": 1})
    try:
        with pytest.raises(AttributeError, match="planted"):
            calls.judge(("planted", "x", "None"))
    finally:
        del calls.CALLS["planted"]


def test_layers_with_one_weight_of_nan_are_not_refuted_for_it() -> None:
    conv = torch.nn.Conv2d(1, 1, 2)
    with torch.no_grad():
        conv.weight[0, 0, 0, 0] = torch.nan
    cert = cg.prove(cg.nn.GraphConv2d.from_dense(conv), conv, size=(3, 3))
    assert cert.verdict == "proven", str(cert)
