"""The one shape of every error, and how routes declare the ones they can give."""

from typing import Any

from pydantic import Field

from app.schemas.base import ResponseModel

EXAMPLES: dict[int, tuple[str, str, str, str | None]] = {
    # status: type, code, message, param
    400: ("invalid_request", "invalid_json", "The request body is not JSON: Expecting value at byte 0.", None),
    404: ("not_found", "job_not_found", "There is no job 'job_x'. GET /jobs lists the jobs.", "job_id"),
    409: (
        "conflict",
        "job_already_finished",
        "The job is succeeded, so it can't be cancelled; there is nothing left to stop.",
        "job_id",
    ),
    413: (
        "too_large",
        "body_too_large",
        "The body of POST /jobs is larger than 1048576 bytes. Send less.",
        None,
    ),
    415: (
        "invalid_request",
        "unsupported_media_type",
        "The body is 'text/plain'; send JSON with Content-Type: application/json.",
        None,
    ),
    416: ("invalid_request", "range_not_satisfiable", "Range 'bytes=9-' starts past the end (4 bytes).", "Range"),
    422: (
        "invalid_request",
        "out_of_range",
        "method.rounds is 0; it must be at least 1.",
        "method.rounds",
    ),
    500: (
        "internal_error",
        "internal_error",
        "Something went wrong on our side. Quote the request id when you report it.",
        None,
    ),
    503: (
        "unavailable",
        "database_unavailable",
        "The database cannot be reached now. Nothing was changed; try again in a few seconds.",
        None,
    ),
}
DESCRIPTIONS = {
    400: "The request cannot be read",
    404: "Not found",
    409: "Not possible in the present state",
    413: "Too large",
    415: "Another Content-Type than the one that is read here",
    416: "The range lies outside the file",
    422: "A value is not accepted",
    500: "A fault of the service",
    503: "A part that the service needs cannot be reached",
}


class ErrorDetail(ResponseModel):
    type: str = Field(description="The kind of error: what a client may branch on first.")
    code: str = Field(description="The exact error, stable between releases.")
    message: str = Field(description="For a person: the value received, its place, and the way out.")
    param: str | None = Field(description="The field, parameter or header at fault, dotted; null if none is.")
    request_id: str = Field(description="Also in the X-Request-ID header and in the service's log.")


class ErrorResponse(ResponseModel):
    error: ErrorDetail


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: `statuses` and those that any route can give."""
    return {status: _documented(status) for status in sorted({*statuses, 500, 503})}


def _documented(status: int) -> dict[str, Any]:
    kind, code, message, param = EXAMPLES[status]
    example = {
        "error": {
            "type": kind,
            "code": code,
            "message": message,
            "param": param,
            "request_id": "req_01jd3vkz8x",
        }
    }
    return {
        "model": ErrorResponse,
        "description": DESCRIPTIONS[status],
        "content": {"application/json": {"example": example}},
    }
