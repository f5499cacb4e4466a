"""Errors that a caller of the API can meet. Only ``app/error_handlers.py`` turns them into HTTP.

Each class carries the HTTP status and the error type; each instance a code that programs compare, a message
for people (it names the value received, where it stood, and the way out), and the parameter to blame, if any.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, Literal

# Of several ids a message names no more.
NAMED_AT_MOST = 5


def some_of(ids: Sequence[str]) -> str:
    """The ids for a message: the first ones where there are many, and that there are more."""
    return ", ".join(ids[:NAMED_AT_MOST]) + (" and more" if len(ids) > NAMED_AT_MOST else "")


class AppError(Exception):
    status: ClassVar[int] = 500
    type: ClassVar[str] = "internal_error"
    default_code: ClassVar[str] = "internal_error"
    headers: Mapping[str, str] | None = None  # of the answer, beside the usual ones

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param


class BadRequest(AppError):
    status = 400
    type = "invalid_request"
    default_code = "bad_request"


class NotFound(AppError):
    status = 404
    type = "not_found"
    default_code = "not_found"


class Conflict(AppError):
    """The request is fine, the state of what it names is not."""

    status = 409
    type = "conflict"
    default_code = "conflict"


class TooLarge(AppError):
    status = 413
    type = "too_large"
    default_code = "too_large"


class UploadTooLarge(TooLarge):
    default_code = "upload_too_large"

    def __init__(self, max_bytes: int, kind: Literal["dataset", "teacher"], *, param: str | None = None) -> None:
        advice = {
            "dataset": "Send fewer rows, compress the files with gzip,",
            "teacher": "Leave out what is none of its files, save it in half precision,",
        }
        super().__init__(
            f"The files are larger than the {max_bytes} bytes that are taken. {advice[kind]} or have "
            "STILLHOUSE_MAX_UPLOAD_BYTES raised.",
            param=param,
        )


class RangeNotSatisfiable(AppError):
    status = 416
    type = "invalid_request"
    default_code = "range_not_satisfiable"

    def __init__(self, header: str, size_bytes: int) -> None:
        super().__init__(
            f"Range is {header!r}, but the file has {size_bytes} bytes. Ask for bytes 0 to {size_bytes - 1}, or leave "
            "Range out.",
            param="Range",
        )
        self.headers = {"Content-Range": f"bytes */{size_bytes}"}


class InvalidRequest(AppError):
    """A value that can be read but not be accepted."""

    status = 422
    type = "invalid_request"
    default_code = "invalid_request"


class Unavailable(AppError):
    """Something that the service needs does not answer; the same request may work later."""

    status = 503
    type = "unavailable"
    default_code = "unavailable"
    headers = MappingProxyType({"Retry-After": "5"})


class JobNotFound(NotFound):
    default_code = "job_not_found"

    def __init__(self, job_id: str, *, param: str | None = None) -> None:
        super().__init__(f"There is no job {job_id!r}. GET /jobs lists the jobs.", param=param)


class DatasetNotFound(NotFound):
    default_code = "dataset_not_found"

    def __init__(self, dataset_id: str, *, param: str | None = None) -> None:
        super().__init__(
            f"There is no dataset {dataset_id!r}. GET /datasets lists the datasets, POST /datasets adds one.",
            param=param,
        )


class TeacherNotFound(NotFound):
    default_code = "teacher_not_found"

    def __init__(self, teacher_id: str, *, param: str | None = None) -> None:
        super().__init__(
            f"There is no teacher {teacher_id!r}. GET /teachers lists the teachers, POST /teachers adds one.",
            param=param,
        )


class ArtifactNotFound(NotFound):
    default_code = "artifact_not_found"

    def __init__(self, job_id: str, name: str) -> None:
        super().__init__(
            f"Job {job_id!r} has no artifact {name!r}. GET /jobs/{job_id}/artifacts lists what it has; "
            "the list stays empty until the job has succeeded.",
            param="name",
        )


class IdempotencyKeyReused(Conflict):
    default_code = "idempotency_conflict"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"Idempotency-Key {key!r} was sent before with another body. Send the same body again to get the "
            "same job, or a new key to make another one.",
            param="Idempotency-Key",
        )


class BadCursor(InvalidRequest):
    default_code = "bad_cursor"

    def __init__(self, cursor: str) -> None:
        super().__init__(
            f"after={cursor!r} is not a page cursor. Pass the `next` of the page before, or leave `after` "
            "out to start at the newest.",
            param="after",
        )


class LeaseLost(Exception):
    """The row no longer carries the caller's run token: nothing was written, and the caller must stop.

    Never reaches HTTP; workers meet it when the sweep or a deletion took their work away.
    """

    def __init__(self, kind: str, row_id: str, run_token: str) -> None:
        super().__init__(f"{kind} {row_id} is no longer leased under run token {run_token}")
