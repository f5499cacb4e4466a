"""What a database that serves badly, or in parts, does to a request."""

import uuid
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.db import migrate
from app.main import create_app
from app.settings import get_settings
from tests.app.routes.helpers import add_demo, check_error, commit_answers_lost, job_body
from tests.fixtures.database import Primary, new_postgres_database
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import add_job

KEY = {"Idempotency-Key": "once"}


class TestDemotedDatabase:
    def test_is_503_until_one_that_takes_writes_is_found(self, primary: Primary) -> None:
        """Harm: after a failover every POST is answered with 500, for as long as the connections live."""
        client = TestClient(create_app(get_settings()), raise_server_exceptions=False)
        add_demo()
        primary.demote()
        for _ in range(2):
            response = client.post("/jobs", json=job_body())
            check_error(response, status=503, code="database_unavailable", param=None, message=["Nothing was changed"])
        primary.promote()
        assert client.post("/jobs", json=job_body()).status_code == 202


class TestDatabaseNotMigrated:
    @pytest.fixture(params=["sqlite", "postgres"])
    def empty_database(self, request: pytest.FixtureRequest, change_settings: ChangeSettings, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path}/empty.db"
        if request.param == "postgres":
            url = new_postgres_database(request.getfixturevalue("postgres"), f"errors_{uuid.uuid4().hex}")
        change_settings(database_url=url)

    @pytest.mark.usefixtures("empty_database")
    def test_says_what_to_run(self) -> None:
        """Harm: "does not answer now, try again later", for ever."""
        client = TestClient(create_app(get_settings()), raise_server_exceptions=False)
        for response in (client.get("/jobs"), client.post("/jobs", json=job_body())):
            check_error(
                response, status=503, code="database_not_migrated", param=None, message=["`stillhouse migrate`"]
            )
            assert response.json()["error"]["type"] == "unavailable"

    @pytest.mark.usefixtures("sqlite_database")
    def test_is_also_one_that_lacks_the_newest_migrations(self, client: TestClient) -> None:
        migrate.downgrade(get_settings(), "0004")  # those behind it add what every answer reads
        response = client.get("/jobs")
        check_error(response, status=503, code="database_not_migrated", param=None, message=["`stillhouse migrate`"])


@pytest.mark.usefixtures("postgres_database")
class TestUnansweredCommit:
    """The database did what it was asked for, and the connection broke before it said so."""

    def test_of_a_new_job_says_how_to_find_out(self, client: TestClient) -> None:
        """Harm: told that nothing was changed, the client sends it again and two jobs run."""
        add_demo()
        with commit_answers_lost():
            response = client.post("/jobs", json=job_body())
        message = ["may or may not", "GET /jobs", "Idempotency-Key"]
        check_error(response, status=503, code="database_unavailable", param=None, message=message)
        assert len(client.get("/jobs").json()["data"]) == 1

    def test_of_a_job_with_a_key_says_to_send_it_again(self, client: TestClient) -> None:
        add_demo()
        with commit_answers_lost():
            response = client.post("/jobs", json=job_body(), headers=KEY)
        message = ["may or may not", "again later with the same Idempotency-Key"]
        check_error(response, status=503, code="database_unavailable", param=None, message=message)
        assert client.post("/jobs", json=job_body(), headers=KEY).status_code == 200
        assert len(client.get("/jobs").json()["data"]) == 1

    def test_of_another_change_says_to_look(self, client: TestClient) -> None:
        job_id = add_job()
        with commit_answers_lost():
            response = client.post(f"/jobs/{job_id}/cancel")
        message = ["may or may not", "Look with GET later"]
        check_error(response, status=503, code="database_unavailable", param=None, message=message)
        assert client.get(f"/jobs/{job_id}").json()["status"] == "cancelled"
