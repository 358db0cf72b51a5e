"""Model card of a run: task, labels, data, scores, limits and usage."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from reference_models.config import Inputs
from reference_models.files import read_json, readable
from reference_models.tasks.processor import Processor
from reference_models.training.folder import CONFIG, METRICS
from reference_models.training.run import AGAIN
from reference_models.training.seeds import SUMMARY, percent

SCORES = ("precision", "recall", "f1")
SCORED = ("valid", "test")
PATHS = ("root", "feature_cache")  # settings that are paths, however they are written
CITATION = """\
@inproceedings{huang2023i2srm,
  title     = {{I2SRM}: Intra- and Inter-Sample Relationship Modeling for Multimodal Information Extraction},
  author    = {Huang, Yusheng and Lin, Zhouhan},
  booktitle = {ACM Multimedia Asia 2023},
  year      = {2023},
  doi       = {10.1145/3595916.3626399}
}"""


def model_card(run: Path, system: str, processor: Processor, inputs: Inputs) -> str:
    """Format the model card of a finished run.

    Args:
        run: The run directory.
        system: Name of the system.
        processor: Processor of the model.
        inputs: The parts of a post that the model reads.

    Returns:
        Markdown with the header of the Hugging Face hub.

    Raises:
        UserError: If the scores of the run cannot be read.
    """
    metrics, task = read_json(run / METRICS, AGAIN), processor.task
    header = {"library_name": "attnmixup", "tags": ["attnmixup", "multimodal", task.name, system]}
    lines = [f"{key}: {json.dumps(value)}" for key, value in header.items()]
    post = ", ".join(['"Ann Lee lives in Rome"', *(f'{key}="{name}"' for key, name in _pair(task.post_keys))])
    return "\n".join(
        [
            "---",
            *lines,
            "---",
            "",
            f"# {task.title.capitalize()} with {system}",
            "",
            f"This model finds {task.title} in a post. It reads {_described(inputs)}.",
            "",
            "## Labels",
            "",
            ", ".join(f"`{label}`" for label in task.labels),
            "",
            "## Data and scores",
            "",
            f"The model was trained on {metrics['samples']['train']} samples with seed {metrics['seed']}. Its weights "
            f"are from epoch {metrics['kept_epoch']:g}. The fingerprint of the labels is "
            f"`{metrics['labels_fingerprint']}`. These are the scores of this run; they vary with the seed.",
            "",
            "| split | precision (%) | recall (%) | F1 (%) | samples |",
            "|---|---|---|---|---|",
            *(_row(metrics, split) for split in SCORED),
            "",
            *_scores_over_seeds(run, metrics["seed"]),
            "## Limits",
            "",
            f"- The model reads at most {processor.max_length} sub-words of a sentence and ignores the rest.",
            "- Words must be separated by spaces.",
            "- The model predicts only the labels above.",
            "- The scores apply only to data that are similar to the training data.",
            "- Names, places and opinions in posts are personal data. Check that you are allowed to use them.",
            "",
            "## Use",
            "",
            "```python",
            "from reference_models import Predictor",
            "",
            'predictor = Predictor.from_pretrained("FOLDER OR NAME OF THIS MODEL")',
            f"predictor({post})",
            "```",
            "",
            "## Settings",
            "",
            "```yaml",
            yaml.safe_dump(settings_without_paths(run), sort_keys=False).strip(),
            "```",
            "",
            "## Citation",
            "",
            "```bibtex",
            CITATION,
            "```",
            "",
        ]
    )


def settings_without_paths(run: Path) -> dict[str, Any]:
    """Return the settings of a run that its results depend on, without paths, which would reveal folders."""
    with readable(run / CONFIG, AGAIN):
        settings = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
    kept: dict[str, Any] = {"system": settings["system"]}
    for section in ("data", "model", "training"):
        values = settings.get(section, {})
        kept[section] = {key: value for key, value in values.items() if key not in PATHS and not _is_path(value)}
    return kept


def _is_path(value: object) -> bool:
    """Return whether the value of a setting is a local path, and not a name on the hub such as org/name."""
    if not isinstance(value, str) or "/" not in value:
        return False
    return value[0] in "/.~" or value.count("/") > 1 or Path(value).exists()


def _described(inputs: Inputs) -> str:
    slots = set(inputs.images.values())
    parts = ["the sentence"]
    if slots & {"whole", "all"}:
        parts.append("the whole image")
    if slots & {"crops", "all"}:
        parts.append("object crops of the image")
    if inputs.texts:
        parts.append(f"texts about the image ({', '.join(inputs.texts)})")
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if parts[1:] else "only the sentence"


def _row(metrics: Mapping[str, Any], split: str) -> str:
    cells = [f"{100 * metrics[split][score]:.2f}" for score in SCORES]
    return f"| {' | '.join([split, *cells, str(metrics['samples'][split])])} |"


def _scores_over_seeds(run: Path, seed: int) -> list[str]:
    """Return a table of the scores over seeds, if the run is one of several that `train_seeds` trained."""
    path = run.resolve().parent / SUMMARY
    summary = read_json(path, AGAIN) if path.is_file() else {"seeds": []}
    if len(summary["seeds"]) < 2 or seed not in summary["seeds"]:
        return []
    rows = []
    for split in SCORED:
        cells = [percent(summary["scores"][split][name]) for name in SCORES]
        rows.append(f"| {' | '.join([split, *cells])} |")
    return [
        f"Mean and standard deviation of the runs with seeds {', '.join(map(str, summary['seeds']))}:",
        "",
        "| split | precision (%) | recall (%) | F1 (%) |",
        "|---|---|---|---|",
        *rows,
        "",
    ]


def _pair(keys: tuple[str, ...]) -> list[tuple[str, str]]:
    return list(zip(keys, ("Ann Lee", "Rome"), strict=False))
