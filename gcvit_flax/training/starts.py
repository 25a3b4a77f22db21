"""What a run was started with, each time: starts.jsonl."""

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
from etils import epath

import gcvit_flax
from gcvit_flax.atomic import replace_text

STARTS_NAME = "starts.jsonl"
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_GIT_SECONDS = 10
_PACKAGE = Path(__file__).parents[1]


def record_start(workdir: epath.Path, start_step: int, devices: list[jax.Device]) -> None:
    """Adds a line to the workdir's starts.jsonl: the command, the code and the machine that go on after `start_step`.

    They may change from start to start and are never compared. `devices` are this process's.
    """
    path = workdir / STARTS_NAME
    earlier = path.read_text() if path.exists() else ""
    start = {"time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "after_step": start_step}
    replace_text(path, earlier + json.dumps(start | _command() | _code() | _machine(devices)) + "\n")


def _command() -> dict[str, Any]:
    """The command line as it was typed, and where."""
    return {"command": shlex.join(sys.orig_argv), "directory": os.getcwd()}


def _code() -> dict[str, Any]:
    """Versions of the package and of what it computes with, and the commit, if the package lies in its repository.

    `commit_changed` is whether files of that commit had been edited.
    """
    commit = _git("describe", "--always", "--abbrev=40", "--dirty", "--exclude=*")
    libraries = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {
        "gcvit_flax": gcvit_flax.__version__,
        "commit": commit and commit.removesuffix("-dirty"),
        "commit_changed": commit and commit.endswith("-dirty"),
        "python": platform.python_version(),
        **libraries,
    }


def _git(*arguments: str) -> str | None:
    """What git answers in the package's folder; None without git, or if the folder is in no repository or ignored."""
    try:
        for command in (("ls-files", "--error-unmatch", "__init__.py"), arguments):
            done = subprocess.run(
                ["git", "-C", str(_PACKAGE), *command], capture_output=True, text=True, timeout=_GIT_SECONDS
            )
            if done.returncode:
                return None
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip()


def _machine(devices: list[jax.Device]) -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
        "processes": jax.process_count(),
        "environment": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(("JAX_", "XLA_"))},
    }
