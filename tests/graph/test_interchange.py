"""Data that hold several images each, through PyG's DataLoader and back; what cannot come back."""

from typing import Any

import pytest
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

import convgraph as cg
from tests.cases import holes, integers

KINDS = ("full", "masked", "ragged", "an image without nodes")


def several(kind: str, seed: int) -> cg.PixelGraph:
    """A graph of two images."""
    torch.manual_seed(seed)
    image = integers(2, 3, 4, 5)
    if kind == "ragged":
        return cg.PixelGraph.from_image([image[0], image[1, :, :2]], [holes(1, (4, 5))[0], None])
    if kind == "full":
        return cg.PixelGraph.from_image(image)
    mask = holes(2, (4, 5))
    if kind == "an image without nodes":
        mask[0] = False
    return cg.PixelGraph.from_image(image, mask)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loader_batches_data_of_several_images(kind: str) -> None:
    graphs = [several(kind, seed) for seed in range(3)]
    box = cg.KernelGeometry(3, padding=1)
    (batch,) = DataLoader([graph.to_data(box) for graph in graphs], batch_size=3)
    found, truth = cg.PixelGraph.from_data(batch), cg.PixelGraph.concat(graphs)
    assert torch.equal(found.x, truth.x)
    assert found.sites.sizes == truth.sites.sizes
    assert torch.equal(found.batch, truth.batch)
    assert torch.equal(found.pos, truth.pos)
    edges = cg.connect(box, truth)
    expected = zip(*edges.edge_index.tolist(), edges.edge_type.tolist(), strict=True)
    loaded = zip(*batch.edge_index.tolist(), batch.edge_type.tolist(), strict=True)
    assert sorted(loaded) == sorted(expected)


def test_one_image_and_several_in_one_batch() -> None:
    graphs = [several("masked", 0), cg.PixelGraph.from_image(integers(3, 2, 2))]
    for order in (graphs, graphs[::-1]):
        found = cg.PixelGraph.from_data(Batch.from_data_list([g.to_data() for g in order]))
        assert torch.equal(found.x, torch.cat([g.x for g in order]))
        assert torch.equal(found.batch, cg.PixelGraph.concat(order).batch)


def test_an_image_without_nodes_in_a_batch() -> None:
    """PyG asks for the largest number of an image, and here there is none."""
    empty = cg.PixelGraph.from_image(integers(3, 2, 2), mask=torch.zeros(2, 2, dtype=torch.bool))
    graphs = [several("masked", 0), empty, cg.PixelGraph.from_image(integers(3, 2, 2))]
    for order in (graphs, graphs[::-1], [empty, *graphs], [empty, empty]):
        batch = Batch.from_data_list([g.to_data() for g in order])
        found, truth = cg.PixelGraph.from_data(batch), cg.PixelGraph.concat(order)
        assert found.sites.sizes == truth.sites.sizes
        assert torch.equal(found.batch, truth.batch)
        assert torch.equal(found.x, truth.x)
        assert [len(one.x) for one in batch.to_data_list()] == [len(g.x) for g in order]


def test_images_of_several_spaces_in_one_batch_are_refused() -> None:
    """Whichever comes first: a loader keeps only what the first Data has."""
    flat = cg.PixelGraph.from_image(integers(1, 2, 12, 1))
    sphere = cg.PixelGraph.from_image(integers(1, 2, 12, 1), on=cg.HEALPix())
    for order in ([flat, sphere], [sphere, flat]):
        batch = Batch.from_data_list([g.to_data() for g in order])
        with pytest.raises(cg.errors.GraphError, match=r"one space, got HEALPix\(.*\), plane;"):
            cg.PixelGraph.from_data(batch)
    for graph in (flat, sphere):
        batch = Batch.from_data_list([graph.to_data()] * 2)
        assert cg.PixelGraph.from_data(batch).sites.space == graph.sites.space


def loaded(**fields: Any) -> Data:
    """Two Data of two images each, as a loader puts them together, with other fields."""
    made = Batch.from_data_list([several("masked", seed).to_data() for seed in range(2)])
    for name, value in fields.items():
        made[name] = value
    return made


def test_what_does_not_say_which_image_is_refused() -> None:
    counts = loaded().image_nodes
    for wrong in (None, counts[:-1], counts + 1):
        with pytest.raises(
            cg.errors.GraphError,
            match=r"2 Data with 4 images in all.*to_data_list\(\)\), or keep the nodes",
        ):
            cg.PixelGraph.from_data(loaded(image_nodes=wrong))


def test_data_without_images_or_of_other_shapes_is_refused() -> None:
    good = cg.PixelGraph.from_image(integers(1, 3, 4, 5)).to_data()
    refused: dict[str, dict[str, Any]] = {
        "a Data without images does not say how large": {
            "image_size": torch.empty(0, 2, dtype=torch.int64), "x": good.x[:0],
            "pos": good.pos[:0], "batch": None,
        },
        r"expected x \(N, C\), pos \(N, d\) and image_size \(B, d\)": {
            "image_size": torch.tensor(4)
        },
        r"expected batch \(20,\) in \[0, 1\), the images of image_size": {
            "batch": torch.zeros(19, dtype=torch.int64)
        },
    }  # fmt: skip
    for text, fields in refused.items():
        data = good.clone()
        for name, value in fields.items():
            data[name] = value
        with pytest.raises(cg.errors.GraphError, match=text):
            cg.PixelGraph.from_data(data)
    data = good.clone()
    data.image_size = [4, 5]  # a plain list says it as well
    assert cg.PixelGraph.from_data(data).sites.size == (4, 5)
