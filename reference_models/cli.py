"""`i2srm` on the command line: its commands and their options, and how mistakes are told."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from reference_models import commands
from reference_models.errors import UserError
from reference_models.plugins import load_plugins

FIRST_STEPS = """\
Named entities and relations from posts and their images. What to do first:

  i2srm demo --quick                       see it work: trains on a synthetic set in a minute, downloads nothing
  i2srm data check FOLDER                  look over data of your own
  i2srm train DATA SYSTEM                  train; DATA and SYSTEM are YAML files or names such as mnre and i2srm
  i2srm report RUN                         see on one page what a run has learnt
  i2srm predict RUN --text "A sentence"    use it
  i2srm app RUN                            use it in a browser

i2srm --help lists all commands, and i2srm COMMAND --help their options."""
SHELLS = ("bash", "zsh", "tcsh")
EXTRAS = {
    "gradio": "app",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "spacy": "grounding",
}  # of packages that "reference" does not bring
DATA = "a folder of data, a YAML file of settings, or mnre, twitter2015, twitter2017"
MODEL = "folder of a run, or of a model that save_pretrained wrote, or a model on the Hugging Face hub as in user/model"
INT8 = "compute the text encoder in int8: rounded, and faster on a CPU with VNNI"
FAST_FLOAT32 = "faster float32 products, about twice as fast on many CPUs; refused where they would lose accuracy"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns 0, 1 if a part of it failed, or 2 after one line about a user's mistake."""
    if not (sys.argv[1:] if arguments is None else arguments):
        print(FIRST_STEPS)
        return 0
    options = parse(arguments)
    first_process = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(format="%(message)s", level=logging.WARNING if first_process else logging.ERROR)
    # A path may hold bytes that are no UTF-8; printing it is no reason to stop.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        load_plugins()
        failed = options.command(options)
    except UserError as error:
        return _complain(str(error))
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        extra = EXTRAS.get(name, "reference")
        return _complain(
            f"the package {name} is not installed; pip install 'attnmixup[{extra}]' brings what this command needs"
        )
    except OSError as error:
        return _complain(f"{error.filename or 'a file'}: {error.strerror or error}")
    except KeyboardInterrupt as stop:
        print(f"i2srm: interrupted; {stop}" if str(stop) else "i2srm: interrupted", file=sys.stderr)
        return 130
    return 1 if failed else 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line, and the settings among them as `overrides`; a mistake ends the program."""
    parser = _parser()
    words, overrides = _take_settings(sys.argv[1:] if arguments is None else arguments)
    options, others = parser.parse_known_args(words)
    overrides += others
    if overrides and options.command not in commands.TAKE_SETTINGS:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    options.overrides = overrides
    return options


def _take_settings(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The other words of a command line, and its settings, which have a dot and one value: `--training.epochs 5`."""
    others: list[str] = []
    settings: list[str] = []
    for number, word in enumerate(words):
        before = words[number - 1] if number else ""
        is_value = _is_setting(before) and "=" not in before and not word.startswith("--")
        (settings if is_value or _is_setting(word) else others).append(word)
    return others, settings


def _is_setting(word: str) -> bool:
    return word.startswith("--") and "." in word.partition("=")[0]


def _complain(message: str) -> int:
    print(f"i2srm: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _version() -> str:
    try:
        return version("attnmixup")
    except PackageNotFoundError:  # a source tree that is not installed
        return "of an unknown version"


class _Parser(argparse.ArgumentParser):
    """A parser that takes no option by its beginning: `--seed` is not `--seeds`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)


class _Completion(argparse.Action):
    """Print the completions of all commands for a shell, and end the program."""

    def __call__(self, parser: argparse.ArgumentParser, *given: Any, **_: Any) -> None:
        import shtab

        print(shtab.complete(parser, shell=given[1]))
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="i2srm", description="Multimodal entities and relations with I2SRM.")
    parser.add_argument("--completion", action=_Completion, choices=SHELLS, help="print completions for a shell")
    parser.add_argument("--version", action="version", version=f"i2srm {_version()}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    demo = subparsers.add_parser("demo", help="train on a synthetic set and see what the images bring")
    demo.add_argument("--task", help="ner (entities) or re (relations); both by default")
    demo.add_argument("--quick", action="store_true", help="a minute's run on less data, to see that all works")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--jobs", type=int, default=2, help="models trained at once, in processes (default: 2)")
    demo.add_argument("--output", type=Path, default=Path("runs/demo"), help="new folder (default: %(default)s)")
    demo.set_defaults(command=commands.demo)

    data = subparsers.add_parser("data", help="write a synthetic set, make object crops, or look a data set over")
    data_commands = data.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    synthetic = data_commands.add_parser("synthetic", help="write a synthetic set in the layout of the real files")
    synthetic.add_argument("task", help="ner (entities) or re (relations)")
    synthetic.add_argument("root", type=Path, help="new folder of the set")
    synthetic.add_argument("--train", type=int, help="samples of the training split (default: as many as the real set)")
    synthetic.add_argument("--seed", type=int, default=0)
    synthetic.set_defaults(command=commands.synthetic)
    crops = data_commands.add_parser(
        "crops",
        help="find the objects of the images and cut them out",
        epilog="Settings follow, as in --grounding.detector centre; i2srm train --help lists all.",
    )
    crops.add_argument("config", metavar="DATA", help=DATA)
    crops.set_defaults(command=commands.crops)
    tags = data_commands.add_parser(
        "tags",
        help="write what is seen in the images as words, for systems that read them",
        epilog="Settings follow, as in --model.vision resnet50 and --grounding.detector torchvision.",
    )
    tags.add_argument("config", metavar="DATA", help=DATA)
    tags.add_argument(
        "--source",
        choices=["classes", "detector", "none"],
        default="classes",
        help="of the tags: ImageNet classes of the image backbone (default), a detector's objects, or none",
    )
    tags.add_argument("--count", type=int, default=5, help="tags of an image at most (default: %(default)s)")
    tags.add_argument("--least", type=float, default=0.0, help="probability that a class must have (default: 0)")
    tags.add_argument(
        "--texts",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE.jsonl",
        help='captions and the like that others made: {"image": "1.jpg", "caption": "two dogs", "ocr": ""} a line',
    )
    tags.set_defaults(command=commands.tags)
    check = data_commands.add_parser("check", help="count everything; exit code 1 if something would stop training")
    check.add_argument("root", type=Path, help="folder of the set")
    check.add_argument("--format", help="as data.format; recognised from the folder by default")
    check.add_argument("--text-only", action="store_true", help="do not look at images")
    check.add_argument("--bad-images", choices=["error", "blank", "drop"], default="error", help="as data.bad_images")
    check.add_argument("--json", action="store_true", help="print JSON instead of a table")
    check.set_defaults(command=commands.check)

    train = subparsers.add_parser(
        "train", add_help=False, help="train a system on a data set; train DATA SYSTEM --help lists all settings"
    )
    train.add_argument("data", nargs="?", metavar="DATA", help=DATA)
    train.add_argument("system", nargs="?", metavar="SYSTEM", help="a file, or i2srm (the default), hvpnet, bert-crf")
    train.add_argument("--output", help="folder of the run (default: by the names of DATA and SYSTEM)")
    train.add_argument("--seeds", type=int, nargs="+", help="train once for each; mean and standard deviation")
    train.set_defaults(command=commands.train)

    sweep = subparsers.add_parser(
        "sweep",
        help="train a table of the paper and print it beside the paper's, or both modules in every system",
        epilog="Settings for all cells follow, as in --training.epochs 5. The same command resumes a sweep.",
    )
    sweep.add_argument("table", metavar="TABLE", help="table1 to table6, or plug-and-play")
    sweep.add_argument(
        "--data",
        nargs="+",
        default=[],
        help="mnre, twitter2015, twitter2017 (default: those of the table), or synthetic-ner, synthetic-re",
    )
    sweep.add_argument("--systems", nargs="+", default=[], help="whose rows are trained (default: all)")
    sweep.add_argument("--jobs", type=int, default=1, help="cells trained at once, in processes (default: 1)")
    sweep.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the training (default: 0 1 2)")
    sweep.add_argument("--output", type=Path, help="folder of the sweep (default: runs/TABLE)")
    sweep.add_argument("--list", action="store_true", help="print the cells and how far they are; train nothing")
    sweep.set_defaults(command=commands.sweep)

    evaluate = subparsers.add_parser(
        "evaluate",
        help="score the model of a run",
        epilog="Settings of the run can be changed, as in --data.root FOLDER.",
    )
    evaluate.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    evaluate.add_argument("--split", choices=["train", "valid", "test"], default="test")
    evaluate.add_argument("--int8", action="store_true", help=INT8)
    evaluate.add_argument("--fast-float32", action="store_true", help=FAST_FLOAT32)
    evaluate.add_argument("--json", action="store_true", help="print all scores as JSON, as fractions from 0 to 1")
    evaluate.set_defaults(command=commands.evaluate)

    report = subparsers.add_parser(
        "report",
        help="put all that a run tells on one page, report.html",
        epilog="Settings of the run can be changed, as in --data.root FOLDER.",
    )
    report.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    report.set_defaults(command=commands.report)

    predict = subparsers.add_parser(
        "predict",
        help="entities of a post, or the relation of two of its entities; one post or a file of them",
        epilog="Settings of --ground follow, as in --grounding.detector centre.",
    )
    predict.add_argument("model", metavar="MODEL", help=MODEL)
    predict.add_argument("--text", help="the sentence, its words divided by spaces")
    predict.add_argument("--image", help="the image; give its --crops too, or --ground")
    predict.add_argument("--crops", nargs="+", help="images of its objects")
    predict.add_argument("--head", help="for a relation: the head entity as it stands in the sentence")
    predict.add_argument("--tail", help="for a relation: the tail entity")
    predict.add_argument(
        "--input", type=Path, nargs="+", metavar="POSTS.jsonl", help="instead of --text: a JSON object a line"
    )
    predict.add_argument(
        "--output",
        type=Path,
        metavar="FILE.jsonl",
        help="for --input: a record for each line; a folder for several or --jobs",
    )
    predict.add_argument("--jobs", type=int, help="for a folder of files: processes that share them (default: 1)")
    predict.add_argument("--ground", action="store_true", help="find the objects of images that come without crops")
    predict.add_argument("--int8", action="store_true", help=INT8)
    predict.add_argument("--fast-float32", action="store_true", help=FAST_FLOAT32)
    predict.add_argument(
        "--onnx", type=Path, metavar="FOLDER", help="compute by ONNX Runtime what i2srm export wrote; fast for one post"
    )
    predict.set_defaults(command=commands.predict)

    export = subparsers.add_parser("export", help="write a model as ONNX graphs, for ONNX Runtime and other programs")
    export.add_argument("model", metavar="MODEL", help=MODEL)
    export.add_argument("folder", type=Path, help="for the graphs")
    export.set_defaults(command=commands.export)

    app = subparsers.add_parser(
        "app",
        help="show in a browser what a model says about posts, with their images and without",
        epilog="Settings follow, as in --grounding.detector centre or --data.root FOLDER.",
    )
    app.add_argument("model", metavar="MODEL", help=f"{MODEL}, once it is downloaded")
    app.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine)")
    app.add_argument("--port", type=int, help="port to listen at (default: the first free one from 7860)")
    app.set_defaults(command=commands.app)
    return parser


if __name__ == "__main__":
    sys.exit(main())
