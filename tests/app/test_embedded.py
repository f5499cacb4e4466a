import asyncio
import contextlib
import socket
import time
from pathlib import Path

import pytest

from app import embedded, worker_process
from app.embedded import ApiThread
from app.server import CannotStart, bind
from tests.app.routes.event_client import open_stream
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import add_job


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

        with contextlib.closing(bind("127.0.0.1", 0)) as listener:
            api = ApiThread(change_settings(event_poll_seconds=0.05), listener)
            api.start()
            deadline = time.monotonic() + 20
            while not api.is_serving and time.monotonic() < deadline:
                time.sleep(0.01)
            port = listener.getsockname()[1]
            assert asyncio.run(asyncio.wait_for(follow(f"http://127.0.0.1:{port}"), timeout=60)) == ["status"]
            api.wait_until_stopped()
            with pytest.raises(CannotStart):
                api.check()
            api.ask_to_stop()  # once more is no error
