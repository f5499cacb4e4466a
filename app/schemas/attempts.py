"""The shape of a job's attempts."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from app.schemas.base import Page, ResponseModel

AttemptOutcomeName = Literal["running", "succeeded", "failed", "cancelled", "paused", "handed_back", "lost"]


class AttemptRead(ResponseModel):
    number: int = Field(description="1, 2, 3, ... per job.")
    worker_name: str | None = Field(description="In whose log to look.")
    outcome: AttemptOutcomeName = Field(
        description="`handed_back`: the worker was told to stop and gave the job back, or could not begin, as "
        "`error_code` then says; `lost`: the worker stopped answering. The next attempt goes on from the last "
        "checkpoint."
    )
    error_code: str | None
    error_message: str | None
    started_at: datetime
    finished_at: datetime | None


class AttemptPage(Page[AttemptRead]):
    pass
