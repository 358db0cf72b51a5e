"""Training a run from settings to saved model and scores, and loading models from run directories."""

import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoModel, set_seed

from reference_models.config import DataConfig, RunConfig, SystemConfig, TextSystemConfig, WordSystemConfig
from reference_models.data.crop_sources import check_crop_sources
from reference_models.data.formats import SPLITS, check_root, get_format
from reference_models.data.image_texts import add_image_texts, image_texts_path
from reference_models.data.images import check_images
from reference_models.data.samples import Sample, Split, spooled
from reference_models.data.tokenizer import learn_tokenizer, learn_words, load_tokenizer
from reference_models.data.vectors import read_vectors
from reference_models.encoders.int8 import use_int8
from reference_models.errors import UserError
from reference_models.files import read_json, readable, writable
from reference_models.names import suggest_path
from reference_models.settings import read_settings
from reference_models.systems.base import System
from reference_models.systems.build import build_system
from reference_models.tasks import Task, get_task
from reference_models.tasks.dataset import EncodedSplit
from reference_models.tasks.processor import FILE as PROCESSOR
from reference_models.tasks.processor import Processor
from reference_models.training.checkpoints import last_checkpoint
from reference_models.training.environment import environment
from reference_models.training.evaluation import Evaluation, evaluate_split, write_predictions
from reference_models.training.feature_cache import fill_cache
from reference_models.training.figure import training_figure
from reference_models.training.fingerprints import input_fingerprints
from reference_models.training.folder import (
    CONFIG,
    ENVIRONMENT,
    METRICS,
    check_folder,
    check_unfinished,
    locked,
    make_folder,
    start_of,
    write_json,
)
from reference_models.training.memory import keep_freed_memory
from reference_models.training.phases import Phases
from reference_models.training.products import float32_products
from reference_models.training.threads import computing_threads
from reference_models.training.trainer import ExtractionTrainer, check_training, training_arguments

logger = logging.getLogger(__name__)
MODEL, HISTORY, CHECKPOINTS = "model", "history.json", "checkpoints"
AGAIN = "train again in another folder, or copy the run again from an undamaged source"
PREDICTIONS, FIGURE = "predictions_test.jsonl", "training.png"


def read_samples(config: RunConfig, split: Split) -> Sequence[Sample]:
    """Read the samples of a split, without opening their images.

    Raises:
        UserError: If the data folder does not exist, or a file is missing or invalid.
    """
    data, root = config.data, Path(config.data.root)
    check_root(root)
    pairs, kind = find_task(data).pairs, get_format(data.format)
    texts = bool(config.model.inputs.texts)
    visual = config.reads_images or texts
    samples = kind.read(root, split, pairs=pairs, visual=visual, max_crops=data.max_crops if config.reads_images else 0)
    samples = check_crop_sources(samples, root, split, kind.layout(root, split).crops)
    if texts:
        samples = add_image_texts(samples, image_texts_path(root, split), kind.layout(root, split).images)
    if visual and not config.reads_images:  # the image was only needed to find its texts
        samples = (replace(sample, image=None) for sample in samples)
    return spooled(samples)


def find_task(data: DataConfig) -> type[Task]:
    """Return the task of the settings; if there is none, the task that the data has labels for."""
    return get_task(data.task or get_format(data.format).find_task(Path(data.root)))


def warn_of_unused_settings(model: SystemConfig) -> None:
    """Warn if a module has settings but is switched off."""
    if model.mixup and not model.attn_mixup:
        logger.warning("model.mixup has no effect, because model.attn_mixup is false: this system trains without it")
    if model.semantic and not model.semantic_weight:
        logger.warning("model.semantic has no effect, because model.semantic_weight is 0: there is no semantic loss")


def check_samples(
    config: RunConfig, split: Split, samples: Sequence[Sample], *, scored: bool, progress: bool = True
) -> tuple[Sequence[Sample], dict[str, Any]]:
    """Check the images of a split's samples and select the usable samples.

    Args:
        config: Settings of the run.
        split: Name of the split.
        samples: Result of `read_samples`.
        scored: Whether scores are computed on the split. Then no sample is dropped; a bad image is blanked instead.
        progress: Show a progress bar.

    Returns:
        The usable samples, and the part of `metrics.json` about their images.

    Raises:
        UserError: If an image cannot be read and `data.bad_images` is "error", or if no sample has what the system
            reads (images, or texts about them).
    """
    kinds = config.model.inputs.texts
    if kinds and not any(kind in kinds for sample in samples for kind, _ in sample.image_texts):
        raise UserError(
            f"{config.data.root}: {split}: {config.system} reads the image texts {', '.join(kinds)}, but no sample has "
            f"any; i2srm data tags writes them to {image_texts_path(Path(config.data.root), split)}"
        )
    if not config.reads_images:
        return samples, {}
    if not any(sample.image or sample.crops for sample in samples):
        raise UserError(f"{config.data.root}: {split}: no sample has an image; train a text-only system")
    if config.model.inputs.crops_alone and not any(sample.crops for sample in samples):
        logger.warning(
            "%s: no sample has crops, but %s reads only the crops of an image; i2srm data crops makes them",
            split,
            config.system,
        )
    policy = config.data.bad_images
    cache = config.data.feature_cache
    usable, bad = check_images(
        samples,
        "blank" if scored and policy == "drop" else policy,
        memory=None if cache is None else Path(cache),
        progress=progress,
    )
    if bad.found:
        logger.warning("%s: %s", split, bad.summary(Path(config.output) / METRICS))
    return usable, bad.to_json()


def read_split(config: RunConfig, split: Split, *, scored: bool = True) -> tuple[Sequence[Sample], dict[str, Any]]:
    """Call `read_samples`, then `check_samples`."""
    return check_samples(config, split, read_samples(config, split), scored=scored)


def make_processor(config: RunConfig, samples: Mapping[Split, Sequence[Sample]]) -> Processor:
    """Create the processor of a run, with the labels of the data; `tiny` learns its tokenizer from the training split.

    Args:
        config: Settings of the run.
        samples: Samples of each split.

    Returns:
        The processor, which is saved with the trained model.

    Raises:
        UserError: If there are no labels, or the tokenizer cannot be loaded.
    """
    data = config.data
    declared = get_format(data.format).labels(Path(data.root))
    task = find_task(data).from_data(chain.from_iterable(samples.values()), declared, data)
    inputs = config.model.inputs
    sentences = (_texts_of(sample, inputs.texts) for sample in samples["train"])
    rare = 0
    if isinstance(config.model, WordSystemConfig):
        seen = {word.lower() for sample in chain.from_iterable(samples.values()) for word in sample.words}
        tokenizer, rare = learn_words(sentences, config.model.min_count, read_vectors(config.model.word_vectors, seen))
    elif not isinstance(config.model, TextSystemConfig):
        raise TypeError(f"expected settings of a text encoder or of words, got {type(config.model).__name__}")
    elif config.model.text == "tiny":
        tokenizer = learn_tokenizer(sentences, config.model.tiny_vocabulary)
    else:
        tokenizer = load_tokenizer(config.model.text)
    letters = sorted({letter for sample in samples["train"] for word in sample.words for letter in word})
    return Processor(
        tokenizer,
        task,
        max_length=data.max_length,
        image_size=data.image_size if config.reads_images else None,
        max_crops=data.max_crops,
        resize=data.resize,
        characters="".join(letters) if inputs.characters else None,
        rare_words=rare,
        texts=inputs.texts,
        text_length=inputs.text_length,
    )


def _texts_of(sample: Sample, kinds: Collection[str]) -> list[str]:
    """Return the words of a sample, and its texts about the image of the given kinds."""
    return [*sample.words, *(text for kind, text in sample.image_texts if kind in kinds)]


def encode_split(config: RunConfig, split: Split, samples: Sequence[Sample], processor: Processor) -> EncodedSplit:
    """Encode samples for a model; log how many words the length limit cuts off.

    Raises:
        UserError: If an entity of a relation is beyond the length limit and `data.long_samples` is "error", or if no
            sample is left.
    """
    encoded = EncodedSplit(samples, processor, config.data.long_samples)
    if not len(encoded):
        raise UserError(
            f"{split}: no sample is left: all {len(samples)} have an entity beyond the limit of {processor.max_length} "
            "sub-words; raise data.max_length"
        )
    if encoded.cut["samples"]:
        logger.warning(
            "%s: %d of %d sentences are longer than %d sub-words (data.max_length); their last words are cut off, %d "
            "words in total, and entities there count as missed",
            *(split, encoded.cut["samples"], len(encoded), processor.max_length, encoded.cut["words"]),
        )
    return encoded


def train(config: RunConfig, *, skip_finished: bool = False, label: str | None = None) -> dict[str, Any]:
    """Train a system, keep one epoch (by default the best on the validation split), score the test split and save all.

    The run directory `config.output` then contains the settings, the model with its processor, the scores, the test
    predictions, and the training history as numbers and as an image. An interrupted run resumes from its last
    checkpoint with the same call, and ends with the same result as an uninterrupted run.

    Under `torchrun` or `accelerate launch`, every process makes this call, and the first one writes.

    Args:
        config: Settings of the run.
        skip_finished: If this run is already finished, return its scores instead of raising an error.
        label: Name of the run, for one of several runs in the same terminal. There are then no progress bars, and the
            line of each epoch starts with the label.

    Returns:
        The content of `metrics.json`.

    Raises:
        UserError: If the settings or the data are invalid, or the folder contains anything other than this run,
            unfinished. Nothing is written then.
        KeyboardInterrupt: After an interrupt, with a message that says how to resume.
    """
    warn_of_unused_settings(config.model)
    if config.training.keep_memory:
        keep_freed_memory()
    with computing_threads(config.training.threads):
        return _train(config, skip_finished, label)


def _train(config: RunConfig, skip_finished: bool, label: str | None) -> dict[str, Any]:
    output = Path(config.output)
    checkpoints = output / CHECKPOINTS
    arguments = training_arguments(config.training, checkpoints)
    progress = arguments.should_log and label is None
    # Check the folder before reading the data, and again when the fingerprints are known.
    check_folder(output, start_of(config), complete=False)
    phases = Phases()
    with phases("reading"):
        samples = {split: read_samples(config, split) for split in SPLITS}
    with phases("hashing"):
        prints = input_fingerprints(config, samples)
    facts = {"processes": arguments.world_size, ENVIRONMENT: environment(arguments.device)}
    check_folder(output, start := start_of(config, **prints, **facts))
    if (output / METRICS).exists():
        shutil.rmtree(checkpoints, ignore_errors=True)  # left over if the run was killed at its end
        if skip_finished:
            metrics: dict[str, Any] = read_json(output / METRICS, AGAIN)
            return metrics
    check_unfinished(output)
    set_seed(config.training.seed)
    image_checks = {}
    for split in SPLITS:
        with phases("checking images"):
            samples[split], image_checks[split] = check_samples(
                config, split, samples[split], scored=split != "train", progress=progress
            )
    with phases("tokenizing"):
        processor = make_processor(config, samples)
        splits = {name: encode_split(config, name, rows, processor) for name, rows in samples.items()}
    with phases("building the model"):
        model = build_system(config.system, config.model, processor)
    check_training(model, config.training, arguments.device)
    if config.data.feature_cache is not None and model.vision is not None:
        cache, views = Path(config.data.feature_cache), config.model.image_views
        model.vision.to(arguments.device)
        with phases("computing features"):
            for rows in splits.values():
                rows.features = fill_cache(cache, model.vision, rows, views, progress=progress)

    with arguments.main_process_first(local=False):
        make_folder(output, config, start)
    faster = float32_products(fast=config.training.fast_float32, device=arguments.device)
    with faster, locked(output, checkpoints, needed=arguments.should_save):
        with arguments.main_process_first(local=False):
            last = last_checkpoint(checkpoints)
        trainer = ExtractionTrainer(model, config.training, arguments, splits["train"], splits["valid"], label=label)
        with phases("training"):
            trainer.train(resume_from_checkpoint=last)
        # Omit Trainer's own summary, which only covers the time since the last start.
        history = [entry for entry in trainer.state.log_history if "train_runtime" not in entry]
        epochs = [entry for entry in history if "eval_f1" in entry]
        kept = epochs[-1]
        if config.training.keep == "best":
            trainer.load_best()
            kept = max(epochs, key=lambda entry: entry["eval_f1"])
        # Remove the mixed-precision wrapper, so that the model gives the same results as after loading.
        model = trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False).eval()
        with phases("testing"):
            test = evaluate_split(model, splits["test"], 4 * config.training.batch_size, progress=progress)
        metrics = {
            "test": test.scores,
            "valid": {key.removeprefix("eval_"): value for key, value in kept.items() if key.startswith("eval_")},
            "kept_epoch": kept["epoch"],
            "epochs": len(epochs),
            "parameters": model.num_parameters(),
            # Scored splits count all samples; the training split counts the samples that were trained on.
            "samples": {name: len(split if name == "train" else split.whole) for name, split in splits.items()},
            "too_long": {name: split.dropped for name, split in splits.items()},
            "words_cut": {name: split.cut for name, split in splits.items()},
            "bad_images": image_checks,
            "labels_fingerprint": prints["labels_fingerprint"],
            "seconds": history[-1]["seconds"],
            "waited": fmean(entry["waited"] for entry in history if "waited" in entry),
            "seed": config.training.seed,
            "precision": config.training.precision,
            "processes": arguments.world_size,
            "threads": torch.get_num_threads(),
            ENVIRONMENT: facts[ENVIRONMENT],
            "classes": {"test": test.classes()},
            "phases": phases.seconds,
        }
        if arguments.should_save:
            with phases("saving"), writable(output):
                model.save_pretrained(output / MODEL)
                processor.save_pretrained(output / MODEL)
                write_predictions(output / PREDICTIONS, test)
                training_figure({output.name: history}, output / FIGURE)
            write_json(output / HISTORY, history)
            write_json(output / METRICS, metrics)  # written last: it marks the run as finished
    if arguments.should_save:
        shutil.rmtree(checkpoints, ignore_errors=True)
    return metrics


def evaluate(
    run: Path | str,
    config: RunConfig | None = None,
    split: Split = "test",
    *,
    int8: bool = False,
    fast_float32: bool = False,
) -> Evaluation:
    """Score a split with the model of a run.

    Args:
        run: Run directory.
        config: Settings of the run; the data folder may differ. None reads them from the run directory.
        split: "train", "valid" or "test".
        int8: Run the text encoder in int8, see `encoders.int8`.
        fast_float32: Use faster float32 matrix products, see `training.products`.

    Returns:
        Scores and predictions of the whole split.

    Raises:
        UserError: If the run is not finished, the data is invalid, or this machine does not support `int8` or
            `fast_float32`.
    """
    if config is None:
        config = read_settings(find_run(Path(run)) / CONFIG)
    model, processor = load_model(run, int8=int8)
    # Other data can have labels for several tasks; the task is that of the model.
    config = replace(config, data=replace(config.data, task=processor.task.name))
    samples, _ = read_split(config, split)
    rows = encode_split(config, split, samples, processor)
    if config.data.feature_cache is not None and model.vision is not None:
        views = model.settings.image_views
        rows.features = fill_cache(Path(config.data.feature_cache), model.vision, rows, views)
    with float32_products(fast=fast_float32, device=model.device):
        return evaluate_split(model, rows, 4 * config.training.batch_size)


def find_run(run: Path) -> Path:
    """Return the run directory if it contains a finished run.

    Raises:
        UserError: If it does not.
    """
    for file in (run / CONFIG, run / MODEL / "config.json", run / METRICS):
        if not file.is_file():
            raise UserError(f"{run} is not the directory of a finished run: {file} is missing{suggest_path(run)}")
    return run


def find_model(name: Path | str) -> Path:
    """Find the folder of a model with its processor.

    Args:
        name: Directory of a finished run, folder of a model, or name of a model on the Hugging Face Hub, which is
            downloaded.

    Returns:
        The folder that contains `config.json` and the processor.

    Raises:
        UserError: If there is no such model.
    """
    folder = Path(name)
    if _is_model(folder):
        return folder
    if (folder / CONFIG).is_file():
        return find_run(folder) / MODEL
    expected = f"{name}: expected the directory of a finished run, a model folder, or a model on the Hub (user/model)"
    found = "this folder is neither" if folder.is_dir() else f"there is no such folder{suggest_path(folder)}"
    if folder.exists() or str(name).count("/") != 1:
        raise UserError(f"{expected}; {found}")
    try:
        model = Path(snapshot_download(str(name)))
    except Exception as error:  # no network or a wrong name can raise almost any exception
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{expected}; {found}; the download failed ({reason})") from error
    if not _is_model(model):
        raise UserError(f"{expected}; {name} is on the Hub, but was not saved by i2srm: {PROCESSOR} is missing")
    return model


def _is_model(folder: Path) -> bool:
    return (folder / PROCESSOR).is_file() and (folder / "config.json").is_file()


def load_model(run: Path | str, *, int8: bool = False) -> tuple[System, Processor]:
    """Load the model and the processor of a run for prediction, on the first accelerator found, else on the CPU.

    Parts that are only used in training are not built or loaded: AttnMixup, the semantic loss and its class logits.

    Args:
        run: See `find_model`.
        int8: Run the text encoder in int8, see `encoders.int8`.

    Returns:
        The model in evaluation mode, and its processor.

    Raises:
        UserError: If there is no such model, or int8 is not supported for it on this machine.
    """
    model, processor = _load(run, attn_mixup=False, semantic_weight=0.0)
    if int8:
        if model.text_encoder is None:
            raise UserError(
                "int8 needs a system with a text encoder from transformers, and this system has none; remove the option"
            )
        use_int8(model.text_encoder.body)
    return model, processor


def load_whole_model(run: Path | str) -> tuple[System, Processor]:
    """Load the model with all trained parts, in evaluation mode, and its processor."""
    return _load(run)


def _load(run: Path | str, **changes: Any) -> tuple[System, Processor]:
    folder = find_model(run)
    with readable(folder, AGAIN):
        model = AutoModel.from_pretrained(folder, **changes).eval()
        processor = Processor.from_pretrained(folder)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    return model.to(device), processor
