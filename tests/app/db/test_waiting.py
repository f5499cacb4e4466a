import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from app.db import migrate
from app.db.session import write_session
from app.db.waiting import DatabaseNotReady, wait_for_database, wait_for_migrations
from app.settings import get_settings
from tests.fixtures.database import new_postgres_database
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.servers import free_port, postgres_server


class TestWaitForDatabase:
    def test_returns_once_a_server_that_is_still_starting_answers(self, change_settings: ChangeSettings) -> None:
        port = free_port()
        settings = change_settings(database_url=f"postgresql://postgres@127.0.0.1:{port}/postgres")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(wait_for_database, settings, patience_seconds=120)
            assert not waiting.done()
            with postgres_server(port):
                waiting.result(120)

    def test_gives_up_when_its_patience_is_over(self, change_settings: ChangeSettings) -> None:
        settings = change_settings(database_url=f"postgresql://stillhouse:5f1d0c@127.0.0.1:{free_port()}/stillhouse")
        with pytest.raises(DatabaseNotReady, match=r"127\.0\.0\.1:\d+ does not answer after 0 s") as error:
            wait_for_database(settings, patience_seconds=0)
        assert "5f1d0c" not in str(error.value)

    def test_names_a_url_that_the_driver_cannot_read(self, change_settings: ChangeSettings) -> None:
        settings = change_settings(database_url="postgresql://stillhouse@db/stillhouse?colour=green")
        with pytest.raises(DatabaseNotReady, match=r"STILLHOUSE_DATABASE_URL.*colour"):
            wait_for_database(settings, patience_seconds=600)

    def test_has_nothing_to_wait_for_on_sqlite(self, home: Path) -> None:
        wait_for_database(get_settings(), patience_seconds=0)
        assert not home.exists()


@pytest.mark.usefixtures("empty_database")
class TestWaitForMigrations:
    def test_returns_once_somebody_has_migrated(self) -> None:
        settings = get_settings()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(wait_for_migrations, settings, patience_seconds=120)
            assert not waiting.done()
            migrate.upgrade(settings)
            waiting.result(120)

    def test_gives_up_when_its_patience_is_over(self) -> None:
        with pytest.raises(DatabaseNotReady, match="run `stillhouse migrate`"):
            wait_for_migrations(get_settings(), patience_seconds=0)

    def test_takes_an_older_revision_for_behind_and_a_newer_one_not(self) -> None:
        """Pods of the older release are started anew, by a drain say, while the newer one is rolled out."""
        migrate.upgrade(revision="0001")
        assert migrate.is_behind()
        migrate.upgrade()
        assert not migrate.is_behind()
        with write_session() as session:
            session.execute(text("UPDATE alembic_version SET version_num = 'of_a_newer_release'"))
        assert not migrate.is_behind()

    @pytest.fixture(params=["sqlite", "postgres"])
    def empty_database(self, request: pytest.FixtureRequest, change_settings: ChangeSettings) -> None:
        if request.param == "postgres":
            server = request.getfixturevalue("postgres")
            change_settings(database_url=new_postgres_database(server, f"waiting_{uuid.uuid4().hex}"))
