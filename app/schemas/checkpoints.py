"""The shape of a job's checkpoints."""

from datetime import datetime

from pydantic import Field

from app.schemas.base import Page, ResponseModel


class CheckpointRead(ResponseModel):
    step: int = Field(
        description="Optimiser steps of the whole job so far, or one more than the last checkpoint's: it always rises."
    )
    arm: str | None = Field(
        description="What was being trained: `teacher_tuning`, `student`, `baseline.kd`, ...; null between two, and "
        "while the teacher answers the rows.",
        examples=["student"],
    )
    round: int | None = Field(description="The round that had just ended; null within a round.")
    validation_accuracy: float | None = Field(description="Of the student at the end of that round.")
    is_best: bool = Field(description="The best student so far: kept beside the newest two.")
    size_bytes: int
    created_at: datetime


class CheckpointPage(Page[CheckpointRead]):
    pass
