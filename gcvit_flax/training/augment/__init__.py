"""Augmentation on the device: pure functions of a key and uint8 images, the same on any number of devices."""
