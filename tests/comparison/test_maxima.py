"""`cg.prove` of max pools on masks and in spaces: by order, also of values between pixels."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convgraph as cg
from convgraph.comparison.named import ADAPTERS, certify, replay
from convgraph.errors import ProofError
from convgraph.proof import Certificate, verifier

MASK = torch.tensor([
    [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 1, 1]],
    [[1, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
]).bool()  # fmt: skip
"""With windows of 2 pixels that look at nobody."""
THERE = MASK.unsqueeze(1)
ONE = torch.zeros(2, 1, 4, 4)


def strided(x: Tensor) -> Tensor:
    """Torch's pool, where absent pixels are minus infinity; 0 where nobody is looked at."""
    y = F.max_pool2d(x.masked_fill(~THERE, -torch.inf), 2)
    return torch.where(F.max_pool2d(THERE.double(), 2) > 0, y, 0)


def on_pixels(x: Tensor) -> Tensor:
    y = F.max_pool2d(x.masked_fill(~THERE, -torch.inf), 3, 1, 1)
    return torch.where(THERE, y, 0)


@pytest.mark.parametrize(
    ("run", "pool"),
    [
        (cg.nn.GraphMaxPool2d(2), nn.MaxPool2d(2)),
        (strided, nn.MaxPool2d(2)),
        (lambda x: strided(x).nan_to_num(0.0, 0.0, 0.0) * 1, nn.MaxPool2d(2)),
        (on_pixels, nn.MaxPool2d(3, 1, 1)),
        pytest.param(
            cg.nn.GraphMaxPool2d(3, 1, 1), nn.MaxPool2d(3, 1, 1), marks=pytest.mark.ci
        ),
        pytest.param(
            cg.nn.GraphMaxPool2d(3, 2, 1, backend="messages"), nn.MaxPool2d(3, 2, 1),
            marks=pytest.mark.ci,
        ),
    ],
)  # fmt: skip
def test_a_maximum_on_a_mask_is_proven(run: Any, pool: nn.Module) -> None:
    cert = cg.prove(run, pool, ONE, mask=MASK)
    named = getattr(run, "__name__", "") == "<lambda>"  # nan_to_num is no maximum, and harms none
    assert cert.verdict == ("undecided" if named else "proven"), str(cert)
    assert Certificate.from_json(cert.to_json()) == cert
    assert cert.spec["source_mask"] == MASK.int().tolist()


WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "an absent pixel wins": lambda x: torch.where(strided(ONE + 1) > 0, F.max_pool2d(x, 2), 0),
    "an absent pixel is 0": lambda x: F.max_pool2d(x * THERE, 2),
    "minus infinity in an empty window": lambda x: F.max_pool2d(
        x.masked_fill(~THERE, -torch.inf), 2
    ),
    "the least number there": lambda x: F.max_pool2d(
        x.masked_fill(~THERE, torch.finfo(x.dtype).min), 2
    ),
    "clamped to 0": lambda x: strided(x).clamp(min=0),
    "the mask of another image": lambda x: strided(x.flip(0)).flip(0),
    "the gradient of an empty window": lambda x: strided(x) + (
        F.max_pool2d(x, 2) - F.max_pool2d(x, 2).detach()
    ) * (strided(ONE + 1) == 0),
    "a mask that moved": lambda x: torch.where(
        strided(ONE + 1) > 0, F.max_pool2d(x.masked_fill(~THERE.roll(1, 3), -torch.inf), 2), 0
    ),
    "full images": lambda x: F.max_pool2d(x, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_maximum_on_a_mask_is_refuted(name: str) -> None:
    cert = cg.prove(WRONG[name], nn.MaxPool2d(2), ONE, mask=MASK)
    assert cert.verdict == "refuted", str(cert)
    assert " is " in cert.reason


def test_sites_of_a_maximum_are_named_or_follow_the_rule() -> None:
    sites = torch.tensor([[[1, 0], [1, 1]], [[0, 1], [0, 1]]]).bool()

    def named(x: Tensor) -> Tensor:
        return torch.where(sites.unsqueeze(1), strided(x), 0)

    assert cg.prove(named, nn.MaxPool2d(2), ONE, mask=MASK, sites=sites).verdict == "proven"
    assert cg.prove(named, nn.MaxPool2d(2), ONE, mask=MASK).verdict == "refuted"
    layer = cg.nn.GraphMaxPool2d(2)
    assert cg.prove(layer, nn.MaxPool2d(2), ONE, mask=MASK, sites=sites).verdict == "proven"
    for how in ({"sites": sites}, {"mask": MASK[:, :3]}, {"mask": MASK, "sites": MASK}):
        with pytest.raises(ProofError, match=r"mask|sites"):
            cg.prove(named, nn.MaxPool2d(2), ONE, **how)


def small_pool() -> nn.Module:
    return nn.MaxPool2d(2)


def small_layer() -> nn.Module:
    return cg.nn.GraphMaxPool2d(2)


def test_a_maximum_on_a_mask_is_verified_from_its_record() -> None:
    cert = certify(
        f"{__name__}:small_layer", f"{__name__}:small_pool", size=(2, 2), mask=MASK[:, :2, 2:]
    )
    assert cert.verdict == "proven", str(cert)
    code, lines = verifier.verify(cert.to_json(), trust=[*ADAPTERS, __name__])
    assert code == 0, lines
    assert replay(cert) == []


# -- spaces

TORUS, HALF, HEXAGONS = cg.Torus(), cg.Torus(rows=False), cg.Hexagonal()
PANORAMA, WRAPPED = cg.Equirectangular(), cg.Equirectangular(taps="wrap")


def placed(on: Any, *arguments: Any) -> Callable[[Tensor], Tensor]:
    layer = cg.nn.GraphMaxPool2d(*arguments)

    def run(x: Tensor) -> Tensor:
        image: Tensor = layer(cg.PixelGraph.from_image(x, on=on)).to_image()
        return image

    return run


SPACES = [
    (TORUS, ((1, 3), 1, (0, 1)), (2, 4)),
    (TORUS, ((1, 2),), (3, 4)),
    (HALF, ((1, 3), 1, (0, 1)), (2, 3)),
    (HEXAGONS, (3, 1, 1), (2, 3)),
    (WRAPPED, ((3, 1), 1, (1, 0)), (2, 4)),
    (PANORAMA, ((1, 3), 1, (0, 1)), (2, 4)),
    (cg.HEALPix(corner="absent"), (2,), (24, 2)),
]
LONG = [
    (TORUS, (3, 1, 1), (3, 4)),
    (PANORAMA, (3, 1, 1), (2, 4)),
    (WRAPPED, (3, 1, 1), (2, 4)),
    (HEXAGONS, (3, 1, 1), (4, 4)),
    *((cg.HEALPix(corner=how), (3, 1, 1), (24, 2)) for how in ("hpxpad", "mean", "absent")),
]


@pytest.mark.parametrize(
    ("on", "arguments", "size"),
    [*SPACES, *(pytest.param(*one, marks=pytest.mark.ci) for one in LONG)],
)
def test_a_maximum_in_a_space_is_proven(
    on: Any, arguments: tuple[Any, ...], size: tuple[int, int]
) -> None:
    layer, pool = cg.nn.GraphMaxPool2d(*arguments), nn.MaxPool2d(*arguments)
    cert = cg.prove(layer, pool, torch.zeros(2, 1, *size), on=on)
    assert (cert.verdict, cert.kind) == ("proven", "maximum"), str(cert)
    assert cert.spec["space"] == on.to_dict()


@pytest.mark.parametrize(
    ("run", "on", "arguments", "size"),
    [
        (lambda x: F.max_pool2d(x, 3, 1, 1), HEXAGONS, (3, 1, 1), (3, 3)),
        (lambda x: placed(HEXAGONS, 3, 1, 1)(x.flip(3)).flip(3), HEXAGONS, (3, 1, 1), (3, 3)),
        (placed(WRAPPED, 3, 1, 1), PANORAMA, (3, 1, 1), (2, 4)),
        (placed(PANORAMA, 3, 1, 1), WRAPPED, (3, 1, 1), (2, 4)),
        (placed(TORUS, 3, 1, 1), HALF, (3, 1, 1), (3, 4)),
        (lambda x: F.max_pool2d(x, 3, 1, 1), cg.HEALPix(), (3, 1, 1), (24, 2)),
    ],
    ids=["square", "other parity", "wrapped", "tangent", "another torus", "stacked faces"],
)
def test_a_maximum_of_another_space_is_refuted(
    run: Any, on: Any, arguments: Any, size: tuple[int, int]
) -> None:
    cert = cg.prove(run, nn.MaxPool2d(*arguments), torch.zeros(2, 1, *size), on=on)
    assert cert.verdict == "refuted", str(cert)


def test_shares_that_are_a_little_off_are_refuted() -> None:
    """What is read between pixels adds up to one; here it is 2^-12 more."""
    right = placed(PANORAMA, (1, 3), 1, (0, 1))
    wrong = cg.prove(
        lambda x: right(x * (1 + 2**-12)), nn.MaxPool2d((1, 3), 1, (0, 1)),
        torch.zeros(2, 1, 2, 4), on=PANORAMA,
    )  # fmt: skip
    assert wrong.verdict == "refuted", str(wrong)


def test_windows_that_no_space_has_are_refused() -> None:
    for pool in (nn.AdaptiveMaxPool2d(2), nn.MaxPool2d(2, ceil_mode=True)):
        with pytest.raises(ProofError, match="the judge has no"):
            cg.prove(cg.nn.GraphMaxPool2d(2), pool, size=(4, 4), on=TORUS)
