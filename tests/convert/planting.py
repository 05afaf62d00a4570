"""A rule of the converter with a fault in it, for as long as a test runs."""

from collections.abc import Callable
from typing import Any

import pytest

from convgraph.convert import registry


def plant(
    monkeypatch: pytest.MonkeyPatch, operator: str, fault: Callable[[Any], Callable[..., Any]]
) -> None:
    """Put fault(rule) in the place of the rule of an operator."""
    entry = registry.find(operator)
    assert entry is not None
    made = registry.Entry(entry.name, entry.family, fault(entry.call), entry.hop)
    monkeypatch.setitem(registry._RULES, operator, made)
