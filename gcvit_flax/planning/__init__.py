"""What a training step will take on devices that need not be there: the compiler's own words about it."""
