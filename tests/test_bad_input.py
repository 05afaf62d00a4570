"""Bad input: its own error, with who, what was expected, what came, and the way out."""

from typing import Any

import pytest
import torch

import convgraph as cg

E = cg.errors
CONV = cg.nn.GraphConv2d


def image(*shape: int) -> cg.PixelGraph:
    return cg.PixelGraph.from_image(torch.rand(shape))


BUILT: dict[str, tuple[type[Exception], str, Any]] = {
    "a negative stride": (E.GeometryError, "stride: expected at least 1, got -1",
                          lambda: CONV(1, 1, 3, stride=-1)),
    "a stride of zero": (E.GeometryError, "stride: expected at least 1, got 0",
                         lambda: CONV(1, 1, 3, stride=0)),
    "a float kernel": (E.GeometryError, "kernel_size: expected an integer, got 3.0",
                       lambda: CONV(1, 1, 3.0)),
    "a bool as a number": (E.GeometryError, "kernel_size: expected an integer, got True",
                           lambda: CONV(1, 1, True)),
    "a negative padding": (E.GeometryError, "padding: expected at least 0, got -1",
                           lambda: CONV(1, 1, 3, padding=-1)),
    "a string that is no padding": (E.GeometryError, "expected padding 'same', 'valid'",
                                    lambda: CONV(1, 1, 3, padding="full")),
    "same with a stride": (E.GeometryError, "padding='same' needs stride 1",
                           lambda: CONV(1, 1, 3, stride=2, padding="same")),
    "a kernel of three axes": (E.GeometryError, "same number of axes",
                               lambda: CONV(1, 1, (3, 3, 3))),
    "an unknown padding mode": (E.GeometryError, "expected padding_mode in",
                                lambda: CONV(1, 1, 3, padding_mode="mirror")),
    "groups that do not divide": (E.GeometryError, "groups=2 must divide in_channels=3",
                                  lambda: CONV(3, 4, 3, groups=2)),
    "no channels": (E.GeometryError, "in_channels: expected at least 1, got 0",
                    lambda: CONV(0, 1, 3)),
    "an output padding too large": (
        E.GeometryError, "must be smaller than",
        lambda: cg.nn.GraphConvTranspose2d(1, 1, 3, stride=2, output_padding=2)),
    "a transposed reflect": (
        E.GeometryError, "takes padding_mode='zeros' only",
        lambda: cg.nn.GraphConvTranspose2d(1, 1, 3, padding_mode="reflect")),
    "integer features": (
        E.DtypeError, "x has dtype torch.uint8 but weight has torch.float32",
        lambda: cg.nn.GraphConv2d(1, 1, 3)(
            cg.PixelGraph.from_image(torch.zeros(1, 4, 4, dtype=torch.uint8)))),
    "an image of too many axes": (E.GraphError, "for signals pass d=1, for volumes d=3",
                                  lambda: image(1, 1, 1, 4, 4)),
    "a mask of another size": (E.GraphError, r"expected a mask of shape.*got \(5, 5\)",
                               lambda: cg.PixelGraph.from_image(
                                   torch.rand(1, 4, 4), torch.ones(5, 5, dtype=torch.bool))),
    "a mask of numbers": (E.DtypeError, "never inferred from zeros",
                          lambda: cg.PixelGraph.from_image(torch.rand(1, 4, 4), torch.ones(4, 4))),
    "a mask on another device": (E.DeviceError, "image on cpu, mask on meta",
                                 lambda: cg.PixelGraph.from_image(
                                     torch.rand(1, 4, 4),
                                     torch.ones(4, 4, dtype=torch.bool, device="meta"))),
    "an empty list of images": (E.GraphError, "at least one image",
                                lambda: cg.PixelGraph.from_image([])),
    "images of several dtypes": (E.DtypeError, "float32 and torch.float64",
                                 lambda: cg.PixelGraph.from_image(
                                     [torch.rand(1, 2, 2), torch.rand(1, 2, 2).double()])),
    "images of several channels": (E.ShapeError, "expected 1 channels in every image, got 2",
                                   lambda: cg.PixelGraph.from_image(
                                       [torch.rand(1, 2, 2), torch.rand(2, 2, 2)])),
    "features of another count": (E.ShapeError, r"with N = 16 nodes, got \(15, 1\)",
                                  lambda: image(1, 4, 4).with_x(torch.rand(15, 1))),
}  # fmt: skip


@pytest.mark.parametrize("name", BUILT)
def test_what_cannot_be_built(name: str) -> None:
    kind, text, build = BUILT[name]
    with pytest.raises(kind, match=text) as seen:
        build()
    assert isinstance(seen.value, E.ConvgraphError)


CALLED: dict[str, tuple[type[Exception], str, Any]] = {
    "wrong channels": (
        E.ShapeError,
        r"GraphConv2d\(8, 16, kernel_size=\(3, 3\)\): expected x of shape \(N, in_channels\) = "
        r"\(16, 8\), got \(16, 3\); build the layer with in_channels=3 or check the preceding one",
        lambda: CONV(8, 16, 3)(image(3, 4, 4))),
    "an image instead of a graph": (E.GraphError, r"PixelGraph.from_image\(image\)",
                                    lambda: CONV(1, 1, 3)(torch.rand(1, 1, 4, 4))),
    "edges beside a graph": (E.GraphError, "brings its own edges",
                             lambda: CONV(1, 1, 3)(image(1, 4, 4), torch.zeros(2, 1).long())),
    "a graph of another dimension": (E.GraphError, "expected a graph of 1 dimensions, got one of 2",
                                     lambda: cg.nn.GraphConv1d(1, 1, 3)(image(1, 4, 4))),
    "a kernel larger than the padded image": (
        E.GeometryError, "reaches over 7 pixels, more than the padded size 6",
        lambda: CONV(1, 1, 7, padding=1)(image(1, 4, 4))),
    "reflect padding too wide": (
        E.GeometryError, r"reflect padding \(4, 4\) must be smaller than the size 4",
        lambda: CONV(1, 1, 3, padding=4, padding_mode="reflect")(image(1, 4, 4))),
    "circular padding too wide": (
        E.GeometryError, "wrap around more than once",
        lambda: CONV(1, 1, 3, padding=5, padding_mode="circular")(image(1, 4, 4))),
    "a transposed kernel that leaves nothing": (
        E.GeometryError, "leaves -1 output sites",
        lambda: cg.nn.GraphConvTranspose2d(1, 1, 1, padding=1)(image(1, 1, 1))),
    "another dtype": (E.DtypeError, "x has dtype torch.float64 but weight has torch.float32",
                      lambda: CONV(1, 1, 3)(image(1, 4, 4).to(torch.float64))),
    "another device": (E.DeviceError, "x on cpu but weight on meta",
                       lambda: CONV(1, 1, 3, device="meta")(image(1, 4, 4))),
    "features of the wrong rank": (
        E.ShapeError, r"expected x of shape \(N, C\) or \(B, N, C\), got \(1, 1, 4, 4\)",
        lambda: CONV(1, 1, 1)(torch.rand(1, 1, 4, 4), torch.zeros(2, 1).long())),
    "floating edges": (E.DtypeError, "expected edge_index of an integer dtype, got torch.float32",
                       lambda: CONV(1, 1, 1)(torch.rand(4, 1), torch.zeros(2, 1))),
    "edges of the wrong shape": (
        E.ShapeError, r"expected edge_index of shape \(2, E\), got \(3, 1\)",
        lambda: CONV(1, 1, 1)(torch.rand(4, 1), torch.zeros(3, 1).long())),
    "types of the wrong length": (
        E.ShapeError, r"expected edge_type of shape \(E,\) = \(1,\), got \(2,\)",
        lambda: CONV(1, 1, 3)(torch.rand(4, 1), torch.zeros(2, 1).long(), torch.zeros(2).long())),
    "sites of another size": (
        E.GraphError, "expected sites of shape",
        lambda: CONV(1, 1, 3)(image(1, 4, 4), sites=torch.ones(1, 4, 4, dtype=torch.bool))),
    "images of several sizes as one tensor": (
        E.GraphError, "use to_images",
        lambda: cg.PixelGraph.from_image([torch.rand(1, 2, 2), torch.rand(1, 3, 3)]).to_image()),
    "a graph without sizes": (
        E.GraphError, "has no 'image_size'",
        lambda: cg.PixelGraph.from_data(_without_size())),
    "uneven padding in a dense layer": (
        E.ConversionError, "one padding an axis",
        lambda: CONV(1, 1, 3, padding=((1, 0), (0, 0))).to_dense()),
    "a twin of another kind": (
        E.ConversionError, r"expected a torch\.nn\.Conv2d, got Conv1d",
        lambda: CONV.from_dense(torch.nn.Conv1d(1, 1, 3))),
    "a list of edges": (
        E.GraphError, r"expected edge_index as a tensor, got list; pass one of shape \(2, E\)",
        lambda: CONV(1, 1, 1)(torch.rand(4, 1), [[0], [1]])),
    "a list of types": (
        E.GraphError, "expected edge_type as a tensor, got list",
        lambda: CONV(1, 1, 3)(torch.rand(4, 1), torch.zeros(2, 1).long(), [0])),
    "a list of weights": (
        E.GraphError, "expected edge_weight as a tensor, got list",
        lambda: CONV(1, 1, 1)(torch.rand(4, 1), torch.zeros(2, 1).long(), None, [1.0])),
    "weights on another device": (
        E.DeviceError, "x on cpu but edge_weight on meta",
        lambda: CONV(1, 1, 1)(torch.rand(4, 1), torch.zeros(2, 1).long(), None,
                              torch.ones(1, device="meta"))),
    "three node sets": (
        E.GraphError, r"expected a pair \(x_src, x_dst\), got 3 entries",
        lambda: CONV(1, 1, 1)((torch.rand(4, 1),) * 3, torch.zeros(2, 1).long())),
    "features that are no tensor": (
        E.GraphError, "expected x as a tensor, got str",
        lambda: CONV(1, 1, 1)("x", torch.zeros(2, 1).long())),
    "receiving features that are no tensor": (
        E.GraphError, "expected x_dst as a tensor, got int",
        lambda: CONV(1, 1, 1)((torch.rand(4, 1), 4), torch.zeros(2, 1).long())),
    "features of one axis": (
        E.ShapeError, r"expected x of shape \(N, C\) or \(B, N, C\), got \(4,\)",
        lambda: CONV(1, 1, 1)(torch.rand(4), torch.zeros(2, 1).long())),
    "a convolution that rounds up": (
        E.UnsupportedError, "ceil_mode=True is for pools",
        lambda: cg.functional.graph_conv(
            image(1, 4, 4), torch.rand(1, 1, 2, 2),
            geometry=cg.KernelGeometry(2, stride=2, ceil_mode=True))),
    "a weight of too few axes": (
        E.ShapeError, r"expected a weight of 4 axes \(two of channels.*got \(1, 2, 2\)",
        lambda: cg.functional.graph_conv(
            image(1, 4, 4), torch.rand(1, 2, 2), geometry=cg.KernelGeometry(2))),
    "no groups": (
        E.GeometryError, "groups: expected at least 1, got 0",
        lambda: cg.functional.graph_conv(
            image(1, 4, 4), torch.rand(1, 1, 2, 2), geometry=cg.KernelGeometry(2), groups=0)),
    "a kernel that is no geometry": (
        E.GeometryError, "connect: expected a KernelGeometry or another relation, got int",
        lambda: cg.connect(3, image(1, 4, 4))),
    "a proof on a size of one axis": (
        E.ProofError, "expected a size of 2 axes for Conv2d",
        lambda: _prove(size=(4,))),
    "a proof on a size that is no integer": (
        E.GraphError, "4.5", lambda: _prove(size=(4.5, 4))),
    "a proof of one image": (
        E.GeometryError, "prove: batch: expected at least 2, got 1", lambda: _prove(batch=1)),
    "a proof with a mask that is no tensor": (
        E.ProofError, "expected mask as a tensor, got str", lambda: _prove(mask="all")),
    "a proof with sites of numbers": (
        E.ProofError, "expected sites of dtype bool and shape",
        lambda: _prove(sites=torch.ones(2, 4, 4))),
    "a child that is a number": (
        E.GraphError, "expected child '0' as a torch.nn.Module, got int",
        lambda: cg.nn.Sequential(3)),
    "a sum with a layer": (
        E.GraphError, "expected another Sequential behind \\+, got ReLU",
        lambda: cg.nn.Sequential() + torch.nn.ReLU()),
    "a backend that is a list": (
        E.BackendError, "no backend is called list", lambda: CONV(1, 1, 1, backend=["gather"])),
    "an unpool without indices": (
        E.GraphError, "GraphMaxUnpool2d: expected indices as a tensor, got NoneType",
        lambda: cg.nn.GraphMaxUnpool2d(2)(image(1, 4, 4), None)),
    "an unpool of an image": (
        E.GraphError, "GraphMaxUnpool2d: expected a PixelGraph, got Tensor",
        lambda: cg.nn.GraphMaxUnpool2d(2)(torch.ones(1, 1, 4, 4), torch.zeros(16, 1).long())),
    "an unpool by fractions": (
        E.DtypeError, "expected indices of int64, got torch.float32",
        lambda: cg.nn.GraphMaxUnpool2d(2)(image(1, 4, 4), torch.zeros(16, 1))),
    "an unpool to no size": (
        E.GeometryError, "expected output_size of 2 ints, got 8",
        lambda: cg.nn.GraphMaxUnpool2d(2)(image(1, 4, 4), torch.zeros(16, 1).long(), 8)),
    "a power average of an image": (
        E.GraphError, "GraphLPPool2d: expected a PixelGraph, got Tensor",
        lambda: cg.nn.GraphLPPool2d(2, 2)(torch.ones(1, 1, 4, 4))),
    "a power of 0": (
        E.GeometryError, "expected norm_type as a number but 0, got 0",
        lambda: cg.nn.GraphLPPool2d(0, 2)(image(1, 4, 4))),
    "a power in words": (
        E.GeometryError, "expected norm_type as a number but 0, got 2",
        lambda: cg.nn.GraphLPPool2d("2", 2)(image(1, 4, 4))),
    "one number of nodes for two sides": (
        E.GraphError, r"expected size=\(sources, targets\)",
        lambda: CONV(1, 1, 1)(torch.ones(2, 1), torch.zeros(2, 1).long(), None, None, 5)),
    "an axis that is none": (
        E.GeometryError, "expected an axis of 0 to 1, got 2",
        lambda: cg.KernelGeometry(3).axis_sources(2, 4)),
    "a lazy twin": (
        E.ConversionError, "has no weight yet",
        lambda: CONV.from_dense(torch.nn.LazyConv2d(1, 3))),
}  # fmt: skip


def _prove(**how: Any) -> Any:
    conv = torch.nn.Conv2d(1, 1, 3, padding=1)
    return cg.prove(CONV.from_dense(conv), conv, **{"size": (4, 4), **how})


def _without_size() -> Any:
    data = image(1, 4, 4).to_data()
    del data.image_size
    return data


@pytest.mark.parametrize("name", CALLED)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_what_cannot_be_called(name: str) -> None:
    kind, text, call = CALLED[name]
    with pytest.raises(kind, match=text) as seen:
        call()
    assert isinstance(seen.value, E.ConvgraphError)


@pytest.mark.parametrize("backend", ["gather", "messages", None])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_graph_without_nodes_gives_an_empty_output(backend: str | None, stride: int) -> None:
    layer = CONV(3, 5, 3, stride=stride, padding=1, backend=backend)
    nobody = torch.zeros(2, 6, 6, dtype=torch.bool)
    pixels = torch.rand(2, 3, 6, 6, requires_grad=True)
    out = layer(cg.PixelGraph.from_image(pixels, nobody))
    assert out.x.shape == (0, 5)
    assert out.to_image().shape == (2, 5, 6 // stride, 6 // stride)
    out.x.sum().backward()
    assert pixels.grad is not None
    assert not pixels.grad.any()
    assert layer.weight.grad is not None
    assert not layer.weight.grad.any()


@pytest.mark.parametrize("backend", ["dense", "gather", "messages"])
def test_an_empty_batch_gives_an_empty_batch(backend: str) -> None:
    layer = CONV(3, 5, 3, stride=2, padding=1, backend=backend)
    out = layer(cg.PixelGraph.from_image(torch.rand(0, 3, 6, 6)))
    assert out.to_image().shape == (0, 5, 3, 3)
    out.x.sum().backward()


def test_what_is_kept_with_the_sites_hides_no_error() -> None:
    graph = image(1, 5, 5)
    assert cg.functional.graph_unfold(graph, 3).num_channels == 9
    for wrong in (3.0, True):
        with pytest.raises(E.GeometryError, match="kernel_size"):
            cg.functional.graph_unfold(graph, wrong)
