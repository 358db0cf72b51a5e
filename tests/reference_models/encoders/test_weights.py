"""Weights of pre-trained text encoders."""

from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from reference_models.encoders.weights import load_text


def test_embeddings_of_added_tokens_differ_and_have_the_initial_deviation(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=20, hidden_size=256, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    saved = BertModel(config)
    saved.save_pretrained(tmp_path)
    embeddings = load_text(str(tmp_path), 24).get_input_embeddings().weight
    assert torch.equal(embeddings[:20], saved.get_input_embeddings().weight)
    added = embeddings[20:]
    assert ((added.std(1) / config.initializer_range - 1).abs() < 0.25).all()
    assert torch.cdist(added, added).add(torch.eye(4)).min() > 0.1
