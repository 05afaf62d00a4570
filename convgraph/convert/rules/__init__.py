"""Rules: what each operator means on node features, one file a family."""

from importlib import import_module
from pkgutil import iter_modules

FAMILIES = tuple(sorted(module.name for module in iter_modules(__path__)))
"""Names of the families; importing this package registers all of their rules."""

for _family in FAMILIES:
    import_module(f"{__name__}.{_family}")
