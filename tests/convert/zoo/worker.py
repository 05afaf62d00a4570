"""A worker of the zoo: reads a network a line, answers with a record a line.

python -m tests.convert.zoo.worker GIB
"""

import json
import os
import resource
import sys
import warnings

import torch

from tests.convert.zoo.catalogue import Entry, declare
from tests.convert.zoo.judge import judge


def main() -> None:
    limit = int(float(sys.argv[1]) * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    declare()
    for line in sys.stdin:
        name, size, channels = json.loads(line)
        answers.write(json.dumps(judge(Entry(name, size, channels))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
