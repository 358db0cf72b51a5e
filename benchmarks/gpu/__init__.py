"""Checks and measurements that need a GPU: run `python -m benchmarks.gpu`."""
