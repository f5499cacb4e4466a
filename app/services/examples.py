"""Ids and paths for the examples of the documentation page: ones that exist here and now, so that they work."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from app.db.models import Dataset, Job, Teacher
from app.db.session import read_session
from app.domain.ids import DEMO_DATASET_ID, DEMO_TEACHER_ID
from app.domain.imports import ImportStatus
from app.domain.jobs import RETRYABLE, JobStatus
from app.repositories import datasets, jobs, teachers
from app.settings import Settings

Imported = TypeVar("Imported", Dataset, Teacher)


@dataclass(frozen=True)
class Examples:
    """None where there is nothing to name."""

    job_id: str | None = None
    # Of a job that each of these works on now, by the path's last word.
    control_job_ids: Mapping[str, str | None] = field(default_factory=dict)
    dataset_id: str | None = None
    teacher_id: str | None = None
    # Ready ones, of which a job can be made.
    ready_dataset: Dataset | None = None
    ready_teacher: Teacher | None = None
    teacher_folder: Path | None = None


# The statuses of jobs that can be paused, resumed, tried again.
_CONTROLLABLE = {
    "pause": frozenset({JobStatus.QUEUED, JobStatus.RUNNING}),
    "resume": frozenset({JobStatus.PAUSED}),
    "retry": RETRYABLE,
}


def find_examples(settings: Settings) -> Examples:
    """A job (one that succeeded, if any), the demo's dataset and teacher or the newest ones (that are ready, if any),
    an allowed folder."""
    try:
        with read_session(settings) as session:
            ready = [ImportStatus.READY]
            dataset = _demo_or(
                datasets.get(session, DEMO_DATASET_ID), datasets.list_page(session, limit=1, statuses=ready).rows
            )
            teacher = _demo_or(
                teachers.get(session, DEMO_TEACHER_ID), teachers.list_page(session, limit=1, statuses=ready).rows
            )
            return Examples(
                job_id=_first(jobs.list_page(session, limit=1, statuses=["succeeded"]).rows)
                or _first(jobs.list_page(session, limit=1).rows),
                control_job_ids={
                    verb: _first(jobs.list_page(session, limit=1, statuses=sorted(statuses)).rows)
                    for verb, statuses in _CONTROLLABLE.items()
                },
                dataset_id=dataset.id if dataset else _first(datasets.list_page(session, limit=1).rows),
                teacher_id=teacher.id if teacher else _first(teachers.list_page(session, limit=1).rows),
                ready_dataset=dataset,
                ready_teacher=teacher,
                teacher_folder=_teacher_folder(settings),
            )
    except SQLAlchemyError:
        # The page explains the API also while the database is down.
        return Examples()


def _first(rows: Sequence[Job | Dataset | Teacher]) -> str | None:
    return rows[0].id if rows else None


def _demo_or(demo: Imported | None, ready: Sequence[Imported]) -> Imported | None:
    """The demo's row if it is ready, else the first of these, which are."""
    if demo is not None and demo.status == ImportStatus.READY:
        return demo
    return ready[0] if ready else None


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
