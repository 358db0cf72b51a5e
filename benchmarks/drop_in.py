"""Train a small classifier on long-tailed digits: plain, with mixup, with attention across the batch, with AttnMixup.

python -m benchmarks.drop_in [--seeds 10] [--epochs 100]
"""

import argparse
import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from attnmixup import AttnMixup

# None: no mixer. Mixup and attention across the batch are AttnMixup with extreme ratios.
METHODS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "mixup": {"sample_ratio": 1.0, "transformed_ratio": 0.0},
    "attention across the batch": {"transformed_ratio": 1.0},
    "AttnMixup": {},
    "AttnMixup, balanced partners": {"partner": "balanced"},
    "AttnMixup, release": {"preset": "release"},
    "AttnMixup, recommended": {"preset": "recommended"},
}
RAREST = 1 / 30  # samples of the rarest class, relative to the most frequent class
HIDDEN, BATCH = 64, 32


def digits(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return long-tailed training digits, where class 0 is the most frequent, and balanced test digits."""
    inputs, labels = load_digits(return_X_y=True)
    split = train_test_split(inputs / 16, labels, test_size=0.4, stratify=labels, random_state=seed)
    x, x_test, y, y_test = (torch.tensor(part) for part in split)
    kept = []
    for label in range(10):
        rows = (y == label).nonzero().squeeze(1)
        kept.append(rows[: round(len(rows) * RAREST ** (label / 9))])
    rows = torch.cat(kept)
    return x[rows].float(), y[rows], x_test.float(), y_test


def accuracy(options: dict[str, Any] | None, seed: int, epochs: int) -> float:
    """Train a classifier and return its test accuracy in percent."""
    x, y, x_test, y_test = digits(seed)
    torch.manual_seed(seed)
    encoder, head = nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU()), nn.Linear(HIDDEN, 10)
    mixer = None if options is None else AttnMixup(HIDDEN, **options)
    modules = nn.ModuleList([encoder, head, *([mixer] if mixer is not None else [])])
    optimizer = torch.optim.AdamW(modules.parameters(), lr=1e-3, weight_decay=1e-2)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            embeddings = encoder(x[rows])
            if mixer is None:
                loss = F.cross_entropy(head(embeddings), y[rows])
            else:
                mixed = mixer(embeddings, y[rows])
                loss = mixed.loss(F.cross_entropy, head(mixed.embeddings))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return 100 * float((head(encoder(x_test)).argmax(1) == y_test).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=100)
    options = parser.parse_args()
    counts = torch.bincount(digits(0)[1]).tolist()
    print(f"Training samples by class: {counts}; {options.seeds} seeds, {options.epochs} epochs\n")
    print("| method | test accuracy | standard deviation | seconds per seed |\n|---|---|---|---|")
    for name, method in METHODS.items():
        start = time.perf_counter()
        results = [accuracy(method, seed, options.epochs) for seed in range(options.seeds)]
        seconds = (time.perf_counter() - start) / options.seeds
        deviation = statistics.stdev(results) if options.seeds > 1 else 0.0
        print(f"| {name} | {statistics.mean(results):.2f} | {deviation:.2f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
