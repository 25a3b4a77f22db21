"""Pixels in, for training, evaluation and prediction alike: sources of images, decoding, crops and batches."""
