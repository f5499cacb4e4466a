"""Attempts: which worker had a job when, and how that ended. Called by app.repositories.jobs.switch_status."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from app.db.models import Attempt
from app.db.types import db_now
from app.domain.attempts import AttemptOutcome


@dataclass(frozen=True)
class AttemptEnd:
    outcome: AttemptOutcome
    error_code: str | None = None
    error_message: str | None = None


def begin(session: Session, job_id: str, *, number: int, worker_name: str | None) -> None:
    values: dict[str, Any] = {"job_id": job_id, "number": number, "worker_name": worker_name}
    session.execute(insert(Attempt).values(**values, outcome=AttemptOutcome.RUNNING))


def end(session: Session, job_id: str, *, number: int, attempt_end: AttemptEnd) -> None:
    """Write how an attempt ended; one that has ended already stays as it is."""
    session.execute(
        update(Attempt)
        .where(Attempt.job_id == job_id, Attempt.number == number, Attempt.finished_at.is_(None))
        .values(
            outcome=attempt_end.outcome,
            error_code=attempt_end.error_code,
            error_message=attempt_end.error_message,
            finished_at=db_now(),
        )
        .execution_options(synchronize_session=False)
    )


def list_for_job(session: Session, job_id: str) -> Sequence[Attempt]:
    """The job's attempts, the newest first."""
    return session.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.number.desc())).all()
