import json
import logging

import pytest
import structlog

from app.logging import configure_logging, job_context
from tests.fixtures.environment import ChangeSettings


@pytest.fixture(autouse=True)
def _restore() -> object:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


class TestConfigureLogging:
    def test_writes_one_json_object_per_line_with_the_job(
        self, change_settings: ChangeSettings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        configure_logging(change_settings(log_format="json"), service="worker")
        with job_context("job_a"):
            structlog.get_logger("app.x").info("claimed", attempt=2)
            logging.getLogger("library").warning("a %s line", "plain")
        logging.getLogger("library").error("outside")
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        assert [line["event"] for line in lines] == ["claimed", "a plain line", "outside"]
        assert [line.get("job_id") for line in lines] == ["job_a", "job_a", None]
        assert {line["service"] for line in lines} == {"worker"}
        assert (lines[0]["attempt"], lines[0]["level"], lines[0]["logger"]) == (2, "info", "app.x")
        assert lines[0]["time"].endswith("Z")

    def test_keeps_a_traceback_inside_its_line(
        self, change_settings: ChangeSettings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        configure_logging(change_settings(log_format="json"), service="api")
        try:
            raise ValueError("what went wrong")
        except ValueError:
            logging.getLogger("app.x").exception("failed")
        (line,) = capsys.readouterr().err.splitlines()
        assert "what went wrong" in json.loads(line)["exception"]

    def test_writes_for_people_on_request(
        self, change_settings: ChangeSettings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        configure_logging(change_settings(log_format="console", log_level="WARNING"), service="api")
        structlog.get_logger("app.x").info("quiet")
        structlog.get_logger("app.x").warning("lease_expired", id="job_a")
        said = capsys.readouterr().err
        assert "lease_expired" in said
        assert "job_a" in said
        assert "quiet" not in said

    def test_lets_no_client_write_to_the_terminal_as_it_likes(
        self, change_settings: ChangeSettings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Harm: any page can ask for a path, and what is in it clears the screen, or types into the shell later."""
        configure_logging(change_settings(log_format="console"), service="api")
        structlog.get_logger("app.x").info("request", path="/jobs/\x1b]0;owned\x07\x9b2J\u202e", plain="/jobs/é")
        structlog.get_logger("app.x").info("failed", error="two words\x1b[2J")
        logging.getLogger("library").warning("asked for %s", "\x1b[2J\rline")
        try:
            raise ValueError("what went wrong")
        except ValueError:
            logging.getLogger("app.x").exception("failed")
        said = capsys.readouterr().err
        assert all(character.isprintable() or character == "\n" for character in said)
        assert r"path='/jobs/\x1b]0;owned\x07\x9b2J\u202e'" in said
        assert "plain=/jobs/é" in said
        assert r"error='two words\x1b[2J'" in said
        assert r"'asked for \x1b[2J\rline'" in said
        assert "\nValueError: what went wrong\n" in said
