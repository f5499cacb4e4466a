"""Metrics of this process, for Prometheus."""

from fastapi import APIRouter, Request, Response

from app.prometheus import CONTENT_TYPE, Exposition
from app.schemas.errors import error_responses

router = APIRouter(tags=["health"])


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"description": "Prometheus' text format", "content": {"text/plain": {}}}, **error_responses()},
)
def get_prometheus_metrics(request: Request) -> Response:
    """Of this API process. Workers and the scheduler serve theirs on `STILLHOUSE_METRICS_PORT`."""
    exposition: Exposition = request.app.state.exposition
    return Response(exposition.render(), media_type=CONTENT_TYPE)
