"""README.md shows requests that can be sent, of routes that there are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.schemas.base import RequestModel
from app.schemas.job_bodies import JobCreate
from app.schemas.teachers import TeacherCreate
from app.settings import get_settings
from tests.deployment.files import posted

README = (Path(__file__).parents[1] / "README.md").read_text()
METHODS = {"GET", "POST", "DELETE"}


@pytest.mark.parametrize(("path", "model"), [("/teachers", TeacherCreate), ("/jobs", JobCreate)])
def test_shows_bodies_that_can_be_posted(path: str, model: type[RequestModel]) -> None:
    bodies = posted(README, path)
    assert bodies
    for body in bodies:
        model.model_validate(json.loads(body))


def at_a_glance() -> Iterator[tuple[str, str]]:
    """Method and path of all that the table names. A path alone goes with the method before it, and takes the place of
    the last part of the path before it; a method alone goes with the path before it."""
    table = README.split("\n## The API at a glance\n")[1].split("\n## ")[0]
    for row in table.splitlines():
        if not row.startswith("| `"):
            continue
        method = path = ""
        for name in re.findall(r"`([^`]+)`", row.split("|")[1]):
            words = name.split(" ")
            method = words[0] if words[0] in METHODS else method
            if words[-1].startswith("/"):
                path = words[-1] if len(words) == 2 else f"{path.rpartition('/')[0]}{words[-1]}"
            yield method, re.sub(r"\{\w+\}", "{}", path)


@pytest.mark.usefixtures("home")
def test_names_routes_that_there_are() -> None:
    paths = TestClient(create_app(get_settings())).get("/openapi.json").json()["paths"]
    routes = {
        (method.upper(), re.sub(r"\{\w+\}", "{}", path)) for path, operations in paths.items() for method in operations
    }
    named = set(at_a_glance())
    assert len(named) >= 20
    # `POST /datasets`, `GET`, `DELETE`: the last is of one of them.
    assert {(method, path) for method, path in named - routes if (method, f"{path}/{{}}") not in routes} == set()
