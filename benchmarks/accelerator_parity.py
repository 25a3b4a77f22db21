"""How far an accelerator's logits and gradients are from the CPU's, for `benchmarks.accelerator`."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict

from benchmarks.ours import CLASSES, machine
from gcvit_flax.devices import compiler_options, enable_compilation_cache
from gcvit_flax.errors import UserError
from gcvit_flax.model.gcvit import create_model
from gcvit_flax.model.init import init_params

_IMAGES = 2
_DEPTHS = (2, 2, 2, 2)  # A local and a global block in each level; deeper networks compile longer.
_COMPUTATIONS = (("float32", "highest"), ("float32", "default"), ("bfloat16", "default"))


def measure(variant: str, image_size: int, network: dict[str, Any]) -> Iterator[dict]:
    """The largest differences for each type and precision of products, relative to the largest value on the CPU.

    The CPU computes in float32. Gradients are compared all together, and parameter by parameter, of which the one that
    differs most is named.

    Raises:
      UserError: (a ValueError) JAX does not offer the CPU.
    """
    enable_compilation_cache()
    yield machine()
    try:
        cpu = jax.devices("cpu")[0]
    except RuntimeError as error:
        raise UserError("JAX_PLATFORMS leaves the CPU out, which parity is with: add it, as in cuda,cpu") from error
    network = {"depths": _DEPTHS} | network
    reference = _compute(cpu, "float32", "highest", variant, image_size, network)
    for dtype, precision in _COMPUTATIONS:
        computed = _compute(jax.local_devices()[0], dtype, precision, variant, image_size, network)
        differences = {name: _difference(computed[name], expected) for name, expected in reference.items()}
        row = {"dtype": dtype, "precision": precision, "logits": differences.pop("logits")}
        worst = max(differences, key=lambda name: differences[name])
        row |= {"worst_gradient": differences[worst], "worst_parameter": worst}
        row["gradients"] = _difference(*(_gradients(results) for results in (computed, reference)))
        yield {"table": "parity", **row, "depths": network["depths"]}


def _compute(
    device: jax.Device, dtype: str, precision: str, variant: str, image_size: int, network: dict[str, Any]
) -> dict[str, np.ndarray]:
    """The logits, and the gradient of each parameter by its name."""
    options = {"image_size": image_size, "drop_path_rate": 0.0, **network}
    model = create_model(variant, dtype=jnp.dtype(dtype), **options)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(_IMAGES, image_size, image_size, 3)).astype(np.float32)
    labels = rng.integers(0, CLASSES, _IMAGES)
    params = init_params(model, jax.random.key(0))

    def loss(params: dict, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = model.apply({"params": params}, images, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

    arguments = jax.device_put((params, images, labels), device)
    with jax.default_matmul_precision(precision):
        lowered = jax.jit(jax.grad(loss, has_aux=True)).lower(*arguments)
    gradients, logits = jax.device_get(lowered.compile(compiler_options(device))(*arguments))
    return {"logits": logits} | flatten_dict(gradients, sep="/")


def _gradients(results: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([x.ravel() for name, x in results.items() if name != "logits"])


def _difference(computed: np.ndarray, expected: np.ndarray) -> float:
    difference, scale = float(np.abs(computed - expected).max()), float(np.abs(expected).max())
    # A window of one token has no gradient of its bias.
    return difference / scale if scale else difference
