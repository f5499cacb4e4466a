"""What every request passes before a route sees it: its id, its log line, measure and span, and the limits on its
body."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Mapping
from typing import Final, Literal

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import prometheus, tracing
from app.errors import TooLarge, UploadTooLarge

# An id from outside goes into logs and headers, so only plain ones are taken over.
REQUEST_ID_PATTERN: Final = re.compile(r"[A-Za-z0-9_.\-]{1,100}")
_JOB_PATH: Final = re.compile(r"/jobs/(job_[0-9a-z]{1,40})(?:/.*)?")
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# Asked every few seconds by machines: neither logged nor traced while all is well.
PROBES: Final = frozenset({"/healthz", "/readyz", "/metrics"})
JSON_BODY_LIMIT_BYTES: Final = 1024 * 1024
UPLOAD_PATHS: Final[Mapping[str, Literal["dataset", "teacher"]]] = {
    "/datasets": "dataset",
    "/teachers/upload": "teacher",
}
# Parts around the files: boundaries, headers and the text fields.
UPLOAD_OVERHEAD_BYTES: Final = 1024 * 1024
DRAIN_LIMIT_BYTES: Final = 8 * 1024 * 1024
DRAIN_SECONDS: Final = 3.0
# How long a client may say nothing in the middle of its body.
BODY_SILENCE_SECONDS: Final = 60.0

log = structlog.get_logger(__name__)


class BodyTooLarge(HTTPException):
    """Carries an error out of `receive`, where only an HTTPException passes the framework unchanged."""

    def __init__(self, error: TooLarge) -> None:
        super().__init__(status_code=error.status, detail=error.message)
        self.error = error


class BodyTimedOut(HTTPException):
    def __init__(self, received_bytes: int) -> None:
        super().__init__(
            status_code=408,
            detail=f"nothing came for {BODY_SILENCE_SECONDS:g} seconds, after {received_bytes} bytes of the body. Send "
            "it again, without pauses.",
        )


class RequestIdMiddleware:
    """Give each request an id: the caller's X-Request-ID where it is a plain one, else a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        received = Headers(scope=scope).get("x-request-id", "")
        request_id = received if REQUEST_ID_PATTERN.fullmatch(received) else f"req_{secrets.token_hex(8)}"
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers.setdefault("X-Content-Type-Options", "nosniff")
            await send(message)

        context = {"request_id": request_id}
        if job := _JOB_PATH.fullmatch(scope["path"]):
            context["job_id"] = job[1]
        with structlog.contextvars.bound_contextvars(**context):
            await self.app(scope, receive, send_with_id)


class ObservationMiddleware:
    """Log, measure and trace each request.

    What changes something or fails is logged; what only reads, as those do that poll, is logged at DEBUG.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # A method is any word that a client likes; a label is not.
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        if scope["path"] in PROBES or not tracing.is_on():
            await self._observe(scope, receive, send, method, tracing.Span())
            return
        attributes = {"http.request.method": method, "url.path": scope["path"]}
        parent = Headers(scope=scope).get("traceparent")
        with tracing.span(method, parent=parent, kind="server", attributes=attributes) as span:
            if span.trace_id is None:
                await self._observe(scope, receive, send, method, span)
                return
            with structlog.contextvars.bound_contextvars(trace_id=span.trace_id):
                await self._observe(scope, receive, send, method, span)

    async def _observe(self, scope: Scope, receive: Receive, send: Send, method: str, span: tracing.Span) -> None:
        began = time.perf_counter()
        answered: float | None = None
        status = 500  # what an error becomes that passes us on its way out

        async def send_noted(message: Message) -> None:
            nonlocal status, answered
            if message["type"] == "http.response.start":
                status, answered = message["status"], time.perf_counter()
            await send(message)

        prometheus.HTTP_IN_FLIGHT.inc()
        try:
            await self.app(scope, receive, send_noted)
        finally:
            prometheus.HTTP_IN_FLIGHT.dec()
            ended = time.perf_counter()
            route = _route_of(scope)
            prometheus.HTTP_SECONDS.labels(method, route, str(status)).observe((answered or ended) - began)
            span.rename(f"{method} {route}")
            span.set({"http.route": route, "http.response.status_code": status})
            if status >= 500:
                span.fail(f"answered {status}")
            self._log(scope, method, route, status, ended - began)

    @staticmethod
    def _log(scope: Scope, method: str, route: str, status: int, seconds: float) -> None:
        is_news = status >= 400 or (method not in READING and scope["path"] not in PROBES)
        # Asked here already: of those who poll there are many.
        if not is_news and not logging.getLogger(__name__).isEnabledFor(logging.DEBUG):
            return
        write = log.info if is_news else log.debug
        client = scope.get("client")
        write(
            "request",
            method=method,
            path=scope["path"],
            route=route,
            status=status,
            seconds=round(seconds, 4),
            client=client[0] if client else None,
        )


def _route_of(scope: Scope) -> str:
    """The path as the route is declared: of these there are few, of paths any number."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) and path else "unmatched"


class BodyLimitMiddleware:
    """Refuse a body over the limit while it is being received, or that stops coming, and let the client hear the
    refusal.

    A server that answers and closes with unread bytes in its socket sends a reset, which can destroy
    the answer on its way. So what little is left of a refused body is read and thrown away first.
    """

    def __init__(self, app: ASGIApp, *, upload_limit_bytes: int) -> None:
        self.app = app
        self.upload_limit_bytes = upload_limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _LimitedBody(scope, receive, *self._limit(scope))

        async def send_after_drain(message: Message) -> None:
            if message["type"] == "http.response.start":
                body.is_answered = True
                if message["status"] >= 400:
                    await body.drain()
            await send(message)

        await self.app(scope, body.receive, send_after_drain)

    def _limit(self, scope: Scope) -> tuple[int, TooLarge]:
        if scope["method"] == "POST" and (kind := UPLOAD_PATHS.get(scope["path"])) is not None:
            return self.upload_limit_bytes + UPLOAD_OVERHEAD_BYTES, UploadTooLarge(self.upload_limit_bytes, kind)
        error = TooLarge(
            f"The body of {scope['method']} {scope['path']} is larger than {JSON_BODY_LIMIT_BYTES} bytes. Send less.",
            code="body_too_large",
        )
        return JSON_BODY_LIMIT_BYTES, error


class _LimitedBody:
    def __init__(self, scope: Scope, receive: Receive, limit_bytes: int, error: TooLarge) -> None:
        headers = Headers(scope=scope)
        declared = headers.get("content-length", "")
        self._declared_bytes = int(declared) if declared.isascii() and declared.isdigit() else None
        # Such a client holds its body back until it is asked for, and asking would bring all of it.
        self._waits_for_continue = "100-continue" in headers.get("expect", "").lower()
        self._has_body = self._declared_bytes not in (None, 0) or "transfer-encoding" in headers
        self._receive = receive
        self._limit_bytes = limit_bytes
        self._error = error
        self._received_bytes = 0
        self._is_complete = False
        # From here on only the client's end is waited for.
        self.is_answered = False

    async def receive(self) -> Message:
        if self._declared_bytes is not None and self._declared_bytes > self._limit_bytes:
            raise BodyTooLarge(self._error)
        message = await self._receive_in_time()
        self._note(message)
        if self._received_bytes > self._limit_bytes:
            raise BodyTooLarge(self._error)
        return message

    async def drain(self) -> None:
        if not self._has_body or (self._waits_for_continue and self._received_bytes == 0):
            return
        stop_at = self._received_bytes + DRAIN_LIMIT_BYTES
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self._is_complete and self._received_bytes < stop_at:
                    self._note(await self._receive())
        except TimeoutError:
            pass

    async def _receive_in_time(self) -> Message:
        if not self._is_complete:
            try:
                async with asyncio.timeout(BODY_SILENCE_SECONDS):
                    return await self._receive()
            except TimeoutError:
                if not self.is_answered:
                    raise BodyTimedOut(self._received_bytes) from None
        return await self._receive()

    def _note(self, message: Message) -> None:
        if message["type"] != "http.request":
            self._is_complete = True
            return
        self._received_bytes += len(message.get("body", b""))
        self._is_complete = self._is_complete or not message.get("more_body", False)
