"""Attention of words to crops, compared with a layer-by-layer computation, and cases without attention."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reference_models.analysis.crop_attention import crop_attention
from reference_models.data.formats import get_format
from reference_models.data.samples import Sample
from reference_models.encoders.attention import NAMES
from reference_models.encoders.prefix import Prefix
from reference_models.systems.base import System
from reference_models.systems.i2srm import I2SRMConfig
from reference_models.tasks.processor import Processor
from reference_models.training.run import load_model

FORMATS = {"ner": "twitter", "re": "mnre"}


def sample_of(run: Path, task: str) -> Sample:
    samples = get_format(FORMATS[task]).read(run.parent.parent / task / "posts", "test")
    return next(sample for sample in samples if len(sample.crops) == 2)


def slow_weights(model: System, processor: Processor, sample: Sample) -> torch.Tensor:
    """Compute weights (layers, heads, L, P + L) from the input of each layer with the textbook formula."""
    batch = processor.collate([processor.encode(sample) | {"pixels": processor.pixels(sample)}])
    seen: list[Prefix] = []
    hook = model.prefix.register_forward_hook(lambda _, given, prefix: seen.append(prefix))
    states: list[torch.Tensor] = []
    layers = model.text_encoder.body.encoder.layer
    hooks = [layer.register_forward_pre_hook(lambda _, given: states.append(given[0])) for layer in layers]
    model.encode(batch)
    for one in (hook, *hooks):
        one.remove()
    [prefix] = seen
    weights = []
    for number, (layer, state) in enumerate(zip(layers, states, strict=True)):
        attention = layer.attention.self
        heads = model.text_encoder.heads
        query = attention.query(state[0]).unflatten(-1, (heads, -1))
        key = attention.key(state[0]).unflatten(-1, (heads, -1))
        per_head = []
        for head in range(heads):
            keys = torch.cat([prefix.keys[number, 0, head], key[:, head]])
            scores = query[:, head] @ keys.T / keys.shape[1] ** 0.5
            scores[:, : len(prefix.mask[0])][:, ~prefix.mask[0]] = float("-inf")
            per_head.append(scores.softmax(dim=1))
        weights.append(torch.stack(per_head))
    return torch.stack(weights)


@pytest.mark.parametrize("task", FORMATS)
@torch.no_grad()
def test_crop_shares_match_the_mean_attention_weights(task: str, runs: dict[str, Path]) -> None:
    model, processor = load_model(runs[task])
    sample = sample_of(runs[task], task)
    found = crop_attention(model, processor, sample)
    weights = slow_weights(model, processor, sample).mean(dim=(0, 1))
    _, numbers = processor.subwords(found.words)
    assert found.images == list(sample.crops)
    assert found.words == processor.task.words_read(sample)
    for word, shares in enumerate(found.shares):
        places = [place for place, number in enumerate(numbers) if number == word]
        for crop in (0, 1):
            expected = weights[places, 4 * crop : 4 * crop + 4].sum() / len(places)  # 2 x 2 cells each
            torch.testing.assert_close(shares[crop], expected, atol=1e-5, rtol=0)
    assert model.text_encoder.body.config._attn_implementation == NAMES["sdpa"]


def test_crop_attention_leaves_the_model_unchanged(runs: dict[str, Path]) -> None:
    model, processor = load_model(runs["ner"])
    sample = sample_of(runs["ner"], "ner")
    batch = processor.collate([processor.encode(sample) | {"pixels": processor.pixels(sample)}])
    batch.pop("labels")
    before = model(**batch).scores
    crop_attention(model, processor, sample)
    assert torch.equal(model(**batch).scores, before)
    assert not model.text_encoder.body._forward_hooks
    assert not model.text_encoder.body._forward_pre_hooks


def test_no_crop_attention_without_crops_or_prefix(runs: dict[str, Path]) -> None:
    model, processor = load_model(runs["ner"])
    sample = sample_of(runs["ner"], "ner")
    assert crop_attention(model, processor, replace(sample, crops=())) is None
    assert isinstance(model.settings, I2SRMConfig)
    model.settings.fusion = "concat"
    assert crop_attention(model, processor, sample) is None
    model.settings.fusion, model.settings.scramble_heads = "prefix", True
    assert crop_attention(model, processor, sample) is None
    text_only, processor = load_model(runs["text-only"])
    assert crop_attention(text_only, processor, sample) is None


def test_words_beyond_the_length_limit_are_left_out(runs: dict[str, Path]) -> None:
    model, processor = load_model(runs["ner"])
    sample = sample_of(runs["ner"], "ner")
    long = replace(sample, words=("a",) * 200, tags=None)
    found = crop_attention(model, processor, long)
    assert len(found.words) == len(found.shares) == processor.max_length - 2
