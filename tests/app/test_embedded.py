import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from sqlalchemy import text

from app import cli, embedded, worker_process
from app.db.session import write_session
from app.embedded import ApiThread
from app.server import CannotStart, bind
from app.settings import Settings
from tests.app.routes.event_client import open_stream
from tests.fixtures.disk import fill, mounted_disk
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import add_job

FREE_SOME_SPACE = r"Free some space.*, or name another place in STILLHOUSE_HOME\.$"


@contextlib.contextmanager
def serving(settings: Settings) -> Iterator[tuple[ApiThread, int]]:
    """The API of the embedded mode, and its port."""
    with contextlib.closing(bind("127.0.0.1", 0)) as listener:
        api = ApiThread(settings, listener)
        api.start()
        deadline = time.monotonic() + 60
        while not api.is_serving and time.monotonic() < deadline:
            time.sleep(0.01)
        yield api, listener.getsockname()[1]
        api.ask_to_stop()
        api.wait_until_stopped(lambda: True)


@pytest.fixture
def restore_signals() -> Iterator[None]:
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in earlier.items():
        signal.signal(number, handler)


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


class TestUp:
    def test_refuses_a_database_server(self, change_settings: ChangeSettings) -> None:
        change_settings(database_url="postgresql://stillhouse@127.0.0.1:1/stillhouse", teacher_dirs="")
        with pytest.raises(CannotStart, match="STILLHOUSE_DATABASE_URL"):
            embedded.up()

    def test_names_the_worker_packages_that_are_missing(
        self, change_settings: ChangeSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        change_settings(teacher_dirs="")
        monkeypatch.setattr(worker_process, "WORKER_PACKAGES", ("torch", "no_such_package_anywhere"))
        with pytest.raises(CannotStart, match=r"no_such_package_anywhere.*stillhouse\[worker\]"):
            embedded.up()

    def test_refuses_a_home_that_it_cannot_write_to(self, change_settings: ChangeSettings, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        change_settings(home=tmp_path / "file" / "home", teacher_dirs="")
        with pytest.raises(CannotStart, match="STILLHOUSE_HOME"):
            embedded.up()

    @pytest.mark.usefixtures("sqlite_database", "restore_signals")
    def test_says_that_a_newer_release_was_here(self, change_settings: ChangeSettings) -> None:
        change_settings(teacher_dirs="")
        with write_session() as session:
            session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        with pytest.raises(CannotStart, match=r"stillhouse\.db: .*newer release: it stands at '9999'"):
            embedded.up(port=0)

    @pytest.mark.parametrize(
        ("is_own", "way_out"),
        [
            (True, "name another place in STILLHOUSE_HOME."),
            (False, "name another place in STILLHOUSE_DATABASE_URL."),
        ],
    )
    @pytest.mark.usefixtures("restore_signals")
    def test_says_that_a_file_is_no_database(
        self,
        change_settings: ChangeSettings,
        home: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        is_own: bool,
        way_out: str,
    ) -> None:
        """Harm: a traceback of the driver's, which names neither the file nor what to do."""
        path = (home if is_own else tmp_path) / "stillhouse.db"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"text,label\n" * 1000)
        change_settings(teacher_dirs="", database_url="" if is_own else f"sqlite:///{path}")
        assert cli.main(["up", "--port", "0"]) == 1
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"stillhouse up: Cannot use {path}: it is no database of SQLite. Move it away, or {way_out}"
        )
        assert path.read_bytes() == b"text,label\n" * 1000

    @pytest.mark.usefixtures("restore_signals")
    def test_says_that_its_objects_cannot_be_kept(self, change_settings: ChangeSettings, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        change_settings(teacher_dirs="", object_store_url=(tmp_path / "file" / "objects").as_uri())
        with pytest.raises(CannotStart, match=r"^Cannot use the object store.*Not a directory.*OBJECT_STORE_URL\.$"):
            embedded.up(port=0)


@pytest.fixture
def worker_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A program in the worker's place, which writes its process id into the file that this gives."""
    pid = tmp_path / "worker.pid"
    aside = pid.with_suffix(".aside")
    code = (
        f"import os, pathlib, time; pathlib.Path({str(aside)!r}).write_text(str(os.getpid())); "
        f"os.rename({str(aside)!r}, {str(pid)!r}); time.sleep(600)"
    )
    monkeypatch.setattr(embedded, "WORKER_COMMAND", (sys.executable, "-c", code))
    return pid


@pytest.mark.usefixtures("restore_signals")
class TestUpOnAFullDisk:
    """Harm: a traceback, of which nobody learns that it takes space, or where."""

    def test_says_that_the_tables_need_space(self, change_settings: ChangeSettings, tmp_path: Path) -> None:
        with mounted_disk(tmp_path / "disk", "64k") as disk:
            fill(disk)
            change_settings(home=disk, teacher_dirs="")
            with pytest.raises(CannotStart, match=f"^Cannot use {disk}/stillhouse.db: .*{FREE_SOME_SPACE}"):
                embedded.up(port=0)

    def test_says_that_the_demo_needs_space(self, change_settings: ChangeSettings, tmp_path: Path) -> None:
        with mounted_disk(tmp_path / "disk", "256k") as disk:  # the empty tables have room there
            change_settings(home=disk, teacher_dirs="")
            # The demo's rows or its objects, whichever come to the end of it first.
            with pytest.raises(CannotStart, match=f"^Cannot use {disk}(/stillhouse.db)?: .*{FREE_SOME_SPACE}"):
                embedded.up(port=0)

    def test_says_that_the_objects_need_space(self, change_settings: ChangeSettings, tmp_path: Path) -> None:
        home = tmp_path / "home"
        with mounted_disk(home / "objects", "64k") as disk:
            fill(disk)
            change_settings(home=home, teacher_dirs="")
            with pytest.raises(CannotStart, match=f"^Cannot use {home}: .*No space left.*{FREE_SOME_SPACE}"):
                embedded.up(port=0)

    def test_stops_what_it_started_where_its_address_cannot_be_written(
        self, change_settings: ChangeSettings, monkeypatch: pytest.MonkeyPatch, worker_command: Path
    ) -> None:
        write = Path.write_text

        def refuse(path: Path, text: str) -> int:
            if path.name == "up.lock" and text:
                while not worker_command.exists():
                    time.sleep(0.01)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(path, text)

        monkeypatch.setattr(Path, "write_text", refuse)
        settings = change_settings(teacher_dirs="")
        with pytest.raises(CannotStart, match=f"^Cannot use {settings.home}: .*No space left.*{FREE_SOME_SPACE}"):
            embedded.up(port=0)
        assert not psutil.pid_exists(int(worker_command.read_text()))
        assert "api" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.usefixtures("sqlite_database")
class TestApiThread:
    def test_ends_open_streams_when_it_is_to_stop(self, change_settings: ChangeSettings) -> None:
        """Harm: Ctrl-C waits for who follows a job, and then cuts him off in the middle of a response."""
        job_id = add_job()

        async def follow(address: str) -> list[str]:
            async with open_stream(address, job_id) as stream:
                seen = []
                async for message in stream:  # raises where the response is not brought to its end
                    seen.append(message.event)
                    api.ask_to_stop()
                return seen

        with serving(change_settings(event_poll_seconds=0.05)) as (api, port):
            assert asyncio.run(asyncio.wait_for(follow(f"http://127.0.0.1:{port}"), timeout=60)) == ["status"]
            api.wait_until_stopped(lambda: False)
            with pytest.raises(CannotStart):
                api.check()
            api.ask_to_stop()  # once more is no error

    def test_believes_the_proxies_of_the_settings(
        self, change_settings: ChangeSettings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Harm: anybody on this machine could write another address into the log, although the setting names nobody."""
        settings = change_settings(trusted_proxies="192.0.2.1", log_format="json")
        with serving(settings) as (_, port):
            httpx.post(f"http://127.0.0.1:{port}/jobs", json={}, headers={"X-Forwarded-For": "198.51.100.7"})
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
        assert [line["client"] for line in lines if line["event"] == "request"] == ["127.0.0.1"]

    def test_waits_for_no_answer_once_there_is_haste(
        self, change_settings: ChangeSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: a client that stands still in the middle of an upload holds the terminal."""
        monkeypatch.setattr(embedded, "HASTE_SECONDS", 30.0)  # it does not take that long where nothing is wrong
        head = b"POST /datasets HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
        head += b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        with (
            serving(change_settings(shutdown_seconds=600)) as (api, port),
            socket.create_connection(("127.0.0.1", port), timeout=60) as connection,
        ):
            connection.sendall(head)
            deadline = time.monotonic() + 60
            while not is_in_flight(port) and time.monotonic() < deadline:
                time.sleep(0.01)
            api.ask_to_stop()
            api.wait_until_stopped(lambda: True)
            with pytest.raises(CannotStart):
                api.check()


def is_in_flight(port: int) -> bool:
    """Whether a request is under way beside the one that asks."""
    return "stillhouse_http_requests_in_flight 2.0" in httpx.get(f"http://127.0.0.1:{port}/metrics").text
