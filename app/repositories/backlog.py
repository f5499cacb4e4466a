"""How much waits and runs, for those who watch the service from outside."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from app.db.models import Dataset, Job, Teacher
from app.db.types import db_now
from app.domain.imports import ImportStatus
from app.domain.jobs import LIVE, JobStatus
from app.domain.leases import Kind

# A claimed dataset or teacher stays `pending`; here it is told from one that waits, as a job's status does.
QUEUED, RUNNING = JobStatus.QUEUED, JobStatus.RUNNING


@dataclass(frozen=True)
class Backlog:
    # Rows that are not over, by kind and status; every kind and status is there, with 0 where nothing is.
    depth: dict[tuple[Kind, str], int] = field(default_factory=dict)
    # How long the oldest of those that wait has waited, by the database's clock; 0 where nothing waits.
    oldest_seconds: dict[Kind, float] = field(default_factory=dict)


def read(session: Session) -> Backlog:
    """Count the rows that are not over: from the indexes over status, whatever the number of finished jobs."""
    depth: dict[tuple[Kind, str], int] = {("job", status): 0 for status in LIVE}
    oldest: dict[Kind, float] = {}
    counted = select(Job.status, func.count()).where(Job.status.in_(LIVE)).group_by(Job.status)
    depth |= {("job", status): count for status, count in session.execute(counted)}
    since = func.min(func.coalesce(Job.queued_at, Job.created_at))
    oldest["job"] = _age(session, since, Job.status == QUEUED)
    for kind, model in _IMPORTS.items():
        status = case((model.run_token.is_(None), QUEUED), else_=RUNNING)
        pending = model.status == ImportStatus.PENDING
        counted = select(status, func.count()).where(pending).group_by(status)
        depth |= {(kind, name): 0 for name in (QUEUED, RUNNING)}
        depth |= {(kind, name): count for name, count in session.execute(counted)}
        oldest[kind] = _age(session, func.min(model.created_at), pending & model.run_token.is_(None))
    return Backlog(depth, oldest)


_IMPORTS: dict[Kind, Any] = {"dataset": Dataset, "teacher": Teacher}


def _age(session: Session, since: Any, where: Any) -> float:
    began, now = session.execute(select(since, db_now()).where(where)).one()
    return max(0.0, (now - began).total_seconds()) if isinstance(began, datetime) else 0.0
