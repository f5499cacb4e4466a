"""Asking again, with growing pauses, while the database or the object store has troubles of its own."""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

import obstore.exceptions
import structlog

from app.domain.leases import Claim
from app.logging import first_line
from app.outages import is_connection_lost, is_transient
from app.settings import Settings
from app.storage import keys
from app.storage.store import ObjectStore

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
# Long enough for a database failover or a restart of the object store.
STORAGE_PATIENCE_SECONDS = 600.0

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
Answer = TypeVar("Answer")
log = structlog.get_logger(__name__)


class DiskFull(Exception):
    """No space left where the worker writes."""


class StorageUnavailable(Exception):
    """The database or the object store stayed away for longer than a run can wait."""


class DatabaseUnreachable(StorageUnavailable):
    """It was the database, and not an answer of it: no connection could be had."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether this error, or one that it came from, says that a disk or a quota is full."""
    while error is not None:
        if isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in _DISK_FULL):
            return True
        # The object store's library passes the kernel's words on as text.
        if isinstance(error, obstore.exceptions.BaseError) and "No space left on device" in str(error):
            return True
        error = error.__cause__
    return False


def is_away(error: StorageUnavailable, claim: Claim, settings: Settings) -> bool:
    """Whether the database or the object store is away for everybody, not only for what `claim` asked of it."""
    if isinstance(error, DatabaseUnreachable):
        return True
    try:
        return not ObjectStore.from_settings(settings).works(keys.probe(claim.run_token))
    except (obstore.exceptions.BaseError, OSError):  # a folder that cannot be made
        return True


def patiently(
    ask: Callable[[], Answer],
    *,
    what: str,
    check: Callable[[], None],
    check_again: Callable[[], None] | None = None,
    patience_seconds: float = STORAGE_PATIENCE_SECONDS,
) -> Answer:
    """Call `ask` until it works. `check` is called before every try and raises when nobody wants it any more;
    `check_again` takes its place once a try has failed: what is worth a try need not be worth another.

    Raises DiskFull at once, StorageUnavailable where `patience_seconds` after the first transient error there are
    still others, and DatabaseUnreachable where the last one says so; any other error passes through. `what` names the
    call in logs and messages.
    """
    # Not from the beginning: a big file that flows for longer than that would have one try.
    deadline: float | None = None
    pause = FIRST_PAUSE_SECONDS
    while True:
        check()
        try:
            return ask()
        except Exception as error:
            if is_disk_full(error):
                raise DiskFull(str(error)) from error
            if not is_transient(error):
                raise
            deadline = time.monotonic() + patience_seconds if deadline is None else deadline
            if time.monotonic() + pause > deadline:
                unavailable = DatabaseUnreachable if is_connection_lost(error) else StorageUnavailable
                raise unavailable(
                    f"{what} failed for {patience_seconds:.0f} seconds; the last error was: {first_line(error)}"
                ) from error
            log.warning("retrying", what=what, error=first_line(error), pause_seconds=round(pause, 1))
        check = check_again or check
        _pause(pause, check)
        pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


def _pause(seconds: float, check: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.5))
        check()
