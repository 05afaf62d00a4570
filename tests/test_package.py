"""The house rules, read off the source: what imports what, no picked tolerance.

Each rule is a small function from a source tree to its offences, so that the same function is shown
to find a planted one: a rule that cannot fail keeps nothing in order.
"""

import ast
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from io import StringIO
from pathlib import Path

import pytest

from tests import quick
from tests.house import DESIGN, END, HOUSE, PAGES, START, page, rooms

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "convgraph"

JUDGE_MAY_IMPORT = ("convgraph.errors", "convgraph.door", "convgraph.geometry.kernel")
"""All that proof/ may know of the code it judges."""

SHOWS_TOLERANCES = ROOT / "tests" / "proof" / "faults" / "tolerances.py"
"""The one file that calls what is forbidden: it shows which faults a tolerance lets through."""

NO_TORCH = ("errors", "torch_modules", "geometry")
"""Files and wings of integers and names only."""


# The source as a graph of imports


@cache
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


@cache
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


def storey(module: str, wing: str = "") -> str:
    """Return the room of a wing that a dotted name lies in; "." is the wing itself.

    Example:
        >>> [storey("convgraph.proof.layer.judge", wing) for wing in ("", "proof")]
        ['proof', 'layer']
    """
    depth = 1 + len(wing.split(".")) if wing else 1
    return [*module.split("."), "."][depth]


def wings_of(module: str) -> list[str]:
    """Return the wings that a module lies in, the whole house first.

    Example:
        >>> wings_of("convgraph.proof.layer.judge")
        ['', 'proof', 'proof.layer']
    """
    parts = module.split(".")[1:]
    return [wing for n in range(len(parts) + 1) if (wing := ".".join(parts[:n])) in HOUSE]


NL = "\n"


# The rules


def homeless(package: Path) -> list[str]:
    """Return the modules that HOUSE does not know; say there which room they belong to."""
    return [
        name
        for name in modules(package)
        if any(storey(name, wing) not in rooms(wing, package) for wing in wings_of(name))
    ]


def arrows_down(package: Path) -> list[str]:
    """Return the imports that do not point up the house, or up the wing that both ends are in."""
    found = []
    for importer, imported in arrows(package):
        wing = max(set(wings_of(importer)) & set(wings_of(imported)), key=len)
        order = rooms(wing, package)
        ends = storey(importer, wing), storey(imported, wing)
        if {*ends} <= {*order} and order.index(ends[0]) < order.index(ends[1]):
            found.append(f"{importer} imports {imported}")
    return found


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
    """Return what proof/ imports of the package beyond errors, the door and integers."""
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


PICKED = {"atol", "rtol"}
NEAR = {"approx", "isclose", "assert_close"}
ENDING = "allclose"
"""Keywords that pick a tolerance, and functions that have one by default."""


def tolerances(source: str) -> list[str]:
    """Return the places where a tolerance is picked, or hidden in a default, instead of derived.

    Tokens are read, not text: strings and comments may speak of `atol=1e-5` as they like. A text
    that has none of the words has no token of them, and most texts have none.
    """
    if not any(word in source for word in (*PICKED, *NEAR, ENDING)):
        return []
    tokens = [
        token
        for token in tokenize.generate_tokens(StringIO(source).readline)
        if token.type in {tokenize.NAME, tokenize.OP, tokenize.NUMBER}
    ]
    found = []
    for token, after in zip(tokens, [*tokens[1:], tokens[-1]] if tokens else [], strict=True):
        name = token.string
        keyword = name in PICKED and after.string == "="
        call = after.string == "(" and (name in NEAR or name.endswith(ENDING))
        if token.type == tokenize.NAME and (keyword or call):
            found.append(f"line {token.start[0]}: {name}{after.string}")
    return found


def listed(doc: str, section: str) -> list[str]:
    """Return the names that a docstring explains in a section.

    Example:
        >>> listed(f"Do it.{NL}{NL}Args:{NL}    x: (N, C).{NL}    a, b: 1.{NL}", "Args")
        ['x', 'a', 'b']
    """
    lines = doc.partition(f"{NL}{section}:{NL}")[2].partition(f"{NL}{NL}")[0].split(NL)
    entries = [line for line in lines if re.match(r" {4}[\w*]+(, [\w*]+)*( \([^)]*\))?: ", line)]
    words = [line.partition(":")[0].partition("(")[0] for line in entries]
    return [name.strip(" *") for names in words for name in names.split(",")]


def names_in(node: ast.ClassDef) -> set[str]:
    """Return what a class has by the look of its source: fields, methods, what is assigned."""
    fields = {getattr(n.target, "id", "") for n in node.body if isinstance(n, ast.AnnAssign)}
    methods = {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
    assigned = {n.id for part in node.body for n in ast.walk(part) if isinstance(part, ast.Assign)
                and isinstance(n, ast.Name)}  # fmt: skip
    every = list(ast.walk(node))
    held = {n.attr for n in every if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    return fields | methods | assigned | held


def stale_docstrings(package: Path) -> list[str]:
    """Return docstrings that explain an argument or an attribute that is not there."""
    found = []
    for name, tree in modules(package).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                section, there = (
                    "Args",
                    {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)},
                )
            elif isinstance(node, ast.ClassDef):
                section, there = "Attributes", names_in(node)
            else:
                continue
            stale = set(listed(ast.get_docstring(node) or "", section)) - there
            found += [f"{name}.{node.name}: {one}" for one in sorted(stale)]
    return found


RULES = (
    homeless,
    arrows_down,
    circle,
    judge_knows_the_accused,
    relative_imports,
    torch_imports,
    stale_docstrings,
)


# The rules hold


@pytest.mark.parametrize("rule", RULES)
def test_the_house_is_in_order(rule) -> None:
    assert rule(PACKAGE) == []


def test_every_listed_room_is_there() -> None:
    there = modules(PACKAGE)
    for wing in HOUSE:
        name = f"convgraph.{wing}".removesuffix(".")
        assert all(f"{name}.{room}".removesuffix("..") in there for room in rooms(wing)), wing


@pytest.mark.parametrize(
    ("name", "cell"), [("house.md", "`errors.py`"), ("backends.md", "`dense`")]
)
def test_the_pages_list_the_rooms_and_the_backends(name: str, cell: str) -> None:
    text = (DESIGN / name).read_text(encoding="utf-8")
    what, _ = PAGES[name]
    assert text.count(START.format(what)) == text.count(END.format(what)) == 1
    assert text == page(name, text), "make house"
    assert page(name, text.replace(f"| {cell} |", "| mistaken |")) == text
    assert not any("|  |" in line for line in page(name, text).splitlines()), "says nothing"


def test_the_pages_are_written_without_torch() -> None:
    # pre-commit runs it in an environment of its own
    code = "from tests.house import PAGES; [write() for _, write in PAGES.values()]"
    subprocess.run([sys.executable, "-S", "-c", code], check=True, cwd=ROOT)


def test_every_folder_knows_its_quick_tests() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {f"convgraph/{name}/" for name in folders} <= set(quick.TESTS)
    paths = {path for tests in quick.TESTS.values() for path in tests.split()}
    assert {path for path in paths if not (ROOT / path).exists()} == set()


def test_every_file_that_a_contributor_is_sent_to_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w.]+/[\w./]*)`", text)
    placed = [path for path in named if not re.search("NAME|FAMILY|NN", path)]
    assert len(placed) > 40
    assert [path for path in placed if not (ROOT / path).exists()] == []


def strays(log: str, fragments: list[str], kinds: set[str]) -> list[str]:
    """Return what a release would not move: lines by hand, and fragments of no kind."""
    by_hand = log.partition("## [Unreleased]\n")[2].partition("\n## ")[0].split("\n")
    named = [re.fullmatch(r"\w[\w-]*\.(\w+)\.md", name) for name in fragments]
    pairs = zip(fragments, named, strict=True)
    return [*filter(None, by_hand), *(name for name, m in pairs if not m or m[1] not in kinds)]


def test_the_log_is_made_of_fragments_alone() -> None:
    news = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["towncrier"]
    kinds = {kind["directory"] for kind in news["type"]}
    log = (ROOT / news["filename"]).read_text(encoding="utf-8")
    assert log.count(news["start_string"]) == 1
    names = {path.name for path in (ROOT / news["directory"]).iterdir()}
    assert strays(log, sorted(names - {"README.md", "template.md"}), kinds) == []
    planted = log.replace(
        "## [Unreleased]\n", "## [Unreleased]\n\n### Added\n\n- x\n\n## 0.1.0\n\n- y\n"
    )
    assert strays(planted, ["a.added.md", "b.md", "c.add.md"], kinds) == [
        "### Added", "- x", "b.md", "c.add.md",
    ]  # fmt: skip


def test_hooks_workflows_and_pins_agree() -> None:
    def text(path: str) -> str:
        return (ROOT / path).read_text(encoding="utf-8")

    hooks, project, matrix = map(text, (
        ".pre-commit-config.yaml", "pyproject.toml", ".github/workflows/ci.yml",
    ))  # fmt: skip
    ruff = set(re.findall(r"ruff==[\d.]+", text("constraints.txt")))
    assert set(re.findall(r"ruff==[\d.]+", hooks)) == ruff
    # Named files are linted as `make check` lints them, so that what is left out stays left out.
    assert all("--force-exclude" in line for line in re.findall(r"entry: ruff .*", hooks))
    floors = dict(re.findall(r'"(torch|torch-geometric)>=([\d.]+)"', project))
    assert dict(re.findall(r'"(torch|torch-geometric)==([\d.]+)\.\*"', matrix)) == floors
    pythons = set(re.findall(r"Python :: (3\.\d+)", project))
    assert set(re.findall(r'python: "(3\.\d+)"', matrix)) == pythons


def borrowed(tree: ast.Module) -> list[str]:
    """Return the files of tests that a file imports from, however it spells that."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    paths = [re.match(r"tests\.(\w+\.)*?test_\w+", name) for name in found]
    files = {match[0].replace(".", "/") for match in paths if match}
    return sorted(file for file in files if (ROOT / f"{file}.py").exists())


def test_no_test_borrows_from_a_test() -> None:
    sources = (ROOT / "tests").rglob("*.py")
    found = {path.name: borrowed(ast.parse(path.read_text("utf-8"))) for path in sources}
    assert {name: tests for name, tests in found.items() if tests} == {}, (
        "what two files need lies in a file of its own"
    )


@pytest.mark.parametrize(
    "source",
    [
        "from tests.nn.test_pool import x",
        "from tests.nn import test_pool as pool",
        "import tests.nn.test_pool",
        "def f():\n    from tests import test_draw",
    ],
)
def test_a_borrowed_test_is_found(source: str) -> None:
    assert len(borrowed(ast.parse(source))) == 1


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
    heavy = {"matplotlib", "networkx", "convgraph.backends.fused.triton_kernels"}
    code = f"import sys, convgraph; print(*{heavy} & set(sys.modules))"
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
        (homeless, {"proof/layer/helpers.py": ""}),
        (arrows_down, {"graph/edges.py": "from convgraph import nn", "nn/__init__.py": ""}),
        (arrows_down, {"graph/pixel_graph.py": "def f():\n    import convgraph.functional"}),
        (arrows_down, {"graph/sites.py": "import convgraph"}),
        (homeless, {"backends/scatter.py": "WORD = 1"}),
        (
            arrows_down,
            {
                "backends/scatter.py": "\nNAME = 1",
                "backends/cost.py": "import convgraph.backends.scatter",
            },
        ),
        (arrows_down, {"graph/sites.py": "from convgraph.graph.edges import connect"}),
        (arrows_down, {"proof/equation/spec.py": "import convgraph.proof.layer.judge"}),
        (
            arrows_down,
            {
                "proof/layer/premise/call.py": "from convgraph.proof.layer.premise import follower",
                "proof/layer/premise/follower.py": "",
            },
        ),
        (
            circle,
            {
                "nn/a.py": "from convgraph.nn.b import f",
                "nn/b.py": "from typing import TYPE_CHECKING\n"
                "if TYPE_CHECKING:\n    from convgraph.nn import a",
            },
        ),
        (
            judge_knows_the_accused,
            {"proof/equation/oracle.py": "from convgraph.graph.edges import connect"},
        ),
        (judge_knows_the_accused, {"proof/equation/oracle.py": "import convgraph as cg"}),
        (relative_imports, {"graph/pixel_graph.py": "from .sites import Sites"}),
        (relative_imports, {"nn/conv.py": "from .. import functional"}),
        (torch_imports, {"geometry/kernel.py": "from torch.nn import Conv2d"}),
        (
            stale_docstrings,
            {"nn/conv.py": 'def f(x):\n    """Do.\n\n    Args:\n        y: none.\n    """'},
        ),
        (
            stale_docstrings,
            {"nn/conv.py": 'class A:\n    """A.\n\n    Attributes:\n        b: none.\n    """'},
        ),
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
            "geometry/kernel.py": "import numpy\nfrom convgraph.errors import GeometryError",
            "graph/__init__.py": "from convgraph.graph.pixel_graph import PixelGraph",
            "graph/pixel_graph.py": "import torch\nfrom convgraph.geometry import kernel",
            "proof/__init__.py": "from convgraph.proof.equation.oracle import Oracle",
            "proof/equation/oracle.py": "from convgraph.geometry.kernel import KernelGeometry",
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
