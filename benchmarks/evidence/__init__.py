"""Does it help? Arms on real data, each at its own best learning rate: run by ``python -m benchmarks.evidence``."""
