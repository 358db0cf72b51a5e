"""Grounding DINO and OWLv2: zero-shot detectors of transformers that search for given phrases."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor
from torchvision.ops import box_convert
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

from reference_models.config.grounding import GroundingConfig
from reference_models.errors import UserError
from reference_models.grounding.boxes import Box
from reference_models.grounding.detectors import accelerator, digest

DEFAULTS = {"grounding-dino": "IDEA-Research/grounding-dino-tiny", "owlv2": "google/owlv2-base-patch16-ensemble"}
MODEL_TYPES = {"grounding-dino": ("grounding-dino", "mm-grounding-dino"), "owlv2": ("owlv2",)}


def load_zero_shot(config: GroundingConfig) -> ZeroShotDetector:
    """Load the detector from the hub or a local folder.

    Raises:
        UserError: If it cannot be loaded or is another kind of model.
    """
    weights = DEFAULTS[config.detector] if config.weights == "default" else config.weights
    try:
        model = AutoModelForZeroShotObjectDetection.from_pretrained(weights)
        processor = AutoProcessor.from_pretrained(weights)
    except Exception as error:  # damaged files can fail with almost any exception
        raise UserError(
            f"grounding.weights: expected the hub name or local folder of a {config.detector} model with its "
            f"processor, but {weights} cannot be loaded ({str(error).strip().splitlines()[0]})"
        ) from error
    if model.config.model_type not in MODEL_TYPES[config.detector]:
        raise UserError(
            f"grounding.weights: expected a {config.detector} model, but the type of {weights} is "
            f"{model.config.model_type}"
        )
    folder = Path(weights)
    files = sorted(path for path in folder.glob("*") if path.suffix in (".safetensors", ".bin"))
    which = digest(files) if folder.is_dir() else f"{weights} {model.config._commit_hash}"
    kind = GroundingDinoDetector if config.detector == "grounding-dino" else Owlv2Detector
    return kind(model, processor, f"transformers {transformers.__version__}, {which}", config.threshold)


class ZeroShotDetector(ABC):
    """Base class of both detectors: each box is assigned to the phrase with the highest score.

    Args:
        model: Model from transformers.
        processor: Its processor.
        version: See `Detector`.
        threshold: Minimum score of a box.
    """

    name: str
    takes_phrases = True

    def __init__(self, model: Any, processor: Any, version: str, threshold: float) -> None:
        self.model = model.eval().to(accelerator())
        self.processor = processor
        self.version = version
        self.threshold = threshold

    @abstractmethod
    def find(self, images: list[Image.Image], phrases: list[list[str]]) -> list[tuple[Tensor, Tensor]]:
        """Return for each image the scores (boxes, phrases) and left, top, right, bottom (boxes, 4) in pixels."""

    @torch.inference_mode()
    def detect(self, images: Sequence[Image.Image], phrases: Sequence[Sequence[str]]) -> list[list[Box]]:
        """See `Detector`; an image without phrases gets no boxes."""
        asked = [index for index, wanted in enumerate(phrases) if wanted]
        found: list[list[Box]] = [[] for _ in images]
        if not asked:
            return found
        outputs = self.find([images[index] for index in asked], [list(phrases[index]) for index in asked])
        for index, (scores, bounds) in zip(asked, outputs, strict=True):
            best, phrase = scores.max(dim=-1)
            rows = zip(bounds.tolist(), best.tolist(), phrase.tolist(), strict=True)
            found[index] = [
                Box(left, top, right, bottom, score, phrases[index][number])
                for (left, top, right, bottom), score, number in rows
                if score >= self.threshold
            ]
        return found


class GroundingDinoDetector(ZeroShotDetector):
    """Grounding DINO, which reads all phrases of an image as one text, "a dog. a tall tower.".

    The score of a phrase is the highest score of its own tokens. The post-processing of transformers is not used: it
    takes the highest score of all tokens, including full stops and special tokens, without mapping tokens to phrases.
    """

    name = "grounding-dino"

    def find(self, images: list[Image.Image], phrases: list[list[str]]) -> list[tuple[Tensor, Tensor]]:
        """See `ZeroShotDetector`; phrases beyond the length limit of the model score 0."""
        tokenizer, limit = self.processor.tokenizer, self.model.config.max_text_len
        # Full stops and question marks separate phrases, so they are removed from the phrases.
        plain = str.maketrans(".?", "  ")
        texts = ["".join(f"{phrase.translate(plain).lower()}. " for phrase in wanted) for wanted in phrases]
        inputs = self.processor(
            images=images, text=texts, padding=True, truncation=True, max_length=limit, return_tensors="pt"
        ).to(self.model.device)
        outputs = self.model(**inputs)
        probabilities = outputs.logits.sigmoid()

        divider = inputs["input_ids"] == tokenizer.convert_tokens_to_ids(".")
        ends = torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id], device=divider.device)
        special = divider | torch.isin(inputs["input_ids"], ends)
        owner = divider.cumsum(dim=-1).masked_fill(special, -1)  # index of the phrase of each token
        found = []
        for row, (image, wanted) in enumerate(zip(images, phrases, strict=True)):
            scores = torch.zeros(probabilities.shape[1], len(wanted), device=probabilities.device)
            for number in range(len(wanted)):
                tokens = (owner[row] == number).nonzero()[:, 0]
                if len(tokens):
                    scores[:, number] = probabilities[row][:, tokens].amax(dim=-1)
            scale = torch.tensor(image.size * 2, device=scores.device)
            found.append((scores, box_convert(outputs.pred_boxes[row], "cxcywh", "xyxy") * scale))
        return found


class Owlv2Detector(ZeroShotDetector):
    """OWLv2, which scores each pair of box and phrase separately."""

    name = "owlv2"

    def find(self, images: list[Image.Image], phrases: list[list[str]]) -> list[tuple[Tensor, Tensor]]:
        """See `ZeroShotDetector`; a long phrase is truncated at the limit of the model."""
        limit = self.model.config.text_config.max_position_embeddings
        inputs = self.processor(images=images, text=phrases, truncation=True, max_length=limit, return_tensors="pt").to(
            self.model.device
        )
        outputs = self.model(**inputs)
        probabilities = outputs.logits.sigmoid()
        found = []
        for row, (image, wanted) in enumerate(zip(images, phrases, strict=True)):
            # The processor pads shorter lists of phrases, and pads images to squares on the right and at the bottom.
            bounds = box_convert(outputs.pred_boxes[row], "cxcywh", "xyxy") * max(image.size)
            found.append((probabilities[row, :, : len(wanted)], bounds))
        return found
