"""The only place where errors become HTTP: one shape, whatever went wrong.

`{"error": {"type", "code", "message", "param", "request_id"}}`. Nothing of the inside (paths, SQL, tracebacks)
leaves with it; the log has that, under the same request id.
"""

from collections.abc import Mapping
from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from obstore.exceptions import BaseError as ObjectStoreError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match

from app.errors import AppError
from app.logging import first_line
from app.middleware import BodyTooLarge
from app.outages import is_commit_unanswered, is_database_away, is_database_behind
from app.schemas.base import printable
from app.validation_messages import describe, shown

log = structlog.get_logger(__name__)

TYPES = {404: "not_found", 409: "conflict", 413: "too_large", 503: "unavailable"}


def install_error_handlers(app: FastAPI) -> None:
    """Map every error that a route or the framework can raise into the one shape."""
    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(ClientDisconnect, _client_disconnect)
    app.add_exception_handler(DBAPIError, _database_error)
    app.add_exception_handler(PoolTimeout, _database_error)
    app.add_exception_handler(ObjectStoreError, _object_store_error)
    app.add_exception_handler(Exception, _unexpected_error)


def error_response(
    request: Request,
    *,
    status: int,
    code: str,
    message: str,
    type: str | None = None,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error in the one shape; `type` follows from the status unless it is given."""
    request_id = getattr(request.state, "request_id", "")
    return JSONResponse(
        {
            "error": {
                "type": type or TYPES.get(status, "invalid_request" if status < 500 else "internal_error"),
                "code": code,
                "message": printable(message),
                "param": None if param is None else printable(param),
                "request_id": request_id,
            }
        },
        status_code=status,
        # Set here too: the answer to an unexpected error is made outside of the middleware that sets it.
        headers={**(headers or {}), "X-Request-ID": request_id},
    )


def _app_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)
    if error.status >= 500:
        log.error("request_failed", code=error.code, message=error.message, path=request.url.path)
    return error_response(
        request,
        status=error.status,
        type=error.type,
        code=error.code,
        message=error.message,
        param=error.param,
        headers=error.headers,
    )


def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        message = (
            f"The request body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}. "
            "Send one JSON object."
        )
        return error_response(request, status=400, code="invalid_json", message=message)
    media_type = request.headers.get("content-type", "")
    if tuple(first["loc"]) == ("body",) and first["type"] != "missing" and not _is_json(media_type):
        return error_response(
            request,
            status=415,
            code="unsupported_media_type",
            message=f"The body came as Content-Type {shown(media_type)}; send JSON as application/json.",
            param="Content-Type",
        )
    described = describe(error.errors(), error.body)
    return error_response(request, status=422, code=described.code, message=described.message, param=described.param)


def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    place = f"{request.method} {request.url.path}"
    if isinstance(error, BodyTooLarge):
        return _app_error(request, error.error)
    if error.status_code == 404:
        return error_response(
            request,
            status=404,
            code="route_not_found",
            message=f"There is no {place}. GET /docs shows every route.",
            headers=headers,
        )
    if error.status_code == 405:
        # The framework names the methods of the first route alone that has this path.
        allowed = ", ".join(_allowed_methods(request)) or headers.get("Allow", "")
        return error_response(
            request,
            status=405,
            code="method_not_allowed",
            message=f"{place} is not possible; {request.url.path} takes {allowed}.",
            headers={"Allow": allowed},
        )
    if error.status_code == 400:
        code, message = _unreadable_body(error)
        return error_response(request, status=400, code=code, message=message, headers=headers)
    return error_response(
        request,
        status=error.status_code,
        code=_code_of(error.status_code),
        message=f"{place}: {error.detail}",
        headers=headers,
    )


def _allowed_methods(request: Request) -> list[str]:
    routes: list[BaseRoute] = request.app.router.routes
    return [
        method
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)
    ]


def _unreadable_body(error: HTTPException) -> tuple[str, str]:
    # The framework says "there was an error parsing the body" for all of these; the cause tells them apart.
    cause: BaseException | None = error.__cause__
    if isinstance(cause, UnicodeDecodeError):
        value = cause.object[cause.start : cause.start + 1].hex()
        return (
            "body_not_utf8",
            f"The request body is not UTF-8: byte 0x{value} at position {cause.start}. Send UTF-8.",
        )
    if isinstance(cause, RecursionError):
        return "invalid_json", "The request body is nested too deeply to be read. Send it flatter."
    if isinstance(cause, ValueError):
        return "invalid_json", "The request body holds a number with too many digits. Send a shorter one."
    return "unreadable_body", "The request body could not be read. Send one JSON object in UTF-8."


def _client_disconnect(request: Request, error: Exception) -> Response:  # noqa: ARG001
    # Nobody is left to read this; it keeps the log free of a traceback.
    log.info("client_went_away", path=request.url.path)
    return error_response(
        request, status=400, code="client_disconnected", message="The request ended before it was complete."
    )


def _database_error(request: Request, error: Exception) -> Response:
    if is_database_behind(error):
        code = "database_not_migrated"
        message = (
            "The database lacks tables or columns of this release. Nothing was changed; have `stillhouse migrate` run, "
            "then send the same request again."
        )
    elif is_database_away(error):
        code, message = "database_unavailable", _what_is_left_undone(request, error)
    else:
        return _unexpected_error(request, error)
    # A line and no stack trace, here and below: while a server is away this comes with every request.
    log.error(code, path=request.url.path, error=first_line(error))
    return error_response(request, status=503, code=code, message=message, headers={"Retry-After": "5"})


def _what_is_left_undone(request: Request, error: Exception) -> str:
    if "disk is full" in str(error):
        return (
            "The disk under STILLHOUSE_HOME is full. Nothing was changed; free some space on it, then send the same "
            "request again."
        )
    if not is_commit_unanswered(error):
        return "The database does not answer now. Nothing was changed; send the same request again later."
    silence = "The database fell silent at the last moment, so the request may or may not have been carried out."
    if (request.method, request.url.path) != ("POST", "/jobs"):
        return f"{silence} Look with GET later, and send it again where it was not."
    if "Idempotency-Key" in request.headers:
        return f"{silence} Send it again later with the same Idempotency-Key: there will be one job."
    return (
        f"{silence} Look with GET /jobs later, and send it again where it was not. With an Idempotency-Key it could be "
        "sent again without looking."
    )


def _object_store_error(request: Request, error: Exception) -> Response:
    log.error("object_store_unavailable", path=request.url.path, error=first_line(error))
    return error_response(
        request,
        status=503,
        code="object_store_unavailable",
        message="The object store does not answer now, or is full. Nothing was kept; send the same request again "
        "later.",
        headers={"Retry-After": "5"},
    )


def _unexpected_error(request: Request, error: Exception) -> Response:
    # Called outside of the middleware that gives each line the request's id.
    request_id = getattr(request.state, "request_id", None)
    cause = error.__cause__
    if cause is not None and (
        isinstance(cause, ObjectStoreError) or is_database_away(cause) or is_database_behind(cause)
    ):
        # A server went away in the middle of an answer, which can only break off now: the framework says so with
        # an error of its own. The client sees that the end is missing.
        log.error("answer_broke_off", request_id=request_id, path=request.url.path, error=first_line(cause))
        return Response(status_code=503)
    log.error("unexpected_error", request_id=request_id, path=request.url.path, method=request.method, exc_info=error)
    return error_response(
        request,
        status=500,
        code="internal_error",
        message="Something went wrong inside the service. Quote the request id when you report it.",
    )


def _is_json(media_type: str) -> bool:
    essence = media_type.split(";")[0].strip().lower()
    return essence == "application/json" or (essence.startswith("application/") and essence.endswith("+json"))


def _code_of(status: int) -> str:
    try:
        return HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")
    except ValueError:
        return "error"
