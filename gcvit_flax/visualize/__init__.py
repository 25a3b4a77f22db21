"""Attention, Grad-CAM and confusion, as arrays and as pictures."""
