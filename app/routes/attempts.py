"""A job's attempts."""

from fastapi import APIRouter

from app.dependencies import JobId, SettingsDep
from app.schemas.attempts import AttemptPage, AttemptRead
from app.schemas.errors import error_responses
from app.services import attempts

router = APIRouter(prefix="/jobs/{job_id}/attempts", tags=["jobs"])


@router.get("", summary="List a job's attempts", responses=error_responses(404, 422))
def list_attempts(job_id: JobId, settings: SettingsDep) -> AttemptPage:
    """Which worker had the job when, and how that ended; the newest first, all on one page."""
    data = [AttemptRead.model_validate(row, from_attributes=True) for row in attempts.list_for_job(settings, job_id)]
    return AttemptPage(data=data, has_more=False, next=None)
