"""Every query on datasets.

Services call create, get, lock, list_page and remove. Workers call mark_ready and mark_failed with their
Claim: both raise LeaseLost, having written nothing, once the dataset does not carry the claim's run token.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.orm import Session

from app.db.models import Dataset
from app.db.session import after_commit
from app.db.types import db_now
from app.domain.datasets import DatasetStatus
from app.domain.files import StoredFile
from app.domain.imports import sources
from app.domain.leases import Claim
from app.prometheus import count_end
from app.repositories import cleanups
from app.repositories.fence import held_by, hold, lost
from app.repositories.pages import Page, fetch_page
from app.storage import keys


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
        status=DatasetStatus.PENDING,
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


def remove(session: Session, dataset_id: str) -> bool:
    """Delete a row that the caller has locked and found unused; the sweep removes its objects."""
    removed = session.scalar(
        delete(Dataset)
        .where(Dataset.id == dataset_id)
        .returning(Dataset.id)
        .execution_options(synchronize_session=False)
    )
    if removed is None:
        return False
    cleanups.schedule(session, keys.dataset_root(dataset_id))
    return True


def mark_ready(
    session: Session,
    claim: Claim,
    *,
    text_column: str | None,
    text_pair_column: str | None,
    label_column: str | None,
    rows: Mapping[str, int],
    labels: Sequence[str],
    is_validation_made: bool,
    sha256: str,
    object_prefix: str,
    files: Sequence[StoredFile],
    warnings: Sequence[Any] = (),
) -> None:
    """Record what the checks found and where the prepared files lie."""
    hold(session, claim)
    values = {
        "text_column": text_column,
        "text_pair_column": text_pair_column,
        "label_column": label_column,
        "rows": dict(rows),
        "labels": list(labels),
        "is_validation_made": is_validation_made,
        "sha256": sha256,
        "object_prefix": object_prefix,
        "files": list(files),
        "warnings": list(warnings),
    }
    if not switch_status(session, DatasetStatus.READY, held_by(claim), values=values):
        raise lost(claim)


def mark_failed(session: Session, claim: Claim, *, code: str, message: str) -> None:
    """Record why the dataset cannot be used; the message names the place and the way out."""
    hold(session, claim)
    values = {"error_code": code, "error_message": message}
    if not switch_status(session, DatasetStatus.FAILED, held_by(claim), values=values):
        raise lost(claim)


def switch_status(
    session: Session, new: DatasetStatus, *where: ColumnElement[bool], values: Mapping[str, Any] | None = None
) -> Sequence[str]:
    """The only function that changes a dataset's status, by one conditional UPDATE. Returns the ids changed."""
    changes = {"status": new, "run_token": None, "lease_expires_at": None, "finished_at": db_now()}
    changed = session.scalars(
        update(Dataset)
        .where(Dataset.status.in_(sorted(sources(new))), *where)
        .values({**changes, **(values or {})})
        .returning(Dataset.id)
        .execution_options(synchronize_session=False)
    ).all()
    for dataset_id in changed:
        cleanups.schedule(session, keys.dataset_root(dataset_id))
        after_commit(session, partial(count_end, "dataset", new, (values or {}).get("error_code")))
    return changed
