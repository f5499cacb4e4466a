import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app import worker_process
from app.worker_process import WorkerProcess

PYTHON = (sys.executable, "-c")
SLEEPS = (*PYTHON, "import time; time.sleep(60)")


def eventually(probe: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not probe():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestWorkerProcess:
    def test_starts_a_worker_that_ended_again_after_a_growing_pause(self) -> None:
        lines: list[str] = []
        worker = WorkerProcess((*PYTHON, "raise SystemExit(3)"), lines.append, shutdown_seconds=17)
        worker.pause_seconds = 0.01
        worker.start()

        def three_deaths() -> bool:
            worker.look_after()
            return len(lines) == 3

        eventually(three_deaths)
        assert all("exit status 3" in line for line in lines)
        assert worker.pause_seconds == pytest.approx(0.08)

    def test_names_the_signal_that_killed_a_worker(self) -> None:
        lines: list[str] = []
        worker = WorkerProcess(SLEEPS, lines.append, shutdown_seconds=17)
        worker.start()
        assert worker.pid is not None
        os.kill(worker.pid, 9)

        def death() -> bool:
            worker.look_after()
            return bool(lines)

        eventually(death)
        assert "signal 9" in lines[0]

    def test_closes_the_worker_s_pipe_when_it_dies_itself(self, tmp_path: Path) -> None:
        """A worker that outlives its `up` would work on in a home that the next `up` takes over."""
        out = tmp_path / "out"
        worker_code = f"import sys; sys.stdin.read(); open({str(out)!r}, 'w').write('pipe closed')"
        code = (
            "import os\n"
            "from app.worker_process import WorkerProcess\n"
            f"WorkerProcess({(*PYTHON, worker_code)!r}, print, shutdown_seconds=17).start()\n"
            "os._exit(0)"
        )
        subprocess.run([*PYTHON, code], check=True)
        eventually(lambda: out.exists() and out.read_text() == "pipe closed")

    def test_kills_a_worker_that_does_not_stop_in_time(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(worker_process, "GOODBYE_SECONDS", 0.05)
        worker, pid = self.stubborn(tmp_path, shutdown_seconds=0.05)
        worker.ask_to_stop()
        worker.wait_until_stopped(lambda: False)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    def test_kills_the_worker_at_once_on_a_second_signal(self, tmp_path: Path) -> None:
        worker, pid = self.stubborn(tmp_path)
        started_at = time.monotonic()
        worker.ask_to_stop()
        worker.wait_until_stopped(lambda: True)
        assert time.monotonic() - started_at < 10
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    def test_gives_the_worker_all_the_time_that_the_setting_says(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Harm: a big model's checkpoint is lost at every stop, however long the operator allows for it."""
        monkeypatch.setattr(worker_process, "GOODBYE_SECONDS", 0.0)
        saved, ready = tmp_path / "saved", tmp_path / "ready"
        code = (
            "import pathlib, signal, sys, time\n"
            f"def stop(*_): time.sleep(0.5); pathlib.Path({str(saved)!r}).touch(); sys.exit()\n"
            f"signal.signal(signal.SIGTERM, stop); pathlib.Path({str(ready)!r}).touch()\n"
            # Short sleeps: a signal that comes just before a sleep begins is handled when it is over.
            "while True: time.sleep(0.05)"
        )
        worker = WorkerProcess((*PYTHON, code), print, shutdown_seconds=60)
        worker.start()
        eventually(ready.exists)
        worker.ask_to_stop()
        worker.wait_until_stopped(lambda: False)
        assert saved.exists()

    def stubborn(self, tmp_path: Path, shutdown_seconds: float = 17) -> tuple[WorkerProcess, int]:
        ready = tmp_path / "ready"
        code = (
            "import signal, time, pathlib; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
            f"pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
        )
        worker = WorkerProcess((*PYTHON, code), print, shutdown_seconds=shutdown_seconds)
        worker.start()
        eventually(ready.exists)
        assert worker.pid is not None
        return worker, worker.pid
