"""Weight files to model folders and back: python convert_keras_weights.py SOURCE DEST; --help says the rest."""

from gcvit_flax.errors import run_cli
from gcvit_flax.weights.cli import main

if __name__ == "__main__":
    run_cli(main)
