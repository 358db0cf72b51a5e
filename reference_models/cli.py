"""Command-line interface `i2srm`: commands, options and error reporting."""

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

from reference_models import commands
from reference_models.config.checks import check_seed
from reference_models.errors import UserError
from reference_models.names import suggest
from reference_models.plugins import load_plugins

FIRST_STEPS = """\
Extract named entities and relations from posts and their images. First steps:

  i2srm demo --quick                       train on a synthetic data set; takes about a minute, downloads nothing
  i2srm data check FOLDER                  check your own data
  i2srm train DATA SYSTEM                  train; DATA and SYSTEM are YAML files or names such as mnre and i2srm
  i2srm report RUN                         write a one-page report about a run
  i2srm predict RUN --text "A sentence"    predict for one post
  i2srm app RUN                            try the model in a browser

Run i2srm --help to list all commands, and i2srm COMMAND --help to list the options of a command."""
SHELLS = ("bash", "zsh", "tcsh")
EXTRAS = {
    "gradio": "app",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "pyarrow": "parquet",
    "spacy": "grounding",
}  # extras of the packages that "reference" does not install
DATA = "data folder, YAML settings file, or one of mnre, twitter2015, twitter2017"
MODEL = "run directory, folder written by save_pretrained, or model on the Hugging Face Hub (user/model)"
WRONG_CHOICE = re.compile(r"invalid choice: '(.+)' \(choose from (.+)\)")  # message of argparse
INT8 = "run the text encoder in int8: approximate, and faster on CPUs with VNNI"
FAST_FLOAT32 = "use faster float32 products, about twice as fast on many CPUs; refused where they would lose accuracy"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command line without the program name; None for `sys.argv[1:]`.

    Returns:
        Exit code: 0 on success, 1 if a part of the work failed, 2 after a user error (printed as one line), 130 after
        an interrupt.
    """
    if not (sys.argv[1:] if arguments is None else arguments):
        print(FIRST_STEPS)
        return 0
    options = parse(arguments)
    first_process = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(format="%(message)s", level=logging.WARNING if first_process else logging.ERROR)
    # A path can contain bytes that are not UTF-8. Printing it must not fail.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        load_plugins()
        _check_seeds(options)
        failed = options.command(options)
    except UserError as error:
        return _print_error(str(error))
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        extra = EXTRAS.get(name, "reference")
        return _print_error(
            f"the package {name} is not installed; install what this command needs, in the folder of the repository: "
            f"pip install '.[{extra}]'"
        )
    except OSError as error:
        return _print_error(f"{error.filename or 'a file'}: {error.strerror or error}")
    except KeyboardInterrupt as stop:
        print(f"i2srm: interrupted; {stop}" if str(stop) else "i2srm: interrupted", file=sys.stderr)
        return 130
    return 1 if failed else 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line; its settings are in `overrides`. An error exits the program."""
    parser = _parser()
    words, overrides = _take_settings(sys.argv[1:] if arguments is None else arguments)
    options, others = parser.parse_known_args(words)
    overrides += others
    if overrides and options.command not in commands.TAKE_SETTINGS:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    options.overrides = overrides
    return options


def _take_settings(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into other words and settings; a setting has a dot and one value: `--training.epochs 5`."""
    others: list[str] = []
    settings: list[str] = []
    for number, word in enumerate(words):
        before = words[number - 1] if number else ""
        is_value = _is_setting(before) and "=" not in before and not word.startswith("--")
        (settings if is_value or _is_setting(word) else others).append(word)
    return others, settings


def _is_setting(word: str) -> bool:
    return word.startswith("--") and "." in word.partition("=")[0]


def _check_seeds(options: argparse.Namespace) -> None:
    """Check the seeds of a command, before it writes anything."""
    given = vars(options)
    if given.get("seed") is not None:
        check_seed("--seed", given["seed"])
    for seed in given.get("seeds") or ():
        check_seed("--seeds", seed)


def _print_error(message: str) -> int:
    print(f"i2srm: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _version() -> str:
    try:
        return version("attnmixup")
    except PackageNotFoundError:  # a source tree that is not installed
        return "(unknown version)"


class _Parser(argparse.ArgumentParser):
    """A parser that rejects abbreviated options (`--seed` does not mean `--seeds`) and suggests the nearest command."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Exit with a message, see `argparse`; for an unknown command or choice it suggests a similar one."""
        if wrong := WRONG_CHOICE.search(message):
            message += suggest(wrong[1], [name.strip("'") for name in wrong[2].split(", ")])
        super().error(message)


class _Completion(argparse.Action):
    """Print the shell completions of all commands and exit."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any, **_: Any) -> None:
        import shtab

        print(shtab.complete(parser, shell=given[1]))
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="i2srm", description="Multimodal named-entity and relation extraction with I2SRM.")
    parser.add_argument("--completion", action=_Completion, choices=SHELLS, help="print a shell completion script")
    parser.add_argument("--version", action="version", version=f"i2srm {_version()}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    demo = subparsers.add_parser("demo", help="train on a synthetic data set and show what the images add")
    demo.add_argument("--task", help="ner (entities) or re (relations) (default: both)")
    demo.add_argument("--quick", action="store_true", help="run of about a minute, with less data and fewer epochs")
    demo.add_argument("--seed", type=int, default=0, help="seed of data and training (default: %(default)s)")
    demo.add_argument("--jobs", type=int, default=2, help="models to train in parallel processes (default: 2)")
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("runs/demo"),
        help="new folder, or that of an interrupted demo (default: %(default)s)",
    )
    demo.set_defaults(command=commands.demo)

    data = subparsers.add_parser("data", help="check a data set, make object crops or tags, or write a synthetic set")
    data_commands = data.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    synthetic = data_commands.add_parser("synthetic", help="write a synthetic data set in the layout of the real ones")
    synthetic.add_argument("task", help="ner (entities) or re (relations)")
    synthetic.add_argument("root", type=Path, help="new folder for the data set")
    synthetic.add_argument("--train", type=int, help="number of training samples (default: as in the real data set)")
    synthetic.add_argument("--seed", type=int, default=0, help="seed of the data (default: %(default)s)")
    synthetic.set_defaults(command=commands.synthetic)
    crops = data_commands.add_parser(
        "crops",
        help="detect objects in the images and save them as crops",
        epilog="Settings can be added, for example --grounding.detector centre. i2srm train --help lists all settings.",
    )
    crops.add_argument("config", metavar="DATA", help=DATA)
    crops.set_defaults(command=commands.crops)
    tags = data_commands.add_parser(
        "tags",
        help="write tags that describe the images in words, for systems that read them",
        epilog="Settings can be added, for example --model.vision resnet50 or --grounding.detector torchvision.",
    )
    tags.add_argument("config", metavar="DATA", help=DATA)
    tags.add_argument(
        "--source",
        choices=["classes", "detector", "none"],
        default="classes",
        help="source of the tags: ImageNet classes of the image backbone (default), objects of a detector, or none",
    )
    tags.add_argument("--count", type=int, default=5, help="maximum number of tags per image (default: %(default)s)")
    tags.add_argument("--least", type=float, default=0.0, help="minimum probability of a class, 0 to 1 (default: 0)")
    tags.add_argument(
        "--texts",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE.jsonl",
        help='existing captions and other texts; one JSON line per image: {"image": "1.jpg", "caption": "", "ocr": ""}',
    )
    tags.set_defaults(command=commands.tags)
    check = data_commands.add_parser(
        "check", help="report counts and problems of a data set; exit code 1 if something would stop training"
    )
    check.add_argument("root", type=Path, help="folder of the data set")
    check.add_argument("--format", help="as data.format (default: detected from the folder)")
    check.add_argument("--text-only", action="store_true", help="do not check images")
    check.add_argument("--bad-images", choices=["error", "blank", "drop"], default="error", help="as data.bad_images")
    check.add_argument("--json", action="store_true", help="print JSON instead of a table")
    check.set_defaults(command=commands.check)

    train = subparsers.add_parser(
        "train", add_help=False, help="train a system on a data set; train DATA SYSTEM --help lists all settings"
    )
    train.add_argument("data", nargs="?", metavar="DATA", help=DATA)
    train.add_argument("system", nargs="?", metavar="SYSTEM", help="YAML file or name, such as hvpnet (default: i2srm)")
    train.add_argument("--output", help="run directory (default: named after DATA and SYSTEM)")
    train.add_argument(
        "--seeds", type=int, nargs="+", action="extend", help="train once per seed; report mean and standard deviation"
    )
    train.set_defaults(command=commands.train)

    sweep = subparsers.add_parser(
        "sweep",
        help="train a table of the paper and compare with its numbers, or train both modules in every system",
        epilog="Settings for all cells can be added, for example --training.epochs 5. Repeat the command to resume.",
    )
    sweep.add_argument(
        "table", metavar="TABLE", help="table1 to table6 of the paper, or plug-and-play (both modules in every system)"
    )
    sweep.add_argument(
        "--data",
        nargs="+",
        action="extend",
        default=[],
        help="mnre, twitter2015, twitter2017, synthetic-ner, synthetic-re (default: the data sets of the table)",
    )
    sweep.add_argument("--systems", nargs="+", action="extend", default=[], help="systems to train (default: all)")
    sweep.add_argument("--jobs", type=int, default=1, help="cells to train in parallel processes (default: 1)")
    sweep.add_argument("--seeds", type=int, nargs="+", action="extend", help="training seeds (default: 0 1 2)")
    sweep.add_argument("--output", type=Path, help="folder of the sweep (default: runs/TABLE)")
    sweep.add_argument("--list", action="store_true", help="list the cells and their states; train nothing")
    sweep.set_defaults(command=commands.sweep)

    evaluate = subparsers.add_parser(
        "evaluate",
        help="score the model of a run",
        epilog="Settings of the run can be changed, for example --data.root FOLDER.",
    )
    evaluate.add_argument("run", type=Path, metavar="RUN", help="run directory")
    evaluate.add_argument(
        "--split", choices=["train", "valid", "test"], default="test", help="split to score (default: %(default)s)"
    )
    evaluate.add_argument("--int8", action="store_true", help=INT8)
    evaluate.add_argument("--fast-float32", action="store_true", help=FAST_FLOAT32)
    evaluate.add_argument("--json", action="store_true", help="print all scores as JSON, from 0 to 1")
    evaluate.set_defaults(command=commands.evaluate)

    report = subparsers.add_parser(
        "report",
        help="write a one-page report about a run, report.html",
        epilog="Settings of the run can be changed, for example --data.root FOLDER.",
    )
    report.add_argument("run", type=Path, metavar="RUN", help="run directory")
    report.set_defaults(command=commands.report)

    predict = subparsers.add_parser(
        "predict",
        help="predict the entities of posts, or the relation between two entities; takes one post or files of posts",
        epilog="With --ground, settings can be added, for example --grounding.detector centre.",
    )
    predict.add_argument("model", metavar="MODEL", help=MODEL)
    predict.add_argument("--text", help="sentence; words are separated by spaces")
    predict.add_argument("--image", help="image file; also give its --crops, or --ground")
    predict.add_argument("--crops", nargs="+", action="extend", help="image files of the object crops")
    predict.add_argument("--head", help="for relations: head entity, exactly as in the sentence")
    predict.add_argument("--tail", help="for relations: tail entity, exactly as in the sentence")
    predict.add_argument(
        "--input",
        type=Path,
        nargs="+",
        action="extend",
        metavar="POSTS.jsonl",
        help="files of posts, instead of --text; one JSON object per line",
    )
    predict.add_argument(
        "--output",
        type=Path,
        metavar="FILE.jsonl",
        help="predictions for --input, one record per line; a folder for several files or with --jobs",
    )
    predict.add_argument("--jobs", type=int, help="number of processes that share the files of --input (default: 1)")
    predict.add_argument("--ground", action="store_true", help="detect objects in images without crops")
    predict.add_argument("--int8", action="store_true", help=INT8)
    predict.add_argument("--fast-float32", action="store_true", help=FAST_FLOAT32)
    predict.add_argument(
        "--onnx",
        type=Path,
        metavar="FOLDER",
        help="run the graphs of i2srm export with ONNX Runtime; fast for single posts",
    )
    predict.set_defaults(command=commands.predict)

    export = subparsers.add_parser("export", help="export a model as ONNX graphs, for ONNX Runtime and other programs")
    export.add_argument("model", metavar="MODEL", help=MODEL)
    export.add_argument("folder", type=Path, help="output folder for the graphs")
    export.set_defaults(command=commands.export)

    app = subparsers.add_parser(
        "app",
        help="try a model in a browser and compare its predictions with and without images",
        epilog="Settings can be added, for example --grounding.detector centre or --data.root FOLDER.",
    )
    app.add_argument("model", metavar="MODEL", help=f"{MODEL}; a Hub model must already be downloaded")
    app.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")
    app.add_argument("--port", type=int, help="port to listen on (default: first free port from 7860)")
    app.set_defaults(command=commands.app)
    return parser


if __name__ == "__main__":
    sys.exit(main())
