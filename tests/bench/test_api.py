import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]


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
