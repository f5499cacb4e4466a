"""What errors look like in /docs: the sentences that each operation answers, compared with them by a test."""

# type, code, message, param
Example = tuple[str, str, str, str | None]

JOB_ID = "job_01jd3vkz8x0000000000000000"

_NO_JOB: Example = ("not_found", "job_not_found", "There is no job 'job_x'. GET /jobs lists the jobs.", "job_id")
_NO_DATASET: Example = (
    "not_found",
    "dataset_not_found",
    "There is no dataset 'dts_x'. GET /datasets lists the datasets, POST /datasets adds one.",
    "dataset_id",
)
_NO_TEACHER: Example = (
    "not_found",
    "teacher_not_found",
    "There is no teacher 'tch_x'. GET /teachers lists the teachers, POST /teachers adds one.",
    "teacher_id",
)
_TORN_FORM: Example = (
    "invalid_request",
    "broken_multipart",
    "The multipart form ends after 5 bytes, before its last boundary. Send the form as curl -F or a browser does, "
    "whole and with its last boundary.",
    None,
)
_TAKES_NO_QUERY: Example = ("invalid_request", "unknown_field", '"limit" is not a field. There are none here.', "limit")

# By operation, what no other says in the same words.
_OWN: dict[str, dict[int, Example]] = {
    "POST /jobs": {
        404: (*_NO_TEACHER[:3], "teacher"),
        409: (
            "conflict",
            "idempotency_conflict",
            "Idempotency-Key 'my-first-job' was sent before with another body. Send the same body again to get the "
            "same job, or a new key to make another one.",
            "Idempotency-Key",
        ),
        422: ("invalid_request", "out_of_range", "method.rounds is 0; it must be at least 1.", "method.rounds"),
        503: (
            "unavailable",
            "database_unavailable",
            "The database fell silent at the last moment, so the request may or may not have been carried out. Send it "
            "again later with the same Idempotency-Key: there will be one job.",
            None,
        ),
    },
    "GET /jobs": {
        422: (
            "invalid_request",
            "unknown_field",
            "\"state\" is not a field. Did you mean 'status'? Known are: limit, after, status, teacher, "
            "dataset, metadata.",
            "state",
        ),
    },
    "GET /jobs/{job_id}": {404: _NO_JOB},
    "DELETE /jobs/{job_id}": {
        404: _NO_JOB,
        409: (
            "conflict",
            "job_not_finished",
            f"Job '{JOB_ID}' is running and can't be deleted yet. POST /jobs/{JOB_ID}/cancel, wait until terminal is "
            "true, then delete it.",
            "job_id",
        ),
    },
    "POST /jobs/{job_id}/cancel": {
        404: _NO_JOB,
        409: (
            "conflict",
            "job_already_finished",
            f"Job '{JOB_ID}' is already succeeded, so there is nothing to cancel. DELETE /jobs/{JOB_ID} removes it.",
            "job_id",
        ),
    },
    "POST /jobs/{job_id}/pause": {
        404: _NO_JOB,
        409: (
            "conflict",
            "job_already_finished",
            f"Job '{JOB_ID}' is already succeeded, so there is nothing to pause. DELETE /jobs/{JOB_ID} removes it.",
            "job_id",
        ),
    },
    "POST /jobs/{job_id}/resume": {
        404: _NO_JOB,
        409: (
            "conflict",
            "job_not_paused",
            f"Job '{JOB_ID}' is failed, not paused. POST /jobs/{JOB_ID}/retry tries it again.",
            "job_id",
        ),
    },
    "POST /jobs/{job_id}/retry": {
        404: _NO_JOB,
        409: (
            "conflict",
            "job_not_retryable",
            f"Job '{JOB_ID}' is succeeded; only a job that is cancelled or failed can be tried again. A job that "
            "succeeded needs no retry.",
            "job_id",
        ),
        422: ("invalid_request", "wrong_type", 'from_start is "yes" (a string); send true or false.', "from_start"),
    },
    "GET /jobs/{job_id}/events": {
        404: _NO_JOB,
        422: ("invalid_request", "out_of_range", 'limit is "5000"; it must be at most 1000.', "limit"),
    },
    "GET /jobs/{job_id}/metrics": {
        404: _NO_JOB,
        422: (
            "invalid_request",
            "out_of_range",
            "to_step is 100 and from_step is 500, with no step between them; send a to_step that is at least "
            "from_step.",
            "to_step",
        ),
    },
    "GET /jobs/{job_id}/attempts": {404: _NO_JOB, 422: _TAKES_NO_QUERY},
    "GET /jobs/{job_id}/checkpoints": {404: _NO_JOB, 422: _TAKES_NO_QUERY},
    "GET /jobs/{job_id}/artifacts": {404: _NO_JOB, 422: _TAKES_NO_QUERY},
    "GET /jobs/{job_id}/artifacts/{name}": {
        404: (
            "not_found",
            "artifact_not_found",
            f"Job '{JOB_ID}' has no artifact 'student.tar.gz'. GET /jobs/{JOB_ID}/artifacts lists what it has; the "
            "list stays empty until the job has succeeded.",
            "name",
        ),
        416: (
            "invalid_request",
            "range_not_satisfiable",
            "Range is 'bytes=9-', but the file has 4 bytes. Ask for bytes 0 to 3, or leave Range out.",
            "Range",
        ),
    },
    "POST /datasets": {
        400: _TORN_FORM,
        413: (
            "too_large",
            "upload_too_large",
            "The files are larger than the 2147483648 bytes that are taken. Send fewer rows, compress the files with "
            "gzip, or have STILLHOUSE_MAX_UPLOAD_BYTES raised.",
            None,
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
    },
    "GET /datasets": {
        422: (
            "invalid_request",
            "bad_cursor",
            "after='2' is not a page cursor. Pass the `next` of the page before, or leave `after` out to start at the "
            "newest.",
            "after",
        ),
    },
    "GET /datasets/{dataset_id}": {404: _NO_DATASET},
    "DELETE /datasets/{dataset_id}": {
        404: _NO_DATASET,
        409: (
            "conflict",
            "dataset_in_use",
            f"Dataset 'dts_demo' is used by {JOB_ID}, not finished yet. Cancel them or wait until they end; "
            "GET /jobs?dataset=dts_demo lists all of its jobs.",
            "dataset_id",
        ),
    },
    "POST /teachers": {
        404: (*_NO_JOB[:3], "source.job"),
        409: (
            "conflict",
            "job_not_succeeded",
            f"Job '{JOB_ID}' is running, so it has no student to teach. Name a job that has succeeded.",
            "source.job",
        ),
        422: ("invalid_request", "missing_field", "source is missing. Add it; GET /docs describes it.", "source"),
    },
    "POST /teachers/upload": {
        400: _TORN_FORM,
        413: (
            "too_large",
            "upload_too_large",
            "The files are larger than the 2147483648 bytes that are taken. Leave out what is none of its files, save "
            "it in half precision, or have STILLHOUSE_MAX_UPLOAD_BYTES raised.",
            None,
        ),
        415: (
            "invalid_request",
            "unsupported_media_type",
            "The body came as Content-Type 'application/json'; send multipart/form-data with the part 'file'.",
            "Content-Type",
        ),
        422: (
            "invalid_request",
            "unsupported_file_type",
            "file is named 'pytorch_model.bin', which is none of a teacher's files. Send those that `save_pretrained` "
            "writes, with names in .json, .safetensors, .txt, and leave out the others; pickles are never read.",
            "file",
        ),
    },
    "GET /teachers": {422: ("invalid_request", "out_of_range", 'limit is "0"; it must be at least 1.', "limit")},
    "GET /teachers/{teacher_id}": {404: _NO_TEACHER},
    "DELETE /teachers/{teacher_id}": {
        404: _NO_TEACHER,
        409: (
            "conflict",
            "teacher_in_use",
            f"Teacher 'tch_demo' is used by {JOB_ID}, not finished yet. Cancel them or wait until they end; "
            "GET /jobs?teacher=tch_demo lists all of its jobs.",
            "teacher_id",
        ),
    },
    "GET /methods": {422: _TAKES_NO_QUERY},
    "GET /readyz": {
        503: (
            "unavailable",
            "not_ready",
            "Not ready. database: unreachable (OperationalError). The service's log has the details.",
            None,
        ),
    },
}


def example_of(operation: str, status: int) -> Example:
    """What the operation, such as "GET /jobs/{job_id}", answers with this status.

    Raises KeyError where that has not been written down here yet.
    """
    own = _OWN.get(operation, {})
    return own[status] if status in own else _of_any(operation)[status]


def _of_any(operation: str) -> dict[int, Example]:
    method, path = operation.split(" ")
    place = f"{method} {path.replace('{job_id}', JOB_ID)}"
    return {
        400: (
            "invalid_request",
            "invalid_json",
            "The request body is not JSON: Expecting value at character 0. Send one JSON object.",
            None,
        ),
        403: _foreign_host() if method == "GET" else _foreign_page(method),
        408: (
            "invalid_request",
            "request_timeout",
            f"{place}: nothing came for 60 seconds, after 100 bytes of the body. Send it again, without pauses.",
            None,
        ),
        413: ("too_large", "body_too_large", f"The body of {place} is larger than 1048576 bytes. Send less.", None),
        415: (
            "invalid_request",
            "unsupported_media_type",
            'The body came as Content-Type "text/plain"; send JSON as application/json.',
            "Content-Type",
        ),
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


def _foreign_host() -> Example:
    return (
        "invalid_request",
        "foreign_host",
        "The Host is 'stillhouse.example', which is no name of this machine's loopback. Use localhost or 127.0.0.1, or "
        "add the name to STILLHOUSE_ALLOWED_HOSTS.",
        "Host",
    )


def _foreign_page(method: str) -> Example:
    return (
        "invalid_request",
        "foreign_page",
        f"A page of https://example.org sent this {method}; browsers may do so only from Stillhouse's own pages. Send "
        "it from a program, or have the page's server send it.",
        "Origin",
    )
