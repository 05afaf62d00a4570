"""Other people's packages as referees; a test that needs one skips where it is not installed."""

import importlib.util
import sys
import types
import warnings
from typing import Any

import pytest


def hexagdly(name: str) -> Any:
    """Return hexagdly, or its living fork pytorch_hexagdly."""
    return pytest.importorskip(name)


def indexedconv() -> Any:
    """Return indexedconv; the h5py that it imports for its data sets is not needed."""
    stub = "h5py" not in sys.modules and importlib.util.find_spec("h5py") is None
    if stub:
        sys.modules["h5py"] = types.ModuleType("h5py")
    try:
        return pytest.importorskip("indexedconv")
    finally:
        if stub:  # others look whether it is there
            del sys.modules["h5py"]


def healpy() -> Any:
    """Return healpy; what it and its dependencies warn of is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("healpy")


def physicsnemo_padding() -> Any:
    """Return physicsnemo's module of HEALPix paddings alone, without the package around it."""
    pytest.importorskip("jaxtyping")
    found = importlib.util.find_spec("physicsnemo")
    if found is None or not found.submodule_search_locations:
        pytest.skip("physicsnemo is not installed")
    path = f"{found.submodule_search_locations[0]}/nn/module/hpx/padding.py"
    check = types.ModuleType("physicsnemo.core.version_check")
    check.check_version_spec = lambda *_, **__: False  # type: ignore[attr-defined]
    stubs = {
        "physicsnemo": types.ModuleType("physicsnemo"),
        "physicsnemo.core": types.ModuleType("physicsnemo.core"),
        "physicsnemo.core.version_check": check,
    }
    before = {name: sys.modules.get(name) for name in stubs}
    sys.modules.update(stubs)
    try:
        spec = importlib.util.spec_from_file_location("physicsnemo_padding", path)
        if spec is None or spec.loader is None:
            pytest.skip("physicsnemo has no HEALPix padding")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        for name, old in before.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old
    return module


def fovi() -> tuple[Any, Any]:
    """Return fovi's layers and its retinas; the meshes that it only draws with are not needed."""
    stub = "trimesh" not in sys.modules and importlib.util.find_spec("trimesh") is None
    if stub:
        sys.modules["trimesh"] = types.ModuleType("trimesh")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return tuple(  # type: ignore[return-value]
                pytest.importorskip(name) for name in ("fovi.arch.knn", "fovi.sensing.coords")
            )
    finally:
        if stub:
            del sys.modules["trimesh"]
