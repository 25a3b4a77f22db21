"""The memory that a process has taken, for tests of what it may take at most."""

import resource
import sys
from pathlib import Path


def peak_memory() -> int:
    """Bytes, of this process; `ru_maxrss` counts on Linux what its parent had when it was started, too."""
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
