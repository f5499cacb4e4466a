import socket
from pathlib import Path

import pytest

from app import embedded, worker_process
from app.server import CannotStart, bind
from tests.fixtures.environment import ChangeSettings


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
