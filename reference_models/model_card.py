"""The model card of a run: what the model does, its data, scores and limits, and how to use it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from reference_models.files import read_json, readable
from reference_models.tasks.processor import Processor
from reference_models.training.folder import CONFIG, METRICS
from reference_models.training.run import AGAIN

SCORES = ("precision", "recall", "f1")
CITATION = """\
@inproceedings{huang2023i2srm,
  title     = {{I2SRM}: Intra- and Inter-Sample Relationship Modeling for Multimodal Information Extraction},
  author    = {Huang, Yusheng and Lin, Zhouhan},
  booktitle = {ACM Multimedia Asia 2023},
  year      = {2023},
  doi       = {10.1145/3595916.3626399}
}"""


def model_card(run: Path, system: str, processor: Processor) -> str:
    """The card of a finished run, in Markdown with the hub's header.

    Args:
        run: its folder.
        system: name of the system.
        processor: of the model.

    Raises:
        UserError: the scores of the run cannot be read.
    """
    metrics, task = read_json(run / METRICS, AGAIN), processor.task
    header = {"library_name": "attnmixup", "tags": ["attnmixup", "multimodal", task.name, system]}
    lines = [f"{key}: {json.dumps(value)}" for key, value in header.items()]
    images = "a sentence alone" if processor.image_size is None else "a sentence with its image and the image's crops"
    post = ", ".join(['"Ann Lee lives in Rome"', *(f'{key}="{name}"' for key, name in _pair(task.post_keys))])
    return "\n".join(
        [
            "---",
            *lines,
            "---",
            "",
            f"# {task.title.capitalize()} with {system}",
            "",
            f"Finds {task.title} in a post: it reads {images}.",
            "",
            "## Labels",
            "",
            ", ".join(f"`{label}`" for label in task.labels),
            "",
            "## Data and scores",
            "",
            f"Trained on {metrics['samples']['train']} samples; fingerprint of the labels "
            f"`{metrics['labels_fingerprint']}`, seed {metrics['seed']}, epoch {metrics['kept_epoch']:g}. This is one "
            "run of one seed: scores vary with the seed.",
            "",
            "| percent | precision | recall | F1 | samples |",
            "|---|---|---|---|---|",
            *(_row(metrics, split) for split in ("valid", "test")),
            "",
            "## Limits",
            "",
            f"Sentences are read up to {processor.max_length} sub-words; words are divided by spaces. Labels other "
            "than those above are never given. Names, places and opinions in posts are personal data: check that you "
            "may use them. The scores hold for data like those of the training.",
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
    """The settings of a run's system and training; where files lie on this machine is nobody's business."""
    with readable(run / CONFIG, AGAIN):
        settings = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
    kept: dict[str, Any] = {"system": settings["system"]}
    for section in ("model", "training"):
        values = settings.get(section, {})
        kept[section] = {key: value for key, value in values.items() if not (isinstance(value, str) and "/" in value)}
    return kept


def _row(metrics: Mapping[str, Any], split: str) -> str:
    cells = [f"{100 * metrics[split][score]:.2f}" for score in SCORES]
    return f"| {' | '.join([split, *cells, str(metrics['samples'][split])])} |"


def _pair(keys: tuple[str, ...]) -> list[tuple[str, str]]:
    return list(zip(keys, ("Ann Lee", "Rome"), strict=False))
