"""Data loading: data set files to samples, and samples to tensors."""
