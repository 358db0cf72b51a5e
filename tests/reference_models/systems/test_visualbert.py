"""VisualBERT: equality with BERT without regions, the order of regions, and loading weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertModel, RobertaConfig, VisualBertConfig, VisualBertModel

from reference_models.errors import UserError
from reference_models.systems.visualbert import VisualBERT
from tests.reference_models.slow_encoder import bert_layer
from tests.reference_models.slow_layers import linear, norm
from tests.reference_models.tiny_models import make_batch, make_model, text_config


def make(task: str = "ner", **options: Any) -> VisualBERT:
    system: VisualBERT = make_model(VisualBERT, task=task, **options).eval()
    return system


def encode(system: VisualBERT, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return system.encode({name: value for name, value in batch.items() if name != "labels"}).h


@pytest.mark.parametrize("task", ["ner", "re"])
def test_without_regions_the_output_equals_bert(task: str) -> None:
    system, batch = make(task), make_batch(task, present=[[0] * 4] * 4)
    bert = BertModel(text_config("bert"), add_pooling_layer=False).eval()
    missing, _ = bert.load_state_dict(system.text_encoder.body.state_dict(), strict=False)
    assert missing == []
    with torch.no_grad():
        hidden = bert(batch["input_ids"], batch["attention_mask"]).last_hidden_state
        expected = system.task.gather(hidden, batch, system.config)[0]
    torch.testing.assert_close(encode(system, batch), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("regions", ["pooled", "grid", "both"])
@pytest.mark.parametrize("sample", [0, 2])
def test_words_and_regions_agree_with_loops_over_one_sequence(sample: int, regions: str) -> None:
    """Sample 2 has one crop and no whole image."""
    system, batch = make(regions=regions), make_batch("ner")
    body, tables = system.text_encoder.body, system.text_encoder.body.embeddings
    with torch.no_grad():
        system.region_norm.weight.normal_()
        features = system.image_features(batch)
        places = (tables.position_embeddings.weight, tables.visual_position_embeddings.weight[0])
        types = (tables.token_type_embeddings.weight[0], tables.visual_token_type_embeddings.weight[1])
        sequence = []
        for place, token in enumerate(batch["input_ids"][sample][batch["attention_mask"][sample].bool()].tolist()):
            sequence.append(tables.word_embeddings.weight[token] + places[0][place] + types[0])
        shown = []
        if regions != "grid":
            shown += features.padded("pooled")[sample][features.seen["pooled"][sample]].tolist()
        if regions != "pooled":
            shown += features.padded("grid")[sample][features.seen["grid"][sample]].flatten(0, 1).tolist()
        for region in shown:
            projected = linear(tables.visual_projection, norm(system.region_norm, region))
            sequence.append(torch.tensor(projected) + places[1] + types[1])
        states = [tables.LayerNorm(token) for token in sequence]
        for number, layer in enumerate(body.encoder.layer):
            states = bert_layer(body.config, layer, number, states, 0, [], [])
    assert bool(shown) == ((regions, sample) != ("grid", 2))
    expected = torch.stack([states[start] for start in batch["word_starts"][sample][batch["word_mask"][sample]]])
    h = encode(system, batch)[sample][batch["word_mask"][sample]]
    torch.testing.assert_close(h, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("regions", ["pooled", "grid", "both"])
def test_regions_change_the_words_but_their_order_does_not(regions: str) -> None:
    system, batch = make(regions=regions), make_batch("ner")
    read = {name: value for name, value in batch.items() if name != "pixel_values"}
    pooled, grid = torch.randn(4, 4, 64), torch.randn(4, 1, 6, 64)
    read |= {"image_pooled": pooled, "image_grid": grid}
    order = torch.tensor([2, 0, 3, 1])
    before = encode(system, read)
    moved = encode(system, read | {"image_pooled": torch.randn(4, 4, 64), "image_grid": torch.randn(4, 1, 6, 64)})
    assert (moved - before)[0].abs().max() > 1e-4
    mixed = read | {
        "image_pooled": pooled[:, order],
        "image_mask": batch["image_mask"][:, order],
        "image_grid": grid[:, :, torch.randperm(6)],
    }
    if regions == "pooled":  # the mask of the whole image also masks the grid
        torch.testing.assert_close(encode(system, mixed), before, atol=1e-5, rtol=0)
    else:
        cells = read | {"image_grid": mixed["image_grid"]}
        torch.testing.assert_close(encode(system, cells), before, atol=1e-5, rtol=0)


def test_padding_token_and_region_width_are_saved(tmp_path: Path) -> None:
    system = make()
    system.save_pretrained(tmp_path)
    config = VisualBERT.from_pretrained(tmp_path).text_encoder.body.config
    assert (config.pad_token_id, config.visual_embedding_dim) == (0, 64)
    system.train()(**make_batch("ner")).loss.backward()
    table = system.text_encoder.body.embeddings
    assert table.word_embeddings.weight.grad[1:].abs().sum(dim=1).gt(0).sum() > 10
    assert table.visual_position_embeddings.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist() == [0]
    assert table.visual_token_type_embeddings.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist() == [1]


def test_bert_embeddings_are_copied_for_the_regions() -> None:
    system, bert = make(), BertModel(text_config("bert"))
    system.fill_text_encoder(bert, "a BERT")
    ours, theirs = system.text_encoder.body.embeddings, bert.embeddings
    assert torch.equal(ours.visual_position_embeddings.weight, theirs.position_embeddings.weight)
    assert torch.equal(ours.visual_token_type_embeddings.weight, theirs.token_type_embeddings.weight)
    assert torch.equal(ours.word_embeddings.weight, theirs.word_embeddings.weight)


def test_visual_projection_must_fit_unless_reinitialised() -> None:
    sizes = {key: value for key, value in text_config("bert").to_dict().items() if hasattr(VisualBertConfig(), key)}
    fitting, other = (
        VisualBertModel(VisualBertConfig(**sizes | {"model_type": "visual_bert", "visual_embedding_dim": width}))
        for width in (64, 20)
    )
    system = make()
    system.fill_text_encoder(fitting, "a VisualBERT")
    weight = system.text_encoder.body.embeddings.visual_projection.weight
    assert torch.equal(weight, fitting.embeddings.visual_projection.weight)
    with pytest.raises(UserError, match=r"reads regions of 20 features, but the image backbone has 64; .*reinit"):
        system.fill_text_encoder(other, "a VisualBERT")
    system = make(reinit_visual_projection=True)
    before = system.text_encoder.body.embeddings.visual_projection.weight.clone()
    system.fill_text_encoder(other, "a VisualBERT")
    assert torch.equal(system.text_encoder.body.embeddings.visual_projection.weight, before)


def test_other_encoder_family_raises() -> None:
    with pytest.raises(UserError, match=r"takes a BERT or a VisualBERT as model\.text, got a roberta"):
        make(text_config=RobertaConfig())
