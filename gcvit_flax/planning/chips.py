"""What is known of the accelerators that a step can be compiled for."""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class TpuGeneration:
    """One generation of Cloud TPUs; a device of JAX is a chip.

    `memory` is what the compiler lets a program take, in bytes: all of the chip's but for a reserve of its own (that it
    names these numbers is tested). `hertz` follows from the peak and the number of multipliers; `bandwidth` is the
    memory's, in bytes a second, and `link_bandwidth` that of one link to another chip, in one direction: the chip's
    interconnect bandwidth over its number of links. `sides` is how many numbers a slice's name has.
    """

    sides: int
    largest_slice: int
    memory: float
    bandwidth: float
    hertz: float
    link_bandwidth: float


# cloud.google.com/tpu/docs, the pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e".
TPUS = {
    "v4": TpuGeneration(3, 4096, 30.75 * GIB, 1228e9, 1.05e9, 50e9),
    "v5e": TpuGeneration(2, 256, 15.75 * GIB, 819e9, 1.5e9, 50e9),
    "v5p": TpuGeneration(3, 6144, 95.74 * GIB, 2765e9, 1.75e9, 100e9),
    "v6e": TpuGeneration(2, 256, 31.25 * GIB, 1640e9, 1.75e9, 100e9),
}
# The slices of v5e and v6e (2 sides), and the small ones of v4 and v5p (3), whose larger sides are multiples of 4.
SLICES = {
    2: ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    3: ("2x2x1", "2x2x2", "2x2x4", "2x4x4"),
}


@dataclasses.dataclass(frozen=True)
class Gpu:
    """One kind of GPU; `memory` is what its driver reports, in bytes, `bandwidth` the memory's in bytes a second."""

    name: str
    memory: int
    bandwidth: int


# NVIDIA's data sheets of the H100 and H200 (SXM), and the totals that nvidia-smi shows.
GPUS = {
    "h100": Gpu("NVIDIA H100 80GB HBM3", 81_559 * 2**20, 3_350_000_000_000),
    "h200": Gpu("NVIDIA H200", 143_771 * 2**20, 4_800_000_000_000),
}

# What the compiler must know of them, as a GpuTargetConfigProto in text form. Both have the GH100 chip: NVIDIA's
# "H100 Tensor Core GPU Architecture", and compute capability 9.0 in the CUDA programming guide's tables.
_GPU_TARGET = """
gpu_device_info {{
  name: "{gpu.name}"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  l2_cache_size: 52428800
  device_memory_size: {gpu.memory}
  memory_bandwidth: {gpu.bandwidth}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{gpu.name}"
"""


def gpu_target(gpu: Gpu) -> str:
    """The description of `gpu` that XLA compiles for."""
    return _GPU_TARGET.format(gpu=gpu)
