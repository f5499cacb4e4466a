"""Keyset pages, newest first. A page stays right while rows are added or deleted around it."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from sqlalchemy import Select, literal, tuple_
from sqlalchemy.orm import Session

from app.db.models import Dataset, Job, Teacher
from app.db.types import UtcDateTime
from app.domain.ids import PREFIXES, is_id
from app.errors import BadCursor
from app.repositories.fence import MODELS

Row = TypeVar("Row", Job, Dataset, Teacher)
KINDS = {model: kind for kind, model in MODELS.items()}


@dataclass(frozen=True)
class Page(Generic[Row]):
    rows: Sequence[Row]
    has_more: bool
    # What to pass as `after` for the page behind this one; None on the last page.
    next: str | None


def fetch_page(session: Session, query: Select[Row], model: type[Row], *, limit: int, after: str | None) -> Page[Row]:
    """Up to `limit` rows of `query` behind the cursor `after`, by descending (created_at, id).

    Raises BadCursor when `after` is no cursor of ours.
    """
    if after is not None:
        created_at, row_id = decode_cursor(after, model)
        query = query.where(
            tuple_(model.created_at, model.id) < tuple_(literal(created_at, UtcDateTime()), literal(row_id))
        )
    query = query.order_by(model.created_at.desc(), model.id.desc()).limit(limit + 1)
    found = session.scalars(query).all()
    rows = found[:limit]
    has_more = len(found) > limit
    return Page(rows, has_more, encode_cursor(rows[-1].created_at, rows[-1].id) if has_more else None)


def encode_cursor(created_at: datetime, row_id: str) -> str:
    return base64.urlsafe_b64encode(f"{created_at.isoformat()}|{row_id}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str, model: type[Job] | type[Dataset] | type[Teacher]) -> tuple[datetime, str]:
    """The place that a cursor names. Raises BadCursor unless encode_cursor made it for a row of this kind."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        time_text, _, row_id = base64.b64decode(padded, altchars=b"-_", validate=True).decode().partition("|")
        created_at = datetime.fromisoformat(time_text)
    except ValueError as error:
        raise BadCursor(cursor) from error
    is_ours = created_at.tzinfo == UTC and is_id(row_id) and encode_cursor(created_at, row_id) == cursor
    if not is_ours or not row_id.startswith(f"{PREFIXES[KINDS[model]]}_"):
        raise BadCursor(cursor)
    return created_at, row_id
