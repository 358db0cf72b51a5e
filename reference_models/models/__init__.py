"""The models: encoders, visual prefix, heads, and I2SRM itself."""
