"""What the page computed, beside torch's output and convgraph's sites and edges."""

import re
from typing import Any

import torch
from torch import Tensor

import convgraph as cg

COMPUTE = "() => { const e = window.convgraphExplorer; return e.compute(e.view.config); }"


def differences(found: dict[str, Any], layer: Any, graph: cg.PixelGraph, dense: Tensor) -> set[str]:
    """Return which of "output", "sites" and "edges" differ; none is compared within a tolerance."""
    wrong = set()
    numbers = torch.tensor(found["output"], dtype=torch.float64)
    if numbers.numel() != dense[0].numel() or not torch.equal(numbers, dense[0].flatten()):
        wrong.add("output")
    kind = cg.nn.GraphConvTranspose2d if layer.transposed else cg.nn.GraphConv2d
    edges = kind.from_dense(layer).edges(graph)
    mask = edges.target.mask
    nodes = [True] * edges.target.num_cells if mask is None else mask.flatten().tolist()
    if found["sites"] != nodes:
        wrong.add("sites")
    cells = [
        torch.arange(s.num_cells) if s.mask is None else s.mask.flatten().nonzero()[:, 0]
        for s in (edges.source, edges.target)
    ]
    listed = zip(
        cells[0][edges.edge_index[0]].tolist(),
        cells[1][edges.edge_index[1]].tolist(),
        edges.edge_type.tolist(),
        strict=True,
    )
    if sorted(map(tuple, found["edges"])) != sorted(listed):
        wrong.add("edges")
    return wrong


def numbers(html: str, caption: str) -> list[list[str]]:
    """Return the cells of the table under a caption, row by row."""
    table = html[html.index(f"<caption>{caption}") :].split("</table>")[0]
    return [re.findall("<td>(.*?)</td>", row) for row in table.split("</tr>")[:-1]]
