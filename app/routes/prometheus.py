"""Metrics of this process, for Prometheus."""

from fastapi import APIRouter, Request, Response

from app.exposition import CONTENT_TYPE, Exposition
from app.own_threads import OwnThreads
from app.schemas.errors import error_responses

router = APIRouter(tags=["health"])

# The numbers are wanted most while requests hang.
_threads = OwnThreads("scrapes", 4)


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={
        200: {"description": "Prometheus' text format", "content": {"text/plain": {}}},
        **error_responses("GET /metrics", asks_database=False),
    },
)
async def get_prometheus_metrics(request: Request) -> Response:
    """Of this API process. Workers and the scheduler serve theirs on `STILLHOUSE_METRICS_PORT`."""
    exposition: Exposition = request.app.state.exposition
    content = await _threads.run(exposition.render)
    return Response(content, media_type=CONTENT_TYPE)
