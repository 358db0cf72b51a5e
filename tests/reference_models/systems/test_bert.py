"""The text-only systems: the layer after the entity pair, and the published freeze of the marker embeddings."""

import pytest
import torch
from tiny_models import make_batch, make_model

from reference_models.systems.bert import BERT


@pytest.mark.parametrize(("freeze", "learns"), [("none", True), ("plkmo", False)])
def test_published_freeze_does_not_train_the_markers(freeze, learns):
    system = make_model(BERT, freeze=freeze, pair="marker", post="linear").train()
    system(**make_batch()).loss.backward()
    body = system.text_encoder.body
    assert (body.embeddings.word_embeddings.weight.grad is not None) == learns
    first, *_, last = body.encoder.layer
    assert [p.grad is not None for p in first.parameters()] == [learns] * len(list(first.parameters()))
    for module in (last, system.post, system.head):
        assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("post", ["none", "linear", "layernorm"])
def test_post_layer_is_applied_to_the_pair(post):
    system, batch = make_model(BERT, post=post, pair="marker").eval(), make_batch()
    with torch.no_grad():
        hidden = system.text_encoder(batch["input_ids"], batch["attention_mask"])
        pair = torch.cat([hidden[:, 0], hidden[:, 3]], dim=-1)  # the opening markers precede the entities
        expected = {
            "none": lambda: pair,
            "linear": lambda: pair @ system.post.weight.T + system.post.bias,
            "layernorm": lambda: (
                (pair - pair.mean(1, keepdim=True)) / (pair.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
            ),
        }[post]()
        torch.testing.assert_close(system.encode(batch).h, expected, atol=1e-5, rtol=1e-4)
