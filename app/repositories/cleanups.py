"""Parts of the object store that the sweep has to look through, because a row stopped naming something there.

Schedule in the same transaction that stops naming it. The sweep deletes only what no row names at that time
(see app/sweep.py), so scheduling too much is harmless. An upload that might be cut off before its row exists
schedules its own root first, with a delay longer than any upload.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db.dialects import insert_or_update
from app.db.models import Artifact, Checkpoint, Dataset, Job, ObjectCleanup, Teacher
from app.db.types import db_now
from app.domain.imports import ImportStatus
from app.storage import keys

# For uploads: longer than receiving one takes.
UPLOAD_SECONDS = 24 * 3600.0


def schedule(session: Session, object_prefix: str, *, delay_seconds: float = 0.0) -> None:
    """Have the sweep look through `object_prefix` after the delay; a later time replaces an earlier one."""
    statement = insert_or_update(session, ObjectCleanup).values(
        object_prefix=object_prefix, due_at=db_now(delay_seconds)
    )
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[ObjectCleanup.object_prefix], set_={"due_at": statement.excluded.due_at}
        )
    )


def due(session: Session, *, settle_seconds: float, limit: int) -> Sequence[ObjectCleanup]:
    """The prefixes whose time came at least `settle_seconds` ago, oldest first.

    A worker whose token was taken notices at its next heartbeat and stops; until then it may still write.
    """
    is_due = ObjectCleanup.due_at <= db_now(-settle_seconds)
    return session.scalars(select(ObjectCleanup).where(is_due).order_by(ObjectCleanup.due_at).limit(limit)).all()


def done(session: Session, cleanup: ObjectCleanup) -> None:
    """Forget a prefix that was looked through, unless it was scheduled anew meanwhile."""
    session.execute(
        delete(ObjectCleanup)
        .where(ObjectCleanup.object_prefix == cleanup.object_prefix, ObjectCleanup.due_at == cleanup.due_at)
        .execution_options(synchronize_session=False)
    )


def named_under(session: Session, object_prefix: str) -> set[str]:
    """The keys and folders that rows name, among those that an object under `object_prefix` could lie in.

    Under the root of a job, dataset or teacher the folder of the current run token counts as named: its worker
    writes there before it can record what it wrote.
    """
    kind, _, rest = object_prefix.partition("/")
    row_id, _, inner = rest.partition("/")
    if kind not in _NAMED_BY:
        return {object_prefix}
    model, named_by = _NAMED_BY[kind]
    # The token first, and only then what rows name. A worker that is done clears its token and has its objects named
    # in one transaction, and on PostgreSQL each statement sees what was committed when it began: with the token read
    # last, a commit in between would show neither, and what was just stored would pass for nobody's. In this order
    # the token still stands, or what came in its place is seen.
    run_token = session.scalar(select(model.run_token).where(model.id == row_id))
    named = named_by(session, row_id)
    if run_token is not None and not inner:
        named.add(keys.inside(object_prefix, run_token))
    return named


def _named_by_job(session: Session, job_id: str) -> set[str]:
    prefixes = session.scalars(select(Checkpoint.object_prefix).where(Checkpoint.job_id == job_id))
    artifacts = session.scalars(select(Artifact.object_key).where(Artifact.job_id == job_id))
    return {*prefixes, *artifacts}


def _named_by_dataset(session: Session, dataset_id: str) -> set[str]:
    row = session.execute(select(Dataset.object_prefix).where(Dataset.id == dataset_id)).one_or_none()
    if row is None:
        return set()
    uploads = keys.dataset_uploads(dataset_id)
    return {uploads} if row.object_prefix is None else {uploads, row.object_prefix}


def _named_by_teacher(session: Session, teacher_id: str) -> set[str]:
    row = session.execute(select(Teacher.status, Teacher.object_prefix).where(Teacher.id == teacher_id)).one_or_none()
    if row is None:
        return set()
    # Until a worker has looked at them; then there is a copy of them, or nothing that would need them.
    if row.status == ImportStatus.PENDING:
        return {keys.teacher_uploads(teacher_id)}
    return set() if row.object_prefix is None else {row.object_prefix}


_NAMED_BY: Mapping[str, tuple[Any, Callable[[Session, str], set[str]]]] = {
    "jobs": (Job, _named_by_job),
    "datasets": (Dataset, _named_by_dataset),
    "teachers": (Teacher, _named_by_teacher),
}
