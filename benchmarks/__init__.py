"""Benchmarks of cost and accuracy. Run one with `python -m benchmarks.<name>`."""
