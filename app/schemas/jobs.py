"""What is answered of jobs, and how their list is asked for."""

from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict, Field

from app.schemas.base import Page, PageQuery, ResponseModel, ShortText, Text
from app.schemas.job_bodies import TeacherTuning, TrainingConfig
from app.schemas.methods.sage import Sage

JobStatusName = Literal["queued", "running", "pausing", "paused", "cancelling", "cancelled", "succeeded", "failed"]


class JobsQuery(PageQuery):
    status: list[JobStatusName] = Field(
        default_factory=list, max_length=8, description="Only these; repeat the parameter for several."
    )
    teacher: ShortText | None = Field(default=None, description="Only jobs with the teacher of this id.")
    dataset: ShortText | None = Field(default=None, description="Only jobs with the dataset of this id.")
    metadata: list[Text] = Field(
        default_factory=list,
        max_length=16,
        description="Only jobs with this label, as `key:value`, or as `key` for any value; repeat the "
        "parameter to ask for several at once.",
    )


class JobError(ResponseModel):
    code: str
    message: str


class JobWarning(ResponseModel):
    code: str
    message: str


class JobLinks(ResponseModel):
    self: str
    events: str
    metrics: str
    artifacts: str
    attempts: str
    checkpoints: str


class JobRead(ResponseModel):
    """A job, with every parameter that it runs under."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "job_01jd3vkz8x0000000000000000",
                "status": "running",
                "terminal": False,
                "phase": "training",
                "round": 2,
                "rounds": 5,
                "progress": 0.55,
                "eta_seconds": 61.5,
                "attempt": 1,
                "metrics": {"loss": 0.38, "student/train_loss": 0.41, "student/validation_accuracy": 0.93},
                "warnings": [],
                "error": None,
                "teacher": "tch_demo",
                "dataset": "dts_demo",
                "student": {"layers": 3, "hidden_size": "same", "init": "teacher_layers", "word_vectors": "trained"},
                "method": Sage().model_dump(),
                "combine": [],
                "training": TrainingConfig(learning_rate=2e-4).model_dump(),
                "teacher_tuning": TeacherTuning(learning_rate=1e-4).model_dump(),
                "baselines": [{"type": "fine_tune"}],
                "priority": 0,
                "time_limit_seconds": None,
                "metadata": {"team": "search"},
                "created_at": "2026-01-05T12:00:00Z",
                "started_at": "2026-01-05T12:00:01Z",
                "finished_at": None,
                "result": None,
                "links": {
                    "self": "/jobs/job_01jd3vkz8x0000000000000000",
                    "events": "/jobs/job_01jd3vkz8x0000000000000000/events",
                    "metrics": "/jobs/job_01jd3vkz8x0000000000000000/metrics",
                    "artifacts": "/jobs/job_01jd3vkz8x0000000000000000/artifacts",
                    "attempts": "/jobs/job_01jd3vkz8x0000000000000000/attempts",
                    "checkpoints": "/jobs/job_01jd3vkz8x0000000000000000/checkpoints",
                },
            }
        }
    )

    id: str
    status: JobStatusName
    terminal: bool = Field(
        description="True once the status will not change by itself any more: stop polling. Only "
        "`POST /jobs/{job_id}/retry` leads out of it."
    )
    phase: str | None = Field(description="What a running job is doing now.", examples=["training"])
    round: int | None = Field(
        description="The round that is running, from 1: an epoch, or in a method of rounds the warm-up or one of "
        "them. Null in a phase without rounds."
    )
    rounds: int | None = Field(description="How many there are in this phase, the warm-up among them.")
    progress: float = Field(description="Share of the whole job that is done, 0 to 1.")
    eta_seconds: float | None = Field(description="Estimated time left, in seconds.")
    attempt: int = Field(
        description="How often a worker has taken the job; `GET /jobs/{job_id}/attempts` says how each ended."
    )
    metrics: dict[str, Any] = Field(
        description="The last value of each series that `GET /jobs/{job_id}/metrics` has, and `loss`, that of the "
        "newest steps."
    )
    warnings: list[JobWarning] = Field(
        description="What was noticed and put up with since the run began, whichever worker had it; each code once. "
        "`inexact_resume` is among them where the run last went on so that it will not end with the same bits as an "
        "undisturbed one."
    )
    error: JobError | None = Field(description="Why a failed job failed.")
    teacher: str
    dataset: str
    student: dict[str, Any]
    method: dict[str, Any]
    combine: list[dict[str, Any]]
    training: dict[str, Any]
    teacher_tuning: dict[str, Any] | None
    baselines: list[dict[str, Any]]
    priority: int
    time_limit_seconds: float | None
    metadata: dict[str, str]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    result: dict[str, Any] | None = Field(
        description="Teacher, student and baselines side by side, once the job has succeeded."
    )
    links: JobLinks


class JobPage(Page[JobRead]):
    pass
