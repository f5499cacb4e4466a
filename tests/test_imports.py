"""Imports point one way: worker.tasks -> worker.work_loop -> worker.runner -> {worker.distill, app...}; never back."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "umap", "numba", "faiss", "sklearn"}


def modules_under(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported_by(file: Path) -> set[str]:
    """Full names of every module that `file` imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide the direction"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def offenders(package: str, *forbidden: str) -> list[str]:
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in modules_under(package)
        for name in sorted(imported_by(file))
        if any(name == root or name.startswith(f"{root}.") for root in forbidden)
    ]


class TestDirection:
    def test_the_app_never_imports_the_worker(self) -> None:
        """Harm: the API image would carry torch."""
        assert offenders("app", "worker") == []

    def test_the_engine_knows_no_app_no_queue_and_no_database(self) -> None:
        assert offenders("worker/distill", "app", "celery", "kombu", "sqlalchemy", "obstore", "redis") == []

    def test_the_engine_does_not_import_the_rest_of_the_worker(self) -> None:
        found = offenders("worker/distill", "worker")
        assert [line for line in found if "imports worker.distill" not in line] == []

    def test_repositories_know_no_services_and_services_no_routes(self) -> None:
        assert offenders("app/repositories", "app.services", "app.routes", "app.schemas", "fastapi") == []
        assert offenders("app/services", "app.routes") == []
        assert offenders("app/storage", "app.db", "app.repositories", "app.services", "fastapi") == []
        for package in ("app/db", "app/repositories", "app/storage"):
            assert offenders(package, "app.backlog", "app.exposition") == []
        assert offenders("app/domain", "app.db", "app.repositories", "app.services", "sqlalchemy", "pydantic") == []

    def test_queries_are_made_in_the_repositories_alone(self) -> None:
        """Harm: a change of a table breaks what nobody thought of."""
        makers = [f"sqlalchemy.{name}" for name in ("select", "insert", "update", "delete")]
        found = [*offenders("app", *makers), *offenders("worker", *makers)]
        assert [line for line in found if not line.startswith("app/repositories/")] == []

    def test_there_is_code_to_look_at(self) -> None:
        """An empty listing would let every test above pass."""
        assert len(modules_under("app")) > 20
        assert len(modules_under("worker/distill")) > 20


class TestLoading:
    @pytest.mark.parametrize("module", ["app.main", "app.cli", "worker.celery_app", "worker.tasks", "worker.runner"])
    def test_loads_without_the_heavy_libraries(self, module: str) -> None:
        """Harm: a start of seconds, and torch's threads in the process that starts engines."""
        program = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
        loaded = subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT
        ).stdout.split()
        assert loaded == []
