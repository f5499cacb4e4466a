"""The API's description and its page: Swagger UI out of this package, so that it works without internet."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

from app.dependencies import SettingsDep
from app.services.examples import Examples, find_examples

STATIC_FOLDER = Path(__file__).resolve().parent.parent / "static" / "swagger-ui"
STATIC_PATH = "/docs/assets"

# Nothing but this server, and no inline script. Swagger UI writes style attributes and draws data: images.
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Stillhouse API</title>
<link rel="stylesheet" href="{STATIC_PATH}/swagger-ui.css">
<link rel="icon" type="image/png" href="{STATIC_PATH}/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui" data-openapi-url="/openapi.json"></div>
<script src="{STATIC_PATH}/swagger-ui-bundle.js"></script>
<script src="{STATIC_PATH}/initializer.js"></script>
</body>
</html>
"""

router = APIRouter(include_in_schema=False)


@router.get("/")
def root() -> RedirectResponse:
    return RedirectResponse("/docs")


@router.get("/docs")
def docs() -> HTMLResponse:
    return HTMLResponse(
        PAGE,
        headers={
            "Content-Security-Policy": CONTENT_POLICY,
            "Referrer-Policy": "no-referrer",
            "X-Frame-Options": "DENY",
        },
    )


@router.get("/openapi.json")
def openapi(request: Request, settings: SettingsDep) -> JSONResponse:
    """The description, with examples that name what exists here."""
    schema = copy.deepcopy(request.app.openapi())
    _drop_frameworks_errors(schema)
    _add_examples(schema, find_examples(settings))
    return JSONResponse(schema)


def _drop_frameworks_errors(schema: dict[str, Any]) -> None:
    """Whatever has a parameter gets a 422, in a shape of the framework's own, where the route declares none. Such a
    route answers none: that a job's id is no id, for one, is a 404."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)


def _add_examples(schema: dict[str, Any], examples: Examples) -> None:
    """Reading operations name ids that exist, those that pause, resume and retry a job that can be, if any,
    POST /jobs a teacher and a dataset that are ready, and POST /teachers a folder.

    Operations that delete or cancel get none: that has to be meant.
    """
    ids = {"job_id": examples.job_id, "dataset_id": examples.dataset_id, "teacher_id": examples.teacher_id}
    for path, operations in schema["paths"].items():
        _name_ids(operations.get("get", {}), ids)
        verb = path.rpartition("/")[2]
        if verb in examples.control_job_ids:
            _name_ids(operations.get("post", {}), {"job_id": examples.control_job_ids[verb]})
    for example in schema["paths"]["/jobs"]["post"]["requestBody"]["content"]["application/json"]["examples"].values():
        _name_parts(example["value"], examples)
    if examples.teacher_folder is not None:
        content = schema["paths"]["/teachers"]["post"]["requestBody"]["content"]["application/json"]
        source = {"type": "folder", "path": str(examples.teacher_folder)}
        folder = {"summary": "From an allowed folder", "value": {"source": source}}
        content["examples"] = {"folder": folder, **content["examples"]}


def _name_parts(job: dict[str, Any], examples: Examples) -> None:
    dataset, teacher = examples.ready_dataset, examples.ready_teacher
    if dataset is not None:
        job["dataset"] = dataset.id
    if teacher is not None:
        job["teacher"] = teacher.id
        if teacher.layers is not None:
            job["student"]["layers"] = min(job["student"]["layers"], teacher.layers)


def _name_ids(operation: dict[str, Any], ids: Mapping[str, str | None]) -> None:
    for parameter in operation.get("parameters", []):
        if ids.get(parameter["name"]) is not None:
            parameter["example"] = ids[parameter["name"]]
