"""UMT: fusion compared with plain loops, the effect of the image, and the conversion of span scores."""

from typing import Any

import pytest
import torch
from torch import Tensor

from reference_models.systems.base import Encoded
from reference_models.systems.umt import UMT, span_tags
from tests.reference_models.slow_layers import cross_block, linear, sigmoid
from tests.reference_models.tiny_models import TAGS, make_batch, make_model


def make(task: str = "ner", **options: Any) -> UMT:
    system: UMT = make_model(UMT, task=task, **options).eval()
    return system


def encode(system: UMT, batch: dict[str, Tensor]) -> Encoded:
    with torch.no_grad():
        return system.encode({name: value for name, value in batch.items() if name != "labels"})


def scores(system: UMT, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        found: Tensor = system.head(encode(system, batch).h)
    return found


@pytest.mark.parametrize("sample", [0, 1, 3])
def test_fusion_agrees_with_plain_loops(sample: int) -> None:
    """Sample 1 has no image: A = R and the visual part is zero."""
    system, batch = make(), make_batch("ner")
    with torch.no_grad():
        hidden = system.text_encoder(batch["input_ids"], batch["attention_mask"])[sample]
        grid = system.image_features(batch).padded("grid")[sample, 0].tolist()
    real = int(batch["attention_mask"][sample].sum())
    hidden = hidden[:real].tolist()
    words = cross_block(system.self_block, hidden, hidden)
    spans = cross_block(system.span_block, hidden, hidden)
    seen = cross_block(system.text_to_image, words, [linear(system.visual_map, cell) for cell in grid])
    answers = cross_block(system.image_to_text, [linear(system.second_visual_map, cell) for cell in grid], words)
    aware = cross_block(system.text_to_text, words, answers)
    expected = []
    for place in batch["word_starts"][sample][batch["word_mask"][sample]].tolist():
        gate = [sigmoid(u) for u in linear(system.gate, aware[place] + seen[place])]
        visual = [g * q for g, q in zip(gate, seen[place], strict=True)]
        shown = bool(batch["image_mask"][sample, 0])
        expected.append(
            [*(aware if shown else words)[place], *(visual if shown else [0.0] * len(visual)), *spans[place]]
        )
    h = encode(system, batch).h[sample][batch["word_mask"][sample]]
    torch.testing.assert_close(h, torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_order_of_cells_and_absent_grids_do_not_matter() -> None:
    system, batch = make(freeze_image_backbone=True), make_batch("ner")
    grid = system.image_features(batch).padded("grid")
    read = {name: value for name, value in batch.items() if name != "pixel_values"}
    expected = encode(system, batch).h
    corrupted = grid.masked_fill(~batch["image_mask"][:, :1, None, None], torch.nan)
    order = torch.randperm(grid.shape[2])
    torch.testing.assert_close(
        encode(system, read | {"image_grid": corrupted[:, :, order]}).h, expected, atol=1e-5, rtol=0
    )
    width = system.text_encoder.width
    assert expected[1, :, width : 2 * width].abs().max() == 0
    assert expected[0, :, width : 2 * width].abs().max() > 0


def test_alpha_weights_typed_scores_and_span_scores() -> None:
    batch = make_batch("ner")
    other = batch | {"pixel_values": 255 - batch["pixel_values"]}
    spans_alone, types_alone = make(alpha=0.0), make(alpha=1.0)
    assert torch.equal(scores(spans_alone, batch), scores(spans_alone, other))
    before = scores(types_alone, batch)
    assert not torch.equal(before, scores(types_alone, other))
    with torch.no_grad():
        types_alone.head.spans.linear.weight.normal_()
        for parameter in types_alone.span_block.parameters():
            parameter.normal_()
    assert torch.equal(scores(types_alone, batch), before)


def test_conversion_gives_all_types_of_a_border_the_same_score() -> None:
    spans = span_tags(TAGS)
    assert spans is not None
    numbers, conversion = spans
    matrix = torch.tensor(conversion)
    assert matrix.shape == (3, 9)
    assert torch.equal(matrix.sum(dim=1), torch.ones(3))
    assert [sum(weight > 0 for weight in row) for row in conversion] == [4, 4, 1]
    assert all(matrix[number, label] > 0 for label, number in enumerate(numbers))
    # The other tags of the older scheme are converted one to one.
    older = span_tags(("[PAD]", *TAGS, "X", "[CLS]", "[SEP]"))[1]
    assert sorted(sum(weight > 0 for weight in row) for row in older) == [1, 1, 1, 1, 1, 4, 4]
    assert torch.equal(torch.tensor(older).sum(dim=1), torch.ones(7))
    system, batch = make(), make_batch("ner")
    with torch.no_grad():
        system.head.typed.linear.weight.zero_()
        system.head.typed.linear.bias.zero_()
    found = scores(system, batch)
    for prefix in "BI":
        columns = [TAGS.index(f"{prefix}-{kind}") for kind in ("PER", "LOC", "ORG", "MISC")]
        torch.testing.assert_close(found[..., columns], found[..., columns[:1]].expand(-1, -1, 4))


def test_head_is_a_weighted_sum_and_linear_in_h() -> None:
    system = make()
    width = system.text_encoder.width
    h = torch.randn(2, 5, 3 * width)
    with torch.no_grad():
        found = system.head(h)
        typed = h[..., : 2 * width] @ system.head.typed.linear.weight.T + system.head.typed.linear.bias
        spans = h[..., 2 * width :] @ system.head.spans.linear.weight.T + system.head.spans.linear.bias
        torch.testing.assert_close(
            found, 0.5 * typed + 0.5 * spans @ torch.tensor(span_tags(TAGS)[1]), atol=1e-5, rtol=1e-5
        )
        mixed = system.head(0.3 * h[0] + 0.7 * h[1])
    torch.testing.assert_close(mixed, 0.3 * found[0] + 0.7 * found[1], atol=1e-5, rtol=1e-5)


def test_span_loss_is_the_loss_of_a_crf_over_borders() -> None:
    system, batch = make(span_weight=0.5), make_batch("ner")
    system.dropout.p = 0.0
    h = encode(system, batch).h
    found = system.encode(batch).losses["span_loss"]
    borders = torch.tensor([{"B": 0, "I": 1, "O": 2}[tag[0]] for tag in TAGS])[batch["labels"]]
    head = system.head.spans
    rows = head.loss(head(h[..., -system.text_encoder.width :]), borders, batch["word_mask"])
    torch.testing.assert_close(found, 0.5 * rows.mean())


@pytest.mark.parametrize(
    "options", [{"conversion": "free"}, {"share_visual_map": True}, {"tag_head": "softmax"}], ids=str
)
def test_options_can_be_trained(options: dict[str, Any]) -> None:
    system = make(**options).train()
    loss = system(**make_batch("ner"))
    loss.loss.backward()
    assert loss.own_losses["span_loss"] > 0
    silent = {name for name, p in system.named_parameters() if p.requires_grad and p.grad is None}
    assert silent == set()
    assert ("span_head" in system.learning_rates()) == ("conversion" in options)


def test_relations_have_no_span_branch() -> None:
    system = make("re")
    assert system.span_block is None
    assert encode(system, make_batch("re")).h.shape == (4, 4 * system.text_encoder.width)
    assert system.train()(**make_batch("re")).own_losses is None
