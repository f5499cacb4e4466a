"""Metrics of this process, for Prometheus."""

from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response

from app.prometheus import CONTENT_TYPE, Exposition
from app.schemas.errors import error_responses

router = APIRouter(tags=["health"])

# Of their own: requests that hang take no thread from a scrape, and the numbers are wanted most while they do.
SCRAPE_THREADS = 4
_limiter: RunVar[CapacityLimiter] = RunVar("scrapes")


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"description": "Prometheus' text format", "content": {"text/plain": {}}}, **error_responses()},
)
async def get_prometheus_metrics(request: Request) -> Response:
    """Of this API process. Workers and the scheduler serve theirs on `STILLHOUSE_METRICS_PORT`."""
    exposition: Exposition = request.app.state.exposition
    content = await run_sync(exposition.render, limiter=_scrape_limiter())
    return Response(content, media_type=CONTENT_TYPE)


def _scrape_limiter() -> CapacityLimiter:
    try:
        return _limiter.get()
    except LookupError:
        limiter = CapacityLimiter(SCRAPE_THREADS)
        _limiter.set(limiter)
        return limiter
