"""What alembic runs: the migrations, on the connection that `app.db.migrate` opens by the settings' URL."""

from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext

import app.db.models  # noqa: F401 - fills the metadata that `check` compares with
from app.db.base import Base
from app.db.types import CleanJSON, CleanText, UtcDateTime


def plain_type(kind: str, item: Any, autogen: AutogenContext) -> str | Literal[False]:
    """Write our column types into a new migration as what they are in the database: a migration has to mean
    the same after the code has moved on."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, CleanText):
        return "sa.Text()"
    if kind == "type" and isinstance(item, CleanJSON):
        autogen.imports.add("from sqlalchemy.dialects.postgresql import JSONB")
        return 'sa.JSON().with_variant(JSONB(), "postgresql")'
    return False


def is_comparable(_item: Any, name: str | None, kind: str, _reflected: bool, _other: Any) -> bool:
    """On SQLite two indexes of the models are not compared: it does not tell that a column of the one descends
    (a test looks at it instead), and it has not the other."""
    is_sqlite = context.config.attributes["connection"].dialect.name == "sqlite"
    return not (is_sqlite and kind == "index" and name in {"ix_jobs_claim", "ix_jobs_metadata"})


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    compare_type=True,
    render_item=plain_type,
    include_object=is_comparable,
    # SQLite cannot alter most of a table in place; alembic then makes it anew.
    render_as_batch=True,
    # Both databases undo a failed migration whole: SQLite too, because app.db.session begins the transaction.
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
