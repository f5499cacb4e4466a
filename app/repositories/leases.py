"""Leases over datasets, teachers and jobs: how workers get work, keep it and hand it back.

The database chooses and its clock counts. Use each function in a `write_session` of its own. What workers
write under a lease goes through the repository of the row's table.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import case, false, func, literal_column, select, update
from sqlalchemy.orm import Session

from app.db.models import Dataset, Job, Teacher
from app.db.types import db_now
from app.domain.attempts import AttemptOutcome
from app.domain.ids import new_run_token
from app.domain.imports import ImportStatus
from app.domain.jobs import JobStatus
from app.domain.leases import Claim, Kind
from app.errors import LeaseLost
from app.repositories import cleanups, imports, jobs
from app.repositories.attempts import AttemptEnd
from app.repositories.fence import MODELS, held_by, hold, lost
from app.storage import keys

EXPIRED_PER_SWEEP = 100


@dataclass
class TakenBack:
    """What the sweep did with expired leases: (kind, id) pairs."""

    requeued: list[tuple[Kind, str]] = field(default_factory=list)
    cancelled: list[tuple[Kind, str]] = field(default_factory=list)
    paused: list[tuple[Kind, str]] = field(default_factory=list)
    failed: list[tuple[Kind, str]] = field(default_factory=list)


def claim_next(session: Session, *, worker_name: str, lease_seconds: float) -> Claim | None:
    """Claim the next work: the oldest waiting dataset, else teacher, else the most urgent job, the oldest of
    several. None when nothing waits.

    One conditional UPDATE per kind, so of any number of racing workers exactly one gets a row. Datasets and
    teachers come first: they are short and jobs wait for them. They stay `pending`; a job becomes `running`.
    """
    lease = {
        "lease_expires_at": db_now(lease_seconds),
        "worker_name": worker_name,
        "run_token": new_run_token(),
    }
    for kind in imports.KINDS:
        claim = _claim_import(session, kind, lease)
        if claim is not None:
            return claim
    chosen = (
        select(Job.id)
        # Written out: a bound parameter could not use the index of queued rows.
        .where(Job.status == literal_column(f"'{JobStatus.QUEUED}'"))
        .order_by(Job.priority.desc(), Job.created_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    values = {
        **lease,
        "attempt": Job.attempt + 1,
        "fruitless_attempts": Job.fruitless_attempts + 1,
    }
    claimed = jobs.switch_status(session, JobStatus.RUNNING, Job.id == chosen, values=values)
    return claimed[0] if claimed else None


def renew(session: Session, claim: Claim, lease_seconds: float, *, run_seconds: float) -> str:
    """Extend the lease and return the row's status, by which a worker learns of `cancelling`. Raises LeaseLost when
    the token is gone.

    A lease that ran out but was not taken away yet can still be renewed. `run_seconds` are what a job's time limit
    counts so far: not those since the last renewal, of which nobody knows whether it was carried out when its answer
    is lost.
    """
    model: Any = MODELS[claim.kind]
    worked = {"run_seconds": run_seconds} if claim.kind == "job" else {}
    status = session.scalar(
        update(model)
        .where(held_by(claim))
        .values(lease_expires_at=db_now(lease_seconds), **worked)
        .returning(model.status)
        .execution_options(synchronize_session=False)
    )
    if status is None:
        raise lost(claim)
    return str(status)


def read_status(session: Session, claim: Claim) -> str:
    """The claimed row's status. Raises LeaseLost when the token is gone."""
    status = session.scalar(select(MODELS[claim.kind].status).where(held_by(claim)))
    if status is None:
        raise lost(claim)
    return str(status)


def read_fruitless_attempts(session: Session, claim: Claim) -> int:
    """How often in a row, this time included, the work was claimed without a new checkpoint. Raises LeaseLost when the
    token is gone."""
    count = session.scalar(select(MODELS[claim.kind].fruitless_attempts).where(held_by(claim)))
    if count is None:
        raise lost(claim)
    return int(count)


def release(session: Session, claim: Claim, *, failure: AttemptEnd | None = None, counts: bool = True) -> bool:
    """Hand the work back at once, for a worker that is shut down or a job that was asked to stop.

    The attempt counts as fruitless only with a `failure` that `counts`: of a job whose engine died under it, of work
    that the object store refused. A job that was asked to stop stops instead of waiting again. Returns False, having
    changed nothing, when the token is gone already.
    """
    model: Any = MODELS[claim.kind]
    values = {} if failure and counts else _uncounted(model)
    if claim.kind != "job":
        return _free(session, claim.kind, claim.id, held_by(claim), values)
    return _release_job(session, claim, values, failure)


def release_unbegun(session: Session, claim: Claim, why: AttemptEnd) -> bool:
    """Hand back a job that this worker could not begin: it waits as if nobody had claimed it, since when it did, and
    nothing of its time is used up. Returns as `release`."""
    values = {"queued_at": Job.queued_at, "run_seconds": claim.run_seconds}
    return _release_job(session, claim, _uncounted(Job) | values, why)


def ask_whether_written(session: Session) -> None:
    """Raise what taking a lease back would raise where nothing can be written to jobs now; changes nothing."""
    session.execute(update(Job).where(false()).values(id=Job.id).execution_options(synchronize_session=False))


def take_back_expired(session: Session, *, max_attempts: int) -> TakenBack:
    """Take the work of leases that ran out: it waits again, or ends if it was asked to stop.

    Work that was claimed `max_attempts` times in a row without a new checkpoint fails as `worker_lost`: it
    probably is what kills its workers.
    """
    taken = TakenBack()
    for row in _expired(session, Job):
        held = held_by(Claim("job", row.id, row.run_token, row.attempt))
        target = _AFTER_WORKER[JobStatus(row.status)]
        values: dict[str, Any] = {}
        end = AttemptEnd(AttemptOutcome.LOST)
        if target is JobStatus.QUEUED and row.fruitless_attempts >= max_attempts:
            target = JobStatus.FAILED
            values = _worker_lost(row, _JOB_ADVICE)
            end = AttemptEnd(AttemptOutcome.LOST, **values)
        jobs.switch_status(session, target, held, values=values, attempt_end=end)
        _LISTS[target](taken).append(("job", row.id))
    for kind in imports.KINDS:
        for row in _expired(session, MODELS[kind]):
            held = held_by(Claim(kind, row.id, row.run_token, row.attempt))
            if row.fruitless_attempts >= max_attempts:
                values = _worker_lost(row, _IMPORT_ADVICE[kind])
                imports.switch_status(session, kind, ImportStatus.FAILED, held, values=values)
                taken.failed.append((kind, row.id))
            else:
                _free(session, kind, row.id, held, {})
                taken.requeued.append((kind, row.id))
    return taken


def count_waiting(session: Session) -> int:
    """How many rows a worker could claim now."""
    queries = (
        select(func.count()).select_from(Dataset).where(*_claimable(Dataset)),
        select(func.count()).select_from(Teacher).where(*_claimable(Teacher)),
        select(func.count()).select_from(Job).where(Job.status == JobStatus.QUEUED),
    )
    return sum(session.scalar(query) or 0 for query in queries)


# What becomes of a job, by its status, when nobody works on it any more.
_AFTER_WORKER = {
    JobStatus.RUNNING: JobStatus.QUEUED,
    JobStatus.CANCELLING: JobStatus.CANCELLED,
    JobStatus.PAUSING: JobStatus.PAUSED,
}

_LISTS: dict[JobStatus, Callable[[TakenBack], list[tuple[Kind, str]]]] = {
    JobStatus.QUEUED: lambda taken: taken.requeued,
    JobStatus.CANCELLED: lambda taken: taken.cancelled,
    JobStatus.PAUSED: lambda taken: taken.paused,
    JobStatus.FAILED: lambda taken: taken.failed,
}

_JOB_ADVICE = (
    "Most often the machine runs out of memory: give the worker more memory and retry the job, or post it "
    "again with a smaller training.batch_size or training.max_length. Otherwise the worker's log says why it died."
)
_IMPORT_ADVICE: dict[Kind, str] = {
    "dataset": "Most often the machine runs out of memory: upload a smaller file, or give the worker more memory. "
    "Otherwise the worker's log says why it died.",
    "teacher": "Most often the machine runs out of memory or disk: give the worker more of both and add the teacher "
    "again. Otherwise the worker's log says why it died.",
}


def _claimable(model: Any) -> tuple[Any, ...]:
    return (model.status == ImportStatus.PENDING, model.run_token.is_(None))


def _claim_import(session: Session, kind: Kind, lease: dict[str, Any]) -> Claim | None:
    model: Any = MODELS[kind]
    oldest = (
        select(model.id)
        .where(*_claimable(model))
        .order_by(model.created_at, model.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    row = session.execute(
        update(model)
        .where(model.id == oldest, *_claimable(model))
        .values({**lease, "attempt": model.attempt + 1, "fruitless_attempts": model.fruitless_attempts + 1})
        .returning(model.id, model.run_token, model.attempt)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    return None if row is None else Claim(kind, row.id, row.run_token, row.attempt)


def _release_job(session: Session, claim: Claim, values: dict[str, Any], end: AttemptEnd | None) -> bool:
    try:
        status = JobStatus(hold(session, claim))
    except LeaseLost:
        return False
    target = _AFTER_WORKER[status]
    end = end if target is JobStatus.QUEUED else None
    return bool(jobs.switch_status(session, target, held_by(claim), values=values, attempt_end=end))


def _uncounted(model: Any) -> dict[str, Any]:
    """Values that take back the counting of a claim that was handed back."""
    return {"fruitless_attempts": case((model.fruitless_attempts > 0, model.fruitless_attempts - 1), else_=0)}


def _free(session: Session, kind: Kind, row_id: str, held: Any, values: dict[str, Any]) -> bool:
    model: Any = MODELS[kind]
    freed = session.scalar(
        update(model)
        .where(held)
        .values(run_token=None, lease_expires_at=None, **values)
        .returning(model.id)
        .execution_options(synchronize_session=False)
    )
    if freed is None:
        return False
    # As when a job is at rest: what its worker stored and no row names.
    cleanups.schedule(session, keys.root(kind, row_id))
    return True


def _expired(session: Session, model: Any) -> Sequence[Any]:
    """Rows whose lease ran out, locked; rows that somebody else is working on right now are left alone."""
    return session.execute(
        select(
            model.id,
            model.status,
            model.run_token,
            model.attempt,
            model.fruitless_attempts,
            model.worker_name,
        )
        .where(model.run_token.is_not(None), model.lease_expires_at < db_now())
        .order_by(model.lease_expires_at)
        .limit(EXPIRED_PER_SWEEP)
        .with_for_update(skip_locked=True)
    ).all()


def _worker_lost(row: Any, advice: str) -> dict[str, Any]:
    return {
        "error_code": "worker_lost",
        "error_message": (
            f"{row.fruitless_attempts} workers in a row stopped answering while they worked on this, without "
            f"getting any further; the last one was {row.worker_name!r}. {advice}"
        ),
    }
