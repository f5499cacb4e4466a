"""The schema comes from the migrations, everywhere; these tests keep them equal to the models."""

import uuid
from pathlib import Path

import pytest
from alembic.util import CommandError
from sqlalchemy import inspect, text

from app.db import migrate
from app.db.base import Base
from app.db.session import get_engine, write_session
from app.settings import get_settings
from tests.fixtures.database import new_postgres_database
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import add_job
from tests.fixtures.racing import race


@pytest.fixture(params=["sqlite", "postgres"])
def empty_database(request: pytest.FixtureRequest, change_settings: ChangeSettings) -> str:
    """A database without tables as the settings' database."""
    if request.param == "sqlite":
        return change_settings().database_url
    server = request.getfixturevalue("postgres")
    url = new_postgres_database(server, f"migrations_{uuid.uuid4().hex}")
    return change_settings(database_url=url).database_url


@pytest.mark.usefixtures("empty_database")
class TestUpgrade:
    def test_makes_the_tables_of_the_models(self) -> None:
        assert not migrate.is_current()
        migrate.upgrade()
        migrate.check()
        assert migrate.is_current()
        assert set(inspect(get_engine()).get_table_names()) == {*Base.metadata.tables, "alembic_version"}

    def test_makes_the_partial_indexes_of_the_models(self) -> None:
        """Alembic's check does not compare the condition of an index."""
        migrate.upgrade()
        catalog = "sqlite_master" if get_settings().embedded else "pg_indexes"
        column = "sql" if get_settings().embedded else "indexdef"
        name = "name" if get_settings().embedded else "indexname"
        with write_session() as session:
            for table in ("jobs", "datasets", "teachers"):
                query = text(f"SELECT {column} FROM {catalog} WHERE {name} = 'ix_{table}_lease_expires_at'")
                assert "run_token IS NOT NULL" in (session.scalar(query) or "")
            claim = session.scalar(text(f"SELECT {column} FROM {catalog} WHERE {name} = 'ix_jobs_claim'")) or ""
            assert "priority DESC, created_at, id)" in claim
            assert "status" in claim
            assert "'queued'" in claim

    def test_lets_several_processes_upgrade_at_once(self) -> None:
        race(3, lambda _number: migrate.upgrade())
        migrate.check()

    def test_changes_nothing_the_second_time(self) -> None:
        migrate.upgrade()
        job_id = add_job()
        migrate.upgrade()
        with write_session() as session:
            assert session.scalar(text("SELECT id FROM jobs")) == job_id


@pytest.mark.usefixtures("empty_database")
class TestCheck:
    def test_names_a_difference(self) -> None:
        migrate.upgrade()
        with write_session() as session:
            session.execute(text("DROP INDEX ix_jobs_teacher_id"))
        with pytest.raises(CommandError, match="ix_jobs_teacher_id"):
            migrate.check()


@pytest.mark.usefixtures("empty_database")
class TestDowngrade:
    def test_leaves_nothing_and_can_be_upgraded_again(self) -> None:
        migrate.upgrade()
        migrate.downgrade()
        assert inspect(get_engine()).get_table_names() == ["alembic_version"]
        assert not migrate.is_current()
        migrate.upgrade()
        migrate.check()


class TestScripts:
    def test_lie_beside_the_app_package(self) -> None:
        """A wheel installs both into site-packages."""
        assert (migrate.SCRIPTS / "env.py").is_file()
        assert migrate.SCRIPTS.parent == Path(migrate.__file__).parents[2]
