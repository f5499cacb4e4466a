"""Whether the parts that the service stands on can be reached."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from anyio.to_thread import run_sync
from sqlalchemy import text

from app import queue
from app.db.session import read_session
from app.settings import Settings
from app.storage.store import ObjectStore

# A probe that waits longer than its caller's patience says nothing.
CHECK_SECONDS = 4.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Checks:
    """For each part None when it answers, else what is wrong, in words without secrets."""

    database: str | None
    object_store: str | None
    queue: str | None

    @property
    def is_ready(self) -> bool:
        # Without a queue jobs are still accepted: the row is what counts, and the sweep wakes workers.
        return self.database is None and self.object_store is None


async def check_all(settings: Settings, store: ObjectStore) -> Checks:
    database, objects, hints = await asyncio.gather(
        _check("database", lambda: _ping_database(settings)),
        _check("object_store", store.check),
        _check("queue", lambda: queue.check(settings)),
    )
    return Checks(database, objects, hints)


async def _check(name: str, probe: Callable[[], None]) -> str | None:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            # Abandoned, not awaited: a probe that hangs must not hang the answer.
            await run_sync(probe, abandon_on_cancel=True)
    except TimeoutError:
        return f"no answer within {CHECK_SECONDS:g} seconds"
    except Exception as error:
        # The text of a driver's error may hold a URL with a password; the log is the place for it.
        log.warning("not_reachable", part=name, error=str(error), error_type=type(error).__name__)
        return f"unreachable ({type(error).__name__})"
    return None


def _ping_database(settings: Settings) -> None:
    with read_session(settings) as session:
        # A table, not SELECT 1: a database that was never migrated is not ready.
        session.execute(text("SELECT 1 FROM jobs LIMIT 1"))
