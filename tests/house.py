"""The house: which rooms there are, in which order, and the pages that list them.

python -m tests.house        writes into house.md and backends.md of docs/design
"""

import ast
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1] / "convgraph"
DESIGN = PACKAGE.parent / "docs" / "design"

HOUSE = {
    "": """
        errors door arguments autocast memo torch_modules
        geometry graph spaces
        backends functional nn explanation
        convert proof scale comparison
        draw explorer .
        demo cli pytest_plugin __main__
    """,
    "geometry": """
        footprint loaded padding kernel space
        window resize .
    """,
    "graph": """
        lattice images places site_numbers sites
        sites_as_text space_edges network_sites edge_list output_sites edges
        typed_edges interchange pixel_graph transforms .
    """,
    "spaces": """
        charts readers torus healpix_order healpix
        equirectangular hexagonal_layout hexagonal hexagonal_weights .
    """,
    "backends": """
        problem cost compiled tf32 bags
        rows matrices site_tiles onednn dense
        messages edge_count gather halo
        masked tiles fused resample .
    """,
    "backends.dense": ". conv pool resize unfold",
    "backends.messages": ". edges unfold",
    "backends.gather": ". typed_nodes maxima edges unfold",
    "backends.resample": ". bags conv",
    "backends.halo": ". chart_margins conv pool resize",
    "backends.masked": ". filled_image conv",
    "backends.tiles": ". cutting conv",
    "backends.fused": """
        . triton_kernels triton_operands triton_launch operators autograd
        triton_tables triton_conv cpp_cache cpp_build cpp_tables cpp_conv
    """,
    "functional": """
        conv pool resize rearrange norm
        typed prepared .
    """,
    "nn": """
        nodewise loading twin conv convs
        pool adaptive unpool norm synced dropout
        flatten resize rearrange pixel_shuffle separable
        sequential traced .
    """,
    "convert": """
        names frames keys registry operators report
        value windows tokens node_pairs align batch entries lattices folded inner settle
        views rules tensor answers functions copies recording
        program compiled network receptive summary .
    """,
    "convert.rules": """
        convolution pointwise resize shapes
        attention positions moves reductions norms products linear
        losses pooling channels .
    """,
    "proof": """
        trees aten stand_ins ways_out surroundings draws precision
        roundoff equation record network refutation
        layer symbolic placed_maps plan parts again verifier_spaces verifier_operators verifier .
    """,
    "proof.equation": """
        . map_positions spec spaces in_space contraction
        listed depthwise oracle maximum_windows
    """,
    "proof.record": ". printable counterexample page certificate sealed",
    "proof.layer": """
        . structure trial own_parameters premise one_program direct
        following identity rounding other_manners basis to_record
        showing order linear maximum judge
    """,
    "proof.layer.order": ". suppositions codes ordered_tensor order_rules whose follower check",
    "proof.layer.premise": """
        . degrees source_lines steps magnitudes
        call nonlinear linear_rules rounded traced_tensor product_rules
        made_of follower trusted check
    """,
    "proof.network": """
        . value_numbers blocks running_error node by_itself whole_layers
        recorder operator_layers terms polynomials maxima units meanings match side_by_side
        end_to_end folds folded_wiring manners names affine regions region_wiring gradients judge
    """,
    "proof.network.running_error": """
        . call product_rules sum_rules attention_rules backward_rules bound
    """,
    "proof.refutation": """
        . truth difference suspects symptoms
        causes shrink
    """,
    "proof.symbolic": "arithmetic axis flat theorems .",
    "scale": """
        . relations positions mask_sites read_indices recording
        travel_rules neighbours plan sites nodes passes partial tiling
        halo reach
        source tiled streamed sharded
        traffic
    """,
    "comparison": """
        . spread_out refilled callers derived on_mask on_space side_state typed_graph
        linear_callers function_layers excite networks parts prove named
    """,
}
"""Wing -> its files and folders, foundation first; "." is the wing's own `__init__.py`.

An import may only point up its list. A folder without a line is not looked into. Whoever adds
a backend need not write here: a new one stands before the `__init__` of `backends`, which alone may
import it.
"""

START, END = "<!-- {}: `make house` writes them -->\n", "<!-- end of the {} -->\n"


@cache
def rooms(wing: str, package: Path = PACKAGE) -> list[str]:
    """Return the files and folders of a wing in order."""
    order = HOUSE[wing].split()
    if wing == "backends":
        named = [path for path in (package / wing).rglob("*.py") if "\nNAME = " in path.read_text()]
        new = {path.relative_to(package / wing).parts[0].removesuffix(".py") for path in named}
        order[-1:-1] = sorted(new - {*order})
    return order


@cache
def idea(path: Path) -> str:
    """Return the first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def listed(package: Path = PACKAGE) -> str:
    """Return the list of rooms in Markdown: each with the first sentence that it says itself."""
    lines: list[str] = []
    for wing in HOUSE:
        folder = package.joinpath(*wing.split(".")) if wing else package
        lines += [f"## `{'/'.join([package.name, *filter(None, wing.split('.'))])}/`", ""]
        lines += ["| room | its one idea |", "|---|---|"]
        for room in rooms(wing, package):
            path = folder / f"{'__init__' if room == '.' else room}.py"
            name = f"{room}/" if (folder / room).is_dir() and room != "." else path.name
            if room != ".":
                path = path if path.exists() else folder / room / "__init__.py"
            lines.append(f"| `{name}` | {idea(path).replace('|', '&#124;')} |")
        lines.append("")
    return "\n".join(lines)


def backends(package: Path = PACKAGE) -> str:
    """Return the table of backends in Markdown: how, and when, as each says itself.

    Read off the source, as imports are: whoever lints has no torch.
    """
    tables = assigned(package / "backends" / "__init__.py", "TABLES")
    found: dict[str, Path] = {}
    for table in tables.values:
        for file in table.args[0].value.split():
            path = package.joinpath("backends", *file.split(".")).with_suffix(".py")
            path = path if path.exists() else path.with_suffix("") / "__init__.py"
            found.setdefault(name_of(path), path)
    lines = ["| backend | how | when |", "|---|---|---|"]
    for name, path in found.items():
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first, _, rest = text.partition("\n\n")
        how = " ".join(first.split()).partition(": ")[2].rstrip(".")
        when = " ".join(rest.partition("When: ")[2].split()).rstrip(".")
        lines.append(f"| `{name}` | {how} | {when} |")
    return "\n".join(lines) + "\n"


def assigned(path: Path, name: str) -> Any:
    """Return the expression that a module binds to a name."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.Assign):
            continue
        (target,), value = node.targets, node.value
        together = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
        pairs = zip(target.elts, value.elts, strict=True) if together else [(target, value)]
        for one, other in pairs:
            if isinstance(one, ast.Name) and one.id == name:
                return other
    raise LookupError(f"{path}: binds no {name}")


def name_of(path: Path) -> str:
    """Return the `NAME` of a backend's file, or of the file that it takes it from."""
    value = assigned(path, "NAME")
    if isinstance(value, ast.Constant):
        return str(value.value)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        for alias in node.names if isinstance(node, ast.ImportFrom) else ():
            if value.value.id == (alias.asname or alias.name):
                folder = PACKAGE.parent.joinpath(*(node.module or "").split("."))
                file = folder / f"{alias.name}.py"
                return name_of(file if file.exists() else folder / alias.name / "__init__.py")
    raise LookupError(f"{path}: where does its NAME come from?")


PAGES = {"house.md": ("rooms", listed), "backends.md": ("backends", backends)}
"""Page of docs/design -> what is listed there, and who writes the list."""


def page(name: str, old: str) -> str:
    """Return a page with its list put in the place for it."""
    what, write = PAGES[name]
    before, start, rest = old.partition(START.format(what))
    _, end, after = rest.partition(END.format(what))
    return f"{before}{start}\n{write()}\n{end}{after}"


if __name__ == "__main__":
    for name in PAGES:
        target = DESIGN / name
        target.write_text(page(name, target.read_text(encoding="utf-8")), encoding="utf-8")
