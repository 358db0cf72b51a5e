"""Encoders of text and images, and the attention between them."""
