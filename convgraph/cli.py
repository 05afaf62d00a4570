"""The command line: arguments -> one call -> an exit code.

    convgraph demo [--out demo] [--fast]        0: every check of the demo held, 1: one did not
    convgraph explore [--out explorer.html]     0: the page is written

Nothing is computed here, and a subcommand's code is imported only when it is asked for, so that
`convgraph --version` costs nothing. This module may import everything; nothing imports it but
`__main__`.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from convgraph import __version__

EXTRAS = {
    "matplotlib": "viz",
    "skimage": "viz",
    "sklearn": "viz",
}
"""Which extra brings a package that the base install leaves out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code.

    Args:
        argv: arguments without the program's name; None reads the process's own.

    Returns:
        0 when the command did what it says, 1 when it did not. Wrong arguments end the process
        with argparse's own code, 2.

    Example:
        >>> main(["--version"])
        Traceback (most recent call last):
        SystemExit: 0
    """
    args = _parser().parse_args(argv)
    call: Callable[[argparse.Namespace], int] = args.call
    try:
        return call(args)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        sys.stderr.write(
            f"convgraph {args.command}: expected the package {error.name!r}, which the base "
            f'install leaves out; install it with: pip install "convgraph[{extra}]"\n'
        )
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="convgraph",
        description="Convolutions as message passing on pixel graphs, with proofs.",
    )
    parser.add_argument("--version", action="version", version=f"convgraph {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="train on digits, filter a photograph and prove every layer",
        description=(
            "Train one network on handwritten digits in its dense and in its graph form, filter a "
            "photograph both ways, and print a certificate for every layer."
        ),
    )
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("demo"),
        metavar="DIR",
        help="folder to write to (%(default)s)",
    )
    demo.add_argument("--fast", action="store_true", help="fewer epochs and a smaller photograph")
    demo.set_defaults(call=_demo)

    explore = commands.add_parser("explore", help="write the interactive page, one HTML file")
    explore.add_argument(
        "--out",
        type=Path,
        default=Path("explorer.html"),
        metavar="FILE",
        help="file to write (%(default)s)",
    )
    explore.set_defaults(call=_explore)
    return parser


def _demo(args: argparse.Namespace) -> int:
    from convgraph.demo import run

    return run(out=args.out, fast=args.fast)


def _explore(args: argparse.Namespace) -> int:
    from convgraph.explorer import page

    args.out.write_text(page(), encoding="utf-8")
    return 0
