"""What tests the files that changed, without what takes long: `make quick`.

python -m tests.quick [FILES]        files, or everything that differs from the main branch
"""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

ALWAYS = ("tests/test_package.py",)

TESTS = {
    "convgraph/geometry/window.py": "tests/nn/test_pool.py tests/nn/test_loading.py",
    "convgraph/geometry/": "tests/geometry tests/graph/test_edges.py",
    "convgraph/graph/places.py": "tests/graph tests/proof/test_plan.py",
    "convgraph/graph/space_edges.py": "tests/spaces/test_spaces.py tests/spaces/test_torus.py",
    "convgraph/graph/": "tests/graph tests/test_memo.py",
    "convgraph/spaces/": "tests/spaces",
    "convgraph/backends/dense/pool.py": "tests/nn/test_pool.py",
    "convgraph/backends/dense/resize.py": "tests/nn/test_resize.py",
    "convgraph/backends/dense/unfold.py": "tests/nn/test_rearrange.py",
    "convgraph/backends/gather/maxima.py": "tests/nn/test_pool.py",
    "convgraph/backends/gather/unfold.py": "tests/nn/test_rearrange.py",
    "convgraph/backends/messages/unfold.py": "tests/nn/test_rearrange.py",
    "convgraph/backends/halo/": "tests/backends/test_halo.py tests/spaces/test_pools.py",
    "convgraph/backends/": "tests/backends tests/comparison/test_prove.py",
    "convgraph/functional/typed.py": "tests/graph/test_typed_edges.py",
    "convgraph/functional/": "tests/nn tests/backends/test_choice.py",
    "convgraph/nn/": "tests/nn",
    "convgraph/convert/": "tests/convert",
    "convgraph/proof/layer/order/": "tests/proof/layer/test_maximum.py",
    "convgraph/proof/layer/direct.py": "tests/proof/layer/test_one_program.py",
    "convgraph/proof/layer/": "tests/proof/layer/test_judge.py tests/proof/layer/premise",
    "convgraph/proof/network/": "tests/proof/network",
    "convgraph/proof/refutation/": "tests/proof/refutation",
    "convgraph/proof/symbolic/": "tests/proof/symbolic",
    "convgraph/proof/parts.py": "tests/scale/test_sharded.py tests/proof/test_again.py",
    "convgraph/proof/plan.py": "tests/proof/test_plan.py tests/proof/test_again.py",
    "convgraph/proof/equation/in_space.py": "tests/proof/test_again.py tests/scale/test_spaces.py",
    "convgraph/proof/equation/listed.py": "tests/comparison/test_typed_graph.py",
    "convgraph/proof/equation/map_positions.py": (
        "tests/nn/test_sequential.py tests/proof/test_plan.py"
    ),
    "convgraph/proof/equation/maximum_windows.py": "tests/proof/layer/test_maximum.py",
    "convgraph/proof/equation/spaces.py": "tests/spaces/test_spaces.py tests/spaces/test_faults.py",
    "convgraph/proof/equation/": "tests/proof/equation tests/proof/layer/test_judge.py",
    "convgraph/proof/aten.py": "tests/proof/test_aten.py tests/proof/layer/premise",
    "convgraph/proof/draws.py": "tests/proof/test_draws.py tests/proof/layer/test_judge.py",
    "convgraph/proof/placed_maps.py": "tests/proof/test_plan.py",
    "convgraph/proof/record/sealed.py": "tests/proof/test_again.py",
    "convgraph/proof/roundoff.py": "tests/proof/layer/test_rounding.py",
    "convgraph/proof/precision.py": "tests/proof/layer/test_rounding.py tests/proof/record",
    "convgraph/proof/surroundings.py": "tests/proof/layer/premise",
    "convgraph/proof/ways_out.py": (
        "tests/proof/layer/premise tests/proof/layer/test_one_program.py"
    ),
    "convgraph/proof/verifier_operators.py": "tests/proof/test_verifier_checks.py",
    "convgraph/proof/verifier_spaces.py": "tests/spaces/test_verifier.py",
    "convgraph/proof/": "tests/proof/record tests/proof/test_verifier.py",
    "convgraph/scale/": "tests/scale",
    "convgraph/comparison/on_space.py": "tests/spaces/test_network_proofs.py",
    "convgraph/comparison/parts.py": "tests/proof/test_plan.py tests/scale/test_sharded.py",
    "convgraph/comparison/": "tests/comparison",
    "convgraph/draw/": "tests/test_draw.py",
    "convgraph/explorer/": "tests/explorer",
    "convgraph/demo/": "tests/test_demo.py",
    "convgraph/cli.py": "tests/test_cli.py",
    "convgraph/pytest_plugin.py": "tests/test_pytest_plugin.py",
    "convgraph/explanation.py": "tests/backends/test_choice.py",
    "convgraph/torch_modules.py": (
        "tests/nn/test_sequential.py tests/nn/test_sequential_container.py"
    ),
    "convgraph/memo.py": "tests/test_memo.py tests/graph",
    "convgraph/": "tests/test_bad_input.py",
    "docs/": "tests/test_readme.py tests/docs",
    "README.md": "tests/test_readme.py",
    "notebooks/": "tests/test_notebooks.py",
}
"""Beginning of a path -> what tests it, beside the file of its name; the first that fits counts."""


def changed() -> list[str]:
    """Return the files that differ from the main branch, new ones included."""
    base = git("merge-base", "HEAD", "main") or ["HEAD"]
    return [
        *git("diff", "--name-only", base[0]),
        *git("ls-files", "--others", "--exclude-standard"),
    ]


def git(*arguments: str) -> list[str]:
    """Return the lines that git prints, none where it refuses."""
    run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return run.stdout.splitlines() if run.returncode == 0 else []


def paths_for(files: list[str]) -> list[str]:
    """Return what to run for these files, and the doctests of those in the package.

    Example:
        >>> paths_for(["convgraph/nn/pool.py", "tests/test_draw.py"])
        ['tests/test_package.py', 'convgraph/nn/pool.py', 'tests/nn', 'tests/test_draw.py']
        >>> paths_for(["convgraph/door.py", "tests/spaces/cases.py"])[2:]
        ['tests/test_door.py', 'tests/test_bad_input.py', 'tests/spaces']
    """
    found = dict.fromkeys(ALWAYS)
    for file in files:
        folder, _, name = file.rpartition("/")
        if folder.startswith("tests") and file.endswith(".py"):
            helps = folder if "/" in folder else ""  # what a folder's tests share
            found[file if name.startswith("test_") else helps] = None
            continue
        if file.startswith("convgraph/") and file.endswith(".py"):
            found[file] = None
            found[f"tests{folder.removeprefix('convgraph')}/test_{name}"] = None
        for start, tests in TESTS.items():
            if file.startswith(start):
                found.update(dict.fromkeys(tests.split()))
                break
    there = [path for path in found if path and (ROOT / path).exists()]
    return [path for path in there if not any(path.startswith(f"{one}/") for one in there)]


if __name__ == "__main__":
    paths = paths_for(sys.argv[1:] or changed())
    print("quick:", *paths, flush=True)  # noqa: T201
    spread = ["-n", "auto", "--dist", "loadfile", "-q"]
    sys.exit(pytest.main([*spread, "-m", "not slow and not ci and not published", *paths]))
