"""What every request passes before a route sees it: its id, and the limit on its body."""

import asyncio
import re
import secrets
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import TooLarge
from app.services.upload_files import upload_too_large

# An id from outside goes into logs and headers, so only plain ones are taken over.
REQUEST_ID_PATTERN: Final = re.compile(r"[A-Za-z0-9_.\-]{1,100}")
JSON_BODY_LIMIT_BYTES: Final = 1024 * 1024
# Parts around the files: boundaries, headers and the text fields.
UPLOAD_OVERHEAD_BYTES: Final = 1024 * 1024
DRAIN_LIMIT_BYTES: Final = 8 * 1024 * 1024
DRAIN_SECONDS: Final = 3.0


class BodyTooLarge(HTTPException):
    """Carries an error out of `receive`, where only an HTTPException passes the framework unchanged."""

    def __init__(self, error: TooLarge) -> None:
        super().__init__(status_code=error.status, detail=error.message)
        self.error = error


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

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self.app(scope, receive, send_with_id)


class BodyLimitMiddleware:
    """Refuse a body over the limit while it is being received, and let the client hear the refusal.

    A server that answers and closes with unread bytes in its socket sends a reset, which can destroy
    the answer on its way. So what little is left of a refused body is read and thrown away first.
    """

    def __init__(self, app: ASGIApp, *, upload_path: str, upload_limit_bytes: int) -> None:
        self.app = app
        self.upload_path = upload_path
        self.upload_limit_bytes = upload_limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _LimitedBody(scope, receive, *self._limit(scope))

        async def send_after_drain(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400:
                await body.drain()
            await send(message)

        await self.app(scope, body.receive, send_after_drain)

    def _limit(self, scope: Scope) -> tuple[int, TooLarge]:
        if scope["method"] == "POST" and scope["path"] == self.upload_path:
            return self.upload_limit_bytes + UPLOAD_OVERHEAD_BYTES, upload_too_large(self.upload_limit_bytes)
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

    async def receive(self) -> Message:
        if self._declared_bytes is not None and self._declared_bytes > self._limit_bytes:
            raise BodyTooLarge(self._error)
        message = await self._receive()
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

    def _note(self, message: Message) -> None:
        if message["type"] != "http.request":
            self._is_complete = True
            return
        self._received_bytes += len(message.get("body", b""))
        self._is_complete = self._is_complete or not message.get("more_body", False)
