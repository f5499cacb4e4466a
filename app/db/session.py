"""Database sessions: `read_session()` and `write_session()`.

Both are context managers, short by intent: no session stays open while anything slow happens. Rows stay
readable after the block ends (nothing is expired, nothing is loaded lazily).

`write_session` commits when the block ends and rolls back when it raises. On SQLite it begins with
BEGIN IMMEDIATE, so that what it reads cannot change before it writes, and waits up to 30 s for its turn.
On PostgreSQL the isolation is READ COMMITTED; code that decides on what it read locks the row, waits up to 10 s for
it, and loses it where it falls silent with the transaction open.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, ExceptionContext, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session

from app.settings import Settings, get_settings

WRITE = "stillhouse_write"
AFTER_COMMIT = "stillhouse_after_commit"
BUSY_TIMEOUT_SECONDS = 30
# A process that is frozen or cut off between a lock and its commit keeps the row from everybody: from the sweep, which
# skips it, and from who cancels. Shorter than a lease, so that what is expired can be taken back.
IDLE_TRANSACTION_SECONDS = 20.0
# How long a new connection to a server may take, where nothing comes back at all.
CONNECT_SECONDS = 5
# Meanwhile others get an answer instead of waiting without end.
LOCK_SECONDS = 10.0
# What a server says in a session that is of no more use while another one may be: read_only_sql_transaction (a primary
# that was demoted under us), idle_in_transaction_session_timeout, transaction_timeout.
USELESS_SESSION_STATES = frozenset({"25006", "25P03", "25P04"})

# Keyed by process too: a connection must not be shared with a forked child.
_engines: dict[tuple[int, str], Engine] = {}
_lock = threading.Lock()


@contextmanager
def read_session(settings: Settings | None = None) -> Iterator[Session]:
    """A session for reading. Whatever it changed is rolled back."""
    with Session(get_engine(settings), expire_on_commit=False) as session:
        yield session


@contextmanager
def write_session(settings: Settings | None = None) -> Iterator[Session]:
    """A session for writing, committed when the block ends without an error."""
    engine = get_engine(settings).execution_options(**{WRITE: True})
    with Session(engine, expire_on_commit=False) as session:
        with session.begin():
            yield session
        for act in session.info.get(AFTER_COMMIT, ()):
            act()


def after_commit(session: Session, act: Callable[[], None]) -> None:
    """Have `act` called once a `write_session` is committed, and not at all when it is rolled back."""
    session.info.setdefault(AFTER_COMMIT, []).append(act)


def get_engine(settings: Settings | None = None) -> Engine:
    """The engine of this process for the settings' database, made at the first call."""
    url = (settings or get_settings()).database_url
    key = (os.getpid(), url)
    with _lock:
        if key not in _engines:
            _engines[key] = create_database_engine(url)
        return _engines[key]


def dispose_engines() -> None:
    """Close the connections of this process, for tests and for a clean exit."""
    with _lock:
        for key in [key for key in _engines if key[0] == os.getpid()]:
            _engines.pop(key).dispose()


def create_database_engine(url: str) -> Engine:
    """An engine with the settings that each database needs."""
    if make_url(url).get_backend_name() != "sqlite":
        # A connection that died while idle (restart, failover) is replaced instead of failing a request.
        # A server that fell silent is noticed in seconds, so that a worker does not outlive its lease waiting. The
        # keepalives are for one whose host vanishes with a query under way: nothing is left to send then.
        limits = {
            "connect_timeout": CONNECT_SECONDS,
            "tcp_user_timeout": 15_000,
            "keepalives_idle": 5,
            "keepalives_interval": 3,
            "keepalives_count": 3,
        }
        # Connections beyond pool_size are closed after each use, and making one costs more than most queries.
        server_engine = create_engine(url, pool_pre_ping=True, pool_size=20, max_overflow=10, connect_args=limits)
        event.listen(server_engine, "connect", _limit_waits)
        event.listen(server_engine, "handle_error", _give_up_useless_session)
        return server_engine
    database = make_url(url).database
    if database and database != ":memory:":
        os.makedirs(os.path.dirname(database) or ".", exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_SECONDS}, pool_size=10, max_overflow=20)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _limit_waits(connection: Any, _record: Any) -> None:
    # Not as an option of the connection: poolers such as PgBouncer refuse those.
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(_set_limits(IDLE_TRANSACTION_SECONDS, LOCK_SECONDS))
    connection.autocommit = False


def wait_without_limits(connection: Connection) -> None:
    """Let the transaction under way wait for locks, and say nothing, for as long as it takes."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_set_limits(0, 0, until_commit=True))


def _set_limits(idle_seconds: float, lock_seconds: float, *, until_commit: bool = False) -> str:
    values = {"idle_in_transaction_session_timeout": idle_seconds, "lock_timeout": lock_seconds}
    calls = [f"set_config('{name}', '{seconds * 1000:.0f}', {until_commit})" for name, seconds in values.items()]
    return f"SELECT {', '.join(calls)}"


def _give_up_useless_session(context: ExceptionContext) -> None:
    # To the driver these are faults of the statement: it would go on with the connection, and so would the pool. As a
    # disconnect the connection is closed, with those of its age, and the next one finds the server that serves.
    if getattr(context.original_exception, "sqlstate", None) in USELESS_SESSION_STATES:
        context.is_disconnect = True


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # The driver would begin transactions by itself, deferred ones; _begin_sqlite does it instead.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    # FULL, not NORMAL: with NORMAL a commit survives the death of any process but the last ones may be
    # undone by a power cut, and a job that was answered with 202 must not vanish. One fsync per commit is
    # cheap beside what a job does.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get(WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN DEFERRED")
