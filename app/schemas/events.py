"""The shape of a job's events."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from app.schemas.base import Page, QueryInt, QueryModel, ResponseModel
from app.schemas.jobs import JobStatusName

EventSequence = Annotated[QueryInt, Field(ge=0, le=2**31 - 1)]


class EventRead(ResponseModel):
    sequence: int = Field(description="Position in the job's events, from 1.")
    type: str = Field(examples=["round"])
    created_at: datetime
    payload: dict[str, Any]


class EventPage(Page[EventRead]):
    pass


class StreamEnd(ResponseModel):
    """The data of the stream's last event, `end`."""

    reason: Literal["finished", "deleted"]
    status: JobStatusName | None = Field(description="The job's last status; null when it was deleted.")


class EventsQuery(QueryModel):
    after: EventSequence = Field(default=0, description="Sequence of the last event that you have.")
    limit: QueryInt = Field(default=100, ge=1, le=1000, description="Events on the page; a stream has no pages.")


def read_event(row: Any) -> EventRead:
    """The shape of an event's row."""
    return EventRead(sequence=row.sequence, type=row.type, created_at=row.created_at, payload=row.payload)
