"""Several threads: one record per full grid, one's own entry of a block, a first call in eight."""

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch

import convgraph as cg
from convgraph import backends
from convgraph.graph import sites
from tests.cases import holes


@pytest.fixture
def _often() -> Any:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_often")
def test_a_full_grid_has_one_record() -> None:
    together = Barrier(8)

    def make(n: int) -> Any:
        together.wait()
        return cg.Sites.full(1, (7, 11 + n))

    with ThreadPoolExecutor(8) as pool:
        for n in range(100):
            made = list(pool.map(make, [n] * 8))
            assert len({id(one) for one in made}) == 1


def test_the_record_that_was_there_first_is_kept() -> None:
    first = cg.Sites.full(1, (5, 7))
    other = sites.Sites(((5, 7),), None, d=2, device=torch.device("cpu"))
    other.token = first.token
    assert sites._interned(other) is first


def test_a_block_takes_its_own_entry_with_it() -> None:
    first, second = cg.backend("gather"), cg.backend("messages")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert backends.forced(None) == "messages"
    second.__exit__(None, None, None)
    assert backends.forced(None) is None


@pytest.mark.usefixtures("_often")
def test_eight_threads_call_first() -> None:
    torch.manual_seed(0)
    layer = cg.nn.GraphConv2d(3, 4, 3, stride=2, padding=1).double()
    image, mask = torch.randn(2, 3, 9, 8, dtype=torch.float64), holes(2, (9, 8))
    truth = layer(cg.PixelGraph.from_image(image, mask)).x
    for _ in range(10):
        graph, together = cg.PixelGraph.from_image(image, mask), Barrier(8)

        def call(_: int, graph: Any = graph, together: Any = together) -> Any:
            together.wait()
            return layer(graph).x

        with ThreadPoolExecutor(8) as pool:
            assert all(torch.equal(y, truth) for y in pool.map(call, range(8)))
