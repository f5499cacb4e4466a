"""Where a run computes, and what must match for a resume to be exact."""

import contextlib
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch

from worker.distill.config import TrainingConfig
from worker.distill.errors import NoDevice, is_device_lost
from worker.distill.processor import Processor
from worker.distill.run_folder import DEVICE

# What computes, and what makes tokens of texts and a map of those.
_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "scipy", "umap-learn", "numba")


@dataclass(frozen=True)
class Compute:
    """The device, the arithmetic and the attention kernel of a run."""

    device: torch.device
    precision: str  # "fp32" or "bf16": bf16 means products in it over fp32 weights
    threads: int
    attention: str
    is_deterministic: bool

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            yield


def choose_compute(training: TrainingConfig, threads: int, began: Mapping[str, Any] | None = None) -> Compute:
    """One CUDA device if there is one, else the processor, or what STILLHOUSE_ENGINE_DEVICE wants; `precision: auto` is
    bf16 where that is faster than fp32, and of a run that `began` in such an environment what it was there, if this is
    the same hardware. Raises NoDevice where `cuda` is wanted and is not there."""
    torch.set_num_threads(threads)
    has_cuda = _has_cuda(os.environ.get(DEVICE, "auto"))
    device = torch.device("cuda", 0) if has_cuda else torch.device("cpu")
    precision = training.precision
    if precision == "auto" and began is not None and _is_same_hardware(began, device):
        # Another release may choose another one, and an upgrade must not make a run inexact.
        precision = began["precision"]
    elif precision == "auto":
        precision = "bf16" if has_fast_bf16(device) else "fp32"
    if has_cuda and torch.cuda.current_stream(device) == torch.cuda.default_stream(device):
        # All work of the run goes to a stream of its own: on the default one no graph can be recorded.
        torch.cuda.set_stream(torch.cuda.Stream(device))
    if has_cuda and training.deterministic:
        # The engine's entry point has set CUBLAS_WORKSPACE_CONFIG, which this needs.
        torch.use_deterministic_algorithms(True)
        # Nothing here reads memory that it has not written, and filling it all takes time.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return Compute(
        device=device,
        precision=precision,
        threads=threads,
        # Measured on a two-core machine: at classification lengths eager beats SDPA on a processor.
        attention="sdpa" if has_cuda else "eager",
        is_deterministic=training.deterministic or not has_cuda,
    )


def environment(compute: Compute) -> dict[str, Any]:
    """What decides the last bit of every result; a checkpoint records it."""
    # The map and what some methods begin with are computed on the processor, and there again at a resume.
    processor = Processor.here()
    beside = {"processor": processor.title} if compute.device.type == "cuda" else {}
    return {
        "device": hardware(compute),
        **beside,
        "processor_kind": processor.kind,
        "precision": compute.precision,
        "threads": compute.threads,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "libraries": {name: version(name) for name in _LIBRARIES},
    }


def differing(began: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """The names of what differs between the environment in which a run began and this one.

    The processor beside a GPU, a processor's kind and a library differ from nothing where the release that began it
    recorded none: else an upgrade alone would make every run under way inexact.
    """
    unrecorded = {name: here.get(name) for name in ("processor", "processor_kind")}
    before = {**unrecorded, **began, "libraries": here["libraries"] | began["libraries"]}
    return [name for name, value in here.items() if before.get(name) != value]


def device_memory() -> dict[str, Any] | None:
    """What torch has held at most on the device in this process, what it keeps for tensors to come included, and what
    the device has; None without one in use."""
    if not torch.cuda.is_initialized():
        return None
    return {
        "device": torch.cuda.get_device_name(0),
        "peak_bytes": torch.cuda.max_memory_reserved(0),
        "total_bytes": torch.cuda.get_device_properties(0).total_memory,
    }


def hardware(compute: Compute) -> str:
    return _hardware(compute.device)


def has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return Processor.here().has_fast_bf16


def _is_same_hardware(began: Mapping[str, Any], device: torch.device) -> bool:
    """A GPU by its name; a processor by its kind too, where the release that `began` the run recorded one."""
    is_alike = bool(began["device"] == _hardware(device))
    if device.type == "cuda":
        return is_alike
    kind = Processor.here().kind
    return is_alike and bool(began.get("processor_kind", kind) == kind)


def _hardware(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else Processor.here().title


def _has_cuda(wanted: str) -> bool:
    has_cuda = wanted != "cpu" and torch.cuda.is_available()
    if wanted != "cuda":
        return has_cuda
    if not has_cuda:
        raise NoDevice(
            f"{DEVICE} is cuda, and torch {torch.__version__} finds no CUDA device: a container that has lost its GPU "
            "gets it back when it is started anew; else `nvidia-smi` says what the driver sees. With auto the job "
            "would run on the processor."
        )
    try:  # that one is counted says nothing of whether it computes
        torch.ones(1, device="cuda")
        torch.cuda.synchronize()
    except RuntimeError as error:
        if not is_device_lost(error):
            raise
        raise NoDevice(
            f"{DEVICE} is cuda, and the device that torch {torch.__version__} finds does not compute "
            f"({str(error).splitlines()[0]}): `nvidia-smi` and the kernel's log of the machine say more. Where there "
            "is no kernel image for it, take a torch built for this GPU (TORCH_INDEX, where the image is built)."
        ) from error
    return True
