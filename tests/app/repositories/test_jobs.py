from functools import partial

import pytest
from sqlalchemy import func, select

from app.db.base import Base
from app.db.models import Job
from app.db.session import read_session, write_session
from app.domain.jobs import IllegalTransition, JobStatus
from app.domain.leases import Claim
from app.errors import NAMED_AT_MOST, LeaseLost
from app.repositories import artifacts, checkpoints, events, idempotency, jobs, metrics
from app.repositories.artifacts import ArtifactRow
from app.repositories.checkpoints import CheckpointFacts
from app.repositories.jobs import DeleteResult
from tests.fixtures.factories import SHA256, add_job, add_teacher, claim_next, claimed, read_job
from tests.fixtures.racing import race

pytestmark = pytest.mark.usefixtures("database")

STUDENT = ArtifactRow("model.safetensors", "jobs/x/t/artifact/model.safetensors", 12, SHA256)


def request_cancel(job_id: str) -> jobs.RequestResult | None:
    with write_session() as session:
        return jobs.request_cancel(session, job_id)


def succeed(claim: Claim) -> JobStatus:
    with write_session() as session:
        return jobs.finish_succeeded(session, claim, result={"student": {}}, artifacts=[STUDENT])


def fail(claim: Claim) -> JobStatus:
    with write_session() as session:
        return jobs.finish_failed(session, claim, code="nan_loss", message="lower the learning rate")


def statuses_told(job_id: str) -> list[str]:
    with read_session() as session:
        return [event.payload["status"] for event in events.list_after(session, job_id, types=["status"])]


class TestCreate:
    def test_queues_the_job_and_tells_of_it(self) -> None:
        job_id = add_job(metadata={"team": "search"}, baselines=[{"type": "fine_tune"}])
        job = read_job(job_id)
        assert (job.status, job.progress, job.attempt) == ("queued", 0.0, 0)
        assert job.job_metadata == {"team": "search"}
        assert job.baselines == [{"type": "fine_tune"}]
        assert job.created_at is not None
        assert statuses_told(job_id) == ["queued"]


class TestListPage:
    def test_walks_every_job_once_newest_first(self) -> None:
        made = [add_job() for _ in range(7)]
        seen: list[str] = []
        after = None
        while True:
            with read_session() as session:
                page = jobs.list_page(session, limit=3, after=after)
            seen += [job.id for job in page.rows]
            after = page.next
            assert page.has_more is (after is not None)
            if after is None:
                break
        assert seen == made[::-1]

    def test_is_not_shifted_by_new_and_deleted_jobs(self) -> None:
        old, middle, new = add_job(), add_job(), add_job()
        with read_session() as session:
            first = jobs.list_page(session, limit=1)
        assert [job.id for job in first.rows] == [new]
        add_job()
        for job_id in (new, middle):
            request_cancel(job_id)
        with write_session() as session:
            jobs.delete_terminal(session, new)
        with read_session() as session:
            second = jobs.list_page(session, limit=5, after=first.next)
        assert [job.id for job in second.rows] == [middle, old]
        assert not second.has_more

    def test_splits_jobs_made_at_the_same_moment(self) -> None:
        made = {add_job() for _ in range(4)}
        moment = read_job(next(iter(made))).created_at
        with write_session() as session:
            for job in session.scalars(select(Job)):
                job.created_at = moment
        with read_session() as session:
            first = jobs.list_page(session, limit=2)
            second = jobs.list_page(session, limit=2, after=first.next)
        assert {job.id for job in [*first.rows, *second.rows]} == made

    def test_filters_by_status(self) -> None:
        cancelled, _queued = add_job(), add_job()
        request_cancel(cancelled)
        with read_session() as session:
            page = jobs.list_page(session, statuses=["cancelled", "failed"])
        assert [job.id for job in page.rows] == [cancelled]

    @pytest.mark.parametrize("key", ["team", 'qu"ote', "dot.ted", "$", "a b", "émoji🙂", "1", "[0]"])
    def test_filters_by_metadata_key(self, key: str) -> None:
        tagged = add_job(metadata={key: "x", "other": "y"})
        add_job(metadata={"none": key})
        with read_session() as session:
            assert [job.id for job in jobs.list_page(session, metadata={key: None}).rows] == [tagged]
            assert [job.id for job in jobs.list_page(session, metadata={key: "x"}).rows] == [tagged]
            assert jobs.list_page(session, metadata={key: "z"}).rows == []
            assert jobs.list_page(session, metadata={key: "x", "none": None}).rows == []


class TestLiveUsing:
    def test_names_the_jobs_that_are_not_over(self) -> None:
        over = add_job(dataset_id="dts_a", teacher_id="tch_a")
        request_cancel(over)
        live = add_job(dataset_id="dts_a", teacher_id="tch_b")
        with read_session() as session:
            assert jobs.live_using(session, dataset_id="dts_a") == [live]
            assert jobs.live_using(session, teacher_id="tch_a") == []

    def test_gives_one_more_than_a_message_names(self) -> None:
        live = [add_job(dataset_id="dts_a") for _ in range(NAMED_AT_MOST + 2)]
        with read_session() as session:
            assert jobs.live_using(session, dataset_id="dts_a") == live[: NAMED_AT_MOST + 1]


class TestRequestCancel:
    def test_ends_a_waiting_job_at_once(self) -> None:
        job_id = add_job()
        assert request_cancel(job_id) == jobs.RequestResult(JobStatus.CANCELLED, changed=True)
        assert read_job(job_id).finished_at is not None
        assert statuses_told(job_id) == ["queued", "cancelled"]

    def test_asks_a_running_job_and_leaves_it_its_token(self) -> None:
        job_id = add_job()
        claim = claimed()
        assert request_cancel(job_id) == jobs.RequestResult(JobStatus.CANCELLING, changed=True)
        job = read_job(job_id)
        assert job.run_token == claim.run_token
        assert job.lease_expires_at is not None
        assert job.finished_at is None

    def test_says_the_same_when_asked_again(self) -> None:
        job_id = add_job()
        claimed()
        request_cancel(job_id)
        assert request_cancel(job_id) == jobs.RequestResult(JobStatus.CANCELLING, changed=False)

    def test_changes_nothing_about_a_job_that_is_over(self) -> None:
        job_id = add_job()
        succeed(claimed())
        assert request_cancel(job_id) == jobs.RequestResult(JobStatus.SUCCEEDED, changed=False)

    def test_knows_no_such_job(self) -> None:
        assert request_cancel("job_unknown") is None

    def test_races_a_claim_to_one_clear_end(self) -> None:
        for _ in range(5):
            job_id = add_job()
            cancelled, claim = race(2, partial(_cancel_or_claim, job_id))
            assert isinstance(cancelled, jobs.RequestResult)
            status = read_job(job_id).status
            assert status == cancelled.status
            assert (status == "cancelling") is (claim is not None)


class TestUpdateProgress:
    def test_writes_where_the_job_stands(self) -> None:
        job_id = add_job()
        claim = claimed()
        with write_session() as session:
            jobs.update_progress(
                session, claim, phase="round", round=2, rounds=4, progress=0.4, eta_seconds=90, metrics={"loss": 1}
            )
            jobs.update_progress(session, claim, phase="evaluating", round=2, rounds=4, progress=0.9, eta_seconds=None)
        job = read_job(job_id)
        assert (job.phase, job.round, job.rounds, job.progress) == ("evaluating", 2, 4, 0.9)
        assert job.eta_seconds is None
        assert job.last_metrics == {"loss": 1}

    def test_leaves_the_progress_that_is_not_known_yet_as_it_was(self) -> None:
        """Harm: a bar that falls to nothing while a run that goes on from 90 % loads its models."""
        job_id = add_job()
        claim = claimed()
        for progress in (0.9, None):
            with write_session() as session:
                jobs.update_progress(
                    session, claim, phase="preparing", round=None, rounds=None, progress=progress, eta_seconds=None
                )
        assert read_job(job_id).progress == 0.9

    def test_merges_the_last_metrics(self) -> None:
        job_id = add_job()
        claim = claimed()
        for values in ({"loss": 2.0, "accuracy": 0.5}, {"loss": float("nan")}):
            with write_session() as session:
                jobs.update_progress(
                    session, claim, phase=None, round=None, rounds=None, progress=0, eta_seconds=None, metrics=values
                )
        assert read_job(job_id).last_metrics == {"loss": None, "accuracy": 0.5}

    def test_keeps_one_warning_of_each_code_and_takes_one_back(self) -> None:
        job_id = add_job()
        claim = claimed()
        assert read_job(job_id).warnings == []
        told: list[dict[str, str | None]] = [{"a": "first", "b": "other"}, {}, {"a": "second"}, {"b": None, "c": None}]
        for warnings in told:
            with write_session() as session:
                jobs.update_progress(
                    session, claim, phase=None, round=None, rounds=None, progress=0, eta_seconds=None, warnings=warnings
                )
        assert read_job(job_id).warnings == [{"code": "a", "message": "second"}]

    @pytest.mark.parametrize(("given", "stored"), [(1.7, 1.0), (-0.2, 0.0), (float("nan"), 0.0)])
    def test_keeps_progress_between_0_and_1(self, given: float, stored: float) -> None:
        job_id = add_job()
        claim = claimed()
        with write_session() as session:
            jobs.update_progress(
                session, claim, phase=None, round=None, rounds=None, progress=given, eta_seconds=float("inf")
            )
        job = read_job(job_id)
        assert (job.progress, job.eta_seconds) == (stored, None)


class TestFinishSucceeded:
    def test_shows_the_result_and_the_artifacts_together(self) -> None:
        job_id = add_job()
        assert succeed(claimed()) is JobStatus.SUCCEEDED
        job = read_job(job_id)
        assert (job.status, job.progress, job.run_token, job.result) == ("succeeded", 1.0, None, {"student": {}})
        with read_session() as session:
            (artifact,) = artifacts.list_for_job(session, job_id)
            assert (artifact.name, artifact.size_bytes) == ("model.safetensors", 12)
            assert artifacts.get(session, job_id, "model.safetensors") is not None
            assert artifacts.get(session, job_id, "other") is None

    def test_forgets_the_checkpoints(self) -> None:
        job_id = add_job()
        claim = claimed()
        with write_session() as session:
            checkpoints.record(session, claim, CheckpointFacts(step=1), object_prefix=f"jobs/{job_id}/c1", files=[])
        succeed(claim)
        with read_session() as session:
            assert checkpoints.latest(session, job_id) is None

    def test_keeps_the_promise_of_a_cancel_that_came_first(self) -> None:
        job_id = add_job()
        claim = claimed()
        request_cancel(job_id)
        assert succeed(claim) is JobStatus.CANCELLED
        job = read_job(job_id)
        assert (job.status, job.result) == ("cancelled", None)
        with read_session() as session:
            assert artifacts.list_for_job(session, job_id) == []

    def test_happens_once_when_delivered_twice(self) -> None:
        job_id = add_job()
        claim = claimed()
        outcomes = race(2, lambda _number: _attempt(claim))
        assert sorted(outcomes) == ["lost", "succeeded"]
        assert statuses_told(job_id) == ["queued", "running", "succeeded"]


class TestFinishFailed:
    def test_says_what_to_change(self) -> None:
        job_id = add_job()
        assert fail(claimed()) is JobStatus.FAILED
        job = read_job(job_id)
        assert (job.error_code, job.error_message) == ("nan_loss", "lower the learning rate")

    def test_keeps_the_checkpoints_for_a_later_retry(self) -> None:
        job_id = add_job()
        claim = claimed()
        with write_session() as session:
            checkpoints.record(session, claim, CheckpointFacts(step=1), object_prefix=f"jobs/{job_id}/c1", files=[])
        fail(claim)
        with read_session() as session:
            assert checkpoints.latest(session, job_id) is not None

    def test_keeps_the_promise_of_a_cancel_that_came_first(self) -> None:
        job_id = add_job()
        claim = claimed()
        request_cancel(job_id)
        assert fail(claim) is JobStatus.CANCELLED
        assert read_job(job_id).error_code is None


class TestFinishCancelled:
    def test_ends_a_job_that_was_asked_to_stop(self) -> None:
        job_id = add_job()
        claim = claimed()
        request_cancel(job_id)
        with write_session() as session:
            assert jobs.finish_cancelled(session, claim) is JobStatus.CANCELLED
        assert statuses_told(job_id) == ["queued", "running", "cancelling", "cancelled"]

    def test_refuses_when_nobody_asked(self) -> None:
        job_id = add_job()
        claim = claimed()
        with pytest.raises(IllegalTransition), write_session() as session:
            jobs.finish_cancelled(session, claim)
        assert read_job(job_id).status == "running"


class TestDeleteTerminal:
    def test_deletes_the_job_and_all_that_hangs_on_it(self) -> None:
        job_id = add_job()
        claim = claimed()
        with write_session() as session:
            idempotency.take(session, key="k", body_sha256=SHA256, job_id=job_id, hours=24)
            metrics.upsert(session, claim, [("loss", 1, 0.5)])
            checkpoints.record(session, claim, CheckpointFacts(step=1), object_prefix=f"jobs/{job_id}/c1", files=[])
        fail(claim)
        with write_session() as session:
            artifacts.add(session, job_id, [STUDENT])
            assert jobs.delete_terminal(session, job_id) == DeleteResult(JobStatus.FAILED, [])
        with read_session() as session:
            left = {
                table.name: session.scalar(select(func.count()).select_from(table))
                for table in Base.metadata.sorted_tables
                if table.name != "object_cleanups"
            }
        assert set(left.values()) == {0}, left

    def test_leaves_a_job_that_is_not_over(self) -> None:
        job_id = add_job()
        with write_session() as session:
            assert jobs.delete_terminal(session, job_id) == DeleteResult(JobStatus.QUEUED, [])
        assert read_job(job_id).status == "queued"

    def test_knows_no_such_job(self) -> None:
        with write_session() as session:
            assert jobs.delete_terminal(session, "job_unknown") is None

    def test_leaves_a_job_whose_student_a_pending_teacher_waits_for(self) -> None:
        """Harm: the only copy of the student is gone before a worker reads it."""
        job_id, other = add_job(), add_job()
        for _ in range(2):
            succeed(claimed())
        add_teacher(source={"type": "hub", "repo": job_id, "revision": "main"})
        made = add_teacher(source={"type": "job", "job": job_id})
        with write_session() as session:
            assert jobs.delete_terminal(session, job_id) == DeleteResult(JobStatus.SUCCEEDED, [made])
        assert read_job(job_id).status == "succeeded"
        with write_session() as session:
            result = jobs.delete_terminal(session, other)
            assert result is not None
            assert result.is_deleted


class TestSwitchStatus:
    def test_makes_no_illegal_change(self) -> None:
        job_id = add_job()
        request_cancel(job_id)
        with write_session() as session:
            for new in JobStatus:
                assert jobs.switch_status(session, new, Job.id == job_id) == []
        assert statuses_told(job_id) == ["queued", "cancelled"]


def test_what_hangs_on_a_job_goes_with_it() -> None:
    """Whoever adds a table of this kind extends TestDeleteTerminal."""
    hanging = {table.name for table in Base.metadata.sorted_tables if table.foreign_keys}
    assert hanging == {"artifacts", "attempts", "checkpoints", "job_events", "metrics"}


def _attempt(claim: Claim) -> str:
    try:
        return str(succeed(claim))
    except LeaseLost:
        return "lost"


def _cancel_or_claim(job_id: str, number: int) -> jobs.RequestResult | Claim | None:
    return claim_next() if number else request_cancel(job_id)
