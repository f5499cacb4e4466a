"""Why work failed: a code for programs, and a sentence that tells people the way out."""

from dataclasses import dataclass

from app.domain.leases import Kind
from worker.distill.errors import InvalidJob
from worker.patience import StorageUnavailable, is_disk_full
from worker.preparation.errors import PreparationFailed
from worker.stopping import OutOfTime

# How a job is tried again whose parameters are not to blame.
RETRY = "retry the job (POST /jobs/{id}/retry goes on from its last checkpoint)"
_TRY_AGAIN: dict[Kind, str] = {"job": RETRY, "dataset": "upload it again", "teacher": "post it again"}
# In its place where the work was handed back.
_WAIT = "wait: it is tried again by itself"
_MORE_DISK = (
    "Free some space on it, or move what fills it: run folders lie under STILLHOUSE_WORK_DIR, the embedded mode's "
    "objects and database under STILLHOUSE_HOME."
)


class InputMissing(Exception):
    """The job names something that is not there any more; the message says what and what to do."""


@dataclass(frozen=True)
class Failure:
    code: str
    message: str


def explain(error: Exception, kind: Kind) -> Failure:
    """What ended work of that kind."""
    again = _TRY_AGAIN[kind]
    if is_disk_full(error):
        return disk_full("The worker", again, str(error).splitlines()[0] if str(error) else "")
    if isinstance(error, OutOfTime):
        return Failure("time_limit_exceeded", str(error))
    if isinstance(error, PreparationFailed | InvalidJob):
        return Failure(error.code, str(error))
    if isinstance(error, InputMissing):
        return Failure("input_missing", str(error))
    if isinstance(error, StorageUnavailable):
        message = f"{error}. See to the database or the object store, then {again}."
        return Failure("storage_unavailable", message)
    return Failure(
        "internal_error",
        f"The worker met an error of its own ({type(error).__name__}: {error}). Please {again}; if that "
        "ends the same way, report it with the worker's log.",
    )


def while_it_waits(failure: Failure, kind: Kind) -> str:
    """The message for work that waits again, which nobody has to try again, nor could."""
    return failure.message.replace(_TRY_AGAIN[kind], _WAIT)


def disk_full(who: str, again: str, detail: str = "") -> Failure:
    """`who` found the disk full; `again` says how to try again once there is room."""
    said = f" ({detail})" if detail else ""
    return Failure("disk_full", f"{who} found no space left on the worker's disk{said}. {_MORE_DISK} Then {again}.")
