"""Trees of arguments: their leaves, and the same tree of other leaves, as torch's pytree has them.

Who follows a program looks into the arguments of each of its operators several times. Tuples, lists
and dictionaries, of which operators take all they take, are walked here; all else is torch's.
"""

from collections.abc import Callable
from typing import Any

from torch.utils._pytree import SUPPORTED_NODES, tree_leaves, tree_map


def leaves(tree: Any) -> list[Any]:
    """Return what is in it that is no tree, in order.

    Example:
        >>> leaves(((1, [2.0, None]), {"alpha": "x"}))
        [1, 2.0, None, 'x']
    """
    found: list[Any] = []
    _gather(tree, found)
    return found


def _gather(tree: Any, found: list[Any]) -> None:
    kind = type(tree)
    if kind is tuple or kind is list:
        for value in tree:
            _gather(value, found)
    elif kind is dict:
        for value in tree.values():
            _gather(value, found)
    elif _is_other(kind):
        found += tree_leaves(tree)
    else:
        found.append(tree)


def mapped(how: Callable[[Any], Any], tree: Any) -> Any:
    """Return the tree with what `how` makes of each leaf in its place.

    Example:
        >>> mapped(str, ((1, [2.0]), {"alpha": None}))
        (('1', ['2.0']), {'alpha': 'None'})
    """
    kind = type(tree)
    if kind is tuple or kind is list:
        return kind([mapped(how, value) for value in tree])
    if kind is dict:
        return {name: mapped(how, value) for name, value in tree.items()}
    if _is_other(kind):
        return tree_map(how, tree)
    return how(tree)


def _is_other(kind: type) -> bool:
    """Whether torch takes what is of this type for a tree: named tuples, and what is registered."""
    return kind in SUPPORTED_NODES or issubclass(kind, tuple)
