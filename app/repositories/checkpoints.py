"""Checkpoints: what a job can be continued from. Recorded after their files are stored."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import delete, exists, select, update
from sqlalchemy.orm import Session

from app.db.dialects import insert_or_update
from app.db.models import Checkpoint, Job
from app.db.types import db_now
from app.domain.files import StoredFile
from app.domain.jobs import JobStatus
from app.domain.leases import Claim
from app.repositories import cleanups
from app.repositories.fence import held_by, hold, lost


@dataclass(frozen=True)
class CheckpointFacts:
    """What a checkpoint holds, as the engine says."""

    step: int
    arm: str | None = None
    # That had just ended; None within a round.
    round: int | None = None
    # Of the student after that round.
    validation_accuracy: float | None = None
    # No student before it was better.
    is_best: bool = False


def record(
    session: Session, claim: Claim, facts: CheckpointFacts, *, object_prefix: str, files: Sequence[StoredFile]
) -> None:
    """Record a checkpoint whose files are stored under `object_prefix`; the attempt was not fruitless.

    Raises LeaseLost, having written nothing, when the claim no longer holds.
    """
    touched = session.scalar(
        update(Job)
        .where(held_by(claim))
        .values(fruitless_attempts=0)
        .returning(Job.id)
        .execution_options(synchronize_session=False)
    )
    if touched is None:
        raise lost(claim)
    if facts.is_best:
        session.execute(
            update(Checkpoint)
            .where(Checkpoint.job_id == claim.id, Checkpoint.is_best)
            .values(is_best=False)
            .execution_options(synchronize_session=False)
        )
    values = {
        **asdict(facts),
        "object_prefix": object_prefix,
        "files": list(files),
        "size_bytes": sum(file["size_bytes"] for file in files),
        "created_at": db_now(),
    }
    statement = insert_or_update(session, Checkpoint).values(job_id=claim.id, **values)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[Checkpoint.job_id, Checkpoint.step],
            set_={name: statement.excluded[name] for name in values if name != "step"},
        )
    )


def latest(session: Session, job_id: str) -> Checkpoint | None:
    """The checkpoint to continue from: the one of the highest step."""
    return session.scalar(
        select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step.desc()).limit(1)
    )


def list_for_job(session: Session, job_id: str) -> Sequence[Checkpoint]:
    """The job's checkpoints, newest step first."""
    return session.scalars(select(Checkpoint).where(Checkpoint.job_id == job_id).order_by(Checkpoint.step.desc())).all()


def drop_older(session: Session, claim: Claim, *, keep: int = 2) -> Sequence[str]:
    """Forget all but the `keep` newest checkpoints and the best, and return their object prefixes.

    The sweep deletes the objects. Raises LeaseLost when the claim no longer holds.
    """
    hold(session, claim)
    return _drop(session, [row for row in list_for_job(session, claim.id)[keep:] if not row.is_best])


def drop(session: Session, claim: Claim, *, step: int) -> Sequence[str]:
    """Forget one checkpoint, because its files turned out to be damaged; the next older one is used."""
    hold(session, claim)
    return _drop(session, [row for row in list_for_job(session, claim.id) if row.step == step])


def drop_all(session: Session, job_id: str) -> None:
    """Forget the checkpoints of a job that will never be continued."""
    _drop(session, list_for_job(session, job_id))


def jobs_to_forget(session: Session, *, days: float, limit: int) -> Sequence[str]:
    """Jobs that failed longer ago than `days` and still have checkpoints, up to `limit`.

    Locked until the transaction ends, so that they stay failed; one that is being tried again just now is left out.
    """
    return session.scalars(
        select(Job.id)
        .where(Job.status == JobStatus.FAILED, Job.finished_at < db_now(-days * 86400))
        .where(exists().where(Checkpoint.job_id == Job.id))
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()


def _drop(session: Session, rows: Sequence[Checkpoint]) -> Sequence[str]:
    for row in rows:
        session.execute(delete(Checkpoint).where(Checkpoint.job_id == row.job_id, Checkpoint.step == row.step))
        cleanups.schedule(session, row.object_prefix, delay_seconds=0)
    return [row.object_prefix for row in rows]
