"""Column types and the clock that mean the same on SQLite and PostgreSQL.

`db_now(offset_seconds)` is the database's clock. Leases are compared with it and nothing else: the clocks of
workers differ, and a worker that was suspended does not know for how long.
"""

import math
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Float, Text, bindparam
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC time with microseconds. SQLite keeps it as text of one fixed width, so that it sorts."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without a zone cannot be stored: {value!r}")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class CleanText(TypeDecorator[str]):
    """Text of any origin: NUL and lone surrogates, which PostgreSQL refuses, become U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else clean_text(value)


class CleanJSON(TypeDecorator[Any]):
    """JSON (JSONB on PostgreSQL). Numbers that are not finite become null, text is as in CleanText."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(JSONB(none_as_null=True))
        return dialect.type_descriptor(JSON(none_as_null=True))

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:  # noqa: ARG002
        return clean_json(value)


def clean_text(text: str) -> str:
    """The text without what UTF-8 or PostgreSQL cannot hold."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def clean_json(value: Any) -> Any:
    """The value as JSON can hold it on every database."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {clean_text(str(key)): clean_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean_json(item) for item in value]
    return value


class db_now(FunctionElement[datetime]):
    """The database's clock, moved by `offset_seconds` (negative: into the past)."""

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, offset_seconds: float = 0) -> None:
        offset: ColumnElement[float] = bindparam(None, float(offset_seconds), type_=Float(), unique=True)
        super().__init__(offset)


@compiles(db_now, "sqlite")
def _sqlite_now(element: db_now, compiler: SQLCompiler, **kwargs: Any) -> str:
    # SQLite's clock has milliseconds; the zeros give it the width of every other stored time.
    offset = compiler.process(element.clauses, **kwargs)
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', ({offset}) || ' seconds') || '000')"


@compiles(db_now, "postgresql")
def _postgresql_now(element: db_now, compiler: SQLCompiler, **kwargs: Any) -> str:
    # Not now(): that is the transaction's start, which may lie behind a wait for a lock. Not
    # clock_timestamp(): that is volatile, and an index cannot serve a comparison with it.
    offset = compiler.process(element.clauses, **kwargs)
    return f"(statement_timestamp() + make_interval(secs => {offset}))"
