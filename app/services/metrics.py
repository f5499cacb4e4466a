"""Read a job's metrics, grouped into series."""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from app.db.session import read_session
from app.repositories import metrics
from app.services.jobs import find_job
from app.settings import Settings

Points = list[tuple[int, float | None]]


def list_series(settings: Settings, job_id: str, *, series: Sequence[str]) -> list[tuple[str, Points]]:
    """Each series with its (step, value) points by step; only `series`, if any are named."""
    with read_session(settings) as session:
        find_job(session, job_id)
        points = metrics.list_points(session, job_id, series=series or None)
    return [(name, [(step, value) for _, step, value in group]) for name, group in groupby(points, key=itemgetter(0))]
