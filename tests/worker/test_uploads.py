"""Checkpoints on their way to a store that is slow, that fails, or that has a file in hand when the run ends."""

import queue
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import obstore.exceptions
import pytest
from sqlalchemy import update

from app.db.models import Job
from app.db.session import write_session
from app.domain.leases import Claim
from app.repositories import jobs
from app.repositories.checkpoints import CheckpointFacts
from app.storage import keys
from app.storage.store import ObjectStore
from app.sweep import sweep_once
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import add_job, claimed
from tests.worker.conftest import Bench, wait_for
from worker import cache_store
from worker.distill.cache_keys import TEACHER_OUTPUTS, TUNED_TEACHERS
from worker.lease_keeper import LeaseKeeper
from worker.observation import observed
from worker.patience import patiently
from worker.uploads import Uploads
from worker.work import Work


class HeldStore(ObjectStore):
    """A folder that holds each file until the test says what becomes of it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked: list[str] = []
        self._answers: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def put_file(self, key: str, path: Path) -> int:
        self.asked.append(key)
        error = self._answers.get()
        if error is not None:
            raise error
        return super().put_file(key, path)

    def let(self, files: int = 100) -> None:
        """Store the next files."""
        for _ in range(files):
            self._answers.put(None)

    def fail(self) -> None:
        """Have no answer for the next file."""
        self._answers.put(obstore.exceptions.GenericError("503"))

    def wait_until_asked(self, times: int = 1) -> None:
        wait_for(lambda: len(self.asked) == times)


class Run:
    """A claimed job, and an engine that writes checkpoints."""

    def __init__(self, bench: Bench, work: Work, store: HeldStore) -> None:
        self.store = store
        self.keeper = work.keeper
        self.claim = work.claim
        self.shutdown = work.shutdown
        self.uploads = Uploads(work)
        self._bench = bench
        self._folder = work.folder

    @property
    def steps(self) -> list[int]:
        """Of the checkpoints that a resumed run would find, the newest first."""
        return self._bench.checkpoint_steps(self.claim.id)

    @property
    def stored(self) -> list[int]:
        """The steps of all that were ever stored, in that order."""
        return [event["step"] for event in self._bench.events(self.claim.id) if event["type"] == "checkpoint"]

    @property
    def objects(self) -> list[str]:
        return self._bench.objects(keys.job_root(self.claim.id))

    @property
    def staged(self) -> int:
        """How many checkpoints lie on the disk because of their upload."""
        return len(list((self._folder / "outbox").iterdir()))

    def checkpoint(self, step: int, *, is_best: bool = False, files: Sequence[str] = ("state.json",)) -> None:
        folder = self._folder / "checkpoints" / f"{step:08d}"
        folder.mkdir(parents=True)
        for name in files:
            (folder / name).write_text(str(step))
        self.uploads.add_checkpoint(CheckpointFacts(step=step, is_best=is_best), folder)
        self.uploads.release()

    def cache_entry(self, kind: str) -> None:
        folder = self._folder / "cache" / kind / "key"
        folder.mkdir(parents=True)
        (folder / "weights.bin").write_text(kind)
        self.uploads.add_cache_entry(kind, "key", folder)
        self.uploads.release()

    @property
    def asked(self) -> list[str]:
        """What the store was asked to take, in that order: steps of checkpoints and kinds of cache entries."""
        return [
            str(int(key.split("/")[-2])) if "/checkpoints/" in key else key.split("/")[1] for key in self.store.asked
        ]


@pytest.fixture
def run(local_bench: Bench, tmp_path: Path) -> Iterator[Run]:
    add_job()
    claim, settings, shutdown = claimed(lease_seconds=60), local_bench.settings, local_bench.shutdown
    store = HeldStore(settings.object_store_url)
    folder = tmp_path / "run"
    folder.mkdir()
    with observed(claim) as seen, LeaseKeeper(claim, settings, shutdown) as keeper:
        run = Run(local_bench, Work(claim, settings, store, keeper, shutdown, folder, seen), store)
        yield run
        run.uploads.close()
        store.let()
        run.uploads.wait_until_over()


class TestSlowStore:
    def test_one_under_way_is_stored_however_many_come_meanwhile(self, run: Run) -> None:
        """Harm: with a store that takes longer than the time between two checkpoints none is ever recorded, and a
        worker that dies loses everything."""
        run.checkpoint(1, files=["arms.safetensors", "state.json"])
        run.store.wait_until_asked()
        for step in (2, 3):
            run.checkpoint(step)
        run.store.let()
        assert run.uploads.settle(30.0)
        assert run.steps == [3, 1]
        assert run.stored == [1, 3]

    def test_the_newest_and_the_best_wait_and_no_others(self, run: Run) -> None:
        """Harm: the worker's disk fills up with what waits."""
        run.checkpoint(1)
        run.store.wait_until_asked()
        for step in range(2, 12):
            run.checkpoint(step, is_best=step in (3, 4, 7))
            assert run.staged <= 3
        run.store.let()
        assert run.uploads.settle(30.0)
        assert run.stored == [1, 7, 11]
        assert run.steps == [11, 7]
        assert run.staged == 0


class TestFailingStore:
    def test_one_that_failed_is_passed_over_for_a_newer_one(self, run: Run) -> None:
        run.checkpoint(1)
        run.store.wait_until_asked()
        run.checkpoint(2)
        run.store.fail()
        run.store.let()
        assert run.uploads.settle(30.0)
        assert run.stored == [2]
        assert len(run.store.asked) == 2

    def test_the_best_is_stored_all_the_same(self, run: Run) -> None:
        run.checkpoint(1, is_best=True)
        run.store.wait_until_asked()
        run.checkpoint(2)
        run.store.fail()
        run.store.let()
        assert run.uploads.settle(30.0)
        assert run.stored == [1, 2]

    def test_one_that_failed_is_tried_again_while_there_is_no_newer_one(self, run: Run) -> None:
        run.checkpoint(1)
        run.store.fail()
        run.store.let()
        assert run.uploads.settle(30.0)
        assert run.stored == [1]


class TestCheckpointThatIsNotRecorded:
    @pytest.fixture(params=["superseded", "refused", "closed"])
    def half_stored(self, request: pytest.FixtureRequest, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        """One of whose two files the store has the first, beside another that is whole unless the run has ended."""
        if request.param == "refused":
            assert patiently.__kwdefaults__ is not None
            monkeypatch.setitem(patiently.__kwdefaults__, "patience_seconds", 0.0)
        run.checkpoint(1, files=["arms.safetensors", "state.json"])
        run.store.let(1)
        run.store.wait_until_asked(2)
        if request.param == "closed":
            run.uploads.close()
            run.store.fail()
            run.uploads.wait_until_over()
            return
        if request.param == "superseded":
            run.checkpoint(2)
        run.store.fail()
        run.store.let()
        assert run.uploads.settle(30.0)
        if request.param == "refused":
            run.checkpoint(2)
            assert run.uploads.settle(30.0)

    @pytest.mark.usefixtures("half_stored")
    def test_leaves_nothing_while_the_run_goes_on(self, run: Run, change_settings: ChangeSettings) -> None:
        """Harm: over a shaky line each checkpoint that is given up leaves its gigabytes in the store for as long as
        the job takes."""
        sweep_once(change_settings(cleanup_delay_seconds=0.001))
        kept = {key.split("/")[-2] for key in run.objects}
        assert kept == {f"{step:08d}" for step in run.steps}


class TestCacheEntries:
    def test_take_turns_with_checkpoints(self, run: Run) -> None:
        """Harm: with a store that takes longer than the time between two checkpoints a teacher's tuning is never
        stored, and a worker that dies loses its hours."""
        run.checkpoint(1)
        run.store.wait_until_asked()
        run.checkpoint(2)
        run.cache_entry(TUNED_TEACHERS)
        run.checkpoint(3)  # for which 2 is passed over
        run.store.let()
        assert run.uploads.settle(30.0)
        assert run.asked == ["1", TUNED_TEACHERS, "3"]

    def test_one_that_failed_waits_again_behind_what_came_meanwhile(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: a store that is away for a minute costs the hours of a teacher's tuning."""
        monkeypatch.setattr(cache_store, "PATIENCE_SECONDS", 0.0)
        run.cache_entry(TUNED_TEACHERS)
        run.store.wait_until_asked()
        run.checkpoint(1)
        run.store.fail()
        run.store.let(1)
        run.store.fail()
        run.store.let()
        assert run.uploads.settle(30.0)
        assert run.asked == [TUNED_TEACHERS, "1", TUNED_TEACHERS, TUNED_TEACHERS]
        assert run.store.exists(f"cache/{TUNED_TEACHERS}/key/index.json")
        assert run.staged == 0

    def test_that_are_cheap_wait_for_the_checkpoint_of_a_run_that_is_stopped(self, run: Run) -> None:
        """Harm: the seconds that a stopping worker has go to what is computed in minutes."""
        run.checkpoint(1)
        run.store.wait_until_asked()
        run.cache_entry(TEACHER_OUTPUTS)
        run.cache_entry(TUNED_TEACHERS)
        run.checkpoint(2)
        run.shutdown.seconds = 30.0
        run.shutdown.request()
        run.store.let()
        assert run.uploads.settle(30.0)
        assert run.asked == ["1", TUNED_TEACHERS, "2", TEACHER_OUTPUTS]


def cancel(claim: Claim) -> None:
    with write_session() as session:
        jobs.request_cancel(session, claim.id)


def take_away(claim: Claim) -> None:
    with write_session() as session:
        session.execute(update(Job).where(Job.id == claim.id).values(run_token="another"))


class TestEndOfTheRun:
    @pytest.mark.parametrize("end", [cancel, take_away])
    def test_nothing_more_is_stored_of_one_that_nobody_wants(self, run: Run, end: Callable[[Claim], None]) -> None:
        run.checkpoint(1, files=["arms.safetensors", "state.json"])
        run.store.wait_until_asked()
        end(run.claim)
        wait_for(lambda: run.keeper.is_interrupted)
        assert not run.uploads.settle(30.0)  # nobody waits for what nobody wants
        run.store.let()
        run.uploads.wait_until_over()
        assert run.steps == []
        assert len(run.store.asked) == 1

    def test_close_waits_for_nobody_and_what_is_under_way_is_not_recorded(self, run: Run) -> None:
        run.checkpoint(1)
        run.store.wait_until_asked()
        assert run.uploads.close()
        run.store.let()
        run.uploads.wait_until_over()
        assert run.steps == []

    def test_checkpoints_of_one_that_ended_well_come_last_and_nobody_waits_for_them(self, run: Run) -> None:
        """Harm: where the student cannot be handed over, its job goes on from further back than it could."""
        run.checkpoint(1)
        run.store.wait_until_asked()
        run.checkpoint(2)
        run.cache_entry(TEACHER_OUTPUTS)
        run.uploads.put_checkpoints_last()
        run.store.let(2)
        assert run.uploads.settle(30.0)
        run.store.wait_until_asked(3)
        assert run.asked == ["1", TEACHER_OUTPUTS, "2"]
        run.store.let()
        wait_for(lambda: run.steps == [2, 1])

    def test_close_of_idle_uploads_says_so(self, run: Run) -> None:
        assert not run.uploads.close()
