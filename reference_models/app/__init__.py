"""`i2srm app`: a browser page that shows a model's predictions for a post, with and without its image."""
