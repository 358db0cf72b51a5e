"""Models of transformers, in a Trainer that needs no change."""

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    Trainer,
    TrainingArguments,
)

from attnmixup import AttnMixup, SemanticKLLoss
from attnmixup.integrations.hugging_face import AttnMixupForClassification, StrengthCallback

SMALL = {
    "vocab_size": 50,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "num_labels": 3,
    "max_position_embeddings": 20,
}
MODELS = {
    "vectors": lambda: BertForSequenceClassification(BertConfig(**SMALL)),
    "head on tokens": lambda: RobertaForSequenceClassification(RobertaConfig(**SMALL)),
    "tags": lambda: BertForTokenClassification(BertConfig(**SMALL)),
}


def wrapped_of(kind, **options):
    torch.manual_seed(0)
    return AttnMixupForClassification(MODELS[kind](), AttnMixup(8, heads=2), **options)


def samples(kind, count=8):
    generator = torch.Generator().manual_seed(0)
    labels = [-100, 0, 1, 2, -100]
    return [
        {
            "input_ids": torch.randint(5, 50, (5,), generator=generator),
            "attention_mask": torch.tensor([1, 1, 1, 1, row % 2]),
            "token_type_ids": torch.zeros(5, dtype=torch.long),
            "labels": torch.tensor(labels if kind == "tags" else row % 3),
        }
        for row in range(count)
    ]


def batch_of(kind):
    rows = samples(kind)
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("kind", MODELS)
def test_evaluation_is_the_model_itself(kind):
    wrapped, batch = wrapped_of(kind).eval(), batch_of(kind)
    output, expected = wrapped(**batch), wrapped.model(**batch)
    torch.testing.assert_close(output["logits"], expected.logits)
    # All rows have the same number of tags, so that the mean by row is the mean by token.
    torch.testing.assert_close(output["loss"], expected.loss)
    assert "loss" not in wrapped(batch["input_ids"])


@pytest.mark.parametrize("kind", MODELS)
def test_training_mixes_what_the_head_is_given(kind):
    wrapped, batch = wrapped_of(kind), batch_of(kind)
    given = []
    wrapped.model.classifier.register_forward_hook(lambda module, inputs, output: given.append(inputs[0]))
    output = wrapped(**batch)
    assert len(given[0]) == 16
    assert len(output["logits"]) == 8
    output["loss"].backward()
    assert all(parameter.grad is not None for parameter in wrapped.parameters())


def test_ignored_tags_have_no_part():
    wrapped, batch = wrapped_of("tags"), batch_of("tags")
    losses = []
    for ignored in (-100, 1):
        labels = torch.where(batch["labels"] == -100, ignored, batch["labels"])
        torch.manual_seed(0)
        losses.append(wrapped(**batch | {"labels": labels})["loss"].item())
    assert losses[0] != pytest.approx(losses[1])


def test_other_losses():
    labels = torch.rand(8, 3).round()
    wrapped = wrapped_of("vectors", criterion=F.binary_cross_entropy_with_logits).eval()
    output = wrapped(**batch_of("vectors") | {"labels": labels})
    expected = F.binary_cross_entropy_with_logits(output["logits"], labels)
    torch.testing.assert_close(output["loss"], expected)


def test_the_semantic_loss_is_added_in_training_only():
    wrapped = wrapped_of("tags", semantic=SemanticKLLoss(8, 4), semantic_weight=1.0)
    batch, image = batch_of("tags"), torch.randn(8, 4)
    losses = []
    for extra in ({}, {"image_embeddings": image}):
        torch.manual_seed(0)
        losses.append(wrapped(**batch, **extra)["loss"])
    assert losses[1] > losses[0]
    wrapped.eval()
    assert wrapped(**batch, image_embeddings=image)["loss"] == wrapped(**batch)["loss"]


@pytest.mark.parametrize("kind", MODELS)
def test_a_trainer_trains_resumes_and_predicts(kind, tmp_path):
    wrapped, data = wrapped_of(kind), samples(kind)
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=4,
        per_device_train_batch_size=4,
        save_steps=2,
        gradient_accumulation_steps=2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
    )
    callback = StrengthCallback(wrapped.mixer, ramp=1.0)
    trainer = Trainer(wrapped, arguments, train_dataset=data, eval_dataset=data, callbacks=[callback])
    before = [parameter.detach().clone() for parameter in wrapped.parameters()]
    trainer.train()
    assert wrapped.mixer.strength == 0.75
    changed = [not torch.equal(old, new) for old, new in zip(before, wrapped.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)
    assert trainer.evaluate()["eval_loss"] > 0
    assert len(trainer.predict(data).predictions) == 8
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert trainer.state.global_step == 4
    wrapped.model.save_pretrained(tmp_path / "alone")
    alone = type(wrapped.model).from_pretrained(tmp_path / "alone").eval()
    torch.testing.assert_close(alone(**batch_of(kind)).logits, wrapped.eval()(**batch_of(kind))["logits"])


def test_a_head_whose_rows_are_not_those_of_the_logits_is_refused():
    config = GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2, num_labels=3, pad_token_id=0, eos_token_id=1)
    config.bos_token_id = 1
    wrapped = AttnMixupForClassification(GPT2ForSequenceClassification(config), AttnMixup(8, heads=2), head="score")
    batch = batch_of("vectors")
    del batch["token_type_ids"]
    with pytest.raises(ValueError, match=r"GPT2ForSequenceClassification\.score must run once"):
        wrapped(**batch)
