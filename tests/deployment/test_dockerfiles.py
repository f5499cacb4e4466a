import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.deployment.files import (
    PROGRAMS,
    ROOT,
    assert_is_command,
    image_environment,
    instructions,
    released_version,
)

DOCKERFILES = (ROOT / "app/Dockerfile", ROOT / "worker/Dockerfile")


def arguments(dockerfile: Path, name: str) -> list[str]:
    return [arguments for found, arguments in instructions(dockerfile) if found == name]


def requirements(dockerfile: Path) -> set[str]:
    """The distributions that the image asks pip for, by running the image's own line."""
    (run,) = [line for line in arguments(dockerfile, "RUN") if "requirements.txt" in line]
    program, _, _ = run.partition(" > requirements.txt")
    path = f"{PROGRAMS}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-c", program], cwd=ROOT, env={"PATH": path}, capture_output=True, text=True, check=True
    )
    return {re.split(r"[^A-Za-z0-9_.-]", line)[0] for line in done.stdout.splitlines()}


def tags_in_head(dockerfile: Path) -> list[str]:
    """Of the commands in the comment at the top."""
    head, _, _ = dockerfile.read_text().partition("\n\n")
    return re.findall(r"--tag (\S+)", head)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=["api", "worker"])
class TestDockerfile:
    def test_passes_hadolint(self, dockerfile: Path) -> None:
        checked = subprocess.run(
            [PROGRAMS / "hadolint", dockerfile], capture_output=True, text=True, check=False, cwd=ROOT
        )
        assert checked.returncode == 0, checked.stdout

    def test_runs_as_a_user_by_number_that_is_not_root(self, dockerfile: Path) -> None:
        """Harm: Kubernetes refuses a name under runAsNonRoot."""
        assert arguments(dockerfile, "USER") == ["10001:10001"]

    def test_starts_a_command_that_exists(self, dockerfile: Path) -> None:
        assert arguments(dockerfile, "ENTRYPOINT") == ['["stillhouse"]']
        (command,) = arguments(dockerfile, "CMD")
        assert_is_command(json.loads(command))

    def test_copies_what_exists_and_the_build_context_holds(self, dockerfile: Path) -> None:
        kept = {line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
        copied = {name for line in arguments(dockerfile, "COPY") for name in line.split()[:-1] if name[:2] != "--"}
        copied -= {"/opt/stillhouse"}  # from the other stage
        assert copied
        assert copied <= kept
        assert all((ROOT / name).exists() for name in kept)

    def test_takes_the_versions_that_were_tested(self, dockerfile: Path) -> None:
        installs = [part for run in arguments(dockerfile, "RUN") for part in run.split("&&") if " install " in part]
        from_index = [part for part in installs if "pip" in part and "wheels/" not in part]
        assert from_index
        assert all("--constraint constraints.txt" in part or "constraints.txt)" in part for part in from_index)

    def test_says_on_which_port_it_answers(self, dockerfile: Path) -> None:
        environment = image_environment(dockerfile)
        port = environment.get("STILLHOUSE_METRICS_PORT") or environment["STILLHOUSE_PORT"]
        assert arguments(dockerfile, "EXPOSE") == [port]
        (check,) = arguments(dockerfile, "HEALTHCHECK")
        assert "/healthz" in check


class TestApiImage:
    def test_is_built_under_the_tag_that_the_deployment_files_name(self) -> None:
        assert tags_in_head(ROOT / "app/Dockerfile") == [f"stillhouse-api:{released_version()}"]

    def test_carries_no_torch_and_no_worker(self) -> None:
        asked = requirements(ROOT / "app/Dockerfile")
        assert {"fastapi", "celery", "psycopg", "alembic"} <= asked
        assert not {"torch", "transformers", "umap-learn", "faiss-cpu", "numpy"} & asked
        assert not any(line.startswith("worker") for line in arguments(ROOT / "app/Dockerfile", "COPY"))


class TestWorkerImage:
    def test_is_built_under_the_tags_that_the_deployment_files_name(self) -> None:
        image = f"stillhouse-worker:{released_version()}"
        assert tags_in_head(ROOT / "worker/Dockerfile") == [image, f"{image}-cuda"]

    def test_carries_what_a_worker_needs(self) -> None:
        assert {"torch", "umap-learn", "faiss-cpu", "celery"} <= requirements(ROOT / "worker/Dockerfile")

    def test_owns_the_folders_that_it_writes_to(self) -> None:
        """Harm: a volume that is mounted there belongs to root."""
        dockerfile = ROOT / "worker/Dockerfile"
        (made,) = [part for run in arguments(dockerfile, "RUN") for part in run.split("&&") if "--owner" in part]
        environment = image_environment(dockerfile)
        assert {environment["STILLHOUSE_WORK_DIR"], environment["NUMBA_CACHE_DIR"]} <= set(made.split())
        assert environment["HF_HOME"].startswith("/tmp/")


class TestPythonOfBothImages:
    def test_is_the_same(self) -> None:
        images = {line for dockerfile in DOCKERFILES for line in arguments(dockerfile, "ARG") if "PYTHON_IMAGE" in line}
        assert images == {"PYTHON_IMAGE=python:3.11-slim-bookworm"}
