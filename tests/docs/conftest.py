"""What the docs' tests share: one browser, for a second would not start beside it.

Without the tools of the extra `docs`, what imports them is not collected.
"""

from importlib.util import find_spec

from tests.browser import browser

__all__ = ["browser"]

collect_ignore = [] if find_spec("griffe") else ["examples.py"]
collect_ignore += [] if find_spec("latex2mathml") else ["formulas.py", "build.py"]
