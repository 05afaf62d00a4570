"""Malformed calls by a grammar: one argument of a public call is of another kind, shape or dtype.

A call has to succeed, or to raise an error of ours; a raw error of Python or torch is a finding.
What is called stands in `publics`.
"""

import random
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from convgraph.errors import ConvgraphError
from tests.fuzz.campaign import campaign, options
from tests.fuzz.children import Found
from tests.fuzz.publics import CALLS


def _floats(v: Any) -> bool:
    return isinstance(v, torch.Tensor) and v.is_floating_point()


VALUES: dict[str, Callable[[Any], Any]] = {
    "None": lambda v: None,
    "a string": lambda v: "three",
    "a number": lambda v: 3,
    "an empty string": lambda v: "",
    "bytes": lambda v: b"x",
    "negative numbers": lambda v: (-1, -2),
    "zeros": lambda v: (0, 0),
    "three numbers": lambda v: (2, 2, 2),
    "numbers in numbers": lambda v: [[1, 2], [3]],
    "floats": lambda v: (1.5, 2.5),
    "strings": lambda v: ["a", "b"],
    "a set": lambda v: {1, 2},
    "a generator": lambda v: (n for n in (1, 2)),
    "a function": lambda v: lambda *given: given,
    "infinity": lambda v: float("inf"),
    "minus a fraction": lambda v: -0.5,
    "numpy's number": lambda v: np.float32(2.5),
    "numpy's object": lambda v: np.array([None, "x"], dtype=object),
    "a dtype": lambda v: torch.int32,
    "a missing device": lambda v: "cuda:7",
    "an ellipsis": lambda v: ...,
    "a slice": lambda v: slice(None),
    "zero": lambda v: 0,
    "minus one": lambda v: -1,
    "a float": lambda v: 1.5,
    "nan": lambda v: float("nan"),
    "a large number": lambda v: 2**62,
    "True": lambda v: True,
    "complex": lambda v: 1j,
    "an array": lambda v: np.ones((2, 3, 4, 5), dtype=np.float32),
    "a list": lambda v: [1, 2, 3],
    "an empty list": lambda v: [],
    "a dict": lambda v: {"a": 1},
    "a class": lambda v: torch.nn.Conv2d,
    "an object": lambda v: object(),
    "a scalar tensor": lambda v: torch.tensor(1.0),
    "an image": lambda v: torch.rand(2, 3, 4, 5),
    "no elements": lambda v: torch.rand(0, 3, 4, 5),
    "integers": lambda v: v.long() if isinstance(v, torch.Tensor) else torch.ones(3).long(),
    "complex numbers": lambda v: v.cfloat() if isinstance(v, torch.Tensor) else torch.ones(3) * 1j,
    "bools": lambda v: v.bool() if isinstance(v, torch.Tensor) else torch.ones(3).bool(),
    "halves": lambda v: v.half() if isinstance(v, torch.Tensor) else torch.ones(3).half(),
    "doubles": lambda v: v.double() if isinstance(v, torch.Tensor) else torch.ones(3).double(),
    "fractions": lambda v: (
        v + 0.7 if isinstance(v, torch.Tensor) and v.dtype != torch.bool else 0.7
    ),
    "eighths": lambda v: torch.ones(2, 3, 4, 5).to(torch.float8_e4m3fn),
    "sparse": lambda v: v.to_sparse() if isinstance(v, torch.Tensor) else torch.eye(3).to_sparse(),
    "on meta": lambda v: v.to("meta") if isinstance(v, torch.Tensor) else torch.ones(3).to("meta"),
    "nested": lambda v: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "one axis more": lambda v: v.unsqueeze(0) if isinstance(v, torch.Tensor) else (v, v),
    "one axis less": lambda v: v[0] if isinstance(v, torch.Tensor) and v.dim() else v,
    "shorter": lambda v: v[:-1] if isinstance(v, torch.Tensor) and v.dim() else v,
    "longer": lambda v: torch.cat([v, v]) if isinstance(v, torch.Tensor) and v.dim() else [v, v],
    "turned": lambda v: v.mT if isinstance(v, torch.Tensor) and v.dim() > 1 else v,
    "not a number": lambda v: v * torch.nan if _floats(v) else torch.full((3,), torch.nan),
    "minus": lambda v: -v if _floats(v) else torch.full((3,), -1),
    "brain floats": lambda v: v.bfloat16() if isinstance(v, torch.Tensor) else torch.ones(3).half(),
    "a leaf": lambda v: (
        v.clone().requires_grad_() if _floats(v) else torch.ones(3).requires_grad_()
    ),
    "spread out": lambda v: v.unsqueeze(-1).expand(*v.shape, 2) if _floats(v) else v,
    "a device": lambda v: torch.device("meta"),
    "a module": lambda v: torch.nn.ReLU(),
}
"""Name -> what stands in an argument's place."""


def draw(dice: random.Random) -> tuple[str, str, str]:
    """Draw a call, one of its arguments, and what stands in its place."""
    call = dice.choice(list(CALLS))
    return call, dice.choice(list(CALLS[call][1]())), dice.choice(list(VALUES))


def judge(drawn: tuple[str, str, str]) -> str:
    """Return "", or the raw error."""
    call, argument, value = drawn
    function, arguments = CALLS[call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = arguments()
        try:
            given[argument] = VALUES[value](given[argument])
        except (RuntimeError, TypeError, NotImplementedError):
            return ""  # torch itself has no such thing
        try:
            function(**given)
        except ConvgraphError as error:
            return "" if len(str(error)) > 10 else f"says nothing: {error}"
    return ""


def search(count: int, seed: int, seconds: float) -> tuple[int, list[Found]]:
    """Return how many calls were made, and which raised something raw."""
    torch.set_num_threads(1)
    every = [(c, a, v) for c in CALLS for a in CALLS[c][1]() for v in VALUES]
    random.Random(seed).shuffle(every)
    return campaign(every[:count], judge, seconds, at_once=200, together=200)


def main() -> int:
    """Print what was found; 1 if anything was."""
    given = options(__doc__, 10**6).parse_args()
    done, wrong = search(given.draws, given.seed, given.seconds)
    for found in wrong:
        sys.stdout.write(f"{found.draw}: {found.what}\n")
    sys.stdout.write(f"{done} malformed calls, {len(wrong)} raised something raw\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
