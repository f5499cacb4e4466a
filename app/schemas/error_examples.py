"""What errors look like in /docs: the sentences that the routes answer, compared with them by a test."""

# type, code, message, param
Example = tuple[str, str, str, str | None]

_EXAMPLES: dict[int, Example] = {
    400: (
        "invalid_request",
        "invalid_json",
        "The request body is not JSON: Expecting value at character 0. Send one JSON object.",
        None,
    ),
    403: (
        "invalid_request",
        "foreign_page",
        "A page of https://example.org sent this POST; browsers may do so only from Stillhouse's own pages. Send it "
        "from a program, or have the page's server send it.",
        "Origin",
    ),
    404: ("not_found", "job_not_found", "There is no job 'job_x'. GET /jobs lists the jobs.", "job_id"),
    408: (
        "invalid_request",
        "request_timeout",
        "POST /jobs: nothing came for 60 seconds, after 100 bytes of the body. Send it again, without pauses.",
        None,
    ),
    409: (
        "conflict",
        "job_already_finished",
        "Job 'job_01jd3vkz8x0000000000000000' is already succeeded, so there is nothing to cancel. "
        "DELETE /jobs/job_01jd3vkz8x0000000000000000 removes it.",
        "job_id",
    ),
    413: ("too_large", "body_too_large", "The body of POST /jobs is larger than 1048576 bytes. Send less.", None),
    415: (
        "invalid_request",
        "unsupported_media_type",
        'The body came as Content-Type "text/plain"; send JSON as application/json.',
        "Content-Type",
    ),
    416: ("invalid_request", "range_not_satisfiable", "Range 'bytes=9-' starts past the end (4 bytes).", "Range"),
    422: ("invalid_request", "out_of_range", "method.rounds is 0; it must be at least 1.", "method.rounds"),
    500: (
        "internal_error",
        "internal_error",
        "Something went wrong inside the service. Quote the request id when you report it.",
        None,
    ),
    503: (
        "unavailable",
        "database_unavailable",
        "The database does not answer now. Nothing was changed; send the same request again later.",
        None,
    ),
}
# Where a job's are not what is met.
_OF_POSTING_A_JOB: dict[int, Example] = {
    404: (
        "not_found",
        "teacher_not_found",
        "There is no teacher 'tch_x'. GET /teachers lists the teachers, POST /teachers adds one.",
        "teacher",
    ),
    409: (
        "conflict",
        "idempotency_conflict",
        "Idempotency-Key 'my-first-job' was sent before with another body. Send the same body again to get the same "
        "job, or a new key to make another one.",
        "Idempotency-Key",
    ),
    503: (
        "unavailable",
        "database_unavailable",
        "The database fell silent at the last moment, so the request may or may not have been carried out. Send it "
        "again later with the same Idempotency-Key: there will be one job.",
        None,
    ),
}
_OF_DATASETS: dict[int, Example] = {
    400: (
        "invalid_request",
        "broken_multipart",
        "The multipart form ends after 5 bytes, before its last boundary. Send the form as curl -F or a browser does, "
        "whole and with its last boundary.",
        None,
    ),
    404: (
        "not_found",
        "dataset_not_found",
        "There is no dataset 'dts_x'. GET /datasets lists the datasets, POST /datasets adds one.",
        "dataset_id",
    ),
    409: (
        "conflict",
        "dataset_in_use",
        "Dataset 'dts_demo' is used by job_01jd3vkz8x0000000000000000, not finished yet. Cancel them or wait until "
        "they end.",
        "dataset_id",
    ),
    413: (
        "too_large",
        "upload_too_large",
        "The files are larger than the 2147483648 bytes that are taken. Send fewer rows, compress the files with gzip, "
        "or have STILLHOUSE_MAX_UPLOAD_BYTES raised.",
        "train",
    ),
    415: (
        "invalid_request",
        "unsupported_media_type",
        "The body came as Content-Type 'application/json'; send multipart/form-data with the part 'train'.",
        "Content-Type",
    ),
    422: (
        "invalid_request",
        "missing_field",
        "The form has no file 'train'. Add it, such as with curl -F train=@train.csv.",
        "train",
    ),
}
_OF_TEACHERS: dict[int, Example] = {
    404: (
        "not_found",
        "teacher_not_found",
        "There is no teacher 'tch_x'. GET /teachers lists the teachers, POST /teachers adds one.",
        "teacher_id",
    ),
    409: (
        "conflict",
        "teacher_in_use",
        "Teacher 'tch_demo' is used by job_01jd3vkz8x0000000000000000, not finished yet. Cancel them or wait until "
        "they end.",
        "teacher_id",
    ),
    422: ("invalid_request", "missing_field", "source is missing. Add it; GET /docs describes it.", "source"),
}
_OWN: dict[str, dict[int, Example]] = {
    "job": {},
    "new job": _OF_POSTING_A_JOB,
    "dataset": _OF_DATASETS,
    "teacher": _OF_TEACHERS,
}


def example_of(status: int, of: str) -> Example:
    """The one for this status that is met with what a route is about: a job, a new job, a dataset or a teacher."""
    return _OWN[of].get(status) or _EXAMPLES[status]
