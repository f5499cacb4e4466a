"""Run folders: there for one run, gone after it, and never taken from a worker that lives."""

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from app.domain.leases import Claim
from worker.workspace import remove_dead_runs, run_folder

CLAIM = Claim("job", "job_1", "token", 1)


def hold_folder(work_dir: Path, pipe: Connection) -> None:
    with run_folder(work_dir, CLAIM) as folder:
        (folder / "engine.log").write_text("busy")
        pipe.send(str(folder))
        pipe.recv()


class TestRunFolder:
    def test_is_gone_after_the_run(self, tmp_path: Path) -> None:
        with run_folder(tmp_path, CLAIM) as folder:
            (folder / "deep" / "er").mkdir(parents=True)
        assert list(tmp_path.iterdir()) == []

    def test_is_gone_after_a_failure(self, tmp_path: Path) -> None:
        with pytest.raises(ZeroDivisionError), run_folder(tmp_path, CLAIM):
            raise ZeroDivisionError
        assert list(tmp_path.iterdir()) == []

    def test_leaves_another_run_of_the_same_job_alone(self, tmp_path: Path) -> None:
        with run_folder(tmp_path, CLAIM) as first:
            with run_folder(tmp_path, Claim("job", "job_1", "other", 2)) as second:
                assert first.parent == second.parent
            assert first.exists()


class TestRemoveDeadRuns:
    def test_removes_what_a_killed_worker_left(self, tmp_path: Path) -> None:
        ours, theirs = multiprocessing.Pipe()
        worker = multiprocessing.get_context("spawn").Process(target=hold_folder, args=(tmp_path, theirs))
        worker.start()
        folder = Path(ours.recv())

        assert remove_dead_runs(tmp_path) == 0
        assert folder.exists()
        worker.kill()
        worker.join()
        assert remove_dead_runs(tmp_path) == 1
        assert list(tmp_path.iterdir()) == []

    def test_has_nothing_to_do_where_nobody_worked(self, tmp_path: Path) -> None:
        assert remove_dead_runs(tmp_path / "absent") == 0
