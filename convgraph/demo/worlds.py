"""The photograph where no dense convolution follows: with holes, on hexagons, a torus, a sphere.

One pair of contour filters, with the weights of an ordinary `nn.Conv2d`, runs in each world as it
is; where a world has no neighbour, nobody speaks. Uses the public API only.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import convgraph as cg
from convgraph import draw
from convgraph.demo.photograph import load
from convgraph.draw.spaces import seen

DISC = (170.0, 225.0, 150.0)
"""Row, column and radius, in pixels of 512, of the disc that stays where there are holes."""

VIEW = (15.0, 0.0)
"""Latitude and longitude, in degrees, above which the sphere is looked at."""


@dataclass(frozen=True)
class World:
    """The photograph in one world, and what the filters say there.

    Attributes:
        name: which world.
        note: what is different there, in words.
        pixels: the photograph on it.
        contours: size of the gradient, (N, 1) on the nodes of `pixels`.
        small: few nodes of the same world, for a drawing of who talks to whom.
        node: the one of `small` whose neighbours are drawn.
        certificate: of the layer beside the dense one there.
    """

    name: str
    note: str
    pixels: cg.PixelGraph
    contours: Tensor
    small: cg.PixelGraph
    node: int
    certificate: Any


def filters() -> torch.nn.Conv2d:
    """Return the dense layer: Sobel's two contours of the luminance."""
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    conv = torch.nn.Conv2d(3, 2, 3, padding=1, bias=False)
    with torch.no_grad():
        grey = torch.tensor([0.3, 0.59, 0.11]).view(1, 3, 1, 1)
        conv.weight.copy_(torch.stack([sobel, sobel.T]).unsqueeze(1) * grey)
    return conv


@torch.no_grad()
def visit(side: int) -> list[World]:
    """Run the filters in every world, and prove them there.

    Args:
        side: pixels of the photograph along an axis in the plane, a divisor of 512.
    """
    photo = load(side)
    row, column, radius = (number * side / 512 for number in DISC)
    rows, columns = torch.arange(side)[:, None], torch.arange(side)
    disc = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
    hexagons, sphere = cg.Hexagonal(layout="odd-r"), cg.HEALPix(corner="absent")
    comb = hexagons.from_image(torch.zeros(1, 1, side // 4, side * 7 // 32))
    faces = (12 * (side // 16), side // 16)
    blank = torch.zeros(1, 1, *faces)
    _, front = seen(cg.PixelGraph.from_image(blank, on=sphere), VIEW)
    half = torch.from_numpy(front).view(1, *faces)
    ball = cg.PixelGraph.from_image(blank, mask=half, on=sphere)
    few = torch.ones(1, 1, 6, 6)
    holes = torch.ones(1, 6, 6, dtype=torch.bool)
    holes[0, [1, 2, 3, 4], [2, 3, 1, 4]] = False
    return [
        _world("holes", "absent pixels are no nodes", cg.PixelGraph.from_image(photo, mask=disc),
               cg.PixelGraph.from_image(few, mask=holes), 18),
        _world("hexagons", "seven taps of nine", _painted(comb, photo),
               hexagons.from_image(few), 14),
        _world("a torus", "a seamless texture", cg.PixelGraph.from_image(photo, on=cg.Torus()),
               cg.PixelGraph.from_image(few, on=cg.Torus()), 0),
        _world("a sphere", "HEALPix, half of the sky", _painted(ball, photo),
               cg.PixelGraph.from_image(torch.ones(1, 1, 48, 4), on=sphere), 3),
    ]  # fmt: skip


def _world(name: str, note: str, pixels: cg.PixelGraph, small: cg.PixelGraph, node: int) -> World:
    conv = filters()
    layer = cg.nn.GraphConv2d.from_dense(conv)
    certificate = cg.prove(layer, conv, small.with_x(small.x.expand(-1, 3)), seed=0)
    return World(
        name, note, pixels, layer(pixels).x.norm(dim=1, keepdim=True), small, node, certificate
    )


def _painted(graph: cg.PixelGraph, photo: Tensor) -> cg.PixelGraph:
    """Return the graph with the photograph where its nodes are seen."""
    places, _ = seen(graph, VIEW)
    low, high = places.min(0), places.max(0)
    scale = (high - low).max() / 2
    grid = (places - (low + high) / 2) / scale * (1, -1)
    read = F.grid_sample(
        photo.unsqueeze(0), torch.from_numpy(grid).float().view(1, 1, -1, 2), align_corners=False
    )
    return graph.with_x(read[0, :, 0].T.contiguous())


def save(path: Path, worlds: list[World]) -> None:
    """Draw each world: the photograph, its contours, and who talks to whom; write it as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 11.4), facecolor="#ffffff", layout="constrained")
    panels: Any = figure.subplots(3, len(worlds))
    for column, world in enumerate(worlds):
        top, middle, bottom = panels[:, column]
        _show(top, world.pixels, world.pixels.x)
        top.set_title(f"{world.name}: {world.note}\n{world.pixels.num_nodes:,} nodes", fontsize=11)
        _show(
            middle, world.pixels, 1 - (world.contours / world.contours.quantile(0.995)).clamp(max=1)
        )
        middle.set_title(f"contours, the same weights: {world.certificate.verdict}", fontsize=11)
        if world.small.sites.space is None:
            draw.node(world.small, world.node, ax=bottom, dark=False)
        else:
            draw.world(world.small, node=world.node, view=(35.0, 45.0), ax=bottom, dark=False)
    figure.savefig(path, dpi=72, metadata={"Description": description()})


def _show(axis: Any, graph: cg.PixelGraph, values: Tensor) -> None:
    """Paint values (N, 1 or 3) in [0, 1] at the nodes' places."""
    axis.set_axis_off()
    axis.set_aspect("equal")
    colours = values.expand(-1, 3).clamp(0, 1)
    if graph.sites.space is None or graph.sites.space == cg.Torus():
        image = graph.with_x(colours.contiguous()).to_image(fill=1.0)
        axis.imshow(image.movedim(0, -1).numpy(), interpolation="nearest")
        return
    flat, _ = seen(graph, VIEW)
    axis.scatter(flat[:, 0], flat[:, 1], c=colours.numpy(), s=100000 / len(flat), linewidths=0,
                 marker="h" if isinstance(graph.sites.space, cg.Hexagonal) else "o")  # fmt: skip


def description() -> str:
    """Return what the picture shows and in which colours; it keeps that, so an old one is found."""
    return "; ".join(["holes", "hexagons", "a torus", "a sphere", *draw.PALETTE])


def checks(worlds: list[World]) -> dict[str, bool]:
    """Return what was claimed and whether it held."""
    return {
        f"{world.name}: the layer is the dense one's function there": world.certificate.verdict
        == "proven"
        for world in worlds
    }
