"""Cancel, pause, resume and retry over HTTP, and the lists of attempts and checkpoints."""

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from app.db.models import Job
from app.db.session import read_session, write_session
from app.repositories import checkpoints, events, imports, jobs, leases
from app.repositories.checkpoints import CheckpointFacts
from tests.app.routes.helpers import add_demo, check_error, failed_job, job_body, running_job, succeeded_job
from tests.fixtures.factories import add_job, claimed, read_job
from tests.fixtures.racing import race

pytestmark = pytest.mark.usefixtures("database")


def post(client: TestClient, job_id: str, verb: str) -> str:
    response = client.post(f"/jobs/{job_id}/{verb}")
    assert response.status_code == 202, response.text
    return str(response.json()["status"])


def cancelling_job() -> str:
    job_id = running_job()
    with write_session() as session:
        jobs.request_cancel(session, job_id)
    return job_id


class TestCancelJob:
    def test_cancels_a_waiting_job_at_once(self, client: TestClient) -> None:
        response = client.post(f"/jobs/{add_job()}/cancel")
        assert response.status_code == 202
        assert (response.json()["status"], response.json()["terminal"]) == ("cancelled", True)

    def test_asks_a_running_job_to_stop_however_often_it_is_sent(self, client: TestClient) -> None:
        job_id = running_job()
        assert [post(client, job_id, "cancel") for _ in range(2)] == ["cancelling"] * 2

    def test_answers_as_the_first_time_when_it_is_sent_again(self, client: TestClient) -> None:
        """Harm: the answer is lost, the request is repeated, and says that the cancel did not work."""
        waiting, running = add_job(), add_job()
        claim = claimed()
        assert claim.id == waiting
        assert [post(client, running, "cancel") for _ in range(2)] == ["cancelled"] * 2
        assert post(client, waiting, "cancel") == "cancelling"
        with write_session() as session:
            jobs.finish_cancelled(session, claim)
        assert post(client, waiting, "cancel") == "cancelled"

    def test_refuses_a_finished_job(self, client: TestClient) -> None:
        response = client.post(f"/jobs/{failed_job()}/cancel")
        check_error(
            response,
            status=409,
            code="job_already_finished",
            param="job_id",
            message=["already failed", "DELETE /jobs/"],
        )


class TestPauseAndResume:
    def test_a_waiting_job(self, client: TestClient) -> None:
        job_id = add_job()
        assert [post(client, job_id, "pause") for _ in range(2)] == ["paused"] * 2
        assert [post(client, job_id, "resume") for _ in range(2)] == ["queued"] * 2
        assert claimed().id == job_id

    def test_a_running_job_is_pausing_until_its_worker_lets_go(self, client: TestClient) -> None:
        job_id = add_job()
        claim = claimed()
        assert post(client, job_id, "pause") == "pausing"
        response = client.post(f"/jobs/{job_id}/resume")
        check_error(
            response, status=409, code="job_pausing", param="job_id", message=["still pausing", "in a few seconds"]
        )
        with write_session() as session:
            leases.release(session, claim)
        assert client.get(f"/jobs/{job_id}").json()["status"] == "paused"
        assert post(client, job_id, "cancel") == "cancelled"

    def test_pause_is_refused_where_it_makes_no_sense(self, client: TestClient) -> None:
        check_error(
            client.post(f"/jobs/{succeeded_job()}/pause"),
            status=409,
            code="job_already_finished",
            param="job_id",
            message=["already succeeded", "nothing to pause"],
        )
        check_error(
            client.post(f"/jobs/{cancelling_job()}/pause"),
            status=409,
            code="job_cancelling",
            param="job_id",
            message=["is cancelling"],
        )

    def test_resume_is_refused_with_the_way_out(self, client: TestClient) -> None:
        check_error(
            client.post(f"/jobs/{failed_job()}/resume"),
            status=409,
            code="job_not_paused",
            param="job_id",
            message=["is failed, not paused", "/retry tries it again"],
        )


class TestRetry:
    def test_goes_on_with_a_failed_job(self, client: TestClient) -> None:
        add_demo()
        job_id = failed_job()
        job = client.post(f"/jobs/{job_id}/retry").json()
        assert (job["status"], job["terminal"], job["error"], job["finished_at"]) == ("queued", False, None, None)
        assert claimed().id == job_id
        attempts = client.get(f"/jobs/{job_id}/attempts").json()["data"]
        assert [(row["number"], row["outcome"], row["error_code"]) for row in attempts] == [
            (2, "running", None),
            (1, "failed", "nan_loss"),
        ]

    def test_takes_from_start_in_the_body(self, client: TestClient) -> None:
        add_demo()
        job_id = add_job()
        claim = claimed()
        with write_session() as session:
            checkpoints.record(session, claim, CheckpointFacts(step=5), object_prefix="jobs/x/c5", files=[])
            jobs.finish_failed(session, claim, code="nan_loss", message="x")
        assert len(client.get(f"/jobs/{job_id}/checkpoints").json()["data"]) == 1
        assert client.post(f"/jobs/{job_id}/retry", json={"from_start": True}).status_code == 202
        assert client.get(f"/jobs/{job_id}/checkpoints").json()["data"] == []

    def test_refuses_what_it_does_not_know(self, client: TestClient) -> None:
        response = client.post(f"/jobs/{failed_job()}/retry", json={"from": "start"})
        check_error(response, status=422, code="unknown_field", param="from", message=["from_start"])

    @pytest.mark.parametrize("status", ["queued", "succeeded"])
    def test_refuses_a_job_that_did_not_fail(self, client: TestClient, status: str) -> None:
        add_demo()
        job_id = add_job() if status == "queued" else succeeded_job()
        response = client.post(f"/jobs/{job_id}/retry")
        check_error(
            response,
            status=409,
            code="job_not_retryable",
            param="job_id",
            message=[f"is {status}", "cancelled or failed"],
        )

    @pytest.mark.parametrize("status", ["pausing", "paused"])
    def test_refuses_a_paused_job_with_the_way_out(self, client: TestClient, status: str) -> None:
        """Harm: told to wait, one waits for ever: nothing but a resume leads on."""
        job_id = running_job() if status == "pausing" else add_job()
        assert post(client, job_id, "pause") == status
        way_out = f"POST /jobs/{job_id}/resume lets it go on."
        if status == "pausing":
            way_out = f"Once it is paused, {way_out}"
        response = client.post(f"/jobs/{job_id}/retry")
        message = [f"is {status}", f"can be tried again. {way_out}"]
        check_error(response, status=409, code="job_not_retryable", param="job_id", message=message)

    def test_refuses_a_job_whose_dataset_was_deleted(self, client: TestClient) -> None:
        add_demo()
        job_id = failed_job()
        with write_session() as session:
            imports.remove(session, "dataset", "dts_demo")
        response = client.post(f"/jobs/{job_id}/retry")
        check_error(
            response, status=409, code="dataset_deleted", param="job_id", message=["'dts_demo'", "post a new job"]
        )
        assert read_job(job_id).status == "failed"
        with read_session() as session:
            statuses = [event.payload["status"] for event in events.list_after(session, job_id, types=["status"])]
        assert statuses == ["queued", "running", "failed"]

    def test_says_of_a_job_that_succeeded_nothing_else(self, client: TestClient) -> None:
        """Harm: told to post it again, the client pays for a student that is there."""
        add_demo()
        job_id = succeeded_job()
        with write_session() as session:
            imports.remove(session, "dataset", "dts_demo")
        response = client.post(f"/jobs/{job_id}/retry")
        message = ["is succeeded", "needs no retry"]
        check_error(response, status=409, code="job_not_retryable", param="job_id", message=message)

    def test_and_the_deletion_of_its_dataset_do_not_cross(self, client: TestClient) -> None:
        add_demo()
        job_id = failed_job()
        requests = (("POST", f"/jobs/{job_id}/retry"), ("DELETE", "/datasets/dts_demo"))
        answers = race(2, lambda number: client.request(*requests[number]).status_code)
        assert answers in ([202, 409], [409, 204])
        assert read_job(job_id).status == ("queued" if answers[0] == 202 else "failed")


@pytest.mark.parametrize("verb", ["cancel", "pause", "resume", "retry"])
def test_names_an_id_that_is_not_there(client: TestClient, verb: str) -> None:
    response = client.post(f"/jobs/job_unknown/{verb}")
    check_error(response, status=404, code="job_not_found", param="job_id", message=["'job_unknown'"])


class TestPriorityAndTimeLimit:
    def test_are_kept_and_shown(self, client: TestClient) -> None:
        add_demo()
        job = client.post("/jobs", json=job_body(priority=7, time_limit_seconds=3600)).json()
        assert (job["priority"], job["time_limit_seconds"]) == (7, 3600.0)
        assert claimed().time_limit_seconds == 3600.0

    @pytest.mark.parametrize(("field", "value"), [("priority", 101), ("time_limit_seconds", 0)])
    def test_are_refused_outside_their_bounds(self, client: TestClient, field: str, value: int) -> None:
        add_demo()
        response = client.post("/jobs", json=job_body(**{field: value}))
        assert response.status_code == 422
        assert response.json()["error"]["param"] == field
        assert str(value) in response.json()["error"]["message"]


class TestLists:
    def test_checkpoints_newest_first_with_what_they_hold(self, client: TestClient) -> None:
        job_id = add_job()
        claim = claimed()
        files = [{"path": "model.safetensors", "size_bytes": 70, "sha256": "ab" * 32}]
        with write_session() as session:
            best = CheckpointFacts(step=5, arm="student", round=1, validation_accuracy=0.75, is_best=True)
            for facts in (best, CheckpointFacts(step=9, arm="student")):
                checkpoints.record(session, claim, facts, object_prefix=f"jobs/x/{facts.step}", files=files)  # type: ignore[arg-type]
        newest, older = client.get(f"/jobs/{job_id}/checkpoints").json()["data"]
        assert (newest["step"], newest["is_best"], newest["size_bytes"]) == (9, False, 70)
        assert (older["round"], older["validation_accuracy"], older["is_best"]) == (1, 0.75, True)
        assert set(newest) == {"step", "arm", "round", "validation_accuracy", "is_best", "size_bytes", "created_at"}

    @pytest.mark.parametrize("what", ["attempts", "checkpoints"])
    def test_of_a_job_that_is_not_there(self, client: TestClient, what: str) -> None:
        response = client.get(f"/jobs/job_unknown/{what}")
        check_error(response, status=404, code="job_not_found", param="job_id", message=["'job_unknown'"])


def test_the_request_id_stays_with_the_job(client: TestClient) -> None:
    add_demo()
    job = client.post("/jobs", json=job_body(), headers={"X-Request-ID": "tool-42"}).json()
    assert read_job(job["id"]).request_id == "tool-42"


def test_a_job_of_an_older_release_is_readable(client: TestClient) -> None:
    job_id = add_job()
    with write_session() as session:
        session.execute(update(Job).values(queued_at=None, request_id=None, traceparent=None))
    assert client.get(f"/jobs/{job_id}").json()["priority"] == 0
