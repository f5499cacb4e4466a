"""A job's attempts."""

from fastapi import APIRouter, Depends

from app.dependencies import JobId, SettingsDep, refuse_query
from app.schemas.attempts import AttemptPage, AttemptRead
from app.schemas.errors import error_responses
from app.services import attempts

router = APIRouter(prefix="/jobs/{job_id}/attempts", tags=["jobs"])


@router.get(
    "",
    summary="List a job's attempts",
    dependencies=[Depends(refuse_query)],
    responses=error_responses("GET /jobs/{job_id}/attempts", 404, 422),
)
def list_attempts(job_id: JobId, settings: SettingsDep) -> AttemptPage:
    """Which worker had the job when, and how that ended; the newest first, all on one page."""
    data = [AttemptRead.model_validate(row, from_attributes=True) for row in attempts.list_for_job(settings, job_id)]
    return AttemptPage(data=data, has_more=False, next=None)
