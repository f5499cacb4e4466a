"""The schema comes from the migrations, everywhere; these tests keep them equal to the models."""

import uuid
from pathlib import Path
from typing import Any

import pytest
from alembic.util import CommandError
from sqlalchemy import inspect, text

from app.db import migrate
from app.db.base import Base
from app.db.session import get_engine, write_session
from app.domain.files import StoredFile
from app.domain.leases import Claim
from app.repositories import checkpoints, jobs, leases
from app.repositories.checkpoints import CheckpointFacts
from app.settings import get_settings
from tests.bad_days import older_rows
from tests.bad_days.jobs import api
from tests.fixtures.database import new_postgres_database
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import add_job, claimed, read_job
from tests.fixtures.racing import race

# By table.
Columns = dict[str, list[str]]


@pytest.fixture(params=["sqlite", "postgres"])
def empty_database(request: pytest.FixtureRequest, change_settings: ChangeSettings) -> str:
    """A database without tables as the settings' database."""
    if request.param == "sqlite":
        return change_settings().database_url
    server = request.getfixturevalue("postgres")
    url = new_postgres_database(server, f"migrations_{uuid.uuid4().hex}")
    return change_settings(database_url=url).database_url


@pytest.mark.usefixtures("empty_database")
class TestUpgrade:
    def test_makes_the_tables_of_the_models(self) -> None:
        assert migrate.is_behind()
        migrate.upgrade()
        migrate.check()
        assert not migrate.is_behind()
        assert set(inspect(get_engine()).get_table_names()) == {*Base.metadata.tables, "alembic_version"}

    def test_makes_the_partial_indexes_of_the_models(self) -> None:
        """Alembic's check does not compare the condition of an index."""
        migrate.upgrade()
        catalog = "sqlite_master" if get_settings().embedded else "pg_indexes"
        column = "sql" if get_settings().embedded else "indexdef"
        name = "name" if get_settings().embedded else "indexname"
        with write_session() as session:
            for table in ("jobs", "datasets", "teachers"):
                query = text(f"SELECT {column} FROM {catalog} WHERE {name} = 'ix_{table}_lease_expires_at'")
                assert "run_token IS NOT NULL" in (session.scalar(query) or "")
            claim = session.scalar(text(f"SELECT {column} FROM {catalog} WHERE {name} = 'ix_jobs_claim'")) or ""
            assert "priority DESC, created_at, id)" in claim
            assert "status" in claim
            assert "'queued'" in claim

    def test_lets_several_processes_upgrade_at_once(self) -> None:
        race(3, lambda _number: migrate.upgrade())
        migrate.check()

    def test_changes_nothing_the_second_time(self) -> None:
        migrate.upgrade()
        job_id = add_job()
        migrate.upgrade()
        with write_session() as session:
            assert session.scalar(text("SELECT id FROM jobs")) == job_id


@pytest.mark.usefixtures("empty_database")
class TestCheck:
    def test_names_a_difference(self) -> None:
        migrate.upgrade()
        with write_session() as session:
            session.execute(text("DROP INDEX ix_jobs_teacher_id_created_at_id"))
        with pytest.raises(CommandError, match="ix_jobs_teacher_id_created_at_id"):
            migrate.check()


@pytest.mark.usefixtures("empty_database")
class TestDowngrade:
    def test_leaves_nothing_and_can_be_upgraded_again(self) -> None:
        migrate.upgrade()
        migrate.downgrade()
        assert inspect(get_engine()).get_table_names() == ["alembic_version"]
        assert migrate.is_behind()
        migrate.upgrade()
        migrate.check()


@pytest.fixture
def older_columns(empty_database: str) -> Columns:  # noqa: ARG001
    """A database of the first release with rows in every table; gives the columns that it had."""
    migrate.upgrade(revision=older_rows.REVISION)
    with get_engine().begin() as connection:
        older_rows.insert_all(connection)
        return older_rows.older_columns(connection)


class TestRowsOfAnOlderRelease:
    def test_keep_every_value_forwards_and_back(self, older_columns: Columns) -> None:
        assert set(older_rows.ROWS) == set(older_columns)
        before = _snapshot(older_columns)
        assert {table: len(rows) for table, rows in before.items()} == {
            table: len(rows) for table, rows in older_rows.ROWS.items()
        }
        migrate.upgrade()
        migrate.check()
        assert _snapshot(older_columns) == before
        migrate.downgrade(revision=older_rows.REVISION)
        assert _snapshot(older_columns) == before
        with get_engine().connect() as connection:
            assert older_rows.older_columns(connection) == older_columns
        migrate.upgrade()
        migrate.check()
        assert _snapshot(older_columns) == before

    @pytest.mark.usefixtures("older_columns")
    def test_are_served(self) -> None:
        migrate.upgrade()
        client = api()
        for table in ("jobs", "datasets", "teachers"):
            rows = {row["id"]: row for row in older_rows.ROWS[table]}
            assert {row["id"] for row in client.get(f"/{table}?limit=100").json()["data"]} == set(rows)
            for row_id, row in rows.items():
                served = client.get(f"/{table}/{row_id}").json()
                assert served["status"] == row["status"], served
                assert served["created_at"] == "2026-01-05T12:00:00.250000Z"
                assert (served["error"] or {}).get("code") == row["error_code"]
        job = client.get("/jobs/job_1running").json()
        assert (job["priority"], job["time_limit_seconds"], job["metadata"]) == (0, None, {"team": "zürich \U0001f600"})
        assert (job["progress"], job["metrics"], job["baselines"]) == (0.5, {"loss": 0.25}, [{"type": "fine_tune"}])

        hanging = {name: client.get(f"/jobs/job_4succeeded/{name}").json()["data"] for name in ("artifacts", "metrics")}
        assert [artifact["name"] for artifact in hanging["artifacts"]] == ["onnx/model.onnx"]
        points = [(point["step"], point["value"]) for point in hanging["metrics"][0]["points"]]
        assert points == [(row["step"], row["value"]) for row in older_rows.ROWS["metrics"]]
        checkpoint = client.get("/jobs/job_5failed/checkpoints").json()["data"][0]
        assert (checkpoint["step"], checkpoint["arm"], checkpoint["is_best"]) == (40, None, False)
        assert client.get("/jobs/job_5failed/attempts").json()["data"] == []
        events = client.get("/jobs/job_1running/events").json()["data"]
        assert [event["sequence"] for event in events] == [1, 2]

    @pytest.mark.usefixtures("older_columns")
    def test_are_worked_on(self) -> None:
        migrate.upgrade()
        assert [claimed().id for _ in range(3)] == ["dts_pending", "tch_pending", "job_0queued"]
        # The worker of the older release goes on while it is replaced last.
        running = Claim("job", "job_1running", older_rows.TOKEN, 1)
        with write_session() as session:
            assert leases.renew(session, running, 30, run_seconds=1.5) == "running"
        with write_session() as session:
            files: list[StoredFile] = [{"path": "a", "size_bytes": 1, "sha256": older_rows.SHA256}]
            checkpoints.record(session, running, CheckpointFacts(step=80), object_prefix="jobs/x", files=files)
        with write_session() as session:
            jobs.finish_succeeded(session, running, result={}, artifacts=[])
        assert read_job("job_1running").status == "succeeded"

        with write_session() as session:
            assert leases.take_back_expired(session, max_attempts=3).requeued == [("job", "job_2lost")]
        with write_session() as session:
            assert jobs.resume(session, "job_3paused") is not None
            assert jobs.retry(session, "job_5failed", from_start=False) is not None
        again = [claimed() for _ in range(3)]
        assert [(claim.id, claim.attempt) for claim in again] == [
            ("job_2lost", 2),
            ("job_3paused", 2),
            ("job_5failed", 2),
        ]
        for job_id in ("job_2lost", "job_5failed"):
            with write_session() as session:
                newest = checkpoints.latest(session, job_id)
            assert newest is not None
            assert newest.step == 40
            assert [row["number"] for row in api().get(f"/jobs/{job_id}/attempts").json()["data"]] == [2]

    @pytest.mark.usefixtures("older_columns")
    def test_answer_a_client_that_sends_its_request_again(self) -> None:
        """Harm: the retry of a request that was cut off by the upgrade is refused, or makes a second job."""
        migrate.upgrade()
        response = api().post("/jobs", json=older_rows.BODY, headers={"Idempotency-Key": older_rows.BODY_KEY})
        assert (response.status_code, response.json().get("id")) == (200, "job_0queued"), response.text


@pytest.mark.usefixtures("empty_database")
class TestWarningsOfAnOlderRelease:
    def test_come_from_the_events_into_the_job(self) -> None:
        """Harm: a job is said to have no warnings which has, for good where it has ended."""
        migrate.upgrade(revision="0004")
        said: list[tuple[str, dict[str, Any]]] = [
            ("warning", {"code": "padding_in_texts", "message": "three rows"}),
            ("resumed", {"step": 40, "exact_resume": False}),
            ("warning", {"code": "inexact_resume", "message": "threads"}),
            ("resumed", {"step": 40, "exact_resume": True}),
            ("warning", {"code": "padding_in_texts", "message": "four rows"}),
        ]
        with get_engine().begin() as connection:
            for job_id, told in (("job_1", said), ("job_2", said[:3]), ("job_3", [])):
                older_rows.insert(connection, "jobs", older_rows.job(job_id, "failed"))
                for sequence, (kind, payload) in enumerate(told, start=1):
                    event = {"sequence": sequence, "type": kind, "payload": payload, "created_at": older_rows.NOON}
                    older_rows.insert(connection, "job_events", {"job_id": job_id, **event})
        migrate.upgrade()
        warnings = {job["id"]: job["warnings"] for job in api().get("/jobs").json()["data"]}
        assert warnings == {
            "job_1": [{"code": "padding_in_texts", "message": "four rows"}],
            "job_2": [
                {"code": "padding_in_texts", "message": "three rows"},
                {"code": "inexact_resume", "message": "threads"},
            ],
            "job_3": [],
        }


@pytest.mark.usefixtures("empty_database")
class TestOlderReleaseBesideThisOne:
    def test_can_insert_and_claim_jobs(self) -> None:
        """While processes are replaced one by one, those of before still run."""
        migrate.upgrade()
        lease = {"run_token": older_rows.TOKEN, "lease_expires_at": older_rows.NOON, "attempt": 1}
        with get_engine().begin() as connection:
            older_rows.insert(connection, "jobs", older_rows.job("job_queued", "queued"))
            older_rows.insert(connection, "jobs", older_rows.job("job_running", "running", **lease))
        urgent = add_job(priority=1)
        with write_session() as session:
            assert leases.take_back_expired(session, max_attempts=3).requeued == [("job", "job_running")]
        claims = [claimed() for _ in range(3)]
        assert [(claim.id, claim.attempt) for claim in claims] == [(urgent, 1), ("job_queued", 1), ("job_running", 2)]
        job = read_job("job_queued")
        assert (job.priority, job.run_seconds, job.time_limit_seconds, job.request_id) == (0, 0.0, None, None)

    def test_finds_the_jobs_of_this_one_after_a_downgrade(self) -> None:
        migrate.upgrade()
        waiting, failed = add_job(priority=3, time_limit_seconds=60.0), add_job(priority=4)
        claim = claimed()
        assert claim.id == failed
        with write_session() as session:
            jobs.finish_failed(session, claim, code="nan_loss", message="Lower the rate.")
        migrate.downgrade(revision=older_rows.REVISION)
        with get_engine().connect() as connection:
            query = "SELECT id, status, attempt, run_token, error_code FROM jobs"
            rows = {tuple(row) for row in connection.exec_driver_sql(query)}
        assert rows == {(waiting, "queued", 0, None, None), (failed, "failed", 1, None, "nan_loss")}


def _snapshot(columns: Columns) -> dict[str, list[tuple[Any, ...]]]:
    with get_engine().connect() as connection:
        return older_rows.snapshot(connection, columns)


class TestScripts:
    def test_lie_beside_the_app_package(self) -> None:
        """A wheel installs both into site-packages."""
        assert (migrate.SCRIPTS / "env.py").is_file()
        assert migrate.SCRIPTS.parent == Path(migrate.__file__).parents[2]
