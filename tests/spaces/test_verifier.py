"""Records made with on=: the verifier's own geometry, a third one, finds again what holds."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import convgraph as cg
from convgraph.comparison.named import ADAPTERS, certify, replay
from convgraph.memo import forget
from convgraph.proof import Certificate, ConvSpec, Oracle, verifier, verifier_spaces
from convgraph.proof.layer.structure import locally_square
from convgraph.proof.record.certificate import digest
from convgraph.spaces import healpix
from tests.spaces.cases import KERNELS, SPACES

TRUSTED = [*ADAPTERS, "tests.twins"]
IDS = [str(space) for space, _ in SPACES]

WIDE: list[dict[str, Any]] = [
    *KERNELS,
    {"kernel_size": 4, "stride": 2, "padding": 1, "transposed": True},
    {"kernel_size": 9, "padding": 4},
    {"kernel_size": 3, "padding": 1, "footprint": (True, False) * 4 + (True,)},
]


def spec_of(space: Any, size: tuple[int, int], **kernel: Any) -> ConvSpec:
    """Return the numbers of a convolution in a space, one image with holes."""
    pair = {
        name: value if isinstance(value, tuple) else (value, value)
        for name, value in kernel.items()
        if name in ("kernel_size", "stride", "padding", "dilation")
    }
    pads = tuple((n, n) for n in pair.get("padding", (0, 0)))
    kernel = {**kernel, **pair, "padding": pads}
    there = np.random.default_rng(7).random((2, *size)) > 0.3
    there[0] = True
    return ConvSpec(2, 2, size=size, space=space.to_dict(), source_mask=there, **kernel)


def verify(text: str) -> tuple[int, list[str]]:
    return verifier.verify(text, trust=TRUSTED)


def forged(found: Certificate, **change: Any) -> str:
    """Return the record changed, by somebody who knows how digests go."""
    record = {**json.loads(found.to_json()), **change}
    record["digest"] = digest(record)
    return json.dumps(record, indent=2)


@pytest.mark.parametrize(
    ("space", "size"), [*SPACES, (cg.Equirectangular(), (8, 12))], ids=[*IDS, "pixels of two sides"]
)
def test_its_truth_is_the_oracles(space: Any, size: tuple[int, int]) -> None:
    """Two geometries, written apart, against each other: sums, gradients, what is square.

    A panorama whose pixels are no squares tells the steps of its rows and columns apart.
    """
    rng = np.random.default_rng(5)
    for kernel in WIDE:
        spec = spec_of(space, size, **kernel)
        oracle, plain = Oracle(spec), json.loads(json.dumps(spec.to_dict()))
        truth, shapes = verifier.convolution(plain)
        x, w, *bias, g = (rng.integers(-9, 10, shape).astype(float) for shape in shapes)
        found = verifier.evaluate(truth, [x, w, *bias, g], torch.float64)
        assert np.array_equal(found["y"], oracle.convolve(x, w, *bias)), kernel
        assert np.array_equal(found["grad_x"], oracle.grad_x(w, g)), kernel
        assert np.array_equal(found["grad_w"], oracle.grad_w(x, g)), kernel
        square, words = (
            locally_square(oracle),
            verifier_spaces.locally_square(plain, oracle.out_size, verifier.typed_edges),
        )
        assert words == (
            "" if square is None else "; locally square at {} of {} sites".format(*square)
        )


def test_typed_edges_have_a_formula_too() -> None:
    """A list is a space of its own."""
    rng = np.random.default_rng(1)
    source, target, tap = (rng.integers(0, most, 40).tolist() for most in (9, 9, 3))
    space = {"kind": "edges", "source": source, "target": target, "tap": tap}
    spec = ConvSpec(2, 3, (3,), (9,), padding=((1, 1),), space=space)
    truth, shapes = verifier.convolution(json.loads(json.dumps(spec.to_dict())))
    x, w, b, g = (rng.integers(-9, 10, s).astype(float) for s in shapes)
    found = verifier.evaluate(truth, [x, w, b, g], torch.float64)
    assert np.array_equal(found["y"], Oracle(spec).convolve(x, w, b))
    assert np.array_equal(found["grad_w"], Oracle(spec).grad_w(x, g))


def test_a_sphere_is_square_but_for_its_edges() -> None:
    """(30 / 32)^2 of the sites of a 3 x 3 kernel at nside 32."""
    spec = ConvSpec(1, 1, (3, 3), (384, 32), 1, padding=((1, 1),) * 2, space=cg.HEALPix().to_dict())
    assert locally_square(Oracle(spec)) == (12 * 30**2, 12 * 32**2)


@pytest.mark.parametrize(("space", "size"), SPACES, ids=IDS)
def test_a_record_in_a_space_is_found_again(space: Any, size: tuple[int, int]) -> None:
    found = certify("tests.twins:graph", "tests.twins:dense", size=size, on=space, seed=3)
    assert found.verdict == "proven", found.reason
    assert found.adapter["reference"] == "convgraph.comparison.callers:truth"
    assert verify(found.to_json()) == (0, ["the record holds: proven"])
    assert ("locally square" in found.parts[0].facts) == (space.to_dict()["kind"] != "hexagonal")
    if size == (48, 4):
        assert replay(found) == []


def test_masks_and_footprints_are_found_again() -> None:
    for more in (
        {"on": cg.HEALPix(), "mask": torch.rand(2, 48, 4) > 0.3, "size": (48, 4)},
        {"footprint": "cross", "size": (6, 5)},
    ):
        side = "tests.twins:crossed" if "footprint" in more else "tests.twins:graph"
        found = certify(side, "tests.twins:dense", **more)
        assert found.verdict == "proven", found.reason
        assert verify(found.to_json()) == (0, ["the record holds: proven"])
        assert replay(found) == []


def test_another_space_and_another_count_are_refused() -> None:
    """What a record says of its geometry is worked out again."""
    found = certify("tests.twins:graph", "tests.twins:dense", size=(48, 4), on=cg.HEALPix())
    for space in (cg.HEALPix("mean"), cg.HEALPix("absent"), cg.Torus()):
        code, lines = verify(forged(found, spec={**found.spec, "space": space.to_dict()}))
        assert code == 1, (space, lines)
    assert "; locally square at 96 of 384 sites" in found.parts[0].facts
    first = json.loads(found.to_json())["parts"]
    first[0]["facts"] = first[0]["facts"].replace("at 96 of", "at 97 of")
    code, lines = verify(forged(found, parts=first))
    assert code == 1
    assert lines[0].startswith("parts: S0 structure")


def test_a_kind_of_space_that_is_not_known_is_no_plane() -> None:
    spec = spec_of(cg.Torus(), (4, 6), kernel_size=3, padding=1)
    plain = json.loads(json.dumps(spec.to_dict()))
    plain["space"]["kind"] = "moebius"
    with pytest.raises(ValueError, match="no space of kind 'moebius'"):
        verifier.typed_edges(plain, [4, 6])


def test_a_turned_face_is_found_by_a_record_that_denies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault stands in the library when the record is verified, not when it was made."""
    found = certify("tests.twins:graph", "tests.twins:dense", size=(48, 4), on=cg.HEALPix())
    right = healpix.walked
    forget()
    monkeypatch.setattr(healpix, "walked", lambda f, i, j, n, corner: right(f, i, j, n, "mean"))
    try:
        code, lines = verify(found.to_json())
    finally:
        monkeypatch.undo()
        forget()
    assert code == 1
    assert "verdict" in lines[-1]


def test_a_refutation_is_found_again() -> None:
    """The dense layer of the plane is none of the torus."""
    found = certify("tests.twins:dense", "tests.twins:dense", size=(6, 5), on=cg.Torus())
    assert found.verdict == "refuted"
    code, lines = verify(found.to_json())
    assert (code, lines) == (1, ["the record holds: refuted"])


def test_the_file_beside_is_needed_and_is_enough(tmp_path: Path) -> None:
    """In a folder where no package can be imported; the reference is a plain function."""
    found = certify("tests.twins:graph", "tests.twins:dense", size=(6, 5), on=cg.Torus())
    record = {**json.loads(found.to_json()), "candidate": "plain:conv", "reference": "plain:conv"}
    record |= {"adapter": {"candidate": "function", "reference": "function"}, "name": "plain:conv"}
    record["rho"] = dict.fromkeys(record["rho"], 0.0)  # one function, twice
    record["digest"] = digest(record)
    (tmp_path / "plain.py").write_text(
        "import torch\n\ndef conv(x, w, b):\n"
        "    x = torch.nn.functional.pad(x, (1, 1, 1, 1), mode='circular')\n"
        "    return torch.nn.functional.conv2d(x, w, b)\n"
    )
    (tmp_path / "convgraph.py").write_text("raise RuntimeError('borrowed')\n")
    (tmp_path / "certificate.json").write_text(json.dumps(record, indent=2))
    here = Path(verifier.__file__).parent
    said = []
    for name in ("verifier.py", "verifier_spaces.py"):
        shutil.copy(here / name, tmp_path)
        run = subprocess.run(
            [sys.executable, "verifier.py", "certificate.json", "--trust", "plain"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "borrowed" not in run.stderr
        said.append((run.returncode, run.stdout))
    assert said[0][0] == 2
    assert "needs verifier_spaces.py beside this file" in said[0][1]
    assert said[1] == (0, "the record holds: proven\n")
    assert "convgraph" not in (here / "verifier_spaces.py").read_text(encoding="utf-8")


POOLS: list[tuple[Any, tuple[int, int]]] = [
    (cg.Torus(), (8, 12)),
    (cg.Torus(rows=False), (8, 12)),
    (cg.HEALPix(), (48, 4)),
    (cg.Equirectangular("wrap"), (8, 16)),
]


@pytest.mark.parametrize(("space", "size"), POOLS, ids=lambda v: str(v))
def test_pools_and_resizes_are_proven_in_their_space(space: Any, size: tuple[int, int]) -> None:
    """Beside the dense operator with the judge's margins; the plane's own is refuted there."""
    pairs = [
        (cg.nn.GraphAvgPool2d(4, stride=2, padding=1), torch.nn.AvgPool2d(4, stride=2, padding=1)),
        (
            cg.nn.GraphUpsample(scale_factor=2, mode="bilinear"),
            torch.nn.Upsample(scale_factor=2, mode="bilinear"),
        ),
    ]
    for layer, dense in pairs:
        found = cg.prove(layer, dense, size=size, on=space)
        assert found.verdict == "proven", found.reason
        assert found.spec["space"] == space.to_dict()
        assert cg.prove(dense, dense, size=size, on=space).verdict == "refuted"


def test_a_pools_record_is_run_again() -> None:
    found = certify(
        "tests.twins:wide_pool", "tests.twins:dense_wide_pool", size=(8, 12), on=cg.Torus()
    )
    assert found.verdict == "proven", found.reason
    assert verify(found.to_json()) == (0, ["the record holds: proven"])
    assert replay(found) == []
    plane = replace(found, spec={**found.spec, "space": cg.Torus(rows=False).to_dict()})
    assert verify(plane.to_json())[0] == 1
