"""A job's metrics."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.dependencies import JobId, SettingsDep
from app.schemas.errors import error_responses
from app.schemas.metrics import MetricPage, MetricPoint, MetricSeries, MetricsQuery
from app.services import metrics

router = APIRouter(prefix="/jobs/{job_id}/metrics", tags=["jobs"])


@router.get("", summary="List a job's metrics", responses=error_responses(404, 422))
def list_metrics(job_id: JobId, query: Annotated[MetricsQuery, Query()], settings: SettingsDep) -> MetricPage:
    """Every series whole, on one page."""
    data = [
        MetricSeries(series=name, points=[MetricPoint(step=step, value=value) for step, value in points])
        for name, points in metrics.list_series(settings, job_id, series=query.series)
    ]
    return MetricPage(data=data, has_more=False, next=None)
