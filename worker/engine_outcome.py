"""How a run of the engine ended, from its exit code, its last event and the traces it left."""

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from worker.distill import exit_codes
from worker.distill.errors import DeviceLost
from worker.failures import RETRY, Failure, disk_full

_TAIL_LINES = 6
_TAIL_CHARACTERS = 800
_LESS_MEMORY = (
    "Lower training.batch_size or training.max_length, choose a smaller student, "
    "or give the worker more memory (STILLHOUSE_ENGINE_MEMORY_LIMIT_BYTES and its container's limit)."
)
_OUT_OF_MEMORY = re.compile(
    r"^MemoryError|std::bad_alloc|OutOfMemoryError|CUDA out of memory|CUDA error: out of memory|STATUS_ALLOC_FAILED"
    r"|can't allocate memory",
    re.MULTILINE,
)


class EngineEnd(StrEnum):
    SUCCEEDED = "succeeded"
    STOPPED = "stopped"  # asked to; what it had is in its newest checkpoint
    KILLED = "killed"  # by a signal, nobody knows why, or by its GPU's failure: perhaps not the job's fault
    NO_DEVICE = "no_device"  # before it began, for want of the GPU: certainly not the job's fault
    FAILED = "failed"


@dataclass(frozen=True)
class EngineOutcome:
    """`code` and `message` say why it failed; `result` is the summary of a success."""

    end: EngineEnd
    code: str = ""
    message: str = ""
    result: dict[str, Any] = field(default_factory=dict)

    @property
    def failure(self) -> Failure:
        return Failure(self.code, self.message)


# The ends that a device brings about.
_DEVICE_ENDS = {exit_codes.NO_DEVICE: EngineEnd.NO_DEVICE, exit_codes.DEVICE_LOST: EngineEnd.KILLED}

# By a program that makes room in memory before there is none, for one: perhaps not the job's fault, as with a kill.
STOPPED_BY_OTHERS = EngineOutcome(
    EngineEnd.KILLED,
    code="engine_died",
    message="The engine was told to stop (SIGTERM) by somebody who is not its worker; often that is a program that "
    f"watches over the machine's memory. Please {RETRY}; if that ends the same way, look at the machine's log.",
)


@dataclass(frozen=True)
class Ending:
    """What is left of a process: a negative exit code is the signal that killed it."""

    exit_code: int
    log_tail: str
    is_over_memory: bool  # we killed it for its memory
    memory_used_bytes: int
    memory_limit_bytes: int
    was_oom_killed: bool  # the kernel killed something for memory meanwhile


def explain(ending: Ending, last_event: Mapping[str, Any] | None) -> EngineOutcome:
    """The outcome; `last_event` is the engine's last `succeeded` or `failed` event, if there is one."""
    event = last_event or {}
    if ending.exit_code == exit_codes.SUCCEEDED and event.get("type") == "succeeded":
        return EngineOutcome(EngineEnd.SUCCEEDED, result=dict(event.get("result") or {}))
    if ending.exit_code == exit_codes.STOPPED:
        return EngineOutcome(EngineEnd.STOPPED)
    if end := _DEVICE_ENDS.get(ending.exit_code):
        return EngineOutcome(end, code=DeviceLost.code, message=str(event.get("message") or _unexplained(ending)))
    if event.get("type") == "failed":
        return _failed(str(event.get("code", "internal_error")), str(event.get("message", "")))
    if ending.is_over_memory:
        return _failed(
            "out_of_memory",
            f"The engine used {_gigabytes(ending.memory_used_bytes)} of memory, more than its limit of "
            f"{_gigabytes(ending.memory_limit_bytes)}, and was stopped. {_LESS_MEMORY}",
        )
    if ending.exit_code == -signal.SIGKILL and ending.was_oom_killed:
        return _failed(
            "out_of_memory",
            "The machine ran out of memory and its kernel killed the engine, which had used "
            f"{_gigabytes(ending.memory_used_bytes)} when last seen. {_LESS_MEMORY}",
        )
    if ending.exit_code == exit_codes.DISK_FULL or "No space left on device" in ending.log_tail:
        failure = disk_full("The engine", RETRY)
        return _failed(failure.code, failure.message)
    if _OUT_OF_MEMORY.search(ending.log_tail):
        return _failed("out_of_memory", f"The engine could not get the memory it needed. {_LESS_MEMORY}")
    end = EngineEnd.KILLED if ending.exit_code < 0 else EngineEnd.FAILED
    return EngineOutcome(end, code="engine_died", message=_unexplained(ending))


def describe_exit(exit_code: int) -> str:
    """An exit code as a number, or the name of the signal that killed the process."""
    if exit_code >= 0:
        return str(exit_code)
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"


def _unexplained(ending: Ending) -> str:
    if ending.exit_code == -signal.SIGKILL:
        how = (
            "was killed by SIGKILL from outside; often that is a container that ran out of memory "
            f"(the engine had used {_gigabytes(ending.memory_used_bytes)} when last seen)"
        )
    elif ending.exit_code < 0:
        how = f"was killed by {describe_exit(ending.exit_code)}"
    elif ending.exit_code == exit_codes.SUCCEEDED:
        how = "ended without a result"
    else:
        how = f"ended with exit code {ending.exit_code} and no explanation"
    lines = [line for line in ending.log_tail.splitlines() if line.strip()][-_TAIL_LINES:]
    tail = "\n".join(lines)[-_TAIL_CHARACTERS:]
    said = f" Its last words were:\n{tail}" if tail else " Its own log is empty."
    return f"The engine {how}. Please {RETRY}; if that ends the same way, look at the worker's log.{said}"


def _failed(code: str, message: str) -> EngineOutcome:
    return EngineOutcome(EngineEnd.FAILED, code=code, message=message)


def _gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB"
