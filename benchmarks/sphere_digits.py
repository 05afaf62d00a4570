"""Digits on a sphere: a network trained on flat digits reads them on panoramas and on HEALPix.

Digits of scikit-learn, 45 degrees tall, stand upright in the tangent plane at a latitude and are
seen on a panorama of 64 x 128 pixels, or on HEALPix faces of 32 x 32. The network learns flat
digits of the size that they have at the equator, and is carried over by `cg.to_graph` as it is.
Each figure is the share of the same test digits that is read. Writes
benchmarks/results/sphere_digits.json.

    python benchmarks/sphere_digits.py [--digits 60] [--epochs 15]
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

SPOTS = {"0": (0, 180), "30": (30, 180), "45": (45, 180), "60": (60, 180), "70": (70, 180),
         "80": (80, 180), "0, on the seam": (0, 0)}  # fmt: skip
"""Latitude and longitude of the digits, degrees; a panorama begins at longitude 0."""


class Reader(nn.Module):
    """Six convolutions, two pools, the maximum over the image."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (1, 16, 16, 32, 32, 48, 48)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(sizes))
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, 10)."""
        for number, conv in enumerate(self.convs):
            x = conv(x).relu()
            if number in (1, 3):
                x = F.max_pool2d(x, 2)
        return self.head(x.amax((2, 3)))


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


def flat(digits: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1, 32, 32): digits as large as at the equator, somewhere."""
    side = round(2 * HALF / np.tan(np.pi / PANORAMA[0]))
    large = F.interpolate(digits, size=(side, side), mode="bilinear")
    canvas = large.new_zeros(len(digits), 1, 32, 32)
    for number, (r, c) in enumerate(
        torch.randint(0, 32 - side + 1, (len(digits), 2), generator=generator).tolist()
    ):
        canvas[number, :, r : r + side, c : c + side] = large[number]
    return canvas


def learnt(digits: Tensor, labels: Tensor, epochs: int) -> Reader:
    """Train on flat digits."""
    torch.manual_seed(0)
    net, generator = Reader(), torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(digits), generator=generator).split(64):
            loss = F.cross_entropy(net(flat(digits[rows], generator)), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net.eval()


def main() -> None:
    """Train, read, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    data = load_digits()
    digits = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:1500], order[1500 : 1500 + args.digits]
    net = learnt(digits[train], labels[train], args.epochs)
    graph, circular = cg.to_graph(net), copy.deepcopy(net)
    for conv in circular.convs:  # what is usually done: longitude wraps in the convolutions
        conv.register_forward_pre_hook(lambda _, x: F.pad(x[0], (1, 1, 1, 1), mode="circular"))
        conv.padding = (0, 0)

    def share(scores: Tensor) -> float:
        return float((scores.argmax(1) == labels[test]).float().mean())

    def on(space: Any) -> Any:
        return lambda x: graph(cg.PixelGraph.from_image(x, on=space))

    arms = {
        "dense, zero padding": net,
        "dense, circular convolutions": circular,
        'Equirectangular(taps="wrap")': on(cg.Equirectangular(taps="wrap")),
        'Equirectangular(taps="tangent")': on(cg.Equirectangular(taps="tangent")),
        "HEALPix()": on(cg.HEALPix()),
    }
    table: dict[str, dict[str, float]] = {name: {} for name in arms}
    faces = (12 * FACE, FACE)
    with torch.no_grad():
        plain = share(net(flat(digits[test], torch.Generator().manual_seed(1))))
        print(f"flat test digits: {plain:.2f}")
        for spot, where in SPOTS.items():
            panorama = seen(digits[test], on_panorama(), where).unflatten(2, PANORAMA)
            sphere = seen(digits[test], cg.HEALPix().positions(faces), where).unflatten(2, faces)
            for name, run in arms.items():
                images = sphere if name.startswith("HEALPix") else panorama
                table[name][spot] = share(torch.cat([run(part) for part in images.split(20)]))
            print(spot, {name: round(row[spot], 2) for name, row in table.items()}, flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    found = {"flat": plain, "digits": args.digits, "share": table}
    (args.out / "sphere_digits.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
