"""The same path over PostgreSQL, Redis and S3: uvicorn and a worker, told by URLs in the environment."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.db import migrate
from app.db.session import dispose_engines
from app.settings import Settings
from tests.e2e import student
from tests.e2e.system import START_SECONDS, Client, Process, environment, is_ready, wait_for
from tests.fixtures.database import new_postgres_database
from tests.fixtures.servers import free_port

# One running system serves the module, so its tests stay in one process.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("cluster")]


@dataclass
class Cluster:
    """An API and a worker that have only the three servers in common."""

    api: Process
    worker: Process
    client: Client


@pytest.fixture
def cluster(
    tmp_path: Path, teacher_folder: Path, postgres: str, redis_url: str, s3: dict[str, str]
) -> Iterator[Cluster]:
    database_url = new_postgres_database(postgres, "stillhouse_e2e")
    shared = {
        "STILLHOUSE_DATABASE_URL": database_url,
        # A database of its own on the server, away from the other tests' messages.
        "STILLHOUSE_BROKER_URL": redis_url.removesuffix("/0") + "/7",
        "STILLHOUSE_OBJECT_STORE_URL": "s3://stillhouse/e2e",
        **s3,
    }
    migrate.upgrade(Settings(home=tmp_path, database_url=database_url))
    dispose_engines()
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    # Different homes: nothing may pass from one to the other through a folder.
    api_env = environment(tmp_path / "api", teacher_dirs=teacher_folder.parent, **shared)
    worker_env = environment(tmp_path / "worker", teacher_dirs=teacher_folder.parent, **shared)
    uvicorn = ["uvicorn", "--factory", "app.main:create_app", "--host", "127.0.0.1", "--port", str(port)]
    with contextlib.ExitStack() as stack:
        api = Process([sys.executable, "-P", "-m", *uvicorn], api_env, tmp_path / "api.log")
        stack.callback(api.end)
        worker = Process([sys.executable, "-P", "-m", "worker"], worker_env, tmp_path / "worker.log")
        stack.callback(worker.end)
        wait_for(lambda: is_ready(address), START_SECONDS, "readiness", process=api)
        client = Client(address)
        stack.callback(client.http.close)
        yield Cluster(api, worker, client)


class TestPostToDownload:
    def test_student_loads_with_plain_transformers_and_scores_as_reported(
        self, cluster: Cluster, teacher_folder: Path, tmp_path: Path
    ) -> None:
        client = cluster.client
        dataset, teacher = client.upload_dataset(), client.register_teacher(teacher_folder)
        client.wait_until_ready("datasets", dataset, process=cluster.worker)
        client.wait_until_ready("teachers", teacher, process=cluster.worker)
        job_id = client.post_job(teacher=teacher, dataset=dataset)["id"]
        job = client.wait_until_succeeded(job_id, process=cluster.worker)

        folder = tmp_path / "student"
        folder.mkdir()
        manifest = student.unpack(student.download(client.http, job_id), folder)
        assert manifest["content_sha256"] == job["result"]["content_sha256"]
        assert student.accuracy(folder, "test") == pytest.approx(job["result"]["student"]["test"]["accuracy"])
