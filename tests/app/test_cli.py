import os
import signal
import sqlite3
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from app import cli, worker_process
from app.db.session import write_session
from tests.e2e.system import START_SECONDS, Process, wait_for
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.servers import free_port

STILLHOUSE = [sys.executable, "-P", "-m", "app.cli"]


class TestMain:
    def test_prints_its_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            cli.main(["--version"])
        assert end.value.code == 0
        assert capsys.readouterr().out == f"stillhouse {version('stillhouse')}\n"

    @pytest.mark.parametrize("url", ["127.0.0.1:8000", "http://", "http://a:b", "http://[::1", "ftp://a"])
    def test_refuses_an_address_that_is_none(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        for command in (["demo"], ["fetch", "job_1"], ["distil", "dts_demo", "--teacher", "tch_demo"]):
            with pytest.raises(SystemExit) as end:
                cli.main([*command, f"--url={url}"])
            assert end.value.code == 2
            assert f"argument --url: {url} is no address of a server" in capsys.readouterr().err

    @pytest.mark.parametrize("port", ["70000", "-1", "http", ""])
    def test_refuses_a_port_that_is_none(self, port: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            cli.main(["up", f"--port={port}"])
        assert end.value.code == 2
        assert f"argument --port: {port} is not a port; ports go from 0 to 65535" in capsys.readouterr().err

    def test_names_its_commands_without_loading_the_api(self) -> None:
        code = (
            "import sys\nfrom app import cli\ntry:\n cli.main(['--help'])\nfinally:\n print('fastapi' in sys.modules)"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        commands = ("up", "demo", "distil", "fetch", "api", "worker", "migrate")
        assert all(f"    {command} " in result.stdout for command in commands)
        assert "    scheduler\n" in result.stdout
        assert result.stdout.endswith("False\n")

    @pytest.mark.parametrize("command", ["up", "api", "worker", "scheduler", "migrate"])
    def test_names_a_setting_that_cannot_be_used(
        self, command: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("STILLHOUSE_PORT", "99999")
        with pytest.raises(SystemExit) as end:
            cli.main([command])
        assert end.value.code == 2
        message = capsys.readouterr().err
        assert "STILLHOUSE_PORT" in message
        assert "99999" in message
        assert not home.exists()


class TestMigrate:
    def test_makes_the_tables(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["migrate"]) == 0
        said = capsys.readouterr()
        assert said.out == "The database is up to date.\n"
        assert "Running upgrade" in said.err
        with sqlite3.connect(home / "stillhouse.db") as database:
            assert database.execute("SELECT count(*) FROM jobs").fetchone() == (0,)

    def test_with_check_changes_nothing(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["migrate", "--check", "--patience", "0"]) == 1
        assert "run `stillhouse migrate`" in capsys.readouterr().err
        with sqlite3.connect(home / "stillhouse.db") as database:
            assert database.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
        assert cli.main(["migrate"]) == 0
        assert cli.main(["migrate", "--check", "--patience", "0"]) == 0

    def test_says_where_no_database_answers(
        self, change_settings: ChangeSettings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        port = free_port()
        change_settings(database_url=f"postgresql://stillhouse:5f1d0c@127.0.0.1:{port}/stillhouse")
        assert cli.main(["migrate", "--patience", "0"]) == 1
        message = capsys.readouterr().err
        assert f"127.0.0.1:{port} does not answer" in message
        assert "5f1d0c" not in message

    def test_does_not_wait_for_what_waiting_cannot_mend(
        self, postgres: str, change_settings: ChangeSettings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        change_settings(database_url=postgres.removesuffix("/postgres") + "/no_such_database")
        assert cli.main(["migrate", "--patience", "600"]) == 1
        assert "no_such_database" in capsys.readouterr().err

    def test_says_when_the_embedded_database_cannot_be_written(
        self, change_settings: ChangeSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").touch()
        change_settings(home=tmp_path / "file" / "home")
        assert cli.main(["migrate"]) == 1
        assert str(tmp_path / "file") in capsys.readouterr().err

    @pytest.mark.usefixtures("sqlite_database")
    def test_says_that_a_newer_release_was_here(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Harm: a traceback of alembic's, which knows nothing of releases."""
        with write_session() as session:
            session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        assert cli.main(["migrate"]) == 1
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith("stillhouse migrate: the database was migrated by a newer release")
        assert "'9999'" in message
        assert "downgrade(revision=" in message

    @pytest.mark.parametrize("patience", ["-1", "nan", "inf", "long"])
    def test_refuses_a_patience_that_is_none(self, patience: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            cli.main(["migrate", f"--patience={patience}"])
        assert end.value.code == 2
        assert f"argument --patience: {patience} is no number of seconds" in capsys.readouterr().err


class TestWorker:
    def test_says_what_an_installation_without_a_worker_lacks(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(worker_process, "WORKER_PACKAGES", ("torch", "no_such_package_anywhere"))
        assert cli.main(["worker"]) == 1
        message = capsys.readouterr().err
        assert "no_such_package_anywhere" in message
        assert "stillhouse[worker]" in message
        assert not home.exists()

    def test_becomes_the_worker_and_stops_as_it_does(self, sqlite_database: str, tmp_path: Path) -> None:  # noqa: ARG002
        process = Process([*STILLHOUSE, "worker"], os.environ, tmp_path / "worker.log")
        try:
            program = psutil.Process(process.popen.pid)
            wait_for(lambda: program.cmdline()[-2:] == ["-m", "worker"], START_SECONDS, "worker", process=process)
            wait_for(lambda: "ready" in process.log.read_text(), START_SECONDS, "readiness", process=process)
            assert process.stop() == 0
        finally:
            process.end()


class TestScheduler:
    def test_stops_in_order(self, sqlite_database: str, tmp_path: Path) -> None:  # noqa: ARG002
        process = Process([*STILLHOUSE, "scheduler"], os.environ, tmp_path / "scheduler.log")
        try:
            wait_for(
                lambda: "scheduler_started" in process.log.read_text(), START_SECONDS, "scheduler", process=process
            )
            assert process.stop(signal.SIGINT) == 0
            assert "scheduler_stopped" in process.log.read_text()
        finally:
            process.end()
