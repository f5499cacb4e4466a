"""Many rows as one parameter: the statement stays the same, and is prepared once, however many there are."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import JSON, BigInteger, ColumnElement, cast, column, func, literal
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from app.db.dialects import is_postgres


def rows_parameter(session: Session, rows: Sequence[Sequence[Any]]) -> Any:
    """A column that runs through `rows`; `[0].as_string()` and the like give the fields. It brings its own FROM."""
    if is_postgres(session):
        return func.jsonb_array_elements(literal(rows, JSONB)).table_valued(column("value", JSONB)).c.value
    return func.json_each(literal(json.dumps(rows))).table_valued(column("value", JSON)).c.value


def big_integer(field: Any) -> ColumnElement[int]:
    """A field of a row as a number with which one can calculate: its own `as_integer()` would be one of 32 bits."""
    return cast(field.as_string(), BigInteger)
