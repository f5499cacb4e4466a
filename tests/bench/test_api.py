import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from app.settings import get_settings
from bench.api import system
from bench.api.system import Server, System, fill_jobs, live_jobs
from tests.fixtures.factories import add_job, read_job

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.mark.usefixtures("postgres_database")
class TestLiveJobs:
    @pytest.fixture
    def filled(self, monkeypatch: pytest.MonkeyPatch) -> System:
        """A table that is to be filled; ten jobs are polled."""
        monkeypatch.setattr(system, "LIVE_JOBS", 10)
        nobody = Server(0, psutil.Process())
        return System(get_settings(), nobody, nobody)

    def test_lie_evenly_over_a_table_that_has_grown(self, filled: System) -> None:
        """Harm: a hundred times as many jobs, and those that are polled are the first few all the same."""
        template = add_job()
        for first, last in ((1, 10), (11, 100), (101, 1_000)):
            fill_jobs(filled, template, first=first, last=last)
            assert sorted(live_jobs(filled)) == [
                f"job_{number:026}" for number in range(last // 10, last + 1, last // 10)
            ]
        over = read_job(f"job_{7:026}")
        assert (over.status, over.phase, over.progress, over.finished_at) == ("succeeded", None, 1.0, over.created_at)
        assert over.result is not None
        assert read_job(template).status == "queued"

    def test_are_not_the_first_where_more_run_than_are_polled(self, filled: System) -> None:
        fill_jobs(filled, add_job(), first=1, last=19)
        chosen = live_jobs(filled)
        assert len({*chosen}) == 10
        assert max(chosen) > f"job_{10:026}"


@pytest.mark.slow
class TestQuickRun:
    def test_measures_everything_without_an_error(self) -> None:
        """The numbers of so short a run mean nothing; that each request was answered rightly does."""
        run = subprocess.run(
            [sys.executable, "-m", "bench.api", "--quick"],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        assert run.stderr == ""
        for line in ("| `GET /jobs/{id}`, 20 pollers |", "| `POST /jobs`, 20 clients |", "| 1,000 |", "20,000 points"):
            assert line in run.stdout
