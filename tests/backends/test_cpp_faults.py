"""Faults planted in the source of the CPU's kernels: each must be caught, and by the judge too.

All of them stand in one source, each beside what is right, and one is chosen when it runs: so
kernels are compiled once, not once a fault.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils import cpp_extension

import convgraph as cg
from convgraph.backends.fused import cpp_build
from convgraph.backends.fused import operators as fused_operators
from tests.backends.fused.cases import run
from tests.cases import CPP, holes, integer_weights, integers
from tests.planting import planted

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CPP, reason="the C++ kernels do not compile here"),
]

LANES = "      for (; c{} < C; ++c)\n        for (int64_t r"

# What stands there, and what is put in its place: `wrong` is whether this fault is the planted one.
# None reads memory that is not there: what is read or left unwritten is always a neighbour's.
FAULTS = {
    "wrong tap": ("* K + side.kind[s])", "* K + side.kind[wrong ? side.slots - 1 - s : s])"),
    "wrong weight": ("= names[slots_of(g)[i]]", "= names[wrong ? 0 : slots_of(g)[i]]"),
    "absent row read": (
        "rows = __builtin_convertvector(found, Longs)",
        "rows = __builtin_convertvector(found < 0 && wrong ? found - found : found, Longs)",
    ),
    "eight rows of one": (
        "std::memcpy(&found, at + cell[0], sizeof(found))",
        "wrong ? void(found = Ints{} + at[cell[0]]) : "
        "void(std::memcpy(&found, at + cell[0], sizeof(found)))",
    ),
    "one row looked at": ("any |= heard;", "any = heard | (wrong ? Longs{} : any);"),
    "one eight looked at": (
        "any |= none;",
        "any = wrong ? none & -(e == 0) : any | none;",
    ),
    "last eight cut short": ("std::min(k, sites - 1)", "std::min(wrong ? k / 2 : k, sites - 1)"),
    "absent lane read": (
        "absent = row[r] >> 63",
        "absent = wrong ? 0 * (row[r] = std::max<int64_t>(row[r], 0)) : row[r] >> 63",
    ),
    "lanes beyond the last": ("site < sites ? 0 : -1", "site < sites - wrong ? 0 : -1"),
    "lanes left out": ("n += all >= 0", "n += (wrong ? row[0] : all) >= 0"),
    "wrong slot": (
        "= side.grid + side.offset[slot];",
        "= side.grid + side.offset[slot > 1 ? slot - wrong : slot];",
    ),
    "sums of another tap": (
        "{ return side.number[s]; }",
        "{ return wrong ? s : side.number[s]; }",
    ),
    "lanes of another tap": (
        "heard.name(groups, side.number);",
        "if (!wrong) heard.name(groups, side.number);",
    ),
    "run of one slot": ("row[r] = a[i * next + r]", "row[r] = a[(wrong ? 0 : i * next) + r]"),
    "run of one tap": ("at = b[i] + from", "at = b[wrong ? 0 : i] + from"),
    "run cut short": ("count, run);", "count, std::max<int64_t>(run - wrong, 0));"),
    "last run lost": ("if (run || begin) end();", "if ((run && !wrong) || begin) end();"),
    "run begun anew": ("begin = nullptr, run = 0;", "begin = wrong ? begin : nullptr, run = 0;"),
    "depth begun anew": ("k ? nullptr : begin", "k && !wrong ? nullptr : begin"),
    "all rows after a hole": (
        "nullptr, some.data()",
        "nullptr, wrong ? sum.data() : some.data()",
    ),
    "all rows of a kind": ("heard[every ? i : who[i]]", "heard[every || wrong ? i : who[i]]"),
    "all sums of a kind": (
        "every ? sum.data() : some.data()",
        "every || wrong ? sum.data() : some.data()",
    ),
    "one kind of two": ("kind[k] != deaf[i]", "(wrong ? kind[k] & deaf[i] : kind[k]) != deaf[i]"),
    "no order": (
        "home[m] = y + side.order[m0 + m] *",
        "home[m] = y + (wrong ? m0 + m : side.order[m0 + m]) *",
    ),
    "no order of heads": (
        "heads + side.order[m0 + m] *",
        "heads + (wrong ? m0 + m : side.order[m0 + m]) *",
    ),
    "no order of lanes": (
        "heads + side.order[m + r] * C",
        "heads + (wrong ? m + r : side.order[m + r]) * C",
    ),
    "wrong group": ("first = x + g * CI;", "first = wrong ? x : x + g * CI;"),
    "lost bias": ("if (bias) std::memcpy(start", "if (bias && !wrong) std::memcpy(start"),
    "lost depth": (
        "std::min(DEPTH, CI - k)",
        "std::min(DEPTH, wrong ? std::max<int64_t>(1, CI - k - 1) : CI - k)",
    ),
    "one depth only": (
        "CI; k += DEPTH)\n          mul",
        "(wrong ? DEPTH : CI); k += DEPTH)\n          mul",
    ),
    "one depth of a bag": ("CI; k += DEPTH) {", "(wrong ? DEPTH : CI); k += DEPTH) {"),
    "lost tail rows": ("dealt<ROWS<v>>(rows, ", "dealt<ROWS<v>>(rows - wrong, "),
    "lost tail channels": ("dealt<ROWS<V>>(channels, ", "dealt<ROWS<V>>(channels - wrong, "),
    "lost tail lanes": (LANES.format(""), LANES.format(" + wrong")),
    "wrong part": ("first = part * chunk", "first = wrong ? 0 : part * chunk"),
    "part cut short": (
        "std::min(sites, first + chunk)",
        "std::min(sites, first + chunk - wrong)",
    ),
    "half the sums": (
        "store(at + v * L, s[v] + t[v])",
        "store(at + v * L, wrong ? s[v] : s[v] + t[v])",
    ),
    "stale heads": ("head[e] = &whole[e * padded];", "head[e] = &whole[wrong ? 0 : e * padded];"),
    "one weight of a bag": (
        "s += w[i] * load(at[i] + c)",
        "s += w[wrong ? 0 : i] * load(at[i] + c)",
    ),
    "short tail of a bag": ("s += w[i] * at[i][c]", "s += w[wrong ? 0 : i] * at[i][c]"),
    "long bag cut short": (
        "i < count; i += 4",
        "i < (wrong ? std::min<int64_t>(count, 4) : count); i += 4",
    ),
    "long bag begun anew": (
        "more ? load(to + c) : Vec<T>{}",
        "more && !wrong ? load(to + c) : Vec<T>{}",
    ),
    "weight of a lone row": (
        "count == 1 && side.weight[first] == T(1)",
        "count == 1 && (wrong || side.weight[first] == T(1))",
    ),
    "bag of another tap": ("side.taps + tap;", "side.taps + (tap + wrong) % side.taps;"),
    "empty bag heard": ("if (count == 0) continue;", "if (count == 0 && !wrong) continue;"),
    "wrong hearer of a bag": (
        "into[e] = sum(who[e], g, p)",
        "into[e] = sum(wrong ? e : who[e], g, p)",
    ),
    "wrong head of a bag": (
        "heads + (m0 + who[e]) *",
        "heads + (m0 + (wrong ? e : who[e])) *",
    ),
    "wrong depth of a bag": ("K + t) * CI + k) * width", "K + t) * CI + (wrong ? 0 : k)) * width"),
    "wrong group of a bag": (
        "t, x + g * CI + k, G * CI",
        "t, x + (wrong ? 0 : g * CI) + k, G * CI",
    ),
    "bias of another panel": (
        "bias + c0, bytes); else",
        "bias + (wrong ? 0 : c0), bytes); else",
    ),
    "bags of another block": (
        "side.ptr + (m + r) *",
        "side.ptr + ((wrong ? 0 : m) + r) *",
    ),
}
NAMES = ["as it is", *FAULTS]


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], None]:
    """What plants a fault in `convgraph_faulty::send` and its like, once they are compiled."""
    source = cpp_build.SOURCE.read_text("utf-8")
    for number, (right, either) in enumerate(FAULTS.values(), start=1):
        source = planted(source, right, either.replace("wrong", f"(fault == {number})"))
    source = planted(source, "namespace {\n", "namespace {\nint64_t fault = 0;\n")
    defined = "".join(f'  m.def("{name}{s}");\n' for name, s in fused_operators.SCHEMAS.items())
    source = planted(
        source,
        "TORCH_LIBRARY_IMPL(convgraph, CPU, m) {",
        f"""TORCH_LIBRARY(convgraph_faulty, m) {{
  m.def("plant", [](int64_t number) {{ fault = number; }});
{defined}}}
TORCH_LIBRARY_IMPL(convgraph_faulty, CPU, m) {{""",
    )
    # float32 alone, in parts of a few sites, and little is optimised: it compiles in less time.
    source = planted(source, "PART = 1024", "PART = 64").replace("<double>", "<float>")
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "faulty.cpp").write_text(source.replace("run(0.0)", "run(0.0f)"))
    cpp_extension.load(
        "faulty",
        [str(folder / "faulty.cpp")],
        extra_cflags=["-O0", *cpp_build.flags()[1:]],
        build_directory=str(folder),
        is_python_module=False,
    )
    return lambda fault: torch.ops.convgraph_faulty.plant(NAMES.index(fault))


LAYERS: dict[str, tuple[int, dict[str, Any]]] = {
    "deep": (67, {}),
    "grouped": (10, {"groups": 2}),
    "depthwise": (37, {"groups": 37}),
    "cross": (5, {"footprint": "cross"}),
    "depthwise cross": (5, {"groups": 5, "footprint": "cross"}),
}
BETWEEN: dict[str, tuple[int, dict[str, Any]]] = {
    "deep bags": (67, {}),
    "grouped bags": (38, {"groups": 2}),
    "bags of whole registers": (32, {"groups": 2}),
}


def bags() -> cg.TypedEdges:
    """Bags of none to several rows, some of a row alone, with weights of quarters."""
    dice = torch.Generator().manual_seed(5)

    def some(most: int) -> torch.Tensor:
        return torch.randint(0, most, (1400,), generator=dice)

    quarters = (some(4) + 1) / 4
    return cg.TypedEdges(torch.stack([some(90), some(90)]), some(4), quarters, sizes=90)


def derived(layer: Any, x: torch.Tensor, edges: cg.TypedEdges, backend: str) -> list[torch.Tensor]:
    """Value and gradients."""
    layer, x = layer.to(x.dtype), x.clone().requires_grad_()
    with cg.backend(backend):
        y = layer(x, edges)
    g = (torch.arange(y.numel()).view_as(y) % 5 - 2).to(y)
    return [y, *torch.autograd.grad(y, [x, *layer.parameters()], g)]


def pairs() -> Iterator[tuple[list[torch.Tensor], list[torch.Tensor]]]:
    """What comes out of each layer now, and the truth."""
    edges = bags()
    for channels, kwargs in BETWEEN.values():
        layer = integer_weights(cg.nn.GraphConv2d(channels, channels, 2, **kwargs))
        x = integers(90, channels)
        one = derived(layer, x.float(), edges, "resample")
        yield one, derived(layer, x.double(), edges, "gather")
    for name, (channels, kwargs) in LAYERS.items():
        layer = integer_weights(cg.nn.GraphConv2d(channels, channels, 3, padding=1, **kwargs))
        image = integers(2, channels, 19, 21)
        mask = torch.rand(2, 19, 21, generator=torch.Generator().manual_seed(1)) < 0.7
        mask[:, 6:] = True  # there is a tile whose sites hear all their taps
        mask[1, 17, 12] = False  # and one where a run of them ends
        # Where all are there, eight sites side by side are looked up together.
        graph = cg.PixelGraph.from_image(image, None if "cross" in name else mask)
        one = run(layer, graph, "cpp", torch.float32, twice=False)
        yield one, run(layer, graph, "gather", torch.float64, twice=False)


def differs(monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a layer now differs from the truth; the first that does is enough."""
    for name in fused_operators.NAMES:
        operator = getattr(torch.ops.convgraph_faulty, name).default
        monkeypatch.setattr(fused_operators, name, operator)
    return any(
        not torch.equal(a.double(), b)
        for one, truth in pairs()
        for a, b in zip(one, truth, strict=True)
    )


@pytest.fixture
def _known_memory() -> Iterator[None]:
    """What nobody writes holds NaN, not the right answer of an earlier call."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.usefixtures("_known_memory")
@pytest.mark.parametrize("fault", NAMES)
def test_a_planted_fault_is_caught(
    fault: str, plant: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(fault)
    assert differs(monkeypatch) == (fault != "as it is")


def test_the_judge_refutes_a_faulty_kernel(
    plant: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    operators = torch.ops.convgraph_faulty
    monkeypatch.setattr(fused_operators, "send", operators.send.default)
    monkeypatch.setattr(fused_operators, "correlate", operators.correlate.default)
    trust = ("convgraph_faulty::send", "convgraph_faulty::correlate")
    for fault in ("wrong tap", "absent row read", "no order of heads"):
        plant(fault)
        twin = torch.nn.Conv2d(3, 4, 3, padding=1)
        layer = cg.nn.GraphConv2d.from_dense(twin)
        with cg.backend("cpp"):
            found = cg.prove(layer, twin, size=(12, 12), mask=holes(2, (12, 12)), trust=trust)
        assert found.verdict == "refuted", fault
