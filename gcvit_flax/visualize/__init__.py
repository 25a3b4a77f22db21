"""What the network sees, as arrays and as pictures."""
