"""Parameters that are cut or joined are the same parameters; cut or read otherwise they are not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convgraph as cg
from convgraph.proof import Certificate
from convgraph.proof.network.blocks import Block, beside, find_blocks

WIDE, HEADS = 8, 2
THREE = {"q": WIDE, "k": WIDE, "v": WIDE}


class Attention(nn.Module):
    """Queries, keys and values by several linear maps, the rows of which are joined."""

    def __init__(self, parts: dict[str, int], *, by_head: bool = False) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({name: nn.Linear(WIDE, rows) for name, rows in parts.items()})
        self.by_head, self.out = by_head, nn.Linear(WIDE, WIDE)
        self.scale = (WIDE // HEADS) ** -0.5

    def forward(self, x: Tensor) -> Tensor:
        made = torch.cat([part(x) for part in self.maps.values()], -1)
        if self.by_head:
            q, k, v = made.unflatten(-1, (HEADS, 3, -1)).permute(3, 0, 2, 1, 4)
        else:
            q, k, v = made.unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        shares = (q @ k.mT * self.scale).softmax(-1)
        found: Tensor = self.out((shares @ v).transpose(1, 2).flatten(2))
        return found


class Torchs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(WIDE, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.own(x, x, x, need_weights=False)[0]
        return found


class Tokens(nn.Module):
    """A class token, patches, their positions in one table or in two, and an attention."""

    def __init__(self, attention: nn.Module, *, first: bool = False) -> None:
        super().__init__()
        self.patches, self.a = nn.Conv2d(3, WIDE, 2, 2), attention
        self.token = nn.Parameter(torch.randn(1, 1, WIDE))
        self.places = nn.Parameter(torch.randn(1, 4 if first else 5, WIDE))
        self.first = nn.Parameter(torch.randn(1, 1, WIDE)) if first else None
        self.head = nn.Linear(WIDE, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, token = self.patches(x).flatten(2).mT, self.token.expand(len(x), -1, -1)
        if self.first is None:
            y = torch.cat([token, y], 1) + self.places
        else:
            y = torch.cat([token + self.first, y + self.places], 1)
        found: Tensor = self.head((y + self.a(y))[:, 0])
        return found


State = dict[str, Tensor]


def whole() -> Tokens:
    torch.manual_seed(0)
    return Tokens(Attention({"qkv": 3 * WIDE}))


def started() -> Tokens:
    """As such networks start: every bias is 0."""
    net = whole()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    return net


def loaded(net: nn.Module, state: State) -> Any:
    net.load_state_dict(state)
    return net


def cut(state: State, parts: dict[str, int]) -> State:
    """Under the names of several maps, whose rows the one has in this order."""
    made = dict(state)
    for kind in ("weight", "bias"):
        rows = made.pop(f"a.maps.qkv.{kind}").split(list(parts.values()))
        made |= {f"a.maps.{n}.{kind}": one for n, one in zip(parts, rows, strict=True)}
    return made


def several(state: State, **parts: int) -> Any:
    parts = parts or THREE
    return loaded(Tokens(Attention(parts)), cut(state, parts))


def by_head(state: State) -> Any:
    made = dict(state)
    for kind in ("weight", "bias"):
        old = made.pop(f"a.maps.qkv.{kind}")
        rows = old.unflatten(0, (3, HEADS, -1)).transpose(0, 1).reshape(old.shape)
        made[f"a.maps.rows.{kind}"] = rows
    return loaded(Tokens(Attention({"rows": 3 * WIDE}, by_head=True)), made)


def torchs(state: State) -> Any:
    made = {n.replace("a.out.", "a.own.out_proj."): t for n, t in state.items()}
    for kind in ("weight", "bias"):
        made[f"a.own.in_proj_{kind}"] = made.pop(f"a.maps.qkv.{kind}")
    return loaded(Tokens(Torchs()), made)


def two_tables(state: State) -> Any:
    places = state["places"]
    made = state | {"first": places[:, :1], "places": places[:, 1:]}
    return loaded(Tokens(Attention({"qkv": 3 * WIDE}), first=True), made)


def proof(one: nn.Module, two: nn.Module) -> Certificate:
    torch.manual_seed(1)
    found: Certificate = cg.prove(one, two, torch.randn(2, 3, 4, 4))
    return found


RIGHT: dict[str, Callable[[State], Any]] = {
    "three": several,
    "two": lambda state: several(state, q=WIDE, kv=2 * WIDE),
    "rows by head": by_head,
    "torch's": torchs,
    "positions": two_tables,
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("name", RIGHT)
def test_what_is_cut_or_joined_is_proven(name: str, turned: bool) -> None:
    net = whole()
    other = RIGHT[name](net.state_dict())
    found = proof(net, other) if turned else proof(other, net)
    assert found.verdict == "proven", found.reason
    parts = {part.name: part for part in found.parts}
    assert parts["gradients"].status == "proven", parts["gradients"].facts
    assert Certificate.from_json(found.to_json()) == found
    cuts: Any = found.spec.get("blocks", {})
    assert bool(cuts) == (name != "torch's")  # those are other names alone
    held = {True: net, False: other}[turned].state_dict()
    for own, stretches in cuts.items():
        assert sum(count for *_, count in stretches) == held[own].numel()


def test_the_certificate_says_what_is_cut_how() -> None:
    net = whole()
    facts = proof(several(net.state_dict()), net).parts[0].facts
    assert (
        "of 'a.maps.qkv.weight', 'a.maps.q.weight' is rows 0-7, 'a.maps.k.weight' is rows 8-15, "
        "'a.maps.v.weight' is rows 16-23; of 'a.maps.qkv.bias', 'a.maps.q.bias' is numbers 0-7, "
    ) in facts


def test_words_say_what_is_cut_how() -> None:
    torch.manual_seed(0)
    a = torch.randn(12, 4)
    for one, two, text in [
        ({"a": a}, {"1": a[:7], "2": a[7:]}, "'a' is '1', '2'"),
        ({"1": a[::2], "2": a[1::2]}, {"a": a},
         "of 'a', '1' is row 0, row 2, row 4, row 6 and 2 more, '2' is row 1, row 3, row 5, row 7 "
         "and 2 more"),
        ({"1": a[:, 0], "2": a[:, 1:]}, {"a": a},
         "of 'a', '1' is numbers 0-44 by 4, '2' is numbers 1-3, numbers 5-7, numbers 9-11, numbers "
         "13-15 and 8 more"),
        ({"1": a[:5], "2": a[5:]}, {"b": a[:7], "c": a[7:]},
         "'1' is rows 0-4 of 'b'; '2' is rows 5-6 of 'b', 'c'"),
    ]:  # fmt: skip
        sides = [{n: t.contiguous() for n, t in side.items()} for side in (one, two)]
        assert [*map(str, find_blocks(*sides))] == [text]


@pytest.mark.parametrize("name", ["three", "rows by head"])
def test_biases_that_are_0_are_cut_as_their_weights(name: str) -> None:
    net = started()
    found = proof(RIGHT[name](net.state_dict()), net)
    assert found.verdict == "proven", found.reason


# -- what is no cut --------------------------------------------------------------------------------


def moved(net: Any) -> None:
    with torch.no_grad():
        net.a.maps["k"].weight[3, 5] += 1e-6


def bias_moved(net: Any) -> None:
    with torch.no_grad():
        net.a.maps["v"].bias[2] += 1e-6


def exchanged(net: Any) -> None:
    """Keys for queries."""
    q, k = net.a.maps["q"], net.a.maps["k"]
    q.load_state_dict({n: t.clone() for n, t in k.state_dict().items()})


def other_order(net: Any) -> None:
    maps = net.a.maps
    net.a.maps = nn.ModuleDict({name: maps[name] for name in ("k", "q", "v")})


def heads(net: Any) -> None:
    """The first head's rows of the queries where the second's belong."""
    with torch.no_grad():
        for own in net.a.maps["q"].parameters():
            own.copy_(own.unflatten(0, (HEADS, -1)).flip(0).flatten(0, 1).clone())


def scale(net: Any) -> None:
    net.a.scale = 1.0


def hooked(net: Any) -> None:
    net.a.maps["v"].weight.register_hook(lambda gradient: 2 * gradient)


def detached(net: Any) -> None:
    net.a.maps["v"].register_forward_hook(lambda module, args, y: y.detach())


def tied(net: Any) -> None:
    net.a.maps["k"].weight = net.a.maps["q"].weight


def frozen(net: Any) -> None:
    net.a.maps["k"].weight.requires_grad_(False)


def forgotten(net: Any) -> None:
    net.a.maps["k"].bias = None


def turned_over(net: Any) -> None:
    k = net.a.maps["k"]
    k.forward = lambda x: F.linear(x, k.weight.t(), k.bias)


REFUTED = [
    moved, bias_moved, exchanged, other_order, heads, scale, hooked, detached, tied, turned_over,
]  # fmt: skip
UNDECIDED = [frozen, forgotten]


@pytest.mark.parametrize("change", [*REFUTED, *UNDECIDED])
def test_another_cut_or_another_use_is_not_proven(change: Callable[[Any], None]) -> None:
    net = whole()
    other = several(net.state_dict())
    change(other)
    found = proof(other, net)
    assert found.verdict == ("refuted" if change in REFUTED else "undecided"), found.reason


def test_no_gradient_is_not_one_that_is_0() -> None:
    """Whoever trains by it decays a weight, or does not."""
    net = whole()
    other = several(net.state_dict())
    detached(other)
    net.a.maps["qkv"].register_forward_hook(
        lambda module, args, y: torch.cat([y[..., : 2 * WIDE], y[..., 2 * WIDE :].detach()], -1)
    )
    found = proof(other, net)
    assert found.verdict == "undecided", found.reason
    assert "there is no gradient of 'a.maps.v." in found.reason


class Scales(nn.Module):
    """Scales under some names, of which all are read."""

    def __init__(self, **scales: Tensor) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.names = nn.Conv2d(3, 8, 1), list(scales)
        for name, scale in scales.items():
            setattr(self, name, nn.Parameter(scale))

    def forward(self, x: Tensor) -> Tensor:
        held = torch.cat([getattr(self, name) for name in self.names])
        found: Tensor = (self.stem(x).movedim(1, -1).repeat(1, 1, 1, 3)[..., : len(held)]) * held
        return found[..., :8]


def test_one_name_for_two_sizes_is_no_pair() -> None:
    """It may be a part on one side and the whole on the other; else it differs."""
    held = torch.randn(8)
    found = proof(Scales(x=held[:3], y=held[3:]), Scales(x=held))
    assert found.verdict == "proven", found.reason
    assert "of 'x', 'x' is numbers 0-2, 'y' is numbers 3-7" in found.parts[0].facts
    found = proof(Scales(p=held[:3], q=held[3:], x=torch.randn(4)), Scales(x=held))
    assert found.verdict == "undecided", found.reason
    assert "'x' differs" in found.parts[0].facts or "alone" in found.parts[0].facts
    assert not found.spec.get("blocks")


def test_equal_rows_are_no_cut() -> None:
    """Queries and keys that are one map, of equal numbers: which is which nobody says."""
    net = whole()
    with torch.no_grad():
        for own in net.a.maps["qkv"].parameters():
            own[WIDE : 2 * WIDE] = own[:WIDE]
    other = several(net.state_dict())
    assert proof(other, net).verdict == "undecided"
    tied(other)
    assert proof(other, net).verdict == "undecided"


class Halves(nn.Module):
    """A convolution and its norm, by groups or as several, with what the norm keeps."""

    def __init__(self, groups: int, several: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        count, each = (groups, 1) if several else (1, groups)
        self.convs = nn.ModuleList(
            nn.Conv2d(6 // count, 6 // count, 3, padding=1, groups=each) for _ in range(count)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 // count) for _ in range(count))
        self.stem, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.stem(x).chunk(len(self.convs), 1)
        layers = zip(self.convs, self.norms, parts, strict=True)
        made = [norm(conv(part)) for conv, norm, part in layers]
        found: Tensor = self.head(torch.cat(made, 1).relu())
        return found


def halves(groups: int) -> tuple[Halves, Halves]:
    one, two = Halves(groups, True), Halves(groups, False)
    torch.manual_seed(2)
    state = two.state_dict()
    for name in ("weight", "bias", "running_mean", "running_var"):
        state[f"norms.0.{name}"].uniform_(0.5, 2)
    own = {}
    for name, tensor in state.items():
        path, _, rest = name.partition(".0.")
        if path in ("convs", "norms") and tensor.dim():
            for k, part in enumerate(tensor.chunk(groups)):
                own[f"{path}.{k}.{rest}"] = part
        elif path in ("convs", "norms"):
            own |= {f"{path}.{k}.{rest}": tensor for k in range(groups)}
        else:
            own[name] = tensor
    return loaded(one, own), loaded(two, state)


@pytest.mark.parametrize("groups", [2, 3])
def test_groups_may_be_convolutions_of_their_own(groups: int) -> None:
    one, two = halves(groups)
    found = proof(one.eval(), two.eval())
    assert found.verdict == "proven", found.reason
    one.convs[1].weight.data[0, 0, 0, 0] += 1e-6
    assert proof(one, two).verdict == "refuted"


class Averages(nn.Module):
    """Keeps the mean of each channel so far, in one buffer or in two."""

    def __init__(self, several: bool, share: float = 0.5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.several, self.share, self.head = several, share, nn.Conv2d(6, 2, 1)
        held = torch.arange(1.0, 7).chunk(2) if several else [torch.arange(1.0, 7)]
        for place, one in enumerate(held):
            self.register_buffer(f"mean{place}" if several else "mean", one.clone())

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, -x], 1)
        made: Tensor = self.head(x)
        held = [self.mean0, self.mean1] if self.several else [self.mean]
        with torch.no_grad():
            for k, (part, one) in enumerate(zip(x.chunk(len(held), 1), held, strict=True)):
                one.copy_(one * 0.5 + part.mean((0, 2, 3)) * (self.share if k else 0.5))
        return made


@pytest.mark.parametrize("turned", [False, True])
def test_what_cut_buffers_hold_afterwards_is_compared(turned: bool) -> None:
    for share, verdict in [(0.5, "proven"), (0.25, "undecided")]:
        one, two = Averages(several=True, share=share), Averages(several=False)
        found = proof(two, one) if turned else proof(one, two)
        assert found.verdict == verdict, found.reason


# -- finding them ----------------------------------------------------------------------------------


def found(one: dict[str, Tensor], two: dict[str, Tensor]) -> list[Block]:
    """Blocks, each of which holds on one side what it holds on the other."""
    blocks = find_blocks(one, two)
    for block in blocks:
        for name, tensor in block.joined(one).items():
            assert torch.equal(tensor, two[name])
    return blocks


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_any_cut_is_found(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(24, 16).to(dtype), torch.randn(8, 16).to(dtype)
    cuts = {
        "rows": {"1": a[:7], "2": a[7:]},
        "columns": {"1": a[:, :9], "2": a[:, 9:]},
        "in another order": {"1": a[16:], "2": a[8:16], "3": a[:8]},
        "every other row": {"1": a[::2], "2": a[1::2]},
        "cut and joined": {"1": a[:5], "2": torch.cat([a[5:], b[:3]]), "3": b[3:]},
    }
    for name, one in cuts.items():
        two = {"a": a, "b": b} if name == "cut and joined" else {"a": a}
        one = {n: t.contiguous() for n, t in one.items()}
        assert len(found(one, two)) == len(found(two, one)) == 1, name
    if dtype != torch.bfloat16:  # of 16 bits there are too few to tell one from all others
        assert len(found({"t": a.t().contiguous()}, {"a": a})) == 1
        assert len(found({"t": a[torch.randperm(24)].contiguous()}, {"a": a})) == 1


def test_rows_of_which_most_is_0_are_found() -> None:
    torch.manual_seed(0)
    a = torch.randn(24, 16) * (torch.rand(24, 16) < 0.5)
    assert found({"1": a[16:], "2": a[8:16], "3": a[:8]}, {"a": a})
    assert found({"1": a[::2].contiguous(), "2": a[1::2].contiguous()}, {"a": a})


def test_biases_are_cut_where_rows_are() -> None:
    a, zeros = torch.randn(4, 8), torch.zeros(4)
    for w, cut in [
        (a.flip(0), [3, 2, 1, 0]),
        (torch.cat([a[:, :3], a.roll(1, 0)[:, 3:]], 1), None),
    ]:
        (block,) = find_blocks({"w.weight": w.contiguous()}, {"a.weight": a})
        made = beside(block, {"w.bias": zeros}, {"a.bias": zeros})
        assert (made.places.tolist() if made else None) == cut


def test_numbers_that_are_there_twice_tell_no_cut() -> None:
    a = torch.randn(4, 8)
    assert not found({"1": a, "2": a}, {"a": torch.cat([a, a])})
    assert not found({"1": torch.zeros(8), "2": torch.zeros(8)}, {"a": torch.zeros(16)})
    assert not found({"1": a[:2], "2": a[1:]}, {"a": a})
    assert not found({"1": a[:2]}, {"a": a})
    edge = torch.zeros(2, 8)  # of the one or of the other
    assert not found(
        {"1": torch.cat([a, edge]), "2": a + 1}, {"a": a, "b": torch.cat([edge, a + 1])}
    )


def test_numbers_of_others_that_agree_by_chance_join_nothing() -> None:
    torch.manual_seed(0)
    a, b, c = torch.randn(8, 8), torch.randn(64, 64), torch.randn(64, 64)
    b[0, :5] = c[0, :5]
    assert [list(block.own) for block in found({"1": a[:3], "2": a[3:], "b": b},
                                               {"a": a, "c": c})] == [["1", "2"]]  # fmt: skip
