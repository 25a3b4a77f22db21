"""Image input for training, evaluation and prediction: data sets, decoding, crops and batches."""
