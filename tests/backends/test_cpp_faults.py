"""Faults planted in the source of the CPU's kernels: each must be caught, and by the judge too.

One source has a namespace for each fault, so that all are compiled at once.
"""

from collections.abc import Iterator
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

# None reads memory that is not there: what is read or left unwritten is always a neighbour's.
FAULTS = {
    "wrong tap": ("* K + side.kind[s])", "* K + side.kind[side.slots - 1 - s])"),
    "wrong weight": ("= names[slots_of(g)[i]]", "= names[0]"),
    "absent row read": (
        "rows = __builtin_convertvector(found, Longs)",
        "rows = __builtin_convertvector(found < 0 ? found - found : found, Longs)",
    ),
    "eight rows of one": (
        "std::memcpy(&found, at + cell[0], sizeof(found))",
        "found = Ints{} + at[cell[0]]",
    ),
    "one row looked at": ("any |= heard;", "any = heard;"),
    "one eight looked at": ("any |= none;", "any = none & -(e == 0);"),
    "last eight cut short": ("std::min(k, sites - 1)", "std::min(k / 2, sites - 1)"),
    "absent lane read": (
        "absent = row[r] >> 63",
        "absent = 0 * (row[r] = std::max<int64_t>(row[r], 0))",
    ),
    "lanes beyond the last": ("site < sites ? 0 : -1", "site < sites - 1 ? 0 : -1"),
    "lanes left out": ("n += all >= 0", "n += row[0] >= 0"),
    "wrong slot": (
        "= side.grid + side.offset[slot];",
        "= side.grid + side.offset[slot > 1 ? slot - 1 : slot];",
    ),
    "sums of another tap": ("{ return side.number[s]; }", "{ return s; }"),
    "lanes of another tap": ("heard.name(groups, side.number);", ";"),
    "run of one slot": ("row[r] = a[i * next + r]", "row[r] = a[r]"),
    "run of one tap": ("at = b[i] + from", "at = b[0] + from"),
    "run cut short": ("count, run);", "count, std::max<int64_t>(run - 1, 0));"),
    "last run lost": ("if (run || begin) end();", "if (begin) end();"),
    "run begun anew": ("begin = nullptr, run = 0;", "run = 0;"),
    "depth begun anew": ("k ? nullptr : begin", "begin"),
    "all rows after a hole": ("nullptr, some.data()", "nullptr, sum.data()"),
    "all rows of a kind": ("heard[every ? i : who[i]]", "heard[i]"),
    "all sums of a kind": ("every ? sum.data() : some.data()", "sum.data()"),
    "one kind of two": ("kind[k] != deaf[i]", "(kind[k] & deaf[i]) != deaf[i]"),
    "no order": ("home[m] = y + side.order[m0 + m] *", "home[m] = y + (m0 + m) *"),
    "no order of heads": ("heads + side.order[m0 + m] *", "heads + (m0 + m) *"),
    "no order of lanes": ("heads + side.order[m + r] * C", "heads + (m + r) * C"),
    "wrong group": ("first = x + g * CI;", "first = x;"),
    "lost bias": ("if (bias) std::memcpy(start", "if (false) std::memcpy(start"),
    "lost depth": (
        "std::min(DEPTH, CI - k)",
        "std::min(DEPTH, std::max<int64_t>(1, CI - k - 1))",
    ),
    "one depth only": ("CI; k += DEPTH)\n          mul", "DEPTH; k += DEPTH)\n          mul"),
    "one depth of a bag": ("CI; k += DEPTH) {", "DEPTH; k += DEPTH) {"),
    "lost tail rows": ("dealt<ROWS<v>>(rows, ", "dealt<ROWS<v>>(rows - 1, "),
    "lost tail channels": ("dealt<ROWS<V>>(channels, ", "dealt<ROWS<V>>(channels - 1, "),
    "lost tail lanes": (LANES.format(""), LANES.format(" + 1")),
    "wrong part": ("first = part * chunk", "first = 0"),
    "part cut short": (
        "std::min(sites, first + chunk)",
        "std::min(sites, first + chunk - 1)",
    ),
    "half the sums": ("store(at + v * L, s[v] + t[v])", "store(at + v * L, s[v])"),
    "stale heads": ("head[e] = &whole[e * padded];", "head[e] = &whole[0];"),
    "one weight of a bag": ("s += w[i] * load(at[i] + c)", "s += w[0] * load(at[i] + c)"),
    "short tail of a bag": ("s += w[i] * at[i][c]", "s += w[0] * at[i][c]"),
    "long bag cut short": ("i < count; i += 4", "i < std::min<int64_t>(count, 4); i += 4"),
    "long bag begun anew": ("more ? load(to + c) : Vec<T>{}", "Vec<T>{}"),
    "weight of a lone row": ("count == 1 && side.weight[first] == T(1)", "count == 1"),
    "bag of another tap": ("side.taps + tap;", "side.taps + (tap + 1) % side.taps;"),
    "empty bag heard": ("if (count == 0) continue;", "if (count < 0) continue;"),
    "wrong hearer of a bag": ("into[e] = sum(who[e], g, p)", "into[e] = sum(e, g, p)"),
    "wrong head of a bag": ("heads + (m0 + who[e]) *", "heads + (m0 + e) *"),
    "wrong depth of a bag": ("K + t) * CI + k) * width", "K + t) * CI) * width"),
    "wrong group of a bag": ("t, x + g * CI + k, G * CI", "t, x + k, G * CI"),
    "bias of another panel": ("bias + c0, bytes); else", "bias, bytes); else"),
    "bags of another block": ("side.ptr + (m + r) *", "side.ptr + r *"),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Fault -> its (send, correlate): one source with a namespace for each, compiled at once."""
    source = cpp_build.SOURCE.read_text("utf-8")
    start = source.index("namespace {")
    end = source.index("TORCH_LIBRARY_IMPL")
    head, body = source[:start], source[start:end]
    parts = [head]
    for number, (right, wrong) in enumerate({"as it is": ("", ""), **FAULTS}.values()):
        name = f"convgraph_fault_{number}"
        inner = planted(body, right, wrong) if right else body
        # By its address, not as TORCH_FN: torch's wrapper is then compiled once, not once a fault.
        registered = "".join(
            f'  m.def("{operator}{schema}");\n  m.impl("{operator}", c10::DispatchKey::CPU, '
            f"&{name}::{operator});\n"
            for operator, schema in fused_operators.SCHEMAS.items()
        )
        parts.append(f"namespace {name} {{\n{inner}}}\n")
        parts.append(f"TORCH_LIBRARY({name}, m) {{\n{registered}}}\n")
    folder = tmp_path_factory.mktemp("faulty")
    whole = "".join(parts).replace("PART = 1024", "PART = 64")
    # float32 alone, and little is optimised: it takes a third of the time to compile.
    single = whole.replace("<double>", "<float>").replace("run(0.0)", "run(0.0f)")
    (folder / "faulty.cpp").write_text(single)
    flags = ["-O0", *cpp_build.flags()[1:]]
    cpp_extension.load(
        "faulty",
        [str(folder / "faulty.cpp")],
        extra_cflags=flags,
        build_directory=str(folder),
        is_python_module=False,
    )
    return {
        fault: getattr(torch.ops, f"convgraph_fault_{number}")
        for number, fault in enumerate(("as it is", *FAULTS))
    }


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


def differs(operators: Any, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a layer now differs from the truth; the first that does is enough."""
    for name in fused_operators.NAMES:
        monkeypatch.setattr(fused_operators, name, getattr(operators, name).default)
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
@pytest.mark.parametrize("fault", ["as it is", *FAULTS])
def test_a_planted_fault_is_caught(
    fault: str, faulty: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert differs(faulty[fault], monkeypatch) == (fault != "as it is")


def test_the_judge_refutes_a_faulty_kernel(
    faulty: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for fault in ("wrong tap", "absent row read", "no order of heads"):
        monkeypatch.setattr(fused_operators, "send", faulty[fault].send.default)
        monkeypatch.setattr(fused_operators, "correlate", faulty[fault].correlate.default)
        twin = torch.nn.Conv2d(3, 4, 3, padding=1)
        layer = cg.nn.GraphConv2d.from_dense(twin)
        space = f"convgraph_fault_{1 + list(FAULTS).index(fault)}"
        with cg.backend("cpp"):
            trust = (f"{space}::send", f"{space}::correlate")
            found = cg.prove(layer, twin, size=(12, 12), mask=holes(2, (12, 12)), trust=trust)
        assert found.verdict == "refuted", fault
