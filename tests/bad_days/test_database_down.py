"""The database is away: every request says so and what to do, nothing is left half done, nobody needs a restart."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from app.db.models import ObjectCleanup
from app.db.session import read_session
from app.main import create_app
from app.schemas.error_examples import example_of
from app.settings import get_settings
from app.storage.store import ObjectStore
from app.sweep import SweepThread, sweep_once
from tests.app.routes.helpers import add_demo, check_error, job_body
from tests.app.routes.processes import ApiProcess, api_process
from tests.bad_days import jobs
from tests.bad_days.conftest import Outage, Script, StartWorker, nobodys_environment, wait_until
from tests.e2e.system import wait_for
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import add_job, make_cleanups_due, read_job
from tests.worker.scripted_engine import STEP

pytestmark = pytest.mark.xdist_group("bad_days_database")

CSV = b"text,label\n" + b"".join(b"row %d,%s\n" % (number, b"ab"[number % 2 :][:1]) for number in range(20))
# A deadline, not a measure: the clients of the service give up in about this time.
ANSWER_SECONDS = 20.0
KEY = {"Idempotency-Key": "once-and-only-once"}


@pytest.fixture(scope="module")
def home_of_api(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def api(postgres_outage: tuple[Outage, str], home_of_api: Path) -> Iterator[ApiProcess]:
    """One process for all the outages of this file."""
    variables = {"STILLHOUSE_HOME": str(home_of_api), "STILLHOUSE_DATABASE_URL": postgres_outage[1]}
    with nobodys_environment(), api_process(home_of_api, **variables) as process:
        yield process


@pytest.fixture
def store(home_of_api: Path, change_settings: ChangeSettings) -> ObjectStore:
    """The API's objects, as the settings' store."""
    return ObjectStore.from_settings(change_settings(object_store_url=(home_of_api / "objects").as_uri()))


@pytest.fixture
def client(api: ApiProcess, failing_postgres: Outage) -> Iterator[httpx.Client]:  # noqa: ARG001
    with httpx.Client(base_url=api.address, timeout=ANSWER_SECONDS) as client:
        yield client


class TestEveryRoute:
    def test_answers_503_without_a_stack_trace_and_works_again_when_the_database_does(
        self, failing_postgres: Outage, api: ApiProcess, client: httpx.Client
    ) -> None:
        add_demo()
        job_id = add_job()
        # The API has connections in its pool: those of a restarted server are dead.
        assert client.get(f"/jobs/{job_id}").json()["status"] == "queued"
        before = len(api.log())
        asked = 0
        with failing_postgres.away():
            for method, path in _operations():
                response = client.request(method, _filled(path, job_id), **_body(method, path))
                check_error(response, status=503, code="database_unavailable", param=None, message=["again"])
                assert int(response.headers["Retry-After"]) > 0, (method, path)
                if (method, path) != ("POST", "/jobs"):  # whose example is of a commit that nobody answered
                    assert response.json()["error"]["message"] == example_of(f"{method} {path}", 503)[2]
                asked += 1
            for path in ("/healthz", "/methods", "/metrics"):
                assert client.get(path).status_code == 200
            check_error(client.get("/readyz"), status=503, code="not_ready", param=None, message=["database", "log"])
        assert asked > 15

        # The requests of before, sent again as they were.
        assert client.get(f"/jobs/{job_id}").json()["status"] == "queued"
        made = [client.post("/jobs", json=job_body(), headers=KEY) for _ in range(2)]
        assert [response.status_code for response in made] == [202, 200]
        assert made[0].json()["id"] == made[1].json()["id"]
        assert client.post("/datasets", files={"train": ("a.csv", CSV)}).status_code == 202
        assert client.get("/readyz").status_code == 200

        said = [json.loads(line) for line in api.log()[before:].splitlines()]
        traces = [line for line in said if "exception" in line or "Traceback" in str(line)]
        assert traces == []
        assert len(said) <= 3 * asked + 20

    def test_that_refused_a_job_has_not_made_it(self, failing_postgres: Outage, client: httpx.Client) -> None:
        add_demo()
        with failing_postgres.away():
            for _ in range(3):
                assert client.post("/jobs", json=job_body(), headers=KEY).status_code == 503
        assert client.get("/jobs").json()["data"] == []
        assert client.post("/jobs", json=job_body(), headers=KEY).status_code == 202
        assert len(client.get("/jobs").json()["data"]) == 1


class TestUpload:
    def test_that_the_database_left_in_the_middle_leaves_nothing(
        self, failing_postgres: Outage, client: httpx.Client, store: ObjectStore
    ) -> None:
        """The file is in the store before its row: a refused upload must not stay there."""
        before = _stored(store)

        def body() -> Iterator[bytes]:
            head = '--x\r\nContent-Disposition: form-data; name="train"; filename="a.csv"\r\n\r\n'
            yield head.encode() + CSV
            # The API has begun: it has noted in the database where leftovers would be.
            wait_until(_noted_places)
            failing_postgres.stop()
            yield CSV + b"\r\n--x--\r\n"

        media_type = {"Content-Type": "multipart/form-data; boundary=x"}
        response = client.post("/datasets", content=body(), headers=media_type)
        failing_postgres.start()
        check_error(response, status=503, code="database_unavailable", param=None, message=["again"])
        assert int(response.headers["Retry-After"]) > 0
        assert _stored(store) == before

        kept = client.post("/datasets", files={"train": ("a.csv", CSV)})
        assert kept.status_code == 202
        assert [row["id"] for row in client.get("/datasets").json()["data"]] == [kept.json()["id"]]
        make_cleanups_due()
        sweep_once()
        assert _stored(store) == before | {f"datasets/{kept.json()['id']}/uploads/train.csv"}
        assert _noted_places() == []


class TestRunUnderWay:
    def test_goes_on_through_an_outage_that_is_longer_than_its_lease(
        self, failing_postgres: Outage, script: Script, start_worker: StartWorker, change_settings: ChangeSettings
    ) -> None:
        """Harm: a database that is restarted costs every job that runs what it did since its last checkpoint."""
        # The sweep asks far more often than the worker, so it finds the database back first.
        settings = change_settings(lease_seconds=3, heartbeat_seconds=1, sweep_seconds=0.02)
        jobs.add_inputs()
        script.play("steered")
        job_id = jobs.post_job(jobs.api())
        worker = start_worker()
        script.tell(job_id, "checkpoint")
        wait_for(lambda: jobs.checkpoint_steps(job_id) == [STEP], 30, "checkpoint", process=worker)

        sweeper = SweepThread(settings)
        sweeper.start()
        try:
            with failing_postgres.away():
                script.tell(job_id, "checkpoint")
                script.tell(job_id, "progress")
                time.sleep(settings.lease_seconds)
                wait_for(lambda: _failed_renewals(worker.log) >= 3, 30, "third try to renew", process=worker)
            steps = [STEP, 2 * STEP]
            wait_for(lambda: jobs.checkpoint_steps(job_id) == steps, 60, "late checkpoint", process=worker)
            wait_for(lambda: read_job(job_id).progress == 0.3, 60, "late progress", process=worker)
        finally:
            sweeper.stop()

        script.tell(job_id, "finish")
        wait_for(lambda: read_job(job_id).status == "succeeded", 60, "success", process=worker)
        assert jobs.attempts_of(job_id) == [(1, "succeeded", None)]
        jobs.check_student(job_id)


def _failed_renewals(log: Path) -> int:
    return log.read_text(errors="replace").count('"lease_not_renewed"')


def _operations() -> Iterator[tuple[str, str]]:
    """Every operation that says that it needs the database, but the one that is asked whether it is there."""
    paths = create_app(get_settings()).openapi()["paths"]
    for path, operations in paths.items():
        for method, operation in operations.items():
            if "503" in operation["responses"] and path != "/readyz":
                yield method.upper(), path


def _filled(path: str, job_id: str) -> str:
    return path.format(job_id=job_id, dataset_id="dts_demo", teacher_id="tch_demo", name="student.tar.gz")


def _body(method: str, path: str) -> dict[str, Any]:
    """What a request needs that is otherwise accepted."""
    bodies: dict[tuple[str, str], dict[str, Any]] = {
        ("POST", "/jobs"): {"json": job_body(), "headers": KEY},
        ("POST", "/datasets"): {"files": {"train": ("a.csv", CSV)}},
        ("POST", "/teachers"): {"json": {"source": {"type": "hub", "repo": "org/name", "revision": "main"}}},
    }
    return bodies.get((method, path), {})


def _stored(store: ObjectStore) -> set[str]:
    return {stored.key for stored in store.list("datasets")}


def _noted_places() -> list[str]:
    with read_session() as session:
        return list(session.scalars(select(ObjectCleanup.object_prefix)))
