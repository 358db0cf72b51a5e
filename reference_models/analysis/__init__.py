"""Analysis of trained models, without plotting."""
