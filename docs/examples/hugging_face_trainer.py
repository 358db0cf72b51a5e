"""Train a token classifier with the Hugging Face Trainer and AttnMixup before its head. Downloads nothing."""

import tempfile

import torch
from transformers import BertConfig, BertForTokenClassification, Trainer, TrainingArguments

from attnmixup import AttnMixup
from attnmixup.integrations.hugging_face import AttnMixupForClassification, StrengthCallback

torch.manual_seed(0)
config = BertConfig(
    vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, num_labels=3
)


def sentence() -> dict[str, torch.Tensor]:
    """Return ten random tokens. The tag of a token is its id modulo 3; the first and the last token have no tag."""
    tokens = torch.randint(4, 40, (10,))
    labels = tokens % 3
    labels[[0, -1]] = -100
    return {"input_ids": tokens, "attention_mask": torch.ones(10, dtype=torch.long), "labels": labels}


model = AttnMixupForClassification(BertForTokenClassification(config), AttnMixup(dim=32))
arguments = TrainingArguments(
    tempfile.mkdtemp(),
    num_train_epochs=3,
    per_device_train_batch_size=16,
    learning_rate=3e-3,
    report_to=[],
    save_strategy="no",
    disable_tqdm=True,
)
trainer = Trainer(
    model,
    arguments,
    train_dataset=[sentence() for _ in range(320)],
    eval_dataset=[sentence() for _ in range(64)],
    compute_metrics=lambda result: {
        "accuracy": (result.predictions.argmax(-1) == result.label_ids)[result.label_ids != -100].mean()
    },
    callbacks=[StrengthCallback(model.mixer, ramp=0.5)],
)
trainer.train()
print(trainer.evaluate())
# Save the trained model without the mixer, for from_pretrained.
model.save_pretrained(tempfile.mkdtemp())
