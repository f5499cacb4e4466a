"""A job's metrics."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.dependencies import JobId, SettingsDep
from app.schemas.errors import error_responses
from app.schemas.metrics import MetricPage, MetricPoint, MetricSeries, MetricsQuery
from app.services import metrics

router = APIRouter(prefix="/jobs/{job_id}/metrics", tags=["jobs"])


@router.get(
    "",
    summary="List a job's metrics",
    response_model=MetricPage,
    responses=error_responses("GET /jobs/{job_id}/metrics", 404, 422),
)
def list_metrics(job_id: JobId, query: Annotated[MetricsQuery, Query()], settings: SettingsDep) -> Response:
    """Series by name, each by step. A long series comes downsampled; ask for a range of steps to see more of it."""
    page = metrics.list_series(
        settings,
        job_id,
        series=query.series,
        after=query.after,
        first_step=query.from_step,
        last_step=query.to_step,
        points=query.points,
    )
    data = [read_series(series) for series in page.series]
    body = MetricPage(data=data, has_more=page.has_more, next=data[-1].series if page.has_more else None)
    # Written here: the framework would check each of up to 50,000 points again.
    return Response(body.model_dump_json(), media_type="application/json")


def read_series(series: metrics.Series) -> MetricSeries:
    return MetricSeries(
        series=series.name,
        total=series.total,
        downsampled=series.total > len(series.points),
        points=[MetricPoint(step=step, value=value) for _, step, value in series.points],
    )
