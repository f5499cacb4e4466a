"""Jobs may name methods that work together with their main one.

Revision: 0004
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    json = sa.JSON().with_variant(JSONB(), "postgresql")
    op.add_column("jobs", sa.Column("combine", json, nullable=False, server_default="[]"))


def downgrade() -> None:
    op.drop_column("jobs", "combine")
