"""griffe comes with the extra `docs`; where it is missing, what imports it is not collected."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("griffe") else ["examples.py"]
