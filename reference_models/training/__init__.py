"""Training and scoring: what happens around a model."""
