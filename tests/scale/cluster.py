"""A network by tiles on a cluster of dask, of which a part dies.

python -m tests.scale.cluster HOW FOLDER
"worker" kills a worker in the middle; "whole" runs to the end, unless whoever started it kills it:
its worker is a thread of the scheduler's process, for both die at once.
What an image is read for is written into a log, so that a tile that was computed again shows.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import dask
import numpy as np
import zarr
from torch import nn

import convgraph as cg
from convgraph.scale.tiled import stored
from tests.scale.nets import networks, whole

TILE = 8


class Watched:
    """An image that says what of it was read, and takes its time."""

    def __init__(self, rows: Any, folder: str) -> None:
        self.rows, self.folder, self.shape = rows, folder, rows.shape

    def __getitem__(self, key: Any) -> Any:
        line = " ".join(f"{k.start}:{k.stop}" for k in key[1:]) + "\n"
        with open(Path(self.folder, "log"), "a", encoding="ascii") as log:
            log.write(line)
        time.sleep(0.2)
        return self.rows[key]


def job(folder: str) -> tuple[nn.Module, Any, Any, Any]:
    """Return the network, its image, where the output goes, and the array; begun or not."""
    net, x = whole(networks()["3x3"][0], (48, 40))
    image = Watched(x[0].numpy(), folder)
    shape = tuple(net(x).shape[1:])
    path = Path(folder, "out.zarr")
    if path.exists():
        goal = zarr.open_array(str(path), mode="r+")
    else:
        chunks = (shape[0], TILE, TILE)
        goal = zarr.create_array(str(path), shape=shape, chunks=chunks, dtype="f8")
    return net, x, goal, cg.tiled(net, image, tile=TILE, held=goal)


def holds(folder: str) -> set[str]:
    """Which chunks zarr holds, by name."""
    chunks = Path(folder, "out.zarr", "c", "0")
    return {f"{one.parent.name} {one.name}" for one in chunks.glob("*/*") if "." not in one.name}


def lines(folder: str) -> list[str]:
    """What was read so far, in order."""
    log = Path(folder, "log")
    return log.read_text(encoding="ascii").split("\n")[:-1] if log.exists() else []


def starts(folder: str) -> dict[str, str]:
    """Chunk -> its window of the image, which no other has."""
    cut = job(folder)[3].plan
    return {
        " ".join(map(str, number)): " ".join(f"{p[0]}:{p[-1] + 1}" for p in cut.ask(out)[0])
        for number, out in cut.parts()
    }


def right(folder: str) -> bool:
    """Whether what zarr holds is the whole."""
    net, x, goal, _ = job(folder)
    return np.array_equal(goal[:], net(x)[0].detach().numpy())


def main(how: str, folder: str) -> None:
    """Run it; the workers, and one more in the place of the killed, share what they import."""
    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    from distributed import Client, LocalCluster
    from distributed.utils import get_mp_context

    get_mp_context().set_forkserver_preload(["distributed.nanny", "tests.scale.cluster"])
    with (
        LocalCluster(
            n_workers=2 if how == "worker" else 1,
            processes=how == "worker",
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=50,
        ) as cluster,
        Client(cluster) as client,
    ):
        *_, goal, out = job(folder)
        running = client.compute(stored(out, goal))
        if how == "worker":
            while len(holds(folder)) < 6:
                time.sleep(0.02)
            pid = next(iter(client.run(os.getpid).values()))
            held = holds(folder)
            os.kill(pid, signal.SIGKILL)
            Path(folder, "killed").write_text(
                "\n".join([str(len(lines(folder))), *sorted(held)]), encoding="ascii"
            )
        running.result()


if __name__ == "__main__":
    main(*sys.argv[1:])
