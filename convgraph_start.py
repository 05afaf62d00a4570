"""The command `convgraph`: the version at once, everything else by `convgraph.cli`.

It lies beside the package, for importing `convgraph` imports torch, which takes seconds.
"""

import sys
from importlib.metadata import PackageNotFoundError, version


def main() -> int:
    """Answer `--version` from the metadata alone; hand everything else on."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        try:
            sys.stdout.write(f"convgraph {version('convgraph')}\n")
        except PackageNotFoundError:  # imported from a folder that is not installed
            pass
        else:
            return 0
    from convgraph.cli import main as command_line

    return command_line()
