"""Records out of files: what a pickle says of one goes through its constructor again."""

from dataclasses import MISSING, fields
from typing import Any

from convgraph.errors import GeometryError


def revive(record: Any, state: Any) -> None:
    """Set the fields of a dataclass as its constructor would, for `__setstate__`.

    Args:
        record: made without its constructor.
        state: field -> value; what the constructor works out itself is not read.

    Raises:
        GeometryError: no such fields, or what the constructor refuses.
    """
    taken = [one for one in fields(record) if one.init]
    needed = {one.name for one in taken if one.default is MISSING}
    if not isinstance(state, dict) or not needed <= state.keys():
        raise GeometryError(
            f"{type(record).__name__}: expected its fields {sorted(needed)} in the file, got "
            f"{sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__}; "
            "the file was not written by torch.save, or was changed"
        )
    record.__init__(**{one.name: state[one.name] for one in taken if one.name in state})
