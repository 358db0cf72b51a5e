"""MAF: fusion and contrastive loss compared with plain loops, negatives, and a fault of the published ones."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertModel

from reference_models.systems.base import Encoded
from reference_models.systems.maf import MAF, contrastive_loss, draw_exchange
from tests.reference_models.slow_layers import add, cross_block, dot, linear, sigmoid, softmax
from tests.reference_models.tiny_models import make_batch, make_model


def make(task: str = "ner", **options: Any) -> MAF:
    system: MAF = make_model(MAF, task=task, **options).eval()
    return system


def encode(system: MAF, batch: dict[str, Tensor]) -> Encoded:
    with torch.no_grad():
        return system.encode({name: value for name, value in batch.items() if name != "labels"})


def mean(rows: list[list[float]]) -> list[float]:
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("sample", [0, 1, 3])
def test_fusion_agrees_with_plain_loops(sample: int) -> None:
    system, batch = make(), make_batch("ner")
    with torch.no_grad():
        hidden = system.text_encoder(batch["input_ids"], batch["attention_mask"])[sample]
        grid = system.image_features(batch).padded("grid")[sample, 0].tolist()
    words = hidden[: int(batch["attention_mask"][sample].sum())].tolist()
    context = cross_block(system.block, words, [linear(system.visual_map, cell) for cell in grid])
    first, _, last = system.match.children()
    joined = mean([word + seen for word, seen in zip(words, context, strict=True)])
    share = softmax(linear(last, [max(u, 0.0) for u in linear(first, joined)]))[1]
    if not batch["image_mask"][sample, 0]:
        share = 0.0
    expected = []
    for place in batch["word_starts"][sample][batch["word_mask"][sample]].tolist():
        seen = [share * c for c in context[place]]
        gate = [sigmoid(u) for u in add(linear(system.text_gate, words[place]), linear(system.image_gate, seen))]
        expected.append(words[place] + [g * c for g, c in zip(gate, seen, strict=True)])
    h = encode(system, batch).h[sample][batch["word_mask"][sample]]
    torch.testing.assert_close(h, torch.tensor(expected), atol=1e-4, rtol=1e-4)


def test_order_of_cells_and_absent_grids_do_not_matter() -> None:
    system, batch = make(), make_batch("ner")
    features = system.image_features(batch)
    absent = ~batch["image_mask"][:, :1]
    grid = features.padded("grid").masked_fill(absent[..., None, None], torch.nan)
    pooled = features.padded("pooled").masked_fill(absent[..., None], torch.nan)
    read = {name: value for name, value in batch.items() if name != "pixel_values"}
    read |= {"image_grid": grid[:, :, torch.randperm(grid.shape[2])], "image_pooled": pooled}
    torch.testing.assert_close(encode(system, read).h, encode(system, batch).h, atol=1e-5, rtol=0)
    system.train()(**read).loss.backward()
    assert all(p.grad.isfinite().all() for p in system.parameters() if p.grad is not None)


@pytest.mark.parametrize("part", ["match", "gate"])
def test_closed_match_or_gate_leaves_only_the_words(part: str) -> None:
    system, batch = make(), make_batch("ner")
    with torch.no_grad():
        if part == "match":
            system.match[2].bias.copy_(torch.tensor([1e4, -1e4]))
        else:
            for layer in (system.text_gate, system.image_gate):
                layer.weight.zero_()
                layer.bias.fill_(-1e4)
        width = system.text_encoder.width
        h = encode(system, batch).h
        words = system.task.gather(
            system.text_encoder(batch["input_ids"], batch["attention_mask"]), batch, system.config
        )[0]
        expected = words @ system.head.linear.weight[:, :width].T + system.head.linear.bias
        torch.testing.assert_close(system.head(h), expected, atol=1e-6, rtol=1e-6)


def test_exchanged_images_are_pairs_of_different_present_images() -> None:
    images = torch.randn(40, 3)
    images[20:30] = images[0]  # the same image
    shown = torch.arange(40) % 5 > 0
    for seed in range(20):
        torch.manual_seed(seed)
        source = draw_exchange(images, shown)
        moved = (source != torch.arange(40)).nonzero().flatten().tolist()
        assert len(moved) == 2 * (32 // 8)
        assert all(source[source[sample]] == sample for sample in moved)
        assert all(shown[sample] and not torch.equal(images[sample], images[source[sample]]) for sample in moved)
    assert torch.equal(draw_exchange(images[:7], shown[:7]), torch.arange(7))
    assert torch.equal(draw_exchange(images[20:30], torch.ones(10, dtype=torch.bool)), torch.arange(10))


def sums_of_scores(system: MAF, batch: dict[str, Tensor], source: Tensor) -> list[Tensor]:
    """Return the sums of both matching scores over the exchanged samples, before and after the exchange."""
    sums, moved = [], source != torch.arange(len(source))
    hook = system.match.register_forward_hook(lambda _, __, scores: sums.append(scores[moved].sum(dim=0)))
    words = system.text_encoder(batch["input_ids"], batch["attention_mask"])
    cells = system.visual_map(system.image_features(batch).padded("grid")[:, 0])
    real, shown = batch["attention_mask"].bool(), torch.ones(len(source), dtype=torch.bool)
    context = system.block(words, cells, shown[:, None].expand(-1, cells.shape[1]))
    system.match_scores(words, context, real)
    system.match_scores(words, system._exchange(words, cells, context, source, moved), real)
    hook.remove()
    return sums


@pytest.mark.parametrize(("negatives", "equal"), [("context", True), ("image", False)])
def test_linear_head_scores_exchanged_states_like_true_ones(negatives: str, equal: bool) -> None:
    """A fault of the published code: permuting the fused states does not change the sum of linear scores."""
    batch = make_batch("ner", present=[[1, 0, 0, 0]] * 4)
    batch["attention_mask"] = torch.ones_like(batch["attention_mask"])  # the published head reads all 128 positions
    system = make(negatives=negatives, match_head="linear")
    with torch.no_grad():
        before, after = sums_of_scores(system, batch, torch.tensor([1, 0, 2, 3]))
    assert torch.allclose(before, after, atol=1e-6) == equal


def slow_contrastive_loss(
    texts: list[list[float]], images: list[list[float]], same: list[list[bool]], temperature: float, share: float
) -> float:
    def cosine(a: list[float], b: list[float]) -> float:
        return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)) / temperature

    total = 0.0
    for i in range(len(texts)):
        candidates = [j for j in range(len(texts)) if j == i or not same[i][j]]
        forth = sum(math.exp(cosine(texts[i], images[j])) for j in candidates)
        back = sum(math.exp(cosine(texts[j], images[i])) for j in candidates)
        own = cosine(texts[i], images[i])
        total += share * (math.log(forth) - own) + (1 - share) * (math.log(back) - own)
    return total / len(texts)


def test_contrastive_loss_agrees_with_a_double_loop() -> None:
    texts, images = torch.randn(6, 4), torch.randn(6, 4)
    same = torch.eye(6, dtype=torch.bool)
    same[1, 4] = same[4, 1] = True
    options = {"temperature": 0.3, "text_to_image": 0.7}
    found = contrastive_loss(texts, images, same, **options)
    expected = slow_contrastive_loss(texts.tolist(), images.tolist(), same.tolist(), 0.3, 0.7)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(contrastive_loss(5 * texts, 0.1 * images, same, **options), found)
    assert contrastive_loss(texts[:1], images[:1], same[:1, :1], **options) == 0
    with torch.autocast("cpu", torch.bfloat16):
        assert contrastive_loss(100 * texts, images, same, temperature=0.01, text_to_image=0.5).isfinite()


def test_extra_losses_keep_h_and_scale_with_the_words() -> None:
    batch = make_batch("ner", present=[[1, 0, 0, 0]] * 4)
    # Eight samples; one pair is exchanged.
    batch = {name: torch.cat([value, value.flip(0)]) for name, value in batch.items()}
    batch["pixel_values"][4:] = 255 - batch["pixel_values"][4:]
    system, bare = make(), make(alignment=False)
    bare.load_state_dict(system.state_dict(), strict=False)
    for each in (system, bare):
        without_dropout(each)
    torch.manual_seed(0)
    ours, theirs = system.encode(batch), bare.encode(batch)
    assert set(ours.losses) == {"match_loss", "alignment_loss"}
    assert set(theirs.losses) == {"match_loss"}
    system.training = False
    assert torch.equal(ours.h, system.encode(batch).h)
    assert torch.equal(ours.h, theirs.h)
    words = batch["word_mask"].sum(dim=1).float().mean()
    pooled = system.image_features(batch).padded("pooled")[:, 0]
    sentence = system.text_encoder(batch["input_ids"], batch["attention_mask"])[:, 0]
    plain = system._alignment_loss(sentence, pooled, batch["image_mask"][:, 0])
    torch.testing.assert_close(ours.losses["alignment_loss"], 0.38 / 0.62 / words * plain)


def without_dropout(system: MAF) -> MAF:
    for each in (system.dropout, system.block.dropout):
        each.p = 0.0
    system.block.attention_dropout = 0.0
    system.text_encoder.eval()
    system.training = True
    return system


@pytest.mark.parametrize("negatives", ["image", "context"])
@pytest.mark.parametrize("wrong", [False, True])
def test_task_uses_exchanged_images_only_with_main_on_negatives(
    wrong: bool, negatives: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published code trains its CRF on exchanged samples with the image of another sample."""
    batch = make_batch("ner", present=[[1, 0, 0, 0]] * 4)
    source = torch.tensor([1, 0, 2, 3])
    monkeypatch.setattr("reference_models.systems.maf.draw_exchange", lambda *_: source)
    system = without_dropout(make(main_on_negatives=wrong, negatives=negatives))
    with torch.no_grad():
        h = system.encode(batch).h
        system.training = False
        true, other = (
            system.encode(given).h for given in (batch, batch | {"pixel_values": batch["pixel_values"][source]})
        )
    assert torch.equal(h[2:], true[2:])
    assert torch.equal(h[:2], true[:2]) != wrong
    if wrong:
        assert torch.allclose(h[:2], other[:2], atol=1e-6) == (negatives == "image")


def test_pooler_output_can_represent_the_sentence() -> None:
    torch.manual_seed(0)
    system = without_dropout(make(sentence="pooler"))
    bert = BertModel(system.config.text_config)
    system.fill_text_encoder(bert, "a BERT")
    batch, given = make_batch("ner", present=[[1, 0, 0, 0]] * 4), []
    system.text_map.register_forward_hook(lambda _, inputs, __: given.append(inputs[0]))
    with torch.no_grad():
        expected = bert.eval()(batch["input_ids"], attention_mask=batch["attention_mask"]).pooler_output
        system.encode(batch)
    torch.testing.assert_close(given[0], expected, atol=1e-5, rtol=1e-4)


def test_more_padding_does_not_change_the_match() -> None:
    system, batch = make(), make_batch("ner")
    words = system.text_encoder(batch["input_ids"], batch["attention_mask"])
    real = batch["attention_mask"].bool()
    before = system.match_scores(words, words, real)
    longer = torch.nn.functional.pad(words, (0, 0, 0, 3), value=9.0)
    after = system.match_scores(longer, longer, torch.nn.functional.pad(real, (0, 3)))
    torch.testing.assert_close(after, before)
