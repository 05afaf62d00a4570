"""Graphs on the same nodes: sums, concatenations, masks of NumPy, maps of any dtype."""

import numpy as np
import pytest
import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

import convgraph as cg
from convgraph.errors import GraphError
from tests.cases import holes, integer_weights, integers

SIZE = (5, 6)


def test_graphs_of_the_same_nodes_are_added_and_put_side_by_side() -> None:
    mask, image = holes(2, SIZE), integers(2, 3, *SIZE)
    one = cg.PixelGraph.from_image(image, mask)
    two = cg.PixelGraph.from_image(2 * image, mask.clone())
    assert torch.equal((one + two).x, 3 * one.x)
    assert (one + two).sites is one.sites
    assert torch.equal(cg.cat([one, two]).x, torch.cat([one.x, two.x], 1))
    other = cg.PixelGraph.from_image(image, mask.flip(0))
    for call in (lambda: one + other, lambda: cg.cat([one, other])):
        with pytest.raises(GraphError, match="expected graphs on the same nodes"):
            call()
    with pytest.raises(GraphError, match="expected a list of graphs"):
        cg.cat([])
    with pytest.raises(TypeError):
        one + 1


def test_as_many_nodes_elsewhere_are_refused() -> None:
    first = torch.zeros(1, 4, 4, dtype=torch.bool)
    last = first.clone()
    first[:, 0], last[:, 3] = True, True
    image = torch.rand(1, 1, 4, 4)
    with pytest.raises(GraphError, match="union of both"):
        cg.PixelGraph.from_image(image, first) + cg.PixelGraph.from_image(image, last)


def test_a_mask_may_be_an_array() -> None:
    mask, image = holes(2, SIZE), integers(2, 3, *SIZE)
    made = cg.PixelGraph.from_image(image, mask.numpy())
    assert torch.equal(made.mask, mask)
    turned = cg.PixelGraph.from_image(image, mask.numpy()[:, ::-1])  # a view that runs backwards
    assert torch.equal(turned.mask, mask.flip(1))
    several = cg.PixelGraph.from_image([image[0], image[1, :, :3]], [mask[0].numpy(), None])
    assert several.num_nodes == int(mask[0].sum()) + 18
    with pytest.raises(Exception, match=r"dtype torch\.bool"):
        cg.PixelGraph.from_image(image, np.ones((2, *SIZE)))


def test_every_site_that_hears_something_at_stride_1() -> None:
    """A generalised convolution: the mask grows as the filters reach, as max pooling it does."""
    mask = torch.zeros(2, *SIZE, dtype=torch.bool)
    mask[0, 2, 2] = mask[1, 0, 5] = True
    conv = integer_weights(nn.Conv2d(3, 2, 3, padding=1))
    graph = cg.PixelGraph.from_image(integers(2, 3, *SIZE), mask)
    out = cg.nn.GraphConv2d.from_dense(conv)(graph, sites="reached")
    grown = nn.functional.max_pool2d(mask.double()[:, None], 3, 1, 1) > 0
    assert torch.equal(out.mask, grown[:, 0])
    assert torch.equal(out.to_image(), torch.where(grown, conv(graph.to_image()), 0.0))
    with pytest.raises(GraphError, match="'reached' or 'network'"):
        cg.nn.GraphConv2d.from_dense(conv)(graph, sites="other")


def test_maps_of_any_dtype_travel_on_the_same_nodes() -> None:
    """Labels, ids and weights of images of several sizes, through PyG's loader."""
    made, wanted = [], []
    for size in ((4, 5), (6, 3)):
        mask = holes(1, size)[0]
        label, ids = torch.randint(0, 9, size), torch.randint(0, 2**40, size)
        weight = integers(2, *size)
        data = Data(image=integers(3, *size), mask=mask, label=label, ids=ids, weight=weight)
        made.append(cg.ToPixelGraph(fields=("label", "ids", "weight"))(data))
        wanted.append((label[mask], ids[mask], weight[:, mask].t()))
    (batch,) = DataLoader(made, batch_size=2)
    for name, parts in zip(("label", "ids", "weight"), zip(*wanted, strict=True), strict=True):
        assert torch.equal(batch[name], torch.cat(parts))
        assert batch[name].dtype == parts[0].dtype
        assert len(batch[name]) == batch.num_nodes
    with pytest.raises(GraphError, match="expected field 'label' of shape"):
        cg.ToPixelGraph(fields=("label",))(Data(image=torch.ones(3, 4, 4), label=torch.ones(2)))
    for fields in (3, "label", [1]):
        with pytest.raises(cg.errors.GraphError, match="fields as names in a tuple, got"):
            cg.ToPixelGraph(fields=fields)


def test_arrays_travel_as_tensors_do() -> None:
    mask, image, label = holes(1, SIZE)[0], integers(3, *SIZE), torch.arange(30).view(SIZE)
    to = cg.ToPixelGraph(fields=("label",))
    true = to(Data(image=image, mask=mask, label=label))
    made = to(Data(image=image.numpy()[:, ::-1], mask=mask.numpy()[::-1], label=label.numpy()))
    assert torch.equal(made.label, label[mask.flip(0)])
    assert torch.equal(made.x, image.flip(1)[:, mask.flip(0)].t())
    assert true.x.dtype == made.x.dtype


def test_a_mask_of_every_channel_is_told_what_to_take() -> None:
    image = integers(2, 3, *SIZE)
    with pytest.raises(GraphError, match=r"a node has all channels: mask\.all\(1\)"):
        cg.PixelGraph.from_image(image, image > 0)


class Given(torch.utils.data.Dataset[object]):
    def __init__(self, as_tensor: bool) -> None:
        self.as_tensor = as_tensor

    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> object:
        mask = torch.zeros(1, 4, 3 if self.as_tensor else 3 + number, dtype=torch.bool)
        mask[:, number] = True
        made = cg.PixelGraph.from_image(torch.full((1, 2, *mask.shape[1:]), number * 1.0), mask)
        return (made.tensor() if self.as_tensor else made), number


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_loader_of_torch_makes_batches(as_tensor: bool, workers: int) -> None:
    loader = torch.utils.data.DataLoader(Given(as_tensor), batch_size=2, num_workers=workers)
    for (batch, numbers), first in zip(loader, (0, 2), strict=True):
        assert numbers.tolist() == [first, first + 1]
        if as_tensor:
            assert batch.shape == (2, 1, 2, 4, 3)
            assert batch.to_dense().sum() == 2 * 3 * (2 * first + 1)
        else:
            assert batch.batch_size == 2
            assert batch.x.sum() == 2 * ((first + 3) * first + (first + 4) * (first + 1))
