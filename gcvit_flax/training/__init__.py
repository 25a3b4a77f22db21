"""Training: configuration, data, augmentation, optimizer, step and loop."""
