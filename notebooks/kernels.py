"""Run a command whose Jupyter kernels are forked from one process that has imported convgraph.

    python notebooks/kernels.py COMMAND ...

A kernel imports torch for seconds before its first cell; sixteen lessons import it once. The kernel
`python3` that the command finds is this file again, with a socket and the connection file: it asks
for a fork and hands over its environment, and neither of the two outlives the other. What is forked has
computed nothing, so that no thread is lost, and a lesson sees nothing of another one.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import NoReturn


def main(*command: str) -> int:
    """Return how the command ended."""
    with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as door:
        address, spec = f"{folder}/door", Path(folder, "kernels/python3/kernel.json")
        door.bind(address)
        door.listen()
        argv = [sys.executable, __file__, "--ask", address, "{connection_file}"]
        spec.parent.mkdir(parents=True)
        spec.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
        server = os.fork()
        if server == 0:
            serve(door)
        try:
            found = subprocess.run(command, env={**os.environ, "JUPYTER_PATH": folder}, check=False)
        finally:
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)
    return found.returncode


def ask(address: str, connection: str) -> None:
    """Be a kernel to whoever started this: ask for a fork, and wait until it ends."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(address)
        line.sendall(json.dumps([connection, os.getcwd(), dict(os.environ)]).encode() + b"\n")
        line.recv(1)


def serve(door: socket.socket) -> NoReturn:
    """Import what lessons import, and fork a kernel for each who asks."""
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as a kernel would
    import ipykernel.kernelapp
    import matplotlib.pyplot  # noqa: F401

    import convgraph  # noqa: F401

    while True:
        line, _ = door.accept()
        if os.fork() == 0:
            connection, place, environment = json.loads(line.makefile().readline())
            os.environ.update(environment)
            os.chdir(place)
            sys.path[0] = ""  # where a kernel looks first
            Thread(target=ends_with, args=(line,), daemon=True).start()
            # It ends with this server, too; that nobody encrypts what stays on this machine is known.
            more = [f"--IPKernelApp.parent_handle={os.getppid()}", "--log-level=ERROR"]
            ipykernel.kernelapp.launch_new_instance(["-f", connection, *more])
            os._exit(0)
        line.close()


def ends_with(line: socket.socket) -> NoReturn:
    """End this process once whoever asked for it is gone."""
    line.recv(1)
    os._exit(1)


if __name__ == "__main__":
    if sys.argv[1] == "--ask":
        ask(*sys.argv[2:])
    else:
        sys.exit(main(*sys.argv[1:]))
