"""The one shape of every error, and how routes declare the ones they can give."""

from typing import Any

from pydantic import Field

from app.schemas.base import ResponseModel
from app.schemas.error_examples import example_of

DESCRIPTIONS = {
    400: "The request cannot be read",
    403: "A page of another site sent it, or called the service by a name that is not its own",
    404: "Not found",
    408: "The body stopped coming",
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


def error_responses(operation: str, *statuses: int, asks_database: bool = True) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: `statuses` and those that any route can give, with examples of what the operation,
    such as "GET /jobs/{job_id}", answers. `KeyError` where there is none."""
    always = {403, 500, 503} if asks_database else {403, 500}
    return {status: _documented(operation, status) for status in sorted({*statuses, *always})}


def _documented(operation: str, status: int) -> dict[str, Any]:
    kind, code, message, param = example_of(operation, status)
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
