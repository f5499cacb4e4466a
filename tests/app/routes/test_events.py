import pytest
from fastapi.testclient import TestClient

from app.db.session import write_session
from app.repositories import jobs
from tests.app.routes.helpers import check_error
from tests.fixtures.factories import add_job, claimed

pytestmark = pytest.mark.usefixtures("database")


def job_with_rounds(count: int) -> str:
    job_id = add_job()
    with write_session() as session:
        jobs.add_events(
            session,
            claimed(),
            [{"type": "round", "payload": {"round": number, "loss": 0.5}} for number in range(count)],
        )
    return job_id


class TestListEvents:
    def test_gives_oldest_first_with_sequence_time_and_payload(self, client: TestClient) -> None:
        page = client.get(f"/jobs/{job_with_rounds(1)}/events").json()
        assert [(event["sequence"], event["type"]) for event in page["data"]] == [
            (1, "status"),
            (2, "status"),
            (3, "round"),
        ]
        assert page["data"][2]["payload"] == {"round": 0, "loss": 0.5}
        assert page["data"][2]["created_at"].endswith("Z")
        assert (page["has_more"], page["next"]) == (False, None)

    def test_goes_on_after_a_sequence(self, client: TestClient) -> None:
        url = f"/jobs/{job_with_rounds(5)}/events"
        page = client.get(url, params={"limit": 4}).json()
        assert (page["has_more"], page["next"]) == (True, "4")
        rest = client.get(url, params={"limit": 4, "after": page["next"]}).json()
        assert [event["sequence"] for event in rest["data"]] == [5, 6, 7]
        assert client.get(url, params={"after": 7}).json()["data"] == []

    @pytest.mark.parametrize(
        ("query", "code", "param"),
        [
            ("after=-1", "out_of_range", "after"),
            ("after=2147483648", "out_of_range", "after"),
            ("after=99999999999999999999", "wrong_form", "after"),
            ("after=1%0D", "wrong_form", "after"),
            ("limit=1001", "out_of_range", "limit"),
            ("since=1", "unknown_field", "since"),
        ],
    )
    def test_refuses(self, client: TestClient, query: str, code: str, param: str) -> None:
        response = client.get(f"/jobs/{add_job()}/events?{query}")
        check_error(response, status=422, code=code, param=param, message=[])

    def test_names_a_job_that_is_not_there(self, client: TestClient) -> None:
        response = client.get("/jobs/job_unknown/events")
        check_error(response, status=404, code="job_not_found", param="job_id", message=["'job_unknown'"])
