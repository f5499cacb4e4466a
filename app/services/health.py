"""Whether the parts that the service stands on can be reached, and are as it needs them."""

import asyncio
import errno
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog
from sqlalchemy import text

from app import queue
from app.db.migrate import is_behind
from app.db.session import read_session
from app.logging import first_line
from app.own_threads import OwnThreads
from app.settings import Settings
from app.storage.store import ObjectStore

# A probe that waits longer than its caller's patience says nothing.
CHECK_SECONDS = 4.0
# As much as a burst of rows needs.
PROBE_BYTES = 1024 * 1024

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
_threads = OwnThreads("health_probes", 16)

log = structlog.get_logger(__name__)


class NotAsNeeded(Exception):
    """A part that answers, but with which the service cannot work; the message is for the caller."""


@dataclass(frozen=True)
class Checks:
    """For each part None when all is well, else what is wrong, in words without secrets."""

    database: str | None
    migrations: str | None
    object_store: str | None
    queue: str | None
    disk: str | None

    @property
    def is_ready(self) -> bool:
        # Without a queue jobs are still accepted: the row is what counts, and workers look for it every few seconds.
        return not any((self.database, self.migrations, self.object_store, self.disk))


async def check_all(settings: Settings, store: ObjectStore) -> Checks:
    """Ask all parts at the same time; takes CHECK_SECONDS at most."""
    database, migrations, objects, hints, disk = await asyncio.gather(
        _check("database", lambda: _ping_database(settings)),
        _check("migrations", lambda: _check_migrations(settings)),
        _check("object_store", store.check),
        _check("queue", lambda: queue.check(settings)),
        _check("disk", lambda: _check_disk(settings, store)),
    )
    # Without a database nothing is known about its tables, and one fault should not be named twice.
    return Checks(database, None if database else migrations, objects, hints, disk)


async def _check(name: str, probe: Callable[[], None]) -> str | None:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            # Abandoned, not awaited: a probe that hangs must not hang the answer.
            await _threads.run(probe, abandon_on_cancel=True)
    except TimeoutError:
        return f"no answer within {CHECK_SECONDS:g} seconds"
    except NotAsNeeded as problem:
        return str(problem)
    except Exception as error:
        # The text of a driver's error may hold a URL with a password; the log is the place for it.
        log.warning("not_reachable", part=name, error=first_line(error))
        return f"unreachable ({type(error).__name__})"
    return None


def _ping_database(settings: Settings) -> None:
    with read_session(settings) as session:
        session.execute(text("SELECT 1"))


def _check_migrations(settings: Settings) -> None:
    if is_behind(settings):
        raise NotAsNeeded("the database lacks migrations of this release; run `stillhouse migrate`")


def _check_disk(settings: Settings, store: ObjectStore) -> None:
    """In embedded mode database and objects are files: write one, because free space alone tells nothing of quotas
    and of file systems that turned read-only."""
    if settings.database_path is not None:
        _write_and_remove(settings.database_path.parent, "STILLHOUSE_HOME")
    if store.folder is not None:
        _write_and_remove(store.folder, "STILLHOUSE_OBJECT_STORE_URL")


def _write_and_remove(folder: Path, what: str) -> None:
    try:
        # The store shows no names with # and a number: they are of files that are not whole.
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-", suffix="#1") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise NotAsNeeded(f"no space left under {what}; free some") from error
        raise
