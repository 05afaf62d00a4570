"""Pools, resizes and moves in spaces: maxima of what taps read, divisors of what is there."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convgraph as cg
from convgraph.proof.equation import spaces as judged
from tests.spaces.cases import SPACES, integers


def read(
    x: Tensor, space: cg.HEALPix, kernel: dict[str, object], out: tuple[int, int],
    mask: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """(B, C, T, P): what each tap reads by the judge's geometry; -inf where nothing is."""
    found = judged.heard(space.to_dict(), tuple(x.shape[2:]), out, kernel)
    rows, taps = x.flatten(2), []
    for sources, weights in found:
        if mask is not None:
            absent = ~mask.flatten().numpy()[np.maximum(sources, 0)] | (sources < 0)
            sources, weights = np.where(absent, -1, sources), np.where(absent, 0, weights)
        said = torch.zeros(*rows.shape[:2], len(sources), dtype=x.dtype)
        for cell, weight in zip(sources.T, weights.T, strict=True):
            share = torch.from_numpy(weight / judged.ONE)
            said = said + rows[:, :, np.maximum(cell, 0)] * share
        there = torch.from_numpy((sources >= 0).any(axis=1))
        taps.append(torch.where(there, said, -torch.inf))
    return torch.stack(taps, dim=2)


@pytest.mark.parametrize(("space", "size"), [s for s in SPACES if not s[0].flat], ids=str)
def test_pools_take_what_the_judge_reads(space: cg.HEALPix, size: tuple[int, int]) -> None:
    """A maximum over interpolated taps is the maximum of interpolated values; gradients too."""
    kernel = {
        "kernel_size": (3, 3), "stride": (2, 2), "padding": ((1, 1), (1, 1)), "dilation": (1, 1),
        "padding_mode": "zeros",
    }  # fmt: skip
    out = (size[0] // 2, size[1] // 2)
    x = integers(2, 2, *size, most=50).requires_grad_()
    graph = cg.PixelGraph.from_image(x, on=space)
    pooled = cg.nn.GraphMaxPool2d(3, 2, 1)(graph).to_image()
    truth = read(x, space, kernel, out).max(dim=2).values.view(2, 2, *out)
    assert torch.equal(pooled, truth)
    mean = cg.nn.GraphAvgPool2d(3, 2, 1)(graph).to_image()
    total = read(x, space, kernel, out)
    total = torch.where(total.isinf(), 0, total).sum(dim=2).view(2, 2, *out)
    if all(space.closed):  # every tap is there, or counts as torch counts what is padded
        assert torch.equal(mean * 9, total / 9 * 9)
    g = integers(2, 2, *out, seed=2)
    assert torch.equal(
        *(torch.autograd.grad(y, x, g, retain_graph=True)[0] * 2**16 for y in (pooled, truth))
    )


def test_of_a_maximum_between_pixels_the_share_that_is_absent_counts_as_0() -> None:
    """As the guide says; a tap of which every pixel is absent is none."""
    kernel = {
        "kernel_size": (3, 3), "stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1),
        "padding_mode": "zeros",
    }  # fmt: skip
    space, x = cg.Equirectangular(), integers(1, 2, 8, 16, most=50) - 60
    mask = torch.rand(8, 16, generator=torch.Generator().manual_seed(0)) < 0.4
    graph = cg.PixelGraph.from_image(x, mask[None], on=space)
    pooled = cg.nn.GraphMaxPool2d(3, 1, 1)(graph)
    x = torch.where(mask, x, 0)
    truth = read(x, space, kernel, (8, 16), mask).max(dim=2).values[0].T[mask.flatten()]
    assert torch.equal(pooled.x, truth)
    whole = cg.nn.GraphMaxPool2d(3, 1, 1)(cg.PixelGraph.from_image(x, on=space))
    assert not torch.equal(pooled.x, whole.x[mask.flatten()]), "a pixel of value 0 is there"


def test_a_maximum_between_pixels_has_no_index() -> None:
    """Where every tap is one pixel it has, in the array of its image."""
    x = integers(1, 2, 8, 16)
    sphere = cg.PixelGraph.from_image(x, on=cg.Equirectangular())
    with pytest.raises(cg.errors.UnsupportedError, match="may lie between pixels"):
        cg.nn.GraphMaxPool2d(3, 2, 1, return_indices=True)(sphere)
    torus = cg.PixelGraph.from_image(x, on=cg.Torus())
    pooled, where = cg.nn.GraphMaxPool2d(3, 2, 1, return_indices=True)(torus)
    assert torch.equal(x.flatten(2)[0].T.gather(0, where), pooled.x)


@pytest.mark.parametrize(("space", "size"), SPACES, ids=str)
def test_a_hole_takes_no_part_in_a_mean(space: Any, size: tuple[int, int]) -> None:
    """Between pixels too, where a tap hears a part of its sources."""
    mask = torch.rand(2, *size, generator=torch.Generator().manual_seed(0)) < 0.6
    image = torch.full((2, 1, *size), -1.0, dtype=torch.float64)
    graph = cg.PixelGraph.from_image(image, mask, on=space)
    mean = cg.nn.GraphAvgPool2d(3, 1, 1, count_include_pad=False)(graph)
    assert mean.x.unique().tolist() == [-1]


def test_a_hexagonal_mean_counts_the_hexagon() -> None:
    """Seven pixels inside; at the border what torch would count of a padded window."""
    graph = cg.PixelGraph.from_image(torch.ones(1, 1, 5, 5), on=cg.Hexagonal())
    mean = cg.nn.GraphAvgPool2d(3, 1, 1)(graph).to_image()[0, 0]
    assert mean[2, 2] == 1
    assert mean[0, 0] == torch.tensor(3.0) / 7
    assert cg.nn.GraphAvgPool2d(3, 1, 1, count_include_pad=False)(graph).x.unique().tolist() == [1]


@pytest.mark.parametrize(("space", "size"), SPACES, ids=str)
def test_what_only_moves_values_moves_them_or_refuses(space: object, size: tuple[int, int]) -> None:
    """Pixel shuffles stay within a chart; between pixels there is nothing to move."""
    size = (8, 8) if isinstance(space, cg.Hexagonal) else size
    x = integers(1, 4, *size)
    graph = cg.PixelGraph.from_image(x, on=space)  # type: ignore[arg-type]
    down, up = cg.nn.GraphPixelUnshuffle(2), cg.nn.GraphPixelShuffle(2)
    if space == cg.Equirectangular():
        with pytest.raises(cg.errors.UnsupportedError, match="a tap may read several pixels"):
            down(graph)
        return
    assert torch.equal(down(graph).to_image(), torch.nn.PixelUnshuffle(2)(x))
    assert torch.equal(up(graph).to_image(), torch.nn.PixelShuffle(2)(x))


@pytest.mark.parametrize(
    ("move", "space", "size", "fine"),
    [
        ("roll", cg.Torus(), (8, 8), True),
        ("flip", cg.Torus(), (8, 8), True),
        ("crop", cg.Torus(), (8, 8), False),
        ("roll", cg.HEALPix(), (48, 4), False),
        ("flip", cg.HEALPix(), (48, 4), False),
        ("roll", cg.Equirectangular(), (8, 16), False),
        ("flip", cg.Hexagonal(), (8, 8), False),
        ("cat", cg.Torus(rows=False), (8, 8), True),
        ("cat turned", cg.Torus(rows=False), (8, 8), False),
        ("cat turned", cg.Hexagonal(), (8, 8), False),
        ("cat of turned means", cg.Torus(), (8, 8), False),
        ("cat of turned means", cg.Hexagonal(), (8, 6), False),
        ("scan", cg.Torus(rows=False), (8, 8), True),
        ("scan", cg.Torus(columns=False), (8, 8), False),
        ("scan", cg.HEALPix(), (48, 4), False),
        ("scan", cg.Equirectangular(), (8, 16), True),
        ("scan columns", cg.Equirectangular(), (8, 16), False),
        ("scan", cg.Hexagonal(), (8, 8), True),
        ("fold", cg.Torus(rows=False), (8, 8), True),
        ("fold", cg.Torus(columns=False), (8, 8), False),
        ("fold", cg.Equirectangular("wrap"), (8, 16), False),
        ("fold", cg.HEALPix(), (48, 4), False),
        ("fold", cg.Hexagonal(), (8, 8), False),
        *(
            (move, space, size, False)
            for move in ("sample", "antialias")
            for space, size in SPACES
            if size != (7, 9)
        ),
        *((move, cg.Hexagonal(), (8, 8), False) for move in ("sample", "antialias")),
    ],
)
def test_a_network_asks_the_space_before_it_moves_values(
    move: str, space: object, size: tuple[int, int], fine: bool
) -> None:
    """Rows of twelve stacked faces are no circle: a roll would mix faces silently."""
    moves: dict[str, Any] = {
        "roll": lambda x: x.roll(1, 2),
        "flip": lambda x: x.flip(2),
        "crop": lambda x: x[:, :, 1:],
        "cat": lambda x: torch.cat([x, 2 * x], 2),
        "cat turned": lambda x: torch.cat([x, x.transpose(2, 3)], 2),
        "cat of turned means": lambda x: torch.cat(
            [x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)], 2
        ),
        "scan": lambda x: x.cumsum(2),
        "scan columns": lambda x: x.cummax(3).values,
        "fold": lambda x: F.pad(x, (0, 0, 1, 1), mode="reflect"),
        "sample": lambda x: F.grid_sample(x, x.new_zeros(2, 3, 4, 2), align_corners=False),
        "antialias": lambda x: F.interpolate(
            x, scale_factor=0.5, mode="bilinear", antialias=True
        ),
    }  # fmt: skip

    class Moves(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return moves[move](x)

    x = integers(2, 3, *size)
    graph = cg.PixelGraph.from_image(x, on=space)  # type: ignore[arg-type]
    if fine:
        assert torch.equal(cg.to_graph(Moves())(graph).to_image(), Moves()(x))
    else:
        with pytest.raises(cg.errors.ConversionError, match="has no meaning on") as refused:
            cg.to_graph(Moves())(graph)
        if (move, space) == ("scan", cg.Torus(columns=False)):
            assert "no position on it is the first" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "fine"),
    [
        ("the mean of columns", False),
        ("a maximum of columns", False),
        ("a softmax of columns", False),
        ("a norm of columns", False),
        ("attention along columns", False),
        ("windows of two faces", False),
        ("cells of two faces", False),
        ("the mean over faces", False),
        ("the mean of each face", True),
        ("a softmax in each face", True),
        ("the mean of rows", True),
        ("the mean of the map", True),
        ("attention in each face", True),
        ("windows", True),
        ("cells", True),
    ],
)
def test_faces_that_are_no_neighbours_are_not_mixed(name: str, fine: bool) -> None:
    """Along twelve stacked faces nothing is made one; within each, or of all of them, it is."""
    attend = F.scaled_dot_product_attention

    def windows(x: Tensor, tall: int) -> Tensor:
        cut = x.unflatten(2, (-1, tall)).unflatten(4, (-1, 3)).permute(0, 2, 4, 3, 5, 1)
        tokens = cut.reshape(-1, tall * 3, 2)
        made = attend(tokens, tokens, tokens).view(cut.shape).permute(0, 5, 1, 3, 2, 4)
        return made.reshape(x.shape)

    def cells(x: Tensor, tall: int) -> Tensor:
        cut = x.unflatten(2, (-1, tall)).unflatten(4, (-1, 3)).permute(0, 1, 3, 5, 2, 4)
        return cut.flatten(1, 3).relu()

    calls: dict[str, Any] = {
        "the mean of columns": lambda x: x - x.mean(2, keepdim=True),
        "a maximum of columns": lambda x: x.max(2).values,
        "a softmax of columns": lambda x: x.softmax(2),
        "a norm of columns": lambda x: x.norm(dim=2),
        "attention along columns": lambda x: attend(*[x.permute(0, 3, 2, 1)] * 3),
        "windows of two faces": lambda x: windows(x, 4),
        "cells of two faces": lambda x: cells(x, 4),
        "the mean over faces": lambda x: x.unflatten(2, (12, 6)).mean(2),
        "the mean of each face": lambda x: x.unflatten(2, (12, 6)).mean((3, 4)),
        "a softmax in each face": lambda x: x.unflatten(2, (12, 6)).softmax(3).flatten(2, 3),
        "the mean of rows": lambda x: x - x.mean(3, keepdim=True),
        "the mean of the map": lambda x: x - x.mean((2, 3), keepdim=True),
        "attention in each face": lambda x: attend(
            *[x.unflatten(2, (12, 6)).permute(0, 2, 4, 3, 1)] * 3
        ),
        "windows": lambda x: windows(x, 3),
        "cells": lambda x: cells(x, 3),
    }  # fmt: skip

    class Made(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return calls[name](x)

    x = integers(2, 2, 72, 6)
    graph = cg.PixelGraph.from_image(x, on=cg.HEALPix())
    if not fine:
        with pytest.raises(cg.errors.ConversionError, match="mixes faces that are no neighbours"):
            cg.to_graph(Made())(graph)
        return
    found, truth = cg.to_graph(Made())(graph), Made()(x)
    found = found.to_image() if isinstance(found, cg.PixelGraph) else found
    assert found.shape == truth.shape
    if not any(word in name for word in ("softmax", "attention", "windows")):  # sums of integers
        assert torch.equal(found, truth)
