"""What a job's status may be and how it may change. Plain Python, no framework."""

from enum import StrEnum


class JobStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


# Over, until somebody asks for a retry.
TERMINAL: frozenset[JobStatus] = frozenset({JobStatus.CANCELLED, JobStatus.SUCCEEDED, JobStatus.FAILED})
LIVE: tuple[JobStatus, ...] = tuple(status for status in JobStatus if status not in TERMINAL)

# A cancel that was answered with 202 is kept: what was `cancelling` only ever ends as `cancelled`, even when
# the worker finished or failed before it noticed.
TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.PAUSED, JobStatus.CANCELLED}),
    JobStatus.RUNNING: frozenset(
        {
            JobStatus.QUEUED,
            JobStatus.PAUSING,
            JobStatus.CANCELLING,
            JobStatus.SUCCEEDED,
            JobStatus.FAILED,
        }
    ),
    JobStatus.PAUSING: frozenset({JobStatus.PAUSED, JobStatus.CANCELLING, JobStatus.SUCCEEDED, JobStatus.FAILED}),
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.CANCELLING: frozenset({JobStatus.CANCELLED}),
    JobStatus.CANCELLED: frozenset(),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
}


# What a person may have tried again: the job waits anew, and its earlier attempts stay on record. Apart from
# the table above, because nothing but that request leads out of an end.
RETRYABLE: frozenset[JobStatus] = frozenset({JobStatus.CANCELLED, JobStatus.FAILED})


class IllegalTransition(ValueError):
    def __init__(self, current: JobStatus, new: JobStatus) -> None:
        super().__init__(f"a job that is {current} cannot become {new}")
        self.current = current
        self.new = new


def check_transition(current: JobStatus, new: JobStatus) -> None:
    """Raise IllegalTransition unless a job may go from `current` to `new`."""
    if new not in TRANSITIONS[current]:
        raise IllegalTransition(current, new)


def sources(new: JobStatus) -> frozenset[JobStatus]:
    """The statuses from which a job may become `new`."""
    return frozenset(status for status, targets in TRANSITIONS.items() if new in targets)
