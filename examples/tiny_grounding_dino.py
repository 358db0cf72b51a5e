"""Write a tiny Grounding DINO with random weights: `python examples/tiny_grounding_dino.py FOLDER`."""

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    SwinConfig,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def save_grounding_dino(folder: Path) -> None:
    """Write a model with random weights and a processor whose vocabulary consists of letters."""
    words = [f"[unused{i}]" for i in range(1030)] + list(LETTERS) + [f"##{letter}" for letter in LETTERS]
    # The model expects the tokens that separate phrases at the ids of BERT.
    for number, word in {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 1012: ".", 1029: "?"}.items():
        words[number] = word
    stages: dict[str, Any] = {"depths": [1] * 4, "num_heads": [1] * 4, "out_indices": [2, 3, 4]}
    backbone = SwinConfig(image_size=32, embed_dim=8, window_size=2, **stages)
    text = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    sizes: dict[str, Any] = {
        f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")
    }
    config = GroundingDinoConfig(
        backbone_config=backbone, text_config=text, d_model=32, num_queries=10, max_text_len=24, **sizes
    )
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    images = GroundingDinoImageProcessor(size={"shortest_edge": 128, "longest_edge": 200})
    GroundingDinoProcessor(images, tokenizer).save_pretrained(folder)


if __name__ == "__main__":
    torch.manual_seed(0)
    save_grounding_dino(Path(sys.argv[1]))
