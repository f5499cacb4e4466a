"""docs/operations.md names every failure code, setting and alert that there is, and no other."""

import ast
import inspect
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from app.domain import older_jobs, teacher_files
from app.schemas.base import RequestModel
from app.schemas.job_bodies import JobCreate, StudentConfig
from app.schemas.methods.sage import Sage
from app.schemas.teachers import TeacherCreate
from app.settings import Settings
from tests.deployment.files import console_blocks, posted, section
from worker import engine_outcome, engine_process, failures
from worker.distill import errors
from worker.distill.errors import EngineError
from worker.machine import ENGINE_MEMORY_SHARE

REPOSITORY = Path(__file__).parents[1]
OPERATIONS = (REPOSITORY / "docs/operations.md").read_text()


def first_cells(title: str) -> set[str]:
    """What stands in backquotes in the first column of the section's table."""
    rows = [line for line in section(title).splitlines() if line.startswith("| `")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


def raised_codes(source: str, *functions: str) -> set[str]:
    """The first argument, where it is a plain string, of every call of one of the functions."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in functions and call.args]
    return {str(call.args[0].value) for call in named if isinstance(call.args[0], ast.Constant)}


def failure_codes() -> set[str]:
    """Every code that a row can end with, from the places that make them."""
    codes = {
        error.code
        for _, error in inspect.getmembers(errors, inspect.isclass)
        if issubclass(error, EngineError) and error is not errors.Stopped
    }
    codes |= raised_codes(inspect.getsource(engine_outcome), "_failed") | {"engine_died"}
    codes |= raised_codes(inspect.getsource(failures), "Failure")
    for file in (REPOSITORY / "worker").rglob("*.py"):
        codes |= raised_codes(file.read_text(), "PreparationFailed")
    codes |= raised_codes(inspect.getsource(teacher_files), "NoTeacherFiles")
    return codes | {"worker_lost"}


def test_names_every_failure_code() -> None:
    assert first_cells("Failure codes") == failure_codes()


def test_names_every_setting() -> None:
    assert {name.lower() for name in first_cells("Settings")} == set(Settings.model_fields)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_says_what_none_does(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Harm: it is taken for a value, such as for the name of a proxy that is believed."""
    assert "`none`\nstands for no value, and is refused where there has to be one" in section("Settings")
    monkeypatch.setenv(f"STILLHOUSE_{name.upper()}", "none")
    taken, refused = None, set()
    try:
        taken = getattr(Settings(), name)
    except ValidationError as error:
        refused = {fault["loc"] for fault in error.errors()}
    assert not taken
    assert refused <= {(name,)}


def test_names_every_alert() -> None:
    rules = yaml.safe_load((REPOSITORY / "k8s/alerts/prometheus-rules.yaml").read_text())
    alerts = {rule["alert"] for group in rules["spec"]["groups"] for rule in group["rules"] if "alert" in rule}
    assert first_cells("What to watch") == alerts


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:k8s|tests|docs|migrations|app)/[\w./-]+)`", OPERATIONS))))
def test_names_files_that_exist(path: str) -> None:
    assert (REPOSITORY / path).exists()


@pytest.mark.parametrize(("path", "model"), [("/teachers", TeacherCreate), ("/jobs", JobCreate)])
def test_shows_bodies_that_can_be_posted(path: str, model: type[RequestModel]) -> None:
    bodies = posted(OPERATIONS, path)
    assert bodies
    for body in bodies:
        model.model_validate(json.loads(body))


def test_names_the_extras_that_there_are() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"'\.\[([a-z,]+)\]'", OPERATIONS)
    assert named
    assert {extra for names in named for extra in names.split(",")} <= set(extras)
    # What the settings ask for has to be installed by hand.
    (row,) = [line for line in section("Settings").splitlines() if line.startswith("| `OTLP_ENDPOINT`")]
    assert "`tracing`" in row
    assert "tracing" in section("Install")


def test_says_what_makes_a_job_as_it_was_before_the_newest_defaults() -> None:
    """Harm: who follows the page to get an older release's students gets others."""
    older = older_jobs.METHODS["sage"]
    Sage(**older)
    was = {name: value for name, value in older.items() if value != Sage.model_fields[name].default}
    student = older_jobs.STUDENT
    was |= {name: value for name, value in student.items() if value != StudentConfig.model_fields[name].default}
    (sentence,) = re.findall(r"As it was is (.*?);", section("Upgrade"), re.DOTALL)
    said = [json.loads(f"{{{part}}}") for part in re.findall(r'`("[^`]*)`', sentence)]
    assert {name: value for part in said for name, value in part.items()} == was


def test_backs_up_and_restores_by_the_names_that_compose_has() -> None:
    """Harm: the commands fail on the day on which they are needed."""
    compose = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    services, database = compose["services"], compose["services"]["postgres"]["environment"]
    text = section("Back-up and restore")
    commands = [command for block in console_blocks(text) for command in block]
    called = [command[2:] for command in commands if command[:2] == ["docker", "compose"]]
    assert len(called) >= 7
    named = {word for command in called for word in command if word in services}
    assert named == {"scheduler", "postgres", "s3-bucket"}
    dump, restore = (next(c for c in called if program in c) for program in ("pg_dump", "pg_restore"))
    assert dump[dump.index("--username") + 1] == restore[restore.index("--username") + 1] == database["POSTGRES_USER"]
    assert database["POSTGRES_DB"] in dump[dump.index("--format=custom") :]
    assert restore[restore.index("--dbname") + 1] == database["POSTGRES_DB"]
    settings = compose["x-settings"]
    assert f"--network {compose['name']}_default" in text
    assert f"--endpoint-url {settings['AWS_ENDPOINT_URL']}" in text
    assert f"AWS_REGION={settings['AWS_REGION']}" in text
    assert text.count(settings["STILLHOUSE_OBJECT_STORE_URL"]) == 2


def test_shares_a_machine_out_among_its_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Harm: the engines of both fill the memory twice over, and the kernel kills what it likes."""
    (loop,) = re.findall(r"\$ (for gpu .*?done)\n", section("Install"), re.DOTALL)
    (cores, gigabytes) = re.findall(r"(\d+) cores and (\d+) GB:", section("Install"))[0]
    # In the worker's place each says what it was given.
    (tmp_path / "stillhouse").write_text('#!/bin/sh\nenv > "$0.$CUDA_VISIBLE_DEVICES"\n')
    (tmp_path / "stillhouse").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-c", f"{loop}; wait"], env={"PATH": path}, check=True)
    given = []
    for gpu in (0, 1):
        for line in (tmp_path / f"stillhouse.{gpu}").read_text().splitlines():
            name, _, value = line.partition("=")
            if name.startswith("STILLHOUSE_"):
                monkeypatch.setenv(name, value)
        given.append(Settings())
    assert sum(settings.engine_threads or 0 for settings in given) == int(cores)
    memory = sum(settings.engine_memory_limit_bytes or 0 for settings in given)
    assert 0.8 < memory / (int(gigabytes) * 10**9) <= ENGINE_MEMORY_SHARE
    assert len({settings.metrics_port for settings in given} - {None}) == 2
    assert {settings.engine_device for settings in given} == {"cuda"}


def test_names_the_methods_that_can_refuse_a_teacher_or_a_dataset() -> None:
    files = (REPOSITORY / "worker/distill/methods").glob("*.py")
    refusing = {file.stem for file in files if "raise InvalidJob" in file.read_text()} - {"registry"}
    (row,) = [line for line in section("Failure codes").splitlines() if line.startswith("| `invalid_job`")]
    assert set(re.findall(r"`([^`]+)`", row)) == {"invalid_job", *refusing}


def test_names_the_reasons_for_which_a_worker_kills_its_engine() -> None:
    reasons = set(re.findall(r'kill\(.*?"(\w+)"\)', inspect.getsource(engine_process)))
    (row,) = [line for line in section("What to watch").splitlines() if line.startswith("| `StillhouseEnginesKilled`")]
    named = set(re.findall(r"`([^`]+)`", row)) - {"StillhouseEnginesKilled", "stillhouse_engine_exits_total"}
    assert named == reasons
