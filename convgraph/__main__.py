"""`python -m convgraph` is the command `convgraph`."""

import sys

from convgraph.cli import main

if __name__ == "__main__":
    sys.exit(main())
