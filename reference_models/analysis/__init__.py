"""Numbers that are computed from a model, without plotting."""
