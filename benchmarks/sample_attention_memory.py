"""Measure memory and time of one forward and backward pass of the additive attention across a large batch.

python -m benchmarks.sample_attention_memory [--samples 8192] [--dim 768] [--heads 4] [--device cpu]
"""

import argparse
import resource
import time

import torch

from attnmixup import SampleAttention


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=8192)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    attention = SampleAttention(options.dim, heads=options.heads).to(options.device)
    embeddings = torch.randn(options.samples, options.dim, device=options.device, requires_grad=True)
    start = time.perf_counter()
    result, _ = attention(embeddings)
    forward = time.perf_counter() - start
    result.square().mean().backward()
    if options.device == "cuda":
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pairs = 4 * options.samples**2 * (options.dim // options.heads) * options.heads
    print(f"B = {options.samples}, C = {options.dim}, {options.heads} heads, {options.device}")
    print(f"forward {forward:.1f} s, forward and backward {time.perf_counter() - start:.1f} s")
    print(f"peak memory of the process {peak / 2**30:.2f} GiB; all pairs at once would take {pairs / 2**30:.0f} GiB")


if __name__ == "__main__":
    main()
