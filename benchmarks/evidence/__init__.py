"""Accuracy of AttnMixup and related methods on real data, each at its best learning rate."""
