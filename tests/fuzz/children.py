"""Draws judged in children, so that a crash is an answer: many in one, and alone where one died."""

import faulthandler
import os
import pickle
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

PATIENCE = 60.0
"""Seconds without an answer after which a child hangs."""


@dataclass(frozen=True)
class Found:
    """What is wrong with one draw.

    Attributes:
        draw: what was drawn.
        what: a difference in words, "SIGSEGV" and the like, or "no answer".
    """

    draw: Any
    what: str


def attacked(
    draws: list[Any], judge: Callable[[Any], str], together: int = 100
) -> Iterator[Found | None]:
    """Yield, for each draw, what is wrong with it, or None.

    Args:
        draws: whatever `judge` takes; it is forked, so nothing needs to be importable.
        judge: returns "" or what is wrong; may crash or hang.
        together: draws that share a child as long as it lives.
    """
    for start in range(0, len(draws), together):
        batch = draws[start : start + together]
        answers, died = _child(batch, judge)
        if not died:
            yield from (Found(d, a) if a else None for d, a in zip(batch, answers, strict=True))
            continue
        alone = [_child([draw], judge) for draw in batch]
        found = [
            Found(draw, end or "".join(answer)) if end or any(answer) else None
            for draw, (answer, end) in zip(batch, alone, strict=True)
        ]
        if not any(found):  # memory was spoilt, and somebody else tripped over it
            found[len(answers)] = Found(batch[: len(answers) + 1], f"{died} after many")
        yield from found


def _child(draws: list[Any], judge: Callable[[Any], str]) -> tuple[list[str], str]:
    """Return the answers of a child, and what it died of."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        faulthandler.disable()  # how it died is the answer
        for draw in draws:
            try:
                answer = judge(draw)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is an answer
                answer = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            packed = pickle.dumps(answer)
            os.write(write, len(packed).to_bytes(4, "big") + packed)
        os._exit(0)
    os.close(write)
    answers: list[str] = []
    last, end = time.monotonic(), ""
    with os.fdopen(read, "rb", buffering=0) as pipe:
        while True:
            ready, _, _ = select.select([pipe], [], [], 1.0)
            if not ready:
                if time.monotonic() - last > PATIENCE:
                    os.kill(child, signal.SIGKILL)
                    end = "no answer"
                continue
            head = _exactly(pipe, 4)
            body = _exactly(pipe, int.from_bytes(head, "big"))
            if len(head) < 4:
                break
            answers.append(pickle.loads(body))
            last = time.monotonic()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        end = end or signal.Signals(os.WTERMSIG(status)).name
    elif os.WEXITSTATUS(status):
        end = end or f"exit {os.WEXITSTATUS(status)}"
    return answers, end


def _exactly(pipe: Any, count: int) -> bytes:
    found = b""
    while len(found) < count:
        more = pipe.read(count - len(found))
        if not more:
            break
        found += more
    return found
