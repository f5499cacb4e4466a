"""Indexes to list the jobs of a teacher or of a dataset, newest first, in place of those that only find them.

The release before finds them by these as well.

Revision: 0006
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

COLUMNS = ("teacher_id", "dataset_id")


def upgrade() -> None:
    for column in COLUMNS:
        op.create_index(f"ix_jobs_{column}_created_at_id", "jobs", [column, "created_at", "id"])
        op.drop_index(f"ix_jobs_{column}", "jobs")


def downgrade() -> None:
    for column in COLUMNS:
        op.create_index(f"ix_jobs_{column}", "jobs", [column])
        op.drop_index(f"ix_jobs_{column}_created_at_id", "jobs")
