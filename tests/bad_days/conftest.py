"""Servers that go away and come back, and workers whose engine does what the test says."""

import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from app.db import migrate
from app.db.base import Base
from app.db.session import dispose_engines, write_session
from app.settings import Settings
from tests.bad_days.engine import ANY_JOB, PARTS_VARIABLE
from tests.chaos import servers
from tests.chaos.processes import Program
from tests.e2e.system import Process, wait_for
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.servers import ports_for_weed, scratch_folder

START_SECONDS = 60.0


class Outage:
    """A server of the test's own: `stop` it, `start` it again on its port, with its data where it keeps any."""

    def __init__(self, program: Program, answers: Callable[[], bool], stop_signal: signal.Signals) -> None:
        self._program = program
        self._answers = answers
        self._stop_signal = stop_signal

    @property
    def is_up(self) -> bool:
        return self._program.process is not None

    def start(self) -> None:
        self._program.start()
        log = self._program.log
        wait_until(self._answers, START_SECONDS, lambda: log.read_text(errors="replace")[-4000:])

    def stop(self) -> None:
        process = self._program.process
        assert process is not None
        process.send_signal(self._stop_signal)
        process.wait(timeout=30)
        self._program.process = None

    @contextmanager
    def away(self) -> Iterator[None]:
        """Stopped for the block."""
        self.stop()
        try:
            yield
        finally:
            self.start()


@contextmanager
def server(
    make: Callable[[Path], tuple[Program, Callable[[], bool]]], stop_signal: signal.Signals = signal.SIGKILL
) -> Iterator[Outage]:
    """A started server in a folder of its own."""
    with scratch_folder() as folder:
        folder.chmod(0o755)  # for the user that PostgreSQL runs as
        program, answers = make(folder)
        outage = Outage(program, answers, stop_signal)
        try:
            outage.start()
            yield outage
        finally:
            program.kill()


@contextmanager
def nobodys_environment() -> Iterator[None]:
    """For what starts before a test's own settings: nothing of the developer's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("STILLHOUSE_", "AWS_")):
                patch.delenv(name)
        yield


def wait_until(probe: Callable[[], object], seconds: float = 30.0, tell: Callable[[], str] = str) -> None:
    """Return once `probe` gives something true; fail with what `tell` says when that takes too long."""
    deadline = time.monotonic() + seconds
    while not probe():
        assert time.monotonic() < deadline, f"it did not happen within {seconds:g} s\n{tell()}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def postgres_outage() -> Iterator[tuple[Outage, str]]:
    """A migrated PostgreSQL that may be stopped, and its URL."""
    urls: list[str] = []

    def make(folder: Path) -> tuple[Program, Callable[[], bool]]:
        program, url = servers.postgres(folder / "postgres", os.environ, folder / "postgres.log")
        urls.append(url)
        return program, lambda: servers.postgres_answers(url)

    with server(make, servers.FAST) as outage, scratch_folder() as home:
        migrate.upgrade(Settings(home=home, database_url=urls[0]))
        dispose_engines()
        yield outage, urls[0]


@pytest.fixture
def failing_postgres(postgres_outage: tuple[Outage, str], change_settings: ChangeSettings) -> Iterator[Outage]:
    """An empty database on it as the settings' database."""
    outage, url = postgres_outage
    change_settings(database_url=url)
    yield outage
    if not outage.is_up:
        outage.start()
    with write_session() as session:
        for table in reversed(Base.metadata.sorted_tables):
            session.execute(table.delete())


@pytest.fixture(scope="module")
def redis_outage() -> Iterator[tuple[Outage, str]]:
    """A Redis that may be killed, with all that is in it, and its URL."""
    urls: list[str] = []

    def make(folder: Path) -> tuple[Program, Callable[[], bool]]:
        program, url = servers.redis_server(folder / "redis", os.environ, folder / "redis.log")
        urls.append(url)
        return program, lambda: servers.redis_answers(url)

    with server(make) as outage:
        yield outage, urls[0]


@pytest.fixture
def failing_redis(redis_outage: tuple[Outage, str], change_settings: ChangeSettings) -> Iterator[Outage]:
    """It as the settings' broker."""
    outage, url = redis_outage
    change_settings(broker_url=url)
    yield outage
    if not outage.is_up:
        outage.start()


@pytest.fixture(scope="module")
def s3_outage() -> Iterator[tuple[Outage, dict[str, str]]]:
    """A SeaweedFS whose S3 server may be killed, and the AWS_* variables that reach it."""
    found: list[dict[str, str]] = []

    def make(folder: Path) -> tuple[Program, Callable[[], bool]]:
        ports = stack.enter_context(ports_for_weed(4))
        whole, variables = servers.s3(folder / "s3", os.environ, folder / "storage.log", ports)
        storage, door = split_s3(whole, variables, folder / "s3.log")
        found.append(variables)
        stack.callback(storage.kill)
        storage.start()
        return door, lambda: servers.s3_answers(variables)

    with ExitStack() as stack, server(make) as outage:
        yield outage, found[0]


def split_s3(whole: Program, variables: dict[str, str], log: Path) -> tuple[Program, Program]:
    """The storage and its S3 server as two processes: all at once need a quarter of a minute to come back."""
    options = {part.partition("=")[0]: part.partition("=")[2] for part in whole.command}
    storage = replace(whole, command=[part for part in whole.command if not part.startswith("-s3")])
    door = [whole.command[0], "s3", f"-filer=127.0.0.1:{options['-filer.port']}", f"-config={options['-s3.config']}"]
    door += [f"-port={urlsplit(variables['AWS_ENDPOINT_URL']).port}", "-ip.bind=127.0.0.1"]
    door += ["-port.iceberg=0", "-port.lance=0"]
    return storage, replace(whole, name="s3-door", command=door, log=log)


@pytest.fixture
def failing_s3(
    s3_outage: tuple[Outage, dict[str, str]], change_settings: ChangeSettings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Outage]:
    """An empty part of it as the settings' object store."""
    outage, variables = s3_outage
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    change_settings(object_store_url=f"s3://{servers.BUCKET}/{uuid.uuid4().hex}")
    yield outage
    if not outage.is_up:
        outage.start()


class Script:
    """What the engines do: a part per job, and the commands of those that are steered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._told: dict[str, int] = {}

    def play(self, part: str, job_id: str = ANY_JOB) -> None:
        """Have the engines that start from now on play `part`, or that of one job."""
        self._write(job_id, part)

    def tell(self, job_id: str, command: str) -> None:
        """Give the next command to the job's engine, which plays `steered`."""
        self._told[job_id] = self._told.get(job_id, 0) + 1
        self._write(f"{job_id}.{self._told[job_id]}", command)

    def _write(self, name: str, text: str) -> None:
        partial = self.folder / f".{name}"
        partial.write_text(text)
        partial.rename(self.folder / name)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    folder = tmp_path / "parts"
    folder.mkdir()
    monkeypatch.setenv(PARTS_VARIABLE, str(folder))
    return Script(folder)


StartWorker = Callable[..., Process]


@pytest.fixture
def start_worker(tmp_path: Path, script: Script) -> Iterator[StartWorker]:  # noqa: ARG001
    """Starts real worker processes with the settings of the test, which run the engine of `script`."""
    with ExitStack() as stack:

        def start(*, before: Sequence[str] = (), **variables: str) -> Process:
            log = tmp_path / f"worker-{uuid.uuid4().hex[:8]}.log"
            command = [*before, sys.executable, "-P", "-m", "tests.bad_days.scripted_worker"]
            # Our code, wherever the process stands.
            root = str(Path(__file__).parents[2])
            worker = Process(command, {**os.environ, "PYTHONPATH": root, **variables}, log)
            stack.callback(worker.end)
            # Before that: how a worker stops when it is asked to is not the subject here.
            stack.callback(worker.popen.kill)
            wait_for(lambda: " ready." in log.read_text(), START_SECONDS, "worker", process=worker)
            return worker

        yield start
