"""Queries on datasets; what they have in common with teachers is in imports.py."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.models import Dataset
from app.domain.files import StoredFile
from app.domain.imports import ImportStatus
from app.domain.leases import Claim
from app.repositories import imports
from app.repositories.pages import Page, fetch_page


def create(
    session: Session,
    *,
    dataset_id: str,
    name: str | None,
    uploads: Sequence[dict[str, Any]],
    size_bytes: int,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
) -> Dataset:
    """Insert a pending dataset. Each upload: {"split", "filename", "object_key", "size_bytes", "sha256"}."""
    dataset = Dataset(
        id=dataset_id,
        status=ImportStatus.PENDING,
        name=name,
        uploads=list(uploads),
        size_bytes=size_bytes,
        text_column=text_column,
        text_pair_column=text_pair_column,
        label_column=label_column,
    )
    session.add(dataset)
    session.flush()
    return dataset


def get(session: Session, dataset_id: str) -> Dataset | None:
    return session.get(Dataset, dataset_id, populate_existing=True)


def lock(session: Session, dataset_id: str) -> Dataset | None:
    """The row, locked until the transaction ends: creating a job and deleting its dataset cannot cross."""
    return session.get(Dataset, dataset_id, populate_existing=True, with_for_update=True)


def list_page(
    session: Session, *, limit: int = 20, after: str | None = None, statuses: Sequence[str] | None = None
) -> Page[Dataset]:
    """A page of datasets, newest first."""
    query = select(Dataset)
    if statuses:
        query = query.where(Dataset.status.in_(statuses))
    return fetch_page(session, query, Dataset, limit=limit, after=after)


def mark_ready(
    session: Session,
    claim: Claim,
    *,
    text_column: str | None,
    text_pair_column: str | None,
    label_column: str | None,
    rows: Mapping[str, int],
    unlabelled_rows: int | None = None,
    labels: Sequence[str],
    is_validation_made: bool,
    sha256: str,
    object_prefix: str,
    files: Sequence[StoredFile],
    warnings: Sequence[Any] = (),
) -> None:
    """Record what the checks found and where the prepared files lie; `rows` are by split, the labelled ones."""
    values = {
        "text_column": text_column,
        "text_pair_column": text_pair_column,
        "label_column": label_column,
        "rows": dict(rows),
        "unlabelled_rows": unlabelled_rows,
        "labels": list(labels),
        "is_validation_made": is_validation_made,
        "sha256": sha256,
        "object_prefix": object_prefix,
        "files": list(files),
        "warnings": list(warnings),
    }
    imports.mark_ready(session, claim, values)
