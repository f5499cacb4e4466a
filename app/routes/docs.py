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
    return JSONResponse(with_examples(request.app.openapi(), find_examples(settings)))


def with_examples(schema: dict[str, Any], examples: Examples) -> dict[str, Any]:
    """A copy of the description in which reading operations name ids that exist, those that pause, resume and retry a
    job that can be, if any, and POST /teachers a folder.

    Operations that delete or cancel get none: that has to be meant.
    """
    schema = copy.deepcopy(schema)
    ids = {"job_id": examples.job_id, "dataset_id": examples.dataset_id, "teacher_id": examples.teacher_id}
    for path, operations in schema["paths"].items():
        _name_ids(operations.get("get", {}), ids)
        verb = path.rpartition("/")[2]
        if verb in examples.control_job_ids:
            _name_ids(operations.get("post", {}), {"job_id": examples.control_job_ids[verb]})
    if examples.teacher_folder is not None:
        content = schema["paths"]["/teachers"]["post"]["requestBody"]["content"]["application/json"]
        source = {"type": "folder", "path": str(examples.teacher_folder)}
        folder = {"summary": "From an allowed folder", "value": {"source": source}}
        content["examples"] = {"folder": folder, **content["examples"]}
    return schema


def _name_ids(operation: dict[str, Any], ids: Mapping[str, str | None]) -> None:
    for parameter in operation.get("parameters", []):
        if ids.get(parameter["name"]) is not None:
            parameter["example"] = ids[parameter["name"]]
