"""The command line: arguments -> one call -> an exit code.

    convgraph demo [--out demo] [--fast]        0: every check of the demo held, 1: one did not
    convgraph compile                           0: the CPU's fused kernels are there, 2: not so
    convgraph explore [--out explorer.html]     0: the page is written
    convgraph prove CANDIDATE REFERENCE --size  0: proven, 1: refuted, 2: undecided, 3: bad usage
    convgraph verify certificate.json           0: proven, and found so again, 1: not so, 2, 3

Nothing is computed here, and a subcommand's code is imported only when it is asked for, so that
`convgraph --version` costs nothing.
"""

import argparse
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn
from zipfile import BadZipFile

from convgraph import __version__
from convgraph.proof.record.printable import printable_lines

EXTRAS = {
    "matplotlib": "matplotlib",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}
"""Modules that the base install leaves out, and what pip calls them."""

BAD_USAGE = 3
"""Exit code of arguments that describe nothing; 2 is left to "undecided"."""

CODES = {"proven": 0, "refuted": 1, "undecided": 2}

DTYPES = ("float64", "float32", "bfloat16", "float16")


class _Parser(argparse.ArgumentParser):
    """argparse, with the exit code that "undecided" leaves."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(BAD_USAGE, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return its exit code.

    Args:
        argv: arguments without the program's name; None reads the process's own.

    Returns:
        0 when what was asked for holds, 1 when it was found not to, 2 when that could not be
        decided or done, 3 for what cannot be used: arguments, or a package that is not there.
        Wrong arguments end the process with 3. What nobody foresaw is 2, with its traceback on
        stderr: 1 says nothing else.

    Example:
        >>> main(["--version"])
        Traceback (most recent call last):
        SystemExit: 0
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may know no more than ASCII
            with suppress(ValueError):  # it was closed
                stream.reconfigure(errors="replace")
    args = _parser().parse_args(argv)
    call: Callable[[argparse.Namespace], int] = args.call
    try:
        return call(args)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  # Python itself would end with 1
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        extra = EXTRAS.get((missing or "").partition(".")[0])
        if extra is None:
            _write("stderr", "".join(traceback.format_exception(error)))
            return CODES["undecided"]
        says = f"expected the package {missing!r}, which the base install leaves out; install it"
        _write("stderr", f"convgraph {args.command}: {says} with: pip install {extra}\n")
        return BAD_USAGE


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="convgraph",
        description="Convolutions as message passing on pixel graphs, with proofs.",
    )
    parser.add_argument("-V", "--version", action="version", version=f"convgraph {__version__}")
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

    build = commands.add_parser(
        "compile",
        help="compile the CPU's fused kernels, once a machine",
        description=(
            "Compile the kernels that make masked images fast on the CPU. They are kept in the "
            "folder that CONVGRAPH_CACHE names, or in the user's cache; every program finds them "
            "there. Asks for a C++ compiler and ninja; without them all else works, more slowly."
        ),
    )
    build.set_defaults(call=_compile)

    explore = commands.add_parser(
        "explore",
        help="write the interactive page, one HTML file",
        description=(
            "Write a page to play with: kernels, their edges, and how an output pixel adds up. It "
            "is one file that loads nothing; a browser opens it."
        ),
    )
    explore.add_argument(
        "--out",
        type=Path,
        default=Path("explorer.html"),
        metavar="FILE",
        help="file to write (%(default)s)",
    )
    explore.set_defaults(call=_explore)
    _prove_arguments(
        commands.add_parser(
            "prove",
            help="prove two importable convolutions the same",
            description=(
                "Prove that CANDIDATE is the same function as REFERENCE, for every image, weight "
                "and gradient. Both are module:object, importable from the current folder: a "
                "module, a function, or a factory that takes no argument. One MODEL alone is "
                "converted to a graph network and proven equal to itself."
            ),
        )
    )
    verify = commands.add_parser(
        "verify",
        help="run a certificate again, trusting only torch and integers",
        description=(
            "Run a recorded proof again with a verifier that shares nothing with the prover, then "
            "let the prover replay it. Of the code that the record names nothing is imported but "
            "what --trust names."
        ),
    )
    verify.add_argument("certificate", type=Path, metavar="certificate.json")
    verify.add_argument(
        "--trust",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="modules whose code the record may name; without, both sides are not run",
    )
    verify.set_defaults(call=_verify)
    return parser


def _prove_arguments(prove: argparse.ArgumentParser) -> None:
    from convgraph.proof.draws import EPSILON

    prove.add_argument("candidate", metavar="CANDIDATE", help="module:object, or the one MODEL")
    prove.add_argument("reference", metavar="REFERENCE", nargs="?", help="module:object")
    prove.add_argument(
        "--size", type=int, nargs="+", required=True, metavar="N", help="pixels along each axis"
    )
    prove.add_argument("--batch", type=int, default=2, help="images (%(default)s)")
    prove.add_argument("--mask", type=Path, metavar="FILE.npy", help="bool, which pixels are nodes")
    prove.add_argument(
        "--on",
        metavar="SPACE",
        help="where pixels lie: torus, healpix:corner=mean, equirectangular:taps=wrap, ...",
    )
    prove.add_argument("--dtype", choices=DTYPES, help="move both to it first (their own)")
    prove.add_argument("--device", help="move both to it first (their own)")
    prove.add_argument(
        "--epsilon", type=float, default=EPSILON, help='chance of a wrong "proven" (2^-100)'
    )
    prove.add_argument("--seed", type=int, help="replay recorded draws (fresh entropy)")
    prove.add_argument("--json", type=Path, metavar="FILE", help="write the record")
    prove.add_argument("--html", type=Path, metavar="FILE", help="write the record as a page")
    prove.add_argument("--quiet", action="store_true", help="print the verdict alone")
    prove.set_defaults(call=_prove)


def _demo(args: argparse.Namespace) -> int:
    from convgraph.demo import run

    try:  # before anything is trained
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _usage("demo", f"cannot write into {args.out}: {error.strerror}")
    return run(out=args.out, fast=args.fast)


def _compile(args: argparse.Namespace) -> int:
    from rich.console import Console

    from convgraph.backends.fused import cpp_build
    from convgraph.errors import BackendError

    try:
        with Console(stderr=True).status("compiling, about half a minute"):
            place = cpp_build.compile_kernels()
    except BackendError as error:
        _write("stderr", f"convgraph compile: error: {error}\n")
        return CODES["undecided"]
    trouble = cpp_build.lacks()
    _write("stdout", f"{place}\n" + (f"not used: {trouble}\n" if trouble else ""))
    return CODES["undecided" if trouble else "proven"]


def _explore(args: argparse.Namespace) -> int:
    from convgraph.explorer import page

    try:
        args.out.write_text(page(), encoding="utf-8")
    except OSError as error:
        return _usage("explore", f"cannot write {args.out}: {error.strerror}")
    _write("stdout", f"{args.out}: open it in a browser\n")
    return 0


def _prove(args: argparse.Namespace) -> int:
    import torch

    from convgraph.comparison.named import certify
    from convgraph.errors import ConvgraphError
    from convgraph.spaces import from_text

    if problem := _unusable(args):
        return _usage("prove", problem)
    files = [path and path.absolute() for path in (args.json, args.html)]  # whoever moves away
    _import_from_here()
    how: dict[str, Any] = {
        "epsilon": args.epsilon,
        "seed": args.seed,
        "progress": bool(sys.stderr) and sys.stderr.isatty() and not args.quiet,
    }
    try:
        found = certify(
            None if args.reference is None else args.candidate,
            args.reference or args.candidate,
            size=args.size,
            batch=args.batch,
            mask=None if args.mask is None else _mask(args.mask),
            dtype=None if args.dtype is None else getattr(torch, args.dtype),
            device=args.device,
            on=None if args.on is None else from_text(args.on),
            **how,
        )
    except (ConvgraphError, ImportError, OSError) as error:
        return _usage("prove", str(error))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001  # 1 says "refuted" alone
        _write("stdout", f"undecided: it raised {type(error).__name__}: {error}\n")
        return CODES["undecided"]
    _write("stdout", f"{found.verdict}\n" if args.quiet else str(found))
    for path, write in zip(files, (found.to_json, found.to_html), strict=True):
        try:
            if path is not None:
                write(path)
        except (OSError, ValueError) as error:
            return _usage("prove", f"cannot write {path}: {getattr(error, 'strerror', error)}")
    return CODES[found.verdict]


def _unusable(args: argparse.Namespace) -> str:
    """What of the arguments cannot be used, checked before any work."""
    import torch

    if args.seed is not None and args.seed < 0:
        return f"argument --seed: expected a whole number from 0 on, got {args.seed}"
    try:
        if torch.empty(0, device=args.device).is_meta:
            return "argument --device: tensors on meta hold no numbers; expected cpu or cuda"
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        first = str(error).partition("\n")[0]
        return f"argument --device: {args.device} is not there: {first}"
    if args.json and args.html and args.json.absolute() == args.html.absolute():
        return f"--json, --html: expected two files, got {args.json!s:.80} for both"
    for path in (args.json, args.html):
        if path is None:
            continue
        try:
            if path.is_dir() or not path.parent.is_dir():
                return f"cannot write {path}: expected a file in a folder that is there"
            if not os.access(path if path.exists() else path.parent, os.W_OK):
                return f"cannot write {path}: permission denied"
        except (OSError, ValueError) as error:  # too long, or no name at all
            return f"cannot write {path!s:.80}: {error!s:.80}"
    return ""


def _verify(args: argparse.Namespace) -> int:
    from convgraph.comparison.named import ADAPTERS, replay
    from convgraph.proof import Certificate, again
    from convgraph.proof.record.sealed import kind_of
    from convgraph.proof.verifier import SECOND, verify

    _import_from_here()
    try:
        text = args.certificate.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # of no text, or of no name
        return _usage("verify", str(error))
    of_plan = bool(kind_of(text))
    code, lines = again.verify(text) if of_plan else verify(text, trust=[*ADAPTERS, *args.trust])
    if not of_plan and (not code or lines == [SECOND]):
        try:
            differ = replay(Certificate.from_json(text))
            lines += [f"{name}: comes out otherwise when the prover runs again" for name in differ]
            if differ:
                lines += ["expected sides whose code and parameters are those of the record"]
        except (Exception, SystemExit) as error:  # noqa: BLE001  # it does not run
            lines.append(f"record: the prover cannot run it again ({error})")
        code = int(len(lines) > 1)
    says = ("verified", "refused", "could not be decided")[code]
    if lines[0].startswith("the record holds: ") and len(lines) == 1:
        says = "verified"
    _write("stdout", "\n".join([says, *(f"  {line}" for line in lines)]) + "\n")
    return code


def _mask(path: Path) -> Any:
    import numpy as np
    import torch

    from convgraph.errors import ProofError

    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (ValueError, TypeError, EOFError, BadZipFile, MemoryError) as error:
        raise ProofError(f"{path}: expected an array that numpy.save wrote ({error})") from error


def _import_from_here() -> None:
    """Let names be imported from the current folder, as `python -m` does."""
    if "" not in sys.path:
        sys.path.insert(0, "")


def _write(name: str, text: str) -> None:
    """Write to "stdout" or "stderr"; where nobody reads it, the exit code still says it."""
    stream = getattr(sys, name)
    try:
        stream.write(printable_lines(text))
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or Python flushes it again
    except (OSError, ValueError, AttributeError) as error:  # full, closed, or not there at all
        if isinstance(error, OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if name == "stdout":
            _write("stderr", f"convgraph: cannot print the answer: {error}\n")


def _usage(command: str, message: str) -> int:
    _write("stderr", f"convgraph {command}: error: {message}\n")
    return BAD_USAGE
