"""Cancel, pause, resume and retry jobs.

Asking twice to cancel, pause or resume changes nothing and answers as the first time. Not so to retry: the job may
have been claimed since, or have failed anew, so each retry is one of its own and needs a job that is over.
"""

from app.db.models import Dataset, Job, Teacher
from app.db.session import write_session
from app.domain.jobs import RETRYABLE, TERMINAL, JobStatus
from app.errors import Conflict, JobNotFound
from app.queue import wake
from app.repositories import datasets, jobs, teachers
from app.repositories.jobs import RequestResult
from app.services.job_checks import check_ready
from app.services.jobs import find_job
from app.settings import Settings


def cancel(settings: Settings, job_id: str) -> Job:
    """Cancel a waiting or paused job at once, ask a running one to stop."""
    with write_session(settings) as session:
        outcome = _found(jobs.request_cancel(session, job_id), job_id)
        if not outcome.changed and outcome.status in TERMINAL - {JobStatus.CANCELLED}:
            raise _already_finished(job_id, outcome.status, "cancel")
        return find_job(session, job_id)


def pause(settings: Settings, job_id: str) -> Job:
    """Pause a waiting job at once, ask a running one to write a checkpoint and stop."""
    with write_session(settings) as session:
        outcome = _found(jobs.request_pause(session, job_id), job_id)
        if not outcome.changed and outcome.status in TERMINAL:
            raise _already_finished(job_id, outcome.status, "pause")
        if outcome.status is JobStatus.CANCELLING:
            raise Conflict(
                f"Job {job_id!r} is cancelling, and a cancel that was accepted is not taken back.",
                code="job_cancelling",
                param="job_id",
            )
        return find_job(session, job_id)


def resume(settings: Settings, job_id: str) -> Job:
    """Let a paused job go on from its last checkpoint."""
    with write_session(settings) as session:
        outcome = _found(jobs.resume(session, job_id), job_id)
        if outcome.status is JobStatus.PAUSING:
            raise Conflict(
                f"Job {job_id!r} is still pausing: its worker is writing a checkpoint. Resume it once its status is "
                "paused, in a few seconds.",
                code="job_pausing",
                param="job_id",
            )
        if outcome.status is JobStatus.CANCELLING or outcome.status in TERMINAL:
            raise Conflict(
                f"Job {job_id!r} is {outcome.status}, not paused. {_way_to_run_again(job_id, outcome.status)}",
                code="job_not_paused",
                param="job_id",
            )
        job = find_job(session, job_id)
    if outcome.changed:
        wake(settings)
    return job


def retry(settings: Settings, job_id: str, *, from_start: bool) -> Job:
    """Have a failed or cancelled job tried again: from its newest checkpoint, if it has one, unless `from_start`.

    A cancelled job has none: they go when it is cancelled.
    """
    with write_session(settings) as session:
        job = find_job(session, job_id)
        # Locked in the same order as when a job is posted, and before the job as everywhere. They are judged after it:
        # of a job that cannot be tried again it says nothing that its dataset is gone.
        teacher, dataset = teachers.lock(session, job.teacher_id), datasets.lock(session, job.dataset_id)
        outcome = _found(jobs.retry(session, job_id, from_start=from_start), job_id)
        if not outcome.changed:
            retryable = " or ".join(sorted(RETRYABLE))
            raise Conflict(
                f"Job {job_id!r} is {outcome.status}; only a job that is {retryable} can be tried again. "
                f"{_instead_of_retry(job_id, outcome.status)}",
                code="job_not_retryable",
                param="job_id",
            )
        # Refused here, the retry is rolled back.
        _check_inputs(job, teacher, dataset)
        job = find_job(session, job_id)
    wake(settings)
    return job


def _check_inputs(job: Job, teacher: Teacher | None, dataset: Dataset | None) -> None:
    """Refuse what would fail at once: what the job was made of may have been deleted since it ended."""
    for kind, row_id, row in (("teacher", job.teacher_id, teacher), ("dataset", job.dataset_id, dataset)):
        if row is None:
            raise Conflict(
                f"The {kind} {row_id!r} of job {job.id!r} was deleted. Add it again and post a new job on it.",
                code=f"{kind}_deleted",
                param="job_id",
            )
        check_ready(kind, row)


def _found(outcome: RequestResult | None, job_id: str) -> RequestResult:
    if outcome is None:
        raise JobNotFound(job_id, param="job_id")
    return outcome


def _already_finished(job_id: str, status: JobStatus, verb: str) -> Conflict:
    return Conflict(
        f"Job {job_id!r} is already {status}, so there is nothing to {verb}. DELETE /jobs/{job_id} removes it.",
        code="job_already_finished",
        param="job_id",
    )


def _instead_of_retry(job_id: str, status: JobStatus) -> str:
    if status is JobStatus.SUCCEEDED:
        return "A job that succeeded needs no retry."
    if status is JobStatus.PAUSED:
        return f"POST /jobs/{job_id}/resume lets it go on."
    if status is JobStatus.PAUSING:
        return f"Once it is paused, POST /jobs/{job_id}/resume lets it go on."
    return "Wait for it."


def _way_to_run_again(job_id: str, status: JobStatus) -> str:
    if status in RETRYABLE:
        return f"POST /jobs/{job_id}/retry tries it again."
    return "Post a new job to run it again." if status is JobStatus.SUCCEEDED else "Wait until it is over."
