"""Submit, read and delete jobs; what else may be asked of one is in job_control.py."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.orm import Session

from app import tracing
from app.db.models import Job, Teacher
from app.db.session import read_session, write_session
from app.domain.ids import new_id
from app.domain.jobs import TERMINAL
from app.errors import (
    Conflict,
    DatasetNotFound,
    IdempotencyKeyReused,
    InvalidRequest,
    JobNotFound,
    TeacherNotFound,
    some_of,
)
from app.queue import wake
from app.repositories import datasets, idempotency, jobs, teachers
from app.repositories.pages import Page
from app.schemas.job_bodies import JobCreate, is_metadata_key
from app.services.job_checks import check_alone, check_fit, check_ready
from app.settings import Settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Submitted:
    job: Job
    # False when the idempotency key had made the job before.
    is_new: bool


def submit(
    settings: Settings, body: JobCreate, *, idempotency_key: str | None = None, request_id: str | None = None
) -> Submitted:
    """Persist a queued job, commit, then wake a worker; or find the job that the key has made before.

    A repeated request is answered before anything else is checked, so a client that retries gets its job
    even after its dataset was deleted.
    """
    body_sha256 = _body_sha256(body)
    if idempotency_key is not None:
        with read_session(settings) as session:
            earlier = idempotency.find(session, idempotency_key, hours=settings.idempotency_hours)
            if earlier is not None:
                return _repeated(session, earlier.job_id, earlier.body_sha256, body_sha256, idempotency_key)
    check_alone(body)
    job_id = new_id("job")
    with write_session(settings) as session:
        teacher = _checked_teacher(session, body)
        if idempotency_key is not None:
            taken = idempotency.take(
                session,
                key=idempotency_key,
                body_sha256=body_sha256,
                job_id=job_id,
                hours=settings.idempotency_hours,
            )
            if taken.job_id != job_id:
                return _repeated(session, taken.job_id, taken.body_sha256, body_sha256, idempotency_key)
        spec = body.spec(teacher.hidden_size)
        job = jobs.create(
            session,
            job_id=job_id,
            teacher_id=spec["teacher"],
            dataset_id=spec["dataset"],
            student=spec["student"],
            method=spec["method"],
            combine=spec["combine"],
            training=spec["training"],
            teacher_tuning=spec["teacher_tuning"],
            baselines=spec["baselines"],
            metadata=body.metadata,
            priority=body.priority,
            time_limit_seconds=body.time_limit_seconds,
            request_id=request_id,
            traceparent=tracing.current_traceparent(),
        )
    log.info("job_submitted", job_id=job_id, method=spec["method"]["type"], priority=body.priority)
    wake(settings)
    return Submitted(job, is_new=True)


def list_page(
    settings: Settings,
    *,
    limit: int,
    after: str | None,
    statuses: Sequence[str],
    teacher_id: str | None,
    dataset_id: str | None,
    metadata: Sequence[str],
) -> Page[Job]:
    """A page of jobs, newest first; `metadata` holds filters as `key:value` or `key`."""
    filters = _metadata_filters(metadata)
    with read_session(settings) as session:
        return jobs.list_page(
            session,
            limit=limit,
            after=after,
            statuses=statuses,
            teacher_id=teacher_id,
            dataset_id=dataset_id,
            metadata=filters,
        )


def delete(settings: Settings, job_id: str) -> None:
    """Delete a job that is over and whose student no teacher waits for; its objects go with the next sweep."""
    with write_session(settings) as session:
        result = jobs.delete_terminal(session, job_id)
    if result is None:
        raise JobNotFound(job_id, param="job_id")
    if result.status not in TERMINAL:
        raise Conflict(
            f"Job {job_id!r} is {result.status} and can't be deleted yet. POST /jobs/{job_id}/cancel, wait until "
            "terminal is true, then delete it.",
            code="job_not_finished",
            param="job_id",
        )
    if not result.is_deleted:
        raise Conflict(
            f"Job {job_id!r} is used by {some_of(result.teacher_ids)}, still pending: its student has yet to be "
            "copied. Wait until they are ready, or delete them with DELETE /teachers/{teacher_id}.",
            code="job_in_use",
            param="job_id",
        )


def find_job(session: Session, job_id: str) -> Job:
    """The job's row, or JobNotFound."""
    job = jobs.get(session, job_id)
    if job is None:
        raise JobNotFound(job_id, param="job_id")
    return job


def _checked_teacher(session: Session, body: JobCreate) -> Teacher:
    """The job's teacher, once it is known that the job fits it and its dataset."""
    # Locked in this order everywhere, until the commit: neither can be deleted while a job on it is made.
    teacher = teachers.lock(session, body.teacher)
    if teacher is None:
        raise TeacherNotFound(body.teacher, param="teacher")
    dataset = datasets.lock(session, body.dataset)
    if dataset is None:
        raise DatasetNotFound(body.dataset, param="dataset")
    check_ready("teacher", teacher)
    check_ready("dataset", dataset)
    check_fit(body, teacher, dataset)
    return teacher


def _repeated(session: Session, job_id: str, earlier_sha256: str, body_sha256: str, key: str) -> Submitted:
    if earlier_sha256 != body_sha256:
        raise IdempotencyKeyReused(key)
    return Submitted(find_job(session, job_id), is_new=False)


def _body_sha256(body: JobCreate) -> str:
    # Over what the body means, so neither the order of fields nor a default written out makes a difference, and a
    # request sent again after an upgrade still finds the job that it has made before.
    canonical = json.dumps(body.meaning(), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _metadata_filters(pairs: Sequence[str]) -> dict[str, str | None]:
    filters: dict[str, str | None] = {}
    for pair in pairs:
        key, colon, value = pair.partition(":")
        if not is_metadata_key(key):
            raise InvalidRequest(
                f"metadata is {pair!r}; write key:value, or key alone for any value, where the key consists of "
                "letters, digits, '_', '.' and '-'.",
                code="wrong_form",
                param="metadata",
            )
        if key in filters:
            raise InvalidRequest(
                f"metadata names the key {key!r} twice, which no job can meet. Ask once for each key.",
                code="duplicate_filter",
                param="metadata",
            )
        filters[key] = value if colon else None
    return filters
