"""The zoo of published networks: python -m tests.convert.zoo, or `make zoo`."""

from tests.convert.zoo.run import arguments, run
from tests.convert.zoo.table import write

if __name__ == "__main__":
    given = arguments()
    if given.table is None:
        run(given)
    else:
        write(given.results, given.table)
