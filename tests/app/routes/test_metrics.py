import pytest
from fastapi.testclient import TestClient

from app.db.session import write_session
from app.repositories import metrics
from tests.app.routes.helpers import check_error
from tests.fixtures.factories import add_job, claimed

pytestmark = pytest.mark.usefixtures("database")


def job_with_points(*points: tuple[str, int, float]) -> str:
    job_id = add_job()
    with write_session() as session:
        metrics.upsert(session, claimed(), points)
    return job_id


class TestListMetrics:
    def test_groups_points_into_series_by_step(self, client: TestClient) -> None:
        job_id = job_with_points(
            ("train/loss", 20, 0.5), ("train/loss", 10, 0.9), ("accuracy", 20, 0.75), ("train/loss", 10, 0.8)
        )
        assert client.get(f"/jobs/{job_id}/metrics").json()["data"] == [
            {"series": "accuracy", "points": [{"step": 20, "value": 0.75}]},
            {"series": "train/loss", "points": [{"step": 10, "value": 0.8}, {"step": 20, "value": 0.5}]},
        ]

    def test_gives_the_series_asked_for(self, client: TestClient) -> None:
        job_id = job_with_points(("a", 1, 1.0), ("b", 1, 2.0), ("c", 1, 3.0))
        found = client.get(f"/jobs/{job_id}/metrics?series=a&series=c").json()["data"]
        assert [series["series"] for series in found] == ["a", "c"]

    def test_shows_what_was_not_finite_as_null(self, client: TestClient) -> None:
        job_id = job_with_points(("loss", 1, float("nan")))
        assert client.get(f"/jobs/{job_id}/metrics").json()["data"][0]["points"] == [{"step": 1, "value": None}]

    def test_is_empty_before_the_first_value(self, client: TestClient) -> None:
        assert client.get(f"/jobs/{add_job()}/metrics").json() == {"data": [], "has_more": False, "next": None}

    def test_refuses_a_zero_byte(self, client: TestClient) -> None:
        response = client.get(f"/jobs/{add_job()}/metrics?series=%00")
        check_error(response, status=422, code="wrong_form", param="series", message=["zero byte"])

    def test_names_a_job_that_is_not_there(self, client: TestClient) -> None:
        response = client.get("/jobs/job_unknown/metrics")
        check_error(response, status=404, code="job_not_found", param="job_id", message=["'job_unknown'"])
