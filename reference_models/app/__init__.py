"""`i2srm app`: a page in the browser that shows what a trained model says about a post, with its image and without."""
