"""Metrics: one value per job, series and step."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sqlalchemy import ColumnElement, func, select, tuple_
from sqlalchemy.orm import Session

from app.db.dialects import insert_or_update
from app.db.models import Metric
from app.db.types import clean_json, clean_text
from app.domain.leases import Claim
from app.repositories.fence import hold
from app.repositories.parameters import big_integer, rows_parameter

# SQLite takes at most 32,766 parameters in a statement.
ROWS_PER_STATEMENT = 1000

# series, step, value
Point = tuple[str, int, float | None]


@dataclass(frozen=True)
class Steps:
    """A range of steps, both ends in it; open where an end is None."""

    first: int | None = None
    last: int | None = None

    def conditions(self) -> list[ColumnElement[bool]]:
        lower = [] if self.first is None else [Metric.step >= self.first]
        upper = [] if self.last is None else [Metric.step <= self.last]
        return lower + upper


ALL_STEPS = Steps()


@dataclass(frozen=True)
class SeriesSummary:
    """What a series has within the steps asked for."""

    series: str
    count: int
    # Points with a value; the others were not finite.
    finite_count: int
    first_step: int
    last_step: int

    @property
    def has_gaps(self) -> bool:
        return self.finite_count < self.count


def upsert(session: Session, claim: Claim, points: Sequence[tuple[str, int, float]]) -> None:
    """Write (series, step, value) points; a step that is measured again replaces its value.

    Numbers that are not finite are stored as null. Raises LeaseLost, having written nothing, when the claim
    no longer holds.
    """
    hold(session, claim)
    # One statement cannot touch a row twice: the last value of a doubled point counts.
    latest = {(clean_text(series), step): clean_json(float(value)) for series, step, value in points}
    rows = [
        {"job_id": claim.id, "series": series, "step": step, "value": value} for (series, step), value in latest.items()
    ]
    for start in range(0, len(rows), ROWS_PER_STATEMENT):
        statement = insert_or_update(session, Metric).values(rows[start : start + ROWS_PER_STATEMENT])
        session.execute(
            statement.on_conflict_do_update(
                index_elements=[Metric.job_id, Metric.series, Metric.step],
                set_={"value": statement.excluded.value},
            )
        )


def summarize(
    session: Session,
    job_id: str,
    *,
    series: Sequence[str] | None = None,
    after: str | None = None,
    steps: Steps = ALL_STEPS,
    limit: int,
) -> Sequence[SeriesSummary]:
    """Up to `limit` of the job's series by name, behind the name `after`; of some only, if given."""
    query = select(
        Metric.series,
        func.count().label("count"),
        func.count(Metric.value).label("finite_count"),
        func.min(Metric.step).label("first_step"),
        func.max(Metric.step).label("last_step"),
    ).where(Metric.job_id == job_id, *steps.conditions())
    if series:
        query = query.where(Metric.series.in_(series))
    if after is not None:
        query = query.where(Metric.series > after)
    rows = session.execute(query.group_by(Metric.series).order_by(Metric.series).limit(limit)).all()
    return [SeriesSummary(*row) for row in rows]


def list_points(
    session: Session, job_id: str, *, series: Sequence[str] | None = None, steps: Steps = ALL_STEPS
) -> Sequence[Point]:
    """The job's points by series and step; of some series only, if given."""
    query = select(Metric.series, Metric.step, Metric.value).where(Metric.job_id == job_id, *steps.conditions())
    if series is not None:
        query = query.where(Metric.series.in_(series))
    rows = session.execute(query.order_by(Metric.series, Metric.step)).all()
    return [(row.series, row.step, row.value) for row in rows]


def list_outline(session: Session, job_id: str, summaries: Sequence[SeriesSummary], *, points: int) -> Sequence[Point]:
    """At most `points` of each of these series, by series and step: what keeps the look of its curve.

    The steps are cut into ranges of equal length. Of each range come the lowest and the highest point, and the
    first that was not finite; and of the whole, the first and the last. So no spike is lost, however narrow.
    """
    ranges = [part for summary in summaries for part in _ranges(summary, points)]
    asked = rows_parameter(session, ranges)
    name, low, high = asked[0].as_string(), big_integer(asked[1]), big_integer(asked[2])
    here = (Metric.job_id == job_id, Metric.series == name, Metric.step.between(low, high))
    finite = select(Metric.step).where(*here, Metric.value.is_not(None)).limit(1)
    # Each range of the primary key is read several times, which is quicker than to sort or join all points once.
    extremes = [
        finite.order_by(Metric.value, Metric.step).scalar_subquery(),
        finite.order_by(Metric.value.desc(), Metric.step).scalar_subquery(),
    ]
    if any(summary.has_gaps for summary in summaries):
        extremes.append(select(func.min(Metric.step)).where(*here, Metric.value.is_(None)).scalar_subquery())
    chosen = session.execute(select(name, *extremes)).all()
    places = {(row[0], step) for row in chosen for step in row[1:] if step is not None}
    place = rows_parameter(session, sorted(places))
    # Not a join: SQLite would go through all points and look for each among the places.
    wanted = select(place[0].as_string(), big_integer(place[1]))
    rows = session.execute(
        select(Metric.series, Metric.step, Metric.value)
        .where(Metric.job_id == job_id, tuple_(Metric.series, Metric.step).in_(wanted))
        .order_by(Metric.series, Metric.step)
    ).all()
    return [(row.series, row.step, row.value) for row in rows]


def _ranges(summary: SeriesSummary, points: int) -> list[tuple[str, int, int]]:
    count = max(1, (points - 2) // (3 if summary.has_gaps else 2))
    length = summary.last_step - summary.first_step + 1
    bounds = [summary.first_step + length * place // count for place in range(count + 1)]
    ends = [(summary.series, step, step) for step in (summary.first_step, summary.last_step)]
    return ends + [(summary.series, low, next_low - 1) for low, next_low in pairwise(bounds) if low < next_low]
