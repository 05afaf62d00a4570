"""Norms on full grids, where they are torch's own, and what every norm layer promises besides."""

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

import convgraph as cg
from tests.convert.zoo.snap import snap
from tests.nn.norms import LAYERS, SIZES, build, rows_in_memory, some

# Full grids: the same operator


@pytest.mark.parametrize("name", LAYERS)
def test_on_a_full_grid_it_is_torch_bit_for_bit(name: str) -> None:
    d, dense, layer = build(name)
    for training in (True, True, True, False):
        dense.train(training)
        layer.train(training)
        image = torch.rand(3, 4, *SIZES[d]).double()
        one = rows_in_memory(image).requires_grad_()
        two = image.clone().requires_grad_()
        expected, found = dense(one), layer(cg.PixelGraph.from_image(two, d=d)).to_image()
        assert torch.equal(found, expected)
        g = rows_in_memory(torch.rand_like(expected))
        left = torch.autograd.grad(expected, [one, *dense.parameters()], g)
        right = torch.autograd.grad(found, [two, *layer.parameters()], g)
        for a, b in zip(left, right, strict=True):
            assert torch.equal(a, b)
    # Three steps in training: running statistics and the number of batches are torch's.
    assert all(torch.equal(layer.state_dict()[k], v) for k, v in dense.state_dict().items())


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_on_a_full_grid_half_types_are_torch_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    d, dense, layer = build(name, torch.float32)  # parameters in float32, as mixed precision has
    image = torch.rand(2, 4, *SIZES[d]).to(dtype)
    found = layer(cg.PixelGraph.from_image(image, d=d))
    assert found.dtype == dtype
    assert torch.equal(found.to_image(), dense(rows_in_memory(image)))


def test_layer_norm_per_node_is_torch_on_rows() -> None:
    dense = torch.nn.LayerNorm(4)
    image, mask = torch.rand(2, 4, 3, 3), torch.rand(2, 3, 3) > 0.5
    graph = cg.PixelGraph.from_image(image, mask)
    layer = cg.nn.GraphLayerNorm.from_dense(dense)
    assert torch.equal(layer(graph).x, dense(graph.x))
    full = cg.PixelGraph.from_image(image)
    assert torch.equal(layer(full).to_image(), dense(image.movedim(1, -1)).movedim(-1, 1))


def test_batch_norm_1d_reads_rows_after_a_readout() -> None:
    dense = torch.nn.BatchNorm1d(12)
    layer = cg.nn.GraphBatchNorm1d.from_dense(dense)
    graph = cg.nn.GraphFlatten()(cg.PixelGraph.from_image(torch.rand(5, 3, 2, 2)))
    assert torch.equal(layer(graph).x, dense(graph.x))


# Twins, errors, corners


@pytest.mark.parametrize("name", LAYERS)
def test_twins_go_both_ways(name: str) -> None:
    _, dense, layer = build(name)
    for parameter in dense.parameters():
        parameter.requires_grad_(False)
    layer = type(layer).from_dense(dense.eval())
    back = layer.to_dense()
    assert str(back) == str(dense)
    assert str(layer) == f"Graph{dense}"
    assert type(back) is type(dense)
    assert not back.training
    assert not any(p.requires_grad for p in [*back.parameters(), *layer.parameters()])
    assert list(layer.state_dict()) == list(dense.state_dict())
    for key, value in dense.state_dict().items():
        assert torch.equal(back.state_dict()[key], value)
        assert back.state_dict()[key].data_ptr() != value.data_ptr()  # copies, not views
    layer.load_state_dict(dense.state_dict())


def test_arguments_are_torchs() -> None:
    dense = torch.nn.BatchNorm2d(3, 1e-3, 0.2, False, True)
    layer = cg.nn.GraphBatchNorm2d(3, 1e-3, 0.2, False, True)
    assert str(layer) == f"Graph{dense}"
    assert layer.state_dict().keys() == dense.state_dict().keys()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("training", [True, False])
def test_a_graph_without_nodes_stays_one(name: str, training: bool) -> None:
    d, _, layer = build(name)
    layer.train(training)
    nobody = torch.zeros(2, *SIZES[d], dtype=torch.bool)
    image = torch.rand(2, 4, *SIZES[d]).double().requires_grad_()
    y = layer(cg.PixelGraph.from_image(image, nobody, d=d)).x
    assert y.shape == (0, 4)
    y.sum().backward()
    assert torch.equal(image.grad, torch.zeros_like(image))
    empty = layer(cg.PixelGraph.from_image(image.detach()[:0], d=d)).to_image()
    assert empty.shape == (0, 4, *SIZES[d])


def test_one_node_left_becomes_the_bias() -> None:
    mask = torch.zeros(1, 3, 3, dtype=torch.bool)
    mask[0, 1, 2] = True
    layer = cg.nn.GraphInstanceNorm2d(2, affine=True)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([3.0, -1.0]))
    y = layer(cg.PixelGraph.from_image(torch.rand(1, 2, 3, 3), mask)).x
    assert y.tolist() == [[3.0, -1.0]]


def test_bad_input_has_its_own_error() -> None:
    graph = cg.PixelGraph.from_image(torch.rand(1, 3, 4, 4))
    holes = cg.PixelGraph.from_image(torch.rand(1, 3, 4, 4), torch.eye(4) > 0)
    errors = cg.errors
    for any_graph in (graph, holes):
        with pytest.raises(
            errors.ShapeError, match=r"GraphBatchNorm2d: expected x of shape \(N, 4"
        ):
            cg.nn.GraphBatchNorm2d(4)(any_graph)
        with pytest.raises(errors.DtypeError, match=r"float32 but weight has torch\.float64"):
            cg.nn.GraphGroupNorm(1, 3).double()(any_graph)
        with pytest.raises(errors.DeviceError, match="but weight on meta; move the layer"):
            cg.nn.GraphInstanceNorm2d(3, affine=True).to("meta")(any_graph)
        with pytest.raises(errors.GeometryError, match="d = 3 lattice axes, got d = 2; use Graph"):
            cg.nn.GraphInstanceNorm3d(3)(any_graph)
        with pytest.raises(errors.GeometryError, match=r"use GraphBatchNorm2d$"):
            cg.nn.GraphBatchNorm3d(3)(any_graph)
        with pytest.raises(errors.UnsupportedError, match=r"neither \(C,\) nor \(C, \*size\)"):
            cg.nn.GraphLayerNorm((3, 4))(any_graph)
        with pytest.raises(errors.ShapeError, match="expected images of shape"):
            cg.nn.GraphLayerNorm((3, 5, 5))(any_graph)
    with pytest.raises(errors.GraphError, match="expected a PixelGraph, got Tensor"):
        cg.nn.GraphGroupNorm(1, 3)(torch.rand(1, 3, 4, 4))
    dot = cg.PixelGraph.from_image(torch.rand(1, 3, 1, 1))
    alone = torch.zeros(2, 2, dtype=torch.bool)
    alone[0, 1] = True
    for one in (dot, cg.PixelGraph.from_image(torch.rand(1, 3, 2, 2), alone)):
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            cg.nn.GraphBatchNorm2d(3)(one)
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        cg.nn.GraphInstanceNorm2d(3)(dot)
    two = [torch.rand(3, 1, 1), torch.rand(3, 2, 2)]
    with pytest.raises(errors.ShapeError, match="more than 1 spatial element"):
        cg.nn.GraphInstanceNorm2d(3)(cg.PixelGraph.from_image(two))
    with pytest.raises(errors.ConversionError, match=r"expected a torch\.nn\.BatchNorm2d"):
        cg.nn.GraphBatchNorm2d.from_dense(torch.nn.BatchNorm1d(3))
    with pytest.raises(errors.ConversionError, match="has no weight yet; call it once"):
        cg.nn.GraphBatchNorm2d.from_dense(torch.nn.LazyBatchNorm2d())
    with pytest.raises(errors.ConversionError, match="with a forward of its own"):
        cg.nn.GraphBatchNorm2d.from_dense(cg.nn.GraphBatchNorm2d(3))


@pytest.mark.parametrize(
    "name", ["BatchNorm1d", "BatchNorm2d", "InstanceNorm2d", "GroupNorm", "LayerNorm over images"]
)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # dynamo's
def test_compiles_as_one_graph(name: str, masked: bool) -> None:
    d, _, layer = build(name)
    image, mask = some(d)
    graph = cg.PixelGraph.from_image(image, mask if masked else None, d=d)
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    torch._dynamo.reset()
    found = torch.compile(layer, fullgraph=True, backend="eager")(graph).x  # sites are cold
    layer.load_state_dict(state)
    assert torch.equal(found, layer(graph).x)


class Asked(TorchDispatchMode):
    """Stops a group norm's backward that would crash: on rows, without the image's gradient."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.native_group_norm_backward.default:
            assert args[-1][0], "torch's kernel for channels-last images would crash"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("way", ["layer", "tensor"])
def test_parameters_of_a_group_norm_learn_on_images_that_do_not(way: str) -> None:
    """A norm at the entrance, or behind frozen layers, was a SIGSEGV in backward."""
    layer = (cg.nn.GraphGroupNorm if way == "layer" else torch.nn.GroupNorm)(2, 4)
    graph = cg.PixelGraph.from_image(torch.rand(2, 4, 3, 5))
    learns = graph.with_x(graph.x.clone().requires_grad_())
    found = []
    for one in (learns, graph, learns):
        y = layer(one).x if way == "layer" else layer(one.tensor()).graph.x
        asked = [layer.weight, layer.bias] if found else [layer.weight, layer.bias, one.x]
        with Asked():
            found.append(torch.autograd.grad(y, asked, torch.ones_like(y) + graph.x)[:2])
    assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*found, strict=True))


def test_a_group_norm_in_an_exported_program_learns_too() -> None:
    """Nobody asks there for the image's gradient, so an ordinary image is given."""
    layer = cg.nn.GraphGroupNorm(2, 4)
    graph = cg.PixelGraph.from_image(torch.rand(2, 4, 3, 5))

    class OnRows(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return layer(graph.with_x(x)).x

    net = OnRows()
    net.layer = layer
    program = torch.export.export(net, (graph.x,)).module()
    (norm,) = program.graph.find_nodes(op="call_function", target=torch.ops.aten.group_norm.default)
    assert norm.args[0].meta["val"].is_contiguous()
    image = layer.to_dense()(graph.to_image().contiguous())
    assert torch.equal(program(graph.x), cg.PixelGraph.from_image(image).x)


def test_a_group_norm_on_full_grids_in_every_mode() -> None:
    """The one of torch has no forward mode, and no vmap, for images that lie as rows do."""
    layer = cg.nn.GraphGroupNorm(2, 4).double()
    graph = cg.PixelGraph.from_image(torch.rand(2, 4, 3, 5).double())
    moved = torch.rand(2, 4, 3, 5).double()
    tangent = cg.PixelGraph.from_image(moved).x
    on_rows = lambda x: layer(graph.with_x(x)).to_image()  # noqa: E731
    on_map = lambda x: layer.to_dense()(graph.with_x(x).tensor()).graph.to_image()  # noqa: E731
    image, dense = graph.to_image().contiguous(), layer.to_dense()
    true = snap(torch.func.jvp(dense, (image,), (moved,))[1], None)
    for call in (on_rows, on_map):
        assert torch.equal(snap(torch.func.jvp(call, (graph.x,), (tangent,))[1], None), true)
        with forward_ad.dual_level():
            out = forward_ad.unpack_dual(call(forward_ad.make_dual(graph.x, tangent)))
        assert torch.equal(snap(out.tangent, None), true)
        both = torch.func.vmap(call)(torch.stack([graph.x, tangent]))
        assert torch.equal(snap(both, None), snap(torch.stack([dense(image), dense(moved)]), None))
