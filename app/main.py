"""The HTTP API: `create_app()` puts routers, error handlers and the embedded sweep together.

A cluster starts it with `uvicorn --factory app.main:create_app`; `stillhouse up` does so by itself.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from anyio.to_thread import run_sync
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles

from app.error_handlers import install_error_handlers
from app.logging import configure_logging
from app.middleware import BodyLimitMiddleware, RequestIdMiddleware
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
    teachers,
)
from app.settings import Settings, get_settings
from app.storage.store import ObjectStore
from app.sweep import SweepThread

DESCRIPTION = """
Distils a fine-tuned transformer (the teacher) into a small one (the student).

1. `POST /datasets` and `POST /teachers`, then poll each until `terminal` is true.
2. `POST /jobs`, then poll `GET /jobs/{job_id}`.
3. `GET /jobs/{job_id}/artifacts`: a folder that loads with plain `transformers`.

Times are RFC 3339 in UTC, sizes are bytes, durations are seconds. Every error has the same shape, and every
response carries an `X-Request-ID`.
"""
TAGS = [
    {"name": "jobs", "description": "Distillations: submit, follow, cancel, delete."},
    {"name": "artifacts", "description": "The student of a finished job."},
    {"name": "datasets", "description": "Labelled texts, or pairs of texts."},
    {"name": "teachers", "description": "Models to learn from."},
    {"name": "methods", "description": "Ways to distil, and their parameters."},
    {"name": "health", "description": "For probes."},
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
    docs,
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application for these settings (by default those of the environment)."""
    settings = settings or get_settings()
    app = FastAPI(
        title="Stillhouse",
        summary="Distillation as a service.",
        description=DESCRIPTION,
        version=_version(),
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
    for module in ROUTE_MODULES:
        app.include_router(module.router)
    app.mount(docs.STATIC_PATH, StaticFiles(directory=docs.STATIC_FOLDER), name="swagger-ui")
    app.add_middleware(BodyLimitMiddleware, upload_path="/datasets", upload_limit_bytes=settings.max_upload_bytes)
    app.add_middleware(RequestIdMiddleware)
    install_error_handlers(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    configure_logging(settings, service="api")
    if not settings.embedded:
        # In a cluster the scheduler sweeps.
        yield
        return
    sweep = SweepThread(settings)
    sweep.start()
    try:
        yield
    finally:
        await run_sync(sweep.stop)


def _operation_id(route: APIRoute) -> str:
    return route.name


def _version() -> str:
    try:
        return version("stillhouse")
    except PackageNotFoundError:
        # Run from a checkout that was never installed.
        return "0.0.0"
