"""Implementation of the `i2srm` commands. Heavy imports are inside the functions, so that `--help` is fast."""

import argparse
import json
import os
import sys
import tempfile
import threading
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from reference_models.errors import UserError
from reference_models.names import suggest_path

if TYPE_CHECKING:
    from reference_models.config import GroundingConfig, RunConfig
    from reference_models.prediction import Predictor

POST = ("text", "image", "crops", "head", "tail")
# Settings of a run that these commands accept. They refuse all others.
EVALUATED = ("data.root", "data.bad_images", "data.long_samples", "data.feature_cache", "training.batch_size")
REPORTED = ("data.root", "data.bad_images", "training.batch_size")
SHOWN = ("precision", "recall", "f1")


def _quiet() -> None:
    """Disable the progress bars of transformers. Called late, because importing transformers takes seconds."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def demo(options: argparse.Namespace) -> None:
    """Train the demo's models and print its tables."""
    _quiet()
    from reference_models.demo import run_demo

    print("\n" + run_demo(options.task, options.output, seed=options.seed, quick=options.quick, jobs=options.jobs))


def synthetic(options: argparse.Namespace) -> None:
    """Write a synthetic data set."""
    from reference_models.data.synthetic import SIZES, generate

    if options.train is not None and options.train < 1:
        raise UserError(f"--train must be 1 or more samples, got {options.train}")
    sizes = SIZES if options.train is None else SIZES | {"train": options.train}
    ceilings = generate(options.root, options.task, options.seed, sizes)
    print(f"wrote {options.root}; best possible F1 from text alone: {json.dumps(ceilings)}")


def crops(options: argparse.Namespace) -> None:
    """Write the object crops of a data set."""
    _quiet()
    from reference_models.grounding.crops import make_crops
    from reference_models.settings import read_settings
    from reference_models.training.run import find_task

    config = read_settings(options.config, options.overrides)
    for summary in make_crops(config.data, config.grounding, pairs=find_task(config.data).pairs):
        print(summary.text())


def tags(options: argparse.Namespace) -> None:
    """Write the image tags of a data set."""
    _quiet()
    from reference_models.settings import read_settings
    from reference_models.tagging import write_tags

    config = read_settings(options.config, options.overrides)
    wanted = {"source": options.source, "count": options.count, "least": options.least, "given": options.texts}
    for summary in write_tags(config, **wanted):
        print(summary.text())


def check(options: argparse.Namespace) -> bool:
    """Check a data set and print the report; return whether something would stop training."""
    from reference_models.data.check import check_data

    report = check_data(options.format, options.root, visual=not options.text_only, bad_images=options.bad_images)
    print(json.dumps(report.to_json(), indent=1) if options.json else report.table())
    return bool(report.fatal)


def train(options: argparse.Namespace) -> None:
    """Train a system, once or for each seed, and print its scores."""
    from reference_models.settings import read_settings

    if options.data is None and not {"-h", "--help"} & set(options.overrides):
        raise UserError("train needs DATA, for example: i2srm train mnre i2srm; i2srm train --help lists all settings")
    output = [] if options.output is None else ["--output", options.output]
    config = read_settings(options.data, [*options.overrides, *output], system=options.system)
    _quiet()
    from accelerate import PartialState

    from reference_models.training.phases import summary
    from reference_models.training.run import train
    from reference_models.training.seeds import percent, train_seeds

    result = train_seeds(config, options.seeds) if options.seeds else train(config)
    if not PartialState().is_main_process:
        return
    print(f"\nresults are in {config.output}/, labels fingerprint {result['labels_fingerprint']}")
    if options.seeds:
        for split, scores in result["scores"].items():
            shown = (f"{key} {percent(scores[key])}" for key in SHOWN)
            print(f"{split} (percent, seeds {', '.join(map(str, options.seeds))}): {', '.join(shown)}")
        return
    print(
        f"kept epoch {result['kept_epoch']:g} of {config.training.epochs}, trained for {result['seconds']:.0f} s, "
        f"{result['waited']:.0%} of it waiting for data"
    )
    print(f"time since the last start: {summary(result['phases'])}")
    for split in ("valid", "test"):
        print(_scores(split, result["samples"][split], result[split]))


def sweep(options: argparse.Namespace) -> int:
    """Train the cells of a table, or list them; return the number of failed cells."""
    _quiet()
    from reference_models.sweeps.run import list_cells, run_sweep

    output = options.output or Path("runs") / options.table
    sweep = (options.table, options.data, options.seeds or [0, 1, 2], output, options.overrides)
    if options.list:
        print(list_cells(*sweep, systems=options.systems))
        return 0
    return run_sweep(*sweep, systems=options.systems, jobs=options.jobs)


def evaluate(options: argparse.Namespace) -> None:
    """Print the scores of a run's model."""
    _quiet()
    from reference_models.settings import read_run_settings
    from reference_models.training.folder import CONFIG
    from reference_models.training.run import evaluate, find_run

    run = find_run(options.run)
    config = read_run_settings(run / CONFIG, options.overrides, EVALUATED, "evaluate")
    evaluation = evaluate(run, config, options.split, int8=options.int8, fast_float32=options.fast_float32)
    samples, classes = len(evaluation.samples), evaluation.classes()
    if options.json:
        result = {"split": options.split, "samples": samples, "scores": evaluation.scores, "classes": classes}
        print(json.dumps(result, indent=1))
        return
    print(_scores(options.split, samples, evaluation.scores))
    width = max(map(len, classes), default=0)
    for name, scores in classes.items():
        numbers = ", ".join(f"{key} {100 * scores[key]:6.2f}" for key in SHOWN)
        print(f"  {name:<{width}}  {numbers}, {scores['support']} true labels")


def report(options: argparse.Namespace) -> None:
    """Write the report of a run."""
    _quiet()
    from reference_models.report.page import write_report
    from reference_models.settings import read_run_settings
    from reference_models.training.folder import CONFIG
    from reference_models.training.run import find_run

    run = find_run(options.run)
    config = read_run_settings(run / CONFIG, options.overrides, REPORTED, "report")
    print(f"wrote {write_report(run, config)}")


def predict(options: argparse.Namespace) -> bool:
    """Print the prediction for one post, or write predictions for files; return whether a post or a file failed."""
    _quiet()
    from reference_models.grounding.posts import PostGrounder
    from reference_models.prediction import Predictor
    from reference_models.prediction_file import predict_file
    from reference_models.training.run import find_model

    if (options.text is None) == (options.input is None) or (options.input is None) != (options.output is None):
        raise UserError("give either --text, or --input and --output")
    if options.input is not None and (ignored := [name for name in POST[1:] if getattr(options, name) is not None]):
        raise UserError(f"--{ignored[0]} is for --text; each post of --input has its own {ignored[0]}")
    if options.jobs is not None and options.input is None:
        raise UserError("--jobs needs --input")
    into_folder = options.input is not None and (
        len(options.input) > 1 or options.jobs is not None or options.output.is_dir()
    )
    files = [*(options.input or ()), *(options.crops or ()), *([options.image] if options.image else ())]
    for path in map(Path, files):
        if not path.exists():
            raise UserError(f"{path}: the file does not exist{suggest_path(path)}")
    model = find_model(options.model)
    used, command = (("grounding",), "predict") if options.ground else ((), "predict without --ground")
    config = _settings(options, used, command)
    if into_folder:
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


def export(options: argparse.Namespace) -> None:
    """Write a model as ONNX graphs."""
    _quiet()
    from reference_models.prediction import Predictor

    for path in Predictor(options.model).export_onnx(options.folder):
        print(f"wrote {path}; its scores match those of the model")


def _settings(options: argparse.Namespace, changeable: Collection[str], command: str) -> "RunConfig":
    """Return the settings of a model's run (the defaults for a model without a run), with the overrides applied."""
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
        print(f"the last {cut} words are beyond the limit of {limit} sub-words and were ignored", file=sys.stderr)
    print(predictor.processor.task.describe(sample, prediction.answer))
    for name, probability in predictor.processor.task.likeliest(sample, prediction)[:3]:
        print(f"  {probability:.4f}  {name}")


def app(options: argparse.Namespace) -> None:
    """Serve a model in a browser until the process is interrupted."""
    # Read when the packages are imported.
    os.environ |= {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    _quiet()
    from reference_models.app.page import served
    from reference_models.training.run import find_model

    find_model(options.model)  # check the model before reading its settings
    config = _settings(options, ("grounding", "data.root"), "app")
    with served(options.model, config, host=options.host, port=options.port) as address:
        print(f"Open {address} in a browser. Press Ctrl+C to stop.", flush=True)
        threading.Event().wait()


def _scores(split: str, samples: int, scores: dict[str, float]) -> str:
    return f"{split} ({samples} samples, percent): " + ", ".join(f"{key} {100 * scores[key]:.2f}" for key in SHOWN)


# Commands that accept settings of a run, such as --training.epochs 5.
TAKE_SETTINGS = (crops, tags, train, evaluate, sweep, report, predict, app)
