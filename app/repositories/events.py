"""Events of a job: typed, numbered 1, 2, 3, ... without gaps, in the order in which readers see them."""

from collections.abc import Sequence
from typing import Any, TypedDict

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from app.db.models import Job, JobEvent


class NewEvent(TypedDict):
    type: str
    payload: dict[str, Any]


def append(session: Session, job_id: str, events: Sequence[NewEvent]) -> int:
    """Add events and return the sequence of the last one (0 when there is no such job).

    Not fenced: workers go through `app.repositories.jobs.add_events`.
    """
    last = session.scalar(
        update(Job)
        .where(Job.id == job_id)
        .values(event_sequence=Job.event_sequence + len(events))
        .returning(Job.event_sequence)
        .execution_options(synchronize_session=False)
    )
    if last is None:
        return 0
    if events:
        write(session, job_id, first=last - len(events) + 1, events=events)
    return last


def write(session: Session, job_id: str, *, first: int, events: Sequence[NewEvent]) -> None:
    """Insert events under sequences that the caller has already taken from the job's row."""
    session.execute(
        insert(JobEvent),
        [
            {"job_id": job_id, "sequence": first + place, "type": event["type"], "payload": event["payload"]}
            for place, event in enumerate(events)
        ],
    )


def list_after(
    session: Session,
    job_id: str,
    after_sequence: int = 0,
    limit: int = 100,
    *,
    types: Sequence[str] | None = None,
) -> Sequence[JobEvent]:
    """Up to `limit` events with a sequence above `after_sequence`, ascending; of some types, if given."""
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.sequence > after_sequence)
    if types:
        query = query.where(JobEvent.type.in_(types))
    return session.scalars(query.order_by(JobEvent.sequence).limit(limit)).all()
