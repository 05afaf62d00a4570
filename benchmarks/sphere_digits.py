"""Digits on a sphere: a network trained on flat digits reads them on panoramas and on HEALPix.

Digits of scikit-learn, 45 degrees tall, stand upright in the tangent plane at a latitude and are
seen on a panorama of 64 x 128 pixels, or on HEALPix faces of 32 x 32. The network learns flat
digits of the size that they have at the equator, each bent a little anew every time, and is
carried over by `cg.to_graph` as it is. It learns from 1250 digits; 250 others (`--held-out`) chose
the settings, the last 297 are the test. Figures are shares of the digits that are read, for each
training. Writes benchmarks/results/sphere_digits.json and the networks beside it; what was trained
and measured before stays, so that seeds and spots may come one by one.

    python benchmarks/sphere_digits.py [--seeds 0 1 2 3] [--spots 0 60] [--held-out]
"""

import argparse
import copy
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import convgraph as cg

PANORAMA, FACE = (64, 128), 32
HALF = np.tan(np.deg2rad(22.5))
"""Half of a digit in the tangent plane of the unit sphere."""

SPOTS: dict[str, tuple[float, float]] = {
    "0": (0, 180), "30": (30, 180), "45": (45, 180), "60": (60, 180), "70": (70, 180),
    "80": (80, 180), "0, on the seam": (0, 0),
}  # fmt: skip
"""Latitude and longitude of the digits, degrees; a panorama begins at longitude 0."""


class Reader(nn.Module):
    """Six convolutions, two pools, the maximum over the image."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (1, 16, 16, 32, 32, 64, 64)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(sizes))
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(64, 10)
        for conv in self.convs:  # or else some seeds never begin to learn
            nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, 10)."""
        for number, conv in enumerate(self.convs):
            x = conv(x).relu()
            if number in (1, 3):
                x = F.max_pool2d(x, 2)
        return self.head(self.drop(x.amax((2, 3))))


def on_panorama() -> np.ndarray:
    """(H W, 3) directions of the pixels."""
    height, width = PANORAMA
    south = (np.arange(height) + 0.5) * np.pi / height
    east = (np.arange(width) + 0.5) * 2 * np.pi / width
    rows, columns = np.meshgrid(south, east, indexing="ij")
    sin = np.sin(rows)
    return np.stack([sin * np.cos(columns), sin * np.sin(columns), np.cos(rows)], -1).reshape(-1, 3)


def seen(digits: Tensor, directions: np.ndarray, spot: tuple[float, float]) -> Tensor:
    """(B, 1, pixels): upright digits (B, 1, 8, 8) in the tangent plane at a spot."""
    latitude, longitude = np.deg2rad(spot)
    out = np.array([np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude),
                    np.sin(latitude)])  # fmt: skip
    right = np.array([-np.sin(longitude), np.cos(longitude), 0])
    up = np.cross(out, right)
    depth = directions @ out
    front = np.maximum(depth, 1e-9)
    place = np.stack([directions @ right, -(directions @ up)], -1) / front[:, None] / HALF
    place[depth <= 0] = 9  # behind
    grid = torch.from_numpy(place).float().view(1, 1, -1, 2).expand(len(digits), -1, -1, -1)
    return F.grid_sample(digits, grid, align_corners=False).squeeze(2)


SIDE = 2 * HALF / np.tan(np.pi / PANORAMA[0])
"""Pixels of a digit at the equator."""


def flat(digits: Tensor, generator: torch.Generator, bent: float, canvas: int = 24) -> Tensor:
    """(B, 1, canvas, canvas): digits as large as at the equator, anywhere between the pixels.

    Args:
        digits: (B, 1, 8, 8).
        generator: of random numbers.
        bent: how far each is turned, sheared, stretched, tapered and bent into a bow, at random;
            at 1 up to 15 degrees, 0.15, 15 percent, half of its width, 0.6 of half its height, and
            that bow and taper differ from its top to its bottom.
        canvas: pixels of a side.
    """

    def some(most: float) -> Tensor:
        return (2 * torch.rand(len(digits), 1, 1, generator=generator) - 1) * most

    free = canvas / 2 - SIDE / 2
    down, right = torch.meshgrid(*[torch.arange(canvas) + 0.5 - canvas / 2] * 2, indexing="ij")
    x, y = ((at - some(free)) * 2 / float(SIDE) for at in (right, down))
    near, low = x.clamp(-1.5, 1.5), y.clamp(-1.5, 1.5)
    taper, lean, taper_more, wide = (some(most * bent) for most in (0.5, 0.2, 0.2, 0.1))
    bow, shear, bow_more = (some(most * bent) for most in (0.6, 0.2, 0.6))
    x, y = (
        x + near * (taper * low + taper_more * low * low + wide * near * near) + lean * low * low,
        y + near * near * (bow + bow_more * low) + shear * near * low,
    )
    turn = some(np.deg2rad(15) * bent)
    x, y = turn.cos() * x + turn.sin() * y, turn.cos() * y - turn.sin() * x
    x = (x + some(0.15 * bent) * y) * some(0.15 * bent).exp()
    y = y * some(0.15 * bent).exp()
    return F.grid_sample(digits, torch.stack([x, y], -1), align_corners=False)


def beside_itself(digits: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, 24, 48): bent digits, beside each mostly itself, bent far more and turned far.

    What stands turned by 60 to 300 degrees is not to be read: over a pole a digit is seen so.
    """
    upright, other = flat(digits, generator, 1), flat(digits, generator, 2.5)
    turn = torch.deg2rad(torch.rand(len(digits), generator=generator) * 240 + 60)
    cos, sin, none = turn.cos(), turn.sin(), torch.zeros_like(turn)
    turns = torch.stack([cos, -sin, none, sin, cos, none], 1).view(-1, 2, 3)
    grid = F.affine_grid(turns, list(other.shape), align_corners=False)
    there, left = (torch.rand(len(digits), 1, 1, 1, generator=generator) for _ in range(2))
    other = F.grid_sample(other, grid, align_corners=False) * (there < 0.7)
    pairs = [torch.cat(pair, 3) for pair in ((upright, other), (other, upright))]
    return torch.where(left < 0.5, *pairs)


def blurred(images: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, H, W): each blurred by binomials over 3 x 3 pixels, from not at all to wholly.

    What is read between four pixels is blurred, at each tap anew.
    """
    row = torch.tensor([0.25, 0.5, 0.25])
    binomial = (row[:, None] * row)[None, None]
    for _ in range(2):
        much = torch.rand(len(images), 1, 1, 1, generator=generator)
        images = images + much * (F.conv2d(images, binomial, padding=1) - images)
    return images


def learnt(digits: Tensor, labels: Tensor, epochs: int, seed: int) -> Reader:
    """Train on flat digits, at a rate that rises and falls."""
    torch.manual_seed(seed)
    net = Reader().to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-4)
    steps = epochs * -(-len(digits) // 64)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(digits), generator=generator).split(64):
            images = blurred(beside_itself(digits[rows], generator), generator)
            scores = net(images.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(scores, labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
    return net.eval().to(memory_format=torch.contiguous_format)


ARMS = ("dense, zero padding", "dense, circular convolutions", 'Equirectangular(taps="wrap")',
        'Equirectangular(taps="tangent")', "HEALPix()")  # fmt: skip


def main() -> None:
    """Train, read, write; seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--spots", nargs="+", choices=SPOTS, default=[*SPOTS])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS])
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    data = load_digits()
    digits = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, held_out, test = order[:1250], order[1250:1500], order[1500:]
    rows = held_out if args.held_out else test
    path = args.out / ("sphere_digits_held_out.json" if args.held_out else "sphere_digits.json")
    found = json.loads(path.read_text()) if path.exists() else {}
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        kept = args.out / f"sphere_digits_{args.epochs}_epochs_seed_{seed}.pt"
        net = Reader().eval()
        if kept.exists():
            net.load_state_dict(torch.load(kept))
        else:
            net = learnt(digits[train], labels[train], args.epochs, seed)
            torch.save(net.state_dict(), kept)
        mine = found.setdefault(f"seed {seed}", {"share": {}})
        mine |= {"digits": len(rows), "epochs": args.epochs}
        for name, row in shares(net, digits[rows], labels[rows], args.spots, args.arms).items():
            mine["share"].setdefault(name, {}).update(row)
        path.write_text(json.dumps(found, indent=1) + "\n")
    for name in args.arms:
        for spot in args.spots:
            measured = [one["share"].get(name, {}) for one in found.values()]
            every = [row[spot] for row in measured if spot in row]
            what = f"mean {np.mean(every):.3f}, {min(every):.3f} to {max(every):.3f}"
            print(f"{name:32} {spot:14} {what}")


def shares(
    net: Reader, digits: Tensor, labels: Tensor, spots: list[str], names: list[str]
) -> dict[str, dict[str, float]]:
    """What one network reads, flat and by every arm at every spot."""
    graph, circular = cg.to_graph(net), copy.deepcopy(net)
    for conv in circular.convs:  # what is usually done: longitude wraps in the convolutions
        conv.register_forward_pre_hook(lambda _, x: F.pad(x[0], (1, 1, 1, 1), mode="circular"))
        conv.padding = (0, 0)

    def share(scores: Tensor) -> float:
        return float((scores.argmax(1) == labels).float().mean())

    def on(space: Any) -> Any:
        return lambda x: graph(cg.PixelGraph.from_image(x, on=space))

    spaces = cg.Equirectangular(taps="wrap"), cg.Equirectangular(taps="tangent"), cg.HEALPix()
    arms = dict(zip(ARMS, (net, circular, *map(on, spaces)), strict=True))
    table: dict[str, dict[str, float]] = {name: {} for name in names}
    faces = (12 * FACE, FACE)
    with torch.no_grad():
        plain = share(net(flat(digits, torch.Generator().manual_seed(1), 0)))
        print(f"flat digits: {plain:.3f}", flush=True)
        for spot in spots:
            panorama = seen(digits, on_panorama(), SPOTS[spot]).unflatten(2, PANORAMA)
            sphere = seen(digits, cg.HEALPix().positions(faces), SPOTS[spot]).unflatten(2, faces)
            for name in names:
                images = sphere if name.startswith("HEALPix") else panorama
                table[name][spot] = share(
                    torch.cat([arms[name](part) for part in images.split(20)])
                )
            print(spot, {name: round(row[spot], 3) for name, row in table.items()}, flush=True)
    return {"flat": {"flat": plain}, **table}


if __name__ == "__main__":
    main()
