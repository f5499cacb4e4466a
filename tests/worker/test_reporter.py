"""What a run says is written before the checkpoint that follows it: who goes on from there does not say it again."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.db.session import read_session
from app.repositories import metrics
from tests.fixtures.factories import claimed
from tests.worker.conftest import Bench
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
