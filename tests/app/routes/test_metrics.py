import random
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import insert, text

from app.db.models import Metric
from app.db.session import write_session
from app.repositories import metrics
from app.services.metrics import MOST_POINTS, SERIES_PER_PAGE
from tests.app.routes.helpers import check_error
from tests.fixtures.factories import add_job, claimed

pytestmark = pytest.mark.usefixtures("database")


def read(client: TestClient, job_id: str, **query: Any) -> list[dict[str, Any]]:
    response = client.get(f"/jobs/{job_id}/metrics", params=query)
    assert response.status_code == 200, response.text
    data: list[dict[str, Any]] = response.json()["data"]
    return data


def curve(series: dict[str, Any]) -> list[tuple[int, float | None]]:
    return [(point["step"], point["value"]) for point in series["points"]]


def add_points(job_id: str, series: str, points: list[tuple[int, float | None]]) -> None:
    rows = [{"job_id": job_id, "series": series, "step": step, "value": value} for step, value in points]
    with write_session() as session:
        session.execute(insert(Metric), rows)


def add_noise(job_id: str, series: str, count: int) -> None:
    """Points at the steps 1 to `count`, written by the database itself: many of them in no time."""
    numbers = "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)"
    with write_session() as session:
        session.execute(
            text(
                f"{numbers} INSERT INTO metrics (job_id, series, step, value) "
                "SELECT :job_id, :series, n, (n * 7919 % 1000) / 1000.0 FROM numbers"
            ),
            {"count": count, "job_id": job_id, "series": series},
        )


def set_point(job_id: str, series: str, step: int, value: float | None) -> None:
    with write_session() as session:
        session.execute(
            text("UPDATE metrics SET value = :value WHERE job_id = :job_id AND series = :series AND step = :step"),
            {"job_id": job_id, "series": series, "step": step, "value": value},
        )


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
            {"series": "accuracy", "total": 1, "downsampled": False, "points": [{"step": 20, "value": 0.75}]},
            {
                "series": "train/loss",
                "total": 2,
                "downsampled": False,
                "points": [{"step": 10, "value": 0.8}, {"step": 20, "value": 0.5}],
            },
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


class TestDownsampling:
    def test_leaves_a_short_series_as_it_is(self, client: TestClient) -> None:
        job_id = add_job()
        points = [(step, float(step % 7)) for step in range(0, 10_000, 10)]
        add_points(job_id, "loss", points)
        (series,) = read(client, job_id)
        assert curve(series) == points
        assert (series["total"], series["downsampled"]) == (1000, False)
        (series,) = read(client, job_id, points=999)
        assert (series["total"], series["downsampled"]) == (1000, True)
        assert len(series["points"]) <= 999

    def test_keeps_spikes_gaps_and_both_ends_of_a_long_series(self, client: TestClient) -> None:
        """A loss that jumps once in 200,000 steps, or is no number once, is what the reader looks for."""
        job_id = add_job()
        add_noise(job_id, "loss", 200_000)
        for step, value in [(77_777, 1e6), (77_779, -1e6), (77_778, None), (123_456, 50.0), (199_000, None)]:
            set_point(job_id, "loss", step, value)
        (series,) = read(client, job_id)
        assert (series["total"], series["downsampled"]) == (200_000, True)
        points = curve(series)
        assert 600 < len(points) <= 1000
        assert {(77_777, 1e6), (77_779, -1e6), (77_778, None), (123_456, 50.0), (199_000, None)} <= set(points)
        assert (points[0], points[-1]) == ((1, 0.919), (200_000, 0.0))

    def test_gives_more_detail_of_a_range(self, client: TestClient) -> None:
        job_id = add_job()
        add_noise(job_id, "loss", 20_000)
        (series,) = read(client, job_id, from_step=5_000, to_step=14_999)
        assert (series["total"], series["downsampled"]) == (10_000, True)
        assert (series["points"][0]["step"], series["points"][-1]["step"]) == (5_000, 14_999)
        (series,) = read(client, job_id, from_step=5_000, to_step=5_999)
        assert (series["total"], series["downsampled"]) == (1_000, False)
        assert [step for step, _ in curve(series)] == list(range(5_000, 6_000))
        (series,) = read(client, job_id, from_step=5_000, to_step=5_000)
        assert [step for step, _ in curve(series)] == [5_000]
        assert read(client, job_id, from_step=20_001) == []

    @pytest.mark.parametrize("seed", range(8))
    def test_gives_points_of_the_series_alone_and_no_more_than_asked_for(self, client: TestClient, seed: int) -> None:
        """Whatever the steps and values are: gaps, ties, steps beyond 32 bits, crowds and loners."""
        random_source = random.Random(seed)
        job_id = add_job()
        spread = random_source.choice([2_000, 10_000, 10**12])
        steps = sorted(random_source.sample(range(spread), 1_500) + [10**15] * (seed % 2))
        values: list[float | None] = [0.0, 0.5, 1.0, None] if seed % 3 == 0 else [random_source.random() for _ in steps]
        stored = [(step, random_source.choice(values)) for step in steps]
        add_points(job_id, "loss", stored)
        limit = random_source.choice([10, 11, 100, 1_400])
        (series,) = read(client, job_id, points=limit)
        points = curve(series)
        assert series["total"] == len(stored)
        assert len(points) <= limit
        assert set(points) <= set(stored)
        assert [step for step, _ in points] == sorted({step for step, _ in points})
        assert (points[0], points[-1]) == (stored[0], stored[-1])
        finite = [value for _, value in stored if value is not None]
        assert {min(finite), max(finite)} <= {value for _, value in points}
        assert any(value is None for _, value in points) == any(value is None for _, value in stored)

    def test_downsamples_each_series_by_itself(self, client: TestClient) -> None:
        job_id = add_job()
        add_noise(job_id, "long", 5_000)
        add_points(job_id, "short", [(1, 0.5), (5_000, 0.25)])
        add_noise(add_job(), "long", 10)
        found = {series["series"]: series for series in read(client, job_id, points=50)}
        assert list(found) == ["long", "short"]
        assert (found["long"]["total"], found["long"]["downsampled"]) == (5_000, True)
        assert curve(found["short"]) == [(1, 0.5), (5_000, 0.25)]

    def test_shares_a_page_among_many_series(self, client: TestClient) -> None:
        job_id = add_job()
        names = [f"series/{number:03}" for number in range(SERIES_PER_PAGE + 5)]
        for name in names[:10]:
            add_noise(job_id, name, 1_000)
        for name in names[10:]:
            add_points(job_id, name, [(1, 1.0)])
        page = client.get(f"/jobs/{job_id}/metrics?points=10000").json()
        assert [series["series"] for series in page["data"]] == names[:SERIES_PER_PAGE]
        assert page["has_more"]
        assert page["data"][0]["downsampled"]
        assert len(page["data"][0]["points"]) <= MOST_POINTS // SERIES_PER_PAGE
        rest = client.get(f"/jobs/{job_id}/metrics", params={"after": page["next"]}).json()
        assert [series["series"] for series in rest["data"]] == names[SERIES_PER_PAGE:]
        assert (rest["has_more"], rest["next"]) == (False, None)

    @pytest.mark.parametrize(
        ("query", "code", "param"),
        [
            ("points=9", "out_of_range", "points"),
            ("points=10001", "out_of_range", "points"),
            ("points=x", "wrong_form", "points"),
            ("from_step=-1", "out_of_range", "from_step"),
            ("to_step=1.5", "wrong_form", "to_step"),
            ("to_step=9999999999999999999", "wrong_form", "to_step"),
            ("from_step=500&to_step=100", "out_of_range", "to_step"),
            ("after=%00", "wrong_form", "after"),
            ("step=1", "unknown_field", "step"),
        ],
    )
    def test_refuses(self, client: TestClient, query: str, code: str, param: str) -> None:
        response = client.get(f"/jobs/{add_job()}/metrics?{query}")
        check_error(response, status=422, code=code, param=param, message=[])
