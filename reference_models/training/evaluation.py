"""Predictions of a model for a split, and their scores."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

from reference_models.data.dataset import EncodedSplit
from reference_models.data.samples import Sample
from reference_models.models.base import Extractor
from reference_models.training.metrics import ner_scores, relation_scores


@dataclass(frozen=True)
class Evaluation:
    """Scores of a split, and for each of its samples the predicted tags or relation."""

    scores: dict[str, float]
    samples: list[Sample]
    predictions: list[list[str] | str]


def evaluate_split(model: Extractor, split: EncodedSplit, batch_size: int, *, progress: bool = True) -> Evaluation:
    """Predict and score a split; the model is left in evaluation mode."""
    model.eval()
    loader = DataLoader(split, batch_size, collate_fn=split.processor.collate)
    rows: list[np.ndarray] = []
    with torch.inference_mode():
        for batch in tqdm(loader, desc="evaluating", disable=not progress):
            batch.pop("labels", None)
            output = model(**{name: value.to(model.device) for name, value in batch.items()})
            rows.extend(output.predictions.cpu().numpy())
    return score(split, rows)


def score(split: EncodedSplit, predictions: list[np.ndarray] | np.ndarray) -> Evaluation:
    """Score predicted ids, one row for each sample of the split, in its order."""
    said = [split.processor.names(s, row.tolist()) for s, row in zip(split.samples, predictions, strict=True)]
    if split.processor.task == "ner":
        scores = ner_scores([sample.tags for sample in split.samples], said)
    else:
        scores = relation_scores([sample.relation for sample in split.samples], said)
    return Evaluation(scores, split.samples, said)


def write_predictions(path: Path, evaluation: Evaluation) -> None:
    """One JSON object a line: id, words, picture, entities as spans, and what was predicted beside what is true."""
    with path.open("w", encoding="utf-8") as file:
        for sample, predicted in zip(evaluation.samples, evaluation.predictions, strict=True):
            row = {"id": sample.id, "words": sample.words, "image": sample.image and str(sample.image)}
            if sample.head is not None:
                row |= {"head": sample.head, "tail": sample.tail}
            row |= {"predicted": predicted, "true": sample.relation or sample.tags}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
