"""Everything a run reads, brought into its folder: teacher, dataset, newest checkpoint, cache entries, job.json."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from app.db.models import Dataset, Job, Teacher
from app.domain import older_jobs
from app.domain.imports import ImportStatus
from app.errors import LeaseLost
from app.repositories import checkpoints, datasets, jobs, teachers
from app.settings import Settings
from worker import cache_store
from worker.distill.cache_keys import wanted
from worker.distill.config import FORMAT_VERSION
from worker.distill.run_folder import CACHE, CHECKPOINTS, JOB
from worker.failures import InputMissing
from worker.machine import count_cores
from worker.uploads import KEEP_CHECKPOINTS
from worker.work import DamagedObject, Work

log = structlog.get_logger(__name__)


def materialise(work: Work) -> dict[str, Any]:
    """Fill the run folder; returns the parsed job.json. Raises InputMissing, LeaseLost where the job was deleted, or
    InvalidJob from the engine's side."""
    job, teacher, dataset = _load_rows(work)
    _fetch(work, teacher, f"teacher {teacher.id}", work.folder / "teacher")
    _fetch(work, dataset, f"dataset {dataset.id}", work.folder / "dataset")
    spec = describe_job(job, teacher, dataset, work.settings)
    (work.folder / JOB).write_text(json.dumps(spec, indent=1), encoding="utf-8")
    step = _fetch_checkpoint(work)
    cached = cache_store.fetch_entries(work, wanted(spec), work.folder / CACHE)
    log.info("inputs_ready", checkpoint_step=step, cached=cached)
    return spec


def describe_job(job: Job, teacher: Teacher, dataset: Dataset, settings: Settings) -> dict[str, Any]:
    """The job.json of a job: all that the engine is told."""
    return {
        "format_version": FORMAT_VERSION,
        "job_id": job.id,
        "teacher": {"path": "teacher", "sha256": teacher.sha256},
        "dataset": {"path": "dataset", "sha256": dataset.sha256},
        "student": older_jobs.STUDENT | job.student,
        "method": _complete(job.method),
        "combine": [_complete(method) for method in job.combine],
        "baselines": [_complete(baseline) for baseline in job.baselines],
        "training": job.training,
        "teacher_tuning": job.teacher_tuning,
        "threads": settings.engine_threads or count_cores(),
        "checkpoint": {"every_seconds": settings.checkpoint_seconds, "keep": KEEP_CHECKPOINTS},
    }


def _complete(method: dict[str, Any]) -> dict[str, Any]:
    return older_jobs.METHODS.get(method["type"], {}) | method


def _load_rows(work: Work) -> tuple[Job, Teacher, Dataset]:
    job = work.read(lambda session: jobs.get(session, work.claim.id))
    if job is None:
        raise LeaseLost(work.claim.kind, work.claim.id, work.claim.run_token)
    teacher = work.read(lambda session: teachers.get(session, job.teacher_id))
    if teacher is None or teacher.status != ImportStatus.READY:
        raise InputMissing(_not_ready("teacher", job.teacher_id, teacher))
    dataset = work.read(lambda session: datasets.get(session, job.dataset_id))
    if dataset is None or dataset.status != ImportStatus.READY:
        raise InputMissing(_not_ready("dataset", job.dataset_id, dataset))
    return job, teacher, dataset


def _fetch(work: Work, row: Teacher | Dataset, what: str, folder: Path) -> None:
    try:
        work.download_folder(row.object_prefix or "", row.files or [], folder)
    except DamagedObject as error:
        raise InputMissing(
            f"The files of {what} cannot be used: {error}. Add it again and post the job with the new id."
        ) from error


def _fetch_checkpoint(work: Work) -> int | None:
    """The newest checkpoint that is whole; those that are not are forgotten. Returns its step."""
    for row in work.read(lambda session: checkpoints.list_for_job(session, work.claim.id)):
        # Under another name until it is whole: the engine takes what has the right name.
        incomplete = work.folder / "checkpoint.partial"
        try:
            work.download_folder(row.object_prefix, row.files, incomplete)
        except DamagedObject as error:
            log.warning("checkpoint_forgotten", step=row.step, error=str(error))
            work.write(partial(checkpoints.drop, claim=work.claim, step=row.step))
            # The older one may lack files that this one has, and must not get them.
            if incomplete.exists():
                shutil.rmtree(incomplete)
            continue
        target = work.folder / CHECKPOINTS / f"{row.step:08d}"
        target.parent.mkdir(exist_ok=True)
        incomplete.rename(target)
        return row.step
    return None


def _not_ready(kind: str, row_id: str, row: Teacher | Dataset | None) -> str:
    state = "does not exist any more" if row is None else f"is {row.status}"
    return f"The {kind} {row_id} {state}. Add it again and post the job with the new id."
