"""The house: which rooms there are, in which order, and the page that lists them.

python -m tests.house docs/design/house.md        writes the list of rooms into the page
"""

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "convgraph"

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
        written space_edges network_sites edge_list output_sites edges
        typed_edges interchange pixel_graph transforms .
    """,
    "spaces": """
        charts readers torus healpix_order healpix
        equirectangular hexagonal_layout hexagonal hexagonal_weights .
    """,
    "backends": """
        problem cost compiled tf32 bags
        rows matrices site_tiles onednn dense
        messages edge_count gather halo resample
        masked tiles fused .
    """,
    "backends.dense": ". conv pool resize unfold",
    "backends.messages": ". edges unfold",
    "backends.gather": ". typed_nodes maxima edges unfold",
    "backends.resample": ". bags conv",
    "backends.halo": ". charts conv pool resize",
    "backends.masked": ". filled_image conv",
    "backends.tiles": ". windows conv",
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
        names frames keys registry report
        value node_pairs align batch lattices inner tokens scores settle
        rules tensor functions layers recording
        program compiled network receptive summary .
    """,
    "convert.rules": """
        attention convolution norms pointwise resize
        shapes linear moves reductions products
        losses pooling channels writes .
    """,
    "proof": """
        aten ways_out surroundings draws precision
        roundoff equation record network refutation
        layer symbolic lying plan parts again verifier_spaces verifier .
    """,
    "proof.equation": """
        . where windows spec spaces in_space contraction
        listed depthwise oracle
    """,
    "proof.record": ". counterexample page certificate sealed",
    "proof.layer": """
        . structure trial own premise program direct
        identity rounding basis parts showing
        order linear maximum judge
    """,
    "proof.layer.order": ". codes ordered_tensor rules follower check",
    "proof.layer.premise": """
        . degrees source_lines steps magnitudes
        call nonlinear traced_tensor linear_rules product_rules
        follower trusted check
    """,
    "proof.network": """
        . value_numbers running_error node whole_layers recorder
        unwatched operator_layers match side_by_side end_to_end
        folds folded_wiring gradients judge
    """,
    "proof.network.running_error": ". call product_rules sum_rules backward_rules bound",
    "proof.refutation": """
        . truth difference suspects symptoms
        causes shrink
    """,
    "proof.symbolic": "arithmetic axis flat theorems .",
    "scale": """
        . relations positions mask_sites windows recording
        rules neighbours plan sites nodes passes partial tiling
        halo reach
        source tiled streamed sharded
        traffic
    """,
    "comparison": """
        . spread_out callers on_space on_mask held typed_graph linear_callers
        excite networks parts layers named
    """,
}
"""Wing -> its files and folders, foundation first; "." is the wing's own `__init__.py`.

An import may only point up its list. A folder without a line of its own is not looked into.
"""

START, END = "<!-- rooms: `make house` writes them -->\n", "<!-- end of the rooms -->\n"


def rooms(wing: str) -> list[str]:
    """Return the files and folders of a wing in order."""
    return HOUSE[wing].split()


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
        for room in rooms(wing):
            path = folder / f"{'__init__' if room == '.' else room}.py"
            name = f"{room}/" if (folder / room).is_dir() and room != "." else path.name
            if room != ".":
                path = path if path.exists() else folder / room / "__init__.py"
            lines.append(f"| `{name}` | {idea(path).replace('|', '&#124;')} |")
        lines.append("")
    return "\n".join(lines)


def page(old: str) -> str:
    """Return a page with the list of rooms put in the place for it."""
    before, _, rest = old.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{listed()}\n{END}{after}"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(page(target.read_text(encoding="utf-8")), encoding="utf-8")
