"""A job's checkpoints."""

from fastapi import APIRouter, Depends

from app.dependencies import JobId, SettingsDep, refuse_query
from app.schemas.checkpoints import CheckpointPage, CheckpointRead
from app.schemas.errors import error_responses
from app.services import checkpoints

router = APIRouter(prefix="/jobs/{job_id}/checkpoints", tags=["jobs"])


@router.get(
    "",
    summary="List a job's checkpoints",
    dependencies=[Depends(refuse_query)],
    responses=error_responses("GET /jobs/{job_id}/checkpoints", 404, 422),
)
def list_checkpoints(job_id: JobId, settings: SettingsDep) -> CheckpointPage:
    """What the job can go on from: the newest two and the best, the newest first. None once it has succeeded or
    was cancelled."""
    rows = checkpoints.list_for_job(settings, job_id)
    data = [CheckpointRead.model_validate(row, from_attributes=True) for row in rows]
    return CheckpointPage(data=data, has_more=False, next=None)
