"""The text-only systems: the layer after the entity pair, and the published freeze of the marker embeddings."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from reference_models.systems.bert import BERT
from reference_models.tasks.metrics import ner_scores
from tests.reference_models.tiny_models import TAGS, make_batch, make_model


@pytest.mark.parametrize(("freeze", "learns"), [("none", True), ("plkmo", False)])
def test_published_freeze_does_not_train_the_markers(freeze: str, learns: bool) -> None:
    system = make_model(BERT, freeze=freeze, pair="marker", post="linear").train()
    system(**make_batch()).loss.backward()
    body = system.text_encoder.body
    assert (body.embeddings.word_embeddings.weight.grad is not None) == learns
    first, *_, last = body.encoder.layer
    assert [p.grad is not None for p in first.parameters()] == [learns] * len(list(first.parameters()))
    for module in (last, system.post, system.head):
        assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("post", ["none", "linear", "layernorm"])
def test_post_layer_is_applied_to_the_pair(post: str) -> None:
    system, batch = make_model(BERT, post=post, pair="marker").eval(), make_batch()
    with torch.no_grad():
        hidden = system.text_encoder(batch["input_ids"], batch["attention_mask"])
        pair = torch.cat([hidden[:, 0], hidden[:, 3]], dim=-1)  # the opening markers precede the entities
        expected: dict[str, Callable[[], Tensor]] = {
            "none": lambda: pair,
            "linear": lambda: pair @ system.post.weight.T + system.post.bias,
            "layernorm": lambda: (
                (pair - pair.mean(1, keepdim=True)) / (pair.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
            ),
        }
        torch.testing.assert_close(system.encode(batch).h, expected[post](), atol=1e-5, rtol=1e-4)


def test_swapped_entities_swap_the_halves_of_the_pair() -> None:
    system, batch = make_model(BERT, pair="marker").eval(), make_batch()
    swapped = batch | {"head_mask": batch["tail_mask"], "tail_mask": batch["head_mask"]}
    with torch.no_grad():
        head, tail = system.encode(batch).h.chunk(2, dim=1)
        torch.testing.assert_close(system.encode(swapped).h, torch.cat([tail, head], dim=1))
    assert not torch.allclose(head, tail)


def test_markers_learn_and_the_pair_depends_on_words_outside_both_entities() -> None:
    system, batch, places = make_model(BERT, pair="marker").eval(), make_batch(size=1), torch.arange(10)
    batch |= {"head_mask": (places[None] == 2), "tail_mask": (places[None] == 6)}
    batch["input_ids"][0, [1, 3, 5, 7]] = torch.tensor([46, 47, 48, 49])
    system(**batch).loss.backward()
    markers = system.text_encoder.body.embeddings.word_embeddings.weight.grad[46:]
    assert markers.abs().sum(dim=1).gt(0).tolist() == [True] * 4
    with torch.no_grad():
        h = system.encode(batch).h
        batch["input_ids"][0, 9] += 1
        assert (system.encode(batch).h - h).abs().max() > 1e-4


@pytest.mark.parametrize("mixup", [False, True])
def test_bert_crf_without_transitions_is_bert(mixup: bool) -> None:
    options = {"task": "ner", "attn_mixup": mixup}
    plain, crf = (make_model(BERT, tag_head=head, **options) for head in ("softmax", "crf"))
    crf.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        for parameter in crf.head.crf.parameters():
            parameter.zero_()
    outputs = {}
    for training in (True, False):
        for system in (plain, crf):
            torch.manual_seed(1)
            outputs[system] = system.train(training)(**make_batch("ner"))
        torch.testing.assert_close(outputs[crf].loss, outputs[plain].loss, atol=1e-5, rtol=0)
    assert torch.equal(outputs[crf].scores, outputs[plain].scores)
    assert torch.equal(outputs[crf].predictions, outputs[plain].predictions)


@pytest.mark.parametrize("tag_head", ["softmax", "crf"])
def test_one_batch_is_learned_by_heart(tag_head: str) -> None:
    system, batch = make_model(BERT, task="ner", tag_head=tag_head), make_batch("ner")
    optimizer = torch.optim.AdamW(system.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        system.train()(**batch).loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = system.eval()(**batch).predictions
    true, predicted = (
        [[TAGS[tag] for tag in row[mask]] for row, mask in zip(rows, batch["word_mask"], strict=True)]
        for rows in (batch["labels"], found)
    )
    assert ner_scores(true, predicted)["f1"] == 1
    assert sum(tag != "O" for row in true for tag in row) > 8


def test_a_word_is_its_first_subword() -> None:
    system, batch = make_model(BERT, task="ner"), make_batch("ner")
    hidden = torch.randn(4, 10, 32)
    h, mask = system.task.gather(hidden, batch, system.config)
    for sample, starts in enumerate(batch["word_starts"]):
        for word, start in enumerate(starts[mask[sample]].tolist()):
            assert torch.equal(h[sample, word], hidden[sample, start])
