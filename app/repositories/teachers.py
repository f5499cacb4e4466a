"""Every query on teachers.

Services call create, get, lock, list_page and remove. Workers call mark_ready and mark_failed with their
Claim: both raise LeaseLost, having written nothing, once the teacher does not carry the claim's run token.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.orm import Session

from app.db.models import Teacher
from app.db.session import after_commit
from app.db.types import db_now
from app.domain.files import StoredFile
from app.domain.imports import sources
from app.domain.leases import Claim
from app.domain.teachers import TeacherStatus
from app.prometheus import count_end
from app.repositories import cleanups
from app.repositories.fence import held_by, hold, lost
from app.repositories.pages import Page, fetch_page
from app.storage import keys


def create(session: Session, *, teacher_id: str, name: str | None, source: dict[str, Any]) -> Teacher:
    """Insert a pending teacher."""
    teacher = Teacher(id=teacher_id, status=TeacherStatus.PENDING, name=name, source=source)
    session.add(teacher)
    session.flush()
    return teacher


def get(session: Session, teacher_id: str) -> Teacher | None:
    return session.get(Teacher, teacher_id, populate_existing=True)


def lock(session: Session, teacher_id: str) -> Teacher | None:
    """The row, locked until the transaction ends: creating a job and deleting its teacher cannot cross."""
    return session.get(Teacher, teacher_id, populate_existing=True, with_for_update=True)


def list_page(
    session: Session, *, limit: int = 20, after: str | None = None, statuses: Sequence[str] | None = None
) -> Page[Teacher]:
    """A page of teachers, newest first."""
    query = select(Teacher)
    if statuses:
        query = query.where(Teacher.status.in_(statuses))
    return fetch_page(session, query, Teacher, limit=limit, after=after)


def remove(session: Session, teacher_id: str) -> bool:
    """Delete a row that the caller has locked and found unused; the sweep removes its objects."""
    removed = session.scalar(
        delete(Teacher)
        .where(Teacher.id == teacher_id)
        .returning(Teacher.id)
        .execution_options(synchronize_session=False)
    )
    if removed is None:
        return False
    cleanups.schedule(session, keys.teacher_root(teacher_id))
    return True


def mark_ready(
    session: Session,
    claim: Claim,
    *,
    family: str,
    layers: int,
    hidden_size: int,
    num_labels: int | None,
    labels: Sequence[str] | None,
    parameters: int,
    max_positions: int,
    sha256: str,
    size_bytes: int,
    object_prefix: str,
    files: Sequence[StoredFile],
    warnings: Sequence[Any] = (),
) -> None:
    """Record what the checks found and where the teacher's files lie."""
    hold(session, claim)
    values = {
        "family": family,
        "layers": layers,
        "hidden_size": hidden_size,
        "num_labels": num_labels,
        "labels": None if labels is None else list(labels),
        "parameters": parameters,
        "max_positions": max_positions,
        "sha256": sha256,
        "size_bytes": size_bytes,
        "object_prefix": object_prefix,
        "files": list(files),
        "warnings": list(warnings),
    }
    if not switch_status(session, TeacherStatus.READY, held_by(claim), values=values):
        raise lost(claim)


def mark_failed(session: Session, claim: Claim, *, code: str, message: str) -> None:
    """Record why the teacher cannot be used; the message names the place and the way out."""
    hold(session, claim)
    values = {"error_code": code, "error_message": message}
    if not switch_status(session, TeacherStatus.FAILED, held_by(claim), values=values):
        raise lost(claim)


def switch_status(
    session: Session, new: TeacherStatus, *where: ColumnElement[bool], values: Mapping[str, Any] | None = None
) -> Sequence[str]:
    """The only function that changes a teacher's status, by one conditional UPDATE. Returns the ids changed."""
    changes = {"status": new, "run_token": None, "lease_expires_at": None, "finished_at": db_now()}
    changed = session.scalars(
        update(Teacher)
        .where(Teacher.status.in_(sorted(sources(new))), *where)
        .values({**changes, **(values or {})})
        .returning(Teacher.id)
        .execution_options(synchronize_session=False)
    ).all()
    for teacher_id in changed:
        cleanups.schedule(session, keys.teacher_root(teacher_id))
        after_commit(session, partial(count_end, "teacher", new, (values or {}).get("error_code")))
    return changed
