"""Register, read and delete teachers. A worker fetches the files and judges them."""

import stat
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.db.models import Teacher
from app.db.session import read_session, write_session
from app.domain.folders import why_closed
from app.domain.ids import new_id
from app.domain.jobs import JobStatus
from app.errors import Conflict, InvalidRequest, JobNotFound, TeacherNotFound, some_of
from app.queue import wake
from app.repositories import imports, jobs, teachers
from app.repositories.pages import Page
from app.services import receiving
from app.services.teacher_form import FILE, TeacherForm, receive_teacher_form
from app.settings import Settings
from app.storage import keys
from app.storage.store import ObjectStore


def register(
    settings: Settings, *, source: Mapping[str, Any], name: str | None = None, teacher_id: str | None = None
) -> Teacher:
    """Register a teacher to be fetched and checked. With an id that exists, return what is there.

    `source` is {"type": "hub", "repo", "revision"}, {"type": "folder", "path"} or {"type": "job", "job"}.
    """
    if teacher_id is not None:
        with read_session(settings) as session:
            existing = teachers.get(session, teacher_id)
        if existing is not None:
            return existing
    if source["type"] == "folder":
        _check_folder(settings, str(source["path"]))
    with write_session(settings) as session:
        if source["type"] == "job":
            _check_job(session, str(source["job"]))
        teacher = teachers.create(
            session,
            teacher_id=teacher_id or new_id("teacher"),
            name=name or _name_of(source),
            source=dict(source),
        )
    wake(settings)
    return teacher


async def receive(settings: Settings, store: ObjectStore, *, content_type: str, body: AsyncIterator[bytes]) -> Teacher:
    """Receive the form of POST /teachers/upload and register what it brought, or leave nothing behind.

    The source is {"type": "upload", "files"}, as StoredFile, which lie under `keys.teacher_uploads` until a worker
    has looked at them.
    """
    teacher_id = new_id("teacher")
    return await receiving.receive(
        settings,
        store,
        root=keys.teacher_root(teacher_id),
        content_type=content_type,
        body=body,
        example_part=FILE,
        read_form=lambda parts: receive_teacher_form(
            parts, store, teacher_id=teacher_id, max_bytes=settings.max_upload_bytes
        ),
        create=partial(_create_uploaded, settings, teacher_id),
    )


def get(settings: Settings, teacher_id: str) -> Teacher:
    with read_session(settings) as session:
        teacher = teachers.get(session, teacher_id)
    if teacher is None:
        raise TeacherNotFound(teacher_id, param="teacher_id")
    return teacher


def list_page(settings: Settings, *, limit: int, after: str | None, statuses: Sequence[str]) -> Page[Teacher]:
    with read_session(settings) as session:
        return teachers.list_page(session, limit=limit, after=after, statuses=statuses)


def delete(settings: Settings, teacher_id: str) -> None:
    """Delete a teacher that no unfinished job uses; its objects go with the next sweep."""
    with write_session(settings) as session:
        if teachers.lock(session, teacher_id) is None:
            raise TeacherNotFound(teacher_id, param="teacher_id")
        users = jobs.live_using(session, teacher_id=teacher_id)
        if users:
            raise Conflict(
                f"Teacher {teacher_id!r} is used by {some_of(users)}, not finished yet. Cancel "
                f"them or wait until they end; GET /jobs?teacher={teacher_id} lists all of its jobs.",
                code="teacher_in_use",
                param="teacher_id",
            )
        imports.remove(session, "teacher", teacher_id)


def _create_uploaded(settings: Settings, teacher_id: str, form: TeacherForm) -> Teacher:
    source = {"type": "upload", "files": list(form.files.values())}
    with write_session(settings) as session:
        return teachers.create(session, teacher_id=teacher_id, name=form.name or "uploaded", source=source)


def _check_folder(settings: Settings, path: str) -> None:
    folder = Path(path)
    if not folder.is_absolute():
        raise InvalidRequest(
            f"source.path is {path!r}; send an absolute path.", code="folder_not_absolute", param="source.path"
        )
    allowed = [root for root in map(_resolved, settings.teacher_dirs) if root is not None]
    # Links are followed first: one that stands inside an allowed folder may lead anywhere.
    resolved = _resolved(folder)
    if resolved is None or not any(resolved == root or root in resolved.parents for root in allowed):
        named = ", ".join(str(root) for root in settings.teacher_dirs) or "none"
        raise InvalidRequest(
            f"source.path is {path!r}, which is not inside an allowed folder (STILLHOUSE_TEACHER_DIRS: {named}). "
            "Move the teacher there, have its folder allowed, or send its files to POST /teachers/upload.",
            code="folder_not_allowed",
            param="source.path",
        )
    # In a cluster the folder need only exist where the workers are.
    if settings.embedded and (closed := why_closed(resolved)):
        raise InvalidRequest(f"source.path is {path!r}. {closed}", code="folder_not_readable", param="source.path")
    if settings.embedded and (problem := _why_no_folder(resolved)):
        raise InvalidRequest(f"source.path is {path!r}, which {problem}.", code="folder_not_found", param="source.path")


def _resolved(path: Path) -> Path | None:
    """The path with its links followed; None where they lead in a circle."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return None


def _why_no_folder(path: Path) -> str | None:
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            return None
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        # A name that is too long.
        return f"cannot be looked at on this machine: {error.strerror}"
    return "is not a folder on this machine. Check its spelling"


def _check_job(session: Session, job_id: str) -> None:
    # Locked until the commit: its student cannot be deleted while a teacher is made of it.
    job = jobs.lock(session, job_id)
    if job is None:
        raise JobNotFound(job_id, param="source.job")
    if job.status != JobStatus.SUCCEEDED:
        raise Conflict(
            f"Job {job_id!r} is {job.status}, so it has no student to teach. Name a job that has succeeded.",
            code="job_not_succeeded",
            param="source.job",
        )


def _name_of(source: Mapping[str, Any]) -> str:
    if source["type"] == "hub":
        return str(source["repo"])
    if source["type"] == "folder":
        return Path(str(source["path"])).name
    return f"student of {source['job']}"
