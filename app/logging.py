"""Structured logs for every process: JSON lines for machines, readable lines on a terminal.

`configure_logging` once per process; then `structlog.get_logger(__name__)` or the standard `logging`, both end
in the same lines on stderr. Inside `job_context(job_id)` every line of the thread carries the job's id.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from structlog.typing import Processor

from app.settings import Settings, get_settings


def configure_logging(settings: Settings | None = None, *, service: str) -> None:
    """Send all logs of this process to stderr, each line with the name of the service."""
    settings = settings or get_settings()
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        _with_service(service),
    ]
    structlog.configure(
        # First, so that a line below the level costs next to nothing.
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    rendering: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        else [
            _escape_unprintable,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                # The default prints every local variable of every frame: slow, and it may show secrets.
                exception_formatter=structlog.dev.plain_traceback,
            ),
        ]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        # uvicorn brings handlers of its own; its lines come through the root instead.
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # app.middleware logs requests, with their ids and their time.
    logging.getLogger("uvicorn.access").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_not_logged_already)
    # It introduces itself at each look at the database's revision, as readiness takes one.
    logging.getLogger("alembic.runtime.migration").setLevel(logging.WARNING)


@contextmanager
def job_context(job_id: str, **more: str | int | None) -> Iterator[None]:
    """Give every log line inside the block the job's id and `more`, of which what is None is left out."""
    known = {name: value for name, value in more.items() if value is not None}
    with structlog.contextvars.bound_contextvars(job_id=job_id, **known):
        yield


def first_line(error: BaseException) -> str:
    """An error in one short line, for a log that will say the same for as long as a server is away."""
    text = next(iter(str(error).splitlines()), "").strip()
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


def _not_logged_already(record: logging.LogRecord) -> bool:
    # app.error_handlers has logged the same exception, under the request's id.
    return not record.getMessage().startswith("Exception in ASGI application")


class _Escaped(str):
    """Text that the renderer, where it would quote it, shall not escape a second time."""

    def __repr__(self) -> str:
        return str(self)


def _escape_unprintable(_logger: Any, _method: str, event: Any) -> Any:
    """Keep a terminal from obeying what a client sent, such as a path: written as it came, it could set the window's
    title or wipe the lines above."""
    for name, value in event.items():
        # Tracebacks have lines of their own.
        if isinstance(value, str) and name not in ("exception", "stack") and not value.isprintable():
            event[name] = _Escaped(repr(value))
    return event


def _with_service(service: str) -> Processor:
    def add(_logger: Any, _method: str, event: Any) -> Any:
        event.setdefault("service", service)
        event.pop("color_message", None)  # uvicorn says some things twice
        return event

    return add
