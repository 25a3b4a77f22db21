"""Writes a model folder as a StableHLO program that runs without this package, and checks it."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

import gcvit_flax
from gcvit_flax.atomic import replacing_folder
from gcvit_flax.data.bands import RGB
from gcvit_flax.devices import release_compiler_memory
from gcvit_flax.errors import UserError
from gcvit_flax.fields import check_choice
from gcvit_flax.model.fuse import fuse_parameters
from gcvit_flax.model.gcvit import GCViT
from gcvit_flax.storage import check_on_disk
from gcvit_flax.weights.folder_config import FOLDER_CONFIG_NAME, folder_config_text
from gcvit_flax.weights.model_folder import load_with_description

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
PROGRAM_NAME = "model.stablehlo"
# By compute dtype, as a share of the largest logit. Fused parameters and another order of sums change bfloat16's logits
# by about 1e-2.
TOLERANCES = {"float32": 1e-5, "bfloat16": 5e-2}
MOST_BYTES = 2**31 - 1  # Of flatbuffers, the container that jax.export writes.
_ROOM = 2**26  # For the program itself: a hundred blocks for three platforms take some 6 MB.
_FORMAT = "gcvit_flax export"
_FILE_FORMAT = "StableHLO as jax.export serializes it: jax.export.deserialize(bytes).call(images), with flatbuffers"
_UNCHECKED = "not checked: that is done on the CPU, which is not among the platforms"
# Calls the exported program in a process where this package cannot be imported.
_CALLER = """
import sys
sys.modules.update(dict.fromkeys(["gcvit_flax", "flax", "einops"]))  # Importing them fails.
import jax, jax.export, numpy as np
program, folder, *batches = sys.argv[1:]
call = jax.export.deserialize(open(program, "rb").read()).call
images = np.load(f"{folder}/images.npy")
for batch in map(int, batches):
    np.save(f"{folder}/logits_{batch}.npy", call(images[:batch]))
    jax.clear_caches()  # The program for one batch, with all parameters in it, before the next is compiled.
"""


def export_model(
    model_dir: str | os.PathLike,
    out: str | os.PathLike,
    batch: int | None = None,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
    dtype: str = "float32",
) -> str:
    """Writes the model in `model_dir`, with its parameters, as a program into the folder `out`; returns a report.

    The program maps float32 images (batch, H, W, 3), normalized as by `preprocess`, to float32 logits (batch, classes);
    without `batch`, the batch size is left open. If `platforms` has the CPU, the program is first called in a new
    process without this package, and its logits are compared with the model's. `out` is written atomically, and
    replaces an earlier export.

    Raises:
      UserError: (a ValueError) an invalid option or folder, or logits that differ by more than 1e-5 of the largest
        (5e-2 in bfloat16).
    """
    check_on_disk(out)
    out = Path(os.path.abspath(out))
    if batch is not None and batch < 1:
        raise UserError(f"a batch must be at least 1 image, got {batch}")
    for name in platforms:
        check_choice("a platform", name, PLATFORMS)
    check_choice("dtype", dtype, tuple(TOLERANCES))
    _check_replaceable(out)
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        model, variables, folder_config = load_with_description(model_dir, dtype=jnp.dtype(dtype))
        try:
            with replacing_folder(out) as draft:
                size = _write_program(Path(draft), folder_config, model, _export(model, variables, batch, platforms))
                release_compiler_memory()  # For the process that checks the program.
                checked = _UNCHECKED
                if "cpu" in platforms:
                    checked = _compare_in_new_process(Path(draft / PROGRAM_NAME), model, variables, batch, dtype)
        except OSError as error:
            raise UserError(f"{out} cannot be written ({error.strerror or error}): choose another place") from error
    what = f"{dtype}, batch {batch or 'dynamic'}, for {', '.join(platforms)}"
    return f"{out / PROGRAM_NAME}: {size:,} bytes, {what}\n{checked}"


def _check_replaceable(out: Path) -> None:
    """Raises UserError unless `out` does not exist or holds an earlier export."""
    try:
        replaceable = not out.exists() or json.loads((out / FOLDER_CONFIG_NAME).read_text()).get("format") == _FORMAT
    except (OSError, ValueError, AttributeError):
        replaceable = False
    if not replaceable:
        raise UserError(f"{out} exists and is not an earlier export: choose another path or remove it")


def _write_program(draft: Path, folder_config: dict[str, Any], model: GCViT, exported: jax.export.Exported) -> int:
    """Writes the program and its description into the folder `draft`; returns the program's size in bytes."""
    description = _make_description(folder_config, model, exported)
    (draft / FOLDER_CONFIG_NAME).write_text(folder_config_text(description))
    return (draft / PROGRAM_NAME).write_bytes(exported.serialize())


def _export(
    model: GCViT, variables: dict[str, Any], batch: int | None, platforms: Sequence[str]
) -> jax.export.Exported:
    """The model with fused parameters inside, as an exported function of images alone."""
    fused, constants = fuse_parameters(model, variables)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(constants))
    if size + _ROOM > MOST_BYTES:
        raise UserError(
            f"the model's parameters take {size:,} bytes, and a file of jax.export holds {MOST_BYTES:,} with its "
            "program: export a smaller variant, or one for smaller images"
        )
    shape = jax.export.symbolic_shape(
        "{}, {}, {}, {}".format(batch or "batch", *model.preprocessing.image_size, model.config.in_channels)
    )
    function = jax.jit(lambda images: fused.apply(jax.tree_util.tree_map_with_path(_unfolded, constants), images))
    return jax.export.export(function, platforms=platforms)(jax.ShapeDtypeStruct(shape, jnp.float32))


def _unfolded(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
    """A bias table behind a barrier: compilers would make a bias of it, which takes minutes and all its memory."""
    return jax.lax.optimization_barrier(leaf) if path[-1].key == "relative_position_bias_table" else leaf


def _make_description(folder_config: dict[str, Any], model: GCViT, exported: jax.export.Exported) -> dict[str, Any]:
    """The export's config.json: all that is needed to use the program without this package."""

    def array(name: str, aval: jax.core.ShapedArray) -> dict[str, Any]:
        shape = [side if isinstance(side, int) else str(side) for side in aval.shape]
        return {"name": name, "shape": shape, "dtype": str(aval.dtype)}

    colors = "RGB" if model.config.in_channels == RGB else f"{model.config.in_channels} channels"
    return {
        "format": _FORMAT,
        "format_version": 1,
        "gcvit_flax_version": gcvit_flax.__version__,
        "file": PROGRAM_NAME,
        "file_format": _FILE_FORMAT,
        "jax_version": jax.__version__,
        "calling_convention_version": exported.calling_convention_version,
        "platforms": list(exported.platforms),
        "input": array("images", exported.in_avals[0])
        | {"values": f"{colors}, resized and cropped as in preprocessing, then (pixel / 255 - mean) / std"},
        "output": array("logits" if model.config.num_classes else "features", exported.out_avals[0]),
        "compute_dtype": jnp.dtype(model.dtype).name,
        "preprocessing": dataclasses.asdict(model.preprocessing),
        "class_names": folder_config["class_names"],
        "variant": folder_config["variant"],
        "reference": folder_config["reference"],
        "parameter_count": folder_config["parameter_count"],
        "weights_licence": folder_config["weights_licence"],
    }


def _compare_in_new_process(
    program: Path, model: GCViT, variables: dict[str, Any], batch: int | None, dtype: str
) -> str:
    """Calls `program` in a new process and reports how much its logits differ from the model's.

    Raises:
      UserError: a program that does not run, or logits that differ by more than the tolerance.
    """
    batches = [1, 3] if batch is None else [batch]
    size = (max(batches), *model.preprocessing.image_size, model.config.in_channels)
    images = np.random.default_rng(0).normal(size=size).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/images.npy", images)
        command = [sys.executable, "-c", _CALLER, program, folder, *batches]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        process = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)
        if process.returncode:
            reason = (process.stderr.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
            if process.returncode < 0:  # What it printed before was not the reason.
                reason = f"ended by {signal.Signals(-process.returncode).name}, perhaps for want of memory"
            raise UserError(f"the exported program does not run in a fresh process ({reason}): nothing was written")
        logits = [np.load(f"{folder}/logits_{size}.npy") for size in batches]
    expected = np.asarray(jax.jit(model.apply)(variables, images))
    difference = max(np.abs(some - expected[: len(some)]).max() for some in logits) / np.abs(expected).max()
    if not difference <= TOLERANCES[dtype]:  # Also if it is NaN.
        raise UserError(
            f"the exported program's logits differ from the model's by {difference:.1e} of the largest, more than "
            f"{TOLERANCES[dtype]:g}: nothing was written"
        )
    sizes = " and ".join(map(str, batches))
    return f"checked in a fresh process, batch {sizes}: logits differ by {difference:.1e} of the largest"
