"""docs/operations.md names every failure code, setting and alert that there is, and no other."""

import ast
import inspect
import re
from pathlib import Path

import pytest
import yaml

from app.settings import Settings
from worker import engine_outcome, runner
from worker.distill import errors
from worker.distill.errors import EngineError

REPOSITORY = Path(__file__).parents[1]
OPERATIONS = (REPOSITORY / "docs/operations.md").read_text()


def section(title: str) -> str:
    return OPERATIONS.split(f"\n## {title}\n")[1].split("\n## ")[0]


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
    explain = inspect.getsource(runner).split("def _explain")[1]
    codes |= set(re.findall(r'code, message = \(?\s*"([a-z_]+)"', explain))
    for file in (REPOSITORY / "worker").rglob("*.py"):
        codes |= raised_codes(file.read_text(), "PreparationFailed")
    return codes | {"worker_lost"}


def test_names_every_failure_code() -> None:
    assert first_cells("Failure codes") == failure_codes()


def test_names_every_setting() -> None:
    assert {name.lower() for name in first_cells("Settings")} == set(Settings.model_fields)


def test_names_every_alert() -> None:
    rules = yaml.safe_load((REPOSITORY / "k8s/alerts/prometheus-rules.yaml").read_text())
    alerts = {rule["alert"] for group in rules["spec"]["groups"] for rule in group["rules"] if "alert" in rule}
    assert first_cells("What to watch") == alerts


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`((?:k8s|tests|docs|migrations|app)/[\w./-]+)`", OPERATIONS))))
def test_names_files_that_exist(path: str) -> None:
    assert (REPOSITORY / path).exists()
