"""Read a job's metrics, grouped into series, and each series no longer than a chart can show."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from app.db.session import read_session
from app.repositories import metrics
from app.repositories.metrics import Point, Steps
from app.services.jobs import find_job
from app.settings import Settings

SERIES_PER_PAGE = 100
# On a page. Many series share it, so that the answer stays small whatever a job has measured.
MOST_POINTS = 50_000


@dataclass(frozen=True)
class Series:
    name: str
    # Stored within the steps asked for; more than `points` when the series was downsampled.
    total: int
    points: Sequence[Point]


@dataclass(frozen=True)
class SeriesPage:
    series: Sequence[Series]
    has_more: bool


def list_series(
    settings: Settings,
    job_id: str,
    *,
    series: Sequence[str],
    after: str | None,
    first_step: int | None,
    last_step: int | None,
    points: int,
) -> SeriesPage:
    """The job's series by name, with at most `points` points each; only `series`, if any are named."""
    steps = Steps(first_step, last_step)
    with read_session(settings) as session:
        find_job(session, job_id)
        found = metrics.summarize(
            session, job_id, series=series or None, after=after, steps=steps, limit=SERIES_PER_PAGE + 1
        )
        summaries = found[:SERIES_PER_PAGE]
        points = min(points, MOST_POINTS // max(1, len(summaries)))
        short = [summary.series for summary in summaries if summary.count <= points]
        long = [summary for summary in summaries if summary.count > points]
        read = [
            *(metrics.list_points(session, job_id, series=short, steps=steps) if short else ()),
            *(metrics.list_outline(session, job_id, long, points=points) if long else ()),
        ]
    by_name = {name: list(group) for name, group in groupby(read, key=itemgetter(0))}
    page = [Series(summary.series, summary.count, by_name.get(summary.series, [])) for summary in summaries]
    return SeriesPage(page, has_more=len(found) > SERIES_PER_PAGE)
