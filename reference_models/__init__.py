"""The whole I2SRM system built on `attnmixup`: data, models, training, command line."""
