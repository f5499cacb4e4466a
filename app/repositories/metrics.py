"""Metrics: one value per job, series and step."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from app.db.models import Metric
from app.db.types import clean_json, clean_text
from app.domain.leases import Claim
from app.repositories.fence import hold

# SQLite takes at most 32,766 parameters in a statement.
ROWS_PER_STATEMENT = 1000


def upsert(session: Session, claim: Claim, points: Sequence[tuple[str, int, float]]) -> None:
    """Write (series, step, value) points; a step that is measured again replaces its value.

    Numbers that are not finite are stored as null. Raises LeaseLost, having written nothing, when the claim
    no longer holds.
    """
    hold(session, claim)
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    # One statement cannot touch a row twice: the last value of a doubled point counts.
    latest = {(clean_text(series), step): clean_json(float(value)) for series, step, value in points}
    rows = [
        {"job_id": claim.id, "series": series, "step": step, "value": value} for (series, step), value in latest.items()
    ]
    for start in range(0, len(rows), ROWS_PER_STATEMENT):
        statement = insert(Metric).values(rows[start : start + ROWS_PER_STATEMENT])
        session.execute(
            statement.on_conflict_do_update(
                index_elements=[Metric.job_id, Metric.series, Metric.step],
                set_={"value": statement.excluded.value},
            )
        )


def list_points(
    session: Session, job_id: str, *, series: Sequence[str] | None = None
) -> Sequence[tuple[str, int, float | None]]:
    """The job's (series, step, value) points by series and step; of some series only, if given."""
    query = select(Metric.series, Metric.step, Metric.value).where(Metric.job_id == job_id)
    if series:
        query = query.where(Metric.series.in_(series))
    rows = session.execute(query.order_by(Metric.series, Metric.step)).all()
    return [(row.series, row.step, row.value) for row in rows]
