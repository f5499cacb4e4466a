"""Run folders: there for one run, gone after it, and never taken from a worker that lives."""

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from app.domain.ids import new_id, new_run_token
from app.domain.leases import Claim
from worker.workspace import remove_dead_runs, run_folder

CLAIM = Claim("job", new_id("job"), new_run_token(), 1)


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
            with run_folder(tmp_path, Claim("job", CLAIM.id, new_run_token(), 2)) as second:
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

    def test_touches_nothing_that_no_run_has_made(self, tmp_path: Path) -> None:
        """Harm: whoever sets STILLHOUSE_WORK_DIR to a home, to /tmp or to a big disk loses all that lies two levels
        below it."""
        foreign = [
            "papers/thesis/thesis.tex",
            "project/poetry.lock",
            "project/build.lock",
            f"project/{new_run_token()}/weights.bin",
            f"{CLAIM.id}.saved/{new_run_token()}/weights.bin",
            f"{CLAIM.id}/notes.lock",
            f"{CLAIM.id}/notes/of/mine.txt",
            f"{CLAIM.id}/{new_run_token()}",
        ]
        dead = [f"{new_id(kind)}/{new_run_token()}/engine.log" for kind in ("job", "dataset", "teacher")]
        killed_early = f"{CLAIM.id}/{new_run_token()}.lock"
        for name in (*foreign, *dead, killed_early):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        assert remove_dead_runs(tmp_path) == 4
        left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
        assert left == set(foreign)
        assert len(list(tmp_path.iterdir())) == 4

    def test_has_nothing_to_do_where_nobody_worked(self, tmp_path: Path) -> None:
        assert remove_dead_runs(tmp_path / "absent") == 0
