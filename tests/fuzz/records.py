"""Damaged certificates: cut, spliced, retyped, renamed and sealed again by somebody who knows how.

`Certificate.from_json` has to raise ProofError or to return; `verify`, which trusts nobody here,
has to answer with an exit code and lines. Neither may import what the record names.
"""

import json
import random
import sys
from contextlib import suppress
from copy import deepcopy
from typing import Any

import torch

import convgraph as cg
from convgraph.comparison.named import ADAPTERS
from convgraph.errors import ProofError
from convgraph.proof import Certificate
from convgraph.proof.record.certificate import digest
from convgraph.proof.verifier import verify
from tests.fuzz.campaign import campaign, options
from tests.fuzz.children import Found

VALUES: list[Any] = [
    None, True, 0, -1, 1.5, 1e308, 2**70, "", "x", "0", [], {}, [[]], {"a": 1}, [None] * 3, "nan",
    "shutil:rmtree(os:curdir)", "os:abort", "antigravity:x", "torch.hub:load", "convgraph:x(y:z)",
]  # fmt: skip


def whole() -> str:
    """A record that holds."""
    conv = torch.nn.Conv2d(2, 3, 3)
    return cg.prove(cg.nn.GraphConv2d.from_dense(conv), conv, size=(5, 5), seed=1).to_json()


def draw(dice: random.Random, text: str) -> str:
    """Damage a record."""
    record = json.loads(text)
    kind = dice.randrange(6)
    if kind == 0:
        cut = dice.randrange(len(text))
        return text[:cut]
    if kind == 1:
        at = dice.randrange(len(text))
        return text[:at] + dice.choice("[]{},:\\x00e9-") + text[at + 1 :]
    for _ in range(dice.choice([1, 1, 2, 4])):
        _spoil(record, dice)
    if kind == 2 and isinstance(record.get("layers"), list):
        record["layers"] = [json.loads(text)] * dice.choice([1, 3])
    if kind != 3:
        try:
            record["digest"] = digest(record)
        except (ValueError, TypeError, AttributeError):
            return text[: len(text) // 2]
    return json.dumps(record, indent=2)


def _spoil(record: dict[str, Any], dice: random.Random) -> None:
    at: Any = record
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        if not keys:
            return
        key = dice.choice(keys)
        deeper = isinstance(at[key], (dict, list)) and at[key] and dice.random() < 0.6
        if not deeper:
            break
        at = at[key]
    if dice.random() < 0.2 and isinstance(at, dict):
        del at[key]
    else:
        at[key] = deepcopy(dice.choice(VALUES))


def judge(text: str) -> str:
    """Return "", or what went wrong."""
    named = ("shutil", "antigravity", "torch.hub")
    before = {name for name in named if name in sys.modules}
    with suppress(ProofError):
        Certificate.from_json(text)
    code, lines = verify(text, trust=ADAPTERS)
    if code not in (0, 1, 2) or not lines:
        return f"answers {code}, {lines}"
    if {name for name in named if name in sys.modules} != before:
        return "imported what the record names"
    return ""


def search(count: int, seed: int, seconds: float) -> tuple[int, list[Found]]:
    """Return how many records were read, and what was wrong."""
    torch.set_num_threads(1)
    dice, text = random.Random(seed), whole()
    drawn = (draw(dice, text) for _ in range(count))
    return campaign(drawn, judge, seconds, at_once=200, together=200)


def main() -> int:
    """Print what was found; 1 if anything was."""
    given = options(__doc__, 2000).parse_args()
    done, wrong = search(given.draws, given.seed, given.seconds)
    for found in wrong[:20]:
        sys.stdout.write(f"{found.what}: {str(found.draw)[:200]}\n")
    sys.stdout.write(f"{done} damaged records, {len(wrong)} wrong\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
