"""Measure how time and memory grow with the size of the problem.

python -m benchmarks.scaling [--part data batch length ranks] [--rows 1000 10000 100000 1000000] [--format mnre]

data: rows of a data set, from reading, checking images, encoding and the feature cache to loading batches.
batch, length: samples per training step, and sub-words per sentence, with the feature cache.
ranks: processes that train together.
"""

import argparse

from benchmarks.scaling_data import data
from benchmarks.scaling_step import batch, length, ranks
from benchmarks.workload import SIZES

PARTS = {"data": data, "batch": batch, "length": length, "ranks": ranks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--format", choices=["mnre", "twitter"], default="mnre")
    parser.add_argument("--size", choices=list(SIZES), default="base")
    options = parser.parse_args()
    for name in options.part:
        print(f"\n## {name}\n")
        PARTS[name](options)


if __name__ == "__main__":
    main()
