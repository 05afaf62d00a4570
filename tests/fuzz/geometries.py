"""Random small convolutions in float32, with free memory full of NaN, each against float64.

Numbers are small integers: every sum is exact, so the comparison is bit for bit. float64 is the
truth, for oneDNN does not serve it. Where the layer crashes or errs, the dense twin is asked on the
same numbers in float32; what it cannot do either is torch's own fault and counted apart.

    python -m tests.fuzz.geometries --draws 20000 --seed 1
    ONEDNN_MAX_CPU_ISA=AVX2 python -m tests.fuzz.geometries --draws 20000 --seed 2
"""

import importlib
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import convgraph as cg
from tests.fuzz.campaign import options
from tests.fuzz.children import Found, attacked

TWINS = {
    (d, transposed): getattr(torch.nn, f"{'ConvTranspose' if transposed else 'Conv'}{d}d")
    for d in (1, 2, 3)
    for transposed in (False, True)
}


@dataclass(frozen=True)
class Draw:
    """One layer on one batch of images; everything else follows from the seed.

    `frozen` is the parameter that does not learn, if any.
    """

    d: int
    transposed: bool
    batch: int
    size: tuple[int, ...]
    options: tuple[tuple[str, Any], ...]
    density: float | None
    seed: int
    space: str = ""
    frozen: str = ""


SPACES: dict[str, Any] = {
    "": None,
    "torus": cg.Torus(),
    "cylinder": cg.Torus(rows=False),
    "sphere": cg.HEALPix(),
}
"""What an image lies on; the plane first."""


def draw(dice: random.Random) -> Draw:
    """Draw a layer that torch accepts, edges of its arguments more often than their middle."""
    while True:
        d = dice.choice([1, 2, 2, 2, 3])
        transposed = dice.random() < 0.25
        point = dice.random() < 0.2
        groups = dice.choice([1, 1, 1, 2, 3])
        per = [dice.choice([1, 1, 2, 3, 4, 8, 15, 16]) for _ in range(2)]
        if dice.random() < 0.15:
            groups, per = dice.choice([2, 4, 8, 16]), [1, dice.choice([1, 1, 2])]
        long = 32 if point and d < 3 else 9 if d < 3 else 6

        def each(*choices: int, d: int = d) -> tuple[int, ...]:
            return tuple(dice.choice(choices) for _ in range(d))

        options: dict[str, Any] = {
            "in_channels": groups * per[0],
            "out_channels": groups * per[1],
            "kernel_size": (1,) * d if point else each(1, 2, 3, 3, 5, 7),
            "stride": each(1, 1, 2, 3, 4),
            "padding": (0,) * d if point and dice.random() < 0.7 else each(0, 0, 1, 2, 3, 6),
            "dilation": each(1, 1, 1, 2, 3),
            "groups": groups,
            "bias": dice.random() < 0.6,
        }
        if transposed:
            room = zip(options["stride"], options["dilation"], strict=True)
            options["output_padding"] = tuple(dice.choice([0, min(1, max(n) - 1)]) for n in room)
        elif dice.random() < 0.1:
            options["padding_mode"] = dice.choice(["reflect", "replicate", "circular"])
        size = tuple(dice.choice([1, 1, 2, 3, 4, 5, 7, long]) for _ in range(d))
        batch = dice.choice([1, 2, 3, 8, 32 if point else 4])
        density = dice.choice([None, None, None, 0.2, 0.5, 0.9])
        space = ""
        if d == 2 and dice.random() < 0.15 and "padding_mode" not in options:
            space, density = dice.choice(list(SPACES)[1:]), None
        if space:  # where an axis closes, each pixel has to have its place
            wide = zip(options["kernel_size"], options["dilation"], strict=True)
            options["padding"] = tuple(r * (k - 1) // 2 for k, r in wide)
            size = dice.choice([(12, 1), (24, 2), (48, 4)]) if space == "sphere" else each(4, 6, 12)
            if transposed:
                options["output_padding"] = tuple(step - 1 for step in options["stride"])
        frozen = dice.choice(["", "", "", "weight", "bias"])
        given = tuple(options.items())
        seed = dice.getrandbits(32)
        made = Draw(d, transposed, batch, size, given, density, seed, space, frozen)
        if _accepted(made):
            return made


def _accepted(draw: Draw) -> bool:
    """Whether torch takes it; shapes alone are computed, so no kernel runs."""
    try:
        with torch.device("meta"):
            twin = TWINS[draw.d, draw.transposed](**dict(draw.options))
            shape = twin(torch.empty(draw.batch, twin.in_channels, *draw.size)).shape
        return 0 < shape.numel() < 2**18
    except (RuntimeError, ValueError, NotImplementedError):
        return False


def judge(draw: Draw) -> str:
    """Return "", or what the layer gets wrong."""
    twin, image, mask, layer = _made(draw)
    names: list[str | None] = [None]
    space = SPACES[draw.space]
    if mask is not None or space is not None:
        graph = cg.PixelGraph.from_image(image, mask, d=draw.d, on=space)
        try:
            asked = cg.backends.options(layer.problem(graph, None))
        except (cg.errors.GeometryError, cg.errors.GraphError):
            if space is None:
                raise
            return ""  # the space has no such kernel
        names = [o.name for o in asked if o.refusal is None and o.name != "messages"]
    for name in names:
        leaf = image.clone().requires_grad_()
        layer.zero_grad()
        layer.backend = name
        poison()
        out = layer(cg.PixelGraph.from_image(leaf, mask, d=draw.d, on=space))
        sites = None if out.mask is None else out.mask.unsqueeze(1)
        y = out.to_image()
        head = _head(y, draw.seed)
        poison()
        y.backward(head)
        found = [y, leaf.grad, *(p.grad for p in layer.parameters())]
        if space is None:
            truth = _truth(twin, image, mask, sites, head)
            twin.float()
        else:
            truth = _truth_on(space, twin, image, head)
        wrong = _differs(found, truth, draw.frozen)
        if wrong:
            return f"{wrong} of {name or 'the full grid'}"
    return ""


def by_twin(draw: Draw) -> str:
    """The same question to torch's own layer in float32, on an ordinary image."""
    if draw.space:
        return ""  # torch has no layer there
    twin, image, mask, _ = _made(draw)
    seen = image if mask is None else torch.where(mask.unsqueeze(1), image, 0)
    leaf = seen.clone().requires_grad_()
    twin.zero_grad()
    poison()
    y = twin(leaf)
    head = _head(y, draw.seed)
    poison()
    y.backward(head)
    grads = [None if p.grad is None else p.grad.clone() for p in twin.parameters()]
    truth = _truth(twin, seen, None, None, head)
    return _differs([y.detach(), leaf.grad, *grads], truth, draw.frozen)


def poison() -> None:
    """Fill memory with NaN and free it, so that what nobody wrote is seen."""
    held = [torch.full((n,), torch.nan) for n in (8, 24, 64, 200, 600, 2000, 6000, 20000) * 4]
    del held


def _made(draw: Draw) -> tuple[Any, Tensor, Tensor | None, Any]:
    generator = torch.Generator().manual_seed(draw.seed)
    twin: Any = TWINS[draw.d, draw.transposed](**dict(draw.options))
    with torch.no_grad():
        for p in twin.parameters():
            p.copy_(torch.randint(-3, 4, p.shape, generator=generator))
    image = torch.randint(-3, 4, (draw.batch, twin.in_channels, *draw.size), generator=generator)
    mask = None
    if draw.density is not None:
        mask = torch.rand((draw.batch, *draw.size), generator=generator) < draw.density
    layer = _layer(twin)
    for one in (twin, layer):
        for name, p in one.named_parameters():
            p.requires_grad_(name != draw.frozen)
    return twin, image.float(), mask, layer


def _layer(twin: Any) -> Any:
    return getattr(cg.nn, f"Graph{type(twin).__name__}").from_dense(twin)


def _head(y: Tensor, seed: int) -> Tensor:
    return torch.randint(-3, 4, y.shape, generator=torch.Generator().manual_seed(seed + 1)).to(y)


def _truth(
    twin: Any, image: Tensor, mask: Tensor | None, sites: Tensor | None, head: Tensor
) -> list[Tensor]:
    twin.double().requires_grad_().zero_grad()
    leaf = image.double().requires_grad_()
    y = twin(leaf if mask is None else torch.where(mask.unsqueeze(1), leaf, 0))
    y = y if sites is None else torch.where(sites, y, 0)
    y.backward(head.double())
    return [y, leaf.grad, *(p.grad for p in twin.parameters())]


def _truth_on(space: Any, twin: Any, image: Tensor, head: Tensor) -> list[Tensor]:
    """Message by message, in float64."""
    layer, leaf = _layer(twin).double(), image.double().requires_grad_()
    layer.backend = "messages"
    y = layer(cg.PixelGraph.from_image(leaf, on=space)).to_image()
    y.backward(head.double())
    return [y, leaf.grad, *(p.grad for p in layer.parameters())]


def _differs(found: list[Any], truth: list[Tensor], frozen: str) -> str:
    names = ("y", "x", "weight", "bias")
    for name, one, exact in zip(names, found, truth, strict=False):
        if name == frozen and one is None:
            continue
        if one is None or not torch.equal(one.double(), exact):
            return f"{name} is wrong" if name == "y" else f"the gradient of {name} is wrong"
    return ""


def search(
    count: int, seed: int, seconds: float, first: list[Draw] | None = None
) -> tuple[int, list[Found], Counter[str]]:
    """Return how many draws were judged, what the layers get wrong, and what torch does too.

    Args:
        count: draws, at most.
        seed: of the draws.
        seconds: after which no more are drawn.
        first: what is judged before them.
    """
    torch.set_num_threads(1)  # a fork of threads that ran would hang
    dice, start = random.Random(seed), time.monotonic()
    wrong: list[Found] = []
    torchs: Counter[str] = Counter()
    draws, done = list(first or ()), 0
    while draws or (done < count and time.monotonic() - start < seconds):
        draws = draws or [draw(dice) for _ in range(min(200, count - done))]
        for found in attacked(draws, judge):
            if found is None:
                continue
            alone = [] if isinstance(found.draw, list) else list(attacked([found.draw], by_twin))
            if any(alone):
                torchs[found.what] += 1
            else:
                wrong.append(found)
        done, draws = done + len(draws), []
    return done, wrong, torchs


def main() -> int:
    """Print what was found; 1 if anything was."""
    given = options(__doc__, 20000).parse_args()
    known = importlib.import_module("tests.fuzz.known").GEOMETRIES  # which imports this file
    done, wrong, torchs = search(given.draws, given.seed, given.seconds, known)
    for found in wrong:
        sys.stdout.write(f"{found.what}: {found.draw}\n")
    sys.stdout.write(f"{done} geometries, {len(wrong)} wrong; torch's own: {dict(torchs)}\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
