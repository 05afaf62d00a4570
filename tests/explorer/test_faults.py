"""Faults planted in the page's arithmetic are found by the comparison that the tests rely on."""

import pytest

from tests.explorer.agreement import COMPUTE, differences
from tests.explorer.geometries import TABLE, build

FAULTS = {
    "reflect folds one short": (
        "return raw < 0 ? -raw :",
        "return raw < 0 ? -raw - 1 :",
        {"kernel_size": 3, "padding": 2, "padding_mode": "reflect"},
        False,
        {"output", "edges"},
    ),
    "circular folds onto the border": (
        "return ((raw % n) + n) % n",
        "return Math.min(Math.max(raw, 0), n - 1)",
        {"kernel_size": 3, "padding": 2, "padding_mode": "circular", "stride": 2},
        False,
        {"output", "edges"},
    ),
    "transposed offset has the other sign": (
        "const scaled = p + before - t * d",
        "const scaled = p - before + t * d",
        {"transposed": True, "kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
        False,
        {"output", "edges"},
    ),
    "groups read their neighbour's weights": (
        ": (o * inside + (c % inside)) * taps + t",
        ": (o * inside + ((c + 1) % inside)) * taps + t",
        {"kernel_size": 3, "padding": 1, "groups": 2},
        False,
        {"output"},
    ),
    "groups of a transposed layer lie as those of a plain one": (
        "? (c * outside + (o % outside)) * taps + t",
        "? (o * inside + (c % inside)) * taps + t",
        {"transposed": True, "kernel_size": 2, "stride": 3, "groups": 2},
        False,
        {"output"},
    ),
    "a mask grows at stride 1": (
        "if (unchanged && config.stride",
        "if (!unchanged && config.stride",
        {"kernel_size": 3, "padding": 1},
        True,
        {"sites", "edges"},
    ),
    "an erased pixel still speaks": (
        "|| !here(row * width + column)) continue",
        ") continue",
        {"kernel_size": 5, "padding": 4},
        True,
        {"edges", "sites"},
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name, show) -> None:
    old, new, row, masked, expected = FAULTS[name]
    layer, graph, dense = build(TABLE.index(row), masked)
    assert differences(show(layer, graph).evaluate(COMPUTE), layer, graph, dense) == set()
    faulty = show(layer, graph, planted=(old, new))
    assert differences(faulty.evaluate(COMPUTE), layer, graph, dense) == expected
