"""Sweeps: train the tables of the paper and compare the results with the paper's numbers."""
