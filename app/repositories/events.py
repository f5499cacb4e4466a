"""Events of a job: typed, numbered 1, 2, 3, ... without gaps, in the order in which readers see them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from sqlalchemy import Row, and_, insert, select, update
from sqlalchemy.orm import Session

from app.db.models import Job, JobEvent
from app.domain.jobs import JobStatus
from app.repositories.parameters import big_integer, rows_parameter


class NewEvent(TypedDict):
    type: str
    payload: dict[str, Any]


@dataclass(frozen=True)
class News:
    """What a job has behind a sequence, as of one moment."""

    status: JobStatus
    # Of the job's newest event, also when that is not among `events`.
    last_sequence: int
    # Rows with sequence, type, payload and created_at, ascending.
    events: list[Row[Any]] = field(default_factory=list)


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


def are_there(session: Session, job_id: str, *, first: int, types: Sequence[str]) -> bool:
    """Whether the sequences from `first` on hold events of just these types."""
    query = select(JobEvent.type).where(
        JobEvent.job_id == job_id, JobEvent.sequence >= first, JobEvent.sequence < first + len(types)
    )
    return list(session.scalars(query.order_by(JobEvent.sequence))) == list(types)


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


def list_news(session: Session, places: Iterable[tuple[str, int]], *, limit: int) -> dict[tuple[str, int], News]:
    """What is new behind each (job id, sequence): up to `limit` events each, in one statement for all.

    A place whose job is gone is missing from what is returned.
    """
    place = rows_parameter(session, sorted(set(places)))
    job_id, after = place[0].as_string(), big_integer(place[1])
    query = (
        select(
            Job.id,
            after.label("after"),
            Job.status,
            Job.event_sequence,
            JobEvent.sequence,
            JobEvent.type,
            JobEvent.payload,
            JobEvent.created_at,
        )
        .join(Job, Job.id == job_id)
        # Sequences have no gaps, so this range is the limit.
        .outerjoin(
            JobEvent,
            and_(JobEvent.job_id == job_id, JobEvent.sequence > after, JobEvent.sequence <= after + limit),
        )
        .order_by(Job.id, after, JobEvent.sequence)
    )
    found: dict[tuple[str, int], News] = {}
    for row in session.execute(query):
        news = found.setdefault((row.id, row.after), News(JobStatus(row.status), row.event_sequence))
        if row.sequence is not None:
            news.events.append(row)
    return found
