"""Workers whose clocks are hours off: leases are counted by the database's clock, so nothing comes of it."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from app.db.models import Attempt
from app.db.session import read_session
from app.settings import get_settings
from app.sweep import sweep_once
from tests.bad_days.conftest import Script, StartWorker
from tests.bad_days.jobs import add_inputs, api, attempts_of, check_student, checkpoint_steps, post_job
from tests.e2e.system import Process, wait_for
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import read_job
from tests.worker.scripted_engine import STEP

pytestmark = [
    pytest.mark.xdist_group("bad_days_clock"),
    pytest.mark.usefixtures("postgres_database", "folder_object_store"),
]

HOURS = {"ahead": 3, "behind": -3}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, to make the library that shifts a process's clock")
    path = tmp_path_factory.mktemp("clock") / "shifted_clock.so"
    source = Path(__file__).with_name("shifted_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", path, source, "-ldl"], check=True)
    return path


@pytest.fixture
def skewed(library: Path, change_settings: ChangeSettings) -> Callable[[str], dict[str, str]]:
    """The variables of a process that believes to live hours `ahead` or `behind`."""
    change_settings(lease_seconds=5, heartbeat_seconds=0.5, sweep_seconds=0.5)
    return lambda clock: {"LD_PRELOAD": str(library), "SHIFTED_CLOCK_SECONDS": str(HOURS[clock] * 3600)}


Skewed = Callable[[str], dict[str, str]]


class TestTwoWorkers:
    def test_six_hours_apart_never_hold_the_same_job(
        self, skewed: Skewed, script: Script, start_worker: StartWorker, tmp_path: Path
    ) -> None:
        add_inputs()
        script.play("long_student")
        sweep = "import threading; from app.sweep import sweep_until; sweep_until(threading.Event())"
        # Who takes leases away is wrong too: by three hours from now on.
        sweeper = Process([sys.executable, "-c", sweep], {**os.environ, **skewed("ahead")}, tmp_path / "sweep.log")
        try:
            workers = [start_worker(**skewed(clock)) for clock in HOURS]
            client = api()
            job_ids = [post_job(client) for _ in range(4)]
            for job_id in job_ids:
                wait_for(lambda row=job_id: read_job(row).finished_at, 90, "end of a job", process=workers[0])  # type: ignore[misc]
            assert sweeper.popen.poll() is None
        finally:
            sweeper.popen.kill()
            sweeper.end()
        assert "lease_expired" not in sweeper.log.read_text()
        for job_id in job_ids:
            assert attempts_of(job_id) == [(1, "succeeded", None)]
            check_student(job_id)
        begun = [_begun(worker) for worker in workers]
        assert sorted(begun[0] + begun[1]) == sorted(job_ids)
        assert all(begun), "both took part"
        for worker, hours in zip(workers, HOURS.values(), strict=True):
            _check_near(_time_of_first_line(worker), datetime.now(UTC) + timedelta(hours=hours))


class TestFrozenWorker:
    def test_lets_go_of_what_was_taken_from_it(self, skewed: Skewed, script: Script, start_worker: StartWorker) -> None:
        add_inputs()
        script.play("steered")
        job_id = post_job(api())
        frozen = start_worker(**skewed("ahead"))
        script.tell(job_id, "checkpoint")
        wait_for(lambda: checkpoint_steps(job_id) == [STEP], 30, "checkpoint", process=frozen)
        os.kill(frozen.popen.pid, signal.SIGSTOP)
        wait_for(lambda: sweep_once().expired.requeued == [("job", job_id)], 30, "end of the lease", process=frozen)
        script.play("student")
        other = start_worker(**skewed("behind"))
        wait_for(lambda: read_job(job_id).finished_at, 60, "end of the job", process=other)
        os.kill(frozen.popen.pid, signal.SIGCONT)
        wait_for(lambda: '"work_dropped"' in frozen.log.read_text(), 30, "end of the work", process=frozen)
        assert attempts_of(job_id) == [(1, "lost", None), (2, "succeeded", None)]
        check_student(job_id)
        # Nothing of what the workers believe is written down.
        with read_session() as session:
            times = session.execute(select(Attempt.started_at, Attempt.finished_at)).all()
        for moment in itertools.chain.from_iterable(times):
            _check_near(moment, datetime.now(UTC))
        wait_for(lambda: not list(get_settings().work_dir.iterdir()), 30, "empty work folder", process=frozen)


def _check_near(moment: datetime, other: datetime) -> None:
    assert abs(moment - other) < timedelta(minutes=30)


def _lines(worker: Process) -> list[dict[str, str]]:
    return [json.loads(line) for line in worker.log.read_text().splitlines() if line.startswith("{")]


def _time_of_first_line(worker: Process) -> datetime:
    return datetime.fromisoformat(_lines(worker)[0]["time"])


def _begun(worker: Process) -> list[str]:
    return [line["id"] for line in _lines(worker) if line["event"] == "work_begun"]
