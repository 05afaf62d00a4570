"""Masks and compilers: one program, tables as its inputs; exports that run elsewhere."""

import gc
import io
import subprocess
import sys
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import convgraph as cg
from convgraph.convert import compiled as compiled_networks
from convgraph.graph.sites import Sites
from tests.cases import integer_weights, integers
from tests.reversed_gradient import Reversed

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*should not be instantiated.*"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),  # torch.onnx's own
]

SIZE = (12, 16)
ROW = (1, 3)
"""A kernel of few taps, each of which is operators of its own to 'gather'."""

one_program = pytest.mark.skipif(
    compiled_networks.OLD, reason="torch before 2.13 compiles anew for each mask"
)


class Small(nn.Module):
    """A residual, a strided convolution, norms in training, a pool, a gate, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.down = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.same = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.gate = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.norm(self.stem(x))), 2)
        x = self.down(x)
        x = x + F.relu(self.same(x))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))
        return x, self.head(x.mean((2, 3)))


def graph(seed: int) -> cg.PixelGraph:
    torch.manual_seed(seed)
    mask = torch.rand(2, *SIZE) > 0.3 + 0.05 * seed
    return cg.PixelGraph.from_image(torch.randn(2, 3, *SIZE), mask=mask)


def compiled(module: Any, backend: str = "eager") -> tuple[Any, Any]:
    """The module in one graph, and a count; one that is to be trained asks for "aot_eager"."""
    torch._dynamo.reset()
    count = CompileCounterWithBackend(backend)
    return torch.compile(module, fullgraph=True, backend=count), count


@one_program
def test_twelve_masks_and_a_training_step_are_two_compilations() -> None:
    """Outputs, all gradients and running statistics are those of the network itself."""
    torch.manual_seed(0)
    net = cg.to_graph(Small())
    twin = cg.to_graph(Small())
    twin.load_state_dict(net.state_dict())

    def step(net: Any, g: cg.PixelGraph, target: Tensor) -> Tensor:
        x, logits = net(g)
        return F.cross_entropy(logits, target) + x.x.square().mean()

    fast, count = compiled(step, "aot_eager")
    target = torch.tensor([0, 2])
    for seed in range(12):
        g = graph(seed)
        losses = [run(one, g, target) for run, one in ((fast, net), (step, twin))]
        for loss, one in zip(losses, (net, twin), strict=True):
            one.zero_grad()
            loss.backward()
        near(*losses)
        for mine, true in zip(net.parameters(), twin.parameters(), strict=True):
            near(mine.grad, true.grad)
        for mine, true in zip(net.buffers(), twin.buffers(), strict=True):
            near(mine, true)
        with torch.no_grad():
            for mine, true in zip(net.parameters(), twin.parameters(), strict=True):
                mine.copy_(true)
    assert count.frame_count <= 2


def near(mine: Any, true: Any) -> None:
    """Equal up to the order of sums: 2^10 terms of what is at most this large."""
    mine, true = mine.detach(), true.detach()
    scale = float(true.abs().max()) + 1
    assert float((mine - true).abs().max()) <= 2**10 * torch.finfo(torch.float32).eps * scale


@one_program
def test_on_integers_it_is_the_network_bit_for_bit_and_keeps_the_sites() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 3, 2, 1)]
    net = cg.to_graph(nn.Sequential(*map(integer_weights, layers)))
    fast, count = compiled(net)
    for seed in range(4):
        g = graph(seed)
        g = g.with_x(integers(*g.x.shape))
        mine, true = fast(g), net(g)
        assert torch.equal(mine.x, true.x)
        assert mine.sites is true.sites
    assert count.frame_count == 2
    same = cg.to_graph(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)))
    g = graph(1)
    assert compiled(same)[0](g).sites is g.sites


class Written(nn.Module):
    """Rows and an inner part of a map that are written into, of which rows are copies."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x[:, :, ::2].mul_(2)
        x[:, :, 1:-1, 2:] += 1
        x.flip(3)[:, 1] = 5  # a copy, which nobody hears
        x[..., 3].relu_()
        return x


class OfRows(nn.Module):
    def __init__(self, net: Any, sites: Sites) -> None:
        super().__init__()
        self.net, self.sites = net, sites

    def forward(self, rows: Tensor) -> Tensor:
        found: Tensor = self.net(cg.PixelGraph(rows, self.sites)).x
        return found


def test_what_is_written_into_a_part_reaches_the_map_in_a_program_too() -> None:
    """Tracers know no addresses, by which a part that shares memory is told from a copy."""
    torch.manual_seed(0)
    net = cg.to_graph(Written())
    fast, _ = compiled(net, "aot_eager")
    for seed in range(3):
        g = graph(seed)
        true = net(g).x
        near(fast(g).x, true)
        grads = [torch.autograd.grad(x.square().sum(), net.conv.weight) for x in (fast(g).x, true)]
        near(*(grad for (grad,) in grads))
        rows = OfRows(net, g.sites).eval()
        near(torch.export.export(rows, (g.x,)).module()(g.x), true)


def test_another_mode_is_another_program() -> None:
    torch.manual_seed(0)
    net = cg.to_graph(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)))
    fast, _ = compiled(net)
    for training in (True, False, True):
        net.train(training)
        for seed in range(2):
            before = net[1].running_mean.clone()
            g = graph(seed)
            mine = fast(g)
            moved = not torch.equal(before, net[1].running_mean)
            assert moved == training
            near(mine.x, net(g).x)
    with torch.autocast("cpu"):  # a program is traced where none is on
        assert fast(g).x.dtype == net(g).x.dtype == torch.bfloat16


@one_program
@pytest.mark.parametrize("kind", ["layer", "own module", "sequential"])
def test_layers_compile_once_for_all_masks_too(kind: str) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = cg.nn.GraphConv2d(3, 4, 3, padding=1)
            self.norm = cg.nn.GraphBatchNorm2d(4)
            self.pool = cg.nn.GraphMaxPool2d(2)

        def forward(self, g: cg.PixelGraph) -> cg.PixelGraph:
            return self.pool(self.norm(self.conv(g)))

    made = {
        "layer": lambda: cg.nn.GraphConv2d(3, 4, 3, padding=1),
        "own module": Own,
        "sequential": lambda: cg.nn.Sequential(Own().conv, nn.ReLU(), cg.nn.GraphAvgPool2d(2)),
    }[kind]()
    fast, count = compiled(made)
    for seed in range(10):
        g = graph(seed)
        mine, true = fast(g), made(g)
        near(mine.x, true.x)
        assert torch.equal(mine.mask, true.mask)
    assert count.frame_count <= 2


class Heard(nn.Module):
    """A class token beside patches, attention by torch and by hand, channels rolled and turned."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        q = x.unflatten(2, (2, 3)).transpose(1, 2)
        heard = F.scaled_dot_product_attention(q, q, q) + (q @ q.mT).softmax(-1) @ q
        x = x + heard.transpose(1, 2).flatten(2)
        x = x + x.flip(2) + x.roll(1, 2) + x.repeat_interleave(2, 2)[:, :, :6]
        return x[:, 0] + x[:, 1:].mean(1)


@pytest.mark.ci
@one_program
def test_a_program_of_tokens_serves_groups_of_one_size_and_of_others() -> None:
    """As many nodes in both images, or not: what the first mask allows is not allowed for all."""
    torch.manual_seed(0)
    net = cg.to_graph(Heard().double())
    fast, count = compiled(net)
    for seed in range(4):
        coarse = torch.rand(2, 3, 4) > 0.5
        if seed % 2 == 0:
            coarse[1] = coarse[0].flip(0)
        mask = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2)
        g = cg.PixelGraph.from_image(torch.randn(2, 3, *SIZE).double(), mask=mask)
        near(fast(g), net(g))
    assert count.frame_count <= 2


class Tokens(nn.Module):
    """Tokens of every other pixel, and their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.head(self.conv(x).flatten(2).transpose(1, 2))
        return tokens, tokens.mean(1)


def test_tokens_come_out_behind_a_program() -> None:
    """Their rows are the program's; what they are is said in Python, so two masks are no two."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    net, count = cg.to_graph(Tokens()), CompileCounterWithBackend("aot_eager")
    fast = torch.compile(net, backend=count)
    for seed in range(5):
        (tokens, mean), (want, true) = fast(graph(seed)), net(graph(seed))
        near(tokens.to_dense(), want.to_dense())
        near(mean, true)
        image = tokens.transpose(1, 2).unflatten(2, (6, 8)).graph
        assert torch.equal(image.mask, want.transpose(1, 2).unflatten(2, (6, 8)).graph.mask)
        slopes = [
            torch.autograd.grad(one.square().sum(), net.conv.weight)[0] for one in (tokens, want)
        ]
        near(*slopes)
    assert compiled_networks.OLD or count.frame_count <= 4


def test_what_a_program_cannot_hold_is_said() -> None:
    with pytest.raises(Exception, match="fullgraph=True returns images or tensors without nodes"):
        compiled(cg.to_graph(Tokens()))[0](graph(0))
    with pytest.raises(Exception, match="exported: it returns tokens"):
        torch.export.export(cg.to_graph(Tokens()), (graph(0),))

    class Own(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Reversed.apply(x)

    with pytest.raises(Exception, match="a backward of its own"):
        compiled(cg.to_graph(Own()))[0](graph(0))


@one_program
@pytest.mark.parametrize("name", ["messages", "masked", "gather"])
def test_a_forced_backend_is_another_program(name: str) -> None:
    """Within the block it runs, outside it does not; one whose sums know the mask serves it."""
    torch.manual_seed(0)
    net = cg.to_graph(nn.Sequential(integer_weights(nn.Conv2d(3, 4, ROW, padding=(0, 1)))))
    fast, count = compiled(net)
    counted = []
    for seed in range(4):
        g = graph(seed)
        g = g.with_x(integers(*g.x.shape))
        free = fast(g)
        with cg.backend(name):
            assert torch.equal(fast(g).x, net(g).x)
        assert torch.equal(free.x, fast(g).x)
        assert torch.equal(free.x, net(g).x)
        counted.append(count.frame_count)
    ran = [sum("conv" in str(n.target) for n in one.graph.nodes) for one in count.graphs]
    sent = [sum("send" in str(n.target) for n in one.graph.nodes) for one in count.graphs]
    assert any(ran) == (name == "masked") or any(sent)
    assert counted[3] - counted[2] == (name == "gather")


def test_a_layer_of_a_network_may_name_its_backend() -> None:
    torch.manual_seed(0)
    net = cg.to_graph(nn.Sequential(integer_weights(nn.Conv2d(3, 4, ROW, padding=(0, 1)))))
    net[0].backend = "gather"
    fast, _ = compiled(net)
    for seed in range(3):
        g = graph(seed)
        g = g.with_x(integers(*g.x.shape))
        assert torch.equal(fast(g).x, net(g).x)


@one_program
def test_what_is_changed_on_modules_is_another_program() -> None:
    torch.manual_seed(0)
    net = cg.to_graph(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ELU()))
    fast, _ = compiled(net)
    for change in (
        lambda: setattr(net[1], "momentum", 0.5),
        lambda: setattr(net[2], "alpha", 3.0),
        lambda: setattr(net[0], "padding_mode", "circular"),
        lambda: setattr(net[0], "dilation", (1, 3)),
        lambda: net.append(nn.Tanh()),
    ):
        near(fast(graph(0)).x, net(graph(0)).x)
        change()
        near(fast(graph(0)).x, net(graph(0)).x)
        before = net[1].running_mean.clone()
        fast(graph(0))
        moved = net[1].running_mean - before
        net[1].running_mean.copy_(before)
        net(graph(0))
        near(moved, net[1].running_mean - before)


def test_what_python_would_do_each_time_is_refused() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps, self.conv = 0, nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            self.steps += 1
            return self.conv(x)

    with pytest.raises(Exception, match="its forward changes numbers of its modules"):
        compiled(cg.to_graph(Counts()))[0](graph(0))
    net = cg.to_graph(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()))
    net[1].register_forward_hook(lambda *_: None)
    with pytest.raises(Exception, match="module '1' has a hook"):
        compiled(net)[0](graph(0))


def test_one_node_first_and_tables_die_with_their_network() -> None:
    torch.manual_seed(0)
    known = set(vars(Sites))
    net = cg.to_graph(nn.Sequential(integer_weights(nn.Conv2d(3, 4, 3, padding=1))))
    fast, _ = compiled(net)
    kept = []
    for count in (1, 0, 40, 70):
        mask = torch.zeros(2, *SIZE, dtype=torch.bool)
        mask.view(-1)[:count] = True
        g = cg.PixelGraph.from_image(integers(2, 3, *SIZE), mask=mask)
        assert torch.equal(fast(g).x, net(g).x)
        kept.append(g)
    held = [str(key) for g in kept for key in g.sites.memo_key if "_tables_" in str(key)]
    assert held
    assert set(vars(Sites)) - known
    alive = ref(net)
    torch._dynamo.reset()
    del net, fast
    gc.collect()
    assert alive() is None
    assert not set(vars(Sites)) - known
    assert not [key for g in kept for key in g.sites.memo_key if "_tables_" in str(key)]


class Attends(nn.Module):
    """Attention of the pixels of an image, its heads split off and put together again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        rows = x.flatten(2).transpose(1, 2)
        b, n, c = rows.shape
        q, k, v = self.qkv(rows).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        rows = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c)
        return rows.transpose(1, 2).reshape(x.shape)


class Counted(nn.Module):
    """Sums of classes in an ordinary tensor, and what pairs of a node with itself say."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        table = torch.zeros(3, 3).index_add(0, x.argmax(1).flatten(), x.movedim(1, 3).flatten(0, 2))
        tokens = x.flatten(2).mT
        return table, (tokens @ tokens.mT).diagonal(dim1=1, dim2=2).sum(1)


@pytest.mark.slow
@one_program
def test_tables_and_pairs_compile_once_for_all_masks() -> None:
    """No number of an index is looked at before torch looks at it."""
    net = cg.to_graph(Counted())
    fast, count = compiled(net)
    for seed in range(3):
        whole = graph(seed).with_x(graph(seed).x.round())
        assert all(map(torch.equal, fast(whole), net(whole)))
    assert count.frame_count <= 2


@one_program
def test_attention_compiles_once_for_all_masks() -> None:
    """Outputs and gradients are those of the network itself; pairs are tables, too."""
    torch.manual_seed(0)
    net = cg.to_graph(Attends())
    fast, count = compiled(net, "aot_eager")
    for seed in (0, 1, 2, 3, 11):
        found = []
        for run in (fast, net):
            net.zero_grad()
            x = run(graph(seed)).x
            x.square().mean().backward()
            found.append([x, *(one.grad for one in net.parameters())])
        for mine, true in zip(*found, strict=True):
            near(mine, true)
    assert count.frame_count <= 2


LOADED = """
import sys, torch
program = torch.export.load(sys.argv[1]).module()
rows, want = torch.load(sys.argv[2])
got = program(rows)
assert all(map(torch.equal, got, want)), "rows"
assert "convgraph" not in sys.modules
import convgraph as cg
program = torch.export.load(sys.argv[3]).module()
graph, want = torch.load(sys.argv[4])
assert torch.equal(program(graph)[1], want), "a graph"
other = cg.PixelGraph.from_image(torch.randn(2, 3, 12, 16), mask=torch.rand(2, 12, 16) > 0.5)
try:
    program(other)
except Exception as error:
    print("refused")
"""


class Rows(nn.Module):
    """A network on fixed sites, as a function of rows."""

    def __init__(self, net: Any, sites: Any) -> None:
        super().__init__()
        self.net, self.sites = net, sites

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        x, logits = self.net(cg.PixelGraph(rows, self.sites))
        return x.x, logits


def test_an_export_is_saved_and_loaded_in_a_fresh_process(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, g = cg.to_graph(Small()).eval(), graph(2)
    rows = Rows(net, g.sites).eval()
    names = [str(tmp_path / name) for name in ("rows.pt2", "rows.pt", "graph.pt2", "graph.pt")]
    torch.export.save(torch.export.export(rows, (g.x,)), names[0])
    torch.save((g.x, torch.export.load(names[0]).module()(g.x)), names[1])
    near(torch.load(names[1])[1][1], net(g)[1])
    exported = torch.export.export(net, (g,))
    torch.export.save(exported, names[2])
    torch.save((g, exported.module()(g)[1]), names[3])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOADED, *names], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "refused"


@pytest.mark.parametrize("what", ["images", "rows", "layer", "tensor"])
def test_onnx_runs_it(what: str) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    net, g = cg.to_graph(Small()).eval(), graph(2)
    layer = cg.nn.GraphConv2d(3, 4, 3, padding=1)

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, rows: Tensor) -> Tensor:
            return self.layer(cg.PixelGraph(rows, g.sites)).x

    class Unchanged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = Small().eval()

        def forward(self, rows: Tensor) -> Tensor:
            return self.dense(cg.PixelGraph(rows, g.sites).tensor())[1]

    module, given = {
        "images": (net, torch.randn(2, 3, *SIZE)),
        "tensor": (Unchanged().eval(), g.x),
        "rows": (Rows(net, g.sites).eval(), g.x),
        "layer": (Layer().eval(), g.x),
    }[what]
    with torch.no_grad():
        want = module(given)
    file = io.BytesIO()
    torch.onnx.export(module, (given,), dynamo=True, verbose=False).save(file)
    session = runtime.InferenceSession(file.getvalue())
    got = session.run(None, {session.get_inputs()[0].name: given.numpy()})
    for mine, true in zip(got, want if isinstance(want, tuple) else (want,), strict=True):
        near(torch.from_numpy(mine), true)
