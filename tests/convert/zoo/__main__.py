"""The zoo of published networks: python -m tests.convert.zoo, or `make zoo`."""

from tests.convert.zoo.run import arguments, run

if __name__ == "__main__":
    run(arguments())
