"""Queries on teachers; what they have in common with datasets is in imports.py."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import Teacher
from app.domain.files import StoredFile
from app.domain.imports import ImportStatus
from app.domain.leases import Claim
from app.repositories import imports
from app.repositories.pages import Page, fetch_page


def create(session: Session, *, teacher_id: str, name: str | None, source: dict[str, Any]) -> Teacher:
    """Insert a pending teacher."""
    teacher = Teacher(id=teacher_id, status=ImportStatus.PENDING, name=name, source=source)
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
) -> None:
    """Record what the checks found and where the teacher's files lie."""
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
    }
    imports.mark_ready(session, claim, values)
