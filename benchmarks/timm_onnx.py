"""timm's network as an ONNX file, for the runtimes that read one: `... timm_onnx VARIANT SIDE BATCH OUT.onnx`.

In a process of its own, so that the memory of PyTorch does not count as that of a runtime.
"""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from benchmarks.timm_network import INSTALL, create
from gcvit_flax.cli import run_cli
from gcvit_flax.errors import UserError


@contextmanager
def exported(options) -> Iterator[tuple[str, np.ndarray]]:
    """The path of a file with the network in inference mode, and images for it, (batch, 3, side, side) float32.

    Raises:
      UserError: (a ValueError) a library is missing, timm has no such network, or options are not for inference.
    """
    if options.task != "infer" or options.compile_peer:
        raise UserError(
            f"--peer {options.peer} is for inference by a compiler of its own: leave out --task train and "
            "--compile-peer, or take --peer timm"
        )
    missing = [name for name in ("torch", "timm", "onnxscript", options.peer) if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--peer {options.peer} needs {', '.join(missing)}, not installed here: {INSTALL} onnxscript {options.peer}"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/network.onnx"
        words = [options.variant, str(options.image_size), str(options.batch), path]
        done = subprocess.run([sys.executable, "-m", "benchmarks.timm_onnx", *words], capture_output=True, text=True)
        if done.returncode:
            *_, reason = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
            raise UserError(f"timm's {options.variant} cannot be exported: {reason.removeprefix('error: ')}")
        shape = (options.batch, 3, options.image_size, options.image_size)
        yield path, np.random.default_rng(0).normal(size=shape).astype(np.float32)


def main() -> None:
    """Writes the file."""
    import torch

    variant, side, batch, path = sys.argv[1:]
    images = torch.zeros(int(batch), 3, int(side), int(side))
    torch.onnx.export(create(variant, int(side)).eval(), (images,), path, dynamo=True, verbose=False)


if __name__ == "__main__":
    run_cli(main)
