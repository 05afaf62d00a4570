"""One thread for these tests: many small networks, on which a second one waits more than it helps.

It waits actively, too: where others want the cores, a test of four seconds took twenty-seven.
"""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
