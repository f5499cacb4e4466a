"""A job's warnings stand in its row.

Revision: 0005
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

Json = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    # Read before the new column locks the table.
    told = told_in_events()
    op.add_column("jobs", sa.Column("warnings", Json, nullable=False, server_default="[]"))
    jobs = sa.table("jobs", sa.column("id", sa.String), sa.column("warnings", Json))
    for job_id, messages in told.items():
        warnings = [{"code": code, "message": message} for code, message in messages.items()]
        op.execute(sa.update(jobs).where(jobs.c.id == job_id).values(warnings=warnings))


def downgrade() -> None:
    op.drop_column("jobs", "warnings")


def told_in_events() -> dict[str, dict[str, Any]]:
    """Each job's messages by code: a run that goes on says again no other than whether it is exact."""
    columns: list[sa.ColumnClause[Any]] = [sa.column(name) for name in ("job_id", "sequence", "type")]
    events = sa.table("job_events", *columns, sa.column("payload", Json)).c
    query = sa.select(events.job_id, events.type, events.payload).where(events.type.in_(["warning", "resumed"]))
    told: dict[str, dict[str, Any]] = {}
    for job_id, kind, payload in op.get_bind().execute(query.order_by(events.job_id, events.sequence)):
        messages = told.setdefault(job_id, {})
        if kind == "resumed":
            messages.pop("inexact_resume", None)
        else:
            messages[payload["code"]] = payload["message"]
    return {job_id: messages for job_id, messages in told.items() if messages}
