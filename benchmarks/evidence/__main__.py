"""Train all unfinished cells of a benchmark, then write its tables and figures.

python -m benchmarks.evidence benchmarks/evidence/frozen.yaml --data FOLDER --out FOLDER [--jobs 2]

An interrupted run resumes with the same command. With ``--report`` nothing is trained.
"""

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.evidence.config import PLAIN, Config, load_config
from benchmarks.evidence.report import write_report
from benchmarks.evidence.runner import train
from reference_models.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evidence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path, help="folder with the data sets; required for training")
    parser.add_argument("--out", type=Path, required=True, help="folder for features, cells, tables and figures")
    parser.add_argument("--jobs", type=int, default=1, help="number of processes, each with one thread (default: 1)")
    parser.add_argument("--half", choices=["design", "held_back"], help="use only the data sets of this half")
    parser.add_argument("--data-sets", nargs="+", metavar="NAME", help="use only these data sets")
    parser.add_argument("--arms", nargs="+", metavar="NAME", help=f"use only these arms and '{PLAIN}'")
    parser.add_argument("--report", action="store_true", help="only write tables and figures of the finished cells")
    parser.add_argument("--reference", default=PLAIN, metavar="ARM", help=f"compare with this arm (default: {PLAIN})")
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config)
        arms = [options.reference, *(config.arms if options.arms is None else options.arms)]
        config = select(config, options.half, options.data_sets, arms)
        if not options.report:
            if options.data is None:
                raise UserError("--data FOLDER is needed for training; add it, or use --report to train nothing")
            if options.jobs < 1:
                raise UserError(f"--jobs must be at least 1, got {options.jobs}")
            train(config, options.data, options.out, options.jobs)
        command = ["python", "-m", "benchmarks.evidence", *(sys.argv[1:] if arguments is None else arguments)]
        print(write_report(config, options.out, shlex.join(command), options.reference))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted: the same command resumes with the unfinished cells.", file=sys.stderr)
        return 130
    return 0


def select(config: Config, half: str | None, data_sets: list[str] | None, arms: list[str] | None) -> Config:
    """Return the configuration with only the selected data sets and arms.

    Raises:
        UserError: If a selected data set or arm is not in the configuration.
    """
    for what, wanted, known in (
        ("data set", data_sets, [data_set.name for data_set in config.data_sets]),
        ("arm", arms, list(config.arms)),
    ):
        if unknown := set(wanted or ()) - set(known):
            raise UserError(f"unknown {what} {', '.join(sorted(unknown))}; expected some of {', '.join(known)}")
    kept = tuple(
        data_set
        for data_set in config.data_sets
        if half in (None, data_set.half) and (data_sets is None or data_set.name in data_sets)
    )
    return replace(
        config,
        data_sets=kept,
        arms={name: arm for name, arm in config.arms.items() if arms is None or name in (PLAIN, *arms)},
    )


if __name__ == "__main__":
    sys.exit(main())
