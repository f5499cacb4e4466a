"""Read a page of a job's events."""

from collections.abc import Sequence
from dataclasses import dataclass

from app.db.models import JobEvent
from app.db.session import read_session
from app.repositories import events
from app.services.jobs import find_job
from app.settings import Settings


@dataclass(frozen=True)
class EventPage:
    events: Sequence[JobEvent]
    has_more: bool


def list_after(settings: Settings, job_id: str, *, after: int, limit: int) -> EventPage:
    """Up to `limit` events with a sequence above `after`, oldest first."""
    with read_session(settings) as session:
        find_job(session, job_id)
        found = events.list_after(session, job_id, after, limit + 1)
    return EventPage(found[:limit], has_more=len(found) > limit)
