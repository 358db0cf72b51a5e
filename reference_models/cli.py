"""`i2srm`: demo, data, train, sweep, evaluate, report and predict on the command line."""

import argparse
import json
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Collection, Sequence
from importlib.metadata import PackageNotFoundError, version
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reference_models.errors import UserError
from reference_models.plugins import load_plugins

if TYPE_CHECKING:
    from reference_models.config import GroundingConfig, RunConfig
    from reference_models.prediction import Predictor

POST = ("text", "image", "crops", "head", "tail")
# Settings of a run that these commands use; whatever else is given to them is refused.
EVALUATED = ("data.root", "data.bad_images", "data.long_samples", "data.feature_cache", "training.batch_size")
REPORTED = ("data.root", "data.bad_images", "training.batch_size")
SHOWN = ("precision", "recall", "f1")
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
    if overrides and options.command not in (_crops, _tags, _train, _evaluate, _sweep, _report, _predict, _app):
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


def _quiet() -> None:
    """Keep transformers from showing its own progress; called late, because importing it takes seconds."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


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
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    demo = commands.add_parser("demo", help="train on a synthetic set and see what the images bring")
    demo.add_argument("--task", help="ner (entities) or re (relations); both by default")
    demo.add_argument("--quick", action="store_true", help="a minute's run on less data, to see that all works")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--jobs", type=int, default=2, help="models trained at once, in processes (default: 2)")
    demo.add_argument("--output", type=Path, default=Path("runs/demo"), help="new folder (default: %(default)s)")
    demo.set_defaults(command=_demo)

    data = commands.add_parser("data", help="write a synthetic set, make object crops, or look a data set over")
    data_commands = data.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    synthetic = data_commands.add_parser("synthetic", help="write a synthetic set in the layout of the real files")
    synthetic.add_argument("task", help="ner (entities) or re (relations)")
    synthetic.add_argument("root", type=Path, help="new folder of the set")
    synthetic.add_argument("--train", type=int, help="samples of the training split (default: as many as the real set)")
    synthetic.add_argument("--seed", type=int, default=0)
    synthetic.set_defaults(command=_synthetic)
    crops = data_commands.add_parser(
        "crops",
        help="find the objects of the images and cut them out",
        epilog="Settings follow, as in --grounding.detector centre; i2srm train --help lists all.",
    )
    crops.add_argument("config", metavar="DATA", help=DATA)
    crops.set_defaults(command=_crops)
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
    tags.set_defaults(command=_tags)
    check = data_commands.add_parser("check", help="count everything; exit code 1 if something would stop training")
    check.add_argument("root", type=Path, help="folder of the set")
    check.add_argument("--format", help="as data.format; recognised from the folder by default")
    check.add_argument("--text-only", action="store_true", help="do not look at images")
    check.add_argument("--bad-images", choices=["error", "blank", "drop"], default="error", help="as data.bad_images")
    check.add_argument("--json", action="store_true", help="print JSON instead of a table")
    check.set_defaults(command=_check)

    train = commands.add_parser(
        "train", add_help=False, help="train a system on a data set; train DATA SYSTEM --help lists all settings"
    )
    train.add_argument("data", nargs="?", metavar="DATA", help=DATA)
    train.add_argument("system", nargs="?", metavar="SYSTEM", help="a file, or i2srm (the default), hvpnet, bert-crf")
    train.add_argument("--seeds", type=int, nargs="+", help="train once for each; mean and standard deviation")
    train.set_defaults(command=_train)

    sweep = commands.add_parser(
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
    sweep.set_defaults(command=_sweep)

    evaluate = commands.add_parser(
        "evaluate",
        help="score the model of a run",
        epilog="Settings of the run can be changed, as in --data.root FOLDER.",
    )
    evaluate.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    evaluate.add_argument("--split", choices=["train", "valid", "test"], default="test")
    evaluate.add_argument("--int8", action="store_true", help=INT8)
    evaluate.add_argument("--fast-float32", action="store_true", help=FAST_FLOAT32)
    evaluate.add_argument("--json", action="store_true", help="print all scores as JSON, as fractions from 0 to 1")
    evaluate.set_defaults(command=_evaluate)

    report = commands.add_parser(
        "report",
        help="put all that a run tells on one page, report.html",
        epilog="Settings of the run can be changed, as in --data.root FOLDER.",
    )
    report.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    report.set_defaults(command=_report)

    predict = commands.add_parser(
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
        "--output", type=Path, metavar="FILE.jsonl", help="for --input: a record for each line; a folder for several"
    )
    predict.add_argument("--jobs", type=int, help="for several files: processes that share them (default: 1)")
    predict.add_argument("--ground", action="store_true", help="find the objects of images that come without crops")
    predict.add_argument("--int8", action="store_true", help=INT8)
    predict.add_argument("--fast-float32", action="store_true", help=FAST_FLOAT32)
    predict.add_argument(
        "--onnx", type=Path, metavar="FOLDER", help="compute by ONNX Runtime what i2srm export wrote; fast for one post"
    )
    predict.set_defaults(command=_predict)

    export = commands.add_parser("export", help="write a model as ONNX graphs, for ONNX Runtime and other programs")
    export.add_argument("model", metavar="MODEL", help=MODEL)
    export.add_argument("folder", type=Path, help="for the graphs")
    export.set_defaults(command=_export)

    app = commands.add_parser(
        "app",
        help="show in a browser what a model says about posts, with their images and without",
        epilog="Settings follow, as in --grounding.detector centre or --data.root FOLDER.",
    )
    app.add_argument("model", metavar="MODEL", help=f"{MODEL}, once it is downloaded")
    app.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s, this machine)")
    app.add_argument("--port", type=int, help="port to listen at (default: the first free one from 7860)")
    app.set_defaults(command=_app)
    return parser


def _demo(options: argparse.Namespace) -> None:
    _quiet()
    from reference_models.demo import run_demo

    print("\n" + run_demo(options.task, options.output, seed=options.seed, quick=options.quick, jobs=options.jobs))


def _synthetic(options: argparse.Namespace) -> None:
    from reference_models.data.synthetic import SIZES, generate

    if options.train is not None and options.train < 1:
        raise UserError(f"--train must be 1 or more samples, got {options.train}")
    sizes = SIZES if options.train is None else SIZES | {"train": options.train}
    ceilings = generate(options.root, options.task, options.seed, sizes)
    print(f"{options.root} is written; best F1 from words alone: {json.dumps(ceilings)}")


def _crops(options: argparse.Namespace) -> None:
    _quiet()
    from reference_models.grounding.crops import make_crops
    from reference_models.settings import read_settings

    config = read_settings(options.config, options.overrides)
    for summary in make_crops(config.data, config.grounding):
        print(summary.text())


def _tags(options: argparse.Namespace) -> None:
    _quiet()
    from reference_models.settings import read_settings
    from reference_models.tagging import write_tags

    config = read_settings(options.config, options.overrides)
    wanted = {"source": options.source, "count": options.count, "least": options.least, "given": options.texts}
    for summary in write_tags(config, **wanted):
        print(summary.text())


def _check(options: argparse.Namespace) -> bool:
    from reference_models.data.check import check_data

    report = check_data(options.format, options.root, visual=not options.text_only, bad_images=options.bad_images)
    print(json.dumps(report.to_json(), indent=1) if options.json else report.table())
    return bool(report.fatal)


def _train(options: argparse.Namespace) -> None:
    from reference_models.settings import read_settings

    config = read_settings(options.data, options.overrides, system=options.system)
    _quiet()
    from accelerate import PartialState

    from reference_models.training.phases import summary
    from reference_models.training.run import train
    from reference_models.training.seeds import train_seeds

    result = train_seeds(config, options.seeds) if options.seeds else train(config)
    if not PartialState().is_main_process:
        return
    print(f"\nlabels {result['labels_fingerprint']}, everything is in {config.output}/")
    if options.seeds:
        for split, scores in result["scores"].items():
            shown = (f"{key} {_mean(scores[key])}" for key in SHOWN)
            print(f"{split} (percent, seeds {', '.join(map(str, options.seeds))}): {', '.join(shown)}")
        return
    print(
        f"epoch {result['kept_epoch']:g} of {config.training.epochs} kept, {result['seconds']:.0f} s of training, "
        f"{result['waited']:.0%} of it waiting for data"
    )
    print(f"this start took {summary(result['phases'])}")
    for split in ("valid", "test"):
        print(_scores(split, result["samples"][split], result[split]))


def _mean(score: dict[str, Any]) -> str:
    mean = f"{100 * score['mean']:.2f}"
    return mean if score["spread"] is None else f"{mean} ± {100 * score['spread']:.2f}"


def _sweep(options: argparse.Namespace) -> int:
    _quiet()
    from reference_models.sweeps.run import list_cells, run_sweep

    output = options.output or Path("runs") / options.table
    sweep = (options.table, options.data, options.seeds, output, options.overrides)
    if options.list:
        print(list_cells(*sweep, systems=options.systems))
        return 0
    return run_sweep(*sweep, systems=options.systems, jobs=options.jobs)


def _evaluate(options: argparse.Namespace) -> None:
    _quiet()
    from reference_models.settings import read_run_settings
    from reference_models.training.folder import CONFIG
    from reference_models.training.run import evaluate, find_run

    run = find_run(options.run)
    config = read_run_settings(run / CONFIG, options.overrides, EVALUATED, "evaluate")
    evaluation = evaluate(run, config, options.split, int8=options.int8, fast_float32=options.fast_float32)
    samples, classes = len(evaluation.samples), evaluation.classes()
    if options.json:
        told = {"split": options.split, "samples": samples, "scores": evaluation.scores, "classes": classes}
        print(json.dumps(told, indent=1))
        return
    print(_scores(options.split, samples, evaluation.scores))
    width = max(map(len, classes), default=0)
    for name, scores in classes.items():
        numbers = ", ".join(f"{key} {100 * scores[key]:6.2f}" for key in SHOWN)
        print(f"  {name:<{width}}  {numbers}, {scores['support']} of them")


def _report(options: argparse.Namespace) -> None:
    _quiet()
    from reference_models.report.page import write_report
    from reference_models.settings import read_run_settings
    from reference_models.training.folder import CONFIG
    from reference_models.training.run import find_run

    run = find_run(options.run)
    config = read_run_settings(run / CONFIG, options.overrides, REPORTED, "report")
    print(f"{write_report(run, config)} is written")


def _predict(options: argparse.Namespace) -> bool:
    _quiet()
    from reference_models.grounding.posts import PostGrounder
    from reference_models.prediction import Predictor
    from reference_models.prediction_file import predict_file
    from reference_models.training.run import find_model

    if (options.text is None) == (options.input is None) or (options.input is None) != (options.output is None):
        raise UserError("give either --text, or --input and --output")
    if options.input is not None and (ignored := [name for name in POST[1:] if getattr(options, name) is not None]):
        raise UserError(f"--{ignored[0]} is for --text; each post of --input has its own {ignored[0]}")
    several = options.input is not None and len(options.input) > 1
    if options.jobs is not None and not several:
        raise UserError("--jobs is for several files of --input; one is computed by one process")
    model = find_model(options.model)
    used, command = (("grounding",), "predict") if options.ground else ((), "predict without --ground")
    config = _settings(options, used, command)
    if several:
        return _predict_files(options, model, config.grounding if options.ground else None)
    with tempfile.TemporaryDirectory() as folder:
        crops = options.output.with_name(f"{options.output.name}.crops") if options.output else Path(folder)
        predictor = Predictor(model, int8=options.int8, fast_float32=options.fast_float32, onnx=options.onnx)
        if options.ground:
            predictor.ground = PostGrounder(predictor.processor.task.pairs, config.grounding, crops)
        if options.input is None:
            _predict_one(predictor, options)
            return False
        counts = predict_file(predictor, options.input[0], options.output)
    print(
        f"{counts['lines']} posts, {counts['errors']} of them with an error, {counts['cut']} longer than the limit of "
        f"{predictor.processor.max_length} sub-words; the records are in {options.output}"
    )
    return counts["errors"] > 0


def _predict_files(options: argparse.Namespace, model: Path, grounding: "GroundingConfig | None") -> bool:
    from reference_models.prediction_files import Work, predict_files

    work = Work(
        model,
        options.input,
        options.output,
        int8=options.int8,
        fast_float32=options.fast_float32,
        onnx=options.onnx,
        grounding=grounding,
    )
    summary = predict_files(work, 1 if options.jobs is None else options.jobs)
    print(f"{summary}\nthe records are in {options.output}/, and {options.output}/manifest.json counts them")
    return bool(summary.failed or any(entry["errors"] for entry in summary.finished.values()))


def _export(options: argparse.Namespace) -> None:
    _quiet()
    from reference_models.prediction import Predictor

    for path in Predictor(options.model).export_onnx(options.folder):
        print(f"{path} is written, and gives the scores of the model")


def _settings(options: argparse.Namespace, changeable: Collection[str], command: str) -> "RunConfig":
    """The settings of a model's run, or the defaults for a model that stands alone, changed by the overrides."""
    from reference_models.settings import read_run_settings
    from reference_models.training.folder import CONFIG

    path = Path(options.model, CONFIG)
    return read_run_settings(path if path.is_file() else None, options.overrides, changeable, command)


def _predict_one(predictor: "Predictor", options: argparse.Namespace) -> None:
    values = {name: getattr(options, name) for name in POST}
    sample = predictor.read({name: value for name, value in values.items() if value is not None}, Path())
    [prediction] = predictor.predict([sample])
    if cut := predictor.processor.encode(sample)["words_cut"]:
        limit = predictor.processor.max_length
        print(f"the last {cut} words lie behind the limit of {limit} sub-words and were not read", file=sys.stderr)
    print(predictor.processor.task.describe(sample, prediction.answer))
    for name, probability in predictor.processor.task.likeliest(sample, prediction)[:3]:
        print(f"  {probability:.4f}  {name}")


def _app(options: argparse.Namespace) -> None:
    # Both are read when the packages are imported.
    os.environ |= {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    _quiet()
    from reference_models.app.page import served
    from reference_models.training.run import find_model

    find_model(options.model)  # before its settings are looked for
    config = _settings(options, ("grounding", "data.root"), "app")
    with served(options.model, config, host=options.host, port=options.port) as address:
        print(f"Open {address} in a browser; Ctrl+C ends it.", flush=True)
        threading.Event().wait()


def _scores(split: str, samples: int, scores: dict[str, float]) -> str:
    return f"{split} ({samples} samples, percent): " + ", ".join(f"{key} {100 * scores[key]:.2f}" for key in SHOWN)


if __name__ == "__main__":
    sys.exit(main())
