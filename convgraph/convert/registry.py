"""The registry: one rule per operator; a second rule for the same one is refused.

    rule(call, *args)  ->  value

A rule gets the operator's own arguments, in which at least one is a `Spatial` value, and says what
they mean on nodes, masks included. Where that is nothing it raises NoRuleError, as do the functions
that rules are made of. An operator without a rule has no masked meaning.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from convgraph.errors import ConversionError

Rule = Callable[..., Any]

HOPS = ("node", "edges", "all", "nothing")


@dataclass(frozen=True)
class Entry:
    """One operator's rule.

    Attributes:
        name: of the operator, "conv2d" for aten's, "namespace::name" for others.
        family: the file of the rule.
        call: the rule.
        hop: how far values travel: "node" (not at all), "edges" (along those that the rule
            reports), "all" (every node of an image hears every other), "nothing" (there
            are no messages).
    """

    name: str
    family: str
    call: Rule
    hop: str


_RULES: dict[str, Entry] = {}


def rule(*operators: str, hop: str = "node") -> Callable[[Rule], Rule]:
    """Register the rule of one or several operators.

    Raises:
        ConversionError: an operator has one already, or `hop` is unknown.

    Example:
        >>> rule("conv2d")(print)
        Traceback (most recent call last):
            ...
        convgraph.errors.ConversionError: operator 'conv2d' has a rule already, in 'convolution'
    """
    if hop not in HOPS:
        raise ConversionError(f"expected hop as one of {HOPS}, got {hop!r}")

    def register(call: Rule) -> Rule:
        for name in operators:
            if name in _RULES:
                raise ConversionError(
                    f"operator {name!r} has a rule already, in {_RULES[name].family!r}"
                )
            _RULES[name] = Entry(name, call.__module__.rpartition(".")[2], call, hop)
        return call

    return register


def find(name: str) -> Entry | None:
    """Return the rule of an operator, or None."""
    return _RULES.get(name)


def table() -> tuple[Entry, ...]:
    """Return every rule, by family and name."""
    return tuple(sorted(_RULES.values(), key=lambda entry: (entry.family, entry.name)))
