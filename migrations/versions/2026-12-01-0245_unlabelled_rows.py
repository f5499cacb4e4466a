"""How many texts without labels a dataset has.

Beside `rows`, whose splits the release before knows by name.

Revision: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("datasets", sa.Column("unlabelled_rows", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("datasets", "unlabelled_rows")
