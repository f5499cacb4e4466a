"""A job's events."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.dependencies import JobId, SettingsDep
from app.schemas.errors import error_responses
from app.schemas.events import EventPage, EventRead, EventsQuery
from app.services import events

router = APIRouter(prefix="/jobs/{job_id}/events", tags=["jobs"])


@router.get("", summary="List a job's events", responses=error_responses(404, 422))
def list_events(job_id: JobId, query: Annotated[EventsQuery, Query()], settings: SettingsDep) -> EventPage:
    """Oldest first. To follow a job, ask again with `after` set to the last sequence that you have."""
    page = events.list_after(settings, job_id, after=query.after, limit=query.limit)
    data = [
        EventRead(sequence=event.sequence, type=event.type, created_at=event.created_at, payload=event.payload)
        for event in page.events
    ]
    return EventPage(data=data, has_more=page.has_more, next=str(data[-1].sequence) if page.has_more else None)
