"""GCViT, the Global Context Vision Transformer, in JAX and Flax."""

__version__ = "0.1.0"
