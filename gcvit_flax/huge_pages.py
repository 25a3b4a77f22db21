"""Memory in pages of 2 MiB for training on CPUs, whose step allocates gigabytes anew each time."""

import contextlib
import os
import platform
import sys
from pathlib import Path

_ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ACCELERATORS = ("nvidia[0-9]*", "accel*", "vfio/[0-9]*", "kfd")  # In /dev.
_PROGRAMS = ("train.py", "gcvit-train", "gcvit_flax.train")  # The last is behind -m.
_SETTING = "GLIBC_TUNABLES"


def restart_with_huge_pages() -> None:
    """Starts the running program again, in the same process, with `huge_pages_environment`, if that changes anything.

    gcvit_xxtiny's training step then takes a tenth less time (docs/performance.md).
    """
    environment = huge_pages_environment()
    # Within another program, a notebook or a test say, it would start that again.
    if not environment or not any(Path(word).name in _PROGRAMS for word in sys.orig_argv):
        return
    os.environ.update(environment)
    with contextlib.suppress(OSError):  # Then it goes on as it was started.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def huge_pages_environment() -> dict[str, str]:
    """The variable that gives glibc's memory huge pages, which glibc reads when a process starts, or none.

    It is for Linux without an accelerator, where programs have to ask for huge pages, and leaves a user's own alone.
    """
    if _SETTING in os.environ or platform.libc_ver()[0] != "glibc":
        return {}
    if not _ENABLED.exists() or "[madvise]" not in _ENABLED.read_text():
        return {}
    if any(next(Path("/dev").glob(pattern), None) for pattern in _ACCELERATORS):
        return {}
    return {_SETTING: "glibc.malloc.hugetlb=1"}
