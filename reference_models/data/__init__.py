"""From the files of a data set to samples, and from samples to tensors."""
