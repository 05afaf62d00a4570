"""Malformed operands reach no kernel, whoever calls it."""

import random
from typing import Any

import pytest
import torch

import convgraph as cg
from tests.cases import CPP
from tests.fuzz import operands
from tests.fuzz.campaign import apart

pytestmark = pytest.mark.skipif(not CPP, reason="the C++ kernels do not compile here")


def test_six_hundred_malformed_calls() -> None:
    run = apart("operands", "--draws", "600")
    assert run.returncode == 0, run.stdout + run.stderr


def send(given: dict[str, Any]) -> torch.Tensor:
    names = ("x", "taps", "bias", *operands.LISTS, "backwards")
    return torch.ops.convgraph.send(*[given[name] for name in names])


def test_a_list_that_was_read_through_is_read_again_once_somebody_wrote_to_it() -> None:
    given = operands.well_formed(random.Random(0))
    assert torch.equal(send(given), operands._send(given))
    given["sites"][0, 0] = 10**6
    with pytest.raises(IndexError, match="sites and slots point beyond a rank grid"):
        send(given)


def test_an_operand_on_meta_is_no_answer() -> None:
    given = operands.well_formed(random.Random(0))
    given["taps"] = given["taps"].to("meta")
    with pytest.raises(cg.errors.DeviceError, match="x on cpu but another operand on meta"):
        send(given)
    given["x"] = None
    with pytest.raises(cg.errors.DtypeError, match="every operand but the bias as a tensor"):
        send(given)
