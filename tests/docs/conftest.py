"""Without the tools of the extra `docs`, what imports them is not collected."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("griffe") else ["examples.py"]
collect_ignore += [] if find_spec("latex2mathml") else ["formulas.py", "build.py"]
