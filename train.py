"""Trains a GCViT: `python train.py [PRESET] [--option value ...]`; see gcvit_flax/training."""

from gcvit_flax.scripts import train

if __name__ == "__main__":
    train()
