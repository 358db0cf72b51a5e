"""The attention section prints the findings of the diagnostics and their statistics."""

from pathlib import Path

import torch

from attnmixup.diagnostics import findings
from reference_models.analysis.modality_gap import batch_attention
from reference_models.report.markup import Markup, plain
from reference_models.report.modalities import attention
from reference_models.settings import read_settings
from reference_models.tasks.dataset import EncodedSplit
from reference_models.training.folder import CONFIG
from reference_models.training.run import load_whole_model, read_split


def test_attention_section_prints_findings_and_statistics(runs: dict[str, Path]) -> None:
    model, processor = load_whole_model(runs["ner"])
    samples, _ = read_split(read_settings(runs["ner"] / CONFIG, []), "test")
    split = EncodedSplit(samples[:8], processor)
    torch.nn.init.zeros_(model.mixer.attention.vector.weight)
    _, stats = batch_attention(model, split)
    page = attention(model, split, [Markup("a sentence")] * len(split))
    messages = findings(stats)
    assert messages[0].startswith("The attention is nearly uniform (entropy 1.000")
    assert all(plain(sentence) in page for sentence in messages)
    assert all(f"{value:.3g}" in page for value in stats.values())
