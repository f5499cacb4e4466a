"""Wait for the database, for when a whole system is started at once: until it answers, until it is migrated."""

import time
from urllib.parse import urlsplit

import structlog
from psycopg import ProgrammingError
from psycopg.conninfo import make_conninfo
from psycopg.pq import PGconn, Ping

from app.db.migrate import is_behind
from app.db.session import CONNECT_SECONDS
from app.settings import Settings

LOOK_SECONDS = 0.5

log = structlog.get_logger(__name__)


class DatabaseNotReady(Exception):
    """It was not there in time; the message says what was missing."""


def wait_for_database(settings: Settings, *, patience_seconds: float) -> None:
    """Return once the database server takes connections, at once for SQLite. Raises `DatabaseNotReady`.

    Asks without logging in: a wrong password or name is for the caller to meet, and waiting would not mend it.
    """
    if settings.embedded:
        return
    url = settings.database_url.replace("postgresql+psycopg://", "postgresql://", 1)
    try:
        conninfo = make_conninfo(url, connect_timeout=CONNECT_SECONDS).encode()
    except ProgrammingError as error:
        raise DatabaseNotReady(f"STILLHOUSE_DATABASE_URL cannot be used: {error}") from error
    deadline = time.monotonic() + patience_seconds
    is_said = False
    # NO_ATTEMPT: the URL makes no sense to the driver, which says why when it is used.
    while (answer := Ping(PGconn.ping(conninfo))) not in (Ping.OK, Ping.NO_ATTEMPT):
        state = "is still starting" if answer is Ping.REJECT else "does not answer"
        if time.monotonic() > deadline:
            raise DatabaseNotReady(
                f"the database at {_place(url)} {state} after {patience_seconds:g} s; check STILLHOUSE_DATABASE_URL "
                "and the server, or wait longer with --patience"
            )
        if not is_said:
            log.info("waiting_for_database", place=_place(url), state=state, patience_seconds=patience_seconds)
            is_said = True
        time.sleep(LOOK_SECONDS)


def wait_for_migrations(settings: Settings, *, patience_seconds: float) -> None:
    """Return once somebody has brought the tables to where this release wants them, or further."""
    deadline = time.monotonic() + patience_seconds
    while is_behind(settings):
        if time.monotonic() > deadline:
            raise DatabaseNotReady(
                f"the database is not up to date after {patience_seconds:g} s; run `stillhouse migrate`"
            )
        time.sleep(LOOK_SECONDS)


def _place(url: str) -> str:
    """Host and port, without the user and the password."""
    return urlsplit(url).netloc.rpartition("@")[2]
