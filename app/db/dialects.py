"""What PostgreSQL and SQLite say differently."""

from typing import Any

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session


def is_postgres(session: Session) -> bool:
    return session.get_bind().dialect.name == "postgresql"


def insert_or_update(session: Session, model: Any) -> postgresql.Insert | sqlite.Insert:
    """An INSERT into the model's table that takes `on_conflict_do_update`."""
    return postgresql.insert(model) if is_postgres(session) else sqlite.insert(model)
