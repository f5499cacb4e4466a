"""Create the tables: jobs and what hangs on them, datasets, teachers, idempotency keys, object cleanups.

Revision: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

Json = sa.JSON().with_variant(JSONB(), "postgresql")
Time = sa.DateTime(timezone=True)
Id = sa.String(48)
Sha256 = sa.String(64)


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", Id, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("teacher_id", Id, nullable=False),
        sa.Column("dataset_id", Id, nullable=False),
        sa.Column("student", Json, nullable=False),
        sa.Column("method", Json, nullable=False),
        sa.Column("training", Json, nullable=False),
        sa.Column("teacher_tuning", Json),
        sa.Column("baselines", Json, nullable=False),
        sa.Column("metadata", Json, nullable=False),
        sa.Column("phase", sa.String(32)),
        sa.Column("round", sa.Integer),
        sa.Column("rounds", sa.Integer),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("eta_seconds", sa.Float),
        sa.Column("last_metrics", Json, nullable=False),
        sa.Column("result", Json),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_message", sa.Text),
        sa.Column("event_sequence", sa.Integer, nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("started_at", Time),
        sa.Column("finished_at", Time),
        *lease_columns(),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_teacher_id", "jobs", ["teacher_id"])
    op.create_index("ix_jobs_dataset_id", "jobs", ["dataset_id"])
    create_work_indexes("jobs")

    op.create_table(
        "datasets",
        sa.Column("id", Id, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("text_column", sa.Text),
        sa.Column("text_pair_column", sa.Text),
        sa.Column("label_column", sa.Text),
        sa.Column("uploads", Json, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("rows", Json),
        sa.Column("labels", Json),
        sa.Column("is_validation_made", sa.Boolean),
        sa.Column("sha256", Sha256),
        sa.Column("object_prefix", sa.Text),
        sa.Column("files", Json),
        sa.Column("warnings", Json, nullable=False),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_message", sa.Text),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("finished_at", Time),
        *lease_columns(),
        sa.PrimaryKeyConstraint("id", name="pk_datasets"),
    )
    create_work_indexes("datasets")

    op.create_table(
        "teachers",
        sa.Column("id", Id, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("source", Json, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("family", sa.String(32)),
        sa.Column("layers", sa.Integer),
        sa.Column("hidden_size", sa.Integer),
        sa.Column("num_labels", sa.Integer),
        sa.Column("labels", Json),
        sa.Column("parameters", sa.BigInteger),
        sa.Column("max_positions", sa.Integer),
        sa.Column("sha256", Sha256),
        sa.Column("size_bytes", sa.BigInteger),
        sa.Column("object_prefix", sa.Text),
        sa.Column("files", Json),
        sa.Column("warnings", Json, nullable=False),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_message", sa.Text),
        sa.Column("created_at", Time, nullable=False),
        sa.Column("finished_at", Time),
        *lease_columns(),
        sa.PrimaryKeyConstraint("id", name="pk_teachers"),
    )
    create_work_indexes("teachers")

    op.create_table(
        "job_events",
        sa.Column("job_id", Id, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("payload", Json, nullable=False),
        sa.Column("created_at", Time, nullable=False),
        of_job("job_events"),
        sa.PrimaryKeyConstraint("job_id", "sequence", name="pk_job_events"),
    )
    op.create_table(
        "metrics",
        sa.Column("job_id", Id, nullable=False),
        sa.Column("series", sa.String(128), nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("value", sa.Float(53)),
        of_job("metrics"),
        sa.PrimaryKeyConstraint("job_id", "series", "step", name="pk_metrics"),
    )
    op.create_table(
        "checkpoints",
        sa.Column("job_id", Id, nullable=False),
        sa.Column("step", sa.BigInteger, nullable=False),
        sa.Column("object_prefix", sa.Text, nullable=False),
        sa.Column("files", Json, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", Time, nullable=False),
        of_job("checkpoints"),
        sa.PrimaryKeyConstraint("job_id", "step", name="pk_checkpoints"),
    )
    op.create_table(
        "artifacts",
        sa.Column("job_id", Id, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("object_key", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", Sha256, nullable=False),
        sa.Column("created_at", Time, nullable=False),
        of_job("artifacts"),
        sa.PrimaryKeyConstraint("job_id", "name", name="pk_artifacts"),
    )

    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("body_sha256", Sha256, nullable=False),
        sa.Column("job_id", Id, nullable=False),
        sa.Column("created_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_job_id", "idempotency_keys", ["job_id"])
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])

    op.create_table(
        "object_cleanups",
        sa.Column("object_prefix", sa.String(512), nullable=False),
        sa.Column("due_at", Time, nullable=False),
        sa.PrimaryKeyConstraint("object_prefix", name="pk_object_cleanups"),
    )
    op.create_index("ix_object_cleanups_due_at", "object_cleanups", ["due_at"])


def downgrade() -> None:
    for table in (
        "object_cleanups",
        "idempotency_keys",
        "artifacts",
        "checkpoints",
        "metrics",
        "job_events",
        "teachers",
        "datasets",
        "jobs",
    ):
        op.drop_table(table)


def lease_columns() -> list[sa.Column]:
    """Columns of the tables whose rows a worker can claim."""
    return [
        sa.Column("run_token", sa.String(48)),
        sa.Column("lease_expires_at", Time),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("fruitless_attempts", sa.Integer, nullable=False),
        sa.Column("worker_name", sa.Text),
    ]


def create_work_indexes(table: str) -> None:
    """Indexes for the claim and the list by status, for the plain list, and for the sweep."""
    op.create_index(f"ix_{table}_status_created_at_id", table, ["status", "created_at", "id"])
    op.create_index(f"ix_{table}_created_at_id", table, ["created_at", "id"])
    leased = sa.text("run_token IS NOT NULL")
    op.create_index(
        f"ix_{table}_lease_expires_at",
        table,
        ["lease_expires_at"],
        postgresql_where=leased,
        sqlite_where=leased,
    )


def of_job(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=f"fk_{table}_job_id_jobs", ondelete="CASCADE")
