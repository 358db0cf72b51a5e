"""What the modules cost, and what they bring: each file is run as `python -m benchmarks.<name>`."""
