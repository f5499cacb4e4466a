"""The fence around a worker's writes: they happen while the row carries its run token, or not at all."""

from typing import Any

from sqlalchemy import ColumnElement, and_, select
from sqlalchemy.orm import Session

from app.db.models import Dataset, Job, Teacher
from app.domain.leases import Claim
from app.errors import LeaseLost

MODELS: dict[str, type[Job] | type[Dataset] | type[Teacher]] = {
    "dataset": Dataset,
    "teacher": Teacher,
    "job": Job,
}


def held_by(claim: Claim) -> ColumnElement[bool]:
    """The condition that the claimed row still carries the claim's run token."""
    model = MODELS[claim.kind]
    return and_(model.id == claim.id, model.run_token == claim.run_token)


def hold(session: Session, claim: Claim) -> str:
    """Lock the claimed row until the transaction ends and return its status.

    Raises LeaseLost when the row is gone or carries another token. Called before writing what hangs on the
    row (events, metrics, checkpoints): until the commit nobody can take the lease away.
    """
    model: Any = MODELS[claim.kind]
    status = session.scalar(select(model.status).where(held_by(claim)).with_for_update())
    if status is None:
        raise lost(claim)
    return str(status)


def lost(claim: Claim) -> LeaseLost:
    return LeaseLost(claim.kind, claim.id, claim.run_token)
