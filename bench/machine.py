"""The machine that a figure comes from, and how busy it was."""

import os
import platform
from pathlib import Path
from typing import Any

from bench.report import processor
from worker.machine import count_cores


def facts() -> dict[str, Any]:
    """What decides how fast the machine is; part of every cell's key, so that machines do not mix."""
    return {
        "processor": processor(),
        "cores": count_cores(),
        "system": platform.machine(),
        "python": platform.python_version(),
    }


def load_average() -> float:
    """Processes that wanted a core, averaged over the last minute."""
    return os.getloadavg()[0]


def fast_precision() -> str:
    """ "bf16" where the processor multiplies it in hardware, as the engine's `precision: auto` chooses, else "fp32"."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return "fp32"
    return "bf16" if {"avx512_bf16", "amx_bf16"} & set(flags) else "fp32"
