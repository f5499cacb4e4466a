"""The machine that a figure comes from, and how busy it was."""

import os
import platform
from typing import Any

from bench.report import processor
from worker.machine import count_cores


def facts(device: str = "cpu") -> dict[str, Any]:
    """What decides how fast the machine is; part of every cell's key, so that machines do not mix."""
    found = {
        "processor": processor(),
        "cores": count_cores(),
        "system": platform.machine(),
        "python": platform.python_version(),
    }
    return found if device == "cpu" else found | {"gpu": _gpu()}


def describe(device: str = "cpu") -> str:
    """The machine as a report names it."""
    found = facts(device)
    beside = f"{found['processor']}, {found['cores']} cores"
    return f"{found['gpu']}, beside {beside}" if device == "cuda" else beside


def load_average() -> float:
    """Processes that wanted a core, averaged over the last minute."""
    return os.getloadavg()[0]


def environment(device: str) -> dict[str, str]:
    """Of a program that is to compute on `device`: on a machine that has a GPU, "cpu" means to leave it alone."""
    return {**os.environ} if device == "cuda" else {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


def fast_precision(device: str = "cpu") -> str:
    """What the engine's `precision: auto` becomes on `device`."""
    import torch

    from worker.distill.device import has_fast_bf16

    return "bf16" if has_fast_bf16(torch.device(device)) else "fp32"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("--device cuda needs an NVIDIA GPU and a torch built for CUDA; torch sees none here.")
    return torch.cuda.get_device_name(0)
