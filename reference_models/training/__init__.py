"""Training and evaluation of a system."""
