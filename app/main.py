"""The HTTP API: `create_app()` puts routers, error handlers and the embedded sweep together.

`stillhouse api` serves it alone, `stillhouse up` with a worker beside it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio.to_thread import run_sync
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles

from app.error_handlers import install_error_handlers
from app.exposition import Exposition
from app.foreign_pages import ForeignPageMiddleware
from app.logging import configure_logging
from app.middleware import BodyLimitMiddleware, ObservationMiddleware, RequestIdMiddleware
from app.routes import (
    artifacts,
    attempts,
    checkpoints,
    datasets,
    docs,
    events,
    health,
    job_control,
    jobs,
    methods,
    metrics,
    prometheus,
    teachers,
)
from app.settings import Settings, get_settings
from app.storage.store import ObjectStore
from app.sweep import SweepThread
from app.tracing import configure_tracing, stop_tracing
from app.version import installed_version

DESCRIPTION = """
Distils a fine-tuned transformer (the teacher) into a small one (the student).

1. `POST /datasets` and `POST /teachers` (or `/teachers/upload`), then poll each until `terminal` is true.
2. `POST /jobs`, then poll `GET /jobs/{job_id}`.
3. `GET /jobs/{job_id}/artifacts`: a folder that loads with plain `transformers`.

Times are RFC 3339 in UTC, sizes are bytes, durations are seconds. Every error has the same shape, and every
response carries an `X-Request-ID`. Later releases may add fields to a response: ignore those that you do not know.
"""
TAGS = [
    {"name": "jobs", "description": "Distillations: submit, follow, cancel, delete."},
    {"name": "artifacts", "description": "The student of a finished job."},
    {"name": "datasets", "description": "Labelled texts, or pairs of texts."},
    {"name": "teachers", "description": "Models to learn from."},
    {"name": "methods", "description": "Ways to distil, and their parameters."},
    {"name": "health", "description": "For probes and for Prometheus."},
]


# In the order of the documentation.
ROUTE_MODULES = (
    jobs,
    job_control,
    events,
    metrics,
    attempts,
    checkpoints,
    artifacts,
    datasets,
    teachers,
    methods,
    health,
    prometheus,
    docs,
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application for these settings (by default those of the environment)."""
    settings = settings or get_settings()
    app = FastAPI(
        title="Stillhouse",
        summary="Distillation as a service.",
        description=DESCRIPTION,
        version=installed_version(),
        openapi_tags=TAGS,
        # Both are served by app/routes/docs.py, from this package.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_lifespan,
        # A redirect would be an answer that no route documents.
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    app.state.settings = settings
    app.state.store = ObjectStore.from_settings(settings)
    app.state.exposition = Exposition(settings, "api")
    for module in ROUTE_MODULES:
        app.include_router(module.router)
    app.mount(docs.STATIC_PATH, StaticFiles(directory=docs.STATIC_FOLDER), name="swagger-ui")
    app.add_middleware(ForeignPageMiddleware, settings=settings)
    app.add_middleware(BodyLimitMiddleware, upload_limit_bytes=settings.max_upload_bytes)
    app.add_middleware(ObservationMiddleware)
    app.add_middleware(RequestIdMiddleware)
    install_error_handlers(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    configure_logging(settings, service="api")
    configure_tracing(settings, service="api")
    # In a cluster the scheduler sweeps.
    sweep = SweepThread(settings) if settings.embedded else None
    if sweep is not None:
        sweep.start()
    try:
        yield
    finally:
        if sweep is not None:
            await run_sync(sweep.stop)
        await run_sync(stop_tracing)


def _operation_id(route: APIRoute) -> str:
    return route.name
