"""The network, in Flax linen."""
