import pytest
from fastapi.testclient import TestClient

from app.db.session import read_session, write_session
from app.repositories import events, jobs
from tests.app.routes.helpers import add_demo, check_error, failed_job, job_body, running_job, succeeded_job
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import add_job, add_teacher, claimed, read_job, ready_teacher
from tests.fixtures.servers import free_port

pytestmark = pytest.mark.usefixtures("database")


class TestCreateJob:
    def test_queues_the_job_with_every_default_written_out(self, client: TestClient) -> None:
        add_demo()
        response = client.post("/jobs", json=job_body(baselines=["kd", "fine_tune"], metadata={"team": "search"}))
        assert response.status_code == 202
        job = response.json()
        assert response.headers["Location"] == f"/jobs/{job['id']}"
        assert (job["status"], job["terminal"], job["progress"]) == ("queued", False, 0)
        assert job["method"]["type"] == "sage"
        assert job["method"]["anchor_quantile"] == 0.2
        assert job["baselines"] == [{"type": "kd", "temperature": 2.0, "alpha": 0.9}, {"type": "fine_tune"}]
        assert job["teacher_tuning"]["epochs"] == 3.0
        assert job["metadata"] == {"team": "search"}
        assert client.get(f"/jobs/{job['id']}").json() == job

    def test_stores_the_learning_rates_that_the_teachers_width_asks_for(self, client: TestClient) -> None:
        """Harm: a wide teacher's job learns at the rate of a narrow one, or its rates are unknown to who reads it."""
        add_demo(teacher={"hidden_size": 768})
        job = client.post("/jobs", json=job_body(training={"learning_rate": None})).json()
        assert (job["training"]["learning_rate"], job["teacher_tuning"]["learning_rate"]) == (5e-5, 2.5e-5)
        stored = read_job(job["id"])
        assert (stored.training, stored.teacher_tuning) == (job["training"], job["teacher_tuning"])

    def test_lets_baselines_take_over_the_parameters_of_the_method(self, client: TestClient) -> None:
        add_demo()
        method = {"type": "sage", "temperature": 4, "rounds": 2, "warmup_epochs": 0.5}
        job = client.post("/jobs", json=job_body(method=method, baselines=["random_anchors"])).json()
        baseline = read_job(job["id"]).baselines[0]
        assert (baseline["temperature"], baseline["rounds"], baseline["warmup_epochs"]) == (4.0, 2, 0.5)
        assert "anchor_quantile" not in baseline

    def test_begins_the_job_s_events(self, client: TestClient) -> None:
        add_demo()
        job = client.post("/jobs", json=job_body()).json()
        with read_session() as session:
            assert [event.type for event in events.list_after(session, job["id"])] == ["status"]

    def test_answers_202_while_the_broker_is_down(self, client: TestClient, change_settings: ChangeSettings) -> None:
        add_demo()
        settings = change_settings(broker_url=f"redis://127.0.0.1:{free_port()}/0")
        client.app.state.settings = settings  # type: ignore[attr-defined]
        response = client.post("/jobs", json=job_body())
        assert response.status_code == 202
        assert read_job(response.json()["id"]).status == "queued"


class TestListJobs:
    def test_gives_newest_first_in_pages_without_gap_or_double(self, client: TestClient) -> None:
        made = [add_job() for _ in range(5)]
        found: list[str] = []
        after = None
        for _ in range(3):
            page = client.get("/jobs", params={"limit": 2, **({"after": after} if after else {})}).json()
            found += [job["id"] for job in page["data"]]
            after = page["next"]
        assert found == made[::-1]
        assert (page["has_more"], page["next"]) == (False, None)

    def test_filters_by_several_statuses(self, client: TestClient) -> None:
        running = running_job()
        failed = failed_job()
        add_job()
        found = client.get("/jobs?status=running&status=failed").json()["data"]
        assert {job["id"] for job in found} == {running, failed}

    def test_filters_by_metadata(self, client: TestClient) -> None:
        search = add_job(metadata={"team": "search", "run": "a:b"})
        ads = add_job(metadata={"team": "ads"})
        add_job()

        def ids(*filters: str) -> list[str]:
            return [job["id"] for job in client.get("/jobs", params={"metadata": filters}).json()["data"]]

        assert ids("team:search") == [search]
        assert ids("team") == [ads, search]
        assert ids("team", "run:a:b") == [search]
        assert ids("team:nobody") == []

    def test_filters_by_teacher_and_dataset(self, client: TestClient) -> None:
        """Harm: to see what is in the way of a teacher that is to be deleted, one reads every job there is."""
        first = add_job(teacher_id="tch_a", dataset_id="dts_a", metadata={"team": "search"})
        second = add_job(teacher_id="tch_a", dataset_id="dts_b")
        third = add_job(teacher_id="tch_b", dataset_id="dts_a")

        def page(**filters: str | int) -> tuple[list[str], str | None]:
            answer = client.get("/jobs", params=filters).json()
            return [job["id"] for job in answer["data"]], answer["next"]

        assert page(teacher="tch_a") == ([second, first], None)
        assert page(dataset="dts_a") == ([third, first], None)
        assert page(teacher="tch_a", dataset="dts_a") == ([first], None)
        assert page(teacher="tch_a", metadata="team", status="queued") == ([first], None)
        assert page(teacher="tch_a", status="running") == ([], None)
        assert page(teacher="tch_nowhere") == page(dataset="no id at all") == ([], None)
        newest, after = page(teacher="tch_a", limit=1)
        assert newest == [second]
        assert after is not None
        assert page(teacher="tch_a", limit=1, after=after) == ([first], None)

    @pytest.mark.parametrize(
        ("query", "code", "param", "message"),
        [
            ("after=bogus", "bad_cursor", "after", ["'bogus'", "`next`"]),
            ("limit=0", "out_of_range", "limit", ['"0"', "at least 1"]),
            ("limit=101", "out_of_range", "limit", ['"101"', "at most 100"]),
            ("limit=7%0D", "wrong_form", "limit", ['"7\\r"', "plain digits"]),
            ("limit=%207", "wrong_form", "limit", ['" 7"', "plain digits"]),
            ("limit=many", "wrong_form", "limit", ['"many"', "plain digits"]),
            ("status=done", "unknown_value", "status", ['"done"', "succeeded"]),
            ("statsu=queued", "unknown_field", "statsu", ["statsu", "'status'"]),
            ("metadata=a%20b:c", "wrong_form", "metadata", ["'a b:c'", "key:value"]),
            ("metadata=a:1&metadata=a:2", "duplicate_filter", "metadata", ["'a'"]),
            ("metadata=a:%00", "wrong_form", "metadata", ["zero byte"]),
            ("teacher=", "out_of_range", "teacher", ["at least 1"]),
            ("dataset=%00", "wrong_form", "dataset", ["zero byte"]),
        ],
    )
    def test_refuses(self, client: TestClient, query: str, code: str, param: str, message: list[str]) -> None:
        check_error(client.get(f"/jobs?{query}"), status=422, code=code, param=param, message=message)


class TestGetJob:
    def test_says_why_a_job_failed(self, client: TestClient) -> None:
        job = client.get(f"/jobs/{failed_job()}").json()
        assert (job["status"], job["terminal"]) == ("failed", True)
        assert job["error"] == {"code": "nan_loss", "message": "The loss was NaN. Lower learning_rate."}

    def test_says_what_the_run_warned_of(self, client: TestClient) -> None:
        """Harm: a student is taken over of which the job said that it may be wrong."""
        job_id = add_job()
        assert client.get(f"/jobs/{job_id}").json()["warnings"] == []
        with write_session() as session:
            jobs.update_progress(
                session,
                claimed(),
                phase="training",
                round=1,
                rounds=2,
                progress=0.5,
                eta_seconds=None,
                warnings={"teacher_order_doubtful": "Another order fits better."},
            )
        warnings = [{"code": "teacher_order_doubtful", "message": "Another order fits better."}]
        assert client.get(f"/jobs/{job_id}").json()["warnings"] == warnings
        assert client.get("/jobs").json()["data"][0]["warnings"] == warnings

    def test_links_lead_somewhere(self, client: TestClient) -> None:
        links = client.get(f"/jobs/{add_job()}").json()["links"]
        assert {client.get(link).status_code for link in links.values()} == {200}

    @pytest.mark.parametrize("job_id", ["job_unknown", "7%0D", "%00", "dts_demo;--", "x" * 3000])
    def test_names_an_id_that_is_not_there(self, client: TestClient, job_id: str) -> None:
        response = client.get(f"/jobs/{job_id}")
        check_error(response, status=404, code="job_not_found", param="job_id", message=["GET /jobs"])


class TestDeleteJob:
    def test_removes_a_finished_job(self, client: TestClient) -> None:
        job_id = succeeded_job()
        response = client.delete(f"/jobs/{job_id}")
        assert (response.status_code, response.content) == (204, b"")
        assert client.get(f"/jobs/{job_id}").status_code == 404

    def test_refuses_a_job_that_is_not_over(self, client: TestClient) -> None:
        job_id = running_job()
        check_error(
            client.delete(f"/jobs/{job_id}"),
            status=409,
            code="job_not_finished",
            param="job_id",
            message=["is running", f"POST /jobs/{job_id}/cancel"],
        )
        assert client.get(f"/jobs/{job_id}").status_code == 200

    def test_refuses_a_job_whose_student_is_still_to_become_a_teacher(self, client: TestClient) -> None:
        """Harm: the teacher was accepted, and the only copy of its files is gone."""
        job_id = succeeded_job()
        teacher_id = add_teacher(source={"type": "job", "job": job_id})
        claim = claimed()
        check_error(
            client.delete(f"/jobs/{job_id}"),
            status=409,
            code="job_in_use",
            param="job_id",
            message=[job_id, f"used by {teacher_id}, still pending", "Wait until they are ready", "DELETE /teachers/"],
        )
        assert client.get(f"/jobs/{job_id}").status_code == 200
        ready_teacher(claim)
        assert client.delete(f"/jobs/{job_id}").status_code == 204

    def test_goes_on_once_that_teacher_is_deleted(self, client: TestClient) -> None:
        job_id = succeeded_job()
        teacher_id = add_teacher(source={"type": "job", "job": job_id})
        paths = (f"/jobs/{job_id}", f"/teachers/{teacher_id}", f"/jobs/{job_id}")
        assert [client.delete(path).status_code for path in paths] == [409, 204, 204]

    def test_names_an_id_that_is_not_there(self, client: TestClient) -> None:
        response = client.delete("/jobs/job_unknown")
        check_error(response, status=404, code="job_not_found", param="job_id", message=["'job_unknown'"])
