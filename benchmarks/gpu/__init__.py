"""`python -m benchmarks.gpu`: everything that needs a GPU, checked and measured by one command."""
