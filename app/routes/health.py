"""Liveness and readiness."""

from dataclasses import asdict

from fastapi import APIRouter

from app.dependencies import SettingsDep, StoreDep
from app.errors import Unavailable
from app.schemas.errors import error_responses
from app.schemas.health import Health, Readiness
from app.services import health

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Is the process alive?", responses=error_responses("GET /healthz", asks_database=False))
@router.head("/healthz", include_in_schema=False)
async def healthz() -> Health:
    """Asks nothing else: a database that is down is no reason to restart the API."""
    return Health(status="ok")


@router.get("/readyz", summary="Can it do its work?", responses=error_responses("GET /readyz"))
@router.head("/readyz", include_in_schema=False)
async def readyz(settings: SettingsDep, store: StoreDep) -> Readiness:
    """Reaches the database, the object store and the queue within seconds, and names what does not answer, lacks
    migrations or has no room. Without the queue the service is `degraded`, not unready: jobs are accepted and start
    late."""
    checks = await health.check_all(settings, store)
    parts = {name: problem or "ok" for name, problem in asdict(checks).items()}
    if not checks.is_ready:
        broken = "; ".join(f"{part}: {problem}" for part, problem in parts.items() if problem != "ok")
        raise Unavailable(f"Not ready. {broken}. The service's log has the details.", code="not_ready")
    return Readiness(status="ready" if checks.queue is None else "degraded", **parts)
