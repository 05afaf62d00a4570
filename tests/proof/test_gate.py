"""The mutation gate: every planted fault is refuted by the whole judge; honest code is not.

"Undecided" is no refutation: a planted fault must be reported as one.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from torch_geometric.nn import RGCNConv

import convgraph as cg
from convgraph.backends import NAMES
from convgraph.comparison.prove import _FUSED
from convgraph.proof import ConvSpec, Oracle, prove_convolution
from tests.proof.faults import FAMILIES, FAULTS, judge
from tests.proof.faults.operators import (
    GROUPED,
    HOLES,
    MASKED,
    PLAIN,
    TRANSPOSED,
    honest,
    plain,
    shifted,
    unfolded,
    windows,
)
from tests.proof.faults.structure import walk
from tests.proof.faults.table import PAGE, page, refuting
from tests.proof.scipy_conv import SciPyConv


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_refuted(name: str) -> None:
    found = judge(name)
    assert found.verdict == "refuted", f"{name} was not caught: {found}"
    assert refuting(found)
    assert found.reason


def test_what_no_finite_number_shows_is_undecided() -> None:
    """NaN is not covered: what replaces it is reported, and is not refuted."""

    def repairs(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return plain(x.nan_to_num(), w, b)

    found = prove_convolution(repairs, plain, PLAIN)
    assert found.verdict == "undecided", str(found)
    assert "nan_to_num of data of degree x is not linear; no input was found" in found.reason
    assert "tests/proof/test_gate.py" in found.reason


def test_there_are_enough_faults_and_names_are_not_used_twice() -> None:
    assert len(FAULTS) >= 100
    assert len(FAULTS) == sum(map(len, FAMILIES.values()))
    assert all(len(family) >= 15 for family in FAMILIES.values())


def test_a_fault_of_the_structure_is_refuted_by_s0() -> None:
    assert all(
        refuting(judge(name)) == ["S0", *refuting(judge(name))[1:]]
        for name in FAMILIES["structure"]
    )


def test_no_part_is_optional() -> None:
    """Each part refutes something that no other part does; S0 needs a number of another's."""
    alone = [parts[0].split()[0] for name in FAULTS if len(parts := refuting(judge(name))) == 1]
    assert {"S1", "S2", "S3"} == set(alone)


def test_what_is_wrong_one_derivative_up_is_right_below() -> None:
    """A fault of double backward that shows in y or a first gradient would be another fault."""
    for name, fault in FAMILIES["double backward"].items():
        below = prove_convolution(fault.run, plain, PLAIN, explain=False, seed=1)
        assert below.verdict == "proven", f"{name}: {below}"


def test_the_page_is_the_gate() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it again: make faults"


# Honest implementations


def channels_last(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    kept = torch.channels_last
    return F.conv2d(x.contiguous(memory_format=kept), w.contiguous(memory_format=kept), b, 1, 1)


def per_channel(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    each = F.conv2d(x.repeat(1, 4, 1, 1), w.reshape(16, 1, 3, 3), None, 1, 1, 1, 16)
    return each.unflatten(1, (4, 4)).sum(2) + b.view(-1, 1, 1)


def as_a_gradient(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.conv_transpose2d(x, w.transpose(0, 1).flip(-1, -2), b, 1, 1)


def one_matrix(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """The convolution as the matrix that it is, put together entry by entry."""
    e = Oracle(replace(PLAIN, batch=1)).edges
    q, p, t = (torch.from_numpy(array) for array in (e.source, e.target, e.tap))
    blocks = w.flatten(2).permute(2, 0, 1)[t]
    matrix = w.new_zeros(42, 42, 4, 4).index_put((p, q), blocks, accumulate=True)
    return torch.einsum("pqoc,bcq->bop", matrix, x.flatten(2)).view(2, 4, 6, 7) + b.view(-1, 1, 1)


PEER = RGCNConv(4, 4, 9, aggr="sum", root_weight=False)


def relations(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """PyG's relational convolution on the oracle's edges; a tap is a relation."""
    e = Oracle(PLAIN).edges
    edge_index = torch.stack([torch.from_numpy(e.source), torch.from_numpy(e.target)])
    values = {"weight": w.flatten(2).permute(2, 1, 0), "bias": b}
    rows = x.movedim(1, -1).reshape(-1, 4)
    y = functional_call(PEER, values, (rows, edge_index, torch.from_numpy(e.tap)))
    return y.view(2, 6, 7, 4).movedim(-1, 1)


def ours(spec: ConvSpec, backend: str) -> Callable[..., Tensor]:
    if spec.transposed:
        layer: Any = cg.nn.GraphConvTranspose2d(
            4, 4, 3, stride=2, padding=1, output_padding=1, backend=backend
        )
    else:
        layer = cg.nn.GraphConv2d(4, 4, 3, padding=1, groups=spec.groups, backend=backend)
    mask = None if spec.source_mask is None else HOLES[:, 0]

    def run(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        graph = cg.PixelGraph.from_image(x, mask)
        return functional_call(layer, {"weight": w, "bias": b}, (graph,)).to_image()

    return run


HONEST: dict[str, tuple[ConvSpec, Callable[..., Tensor]]] = {
    run.__name__: (PLAIN, run)
    for run in (
        unfolded, shifted, windows, channels_last, per_channel, as_a_gradient, one_matrix,
        relations,
    )
}  # fmt: skip
HONEST |= {
    f"{backend}, {kind}": (spec, ours(spec, backend))
    for kind, spec in {
        "plain": PLAIN,
        "grouped": GROUPED,
        "transposed": TRANSPOSED,
        "masked": MASKED,
    }.items()
    for backend in NAMES
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_implementation_is_proven(name: str, dtype: torch.dtype) -> None:
    spec, run = HONEST[name]
    try:
        run(*(torch.zeros(s) for s in (spec.x_shape, spec.w_shape, (spec.out_channels,))))
    except cg.errors.BackendError as refusal:
        pytest.skip(str(refusal))
    # Nobody can follow a fused kernel: who proves a layer on it takes it as multilinear, by name.
    trust = ("convgraph::send", "convgraph::correlate") if name.startswith("cpp") else ()
    found = prove_convolution(run, honest(spec), spec, dtype=dtype, second=True, trust=trust)
    assert found.verdict == "proven", str(found)
    assert any("convgraph::send" in line for line in found.assumed) == bool(trust)


def test_whoever_is_trusted_without_asking_is_named_where_trust_is_explained() -> None:
    guide = Path(__file__).parents[2] / "docs" / "guide" / "prove.md"
    for text in (cg.prove.__doc__ or "", guide.read_text(encoding="utf-8")):
        named = re.findall(r"convgraph::\w+", text)
        assert (len(named), {*named}) == (len(_FUSED), {*_FUSED})


def test_scipy_is_proven_where_it_is_trusted() -> None:
    found = prove_convolution(SciPyConv.apply, plain, PLAIN, trust=("SciPyConv",))
    assert found.verdict == "proven", str(found)
    assert any("SciPyConv" in line for line in found.assumed)


@pytest.mark.parametrize("spec", [PLAIN, MASKED], ids=["plain", "masked"])
def test_the_right_edges_walked_are_proven_in_all_parts(spec: ConvSpec) -> None:
    e = Oracle(spec).edges
    lists = (e.source, e.target, e.tap)
    found = prove_convolution(
        walk(spec, lists), honest(spec), spec, edges=lambda: lists, second=True
    )
    assert found.verdict == "proven", str(found)
    names = {"S0 structure", "S1 premise", "S2 identity", "S3 rounding"}
    assert {p.name for p in found.parts if p.status == "proven"} == names
