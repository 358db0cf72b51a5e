"""`i2srm`: demo, data, train, evaluate and predict on the command line."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from reference_models.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns 0, or 2 after one line about a user's mistake."""
    parser = _parser()
    options, overrides = parser.parse_known_args(arguments)
    if overrides and options.command not in (_train, _evaluate):
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    options.overrides = overrides
    logging.basicConfig(format="%(message)s")
    try:
        # Importing torch and transformers takes seconds, which `--help` should not.
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        options.command(options)
    except UserError as error:
        print(f"i2srm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("i2srm: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="i2srm", description="Multimodal entities and relations with I2SRM.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="train on a synthetic set and see what the pictures bring")
    demo.add_argument("--task", choices=["ner", "re"], help="entities or relations; both by default")
    demo.add_argument("--quick", action="store_true", help="a minute's run on less data, to see that all works")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--output", type=Path, default=Path("runs/demo"), help="new folder (default: %(default)s)")
    demo.set_defaults(command=_demo)

    data = commands.add_parser("data", help="write a synthetic set in the layout of the real files")
    data.add_argument("task", choices=["ner", "re"])
    data.add_argument("root", type=Path, help="new folder of the set")
    data.add_argument("--seed", type=int, default=0)
    data.set_defaults(command=_data)

    train = commands.add_parser("train", add_help=False, help="train by a YAML file; train --help lists all settings")
    train.add_argument("config", nargs="?", metavar="CONFIG", help="a file, or mnre, twitter2015, twitter2017")
    train.set_defaults(command=_train)

    evaluate = commands.add_parser(
        "evaluate",
        help="score the model of a run",
        epilog="Settings of the run can be changed, as in --data.root FOLDER.",
    )
    evaluate.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    evaluate.add_argument("--split", choices=["train", "valid", "test"], default="test")
    evaluate.set_defaults(command=_evaluate)

    predict = commands.add_parser("predict", help="entities of a sentence, or the relation of two of its entities")
    predict.add_argument("run", type=Path, metavar="RUN", help="folder of the run")
    predict.add_argument("--text", required=True, help="the sentence, its words divided by spaces")
    predict.add_argument("--image", type=Path, help="the picture; without --crops it stands for its only crop")
    predict.add_argument("--crops", type=Path, nargs="+", default=[], help="pictures of its objects")
    predict.add_argument("--head", help="for a relation: the head entity as it stands in the sentence")
    predict.add_argument("--tail", help="for a relation: the tail entity")
    predict.set_defaults(command=_predict)
    return parser


def _demo(options: argparse.Namespace) -> None:
    from reference_models.demo import run_demo

    tasks = [options.task] if options.task else ["ner", "re"]
    print("\n" + run_demo(tasks, options.output, seed=options.seed, quick=options.quick))


def _data(options: argparse.Namespace) -> None:
    from reference_models.data.synthetic import generate

    ceilings = generate(options.root, options.task, options.seed)
    print(f"{options.root} is written; best F1 from words alone: {json.dumps(ceilings)}")


def _train(options: argparse.Namespace) -> None:
    from reference_models.settings import find_config, read_settings
    from reference_models.training.run import train

    config = read_settings(options.config and find_config(options.config), options.overrides)
    metrics = train(config)
    print(
        f"\nbest epoch {metrics['best_epoch']:.0f} of {config.training.epochs}, {metrics['seconds']:.0f} s of training; "
        f"labels {metrics['labels_fingerprint']}, seed {metrics['seed']}, samples {metrics['samples']}"
    )
    _print_scores("valid", metrics["valid"])
    _print_scores("test", metrics["test"])
    print(f"model, scores, predictions and training.png are in {config.output}/")


def _evaluate(options: argparse.Namespace) -> None:
    from reference_models.settings import read_settings
    from reference_models.training.run import CONFIG, evaluate, find_run

    run = find_run(options.run)
    config = read_settings(run / CONFIG, options.overrides)
    _print_scores(options.split, evaluate(run, config, options.split).scores)


def _predict(options: argparse.Namespace) -> None:
    from reference_models.prediction import describe, make_sample, predict
    from reference_models.training.run import find_run, load_model

    model, processor = load_model(find_run(options.run))
    if (processor.task == "re") != (options.head is not None and options.tail is not None):
        raise UserError("give --head and --tail for a model of relations, and neither of them for one of entities")
    if processor.image_size is None and options.image:
        raise UserError("this model reads text alone; leave --image out")
    sample = make_sample(options.text, image=options.image, crops=options.crops, head=options.head, tail=options.tail)
    said, probabilities = predict(model, processor, sample)
    print(describe(sample, said))
    for relation in sorted(probabilities, key=probabilities.__getitem__, reverse=True)[:3]:
        print(f"  {probabilities[relation]:.4f}  {relation}")


def _print_scores(split: str, scores: dict[str, float]) -> None:
    shown = ", ".join(f"{name} {100 * scores[name]:.2f}" for name in ("precision", "recall", "f1"))
    print(f"{split} (percent): {shown}")
