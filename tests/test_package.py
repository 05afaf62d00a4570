"""The house rules, read off the source: what imports what, how long a file is, no picked tolerance.

Each rule is a small function from a source tree to its offences, so that the same function is shown
to find a planted one: a rule that cannot fail keeps nothing in order.
"""

import ast
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from io import StringIO
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "convgraph"

MAX_LINES = 400

HOUSE = (
    "errors",
    "constant",
    "autocast",
    "kept",
    "geometry",
    "lattice",
    "window",
    "resample",
    "site_forms",
    "sites",
    "site_rule",
    "edge_list",
    "edges",
    "interchange",
    "images",
    "graph",
    "sides",
    "linear_sides",
    "transforms",
    "backends",
    "functional",
    "nn",
    "explanation",
    "convert",
    "excite",
    "proof",
    "network_pair",
    "prove",
    "certify",
    "draw",
    "explorer",
    "",  # convgraph/__init__.py, the public names; what follows uses them as anybody would
    "demo",
    "cli",
    "pytest_plugin",
    "__main__",
)
"""Files and folders of the package, foundation first; an import may only point up this list."""

JUDGE_MAY_IMPORT = ("convgraph.errors", "convgraph.geometry")
"""All that proof/ may know of the code it judges."""

SHOWS_TOLERANCES = ROOT / "tests" / "proof" / "faults" / "tolerances.py"
"""The one file that calls what is forbidden: it shows which faults a tolerance lets through."""

NO_TORCH = ("errors", "geometry", "resample")
"""Modules of integers and names only."""


# The source as a graph of imports


def modules(package: Path) -> dict[str, ast.Module]:
    """Return each module's dotted name with its syntax tree."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imports(tree: ast.Module, known: set[str]) -> Iterator[str]:
    """Yield what a module imports, lazily, for types only, or on top: an arrow is an arrow.

    `from a import b` points to the module a.b where there is one, else to a.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                longer = f"{node.module}.{alias.name}"
                yield longer if longer in known else node.module


def arrows(package: Path) -> list[tuple[str, str]]:
    """Return the pairs (importer, imported) within the package."""
    trees = modules(package)
    return sorted(
        {
            (importer, imported)
            for importer, tree in trees.items()
            for imported in imports(tree, set(trees))
            if imported.partition(".")[0] == package.name and imported != importer
        }
    )


def storey(module: str) -> str:
    """Return the file or folder of the house that a dotted name belongs to; "" is the package."""
    return [*module.split("."), ""][1]


# The rules


def homeless(package: Path) -> list[str]:
    """Return the modules that HOUSE does not know; say there which storey they belong to."""
    return [name for name in modules(package) if storey(name) not in HOUSE]


def arrows_down(package: Path) -> list[str]:
    """Return the imports that do not point up the house."""
    height = {name: number for number, name in enumerate(HOUSE)}
    return [
        f"{importer} imports {imported}"
        for importer, imported in arrows(package)
        if {storey(importer), storey(imported)} <= height.keys()
        and height[storey(importer)] < height[storey(imported)]
    ]


def circle(package: Path) -> list[str]:
    """Return one circle of imports, or nothing."""
    graph: dict[str, set[str]] = {}
    for importer, imported in arrows(package):
        graph.setdefault(importer, set()).add(imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def judge_knows_the_accused(package: Path) -> list[str]:
    """Return what proof/ imports of the package beyond errors and geometry's integers."""
    return [
        f"{importer} imports {imported}"
        for importer, imported in arrows(package)
        if storey(importer) == "proof"
        and storey(imported) != "proof"
        and imported not in JUDGE_MAY_IMPORT
    ]


def relative_imports(package: Path) -> list[str]:
    """Return the modules with a relative import."""
    return [
        name
        for name, tree in modules(package).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]


def torch_imports(package: Path) -> list[str]:
    """Return the modules that must live without torch and import it."""
    return [
        f"{name} imports {imported}"
        for name, tree in modules(package).items()
        if storey(name) in NO_TORCH
        for imported in imports(tree, set())
        if imported.partition(".")[0] in {"torch", "torch_geometric"}
    ]


def two_ideas(package: Path) -> list[str]:
    """Return the files that are too long for one idea."""
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in package.rglob("*.py")}
    return [f"{path.name}: {n} lines" for path, n in sorted(lengths.items()) if n > MAX_LINES]


def tolerances(source: str) -> list[str]:
    """Return the places where a tolerance is picked, or hidden in a default, instead of derived.

    Tokens are read, not text: strings and comments may speak of `atol=1e-5` as they like.
    """
    tokens = [
        token
        for token in tokenize.generate_tokens(StringIO(source).readline)
        if token.type in {tokenize.NAME, tokenize.OP, tokenize.NUMBER}
    ]
    found = []
    for token, after in zip(tokens, [*tokens[1:], tokens[-1]] if tokens else [], strict=True):
        name = token.string
        keyword = name in {"atol", "rtol"} and after.string == "="
        call = after.string == "(" and (
            name in {"approx", "isclose", "assert_close"} or name.endswith("allclose")
        )
        if token.type == tokenize.NAME and (keyword or call):
            found.append(f"line {token.start[0]}: {name}{after.string}")
    return found


RULES = (
    homeless,
    arrows_down,
    circle,
    judge_knows_the_accused,
    relative_imports,
    torch_imports,
    two_ideas,
)


# The rules hold


@pytest.mark.parametrize("rule", RULES)
def test_the_house_is_in_order(rule) -> None:
    assert rule(PACKAGE) == []


def test_no_file_is_called_utils() -> None:
    assert list(PACKAGE.rglob("util*.py")) == []


def test_no_tolerance_is_picked() -> None:
    sources = {*PACKAGE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")} - {SHOWS_TOLERANCES}
    offences = {
        str(path.relative_to(ROOT)): found
        for path in sorted(sources)
        if (found := tolerances(path.read_text(encoding="utf-8")))
    }
    assert offences == {}, "derive a bound and compare with it, or demand equality"


def test_the_one_exception_is_one() -> None:
    found = tolerances(SHOWS_TOLERANCES.read_text(encoding="utf-8"))
    names = {line.partition(": ")[2] for line in found}
    assert names == {"assert_close(", "allclose(", "atol="}


def test_bare_import_is_light() -> None:
    code = "import sys, convgraph; print(*{'matplotlib', 'networkx'} & set(sys.modules))"
    bare = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (bare.returncode, bare.stdout.strip()) == (0, ""), bare.stderr


def test_the_types_are_shipped() -> None:
    assert (PACKAGE / "py.typed").exists()


# The rules can fail


def plant(folder: Path, files: dict[str, str]) -> Path:
    package = folder / "convgraph"
    for name, source in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return package


@pytest.mark.parametrize(
    ("rule", "files"),
    [
        (homeless, {"helpers.py": ""}),
        (homeless, {"misc/tools.py": ""}),
        (arrows_down, {"edges.py": "from convgraph import nn", "nn/__init__.py": ""}),
        (arrows_down, {"graph.py": "def f():\n    import convgraph.functional"}),
        (arrows_down, {"sites.py": "import convgraph"}),
        (
            circle,
            {
                "nn/a.py": "from convgraph.nn.b import f",
                "nn/b.py": "from typing import TYPE_CHECKING\n"
                "if TYPE_CHECKING:\n    from convgraph.nn import a",
            },
        ),
        (judge_knows_the_accused, {"proof/oracle.py": "from convgraph.edges import connect"}),
        (judge_knows_the_accused, {"proof/oracle.py": "import convgraph as cg"}),
        (relative_imports, {"graph.py": "from .sites import Sites"}),
        (relative_imports, {"nn/conv.py": "from .. import functional"}),
        (torch_imports, {"geometry.py": "from torch.nn import Conv2d"}),
        (two_ideas, {"graph.py": "\n" * (MAX_LINES + 1)}),
    ],
)
def test_a_planted_offence_is_found(rule, files: dict[str, str], tmp_path: Path) -> None:
    assert rule(plant(tmp_path, files)) != []


def test_an_orderly_house_is_left_alone(tmp_path: Path) -> None:
    package = plant(
        tmp_path,
        {
            "__init__.py": "from convgraph.graph import PixelGraph",
            "errors.py": "",
            "geometry.py": "import numpy\nfrom convgraph.errors import GeometryError",
            "graph.py": "import torch\nfrom convgraph import geometry\n" + "#\n" * (MAX_LINES - 2),
            "proof/__init__.py": "from convgraph.proof.oracle import prove",
            "proof/oracle.py": "from convgraph.geometry import KernelGeometry",
        },
    )
    for rule in RULES:
        assert rule(package) == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.allclose(a, b)",
        "np.testing.assert_allclose(a, b)",
        "assert_close(a, b, rtol=0)",
        "torch.testing.assert_close(a, b)",
        "check(a, b, atol = 1e-6)",
        "def check(a, b, rtol=1e-3): ...",
        "assert a == pytest.approx(b)",
        "math.isclose(a, b)",
    ],
)
def test_a_planted_tolerance_is_found(source: str) -> None:
    assert tolerances(source) != []


@pytest.mark.parametrize(
    "source",
    ["", "'torch.allclose(a, b)'", "# atol=1e-5", "approximate(a)", "atol: float", "b = rtol == 1"],
)
def test_talking_of_a_tolerance_is_not_picking_one(source: str) -> None:
    assert tolerances(source) == []
