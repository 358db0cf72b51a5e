"""Time a step of both modules, compared with a training step of BERT-base, the release's layer, and mixup alone.

python -m benchmarks.module_overhead [--repeats 20] [--encoder-repeats 3] [--device cpu]
"""

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from attnmixup import AttnMixup, SemanticKLLoss, functional, sampling
from benchmarks.timing import median_seconds

DIM, HEADS, LENGTH, CLASSES, IMAGE_DIM = 768, 4, 80, 23, 2048


def milliseconds(step: Callable[[], object], repeats: int, device: str) -> float:
    """Return the median time in milliseconds, after two warm-up calls."""
    return 1000 * median_seconds(step, repeats=repeats, warmup=2, device=torch.device(device))


def encoder_step(batch_size: int, device: str) -> Callable[[], object]:
    """Return a step (forward, backward, AdamW) of an encoder with the sizes of BERT-base, on sentences of 80 tokens."""
    embedding = nn.Embedding(30522, DIM)
    layer = nn.TransformerEncoderLayer(DIM, 12, 3072, activation="gelu", batch_first=True)
    model = nn.Sequential(embedding, nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.randint(30522, (batch_size, LENGTH), device=device)

    def step() -> None:
        optimizer.zero_grad()
        model(tokens).square().mean().backward()
        optimizer.step()

    return step


def module_steps(shape: tuple[int, ...], device: str) -> dict[str, Callable[[], object]]:
    """Return the forward and backward passes of the modules and of the alternatives, by name."""
    embeddings = torch.randn(shape, device=device, requires_grad=True)
    by_token = len(shape) == 3
    targets = torch.randint(CLASSES, shape[:-1], device=device)
    mask = torch.ones(shape[:-1], dtype=torch.bool, device=device) if by_token else None
    image = torch.randn(shape[0], IMAGE_DIM, device=device, requires_grad=True)
    mixer, semantic = AttnMixup(DIM, heads=HEADS).to(device), SemanticKLLoss(DIM, IMAGE_DIM).to(device)
    recommended = AttnMixup(DIM, heads=HEADS, preset="recommended").to(device)
    layer = nn.TransformerEncoderLayer(DIM, HEADS, 2048, dropout=0.2).to(device)

    def mixed(mixer: AttnMixup) -> Tensor:
        rows: Tensor = mixer(embeddings, targets, mask=mask).embeddings
        return rows

    def kl() -> Tensor:
        loss: Tensor = semantic(embeddings, image, mask=mask)
        return loss

    def mixup() -> Tensor:
        lam = sampling.draw_lam(1.0, shape[0], device=embeddings.device)
        partner = sampling.draw_rows(shape[0], shape[0], device=embeddings.device)
        return functional.interpolate(embeddings, embeddings[partner], lam)

    def step(*parts: Callable[[], Tensor]) -> None:
        outputs = [part() for part in parts]
        torch.autograd.backward(outputs, [output.detach() for output in outputs])  # this gradient needs no computation

    return {
        "AttnMixup": lambda: step(lambda: mixed(mixer)),
        "AttnMixup, recommended": lambda: step(lambda: mixed(recommended)),
        "SemanticKLLoss": lambda: step(kl),
        "both modules": lambda: step(lambda: mixed(mixer), kl),
        "attention of AttnMixup": lambda: step(lambda: mixer.attention(embeddings, mask=mask)[0]),
        "release's layer across the batch": lambda: step(lambda: layer(embeddings)),
        "mixup alone": lambda: step(mixup),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--encoder-repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads; medians in milliseconds")
    of_16 = milliseconds(encoder_step(16, options.device), options.encoder_repeats, options.device)
    print(f"\nTraining step of the encoder at B = 16, L = {LENGTH}: {of_16:.0f} ms; scaled in proportion for other B\n")
    print("| B | embeddings | modules | ms | % of the encoder's step |\n|---|---|---|---|---|")
    for shape in ((8, DIM), (16, DIM), (256, DIM), (16, LENGTH, DIM)):
        repeats = options.repeats if shape[0] * len(shape) <= 32 else max(3, options.repeats // 4)
        for name, step in module_steps(shape, options.device).items():
            cost = milliseconds(step, repeats, options.device)
            print(f"| {shape[0]} | {shape} | {name} | {cost:.2f} | {100 * cost / (of_16 * shape[0] / 16):.2f} |")


if __name__ == "__main__":
    main()
