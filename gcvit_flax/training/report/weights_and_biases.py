"""Metrics for Weights & Biases (the extra [wandb])."""

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from gcvit_flax.atomic import replace_text
from gcvit_flax.errors import UserError, summarize_error
from gcvit_flax.storage import is_remote

logger = logging.getLogger("gcvit_flax")

_ID_NAME = "wandb_id.txt"


def check_installed() -> None:
    """Raises UserError where the package wandb is missing."""
    try:
        # Not the module alone: the folder that wandb itself writes can be imported by that name.
        from wandb import init  # noqa: F401
    except ImportError:
        raise UserError(
            'for --wandb the package wandb is missing: pip install ".[wandb]" brings it, or leave the option out'
        ) from None


class WandbRun:
    """A run's metrics in a project of Weights & Biases; a resumed run goes on there, by an id in its workdir.

    Once it has started, its errors end nothing, and the first one is a warning.
    """

    def __init__(self, project: str, workdir: epath.Path, options: Mapping[str, Any]):
        import wandb  # Slow to import.

        self._warned = False
        path = workdir / _ID_NAME
        if not path.exists():
            replace_text(path, secrets.token_hex(8))
        # Without wrapping stdout and stderr, and without a summary at the end.
        settings = wandb.Settings(console="off", quiet=True)
        folder = None if is_remote(workdir) else str(workdir)
        try:
            self._run = wandb.init(
                project=project,
                id=path.read_text(),
                resume="allow",
                name=workdir.name,
                dir=folder,
                config=dict(options),
                settings=settings,
            )
        except wandb.Error as error:
            raise UserError(
                f"Weights & Biases cannot be used ({summarize_error(error).rstrip('.')}): run wandb login, set "
                "WANDB_MODE=offline, or leave --wandb out"
            ) from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Records `values` at `step`."""
        self._attempt(lambda: self._run.log(dict(values), step=step))

    def close(self) -> None:
        """Sends what is left."""
        self._attempt(self._run.finish)

    def _attempt(self, send: Callable[[], None]) -> None:
        try:
            send()
        except Exception as error:  # Of wandb, of its process or of the network, of many kinds.
            if not self._warned:
                logger.warning(
                    "metrics cannot be sent to Weights & Biases (%s): some will be missing there, and "
                    "metrics.jsonl has all of them",
                    summarize_error(error),
                )
            self._warned = True
