"""What datasets and teachers have in common: a worker checks them under a claim, and they are ready or failed then.

`mark_ready` and `mark_failed` raise LeaseLost, having written nothing, once the row does not carry the claim's run
token.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, delete, update
from sqlalchemy.orm import Session

from app.db.session import after_commit
from app.db.types import db_now
from app.domain.imports import ImportStatus, sources
from app.domain.leases import Claim, Kind
from app.prometheus import count_end
from app.repositories import cleanups
from app.repositories.fence import MODELS, held_by, hold, lost
from app.storage import keys

ImportKind = Literal["dataset", "teacher"]
KINDS: Final[tuple[ImportKind, ...]] = ("dataset", "teacher")


def remove(session: Session, kind: ImportKind, row_id: str) -> bool:
    """Delete a row that the caller has locked and found unused; the sweep removes its objects."""
    model: Any = MODELS[kind]
    removed = session.scalar(
        delete(model).where(model.id == row_id).returning(model.id).execution_options(synchronize_session=False)
    )
    if removed is None:
        return False
    cleanups.schedule(session, keys.root(kind, row_id))
    return True


def mark_ready(session: Session, claim: Claim, values: Mapping[str, Any]) -> None:
    """Record what the checks found."""
    _end(session, claim, ImportStatus.READY, values)


def mark_failed(session: Session, claim: Claim, *, code: str, message: str) -> None:
    """Record why it cannot be used; the message names the place and the way out."""
    _end(session, claim, ImportStatus.FAILED, {"error_code": code, "error_message": message})


def switch_status(
    session: Session, kind: Kind, new: ImportStatus, *where: ColumnElement[bool], values: Mapping[str, Any]
) -> Sequence[str]:
    """The only function that changes the status of a dataset or a teacher, by one conditional UPDATE. Returns the ids
    changed."""
    model: Any = MODELS[kind]
    changes = {"status": new, "run_token": None, "lease_expires_at": None, "finished_at": db_now()}
    changed: Sequence[str] = session.scalars(
        update(model)
        .where(model.status.in_(sorted(sources(new))), *where)
        .values({**changes, **values})
        .returning(model.id)
        .execution_options(synchronize_session=False)
    ).all()
    for row_id in changed:
        cleanups.schedule(session, keys.root(kind, row_id))
        after_commit(session, partial(count_end, kind, new, values.get("error_code")))
    return changed


def _end(session: Session, claim: Claim, new: ImportStatus, values: Mapping[str, Any]) -> None:
    hold(session, claim)
    if not switch_status(session, claim.kind, new, held_by(claim), values=values):
        raise lost(claim)
