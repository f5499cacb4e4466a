"""What a person may ask of a job under way, or over: cancel, pause, resume, retry."""

from typing import Annotated

from fastapi import APIRouter, Body, status

from app.dependencies import JobId, SettingsDep
from app.routes.jobs import read_job
from app.schemas.errors import error_responses
from app.schemas.job_bodies import JobRetry
from app.schemas.jobs import JobRead
from app.services import job_control

router = APIRouter(prefix="/jobs/{job_id}", tags=["jobs"])


@router.post(
    "/cancel",
    status_code=status.HTTP_202_ACCEPTED,
    summary="Cancel a job",
    responses=error_responses("POST /jobs/{job_id}/cancel", 404, 409),
)
def cancel_job(job_id: JobId, settings: SettingsDep) -> JobRead:
    """A job that waits or is paused is cancelled at once; a running one becomes `cancelling` and stops within
    seconds. Its checkpoints go."""
    return read_job(job_control.cancel(settings, job_id))


@router.post(
    "/pause",
    status_code=status.HTTP_202_ACCEPTED,
    summary="Pause a job",
    responses=error_responses("POST /jobs/{job_id}/pause", 404, 409),
)
def pause_job(job_id: JobId, settings: SettingsDep) -> JobRead:
    """A queued job is paused at once; a running one becomes `pausing`, writes a checkpoint and frees its worker.
    It stays paused until it is resumed or cancelled."""
    return read_job(job_control.pause(settings, job_id))


@router.post(
    "/resume",
    status_code=status.HTTP_202_ACCEPTED,
    summary="Resume a paused job",
    responses=error_responses("POST /jobs/{job_id}/resume", 404, 409),
)
def resume_job(job_id: JobId, settings: SettingsDep) -> JobRead:
    """The job waits for a worker, any worker, and goes on from its last checkpoint."""
    return read_job(job_control.resume(settings, job_id))


@router.post(
    "/retry",
    status_code=status.HTTP_202_ACCEPTED,
    summary="Try a failed or cancelled job again",
    responses=error_responses("POST /jobs/{job_id}/retry", 400, 404, 408, 409, 413, 415, 422),
)
def retry_job(job_id: JobId, settings: SettingsDep, body: Annotated[JobRetry | None, Body()] = None) -> JobRead:
    """The same job waits for a worker once more. A failed one goes on from its last checkpoint, if it has one; a
    cancelled one begins anew, because its checkpoints went with the cancel. What its earlier attempts did stays in
    `GET /jobs/{job_id}/attempts`; its time limit counts anew, and one that begins anew leaves the metrics of the run
    before behind."""
    return read_job(job_control.retry(settings, job_id, from_start=body.from_start if body else False))
