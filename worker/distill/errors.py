"""Failures the engine can explain. The code goes to the job's row, the message to a person."""

_NO_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
# What a kernel says of the numbers that it was given, such as an index out of range: every GPU would say it again.
_ASSERTION = "device-side assert"


class EngineError(Exception):
    """A failure with a code of its own; the message names the value and the way out."""

    code = "internal_error"


class InvalidJob(EngineError):
    code = "invalid_job"


class NanLoss(EngineError):
    code = "nan_loss"


class OutOfMemory(EngineError):
    code = "out_of_memory"


class DiskFull(EngineError):
    code = "disk_full"


class DeviceLost(EngineError):
    """The GPU failed in the middle of the work: perhaps not the job's fault."""

    code = "device_lost"


class NoDevice(DeviceLost):
    """There was no GPU from the beginning: certainly not the job's fault."""


class TeacherLabelMismatch(EngineError):
    code = "teacher_label_mismatch"


class TeacherNotFinite(EngineError):
    code = "teacher_not_finite"


class VectorInterfaceMismatch(EngineError):
    code = "vector_interface_mismatch"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine or a device had no memory left: torch and CUDA's libraries say so in ways of their own."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Whether CUDA gave up, for a reason other than memory that may be the device's own."""
    text = str(error)
    if not isinstance(error, RuntimeError) or not text.startswith("CUDA error") or _ASSERTION in text:
        return False
    return not is_out_of_memory(error)


class Stopped(Exception):
    """Not a failure: raised at a safe point after SIGTERM."""
