"""Writes a model as StableHLO, which runs without this package: `python -m gcvit_flax.export MODEL_DIR OUT`."""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

import gcvit_flax
from gcvit_flax.cli import program_name, run_cli
from gcvit_flax.config import check_choice
from gcvit_flax.errors import UserError
from gcvit_flax.model.fuse import fuse_parameters
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.weights.folder_config import FOLDER_CONFIG_NAME, folder_config_text, read_folder_config
from gcvit_flax.weights.model_folder import load_model

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_FORMAT = "gcvit_flax export"
_FILE = "model.stablehlo"
_FILE_FORMAT = "StableHLO as jax.export serializes it: jax.export.deserialize(bytes).call(images), with flatbuffers"
_DYNAMIC = "dynamic"
# Of the largest logit. Folding and another order of sums move bfloat16's logits by some 1e-2.
_TOLERANCES = {"float32": 1e-5, "bfloat16": 5e-2}
_UNCHECKED = "not checked: that is done on the CPU, which is not among the platforms"
# What a program without this package does with the file.
_FRESH_PROGRAM = """
import sys
sys.modules.update(dict.fromkeys(["gcvit_flax", "flax", "einops"]))  # Importing them fails.
import jax, jax.export, numpy as np
program, folder, *batches = sys.argv[1:]
call = jax.export.deserialize(open(program, "rb").read()).call
images = np.load(f"{folder}/images.npy")
for batch in map(int, batches):
    np.save(f"{folder}/logits_{batch}.npy", call(images[:batch]))
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses, exports and says what was written and how it was checked."""
    parser = argparse.ArgumentParser(prog=program_name("python -m gcvit_flax.export"), description=__doc__)
    parser.add_argument("model", metavar="MODEL_DIR", help="a folder that the trainer or the converter wrote")
    parser.add_argument("out", metavar="OUT", help=f"the folder to write {_FILE} and {FOLDER_CONFIG_NAME} into")
    parser.add_argument("--batch", default=_DYNAMIC, help="images a call: a number, or dynamic (default) for any")
    parser.add_argument(
        "--platforms", default="cpu,cuda,tpu", help=f"of {', '.join(PLATFORMS)}, with commas (default: cpu,cuda,tpu)"
    )
    parser.add_argument("--dtype", choices=_TOLERANCES, default="float32", help="what the layers compute in")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    jax.config.update("jax_platforms", "cpu")  # An accelerator is not needed, and may be busy.
    platforms = [name.strip() for name in options.platforms.split(",")]
    print(export_model(options.model, options.out, _batch(options.batch), platforms, options.dtype))


def _batch(text: str) -> int | None:
    if text == _DYNAMIC:
        return None
    if not text.isascii() or not text.isdecimal():
        raise UserError(f"--batch must be a number of images or {_DYNAMIC}, got {text!r}")
    return int(text)


def export_model(
    model_dir: str | os.PathLike,
    out: str | os.PathLike,
    batch: int | None = None,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    dtype: str = "float32",
) -> str:
    """Writes the model folder `model_dir`, parameters inside, into the folder `out`, all or nothing; returns a report.

    The program takes float32 (batch, H, W, 3), normalised as `preprocess` does, and gives float32 logits (batch,
    classes); `batch` None leaves it open. An earlier export is replaced. A fresh process without this package first
    runs the program on the CPU, where `platforms` has it, and must find the model's logits.

    Raises:
      UserError: (a ValueError) an option or folder that will not do, or logits that differ by more than 1e-5 of the
        largest (5e-2 in bfloat16).
    """
    out = Path(os.path.abspath(out))
    if batch is not None and batch < 1:
        raise UserError(f"a batch must be at least 1 image, got {batch}")
    for name in platforms:
        check_choice("a platform", name, PLATFORMS)
    check_choice("dtype", dtype, tuple(_TOLERANCES))
    _check_out(out)
    folder_config = read_folder_config(model_dir)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        model, variables = load_model(model_dir, dtype=jnp.dtype(dtype))
        with _replacing(out) as fresh:
            exported = _export(model, variables, batch, platforms)
            program = exported.serialize()
            (fresh / _FILE).write_bytes(program)
            (fresh / FOLDER_CONFIG_NAME).write_text(
                folder_config_text(_describe(folder_config, model, exported, dtype))
            )
            checked = _check(fresh / _FILE, model, variables, batch, dtype) if "cpu" in platforms else _UNCHECKED
    what = f"{dtype}, batch {batch or _DYNAMIC}, for {', '.join(exported.platforms)}"
    return f"{out / _FILE}: {len(program):,} bytes, {what}\n{checked}"


def _check_out(out: Path) -> None:
    """Raises UserError unless `out` is free or holds an earlier export."""
    try:
        replaceable = not out.exists() or json.loads((out / FOLDER_CONFIG_NAME).read_text()).get("format") == _FORMAT
    except (OSError, ValueError, AttributeError):
        replaceable = False
    if not replaceable:
        raise UserError(f"{out} exists and is not an earlier export: choose another path or remove it")


@contextlib.contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A new folder beside `out` that takes its place at the end; nothing is left of it after an error."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
            fresh = Path(scratch) / "fresh"
            fresh.mkdir()
            yield fresh
            if out.exists():
                out.rename(Path(scratch) / "earlier")
            fresh.rename(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}): choose another place") from error


def _export(model: GCViT, variables: dict, batch: int | None, platforms: Sequence[str]) -> jax.export.Exported:
    """The folded model as a `jax.export.Exported` function of images alone."""
    folded, constants = fuse_parameters(model, variables)
    shape = jax.export.symbolic_shape("{}, {}, {}, 3".format(batch or "batch", *model.preprocessing.image_size))
    function = jax.jit(lambda images: folded.apply(constants, images))
    return jax.export.export(function, platforms=platforms)(jax.ShapeDtypeStruct(shape, jnp.float32))


def _describe(folder_config: dict[str, Any], model: GCViT, exported: jax.export.Exported, dtype: str) -> dict[str, Any]:
    """What config.json says: all that a program needs to use the file without this package."""

    def array(name, aval):
        shape = [side if isinstance(side, int) else str(side) for side in aval.shape]
        return {"name": name, "shape": shape, "dtype": str(aval.dtype)}

    return {
        "format": _FORMAT,
        "format_version": 1,
        "gcvit_flax_version": gcvit_flax.__version__,
        "file": _FILE,
        "file_format": _FILE_FORMAT,
        "jax_version": jax.__version__,
        "calling_convention_version": exported.calling_convention_version,
        "platforms": list(exported.platforms),
        "input": array("images", exported.in_avals[0])
        | {"values": "RGB, resized and cropped as in preprocessing, then (pixel / 255 - mean) / std"},
        "output": array("logits" if model.config.num_classes else "features", exported.out_avals[0]),
        "compute_dtype": dtype,
        "preprocessing": dataclasses.asdict(model.preprocessing),
        "class_names": folder_config["class_names"],
        "variant": folder_config["variant"],
        "reference": folder_config["reference"],
        "parameter_count": folder_config["parameter_count"],
        "weights_licence": folder_config["weights_licence"],
    }


def _check(program: Path, model: GCViT, variables: dict, batch: int | None, dtype: str) -> str:
    """Runs `program` in a fresh process and compares; says how much the logits differ."""
    batches = [1, 3] if batch is None else [batch]
    images = np.random.default_rng(0).normal(size=(max(batches), *model.preprocessing.image_size, 3))
    images = images.astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/images.npy", images)
        command = [sys.executable, "-c", _FRESH_PROGRAM, program, folder, *batches]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        process = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)
        if process.returncode:
            reason = (process.stderr.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
            raise UserError(f"the exported program does not run in a fresh process ({reason}): nothing was written")
        logits = [np.load(f"{folder}/logits_{size}.npy") for size in batches]
    expected = np.asarray(jax.jit(model.apply)(variables, images))
    difference = max(np.abs(some - expected[: len(some)]).max() for some in logits) / np.abs(expected).max()
    if not difference <= _TOLERANCES[dtype]:  # NaN too.
        raise UserError(
            f"the exported program's logits differ from the model's by {difference:.1e} of the largest, more than "
            f"{_TOLERANCES[dtype]:g}: nothing was written"
        )
    sizes = " and ".join(map(str, batches))
    return f"checked in a fresh process, batch {sizes}: logits differ by {difference:.1e} of the largest"


if __name__ == "__main__":
    run_cli(main)
