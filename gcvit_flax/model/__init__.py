"""The network: pure linen, on jax, flax, einops and numpy alone."""
