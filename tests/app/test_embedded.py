import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app import embedded
from app.embedded import CannotStart, StopRequest, WorkerProcess, bind, home_lock, running_address
from tests.fixtures.environment import ChangeSettings

PYTHON = (sys.executable, "-c")
SLEEPS = (*PYTHON, "import time; time.sleep(60)")


def eventually(probe: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not probe():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class NoSignals(StopRequest):
    """A stop request that leaves the test runner's signal handlers alone."""

    def __init__(self, count: int = 0) -> None:
        self.count = count


class TestHomeLock:
    def test_tells_others_where_the_system_is(self, tmp_path: Path) -> None:
        with home_lock(tmp_path) as lock:
            lock.publish("http://127.0.0.1:8123")
            assert running_address(tmp_path) == "http://127.0.0.1:8123"
        assert running_address(tmp_path) is None

    def test_refuses_a_second_one_and_names_the_first(self, tmp_path: Path) -> None:
        with home_lock(tmp_path) as lock:
            lock.publish("http://127.0.0.1:8123")
            with pytest.raises(CannotStart, match=r"serves it at http://127.0.0.1:8123"), home_lock(tmp_path):
                pass

    def test_forgets_the_address_of_one_that_was_killed(self, tmp_path: Path) -> None:
        (tmp_path / "up.lock").write_text('{"pid": 1, "address": "http://127.0.0.1:1"}')
        assert running_address(tmp_path) is None
        with home_lock(tmp_path):
            assert running_address(tmp_path) is None

    def test_knows_no_address_of_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        assert running_address(tmp_path / "nothing") is None


class TestBind:
    def test_refuses_a_taken_port_and_offers_another(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(CannotStart, match=f"port {port}: .*--port {port + 1}"):
                bind("127.0.0.1", port)

    def test_refuses_an_address_of_another_machine(self) -> None:
        with pytest.raises(CannotStart, match=r"192\.0\.2\.1"):
            bind("192.0.2.1", 0)

    def test_does_not_listen_yet(self) -> None:
        with bind("127.0.0.1", 0) as listener, socket.socket() as client:
            assert client.connect_ex(listener.getsockname()) != 0


class TestWorkerProcess:
    def test_starts_a_worker_that_ended_again_after_a_growing_pause(self) -> None:
        lines: list[str] = []
        worker = WorkerProcess((*PYTHON, "raise SystemExit(3)"), lines.append)
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
        worker = WorkerProcess(SLEEPS, lines.append)
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
            "from app.embedded import WorkerProcess\n"
            f"WorkerProcess({(*PYTHON, worker_code)!r}, print).start()\n"
            "os._exit(0)"
        )
        subprocess.run([*PYTHON, code], check=True)
        eventually(lambda: out.exists() and out.read_text() == "pipe closed")

    def test_kills_a_worker_that_does_not_stop_in_time(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(embedded, "WORKER_STOP_SECONDS", 0.1)
        worker, pid = self.stubborn(tmp_path)
        worker.ask_to_stop()
        worker.wait_until_stopped(NoSignals())
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    def test_kills_the_worker_at_once_on_a_second_signal(self, tmp_path: Path) -> None:
        worker, pid = self.stubborn(tmp_path)
        started_at = time.monotonic()
        worker.ask_to_stop()
        worker.wait_until_stopped(NoSignals(count=2))
        assert time.monotonic() - started_at < 2.0
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    def stubborn(self, tmp_path: Path) -> tuple[WorkerProcess, int]:
        ready = tmp_path / "ready"
        code = (
            "import signal, time, pathlib; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
            f"pathlib.Path({str(ready)!r}).touch(); time.sleep(60)"
        )
        worker = WorkerProcess((*PYTHON, code), print)
        worker.start()
        eventually(ready.exists)
        assert worker.pid is not None
        return worker, worker.pid


class TestUp:
    def test_refuses_a_database_server(self, change_settings: ChangeSettings) -> None:
        change_settings(database_url="postgresql://stillhouse@127.0.0.1:1/stillhouse", teacher_dirs="")
        with pytest.raises(CannotStart, match="STILLHOUSE_DATABASE_URL"):
            embedded.up()

    def test_names_the_worker_packages_that_are_missing(
        self, change_settings: ChangeSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        change_settings(teacher_dirs="")
        monkeypatch.setattr(embedded, "WORKER_PACKAGES", ("torch", "no_such_package_anywhere"))
        with pytest.raises(CannotStart, match=r"no_such_package_anywhere.*stillhouse\[worker\]"):
            embedded.up()

    def test_refuses_a_home_that_it_cannot_write_to(self, change_settings: ChangeSettings, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        change_settings(home=tmp_path / "file" / "home", teacher_dirs="")
        with pytest.raises(CannotStart, match="STILLHOUSE_HOME"):
            embedded.up()
