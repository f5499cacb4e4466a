"""What a run says is written once, and before the checkpoint that follows it: who goes on from there does not say it
again."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, update

from app.db.models import Job
from app.db.session import get_engine, read_session, write_session
from app.repositories import jobs, metrics
from tests.app.routes.helpers import commit_answers_lost
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import add_job, claimed, read_job
from tests.worker.conftest import Bench, wait_for
from worker.lease_keeper import LeaseKeeper
from worker.observation import observed
from worker.reporter import Reporter
from worker.uploads import Uploads
from worker.work import Work


class Engine:
    """Writes what an engine would into the run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def say(self, kind: str, **payload: Any) -> None:
        with (self.folder / "events.jsonl").open("a") as file:
            file.write(json.dumps({"type": kind, **payload}) + "\n")

    def checkpoint(self, step: int) -> None:
        path = f"checkpoints/{step:08d}"
        (self.folder / path).mkdir(parents=True)
        (self.folder / path / "state.json").write_text("{}")
        self.say("checkpoint", step=step, path=path)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def recorded(bench: Bench, job_id: str) -> tuple[list[int], list[int]]:
    """The steps of the checkpoints and of the metrics that are in the database."""
    with read_session() as session:
        return bench.checkpoint_steps(job_id), [step for _, step, _ in metrics.list_points(session, job_id)]


def test_a_checkpoint_waits_for_what_was_said_before_it(local_bench: Bench, run_dir: Path) -> None:
    bench = local_bench
    job_id = bench.add_job()
    claim = claimed(lease_seconds=60)
    with observed(claim) as seen, LeaseKeeper(claim, bench.settings, bench.shutdown) as keeper:
        work = Work(claim, bench.settings, bench.store, keeper, bench.shutdown, run_dir, seen)
        uploads, engine = Uploads(work), Engine(run_dir)
        try:
            reporter = Reporter(work, uploads, run_dir)
            engine.say("metric", series="student/train_loss", step=10, value=0.5)
            engine.checkpoint(12)
            reporter.collect()
            assert uploads.settle(30.0)
            assert recorded(bench, job_id) == ([], [])

            reporter.flush(keeper.check)
            assert uploads.settle(30.0)
            assert recorded(bench, job_id) == ([12], [10])

            # What comes after a write waits for the next one.
            engine.checkpoint(14)
            reporter.collect()
            assert uploads.settle(30.0)
            assert recorded(bench, job_id) == ([12], [10])
        finally:
            uploads.close()


@contextmanager
def commits_lost() -> Iterator[None]:
    """For the block, the connection to PostgreSQL is lost before it hears of a commit."""

    def lose(connection: Connection) -> None:
        driver = connection.connection.dbapi_connection
        assert driver is not None
        driver.close()

    event.listen(get_engine(), "commit", lose)
    try:
        yield
    finally:
        event.remove(get_engine(), "commit", lose)


class Run:
    """A claimed job on PostgreSQL whose lease is renewed seldom: nothing else commits while a test does."""

    def __init__(self, bench: Bench, work: Work, folder: Path) -> None:
        self.engine = Engine(folder)
        self.uploads = Uploads(work)
        self.reporter = Reporter(work, self.uploads, folder)
        self.job_id = work.claim.id
        self._bench = bench

    def says(self, kind: str, **payload: Any) -> None:
        self.engine.say(kind, **payload)
        self.reporter.collect()

    @property
    def warnings(self) -> list[tuple[str, str]]:
        return [(warning["code"], warning["message"]) for warning in read_job(self.job_id).warnings]

    @property
    def told(self) -> list[Any]:
        """What a reader of the job's events sees after they were first `running`."""
        said = self._bench.events(self.job_id)[2:]
        return [event.get("round") or event.get("step") or event["type"] for event in said]


@pytest.fixture
def run(
    postgres_database: str,  # noqa: ARG001
    folder_object_store: object,  # noqa: ARG001
    change_settings: ChangeSettings,
    bench: Bench,
    run_dir: Path,
) -> Iterator[Run]:
    settings = change_settings(heartbeat_seconds=30, lease_seconds=60)
    add_job()
    claim = claimed(lease_seconds=60)
    with observed(claim) as seen, LeaseKeeper(claim, settings, bench.shutdown) as keeper:
        run = Run(bench, Work(claim, settings, bench.store, keeper, bench.shutdown, run_dir, seen), run_dir)
        yield run
        run.uploads.close()
        run.uploads.wait_until_over()


def go_on() -> None:
    """The check of who is not asked to stop."""


class TestUnansweredCommit:
    def test_has_the_same_events_written_once(self, run: Run) -> None:
        """Harm: whoever counts a job's rounds, or draws them, has one twice."""
        run.says("round", round=1)
        run.says("round", round=2)
        with commit_answers_lost():
            run.reporter.flush_if_due()
        assert run.told == [1, 2]
        run.says("round", round=3)
        run.reporter.flush(go_on)
        run.says("round", round=4)
        run.reporter.flush(go_on)
        assert run.told == [1, 2, 3, 4]

    def test_may_have_been_none(self, run: Run) -> None:
        """Harm: events that nobody ever sees. Here another writer has taken their place, too."""
        run.says("round", round=1)
        with commits_lost():
            run.reporter.flush_if_due()
        assert run.told == []
        with write_session() as session:
            jobs.request_pause(session, run.job_id)
        run.says("round", round=2)
        run.reporter.flush(go_on)
        assert run.told == ["status", 1, 2]

    def test_has_a_checkpoint_told_once(self, run: Run) -> None:
        run.engine.checkpoint(12)
        run.reporter.collect()
        with commit_answers_lost(but_first=1):
            run.reporter.flush(go_on)
            wait_for(lambda: run.told)
        assert run.uploads.settle(30.0)
        assert run.told == [12]


class TestProgress:
    def test_stays_where_it_was_until_an_engine_that_goes_on_knows_better(self, run: Run) -> None:
        """Harm: a bar falls from nine tenths to nothing, and rises again, each time that a worker is replaced."""
        with write_session() as session:
            session.execute(update(Job).values(progress=0.9))
        run.says("phase", phase="preparing", round=None, rounds=None)
        run.reporter.flush(go_on)
        assert (read_job(run.job_id).phase, read_job(run.job_id).progress) == ("preparing", 0.9)
        run.says("progress", phase="training", round=2, rounds=4, progress=0.7, eta_seconds=5.0, loss=None)
        run.reporter.flush(go_on)
        assert read_job(run.job_id).progress == 0.7


class TestWarnings:
    def test_stand_in_the_job_once_each(self, run: Run) -> None:
        """Harm: they are found by those alone who read all of its events."""
        run.says("warning", code="padding_in_texts", message="Three rows.")
        with commit_answers_lost():
            run.reporter.flush_if_due()
        assert run.warnings == [("padding_in_texts", "Three rows.")]
        run.says("warning", code="teacher_order_doubtful", message="Another order.")
        run.says("warning", code="padding_in_texts", message="Four rows.")
        run.reporter.flush(go_on)
        run.says("round", round=1)
        run.reporter.flush(go_on)
        assert run.warnings == [("padding_in_texts", "Four rows."), ("teacher_order_doubtful", "Another order.")]

    def test_of_an_attempt_that_left_no_checkpoint_go_where_the_next_one_goes_on_exactly(self, run: Run) -> None:
        """Harm: a student that is the same to the bit is said not to be."""
        run.says("resumed", step=40, exact_resume=False)
        run.says("warning", code="inexact_resume", message="This run goes on where threads differ.")
        run.reporter.flush(go_on)
        assert [code for code, _ in run.warnings] == ["inexact_resume"]
        run.says("resumed", step=40, exact_resume=True)
        run.reporter.flush(go_on)
        assert run.warnings == []
