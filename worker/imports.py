"""Datasets and teachers: fetched, checked and stored under a claim. The checks are in worker/preparation."""

from pathlib import Path
from typing import Any

import structlog

from app.domain.files import StoredFile
from app.domain.jobs import JobStatus
from app.errors import LeaseLost
from app.repositories import artifacts, datasets, jobs, teachers
from app.storage import keys
from worker.files import describe_files
from worker.preparation.datasets import UNLABELLED, prepare_dataset
from worker.preparation.errors import PreparationFailed
from worker.preparation.folder_source import copy_folder
from worker.preparation.hub import download_teacher
from worker.preparation.lines import Upload
from worker.preparation.teacher_files import choose_files
from worker.preparation.teachers import describe_teacher
from worker.work import DamagedObject, Work

# What a compressed upload may unpack to, as a multiple of what may be uploaded.
UNPACKED_RATIO = 8

log = structlog.get_logger(__name__)


def run_import(work: Work) -> None:
    """Prepare the claimed dataset or teacher; raises PreparationFailed with what is wrong with it, LeaseLost where it
    was deleted."""
    if work.claim.kind == "dataset":
        run_dataset(work)
    else:
        run_teacher(work)


def run_dataset(work: Work) -> None:
    """Check the uploads and store the prepared folder."""
    claim = work.claim
    row = work.read(lambda session: datasets.get(session, claim.id))
    if row is None:
        raise LeaseLost(claim.kind, claim.id, claim.run_token)
    uploads = []
    for upload in row.uploads:
        path = work.folder / f"upload-{upload['split']}"
        try:
            work.download(upload["object_key"], path, sha256=upload["sha256"])
        except DamagedObject as error:
            raise PreparationFailed(
                "dataset_upload_lost", f"{upload['filename']}: {error}. Upload it again."
            ) from error
        uploads.append(Upload(upload["split"], upload["filename"], path))
    folder = work.folder / "prepared"
    prepared = prepare_dataset(
        uploads,
        folder,
        text_column=row.text_column,
        text_pair_column=row.text_pair_column,
        label_column=row.label_column,
        max_bytes=UNPACKED_RATIO * work.settings.max_upload_bytes,
        tick=work.keeper.check,
    )
    rows = {split: count for split, count in prepared.rows.items() if split != UNLABELLED}
    prefix = keys.dataset_prepared(claim.id, claim.run_token)
    files = describe_files(folder)
    work.upload_folder(folder, prefix, files)
    work.conclude(
        lambda session: datasets.mark_ready(
            session,
            claim,
            text_column=prepared.columns.text,
            text_pair_column=prepared.columns.text_pair,
            label_column=prepared.columns.label,
            rows=rows,
            unlabelled_rows=prepared.rows.get(UNLABELLED),
            labels=prepared.labels,
            is_validation_made=prepared.validation_made,
            sha256=prepared.sha256,
            object_prefix=prefix,
            files=files,
            warnings=prepared.warnings,
        )
    )


def run_teacher(work: Work) -> None:
    """Bring the teacher's files here, check them and store them."""
    claim = work.claim
    row = work.read(lambda session: teachers.get(session, claim.id))
    if row is None:
        raise LeaseLost(claim.kind, claim.id, claim.run_token)
    folder = work.folder / "teacher"
    _bring(work, row.source, folder)
    prepared = describe_teacher(folder)
    summary = prepared.summary
    prefix = keys.teacher_files(claim.id, claim.run_token)
    work.upload_folder(folder, prefix, prepared.files)
    work.conclude(
        lambda session: teachers.mark_ready(
            session,
            claim,
            family=summary.family,
            layers=summary.layers,
            hidden_size=summary.hidden_size,
            num_labels=summary.num_labels,
            labels=summary.labels,
            parameters=summary.parameters,
            max_positions=summary.max_positions,
            sha256=prepared.sha256,
            size_bytes=prepared.size_bytes,
            object_prefix=prefix,
            files=prepared.files,
        )
    )


def _bring(work: Work, source: dict[str, Any], folder: Path) -> None:
    settings = work.settings
    if source["type"] == "hub":
        token = settings.hub_token.get_secret_value() if settings.hub_token else None
        commit = download_teacher(
            source["repo"],
            source["revision"],
            folder,
            endpoint=settings.hub_endpoint,
            token=token,
            tick=work.keeper.check,
        )
        log.info("teacher_downloaded", repo=source["repo"], revision=source["revision"], commit=commit)
    elif source["type"] == "folder":
        copy_folder(Path(source["path"]), folder, allowed=settings.teacher_dirs, tick=work.keeper.check)
    elif source["type"] == "upload":
        _fetch_upload(work, source["files"], folder)
    else:
        _fetch_student(work, source["job"], folder)


def _fetch_upload(work: Work, files: list[StoredFile], folder: Path) -> None:
    """The files that a request brought, as far as they are a teacher's."""
    hashes = {file["path"]: file["sha256"] for file in files}
    for name in choose_files(hashes, place="The upload"):
        try:
            work.download(keys.teacher_upload(work.claim.id, name), folder / name, sha256=hashes[name])
        except DamagedObject as error:
            raise PreparationFailed("teacher_upload_lost", f"{name}: {error}. Upload it again.") from error


def _fetch_student(work: Work, job_id: str, folder: Path) -> None:
    """The student of a finished job, as the teacher of the next."""
    job = work.read(lambda session: jobs.get(session, job_id))
    if job is None or job.status != JobStatus.SUCCEEDED:
        state = "does not exist" if job is None else f"is {job.status}"
        raise PreparationFailed(
            "teacher_job_not_finished",
            f"Job {job_id} {state}; only the student of a job that succeeded can be a teacher.",
        )
    rows = {row.name: row for row in work.read(lambda session: artifacts.list_for_job(session, job_id))}
    for name in choose_files(rows, place=f"The student of {job_id}"):
        try:
            work.download(rows[name].object_key, folder / name, sha256=rows[name].sha256)
        except DamagedObject as error:
            raise PreparationFailed(
                "teacher_files_missing", f"The student of {job_id} cannot be read: {error}. Run the job again."
            ) from error
