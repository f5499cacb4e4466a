"""Every query on jobs.

Workers call the functions that take a Claim: each writes only while the job carries the claim's run token, and
raises LeaseLost, having written nothing, once it does not. Services call the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import (
    JSON,
    ColumnElement,
    Row,
    Select,
    and_,
    delete,
    exists,
    func,
    inspect,
    select,
    type_coerce,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.db.dialects import is_postgres
from app.db.models import IdempotencyKey, Job, Metric, Teacher
from app.db.session import after_commit
from app.db.types import clean_json, db_now
from app.domain.attempts import OUTCOME_BY_STATUS
from app.domain.imports import ImportStatus
from app.domain.jobs import LIVE, RETRYABLE, TERMINAL, JobStatus, check_transition, sources
from app.domain.leases import Claim
from app.errors import NAMED_AT_MOST
from app.prometheus import count_end
from app.repositories import artifacts as artifact_rows
from app.repositories import attempts, checkpoints, cleanups, events
from app.repositories.artifacts import ArtifactRow
from app.repositories.attempts import AttemptEnd
from app.repositories.events import NewEvent
from app.repositories.fence import held_by, hold, lost
from app.repositories.pages import Page, fetch_page
from app.repositories.parameters import rows_parameter
from app.storage import keys

# A job as it is read, without the object that the ORM would make of it: with the attributes of Job.
JobRow = Row[Any]
_COLUMNS = tuple(getattr(Job, attribute.key) for attribute in inspect(Job).column_attrs)


@dataclass(frozen=True)
class RequestResult:
    # The status after the call.
    status: JobStatus
    # False when the call changed nothing: the job was over, or was asked before.
    changed: bool


@dataclass(frozen=True)
class DeleteResult:
    # The job's, now or when it was deleted.
    status: JobStatus
    # Up to one more than a message names: pending teachers made of the job's student, which is still to be copied.
    teacher_ids: Sequence[str]

    @property
    def is_deleted(self) -> bool:
        return self.status in TERMINAL and not self.teacher_ids


def create(
    session: Session,
    *,
    job_id: str,
    teacher_id: str,
    dataset_id: str,
    student: dict[str, Any],
    method: dict[str, Any],
    training: dict[str, Any],
    teacher_tuning: dict[str, Any] | None = None,
    combine: Sequence[dict[str, Any]] = (),
    baselines: Sequence[dict[str, Any]] = (),
    metadata: Mapping[str, str] | None = None,
    priority: int = 0,
    time_limit_seconds: float | None = None,
    request_id: str | None = None,
    traceparent: str | None = None,
) -> Job:
    """Insert a queued job and its first event."""
    job = Job(
        id=job_id,
        status=JobStatus.QUEUED,
        teacher_id=teacher_id,
        dataset_id=dataset_id,
        student=student,
        method=method,
        combine=list(combine),
        training=training,
        teacher_tuning=teacher_tuning,
        baselines=list(baselines),
        job_metadata=dict(metadata or {}),
        priority=priority,
        time_limit_seconds=time_limit_seconds,
        request_id=request_id,
        traceparent=traceparent,
        event_sequence=1,
    )
    session.add(job)
    session.flush()
    events.write(session, job_id, first=1, events=[_status_event(JobStatus.QUEUED)])
    return job


def get(session: Session, job_id: str) -> Job | None:
    return session.get(Job, job_id, populate_existing=True)


def lock(session: Session, job_id: str) -> Job | None:
    """The row, locked until the transaction ends: making a teacher of its student and deleting it cannot cross."""
    return session.get(Job, job_id, populate_existing=True, with_for_update=True)


def list_by_ids(session: Session, job_ids: Sequence[str]) -> Sequence[JobRow]:
    """The rows of these jobs, in no order; those that are gone are missing."""
    wanted = rows_parameter(session, [[job_id] for job_id in job_ids])
    return session.execute(select(*_COLUMNS).where(Job.id.in_(select(wanted[0].as_string())))).all()


def list_page(
    session: Session,
    *,
    limit: int = 20,
    after: str | None = None,
    statuses: Sequence[str] | None = None,
    teacher_id: str | None = None,
    dataset_id: str | None = None,
    metadata: Mapping[str, str | None] | None = None,
) -> Page[Job]:
    """A page of jobs, newest first. `metadata` maps each key asked for to its value, or to None for any."""
    query = select(Job)
    if statuses:
        query = query.where(Job.status.in_(statuses))
    if teacher_id is not None:
        query = _by_index_of(session, query, Job.teacher_id, teacher_id)
        if dataset_id is not None:
            query = query.where(Job.dataset_id == dataset_id)
    elif dataset_id is not None:
        query = _by_index_of(session, query, Job.dataset_id, dataset_id)
    for key, value in (metadata or {}).items():
        query = query.where(_metadata_matches(session, key, value))
    return fetch_page(session, query, Job, limit=limit, after=after)


def live_using(session: Session, *, dataset_id: str | None = None, teacher_id: str | None = None) -> Sequence[str]:
    """The ids of jobs that are not over and use the dataset or the teacher: up to one more than a message names."""
    query = select(Job.id).where(Job.status.in_(LIVE))
    if dataset_id is not None:
        query = query.where(Job.dataset_id == dataset_id)
    if teacher_id is not None:
        query = query.where(Job.teacher_id == teacher_id)
    return session.scalars(query.order_by(Job.created_at, Job.id).limit(NAMED_AT_MOST + 1)).all()


def request_cancel(session: Session, job_id: str) -> RequestResult | None:
    """Cancel a waiting job at once, ask a running one to stop. None when there is no such job."""
    return _request(session, job_id, at_once=JobStatus.CANCELLED, by_worker=JobStatus.CANCELLING)


def request_pause(session: Session, job_id: str) -> RequestResult | None:
    """Pause a waiting job at once, ask a running one to stop where it is. None when there is no such job."""
    return _request(session, job_id, at_once=JobStatus.PAUSED, by_worker=JobStatus.PAUSING)


def resume(session: Session, job_id: str) -> RequestResult | None:
    """Let a paused job wait for a worker again. None when there is no such job."""
    current = _locked_status(session, job_id)
    if current is not JobStatus.PAUSED:
        return None if current is None else RequestResult(current, changed=False)
    switch_status(session, JobStatus.QUEUED, Job.id == job_id)
    return RequestResult(JobStatus.QUEUED, changed=True)


def retry(session: Session, job_id: str, *, from_start: bool) -> RequestResult | None:
    """Let a failed or cancelled job wait anew, to go on from its newest checkpoint, if it has one, unless `from_start`.

    A cancelled job has none. Attempts and events stay; the time limit counts anew, and what begins anew begins without
    metrics, which would be those of two runs, and without warnings. None when there is no such job.
    """
    current = _locked_status(session, job_id)
    if current not in RETRYABLE:
        return None if current is None else RequestResult(current, changed=False)
    if from_start:
        checkpoints.drop_all(session, job_id)
    values: dict[str, Any] = {
        "fruitless_attempts": 0,
        "run_seconds": 0.0,
        "error_code": None,
        "error_message": None,
        "finished_at": None,
        "phase": None,
        "round": None,
        "rounds": None,
        "progress": 0.0,
    }
    if checkpoints.latest(session, job_id) is None:
        values |= {"warnings": [], "last_metrics": {}}
        session.execute(delete(Metric).where(Metric.job_id == job_id))
    switch_status(session, JobStatus.QUEUED, Job.id == job_id, values=values, sources_allowed=RETRYABLE)
    return RequestResult(JobStatus.QUEUED, changed=True)


def delete_terminal(session: Session, job_id: str) -> DeleteResult | None:
    """Delete a job that is over and whose student no teacher waits for, with all that hangs on it; the sweep removes
    its objects. None when there is no such job."""
    status = _locked_status(session, job_id)
    if status is None:
        return None
    # Only once the row is locked: no further teacher is made of its student then.
    waiting = select(Teacher.id).where(_waits_for_student_of(job_id)).order_by(Teacher.created_at, Teacher.id)
    result = DeleteResult(status, session.scalars(waiting.limit(NAMED_AT_MOST + 1)).all())
    if result.is_deleted:
        session.execute(delete(IdempotencyKey).where(IdempotencyKey.job_id == job_id))
        session.execute(delete(Job).where(Job.id == job_id).execution_options(synchronize_session=False))
        cleanups.schedule(session, keys.job_root(job_id))
    return result


def deletable(session: Session, *, days: float, limit: int) -> Sequence[str]:
    """Jobs that have been over for longer than `days` and whose student no teacher waits for, up to `limit`."""
    is_old = and_(Job.status.in_(sorted(TERMINAL)), Job.finished_at < db_now(-days * 86400))
    is_awaited = exists().where(_waits_for_student_of(Job.id))
    return session.scalars(select(Job.id).where(is_old, ~is_awaited).limit(limit)).all()


def update_progress(
    session: Session,
    claim: Claim,
    *,
    phase: str | None,
    round: int | None,
    rounds: int | None,
    progress: float | None,
    eta_seconds: float | None,
    metrics: Mapping[str, float | None] | None = None,
    warnings: Mapping[str, str | None] | None = None,
) -> None:
    """Write where the job stands. `progress` is 0..1, None leaves it as it was; `metrics` are merged into the last
    values, `warnings`, messages by their codes, into those of the run: None takes one back."""
    hold(session, claim)
    values: dict[str, Any] = {
        "phase": phase,
        "round": round,
        "rounds": rounds,
        "eta_seconds": clean_json(eta_seconds),
    }
    if progress is not None:
        values["progress"] = min(1.0, max(0.0, clean_json(float(progress)) or 0.0))
    if metrics:
        last = session.scalars(select(Job.last_metrics).where(held_by(claim))).one()
        values["last_metrics"] = {**last, **metrics}
    if warnings:
        told = session.scalars(select(Job.warnings).where(held_by(claim))).one()
        by_code = {warning["code"]: warning["message"] for warning in told} | dict(warnings)
        values["warnings"] = [
            {"code": code, "message": message} for code, message in by_code.items() if message is not None
        ]
    session.execute(update(Job).where(held_by(claim)).values(values).execution_options(synchronize_session=False))


def add_events(session: Session, claim: Claim, new_events: Sequence[NewEvent]) -> int:
    """Add events in the order given and return the sequence of the last one."""
    hold(session, claim)
    return events.append(session, claim.id, new_events)


def finish_succeeded(
    session: Session, claim: Claim, *, result: dict[str, Any], artifacts: Sequence[ArtifactRow]
) -> JobStatus:
    """End the job as succeeded with its artifacts, or as cancelled if a cancel came first."""
    if JobStatus(hold(session, claim)) is JobStatus.CANCELLING:
        return finish_cancelled(session, claim)
    artifact_rows.add(session, claim.id, artifacts)
    # The student is done: nothing is ever continued from here.
    checkpoints.drop_all(session, claim.id)
    return _finish(session, claim, JobStatus.SUCCEEDED, {"result": result, "progress": 1.0})


def finish_failed(session: Session, claim: Claim, *, code: str, message: str) -> JobStatus:
    """End the job as failed, or as cancelled if a cancel came first. The message says what to change."""
    if JobStatus(hold(session, claim)) is JobStatus.CANCELLING:
        return finish_cancelled(session, claim)
    return _finish(session, claim, JobStatus.FAILED, {"error_code": code, "error_message": message})


def finish_cancelled(session: Session, claim: Claim) -> JobStatus:
    """End a job that was asked to stop. Raises IllegalTransition if nobody asked."""
    check_transition(JobStatus(hold(session, claim)), JobStatus.CANCELLED)
    return _finish(session, claim, JobStatus.CANCELLED, {})


def switch_status(
    session: Session,
    new: JobStatus,
    *where: ColumnElement[bool],
    values: Mapping[str, Any] | None = None,
    attempt_end: AttemptEnd | None = None,
    sources_allowed: frozenset[JobStatus] | None = None,
) -> Sequence[Claim]:
    """The only function that changes a job's status, in one conditional UPDATE.

    Changes the rows that meet `where` and may legally become `new`, together with what goes with the status
    (lease, times, the attempt, an event), and returns them. No row returned means that none met the conditions.
    `attempt_end` says how the attempt ended where the new status alone does not; `sources_allowed` replaces the
    table of transitions.
    """
    changes: dict[str, Any] = {"status": new, "event_sequence": Job.event_sequence + 1}
    is_at_rest = new not in (JobStatus.RUNNING, JobStatus.CANCELLING, JobStatus.PAUSING)
    if new is JobStatus.RUNNING:
        changes["started_at"] = func.coalesce(Job.started_at, db_now())
    if is_at_rest:  # nobody works on it any more
        changes |= {"run_token": None, "lease_expires_at": None, "eta_seconds": None}
    if new is JobStatus.QUEUED:
        changes["queued_at"] = db_now()
    if new in TERMINAL:
        changes["finished_at"] = db_now()
    rows = session.execute(
        update(Job)
        .where(Job.status.in_(sorted(sources_allowed or sources(new))), *where)
        .values({**changes, **(values or {})})
        .returning(*_CLAIM_COLUMNS, Job.event_sequence, Job.error_code, Job.error_message, Job.worker_name)
        .execution_options(synchronize_session=False)
    ).all()
    for row in rows:
        event = _status_event(new, row.attempt, row.error_code)
        events.write(session, row.id, first=row.event_sequence, events=[event])
        if new is JobStatus.RUNNING:
            attempts.begin(session, row.id, number=row.attempt, worker_name=row.worker_name)
        elif new in OUTCOME_BY_STATUS:
            end = attempt_end or AttemptEnd(OUTCOME_BY_STATUS[new], row.error_code, row.error_message)
            attempts.end(session, row.id, number=row.attempt, attempt_end=end)
        if new is JobStatus.CANCELLED:
            # Whoever cancelled it: the worker, the caller while it waited, or the sweep.
            checkpoints.drop_all(session, row.id)
        if is_at_rest:
            # What its worker stored and no row names: nobody goes on from it. What the next worker stores meanwhile
            # lies under a token of its own.
            cleanups.schedule(session, keys.job_root(row.id))
        if new in TERMINAL:
            after_commit(session, partial(count_end, "job", new, row.error_code))
    return [_claim(row) for row in rows]


_CLAIM_COLUMNS = (
    Job.id,
    Job.run_token,
    Job.attempt,
    Job.request_id,
    Job.traceparent,
    Job.time_limit_seconds,
    Job.run_seconds,
)


def _claim(row: Any) -> Claim:
    return Claim(
        kind="job",
        id=row.id,
        run_token=row.run_token or "",
        attempt=row.attempt,
        request_id=row.request_id,
        traceparent=row.traceparent,
        time_limit_seconds=row.time_limit_seconds,
        run_seconds=row.run_seconds,
    )


def _locked_status(session: Session, job_id: str) -> JobStatus | None:
    """The job's status, which nobody else changes until the transaction ends; None when there is no such job."""
    status = session.scalar(select(Job.status).where(Job.id == job_id).with_for_update())
    return None if status is None else JobStatus(status)


def _request(session: Session, job_id: str, *, at_once: JobStatus, by_worker: JobStatus) -> RequestResult | None:
    """Make a job that nobody works on `at_once`, one that somebody does `by_worker`."""
    current = _locked_status(session, job_id)
    if current is None:
        return None
    for target in (at_once, by_worker):
        # From `by_worker` only the worker, or the sweep in its place, goes on to `at_once`.
        if current in sources(target) and current is not by_worker:
            switch_status(session, target, Job.id == job_id)
            return RequestResult(target, changed=True)
    return RequestResult(current, changed=False)


def _finish(session: Session, claim: Claim, status: JobStatus, values: Mapping[str, Any]) -> JobStatus:
    if not switch_status(session, status, held_by(claim), values=values):
        raise lost(claim)
    return status


def _status_event(status: JobStatus, attempt: int = 0, error_code: str | None = None) -> NewEvent:
    payload: dict[str, Any] = {"status": str(status), "terminal": status in TERMINAL, "attempt": attempt}
    if error_code is not None:
        payload["error_code"] = error_code
    return {"type": "status", "payload": payload}


def _waits_for_student_of(job_id: str | InstrumentedAttribute[str]) -> ColumnElement[bool]:
    """Whether a teacher is still to be copied from this job's artifacts, which are the only ones until then."""
    # Of the other sources none has a job.
    source_job = type_coerce(Teacher.source, JSON)["job"].as_string()
    return and_(Teacher.status == ImportStatus.PENDING, source_job == job_id)


def _by_index_of(session: Session, query: Select[Job], column: InstrumentedAttribute[str], value: str) -> Select[Job]:
    """`query` for the jobs with this value, by the index that begins with the column."""
    if is_postgres(session):
        # PostgreSQL takes the jobs with it to be spread evenly, and would look for them among all, newest first, though
        # they may all be old. An order that begins with the column forbids that, unless it is one of a single value:
        # hence a range.
        return query.where(column.between(value, value)).order_by(column.desc())
    return query.where(column == value)


def _metadata_matches(session: Session, key: str, value: str | None) -> ColumnElement[bool]:
    if is_postgres(session):
        # In the two forms that the index over the labels knows.
        labels = type_coerce(Job.job_metadata, JSONB)
        return labels.has_key(key) if value is None else labels.contains({key: value})
    # Not a JSON path: SQLite's paths cannot name every key.
    pair = func.json_each(Job.job_metadata).table_valued("key", "value")
    query = select(1).select_from(pair).where(pair.c.key == key)
    return exists(query if value is None else query.where(pair.c.value == value))
