"""Trains a GCViT: `python train.py [PRESET] [--option value ...]`; see gcvit_flax/training."""

from gcvit_flax.errors import run_cli
from gcvit_flax.training.cli import main

if __name__ == "__main__":
    run_cli(main)
