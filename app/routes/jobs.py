"""Jobs: create, list, get, delete."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Query, Request, Response, status

from app.db.models import Job
from app.dependencies import IdempotencyKey, JobId, RequestId, SettingsDep
from app.domain.jobs import TERMINAL, JobStatus
from app.repositories.jobs import JobRow
from app.schemas.errors import error_responses
from app.schemas.job_bodies import JOB_EXAMPLE, KD_EXAMPLE, JobCreate
from app.schemas.jobs import JobError, JobLinks, JobPage, JobRead, JobsQuery, JobWarning
from app.services import jobs
from app.services.job_reader import JobReader

router = APIRouter(prefix="/jobs", tags=["jobs"])


async def get_job_reader(request: Request, settings: SettingsDep) -> JobReader:
    """The one reader of the application, for the event loop that it runs in."""
    state = request.app.state
    reader: JobReader | None = getattr(state, "job_reader", None)
    if reader is None or reader.settings is not settings or reader.loop is not asyncio.get_running_loop():
        reader = state.job_reader = JobReader(settings)
    return reader


JobReaderDep = Annotated[JobReader, Depends(get_job_reader)]


@router.post(
    "",
    status_code=status.HTTP_202_ACCEPTED,
    summary="Create a job",
    responses={
        200: {"model": JobRead, "description": "The job that this Idempotency-Key has made before"},
        202: {"description": "A new job, queued"},
        **error_responses("POST /jobs", 400, 404, 408, 409, 413, 415, 422),
    },
)
def create_job(
    body: Annotated[
        JobCreate,
        Body(
            openapi_examples={
                "sage": {
                    "summary": "SAGE with a baseline",
                    "description": "`teacher_tuning` fine-tunes the teacher first, which a pretrained encoder needs.",
                    "value": JOB_EXAMPLE,
                },
                "kd": {"summary": "Plain distillation, short", "value": KD_EXAMPLE},
            }
        ),
    ],
    response: Response,
    settings: SettingsDep,
    request_id: RequestId,
    idempotency_key: IdempotencyKey = None,
) -> JobRead:
    """Queue a distillation. The answer comes at once, also while the queue is down; a worker takes the job
    when one is free. Poll `GET /jobs/{job_id}` until `terminal` is true."""
    submitted = jobs.submit(settings, body, idempotency_key=idempotency_key, request_id=request_id)
    if not submitted.is_new:
        response.status_code = status.HTTP_200_OK
    response.headers["Location"] = f"/jobs/{submitted.job.id}"
    return read_job(submitted.job)


@router.get("", summary="List jobs", responses=error_responses("GET /jobs", 422))
def list_jobs(query: Annotated[JobsQuery, Query()], settings: SettingsDep) -> JobPage:
    """Newest first."""
    page = jobs.list_page(
        settings,
        limit=query.limit,
        after=query.after,
        statuses=query.status,
        teacher_id=query.teacher,
        dataset_id=query.dataset,
        metadata=query.metadata,
    )
    return JobPage(data=[read_job(job) for job in page.rows], has_more=page.has_more, next=page.next)


@router.get(
    "/{job_id}", summary="Get a job", response_model=JobRead, responses=error_responses("GET /jobs/{job_id}", 404)
)
async def get_job(job_id: JobId, reader: JobReaderDep) -> Response:
    """Where the job stands, and what it runs under."""
    # Written here: the framework would take a thread to check a second time what it is given.
    return Response(read_job(await reader.get(job_id)).model_dump_json(), media_type="application/json")


@router.delete(
    "/{job_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    summary="Delete a finished job",
    responses=error_responses("DELETE /jobs/{job_id}", 404, 409),
)
def delete_job(job_id: JobId, settings: SettingsDep) -> None:
    """The job, its events, metrics and artifacts. Only when it is over; cancel it first if it is not. Refused while a
    teacher made of its student is pending."""
    jobs.delete(settings, job_id)


def read_job(job: Job | JobRow) -> JobRead:
    return JobRead(
        id=job.id,
        status=JobStatus(job.status).value,
        terminal=JobStatus(job.status) in TERMINAL,
        phase=job.phase,
        round=job.round,
        rounds=job.rounds,
        progress=job.progress,
        eta_seconds=job.eta_seconds,
        attempt=job.attempt,
        metrics=job.last_metrics,
        warnings=[JobWarning(**warning) for warning in job.warnings],
        error=JobError(code=job.error_code, message=job.error_message or "") if job.error_code else None,
        teacher=job.teacher_id,
        dataset=job.dataset_id,
        student=job.student,
        method=job.method,
        combine=job.combine,
        training=job.training,
        teacher_tuning=job.teacher_tuning,
        baselines=job.baselines,
        priority=job.priority,
        time_limit_seconds=job.time_limit_seconds,
        metadata=job.job_metadata,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        result=job.result,
        links=JobLinks(
            self=f"/jobs/{job.id}",
            events=f"/jobs/{job.id}/events",
            metrics=f"/jobs/{job.id}/metrics",
            artifacts=f"/jobs/{job.id}/artifacts",
            attempts=f"/jobs/{job.id}/attempts",
            checkpoints=f"/jobs/{job.id}/checkpoints",
        ),
    )
