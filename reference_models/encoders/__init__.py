"""Encoders: text, images, and the attention that joins them."""
