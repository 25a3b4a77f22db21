"""The console scripts gcvit-train, gcvit-predict and so on: each runs one of the package's programs.

A program is imported when it is called, so that none waits for the imports of the others.
"""

from gcvit_flax.cli import run_cli
from gcvit_flax.huge_pages import restart_with_huge_pages


def train() -> None:
    """gcvit-train: python train.py."""
    restart_with_huge_pages()
    from gcvit_flax.train import main

    run_cli(main)


def convert() -> None:
    """gcvit-convert: python convert_keras_weights.py."""
    from gcvit_flax.convert_weights import main

    run_cli(main)


def predict() -> None:
    """gcvit-predict: python -m gcvit_flax.predict."""
    from gcvit_flax.predict import main

    run_cli(main)


def evaluate() -> None:
    """gcvit-evaluate: python -m gcvit_flax.evaluate."""
    from gcvit_flax.evaluate import main

    run_cli(main)


def probe() -> None:
    """gcvit-probe: python -m gcvit_flax.probe."""
    from gcvit_flax.probe import main

    run_cli(main)


def embed() -> None:
    """gcvit-embed: python -m gcvit_flax.embed."""
    from gcvit_flax.embed import main

    run_cli(main)


def export() -> None:
    """gcvit-export: python -m gcvit_flax.export."""
    from gcvit_flax.export import main

    run_cli(main)


def attention_maps() -> None:
    """gcvit-attention-maps: python -m gcvit_flax.attention_maps."""
    from gcvit_flax.attention_maps import main

    run_cli(main)


def summary() -> None:
    """gcvit-summary: python -m gcvit_flax.summary."""
    from gcvit_flax.summary import main

    run_cli(main)


def plan() -> None:
    """gcvit-plan: python -m gcvit_flax.plan."""
    from gcvit_flax.plan import main

    run_cli(main)
