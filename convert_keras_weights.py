"""Converts weight files to model folders and back: python convert_keras_weights.py SOURCE DEST; see --help."""

from gcvit_flax.scripts import convert

if __name__ == "__main__":
    convert()
