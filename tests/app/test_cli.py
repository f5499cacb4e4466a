import sqlite3
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from app import cli


class TestMain:
    def test_prints_its_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            cli.main(["--version"])
        assert end.value.code == 0
        assert capsys.readouterr().out == f"stillhouse {version('stillhouse')}\n"

    @pytest.mark.parametrize("port", ["70000", "-1", "http"])
    def test_refuses_a_port_that_is_none(self, port: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as end:
            cli.main(["up", f"--port={port}"])
        assert end.value.code == 2
        assert "--port" in capsys.readouterr().err

    def test_names_a_setting_that_cannot_be_used(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("STILLHOUSE_PORT", "99999")
        with pytest.raises(SystemExit) as end:
            cli.main(["up"])
        assert end.value.code == 2
        message = capsys.readouterr().err
        assert "STILLHOUSE_PORT" in message
        assert "99999" in message
        assert not home.exists()

    def test_migrate_makes_the_tables(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["migrate"]) == 0
        assert capsys.readouterr().out == "The database is up to date.\n"
        with sqlite3.connect(home / "stillhouse.db") as database:
            assert database.execute("SELECT count(*) FROM jobs").fetchone() == (0,)

    def test_names_its_commands_without_loading_the_api(self) -> None:
        code = (
            "import sys\nfrom app import cli\ntry:\n cli.main(['--help'])\nfinally:\n print('fastapi' in sys.modules)"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert all(command in result.stdout for command in ("up", "demo", "migrate"))
        assert result.stdout.endswith("False\n")
