"""The explorer for whoever can run nothing: one channel of layer and image as plain HTML tables.

Viewers of notebooks that remove frames and scripts leave tables alone. The numbers are those of the
layers of convgraph, computed here in float64.
"""

from html import escape
from typing import Any

import torch
from torch import Tensor

from convgraph.functional import graph_conv
from convgraph.geometry.kernel import KernelGeometry
from convgraph.graph.pixel_graph import PixelGraph
from convgraph.spaces import Hexagonal, Torus

SPACES = {"plane": None, "hexagon": Hexagonal(), "torus": Torus()}
"""The page's words, see `config.state_of`."""


def tables(state: dict[str, Any]) -> str:
    """Return input, kernel and output as HTML tables, the first channel of each.

    Args:
        state: as `config.state_of` makes it; {} has no layer and says where the lessons are.

    Example:
        >>> tables({})[:3]
        '<p>'
    """
    if not state:
        return (
            "<p>The lessons of the convgraph explorer need scripts and frames. For a page of their "
            "own: <code>convgraph explore --out page.html</code></p>"
        )
    config, split = state["config"], state["split"]
    image = _tensor(config["image"], config["in_channels"], *config["size"])
    mask = config["mask"]
    present = None if mask is None else torch.tensor(mask).reshape(config["size"])
    output, sites = _run(state, image, present)
    if split is None:
        kernel = _tensor(config["weight"], -1, *config["kernel_size"])[0]
        name = "weight of output channel 1 and input channel 1"
    else:
        kernel = _tensor(split["depthwise"], -1, *config["kernel_size"])[0]
        name = "depthwise weight of channel 1"
    return "\n".join(
        [
            f"<p>{escape(_title(config, split is not None))}</p>",
            _table("input, channel 1", image[0], present),
            _table(name, kernel, None),
            _table("output, channel 1", output, sites),
        ]
    )


def _run(
    state: dict[str, Any], image: Tensor, present: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Return output channel 0 (H', W') and which of it are nodes, or None for all."""
    config, split = state["config"], state["split"]
    geometry = KernelGeometry(
        tuple(config["kernel_size"]),
        stride=tuple(config["stride"]),
        padding=tuple((before, after) for before, after in config["padding"]),
        dilation=tuple(config["dilation"]),
        padding_mode=config["padding_mode"],
        transposed=config["transposed"],
        output_padding=tuple(config["output_padding"]),
        footprint=config["footprint"],
        d=2,
    )
    graph = PixelGraph.from_image(image, mask=present, on=SPACES[config["space"]])
    ins, outs, groups = config["in_channels"], config["out_channels"], config["groups"]
    bias = None if config["bias"] is None else _tensor(config["bias"], outs)
    kernel = config["kernel_size"]
    if split is None:
        first, second = (ins, outs // groups) if config["transposed"] else (outs, ins // groups)
        weight = _tensor(config["weight"], first, second, *kernel)
        graph = graph_conv(graph, weight, bias, geometry=geometry, groups=groups)
    else:
        own = split["depthwise_bias"]
        weight = _tensor(split["depthwise"], ins, 1, *kernel)
        between = None if own is None else _tensor(own, ins)
        graph = graph_conv(graph, weight, between, geometry=geometry, groups=ins)
        mix = _tensor(split["pointwise"], outs, ins, 1, 1)
        graph = graph_conv(graph, mix, bias, geometry=KernelGeometry(1, d=2))
    sites = graph.sites.mask
    output = graph.to_image(fill=0.0)
    output = output[0] if output.dim() == 4 else output
    return output[0], None if sites is None else sites.reshape(output.shape[1:])


def _title(config: dict[str, Any], split: bool) -> str:
    kind = "transposed convolution" if config["transposed"] else "convolution"
    if split:
        kind = "depthwise-separable convolution"
    size = " x ".join(map(str, config["kernel_size"]))
    return (
        f"A {size} {kind}, {config['in_channels']} to {config['out_channels']} channels, stride "
        f"{tuple(config['stride'])}, padding {tuple(map(tuple, config['padding']))} "
        f"({config['padding_mode']}), dilation {tuple(config['dilation'])}, groups "
        f"{config['groups']}. Absent pixels are dots."
    )


def _table(
    caption: str,
    values: Tensor,  # (H, W)
    present: Tensor | None,  # (H, W), bool
) -> str:
    rows = []
    for y, row in enumerate(values.tolist()):
        cells = [f"{v:.4g}" if present is None or present[y, x] else "·" for x, v in enumerate(row)]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f"<table><caption>{escape(caption)}</caption><tbody>{''.join(rows)}</tbody></table>"


def _tensor(numbers: list[float], *shape: int) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64).reshape(shape)
