"""Small float32 convolutions crash and err no more than their dense twins, on both kernel sets."""

import os
import random

import pytest
import torch

from convgraph.backends import onednn
from tests.fuzz import geometries
from tests.fuzz.campaign import apart
from tests.fuzz.children import attacked


@pytest.mark.parametrize("units", ["ALL", "AVX2"])
def test_what_was_found_and_a_few_more(units: str) -> None:
    run = apart("geometries", "--draws", "100", "--seed", "7", ONEDNN_MAX_CPU_ISA=units)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_wrong_number_a_crash_and_a_hang_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(draw: str) -> str:
        if draw == "crash":
            os.abort()
        if draw == "hang":
            os.kill(os.getpid(), 19)
        if draw == "raise":
            raise ValueError("planted")
        return "" if draw == "fine" else draw

    monkeypatch.setattr("tests.fuzz.children.PATIENCE", 2.0)
    draws = ["fine", "crash", "wrong", "raise", "hang", "fine"]
    answers = ["" if one is None else one.what for one in attacked(draws, judge)]
    assert answers == ["", "SIGABRT", "wrong", "ValueError: planted", "no answer", ""]


def test_a_layer_that_errs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its twin is asked too, and is right."""
    plain = onednn.CONV[2]
    monkeypatch.setitem(onednn.CONV, 2, lambda *given: plain(*given) + 1)
    dice = random.Random(0)
    draws = [d for d in (geometries.draw(dice) for _ in range(60)) if d.d == 2 and not d.transposed]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    answers = [geometries.judge(draw) for draw in draws[:8]]
    fine = [geometries.by_twin(draw) for draw in draws[:8]]
    torch.set_num_threads(threads)
    assert sum(map(bool, answers)) > 4
    assert not any(fine)
