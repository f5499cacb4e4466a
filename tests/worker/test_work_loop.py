import uuid
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from app.settings import get_settings
from tests.fixtures.database import new_postgres_database
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.servers import free_port
from worker import work_loop
from worker.work_loop import WorkLoop


@pytest.fixture(params=["sqlite", "postgres"])
def empty_database(request: pytest.FixtureRequest, change_settings: ChangeSettings, tmp_path: Path) -> None:
    """A database without tables as the settings' database."""
    url = f"sqlite:///{tmp_path}/empty.db"
    if request.param == "postgres":
        url = new_postgres_database(request.getfixturevalue("postgres"), f"work_loop_{uuid.uuid4().hex}")
    change_settings(database_url=url)


class TestRunUntilIdle:
    @pytest.fixture(autouse=True)
    def no_pause_and_a_logger(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(work_loop, "PAUSE_SECONDS", 0.0)
        # The module's own logger may be bound to what an earlier test had configured.
        monkeypatch.setattr(work_loop, "log", structlog.get_logger())

    @pytest.mark.usefixtures("empty_database")
    def test_says_what_to_run_where_the_tables_are_missing(self) -> None:
        """Harm: the log says for ever that a database cannot be reached which answers every time."""
        with capture_logs() as said:
            assert WorkLoop(get_settings()).run_until_idle() == 0
        assert [line["event"] for line in said] == ["database_not_migrated"]
        assert said[0]["advice"] == "run `stillhouse migrate`"

    def test_waits_for_a_database_that_is_away(self, change_settings: ChangeSettings) -> None:
        settings = change_settings(database_url=f"postgresql://nobody@127.0.0.1:{free_port()}/none")
        with capture_logs() as said:
            assert WorkLoop(settings).run_until_idle() == 0
        assert [line["event"] for line in said] == ["database_unreachable"]
