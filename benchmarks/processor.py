"""What a CPU is: figures of speed mean little without its vector instructions."""

import os
import platform
import re
from pathlib import Path

# Linux' names of flags, the widest first, and ours.
_INSTRUCTIONS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 with bfloat16", "avx512f": "AVX-512", "avx2": "AVX2"}


def describe_processor() -> str:
    """Cores, model and the widest vector instructions, as far as the system tells."""
    described = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        text = cpuinfo.read_text()
        model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
        flags = re.search(r"^flags\s*: (.*)$", text, re.MULTILINE)
        widest = [name for flag, name in _INSTRUCTIONS.items() if flags and flag in flags[1].split()]
        described = ", ".join([model[1] if model else described, *widest[:1]])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores of {described}"
