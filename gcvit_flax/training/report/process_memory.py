"""The memory that a process has taken."""

import re
import resource
import sys
from pathlib import Path


def peak_memory_of_process() -> int:
    """The most resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    if found:  # On Linux ru_maxrss also counts what the parent had when it started this process.
        return int(found[1]) * 1024
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
