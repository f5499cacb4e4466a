"""Traces by OpenTelemetry where STILLHOUSE_OTLP_ENDPOINT is set; elsewhere its SDK is not even imported.

One trace per job: the request that posted it, whose `traceparent` is stored with the job, then each worker's go at
it with its phases. Spans go out in batches from a thread; a collector that is away costs spans, never work. The
usual OTEL_* variables (headers, sampler, timeouts) are understood too.
"""

import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import structlog

from app.settings import Settings
from app.version import installed_version

Value = str | int | float | bool
Kind = Literal["internal", "server", "consumer"]

# What the exit of a process waits for the last spans.
FLUSH_SECONDS = 2.0

_provider: Any = None
_tracer: Any = None
_stopping = threading.Lock()

log = structlog.get_logger(__name__)


class Span:
    """A span of the trace, or nothing where there is no tracing."""

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def set(self, attributes: Mapping[str, Value | None]) -> None:
        if self._span is not None:
            self._span.set_attributes(_known(attributes))

    def rename(self, name: str) -> None:
        if self._span is not None:
            self._span.update_name(name)

    def fail(self, what: str) -> None:
        """Mark the span as one that went wrong."""
        if self._span is not None:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, what))

    def end(self, at: float | None = None) -> None:
        """End a span that `begin` gave, now or `at` that Unix time."""
        if self._span is not None:
            self._span.end(_nanoseconds(at))

    @property
    def trace_id(self) -> str | None:
        """As a trace viewer finds it; None where the span is not recorded."""
        if self._span is None or not self._span.is_recording():
            return None
        return f"{self._span.get_span_context().trace_id:032x}"


def configure_tracing(settings: Settings, *, service: str) -> None:
    """Send the spans of this process to the settings' endpoint, if there is one. Once per process."""
    global _provider, _tracer
    if not settings.otlp_endpoint or _tracer is not None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        log.error("tracing_not_installed", missing=error.name, advice="pip install 'stillhouse[tracing]'")
        return
    # One line for spans that were given up; not one more for every try before.
    logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
    resource = {"service.name": f"stillhouse-{service}", "service.instance.id": socket.gethostname()}
    _provider = TracerProvider(
        resource=Resource.create({**resource, "service.version": installed_version()}), shutdown_on_exit=False
    )
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=_traces_url(settings.otlp_endpoint))))
    _tracer = _provider.get_tracer("stillhouse")


def is_on() -> bool:
    """Whether spans go anywhere."""
    return _tracer is not None


@contextmanager
def span(
    name: str,
    *,
    parent: str | None = None,
    kind: Kind = "internal",
    attributes: Mapping[str, Value | None] | None = None,
) -> Iterator[Span]:
    """A span around the block, inside the span of the surrounding block, or inside `parent` (a traceparent)."""
    if _tracer is None:
        yield Span()
        return
    from opentelemetry.trace import SpanKind

    with _tracer.start_as_current_span(
        name,
        context=_context_of(parent),
        kind=SpanKind[kind.upper()],
        attributes=_known(attributes or {}),
        record_exception=False,
    ) as current:
        yield Span(current)


def begin(name: str, *, at: float | None = None, attributes: Mapping[str, Value | None] | None = None) -> Span:
    """A span inside that of the surrounding block, to be ended by hand; `at` is a Unix time."""
    if _tracer is None:
        return Span()
    return Span(_tracer.start_span(name, start_time=_nanoseconds(at), attributes=_known(attributes or {})))


def current_traceparent() -> str | None:
    """What a job carries to its worker: the surrounding span, as the W3C header says it. None without tracing."""
    if _tracer is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def stop_tracing() -> None:
    """Send what is left, for a moment; for the end of the process."""
    global _provider, _tracer
    # Held until the spans are out: who comes second must not end the process meanwhile.
    with _stopping:
        if _provider is None:
            return
        # In a thread of its own: with the collector away the library would wait longer than an exit may take.
        sender = threading.Thread(target=_provider.shutdown, name="last-spans", daemon=True)
        sender.start()
        sender.join(FLUSH_SECONDS)
        _provider = _tracer = None


def _context_of(traceparent: str | None) -> Any:
    if traceparent is None:
        return None
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    # What is not a traceparent gives a context without a span: a new trace.
    return TraceContextTextMapPropagator().extract({"traceparent": traceparent}, context=Context())


def _known(attributes: Mapping[str, Value | None]) -> dict[str, Value]:
    return {name: value for name, value in attributes.items() if value is not None}


def _nanoseconds(at: float | None) -> int | None:
    return None if at is None else int(at * 1e9)


def _traces_url(endpoint: str) -> str:
    return endpoint if endpoint.endswith("/v1/traces") else f"{endpoint.rstrip('/')}/v1/traces"
