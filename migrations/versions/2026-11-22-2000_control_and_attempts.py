"""Control: priorities, time limits, attempts, the best checkpoint; and the ids that tie logs and traces together.

Revision: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

Time = sa.DateTime(timezone=True)
QUEUED = sa.text("status = 'queued'")


def upgrade() -> None:
    # Each column is nullable or has a default of the server, so that an API of the release before, which still
    # runs while this one is rolled out, can go on inserting.
    op.add_column("jobs", sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("time_limit_seconds", sa.Float))
    op.add_column("jobs", sa.Column("run_seconds", sa.Float, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("request_id", sa.Text))
    op.add_column("jobs", sa.Column("traceparent", sa.String(64)))
    op.add_column("jobs", sa.Column("queued_at", Time))
    op.execute("UPDATE jobs SET queued_at = created_at")
    op.create_index(
        "ix_jobs_claim",
        "jobs",
        [sa.text("priority DESC"), "created_at", "id"],
        postgresql_where=QUEUED,
        sqlite_where=QUEUED,
    )

    op.add_column("checkpoints", sa.Column("arm", sa.String(64)))
    op.add_column("checkpoints", sa.Column("round", sa.Integer))
    op.add_column("checkpoints", sa.Column("validation_accuracy", sa.Float(53)))
    op.add_column("checkpoints", sa.Column("is_best", sa.Boolean, nullable=False, server_default=sa.false()))

    op.create_table(
        "attempts",
        sa.Column("job_id", sa.String(48), nullable=False),
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("worker_name", sa.Text),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_message", sa.Text),
        sa.Column("started_at", Time, nullable=False),
        sa.Column("finished_at", Time),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_attempts"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_attempts_job_id_jobs", ondelete="CASCADE"),
    )


def downgrade() -> None:
    op.drop_table("attempts")
    for column in ("is_best", "validation_accuracy", "round", "arm"):
        op.drop_column("checkpoints", column)
    op.drop_index("ix_jobs_claim", "jobs")
    for column in ("queued_at", "traceparent", "request_id", "run_seconds", "time_limit_seconds", "priority"):
        op.drop_column("jobs", column)
