import pytest

from app.db.session import read_session, write_session
from app.domain.files import StoredFile
from app.domain.leases import Claim
from app.repositories import checkpoints, cleanups
from app.repositories.checkpoints import CheckpointFacts
from tests.fixtures.factories import SHA256, add_job, claimed, read_job

pytestmark = pytest.mark.usefixtures("database")

FILES: list[StoredFile] = [
    {"path": "model.safetensors", "size_bytes": 70, "sha256": SHA256},
    {"path": "state.json", "size_bytes": 30, "sha256": SHA256},
]


def record(claim: Claim, step: int, prefix: str | None = None, *, is_best: bool = False) -> None:
    with write_session() as session:
        facts = CheckpointFacts(step=step, arm="student", round=step, validation_accuracy=0.5, is_best=is_best)
        checkpoints.record(session, claim, facts, object_prefix=prefix or f"jobs/{claim.id}/c{step}", files=FILES)


class TestRecord:
    def test_keeps_what_was_stored(self) -> None:
        job_id = add_job()
        claim = claimed()
        record(claim, 40)
        with read_session() as session:
            checkpoint = checkpoints.latest(session, job_id)
        assert checkpoint is not None
        assert (checkpoint.step, checkpoint.size_bytes, checkpoint.files) == (40, 100, FILES)

    def test_makes_the_attempt_fruitful(self) -> None:
        job_id = add_job()
        claim = claimed()
        assert read_job(job_id).fruitless_attempts == 1
        record(claim, 1)
        assert read_job(job_id).fruitless_attempts == 0

    def test_replaces_the_same_step_of_an_earlier_run(self) -> None:
        job_id = add_job()
        claim = claimed()
        record(claim, 40, "jobs/x/first")
        record(claim, 40, "jobs/x/second")
        with read_session() as session:
            rows = checkpoints.list_for_job(session, job_id)
        assert [row.object_prefix for row in rows] == ["jobs/x/second"]


class TestLatest:
    def test_is_the_highest_step(self) -> None:
        job_id = add_job()
        claim = claimed()
        for step in (90, 100, 20):
            record(claim, step)
        with read_session() as session:
            checkpoint = checkpoints.latest(session, job_id)
            assert checkpoint is not None
            assert checkpoint.step == 100
            assert checkpoints.latest(session, "job_unknown") is None


class TestDropOlder:
    def test_keeps_the_newest_and_hands_the_rest_to_the_sweep(self) -> None:
        job_id = add_job()
        claim = claimed()
        for step in (1, 2, 3, 4):
            record(claim, step)
        with write_session() as session:
            dropped = checkpoints.drop_older(session, claim, keep=2)
        assert sorted(dropped) == [f"jobs/{job_id}/c1", f"jobs/{job_id}/c2"]
        with read_session() as session:
            assert [row.step for row in checkpoints.list_for_job(session, job_id)] == [4, 3]
            due = [row.object_prefix for row in cleanups.due(session, settle_seconds=0, limit=10)]
        assert sorted(due) == sorted(dropped)

    def test_keeps_the_best_too_until_there_is_a_better(self) -> None:
        job_id = add_job()
        claim = claimed()

        def kept_after(step: int, *, is_best: bool) -> list[int]:
            record(claim, step, is_best=is_best)
            with write_session() as session:
                checkpoints.drop_older(session, claim, keep=2)
                return [row.step for row in checkpoints.list_for_job(session, job_id)]

        for step, is_best in ((1, False), (2, True), (3, False)):
            kept_after(step, is_best=is_best)
        assert kept_after(4, is_best=False) == [4, 3, 2]
        assert kept_after(5, is_best=True) == [5, 4]
        assert kept_after(6, is_best=False) == [6, 5]
        assert kept_after(7, is_best=False) == [7, 6, 5]


class TestDrop:
    def test_forgets_a_damaged_checkpoint_so_that_the_older_one_is_used(self) -> None:
        job_id = add_job()
        claim = claimed()
        record(claim, 1)
        record(claim, 2)
        with write_session() as session:
            assert checkpoints.drop(session, claim, step=2) == [f"jobs/{job_id}/c2"]
        with read_session() as session:
            checkpoint = checkpoints.latest(session, job_id)
        assert checkpoint is not None
        assert checkpoint.step == 1
