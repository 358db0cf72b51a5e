"""Train a small classifier in a plain PyTorch loop with AttnMixup between encoder and head."""

import torch
from torch import nn

from attnmixup import AttnMixup
from attnmixup.integrations.loop import MixedModel, train_epoch
from attnmixup.schedule import strength_at

torch.manual_seed(0)
centres = torch.randn(4, 20)
labels = torch.randint(4, (400,))
inputs = centres[labels] + 1.5 * torch.randn(400, 20)
train, test = slice(0, 300), slice(300, 400)

encoder = nn.Sequential(nn.Linear(20, 32), nn.Tanh())
model = MixedModel(encoder, nn.Linear(32, 4), AttnMixup(dim=32))
optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)

for epoch in range(10):
    model.mixer.set_strength(strength_at(epoch, steps=5))
    order = torch.randperm(300).split(16)
    batches = [{"inputs": inputs[train][rows], "targets": labels[train][rows]} for rows in order]
    stats = train_epoch(model, batches, optimizer)
    with torch.no_grad():
        predicted = model.eval()(inputs[test]).logits.argmax(1)
    accuracy = (predicted == labels[test]).float().mean()
    print(f"epoch {epoch}: loss {stats['loss']:.3f}, test accuracy {accuracy:.2f}")
