"""Leases under races, expiry and loss, on both databases."""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pytest
from sqlalchemy import delete, select

from app.db.models import Checkpoint, Dataset, Job, JobEvent, Metric, Teacher
from app.db.session import read_session, write_session
from app.db.types import db_now
from app.domain.attempts import AttemptOutcome
from app.domain.jobs import JobStatus
from app.domain.leases import Claim
from app.errors import LeaseLost
from app.repositories import attempts, checkpoints, imports, jobs, leases, metrics
from app.repositories.attempts import AttemptEnd
from app.repositories.checkpoints import CheckpointFacts
from app.repositories.fence import hold
from tests.fixtures.factories import (
    add_dataset,
    add_job,
    add_teacher,
    claim_next,
    claimed,
    expire,
    read_dataset,
    read_job,
    read_teacher,
)
from tests.fixtures.racing import race

pytestmark = pytest.mark.usefixtures("database")

ADD: dict[str, Callable[[], str]] = {"dataset": add_dataset, "teacher": add_teacher, "job": add_job}
READ: dict[str, Callable[[str], Dataset | Teacher | Job]] = {
    "dataset": read_dataset,
    "teacher": read_teacher,
    "job": read_job,
}
KINDS = ["dataset", "teacher", "job"]


def renew(claim: Claim, lease_seconds: float = 30) -> str:
    with write_session() as session:
        return leases.renew(session, claim, lease_seconds, run_seconds=0.0)


def release(claim: Claim) -> bool:
    with write_session() as session:
        return leases.release(session, claim)


def cancel(job_id: str) -> None:
    with write_session() as session:
        jobs.request_cancel(session, job_id)


def take_back(max_attempts: int = 3) -> leases.TakenBack:
    with write_session() as session:
        return leases.take_back_expired(session, max_attempts=max_attempts)


def attempt_ends(job_id: str) -> list[tuple[int, str, str | None]]:
    with read_session() as session:
        return [(row.number, row.outcome, row.error_code) for row in attempts.list_for_job(session, job_id)]


def retry(job_id: str, *, from_start: bool = False) -> jobs.RequestResult | None:
    with write_session() as session:
        return jobs.retry(session, job_id, from_start=from_start)


def record_checkpoint(claim: Claim, step: int = 10) -> None:
    with write_session() as session:
        checkpoints.record(
            session, claim, CheckpointFacts(step=step), object_prefix=f"jobs/{claim.id}/c{step}", files=[]
        )


class TestClaimNext:
    def test_gives_nothing_when_nothing_waits(self) -> None:
        assert claim_next() is None

    def test_starts_the_job(self) -> None:
        job_id = add_job()
        claim = claimed("gpu-7", lease_seconds=60)
        job = read_job(job_id)
        assert (claim.kind, claim.id, claim.attempt) == ("job", job_id, 1)
        assert job.status == "running"
        assert job.run_token == claim.run_token
        assert job.worker_name == "gpu-7"
        assert job.started_at is not None
        assert job.lease_expires_at is not None
        assert 59 <= (job.lease_expires_at - job.started_at).total_seconds() <= 61

    @pytest.mark.parametrize("kind", ["dataset", "teacher"])
    def test_leaves_datasets_and_teachers_pending(self, kind: str) -> None:
        row_id = ADD[kind]()
        claim = claimed()
        row = read_dataset(row_id) if kind == "dataset" else read_teacher(row_id)
        assert (claim.kind, claim.id) == (kind, row_id)
        assert row.status == "pending"
        assert row.run_token == claim.run_token

    def test_takes_datasets_then_teachers_then_jobs_the_oldest_first(self) -> None:
        first_job, second_job = add_job(), add_job()
        teacher, dataset = add_teacher(), add_dataset()
        order = [claimed().id for _ in range(4)]
        assert order == [dataset, teacher, first_job, second_job]

    def test_gives_a_row_to_one_only(self) -> None:
        add_job()
        assert claim_next() is not None
        assert claim_next() is None

    @pytest.mark.parametrize("kind", KINDS)
    def test_lets_exactly_one_of_racing_workers_win(self, kind: str) -> None:
        row_id = ADD[kind]()
        claims = race(8, lambda number: claim_next(f"worker-{number}"))
        winners = [claim for claim in claims if claim is not None]
        assert [winner.id for winner in winners] == [row_id]
        assert winners[0].attempt == 1

    def test_gives_racing_workers_different_rows(self) -> None:
        waiting = {add_job() for _ in range(12)}

        def claim_two(number: int) -> list[Claim | None]:
            return [claim_next(f"worker-{number}") for _ in range(2)]

        taken = [claim.id for pair in race(6, claim_two) for claim in pair if claim is not None]
        # A worker may come away with nothing while others hold the rows it looked at; never is one given twice.
        assert len(taken) == len(set(taken))
        while (claim := claim_next()) is not None:
            taken.append(claim.id)
        assert sorted(taken) == sorted(waiting)

    def test_ignores_a_job_that_was_cancelled_while_it_waited(self) -> None:
        cancel(add_job())
        assert claim_next() is None

    def test_hands_out_a_fresh_token_after_a_release(self) -> None:
        add_job()
        first = claimed()
        release(first)
        assert claimed().run_token != first.run_token


class TestRenew:
    @pytest.mark.parametrize("kind", KINDS)
    def test_extends_the_lease_by_the_clock_of_the_database(self, kind: str) -> None:
        ADD[kind]()
        claim = claimed(lease_seconds=1)
        renew(claim, lease_seconds=60)
        expected = {"dataset": "pending", "teacher": "pending", "job": "running"}[kind]
        assert renew(claim) == expected
        assert take_back().requeued == []

    def test_tells_of_a_cancel(self) -> None:
        job_id = add_job()
        claim = claimed()
        cancel(job_id)
        assert renew(claim) == "cancelling"

    def test_saves_a_lease_that_ran_out_but_was_not_taken(self) -> None:
        add_job()
        claim = claimed()
        expire(claim)
        assert renew(claim) == "running"
        assert take_back().requeued == []

    @pytest.mark.parametrize("kind", KINDS)
    def test_says_that_the_lease_is_lost(self, kind: str) -> None:
        ADD[kind]()
        lost = claimed()
        expire(lost)
        take_back()
        holder = claimed()
        with pytest.raises(LeaseLost, match=lost.run_token):
            renew(lost)
        assert renew(holder)

    def test_says_so_when_the_row_is_gone(self) -> None:
        dataset_id = add_dataset()
        claim = claimed()
        with write_session() as session:
            assert imports.remove(session, "dataset", dataset_id)
        with pytest.raises(LeaseLost):
            renew(claim)


class TestPriority:
    def test_the_most_urgent_first_and_the_oldest_among_equals(self) -> None:
        low, first, second, high = (add_job(priority=priority) for priority in (-5, 0, 0, 7))
        assert [claimed().id for _ in range(4)] == [high, first, second, low]


class TestAttempts:
    def test_each_claim_is_one_and_says_how_it_ended(self) -> None:
        job_id = add_job()
        release(claimed("worker-1"))
        expire(claimed("worker-2"))
        take_back()
        claim = claimed("worker-3")
        with write_session() as session:
            jobs.finish_failed(session, claim, code="nan_loss", message="Lower the rate.")
        assert attempt_ends(job_id) == [(3, "failed", "nan_loss"), (2, "lost", None), (1, "handed_back", None)]
        with read_session() as session:
            rows = attempts.list_for_job(session, job_id)
        assert [row.worker_name for row in rows] == ["worker-3", "worker-2", "worker-1"]
        assert all(row.finished_at is not None and row.finished_at >= row.started_at for row in rows)

    def test_one_under_way_is_running(self) -> None:
        job_id = add_job()
        claimed()
        assert attempt_ends(job_id) == [(1, "running", None)]

    def test_the_last_lost_worker_of_a_job_that_is_given_up(self) -> None:
        job_id = add_job()
        expire(claimed())
        take_back(max_attempts=1)
        assert attempt_ends(job_id) == [(1, "lost", "worker_lost")]

    def test_a_cancel_while_paused_leaves_the_attempt_as_it_ended(self) -> None:
        job_id = add_job()
        claim = claimed()
        with write_session() as session:
            jobs.request_pause(session, job_id)
        release(claim)
        cancel(job_id)
        assert attempt_ends(job_id) == [(1, "paused", None)]


class TestRetry:
    def test_keeps_the_earlier_attempts_and_the_checkpoint(self) -> None:
        job_id = add_job(time_limit_seconds=60.0)
        claim = claimed()
        record_checkpoint(claim, 40)
        with write_session() as session:
            leases.renew(session, claim, 30, run_seconds=59.5)
            jobs.finish_failed(session, claim, code="disk_full", message="Full.")
        assert retry(job_id) == jobs.RequestResult(JobStatus.QUEUED, changed=True)
        job = read_job(job_id)
        assert (job.status, job.error_code, job.finished_at, job.run_seconds) == ("queued", None, None, 0.0)
        again = claimed()
        assert (again.id, again.attempt, again.run_seconds, again.time_limit_seconds) == (job_id, 2, 0.0, 60.0)
        assert attempt_ends(job_id) == [(2, "running", None), (1, "failed", "disk_full")]
        with read_session() as session:
            latest = checkpoints.latest(session, job_id)
        assert latest is not None
        assert latest.step == 40

    def test_from_the_start_forgets_the_checkpoints(self) -> None:
        job_id = add_job()
        claim = claimed()
        record_checkpoint(claim, 40)
        with write_session() as session:
            jobs.finish_failed(session, claim, code="nan_loss", message="x")
        retry(job_id, from_start=True)
        with read_session() as session:
            assert checkpoints.latest(session, job_id) is None

    @pytest.mark.parametrize("checkpoint", ["kept", "forgotten", "none"])
    def test_keeps_warnings_and_metrics_of_a_run_that_goes_on_alone(self, checkpoint: str) -> None:
        """Harm: what no longer holds is said, a curve is that of two runs, or what the run that goes on does not say
        again is lost."""
        job_id = add_job()
        claim = claimed()
        if checkpoint != "none":
            record_checkpoint(claim, 40)
        with write_session() as session:
            place: dict[str, Any] = {"phase": None, "round": None, "rounds": None, "progress": 0, "eta_seconds": None}
            jobs.update_progress(session, claim, **place, metrics={"loss": 0.5}, warnings={"a": "x"})
            metrics.upsert(session, claim, [("loss", 10, 0.5)])
            jobs.finish_failed(session, claim, code="disk_full", message="Full.")
        told = read_job(job_id)
        assert (told.warnings, told.last_metrics) == ([{"code": "a", "message": "x"}], {"loss": 0.5})
        retry(job_id, from_start=checkpoint == "forgotten")
        goes_on = checkpoint == "kept"
        told = read_job(job_id)
        assert told.warnings == ([{"code": "a", "message": "x"}] if goes_on else [])
        assert told.last_metrics == ({"loss": 0.5} if goes_on else {})
        with read_session() as session:
            assert metrics.list_points(session, job_id) == ([("loss", 10, 0.5)] if goes_on else [])

    def test_gives_all_attempts_anew(self) -> None:
        job_id = add_job()
        for _ in range(2):
            expire(claimed())
            take_back(max_attempts=2)
        assert read_job(job_id).error_code == "worker_lost"
        retry(job_id)
        expire(claimed())
        assert take_back(max_attempts=2).requeued == [("job", job_id)]

    @pytest.mark.parametrize("status", ["queued", "running", "succeeded", "paused"])
    def test_changes_nothing_of_a_job_that_is_not_retryable(self, status: str) -> None:
        job_id = add_job()
        if status in ("running", "succeeded"):
            claim = claimed()
        with write_session() as session:
            if status == "succeeded":
                jobs.finish_succeeded(session, claim, result={}, artifacts=[])
            if status == "paused":
                jobs.request_pause(session, job_id)
        assert retry(job_id) == jobs.RequestResult(JobStatus(status), changed=False)
        assert read_job(job_id).status == status

    def test_one_of_several_at_once(self) -> None:
        job_id = add_job()
        cancel(job_id)
        results = race(4, lambda _number: retry(job_id))
        assert sorted(result.changed for result in results if result) == [False, False, False, True]


class TestPause:
    def test_a_waiting_job_at_once(self) -> None:
        job_id = add_job()
        with write_session() as session:
            assert jobs.request_pause(session, job_id) == jobs.RequestResult(JobStatus.PAUSED, changed=True)
            assert jobs.request_pause(session, job_id) == jobs.RequestResult(JobStatus.PAUSED, changed=False)
        assert claim_next() is None

    def test_a_running_job_by_its_worker_and_then_it_goes_on(self) -> None:
        job_id = add_job()
        claim = claimed()
        with write_session() as session:
            assert jobs.request_pause(session, job_id) == jobs.RequestResult(JobStatus.PAUSING, changed=True)
            assert jobs.resume(session, job_id) == jobs.RequestResult(JobStatus.PAUSING, changed=False)
        assert release(claim)
        job = read_job(job_id)
        assert (job.status, job.fruitless_attempts) == ("paused", 0)
        with write_session() as session:
            assert jobs.resume(session, job_id) == jobs.RequestResult(JobStatus.QUEUED, changed=True)
        assert claimed().id == job_id

    def test_a_pausing_job_can_still_succeed_or_be_cancelled(self) -> None:
        job_id = add_job()
        claim = claimed()
        with write_session() as session:
            jobs.request_pause(session, job_id)
        cancel(job_id)
        assert read_job(job_id).status == "cancelling"
        with write_session() as session:
            assert jobs.finish_succeeded(session, claim, result={}, artifacts=[]) == "cancelled"


class TestRelease:
    @pytest.mark.parametrize("kind", KINDS)
    def test_puts_the_work_back(self, kind: str) -> None:
        row_id = ADD[kind]()
        assert release(claimed())
        again = claimed()
        assert (again.id, again.attempt) == (row_id, 2)

    @pytest.mark.parametrize("kind", KINDS)
    def test_costs_nothing_any_number_of_times(self, kind: str) -> None:
        row_id = ADD[kind]()
        for _ in range(5):
            release(claimed())
        row = READ[kind](row_id)
        waiting = {"dataset": "pending", "teacher": "pending", "job": "queued"}[kind]
        assert (row.status, row.attempt, row.fruitless_attempts) == (waiting, 5, 0)

    def test_counts_an_attempt_in_which_the_engine_died(self) -> None:
        job_id = add_job()
        with write_session() as session:
            leases.release(session, claimed(), failure=AttemptEnd(AttemptOutcome.FAILED, "engine_died", "Killed."))
        job = read_job(job_id)
        assert (job.status, job.fruitless_attempts, job.error_code) == ("queued", 1, None)
        assert attempt_ends(job_id) == [(1, "failed", "engine_died")]

    def test_ends_a_job_that_was_asked_to_stop(self) -> None:
        job_id = add_job()
        claim = claimed()
        cancel(job_id)
        assert release(claim)
        assert read_job(job_id).status == "cancelled"

    @pytest.mark.parametrize("kind", KINDS)
    def test_changes_nothing_with_a_lost_token(self, kind: str) -> None:
        ADD[kind]()
        lost = claimed()
        expire(lost)
        take_back()
        holder = claimed()
        assert not release(lost)
        assert renew(holder)


class TestTakeBackExpired:
    def test_leaves_a_live_lease_alone(self) -> None:
        job_id = add_job()
        claimed()
        assert take_back() == leases.TakenBack()
        assert read_job(job_id).status == "running"

    def test_takes_a_lease_that_ran_out_by_itself(self) -> None:
        job_id = add_job()
        claimed(lease_seconds=0.05)
        time.sleep(0.1)
        assert take_back().requeued == [("job", job_id)]

    @pytest.mark.parametrize("kind", KINDS)
    def test_lets_the_work_be_claimed_again(self, kind: str) -> None:
        row_id = ADD[kind]()
        first = claimed()
        expire(first)
        assert take_back().requeued == [(kind, row_id)]
        second = claimed()
        assert (second.id, second.attempt) == (row_id, 2)
        assert second.run_token != first.run_token

    def test_ends_a_job_that_was_asked_to_stop(self) -> None:
        job_id = add_job()
        claim = claimed()
        cancel(job_id)
        expire(claim)
        assert take_back().cancelled == [("job", job_id)]
        job = read_job(job_id)
        assert (job.status, job.run_token) == ("cancelled", None)
        assert job.finished_at is not None

    def test_pauses_a_job_that_was_pausing(self) -> None:
        job_id = add_job()
        claim = claimed()
        with write_session() as session:
            jobs.switch_status(session, JobStatus.PAUSING, Job.id == job_id)
        expire(claim)
        assert take_back().paused == [("job", job_id)]
        assert read_job(job_id).status == "paused"

    @pytest.mark.parametrize("kind", KINDS)
    def test_gives_up_what_keeps_losing_its_workers(self, kind: str) -> None:
        row_id = ADD[kind]()
        for attempt in (1, 2, 3):
            claim = claimed(f"worker-{attempt}")
            expire(claim)
            taken = take_back(max_attempts=3)
            assert bool(taken.failed) is (attempt == 3)
        row = READ[kind](row_id)
        assert (row.status, row.error_code) == ("failed", "worker_lost")
        assert row.error_message is not None
        assert "3 workers in a row" in row.error_message
        assert "'worker-3'" in row.error_message
        assert "memory" in row.error_message
        assert claim_next() is None

    def test_goes_on_as_long_as_each_worker_reaches_a_checkpoint(self) -> None:
        job_id = add_job()
        for step in range(1, 6):
            claim = claimed()
            record_checkpoint(claim, step)
            expire(claim)
            assert take_back(max_attempts=2).requeued == [("job", job_id)]
        assert read_job(job_id).attempt == 5

    def test_counts_from_the_last_checkpoint(self) -> None:
        job_id = add_job()
        claim = claimed()
        record_checkpoint(claim)
        expire(claim)
        take_back(max_attempts=2)
        for outcome in ("requeued", "failed"):
            expire(claimed())
            assert getattr(take_back(max_attempts=2), outcome) == [("job", job_id)]

    def test_is_done_once_by_racing_sweeps(self) -> None:
        job_ids = [add_job() for _ in range(4)]
        for _ in job_ids:
            expire(claimed())
        taken = [entry for report in race(4, lambda _number: take_back()) for entry in report.requeued]
        assert sorted(taken) == sorted(("job", job_id) for job_id in job_ids)
        with read_session() as session:
            sequences = session.execute(select(JobEvent.job_id, JobEvent.sequence)).all()
        assert len(sequences) == len({tuple(row) for row in sequences}) == 12  # queued, running, queued

    def test_never_takes_what_is_renewed_at_the_same_moment(self) -> None:
        for _ in range(5):
            job_id = add_job()
            claim = claimed()
            expire(claim)
            renewed, taken = race(2, partial(_renew_or_take, claim))
            assert renewed is not taken
            assert (read_job(job_id).status == "running") is renewed
            with write_session() as session:
                session.execute(delete(Job))


class TestLostToken:
    """A worker that lost its lease, whatever it still writes, changes nothing. Each write says so."""

    WRITES: ClassVar[dict[str, Callable[..., object]]] = {
        "progress": lambda session, claim: jobs.update_progress(
            session, claim, phase="round", round=9, rounds=9, progress=0.9, eta_seconds=1, metrics={"loss": 1}
        ),
        "events": lambda session, claim: jobs.add_events(session, claim, [{"type": "round", "payload": {}}]),
        "metrics": lambda session, claim: metrics.upsert(session, claim, [("loss", 1, 9.9)]),
        "checkpoint": lambda session, claim: checkpoints.record(
            session, claim, CheckpointFacts(step=99), object_prefix="jobs/x/c99", files=[]
        ),
        "drop_older": lambda session, claim: checkpoints.drop_older(session, claim, keep=0),
        "succeeded": lambda session, claim: jobs.finish_succeeded(session, claim, result={}, artifacts=[]),
        "failed": lambda session, claim: jobs.finish_failed(session, claim, code="x", message="y"),
        "cancelled": lambda session, claim: jobs.finish_cancelled(session, claim),
    }

    @pytest.mark.parametrize("write", sorted(WRITES))
    def test_changes_no_row_of_a_job(self, write: str) -> None:
        job_id = add_job()
        lost = claimed()
        expire(lost)
        take_back()
        holder = claimed()
        record_checkpoint(holder, step=5)
        before = _everything(job_id)
        with pytest.raises(LeaseLost), write_session() as session:
            self.WRITES[write](session, lost)
        assert _everything(job_id) == before

    @pytest.mark.parametrize("write", sorted(WRITES))
    def test_changes_no_row_of_a_job_that_is_over(self, write: str) -> None:
        job_id = add_job()
        claim = claimed()
        with write_session() as session:
            jobs.finish_failed(session, claim, code="nan_loss", message="lower it")
        before = _everything(job_id)
        with pytest.raises(LeaseLost), write_session() as session:
            self.WRITES[write](session, claim)
        assert _everything(job_id) == before

    def test_changes_no_dataset_and_no_teacher(self) -> None:
        dataset_id, teacher_id = add_dataset(), add_teacher()
        lost = [claimed(), claimed()]
        for claim in lost:
            expire(claim)
        take_back()
        for claim in lost:
            with pytest.raises(LeaseLost), write_session() as session:
                imports.mark_failed(session, claim, code="x", message="y")
        assert (read_dataset(dataset_id).status, read_teacher(teacher_id).status) == ("pending", "pending")

    def test_the_fence_holds_until_the_commit(self) -> None:
        """The lease cannot be taken between the check of the token and the commit of what was written."""
        job_id = add_job()
        claim = claimed()
        expire(claim)
        is_held = threading.Event()

        def write(number: int) -> object:
            if number == 1:
                assert is_held.wait(30)
                return take_back().requeued
            with write_session() as session:
                hold(session, claim)
                is_held.set()
                time.sleep(0.2)  # for the other to take it, if it could
                return session.scalar(select(Job.status).where(Job.id == job_id))

        assert race(2, write)[0] == "running"


class TestCountWaiting:
    def test_counts_what_a_worker_could_claim(self) -> None:
        add_job(), add_job(), add_dataset(), add_teacher()
        with read_session() as session:
            assert leases.count_waiting(session) == 4
        claimed()
        with read_session() as session:
            assert leases.count_waiting(session) == 3


class TestClock:
    def test_compares_leases_with_the_database_and_not_the_worker(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A worker whose clock runs an hour ahead neither loses its own lease nor takes another's."""
        job_id = add_job()
        claimed(lease_seconds=30)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 3600)
        assert take_back().requeued == []
        with read_session() as session:
            alive = select(Job.id).where(Job.lease_expires_at > db_now(), Job.lease_expires_at < db_now(31))
            assert session.scalar(alive) == job_id


def _renew_or_take(claim: Claim, number: int) -> bool:
    if number == 1:
        return take_back().requeued == [("job", claim.id)]
    try:
        renew(claim)
    except LeaseLost:
        return False
    return True


def _everything(job_id: str) -> list[object]:
    with read_session() as session:
        job = session.get_one(Job, job_id)
        columns = {name: getattr(job, name) for name in Job.__mapper__.columns.keys()}  # noqa: SIM118
        others = [
            [tuple(row) for row in session.execute(query.order_by(*query.selected_columns)).all()]
            for query in (
                select(JobEvent.sequence, JobEvent.type).where(JobEvent.job_id == job_id),
                select(Metric.series, Metric.step, Metric.value).where(Metric.job_id == job_id),
                select(Checkpoint.step, Checkpoint.object_prefix).where(Checkpoint.job_id == job_id),
            )
        ]
    return [columns, *others]
