import pytest
from fastapi.testclient import TestClient

from app.db.session import read_session, write_session
from app.repositories import idempotency, jobs
from app.settings import get_settings
from tests.app.routes.helpers import add_demo, check_error, job_body
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import add_job
from tests.fixtures.racing import race

pytestmark = pytest.mark.usefixtures("database")


def post(client: TestClient, key: str = "k1", **changes: object) -> tuple[int, str]:
    response = client.post("/jobs", json=job_body(**changes), headers={"Idempotency-Key": key})
    return response.status_code, response.json().get("id", "")


class TestIdempotencyKey:
    def test_gives_the_same_job_for_the_same_body(self, client: TestClient) -> None:
        add_demo()
        status, first = post(client)
        assert status == 202
        assert post(client) == (200, first)
        assert post(client, key="k2")[1] != first

    def test_sees_the_same_body_behind_another_spelling(self, client: TestClient) -> None:
        add_demo()
        _, first = post(client)
        assert post(client, method={"type": "sage", "rounds": 4}, metadata={}) == (200, first)

    def test_refuses_another_body(self, client: TestClient) -> None:
        add_demo()
        post(client)
        response = client.post("/jobs", json=job_body(student={"layers": 2}), headers={"Idempotency-Key": "k1"})
        check_error(
            response, status=409, code="idempotency_conflict", param="Idempotency-Key", message=["'k1'", "new key"]
        )

    def test_gives_the_job_also_after_its_dataset_is_gone(self, client: TestClient) -> None:
        add_demo()
        _, first = post(client)
        client.post(f"/jobs/{first}/cancel")
        assert client.delete("/datasets/dts_demo").status_code == 204
        assert post(client) == (200, first)

    @pytest.mark.parametrize(
        ("named", "of_an_older_release"),
        [
            ({}, "13496478b2c3c9a6e5be815b83358eb05fffa0433510862b754938aa1d62f911"),
            (
                {"training": {"learning_rate": 5e-5}, "teacher_tuning": {"learning_rate": 3e-5}},
                "8d7ae26eb2b486165d1a47b6357ec56b138ec67927f9b4929dcf1af74a39739f",
            ),
        ],
    )
    def test_knows_bodies_from_before_learning_rates_went_by_width(
        self, client: TestClient, named: dict[str, object], of_an_older_release: str
    ) -> None:
        """Harm: a request sent again after an upgrade is refused as another one."""
        add_demo(teacher={"hidden_size": 768})
        job_id = add_job()
        with write_session() as session:
            idempotency.take(session, key="k1", body_sha256=of_an_older_release, job_id=job_id, hours=24)
        assert post(client, **named) == (200, job_id)

    def test_is_free_again_after_its_time(self, client: TestClient, change_settings: ChangeSettings) -> None:
        add_demo()
        _, first = post(client)
        client.app.state.settings = change_settings(idempotency_hours=1e-9)  # type: ignore[attr-defined]
        status, second = post(client)
        assert (status, second != first) == (202, True)

    def test_makes_one_job_of_racing_requests(self, client: TestClient) -> None:
        add_demo()
        answers = race(8, lambda _: post(client))
        assert len({job_id for _, job_id in answers}) == 1
        assert sorted(status for status, _ in answers) == [200] * 7 + [202]
        with read_session(get_settings()) as session:
            assert len(jobs.list_page(session).rows) == 1

    @pytest.mark.parametrize("key", ["with space", "x" * 256, ""])
    def test_has_to_be_a_plain_string(self, client: TestClient, key: str) -> None:
        response = client.post("/jobs", json=job_body(), headers={"Idempotency-Key": key})
        assert response.status_code == 422
        assert response.json()["error"]["param"] == "Idempotency-Key"
