"""The forward pass of prediction and evaluation: in parts that fit the cache, spread over all devices."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from gcvit_flax.devices import inference_options
from gcvit_flax.model.fuse import fuse_parameters, narrow_kernels
from gcvit_flax.model.gcvit import GCViT

_PIXELS_AT_A_TIME = 2 * 224 * 224
_AXIS = "batch"

Program = Callable[[Any, jax.Array], jax.Array]
Method = str | Callable[[GCViT, jax.Array], jax.Array]


class Predictor:
    """Compiled inference: normalized images (B, H, W, 3), as `preprocess` returns them, to float32 logits (B, classes).

    `method` replaces the network's call, "embed" for pooled features say: a name, or a function of module and images
    that returns one array (B, ...). The parameters are fused (`fuse_parameters`), and a batch is spread over the
    largest number of local devices that divides it, each with a copy of the parameters, or all with the same one if
    they are parts of a CPU; one program is compiled for each shape. On a CPU, call `simulate_devices` first, for one
    device per core; there a model whose dtype is bfloat16 computes in float32 with kernels in bfloat16
    (`narrow_kernels`).

    Raises:
      UserError: (a ValueError) `variables` are not {"params": ...} of `model`.
    """

    def __init__(self, model: GCViT, variables: dict[str, Any], method: Method | None = None) -> None:
        self._method = method
        self._model, self._variables = fuse_parameters(model, variables)
        if model.dtype == jnp.bfloat16 and jax.default_backend() == "cpu":
            self._model, self._variables = narrow_kernels(self._model, self._variables)
        self.programs: dict[tuple[int, ...], tuple[Program, jax.sharding.Mesh]] = {}  # By the shape of the images.
        self._copies: dict[jax.sharding.Mesh, Any] = {}  # The variables, by the mesh of devices that hold a copy.

    def __call__(self, images: np.ndarray | jax.Array) -> jax.Array:
        if images.shape not in self.programs:
            self.programs[images.shape] = self._program(len(images))
        program, mesh = self.programs[images.shape]
        return program(self._copies[mesh], jax.device_put(images, jax.NamedSharding(mesh, jax.P(_AXIS))))

    def devices(self, batch_size: int) -> list[jax.Device]:
        """The devices that a batch of that size is spread over."""
        devices = jax.local_devices()
        return devices[: max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)]

    def _program(self, batch_size: int) -> tuple[Program, jax.sharding.Mesh]:
        mesh = jax.sharding.Mesh(np.array(self.devices(batch_size)), (_AXIS,))
        replicated, split = jax.P(), jax.P(_AXIS)

        def share(variables: dict[str, Any], images: jax.Array) -> jax.Array:
            return apply_in_parts(self._model, variables, images, mesh.devices[0], self._method)

        in_specs = (replicated, split)
        mapped = jax.shard_map(share, mesh=mesh, in_specs=in_specs, out_specs=split, check_vma=False)
        program = jax.jit(mapped, compiler_options=inference_options(mesh.devices[0]))
        if mesh not in self._copies:
            variables = self._variables
            if mesh.devices[0].platform == "cpu":
                variables = jax.tree.map(np.asarray, variables)  # Views of memory that all parts of a CPU share.
            self._copies[mesh] = jax.device_put(variables, jax.NamedSharding(mesh, replicated))
        return program, mesh


def apply_in_parts(
    model: GCViT, variables: dict[str, Any], images: jax.Array, device: jax.Device, method: Method | None = None
) -> jax.Array:
    """`model.apply` on images (B, H, W, 3): a few at a time if `device` is a CPU, to keep their maps in its cache."""
    batch, height, width, _ = images.shape
    fitting = max(1, _PIXELS_AT_A_TIME // (height * width))
    size = max(n for n in range(1, batch + 1) if batch % n == 0 and n <= fitting)

    def apply(images: jax.Array) -> Any:
        return model.apply(variables, images, method=method)

    if size == batch or device.platform != "cpu":
        return apply(images)
    images = rearrange(images, "(parts b) h w c -> parts b h w c", b=size)
    results = jax.lax.map(apply, images)
    return rearrange(results, "parts b ... -> (parts b) ...")
