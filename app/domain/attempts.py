"""How one worker's go at a job ended."""

from enum import StrEnum

from app.domain.jobs import JobStatus


class AttemptOutcome(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"
    # The worker was told to stop, or could not begin, and gave the job back.
    HANDED_BACK = "handed_back"
    # The worker stopped answering: its lease ran out.
    LOST = "lost"


# By the status that the job gets; who knows better says so.
OUTCOME_BY_STATUS: dict[JobStatus, AttemptOutcome] = {
    JobStatus.QUEUED: AttemptOutcome.HANDED_BACK,
    JobStatus.PAUSED: AttemptOutcome.PAUSED,
    JobStatus.CANCELLED: AttemptOutcome.CANCELLED,
    JobStatus.SUCCEEDED: AttemptOutcome.SUCCEEDED,
    JobStatus.FAILED: AttemptOutcome.FAILED,
}
