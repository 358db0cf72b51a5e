"""Train a small classifier with Lightning and AttnMixup between encoder and head."""

import tempfile

import torch
from lightning import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from attnmixup import AttnMixup
from attnmixup.integrations.lightning import AttnMixupSteps
from attnmixup.integrations.loop import MixedModel


class Module(AttnMixupSteps, LightningModule):
    """A LightningModule with the training and validation steps of AttnMixup."""


torch.manual_seed(0)
centres = torch.randn(4, 20)
labels = torch.randint(4, (400,))
inputs = centres[labels] + 1.5 * torch.randn(400, 20)
samples = [{"inputs": vector, "targets": label} for vector, label in zip(inputs, labels, strict=True)]

encoder = nn.Sequential(nn.Linear(20, 32), nn.Tanh())
model = MixedModel(encoder, nn.Linear(32, 4), AttnMixup(dim=32))
trainer = Trainer(
    max_epochs=3,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    default_root_dir=tempfile.mkdtemp(),
)
trainer.fit(
    Module(model, learning_rate=5e-3, shape="linear", ramp_steps=20),
    DataLoader(samples[:300], batch_size=16, shuffle=True),
    DataLoader(samples[300:], batch_size=100),
)
print({name: round(float(value), 3) for name, value in trainer.callback_metrics.items()})
