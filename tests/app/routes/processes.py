"""The API as a process of its own, and a PostgreSQL that a test may restart."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import psutil
import psycopg
from sqlalchemy.engine import make_url

from tests.fixtures.servers import can_connect, free_port, running, wait_until

START_SECONDS = 60


UVICORN = ("uvicorn", "--factory", "app.main:create_app")
STILLHOUSE = ("app.cli", "api")


class ApiProcess:
    """The API with the settings of the test, on one port for all its lives."""

    def __init__(self, folder: Path, module: Sequence[str] = UVICORN, **variables: str) -> None:
        self._module = module
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._log = folder / f"api-{self.port}.log"
        self._variables = variables
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", *self._module, "--port", str(self.port)]
        with self._log.open("ab") as log:
            self.popen = subprocess.Popen(
                command, env={**os.environ, **self._variables}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self.popen.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the API did not start:\n{self.log()}")
            time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = 60) -> int:
        assert self.popen is not None
        self.popen.send_signal(number)
        return self.popen.wait(timeout=seconds)

    def kill(self) -> None:
        if self.popen is not None:
            self.popen.kill()
            self.popen.wait()

    def memory_bytes(self) -> int:
        assert self.popen is not None
        return int(psutil.Process(self.popen.pid).memory_info().rss)

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def _answers(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.address}/healthz", timeout=5).status_code == 200
        return False


@contextlib.contextmanager
def api_process(folder: Path, module: Sequence[str] = UVICORN, **variables: str) -> Iterator[ApiProcess]:
    """A started API that is gone after the block. `variables` go before the environment's."""
    process = ApiProcess(folder, module, **variables)
    try:
        process.start()
        yield process
    finally:
        process.kill()


class RestartablePostgres:
    """A running server of `tests.fixtures.servers`, taken over: stopped and started again on its data and port."""

    def __init__(self, url: str) -> None:
        with psycopg.connect(plain(url)) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
        assert row is not None
        self._data = Path(row[0])
        self._port = make_url(url).port or 0
        process = psutil.Process(self._pid())
        self._command = process.cmdline()
        self._user = None if process.username() == pwd.getpwuid(os.getuid()).pw_name else process.username()

    def stop(self) -> None:
        pid = self._pid()
        os.kill(pid, signal.SIGINT)  # fast: sessions are ended, nothing is lost
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            psutil.Process(pid).wait(timeout=30)
        assert not can_connect(self._port)

    @contextlib.contextmanager
    def start(self) -> Iterator[None]:
        folder = self._data.parent / "again"
        folder.mkdir(exist_ok=True)
        if self._user is not None:
            shutil.chown(folder, self._user)
        with running(self._command, folder, user=self._user, stop_signal=signal.SIGINT) as process:
            wait_until(process, folder, self._answers)
            yield

    def _pid(self) -> int:
        return int((self._data / "postmaster.pid").read_text().splitlines()[0])

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(host="127.0.0.1", port=self._port, user="postgres", dbname="postgres").close()
            return True
        return False


def plain(url: str) -> str:
    """A database URL as psycopg takes it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
