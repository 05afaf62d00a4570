"""Doctests as code on the API pages: to griffe a section of them is called `Examples:`.

Google's style, and this library, write `Example:`, which would become a box of running text in
which every `>>>` is three quotations.
"""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the section in every docstring of the package before it is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename in one object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = renamed(obj.docstring.value)


def renamed(docstring: str) -> str:
    """Return a docstring with its section `Example:` under the name that griffe knows."""
    return re.sub(r"^( *)Example:$", r"\1Examples:", docstring, flags=re.MULTILINE)
