"""Training: configuration, data, augmentation, optimiser, step and loop."""
