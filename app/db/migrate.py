"""Bring the database's schema to where the code wants it: `upgrade()`, `check()`, `downgrade()`.

Works from a checkout and from an installed wheel; no ini file is needed. Several processes may upgrade at the
same time: they take turns, and the later ones find nothing left to do.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from app.db.session import WRITE, get_engine, wait_without_limits
from app.settings import Settings

# Beside the `app` package, in a checkout as in site-packages. Not found by name: another project's
# `migrations` may stand earlier on the path.
SCRIPTS = Path(__file__).resolve().parents[2] / "migrations"
# Any constant: who upgrades a PostgreSQL database holds this lock.
ADVISORY_LOCK = 7_265_001


class NewerDatabase(Exception):
    """The database stands at a migration that only a newer release knows; the message says the ways out."""


def upgrade(settings: Settings | None = None, revision: str = "head") -> None:
    """Run the migrations up to `revision`. Raises `NewerDatabase`, having changed nothing."""
    with _config(settings) as config:
        _refuse_newer(config)
        command.upgrade(config, revision)


def downgrade(settings: Settings | None = None, revision: str = "base") -> None:
    """Run the migrations down to `revision`. Down to `base` nothing of the data is left."""
    with _config(settings) as config:
        command.downgrade(config, revision)


def check(settings: Settings | None = None) -> None:
    """Raise alembic's CommandError when the schema differs from the models."""
    with _config(settings) as config:
        command.check(config)


def new_revision(message: str, revision: str, settings: Settings | None = None) -> None:
    """Write a migration from what differs between the schema and the models, for a developer to read."""
    with _config(settings) as config:
        command.revision(config, message=message, rev_id=revision, autogenerate=True)


def is_behind(settings: Settings | None = None) -> bool:
    """Whether a migration that this release knows has still to run. The database of a newer one is not behind."""
    scripts = ScriptDirectory(str(SCRIPTS))
    with get_engine(settings).connect() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
    return revision is None or (revision in _known(scripts) and revision != scripts.get_current_head())


@contextmanager
def _config(settings: Settings | None) -> Iterator[Config]:
    # What alembic says on stdout is for its own command line.
    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.set_main_option("file_template", "%%(year)d-%%(month).2d-%%(day).2d-%%(hour).2d%%(minute).2d_%%(slug)s")
    config.set_main_option("path_separator", "os")
    engine = get_engine(settings).execution_options(**{WRITE: True})
    with engine.begin() as connection:
        # For one another, and for tables in use: longer than a request may.
        wait_without_limits(connection)
        _wait_for_turn(connection)
        config.attributes["connection"] = connection
        yield config


def _refuse_newer(config: Config) -> None:
    scripts = ScriptDirectory.from_config(config)
    revision = MigrationContext.configure(config.attributes["connection"]).get_current_revision()
    if revision is None or revision in _known(scripts):
        return
    newest = scripts.get_current_head()
    raise NewerDatabase(
        f"the database was migrated by a newer release: it stands at {revision!r}, which comes after the {newest!r} of "
        "this release. Install the newer one. Or, to go back to this one, stop everything, back up, and with the newer "
        f"one's code run: python -c 'from app.db.migrate import downgrade; downgrade(revision=\"{newest}\")'"
    )


def _known(scripts: ScriptDirectory) -> set[str]:
    return {script.revision for script in scripts.walk_revisions()}


def _wait_for_turn(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": ADVISORY_LOCK})
