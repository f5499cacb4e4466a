"""Ids and paths for the examples of the documentation page: ones that exist here and now, so that they work."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from app.db.models import Dataset, Job, Teacher
from app.db.session import read_session
from app.domain.ids import DEMO_DATASET_ID, DEMO_TEACHER_ID
from app.domain.jobs import RETRYABLE, JobStatus
from app.repositories import datasets, jobs, teachers
from app.settings import Settings


@dataclass(frozen=True)
class Examples:
    """None where there is nothing to name."""

    job_id: str | None = None
    # Of a job that each of these works on now, by the path's last word.
    control_job_ids: Mapping[str, str | None] = field(default_factory=dict)
    dataset_id: str | None = None
    teacher_id: str | None = None
    teacher_folder: Path | None = None


# The statuses of jobs that can be paused, resumed, tried again.
_CONTROLLABLE = {
    "pause": frozenset({JobStatus.QUEUED, JobStatus.RUNNING}),
    "resume": frozenset({JobStatus.PAUSED}),
    "retry": RETRYABLE,
}


def find_examples(settings: Settings) -> Examples:
    """A job (one that succeeded, if any), the demo's dataset and teacher or the newest ones, an allowed folder."""
    try:
        with read_session(settings) as session:
            dataset = datasets.get(session, DEMO_DATASET_ID)
            teacher = teachers.get(session, DEMO_TEACHER_ID)
            return Examples(
                job_id=_first(jobs.list_page(session, limit=1, statuses=["succeeded"]).rows)
                or _first(jobs.list_page(session, limit=1).rows),
                control_job_ids={
                    verb: _first(jobs.list_page(session, limit=1, statuses=sorted(statuses)).rows)
                    for verb, statuses in _CONTROLLABLE.items()
                },
                dataset_id=dataset.id if dataset else _first(datasets.list_page(session, limit=1).rows),
                teacher_id=teacher.id if teacher else _first(teachers.list_page(session, limit=1).rows),
                teacher_folder=_teacher_folder(settings),
            )
    except SQLAlchemyError:
        # The page explains the API also while the database is down.
        return Examples()


def _first(rows: Sequence[Job | Dataset | Teacher]) -> str | None:
    return rows[0].id if rows else None


def _teacher_folder(settings: Settings) -> Path | None:
    for folder in settings.teacher_dirs:
        for candidate in (folder, *_subfolders(folder)):
            # Not Path.is_file, which raises where one may not look, as into lost+found.
            if os.path.isfile(candidate / "config.json"):
                return candidate
    return None


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
