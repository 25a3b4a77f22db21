"""What the compilers read from the environment when they start."""

import os

_ALWAYS = {
    "JAX_PLATFORMS": "cpu",  # No device of this machine is touched.
    "JAX_ENABLE_COMPILATION_CACHE": "false",  # A program for devices that are not there cannot be read back from it.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # Also while another process has libtpu's lock.
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}
# Else libtpu asks Google's metadata server, which only its own machines reach, and complains.
_UNLESS_GIVEN = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5e-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


def prepare_environment() -> None:
    """Keeps the compilers off this machine's devices, and quiet; call it before JAX is imported."""
    os.environ.update(_ALWAYS)
    for name, value in _UNLESS_GIVEN.items():
        os.environ.setdefault(name, value)
