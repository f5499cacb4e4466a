"""The shape of a job's events."""

from datetime import datetime
from typing import Any

from pydantic import Field

from app.schemas.base import Page, QueryInt, QueryModel, ResponseModel


class EventRead(ResponseModel):
    sequence: int = Field(description="Position in the job's events, from 1.")
    type: str = Field(examples=["round"])
    created_at: datetime
    payload: dict[str, Any]


class EventPage(Page[EventRead]):
    pass


class EventsQuery(QueryModel):
    after: QueryInt = Field(default=0, ge=0, le=2**31 - 1, description="Sequence of the last event that you have.")
    limit: QueryInt = Field(default=100, ge=1, le=1000, description="Events on the page.")
