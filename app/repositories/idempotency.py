"""Idempotency keys: which job a key made, and from which body."""

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.db.dialects import insert_or_update
from app.db.models import IdempotencyKey
from app.db.types import db_now


def take(session: Session, *, key: str, body_sha256: str, job_id: str, hours: float) -> IdempotencyKey:
    """Take `key` for the job about to be inserted, or return the row of who took it before.

    The caller compares: `row.job_id == job_id` means that the key is ours and the job is to be inserted in
    this same transaction; otherwise `row.body_sha256` tells a repeated request from a reused key. Of two
    racing callers one waits for the other's commit and then sees its row. A key older than `hours` is free.
    """
    statement = insert_or_update(session, IdempotencyKey).values(
        key=key, body_sha256=body_sha256, job_id=job_id, created_at=db_now()
    )
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[IdempotencyKey.key],
            set_={name: statement.excluded[name] for name in ("body_sha256", "job_id", "created_at")},
            where=IdempotencyKey.created_at < db_now(-hours * 3600),
        )
    )
    return session.scalars(
        select(IdempotencyKey).where(IdempotencyKey.key == key).execution_options(populate_existing=True)
    ).one()


def find(session: Session, key: str, *, hours: float) -> IdempotencyKey | None:
    """The live row of a key, for answering a repeated request before anything else is checked."""
    return session.scalar(
        select(IdempotencyKey).where(IdempotencyKey.key == key, IdempotencyKey.created_at >= db_now(-hours * 3600))
    )


def has_old(session: Session, *, hours: float) -> bool:
    """Whether any key is older than `hours`."""
    old = select(IdempotencyKey.key).where(IdempotencyKey.created_at < db_now(-hours * 3600)).limit(1)
    return session.scalar(old) is not None


def drop_old(session: Session, *, hours: float) -> int:
    """Forget the keys older than `hours` and return how many there were."""
    dropped = session.scalars(
        delete(IdempotencyKey)
        .where(IdempotencyKey.created_at < db_now(-hours * 3600))
        .returning(IdempotencyKey.key)
        .execution_options(synchronize_session=False)
    ).all()
    return len(dropped)
