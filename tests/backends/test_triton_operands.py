"""Malformed operands reach no kernel of Triton's, whoever calls it; no device is asked."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import convgraph as cg
from convgraph.backends.fused import triton_operands, triton_tables


def operands() -> dict[str, Any]:
    mask = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0)) < 0.7
    graph = cg.PixelGraph.from_image(torch.ones(2, 3, 5, 4), mask)
    edges = cg.connect(cg.KernelGeometry(3, padding=1), graph)
    side = triton_tables.neighbours(edges).there
    lists = {name: one.clone() for name, one in side._asdict().items()}
    return {"x": graph.x, "taps": torch.rand(9, 1, 3, 2), "bias": torch.rand(2), **lists}


def entry(value: int, at: int = 0) -> Callable[[Tensor], Tensor]:
    def spoil(t: Tensor) -> Tensor:
        t.view(-1)[at] = value
        return t

    return spoil


SPOILT: dict[str, tuple[str, Callable[[Tensor], Any], type[Exception]]] = {
    "a row beyond x": ("table", entry(10**6), cg.errors.EdgeError),
    "a row below none": ("table", entry(-2), cg.errors.EdgeError),
    "a site beyond": ("order", entry(10**6), cg.errors.EdgeError),
    "a site twice": ("order", lambda t: t[:1].repeat(len(t)), cg.errors.EdgeError),
    "a tap beyond": ("kind", entry(9), cg.errors.EdgeError),
    "a tap below": ("kind", entry(-1), cg.errors.EdgeError),
    "a table turned round": ("table", lambda t: t.t().contiguous().t(), cg.errors.ShapeError),
    "a shorter table": ("table", lambda t: t[:, :-1].contiguous(), cg.errors.ShapeError),
    "a flat table": ("table", lambda t: t.flatten(), cg.errors.ShapeError),
    "a wide order": ("order", lambda t: t.unsqueeze(0), cg.errors.ShapeError),
    "long entries": ("table", lambda t: t.long(), cg.errors.DtypeError),
    "a list on meta": ("order", lambda t: t.to("meta"), cg.errors.DeviceError),
    "taps on meta": ("taps", lambda t: t.to("meta"), cg.errors.DeviceError),
    "taps of doubles": ("taps", lambda t: t.double(), cg.errors.DtypeError),
    "flat taps": ("taps", lambda t: t.flatten(), cg.errors.ShapeError),
    "x of other channels": ("x", lambda t: t[:, :2], cg.errors.ShapeError),
    "a longer bias": ("bias", lambda t: t.repeat(2), cg.errors.ShapeError),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_does_not_fit_is_refused(name: str) -> None:
    which, spoil, error = SPOILT[name]
    given = operands()
    triton_operands.check_send(**given)
    given[which] = spoil(given[which])
    with pytest.raises(error, match="convgraph::send"):
        triton_operands.check_send(**given)


def test_entries_are_read_once_and_again_when_somebody_wrote_to_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given, asked, plain = operands(), [], torch.bincount

    def counted(*arguments: Any, **options: Any) -> Tensor:
        asked.append(arguments)
        return plain(*arguments, **options)

    monkeypatch.setattr(torch, "bincount", counted)
    for _ in range(3):
        triton_operands.check_send(**given)
    assert len(asked) == 1
    given["table"][0, 0] = 10**6
    with pytest.raises(cg.errors.EdgeError, match="every entry of table"):
        triton_operands.check_send(**given)


def test_correlate_too() -> None:
    given = operands()
    lists = [given[name] for name in ("table", "order", "kind")]
    g = torch.rand(len(given["order"]), 2)
    triton_operands.check_correlate(given["x"], g, *lists, 1)
    for wrong in (g[:-1], g.double(), g.flatten()):
        with pytest.raises(cg.errors.ConvgraphError, match="convgraph::correlate"):
            triton_operands.check_correlate(given["x"], wrong, *lists, 1)
    for groups in (0, -1, 2):
        with pytest.raises(cg.errors.ShapeError, match="groups"):
            triton_operands.check_correlate(given["x"], g, *lists, groups)
