"""The object store is away for everybody: its disk lists and gives, but takes nothing. That costs no work."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.db.session import write_session
from app.repositories import jobs
from tests.bad_days.jobs import attempts_of
from tests.fixtures.disk import mounted_disk
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import claimed
from tests.worker.conftest import Bench, wait_for, wait_until_over
from tests.worker.test_runner import let_pass  # noqa: F401 - a fixture
from worker import job_run
from worker.patience import is_away, patiently
from worker.runner import run_claim

# Much more than these jobs take.
TIME_LIMIT_SECONDS = 600.0


class Disk:
    """That of the object store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take_nothing(self) -> None:
        self._remount("ro")

    def take_all(self) -> None:
        self._remount("rw")

    def _remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(self._folder)], check=True)


@pytest.fixture
def disk(
    local_bench: Bench, tmp_path: Path, change_settings: ChangeSettings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Disk]:
    """The store of `local_bench` on a disk of its own; the worker has little patience, and each job one attempt."""
    assert local_bench.store.folder is not None
    assert patiently.__kwdefaults__ is not None
    monkeypatch.setitem(patiently.__kwdefaults__, "patience_seconds", 0.3)
    with mounted_disk(tmp_path / "disk", "64m") as folder:
        change_settings(object_store_url=(folder / "objects").as_uri(), max_attempts=1)
        yield Disk(folder)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What is found each time that a worker with a complete student asks whether the store is away."""
    found: list[bool] = []

    def ask(*given: Any) -> bool:
        found.append(is_away(*given))
        return found[-1]

    monkeypatch.setattr(job_run, "is_away", ask)
    return found


class TestStoreThatTakesNothing:
    def test_fails_no_import(self, local_bench: Bench, disk: Disk) -> None:
        """Harm: a full bucket empties the queue: each dataset fails after half an hour, one after the other."""
        rows = [f"text {number},{'even' if number % 2 == 0 else 'odd'}" for number in range(60)]
        dataset_id = local_bench.add_dataset({"train.csv": "\n".join(["text,label", *rows]).encode()})
        disk.take_nothing()
        failure = run_claim(claimed(), local_bench.settings, local_bench.shutdown)
        assert failure is not None
        assert failure.code == "storage_unavailable"
        row = local_bench.dataset(dataset_id)
        assert (row.status, row.run_token, row.fruitless_attempts) == ("pending", None, 0)
        assert local_bench.objects("health") == []

    def test_is_waited_for_by_a_complete_student(self, local_bench: Bench, disk: Disk, found: list[bool]) -> None:
        """Harm: hours of work are thrown away because the store was out of order for ten minutes."""
        job_id = local_bench.add_job()
        disk.take_nothing()
        _, thread = local_bench.begin("student")
        wait_for(lambda: len(found) >= 3)
        disk.take_all()
        wait_until_over(thread)
        assert found[:3] == [True] * 3
        assert local_bench.job(job_id).status == "succeeded"
        assert attempts_of(job_id) == [(1, "succeeded", None)]
        assert len([key for key in local_bench.objects(f"jobs/{job_id}") if "/artifact/" in key]) == 3

    def test_is_not_waited_for_longer_than_the_student_is_wanted(
        self, local_bench: Bench, disk: Disk, found: list[bool]
    ) -> None:
        job_id = local_bench.add_job()
        disk.take_nothing()
        _, thread = local_bench.begin("student")
        wait_for(lambda: bool(found))
        with write_session() as session:
            jobs.request_cancel(session, job_id)
        wait_until_over(thread)
        assert local_bench.job(job_id).status == "cancelled"

    def test_is_not_waited_for_by_a_worker_that_stops(
        self,
        local_bench: Bench,
        disk: Disk,
        found: list[bool],
        let_pass: Callable[[float], None],  # noqa: F811
    ) -> None:
        """And the wait is not counted: the next worker would end the job for its time limit."""
        job_id = local_bench.add_job(time_limit_seconds=TIME_LIMIT_SECONDS)
        disk.take_nothing()
        _, thread = local_bench.begin("student")
        wait_for(lambda: bool(found))
        let_pass(TIME_LIMIT_SECONDS)
        time.sleep(3 * local_bench.settings.heartbeat_seconds)
        local_bench.shutdown.seconds = 1.0
        local_bench.shutdown.request()
        wait_until_over(thread)
        job = local_bench.job(job_id)
        assert (job.status, job.fruitless_attempts) == ("queued", 0)
        assert job.run_seconds < TIME_LIMIT_SECONDS
        assert attempts_of(job_id) == [(1, "handed_back", None)]

    def test_has_the_job_handed_back_in_the_end(
        self, local_bench: Bench, disk: Disk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(job_run, "STORAGE_AWAY_SECONDS", 0.0)
        job_id = local_bench.add_job()
        disk.take_nothing()
        local_bench.run("student")
        assert (local_bench.job(job_id).status, local_bench.job(job_id).fruitless_attempts) == ("queued", 0)
        assert attempts_of(job_id) == [(1, "handed_back", None)]


class TestTimeLimit:
    def test_counts_no_wait_for_the_inputs(
        self,
        local_bench: Bench,
        let_pass: Callable[[float], None],  # noqa: F811
    ) -> None:
        """Harm: a job that has computed nothing is out of time after an outage."""
        job_id = local_bench.add_job(time_limit_seconds=TIME_LIMIT_SECONDS)
        objects = local_bench.store.folder
        assert objects is not None
        aside = objects.with_name("aside")
        objects.rename(aside)
        objects.write_text("not a folder")
        _, thread = local_bench.begin("student")
        time.sleep(1.0)
        let_pass(TIME_LIMIT_SECONDS)
        time.sleep(1.5)  # three looks whether the job is still wanted
        objects.unlink()
        aside.rename(objects)
        wait_until_over(thread)
        job = local_bench.job(job_id)
        assert (job.status, job.error_code) == ("succeeded", None)
        assert job.run_seconds < TIME_LIMIT_SECONDS
